//! Seals a frame for its place in a pack. Only this stage makes a `SealedFrame`, and packs take nothing else.

use crate::crypto::seal::ObjectKey;
use crate::format::pack::ContentsFrame;

use super::frame::PlainFrame;

/// A frame sealed for one place.
#[derive(Debug)]
pub struct SealedFrame {
    bytes: Vec<u8>,
    contents: ContentsFrame,
}

impl SealedFrame {
    pub(super) fn into_parts(self) -> (Vec<u8>, ContentsFrame) {
        (self.bytes, self.contents)
    }
}

/// Seals `frame` under the pack's key for `offset`.
pub fn seal(key: &ObjectKey, offset: u32, frame: PlainFrame) -> SealedFrame {
    let (mut bytes, blobs) = frame.into_parts();
    key.seal(offset.into(), &mut bytes);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    SealedFrame {
        bytes,
        contents: ContentsFrame {
            offset,
            length,
            blobs,
        },
    }
}
