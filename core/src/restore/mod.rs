//! Restore: walks the tree of a snapshot, makes directories, and hands files in walking order to workers, so that neighbours are read from one frame.
//!
//! Every path is reached name by name through directory descriptors and no symlink is followed: nothing is written outside the target.

mod attributes;
mod file;
mod large;
mod links;
mod target;
mod walk;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Sender, bounded, unbounded};

use crate::format::snapshot::Snapshot;
use crate::format::tree::{Entry, EntryKind};
use crate::progress::{Item, Job, Phase, Problem};
use crate::read_error::ReadError;
use crate::repository::{Fetch, Repository, serve, split_path};

use attributes::Attributes;
use links::{Inode, Links};
use target::Target;
use walk::Walk;
use worker::Work;

/// What to do with what exists already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Replace what differs.
    Always,
    /// Replace what is older than in the snapshot.
    IfNewer,
    /// Leave it.
    Never,
    /// Write nothing at all if anything is in the way.
    Error,
}

/// What a selection says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// Restore it.
    Take,
    /// Leave it and what is below.
    Skip,
    /// Look below; make the directory only when something in it is taken.
    Descend,
}

/// Chooses entries by their path below the restored root and whether they are directories.
pub type Select = dyn Fn(&[u8], bool) -> Selection + Send + Sync;

/// How to restore.
pub struct RestoreOptions {
    /// What of the snapshot, absolute or below its root; `None` for the contents of what was backed up.
    pub path: Option<Vec<u8>>,
    /// Where to; made if absent.
    pub target: PathBuf,
    /// What to do with what exists.
    pub overwrite: Overwrite,
    /// Write nothing.
    pub dry_run: bool,
    /// Restore owners, modes and extended attributes.
    pub permissions: bool,
    /// Chooses entries.
    pub select: Option<Arc<Select>>,
    /// Threads that read and write; 0 for one a processor.
    pub workers: usize,
}

impl std::fmt::Debug for RestoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestoreOptions")
            .field("path", &self.path)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// What a restore did.
#[derive(Debug, Clone, Default)]
pub struct RestoreReport {
    /// The restored directory (or file) of the snapshot.
    pub root: Vec<u8>,
    /// Regular files written or found in place.
    pub files: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Entries that could not be restored, or not whole. They went to the observer.
    pub problem_count: u64,
    /// How many of them were damaged in the repository.
    pub damage_count: u64,
}

/// A restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The path is not in the snapshot.
    #[error("there is no {path} in the snapshot")]
    NoSuchPath {
        /// The path.
        path: String,
    },
    /// Something is in the way and may not be replaced. Nothing was written.
    #[error("{path} exists")]
    TargetExists {
        /// What is in the way.
        path: String,
    },
    /// The target cannot be written.
    #[error("cannot write {path}")]
    Target {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The repository cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was stopped.
    #[error("stopped before the end")]
    Cancelled,
}

/// Requests for data at once, when the storage is far away.
const MOST_FETCHING_THREADS: u32 = 8;
/// Batches between walker and workers.
const QUEUED_BATCHES: usize = 2;

/// What walker and workers share.
pub(super) struct Shared<'a> {
    repository: &'a Repository,
    target: &'a Target,
    attributes: &'a Attributes,
    overwrite: Overwrite,
    job: Job<'a>,
    say: Mutex<()>,
    stop: AtomicBool,
    fatal: Mutex<Option<RestoreError>>,
    files: AtomicU64,
    bytes: AtomicU64,
    problems: AtomicU64,
    damage: AtomicU64,
    failed_links: Mutex<Vec<Inode>>,
    /// Workers that wait for work: they may help with a large file.
    idle: AtomicUsize,
    /// Where reads ahead are asked for, when the storage is far away.
    fetches: Option<Sender<Fetch>>,
}

impl Shared<'_> {
    fn item(&self, item: Item<'_>) {
        let guard = self.say.lock().unwrap_or_else(PoisonError::into_inner);
        self.job.item(item);
        drop(guard);
    }

    fn problem(&self, path: &[u8], message: String) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        let guard = self.say.lock().unwrap_or_else(PoisonError::into_inner);
        self.job.problem(&Problem {
            path: path.to_vec(),
            message,
        });
        drop(guard);
    }

    /// A problem with what was read: damage is counted apart, and a storage that cannot be reached ends the restore.
    fn read_problem(&self, path: &[u8], error: ReadError) {
        if error.is_damage() {
            self.damage.fetch_add(1, Ordering::Relaxed);
            self.problem(path, error.to_string());
        } else {
            self.fail(RestoreError::Read(error));
        }
    }

    fn fail(&self, error: RestoreError) {
        self.fatal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.job.cancel.is_cancelled()
    }
}

