//! The rows of a large table: blocks in an unlinked file, each read from its source when it is first asked for. A file that cannot be
//! written, because its disk is full, costs time or memory and nothing else.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use memmap2::{Mmap, MmapOptions};

use crate::format::index_segment::{BLOCK_ENTRIES, ENTRY_BYTES};
use crate::id::BlobId;
use crate::index::lock;
use crate::read_error::ReadError;

use super::filter::Filter;
use super::{cache_error, search};

const BLOCK_BYTES: usize = BLOCK_ENTRIES * ENTRY_BYTES;

/// Each block begins here in the file: at a page, so that it can be mapped alone.
const STRIDE_BYTES: usize = 1 << 20;
const _: () = assert!(BLOCK_BYTES <= STRIDE_BYTES);

/// Blocks in memory at the same time, in all tables together. The kernel counts what is mapped and was touched as the program's memory.
const MOST_BLOCKS: usize = 64;

/// Where the rows of a table come from.
pub(in crate::index) trait BlockSource: std::fmt::Debug + Send + Sync {
    /// The rows of a block, so many, verified and in order.
    fn block(&self, number: usize, rows: usize) -> Result<Vec<u8>, ReadError>;

    /// The summary of a block that was kept when it was last read, if that is to be had and genuine.
    fn kept_summary(&self, number: usize, length: usize) -> Option<Vec<u8>>;

    /// Keeps the summary of a block for the next time.
    fn keep_summary(&self, number: usize, summary: &[u8]);
}

/// One unlinked file for the blocks of all tables of an index, and the bound on how many of them are in memory: those that came first
/// go first.
#[derive(Debug)]
pub(in crate::index) struct Scratch {
    directory: Option<PathBuf>,
    heap_bytes: usize,
    most_blocks: usize,
    space: Mutex<Space>,
    held: Mutex<VecDeque<Arc<Block>>>,
    told: AtomicBool,
}

#[derive(Debug, Default)]
struct Space {
    file: Option<Arc<File>>,
    used_bytes: u64,
}

impl Scratch {
    /// In a directory that need not exist yet, for tables of more than `heap_bytes`; without a directory all tables are on the heap.
    pub(in crate::index) fn new(directory: Option<PathBuf>, heap_bytes: usize) -> Arc<Self> {
        Self::with(directory, heap_bytes, MOST_BLOCKS)
    }

    fn with(directory: Option<PathBuf>, heap_bytes: usize, most_blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            directory,
            heap_bytes,
            most_blocks,
            space: Mutex::default(),
            held: Mutex::default(),
            told: AtomicBool::new(false),
        })
    }

    /// Whether a table of so many rows is kept in blocks.
    pub(in crate::index) fn takes(&self, rows: usize) -> bool {
        self.directory.is_some() && rows.saturating_mul(ENTRY_BYTES) > self.heap_bytes
    }

    /// Room for a block: the file, if there can be one, and where in it the block begins.
    fn reserve(&self) -> (Option<Arc<File>>, u64) {
        let mut space = lock(&self.space);
        if let (None, Some(directory)) = (&space.file, &self.directory) {
            match std::fs::create_dir_all(directory).and_then(|()| tempfile::tempfile_in(directory)) {
                Ok(file) => space.file = Some(Arc::new(file)),
                Err(error) => self.tell(&error),
            }
        }
        let start = space.used_bytes;
        space.used_bytes += STRIDE_BYTES as u64;
        (space.file.clone(), start)
    }

    fn tell(&self, error: &std::io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("the index is searched without a local copy, which takes longer: {error}");
        }
    }

    fn holds(&self, block: &Arc<Block>) {
        let old = {
            let mut held = lock(&self.held);
            held.push_back(Arc::clone(block));
            if held.len() > self.most_blocks {
                held.pop_front()
            } else {
                None
            }
        };
        if let Some(old) = old {
            *lock(&old.held) = None;
        }
    }
}

/// One block.
#[derive(Debug, Default)]
struct Block {
    /// Set once its rows were read, in this process or in an earlier one.
    summary: OnceLock<Summary>,
    /// Where its rows are in the file, once they were read; `None` when they could not be written.
    place: OnceLock<Option<(Arc<File>, u64)>>,
    held: Mutex<Option<Rows>>,
}

/// The rows of a block.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    Mapped(Arc<Mmap>),
    Heap(Arc<Vec<u8>>),
}

impl std::ops::Deref for Rows {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Heap(bytes) => bytes,
        }
    }
}

/// What is known of a block without looking at it.
#[derive(Debug)]
struct Summary {
    first: BlobId,
    last: BlobId,
    filter: Filter,
}

