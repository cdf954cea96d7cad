//! Checking a repository that is far away: many small objects are asked for at the same time, and found whole or damaged as they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use plakar_core::environment::Environment;
use plakar_core::repository::{OpenOptions, Repository};
use plakar_core::storage::memory::MemoryStorage;
use plakar_core::storage::{Capabilities, ListPage, ObjectInfo, PutOptions, Space, Storage, StorageError};
use plakar_testkit::engine::{back_up, check_all, create, objects_of, put};

const SNAPSHOTS: usize = 12;
/// More than the large packs that are read at once.
const AT_ONCE: usize = 6;

/// Answers the first reads of each kind only when all of them have begun.
#[derive(Debug, Default)]
struct Gathering {
    inner: MemoryStorage,
    strict: Mutex<bool>,
    /// How many reads of each kind have begun.
    begun: Mutex<BTreeMap<&'static str, usize>>,
    another: Condvar,
    /// Kinds of which reads waited in vain, once for each.
    alone: Mutex<Vec<&'static str>>,
}

impl Gathering {
    fn ask(&self, kind: &'static str) {
        if !*self.strict.lock().unwrap() {
            return;
        }
        let mut begun = self.begun.lock().unwrap();
        let number = begun.entry(kind).or_default();
        *number += 1;
        self.another.notify_all();
        if *number > AT_ONCE {
            return;
        }
        // Only who asks for one after the other waits this long.
        let patience = Duration::from_secs(20);
        let waited = self
            .another
            .wait_timeout_while(begun, patience, |begun| begun[kind] < AT_ONCE);
        if waited.unwrap().1.timed_out() {
            self.alone.lock().unwrap().push(kind);
        }
    }
}

impl Storage for Gathering {
    fn location(&self) -> &str {
        self.inner.location()
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            concurrency: 16,
            ..self.inner.capabilities()
        }
    }
    fn init(&self) -> Result<(), StorageError> {
        self.inner.init()
    }
    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        self.inner.list(prefix, start_after, limit)
    }
    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.inner.stat(key)
    }
    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        match key.split('/').next() {
            Some("index") => self.ask("a segment of the index"),
            Some("snapshots") => self.ask("the header of a snapshot"),
            Some("packs") if offset == 0 => self.ask("a pack"),
            Some("packs") => self.ask("a frame with tree nodes"),
            _ => {}
        }
        self.inner.get(key, offset, length)
    }
    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        self.inner.put(key, bytes, options)
    }
    fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key)
    }
    fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space()
    }
}

/// A repository of some snapshots, opened as one that is far away.
fn far_repository() -> (Arc<Gathering>, Repository) {
    let source = tempfile::tempdir().unwrap();
    let storage = Arc::new(Gathering::default());
    let shared: Arc<dyn Storage> = Arc::<Gathering>::clone(&storage);
    let repository = create(Arc::clone(&shared), None);
    for number in 0..SNAPSHOTS {
        std::fs::write(
            source.path().join("file"),
            format!("the bytes of {number}").repeat(200),
        )
        .unwrap();
        back_up(&repository, source.path()).unwrap();
    }
    let options = OpenOptions {
        far: true,
        ..OpenOptions::default()
    };
    let repository = Repository::open(shared, None, options, Environment::system()).unwrap();
    (storage, repository)
}

#[test]
fn small_objects_are_asked_for_at_the_same_time() {
    let (storage, repository) = far_repository();
    *storage.strict.lock().unwrap() = true;
    let report = check_all(&repository).unwrap();
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(report.results.len(), SNAPSHOTS);
    assert_eq!(*storage.alone.lock().unwrap(), Vec::<&str>::new());
    let begun = storage.begun.lock().unwrap().clone();
    for kind in [
        "a segment of the index",
        "the header of a snapshot",
        "a pack",
        "a frame with tree nodes",
    ] {
        assert!(begun[kind] >= SNAPSHOTS, "{kind}: {begun:?}");
    }
}

#[test]
fn every_damaged_object_among_many_small_ones_is_named_and_no_other() {
    let (storage, repository) = far_repository();
    for (key, bytes) in objects_of(storage.as_ref()) {
        if !["index/", "snapshots/", "packs/"]
            .iter()
            .any(|kind| key.starts_with(kind))
        {
            continue;
        }
        let mut damaged = bytes.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        put(storage.as_ref(), &key, Arc::new(damaged));
        let report = check_all(&repository).unwrap();
        let named: Vec<&str> = report.damage.iter().map(|damage| damage.what.as_str()).collect();
        assert!(
            !named.is_empty() && named.iter().all(|what| what.contains(&key)),
            "{key}: {named:?}"
        );
        put(storage.as_ref(), &key, bytes);
    }
    assert!(!check_all(&repository).unwrap().is_damaged());
}
