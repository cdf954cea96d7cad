//! Sealing the parts of an object under its one-time key.
//!
//! The nonce is the part's position in the object (unique under a key that is used for one object); the associated data binds prelude, repository and position.
//! With encryption the seal is ChaCha20-Poly1305 (RFC 8439); without, the bytes stay plain and the tag is the first half of a keyed BLAKE3.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce};
use zeroize::Zeroizing;

use crate::format::object::{Mode, PRELUDE_BYTES, Prelude};
use crate::format::pack::TAG_BYTES;
use crate::id::RepositoryId;

use super::CryptoError;

enum Cipher {
    Encrypted(Box<ChaCha20Poly1305>),
    Plain(Zeroizing<[u8; 32]>),
}

/// The key of one object.
pub struct ObjectKey {
    cipher: Cipher,
    associated: [u8; ASSOCIATED_BYTES],
}

const ASSOCIATED_BYTES: usize = PRELUDE_BYTES + RepositoryId::LENGTH + 8;

impl std::fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ObjectKey(…)")
    }
}

impl ObjectKey {
    pub(super) fn new(key: [u8; 32], prelude: Prelude, repository_id: RepositoryId) -> Self {
        let key = Zeroizing::new(key);
        let cipher = match prelude.mode {
            Mode::Encrypted => Cipher::Encrypted(Box::new(ChaCha20Poly1305::new(&Key::from(*key)))),
            Mode::Plain => Cipher::Plain(key),
        };
        let mut associated = [0; ASSOCIATED_BYTES];
        let bound = prelude.encode().into_iter().chain(*repository_id.as_bytes());
        associated.iter_mut().zip(bound).for_each(|(to, from)| *to = from);
        Self { cipher, associated }
    }

    fn associated(&self, position: u64) -> [u8; ASSOCIATED_BYTES] {
        let mut associated = self.associated;
        associated
            .iter_mut()
            .rev()
            .zip(position.to_be_bytes().iter().rev())
            .for_each(|(to, from)| *to = *from);
        associated
    }

    fn nonce(position: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce
            .iter_mut()
            .skip(4)
            .zip(position.to_le_bytes())
            .for_each(|(to, from)| *to = from);
        nonce.into()
    }

    fn plain_tag(key: &[u8; 32], associated: &[u8], bytes: &[u8]) -> [u8; TAG_BYTES] {
        let hash = blake3::Hasher::new_keyed(key)
            .update(associated)
            .update(bytes)
            .finalize();
        let mut tag = [0; TAG_BYTES];
        tag.iter_mut()
            .zip(hash.as_bytes())
            .for_each(|(to, from)| *to = *from);
        tag
    }

    /// Seals `bytes` in place for a position and appends the tag.
    ///
    /// # Panics
    /// Never: ChaCha20-Poly1305 takes up to 256 GiB, and parts are bounded far below.
    pub fn seal(&self, position: u64, bytes: &mut Vec<u8>) {
        let associated = self.associated(position);
        match &self.cipher {
            Cipher::Encrypted(cipher) => {
                #[expect(clippy::expect_used, reason = "fails only beyond 256 GiB")]
                let tag = cipher
                    .encrypt_inout_detached(&Self::nonce(position), &associated, bytes.as_mut_slice().into())
                    .expect("a part is smaller than 256 GiB");
                bytes.extend_from_slice(&tag);
            }
            Cipher::Plain(key) => {
                let tag = Self::plain_tag(key, &associated, bytes);
                bytes.extend_from_slice(&tag);
            }
        }
    }

    /// Opens what [`ObjectKey::seal`] made for the same position, in place, and cuts off the tag.
    pub fn open(&self, position: u64, sealed: &mut Vec<u8>) -> Result<(), CryptoError> {
        let associated = self.associated(position);
        let (_, tag) = sealed
            .split_last_chunk::<TAG_BYTES>()
            .ok_or(CryptoError::Forged)?;
        let tag = *tag;
        sealed.truncate(sealed.len() - TAG_BYTES);
        match &self.cipher {
            Cipher::Encrypted(cipher) => cipher
                .decrypt_inout_detached(
                    &Self::nonce(position),
                    &associated,
                    sealed.as_mut_slice().into(),
                    &tag.into(),
                )
                .ok()
                .ok_or(CryptoError::Forged),
            Cipher::Plain(key) => {
                // No secret is at stake: the key of a plain repository is public.
                if Self::plain_tag(key, &associated, sealed) == tag {
                    Ok(())
                } else {
                    Err(CryptoError::Forged)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::{Keys, MasterKey};
    use crate::format::object::ObjectKind;

    fn key(mode: Mode, kind: ObjectKind, salt: u8, repository: u8) -> ObjectKey {
        let keys = Keys::derive(&MasterKey::new([1; 32]), RepositoryId([repository; 16]));
        keys.object_key(Prelude { kind, mode }, &[salt; 32])
    }

    #[test]
    fn a_part_opens_only_where_it_was_sealed() {
        for mode in [Mode::Plain, Mode::Encrypted] {
            let mut sealed = b"some bytes".to_vec();
            let right = key(mode, ObjectKind::DataPack, 1, 1);
            right.seal(40, &mut sealed);
            let opens = |key: &ObjectKey, position| {
                let mut copy = sealed.clone();
                key.open(position, &mut copy).is_ok() && copy == b"some bytes"
            };
            assert!(opens(&right, 40));
            assert!(!opens(&right, 41), "another position");
            assert!(!opens(&key(mode, ObjectKind::TreePack, 1, 1), 40), "another kind");
            assert!(
                !opens(&key(mode, ObjectKind::DataPack, 2, 1), 40),
                "another object"
            );
            assert!(
                !opens(&key(mode, ObjectKind::DataPack, 1, 2), 40),
                "another repository"
            );
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        for mode in [Mode::Plain, Mode::Encrypted] {
            let key = key(mode, ObjectKind::Snapshot, 1, 1);
            let mut sealed = vec![7; 100];
            key.seal(0, &mut sealed);
            for position in 0..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[position] ^= 0x80;
                assert_eq!(key.open(0, &mut damaged), Err(CryptoError::Forged));
            }
        }
    }
}