impl Summary {
    fn of(rows: &[u8]) -> Result<Self, ReadError> {
        let (keys, _) = rows.as_chunks::<ENTRY_BYTES>();
        let (Some(first), Some(last)) = (keys.first(), keys.last()) else {
            return Err(left_out());
        };
        let mut filter = Filter::new(keys.len());
        for key in keys {
            filter.add(key);
        }
        let id = |key: &[u8; ENTRY_BYTES]| BlobId(key.first_chunk().copied().unwrap_or([0; BlobId::LENGTH]));
        Ok(Self {
            first: id(first),
            last: id(last),
            filter,
        })
    }
}

/// Length of a summary without its filter.
const ENDS_BYTES: usize = 2 * BlobId::LENGTH;

impl Summary {
    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.first.0);
        bytes.extend_from_slice(&self.last.0);
        self.filter.write(&mut bytes);
        bytes
    }

    fn read(rows: usize, bytes: &[u8]) -> Option<Self> {
        let (ends, filter) = bytes.split_at_checked(ENDS_BYTES)?;
        Some(Self {
            first: BlobId(*ends.first_chunk()?),
            last: BlobId(*ends.last_chunk()?),
            filter: Filter::read(rows, filter)?,
        })
    }
}

fn left_out() -> ReadError {
    ReadError::damaged("an index segment", "a block was left out")
}

/// A table in blocks.
#[derive(Debug)]
pub(in crate::index) struct BlockTable {
    rows: usize,
    blocks: Vec<Arc<Block>>,
    source: Option<Box<dyn BlockSource>>,
    scratch: Arc<Scratch>,
}

impl BlockTable {
    /// A table of `rows` rows that are read when they are asked for.
    pub(super) fn of_source(rows: usize, scratch: &Arc<Scratch>, source: Box<dyn BlockSource>) -> Self {
        let blocks = rows.div_ceil(BLOCK_ENTRIES);
        Self {
            rows,
            blocks: (0..blocks).map(|_| Arc::default()).collect(),
            source: Some(source),
            scratch: Arc::clone(scratch),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// How many blocks there are.
    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    fn block(&self, number: usize) -> Result<&Arc<Block>, ReadError> {
        self.blocks.get(number).ok_or_else(left_out)
    }

    /// How many rows a block has.
    fn rows_in(&self, number: usize) -> usize {
        let before = number.saturating_mul(BLOCK_ENTRIES);
        self.rows.saturating_sub(before).min(BLOCK_ENTRIES)
    }

    /// Writes the rows of a block into the file and sums them up. Where they cannot be written, they are returned.
    fn put(&self, block: &Block, rows: Vec<u8>) -> Result<Option<Rows>, ReadError> {
        if block.summary.get().is_none() {
            let summary = Summary::of(&rows)?;
            block.summary.get_or_init(|| summary);
        }
        let place = match self.scratch.reserve() {
            (Some(file), start) => match file.write_all_at(&rows, start) {
                Ok(()) => Some((file, start)),
                Err(error) => {
                    self.scratch.tell(&error);
                    None
                }
            },
            (None, _) => None,
        };
        let written = block.place.get_or_init(|| place).is_some();
        Ok((!written).then(|| Rows::Heap(Arc::new(rows))))
    }

    /// Reads a block from its source. Whoever calls this holds the block's lock.
    fn fill(&self, number: usize, block: &Block) -> Result<Option<Rows>, ReadError> {
        let source = self.source.as_ref().ok_or_else(left_out)?;
        let rows = source.block(number, self.rows_in(number))?;
        if rows.len() != self.rows_in(number) * ENTRY_BYTES {
            return Err(ReadError::damaged(
                "an index segment",
                "a block has another length",
            ));
        }
        if block.place.get().is_some() {
            return Ok(Some(Rows::Heap(Arc::new(rows))));
        }
        let is_new = block.summary.get().is_none();
        let rows = self.put(block, rows)?;
        if let (true, Some(summary)) = (is_new, block.summary.get()) {
            source.keep_summary(number, &summary.write());
        }
        Ok(rows)
    }

    /// The rows of a block.
    pub(super) fn rows(&self, number: usize) -> Result<Rows, ReadError> {
        let block = self.block(number)?;
        let rows = {
            let mut held = lock(&block.held);
            if let Some(rows) = &*held {
                return Ok(rows.clone());
            }
            let filled = match block.place.get() {
                Some(Some(_)) => None,
                _ => self.fill(number, block)?,
            };
            let rows = match (filled, block.place.get()) {
                (Some(rows), _) => rows,
                (None, Some(Some((file, start)))) => {
                    let map = map(file, *start, self.rows_in(number) * ENTRY_BYTES);
                    Rows::Mapped(Arc::new(map.map_err(|error| cache_error(&error))?))
                }
                (None, _) => return Err(left_out()),
            };
            held.insert(rows).clone()
        };
        self.scratch.holds(block);
        Ok(rows)
    }

    fn summary(&self, number: usize) -> Result<&Summary, ReadError> {
        let block = self.block(number)?;
        if block.summary.get().is_none() {
            match self.kept_summary(number) {
                Some(summary) => drop(block.summary.set(summary)),
                // It leaves the rows in memory, for who will most often ask for them next.
                None => drop(self.rows(number)?),
            }
        }
        block.summary.get().ok_or_else(left_out)
    }

    fn kept_summary(&self, number: usize) -> Option<Summary> {
        let rows = self.rows_in(number);
        let length = ENDS_BYTES + Filter::bytes(rows);
        let kept = self.source.as_ref()?.kept_summary(number, length)?;
        Summary::read(rows, &kept)
    }

    /// The first row of a blob, if it has any.
    pub(super) fn first_of(&self, id: &BlobId) -> Result<Option<usize>, ReadError> {
        let target = u128::from(search::leading(&id.0));
        // Keys in blocks before `low` are less than it; those in blocks from `high` are not.
        let (mut low, mut high) = (0, self.count());
        let mut steps = 0_u32;
        while low < high {
            // Ids are uniform hashes, so the first guess is right but near an end of a block. Others are met by bisection.
            let guess = if steps < 3 {
                let share = (target * self.count() as u128) >> 64;
                usize::try_from(share).unwrap_or(0).clamp(low, high - 1)
            } else {
                low + (high - low) / 2
            };
            steps += 1;
            let summary = self.summary(guess)?;
            if summary.last < *id {
                low = guess + 1;
            } else if *id <= summary.first {
                high = guess;
            } else if summary.filter.may_have(id) {
                let rows = self.rows(guess)?;
                let row = search::lower_bound(&rows, id);
                return Ok(search::holds(&rows, row, id).then_some(guess * BLOCK_ENTRIES + row));
            } else {
                return Ok(None);
            }
        }
        // Not within a block: it is the first key of one, or nowhere.
        if low < self.count() && self.summary(low)?.first == *id {
            return Ok(Some(low * BLOCK_ENTRIES));
        }
        Ok(None)
    }
}

#[expect(
    unsafe_code,
    reason = "a memory map is unsafe because another process could change the file"
)]
fn map(file: &File, offset: u64, length: usize) -> std::io::Result<Mmap> {
    // SAFETY: the file was created unlinked by this process, so nobody else can open, change or truncate it; and this process writes
    // each block once, before it is mapped.
    unsafe { MmapOptions::new().offset(offset).len(length).map(file) }
}

