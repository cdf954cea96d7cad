//! An open connector as a [`Storage`]: each call goes to the pool, and what comes back is checked before it is believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use plakar_plugin_api as api;
use plakar_plugin_api::abi::{RawCall, RawConnectorBox, RawResult};
use plakar_plugin_api::abi_stable::std_types::{ROption, RSlice, RSliceMut};

use super::calls::{Calls, Content};
use super::error::{in_words, without_password};
use super::load::ConnectorInfo;
use super::open::{HostOptions, MAX_THREADS};
use super::pool::{NoAnswer, Pool};
use crate::storage::{
    Capabilities, ListPage, ObjectInfo, PutMode, PutOptions, Space, Storage, StorageError, StorageErrorKind,
};

/// Reads larger than this first ask for the object's size, so that no buffer is larger than the object.
const TRUSTED_LENGTH_BYTES: u64 = 64 << 20;

/// Calls that move no object.
const NO_CONTENT: Content = Content {
    sent: false,
    bytes: 0,
};

/// A location opened with a connector.
#[derive(Debug)]
pub struct PluginStorage {
    location: String,
    info: ConnectorInfo,
    capabilities: Capabilities,
    pool: Pool,
    calls: Arc<Calls>,
    request_timeout: Duration,
    close_timeout: Duration,
    closed: AtomicBool,
}

impl PluginStorage {
    pub(super) fn new(
        location: &str,
        info: ConnectorInfo,
        capabilities: &api::Capabilities,
        pool: Pool,
        calls: Arc<Calls>,
        options: &HostOptions,
    ) -> Self {
        Self {
            location: without_password(location),
            info,
            capabilities: Capabilities {
                preferred_pack_bytes: capabilities.preferred_pack_bytes.clamp(16 << 20, 128 << 20),
                concurrency: capabilities.concurrency.clamp(1, MAX_THREADS),
                ..plain_capabilities(capabilities)
            },
            pool,
            calls,
            request_timeout: options.request_timeout,
            close_timeout: options.close_timeout,
            closed: AtomicBool::new(false),
        }
    }

    /// The connector behind it.
    pub fn connector(&self) -> &ConnectorInfo {
        &self.info
    }

    /// Asks the connector to end all calls, present and future.
    pub fn cancel(&self) {
        self.calls.cancel();
    }

    /// Ends the connection in good order, within `HostOptions::close_timeout`. Dropping does the same and drops the error.
    pub fn close(&self) -> Result<(), StorageError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.call_within(
            self.close_timeout,
            ("close", &self.location),
            NO_CONTENT,
            RawConnectorBox::close,
        )
    }

    fn call<T: Send + 'static>(
        &self,
        operation: &'static str,
        subject: &str,
        work: impl FnOnce(&RawConnectorBox, RawCall) -> RawResult<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.call_within(self.request_timeout, (operation, subject), NO_CONTENT, work)
    }

    fn call_within<T: Send + 'static>(
        &self,
        patience: Duration,
        (operation, subject): (&'static str, &str),
        content: Content,
        work: impl FnOnce(&RawConnectorBox, RawCall) -> RawResult<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let timeout_ms = u64::try_from(patience.as_millis()).unwrap_or(0);
        let answer = self.pool.call(patience, content, move |connector, call| {
            work(connector, RawCall { timeout_ms, ..call })
                .into_result()
                .map_err(api::Error::from)
        });
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(api::Error {
                kind,
                message,
                retry_after,
                ..
            })) => {
                let subject = subject.to_owned();
                Err(StorageError {
                    kind: kind_of(kind),
                    operation,
                    subject,
                    message,
                    retry_after,
                })
            }
            Err(no_answer) => Err(silence(no_answer, operation, subject)),
        }
    }

    fn lied(&self, operation: &'static str, subject: &str, what: &str) -> StorageError {
        let message = format!("the connector {} broke its contract: {what}", self.info.name);
        StorageError::new(StorageErrorKind::Other, operation, subject, message)
    }
}

