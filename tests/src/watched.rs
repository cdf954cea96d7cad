//! A storage in memory that tells of calls before it does them, and calls that wait for each other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use plakar_core::storage::memory::MemoryStorage;
use plakar_core::storage::{Capabilities, ListPage, ObjectInfo, PutOptions, Space, Storage, StorageError};

/// Only who makes calls one after the other, and so waits in vain, waits this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A call that is about to be done.
#[derive(Debug, Clone, Copy)]
pub enum Call<'a> {
    /// `list`, with its prefix.
    List(&'a str),
    /// `get`, with its key and offset.
    Get(&'a str, u64),
    /// `put`, with its key.
    Put(&'a str),
}

/// A storage whose calls somebody hears of, and may hold back.
pub struct WatchedStorage {
    inner: MemoryStorage,
    concurrency: u32,
    before: Box<dyn Fn(Call<'_>) + Send + Sync>,
}

impl fmt::Debug for WatchedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchedStorage").finish_non_exhaustive()
    }
}

impl WatchedStorage {
    /// An empty storage that likes so many calls at once.
    pub fn new(
        inner: MemoryStorage,
        concurrency: u32,
        before: impl Fn(Call<'_>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            concurrency,
            before: Box::new(before),
        })
    }
}

impl Storage for WatchedStorage {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            concurrency: self.concurrency,
            ..self.inner.capabilities()
        }
    }

    fn init(&self) -> Result<(), StorageError> {
        self.inner.init()
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        (self.before)(Call::List(prefix));
        self.inner.list(prefix, start_after, limit)
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.inner.stat(key)
    }

    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        (self.before)(Call::Get(key, offset));
        self.inner.get(key, offset, length)
    }

    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        (self.before)(Call::Put(key));
        self.inner.put(key, bytes, options)
    }

    fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key)
    }

    fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space()
    }
}

/// Where calls wait for each other.
#[derive(Debug, Default)]
pub struct Meeting {
    state: Mutex<State>,
    another: Condvar,
}

#[derive(Debug, Default)]
struct State {
    begun: BTreeMap<String, usize>,
    alone: Vec<String>,
}

impl Meeting {
    /// Begins a call of a kind. It goes on once `is_met`, which is given the number of this call among those of its kind, from 1,
    /// and how many of each kind have begun.
    pub fn join(&self, kind: &str, is_met: impl Fn(usize, &BTreeMap<String, usize>) -> bool) {
        let mut state = self.state.lock().unwrap();
        let number = state.begun.entry(kind.to_owned()).or_default();
        *number += 1;
        let number = *number;
        self.another.notify_all();
        let waited = self
            .another
            .wait_timeout_while(state, PATIENCE, |state| !is_met(number, &state.begun));
        let (mut state, timeout) = waited.unwrap();
        if timeout.timed_out() {
            state.alone.push(kind.to_owned());
        }
    }

    /// How many calls of each kind have begun.
    pub fn begun(&self) -> BTreeMap<String, usize> {
        self.state.lock().unwrap().begun.clone()
    }

    /// The kinds of calls that waited in vain, once for each call.
    pub fn alone(&self) -> Vec<String> {
        self.state.lock().unwrap().alone.clone()
    }

    /// Forgets all calls so far.
    pub fn restart(&self) {
        *self.state.lock().unwrap() = State::default();
    }
}
