//! What the tests of the SFTP connector share: the built library in a registry, and short ways to open and put.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use plakar_core::plugin::{HostOptions, PluginError, Registry};
use plakar_core::storage::{PutMode, PutOptions, Storage, StorageError, StorageErrorKind};

pub type Settings = BTreeMap<String, String>;

/// The folder where cargo puts libraries. Builds the connector, once, where it is not fresh.
pub fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| plakar_testkit::built::packages(&["plakar-connector-sftp"]))
}

/// A registry that knows the connector, as one beside the program does.
pub fn registry() -> Registry {
    Registry::load(&[], &[built().to_owned()]).unwrap()
}

/// Settings with some more, or others.
pub fn with(settings: &Settings, more: &[(&str, &str)]) -> Settings {
    let mut settings = settings.clone();
    settings.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    settings
}

pub fn try_open(location: &str, settings: &Settings) -> Result<Arc<dyn Storage>, PluginError> {
    registry().open(location, settings, &HostOptions::default())
}

#[track_caller]
pub fn open(location: &str, settings: &Settings) -> Arc<dyn Storage> {
    try_open(location, settings).unwrap_or_else(|error| panic!("{location}: {error}"))
}

/// Kind and message of a refused opening. The message is one line.
#[track_caller]
pub fn refused(location: &str, settings: &Settings) -> (StorageErrorKind, String) {
    match try_open(location, settings) {
        Err(PluginError::Open { kind, message, .. }) => {
            assert!(!message.contains('\n'), "{message}");
            (kind, message)
        }
        Err(other) => panic!("{location}: {other}"),
        Ok(_) => panic!("{location} should not open"),
    }
}

pub fn options(bytes: &[u8], mode: PutMode) -> PutOptions {
    PutOptions {
        mode,
        durable: true,
        blake3: *blake3::hash(bytes).as_bytes(),
    }
}

pub fn put(storage: &dyn Storage, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
    storage.put(key, Arc::new(bytes.to_vec()), options(bytes, PutMode::Create))
}

pub fn replace(storage: &dyn Storage, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
    storage.put(key, Arc::new(bytes.to_vec()), options(bytes, PutMode::Replace))
}
