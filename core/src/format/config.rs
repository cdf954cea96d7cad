//! The `config` object: what is fixed when a repository is created.
//!
//! ```text
//! prelude (8) | body length u32 | body: tagged fields | keyed tag (32) | BLAKE3 of all before (32)
//! ```
//! The last checksum tells damage before any key is known; the keyed tag, made with a key derived from the master key, tells a forgery.

use crate::environment::Timestamp;
use crate::id::RepositoryId;

use super::codec::{DecodeError, Reader, Writer};
use super::object::{Mode, ObjectKind, PRELUDE_BYTES, Prelude};

/// Largest `config` object accepted, in bytes.
pub const MAX_CONFIG_BYTES: usize = 64 << 10;

/// How frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Stored as they are.
    None,
    /// zstd at a level (-7 to 22); what does not shrink is stored as it is.
    Zstd(i32),
}

/// The content-defined chunker: `FastCDC` (v2020 gear, normalisation level 1) with sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerSettings {
    /// No chunk but the last of a file is smaller.
    pub min_bytes: u32,
    /// The size aimed at; a power of two.
    pub average_bytes: u32,
    /// No chunk is larger.
    pub max_bytes: u32,
}

/// The settings of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The random id.
    pub repository_id: RepositoryId,
    /// When it was created.
    pub created: Timestamp,
    /// Whether objects are encrypted (otherwise only authenticated).
    pub encrypted: bool,
    /// How files are cut.
    pub chunker: ChunkerSettings,
    /// How frames are compressed.
    pub compression: Compression,
    /// Plain bytes gathered into one frame before it is compressed.
    pub frame_bytes: u32,
    /// Size at which a pack is closed, in bytes.
    pub pack_bytes: u32,
    /// The master key of a repository without encryption; `None` when encrypted.
    pub public_master_key: Option<[u8; 32]>,
}

mod tag {
    pub(super) const REPOSITORY_ID: u64 = 1;
    pub(super) const CREATED: u64 = 2;
    pub(super) const CHUNKER: u64 = 3;
    pub(super) const COMPRESSION: u64 = 4;
    pub(super) const FRAME_BYTES: u64 = 5;
    pub(super) const PACK_BYTES: u64 = 6;
    pub(super) const PUBLIC_MASTER_KEY: u64 = 7;
}

const CHUNKER_FASTCDC_2020: u8 = 1;
const TAG_BYTES: usize = 32;

