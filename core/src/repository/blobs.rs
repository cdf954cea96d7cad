//! Reading blobs: find the frame, open it, decompress it, cut the blob out, verify its id.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::crypto::keys::Keys;
use crate::format::index_segment::PackInfo;
use crate::format::object::{Mode, ObjectKind, Prelude};
use crate::format::pack::{Codec, split_frame};
use crate::id::{BlobId, PackId};
use crate::index::Place;
use crate::read_error::{DamageContext, ReadError};

use super::Repository;
use super::packs::pack_key;
use super::read_ahead::{Fetch, ReadAhead};

/// The verified plain bytes of a blob.
#[derive(Debug, Clone)]
pub struct Blob {
    frame: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.frame.get(self.range.clone()).unwrap_or_default()
    }
}

/// Opens and decompresses frames; keeps the decompressor from one to the next.
pub struct FrameDecoder<'a> {
    keys: &'a Keys,
    mode: Mode,
    decompressor: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for FrameDecoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameDecoder")
    }
}

impl<'a> FrameDecoder<'a> {
    /// A decoder with the repository's keys.
    pub fn new(repository: &'a Repository) -> Self {
        Self {
            keys: repository.keys(),
            mode: repository.config().mode(),
            decompressor: zstd::bulk::Decompressor::new().ok(),
        }
    }

    /// Opens one sealed frame into `raw`. The result is at most 16 MiB, whatever the frame says.
    pub fn decode(
        &mut self,
        pack: &PackInfo,
        offset: u32,
        sealed: &mut Vec<u8>,
        raw: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let what = || format!("pack {} at offset {offset}", pack.id);
        let prelude = Prelude {
            kind: pack.kind,
            mode: self.mode,
        };
        let key = self.keys.object_key(prelude, &pack.salt);
        key.open(offset.into(), sealed)
            .map_err(|error| ReadError::damaged(what(), error.to_string()))?;
        let (codec, raw_length, payload) = split_frame(sealed).damage(&what())?;
        raw.clear();
        if codec == Codec::Raw {
            raw.extend_from_slice(payload);
            return Ok(());
        }
        raw.reserve(raw_length);
        let decompressor = self
            .decompressor
            .as_mut()
            .ok_or_else(|| ReadError::damaged(what(), "the decompressor could not be set up"))?;
        // It writes no further than the capacity, which may be a little more than was asked for.
        decompressor
            .decompress_to_buffer(payload, raw)
            .map_err(|error| ReadError::damaged(what(), error.to_string()))?;
        if raw.len() == raw_length {
            Ok(())
        } else {
            Err(ReadError::damaged(what(), "its length differs"))
        }
    }
}

/// Reads blobs through a small cache of frames. One for each thread.
#[derive(Debug)]
pub struct BlobReader<'a> {
    repository: &'a Repository,
    decoder: FrameDecoder<'a>,
    frames: VecDeque<(PackId, u32, Arc<Vec<u8>>)>,
    cached_bytes: usize,
    capacity_bytes: usize,
    ahead: Option<ReadAhead>,
    /// The memory of a frame that was dropped: fresh memory costs more than to fill it.
    spare: Vec<u8>,
    distrusts: bool,
}

impl<'a> BlobReader<'a> {
    /// A reader that keeps up to `capacity_bytes` of decompressed frames.
    pub fn new(repository: &'a Repository, capacity_bytes: usize) -> Self {
        Self {
            repository,
            decoder: FrameDecoder::new(repository),
            frames: VecDeque::new(),
            cached_bytes: 0,
            capacity_bytes,
            ahead: None,
            spare: Vec::new(),
            distrusts: false,
        }
    }

    /// The same reader for a backup: a pack in which a blob turns out damaged counts as absent from then on, so that what it holds is
    /// stored again where it is met, and not named once more.
    pub(crate) fn distrusting(self) -> Self {
        Self {
            distrusts: true,
            ..self
        }
    }

