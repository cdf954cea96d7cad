//! What the tests of plugins share: built libraries, private folders with a registry, and a sample object.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plakar_core::plugin::{HostOptions, PluginError, Registry};
use plakar_core::storage::{PutMode, PutOptions, Storage, StorageError};

const PACKAGES: [&str; 6] = [
    "plakar-connector-fs",
    "plakar-hostile-misbehaving",
    "plakar-hostile-wrong-abi",
    "plakar-hostile-older-abi",
    "plakar-hostile-newer-abi",
    "plakar-hostile-runtime",
];

/// The folder where cargo puts libraries: above the one of test programs. Builds them, once, where they are not fresh.
pub fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| plakar_testkit::built::packages(&PACKAGES))
}

/// The built library of a package.
pub fn library(package: &str) -> PathBuf {
    built().join(format!("lib{}.so", package.replace('-', "_")))
}

/// A private folder with copies of libraries and a registry.
pub struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file that only its owner can change.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// Copies a package's library under another name.
    pub fn copy(&self, package: &str, name: &str) -> PathBuf {
        self.write(name, fs::read(library(package)).unwrap())
    }

    /// Writes a registry of one connector, pinned to what its library is now, with more lines at its end.
    pub fn register(&self, scheme: &str, library: &str, more: &str) -> PathBuf {
        let pin = blake3::hash(&fs::read(self.path().join(library)).unwrap());
        self.write(
            "connectors.toml",
            entry(scheme, library, &format!("blake3 = \"{pin}\"\n{more}")),
        )
    }

    pub fn registry(&self) -> Registry {
        Registry::load(&[self.path().join("connectors.toml")], &[]).unwrap()
    }
}

pub fn entry(scheme: &str, library: &str, more: &str) -> String {
    format!("[[connector]]\nschemes = [\"{scheme}\"]\nlibrary = \"{library}\"\n{more}\n")
}

/// A folder with the misbehaving connector, registered.
pub fn misbehaving() -> Folder {
    let folder = Folder::new();
    folder.copy("plakar-hostile-misbehaving", "bad.so");
    folder.register("hostile", "bad.so", "");
    folder
}

/// Opens the misbehaving connector with a fault. Impatient: half a second.
pub fn open_with(fault: &str) -> Result<Arc<dyn Storage>, PluginError> {
    misbehaving()
        .registry()
        .open("hostile://here", &settings(&[("fault", fault)]), &impatient())
}

pub fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

pub fn impatient() -> HostOptions {
    let short = Duration::from_millis(500);
    HostOptions {
        open_timeout: short,
        request_timeout: short,
        close_timeout: short,
        ..HostOptions::default()
    }
}

pub fn put(storage: &dyn Storage, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
    let options = PutOptions {
        mode: PutMode::Create,
        durable: true,
        blake3: *blake3::hash(bytes).as_bytes(),
    };
    storage.put(key, Arc::new(bytes.to_vec()), options)
}

/// The message of a failure, which is one line.
pub fn message<T>(outcome: Result<T, PluginError>) -> String {
    let Err(error) = outcome else {
        panic!("this should have failed")
    };
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}
