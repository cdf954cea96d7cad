//! Packs: frames one after another, a sealed table of contents, a fixed trailer.
//!
//! ```text
//! prelude (8) | salt (32) | sealed frame … | sealed table of contents | trailer (32)
//! frame, plain:    codec u8 | raw length u32 | payload          sealed: the same encrypted, then a 16-byte tag
//! contents, plain: frame count | per frame: sealed length, blob count, per blob: id (24), raw length
//! trailer:         contents offset u64 | contents sealed length u32 | frame count u32 | 8 zero bytes | magic (8)
//! ```
//! Frames are contiguous from byte 40 on, so their offsets follow from their lengths. Integers in the table are LEB128.

use crate::id::BlobId;

use super::MAX_FRAME_BYTES;
use super::codec::{DecodeError, Reader, Writer};
use super::object::HEADER_BYTES;

/// Length of the trailer, in bytes.
pub const TRAILER_BYTES: usize = 32;
/// Length of codec and raw length, in bytes.
pub const FRAME_HEADER_BYTES: usize = 5;
/// Length of the authentication tag, in bytes.
pub const TAG_BYTES: usize = 16;
/// Largest table of contents accepted, in bytes.
pub const MAX_CONTENTS_BYTES: u32 = 1 << 28;

const TRAILER_MAGIC: [u8; 8] = *b"PLKPACK\x01";

/// How the payload of a frame is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// The five bytes before the payload of a frame.
pub fn frame_header(codec: Codec, raw_length: u32) -> [u8; FRAME_HEADER_BYTES] {
    let [a, b, c, d] = raw_length.to_le_bytes();
    [codec as u8, a, b, c, d]
}

/// Splits an opened frame into codec, raw length and payload. The raw length is bounded by [`MAX_FRAME_BYTES`].
pub fn split_frame(plain: &[u8]) -> Result<(Codec, usize, &[u8]), DecodeError> {
    let mut reader = Reader::new(plain);
    let codec = match reader.u8("the codec")? {
        0 => Codec::Raw,
        1 => Codec::Zstd,
        _ => return Err(DecodeError::Invalid("the codec")),
    };
    let raw_length = usize::try_from(reader.u32("the raw length")?)
        .ok()
        .ok_or(DecodeError::Invalid("the raw length"))?;
    if raw_length > MAX_FRAME_BYTES || (codec == Codec::Raw && raw_length != reader.rest().len()) {
        return Err(DecodeError::Invalid("the raw length"));
    }
    Ok((codec, raw_length, reader.rest()))
}

/// One blob of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentsBlob {
    /// Its id.
    pub id: BlobId,
    /// Its plain length in bytes.
    pub length: u32,
}

/// One frame of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentsFrame {
    /// Where it begins in the object.
    pub offset: u32,
    /// Its sealed length in bytes, tag included.
    pub length: u32,
    /// The blobs in it, in order.
    pub blobs: Vec<ContentsBlob>,
}

/// Encodes the table of contents.
pub fn encode_contents(frames: &[ContentsFrame]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.varint(frames.len() as u64);
    for frame in frames {
        writer.varint(frame.length.into());
        writer.varint(frame.blobs.len() as u64);
        for blob in &frame.blobs {
            writer.raw(blob.id.as_bytes());
            writer.varint(blob.length.into());
        }
    }
    writer.into_bytes()
}

