//! Verifying packs: the hash of the object, its table of contents, every frame, every blob, and that the index agrees.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::format::index_segment::PackInfo;
use crate::format::object::HEADER_BYTES;
use crate::format::pack::{ContentsBlob, ContentsFrame, TRAILER_BYTES, Trailer};
use crate::format::snapshot::Snapshot;
use crate::format::tree::{Entry, EntryKind};
use crate::id::{BlobId, PackId};
use crate::index::Place;
use crate::progress::{Counters, Job};
use crate::read_error::{DamageContext, ReadError};
use crate::repository::{
    BlobReader, EntryCursor, FrameDecoder, OpenedPack, Repository, open_contents, pack_key,
    read_pack_contents,
};

use super::{CheckError, Findings};

/// Decompressed metadata kept while the needed frames are collected, in bytes.
const WALK_CACHE_BYTES: usize = 8 << 20;

/// Packs that are read at once from a storage that is far away; each is held in memory.
const READING_THREADS: usize = 4;

/// Which packs to read, and which frames of them.
#[derive(Debug, Default)]
pub(super) struct PackPlan {
    packs: Vec<PlannedPack>,
    unindexed: u64,
}

#[derive(Debug)]
struct PlannedPack {
    id: PackId,
    size_bytes: u64,
    /// Offsets and sealed lengths; `None` for the whole pack.
    frames: Option<BTreeSet<(u32, u32)>>,
}

impl PlannedPack {
    fn is_small(&self) -> bool {
        self.bytes() <= super::SMALL_BYTES
    }

    fn bytes(&self) -> u64 {
        self.frames.as_ref().map_or(self.size_bytes, |frames| {
            frames.iter().map(|frame| u64::from(frame.1)).sum()
        })
    }
}

impl PackPlan {
    /// Every pack on the storage.
    pub(super) fn all(repository: &Repository, listed: &HashMap<PackId, u64>) -> Self {
        let known: BTreeSet<PackId> = repository.index().packs().iter().map(|pack| pack.id).collect();
        let mut packs: Vec<PlannedPack> = listed
            .iter()
            .map(|(&id, &size_bytes)| PlannedPack {
                id,
                size_bytes,
                frames: None,
            })
            .collect();
        // The largest first: the workers then end at about the same time.
        packs.sort_by_key(|pack| (std::cmp::Reverse(pack.size_bytes), pack.id));
        let unindexed = packs.iter().filter(|pack| !known.contains(&pack.id)).count() as u64;
        Self { packs, unindexed }
    }

    /// The frames that hold the contents of some snapshots. Their tree nodes are verified by the walk itself.
    pub(super) fn needed(
        repository: &Repository,
        targets: &[(Snapshot, Option<Vec<u8>>)],
        job: Job<'_>,
    ) -> Result<Self, CheckError> {
        let mut frames: HashMap<PackId, (PackInfo, BTreeSet<(u32, u32)>)> = HashMap::new();
        let mut seen = std::collections::HashSet::new();
        let mut want = |id: &BlobId| -> Result<(), ReadError> {
            if let Some(place) = repository.find(id)? {
                let pack = frames
                    .entry(place.pack.id)
                    .or_insert_with(|| (*place.pack, BTreeSet::new()));
                pack.1.insert((place.frame_offset, place.frame_length));
            }
            Ok(())
        };
        for (snapshot, path) in targets {
            let path = path
                .clone()
                .unwrap_or_else(|| crate::restore::common_root(snapshot));
            let start = match repository.entry_at(snapshot, &super::entries::absolute(snapshot, &path)) {
                Ok(start) => start,
                // The walk over the entries names it.
                Err(error) if error.is_damage() => None,
                Err(error) => return Err(error.into()),
            };
            if let Some(start) = start {
                collect(repository, start, job, &mut seen, &mut want)?;
            }
        }
        let mut packs: Vec<PlannedPack> = frames
            .into_iter()
            .map(|(id, (info, frames))| {
                let bytes: u64 = frames.iter().map(|frame| u64::from(frame.1)).sum();
                let most = bytes * 2 > info.size_bytes;
                PlannedPack {
                    id,
                    size_bytes: info.size_bytes,
                    frames: (!most).then_some(frames),
                }
            })
            .collect();
        packs.sort_by_key(|pack| pack.id);
        Ok(Self { packs, unindexed: 0 })
    }

