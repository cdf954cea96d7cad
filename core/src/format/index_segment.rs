//! Index segments: a sorted table of fixed-width entries that says in which pack, frame and bytes each blob is.
//!
//! ```text
//! prelude (8) | salt (32) | head length u32 | entry count u64 | sealed head | sealed block …
//! head, plain:  publisher session (16) | entry count | pack count | per pack: id (32), salt (32), kind u8, size | superseded count | per segment: first 8 bytes of its id | tagged fields
//! block, plain: up to 26,214 entries (the last block has the rest)
//! entry (40):   blob id (24) | pack u24 | frame offset u32 | sealed frame length u24 | offset in the frame u24 | blob length u24
//! ```
//! `head length` is the sealed length. Integers in the head are LEB128, in entries little-endian. Entries ascend. A segment lists the older ones whose entries it repeats.

use crate::id::{BlobId, PackId, SessionId};

use super::MAX_FRAME_BYTES;
use super::codec::{DecodeError, Reader, Writer};
use super::object::{HEADER_BYTES, ObjectKind};

/// Length of one entry in bytes.
pub const ENTRY_BYTES: usize = 40;
/// Entries in every block but the last.
pub const BLOCK_ENTRIES: usize = 26_214;
/// Where the sealed head begins.
pub const HEAD_OFFSET: usize = HEADER_BYTES + 12;
/// Packs that one segment can name.
pub const MAX_PACKS: usize = 1 << 24;
/// Largest sealed head accepted, in bytes.
pub const MAX_HEAD_BYTES: u32 = 1 << 30;

/// A pack that a segment names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackInfo {
    /// Its id.
    pub id: PackId,
    /// The salt of its object key, so that a frame can be read without the header.
    pub salt: [u8; 32],
    /// `DataPack` or `TreePack`.
    pub kind: ObjectKind,
    /// Size of the object in bytes.
    pub size_bytes: u64,
}

/// The head of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHead {
    /// The session that wrote it.
    pub publisher: SessionId,
    /// Entries in the blocks: the count before the head is not sealed, so this one decides.
    pub entries: u64,
    /// The packs its entries point into.
    pub packs: Vec<PackInfo>,
    /// First eight bytes of the ids of segments that this one replaces.
    pub superseded: Vec<[u8; 8]>,
}

impl SegmentHead {
    /// The plain head.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.raw(self.publisher.as_bytes());
        writer.varint(self.entries);
        writer.varint(self.packs.len() as u64);
        for pack in &self.packs {
            writer.raw(pack.id.as_bytes());
            writer.raw(&pack.salt);
            writer.u8(pack.kind as u8);
            writer.varint(pack.size_bytes);
        }
        writer.varint(self.superseded.len() as u64);
        for prefix in &self.superseded {
            writer.raw(prefix);
        }
        writer.into_bytes()
    }

    /// Reads a plain head.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let publisher = SessionId(reader.array("the publisher")?);
        let entries = reader.varint("the entry count")?;
        let pack_count = reader.count(66, "the number of packs")?;
        if pack_count > MAX_PACKS {
            return Err(DecodeError::Invalid("the number of packs"));
        }
        let mut packs = Vec::with_capacity(pack_count);
        for _ in 0..pack_count {
            packs.push(read_pack(&mut reader)?);
        }
        let superseded_count = reader.count(8, "the number of superseded segments")?;
        let mut superseded = Vec::with_capacity(superseded_count);
        for _ in 0..superseded_count {
            superseded.push(reader.array("a superseded segment")?);
        }
        // What later versions add.
        while reader.field("a field of the head")?.is_some() {}
        Ok(Self {
            publisher,
            entries,
            packs,
            superseded,
        })
    }
}

fn read_pack(reader: &mut Reader<'_>) -> Result<PackInfo, DecodeError> {
    let id = PackId(reader.array("a pack id")?);
    let salt = reader.array("a pack's salt")?;
    let kind = match reader.u8("a pack's kind")? {
        kind if kind == ObjectKind::DataPack as u8 => ObjectKind::DataPack,
        kind if kind == ObjectKind::TreePack as u8 => ObjectKind::TreePack,
        _ => return Err(DecodeError::Invalid("a pack's kind")),
    };
    Ok(PackInfo {
        id,
        salt,
        kind,
        size_bytes: reader.varint("a pack's size")?,
    })
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// The blob.
    pub id: BlobId,
    /// Which pack of the head.
    pub pack: u32,
    /// Where the sealed frame begins in the pack.
    pub frame_offset: u32,
    /// The sealed length of the frame.
    pub frame_length: u32,
    /// Where the blob begins in the raw frame.
    pub blob_offset: u32,
    /// The plain length of the blob.
    pub blob_length: u32,
}

fn u24(value: u32) -> [u8; 3] {
    let [a, b, c, _] = value.to_le_bytes();
    [a, b, c]
}

fn from_u24([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0])
}

impl IndexEntry {
    /// The forty bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(&u24(self.pack));
        out.extend_from_slice(&self.frame_offset.to_le_bytes());
        out.extend_from_slice(&u24(self.frame_length));
        out.extend_from_slice(&u24(self.blob_offset));
        out.extend_from_slice(&u24(self.blob_length));
    }

    /// Reads forty bytes. Whether the pack exists is for the caller to check.
    pub fn read(bytes: &[u8; ENTRY_BYTES]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let entry = Self {
            id: BlobId(reader.array("an entry")?),
            pack: from_u24(reader.array("an entry")?),
            frame_offset: reader.u32("an entry")?,
            frame_length: from_u24(reader.array("an entry")?),
            blob_offset: from_u24(reader.array("an entry")?),
            blob_length: from_u24(reader.array("an entry")?),
        };
        let blob_end = entry.blob_offset as usize + entry.blob_length as usize;
        if blob_end > MAX_FRAME_BYTES {
            return Err(DecodeError::Invalid("an entry's blob"));
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_heads_survive() {
        let entry = IndexEntry {
            id: BlobId([9; 24]),
            pack: 0x0012_3456,
            frame_offset: 0xdead_beef,
            frame_length: 77,
            blob_offset: 5,
            blob_length: 1 << 20,
        };
        let mut bytes = Vec::new();
        entry.write(&mut bytes);
        assert_eq!(bytes.len(), ENTRY_BYTES);
        assert_eq!(IndexEntry::read(bytes.first_chunk().unwrap()).unwrap(), entry);
        let head = SegmentHead {
            publisher: SessionId([1; 16]),
            entries: 3,
            packs: vec![PackInfo {
                id: PackId([2; 32]),
                salt: [3; 32],
                kind: ObjectKind::TreePack,
                size_bytes: 99,
            }],
            superseded: vec![[4; 8]],
        };
        assert_eq!(SegmentHead::decode(&head.encode()).unwrap(), head);
    }
}
