//! A blocked Bloom filter (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007) over blob ids.
//!
//! Ids are keyed hashes already, so their own bits choose the places: bytes 8 to 16 the cache line, bytes 16 to 24 the bits in it.
//! The first eight bytes are left alone, because they are much the same within a block of a sorted table.

use crate::id::BlobId;

/// Bits set for each id.
const PROBES: u32 = 6;
/// Words of a cache line.
const LINE_WORDS: usize = 8;
/// Ids for which one line is made: 512 bits for 42 of them, so 12 bits each; less than one id in a hundred that is absent seems to be there.
const IDS_OF_LINE: usize = 42;

/// Knows what is certainly not in a set.
#[derive(Debug)]
pub(super) struct Filter(Box<[[u64; LINE_WORDS]]>);

fn lines(ids: usize) -> usize {
    ids.div_ceil(IDS_OF_LINE).max(1)
}

impl Filter {
    /// A filter for that many ids, still empty.
    pub(super) fn new(ids: usize) -> Self {
        Self(vec![[0; LINE_WORDS]; lines(ids)].into())
    }

    fn line_of(&self, key: &[u8]) -> usize {
        let chosen = part(key, 8);
        // The high half of the product: a uniform number below the count, without a division.
        usize::try_from((u128::from(chosen) * self.0.len() as u128) >> 64).unwrap_or(0)
    }

    /// Length of what [`Filter::write`] writes for that many ids.
    pub(super) fn bytes(ids: usize) -> usize {
        lines(ids) * LINE_WORDS * 8
    }

    /// Its words, little-endian.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for word in self.0.iter().flatten() {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads what [`Filter::write`] wrote for that many ids.
    pub(super) fn read(ids: usize, bytes: &[u8]) -> Option<Self> {
        let mut filter = Self::new(ids);
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() != filter.0.len() * LINE_WORDS || !rest.is_empty() {
            return None;
        }
        for (word, bytes) in filter.0.iter_mut().flatten().zip(words) {
            *word = u64::from_le_bytes(*bytes);
        }
        Some(filter)
    }

    /// Adds the id that `key` begins with.
    pub(super) fn add(&mut self, key: &[u8]) {
        let line = self.line_of(key);
        if let Some(line) = self.0.get_mut(line) {
            for (word, bit) in places(key) {
                if let Some(word) = line.get_mut(word) {
                    *word |= bit;
                }
            }
        }
    }

    /// `false` when the id was certainly not added.
    pub(super) fn may_have(&self, id: &BlobId) -> bool {
        let line = self.0.get(self.line_of(&id.0));
        line.is_none_or(|line| {
            places(&id.0).all(|(word, bit)| line.get(word).is_some_and(|word| word & bit != 0))
        })
    }
}

/// Eight bytes of a key as a number.
fn part(key: &[u8], start: usize) -> u64 {
    key.get(start..)
        .and_then(<[u8]>::first_chunk)
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The bits of an id in its line: nine bits of it for each.
fn places(key: &[u8]) -> impl Iterator<Item = (usize, u64)> {
    let bits = part(key, 16);
    (0..PROBES).map(move |probe| {
        let place = (bits >> (9 * probe)) & 511;
        (usize::try_from(place / 64).unwrap_or(0), 1 << (place % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> BlobId {
        BlobId(
            blake3::hash(&number.to_le_bytes()).as_bytes()[..24]
                .try_into()
                .unwrap(),
        )
    }

    #[test]
    fn what_was_added_is_there_and_little_else() {
        let mut filter = Filter::new(20_000);
        for number in 0..20_000 {
            filter.add(&id(number).0);
        }
        assert!((0..20_000).all(|number| filter.may_have(&id(number))));
        let wrong = (20_000..120_000)
            .filter(|&number| filter.may_have(&id(number)))
            .count();
        assert!(wrong < 1_000, "{wrong} of 100,000 seem to be there");
        assert!(!Filter::new(0).may_have(&id(1)));
        let mut bytes = Vec::new();
        filter.write(&mut bytes);
        let again = Filter::read(20_000, &bytes).unwrap();
        assert!((0..120_000).all(|number| again.may_have(&id(number)) == filter.may_have(&id(number))));
        assert!(Filter::read(20_100, &bytes).is_none() && Filter::read(20_000, &bytes[1..]).is_none());
    }
}