impl Config {
    /// The protection of this repository's objects.
    pub fn mode(&self) -> Mode {
        if self.encrypted {
            Mode::Encrypted
        } else {
            Mode::Plain
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.field(tag::REPOSITORY_ID, self.repository_id.as_bytes());
        body.field_with(tag::CREATED, |value| write_timestamp(value, self.created));
        body.field_with(tag::CHUNKER, |value| {
            value.u8(CHUNKER_FASTCDC_2020);
            value.varint(self.chunker.min_bytes.into());
            value.varint(self.chunker.average_bytes.into());
            value.varint(self.chunker.max_bytes.into());
        });
        body.field_with(tag::COMPRESSION, |value| match self.compression {
            Compression::None => value.u8(0),
            Compression::Zstd(level) => {
                value.u8(1);
                value.signed(level.into());
            }
        });
        body.field_with(tag::FRAME_BYTES, |value| value.varint(self.frame_bytes.into()));
        body.field_with(tag::PACK_BYTES, |value| value.varint(self.pack_bytes.into()));
        if let Some(key) = &self.public_master_key {
            body.field(tag::PUBLIC_MASTER_KEY, key);
        }
        body.into_bytes()
    }

    /// The object; `keyed_tag` computes the tag over the bytes before it.
    pub fn encode(&self, keyed_tag: impl FnOnce(&[u8]) -> [u8; 32]) -> Vec<u8> {
        let mut object = Writer::new();
        object.raw(
            &Prelude {
                kind: ObjectKind::Config,
                mode: self.mode(),
            }
            .encode(),
        );
        let body = self.body();
        object.u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
        object.raw(&body);
        let keyed = keyed_tag(object.as_slice());
        object.raw(&keyed);
        let checksum = blake3::hash(object.as_slice());
        object.raw(checksum.as_bytes());
        object.into_bytes()
    }

    /// Reads a `config` object. Its keyed tag is not checked: see [`ConfigTag`].
    pub fn decode(object: &[u8]) -> Result<(Self, ConfigTag), DecodeError> {
        let mut reader = Reader::new(object);
        let prelude = Prelude::decode(&mut reader, ObjectKind::Config)?;
        let length = usize::try_from(reader.u32("the body length")?)
            .ok()
            .ok_or(DecodeError::Truncated("the body"))?;
        let body = reader.raw(length, "the body")?;
        let keyed = reader.array("the tag")?;
        let checksum: [u8; TAG_BYTES] = reader.array("the checksum")?;
        reader.finish()?;
        let (signed, _) = object
            .split_at_checked(PRELUDE_BYTES + 4 + length)
            .ok_or(DecodeError::Truncated("the body"))?;
        let (summed, _) = object
            .split_at_checked(signed.len() + TAG_BYTES)
            .ok_or(DecodeError::Truncated("the tag"))?;
        if *blake3::hash(summed).as_bytes() != checksum {
            return Err(DecodeError::Checksum);
        }
        let config = Self::decode_body(body, prelude.mode)?;
        Ok((
            config,
            ConfigTag {
                signed: signed.to_vec(),
                tag: keyed,
            },
        ))
    }

    fn decode_body(body: &[u8], mode: Mode) -> Result<Self, DecodeError> {
        let mut fields = Fields::default();
        let mut reader = Reader::new(body);
        while let Some((tag, mut value)) = reader.field("a field of the config")? {
            fields.take(tag, &mut value)?;
        }
        fields.finish(mode)
    }
}

#[derive(Default)]
struct Fields {
    repository_id: Option<RepositoryId>,
    created: Option<Timestamp>,
    chunker: Option<ChunkerSettings>,
    compression: Option<Compression>,
    frame_bytes: Option<u32>,
    pack_bytes: Option<u32>,
    public_master_key: Option<[u8; 32]>,
}

impl Fields {
    fn take(&mut self, tag: u64, value: &mut Reader<'_>) -> Result<(), DecodeError> {
        match tag {
            tag::REPOSITORY_ID => self.repository_id = Some(RepositoryId(value.array("the repository id")?)),
            tag::CREATED => self.created = Some(read_timestamp(value, "the creation time")?),
            tag::CHUNKER => self.chunker = Some(read_chunker(value)?),
            tag::COMPRESSION => self.compression = Some(read_compression(value)?),
            tag::FRAME_BYTES => self.frame_bytes = Some(value.varint_u32("the frame size")?),
            tag::PACK_BYTES => self.pack_bytes = Some(value.varint_u32("the pack size")?),
            tag::PUBLIC_MASTER_KEY => self.public_master_key = Some(value.array("the public key")?),
            _ => {}
        }
        Ok(())
    }

