//! Packs as objects: their names, their tables of contents, and those that no index segment names.

use std::collections::HashSet;

use crate::crypto::keys::Keys;
use crate::format::codec::Reader;
use crate::format::index_segment::PackInfo;
use crate::format::object::{HEADER_BYTES, Mode, ObjectKind, read_sealed_header};
use crate::format::pack::{ContentsFrame, TRAILER_BYTES, Trailer, decode_contents};
use crate::id::PackId;
use crate::read_error::{DamageContext, ReadError};
use crate::storage::{ObjectInfo, Storage, list_all};

use super::Repository;

/// What a pack says about itself.
#[derive(Debug, Clone)]
pub struct OpenedPack {
    /// Id, salt, kind and size.
    pub info: PackInfo,
    /// Its table of contents.
    pub frames: Vec<ContentsFrame>,
}

/// Key of a pack.
pub fn pack_key(id: PackId) -> String {
    let [first, ..] = id.0;
    format!("packs/{first:02x}/{id}")
}

/// The pack id of a key, if it is the key of a pack.
pub fn pack_id_of(key: &str) -> Option<PackId> {
    let (folder, name) = key.strip_prefix("packs/")?.split_once('/')?;
    name.parse()
        .ok()
        .filter(|_| name.starts_with(folder) && folder.len() == 2)
}

/// Reads header, trailer and table of contents of a pack.
pub fn read_pack_contents(
    storage: &dyn Storage,
    keys: &Keys,
    mode: Mode,
    id: PackId,
    size_bytes: u64,
) -> Result<OpenedPack, ReadError> {
    let key = pack_key(id);
    let shortest = (HEADER_BYTES + TRAILER_BYTES) as u64;
    if size_bytes < shortest {
        return Err(ReadError::damaged(&key, "it is too short to be a pack"));
    }
    let get = |offset, length| {
        storage
            .get(&key, offset, length)
            .map_err(|error| ReadError::required(&key, error))
    };
    let header = get(0, HEADER_BYTES as u64)?;
    let trailer = get(size_bytes - TRAILER_BYTES as u64, TRAILER_BYTES as u64)?;
    let trailer = Trailer::decode(&trailer, size_bytes).damage(&key)?;
    let contents = get(trailer.contents_offset, trailer.contents_length.into())?;
    open_contents(keys, mode, id, size_bytes, &header, trailer, contents)
}

/// Opens the table of contents from parts that were read.
pub(crate) fn open_contents(
    keys: &Keys,
    mode: Mode,
    id: PackId,
    size_bytes: u64,
    header: &[u8],
    trailer: Trailer,
    mut contents: Vec<u8>,
) -> Result<OpenedPack, ReadError> {
    let key = pack_key(id);
    let kind = match header.get(4) {
        Some(&kind) if kind == ObjectKind::TreePack as u8 => ObjectKind::TreePack,
        _ => ObjectKind::DataPack,
    };
    let (prelude, salt) = read_sealed_header(&mut Reader::new(header), kind).damage(&key)?;
    if prelude.mode != mode {
        return Err(ReadError::damaged(
            &key,
            "it is protected in another way than the repository",
        ));
    }
    keys.object_key(prelude, &salt)
        .open(trailer.contents_offset, &mut contents)
        .damage(&key)?;
    let frames = decode_contents(&contents, trailer.contents_offset).damage(&key)?;
    if frames.len() != trailer.frame_count as usize {
        return Err(ReadError::damaged(
            &key,
            "its trailer and its table of contents disagree",
        ));
    }
    Ok(OpenedPack {
        info: PackInfo {
            id,
            salt,
            kind,
            size_bytes,
        },
        frames,
    })
}

impl Repository {
    /// Lists all packs on the storage.
    pub(crate) fn list_packs(&self) -> Result<Vec<ObjectInfo>, ReadError> {
        let mut objects = Vec::new();
        list_all(self.storage().as_ref(), "packs/", |object| objects.push(object))
            .map_err(ReadError::Storage)?;
        Ok(objects)
    }

    /// Opens the packs that are not known: stored by a session that was interrupted, or whose segment was lost.
    /// A damaged one is left alone: `check` names it.
    pub(crate) fn packs_besides(
        &self,
        known: &HashSet<PackId>,
    ) -> Result<Vec<(PackInfo, Vec<ContentsFrame>)>, ReadError> {
        let mut found = Vec::new();
        for object in self.list_packs()? {
            let Some(id) = pack_id_of(&object.key).filter(|id| !known.contains(id)) else {
                continue;
            };
            let storage = self.storage().as_ref();
            match read_pack_contents(storage, self.keys(), self.config().mode(), id, object.size_bytes) {
                Ok(pack) => found.push((pack.info, pack.frames)),
                Err(error) if error.is_damage() => tracing::warn!("left alone: {error}"),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}
