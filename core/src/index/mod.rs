//! Where each blob is: sorted segments on the storage, searched in memory maps, and what this session has added.
//!
//! Everything here is derived from packs: losing it costs time, never data.

mod load;
mod publish;
mod segment;
mod table;

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::format::index_segment::{IndexEntry, PackInfo};
use crate::format::object::Mode;
use crate::format::pack::ContentsFrame;
use crate::id::{BlobId, PackId, SegmentId};
use crate::read_error::ReadError;

pub use load::{Loading, SegmentProblem, verify_segment};
pub use publish::Publisher;
use segment::Segment;
use table::{Scratch, Table};

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The pack.
    pub pack: Arc<PackInfo>,
    /// Where the sealed frame begins in the pack.
    pub frame_offset: u32,
    /// Sealed length of the frame.
    pub frame_length: u32,
    /// Where the blob begins in the raw frame.
    pub blob_offset: u32,
    /// Plain length of the blob.
    pub blob_length: u32,
}

/// The answer to "who stores this blob?".
#[derive(Debug)]
pub enum Claimed {
    /// It is stored, or somebody in this session is storing it.
    Known,
    /// Whoever asked stores it.
    Fresh(Claim),
}

/// The right and duty to store one blob. Only [`Index::claim`] makes it.
#[derive(Debug)]
pub struct Claim {
    id: BlobId,
}

impl Claim {
    /// The blob.
    pub fn id(&self) -> BlobId {
        self.id
    }
}

const SHARDS: usize = 16;

/// Tables up to this size are usually kept in memory, in bytes.
pub const HEAP_BYTES: usize = 4 << 20;

/// The index of one open repository.
#[derive(Debug)]
pub struct Index {
    mode: Mode,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    claimed: [Mutex<HashSet<BlobId>>; SHARDS],
    pending: Mutex<Pending>,
    absent: RwLock<Arc<HashSet<PackId>>>,
    /// Packs that segments name and the storage does not have.
    missing: Mutex<HashSet<PackId>>,
    scratch: Arc<Scratch>,
    /// Segments of which a block turned out damaged when it was first asked for.
    abandoned: Mutex<HashSet<SegmentId>>,
    /// How many of them the session has made up for.
    settled: AtomicUsize,
}

/// Packs stored in this session whose entries are in no published segment.
#[derive(Debug, Default)]
struct Pending {
    packs: Vec<Arc<PackInfo>>,
    ordinals: HashMap<PackId, u32>,
    entries: Vec<IndexEntry>,
    ids: Vec<BlobId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    /// An index that knows nothing; tables larger than a few megabytes go to an unlinked file in `cache_directory`.
    pub fn empty(mode: Mode, cache_directory: Option<PathBuf>) -> Self {
        Self::with_heap_bytes(mode, cache_directory, HEAP_BYTES)
    }

    /// The same, with another limit to what is read at once and kept in memory, in bytes of rows.
    pub fn with_heap_bytes(mode: Mode, cache_directory: Option<PathBuf>, heap_bytes: usize) -> Self {
        Self {
            mode,
            segments: RwLock::default(),
            claimed: Default::default(),
            pending: Mutex::default(),
            absent: RwLock::default(),
            missing: Mutex::default(),
            scratch: Scratch::new(cache_directory, heap_bytes),
            abandoned: Mutex::default(),
            settled: AtomicUsize::new(0),
        }
    }

    /// Distrusts packs that are not there at all. The last segment of a session says of them only what nothing else holds.
    pub fn miss(&self, packs: impl IntoIterator<Item = PackId> + Clone) {
        lock(&self.missing).extend(packs.clone());
        self.distrust(packs);
    }

