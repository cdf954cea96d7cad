//! Key slots: each holds the master key under one passphrase, so that passphrases come and go without rewriting data.

use std::sync::Arc;

use crate::crypto::keys::{Keys, MasterKey};
use crate::crypto::{CryptoError, Passphrase, kdf};
use crate::environment::{EntropyError, Environment, Timestamp};
use crate::format::key_slot::{KeySlot, MAX_SLOT_BYTES, SlotHeader};
use crate::id::{RepositoryId, SlotId};
use crate::read_error::{DamageContext, ReadError};
use crate::storage::{PutMode, PutOptions, Storage, StorageError, list_all};

use super::create::CreateError;
use super::{OpenError, Repository};

/// A repository has at most this many slots: each wrong one costs a key derivation.
const MAX_SLOTS: usize = 64;

/// A key slot, for listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// Its id.
    pub id: SlotId,
    /// What the user calls it.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether this session was unlocked with it.
    pub unlocked_by_us: bool,
}

/// A key slot could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The repository is not encrypted.
    #[error("the repository is not encrypted: it has no passphrases")]
    NotEncrypted,
    /// It is the last one.
    #[error("key slot {0} is the last one: without it the repository could never be opened again")]
    LastSlot(SlotId),
    /// No such slot.
    #[error("there is no key slot {0}")]
    Missing(SlotId),
    /// No more fit.
    #[error("the repository has {MAX_SLOTS} key slots already; remove one first")]
    TooMany,
    /// Reading failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Writing failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The key derivation failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

fn slot_key(id: SlotId) -> String {
    format!("keys/{id}")
}

/// The slot id of a key, if it is the key of a slot.
pub(super) fn slot_id_of(key: &str) -> Option<SlotId> {
    key.strip_prefix("keys/")?.parse().ok()
}

/// Keys of objects among the slots, with the ids of those that are slots.
pub(super) type SlotKeys = Vec<(String, Option<SlotId>)>;

/// Lists them.
pub(super) fn slot_keys(storage: &dyn Storage) -> Result<SlotKeys, StorageError> {
    let mut keys = Vec::new();
    list_all(storage, "keys/", |object| {
        let id = slot_id_of(&object.key);
        keys.push((object.key, id));
    })?;
    Ok(keys)
}

fn read_slot(
    storage: &dyn Storage,
    key: &str,
    id: SlotId,
    repository: RepositoryId,
) -> Result<KeySlot, ReadError> {
    let object = storage
        .get(key, 0, MAX_SLOT_BYTES as u64 + 1)
        .map_err(|error| ReadError::required(key, error))?;
    let slot = KeySlot::decode(&object).damage(key)?;
    if slot.header.id != id || slot.header.repository_id != repository {
        return Err(ReadError::damaged(key, "it belongs to another place"));
    }
    Ok(slot)
}

/// Opens the master key with whichever of the slots the passphrase fits.
pub(super) fn unlock(
    storage: &dyn Storage,
    slots: &SlotKeys,
    repository: RepositoryId,
    passphrase: &Passphrase,
) -> Result<(MasterKey, SlotId), OpenError> {
    let location = storage.location().to_owned();
    let mut damage = None;
    let mut usable = 0;
    for (key, id) in slots.iter().take(MAX_SLOTS) {
        let Some(id) = *id else { continue };
        match read_slot(storage, key, id, repository) {
            Ok(slot) => {
                usable += 1;
                if let Ok(master) = kdf::open_slot(&slot, passphrase) {
                    return Ok((master, id));
                }
            }
            Err(error) if error.is_damage() => {
                tracing::warn!("{error}");
                damage = Some(error);
            }
            Err(error) => return Err(OpenError::from_read(&location, error)),
        }
    }
    match damage {
        Some(error) if usable == 0 => Err(OpenError::from_read(&location, error)),
        None if usable == 0 => Err(OpenError::Damaged {
            location,
            what: "keys/".to_owned(),
            why: "the repository is encrypted and has no key slot; put one back from another copy".to_owned(),
        }),
        _ => Err(OpenError::WrongPassphrase { location }),
    }
}

