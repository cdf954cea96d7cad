//! The common part of decorators that look at every call but change none: what is asked, before; how it went, after.

use std::fmt::Debug;
use std::sync::Arc;

use super::{Capabilities, ListPage, ObjectInfo, PutOptions, Space, Storage, StorageError};

/// Which call of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// `probe`.
    Probe,
    /// `init`.
    Init,
    /// `list`: one page.
    List,
    /// `stat`.
    Stat,
    /// `get`.
    Get,
    /// `put`.
    Put,
    /// `delete`.
    Delete,
    /// `space`.
    Space,
}

/// One call, for those who count or pace it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Which call.
    pub kind: RequestKind,
    /// The key, the prefix, or the location.
    pub subject: &'a str,
    /// Bytes of content that go out.
    pub sent_bytes: u64,
}

/// What a decorator does around each call.
pub trait Policy: Send + Sync + Debug {
    /// What `after` needs to know of the beginning.
    type Begun;

    /// Called first; may wait. An error stands for the call, which is not made.
    fn before(&self, request: Request<'_>) -> Result<Self::Begun, StorageError>;

    /// Called when the call was made: with the bytes of content that came in, or with its error.
    fn after(&self, request: Request<'_>, begun: Self::Begun, outcome: Result<u64, &StorageError>);
}

/// A storage with a policy around it.
#[derive(Debug)]
pub struct Layer<P> {
    inner: Arc<dyn Storage>,
    policy: P,
}

impl<P: Policy> Layer<P> {
    /// Puts a policy around a storage.
    pub fn new(inner: Arc<dyn Storage>, policy: P) -> Self {
        Self { inner, policy }
    }

    fn call<T>(
        &self,
        (kind, subject, sent_bytes): (RequestKind, &str, u64),
        received: impl FnOnce(&T) -> u64,
        work: impl FnOnce(&dyn Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let request = Request {
            kind,
            subject,
            sent_bytes,
        };
        let begun = self.policy.before(request)?;
        let result = work(&*self.inner);
        self.policy.after(request, begun, result.as_ref().map(received));
        result
    }
}

impl<P: Policy> Storage for Layer<P> {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn probe(&self) -> Result<Capabilities, StorageError> {
        self.call(
            (RequestKind::Probe, self.inner.location(), 0),
            |_| 0,
            |inner| inner.probe(),
        )
    }

    fn init(&self) -> Result<(), StorageError> {
        self.call(
            (RequestKind::Init, self.inner.location(), 0),
            |()| 0,
            |inner| inner.init(),
        )
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        self.call(
            (RequestKind::List, prefix, 0),
            |_| 0,
            |inner| inner.list(prefix, start_after, limit),
        )
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.call((RequestKind::Stat, key, 0), |_| 0, |inner| inner.stat(key))
    }

    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        self.get_with(key, offset, length, Vec::new())
    }

    fn get_with(
        &self,
        key: &str,
        offset: u64,
        length: u64,
        memory: Vec<u8>,
    ) -> Result<Vec<u8>, StorageError> {
        self.call(
            (RequestKind::Get, key, 0),
            |bytes: &Vec<u8>| bytes.len() as u64,
            |inner| inner.get_with(key, offset, length, memory),
        )
    }

    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        self.call(
            (RequestKind::Put, key, bytes.len() as u64),
            |()| 0,
            |inner| inner.put(key, bytes, options),
        )
    }

    fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.call((RequestKind::Delete, key, 0), |()| 0, |inner| inner.delete(key))
    }

    fn space(&self) -> Result<Option<Space>, StorageError> {
        self.call(
            (RequestKind::Space, self.inner.location(), 0),
            |_| 0,
            |inner| inner.space(),
        )
    }
}
