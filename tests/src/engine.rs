//! The engine without the program: small repositories in memory, their objects as plain values, and keys to forge with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use plakar_core::backup::{BackupError, BackupOptions, BackupReport, Source, backup};
use plakar_core::check::{CheckError, CheckOptions, CheckReport, Reading, check};
use plakar_core::crypto::Passphrase;
use plakar_core::crypto::kdf::{open_slot, seal_slot};
use plakar_core::crypto::keys::{Keys, MasterKey};
use plakar_core::environment::Environment;
use plakar_core::format::key_slot::{KdfCost, KeySlot};
use plakar_core::progress::{Cancel, Counters, Job, Observer, Problem, Silent};
use plakar_core::repository::{CreateOptions, OpenError, OpenOptions, Repository, Snapshot};
use plakar_core::restore::{Overwrite, RestoreError, RestoreOptions, RestoreReport, restore};
use plakar_core::storage::memory::MemoryStorage;
use plakar_core::storage::{PutMode, PutOptions, Storage, list_all};

/// The objects of a repository by their keys.
pub type Objects = BTreeMap<String, Arc<Vec<u8>>>;

/// Keeps the problems that an operation reports.
#[derive(Debug, Default)]
pub struct Problems(Mutex<Vec<Problem>>);

impl Problems {
    /// What was reported so far, as lines.
    pub fn lines(&self) -> Vec<String> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        problems
            .iter()
            .map(|problem| format!("{}: {}", problem.path.escape_ascii(), problem.message))
            .collect()
    }
}

impl Observer for Problems {
    fn problem(&self, problem: &Problem) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(problem.clone());
    }
}

/// Runs something that wants a job and nobody watches.
pub fn silently<T>(work: impl FnOnce(Job<'_>) -> T) -> T {
    watched(&Silent, work)
}

/// Runs something that wants a job and tells an observer.
pub fn watched<T>(observer: &dyn Observer, work: impl FnOnce(Job<'_>) -> T) -> T {
    let (counters, cancel) = (Counters::default(), Cancel::default());
    work(Job {
        observer,
        counters: &counters,
        cancel: &cancel,
    })
}

/// A passphrase.
pub fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes().to_vec())
}

/// Creates a repository.
pub fn create(storage: Arc<dyn Storage>, secret: Option<&str>) -> Repository {
    let options = CreateOptions {
        passphrase: secret.map(passphrase),
        ..CreateOptions::default()
    };
    Repository::create(storage, options, Environment::system()).expect("an empty storage takes a repository")
}

/// Opens a repository.
pub fn open(storage: Arc<dyn Storage>, secret: Option<&str>) -> Result<Repository, OpenError> {
    let secret = secret.map(passphrase);
    Repository::open(
        storage,
        secret.as_ref(),
        OpenOptions::default(),
        Environment::system(),
    )
}

/// Backs up a folder.
pub fn back_up(repository: &Repository, source: &Path) -> Result<BackupReport, BackupError> {
    let options = BackupOptions {
        sources: vec![Source::Path(source.to_owned())],
        workers: 2,
        ..BackupOptions::default()
    };
    silently(|job| backup(repository, options, job))
}

/// Backs up a folder, which must succeed without problems.
#[track_caller]
pub fn snapshot_of(repository: &Repository, source: &Path) -> Snapshot {
    let report = back_up(repository, source).expect("a backup");
    assert_eq!(report.problem_count, 0);
    report.snapshot.expect("a snapshot")
}

/// Restores a whole snapshot.
pub fn restore_to(
    repository: &Repository,
    snapshot: &Snapshot,
    target: &Path,
) -> Result<RestoreReport, RestoreError> {
    silently(|job| restore(repository, snapshot, restore_options(target), job))
}

/// Options that restore a whole snapshot.
pub fn restore_options(target: &Path) -> RestoreOptions {
    RestoreOptions {
        path: None,
        target: target.to_owned(),
        overwrite: Overwrite::Error,
        dry_run: false,
        permissions: true,
        select: None,
        workers: 1,
    }
}

/// Checks the whole repository.
pub fn check_all(repository: &Repository) -> Result<CheckReport, CheckError> {
    let options = CheckOptions {
        reading: Reading::All,
        targets: Vec::new(),
        workers: 1,
    };
    silently(|job| check(repository, options, job))
}

/// Checks the whole repository, in which nothing may be damaged.
#[track_caller]
pub fn assert_clean(repository: &Repository) {
    let report = check_all(repository).expect("a check");
    assert!(!report.is_damaged(), "damage: {:?}", report.damage);
}

/// All objects of a storage.
pub fn objects_of(storage: &dyn Storage) -> Objects {
    let mut objects = Objects::new();
    list_all(storage, "", |object| {
        let bytes = storage
            .get(&object.key, 0, object.size_bytes)
            .expect("listed objects can be read");
        objects.insert(object.key, Arc::new(bytes));
    })
    .expect("a memory can be listed");
    objects
}

/// A storage with these objects.
pub fn storage_of(objects: &Objects) -> Arc<MemoryStorage> {
    let storage = MemoryStorage::with_pack_bytes(1 << 20);
    for (key, bytes) in objects {
        put(&storage, key, Arc::clone(bytes));
    }
    Arc::new(storage)
}

/// Stores an object as it is.
pub fn put(storage: &dyn Storage, key: &str, bytes: Arc<Vec<u8>>) {
    let blake3 = *blake3::hash(&bytes).as_bytes();
    storage
        .put(
            key,
            bytes,
            PutOptions {
                mode: PutMode::Replace,
                durable: false,
                blake3,
            },
        )
        .expect("stored");
}

/// The keys of a repository, as whoever knows its passphrase can derive them.
pub fn keys_of(storage: &dyn Storage, secret: Option<&str>) -> Keys {
    let config = Repository::read_config(storage).expect("a config");
    let master = match (config.public_master_key, secret) {
        (Some(key), _) => MasterKey::new(key),
        (None, Some(secret)) => master_of(storage, secret),
        (None, None) => panic!("an encrypted repository needs its passphrase"),
    };
    Keys::derive(&master, config.repository_id)
}

fn slot_of(storage: &dyn Storage) -> (String, KeySlot) {
    let key = storage
        .list("keys/", "", 1)
        .expect("listable")
        .objects
        .remove(0)
        .key;
    let object = storage.get(&key, 0, 1 << 20).expect("readable");
    let slot = KeySlot::decode(&object).expect("a slot");
    (key, slot)
}

fn master_of(storage: &dyn Storage, secret: &str) -> MasterKey {
    open_slot(&slot_of(storage).1, &passphrase(secret)).expect("the passphrase fits")
}

/// Seals the key slot anew at the lowest cost, so that a repository can be opened thousands of times.
pub fn cheapen(storage: &dyn Storage, secret: &str) {
    let master = master_of(storage, secret);
    let (key, slot) = slot_of(storage);
    let mut header = slot.header;
    header.cost = KdfCost {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };
    let slot = seal_slot(header, &passphrase(secret), &master).expect("sealed");
    put(storage, &key, Arc::new(slot.encode()));
}
