//! Reading index segments from a storage, the largest first, so that those they replace are not read at all.

use std::collections::HashSet;
use std::sync::Arc;

use crate::crypto::keys::Keys;
use crate::format::codec::Reader;
use crate::format::index_segment::{
    BLOCK_ENTRIES, ENTRY_BYTES, HEAD_OFFSET, IndexEntry, MAX_HEAD_BYTES, SegmentHead,
};
use crate::format::object::{Mode, ObjectKind, read_sealed_header};
use crate::format::pack::TAG_BYTES;
use crate::id::SegmentId;
use crate::read_error::{DamageContext, ReadError};
use crate::storage::cache::MetadataCache;
use crate::storage::{ObjectInfo, Storage, list_all};

use super::segment::Segment;
use super::table::{BlockSource, Table, TableBuilder};
use super::{Index, lock};

/// A segment that could not be used. Its blobs may still be found through the packs themselves.
#[derive(Debug, Clone)]
pub struct SegmentProblem {
    /// The object's key.
    pub key: String,
    /// What is wrong.
    pub error: ReadError,
}

/// Key of a segment.
pub(super) fn segment_key(id: SegmentId) -> String {
    format!("index/{id}")
}

/// Where segments are loaded from.
#[derive(Debug, Clone, Copy)]
pub struct Loading<'a> {
    /// Where they are stored.
    pub storage: &'a Arc<dyn Storage>,
    /// Keys to open them.
    pub keys: &'a Keys,
    /// Where summaries of blocks are kept and, of what is far away, copies of segments.
    pub cache: Option<&'a Arc<MetadataCache>>,
    /// Whether each read takes long. Of others, large segments are read a block at a time when the block is first asked for, as are
    /// those of which the local copies are complete.
    pub far: bool,
}

impl Loading<'_> {
    /// Where copies of a segment are kept. Of one that is larger than anything of ours there are none.
    fn copies(&self, object: &ObjectInfo) -> Option<&Arc<MetadataCache>> {
        self.cache
            .filter(|_| self.far && object.size_bytes <= MOST_BYTES_IN_BLOCKS)
    }
}

impl Index {
    /// Loads all segments in use. Unreadable ones are returned, not fatal.
    pub fn load(&self, from: Loading<'_>) -> Result<Vec<SegmentProblem>, ReadError> {
        self.load_listed(from, Self::list(from.storage.as_ref())?)
    }

    /// All segments of a storage, to be loaded at once.
    pub fn list(storage: &dyn Storage) -> Result<Vec<ObjectInfo>, ReadError> {
        let mut objects = Vec::new();
        list_all(storage, "index/", |object| objects.push(object)).map_err(ReadError::Storage)?;
        Ok(objects)
    }

    /// Loads those of the listed segments that are in use. Unreadable ones are returned, not fatal.
    pub fn load_listed(
        &self,
        from: Loading<'_>,
        mut objects: Vec<ObjectInfo>,
    ) -> Result<Vec<SegmentProblem>, ReadError> {
        objects.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.key.cmp(&b.key)));
        let mut known: HashSet<SegmentId> = self.segments().iter().map(|segment| segment.id()).collect();
        known.extend(lock(&self.abandoned).iter());
        let mut superseded = self.superseded();
        let mut problems = Vec::new();
        for object in objects {
            let id = object
                .key
                .strip_prefix("index/")
                .and_then(|name| name.parse::<SegmentId>().ok());
            let Some(id) = id else {
                let error = ReadError::damaged(&object.key, "it is not the name of an index segment");
                problems.push(SegmentProblem {
                    key: object.key,
                    error,
                });
                continue;
            };
            let replaced =
                id.0.first_chunk()
                    .is_some_and(|prefix| superseded.contains(prefix));
            if replaced || known.contains(&id) {
                continue;
            }
            let mut loaded = self.load_one(from, id, &object);
            if let (Err(ReadError::Damaged { .. }), Some(cache)) = (&loaded, from.copies(&object)) {
                // It may be the local copy that is wrong.
                forget(cache, &object);
                let stored = Loading { cache: None, ..from };
                loaded = self.load_one(stored, id, &object);
            }
            match loaded {
                Ok(segment) => {
                    superseded.extend(segment.superseded());
                    self.add_segment(segment);
                }
                Err(error) if error.is_damage() => problems.push(SegmentProblem {
                    key: object.key,
                    error,
                }),
                Err(error) => return Err(error),
            }
        }
        // One that leaves out what is missing may be smaller than what it replaces.
        self.change_segments(|segments| {
            segments.retain(|segment| {
                let id = segment.id().0;
                let prefix = id.first_chunk().filter(|_| id != [0; 32]);
                prefix.is_none_or(|prefix| !superseded.contains(prefix))
            });
        });
        Ok(problems)
    }

    fn load_one(&self, from: Loading<'_>, id: SegmentId, object: &ObjectInfo) -> Result<Segment, ReadError> {
        let copies = from.copies(object);
        // Of what is near, only the head may be read.
        let step = if from.far { FETCH_BYTES } else { PIECE_BYTES };
        let mut source = Sequential::new(from.storage.as_ref(), copies.map(Arc::as_ref), object, step);
        let (head, entries) = read_head(&mut source, from.keys, self.mode)?;
        let in_blocks = self.scratch.takes(entries) && object.size_bytes <= MOST_BYTES_IN_BLOCKS;
        let table = if in_blocks && is_near(from, object) {
            let blocks = Blocks {
                storage: Arc::clone(from.storage),
                copies: copies.cloned(),
                summaries: from.cache.cloned(),
                object: object.clone(),
                first_offset: source.position(),
                opened: source.opened()?,
                packs: head.packs.len(),
            };
            Table::of_source(entries, &self.scratch, Box::new(blocks))
        } else {
            let mut table = TableBuilder::new(entries, &self.scratch);
            read_blocks(&mut source, entries, head.packs.len(), |rows| table.append(rows))?;
            source.finish(id)?;
            table.finish()?
        };
        let packs = head.packs.into_iter().map(Arc::new).collect();
        Ok(Segment::new(id, packs, head.superseded, table))
    }
}

