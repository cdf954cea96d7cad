//! A sorted table of 40-byte entries: on the heap while small; when large, in an unlinked file whose blocks are read when they are
//! first asked for, and mapped while they are in use.
//!
//! A block that was read leaves a summary in memory, a byte and a half an entry: the ends of its range, and a filter that says at once that a
//! blob is not there. So an index of any size is open at once, what is new is known to be new without a look at the disk, and the
//! memory for maps is bounded.

mod blocks;
mod filter;
mod search;

use std::sync::Arc;

use crate::format::index_segment::{BLOCK_ENTRIES, ENTRY_BYTES, IndexEntry};
use crate::id::BlobId;
use crate::read_error::{DamageContext, ReadError};
use crate::storage::{StorageError, StorageErrorKind};

pub(super) use blocks::{BlockSource, Scratch};
use blocks::{BlockTable, Filling};

/// The rows.
#[derive(Debug)]
pub(super) enum Table {
    Heap(Vec<u8>),
    Blocks(BlockTable),
}

/// Gathers rows that are already in order.
#[derive(Debug)]
pub(super) enum TableBuilder {
    Heap(Vec<u8>),
    Blocks(Filling),
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
    /// A table of `rows` rows: in a file when it is large, where there is a place for one.
    pub(super) fn new(rows: usize, scratch: &Arc<Scratch>) -> Self {
        if scratch.takes(rows) {
            return Self::Blocks(Filling::new(scratch));
        }
        let bytes = rows.saturating_mul(ENTRY_BYTES);
        Self::Heap(Vec::with_capacity(bytes.min(64 << 20)))
    }

    pub(super) fn append(&mut self, rows: &[u8]) -> Result<(), ReadError> {
        match self {
            Self::Heap(bytes) => bytes.extend_from_slice(rows),
            Self::Blocks(filling) => filling.append(rows)?,
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Table, ReadError> {
        match self {
            Self::Heap(bytes) => Ok(Table::Heap(bytes)),
            Self::Blocks(filling) => filling.finish().map(Table::Blocks),
        }
    }
}

impl Table {
    /// A table of entries that are in order.
    pub(super) fn of_entries(entries: &[IndexEntry], scratch: &Arc<Scratch>) -> Result<Self, ReadError> {
        let mut table = TableBuilder::new(entries.len(), scratch);
        let mut row = Vec::new();
        for entry in entries {
            row.clear();
            entry.write(&mut row);
            table.append(&row)?;
        }
        table.finish()
    }

    /// A table of `rows` rows that `source` has.
    pub(super) fn of_source(rows: usize, scratch: &Arc<Scratch>, source: Box<dyn BlockSource>) -> Self {
        Self::Blocks(BlockTable::of_source(rows, scratch, source))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Heap(bytes) => bytes.len() / ENTRY_BYTES,
            Self::Blocks(blocks) => blocks.len(),
        }
    }

    /// The entry of a row, or `None` behind the last.
    pub(super) fn entry(&self, row: usize) -> Result<Option<IndexEntry>, ReadError> {
        if row >= self.len() {
            return Ok(None);
        }
        let entry = match self {
            Self::Heap(bytes) => search::row(bytes, row).map(IndexEntry::read),
            Self::Blocks(blocks) => {
                let block = blocks.rows(row / BLOCK_ENTRIES)?;
                search::row(&block, row % BLOCK_ENTRIES).map(IndexEntry::read)
            }
        };
        entry.transpose().damage("an index entry")
    }

    /// Visits the entries in order.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(IndexEntry) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut all = |rows: &[u8]| {
            rows.as_chunks::<ENTRY_BYTES>()
                .0
                .iter()
                .try_for_each(|row| visit(IndexEntry::read(row).damage("an index entry")?))
        };
        match self {
            Self::Heap(bytes) => all(bytes),
            Self::Blocks(blocks) => (0..blocks.count()).try_for_each(|number| all(&blocks.rows(number)?)),
        }
    }

    /// The first row of a blob, if it has any.
    pub(super) fn first_of(&self, id: &BlobId) -> Result<Option<usize>, ReadError> {
        match self {
            Self::Heap(bytes) => {
                let row = search::lower_bound(bytes, id);
                Ok(search::holds(bytes, row, id).then_some(row))
            }
            Self::Blocks(blocks) => blocks.first_of(id),
        }
    }
}
