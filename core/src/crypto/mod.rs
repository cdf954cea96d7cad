//! Secrets and seals: takes bytes and keys, gives bytes and keys. It knows no storage and no repository.

pub mod kdf;
pub mod keys;
pub mod seal;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// What the user types. Wiped from memory when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(Vec<u8>);

impl Passphrase {
    /// Takes the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// A cryptographic operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The bytes are not what was sealed: damaged, forged, moved, or sealed with another key.
    #[error("the authentication tag does not match")]
    Forged,
    /// The key derivation refused its parameters.
    #[error("the cost of the key derivation is not usable")]
    Cost,
}
