//! The engine's own view of a storage: one blocking trait over opaque keys and sealed bytes.
//!
//! It does not know what a repository is, how a connector is loaded, or what the bytes mean.

pub mod adaptive;
pub mod cache;
pub mod counted;
pub mod decorate;
pub mod layer;
pub mod limited;
pub mod memory;
pub mod pace;
pub mod retried;

use std::sync::Arc;
use std::time::Duration;

/// What a storage promises. A promise that is absent is `false` or zero.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a promise of its own")]
pub struct Capabilities {
    /// A `put` is seen whole or not at all, whatever happens to the writer.
    pub atomic_put: bool,
    /// When a durable `put` returns, the object survives loss of power, its directory entry too.
    pub durable_put: bool,
    /// An object is readable and listed as soon as its `put` has returned.
    pub strongly_consistent: bool,
    /// `PutMode::Create` over an existing key fails and leaves the object as it was.
    pub exclusive_create: bool,
    /// Largest object accepted, in bytes.
    pub max_object_bytes: u64,
    /// Pack size that suits the storage, in bytes (16 to 128 MiB).
    pub preferred_pack_bytes: u64,
    /// How many calls may usefully run at the same time.
    pub concurrency: u32,
}

/// Name and size of one stored object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectInfo {
    /// The flat key, with `/` separators.
    pub key: String,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// One page of a listing, in ascending byte order of keys.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// The objects of this page.
    pub objects: Vec<ObjectInfo>,
    /// Whether keys after the last one may exist.
    pub more: bool,
}

/// Whether `put` may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// Fails with `AlreadyExists` when the key exists (as far as the storage can tell).
    Create,
    /// Replaces atomically.
    Replace,
}

/// How to store an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOptions {
    /// Create or replace.
    pub mode: PutMode,
    /// Return only when the object would survive a loss of power.
    pub durable: bool,
    /// BLAKE3 of the bytes, for connectors that can check what arrived.
    pub blake3: [u8; 32],
}

/// Space of the storage, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Capacity.
    pub total_bytes: u64,
    /// What this user may still write.
    pub available_bytes: u64,
}

/// What kind of failure a storage call met. `Damaged` data is never reported here but by whoever opens the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// No such object (or no such place, for `probe`).
    NotFound,
    /// An object of that name exists.
    AlreadyExists,
    /// May succeed when tried again.
    Transient,
    /// Took longer than allowed.
    Timeout,
    /// Credentials missing or refused.
    Auth,
    /// Known, but not allowed.
    Permission,
    /// The storage or quota is full.
    NoSpace,
    /// The connector found its own data damaged (a checksum of the protocol failed).
    Corrupt,
    /// The storage cannot do this.
    Unsupported,
    /// Stopped because the host asked for it.
    Cancelled,
    /// Settings or location are wrong.
    Config,
    /// The connector panicked.
    Panicked,
    /// Anything else; treated as permanent.
    Other,
}

/// A failed storage call, as plain data.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {operation} {subject}: {message}")]
pub struct StorageError {
    /// Which kind of failure.
    pub kind: StorageErrorKind,
    /// The call: `read`, `write`, `list`, …
    pub operation: &'static str,
    /// The key, or the location when no key was involved.
    pub subject: String,
    /// The cause, in the connector's words.
    pub message: String,
    /// How long the storage asked to wait before the next try.
    pub retry_after: Option<Duration>,
}

impl StorageError {
    /// Makes an error without a retry hint.
    pub fn new(
        kind: StorageErrorKind,
        operation: &'static str,
        subject: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation,
            subject: subject.to_owned(),
            message: message.into(),
            retry_after: None,
        }
    }
}

/// A place that keeps named, immutable objects. Blocking; any thread may call any method at any time.
pub trait Storage: Send + Sync + std::fmt::Debug {
    /// The location as the user named it, for messages.
    fn location(&self) -> &str;

    /// What the storage promises. Cheap: answered from what was learnt at opening.
    fn capabilities(&self) -> Capabilities;

    /// Asks the storage itself what it promises, where that is known only once it was reached. The place must exist.
    fn probe(&self) -> Result<Capabilities, StorageError> {
        Ok(self.capabilities())
    }

    /// Prepares an absent or empty location to hold objects; creates it where the storage can.
    /// A location that exists and is not empty is `AlreadyExists`.
    fn init(&self) -> Result<(), StorageError>;

    /// Lists objects whose key starts with `prefix` and sorts after `start_after`, in ascending byte order, at most `limit`.
    /// Temporary files of unfinished puts are never listed. A location that does not exist is `NotFound`.
    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError>;

    /// Name and size of one object.
    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError>;

    /// Reads `length` bytes from `offset`. Returns fewer only where the object ends; an offset past the end gives no bytes.
    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError>;

    /// The same, into memory that the caller has no more use for and that comes back filled: fresh memory may cost as much as the read.
    fn get_with(
        &self,
        key: &str,
        offset: u64,
        length: u64,
        memory: Vec<u8>,
    ) -> Result<Vec<u8>, StorageError> {
        drop(memory);
        self.get(key, offset, length)
    }

    /// Stores an object atomically: after an error the key is as it was before, or holds all of `bytes`.
    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError>;

    /// Deletes an object; a missing one is not an error.
    fn delete(&self, key: &str) -> Result<(), StorageError>;

    /// Space left, where the storage knows.
    fn space(&self) -> Result<Option<Space>, StorageError>;
}

/// Lists all objects under `prefix`, page by page, and hands each to `visit`.
pub fn list_all(
    storage: &dyn Storage,
    prefix: &str,
    mut visit: impl FnMut(ObjectInfo),
) -> Result<(), StorageError> {
    const PAGE: usize = 4096;
    let mut start_after = String::new();
    loop {
        let page = storage.list(prefix, &start_after, PAGE)?;
        let Some(last) = page.objects.last() else {
            return Ok(());
        };
        start_after.clone_from(&last.key);
        let more = page.more;
        page.objects.into_iter().for_each(&mut visit);
        if !more {
            return Ok(());
        }
    }
}
