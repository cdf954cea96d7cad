//! The suite of the contract on an open location, through the boundary as the engine uses it: `connector check`.

use std::collections::BTreeMap;
use std::sync::Arc;

use plakar_plugin_api as api;
use plakar_plugin_api::conformance::{Report, Target, Verdict, run_telling};

use super::adapter::PluginStorage;
use super::error::PluginError;
use super::open::HostOptions;
use super::registry::Registry;
use crate::storage::{PutMode, PutOptions, Storage, StorageError, StorageErrorKind};

/// Runs the suite on a location that exists. It writes under one throw-away folder of keys and removes it.
pub fn check(
    registry: &Registry,
    location: &str,
    settings: &BTreeMap<String, String>,
    options: &HostOptions,
) -> Result<Report, PluginError> {
    check_telling(registry, location, settings, options, &mut |_| {})
}

/// Like [`check`], and tells each verdict as soon as it is reached.
pub fn check_telling(
    registry: &Registry,
    location: &str,
    settings: &BTreeMap<String, String>,
    options: &HostOptions,
    tell: &mut dyn FnMut(&Verdict),
) -> Result<Report, PluginError> {
    // That it cannot be opened or reached, or is not there, is no verdict on a connector.
    let storage = registry.open_connector(location, settings, options)?;
    if let Err(error) = storage.list("", "", 1)
        && matches!(
            error.kind,
            StorageErrorKind::NotFound
                | StorageErrorKind::Auth
                | StorageErrorKind::Permission
                | StorageErrorKind::Config
                | StorageErrorKind::Transient
                | StorageErrorKind::Timeout
        )
    {
        return Err(PluginError::Open {
            location: storage.location().to_owned(),
            kind: error.kind,
            message: error.message,
        });
    }
    drop(storage);
    Ok(run_telling(
        &|| match registry.open_connector(location, settings, options) {
            Ok(storage) => Ok(Box::new(OpenLocation(storage))),
            Err(error) => Err(api::Error::new(api::ErrorKind::Other, error.to_string())),
        },
        tell,
    ))
}

struct OpenLocation(PluginStorage);

impl Target for OpenLocation {
    fn probe(&self) -> api::Result<api::Capabilities> {
        let found = self.0.probe().map_err(plain)?;
        Ok(api::Capabilities {
            atomic_put: found.atomic_put,
            durable_put: found.durable_put,
            strongly_consistent: found.strongly_consistent,
            exclusive_create: found.exclusive_create,
            max_object_bytes: found.max_object_bytes,
            preferred_pack_bytes: found.preferred_pack_bytes,
            concurrency: found.concurrency,
        })
    }

    fn init(&self) -> api::Result<()> {
        self.0.init().map_err(plain)
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> api::Result<api::ListPage> {
        let page = self.0.list(prefix, start_after, limit).map_err(plain)?;
        let objects = page.objects.into_iter();
        let objects = objects.map(|object| api::ObjectInfo {
            key: object.key,
            size_bytes: object.size_bytes,
        });
        Ok(api::ListPage {
            objects: objects.collect(),
            more: page.more,
        })
    }

    fn stat(&self, key: &str) -> api::Result<api::ObjectInfo> {
        let object = self.0.stat(key).map_err(plain)?;
        Ok(api::ObjectInfo {
            key: object.key,
            size_bytes: object.size_bytes,
        })
    }

    fn get(&self, key: &str, offset: u64, length: usize) -> api::Result<Vec<u8>> {
        self.0.get(key, offset, length as u64).map_err(plain)
    }

    fn put(&self, key: &str, bytes: &[u8], options: api::PutOptions) -> api::Result<()> {
        let mode = match options.mode {
            api::PutMode::Create => PutMode::Create,
            api::PutMode::Replace => PutMode::Replace,
        };
        let options = PutOptions {
            mode,
            durable: options.durable,
            blake3: options.blake3,
        };
        self.0.put(key, Arc::new(bytes.to_vec()), options).map_err(plain)
    }

    fn delete(&self, key: &str) -> api::Result<()> {
        self.0.delete(key).map_err(plain)
    }

    fn space(&self) -> api::Result<Option<api::Space>> {
        let found = self.0.space().map_err(plain)?;
        Ok(found.map(|space| api::Space {
            total_bytes: space.total_bytes,
            available_bytes: space.available_bytes,
        }))
    }

    fn close(&self) -> api::Result<()> {
        self.0.close().map_err(plain)
    }

    fn cancel(&self) -> bool {
        self.0.cancel();
        true
    }
}

fn plain(error: StorageError) -> api::Error {
    let kind = match error.kind {
        StorageErrorKind::NotFound => api::ErrorKind::NotFound,
        StorageErrorKind::AlreadyExists => api::ErrorKind::AlreadyExists,
        StorageErrorKind::Transient => api::ErrorKind::Transient,
        StorageErrorKind::Timeout => api::ErrorKind::Timeout,
        StorageErrorKind::Auth => api::ErrorKind::Auth,
        StorageErrorKind::Permission => api::ErrorKind::Permission,
        StorageErrorKind::NoSpace => api::ErrorKind::NoSpace,
        StorageErrorKind::Corrupt => api::ErrorKind::Corrupt,
        StorageErrorKind::Unsupported => api::ErrorKind::Unsupported,
        StorageErrorKind::Cancelled => api::ErrorKind::Cancelled,
        StorageErrorKind::Config => api::ErrorKind::Config,
        StorageErrorKind::Panicked => api::ErrorKind::Panicked,
        StorageErrorKind::Other => api::ErrorKind::Other,
    };
    api::Error {
        kind,
        message: error.message,
        retry_after: error.retry_after,
    }
}
