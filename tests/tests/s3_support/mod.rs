//! What the tests of the S3 connector share: the built library, opened as the program opens it.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use plakar_core::plugin::{HostOptions, PluginError, PluginStorage, Registry};
use plakar_core::storage::{PutMode, PutOptions, Storage, StorageError};

/// The connectors of the build folder, with that for S3 built.
pub fn registry() -> Registry {
    Registry::load(&[], &[built().to_owned()]).unwrap()
}

/// The folder where cargo puts libraries.
pub fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| plakar_testkit::built::packages(&["plakar-connector-s3"]))
}

pub type Settings = BTreeMap<String, String>;

/// The same settings with others added or replaced.
pub fn with(settings: &Settings, more: &[(&str, &str)]) -> Settings {
    let mut settings = settings.clone();
    settings.extend(
        more.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    settings
}

#[track_caller]
pub fn open(location: &str, settings: &Settings) -> PluginStorage {
    try_open(location, settings).unwrap()
}

pub fn try_open(location: &str, settings: &Settings) -> Result<PluginStorage, PluginError> {
    registry().open_connector(location, settings, &HostOptions::default())
}

pub fn put(storage: &dyn Storage, key: &str, bytes: &[u8], mode: PutMode) -> Result<(), StorageError> {
    let options = PutOptions {
        mode,
        durable: true,
        blake3: *blake3::hash(bytes).as_bytes(),
    };
    storage.put(key, Arc::new(bytes.to_vec()), options)
}

pub fn create(storage: &dyn Storage, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
    put(storage, key, bytes, PutMode::Create)
}

/// All keys, listed in pages.
pub fn keys(storage: &dyn Storage, prefix: &str, limit: usize) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    loop {
        let after = keys.last().cloned().unwrap_or_default();
        let page = storage.list(prefix, &after, limit).unwrap();
        keys.extend(page.objects.iter().map(|object| object.key.clone()));
        if page.objects.is_empty() || !page.more {
            return keys;
        }
    }
}

/// A failure's message, which must be one line without the secret.
#[track_caller]
pub fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    assert!(
        !text.contains('\n') && !text.contains("89abcdef0123456789abcdef01234567"),
        "{text}"
    );
    assert!(!text.contains("<?xml") && !text.contains("<Error>"), "{text}");
    text
}
