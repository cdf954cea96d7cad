//! The alphabet of the format: little-endian integers, LEB128 variable-length integers and length-prefixed bytes.
//!
//! A `Reader` never reads past its slice and never allocates more than the slice holds.

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the bytes end inside {0}")]
    Truncated(&'static str),
    /// A value is outside its range.
    #[error("{0} has a value that is not allowed")]
    Invalid(&'static str),
    /// Bytes follow the last value.
    #[error("{0} unexpected bytes follow the end")]
    TrailingBytes(usize),
    /// The object does not begin with the magic number of this program.
    #[error("not an object of plakar")]
    Magic,
    /// The object is of another kind than its name says.
    #[error("the object is of another kind than its name says")]
    Kind,
    /// The object was written by a newer program.
    #[error("format version {0} is newer than this program")]
    Version(u8),
    /// A checksum of the object differs.
    #[error("the checksum differs")]
    Checksum,
}

/// Appends values to a byte vector.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer that goes on at the end of `bytes`.
    pub fn append_to(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// The bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The finished bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends four bytes, little-endian.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends an unsigned LEB128 integer (1 to 10 bytes).
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push((value & 0x7f) as u8);
    }

    /// Appends a signed integer as zigzag LEB128.
    pub fn signed(&mut self, value: i64) {
        self.varint((value << 1 ^ value >> 63).cast_unsigned());
    }

    /// Appends a length and the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.raw(bytes);
    }

    /// Appends a tagged field: tag, length, value. Readers skip tags that they do not know.
    pub fn field(&mut self, tag: u64, value: &[u8]) {
        self.varint(tag);
        self.bytes(value);
    }

    /// Appends a tagged field whose value `fill` writes.
    pub fn field_with(&mut self, tag: u64, fill: impl FnOnce(&mut Self)) {
        let mut value = Self::new();
        fill(&mut value);
        self.field(tag, &value.bytes);
    }
}

/// Takes values from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not yet taken.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all bytes were taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes `length` bytes.
    pub fn raw(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes a fixed number of bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(DecodeError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes one byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Takes four bytes, little-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Takes eight bytes, little-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Takes an unsigned LEB128 integer; one that does not fit in 64 bits is invalid.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Invalid(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid(what))
    }

    /// Takes an unsigned integer that must fit in 32 bits.
    pub fn varint_u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.varint(what)?)
            .ok()
            .ok_or(DecodeError::Invalid(what))
    }

    /// Takes a zigzag LEB128 integer.
    pub fn signed(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let value = self.varint(what)?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Takes length-prefixed bytes.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = usize::try_from(self.varint(what)?)
            .ok()
            .ok_or(DecodeError::Truncated(what))?;
        self.raw(length, what)
    }

    /// Takes length-prefixed UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let bytes = self.bytes(what)?;
        String::from_utf8(bytes.to_vec())
            .ok()
            .ok_or(DecodeError::Invalid(what))
    }

    /// Takes a count of items that each take at least `item_bytes`: so a count larger than the bytes allow is refused
    /// before anything is allocated.
    pub fn count(&mut self, item_bytes: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.varint(what)?)
            .ok()
            .ok_or(DecodeError::Truncated(what))?;
        match count.checked_mul(item_bytes) {
            Some(total) if total <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::Truncated(what)),
        }
    }

    /// Takes the next tagged field, or `None` at the end.
    pub fn field(&mut self, what: &'static str) -> Result<Option<(u64, Reader<'a>)>, DecodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint(what)?;
        Ok(Some((tag, Reader::new(self.bytes(what)?))))
    }

    /// Fails when bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes(self.rest.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_size_survive() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut writer = Writer::new();
            writer.varint(value);
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint("value"), Ok(value));
            assert!(reader.is_empty());
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX, -1_000_000_007] {
            let mut writer = Writer::new();
            writer.signed(value);
            assert_eq!(Reader::new(writer.as_slice()).signed("value"), Ok(value));
        }
    }

    #[test]
    fn an_integer_that_overflows_is_refused() {
        assert_eq!(
            Reader::new(&[0xff; 11]).varint("value"),
            Err(DecodeError::Invalid("value"))
        );
        let mut too_big = [0xff; 10];
        too_big[9] = 0x02;
        assert_eq!(
            Reader::new(&too_big).varint("value"),
            Err(DecodeError::Invalid("value"))
        );
    }

    #[test]
    fn a_length_beyond_the_bytes_is_refused_before_allocating() {
        let mut writer = Writer::new();
        writer.varint(u64::MAX);
        assert!(Reader::new(writer.as_slice()).bytes("name").is_err());
        assert!(Reader::new(writer.as_slice()).count(32, "ids").is_err());
    }
}
