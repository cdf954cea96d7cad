//! The prelude that every object starts with: magic, kind, format version, mode, salt.

use super::FORMAT_VERSION;
use super::codec::{DecodeError, Reader, Writer};

/// The first four bytes of every object. The first has its high bit set, so that no text file begins so.
pub const MAGIC: [u8; 4] = *b"\x89PLK";
/// Length of the fixed prelude, in bytes.
pub const PRELUDE_BYTES: usize = 8;
/// Length of the salt that follows it in sealed objects, in bytes.
pub const SALT_BYTES: usize = 32;
/// Prelude and salt together: where the first frame of a sealed object begins.
pub const HEADER_BYTES: usize = PRELUDE_BYTES + SALT_BYTES;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// The settings of the repository.
    Config = 1,
    /// A key slot.
    KeySlot = 2,
    /// A pack of file contents.
    DataPack = 3,
    /// A pack of tree nodes and other metadata.
    TreePack = 4,
    /// An index segment.
    IndexSegment = 5,
    /// The header of a snapshot.
    Snapshot = 6,
}

impl ObjectKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Config,
            Self::KeySlot,
            Self::DataPack,
            Self::TreePack,
            Self::IndexSegment,
            Self::Snapshot,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// How an object is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Authenticated only (a repository made without encryption).
    Plain = 0,
    /// Encrypted and authenticated.
    Encrypted = 1,
}

/// The fixed first bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prelude {
    /// What the object is.
    pub kind: ObjectKind,
    /// How it is protected.
    pub mode: Mode,
}

impl Prelude {
    /// The eight bytes: magic, kind, version, mode, zero.
    pub fn encode(self) -> [u8; PRELUDE_BYTES] {
        let [a, b, c, d] = MAGIC;
        [a, b, c, d, self.kind as u8, FORMAT_VERSION, self.mode as u8, 0]
    }

    /// Reads a prelude; the object must be of the expected kind.
    pub fn decode(reader: &mut Reader<'_>, expected: ObjectKind) -> Result<Self, DecodeError> {
        let [a, b, c, d, kind, version, mode, reserved] = reader.array("the prelude")?;
        if [a, b, c, d] != MAGIC {
            return Err(DecodeError::Magic);
        }
        if version == 0 || version > FORMAT_VERSION {
            return Err(DecodeError::Version(version));
        }
        if ObjectKind::from_byte(kind) != Some(expected) {
            return Err(DecodeError::Kind);
        }
        let mode = match mode {
            0 => Mode::Plain,
            1 => Mode::Encrypted,
            _ => return Err(DecodeError::Invalid("the mode")),
        };
        if reserved != 0 {
            return Err(DecodeError::Invalid("the reserved byte"));
        }
        Ok(Self { kind: expected, mode })
    }
}

/// Starts a sealed object: prelude and salt.
pub fn sealed_header(prelude: Prelude, salt: &[u8; SALT_BYTES]) -> Writer {
    let mut writer = Writer::new();
    writer.raw(&prelude.encode());
    writer.raw(salt);
    writer
}

/// Reads the prelude and salt of a sealed object.
pub fn read_sealed_header(
    reader: &mut Reader<'_>,
    expected: ObjectKind,
) -> Result<(Prelude, [u8; SALT_BYTES]), DecodeError> {
    let prelude = Prelude::decode(reader, expected)?;
    Ok((prelude, reader.array("the salt")?))
}
