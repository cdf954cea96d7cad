//! Opening a repository: recognise it, unlock it, load its index.

use std::sync::{Arc, Mutex};

use crate::crypto::Passphrase;
use crate::crypto::keys::{Keys, MasterKey};
use crate::environment::Environment;
use crate::format::FORMAT_VERSION;
use crate::format::codec::DecodeError;
use crate::format::config::{Config, ConfigTag, MAX_CONFIG_BYTES};
use crate::id::SlotId;
use crate::index::{HEAP_BYTES, Index, Loading};
use crate::read_error::ReadError;
use crate::storage::cache::MetadataCache;
use crate::storage::{Storage, StorageError, StorageErrorKind};

use super::fan_out::both;
use super::slots::SlotKeys;
use super::{Inner, OpenOptions, Repository, slots};

/// Key of the settings.
pub(super) const CONFIG_KEY: &str = "config";

/// A repository could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing is at the location.
    #[error("there is no repository at {location}: {why}")]
    NotFound {
        /// The location.
        location: String,
        /// What is missing, in the connector's words.
        why: String,
    },
    /// The location is there and empty.
    #[error("{location} is empty: it is not a repository")]
    Empty {
        /// The location.
        location: String,
    },
    /// Something else is there.
    #[error("{location} holds {what}, not a repository of this program")]
    Foreign {
        /// The location.
        location: String,
        /// What it looks like.
        what: &'static str,
    },
    /// Made by a newer program.
    #[error("{location} has format version {found}; this program reads up to {supported}")]
    UnsupportedVersion {
        /// The location.
        location: String,
        /// Its version.
        found: u8,
        /// The newest version that is understood.
        supported: u8,
    },
    /// No key slot opens with the passphrase.
    #[error("the passphrase does not open {location}")]
    WrongPassphrase {
        /// The location.
        location: String,
    },
    /// It is encrypted and no passphrase was given.
    #[error("{location} is encrypted and no passphrase was given")]
    PassphraseNeeded {
        /// The location.
        location: String,
    },
    /// It is damaged beyond opening.
    #[error("{what} of {location} is damaged: {why}")]
    Damaged {
        /// The location.
        location: String,
        /// The object.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl OpenError {
    pub(super) fn from_read(location: &str, error: ReadError) -> Self {
        match error {
            ReadError::Damaged { what, why } => Self::Damaged {
                location: location.to_owned(),
                what,
                why,
            },
            ReadError::Storage(error) => Self::Storage(error),
        }
    }
}

/// What stands at a location and is not unlocked yet.
#[derive(Debug)]
pub struct Found {
    storage: Arc<dyn Storage>,
    config: Config,
    tag: ConfigTag,
    far: bool,
    /// As they were when it was found.
    slots: Option<SlotKeys>,
}

impl Found {
    /// The settings: whether a passphrase is needed, the id, the sizes. They are not yet known to be genuine.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Opens the repository. `passphrase` is ignored by one without encryption. [`OpenOptions::far`] is what it was found with.
    pub fn unlock(
        &self,
        passphrase: Option<&Passphrase>,
        options: OpenOptions,
        environment: Environment,
    ) -> Result<Repository, OpenError> {
        let (storage, config) = (&self.storage, &self.config);
        let location = storage.location().to_owned();
        // The names of segments are no secret.
        let (keys, segments) = both(
            self.far,
            || self.unlock_keys(passphrase),
            || Index::list(storage.as_ref()),
        );
        let (keys, slot) = keys?;
        let cache = local_cache(&options, &keys).map(Arc::new);
        let heap_bytes = options.heap_index_bytes.unwrap_or(HEAP_BYTES);
        let index = Index::with_heap_bytes(config.mode(), options.cache_directory, heap_bytes);
        let loading = Loading {
            storage,
            keys: &keys,
            cache: cache.as_ref(),
            far: self.far,
        };
        let index_problems = segments
            .and_then(|segments| index.load_listed(loading, segments))
            .map_err(|error| OpenError::from_read(&location, error))?;
        for problem in &index_problems {
            tracing::warn!(
                object = problem.key,
                "index segment not usable: {}",
                problem.error
            );
        }
        let inner = Inner {
            storage: Arc::clone(storage),
            config: config.clone(),
            keys,
            index,
            index_problems,
            cache,
            far: self.far,
            environment,
            slot,
            adoption: Mutex::new(None),
            session: Mutex::new(()),
        };
        Ok(Repository {
            inner: Arc::new(inner),
            cached: true,
        })
    }

    /// The keys, if the passphrase is right and the settings were written with them.
    fn unlock_keys(&self, passphrase: Option<&Passphrase>) -> Result<(Keys, Option<SlotId>), OpenError> {
        let (master, slot) = self.unlock_master(passphrase)?;
        let keys = Keys::derive(&master, self.config.repository_id);
        if keys.config_tag(&self.tag.signed) != self.tag.tag {
            return Err(OpenError::Damaged {
                location: self.storage.location().to_owned(),
                what: CONFIG_KEY.to_owned(),
                why: "it was not written with this repository's key".to_owned(),
            });
        }
        Ok((keys, slot))
    }

