//! Backup: wires the stages of the pipeline to threads and commits the snapshot.
//!
//! ```text
//! scanner ──batches──► workers (chunk, dedup, frame, seal, pack) ──packs──► storers ──► storage, index
//!    └─────in order──► builder (tree nodes) ────────────────────────packs──►┘             └► snapshot
//! ```
//! Every queue is bounded: the slowest stage sets the pace and memory does not grow.

mod builder;
mod worker;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::environment::{EntropyError, Timestamp};
use crate::format::object::ObjectKind;
use crate::format::snapshot::{Snapshot, Summary};
use crate::format::tree::{Entry, EntryKind};
use crate::id::{PackId, SessionId, SnapshotId};
use crate::pipeline::chunk::Chunker;
use crate::pipeline::metadata::{Owners, stat_at};
use crate::pipeline::pack::{Pack, Packer};
use crate::pipeline::read::ReadContext;
use crate::pipeline::scan::{Batch, ScanOptions, Scanner, WalkItem};
use crate::pipeline::store::Store;
use crate::progress::{Job, Phase};
use crate::read_error::ReadError;
use crate::repository::{BlobReader, Repository, both, pack_id_of, split_path};
use crate::storage::{StorageError, StorageErrorKind};

pub use crate::pipeline::scan::{Filter, FilterItem};
use builder::Builder;
use worker::{BlobWriter, ChunkJob, Step, Worker};

/// What to back up.
pub enum Source {
    /// A file or directory.
    Path(PathBuf),
    /// A stream, saved as a file at `name` (a path below `/`).
    Stream {
        /// Where it stands in the snapshot.
        name: Vec<u8>,
        /// Its bytes.
        reader: Box<dyn std::io::Read + Send>,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "Path({})", path.display()),
            Self::Stream { name, .. } => write!(f, "Stream({})", String::from_utf8_lossy(name)),
        }
    }
}

/// How to back up.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct BackupOptions {
    /// What to save.
    pub sources: Vec<Source>,
    /// What the series is called.
    pub name: String,
    /// Tags.
    pub tags: Vec<String>,
    /// The machine.
    pub hostname: String,
    /// The user.
    pub username: String,
    /// Leaves entries out.
    pub filter: Option<Arc<Filter>>,
    /// Do not go into other file systems.
    pub one_file_system: bool,
    /// Leave out the contents of directories with a `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Save extended attributes.
    pub xattrs: bool,
    /// Look, but store nothing.
    pub dry_run: bool,
    /// Read every file, even unchanged ones.
    pub full: bool,
    /// The time of the snapshot, instead of now.
    pub timestamp: Option<Timestamp>,
    /// The repository's own folder, never backed up.
    pub repository_path: Option<PathBuf>,
    /// Threads that read, cut, compress and seal; 0 for one a processor.
    pub workers: usize,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            name: String::new(),
            tags: Vec::new(),
            hostname: String::new(),
            username: String::new(),
            filter: None,
            one_file_system: false,
            exclude_caches: false,
            xattrs: true,
            dry_run: false,
            full: false,
            timestamp: None,
            repository_path: None,
            workers: 0,
        }
    }
}

impl std::fmt::Debug for BackupOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupOptions")
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}

/// What a backup did. The problems themselves went to the observer and into the snapshot.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// The new snapshot; `None` after a dry run.
    pub snapshot: Option<Snapshot>,
    /// Entries that could not be saved, or changed while they were read.
    pub problem_count: u64,
    /// Regular files that were read.
    pub files_new: u64,
    /// Regular files taken over from the parent snapshot.
    pub files_unchanged: u64,
    /// Bytes written to the repository.
    pub bytes_stored: u64,
    /// How long it took.
    pub duration_nanoseconds: u64,
    /// What the snapshot holds.
    pub summary: Summary,
}

