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
/// How many planned frames are looked at for neighbours of the next one. The workers of a backup fill a pack in turns, so what is
/// read in one go lies in it as every second or fourth frame, and those between are read soon after.
const LOOK_AHEAD: usize = 64;

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
    /// Not asked for yet, in the order of reading.
    planned: VecDeque<Wanted>,
    next_turn: u64,
    /// Asked for, in the order of the first frame that each was asked for.
    under_way: VecDeque<Stretch>,
    under_way_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    pack: PackId,
    offset: u64,
    length: u64,
}

/// A frame that will be read, and when: turns ascend in the order of reading. A frame that is read twice is wanted twice.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    frame: Frame,
    turn: u64,
}

#[derive(Debug)]
struct Stretch {
    place: Frame,
    /// What of it has not been read.
    wanted: Vec<Wanted>,
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

    fn end(&self) -> u64 {
        self.offset + self.length
    }

    fn holds(&self, other: &Self) -> bool {
        self.pack == other.pack && self.offset <= other.offset && other.end() <= self.end()
    }

    /// The stretch from one to the end of the other, if they lie close together in one pack and it does not become too long.
    fn join(&self, other: &Self) -> Option<Self> {
        let offset = self.offset.min(other.offset);
        let length = self.end().max(other.end()) - offset;
        let close = other.offset <= self.end() + GAP_BYTES && self.offset <= other.end() + GAP_BYTES;
        (self.pack == other.pack && close && length <= STRETCH_BYTES).then_some(Self {
            pack: self.pack,
            offset,
            length,
        })
    }
}

impl ReadAhead {
    pub(super) fn new(fetches: Sender<Fetch>) -> Self {
        Self {
            fetches,
            planned: VecDeque::new(),
            next_turn: 0,
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
                self.plan(Frame::of(&place));
            }
        }
        self.ask();
    }

    fn plan(&mut self, frame: Frame) {
        if self.planned.back().is_none_or(|last| last.frame != frame) {
            let turn = self.next_turn;
            self.next_turn += 1;
            self.planned.push_back(Wanted { frame, turn });
        }
    }

    /// The sealed bytes of a frame, if it was expected. What was expected before it and not read is given up.
    pub(super) fn take(&mut self, place: &Place) -> Option<Result<Vec<u8>, StorageError>> {
        let frame = Frame::of(place);
        let wanted = self.under_way.iter().flat_map(|stretch| &stretch.wanted);
        let turn = wanted
            .filter(|wanted| wanted.frame == frame)
            .map(|wanted| wanted.turn)
            .min()?;
        while self.planned.pop_front_if(|next| next.turn < turn).is_some() {}
        self.give_up(|wanted| wanted.turn < turn);
        self.ask();
        let holds = |stretch: &&mut Stretch| stretch.wanted.iter().any(|wanted| wanted.turn == turn);
        let stretch = self.under_way.iter_mut().find(holds)?;
        let taken = stretch.cut(&frame);
        if taken.is_err() {
            stretch.wanted.clear();
        }
        self.give_up(|wanted| wanted.turn == turn);
        self.ask();
        Some(taken)
    }

    /// Forgets frames that were asked for, and stretches of which nothing is wanted any more.
    fn give_up(&mut self, whether: impl Fn(&Wanted) -> bool) {
        let bytes = &mut self.under_way_bytes;
        self.under_way.retain_mut(|stretch| {
            stretch.wanted.retain(|wanted| !whether(wanted));
            let kept = !stretch.wanted.is_empty();
            if !kept {
                *bytes -= stretch.place.length;
            }
            kept
        });
    }

    /// Asks for planned frames as far as the window allows.
    fn ask(&mut self) {
        while self.under_way_bytes < WINDOW_BYTES {
            let Some((place, wanted)) = self.next_stretch() else {
                return;
            };
            let (answer, awaited) = bounded(1);
            let fetch = Fetch {
                key: pack_key(place.pack),
                offset: place.offset,
                length: place.length,
                answer,
            };
            // Never waits for a free thread: the channel has no bound, the window has.
            if self.fetches.send(fetch).is_err() {
                return;
            }
            self.under_way_bytes += place.length;
            self.under_way.push_back(Stretch {
                place,
                wanted,
                bytes: Bytes::Awaited(awaited),
            });
        }
    }

    /// The next planned frame, together with those planned soon after it that lie close to it or to each other.
    fn next_stretch(&mut self) -> Option<(Frame, Vec<Wanted>)> {
        let first = self.planned.pop_front()?;
        let soon = self.planned.len().min(LOOK_AHEAD);
        let soon: Vec<Wanted> = self.planned.drain(..soon).collect();
        let mut near: Vec<Frame> = soon
            .iter()
            .map(|wanted| wanted.frame)
            .filter(|frame| frame.pack == first.frame.pack)
            .collect();
        near.sort_by_key(|frame| frame.offset);
        let (before, behind) = near.split_at(near.partition_point(|near| near.offset < first.frame.offset));
        // First to the end of the pack, then to its beginning: what is read next mostly lies behind.
        let mut place = first.frame;
        for frame in behind {
            place = place.join(frame).unwrap_or(place);
        }
        for frame in before.iter().rev() {
            place = place.join(frame).unwrap_or(place);
        }
        let (within, later) = soon
            .into_iter()
            .partition::<Vec<_>, _>(|wanted| place.holds(&wanted.frame));
        for wanted in later.into_iter().rev() {
            self.planned.push_front(wanted);
        }
        let wanted = std::iter::once(first).chain(within).collect();
        Some((place, wanted))
    }
}

