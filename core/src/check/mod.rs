//! Check: verifies what is stored. Packs, whole or frame by frame, in parallel; and every entry against what is found in them.
//!
//! It writes nothing. Damage is a result, not an error.

mod entries;
mod packs;

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Sender, unbounded};

use crate::format::snapshot::Snapshot;
use crate::id::{PackId, SnapshotId};
use crate::index::verify_segment;
use crate::progress::{Job, Phase};
use crate::read_error::ReadError;
use crate::repository::{Fetch, Repository, fan_out, serve};
use crate::storage::{ObjectInfo, list_all};

use entries::EntryCheck;
use packs::{PackPlan, Verification};

/// Objects up to this size are read many at a time from a storage that is far away.
const SMALL_BYTES: u64 = 1 << 20;

/// How much of the data to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The structure only: trees, and that every chunk has a place in a pack that is there.
    Nothing,
    /// This share of the packs, chosen at random.
    Percent(u8),
    /// All of it.
    All,
}

/// What to check.
#[derive(Debug)]
pub struct CheckOptions {
    /// How much to read.
    pub reading: Reading,
    /// Snapshots, or paths in them; empty for the whole repository with every object.
    pub targets: Vec<Wanted>,
    /// Threads that read and verify; 0 for one a processor.
    pub workers: usize,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object, or the entry.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// The result of a check.
#[derive(Debug, Clone, Default)]
pub struct CheckReport {
    /// Damaged objects. Damaged entries went to the observer as problems, and are counted below.
    pub damage: Vec<Damage>,
    /// Each checked snapshot: id, path, and whether everything in it is whole.
    pub results: Vec<(SnapshotId, Vec<u8>, bool)>,
    /// Entries looked at.
    pub entries: u64,
    /// Entries that cannot be restored as they were.
    pub damaged_entries: u64,
    /// Bytes of packs read and verified.
    pub bytes: u64,
    /// Packs that no index segment names: left by an interrupted backup, harmless.
    pub unindexed_packs: u64,
}

impl CheckReport {
    /// Whether any damage was found.
    pub fn is_damaged(&self) -> bool {
        !self.damage.is_empty() || self.damaged_entries > 0
    }
}

/// A check could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The repository cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The path is not in the snapshot.
    #[error("there is no {path} in snapshot {snapshot}")]
    NoSuchPath {
        /// The path.
        path: String,
        /// The snapshot.
        snapshot: String,
    },
    /// It was stopped.
    #[error("stopped before the end")]
    Cancelled,
}

/// Damage found so far, from all threads.
#[derive(Debug, Default)]
pub(super) struct Findings {
    damage: Mutex<Vec<Damage>>,
    suspects: Mutex<HashSet<PackId>>,
}

impl Findings {
    fn add(&self, what: impl Into<String>, why: impl Into<String>) {
        let damage = Damage {
            what: what.into(),
            why: why.into(),
        };
        self.damage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(damage);
    }

    fn add_error(&self, key: &str, error: ReadError) {
        match error {
            ReadError::Damaged { what, why } if what.contains(key) => self.add(what, why),
            ReadError::Damaged { what, why } => self.add(key, format!("{what}: {why}")),
            ReadError::Storage(error) => self.add(key, error.to_string()),
        }
    }

    fn is_suspect(&self, pack: PackId) -> bool {
        let suspects = self.suspects.lock();
        suspects.unwrap_or_else(PoisonError::into_inner).contains(&pack)
    }

    /// Whatever points into this pack is read again, blob by blob.
    fn suspect(&self, pack: PackId) {
        self.suspects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pack);
    }
}

/// Checks a repository or some of its snapshots.
pub fn check(
    repository: &Repository,
    options: CheckOptions,
    job: Job<'_>,
) -> Result<CheckReport, CheckError> {
    // What is checked is what is stored, not what is kept of it here.
    let repository = &repository.without_cache();
    let whole = options.targets.is_empty();
    let workers = if options.workers == 0 {
        crate::parallelism()
    } else {
        options.workers
    };
    let findings = Findings::default();
    let mut report = CheckReport::default();
    let targets = if whole {
        whole_repository(repository, &findings)?
    } else {
        options.targets
    };
    let listed: HashMap<PackId, u64> = list_packs(repository, whole.then_some(&findings))?;
    for pack in repository.index().packs() {
        if listed.get(&pack.id) != Some(&pack.size_bytes) {
            findings.suspect(pack.id);
            if whole {
                let why = if listed.contains_key(&pack.id) {
                    "its size differs"
                } else {
                    "the object is missing"
                };
                findings.add(crate::repository::pack_key(pack.id), why);
            }
        }
    }
    job.observer.phase(Phase::Reading);
    let plan = match options.reading {
        Reading::Nothing => PackPlan::default(),
        Reading::All if whole => PackPlan::all(repository, &listed),
        Reading::All => PackPlan::needed(repository, &targets, job)?,
        Reading::Percent(percent) => {
            let plan = if whole {
                PackPlan::all(repository, &listed)
            } else {
                PackPlan::needed(repository, &targets, job)?
            };
            plan.sample(percent, repository)?
        }
    };
    report.unindexed_packs = if whole { plan.unindexed() } else { 0 };
    job.counters.bytes_expected.store(plan.bytes(), Ordering::Relaxed);
    let verification = Verification::new(repository, &plan, workers, &findings, job);
    let mut walk = |verification: &Verification<'_>, fetches: Option<&Sender<Fetch>>| {
        let mut entries = EntryCheck::new(repository, job, verification, whole, fetches);
        entries.expect(targets.iter().map(|target| &target.0));
        for (snapshot, path) in &targets {
            let before = entries.damaged();
            let root = entries.snapshot(snapshot, path.as_deref())?;
            report
                .results
                .push((snapshot.id, root, entries.damaged() == before));
        }
        report.entries = entries.seen();
        report.damaged_entries = entries.damaged();
        Ok(())
    };
    let ((), bytes) = with_fetching_threads(repository, |fetches| {
        verification.run(|verification| walk(verification, fetches))
    })?;
    report.bytes = bytes;
    report.damage = findings
        .damage
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    report.damage.sort_by(|a, b| a.what.cmp(&b.what));
    report.damage.dedup();
    Ok(report)
}