/// A backup failed; no snapshot was made, earlier ones are as they were.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A source is not there.
    #[error("cannot back up {path}")]
    Source {
        /// The source.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to back up.
    #[error("nothing to back up")]
    NoSource,
    /// A stream together with other sources.
    #[error("a stream is backed up alone: not with paths or other streams")]
    Mixed,
    /// It was stopped.
    #[error("stopped before the end; what was stored is found again by the next backup")]
    Cancelled,
    /// The repository could not be read.
    #[error(transparent)]
    Read(ReadError),
    /// The repository could not be written.
    #[error(transparent)]
    Storage(StorageError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The compressor could not be set up.
    #[error("cannot set up compression")]
    Compression(#[source] std::io::Error),
}

impl From<ReadError> for BackupError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Storage(error) if error.kind == StorageErrorKind::Cancelled => Self::Cancelled,
            ReadError::Storage(error) => Self::Storage(error),
            damage @ ReadError::Damaged { .. } => Self::Read(damage),
        }
    }
}

/// The first failure, and whether to stop.
#[derive(Debug, Default)]
pub(super) struct Failure {
    first: Mutex<Option<BackupError>>,
    happened: AtomicBool,
}

impl Failure {
    fn set(&self, error: BackupError) {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.happened.store(true, Ordering::Relaxed);
    }

    fn happened(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }

    fn into_result(self) -> Result<(), BackupError> {
        self.first
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }
}

/// Batches between scanner and workers.
const QUEUED_BATCHES: usize = 4;
/// Finished packs waiting for a storer: none, because each would be held in memory; whoever finishes one hands it over.
const QUEUED_PACKS: usize = 0;
/// Packs stored at once; each is held in memory.
const MOST_STORING_THREADS: u32 = 4;
/// Decompressed metadata of the parent snapshot that the scanner keeps, in bytes.
const PARENT_CACHE_BYTES: usize = 8 << 20;

/// Backs up into a new snapshot.
pub fn backup(
    repository: &Repository,
    options: BackupOptions,
    job: Job<'_>,
) -> Result<BackupReport, BackupError> {
    let _one_at_a_time = repository.begin_session();
    let environment = repository.environment();
    let started = environment.clock.monotonic_nanoseconds();
    let time = environment.clock.now();
    let session = SessionId(environment.random()?);
    let id = SnapshotId(if options.dry_run {
        [0; 32]
    } else {
        environment.random()?
    });
    job.observer.phase(Phase::Opening);
    job.observer.snapshot(id);
    let (roots, streams) = resolve(options.sources)?;
    let root_names = root_names(&roots, &streams);
    let like = (!options.full).then_some(Like {
        roots: &root_names,
        hostname: &options.hostname,
        xattrs: options.xattrs,
    });
    let parent = look_at_what_is_there(repository, options.dry_run, like)?;
    expect_as_much_as(parent.as_ref(), job);
    let owners = Owners::default();
    let chunker = Chunker::new(repository.config().chunker, repository.keys());
    let context = ReadContext {
        repository,
        chunker: &chunker,
        owners: &owners,
        counters: job.counters,
        cancel: job.cancel,
        xattrs: options.xattrs,
        dry_run: options.dry_run,
        parent_time: parent.as_ref().map(|parent| parent.started),
        links: Mutex::new(HashMap::new()),
    };
    let scan = ScanOptions {
        roots: &roots,
        filter: options.filter.as_deref(),
        one_file_system: options.one_file_system,
        exclude_caches: options.exclude_caches,
        xattrs: options.xattrs,
        repository: options.repository_path.as_deref().and_then(device_and_inode),
        owners: &owners,
    };
    let store = Store::new(repository, session, job.counters);
    job.observer.phase(Phase::Walking);
    let workers = if options.workers == 0 {
        crate::parallelism()
    } else {
        options.workers
    };
    let built = run(&context, &scan, streams, parent.as_ref(), &store, workers, job)?;
    let mut report = BackupReport {
        snapshot: None,
        problem_count: built.summary.problems,
        files_new: built.files_new,
        files_unchanged: built.files_unchanged,
        bytes_stored: 0,
        duration_nanoseconds: 0,
        summary: built.summary,
    };
    if let Some(tree) = built.tree {
        job.observer.phase(Phase::Committing);
        store.publish(true)?;
        if job.cancel.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let snapshot = Snapshot {
            id,
            time: options.timestamp.unwrap_or(time),
            started: time,
            duration_nanoseconds: environment.clock.monotonic_nanoseconds().saturating_sub(started),
            name: options.name,
            tags: options.tags,
            hostname: options.hostname,
            username: options.username,
            roots: root_names,
            parent: parent.map(|parent| parent.id),
            tree,
            summary: built.summary,
            problem_blobs: built.problem_blobs,
            program: concat!("plakar/v", env!("CARGO_PKG_VERSION")).to_owned(),
            with_xattrs: options.xattrs,
        };
        store.count(
            repository
                .commit(&snapshot, session)
                .map_err(BackupError::Storage)?,
        );
        report.snapshot = Some(snapshot);
    }
    report.bytes_stored = store.stored_bytes();
    report.duration_nanoseconds = environment.clock.monotonic_nanoseconds().saturating_sub(started);
    Ok(report)
}

