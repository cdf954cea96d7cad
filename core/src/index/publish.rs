//! Writing index segments: what the session has stored, merged with small older segments so that their number stays logarithmic.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::crypto::keys::Keys;
use crate::environment::Environment;
use crate::format::index_segment::{
    BLOCK_ENTRIES, ENTRY_BYTES, HEAD_OFFSET, IndexEntry, PackInfo, SegmentHead,
};
use crate::format::object::{ObjectKind, Prelude, SALT_BYTES, sealed_header};
use crate::format::pack::TAG_BYTES;
use crate::id::{PackId, SegmentId, SessionId};
use crate::read_error::ReadError;
use crate::storage::cache::MetadataCache;
use crate::storage::{PutMode, PutOptions, Storage, StorageError, StorageErrorKind};

use super::load::{keep_copy, segment_key};
use super::segment::Segment;
use super::table::Table;
use super::{Index, Pending, lock};

/// A segment with more entries than this is never merged again: it bounds the size of one object and the memory to write it.
const MERGE_LIMIT_ENTRIES: usize = 500_000;

/// So many entries are written at once to leave out what is missing; more wait for the next session.
const MEND_LIMIT_ENTRIES: usize = 2 * MERGE_LIMIT_ENTRIES;

/// What publishing needs besides the index.
#[derive(Debug, Clone, Copy)]
pub struct Publisher<'a> {
    /// Where segments are put.
    pub storage: &'a dyn Storage,
    /// Keys to seal them.
    pub keys: &'a Keys,
    /// Source of salts.
    pub environment: &'a Environment,
    /// The session that publishes.
    pub session: SessionId,
    /// Where a local copy is kept.
    pub cache: Option<&'a MetadataCache>,
}

/// What a new segment is to hold, and the segments that it takes in.
struct Merged {
    olds: Vec<Arc<Segment>>,
    packs: Vec<Arc<PackInfo>>,
    entries: Vec<IndexEntry>,
}

impl Index {
    /// Publishes what is pending as one segment; with `merge`, together with small older segments, and with those that name packs that
    /// are missing and whose blobs are stored elsewhere by now.
    /// Returns the size of the object in bytes, or `None` when there was nothing to say.
    pub fn publish(&self, publisher: Publisher<'_>, merge: bool) -> Result<Option<u64>, ReadError> {
        let pending = std::mem::take(&mut *lock(&self.pending));
        let missing = if merge {
            lock(&self.missing).clone()
        } else {
            HashSet::new()
        };
        if pending.packs.is_empty() && missing.is_empty() {
            return Ok(None);
        }
        let olds = if merge {
            self.to_merge(pending.entries.len(), &missing)
        } else {
            Vec::new()
        };
        let mut merged = self.merge(&pending, olds)?;
        let left_out = self.leave_out(&missing, &mut merged)?;
        if pending.packs.is_empty() && !left_out {
            return Ok(None);
        }
        let Merged { olds, packs, entries } = merged;
        let superseded = self.superseded_by(&olds);
        let head = SegmentHead {
            publisher: publisher.session,
            entries: entries.len() as u64,
            packs: packs.iter().map(|pack| **pack).collect(),
            superseded: superseded.clone(),
        };
        let object = self.seal(publisher, &head, &entries)?;
        let id = SegmentId(*blake3::hash(&object).as_bytes());
        let size_bytes = object.len() as u64;
        let options = PutOptions {
            mode: PutMode::Create,
            durable: true,
            blake3: id.0,
        };
        let (key, object) = (segment_key(id), Arc::new(object));
        publisher
            .storage
            .put(&key, Arc::clone(&object), options)
            .or_else(already_there)
            .map_err(ReadError::Storage)?;
        if let Some(cache) = publisher.cache {
            keep_copy(cache, &key, &object);
        }
        drop(object);
        self.replace(&olds, id, (packs, superseded), &entries)?;
        for blob in &pending.ids {
            if let Some(shard) = self.shard(blob) {
                lock(shard).remove(blob);
            }
        }
        Ok(Some(size_bytes))
    }

    /// The entries of all sources with pack numbers of one common list, sorted. A segment that turns out damaged is not taken in.
    fn merge(&self, pending: &Pending, olds: Vec<Arc<Segment>>) -> Result<Merged, ReadError> {
        let mut merged = Merged {
            olds: Vec::new(),
            packs: pending.packs.clone(),
            entries: pending.entries.clone(),
        };
        let (packs, entries) = (&mut merged.packs, &mut merged.entries);
        let mut ordinals: HashMap<PackId, u32> = pending.ordinals.clone();
        entries.reserve(olds.iter().map(|segment| segment.len()).sum());
        for segment in olds {
            let before = entries.len();
            match segment.for_each(|_, entry| entries.push(*entry)) {
                Ok(()) => {}
                Err(error) if error.is_damage() => {
                    entries.truncate(before);
                    self.abandon(vec![(segment, error)]);
                    continue;
                }
                Err(error) => return Err(error),
            }
            let renumbered: Vec<u32> = segment
                .packs()
                .iter()
                .map(|pack| {
                    *ordinals.entry(pack.id).or_insert_with(|| {
                        packs.push(Arc::clone(pack));
                        u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
                    })
                })
                .collect();
            for entry in entries.iter_mut().skip(before) {
                // The segment has vouched for its numbers.
                if let Some(&pack) = renumbered.get(entry.pack as usize) {
                    entry.pack = pack;
                }
            }
            merged.olds.push(segment);
        }
        entries.sort_unstable();
        entries.dedup();
        Ok(merged)
    }