/// Runs something beside threads that read ahead, if the storage is far away.
fn with_fetching_threads<T>(repository: &Repository, work: impl FnOnce(Option<&Sender<Fetch>>) -> T) -> T {
    if !repository.reads_ahead() {
        return work(None);
    }
    let (fetch_in, fetch_out) = unbounded();
    std::thread::scope(|scope| {
        for _ in 0..repository.threads_for_small_reads() {
            let fetch_out = fetch_out.clone();
            scope.spawn(move || serve(repository.storage().as_ref(), &fetch_out));
        }
        let result = work(Some(&fetch_in));
        // The last sender: without it the threads end.
        drop(fetch_in);
        result
    })
}

/// A snapshot, or what is at a path in it.
type Wanted = (Snapshot, Option<Vec<u8>>);

/// Checks every object that is not a pack, and gives the snapshots that can be read.
fn whole_repository(repository: &Repository, findings: &Findings) -> Result<Vec<Wanted>, CheckError> {
    let storage = repository.storage().as_ref();
    for (key, error) in repository.slot_problems()? {
        findings.add_error(&key, error);
    }
    let mut segments = Vec::new();
    list_all(storage, "index/", |object| segments.push(object)).map_err(ReadError::Storage)?;
    let (small, large): (Vec<ObjectInfo>, Vec<ObjectInfo>) = segments
        .into_iter()
        .partition(|object| object.size_bytes <= SMALL_BYTES);
    let verify =
        |object: &ObjectInfo| verify_segment(storage, repository.keys(), repository.config().mode(), object);
    let verified = fan_out(&small, repository.threads_for_small_reads(), verify);
    let verified = small.iter().zip(verified);
    for (object, verified) in verified.chain(large.iter().map(|object| (object, verify(object)))) {
        match verified {
            Err(error) if error.is_damage() => findings.add_error(&object.key, error),
            result => result?,
        }
    }
    let mut snapshots: HashMap<SnapshotId, Snapshot> = HashMap::new();
    let mut commits = Vec::new();
    list_all(storage, "snapshots/", |object| {
        let id = crate::repository::snapshot_of_key(&object.key).map(|(id, _)| id);
        commits.push((object.key, id));
    })
    .map_err(ReadError::Storage)?;
    commits.retain(|(key, id)| {
        if id.is_none() {
            findings.add(key.as_str(), "it is not the name of a snapshot");
        }
        id.is_some()
    });
    let read = fan_out(&commits, repository.threads_for_small_reads(), |(key, id)| {
        id.map(|id| (id, repository.read_header(key, id)))
    });
    for ((key, _), read) in commits.iter().zip(read) {
        let Some((id, read)) = read else { continue };
        match read {
            Ok(snapshot) => {
                snapshots.insert(id, snapshot);
            }
            Err(error) if error.is_damage() => findings.add_error(key, error),
            Err(error) => return Err(error.into()),
        }
    }
    let mut snapshots: Vec<Snapshot> = snapshots.into_values().collect();
    snapshots.sort_by_key(|snapshot| (snapshot.time, snapshot.id));
    Ok(snapshots.into_iter().map(|snapshot| (snapshot, None)).collect())
}

fn list_packs(
    repository: &Repository,
    findings: Option<&Findings>,
) -> Result<HashMap<PackId, u64>, CheckError> {
    let mut listed = HashMap::new();
    for object in repository.list_packs()? {
        match (crate::repository::pack_id_of(&object.key), findings) {
            (Some(id), _) => {
                listed.insert(id, object.size_bytes);
            }
            (None, Some(findings)) => findings.add(object.key, "it is not the name of a pack"),
            (None, None) => {}
        }
    }
    Ok(listed)
}
