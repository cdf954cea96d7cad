//! Gathers sealed frames into packs. Places are reserved under a lock; sealing happens outside it, so that workers do not wait for each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crypto::keys::Keys;
use crate::crypto::seal::ObjectKey;
use crate::environment::{EntropyError, Environment};
use crate::format::index_segment::PackInfo;
use crate::format::object::{HEADER_BYTES, Mode, ObjectKind, Prelude, SALT_BYTES, sealed_header};
use crate::format::pack::{ContentsFrame, Trailer, encode_contents};
use crate::id::PackId;

use super::frame::PlainFrame;
use super::seal::{SealedFrame, seal};

/// A finished pack, ready to be stored.
#[derive(Debug)]
pub struct Pack {
    info: PackInfo,
    frames: Vec<ContentsFrame>,
    object: Vec<u8>,
}

impl Pack {
    pub(super) fn into_parts(self) -> (PackInfo, Vec<ContentsFrame>, Vec<u8>) {
        (self.info, self.frames, self.object)
    }
}

/// Room kept for the table of contents, in bytes.
const CONTENTS_ROOM: usize = 512 << 10;

/// Fills packs of one kind.
#[derive(Debug)]
pub struct Packer<'a> {
    keys: &'a Keys,
    environment: &'a Environment,
    prelude: Prelude,
    target_bytes: usize,
    current: Mutex<Option<Arc<OpenPack>>>,
}

#[derive(Debug)]
struct OpenPack {
    key: ObjectKey,
    salt: [u8; SALT_BYTES],
    prelude: Prelude,
    state: Mutex<PackState>,
}

#[derive(Debug)]
struct PackState {
    end: usize,
    /// The object so far; frames are copied to their places as they come.
    object: Vec<u8>,
    contents: Vec<ContentsFrame>,
    outstanding: usize,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Packer<'a> {
    /// A packer of data or tree packs that closes a pack at about `target_bytes`.
    pub fn new(
        keys: &'a Keys,
        environment: &'a Environment,
        kind: ObjectKind,
        mode: Mode,
        target_bytes: u32,
    ) -> Self {
        let prelude = Prelude { kind, mode };
        Self {
            keys,
            environment,
            prelude,
            target_bytes: target_bytes as usize,
            current: Mutex::new(None),
        }
    }

    /// Seals a frame into the current pack. Returns the packs that this completed.
    pub fn add(&self, frame: PlainFrame) -> Result<Vec<Pack>, EntropyError> {
        let (pack, offset, closed) = self.reserve(frame.sealed_bytes())?;
        let mut complete: Vec<Pack> = closed
            .and_then(|closed| complete_if_settled(&closed))
            .into_iter()
            .collect();
        let sealed = seal(&pack.key, offset, frame);
        {
            let mut state = lock(&pack.state);
            state.place(sealed);
            state.outstanding -= 1;
        }
        complete.extend(complete_if_settled(&pack));
        Ok(complete)
    }

    /// Closes the current pack; returns it unless it is empty. No `add` may be running.
    pub fn finish(&self) -> Option<Pack> {
        let pack = lock(&self.current).take()?;
        lock(&pack.state).closed = true;
        complete_if_settled(&pack)
    }

    /// Reserves room in the current pack, opening a new one when it is full. Returns the pack, the offset and the pack that was closed.
    #[expect(clippy::type_complexity, reason = "three plain values, used once")]
    fn reserve(&self, bytes: usize) -> Result<(Arc<OpenPack>, u32, Option<Arc<OpenPack>>), EntropyError> {
        let mut current = lock(&self.current);
        let mut closed = None;
        if let Some(pack) = current.as_ref() {
            let mut state = lock(&pack.state);
            if state.end > HEADER_BYTES && state.end + bytes > self.target_bytes {
                state.closed = true;
                closed = Some(Arc::clone(pack));
            }
        }
        if closed.is_some() {
            *current = None;
        }
        let pack = match current.as_ref() {
            Some(pack) => Arc::clone(pack),
            None => Arc::clone(current.insert(Arc::new(self.open()?))),
        };
        let mut state = lock(&pack.state);
        let offset = u32::try_from(state.end).unwrap_or(u32::MAX);
        state.end += bytes;
        state.outstanding += 1;
        drop(state);
        Ok((pack, offset, closed))
    }

    /// The first bytes of a pack, with room for the rest.
    fn header(&self, salt: &[u8; SALT_BYTES]) -> Vec<u8> {
        let header = sealed_header(self.prelude, salt).into_bytes();
        // A pack of trees is small most often: it grows as it fills.
        if self.prelude.kind == ObjectKind::TreePack {
            return header;
        }
        let mut object = Vec::with_capacity(self.target_bytes + CONTENTS_ROOM);
        object.extend_from_slice(&header);
        object
    }

    fn open(&self) -> Result<OpenPack, EntropyError> {
        let salt = self.environment.random()?;
        Ok(OpenPack {
            key: self.keys.object_key(self.prelude, &salt),
            salt,
            prelude: self.prelude,
            state: Mutex::new(PackState {
                end: HEADER_BYTES,
                object: self.header(&salt),
                contents: Vec::new(),
                outstanding: 0,
                closed: false,
            }),
        })
    }
}

impl PackState {
    /// Copies a frame to its place. One whose neighbours before it are not there yet leaves room for them.
    fn place(&mut self, frame: SealedFrame) {
        let (bytes, place) = frame.into_parts();
        let start = place.offset as usize;
        if self.object.len() < start {
            self.object.resize(start, 0);
        }
        if let Some(room) = self.object.get_mut(start..start + bytes.len()) {
            room.copy_from_slice(&bytes);
        } else {
            self.object.truncate(start);
            self.object.extend_from_slice(&bytes);
        }
        self.contents.push(place);
    }
}

/// Finishes a pack once it is closed and no frame is missing. Exactly one caller gets it.
fn complete_if_settled(pack: &OpenPack) -> Option<Pack> {
    let mut state = lock(&pack.state);
    if !state.closed || state.outstanding > 0 || state.contents.is_empty() {
        return None;
    }
    let mut contents = std::mem::take(&mut state.contents);
    let mut object = std::mem::take(&mut state.object);
    let end = state.end;
    drop(state);
    contents.sort_unstable_by_key(|frame| frame.offset);
    debug_assert_eq!(object.len(), end, "places are contiguous");
    let mut table = encode_contents(&contents);
    pack.key.seal(end as u64, &mut table);
    let trailer = Trailer {
        contents_offset: end as u64,
        contents_length: u32::try_from(table.len()).unwrap_or(u32::MAX),
        frame_count: u32::try_from(contents.len()).unwrap_or(u32::MAX),
    };
    object.extend_from_slice(&table);
    object.extend_from_slice(&trailer.encode());
    let info = PackInfo {
        id: PackId(*blake3::hash(&object).as_bytes()),
        salt: pack.salt,
        kind: pack.prelude.kind,
        size_bytes: object.len() as u64,
    };
    Some(Pack {
        info,
        frames: contents,
        object,
    })
}