type Streams = Vec<(Vec<u8>, Box<dyn std::io::Read + Send>)>;

/// Makes paths absolute and free of symlinks, and drops those that lie below others.
fn resolve(sources: Vec<Source>) -> Result<(Vec<PathBuf>, Streams), BackupError> {
    let mut paths = Vec::new();
    let mut streams = Vec::new();
    for source in sources {
        match source {
            Source::Path(path) => match path.canonicalize() {
                Ok(absolute) => paths.push(absolute),
                Err(source) => {
                    return Err(BackupError::Source {
                        path: path.display().to_string(),
                        source,
                    });
                }
            },
            Source::Stream { name, reader } => streams.push((name, reader)),
        }
    }
    if paths.is_empty() && streams.is_empty() {
        return Err(BackupError::NoSource);
    }
    if streams.len() > 1 || (!streams.is_empty() && !paths.is_empty()) {
        return Err(BackupError::Mixed);
    }
    paths.sort();
    let mut roots: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !roots.iter().any(|root| path.starts_with(root)) {
            roots.push(path);
        }
    }
    Ok((roots, streams))
}

fn root_names(roots: &[PathBuf], streams: &Streams) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let paths = roots.iter().map(|root| root.as_os_str().as_bytes().to_vec());
    let names = streams.iter().map(|(name, _)| {
        split_path(name).fold(Vec::new(), |mut path, name| {
            path.push(b'/');
            path.extend_from_slice(name);
            path
        })
    });
    paths.chain(names).collect()
}

fn device_and_inode(path: &std::path::Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let path = path.canonicalize().ok()?;
    let stat = stat_at(rustix::fs::CWD, path.as_os_str().as_bytes()).ok()?;
    Some((stat.device, stat.inode))
}

/// Takes over what interrupted backups left, unless nothing is to be stored, and finds the newest snapshot that is `like` the new one.
fn look_at_what_is_there(
    repository: &Repository,
    dry_run: bool,
    like: Option<Like<'_>>,
) -> Result<Option<Snapshot>, BackupError> {
    let (looked, parent) = both(
        repository.reads_ahead(),
        || {
            if dry_run {
                Ok(())
            } else {
                look_at_packs(repository)
            }
        },
        || like.map_or(Ok(None), |like| find_parent(repository, &like)),
    );
    looked.and(parent)
}

/// Compares the packs that are there with those in the index: what an interrupted backup stored is taken over, what has vanished counts as absent.
fn look_at_packs(repository: &Repository) -> Result<(), BackupError> {
    let listed: HashMap<PackId, u64> = repository
        .list_packs()?
        .into_iter()
        .filter_map(|object| Some((pack_id_of(&object.key)?, object.size_bytes)))
        .collect();
    let known = repository.index().packs();
    let gone = known
        .iter()
        .filter(|pack| listed.get(&pack.id) != Some(&pack.size_bytes))
        .map(|pack| pack.id);
    let (cut, missing): (Vec<PackId>, Vec<PackId>) = gone.partition(|id| listed.contains_key(id));
    if !(cut.is_empty() && missing.is_empty()) {
        tracing::warn!(
            "{} packs are missing or cut: what they held is stored again where it is met; run check",
            cut.len() + missing.len()
        );
    }
    repository.index().distrust(cut);
    repository.index().miss(missing);
    let published = repository.index().published_packs();
    if listed.keys().any(|id| !published.contains(id)) {
        let packs = repository.packs_besides(&published)?;
        repository.index().adopt_into_session(packs);
    }
    Ok(())
}