    /// Blobs in these packs count as absent from now on: the packs are gone or cut, so what they held is stored again.
    pub fn distrust(&self, packs: impl IntoIterator<Item = PackId>) {
        let mut absent = self.absent.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut absent).extend(packs);
    }

    fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.segments
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn add_segment(&self, segment: Segment) {
        self.change_segments(|segments| segments.push(Arc::new(segment)));
    }

    fn change_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let segments = Arc::make_mut(&mut segments);
        change(segments);
        // The largest first: most blobs are found in the first table.
        segments.sort_by_key(|segment| std::cmp::Reverse(segment.len()));
    }

    /// Visits the segments, the largest first, until told to stop. No lock is held, because a block may be read. Segments that turn out
    /// damaged are passed over, and no longer used.
    fn visit_segments(
        &self,
        mut visit: impl FnMut(&Segment) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        let mut broken = Vec::new();
        let mut outcome = Ok(());
        for segment in self.segments().iter() {
            match visit(segment) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(error) if error.is_damage() => broken.push((Arc::clone(segment), error)),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        self.abandon(broken);
        outcome
    }

    /// Finds a blob in the published segments.
    pub fn find(&self, id: &BlobId) -> Result<Option<Place>, ReadError> {
        let absent = Arc::clone(&self.absent.read().unwrap_or_else(PoisonError::into_inner));
        let mut found = None;
        self.visit_segments(|segment| {
            found = segment.find(id, &absent)?;
            Ok(match found {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            })
        })?;
        Ok(found)
    }

    /// All places of a blob: it may be stored more than once, and one copy may be damaged.
    pub fn places(&self, id: &BlobId) -> Result<Vec<Place>, ReadError> {
        let mut places = Vec::new();
        self.visit_segments(|segment| {
            places.extend(segment.places(id)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(places)
    }

    /// Segments that turned out damaged are no longer used: what they say is found through the packs that they named.
    fn abandon(&self, broken: Vec<(Arc<Segment>, ReadError)>) {
        for (segment, error) in broken {
            if lock(&self.abandoned).insert(segment.id()) {
                tracing::warn!(object = %load::segment_key(segment.id()), "index segment not usable: {error}");
            }
            self.change_segments(|segments| segments.retain(|other| !Arc::ptr_eq(other, &segment)));
        }
    }

    /// How many segments turned out damaged after they were loaded.
    pub(crate) fn abandoned_count(&self) -> usize {
        lock(&self.abandoned).len()
    }

    /// Whether what is not found is not stored: not so while a segment was given up whose packs nobody has looked into.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire) == self.abandoned_count()
    }

    /// The packs of so many abandoned segments were looked into.
    pub(crate) fn settle(&self, abandoned: usize) {
        self.settled.store(abandoned, Ordering::Release);
    }

    /// First bytes of the ids of segments that those in use replace.
    fn superseded(&self) -> HashSet<[u8; 8]> {
        let segments = self.segments();
        segments
            .iter()
            .flat_map(|segment| segment.superseded())
            .copied()
            .collect()
    }

    /// Whether a blob is stored, or somebody in this session is storing it.
    pub(crate) fn is_known(&self, id: &BlobId) -> Result<bool, ReadError> {
        Ok(self.shard(id).is_none_or(|shard| lock(shard).contains(id)) || self.find(id)?.is_some())
    }

    fn shard(&self, id: &BlobId) -> Option<&Mutex<HashSet<BlobId>>> {
        let [first, ..] = id.0;
        self.claimed.get(usize::from(first) % SHARDS)
    }

    /// Asks who stores a blob; the first who asks for an unknown one gets the claim.
    pub fn claim(&self, id: BlobId) -> Result<Claimed, ReadError> {
        if self.is_known(&id)? {
            return Ok(Claimed::Known);
        }
        Ok(self.claim_unknown(id))
    }

    /// The same, of a blob that was not known a moment ago. Others may have asked too; the insertion decides.
    pub(crate) fn claim_unknown(&self, id: BlobId) -> Claimed {
        if self.shard(&id).is_some_and(|shard| lock(shard).insert(id)) {
            Claimed::Fresh(Claim { id })
        } else {
            Claimed::Known
        }
    }

    /// Forgets what a session claimed and recorded without publishing it. One that failed may never have stored it; what it
    /// did store is found again among the packs.
    pub fn forget_session(&self) {
        for shard in &self.claimed {
            lock(shard).clear();
        }
        *lock(&self.pending) = Pending::default();
    }

    /// Records a pack that is safely stored.
    pub fn record(&self, pack: PackInfo, frames: &[ContentsFrame]) {
        let mut pending = lock(&self.pending);
        pending.add(Arc::new(pack), frames);
    }

    /// Blobs and packs that were recorded and not yet published.
    pub fn pending_counts(&self) -> (usize, usize) {
        let pending = lock(&self.pending);
        (pending.entries.len(), pending.packs.len())
    }

    /// Every pack that the storage's own segments name: not those adopted in this process only.
    pub fn published_packs(&self) -> HashSet<PackId> {
        let segments = self.segments();
        let published = segments.iter().filter(|segment| segment.id().0 != [0; 32]);
        published
            .flat_map(|segment| segment.packs().iter().map(|pack| pack.id))
            .collect()
    }

    /// Packs stored in this session that no segment names yet.
    pub(crate) fn pending_packs(&self) -> Vec<PackId> {
        lock(&self.pending).packs.iter().map(|pack| pack.id).collect()
    }

    /// Every pack that the segments name, once.
    pub fn packs(&self) -> Vec<Arc<PackInfo>> {
        let mut seen = HashSet::new();
        let mut packs = Vec::new();
        for segment in self.segments().iter() {
            packs.extend(
                segment
                    .packs()
                    .iter()
                    .filter(|pack| seen.insert(pack.id))
                    .cloned(),
            );
        }
        packs
    }

    /// How many entries and segments are in use (a blob stored twice counts twice).
    pub fn counts(&self) -> (u64, usize) {
        let segments = self.segments();
        (
            segments.iter().map(|segment| segment.len() as u64).sum(),
            segments.len(),
        )
    }

    /// Visits every entry of every segment in use.
    pub fn for_each(&self, mut visit: impl FnMut(&Arc<PackInfo>, &IndexEntry)) -> Result<(), ReadError> {
        self.visit_segments(|segment| {
            segment.for_each(&mut visit)?;
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Makes packs that no segment names findable, in this process only.
    pub fn adopt(&self, packs: Vec<(PackInfo, Vec<ContentsFrame>)>) -> Result<(), ReadError> {
        let mut adopted = Pending::default();
        for (pack, frames) in packs {
            adopted.add(Arc::new(pack), &frames);
        }
        if adopted.packs.is_empty() {
            return Ok(());
        }
        let segment = adopted.into_segment(SegmentId([0; 32]), &self.scratch)?;
        self.add_segment(segment);
        Ok(())
    }

    /// Takes packs that an earlier, interrupted session stored as if this session had: they are published with its own.
    pub fn adopt_into_session(&self, packs: Vec<(PackInfo, Vec<ContentsFrame>)>) {
        for (pack, frames) in packs {
            for blob in frames.iter().flat_map(|frame| &frame.blobs) {
                if let Some(shard) = self.shard(&blob.id) {
                    lock(shard).insert(blob.id);
                }
            }
            self.record(pack, &frames);
        }
    }
}

impl Pending {
    fn add(&mut self, pack: Arc<PackInfo>, frames: &[ContentsFrame]) {
        let next = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
        let ordinal = *self.ordinals.entry(pack.id).or_insert(next);
        if ordinal == next {
            self.packs.push(pack);
        }
        for frame in frames {
            let mut offset = 0;
            for blob in &frame.blobs {
                self.entries.push(IndexEntry {
                    id: blob.id,
                    pack: ordinal,
                    frame_offset: frame.offset,
                    frame_length: frame.length,
                    blob_offset: offset,
                    blob_length: blob.length,
                });
                self.ids.push(blob.id);
                offset += blob.length;
            }
        }
    }

    fn into_segment(mut self, id: SegmentId, scratch: &Arc<Scratch>) -> Result<Segment, ReadError> {
        self.entries.sort_unstable();
        let table = Table::of_entries(&self.entries, scratch)?;
        Ok(Segment::new(id, self.packs, Vec::new(), table))
    }
}
