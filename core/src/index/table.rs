//! A sorted table of 40-byte entries: on the heap while small, in an unlinked, memory-mapped file when large.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::format::index_segment::{ENTRY_BYTES, IndexEntry};
use crate::id::BlobId;
use crate::read_error::{DamageContext, ReadError};
use crate::storage::{StorageError, StorageErrorKind};

/// Tables up to this size stay on the heap, in bytes.
const HEAP_BYTES: usize = 4 << 20;

/// The rows.
#[derive(Debug)]
pub(super) enum Table {
    Heap(Vec<u8>),
    Mapped(memmap2::Mmap),
}

/// Gathers rows that are already in order.
#[derive(Debug)]
pub(super) enum TableBuilder {
    Heap(Vec<u8>),
    File(std::io::BufWriter<File>),
}

fn cache_error(error: &std::io::Error) -> ReadError {
    ReadError::Storage(StorageError::new(
        StorageErrorKind::Other,
        "write",
        "the index cache",
        format!("{error}; choose another cache directory"),
    ))
}

impl TableBuilder {
    pub(super) fn new(rows: usize, cache: Option<&Path>) -> Result<Self, ReadError> {
        let bytes = rows.saturating_mul(ENTRY_BYTES);
        match cache {
            Some(directory) if bytes > HEAP_BYTES => {
                let file = std::fs::create_dir_all(directory)
                    .and_then(|()| tempfile::tempfile_in(directory))
                    .map_err(|error| cache_error(&error))?;
                Ok(Self::File(std::io::BufWriter::with_capacity(1 << 20, file)))
            }
            _ => Ok(Self::Heap(Vec::with_capacity(bytes.min(64 << 20)))),
        }
    }

    pub(super) fn append(&mut self, rows: &[u8]) -> Result<(), ReadError> {
        match self {
            Self::Heap(bytes) => bytes.extend_from_slice(rows),
            Self::File(file) => file.write_all(rows).map_err(|error| cache_error(&error))?,
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Table, ReadError> {
        match self {
            Self::Heap(bytes) => Ok(Table::Heap(bytes)),
            Self::File(writer) => {
                let file = writer.into_inner().map_err(|error| cache_error(error.error()))?;
                map(&file).map(Table::Mapped).map_err(|error| cache_error(&error))
            }
        }
    }
}

#[expect(
    unsafe_code,
    reason = "a memory map is unsafe because another process could change the file"
)]
fn map(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the file was created unlinked by this process, so nobody else can open, change or truncate it.
    unsafe { memmap2::Mmap::map(file) }
}

impl Table {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(map) => map,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes().len() / ENTRY_BYTES
    }

    fn row(&self, row: usize) -> Option<&[u8; ENTRY_BYTES]> {
        self.bytes().get(row * ENTRY_BYTES..)?.first_chunk()
    }

    fn leading(&self, row: usize) -> u64 {
        self.row(row)
            .and_then(|row| row.first_chunk())
            .map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
    }

    pub(super) fn entry(&self, row: usize) -> Result<Option<IndexEntry>, ReadError> {
        self.row(row)
            .map(|row| IndexEntry::read(row).damage("an index entry"))
            .transpose()
    }

    /// The first row whose key is not less than `id`: interpolation, because ids are uniform hashes, with bisection as the fallback.
    pub(super) fn lower_bound(&self, id: &BlobId) -> usize {
        let target = id.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let (mut low, mut high) = (0, self.len());
        let mut steps = 0_u32;
        while low < high {
            let middle = if steps < 6 {
                self.interpolate(low, high, target)
            } else {
                low + (high - low) / 2
            };
            steps += 1;
            let Some(row) = self.row(middle) else { break };
            // Eight bytes nearly always decide; the rest is looked at only when they are the same.
            let leading = row
                .first_chunk()
                .map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
            let (row_key, _) = row.split_at(BlobId::LENGTH);
            if leading < target || (leading == target && row_key < id.0.as_slice()) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// A guess of where `target` is in the rows `low..high`.
    fn interpolate(&self, low: usize, high: usize, target: u64) -> usize {
        let (first, last) = (self.leading(low), self.leading(high - 1));
        if target <= first {
            return low;
        }
        if target >= last || last <= first {
            return high - 1;
        }
        let rows = (high - 1 - low) as u128;
        let share = u128::from(target - first) * rows / u128::from(last - first);
        low + usize::try_from(share).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_a_linear_search_for_uniform_and_skewed_keys() {
        for skewed in [false, true] {
            let mut keys: Vec<BlobId> = (0..2000_u32)
                .map(|n| {
                    let hash = blake3::hash(&n.to_le_bytes());
                    let mut key: [u8; 24] = hash.as_bytes()[..24].try_into().unwrap();
                    if skewed && n % 4 != 0 {
                        key[..7].fill(3);
                    }
                    BlobId(key)
                })
                .collect();
            keys.sort_unstable();
            let mut builder = TableBuilder::new(keys.len(), None).unwrap();
            for key in &keys {
                let entry = IndexEntry {
                    id: *key,
                    pack: 0,
                    frame_offset: 0,
                    frame_length: 0,
                    blob_offset: 0,
                    blob_length: 0,
                };
                let mut row = Vec::new();
                entry.write(&mut row);
                builder.append(&row).unwrap();
            }
            let table = builder.finish().unwrap();
            for (row, key) in keys.iter().enumerate() {
                assert_eq!(table.lower_bound(key), row);
                let mut next = *key;
                next.0[23] = next.0[23].wrapping_add(1);
                assert_eq!(table.lower_bound(&next), keys.partition_point(|key| *key < next));
            }
        }
    }
}