/// A segment that is larger is read from front to end and not kept: whoever claims such a size has to keep the promise before memory is spent on it.
const MOST_BYTES_IN_BLOCKS: u64 = 16 << 30;

/// Whether any part of a segment can be read without much ado.
fn is_near(from: Loading<'_>, object: &ObjectInfo) -> bool {
    match from.copies(object) {
        Some(copies) => {
            pieces(object.size_bytes).all(|(offset, length)| copies.has(&object.key, offset, length))
        }
        None => !from.far,
    }
}

/// The blocks of a segment, read one by one. Each is authenticated; the name of the object, a hash of all of it, is left to `check`.
#[derive(Debug)]
struct Blocks {
    storage: Arc<dyn Storage>,
    copies: Option<Arc<MetadataCache>>,
    summaries: Option<Arc<MetadataCache>>,
    object: ObjectInfo,
    first_offset: u64,
    opened: Opened,
    packs: usize,
}

impl BlockSource for Blocks {
    fn block(&self, number: usize, rows: usize) -> Result<Vec<u8>, ReadError> {
        let length = (rows * ENTRY_BYTES + TAG_BYTES) as u64;
        let offset = self.first_offset + (number * (BLOCK_ENTRIES * ENTRY_BYTES + TAG_BYTES)) as u64;
        if let Some(sealed) = self.kept(offset, length) {
            match self.open(offset, sealed) {
                Err(error) if error.is_damage() => {
                    tracing::debug!(key = self.object.key, %error, "a local copy was of no use");
                    self.copies.iter().for_each(|copies| forget(copies, &self.object));
                }
                rows => return rows,
            }
        }
        let sealed = self.storage.get(&self.object.key, offset, length);
        self.open(
            offset,
            sealed.map_err(|error| ReadError::required(&self.object.key, error))?,
        )
    }

    fn kept_summary(&self, number: usize, length: usize) -> Option<Vec<u8>> {
        let summaries = self.summaries.as_ref()?;
        summaries.load(&self.summary_name(), number as u64, length as u64)
    }

    fn keep_summary(&self, number: usize, summary: &[u8]) {
        if let Some(summaries) = &self.summaries {
            summaries.store(&self.summary_name(), number as u64, summary.len() as u64, summary);
        }
    }
}

impl Blocks {
    fn summary_name(&self) -> String {
        format!("{}, summaries 1", self.object.key)
    }

    fn open(&self, offset: u64, sealed: Vec<u8>) -> Result<Vec<u8>, ReadError> {
        open_block(
            &self.object.key,
            &self.opened,
            offset,
            sealed,
            self.packs,
            &mut None,
        )
    }

