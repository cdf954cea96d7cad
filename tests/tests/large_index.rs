//! An index that is larger than what is read of it at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use plakar_core::backup::{BackupOptions, Source, backup};
use plakar_core::crypto::keys::{Keys, MasterKey};
use plakar_core::environment::Environment;
use plakar_core::format::object::Mode;
use plakar_core::id::RepositoryId;
use plakar_core::index::{Claimed, Index, Loading};
use plakar_core::repository::{OpenOptions, Repository};
use plakar_core::storage::cache::MetadataCache;
use plakar_core::storage::counted::{Counted, Traffic};
use plakar_core::storage::layer::Layer;
use plakar_core::storage::memory::MemoryStorage;
use plakar_core::storage::pace::Pace;
use plakar_core::storage::{Storage, list_all};
use plakar_testkit::engine::{assert_clean, create, put, restore_to, silently, snapshot_of};
use plakar_testkit::large_index::{BLOB_BYTES, BLOBS_OF_PACK, blob_id, pack, publish};
use plakar_testkit::random::Random;
use plakar_testkit::tree::Tree;
use plakar_testkit::{Image, assert_same};

/// Three segments: of 250,000 blobs (ten blocks), of as many of which 50,000 are in the first too, and one that fits in memory.
const SEGMENTS: [(u32, u32); 3] = [(0, 25), (20, 45), (45, 46)];
const BLOBS: u32 = 46 * BLOBS_OF_PACK;

struct Stored {
    memory: Arc<MemoryStorage>,
    traffic: Arc<Traffic>,
    counted: Arc<dyn Storage>,
    keys: Keys,
    mode: Mode,
    folder: tempfile::TempDir,
}

fn stored(mode: Mode) -> Stored {
    let memory = Arc::new(MemoryStorage::new());
    let keys = Keys::derive(&MasterKey::new([5; 32]), RepositoryId([6; 16]));
    for (first, end) in SEGMENTS {
        publish(&*memory, &keys, mode, first..end).unwrap();
    }
    let traffic = Arc::new(Traffic::default());
    let pace = Pace::new(Environment::system(), None);
    let counted = Layer::new(Arc::clone(&memory) as _, Counted::new(Arc::clone(&traffic), pace));
    Stored {
        memory,
        traffic,
        counted: Arc::new(counted),
        keys,
        mode,
        folder: tempfile::tempdir().unwrap(),
    }
}

impl Stored {
    fn cache(&self) -> Arc<MetadataCache> {
        let folder = self.folder.path().join("metadata");
        Arc::new(MetadataCache::new(folder, [9; 32], 1 << 30))
    }

    /// The index, of which nothing is unusable yet.
    fn open(&self, cache: Option<&Arc<MetadataCache>>) -> Index {
        self.open_at(cache, cache.is_some())
    }

    fn open_at(&self, cache: Option<&Arc<MetadataCache>>, far: bool) -> Index {
        let index = Index::empty(self.mode, Some(self.folder.path().join("tables")));
        assert!(index.load(self.loading(cache, far)).unwrap().is_empty());
        index
    }

    fn loading<'a>(&'a self, cache: Option<&'a Arc<MetadataCache>>, far: bool) -> Loading<'a> {
        Loading {
            storage: &self.counted,
            keys: &self.keys,
            cache,
            far,
        }
    }

    fn received(&self) -> u64 {
        self.traffic.totals().received_bytes
    }

    /// Keys and lengths of the segments, the largest first.
    fn segments(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        list_all(&*self.memory, "index/", |object| {
            found.push((object.key, object.size_bytes))
        })
        .unwrap();
        found.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        found
    }
}

/// Changes one byte of an object, as far from its end as said.
fn spoil(storage: &MemoryStorage, key: &str, from_end: usize) {
    let mut bytes = storage.get(key, 0, u64::MAX >> 1).unwrap();
    let place = bytes.len() - from_end;
    bytes[place] ^= 1;
    put(storage, key, Arc::new(bytes));
}

