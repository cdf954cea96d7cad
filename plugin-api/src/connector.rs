//! The trait a connector implements. Everything about the ABI is in the glue, not here.

use crate::error::Result;
use crate::host::Host;
use crate::settings::Settings;
use crate::types::{Capabilities, ListPage, ObjectInfo, PutOptions, Space};

/// A place that keeps named, immutable objects under flat keys (see [`check_key`](crate::check_key)).
///
/// All methods block; the host calls them from its own threads, several at a time. An asynchronous connector owns
/// its runtime and blocks on it. Retries, back-off, limits and verification are the host's: report, do not retry.
/// A panic in a method is caught and becomes a `Panicked` error of that call.
///
/// Keys are names, not paths: `/` is a character like any other, and no method may be fooled into leaving the
/// location by one. Objects are opaque sealed bytes.
pub trait Connector: Send + Sync + Sized + 'static {
    /// Makes a handle for `location`, as the user wrote it: a URL, or (scheme `fs`) a plain path.
    ///
    /// # Behavior
    /// - Checks location and settings; what is wrong with them is `Config`, and an unknown setting is wrong.
    /// - The place itself need not exist: `init` may follow. A connection may be made here or later.
    /// - Refused credentials are `Auth`.
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self>;

    /// What the storage promises, from what is known now. No I/O.
    fn capabilities(&self) -> Capabilities;

    /// Checks that the place is there and usable, and finds out what it promises.
    ///
    /// # Behavior
    /// - A place that does not exist is `NotFound`; one of the wrong kind (a file, say) is `Config`.
    /// - Writes nothing that stays.
    fn probe(&self) -> Result<Capabilities>;

    /// Prepares an absent or empty place to hold objects, and creates it where the storage can.
    ///
    /// # Behavior
    /// - A place that is not empty is `AlreadyExists`, and stays as it was.
    /// - Survives a loss of power where the storage can promise that.
    fn init(&self) -> Result<()>;

    /// Lists objects whose key starts with `prefix` and sorts after `start_after`: at most `limit`.
    ///
    /// # Behavior
    /// - In ascending byte order of whole keys: `a-b` before `a/b`, because `-` is less than `/`.
    /// - `prefix` is any beginning of a key: `packs/a` matches `packs/ab/x`. Empty matches all.
    /// - `start_after` need not exist; empty means from the start.
    /// - `more` may be true when nothing follows, never false when something does.
    /// - Lists whatever was put before the call began; an unfinished `put` and foreign files are not listed.
    /// - No match is an empty page; a place that does not exist is `NotFound`.
    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage>;

    /// Name and size of one object.
    ///
    /// # Behavior
    /// - A missing object is `NotFound`.
    fn stat(&self, key: &str) -> Result<ObjectInfo>;

    /// Reads from `offset` into `buffer`, and returns how many bytes it filled.
    ///
    /// # Behavior
    /// - Fills the whole buffer unless the object ends before; an offset at or past the end gives 0.
    /// - A missing object is `NotFound`, also for an empty buffer.
    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Stores an object.
    ///
    /// # Behavior
    /// - Atomic: others see no object (or the old one), then the whole new one. After an error the key is as it was
    ///   before, or holds all of `bytes`.
    /// - `Create` over an existing key is `AlreadyExists`, and the object stays as it was.
    /// - `Replace` works whether or not the key exists.
    /// - Once it returns, every reader sees the object: in `stat`, `get_into` and `list`.
    /// - With `durable` it returns only when object and name would survive a loss of power.
    /// - `Unsupported` for a key outside the grammar.
    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()>;

    /// Deletes an object.
    ///
    /// # Behavior
    /// - A missing object is not an error.
    fn delete(&self, key: &str) -> Result<()>;

    /// Space left, where the storage knows.
    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    /// Ends the connection in good order. No call follows; the handle is dropped next.
    fn close(&self) -> Result<()> {
        Ok(())
    }
}