/// Sets what a display may expect: about what was there last time.
fn expect_as_much_as(parent: Option<&Snapshot>, job: Job<'_>) {
    if let Some(Summary {
        files,
        directories,
        others,
        logical_bytes,
        ..
    }) = parent.map(|parent| parent.summary)
    {
        job.counters
            .entries_expected
            .store(files + directories + others, Ordering::Relaxed);
        job.counters
            .bytes_expected
            .store(logical_bytes, Ordering::Relaxed);
    }
}

/// The newest snapshot of the same roots on the same machine.
/// What a snapshot must have in common with a new one to be its parent.
struct Like<'a> {
    roots: &'a [Vec<u8>],
    hostname: &'a str,
    xattrs: bool,
}

impl Like<'_> {
    fn fits(&self, snapshot: &Snapshot) -> bool {
        snapshot.roots == self.roots
            && snapshot.hostname == self.hostname
            && snapshot.with_xattrs == self.xattrs
    }
}

fn find_parent(repository: &Repository, like: &Like<'_>) -> Result<Option<Snapshot>, BackupError> {
    let (snapshots, unreadable) = repository.snapshots()?;
    for (id, error) in unreadable {
        tracing::warn!("snapshot {} cannot be used as parent: {error}", id.short());
    }
    Ok(snapshots.into_iter().rev().find(|snapshot| like.fits(snapshot)))
}

/// What the threads made.
struct Built {
    tree: Option<crate::id::BlobId>,
    summary: Summary,
    files_new: u64,
    files_unchanged: u64,
    problem_blobs: Vec<crate::id::BlobId>,
}

fn run(
    context: &ReadContext<'_>,
    scan: &ScanOptions<'_>,
    streams: Streams,
    parent: Option<&Snapshot>,
    store: &Store<'_>,
    worker_count: usize,
    job: Job<'_>,
) -> Result<Built, BackupError> {
    let repository = context.repository;
    let config = repository.config();
    let packer = |kind| {
        Packer::new(
            repository.keys(),
            repository.environment(),
            kind,
            config.mode(),
            config.pack_bytes,
        )
    };
    let (data, trees) = (packer(ObjectKind::DataPack), packer(ObjectKind::TreePack));
    let failure = Failure::default();
    let busy = AtomicUsize::new(0);
    let (batch_in, batch_out) = bounded::<(Batch, Sender<Vec<Step>>)>(QUEUED_BATCHES);
    let (order_in, order_out) = bounded::<Receiver<Vec<Step>>>(QUEUED_BATCHES + 2 * worker_count);
    let (chunk_in, chunk_out) = bounded::<ChunkJob>(worker_count);
    let (pack_in, pack_out) = bounded::<Pack>(QUEUED_PACKS);
    let built = std::thread::scope(|scope| {
        for _ in 0..storing_threads(repository) {
            let (pack_out, failure) = (pack_out.clone(), &failure);
            scope.spawn(move || store_packs(store, &pack_out, failure));
        }
        drop(pack_out);
        let mut running = Vec::new();
        for _ in 0..worker_count {
            let writer =
                BlobWriter::new(repository, &data, pack_in.clone()).map_err(BackupError::Compression);
            let (failure, busy) = (&failure, &busy);
            let (batches, chunk_in, chunk_out) = (batch_out.clone(), chunk_in.clone(), chunk_out.clone());
            running.push(scope.spawn(move || match writer {
                Ok(writer) => Worker::new(context, writer, chunk_in, chunk_out, busy, failure).run(&batches),
                Err(error) => failure.set(error),
            }));
        }
        drop((batch_out, chunk_in, chunk_out));
        let failure = &failure;
        scope.spawn(move || scan_all(context, scan, streams, parent, (&batch_in, &order_in), failure));
        let writer = BlobWriter::new(repository, &trees, pack_in.clone()).map_err(BackupError::Compression);
        let built = writer.and_then(|writer| Builder::new(context, writer, job).run(&order_out, failure));
        if let Err(error) = built.as_ref() {
            tracing::debug!("the builder stopped: {error}");
        }
        // Without its receiver the scanner stops, then the workers.
        drop(order_out);
        for worker in running {
            if worker.join().is_err() {
                failure.set(BackupError::Read(ReadError::damaged(
                    "the backup",
                    "a worker panicked",
                )));
            }
        }
        for pack in [data.finish(), trees.finish()].into_iter().flatten() {
            if pack_in.send(pack).is_err() {
                failure.set(BackupError::Cancelled);
            }
        }
        drop(pack_in);
        built
    });
    failure.into_result()?;
    if job.cancel.is_cancelled() {
        return Err(BackupError::Cancelled);
    }
    built
}