/// Decodes a table of contents; `end` is the offset at which the table itself begins, where the last frame must end.
pub fn decode_contents(bytes: &[u8], end: u64) -> Result<Vec<ContentsFrame>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(2, "the number of frames")?;
    // No sealed frame is shorter than its header and tag, so the pack itself bounds their number.
    if count as u64 > end / (FRAME_HEADER_BYTES + TAG_BYTES) as u64 {
        return Err(DecodeError::Invalid("the number of frames"));
    }
    let mut frames = Vec::with_capacity(count);
    let mut offset = HEADER_BYTES as u64;
    for _ in 0..count {
        let length = reader.varint_u32("a frame's length")?;
        let blob_count = reader.count(BlobId::LENGTH + 1, "the number of blobs")?;
        let mut blobs = Vec::with_capacity(blob_count);
        let mut raw = 0_u64;
        for _ in 0..blob_count {
            let id = BlobId(reader.array("a blob id")?);
            let length = reader.varint_u32("a blob's length")?;
            raw += u64::from(length);
            blobs.push(ContentsBlob { id, length });
        }
        if raw > MAX_FRAME_BYTES as u64 || length as usize > MAX_FRAME_BYTES {
            return Err(DecodeError::Invalid("a frame's length"));
        }
        let start = u32::try_from(offset)
            .ok()
            .ok_or(DecodeError::Invalid("a frame's offset"))?;
        frames.push(ContentsFrame {
            offset: start,
            length,
            blobs,
        });
        offset += u64::from(length);
    }
    reader.finish()?;
    if offset == end {
        Ok(frames)
    } else {
        Err(DecodeError::Invalid("the end of the frames"))
    }
}

/// Where the table of contents of a pack is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Where the sealed table begins.
    pub contents_offset: u64,
    /// Its sealed length in bytes.
    pub contents_length: u32,
    /// How many frames the pack has.
    pub frame_count: u32,
}

impl Trailer {
    /// The last bytes of a pack.
    pub fn encode(self) -> [u8; TRAILER_BYTES] {
        let mut writer = Writer::new();
        writer.u64(self.contents_offset);
        writer.u32(self.contents_length);
        writer.u32(self.frame_count);
        writer.u64(0);
        writer.raw(&TRAILER_MAGIC);
        let mut trailer = [0; TRAILER_BYTES];
        trailer
            .iter_mut()
            .zip(writer.as_slice())
            .for_each(|(to, from)| *to = *from);
        trailer
    }

    /// Reads the last bytes of a pack of `size_bytes`; the table must lie just before them.
    pub fn decode(bytes: &[u8], size_bytes: u64) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let trailer = Self {
            contents_offset: reader.u64("the trailer")?,
            contents_length: reader.u32("the trailer")?,
            frame_count: reader.u32("the trailer")?,
        };
        if reader.u64("the trailer")? != 0 || reader.array("the trailer")? != TRAILER_MAGIC {
            return Err(DecodeError::Invalid("the trailer"));
        }
        reader.finish()?;
        let end = trailer
            .contents_offset
            .checked_add(u64::from(trailer.contents_length));
        let fits = end.and_then(|end| end.checked_add(TRAILER_BYTES as u64)) == Some(size_bytes);
        if fits
            && trailer.contents_offset >= HEADER_BYTES as u64
            && trailer.contents_length <= MAX_CONTENTS_BYTES
        {
            Ok(trailer)
        } else {
            Err(DecodeError::Invalid("the place of the table of contents"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_and_trailer_survive() {
        let frames = vec![
            ContentsFrame {
                offset: 40,
                length: 100,
                blobs: vec![ContentsBlob {
                    id: BlobId([1; 24]),
                    length: 500,
                }],
            },
            ContentsFrame {
                offset: 140,
                length: 7,
                blobs: vec![],
            },
        ];
        assert_eq!(decode_contents(&encode_contents(&frames), 147).unwrap(), frames);
        assert!(decode_contents(&encode_contents(&frames), 148).is_err());
        let trailer = Trailer {
            contents_offset: 147,
            contents_length: 60,
            frame_count: 2,
        };
        assert_eq!(
            Trailer::decode(&trailer.encode(), 147 + 60 + 32).unwrap(),
            trailer
        );
        assert!(Trailer::decode(&trailer.encode(), 147 + 60 + 33).is_err());
    }

    #[test]
    fn a_raw_length_of_four_gigabytes_is_refused() {
        assert!(split_frame(&frame_header(Codec::Zstd, u32::MAX)).is_err());
    }
}
