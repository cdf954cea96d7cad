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
    frames: Vec<SealedFrame>,
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
            state.frames.push(sealed);
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

    fn open(&self) -> Result<OpenPack, EntropyError> {
        let salt = self.environment.random()?;
        Ok(OpenPack {
            key: self.keys.object_key(self.prelude, &salt),
            salt,
            prelude: self.prelude,
            state: Mutex::new(PackState {
                end: HEADER_BYTES,
                frames: Vec::new(),
                outstanding: 0,
                closed: false,
            }),
        })
    }
}

/// Assembles a pack once it is closed and no frame is missing. Exactly one caller gets it.
fn complete_if_settled(pack: &OpenPack) -> Option<Pack> {
    let mut state = lock(&pack.state);
    if !state.closed || state.outstanding > 0 || state.frames.is_empty() {
        return None;
    }
    let mut frames = std::mem::take(&mut state.frames);
    let end = state.end;
    drop(state);
    frames.sort_unstable_by_key(SealedFrame::offset);
    let mut object = sealed_header(pack.prelude, &pack.salt).into_bytes();
    object.reserve_exact(end - HEADER_BYTES);
    let mut contents = Vec::with_capacity(frames.len());
    for frame in frames {
        let (bytes, place) = frame.into_parts();
        debug_assert_eq!(object.len(), place.offset as usize, "places are contiguous");
        object.extend_from_slice(&bytes);
        contents.push(place);
    }
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