/// A table that is filled from its first row to its last.
#[derive(Debug)]
pub(in crate::index) struct Filling {
    table: BlockTable,
    buffer: Vec<u8>,
}

impl Filling {
    pub(super) fn new(scratch: &Arc<Scratch>) -> Self {
        let table = BlockTable {
            rows: 0,
            blocks: Vec::new(),
            source: None,
            scratch: Arc::clone(scratch),
        };
        Self {
            table,
            buffer: Vec::with_capacity(BLOCK_BYTES),
        }
    }

    pub(super) fn append(&mut self, mut rows: &[u8]) -> Result<(), ReadError> {
        while !rows.is_empty() {
            let room = BLOCK_BYTES.saturating_sub(self.buffer.len()).min(rows.len());
            let (more, rest) = rows.split_at_checked(room).unwrap_or((rows, &[]));
            self.buffer.extend_from_slice(more);
            rows = rest;
            if self.buffer.len() >= BLOCK_BYTES {
                self.put()?;
            }
        }
        Ok(())
    }

    fn put(&mut self) -> Result<(), ReadError> {
        let rows = std::mem::replace(&mut self.buffer, Vec::with_capacity(BLOCK_BYTES));
        self.table.rows += rows.len() / ENTRY_BYTES;
        let block = Block::default();
        let kept = self.table.put(&block, rows)?;
        *lock(&block.held) = kept;
        self.table.blocks.push(Arc::new(block));
        Ok(())
    }

