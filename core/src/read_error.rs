//! Why stored data could not be read: damage and failure are told apart here, once for the whole engine.

use crate::crypto::CryptoError;
use crate::format::codec::DecodeError;
use crate::storage::{StorageError, StorageErrorKind};

/// Reading from the repository failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// What is stored is not what was written. Never retried.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// The object or blob.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The storage could not be read.
    #[error(transparent)]
    Storage(StorageError),
}

impl ReadError {
    /// Damage of an object or blob.
    pub fn damaged(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Damaged {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Whether this is damage and not a failure to reach the data.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Storage(error) => error.kind == StorageErrorKind::Corrupt,
        }
    }

    /// A failed read of an object that must exist: a missing one is damage, anything else a failure.
    pub fn required(what: &str, error: StorageError) -> Self {
        if error.kind == StorageErrorKind::NotFound {
            Self::damaged(what, "the object is missing")
        } else {
            Self::Storage(error)
        }
    }
}

/// Names what was being decoded or opened when it turned out damaged.
pub trait DamageContext<T> {
    /// Turns the error into damage of `what`.
    fn damage(self, what: &str) -> Result<T, ReadError>;
}

impl<T> DamageContext<T> for Result<T, DecodeError> {
    fn damage(self, what: &str) -> Result<T, ReadError> {
        self.map_err(|error| ReadError::damaged(what, error.to_string()))
    }
}

impl<T> DamageContext<T> for Result<T, CryptoError> {
    fn damage(self, what: &str) -> Result<T, ReadError> {
        self.map_err(|error| ReadError::damaged(what, error.to_string()))
    }
}