/// Some numbers of blobs all over.
fn some() -> impl Iterator<Item = u32> {
    (0..BLOBS).step_by(461)
}

#[track_caller]
fn assert_finds(index: &Index, number: u32) {
    let place = index.find(&blob_id(number)).unwrap().expect("it is in the index");
    let (info, frames) = pack(number / BLOBS_OF_PACK);
    let within = number % BLOBS_OF_PACK;
    let frame = &frames[within as usize / 100];
    assert_eq!(*place.pack, info, "blob {number}");
    assert_eq!(
        (
            place.frame_offset,
            place.frame_length,
            place.blob_offset,
            place.blob_length
        ),
        (frame.offset, frame.length, within % 100 * BLOB_BYTES, BLOB_BYTES)
    );
}

#[test]
fn all_blobs_are_found_and_no_others() {
    for mode in [Mode::Encrypted, Mode::Plain] {
        let stored = stored(mode);
        let index = stored.open(None);
        for number in some() {
            assert_finds(&index, number);
            assert_eq!(
                index
                    .find(&blob_id(BLOBS + number))
                    .unwrap()
                    .map(|place| place.pack.id),
                None
            );
            let copies = if (20..25).contains(&(number / BLOBS_OF_PACK)) {
                2
            } else {
                1
            };
            assert_eq!(index.places(&blob_id(number)).unwrap().len(), copies);
        }
        assert_eq!(index.counts(), (51 * u64::from(BLOBS_OF_PACK), 3));
        let mut seen = BTreeSet::new();
        let mut entries = 0;
        index
            .for_each(|_, entry| {
                seen.insert(entry.id);
                entries += 1;
            })
            .unwrap();
        assert_eq!((seen.len(), entries), (BLOBS as usize, 51 * BLOBS_OF_PACK));
    }
}

#[test]
fn opening_reads_a_little_and_a_search_reads_the_block_that_it_needs() {
    let stored = stored(Mode::Encrypted);
    let all: u64 = stored.segments().iter().map(|(_, size)| size).sum();
    let index = stored.open(None);
    let opened = stored.received();
    assert!(opened < 3 << 20, "{opened} of {all} bytes were read");
    assert_finds(&index, 7);
    let found = stored.received() - opened;
    assert!(found < 3 << 20, "{found} of {all} bytes were read for one blob");
    some().for_each(|number| assert_finds(&index, number));
    let searched = stored.received();
    assert!(searched < all + (3 << 20), "a block was read twice");
    some().for_each(|number| assert_finds(&index, number));
    assert_eq!(stored.received(), searched);
}

#[test]
fn what_is_new_is_known_to_be_new_without_reading_the_index_again() {
    let stored = stored(Mode::Encrypted);
    let summaries = stored.cache();
    let open = || stored.open_at(Some(&summaries), false);
    let index = open();
    some().for_each(|number| assert_finds(&index, number));
    let index = open();
    let opened = stored.received();
    let new = || BLOBS..BLOBS + 50;
    assert!(new().all(|number| index.find(&blob_id(number)).unwrap().is_none()));
    let read = stored.received() - opened;
    assert!(read < 5 << 20, "{read} bytes were read to find nothing");
    some().for_each(|number| assert_finds(&index, number));
    // Summaries that somebody changed are made again.
    change_files(&stored.folder.path().join("metadata"), &|path| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[60] ^= 255;
        std::fs::write(path, bytes).unwrap();
    });
    let index = open();
    some().for_each(|number| assert_finds(&index, number));
    assert!(new().all(|number| index.find(&blob_id(number)).unwrap().is_none()));
}

#[test]
fn what_is_far_is_read_once_and_then_from_local_copies() {
    let stored = stored(Mode::Encrypted);
    let all: u64 = stored.segments().iter().map(|(_, size)| size).sum();
    let cache = stored.cache();
    let first = stored.open(Some(&cache));
    assert_eq!(stored.received(), all, "all of it, in large pieces");
    some().for_each(|number| assert_finds(&first, number));
    let second = stored.open(Some(&cache));
    some().for_each(|number| assert_finds(&second, number));
    assert_eq!(stored.received(), all);
}

