//! A storage that is far away does not hold up the work: while a pack is on its way, the next ones are made and sent.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use plakar_core::storage::memory::MemoryStorage;
use plakar_core::storage::{Capabilities, ListPage, ObjectInfo, PutOptions, Space, Storage, StorageError};
use plakar_testkit::engine::{assert_clean, create, snapshot_of};
use plakar_testkit::random;

/// So many packs are held back until the next one is on its way as well.
const HELD_BACK: usize = 4;

/// Answers a put of a pack only when another one has begun.
#[derive(Debug)]
struct Together {
    inner: MemoryStorage,
    begun: Mutex<usize>,
    another: Condvar,
    /// Packs that waited for another one in vain.
    alone: Mutex<Vec<usize>>,
}

impl Together {
    fn hold_back(&self) {
        let mut begun = self.begun.lock().unwrap();
        *begun += 1;
        let own = *begun;
        self.another.notify_all();
        if own > HELD_BACK {
            return;
        }
        // Only a backup that does not overlap waits this long.
        let patience = Duration::from_secs(20);
        let waited = self
            .another
            .wait_timeout_while(begun, patience, |begun| *begun == own);
        if waited.unwrap().1.timed_out() {
            self.alone.lock().unwrap().push(own);
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
        self.inner.list(prefix, start_after, limit)
    }
    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.inner.stat(key)
    }
    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        self.inner.get(key, offset, length)
    }
    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        if key.starts_with("packs/") {
            self.hold_back();
        }
        self.inner.put(key, bytes, options)
    }
    fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key)
    }
    fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space()
    }
}

#[test]
fn packs_are_made_and_sent_while_others_are_on_their_way() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..120 {
        let bytes = random::bytes(number, 200_000);
        std::fs::write(source.path().join(format!("file-{number}")), bytes).unwrap();
    }
    let storage = Arc::new(Together {
        inner: MemoryStorage::with_pack_bytes(512 << 10),
        begun: Mutex::default(),
        another: Condvar::new(),
        alone: Mutex::default(),
    });
    let repository = create(Arc::<Together>::clone(&storage), None);
    snapshot_of(&repository, source.path());
    assert_eq!(
        *storage.alone.lock().unwrap(),
        Vec::<usize>::new(),
        "these packs went alone"
    );
    assert!(
        *storage.begun.lock().unwrap() > HELD_BACK + 2,
        "none of those was the last"
    );
    assert_clean(&repository);
}
