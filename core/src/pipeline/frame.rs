//! Gathers neighbouring blobs and compresses them together. Only this stage makes a `PlainFrame`.

use crate::format::MAX_FRAME_BYTES;
use crate::format::config::Compression;
use crate::format::pack::{Codec, ContentsBlob, FRAME_HEADER_BYTES, TAG_BYTES, frame_header};
use crate::id::BlobId;
use crate::index::Claim;

/// A frame that is encoded and not yet sealed.
#[derive(Debug)]
pub struct PlainFrame {
    bytes: Vec<u8>,
    blobs: Vec<ContentsBlob>,
}

impl PlainFrame {
    /// Its length once sealed, in bytes.
    pub fn sealed_bytes(&self) -> usize {
        self.bytes.len() + TAG_BYTES
    }

    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<ContentsBlob>) {
        (self.bytes, self.blobs)
    }
}

/// Gathers blobs into frames of about `target_bytes`. One for each worker.
pub struct FrameBuilder {
    raw: Vec<u8>,
    blobs: Vec<ContentsBlob>,
    target_bytes: usize,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for FrameBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "FrameBuilder({} of {} bytes)",
            self.raw.len(),
            self.target_bytes
        )
    }
}

impl FrameBuilder {
    /// A builder with the repository's settings.
    pub fn new(target_bytes: u32, compression: Compression) -> std::io::Result<Self> {
        let compressor = match compression {
            Compression::None => None,
            Compression::Zstd(level) => Some(zstd::bulk::Compressor::new(level)?),
        };
        Ok(Self {
            raw: Vec::new(),
            blobs: Vec::new(),
            target_bytes: target_bytes as usize,
            compressor,
            scratch: Vec::new(),
        })
    }

    /// Adds a claimed blob. Returns a frame when one is full; a blob of half the target or more makes a frame alone.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a claim is spent here, so that no blob is framed twice"
    )]
    pub fn add(&mut self, claim: Claim, plain: &[u8]) -> Option<PlainFrame> {
        let id = claim.id();
        if plain.len() >= self.target_bytes / 2 {
            return Some(encode(
                self.compressor.as_mut(),
                &mut self.scratch,
                plain,
                vec![contents_blob(id, plain)],
            ));
        }
        let full = (self.raw.len() + plain.len() > self.target_bytes)
            .then(|| self.finish())
            .flatten();
        if self.raw.capacity() == 0 {
            self.raw.reserve_exact(self.target_bytes);
        }
        self.raw.extend_from_slice(plain);
        self.blobs.push(contents_blob(id, plain));
        full
    }

    /// What is gathered, as a frame; `None` when there is nothing.
    pub fn finish(&mut self) -> Option<PlainFrame> {
        if self.blobs.is_empty() {
            return None;
        }
        let blobs = std::mem::take(&mut self.blobs);
        let frame = encode(self.compressor.as_mut(), &mut self.scratch, &self.raw, blobs);
        self.raw.clear();
        Some(frame)
    }
}

fn contents_blob(id: BlobId, plain: &[u8]) -> ContentsBlob {
    debug_assert!(
        plain.len() <= MAX_FRAME_BYTES,
        "the caller cuts blobs below the limit"
    );
    ContentsBlob {
        id,
        length: u32::try_from(plain.len()).unwrap_or(u32::MAX),
    }
}

/// Compresses into `scratch`, which is kept from frame to frame; what does not shrink stays as it is.
fn encode(
    compressor: Option<&mut zstd::bulk::Compressor<'static>>,
    scratch: &mut Vec<u8>,
    raw: &[u8],
    blobs: Vec<ContentsBlob>,
) -> PlainFrame {
    let raw_length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    let mut compressed = None;
    if let Some(compressor) = compressor {
        // A buffer no larger than the input: a result that does not fit is not worth keeping.
        if scratch.len() < raw.len() {
            scratch.resize(raw.len(), 0);
        }
        let space = scratch.get_mut(..raw.len()).unwrap_or_default();
        compressed = compressor
            .compress_to_buffer(raw, space)
            .ok()
            .filter(|&length| length < raw.len());
    }
    let (codec, payload) = match compressed.and_then(|length| scratch.get(..length)) {
        Some(payload) => (Codec::Zstd, payload),
        None => (Codec::Raw, raw),
    };
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len() + TAG_BYTES);
    bytes.extend_from_slice(&frame_header(codec, raw_length));
    bytes.extend_from_slice(payload);
    PlainFrame { bytes, blobs }
}