fn silence(no_answer: NoAnswer, operation: &'static str, subject: &str) -> StorageError {
    let (kind, message) = match no_answer {
        NoAnswer::Silent(waited) => (
            StorageErrorKind::Timeout,
            format!("the connector has not answered for {}", in_words(waited)),
        ),
        NoAnswer::AllHang => (
            StorageErrorKind::Timeout,
            "the connector no longer answers: all its threads hang".to_owned(),
        ),
        NoAnswer::Broken => (
            StorageErrorKind::Panicked,
            "the thread that called the connector failed".to_owned(),
        ),
    };
    StorageError::new(kind, operation, subject, message)
}

impl Drop for PluginStorage {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::debug!("{error}");
        }
    }
}

impl Storage for PluginStorage {
    fn location(&self) -> &str {
        &self.location
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.clone()
    }

    fn probe(&self) -> Result<Capabilities, StorageError> {
        let found = self.call("open", &self.location, RawConnectorBox::probe)?;
        Ok(plain_capabilities(&found.into()))
    }

    fn init(&self) -> Result<(), StorageError> {
        self.call("initialise", &self.location, RawConnectorBox::init)
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        let subject = if prefix.is_empty() {
            self.location.as_str()
        } else {
            prefix
        };
        let (owned_prefix, owned_after) = (prefix.to_owned(), start_after.to_owned());
        let raw = self.call("list", subject, move |connector, call| {
            connector.list(
                call,
                owned_prefix.as_str().into(),
                owned_after.as_str().into(),
                limit as u64,
            )
        })?;
        let page = api::ListPage::from(raw);
        let objects: Vec<ObjectInfo> = page
            .objects
            .into_iter()
            .map(|object| ObjectInfo {
                key: object.key,
                size_bytes: object.size_bytes,
            })
            .collect();
        match listing_fault(&objects, prefix, start_after, limit) {
            Some(fault) => Err(self.lied("list", subject, fault)),
            None => Ok(ListPage {
                more: page.more && !objects.is_empty(),
                objects,
            }),
        }
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        let owned = key.to_owned();
        let raw = self.call("stat", key, move |connector, call| {
            connector.stat(call, owned.as_str().into())
        })?;
        if raw.key.as_str() != key {
            return Err(self.lied("stat", key, "it answered for another object"));
        }
        Ok(ObjectInfo {
            key: key.to_owned(),
            size_bytes: raw.size_bytes,
        })
    }

    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        self.get_with(key, offset, length, Vec::new())
    }

    fn get_with(
        &self,
        key: &str,
        offset: u64,
        length: u64,
        mut memory: Vec<u8>,
    ) -> Result<Vec<u8>, StorageError> {
        let length = if length > TRUSTED_LENGTH_BYTES {
            length.min(self.stat(key)?.size_bytes.saturating_sub(offset))
        } else {
            length
        };
        let unsupported = |_too_large| {
            StorageError::new(
                StorageErrorKind::Unsupported,
                "read",
                key,
                "the length is too large for this machine",
            )
        };
        let length = usize::try_from(length).map_err(unsupported)?;
        let owned = key.to_owned();
        let content = Content {
            sent: false,
            bytes: length as u64,
        };
        let asked = ("read", key);
        let (filled, mut buffer) =
            self.call_within(self.request_timeout, asked, content, move |connector, call| {
                if memory.capacity() < length {
                    // `vec!` takes zeroed pages and ends the program when there are none, so a large wish is tried out before.
                    let mut trial: Vec<u8> = Vec::new();
                    if length as u64 > TRUSTED_LENGTH_BYTES && trial.try_reserve_exact(length).is_err() {
                        let message = format!("there is no memory for {length} bytes");
                        return RawResult::RErr(api::Error::new(api::ErrorKind::Other, message).into());
                    }
                    drop(trial);
                    memory = vec![0; length];
                }
                memory.resize(length, 0);
                let mut buffer = memory;
                let filled = connector.get_into(
                    call,
                    owned.as_str().into(),
                    offset,
                    RSliceMut::from_mut_slice(&mut buffer),
                );
                filled.map(|filled| (filled, buffer))
            })?;
        if filled > buffer.len() as u64 {
            return Err(self.lied("read", key, "it returned more than asked"));
        }
        buffer.truncate(usize::try_from(filled).unwrap_or(length));
        Ok(buffer)
    }

    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        let mode = match options.mode {
            PutMode::Create => api::PutMode::Create,
            PutMode::Replace => api::PutMode::Replace,
        };
        let options = api::PutOptions {
            mode,
            durable: options.durable,
            blake3: options.blake3,
        };
        let owned = key.to_owned();
        let content = Content {
            sent: true,
            bytes: bytes.len() as u64,
        };
        let asked = ("write", key);
        self.call_within(self.request_timeout, asked, content, move |connector, call| {
            connector.put(
                call,
                owned.as_str().into(),
                RSlice::from_slice(&bytes),
                options.into(),
            )
        })
    }

    fn delete(&self, key: &str) -> Result<(), StorageError> {
        let owned = key.to_owned();
        self.call("delete", key, move |connector, call| {
            connector.delete(call, owned.as_str().into())
        })
    }

    fn space(&self) -> Result<Option<Space>, StorageError> {
        let found = self.call(
            "ask for the free space of",
            &self.location,
            RawConnectorBox::space,
        )?;
        Ok(match found {
            ROption::RSome(space) => Some(Space {
                total_bytes: space.total_bytes,
                available_bytes: space.available_bytes,
            }),
            ROption::RNone => None,
        })
    }
}

