//! A storage that fails when told to: the nth call of a kind, before or after it did its work, once or from then on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plakar_core::storage::{
    Capabilities, ListPage, ObjectInfo, PutOptions, Space, Storage, StorageError, StorageErrorKind,
};

/// A call of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `list`.
    List,
    /// `stat`.
    Stat,
    /// `get`.
    Get,
    /// `put`.
    Put,
    /// `delete`.
    Delete,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Nothing is done and an error comes back, once.
    Refuses,
    /// It is done and an error comes back all the same, once: an answer that was lost.
    Forgets,
    /// Half of what is asked for comes back without an error, once: a torn read.
    Tears,
    /// From this call on every call fails: the storage went away.
    Dies,
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Which calls are counted; `None` for all.
    pub operation: Option<Operation>,
    /// The number of the call that fails, from 0.
    pub call: u64,
    /// How.
    pub manner: Manner,
    /// With which error.
    pub kind: StorageErrorKind,
}

/// A storage around another.
#[derive(Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    fault: Mutex<Option<Fault>>,
    calls: AtomicU64,
    struck: AtomicU64,
}

impl FaultyStorage {
    /// A storage that works until [`FaultyStorage::arm`] is called.
    pub fn around(inner: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            fault: Mutex::new(None),
            calls: AtomicU64::new(0),
            struck: AtomicU64::new(0),
        })
    }

    fn fault(&self) -> std::sync::MutexGuard<'_, Option<Fault>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from 0 again and fails as told.
    pub fn arm(&self, fault: Fault) {
        *self.fault() = Some(fault);
        self.calls.store(0, Ordering::SeqCst);
        self.struck.store(0, Ordering::SeqCst);
    }

    /// Works again.
    pub fn disarm(&self) {
        *self.fault() = None;
    }

    /// Whether the fault was met.
    pub fn struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst) > 0
    }

    fn call<T>(
        &self,
        operation: Operation,
        key: &str,
        work: impl FnOnce() -> Result<T, StorageError>,
        tear: impl FnOnce(T) -> T,
    ) -> Result<T, StorageError> {
        let fault = *self.fault();
        let Some(fault) = fault.filter(|fault| fault.operation.is_none_or(|counted| counted == operation))
        else {
            return work();
        };
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let strikes = number == fault.call || (fault.manner == Manner::Dies && number > fault.call);
        if !strikes {
            return work();
        }
        self.struck.fetch_add(1, Ordering::SeqCst);
        let error = StorageError::new(fault.kind, "do", key, "a fault that a test ordered");
        match fault.manner {
            Manner::Refuses | Manner::Dies => Err(error),
            Manner::Forgets => work().and(Err(error)),
            Manner::Tears => work().map(tear),
        }
    }
}

impl Storage for FaultyStorage {
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
        self.call(
            Operation::List,
            prefix,
            || self.inner.list(prefix, start_after, limit),
            |page| page,
        )
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.call(Operation::Stat, key, || self.inner.stat(key), |info| info)
    }

    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        self.call(
            Operation::Get,
            key,
            || self.inner.get(key, offset, length),
            |mut bytes| {
                bytes.truncate(bytes.len() / 2);
                bytes
            },
        )
    }

    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        self.call(
            Operation::Put,
            key,
            || self.inner.put(key, bytes, options),
            |()| (),
        )
    }

    fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.call(Operation::Delete, key, || self.inner.delete(key), |()| ())
    }

    fn space(&self) -> Result<Option<Space>, StorageError> {
        self.inner.space()
    }
}
