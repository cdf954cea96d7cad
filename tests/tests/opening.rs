//! Opening a repository that is far away: what does not need each other is asked for at the same time, and what was asked for early is
//! asked for again when it has changed.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use plakar_core::backup::{BackupOptions, Source, backup};
use plakar_core::environment::Environment;
use plakar_core::repository::{OpenError, OpenOptions, Repository};
use plakar_core::storage::memory::MemoryStorage;
use plakar_core::storage::{Capabilities, ListPage, ObjectInfo, PutOptions, Space, Storage, StorageError};
use plakar_testkit::engine::{create, open, passphrase, silently};

/// What is answered only once the other has been asked for as well.
const TOGETHER: [(&str, &str); 3] = [
    ("config", "keys/"),
    ("index/", "keys/*"),
    ("packs/", "snapshots/"),
];

/// Answers some requests only when another one has begun, and notes all.
#[derive(Debug, Default)]
struct Together {
    inner: MemoryStorage,
    /// Whether requests wait for each other.
    strict: Mutex<bool>,
    begun: Mutex<BTreeSet<String>>,
    another: Condvar,
    /// Requests that waited for another one in vain.
    alone: Mutex<Vec<String>>,
    asked: Mutex<Vec<String>>,
}

impl Together {
    fn ask(&self, what: &str) {
        self.asked.lock().unwrap().push(what.to_owned());
        let mut begun = self.begun.lock().unwrap();
        begun.insert(what.to_owned());
        self.another.notify_all();
        let Some((_, other)) = TOGETHER.iter().find(|(one, _)| *one == what) else {
            return;
        };
        if !*self.strict.lock().unwrap() {
            return;
        }
        // Only who asks for one after the other waits this long.
        let patience = Duration::from_secs(20);
        let waited = self
            .another
            .wait_timeout_while(begun, patience, |begun| !begun.contains(*other));
        if waited.unwrap().1.timed_out() {
            self.alone.lock().unwrap().push(what.to_owned());
        }
    }
}

impl Storage for Together {
    fn location(&self) -> &str {
        self.inner.location()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn init(&self) -> Result<(), StorageError> {
        self.inner.init()
    }
    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        self.ask(prefix);
        self.inner.list(prefix, start_after, limit)
    }
    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.inner.stat(key)
    }
    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        self.ask(if key.starts_with("keys/") { "keys/*" } else { key });
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

fn far() -> OpenOptions {
    OpenOptions {
        far: true,
        ..OpenOptions::default()
    }
}

#[test]
fn what_is_far_away_is_asked_for_at_the_same_time_and_once() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), b"bytes").unwrap();
    let storage = Arc::new(Together::default());
    let shared: Arc<dyn Storage> = Arc::<Together>::clone(&storage);
    create(Arc::clone(&shared), Some("secret"));
    *storage.strict.lock().unwrap() = true;
    storage.begun.lock().unwrap().clear();
    storage.asked.lock().unwrap().clear();
    let secret = passphrase("secret");
    let repository = Repository::open(shared, Some(&secret), far(), Environment::system()).unwrap();
    let options = BackupOptions {
        sources: vec![Source::Path(source.path().to_owned())],
        workers: 2,
        ..BackupOptions::default()
    };
    assert!(
        silently(|job| backup(&repository, options, job))
            .unwrap()
            .snapshot
            .is_some()
    );
    assert_eq!(*storage.alone.lock().unwrap(), Vec::<String>::new());
    let mut asked = storage.asked.lock().unwrap().clone();
    asked.sort();
    assert_eq!(
        asked,
        ["config", "index/", "keys/", "keys/*", "packs/", "snapshots/"]
    );
}

#[test]
fn a_passphrase_that_was_changed_while_somebody_typed_it_counts() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    create(Arc::clone(&storage), Some("old"));
    for is_far in [false, true] {
        let found = Repository::find_at(Arc::clone(&storage), is_far).unwrap();
        let unlock = |secret: &str| found.unlock(Some(&passphrase(secret)), far(), Environment::system());
        let changing = open(Arc::clone(&storage), Some("old")).unwrap();
        let old = changing.current_slot().unwrap();
        changing.add_slot(&passphrase("new"), "").unwrap();
        changing.remove_slot(old).unwrap();
        assert!(unlock("new").is_ok());
        assert!(matches!(unlock("old"), Err(OpenError::WrongPassphrase { .. })));
        // Back again, for the next round.
        let changing = open(Arc::clone(&storage), Some("new")).unwrap();
        let new = changing.current_slot().unwrap();
        changing.add_slot(&passphrase("old"), "").unwrap();
        changing.remove_slot(new).unwrap();
        assert!(unlock("old").is_ok());
    }
}
