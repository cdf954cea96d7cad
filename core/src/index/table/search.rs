//! Searching rows that are in order.

use crate::format::index_segment::ENTRY_BYTES;
use crate::id::BlobId;

/// The bytes of a row.
pub(super) fn row(rows: &[u8], row: usize) -> Option<&[u8; ENTRY_BYTES]> {
    rows.as_chunks::<ENTRY_BYTES>().0.get(row)
}

/// Whether a row is there and of that blob.
pub(super) fn holds(rows: &[u8], number: usize, id: &BlobId) -> bool {
    row(rows, number).is_some_and(|row| row.starts_with(&id.0))
}

/// The first eight bytes of a key as a number: they order keys that differ in them.
pub(super) fn leading(key: &[u8]) -> u64 {
    key.first_chunk()
        .map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes))
}

fn leading_of(rows: &[u8], number: usize) -> u64 {
    row(rows, number).map_or(u64::MAX, |row| leading(row))
}

/// The first row whose key is not less than `id`: interpolation, because ids are uniform hashes, with bisection as the fallback.
pub(super) fn lower_bound(rows: &[u8], id: &BlobId) -> usize {
    let target = leading(&id.0);
    let (mut low, mut high) = (0, rows.len() / ENTRY_BYTES);
    let mut steps = 0_u32;
    while low < high {
        let middle = if steps < 6 {
            interpolate(rows, low, high, target)
        } else {
            low + (high - low) / 2
        };
        steps += 1;
        let Some(found) = row(rows, middle) else { break };
        // Eight bytes nearly always decide; the rest is looked at only when they are the same.
        let (key, _) = found.split_at(BlobId::LENGTH);
        let first = leading(key);
        if first < target || (first == target && key < id.0.as_slice()) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A guess of where `target` is in the rows `low..high`.
fn interpolate(rows: &[u8], low: usize, high: usize, target: u64) -> usize {
    let (first, last) = (leading_of(rows, low), leading_of(rows, high - 1));
    if target <= first {
        return low;
    }
    if target >= last || last <= first {
        return high - 1;
    }
    let span = (high - 1 - low) as u128;
    let share = u128::from(target - first) * span / u128::from(last - first);
    low + usize::try_from(share).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_a_linear_search_for_uniform_and_skewed_keys() {
        for skewed in [false, true] {
            let mut keys: Vec<BlobId> = (0..2000_u32)
                .map(|n| {
                    let hash = blake3::hash(&n.to_le_bytes());
                    let mut key: [u8; 24] = hash.as_bytes()[..24].try_into().unwrap();
                    if skewed && n % 4 != 0 {
                        key[..7].fill(3);
                    }
                    BlobId(key)
                })
                .collect();
            keys.sort_unstable();
            let mut rows = Vec::new();
            for key in &keys {
                rows.extend_from_slice(&key.0);
                rows.extend_from_slice(&[0; ENTRY_BYTES - 24]);
            }
            for (number, key) in keys.iter().enumerate() {
                assert_eq!(lower_bound(&rows, key), number);
                let mut next = *key;
                next.0[23] = next.0[23].wrapping_add(1);
                assert_eq!(lower_bound(&rows, &next), keys.partition_point(|key| *key < next));
            }
        }
    }
}
