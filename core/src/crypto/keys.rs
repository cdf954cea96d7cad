//! The master key and what is derived from it: one subkey a purpose, one object key an object.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::format::object::{ObjectKind, Prelude, SALT_BYTES};
use crate::id::{BlobId, RepositoryId};

use super::seal::ObjectKey;

/// The secret that everything else is derived from. Random; opened from a key slot, or public in a repository without encryption.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// Takes the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// The subkeys of a repository, by BLAKE3's `derive_key` (contexts in `FORMAT.md`).
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Keys {
    master: [u8; 32],
    blob_id: [u8; 32],
    data_pack: [u8; 32],
    tree_pack: [u8; 32],
    index: [u8; 32],
    snapshot: [u8; 32],
    config: [u8; 32],
    chunker: [u8; 32],
    node: [u8; 32],
    cache: [u8; 32],
    #[zeroize(skip)]
    repository_id: RepositoryId,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.repository_id)
    }
}

impl Keys {
    /// Derives all subkeys.
    pub fn derive(master: &MasterKey, repository_id: RepositoryId) -> Self {
        let derive = |context: &str| blake3::derive_key(context, master.as_bytes());
        Self {
            master: *master.as_bytes(),
            blob_id: derive("plakar format 1: blob id"),
            data_pack: derive("plakar format 1: data pack"),
            tree_pack: derive("plakar format 1: tree pack"),
            index: derive("plakar format 1: index segment"),
            snapshot: derive("plakar format 1: snapshot"),
            config: derive("plakar format 1: config"),
            chunker: derive("plakar format 1: chunker"),
            node: derive("plakar format 1: tree node boundary"),
            cache: derive("plakar: local metadata cache"),
            repository_id,
        }
    }

    /// The master key, to seal it in another slot.
    pub fn master(&self) -> MasterKey {
        MasterKey::new(self.master)
    }

    /// The id of a blob.
    pub fn blob_id(&self, plain: &[u8]) -> BlobId {
        let hash = blake3::keyed_hash(&self.blob_id, plain);
        BlobId(hash.as_bytes().first_chunk().copied().unwrap_or_default())
    }

    /// The key of the local copies of metadata. No part of the format: a cache that is lost is filled again.
    pub(crate) fn cache_key(&self) -> [u8; 32] {
        self.cache
    }

    /// The tag of the `config` object.
    pub fn config_tag(&self, signed: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.config, signed).as_bytes()
    }

    /// The gear table of the chunker: 256 little-endian 64-bit words of keyed BLAKE3 output.
    pub fn gear(&self) -> [u64; 256] {
        let mut output = blake3::Hasher::new_keyed(&self.chunker).finalize_xof();
        let mut gear = [0; 256];
        for word in &mut gear {
            let mut bytes = [0; 8];
            output.fill(&mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
        gear
    }

    /// A pseudo-random number of a name, by which directories are cut into nodes.
    pub fn node_boundary(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.node, name);
        hash.as_bytes()
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// The one-time key of an object: BLAKE3 of prelude, repository id and salt, keyed with the purpose's subkey.
    pub fn object_key(&self, prelude: Prelude, salt: &[u8; SALT_BYTES]) -> ObjectKey {
        let purpose = match prelude.kind {
            ObjectKind::DataPack => &self.data_pack,
            ObjectKind::TreePack => &self.tree_pack,
            ObjectKind::IndexSegment => &self.index,
            ObjectKind::Snapshot => &self.snapshot,
            ObjectKind::Config | ObjectKind::KeySlot => &self.config,
        };
        let mut hasher = blake3::Hasher::new_keyed(purpose);
        hasher
            .update(&prelude.encode())
            .update(self.repository_id.as_bytes())
            .update(salt);
        ObjectKey::new(*hasher.finalize().as_bytes(), prelude, self.repository_id)
    }
}