    /// A range from the local copies, if all of it is there.
    fn kept(&self, offset: u64, length: u64) -> Option<Vec<u8>> {
        let copies = self.copies.as_ref()?;
        let end = offset + length;
        let mut bytes = Vec::with_capacity(usize::try_from(length).ok()?);
        let first = usize::try_from(offset / PIECE_BYTES).ok()?;
        let covering = pieces(self.object.size_bytes).skip(first);
        for (start, length) in covering.take_while(|(start, _)| *start < end) {
            let piece = copies.load(&self.object.key, start, length)?;
            let from = usize::try_from(offset.saturating_sub(start)).ok()?;
            let to = usize::try_from((end - start).min(length)).ok()?;
            bytes.extend_from_slice(piece.get(from..to)?);
        }
        Some(bytes)
    }
}

/// Reads and verifies a whole segment object without using it; for `check`.
pub fn verify_segment(
    storage: &dyn Storage,
    keys: &Keys,
    mode: Mode,
    object: &ObjectInfo,
) -> Result<(), ReadError> {
    let id = object
        .key
        .strip_prefix("index/")
        .and_then(|name| name.parse().ok());
    let id = id.ok_or_else(|| ReadError::damaged(&object.key, "it is not the name of an index segment"))?;
    let mut source = Sequential::new(storage, None, object, FETCH_BYTES);
    let (head, entries) = read_head(&mut source, keys, mode)?;
    read_blocks(&mut source, entries, head.packs.len(), |_| Ok(()))?;
    source.finish(id)
}

/// The key of the object, kept for the blocks.
#[derive(Debug)]
struct Opened {
    key: crate::crypto::seal::ObjectKey,
}

fn read_head(
    source: &mut Sequential<'_>,
    keys: &Keys,
    mode: Mode,
) -> Result<(SegmentHead, usize), ReadError> {
    let what = source.key();
    let start = source.take(HEAD_OFFSET)?;
    let mut reader = Reader::new(&start);
    let (prelude, salt) = read_sealed_header(&mut reader, ObjectKind::IndexSegment).damage(&what)?;
    if prelude.mode != mode {
        return Err(ReadError::damaged(
            &what,
            "it is protected in another way than the repository",
        ));
    }
    let head_bytes = reader.u32("the head length").damage(&what)?;
    let entries = reader.u64("the entry count").damage(&what)?;
    if head_bytes > MAX_HEAD_BYTES || u64::from(head_bytes) > source.left() {
        return Err(ReadError::damaged(&what, "the head is longer than the object"));
    }
    let entries = usize::try_from(entries).ok().filter(|&entries| {
        let blocks = entries.div_ceil(BLOCK_ENTRIES) as u64;
        let bytes = (entries as u64).checked_mul(ENTRY_BYTES as u64);
        let total = bytes.and_then(|bytes| bytes.checked_add(blocks * TAG_BYTES as u64));
        total == Some(source.left() - u64::from(head_bytes))
    });
    let entries =
        entries.ok_or_else(|| ReadError::damaged(&what, "its length does not fit its entry count"))?;
    let opened = Opened {
        key: keys.object_key(prelude, &salt),
    };
    let mut head = source.take(head_bytes as usize)?;
    opened.key.open(HEAD_OFFSET as u64, &mut head).damage(&what)?;
    let head = SegmentHead::decode(&head).damage(&what)?;
    if head.entries != entries as u64 {
        return Err(ReadError::damaged(
            &what,
            "it does not have as many entries as its head says",
        ));
    }
    source.opened = Some(opened);
    Ok((head, entries))
}

fn read_blocks(
    source: &mut Sequential<'_>,
    entries: usize,
    packs: usize,
    mut append: impl FnMut(&[u8]) -> Result<(), ReadError>,
) -> Result<(), ReadError> {
    let what = source.key();
    let opened = source.opened()?;
    let mut left = entries;
    let mut last: Option<IndexEntry> = None;
    while left > 0 {
        let rows = left.min(BLOCK_ENTRIES);
        let position = source.position();
        let block = source.take(rows * ENTRY_BYTES + TAG_BYTES)?;
        append(&open_block(&what, &opened, position, block, packs, &mut last)?)?;
        left -= rows;
    }
    Ok(())
}

/// Opens a block in place and verifies that its rows ascend, also from the `last` before them.
fn open_block(
    what: &str,
    opened: &Opened,
    position: u64,
    mut block: Vec<u8>,
    packs: usize,
    last: &mut Option<IndexEntry>,
) -> Result<Vec<u8>, ReadError> {
    opened.key.open(position, &mut block).damage(what)?;
    for row in block.as_chunks::<ENTRY_BYTES>().0 {
        let entry = IndexEntry::read(row).damage(what)?;
        if entry.pack as usize >= packs || last.is_some_and(|last| last.id > entry.id) {
            return Err(ReadError::damaged(
                what,
                "its entries are out of order or name no pack",
            ));
        }
        *last = Some(entry);
    }
    Ok(block)
}