/// What is wrong with a page, if anything is.
fn listing_fault(
    objects: &[ObjectInfo],
    prefix: &str,
    start_after: &str,
    limit: usize,
) -> Option<&'static str> {
    if objects.len() > limit {
        return Some("it listed more than asked");
    }
    let mut last = start_after;
    for ObjectInfo { key, .. } in objects {
        if !key.starts_with(prefix) {
            return Some("it listed a key outside the prefix");
        }
        if key.as_str() <= last {
            return Some("its listing is out of order");
        }
        last = key;
    }
    None
}

fn plain_capabilities(found: &api::Capabilities) -> Capabilities {
    Capabilities {
        atomic_put: found.atomic_put,
        durable_put: found.durable_put,
        strongly_consistent: found.strongly_consistent,
        exclusive_create: found.exclusive_create,
        max_object_bytes: found.max_object_bytes,
        preferred_pack_bytes: found.preferred_pack_bytes,
        concurrency: found.concurrency,
    }
}

/// The engine's word for a connector's kind of error.
pub(super) fn kind_of(kind: api::ErrorKind) -> StorageErrorKind {
    match kind {
        api::ErrorKind::NotFound => StorageErrorKind::NotFound,
        api::ErrorKind::AlreadyExists => StorageErrorKind::AlreadyExists,
        api::ErrorKind::Transient => StorageErrorKind::Transient,
        api::ErrorKind::Timeout => StorageErrorKind::Timeout,
        api::ErrorKind::Auth => StorageErrorKind::Auth,
        api::ErrorKind::Permission => StorageErrorKind::Permission,
        api::ErrorKind::NoSpace => StorageErrorKind::NoSpace,
        api::ErrorKind::Corrupt => StorageErrorKind::Corrupt,
        api::ErrorKind::Unsupported => StorageErrorKind::Unsupported,
        api::ErrorKind::Cancelled => StorageErrorKind::Cancelled,
        api::ErrorKind::Config => StorageErrorKind::Config,
        api::ErrorKind::Panicked => StorageErrorKind::Panicked,
        _ => StorageErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_believed_only_when_it_keeps_the_contract() {
        let page = |keys: &[&str]| -> Vec<ObjectInfo> {
            keys.iter()
                .map(|key| ObjectInfo {
                    key: (*key).to_owned(),
                    size_bytes: 1,
                })
                .collect()
        };
        assert_eq!(listing_fault(&page(&["p/a", "p/b"]), "p/", "p/", 2), None);
        assert_eq!(listing_fault(&[], "p/", "", 0), None);
        for (keys, after) in [
            (&["p/b", "p/a"], ""),
            (&["p/a", "p/a"], ""),
            (&["p/a", "p/b"], "p/a"),
            (&["p/a", "q"], ""),
        ] {
            assert!(
                listing_fault(&page(keys), "p/", after, 9).is_some(),
                "{keys:?} after {after:?}"
            );
        }
        assert!(listing_fault(&page(&["p/a", "p/b"]), "p/", "", 1).is_some());
    }
}