impl Stretch {
    /// The bytes of a frame; fewer when the object ends before, which whoever opens them finds out.
    fn cut(&mut self, frame: &Frame) -> Result<Vec<u8>, StorageError> {
        if let Bytes::Awaited(awaited) = &self.bytes {
            let gone = |_| {
                StorageError::new(
                    crate::storage::StorageErrorKind::Cancelled,
                    "read",
                    &pack_key(self.place.pack),
                    "the reading threads ended",
                )
            };
            self.bytes = Bytes::Here(awaited.recv().map_err(gone)??);
        }
        let Bytes::Here(bytes) = &self.bytes else {
            return Ok(Vec::new());
        };
        let start = usize::try_from(frame.offset - self.place.offset)
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
        for place in places {
            ahead.plan(Frame::of(place));
        }
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
    fn frames_that_workers_stored_in_turns_come_with_one_request_and_are_read_in_any_order() {
        with_threads(|ahead| {
            let of = |number: u32| place(1, number * 70_000, 70_000);
            let order = [0, 2, 4, 1, 3, 1].map(of);
            plan(ahead, &order);
            assert_eq!(ahead.under_way.len(), 1);
            assert_eq!(ahead.under_way_bytes, 5 * 70_000);
            for place in &order {
                assert_eq!(taken(ahead, place), Some(stored(place)), "also the second time");
            }
            assert_eq!((ahead.under_way.len(), ahead.under_way_bytes), (0, 0));
        });
    }

    #[test]
    fn a_stretch_that_begins_before_its_first_frame_is_exact_and_ends_with_what_is_given_up() {
        with_threads(|ahead| {
            let places = [
                place(1, 1000, 10),
                place(2, 0, 10),
                place(1, 10, 10),
                place(2, 200_000, 10),
            ];
            plan(ahead, &places);
            assert_eq!(ahead.under_way.len(), 3);
            assert_eq!(taken(ahead, &places[0]), Some(stored(&places[0])));
            assert_eq!(taken(ahead, &places[3]), Some(stored(&places[3])));
            assert_eq!(taken(ahead, &places[2]), None, "it was passed");
            assert_eq!((ahead.under_way.len(), ahead.under_way_bytes), (0, 0));
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
            let places: Vec<Place> = (0..64).map(|number| place(number, 0, 1 << 20)).collect();
            plan(ahead, &places);
            assert!(ahead.under_way_bytes <= WINDOW_BYTES + STRETCH_BYTES);
            assert!(!ahead.planned.is_empty());
            // Neighbours do not make a stretch longer than one request.
            let neighbours: Vec<Place> = (0..16).map(|number| place(1, number << 20, 1 << 20)).collect();
            let mut ahead = ReadAhead::new(ahead.fetches.clone());
            plan(&mut ahead, &neighbours);
            let lengths: Vec<u64> = ahead
                .under_way
                .iter()
                .map(|stretch| stretch.place.length)
                .collect();
            assert_eq!(lengths, [STRETCH_BYTES; 4]);
        });
    }
}
