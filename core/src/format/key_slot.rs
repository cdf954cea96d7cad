//! The `keys/<id>` objects: the master key sealed under a passphrase.
//!
//! ```text
//! prelude (8) | body length u32 | body: tagged fields | sealed master key (48) | BLAKE3 of all before (32)
//! ```
//! The sealed master key is ChaCha20-Poly1305 under the slot key, nonce zero (the slot key is used once), with all bytes before it as associated data.

use crate::environment::Timestamp;
use crate::id::{RepositoryId, SlotId};

use super::codec::{DecodeError, Reader, Writer};
use super::config::{read_timestamp, write_timestamp};
use super::object::{Mode, ObjectKind, PRELUDE_BYTES, Prelude};

/// Largest slot object accepted, in bytes.
pub const MAX_SLOT_BYTES: usize = 16 << 10;
/// 32 bytes of master key and 16 of tag.
pub const SEALED_KEY_BYTES: usize = 48;

/// Cost of Argon2id (RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// The open part of a key slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotHeader {
    /// The random id, also its name.
    pub id: SlotId,
    /// The repository it belongs to.
    pub repository_id: RepositoryId,
    /// What the user calls it.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// Cost of the key derivation.
    pub cost: KdfCost,
    /// Salt of the key derivation.
    pub salt: [u8; 32],
}

mod tag {
    pub(super) const ID: u64 = 1;
    pub(super) const REPOSITORY_ID: u64 = 2;
    pub(super) const LABEL: u64 = 3;
    pub(super) const CREATED: u64 = 4;
    pub(super) const ARGON2ID: u64 = 5;
    pub(super) const SALT: u64 = 6;
}

/// A slot as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlot {
    /// The open part.
    pub header: SlotHeader,
    /// The bytes that the seal binds.
    pub associated: Vec<u8>,
    /// The master key, sealed.
    pub sealed_key: [u8; SEALED_KEY_BYTES],
}

impl SlotHeader {
    /// The bytes before the sealed key.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.field(tag::ID, self.id.as_bytes());
        body.field(tag::REPOSITORY_ID, self.repository_id.as_bytes());
        body.field(tag::LABEL, self.label.as_bytes());
        body.field_with(tag::CREATED, |value| write_timestamp(value, self.created));
        body.field_with(tag::ARGON2ID, |value| {
            value.varint(self.cost.memory_kib.into());
            value.varint(self.cost.passes.into());
            value.varint(self.cost.lanes.into());
        });
        body.field(tag::SALT, &self.salt);
        let mut object = Writer::new();
        object.raw(
            &Prelude {
                kind: ObjectKind::KeySlot,
                mode: Mode::Encrypted,
            }
            .encode(),
        );
        object.u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        object.raw(body.as_slice());
        object.into_bytes()
    }

    fn decode_body(body: &[u8]) -> Result<Self, DecodeError> {
        let missing = || DecodeError::Truncated("the key slot");
        let (mut id, mut repository_id, mut label, mut created, mut cost, mut salt) =
            (None, None, None, None, None, None);
        let mut reader = Reader::new(body);
        while let Some((tag, mut value)) = reader.field("a field of the key slot")? {
            match tag {
                tag::ID => id = Some(SlotId(value.array("the slot id")?)),
                tag::REPOSITORY_ID => repository_id = Some(RepositoryId(value.array("the repository id")?)),
                tag::LABEL => label = Some(String::from_utf8_lossy(value.rest()).into_owned()),
                tag::CREATED => created = Some(read_timestamp(&mut value, "the creation time")?),
                tag::ARGON2ID => cost = Some(read_cost(&mut value)?),
                tag::SALT => salt = Some(value.array("the salt")?),
                _ => {}
            }
        }
        Ok(Self {
            id: id.ok_or_else(missing)?,
            repository_id: repository_id.ok_or_else(missing)?,
            label: label.ok_or_else(missing)?,
            created: created.ok_or_else(missing)?,
            cost: cost.ok_or_else(missing)?,
            salt: salt.ok_or_else(missing)?,
        })
    }
}

/// Reads a cost and refuses one that would exhaust the memory or the patience of whoever opens a hostile repository.
fn read_cost(value: &mut Reader<'_>) -> Result<KdfCost, DecodeError> {
    let cost = KdfCost {
        memory_kib: value.varint_u32("the memory cost")?,
        passes: value.varint_u32("the number of passes")?,
        lanes: value.varint_u32("the number of lanes")?,
    };
    let sane = (8..=1 << 20).contains(&cost.memory_kib)
        && (1..=64).contains(&cost.passes)
        && (1..=64).contains(&cost.lanes)
        && cost.memory_kib >= 8 * cost.lanes
        && u64::from(cost.memory_kib) * u64::from(cost.passes) <= 4 << 20;
    if sane {
        Ok(cost)
    } else {
        Err(DecodeError::Invalid("the cost of the key derivation"))
    }
}

impl KeySlot {
    /// The object: `associated` must be what [`SlotHeader::encode`] gave.
    pub fn encode(&self) -> Vec<u8> {
        let mut object = Writer::append_to(self.associated.clone());
        object.raw(&self.sealed_key);
        let checksum = blake3::hash(object.as_slice());
        object.raw(checksum.as_bytes());
        object.into_bytes()
    }

    /// Reads a slot object.
    pub fn decode(object: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(object);
        Prelude::decode(&mut reader, ObjectKind::KeySlot)?;
        let length = usize::try_from(reader.u32("the body length")?)
            .ok()
            .ok_or(DecodeError::Truncated("the body"))?;
        let body = reader.raw(length, "the body")?;
        let sealed_key = reader.array("the sealed key")?;
        let checksum: [u8; 32] = reader.array("the checksum")?;
        reader.finish()?;
        let end = PRELUDE_BYTES + 4 + length;
        let (associated, _) = object
            .split_at_checked(end)
            .ok_or(DecodeError::Truncated("the body"))?;
        let (summed, _) = object
            .split_at_checked(end + SEALED_KEY_BYTES)
            .ok_or(DecodeError::Truncated("the sealed key"))?;
        if *blake3::hash(summed).as_bytes() != checksum {
            return Err(DecodeError::Checksum);
        }
        Ok(Self {
            header: SlotHeader::decode_body(body)?,
            associated: associated.to_vec(),
            sealed_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_survives_and_every_flipped_byte_is_noticed() {
        let header = SlotHeader {
            id: SlotId([1; 16]),
            repository_id: RepositoryId([2; 16]),
            label: "laptop".into(),
            created: Timestamp::default(),
            cost: KdfCost {
                memory_kib: 65_536,
                passes: 3,
                lanes: 1,
            },
            salt: [3; 32],
        };
        let slot = KeySlot {
            associated: header.encode(),
            header,
            sealed_key: [4; 48],
        };
        let object = slot.encode();
        assert_eq!(KeySlot::decode(&object).unwrap(), slot);
        for position in 0..object.len() {
            let mut damaged = object.clone();
            damaged[position] ^= 1;
            assert!(KeySlot::decode(&damaged).is_err(), "byte {position}");
        }
    }

    #[test]
    fn a_cost_that_would_exhaust_memory_is_refused() {
        let mut writer = Writer::new();
        for value in [u64::from(u32::MAX), 1, 1] {
            writer.varint(value);
        }
        assert!(read_cost(&mut Reader::new(writer.as_slice())).is_err());
    }
}