    fn finish(self, mode: Mode) -> Result<Config, DecodeError> {
        let missing = DecodeError::Truncated("the settings");
        let config = Config {
            repository_id: self.repository_id.ok_or_else(|| missing.clone())?,
            created: self.created.ok_or_else(|| missing.clone())?,
            encrypted: mode == Mode::Encrypted,
            chunker: self.chunker.ok_or_else(|| missing.clone())?,
            compression: self.compression.ok_or_else(|| missing.clone())?,
            frame_bytes: self.frame_bytes.ok_or_else(|| missing.clone())?,
            pack_bytes: self.pack_bytes.ok_or(missing)?,
            public_master_key: self.public_master_key,
        };
        if config.public_master_key.is_some() == config.encrypted {
            return Err(DecodeError::Invalid("the public key"));
        }
        if !(1 << 10..=8 << 20).contains(&config.frame_bytes) {
            return Err(DecodeError::Invalid("the frame size"));
        }
        if !(1 << 16..=1 << 30).contains(&config.pack_bytes) {
            return Err(DecodeError::Invalid("the pack size"));
        }
        Ok(config)
    }
}

/// The keyed tag of a `config` object and the bytes that it covers.
#[derive(Debug, Clone)]
pub struct ConfigTag {
    /// The bytes covered.
    pub signed: Vec<u8>,
    /// The tag found.
    pub tag: [u8; 32],
}

fn read_chunker(value: &mut Reader<'_>) -> Result<ChunkerSettings, DecodeError> {
    if value.u8("the chunker")? != CHUNKER_FASTCDC_2020 {
        return Err(DecodeError::Invalid("the chunker"));
    }
    let settings = ChunkerSettings {
        min_bytes: value.varint_u32("the smallest chunk")?,
        average_bytes: value.varint_u32("the average chunk")?,
        max_bytes: value.varint_u32("the largest chunk")?,
    };
    let ordered =
        settings.min_bytes <= settings.average_bytes && settings.average_bytes <= settings.max_bytes;
    let bounded = settings.min_bytes >= 64 && settings.max_bytes <= 8 << 20 && settings.average_bytes >= 256;
    // The chunker looks at two bytes at a time.
    let even = (settings.min_bytes | settings.average_bytes | settings.max_bytes) & 1 == 0;
    if ordered && bounded && even {
        Ok(settings)
    } else {
        Err(DecodeError::Invalid("the chunk sizes"))
    }
}

fn read_compression(value: &mut Reader<'_>) -> Result<Compression, DecodeError> {
    match value.u8("the compression")? {
        0 => Ok(Compression::None),
        1 => {
            let level = i32::try_from(value.signed("the level")?)
                .ok()
                .ok_or(DecodeError::Invalid("the level"))?;
            Ok(Compression::Zstd(level))
        }
        _ => Err(DecodeError::Invalid("the compression")),
    }
}

/// Writes seconds (zigzag) and nanoseconds.
pub(super) fn write_timestamp(writer: &mut Writer, time: Timestamp) {
    writer.signed(time.seconds);
    writer.varint(time.nanoseconds.into());
}

/// Reads seconds (zigzag) and nanoseconds.
pub(super) fn read_timestamp(reader: &mut Reader<'_>, what: &'static str) -> Result<Timestamp, DecodeError> {
    let seconds = reader.signed(what)?;
    let nanoseconds = reader.varint_u32(what)?;
    if nanoseconds >= 1_000_000_000 {
        return Err(DecodeError::Invalid(what));
    }
    Ok(Timestamp { seconds, nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Config {
        Config {
            repository_id: RepositoryId([7; 16]),
            created: Timestamp {
                seconds: 1_700_000_000,
                nanoseconds: 5,
            },
            encrypted: true,
            chunker: ChunkerSettings {
                min_bytes: 1 << 18,
                average_bytes: 1 << 20,
                max_bytes: 1 << 22,
            },
            compression: Compression::Zstd(3),
            frame_bytes: 1 << 20,
            pack_bytes: 32 << 20,
            public_master_key: None,
        }
    }

    #[test]
    fn a_config_survives() {
        let config = sample();
        let (decoded, tag) = Config::decode(&config.encode(|_| [9; 32])).unwrap();
        assert_eq!(decoded, config);
        assert_eq!(tag.tag, [9; 32]);
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_noticed() {
        let object = sample().encode(|_| [9; 32]);
        for position in 0..object.len() {
            let mut damaged = object.clone();
            damaged[position] ^= 0x40;
            assert!(Config::decode(&damaged).is_err(), "byte {position}");
            assert!(Config::decode(&object[..position]).is_err(), "cut at {position}");
        }
    }
}