    /// A random share of the packs, at least one.
    pub(super) fn sample(mut self, percent: u8, repository: &Repository) -> Result<Self, CheckError> {
        let wanted = (self.packs.len() * usize::from(percent)).div_ceil(100).max(1);
        let seed: [u8; 32] = repository
            .environment()
            .random()
            .map_err(|error| ReadError::damaged("the choice of packs", error.to_string()))?;
        self.packs
            .sort_by_key(|pack| *blake3::keyed_hash(&seed, pack.id.as_bytes()).as_bytes());
        self.packs.truncate(wanted);
        Ok(self)
    }

    /// Bytes that will be read.
    pub(super) fn bytes(&self) -> u64 {
        self.packs.iter().map(PlannedPack::bytes).sum()
    }

    /// Packs that no index segment names.
    pub(super) fn unindexed(&self) -> u64 {
        self.unindexed
    }
}

/// Asks for every blob of the contents below an entry; directories met before are skipped.
fn collect(
    repository: &Repository,
    start: Entry,
    job: Job<'_>,
    seen: &mut std::collections::HashSet<BlobId>,
    want: &mut dyn FnMut(&BlobId) -> Result<(), ReadError>,
) -> Result<(), CheckError> {
    let mut reader = BlobReader::new(repository, WALK_CACHE_BYTES);
    let mut stack: Vec<EntryCursor> = Vec::new();
    let mut next = Some(start);
    loop {
        if job.cancel.is_cancelled() {
            return Err(CheckError::Cancelled);
        }
        if let Some(entry) = next.take() {
            let walked = match (entry.kind, entry.node) {
                (EntryKind::Directory, Some(node)) => {
                    if seen.insert(node) {
                        stack.push(EntryCursor::new(node));
                    }
                    Ok(())
                }
                // Content nodes too are looked into once: lists that repeat themselves cannot go on for ever.
                _ => reader.for_each_item_below(&entry.content, &mut |id| seen.insert(*id), &mut |item| {
                    item.blob.map_or(Ok(()), |id| want(&id))
                }),
            };
            match walked {
                Err(error) if !error.is_damage() => return Err(error.into()),
                _ => {}
            }
        }
        let Some(cursor) = stack.last_mut() else {
            return Ok(());
        };
        match cursor.next(&mut reader) {
            Ok(Some(entry)) => next = Some(entry),
            Ok(None) => {
                stack.pop();
            }
            Err(error) if error.is_damage() => {
                stack.pop();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The verification of the planned packs, shared by the threads that carry it out and the one that waits for its verdicts.
pub(super) struct Verification<'a> {
    repository: &'a Repository,
    plan: &'a PackPlan,
    findings: &'a Findings,
    job: Job<'a>,
    workers: usize,
    /// Threads beside them that take small packs only, so that little memory is needed: each waits for a storage that is far away.
    helpers: usize,
    positions: HashMap<PackId, usize>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug)]
struct Progress {
    /// Every planned pack before it was taken.
    next: usize,
    /// Every small one before it was taken.
    next_small: usize,
    taken: Vec<bool>,
    settled: Vec<bool>,
    /// Taken before any other: somebody waits for it.
    urgent: Option<usize>,
    /// Threads that will still take packs.
    working: usize,
    stopped: bool,
    bytes: u64,
    failure: Option<ReadError>,
}

impl std::fmt::Debug for Verification<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verification")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// A thread at work. Whoever waits learns of its end, whatever ends it.
struct Working<'v, 'a>(&'v Verification<'a>);

impl Drop for Working<'_, '_> {
    fn drop(&mut self) {
        self.0.progress().working -= 1;
        self.0.changed.notify_all();
    }
}

impl<'a> Verification<'a> {
    /// Packs to verify with `workers` threads that compute.
    pub(super) fn new(
        repository: &'a Repository,
        plan: &'a PackPlan,
        workers: usize,
        findings: &'a Findings,
        job: Job<'a>,
    ) -> Self {
        // While one waits for a storage that is far away, another computes.
        let workers = if repository.reads_ahead() {
            workers.max(READING_THREADS)
        } else {
            workers
        };
        let count = plan.packs.len();
        let workers = workers.min(count);
        let small = plan.packs.iter().filter(|pack| pack.is_small()).count();
        let helpers = repository
            .threads_for_small_reads()
            .saturating_sub(workers)
            .min(small);
        let positions = plan.packs.iter().enumerate();
        Self {
            repository,
            plan,
            findings,
            job,
            workers,
            helpers,
            positions: positions.map(|(position, pack)| (pack.id, position)).collect(),
            progress: Mutex::new(Progress {
                next: 0,
                next_small: 0,
                taken: vec![false; count],
                settled: vec![false; count],
                urgent: None,
                working: workers + helpers,
                stopped: false,
                bytes: 0,
                failure: None,
            }),
            changed: Condvar::new(),
        }
    }

    /// Verifies the packs and does `meanwhile` on this thread. Gives what that gave and how many bytes of packs were read;
    /// an error of `meanwhile` ends the verification.
    pub(super) fn run<T>(
        self,
        meanwhile: impl FnOnce(&Self) -> Result<T, CheckError>,
    ) -> Result<(T, u64), CheckError> {
        let outcome = std::thread::scope(|scope| {
            for number in 0..self.workers + self.helpers {
                let verification = &self;
                scope.spawn(move || {
                    let _working = Working(verification);
                    verification.work(number >= verification.workers);
                });
            }
            let outcome = meanwhile(&self);
            if outcome.is_err() {
                self.progress().stopped = true;
            }
            outcome
        });
        if self.job.cancel.is_cancelled() {
            return Err(CheckError::Cancelled);
        }
        let progress = self.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        match progress.failure {
            Some(error) => Err(error.into()),
            None => Ok((outcome?, progress.bytes)),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something happened after which no verdict is worth anything.
    pub(super) fn has_failed(&self) -> bool {
        self.progress().failure.is_some()
    }

    /// Whether blobs of a pack must be read one by one. Waits until the pack was verified, if it is to be.
    pub(super) fn is_suspect(&self, pack: PackId) -> bool {
        if let Some(&position) = self.positions.get(&pack) {
            let mut progress = self.progress();
            while progress.working > 0 && progress.settled.get(position) == Some(&false) {
                progress.urgent = Some(position);
                progress = self
                    .changed
                    .wait(progress)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.findings.is_suspect(pack)
    }

    fn take(&self, only_small: bool) -> Option<(usize, &PlannedPack)> {
        let mut progress = self.progress();
        if progress.failure.is_some() || progress.stopped || self.job.cancel.is_cancelled() {
            return None;
        }
        let fits = |position: &usize| {
            let pack = self.plan.packs.get(*position);
            progress.taken.get(*position) == Some(&false)
                && pack.is_some_and(|pack| !only_small || pack.is_small())
        };
        let urgent = progress.urgent.filter(fits);
        let from = if only_small {
            progress.next_small
        } else {
            progress.next
        };
        let position = urgent.or_else(|| (from..self.plan.packs.len()).find(fits));
        if urgent.is_some() || !only_small {
            progress.urgent = None;
        }
        let position = position?;
        if urgent.is_none() {
            let next = if only_small {
                &mut progress.next_small
            } else {
                &mut progress.next
            };
            *next = position + 1;
        }
        *progress.taken.get_mut(position)? = true;
        Some((position, self.plan.packs.get(position)?))
    }

    fn work(&self, only_small: bool) {
        let mut decoder = FrameDecoder::new(self.repository);
        let mut buffers = Buffers::default();
        while let Some((position, pack)) = self.take(only_small) {
            let verified = verify_pack(self.repository, pack, &mut decoder, &mut buffers, self.findings);
            let mut progress = self.progress();
            match verified {
                Ok(()) => {
                    progress.bytes += pack.bytes();
                    Counters::add(&self.job.counters.bytes, pack.bytes());
                }
                Err(error) if error.is_damage() => {
                    self.findings.suspect(pack.id);
                    self.findings.add_error(&pack_key(pack.id), error);
                }
                Err(error) => {
                    progress.failure.get_or_insert(error);
                }
            }
            if let Some(settled) = progress.settled.get_mut(position) {
                *settled = true;
            }
            self.changed.notify_all();
        }
    }
}

/// Kept from frame to frame: fresh memory for each costs more than to hash it.
#[derive(Debug, Default)]
struct Buffers {
    object: Vec<u8>,
    sealed: Vec<u8>,
    plain: Vec<u8>,
}

fn verify_pack(
    repository: &Repository,
    pack: &PlannedPack,
    decoder: &mut FrameDecoder<'_>,
    buffers: &mut Buffers,
    findings: &Findings,
) -> Result<(), ReadError> {
    match &pack.frames {
        None => verify_whole(repository, pack, decoder, buffers, findings),
        Some(frames) => verify_frames(repository, pack, frames, decoder, buffers, findings),
    }
}

fn verify_whole(
    repository: &Repository,
    pack: &PlannedPack,
    decoder: &mut FrameDecoder<'_>,
    buffers: &mut Buffers,
    findings: &Findings,
) -> Result<(), ReadError> {
    let key = pack_key(pack.id);
    // A pack is closed at its size, but for one frame and the table of contents.
    let largest = u64::from(repository.config().pack_bytes)
        .saturating_mul(2)
        .max(64 << 20);
    if pack.size_bytes > largest {
        return Err(ReadError::damaged(
            &key,
            "it is larger than any pack of this repository",
        ));
    }
    let object = repository
        .storage()
        .get_with(
            &key,
            0,
            pack.size_bytes.saturating_add(1),
            std::mem::take(&mut buffers.object),
        )
        .map_err(|error| ReadError::required(&key, error))?;
    let verified = verify_object(repository, pack, &object, decoder, buffers, findings);
    buffers.object = object;
    verified
}

fn verify_object(
    repository: &Repository,
    pack: &PlannedPack,
    object: &[u8],
    decoder: &mut FrameDecoder<'_>,
    buffers: &mut Buffers,
    findings: &Findings,
) -> Result<(), ReadError> {
    let key = pack_key(pack.id);
    let genuine = *blake3::hash(object).as_bytes() == pack.id.0;
    if !genuine {
        findings.suspect(pack.id);
        findings.add(&key, "its bytes are not those that its name promises");
    }
    let size_bytes = object.len() as u64;
    let cut = || ReadError::damaged(&key, "it is too short to be a pack");
    let trailer = object.split_last_chunk::<TRAILER_BYTES>().ok_or_else(cut)?.1;
    let trailer = Trailer::decode(trailer, size_bytes).damage(&key)?;
    let header = object.get(..HEADER_BYTES).ok_or_else(cut)?;
    let start = usize::try_from(trailer.contents_offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(trailer.contents_length as usize);
    let contents = object.get(start..end).ok_or_else(cut)?.to_vec();
    let mode = repository.config().mode();
    let opened = open_contents(
        repository.keys(),
        mode,
        pack.id,
        size_bytes,
        header,
        trailer,
        contents,
    )?;
    for frame in &opened.frames {
        let start = frame.offset as usize;
        let sealed = object.get(start..start + frame.length as usize).ok_or_else(cut)?;
        buffers.sealed.clear();
        buffers.sealed.extend_from_slice(sealed);
        if let Err(error) = verify_frame(repository, &opened, frame, decoder, buffers) {
            findings.suspect(pack.id);
            findings.add_error(&key, error);
        }
    }
    Ok(())
}

fn verify_frames(
    repository: &Repository,
    pack: &PlannedPack,
    frames: &BTreeSet<(u32, u32)>,
    decoder: &mut FrameDecoder<'_>,
    buffers: &mut Buffers,
    findings: &Findings,
) -> Result<(), ReadError> {
    let key = pack_key(pack.id);
    let storage = repository.storage().as_ref();
    let mode = repository.config().mode();
    let opened = read_pack_contents(storage, repository.keys(), mode, pack.id, pack.size_bytes)?;
    for &(offset, length) in frames {
        let frame = opened
            .frames
            .iter()
            .find(|frame| frame.offset == offset && frame.length == length);
        let Some(frame) = frame else {
            findings.suspect(pack.id);
            findings.add(
                &key,
                format!("the index names a frame at offset {offset} that is not in it"),
            );
            continue;
        };
        buffers.sealed = storage
            .get(&key, offset.into(), length.into())
            .map_err(|error| ReadError::required(&key, error))?;
        if let Err(error) = verify_frame(repository, &opened, frame, decoder, buffers) {
            findings.suspect(pack.id);
            findings.add_error(&key, error);
        }
    }
    Ok(())
}

/// Opens a frame and verifies the id of every blob in it, and that the index, where it names this pack, names this place.
fn verify_frame(
    repository: &Repository,
    pack: &OpenedPack,
    frame: &ContentsFrame,
    decoder: &mut FrameDecoder<'_>,
    buffers: &mut Buffers,
) -> Result<(), ReadError> {
    let Buffers { sealed, plain, .. } = buffers;
    decoder.decode(&pack.info, frame.offset, sealed, plain)?;
    let mut start = 0_usize;
    for blob in &frame.blobs {
        let end = start + blob.length as usize;
        let bytes = plain.get(start..end).ok_or_else(|| {
            ReadError::damaged(
                pack_key(pack.info.id),
                "its table of contents does not fit its frames",
            )
        })?;
        if repository.keys().blob_id(bytes) != blob.id {
            return Err(ReadError::damaged(
                format!("blob {}", blob.id),
                "its bytes are not those that its id promises",
            ));
        }
        if !index_agrees(repository, pack, frame, blob, start)? {
            return Err(ReadError::damaged(
                format!("blob {}", blob.id),
                "the index names another place for it",
            ));
        }
        start = end;
    }
    if start == plain.len() {
        Ok(())
    } else {
        Err(ReadError::damaged(
            pack_key(pack.info.id),
            "its table of contents does not fit its frames",
        ))
    }
}

/// Whether the index, if it looks for a blob in this pack, looks where it is. A blob may be in a pack more than once.
fn index_agrees(
    repository: &Repository,
    pack: &OpenedPack,
    frame: &ContentsFrame,
    blob: &ContentsBlob,
    start: usize,
) -> Result<bool, ReadError> {
    let index = repository.index();
    let is_here = |place: &Place| {
        (place.frame_offset, place.frame_length) == (frame.offset, frame.length)
            && place.blob_offset as usize == start
            && place.blob_length == blob.length
    };
    match index.find(&blob.id)? {
        Some(place) if place.pack.id == pack.info.id && !is_here(&place) => {
            let places = index.places(&blob.id)?;
            let here = places
                .iter()
                .filter(|place| place.pack.id == pack.info.id)
                .any(is_here);
            Ok(here)
        }
        _ => Ok(true),
    }
}