    /// The same, with threads that fetch what [`BlobReader::expect`] is told.
    pub(crate) fn with_read_ahead(
        repository: &'a Repository,
        capacity_bytes: usize,
        fetches: Option<&Sender<Fetch>>,
    ) -> Self {
        Self {
            ahead: fetches.cloned().map(ReadAhead::new),
            ..Self::new(repository, capacity_bytes)
        }
    }

    /// Notes which blobs will be read next, in order, so that they can be fetched meanwhile.
    pub(crate) fn expect<'i>(&mut self, ids: impl Iterator<Item = &'i BlobId>) {
        if let Some(ahead) = &mut self.ahead {
            ahead.expect(self.repository, ids);
        }
    }

    /// Reads and verifies a blob. One that is nowhere is damage; one that is stored twice is read from the copy that is whole.
    pub fn read(&mut self, id: &BlobId) -> Result<Blob, ReadError> {
        let place = self
            .repository
            .find(id)?
            .ok_or_else(|| ReadError::damaged(format!("blob {id}"), "it is in no pack"))?;
        let damage = match self.read_at(id, &place) {
            Err(error) if error.is_damage() => error,
            result => return result,
        };
        let places = self.repository.index().places(id)?;
        for other in &places {
            if (other.pack.id, other.frame_offset) != (place.pack.id, place.frame_offset)
                && let Ok(blob) = self.read_at(id, other)
            {
                return Ok(blob);
            }
        }
        if self.distrusts {
            let packs = places.iter().map(|place| place.pack.id);
            self.repository.index().distrust(packs);
        }
        Err(damage)
    }

    fn read_at(&mut self, id: &BlobId, place: &Place) -> Result<Blob, ReadError> {
        let frame = self.frame(place)?;
        let start = place.blob_offset as usize;
        let range = start..start + place.blob_length as usize;
        let plain = frame
            .get(range.clone())
            .ok_or_else(|| ReadError::damaged(format!("blob {id}"), "it lies outside its frame"))?;
        if self.repository.keys().blob_id(plain) != *id {
            return Err(ReadError::damaged(
                format!("blob {id}"),
                "its bytes are not those that its id promises",
            ));
        }
        Ok(Blob { frame, range })
    }

    fn fetch(&mut self, place: &Place) -> Result<Vec<u8>, ReadError> {
        let key = pack_key(place.pack.id);
        let (repository, decoder, spare) = (self.repository, &mut self.decoder, &mut self.spare);
        let mut open = |mut sealed: Vec<u8>| {
            let mut raw = std::mem::take(spare);
            decoder.decode(&place.pack, place.frame_offset, &mut sealed, &mut raw)?;
            Ok(raw)
        };
        let (offset, length) = (u64::from(place.frame_offset), u64::from(place.frame_length));
        let ahead = self.ahead.as_mut().and_then(|ahead| ahead.take(place));
        if ahead.is_none() && place.pack.kind == ObjectKind::TreePack {
            return repository.read_metadata(&key, offset, length, &mut open);
        }
        let sealed = ahead.unwrap_or_else(|| repository.storage().get(&key, offset, length));
        open(sealed.map_err(|error| ReadError::required(&key, error))?)
    }

    fn frame(&mut self, place: &Place) -> Result<Arc<Vec<u8>>, ReadError> {
        let (id, offset) = (place.pack.id, place.frame_offset);
        let cached = self
            .frames
            .iter()
            .position(|frame| frame.0 == id && frame.1 == offset);
        if let Some((id, offset, frame)) = cached.and_then(|position| self.frames.remove(position)) {
            self.frames.push_back((id, offset, Arc::clone(&frame)));
            return Ok(frame);
        }
        let frame = Arc::new(self.fetch(place)?);
        self.cached_bytes += frame.len();
        self.frames.push_back((id, offset, Arc::clone(&frame)));
        while self.cached_bytes > self.capacity_bytes && self.frames.len() > 1 {
            if let Some((_, _, dropped)) = self.frames.pop_front() {
                self.cached_bytes -= dropped.len();
                // Not while somebody still reads from it.
                self.spare = Arc::into_inner(dropped).unwrap_or_default();
            }
        }
        Ok(frame)
    }
}