/// Every file in a folder, changed by `change`.
fn change_files(folder: &Path, change: &dyn Fn(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            change_files(&path, change);
        } else {
            change(&path);
        }
    }
}

#[test]
fn local_copies_that_go_or_change_under_way_are_read_again() {
    let vanish = |path: &Path| std::fs::remove_file(path).unwrap();
    let change = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    for deed in [&vanish as &dyn Fn(&Path), &change] {
        let stored = stored(Mode::Encrypted);
        let cache = stored.cache();
        stored.open(Some(&cache));
        let index = stored.open(Some(&cache));
        let received = stored.received();
        change_files(&stored.folder.path().join("metadata"), deed);
        some().for_each(|number| assert_finds(&index, number));
        assert!(stored.received() > received);
        let again = stored.open(Some(&cache));
        some().for_each(|number| assert_finds(&again, number));
    }
}

#[test]
fn a_damaged_block_costs_its_segment_and_nothing_else() {
    for mode in [Mode::Encrypted, Mode::Plain] {
        let stored = stored(mode);
        let (key, _) = stored.segments().remove(0);
        let index = stored.open(None);
        spoil(&stored.memory, &key, 500_000);
        let lost: Vec<u32> = some()
            .filter(|&number| index.find(&blob_id(number)).unwrap().is_none())
            .collect();
        // Either the first or the second segment; what both have and what the others have is found.
        let first = lost.iter().all(|number| number / BLOBS_OF_PACK < 20);
        let second = lost
            .iter()
            .all(|number| (25..45).contains(&(number / BLOBS_OF_PACK)));
        assert!(!lost.is_empty() && (first || second));
        assert_eq!(index.counts().1, 2, "it is not used any more");
        let loaded = index.load(stored.loading(None, false));
        assert!(loaded.unwrap().is_empty());
        assert_eq!(index.counts().1, 2, "nor is it taken up again");
        // What it said counts as new.
        assert!(matches!(
            index.claim(blob_id(lost[0])).unwrap(),
            Claimed::Fresh(_)
        ));
    }
}

#[test]
fn a_segment_of_which_a_block_is_damaged_is_not_merged() {
    let stored = stored(Mode::Encrypted);
    let index = stored.open(None);
    let before = stored.segments();
    for (key, _) in before.iter().take(2) {
        spoil(&stored.memory, key, 500_000);
    }
    let (info, frames) = pack(99);
    index.record(info, &frames);
    // Enough that the large segments are small beside it.
    for number in 100..113 {
        let (info, frames) = pack(number);
        index.record(info, &frames);
    }
    let environment = Environment::system();
    let publisher = plakar_core::index::Publisher {
        storage: &*stored.counted,
        keys: &stored.keys,
        environment: &environment,
        session: plakar_core::id::SessionId([2; 16]),
        cache: None,
    };
    index
        .publish(publisher, true)
        .unwrap()
        .expect("a segment was written");
    for number in (99 * BLOBS_OF_PACK..113 * BLOBS_OF_PACK).step_by(997) {
        assert_finds(&index, number);
    }
}

#[test]
fn an_index_needs_no_file_where_there_can_be_none() {
    let stored = stored(Mode::Encrypted);
    std::fs::write(
        stored.folder.path().join("tables"),
        "a file where a folder should be",
    )
    .unwrap();
    for cache in [None, Some(stored.cache())] {
        let index = stored.open(cache.as_ref());
        some().for_each(|number| assert_finds(&index, number));
        assert!(index.find(&blob_id(BLOBS)).unwrap().is_none());
    }
}

