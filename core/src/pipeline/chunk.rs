//! Cuts bytes at content-defined places: `FastCDC` (Xia et al., USENIX ATC 2020, normalisation level 1) over a gear table made from a secret of the repository.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

use crate::crypto::keys::Keys;
use crate::format::config::ChunkerSettings;

/// Finds chunk boundaries.
#[derive(Clone)]
pub struct Chunker {
    settings: ChunkerSettings,
    masks: (u64, u64),
    gear: Box<[u64; 256]>,
    gear_shifted: Box<[u64; 256]>,
}

impl std::fmt::Debug for Chunker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chunker({:?})", self.settings)
    }
}

impl Chunker {
    /// A chunker with the repository's sizes and secret.
    pub fn new(settings: ChunkerSettings, keys: &Keys) -> Self {
        let gear = keys.gear();
        Self {
            settings,
            masks: select_masks(settings.average_bytes as usize, Normalization::Level1),
            gear: Box::new(gear),
            gear_shifted: Box::new(gear.map(|word| word << 1)),
        }
    }

    /// No chunk is longer, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.settings.max_bytes as usize
    }

    /// No chunk but the last is shorter, in bytes.
    pub fn min_bytes(&self) -> usize {
        self.settings.min_bytes as usize
    }

    /// Length of the first chunk of `bytes`, which must hold at least [`Chunker::max_bytes`] or all that is left.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        if bytes.len() <= self.settings.min_bytes as usize {
            return bytes.len();
        }
        let (strict, loose) = self.masks;
        let (_, length) = cut_gear(
            bytes,
            self.settings.min_bytes as usize,
            self.settings.average_bytes as usize,
            self.settings.max_bytes as usize,
            strict,
            loose,
            strict << 1,
            loose << 1,
            self.gear.as_slice(),
            self.gear_shifted.as_slice(),
        );
        length.clamp(1, bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::MasterKey;
    use crate::id::RepositoryId;

    fn chunker(secret: u8) -> Chunker {
        let keys = Keys::derive(&MasterKey::new([secret; 32]), RepositoryId([0; 16]));
        Chunker::new(
            ChunkerSettings {
                min_bytes: 2 << 10,
                average_bytes: 8 << 10,
                max_bytes: 32 << 10,
            },
            &keys,
        )
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn chunks<'a>(chunker: &Chunker, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let (chunk, rest) = bytes.split_at(chunker.cut(bytes));
            chunks.push(chunk);
            bytes = rest;
        }
        chunks
    }

    #[test]
    fn chunks_keep_their_bounds_and_an_insertion_changes_few_of_them() {
        let chunker = chunker(1);
        let original = noise(1 << 20);
        let before = chunks(&chunker, &original);
        assert!(
            before
                .iter()
                .rev()
                .skip(1)
                .all(|chunk| (2 << 10..=32 << 10).contains(&chunk.len()))
        );
        let mut changed = original.clone();
        changed.splice(500_000..500_000, *b"inserted");
        let after = chunks(&chunker, &changed);
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 3, "{new} of {} chunks are new", after.len());
    }

    #[test]
    fn another_secret_cuts_elsewhere() {
        let bytes = noise(1 << 20);
        assert_ne!(chunks(&chunker(1), &bytes), chunks(&chunker(2), &bytes));
    }
}