/// Restores a snapshot, or a part of it.
#[expect(clippy::needless_pass_by_value, reason = "options are used once")]
pub fn restore(
    repository: &Repository,
    snapshot: &Snapshot,
    options: RestoreOptions,
    job: Job<'_>,
) -> Result<RestoreReport, RestoreError> {
    job.observer.snapshot(snapshot.id);
    job.observer.phase(Phase::Walking);
    let start = find_start(repository, snapshot, options.path.as_deref())?;
    job.counters.bytes_expected.store(
        if options.path.is_none() {
            snapshot.summary.logical_bytes
        } else {
            0
        },
        Ordering::Relaxed,
    );
    // A dry run too: it says what would be done.
    if options.overwrite == Overwrite::Error {
        walk::refuse_conflicts(repository, &start, &options)?;
    }
    let target = if options.dry_run {
        Target::look(&options.target)?;
        Target::nowhere()
    } else {
        Target::open(&options.target)?
    };
    let attributes = Attributes::new(options.permissions, snapshot);
    let (fetch_in, fetch_out) = unbounded::<Fetch>();
    let mut shared = Shared {
        repository,
        target: &target,
        attributes: &attributes,
        overwrite: options.overwrite,
        job,
        say: Mutex::new(()),
        stop: AtomicBool::new(false),
        fatal: Mutex::new(None),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        problems: AtomicU64::new(0),
        damage: AtomicU64::new(0),
        failed_links: Mutex::new(Vec::new()),
        idle: AtomicUsize::new(0),
        fetches: repository.reads_ahead().then_some(fetch_in),
    };
    let workers = if options.workers == 0 {
        crate::parallelism()
    } else {
        options.workers
    };
    let (work_in, work_out) = bounded::<Work>(QUEUED_BATCHES);
    let links = std::thread::scope(|scope| {
        if shared.fetches.is_some() {
            for _ in 0..fetching_threads(repository) {
                let fetch_out = fetch_out.clone();
                scope.spawn(move || serve(repository.storage().as_ref(), &fetch_out));
            }
        }
        let links = std::thread::scope(|scope| {
            for _ in 0..workers {
                let (work_out, shared) = (work_out.clone(), &shared);
                scope.spawn(move || worker::run(shared, &work_out));
            }
            drop(work_out);
            Walk::new(&shared, &options, work_in).run(&start)
        });
        // The last sender: without it the fetching threads end.
        shared.fetches = None;
        links
    });
    drop_failed_links(&shared, &links);
    if let Some(error) = shared.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    if job.cancel.is_cancelled() {
        return Err(RestoreError::Cancelled);
    }
    Ok(RestoreReport {
        root: start.path,
        files: shared.files.into_inner(),
        bytes: shared.bytes.into_inner(),
        problem_count: shared.problems.into_inner(),
        damage_count: shared.damage.into_inner(),
    })
}

/// How many requests for data may be under way at once.
fn fetching_threads(repository: &Repository) -> u32 {
    repository
        .storage()
        .capabilities()
        .concurrency
        .clamp(1, MOST_FETCHING_THREADS)
}

/// A file that could not be restored may have been linked already: those names go too, and are reported.
fn drop_failed_links(shared: &Shared<'_>, links: &Links) {
    let failed = std::mem::take(&mut *shared.failed_links.lock().unwrap_or_else(PoisonError::into_inner));
    for (below, path) in failed
        .iter()
        .filter_map(|inode| links.get(inode))
        .flat_map(|names| names.iter().skip(1))
    {
        let message = match shared.target.remove(below) {
            Ok(()) => "the file that it is a link to could not be restored".to_owned(),
            Err(error) => {
                format!("the file that it is a link to could not be restored, and this name stays: {error}")
            }
        };
        shared.problem(path, message);
    }
}

/// Where a restore starts: a directory whose contents are restored, or one entry.
pub(super) struct Start {
    /// Path in the snapshot.
    path: Vec<u8>,
    /// The entry there.
    entry: Entry,
    /// The only name of the directory to restore, if a single file was asked for.
    only: Option<Vec<u8>>,
}

fn find_start(
    repository: &Repository,
    snapshot: &Snapshot,
    path: Option<&[u8]>,
) -> Result<Start, RestoreError> {
    let common = common_root(snapshot);
    let path = match path {
        None => common,
        Some(path) if path.starts_with(b"/") => join_names(split_path(path)),
        Some(path) => join_names(split_path(&common).chain(split_path(path))),
    };
    let missing = || RestoreError::NoSuchPath {
        path: String::from_utf8_lossy(&path).into_owned(),
    };
    let entry = repository.entry_at(snapshot, &path)?.ok_or_else(missing)?;
    if entry.kind == EntryKind::Directory {
        return Ok(Start {
            path,
            entry,
            only: None,
        });
    }
    // A file is restored under its name: its directory is walked for that name alone.
    let mut names: Vec<&[u8]> = split_path(&path).collect();
    names.pop();
    let above = join_names(names.into_iter());
    let directory = repository.entry_at(snapshot, &above)?.ok_or_else(missing)?;
    Ok(Start {
        entry: directory,
        only: Some(entry.name),
        path,
    })
}

/// The deepest path that all roots lie in or at.
pub fn common_root(snapshot: &Snapshot) -> Vec<u8> {
    let mut roots = snapshot.roots.iter();
    let mut common: Vec<&[u8]> = roots
        .next()
        .map(|root| split_path(root).collect())
        .unwrap_or_default();
    for root in roots {
        let same = common
            .iter()
            .zip(split_path(root))
            .take_while(|(a, b)| **a == *b)
            .count();
        common.truncate(same);
    }
    join_names(common.into_iter())
}

fn join_names<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    let mut path = Vec::new();
    for name in names {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() { b"/".to_vec() } else { path }
}
