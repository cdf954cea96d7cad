//! Index segments of any size without the data: packs that only the index knows, with blobs whose ids follow from numbers.

use std::ops::Range;

use plakar_core::crypto::keys::Keys;
use plakar_core::environment::Environment;
use plakar_core::format::index_segment::PackInfo;
use plakar_core::format::object::{HEADER_BYTES, Mode, ObjectKind};
use plakar_core::format::pack::{ContentsBlob, ContentsFrame};
use plakar_core::id::{BlobId, PackId, SessionId};
use plakar_core::index::{Index, Publisher};
use plakar_core::read_error::ReadError;
use plakar_core::storage::Storage;

/// Blobs in each pack.
pub const BLOBS_OF_PACK: u32 = 10_000;
/// Plain length of each blob, in bytes.
pub const BLOB_BYTES: u32 = 3_000;
const FRAME_BLOBS: u32 = 100;
const FRAME_BYTES: u32 = 100_000;
/// What each pack would take.
pub const PACK_BYTES: u64 = HEADER_BYTES as u64 + (BLOBS_OF_PACK / FRAME_BLOBS) as u64 * FRAME_BYTES as u64;

/// The id of a blob.
pub fn blob_id(number: u32) -> BlobId {
    let hash = blake3::hash(&number.to_le_bytes());
    BlobId(hash.as_bytes().first_chunk().copied().unwrap_or_default())
}

/// The pack that holds `BLOBS_OF_PACK` blobs from that number times as many.
pub fn pack(number: u32) -> (PackInfo, Vec<ContentsFrame>) {
    let first = number * BLOBS_OF_PACK;
    let frames = (0..BLOBS_OF_PACK / FRAME_BLOBS).map(|frame| ContentsFrame {
        offset: HEADER_BYTES as u32 + frame * FRAME_BYTES,
        length: FRAME_BYTES,
        blobs: (0..FRAME_BLOBS)
            .map(|blob| ContentsBlob {
                id: blob_id(first + frame * FRAME_BLOBS + blob),
                length: BLOB_BYTES,
            })
            .collect(),
    });
    let info = PackInfo {
        id: PackId(*blake3::hash(format!("pack {number}").as_bytes()).as_bytes()),
        salt: [7; 32],
        kind: ObjectKind::DataPack,
        size_bytes: PACK_BYTES,
    };
    (info, frames.collect())
}

/// Stores one segment that names these packs.
pub fn publish(storage: &dyn Storage, keys: &Keys, mode: Mode, packs: Range<u32>) -> Result<(), ReadError> {
    let index = Index::empty(mode, None);
    for number in packs {
        let (info, frames) = pack(number);
        index.record(info, &frames);
    }
    let publisher = Publisher {
        storage,
        keys,
        environment: &Environment::system(),
        session: SessionId([1; 16]),
        cache: None,
    };
    index.publish(publisher, false).map(|_| ())
}
