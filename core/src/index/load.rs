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
use super::table::TableBuilder;
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

impl Index {
    /// Loads all segments in use. Unreadable ones are returned, not fatal.
    pub fn load(
        &self,
        storage: &dyn Storage,
        keys: &Keys,
        cache: Option<&MetadataCache>,
    ) -> Result<Vec<SegmentProblem>, ReadError> {
        let mut objects = Vec::new();
        list_all(storage, "index/", |object| objects.push(object)).map_err(ReadError::Storage)?;
        objects.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.key.cmp(&b.key)));
        let known: HashSet<SegmentId> = self.segments().iter().map(|segment| segment.id()).collect();
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
            let superseded =
                id.0.first_chunk()
                    .is_some_and(|prefix| lock(&self.superseded).contains(prefix));
            if superseded || known.contains(&id) {
                continue;
            }
            let mut loaded = self.load_one((storage, cache), keys, id, &object);
            if let (Err(ReadError::Damaged { .. }), Some(cache)) = (&loaded, cache) {
                // It may be the local copy that is wrong.
                forget(cache, &object);
                loaded = self.load_one((storage, None), keys, id, &object);
            }
            match loaded {
                Ok(()) => {}
                Err(error) if error.is_damage() => problems.push(SegmentProblem {
                    key: object.key,
                    error,
                }),
                Err(error) => return Err(error),
            }
        }
        Ok(problems)
    }

    fn load_one(
        &self,
        (storage, cache): (&dyn Storage, Option<&MetadataCache>),
        keys: &Keys,
        id: SegmentId,
        object: &ObjectInfo,
    ) -> Result<(), ReadError> {
        let mut source = Sequential::new(storage, cache, object);
        let (head, entries) = read_head(&mut source, keys, self.mode)?;
        let mut table = TableBuilder::new(entries, self.cache_directory.as_deref())?;
        read_blocks(&mut source, entries, head.packs.len(), |rows| table.append(rows))?;
        source.finish(id)?;
        lock(&self.superseded).extend(head.superseded);
        let packs = head.packs.into_iter().map(Arc::new).collect();
        self.add_segment(Segment::new(id, packs, table.finish()?));
        Ok(())
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
    let mut source = Sequential::new(storage, None, object);
    let (head, entries) = read_head(&mut source, keys, mode)?;
    read_blocks(&mut source, entries, head.packs.len(), |_| Ok(()))?;
    source.finish(id)
}

/// The sealed header's salt, kept for the blocks.
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
    let Some(opened) = source.opened.take() else {
        return Err(ReadError::damaged(&what, "the head was not read"));
    };
    let mut left = entries;
    let mut last: Option<IndexEntry> = None;
    while left > 0 {
        let rows = left.min(BLOCK_ENTRIES);
        let position = source.position();
        let mut block = source.take(rows * ENTRY_BYTES + TAG_BYTES)?;
        opened.key.open(position, &mut block).damage(&what)?;
        for row in block.as_chunks::<ENTRY_BYTES>().0 {
            let entry = IndexEntry::read(row).damage(&what)?;
            if entry.pack as usize >= packs || last.is_some_and(|last| last.id > entry.id) {
                return Err(ReadError::damaged(
                    &what,
                    "its entries are out of order or name no pack",
                ));
            }
            last = Some(entry);
        }
        append(&block)?;
        left -= rows;
    }
    Ok(())
}

/// Reads an object from front to end in bounded pieces and hashes it on the way.
struct Sequential<'a> {
    storage: &'a dyn Storage,
    cache: Option<&'a MetadataCache>,
    object: &'a ObjectInfo,
    fetched: u64,
    taken: u64,
    buffer: Vec<u8>,
    start: usize,
    hasher: blake3::Hasher,
    opened: Option<Opened>,
}

const PIECE_BYTES: u64 = 4 << 20;

/// Where the pieces of an object begin, and their lengths.
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
    fn new(storage: &'a dyn Storage, cache: Option<&'a MetadataCache>, object: &'a ObjectInfo) -> Self {
        Self {
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
            let bytes = self.piece(PIECE_BYTES.min(self.object.size_bytes - self.fetched))?;
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

    /// The next piece. Pieces begin at multiples of their size, so that they are found again among the local copies.
    fn piece(&self, length: u64) -> Result<Vec<u8>, ReadError> {
        let (key, offset) = (&self.object.key, self.fetched);
        if let Some(bytes) = self.cache.and_then(|cache| cache.load(key, offset, length)) {
            return Ok(bytes);
        }
        let bytes = self.storage.get(key, offset, length);
        let bytes = bytes.map_err(|error| ReadError::required(key, error))?;
        // Kept before all of it is verified; when it turns out to be wrong, the pieces are forgotten.
        if let Some(cache) = self.cache.filter(|_| bytes.len() as u64 == length) {
            cache.store(key, offset, length, &bytes);
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
