//! Reading frames before they are asked for, neighbours with one request: for storages where each request takes long.
//!
//! Whoever will read blobs says which, in order. Threads of the operation fetch the sealed frames; opening them stays with the reader.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::id::{BlobId, PackId};
use crate::index::Place;
use crate::storage::{Storage, StorageError};

use super::Repository;
use super::packs::pack_key;

/// Bytes that are under way or waiting to be opened, for one reader.
const WINDOW_BYTES: u64 = 16 << 20;
/// The longest stretch of a pack that is fetched with one request.
const STRETCH_BYTES: u64 = 4 << 20;
/// What lies between two wanted frames and is cheaper to fetch than to ask twice.
const GAP_BYTES: u64 = 64 << 10;
/// Frames that are known to be wanted and not yet asked for: the plan of some batches.
const MOST_PLANNED: usize = 16 << 10;

/// A stretch of a pack to fetch, and where it goes.
#[derive(Debug)]
pub(crate) struct Fetch {
    key: String,
    offset: u64,
    length: u64,
    answer: Sender<Result<Vec<u8>, StorageError>>,
}

/// Fetches until nobody asks any more. Runs on threads of the operation.
pub(crate) fn serve(storage: &dyn Storage, fetches: &Receiver<Fetch>) {
    for fetch in fetches {
        let bytes = storage.get(&fetch.key, fetch.offset, fetch.length);
        // A reader that changed its mind has dropped its end.
        let _unheard = fetch.answer.send(bytes).is_err();
    }
}

/// What one reader has asked for.
#[derive(Debug)]
pub(super) struct ReadAhead {
    fetches: Sender<Fetch>,
    /// Wanted frames in the order of reading, not asked for yet.
    planned: VecDeque<Frame>,
    /// Asked for, in the order of reading.
    under_way: VecDeque<Stretch>,
    under_way_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    pack: PackId,
    offset: u64,
    length: u64,
}

#[derive(Debug)]
struct Stretch {
    pack: PackId,
    offset: u64,
    length: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Awaited(Receiver<Result<Vec<u8>, StorageError>>),
    Here(Vec<u8>),
}

impl Frame {
    fn of(place: &Place) -> Self {
        Self {
            pack: place.pack.id,
            offset: place.frame_offset.into(),
            length: place.frame_length.into(),
        }
    }
}

impl ReadAhead {
    pub(super) fn new(fetches: Sender<Fetch>) -> Self {
        Self {
            fetches,
            planned: VecDeque::new(),
            under_way: VecDeque::new(),
            under_way_bytes: 0,
        }
    }

    /// Notes which blobs will be read next, after those noted before. A blob that cannot be found is met again when it is read.
    pub(super) fn expect<'i>(&mut self, repository: &Repository, ids: impl Iterator<Item = &'i BlobId>) {
        for id in ids {
            if self.planned.len() >= MOST_PLANNED {
                break;
            }
            if let Ok(Some(place)) = repository.index().find(id) {
                let frame = Frame::of(&place);
                if self.planned.back() != Some(&frame) {
                    self.planned.push_back(frame);
                }
            }
        }
        self.ask();
    }

    /// The sealed bytes of a frame, if it was expected. What was expected before it and not read is given up.
    pub(super) fn take(&mut self, place: &Place) -> Option<Result<Vec<u8>, StorageError>> {
        let frame = Frame::of(place);
        let position = self.under_way.iter().position(|stretch| stretch.holds(&frame))?;
        for _ in 0..position {
            if let Some(passed) = self.under_way.pop_front() {
                self.under_way_bytes -= passed.length;
            }
        }
        self.ask();
        let stretch = self.under_way.front_mut()?;
        let taken = stretch.cut(&frame);
        // The last frame of a stretch is read once by this reader; when it comes again it is fetched again.
        if taken.is_err() || stretch.ends_with(&frame) {
            self.under_way_bytes -= stretch.length;
            self.under_way.pop_front();
            self.ask();
        }
        Some(taken)
    }

    /// Asks for planned frames as far as the window allows.
    fn ask(&mut self) {
        while self.under_way_bytes < WINDOW_BYTES {
            let Some(stretch) = self.next_stretch() else {
                return;
            };
            let (answer, awaited) = bounded(1);
            let fetch = Fetch {
                key: pack_key(stretch.pack),
                offset: stretch.offset,
                length: stretch.length,
                answer,
            };
            // Never waits for a free thread: the channel has no bound, the window has.
            if self.fetches.send(fetch).is_err() {
                return;
            }
            self.under_way_bytes += stretch.length;
            self.under_way.push_back(Stretch {
                pack: stretch.pack,
                offset: stretch.offset,
                length: stretch.length,
                bytes: Bytes::Awaited(awaited),
            });
        }
    }

    /// The next planned frames that lie close together in one pack, in ascending order.
    fn next_stretch(&mut self) -> Option<Frame> {
        let mut stretch = self.planned.pop_front()?;
        while let Some(next) = self.planned.front() {
            let end = stretch.offset + stretch.length;
            let close = next.pack == stretch.pack && next.offset >= end && next.offset - end <= GAP_BYTES;
            let length = (next.offset + next.length).saturating_sub(stretch.offset);
            if !close || length > STRETCH_BYTES {
                break;
            }
            stretch.length = length;
            self.planned.pop_front();
        }
        Some(stretch)
    }
}

impl Stretch {
    fn holds(&self, frame: &Frame) -> bool {
        self.pack == frame.pack
            && self.offset <= frame.offset
            && frame.offset + frame.length <= self.offset + self.length
    }