    /// The table of all rows that have come.
    pub(super) fn finish(mut self) -> Result<BlockTable, ReadError> {
        if !self.buffer.is_empty() {
            self.put()?;
        }
        Ok(self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::index_segment::IndexEntry;

    /// Rows of keys, of which the pack numbers count up.
    fn rows_of(keys: &[BlobId]) -> Vec<u8> {
        let mut rows = Vec::new();
        for (number, id) in keys.iter().enumerate() {
            let entry = IndexEntry {
                id: *id,
                pack: u32::try_from(number).unwrap(),
                frame_offset: 0,
                frame_length: 0,
                blob_offset: 0,
                blob_length: 0,
            };
            entry.write(&mut rows);
        }
        rows
    }

    /// Sorted keys; with `few`, those of the middle are the same, over a border of blocks.
    fn keys(count: usize, few: bool) -> Vec<BlobId> {
        let mut keys: Vec<BlobId> = (0..count)
            .map(|number| {
                BlobId(
                    blake3::hash(&number.to_le_bytes()).as_bytes()[..24]
                        .try_into()
                        .unwrap(),
                )
            })
            .collect();
        keys.sort_unstable();
        if few {
            let same = keys[BLOCK_ENTRIES - 3];
            keys[BLOCK_ENTRIES - 3..BLOCK_ENTRIES + 4].fill(same);
        }
        keys
    }

    #[derive(Debug)]
    struct InMemory(Vec<u8>);

    impl BlockSource for InMemory {
        fn block(&self, number: usize, _rows: usize) -> Result<Vec<u8>, ReadError> {
            Ok(self.0.chunks(BLOCK_BYTES).nth(number).unwrap().to_vec())
        }

        /// Of every other block.
        fn kept_summary(&self, number: usize, length: usize) -> Option<Vec<u8>> {
            let summary = Summary::of(&self.block(number, 0).unwrap()).unwrap().write();
            assert_eq!(summary.len(), length);
            number.is_multiple_of(2).then_some(summary)
        }

        fn keep_summary(&self, number: usize, summary: &[u8]) {
            let is_kept = number.is_multiple_of(2);
            assert!(!is_kept && !summary.is_empty(), "it was kept already");
        }
    }

    #[track_caller]
    fn assert_searches(table: &BlockTable, keys: &[BlobId], step: usize) {
        assert_eq!(table.len(), keys.len());
        let borders = (BLOCK_ENTRIES - 4..BLOCK_ENTRIES + 5).chain([0, keys.len() - 1]);
        for number in (0..keys.len())
            .step_by(step)
            .chain(borders.filter(|number| *number < keys.len()))
        {
            let key = keys[number];
            assert_eq!(
                table.first_of(&key).unwrap(),
                Some(keys.partition_point(|other| *other < key))
            );
            for change in [1, 255] {
                let mut absent = key;
                absent.0[23] = absent.0[23].wrapping_add(change);
                let expected = keys.binary_search(&absent).ok();
                assert_eq!(table.first_of(&absent).unwrap().is_some(), expected.is_some());
            }
        }
        for end in [[0; 24], [255; 24]] {
            assert_eq!(table.first_of(&BlobId(end)).unwrap(), None);
        }
    }

    #[test]
    fn searches_agree_with_sorted_keys_at_every_border() {
        let folder = tempfile::tempdir().unwrap();
        let no_place = folder.path().join("a file");
        std::fs::write(&no_place, "").unwrap();
        // The first leaves hardly any block in memory, the second has no file.
        let scratches = [
            Scratch::with(Some(folder.path().to_owned()), 0, 1),
            Scratch::with(Some(no_place), 0, 1),
        ];
        for count in [
            1,
            BLOCK_ENTRIES,
            BLOCK_ENTRIES + 1,
            3 * BLOCK_ENTRIES,
            3 * BLOCK_ENTRIES + 77,
        ] {
            let keys = keys(count, count > BLOCK_ENTRIES + 4);
            let rows = rows_of(&keys);
            for scratch in &scratches {
                let source = Box::new(InMemory(rows.clone()));
                assert_searches(&BlockTable::of_source(count, scratch, source), &keys, 977);
                let mut filling = Filling::new(scratch);
                for piece in rows.chunks(ENTRY_BYTES * 10_001) {
                    filling.append(piece).unwrap();
                }
                assert_searches(&filling.finish().unwrap(), &keys, 977);
            }
        }
    }

    #[test]
    fn threads_that_search_at_once_see_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::with(Some(folder.path().to_owned()), 0, 2);
        let keys = keys(5 * BLOCK_ENTRIES, true);
        let table = BlockTable::of_source(keys.len(), &scratch, Box::new(InMemory(rows_of(&keys))));
        std::thread::scope(|scope| {
            for step in [701, 809, 907, 1009] {
                let (table, keys) = (&table, &keys);
                scope.spawn(move || assert_searches(table, keys, step));
            }
        });
        assert!(lock(&scratch.held).len() <= 2);
    }
}