/// Opens a repository of which every segment is read block by block.
fn open_in_blocks(storage: &Arc<MemoryStorage>, folder: &Path) -> Repository {
    let options = OpenOptions {
        cache_directory: Some(folder.join("tables")),
        heap_index_bytes: Some(0),
        ..OpenOptions::default()
    };
    let storage = Arc::clone(storage) as Arc<dyn Storage>;
    Repository::open(storage, None, options, Environment::system()).unwrap()
}

fn stored_bytes(storage: &MemoryStorage) -> u64 {
    let mut bytes = 0;
    list_all(storage, "packs/", |object| bytes += object.size_bytes).unwrap();
    bytes
}

fn only_segment(storage: &MemoryStorage) -> String {
    let mut found = Vec::new();
    list_all(storage, "index/", |object| found.push(object.key)).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn a_backup_that_meets_a_damaged_block_stores_nothing_again_and_indexes_it_anew() {
    meets_a_damaged_block(false);
}

#[test]
fn so_does_one_that_meets_it_only_when_it_asks_what_is_stored() {
    meets_a_damaged_block(true);
}

/// Backs up what is stored already, with an index that is damaged. One that is `full` reads no older snapshot.
fn meets_a_damaged_block(full: bool) {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::new(folder.path().join("source"));
    for number in 0..40 {
        tree.file(format!("old-{number}"), Random::new(number).bytes(150_000));
    }
    let storage = Arc::new(MemoryStorage::with_pack_bytes(1 << 20));
    snapshot_of(&create(Arc::clone(&storage) as _, None), tree.root());
    let segment = only_segment(&storage);
    spoil(&storage, &segment, 30);
    let before = stored_bytes(&storage);
    // Chunks that are there already, under other names: they are looked for, and nowhere else than in the segment.
    for number in 0..40 {
        tree.file(format!("new-{number}"), Random::new(number).bytes(150_000));
    }
    let repository = open_in_blocks(&storage, folder.path());
    assert!(
        repository.index_problems().is_empty(),
        "nobody has looked at the block yet"
    );
    let options = BackupOptions {
        sources: vec![Source::Path(tree.root().to_owned())],
        full,
        workers: 2,
        ..BackupOptions::default()
    };
    let report = silently(|job| backup(&repository, options, job)).unwrap();
    let snapshot = report.snapshot.unwrap();
    let grown = stored_bytes(&storage) - before;
    assert!(grown < 100_000, "{grown} bytes were stored again");
    // The new segment says all that the damaged one said.
    storage.delete(&segment).unwrap();
    let repository = open_in_blocks(&storage, folder.path());
    let named = repository.index().packs().len();
    restore_to(&repository, &snapshot, &folder.path().join("out")).unwrap();
    assert_eq!(
        repository.index().packs().len(),
        named,
        "no pack had to speak for itself"
    );
    assert_same(&Image::of(tree.root()), &Image::of(&folder.path().join("out")));
    assert_clean(&repository);
}

#[test]
fn a_restore_that_meets_a_damaged_block_goes_back_to_what_the_segment_had_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let tree = Tree::new(folder.path().join("source"));
    let storage = Arc::new(MemoryStorage::with_pack_bytes(1 << 20));
    tree.file("first", Random::new(1).bytes(3_000_000));
    snapshot_of(&create(Arc::clone(&storage) as _, None), tree.root());
    let old = only_segment(&storage);
    let packs = open_in_blocks(&storage, folder.path()).index().published_packs();
    tree.file("second", Random::new(2).bytes(3_000_000));
    let snapshot = snapshot_of(&open_in_blocks(&storage, folder.path()), tree.root());
    list_all(&*storage, "index/", |object| {
        if object.key != old {
            spoil(&storage, &object.key, 30);
        }
    })
    .unwrap();
    let repository = open_in_blocks(&storage, folder.path());
    assert_eq!(repository.index().counts().1, 1, "the second takes in the first");
    restore_to(&repository, &snapshot, &folder.path().join("out")).unwrap();
    assert_same(&Image::of(tree.root()), &Image::of(&folder.path().join("out")));
    assert_eq!(
        repository.index().published_packs(),
        packs,
        "what the first names is named again"
    );
}