    fn unlock_master(
        &self,
        passphrase: Option<&Passphrase>,
    ) -> Result<(MasterKey, Option<SlotId>), OpenError> {
        let storage = self.storage.as_ref();
        if let Some(key) = self.config.public_master_key {
            return Ok((MasterKey::new(key), None));
        }
        let Some(passphrase) = passphrase else {
            let location = storage.location().to_owned();
            return Err(OpenError::PassphraseNeeded { location });
        };
        let id = self.config.repository_id;
        let early = self.slots.as_ref();
        let unlocked = early.map(|slots| (slots, slots::unlock(storage, slots, id, passphrase)));
        let (master, slot) = match unlocked {
            Some((_, Ok(unlocked))) => unlocked,
            early => {
                let slots = slots::slot_keys(storage)?;
                match early {
                    // Passphrases may have been changed since, as by whoever took long to type this one.
                    Some((early, failed)) if *early == slots => failed?,
                    _ => slots::unlock(storage, &slots, id, passphrase)?,
                }
            }
        };
        Ok((master, Some(slot)))
    }
}

impl Repository {
    /// Reads the settings without unlocking: whether a passphrase is needed, the id, the sizes. They are not yet known to be genuine.
    pub fn read_config(storage: &dyn Storage) -> Result<Config, OpenError> {
        read_tagged_config(storage).map(|(config, _)| config)
    }

    /// Finds what stands in a storage, to be unlocked; `far` as in [`OpenOptions`].
    pub fn find_at(storage: Arc<dyn Storage>, far: bool) -> Result<Found, OpenError> {
        let (read, slots) = both(
            far,
            || read_tagged_config(storage.as_ref()),
            || far.then(|| slots::slot_keys(storage.as_ref())),
        );
        let (config, tag) = read?;
        Ok(Found {
            storage,
            config,
            tag,
            far,
            // Where they cannot be listed, whoever needs them will hear it.
            slots: slots.and_then(Result::ok),
        })
    }

    /// Opens a repository. `passphrase` is ignored by one without encryption.
    pub fn open(
        storage: Arc<dyn Storage>,
        passphrase: Option<&Passphrase>,
        options: OpenOptions,
        environment: Environment,
    ) -> Result<Self, OpenError> {
        Self::find_at(storage, options.far)?.unlock(passphrase, options, environment)
    }
}

/// The local copies of all repositories lie in one folder and share its limit; their keys tell them apart.
fn local_cache(options: &OpenOptions, keys: &Keys) -> Option<MetadataCache> {
    let folder = options.cache_directory.as_ref()?.join("metadata");
    let limit_bytes = options.cache_bytes?;
    Some(MetadataCache::new(folder, keys.cache_key(), limit_bytes))
}

fn read_tagged_config(storage: &dyn Storage) -> Result<(Config, ConfigTag), OpenError> {
    let location = storage.location().to_owned();
    let object = match storage.get(CONFIG_KEY, 0, MAX_CONFIG_BYTES as u64 + 1) {
        Ok(object) => object,
        Err(error) if error.kind == StorageErrorKind::NotFound => return Err(what_is_there(storage)?),
        Err(error) => return Err(error.into()),
    };
    match Config::decode(&object) {
        Ok(config) => Ok(config),
        Err(DecodeError::Version(found)) => Err(OpenError::UnsupportedVersion {
            location,
            found,
            supported: FORMAT_VERSION,
        }),
        Err(DecodeError::Magic) => match what_is_there(storage)? {
            foreign @ OpenError::Foreign { .. } => Err(foreign),
            _ => Err(OpenError::Damaged {
                location,
                what: CONFIG_KEY.to_owned(),
                why: "it does not begin as an object of plakar".to_owned(),
            }),
        },
        Err(error) => Err(OpenError::Damaged {
            location,
            what: CONFIG_KEY.to_owned(),
            why: error.to_string(),
        }),
    }
}

/// Tells a location without a usable `config` apart: absent, empty, another program's, or one of ours that lost its `config`.
fn what_is_there(storage: &dyn Storage) -> Result<OpenError, OpenError> {
    let location = storage.location().to_owned();
    let page = match storage.list("", "", 64) {
        Ok(page) => page,
        Err(error) if error.kind == StorageErrorKind::NotFound => {
            let why = error.message;
            return Ok(OpenError::NotFound { location, why });
        }
        Err(error) => return Err(error.into()),
    };
    if page.objects.is_empty() {
        return Ok(OpenError::Empty { location });
    }
    let has = |key: &str| page.objects.iter().any(|object| object.key == key);
    let any =
        |prefix: &str| -> Result<bool, StorageError> { Ok(!storage.list(prefix, "", 1)?.objects.is_empty()) };
    if has("CONFIG") || any("packfiles/")? || any("states/")? {
        return Ok(OpenError::Foreign {
            location,
            what: "a Kloset repository (made by the original plakar)",
        });
    }
    if any("packs/")? || any("index/")? {
        return Ok(OpenError::Damaged {
            location,
            what: CONFIG_KEY.to_owned(),
            why: "the object is missing; put it back from another copy".to_owned(),
        });
    }
    if has(CONFIG_KEY) && (any("data/")? || any("locks/")? || any("snapshots/")? || any("keys/")?) {
        return Ok(OpenError::Foreign {
            location,
            what: "a restic repository",
        });
    }
    Ok(OpenError::Foreign {
        location,
        what: "other files",
    })
}