    fn ends_with(&self, frame: &Frame) -> bool {
        frame.offset + frame.length == self.offset + self.length
    }

    /// The bytes of a frame; fewer when the object ends before, which whoever opens them finds out.
    fn cut(&mut self, frame: &Frame) -> Result<Vec<u8>, StorageError> {
        if let Bytes::Awaited(awaited) = &self.bytes {
            let gone = |_| {
                StorageError::new(
                    crate::storage::StorageErrorKind::Cancelled,
                    "read",
                    &pack_key(self.pack),
                    "the reading threads ended",
                )
            };
            self.bytes = Bytes::Here(awaited.recv().map_err(gone)??);
        }
        let Bytes::Here(bytes) = &self.bytes else {
            return Ok(Vec::new());
        };
        let start = usize::try_from(frame.offset - self.offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let length = usize::try_from(frame.length).unwrap_or(usize::MAX);
        let end = start.saturating_add(length).min(bytes.len());
        Ok(bytes.get(start..end).unwrap_or_default().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::index_segment::PackInfo;
    use crate::format::object::ObjectKind;
    use crate::storage::memory::MemoryStorage;
    use crate::storage::{PutMode, PutOptions};

    fn place(pack: u8, offset: u32, length: u32) -> Place {
        Place {
            pack: Arc::new(PackInfo {
                id: PackId([pack; 32]),
                salt: [0; 32],
                kind: ObjectKind::DataPack,
                size_bytes: 1 << 24,
            }),
            frame_offset: offset,
            frame_length: length,
            blob_offset: 0,
            blob_length: 1,
        }
    }

    fn content() -> Vec<u8> {
        (0..100_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    /// Runs with two fetching threads on a storage with packs 1 and 2.
    fn with_threads(test: impl FnOnce(&mut ReadAhead)) {
        let storage = MemoryStorage::new();
        for pack in [1, 2] {
            let options = PutOptions {
                mode: PutMode::Create,
                durable: false,
                blake3: [0; 32],
            };
            storage
                .put(&pack_key(PackId([pack; 32])), Arc::new(content()), options)
                .unwrap();
        }
        let (fetch_in, fetch_out) = crossbeam_channel::unbounded();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (storage, fetch_out) = (&storage, fetch_out.clone());
                scope.spawn(move || serve(storage, &fetch_out));
            }
            let mut ahead = ReadAhead::new(fetch_in);
            test(&mut ahead);
        });
    }

    fn plan(ahead: &mut ReadAhead, places: &[Place]) {
        ahead.planned.extend(places.iter().map(Frame::of));
        ahead.ask();
    }

    fn taken(ahead: &mut ReadAhead, place: &Place) -> Option<Vec<u8>> {
        ahead.take(place).map(|bytes| bytes.unwrap())
    }

    fn stored(place: &Place) -> Vec<u8> {
        let start = place.frame_offset as usize;
        content()[start..start + place.frame_length as usize].to_vec()
    }

    #[test]
    fn neighbours_come_with_one_request_and_each_frame_is_exact() {
        with_threads(|ahead| {
            let places = [
                place(1, 100, 50),
                place(1, 150, 1000),
                place(1, 2000, 70),
                place(2, 0, 10),
            ];
            plan(ahead, &places);
            assert_eq!(
                ahead.under_way.len(),
                2,
                "three frames of one pack are one stretch"
            );
            for place in &places {
                assert_eq!(taken(ahead, place).as_deref(), Some(stored(place).as_slice()));
            }
            assert_eq!((ahead.under_way.len(), ahead.under_way_bytes), (0, 0));
        });
    }

    #[test]
    fn frames_that_were_passed_over_are_given_up_and_unexpected_ones_are_not_here() {
        with_threads(|ahead| {
            let places = [place(1, 0, 10), place(2, 0, 10), place(1, 300_000, 10)];
            plan(ahead, &places);
            assert_eq!(taken(ahead, &place(2, 500, 10)), None);
            assert_eq!(taken(ahead, &places[2]), Some(stored(&places[2])));
            assert_eq!(taken(ahead, &places[0]), None, "it was passed");
            assert_eq!(ahead.under_way_bytes, 0);
        });
    }

    #[test]
    fn a_frame_before_the_one_in_front_begins_a_new_stretch() {
        with_threads(|ahead| {
            let places = [place(1, 1000, 10), place(1, 10, 10)];
            plan(ahead, &places);
            assert_eq!(ahead.under_way.len(), 2);
            assert_eq!(taken(ahead, &places[0]), Some(stored(&places[0])));
            assert_eq!(taken(ahead, &places[1]), Some(stored(&places[1])));
        });
    }

    #[test]
    fn a_missing_object_is_the_readers_error() {
        with_threads(|ahead| {
            plan(ahead, &[place(9, 0, 10), place(1, 0, 10)]);
            assert!(ahead.take(&place(9, 0, 10)).unwrap().is_err());
            assert_eq!(taken(ahead, &place(1, 0, 10)), Some(stored(&place(1, 0, 10))));
        });
    }

    #[test]
    fn no_more_is_under_way_than_the_window_and_one_stretch() {
        with_threads(|ahead| {
            let places: Vec<Place> = (0..64).map(|number| place(1 + number % 2, 0, 1 << 20)).collect();
            plan(ahead, &places);
            assert!(ahead.under_way_bytes <= WINDOW_BYTES + STRETCH_BYTES);
            assert!(!ahead.planned.is_empty());
        });
    }
}
