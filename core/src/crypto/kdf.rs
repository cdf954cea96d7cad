//! From a passphrase to the master key: Argon2id (RFC 9106) makes a slot key, which opens the sealed master key of a key slot.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce};
use rayon::iter::IndexedParallelIterator as _;
use zeroize::Zeroizing;

use crate::format::key_slot::{KdfCost, KeySlot, SEALED_KEY_BYTES, SlotHeader};

use super::keys::MasterKey;
use super::{CryptoError, Passphrase};

/// The cost of new slots: 64 MiB, 3 passes, 4 lanes: the second recommended choice of RFC 9106.
pub const DEFAULT_COST: KdfCost = KdfCost {
    memory_kib: 64 << 10,
    passes: 3,
    lanes: 4,
};

fn slot_cipher(passphrase: &Passphrase, header: &SlotHeader) -> Result<ChaCha20Poly1305, CryptoError> {
    let cost = header.cost;
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .ok()
        .ok_or(CryptoError::Cost)?;
    let mut key = Zeroizing::new([0_u8; 32]);
    let memory = fresh_blocks(params.block_count())?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase.as_bytes(), &header.salt, key.as_mut(), memory)
        .ok()
        .ok_or(CryptoError::Cost)?;
    Ok(ChaCha20Poly1305::new(&Key::from(*key)))
}

/// The memory of a derivation, touched by all processors: one alone spends as long on it as all of them on what follows.
fn fresh_blocks(count: usize) -> Result<Vec<Block>, CryptoError> {
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).ok().ok_or(CryptoError::Cost)?;
    rayon::iter::repeat_n(Block::new(), count).collect_into_vec(&mut blocks);
    Ok(blocks)
}

/// Seals the master key under a passphrase.
pub fn seal_slot(
    header: SlotHeader,
    passphrase: &Passphrase,
    master: &MasterKey,
) -> Result<KeySlot, CryptoError> {
    let associated = header.encode();
    let mut sealed = Zeroizing::new([0_u8; SEALED_KEY_BYTES]);
    let (key, tag_place) = sealed.split_at_mut(32);
    key.copy_from_slice(master.as_bytes());
    let tag = slot_cipher(passphrase, &header)?
        .encrypt_inout_detached(&Nonce::default(), &associated, key.into())
        .ok()
        .ok_or(CryptoError::Forged)?;
    tag_place.copy_from_slice(&tag);
    Ok(KeySlot {
        header,
        associated,
        sealed_key: *sealed,
    })
}

/// Opens the master key with a passphrase. `Forged` when it is not the passphrase of this slot.
pub fn open_slot(slot: &KeySlot, passphrase: &Passphrase) -> Result<MasterKey, CryptoError> {
    let mut sealed = Zeroizing::new(slot.sealed_key);
    let (key, tag) = sealed.split_at_mut(32);
    let tag: [u8; 16] = (&*tag).try_into().ok().ok_or(CryptoError::Forged)?;
    slot_cipher(passphrase, &slot.header)?
        .decrypt_inout_detached(
            &Nonce::default(),
            &slot.associated,
            (&mut *key).into(),
            &tag.into(),
        )
        .ok()
        .ok_or(CryptoError::Forged)?;
    let key: [u8; 32] = (&*key).try_into().ok().ok_or(CryptoError::Forged)?;
    Ok(MasterKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Timestamp;
    use crate::id::{RepositoryId, SlotId};

    #[test]
    fn only_the_right_passphrase_and_an_untouched_slot_open() {
        let header = SlotHeader {
            id: SlotId([1; 16]),
            repository_id: RepositoryId([2; 16]),
            label: String::new(),
            created: Timestamp::default(),
            cost: KdfCost {
                memory_kib: 64,
                passes: 1,
                lanes: 1,
            },
            salt: [3; 32],
        };
        let right = Passphrase::new(b"right".to_vec());
        let slot = seal_slot(header, &right, &MasterKey::new([5; 32])).unwrap();
        assert_eq!(open_slot(&slot, &right).unwrap().as_bytes(), &[5; 32]);
        assert!(open_slot(&slot, &Passphrase::new(b"wrong".to_vec())).is_err());
        let mut moved = slot;
        moved.associated.push(0);
        assert!(open_slot(&moved, &right).is_err());
    }
}