/// Seals the master key under a passphrase and stores the slot.
pub(super) fn store_slot(
    storage: &dyn Storage,
    keys: &Keys,
    repository_id: RepositoryId,
    passphrase: &Passphrase,
    label: &str,
    environment: &Environment,
) -> Result<SlotId, CreateError> {
    let header = SlotHeader {
        id: SlotId(environment.random()?),
        repository_id,
        label: label.to_owned(),
        created: environment.clock.now(),
        cost: kdf::DEFAULT_COST,
        salt: environment.random()?,
    };
    let id = header.id;
    let object = kdf::seal_slot(header, passphrase, &keys.master())?.encode();
    let blake3 = *blake3::hash(&object).as_bytes();
    let options = PutOptions {
        mode: PutMode::Create,
        durable: true,
        blake3,
    };
    storage.put(&slot_key(id), Arc::new(object), options)?;
    Ok(id)
}

impl Repository {
    /// The key slots; a damaged one is an error.
    pub fn slots(&self) -> Result<Vec<SlotInfo>, ReadError> {
        let mut slots = Vec::new();
        for (key, id) in slot_keys(self.storage().as_ref()).map_err(ReadError::Storage)? {
            let id = id.ok_or_else(|| ReadError::damaged(&key, "it is not the name of a key slot"))?;
            let slot = read_slot(self.storage().as_ref(), &key, id, self.config().repository_id)?;
            slots.push(SlotInfo {
                id,
                label: slot.header.label,
                created: slot.header.created,
                unlocked_by_us: self.inner.slot == Some(id),
            });
        }
        slots.sort_by_key(|slot| (slot.created, slot.id));
        Ok(slots)
    }

    /// Problems of key slots, each with its object: for `check`.
    pub(crate) fn slot_problems(&self) -> Result<Vec<(String, ReadError)>, ReadError> {
        let mut problems = Vec::new();
        for (key, id) in slot_keys(self.storage().as_ref()).map_err(ReadError::Storage)? {
            let result = match id {
                Some(id) => {
                    read_slot(self.storage().as_ref(), &key, id, self.config().repository_id).map(drop)
                }
                None => Err(ReadError::damaged(&key, "it is not the name of a key slot")),
            };
            match result {
                Err(error) if !error.is_damage() => return Err(error),
                Err(error) => problems.push((key, error)),
                Ok(()) => {}
            }
        }
        Ok(problems)
    }

    /// Adds a passphrase.
    pub fn add_slot(&self, passphrase: &Passphrase, label: &str) -> Result<SlotId, SlotError> {
        if !self.config().encrypted {
            return Err(SlotError::NotEncrypted);
        }
        if slot_keys(self.storage().as_ref())?.len() >= MAX_SLOTS {
            return Err(SlotError::TooMany);
        }
        let id = self.config().repository_id;
        store_slot(
            self.storage().as_ref(),
            self.keys(),
            id,
            passphrase,
            label,
            self.environment(),
        )
        .map_err(|error| match error {
            CreateError::Storage(error) => SlotError::Storage(error),
            CreateError::Entropy(error) => SlotError::Entropy(error),
            CreateError::Crypto(error) => SlotError::Crypto(error),
            other => SlotError::Read(ReadError::damaged("the key slot", other.to_string())),
        })
    }

    /// Removes a passphrase. The last one cannot be removed.
    pub fn remove_slot(&self, id: SlotId) -> Result<(), SlotError> {
        if !self.config().encrypted {
            return Err(SlotError::NotEncrypted);
        }
        let slots = self.slots()?;
        if !slots.iter().any(|slot| slot.id == id) {
            return Err(SlotError::Missing(id));
        }
        if slots.len() == 1 {
            return Err(SlotError::LastSlot(id));
        }
        Ok(self.storage().delete(&slot_key(id))?)
    }

    /// The slot that this session was unlocked with; `None` without encryption.
    pub fn current_slot(&self) -> Option<SlotId> {
        self.inner.slot
    }
}
