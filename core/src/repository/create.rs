//! Making a repository: an empty location gets a key slot, then the `config` object, whose presence makes it a repository.

use std::sync::Arc;

use zeroize::Zeroizing;

use crate::crypto::keys::{Keys, MasterKey};
use crate::crypto::{CryptoError, Passphrase};
use crate::environment::{EntropyError, Environment};
use crate::format::config::{ChunkerSettings, Compression, Config};
use crate::id::RepositoryId;
use crate::storage::{
    Capabilities, ListPage, ObjectInfo, PutMode, PutOptions, Storage, StorageError, StorageErrorKind,
};

use super::slots::store_slot;
use super::{OpenError, OpenOptions, Repository};

/// What is fixed when a repository is created.
#[derive(Debug)]
pub struct CreateOptions {
    /// The passphrase of the first key slot; `None` for a repository without encryption.
    pub passphrase: Option<Passphrase>,
    /// How frames are compressed.
    pub compression: Compression,
    /// What the first key slot is called.
    pub slot_label: String,
    /// How files are cut.
    pub chunker: ChunkerSettings,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            passphrase: None,
            compression: Compression::Zstd(3),
            slot_label: String::new(),
            chunker: ChunkerSettings {
                min_bytes: 256 << 10,
                average_bytes: 1 << 20,
                max_bytes: 4 << 20,
            },
        }
    }
}

/// A repository could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Something is at the location.
    #[error("{location} is not empty")]
    NotEmpty {
        /// The location.
        location: String,
    },
    /// The storage cannot keep what the engine must rely on.
    #[error("the storage at {location} does not promise {promise}")]
    Unfit {
        /// The location.
        location: String,
        /// What is missing.
        promise: &'static str,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The key derivation failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// What was just created cannot be opened.
    #[error("the new repository cannot be opened")]
    Open(#[source] OpenError),
}

/// The window of zstd's usual level, 2 MiB, and a quarter more, which it slides over: of frames without that the sources of Linux are 0.4 %
/// larger, and 3 MiB gain 0.1 % for a longer way to each file.
const FRAME_BYTES: u32 = 5 << 19;

impl Repository {
    /// Whether a repository may be created there, as far as a look tells: before anybody is asked for a passphrase.
    pub fn has_room(storage: &dyn Storage) -> Result<bool, CreateError> {
        match storage.list("", "", 65) {
            Ok(page) => Ok(page.objects.is_empty() || is_abandoned(&page)),
            Err(error) if error.kind == StorageErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates a repository at an empty or absent location and opens it.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the passphrase in it is not to be used again"
    )]
    pub fn create(
        storage: Arc<dyn Storage>,
        options: CreateOptions,
        environment: Environment,
    ) -> Result<Self, CreateError> {
        prepare(storage.as_ref())?;
        let repository_id = RepositoryId(environment.random()?);
        let master = MasterKey::new(*Zeroizing::new(environment.random::<32>()?));
        let config = Config {
            repository_id,
            created: environment.clock.now(),
            encrypted: options.passphrase.is_some(),
            chunker: options.chunker,
            compression: options.compression,
            frame_bytes: FRAME_BYTES,
            pack_bytes: u32::try_from(pack_bytes(storage.as_ref())).unwrap_or(32 << 20),
            public_master_key: options.passphrase.is_none().then(|| *master.as_bytes()),
        };
        let keys = Keys::derive(&master, repository_id);
        if let Some(passphrase) = &options.passphrase {
            store_slot(
                storage.as_ref(),
                &keys,
                repository_id,
                passphrase,
                &options.slot_label,
                &environment,
            )?;
        }
        let object = config.encode(|signed| keys.config_tag(signed));
        let blake3 = *blake3::hash(&object).as_bytes();
        storage.put(
            super::open::CONFIG_KEY,
            Arc::new(object),
            PutOptions {
                mode: PutMode::Create,
                durable: true,
                blake3,
            },
        )?;
        Self::open(
            storage,
            options.passphrase.as_ref(),
            OpenOptions::default(),
            environment,
        )
        .map_err(CreateError::Open)
    }
}

/// Checks the storage's promises and that nothing is there. What an interrupted creation left (key slots and no `config`) is cleared away.
fn prepare(storage: &dyn Storage) -> Result<(), CreateError> {
    check_promises(storage, &storage.capabilities())?;
    make_room(storage)?;
    // Some storages know only once they are there.
    check_promises(storage, &storage.probe()?)
}

fn check_promises(storage: &dyn Storage, capabilities: &Capabilities) -> Result<(), CreateError> {
    let location = storage.location().to_owned();
    for (kept, promise) in [
        (
            capabilities.atomic_put,
            "that an object is stored whole or not at all",
        ),
        (
            capabilities.strongly_consistent,
            "that an object can be read and listed once it is stored",
        ),
        (
            capabilities.max_object_bytes >= pack_bytes(storage),
            "that an object can be as large as a pack",
        ),
    ] {
        if !kept {
            return Err(CreateError::Unfit { location, promise });
        }
    }
    Ok(())
}

/// How large packs are to be in this storage.
fn pack_bytes(storage: &dyn Storage) -> u64 {
    storage
        .capabilities()
        .preferred_pack_bytes
        .clamp(1 << 16, 128 << 20)
}

/// Whether this is what an interrupted creation leaves.
fn is_abandoned(page: &ListPage) -> bool {
    let is_slot = |object: &ObjectInfo| super::slots::slot_id_of(&object.key).is_some();
    !page.more && !page.objects.is_empty() && page.objects.iter().all(is_slot)
}

fn make_room(storage: &dyn Storage) -> Result<(), CreateError> {
    let location = storage.location().to_owned();
    match storage.init() {
        Ok(()) => Ok(()),
        Err(error) if error.kind == StorageErrorKind::AlreadyExists => {
            let page = storage.list("", "", 65)?;
            if !is_abandoned(&page) {
                return Err(CreateError::NotEmpty { location });
            }
            for object in page.objects {
                storage.delete(&object.key)?;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