/// Reads an object from front to end in bounded pieces and hashes it on the way.
struct Sequential<'a> {
    storage: &'a dyn Storage,
    cache: Option<&'a MetadataCache>,
    object: &'a ObjectInfo,
    /// Length of a read.
    step: u64,
    fetched: u64,
    taken: u64,
    buffer: Vec<u8>,
    start: usize,
    hasher: blake3::Hasher,
    opened: Option<Opened>,
}

/// Length of a local copy.
const PIECE_BYTES: u64 = 1 << 20;
/// Length of a read from a storage that is far away.
const FETCH_BYTES: u64 = 4 << 20;

/// Where the pieces of an object that are kept here begin, and their lengths.
fn pieces(size_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size_bytes.div_ceil(PIECE_BYTES)).map(move |number| {
        let offset = number * PIECE_BYTES;
        (offset, PIECE_BYTES.min(size_bytes - offset))
    })
}

fn forget(cache: &MetadataCache, object: &ObjectInfo) {
    for (offset, length) in pieces(object.size_bytes) {
        cache.forget(&object.key, offset, length);
    }
}

/// Keeps a local copy of a segment that was just written.
pub(super) fn keep_copy(cache: &MetadataCache, key: &str, bytes: &[u8]) {
    for (offset, length) in pieces(bytes.len() as u64) {
        let range = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(length).ok())
            .and_then(|(offset, length)| bytes.get(offset..offset + length));
        if let Some(piece) = range {
            cache.store(key, offset, length, piece);
        }
    }
}

impl<'a> Sequential<'a> {
    fn new(
        storage: &'a dyn Storage,
        cache: Option<&'a MetadataCache>,
        object: &'a ObjectInfo,
        step: u64,
    ) -> Self {
        Self {
            step,
            storage,
            cache,
            object,
            fetched: 0,
            taken: 0,
            buffer: Vec::new(),
            start: 0,
            hasher: blake3::Hasher::new(),
            opened: None,
        }
    }

    fn key(&self) -> String {
        self.object.key.clone()
    }

    /// What the head was opened with.
    fn opened(&mut self) -> Result<Opened, ReadError> {
        self.opened
            .take()
            .ok_or_else(|| ReadError::damaged(&self.object.key, "the head was not read"))
    }

    fn position(&self) -> u64 {
        self.taken
    }

    fn left(&self) -> u64 {
        self.object.size_bytes - self.taken
    }

    fn take(&mut self, length: usize) -> Result<Vec<u8>, ReadError> {
        if length as u64 > self.left() {
            return Err(ReadError::damaged(&self.object.key, "it is too short"));
        }
        while self.buffer.len() - self.start < length {
            let bytes = self.piece()?;
            if bytes.is_empty() {
                return Err(ReadError::damaged(
                    &self.object.key,
                    "it is shorter than it was listed",
                ));
            }
            self.fetched += bytes.len() as u64;
            self.hasher.update(&bytes);
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.extend_from_slice(&bytes);
        }
        let taken = self
            .buffer
            .get(self.start..self.start + length)
            .map(<[u8]>::to_vec)
            .unwrap_or_default();
        self.start += length;
        self.taken += length as u64;
        Ok(taken)
    }

    /// What comes next. Local copies begin at multiples of their length, so that they are found again.
    fn piece(&self) -> Result<Vec<u8>, ReadError> {
        let (key, offset) = (&self.object.key, self.fetched);
        let left = self.object.size_bytes - offset;
        let kept = self
            .cache
            .and_then(|cache| cache.load(key, offset, PIECE_BYTES.min(left)));
        if let Some(bytes) = kept {
            return Ok(bytes);
        }
        let wanted = self.step.min(left);
        let bytes = self.storage.get(key, offset, wanted);
        let bytes = bytes.map_err(|error| ReadError::required(key, error))?;
        // Kept before all of it is verified; when it turns out to be wrong, the pieces are forgotten.
        if let Some(cache) = self.cache.filter(|_| bytes.len() as u64 == wanted) {
            let mut start = offset;
            for piece in bytes.chunks(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)) {
                cache.store(key, start, piece.len() as u64, piece);
                start += piece.len() as u64;
            }
        }
        Ok(bytes)
    }

    /// Checks that all was read and that the bytes are those that the name promises.
    fn finish(self, id: SegmentId) -> Result<(), ReadError> {
        if self.left() == 0 && *self.hasher.finalize().as_bytes() == id.0 {
            Ok(())
        } else {
            Err(ReadError::damaged(
                &self.object.key,
                "its bytes are not those that its name promises",
            ))
        }
    }
}