    /// Leaves out entries of missing packs whose blobs are stored elsewhere, and such packs of which nothing is left. What is nowhere
    /// else stays: it tells which pack is wanted. Gives whether anything was left out.
    fn leave_out(&self, missing: &HashSet<PackId>, merged: &mut Merged) -> Result<bool, ReadError> {
        let lost: Vec<bool> = merged
            .packs
            .iter()
            .map(|pack| missing.contains(&pack.id))
            .collect();
        if !lost.contains(&true) {
            return Ok(false);
        }
        let is_lost = |entry: &IndexEntry| lost.get(entry.pack as usize) == Some(&true);
        let mut used = vec![false; lost.len()];
        let mut kept = Vec::with_capacity(merged.entries.len());
        // They ascend by id: the copies of a blob are neighbours.
        for copies in merged.entries.chunk_by(|one, next| one.id == next.id) {
            let mut elsewhere = !copies.iter().all(is_lost);
            if let (false, Some(first)) = (elsewhere, copies.first()) {
                elsewhere = self.find(&first.id)?.is_some();
            }
            for entry in copies.iter().filter(|entry| !(elsewhere && is_lost(entry))) {
                if let Some(used) = used.get_mut(entry.pack as usize) {
                    *used = true;
                }
                kept.push(*entry);
            }
        }
        let left_out = kept.len() < merged.entries.len();
        let mut numbers = Vec::with_capacity(lost.len());
        let mut packs = Vec::with_capacity(lost.len());
        for ((pack, lost), used) in merged.packs.drain(..).zip(&lost).zip(used) {
            numbers.push(u32::try_from(packs.len()).unwrap_or(u32::MAX));
            if used || !lost {
                packs.push(pack);
            }
        }
        for entry in &mut kept {
            if let Some(&number) = numbers.get(entry.pack as usize) {
                entry.pack = number;
            }
        }
        merged.packs = packs;
        merged.entries = kept;
        Ok(left_out)
    }

    /// The smaller segments that are not more than twice as large as what is gathered so far, and those that name missing packs.
    fn to_merge(&self, fresh: usize, missing: &HashSet<PackId>) -> Vec<Arc<Segment>> {
        let mut segments = self.segments().to_vec();
        segments.sort_by_key(|segment| segment.len());
        let mut gathered = fresh;
        let mut chosen = Vec::new();
        let mut merging = true;
        for segment in segments {
            let small = segment.len() <= gathered.saturating_mul(2).max(64);
            merging &= small && gathered + segment.len() <= MERGE_LIMIT_ENTRIES;
            let wrong = segment.packs().iter().any(|pack| missing.contains(&pack.id));
            if merging || (wrong && gathered + segment.len() <= MEND_LIMIT_ENTRIES) {
                gathered += segment.len();
                chosen.push(segment);
            }
        }
        chosen
    }

    /// The segments merged and all that were replaced before: a reader of the new one needs none of them.
    fn superseded_by(&self, olds: &[Arc<Segment>]) -> Vec<[u8; 8]> {
        if olds.is_empty() {
            return Vec::new();
        }
        let prefixes = olds
            .iter()
            .filter_map(|segment| segment.id().0.first_chunk().copied());
        let mut superseded: Vec<[u8; 8]> = self.superseded().into_iter().chain(prefixes).collect();
        superseded.retain(|prefix| *prefix != [0; 8]);
        superseded.sort_unstable();
        superseded.dedup();
        superseded
    }

    fn seal(
        &self,
        publisher: Publisher<'_>,
        head: &SegmentHead,
        entries: &[IndexEntry],
    ) -> Result<Vec<u8>, ReadError> {
        let salt = publisher.environment.random::<SALT_BYTES>().map_err(|error| {
            ReadError::Storage(StorageError::new(
                StorageErrorKind::Other,
                "seal",
                "an index segment",
                error.to_string(),
            ))
        })?;
        let prelude = Prelude {
            kind: ObjectKind::IndexSegment,
            mode: self.mode,
        };
        let key = publisher.keys.object_key(prelude, &salt);
        let mut sealed_head = head.encode();
        key.seal(HEAD_OFFSET as u64, &mut sealed_head);
        let mut object = sealed_header(prelude, &salt);
        object.u32(u32::try_from(sealed_head.len()).unwrap_or(u32::MAX));
        object.u64(entries.len() as u64);
        object.raw(&sealed_head);
        for rows in entries.chunks(BLOCK_ENTRIES) {
            let mut block = Vec::with_capacity(rows.len() * ENTRY_BYTES + TAG_BYTES);
            for entry in rows {
                entry.write(&mut block);
            }
            key.seal(object.len() as u64, &mut block);
            object.raw(&block);
        }
        Ok(object.into_bytes())
    }

    fn replace(
        &self,
        olds: &[Arc<Segment>],
        id: SegmentId,
        (packs, superseded): (Vec<Arc<PackInfo>>, Vec<[u8; 8]>),
        entries: &[IndexEntry],
    ) -> Result<(), ReadError> {
        let table = Table::of_entries(entries, &self.scratch)?;
        let segment = Arc::new(Segment::new(id, packs, superseded, table));
        self.change_segments(|segments| {
            segments.retain(|segment| !olds.iter().any(|old| Arc::ptr_eq(old, segment)));
            segments.push(segment);
        });
        Ok(())
    }
}

/// The name of a segment is the hash of its bytes: one that is there already is this one, from a try that seemed to fail.
fn already_there(error: StorageError) -> Result<(), StorageError> {
    if error.kind == StorageErrorKind::AlreadyExists {
        Ok(())
    } else {
        Err(error)
    }
}