/// How many packs are stored at once: half of what the storage likes, because the index and the next run want some too.
fn storing_threads(repository: &Repository) -> u32 {
    let concurrency = repository.storage().capabilities().concurrency;
    (concurrency / 2).clamp(1, MOST_STORING_THREADS)
}

/// Stores packs until no more come. After a failure it goes on taking them, so that nobody waits for ever.
fn store_packs(store: &Store<'_>, packs: &Receiver<Pack>, failure: &Failure) {
    for pack in packs {
        if failure.happened() {
            continue;
        }
        if let Err(error) = store.put(pack) {
            failure.set(error.into());
        }
    }
}

type BatchEnds<'a> = (
    &'a Sender<(Batch, Sender<Vec<Step>>)>,
    &'a Sender<Receiver<Vec<Step>>>,
);

fn scan_all(
    context: &ReadContext<'_>,
    scan: &ScanOptions<'_>,
    streams: Streams,
    parent: Option<&Snapshot>,
    (batches, order): BatchEnds<'_>,
    failure: &Failure,
) {
    let mut emit = |batch: Batch| {
        let (result_in, result_out) = bounded(1);
        let stop = failure.happened() || context.cancel.is_cancelled();
        if stop || order.send(result_out).is_err() || batches.send((batch, result_in)).is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    if !scan.roots.is_empty() {
        let reader = BlobReader::new(context.repository, PARENT_CACHE_BYTES).distrusting();
        if let Err(error) = Scanner::new(scan, reader, &mut emit).run(parent.map(|parent| parent.tree)) {
            failure.set(error.into());
        }
    }
    for (name, reader) in streams {
        if emit(stream_items(context, &name, reader)).is_break() {
            return;
        }
    }
}

/// The steps that save a stream below directories made up for it.
fn stream_items(context: &ReadContext<'_>, name: &[u8], reader: Box<dyn std::io::Read + Send>) -> Batch {
    let now = context.repository.environment().clock.now();
    let made_up = |name: &[u8], kind, mode| {
        let mut entry = Entry::new(name.to_vec(), kind);
        (entry.mode, entry.modified, entry.changed) = (mode, now, now);
        entry.uid = rustix::process::geteuid().as_raw();
        entry.gid = rustix::process::getegid().as_raw();
        entry.user = context.owners.user(entry.uid);
        entry.group = context.owners.group(entry.gid);
        Box::new(entry)
    };
    let mut names: Vec<&[u8]> = split_path(name).collect();
    let Some(last) = names.pop() else {
        return Batch::new();
    };
    let mut batch = Batch::new();
    let mut path = Vec::new();
    for name in &names {
        path.push(b'/');
        path.extend_from_slice(name);
        batch.push(WalkItem::Enter(
            made_up(name, EntryKind::Directory, 0o755),
            path.clone(),
        ));
    }
    path.push(b'/');
    path.extend_from_slice(last);
    batch.push(WalkItem::Stream(
        made_up(last, EntryKind::File, 0o600),
        path,
        reader,
    ));
    batch.extend(names.iter().map(|_| WalkItem::Leave));
    batch
}
