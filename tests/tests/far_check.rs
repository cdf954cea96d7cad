//! Checking a repository that is far away: many small objects are asked for at the same time, and found whole or damaged as they are.

use std::sync::{Arc, Mutex};

use plakar_core::environment::Environment;
use plakar_core::repository::{OpenOptions, Repository};
use plakar_core::storage::Storage;
use plakar_core::storage::memory::MemoryStorage;
use plakar_testkit::engine::{back_up, check_all, create, objects_of, put};
use plakar_testkit::watched::{Call, Meeting, WatchedStorage};

const SNAPSHOTS: usize = 12;
/// More than the large packs that are read at once.
const AT_ONCE: usize = 6;

/// What a check reads many of.
const KINDS: [&str; 4] = [
    "a segment of the index",
    "the header of a snapshot",
    "a pack",
    "a frame with tree nodes",
];

/// The first reads of each kind are answered only when all of them have begun, once that is wanted.
#[derive(Debug, Default)]
struct Gathering {
    meeting: Meeting,
    strict: Mutex<bool>,
}

impl Gathering {
    fn hear(&self, call: Call<'_>) {
        let Call::Get(key, offset) = call else { return };
        let kind = match key.split('/').next() {
            Some("index") => KINDS[0],
            Some("snapshots") => KINDS[1],
            Some("packs") if offset == 0 => KINDS[2],
            Some("packs") => KINDS[3],
            _ => return,
        };
        if *self.strict.lock().unwrap() {
            let is_met =
                |number, begun: &std::collections::BTreeMap<_, _>| number > AT_ONCE || begun[kind] >= AT_ONCE;
            self.meeting.join(kind, is_met);
        }
    }
}

/// A repository of some snapshots, opened as one that is far away.
fn far_repository() -> (Arc<Gathering>, Arc<dyn Storage>, Repository) {
    let source = tempfile::tempdir().unwrap();
    let gathering = Arc::new(Gathering::default());
    let reads = Arc::clone(&gathering);
    let shared: Arc<dyn Storage> =
        WatchedStorage::new(MemoryStorage::default(), 16, move |call| reads.hear(call));
    let repository = create(Arc::clone(&shared), None);
    for number in 0..SNAPSHOTS {
        std::fs::write(
            source.path().join("file"),
            format!("the bytes of {number}").repeat(200),
        )
        .unwrap();
        back_up(&repository, source.path()).unwrap();
    }
    let options = OpenOptions {
        far: true,
        ..OpenOptions::default()
    };
    let repository = Repository::open(Arc::clone(&shared), None, options, Environment::system()).unwrap();
    (gathering, shared, repository)
}

#[test]
fn small_objects_are_asked_for_at_the_same_time() {
    let (gathering, _storage, repository) = far_repository();
    *gathering.strict.lock().unwrap() = true;
    let report = check_all(&repository).unwrap();
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(report.results.len(), SNAPSHOTS);
    assert_eq!(gathering.meeting.alone(), Vec::<String>::new());
    let begun = gathering.meeting.begun();
    assert!(KINDS.iter().all(|&kind| begun[kind] >= SNAPSHOTS), "{begun:?}");
}

#[test]
fn every_damaged_object_among_many_small_ones_is_named_and_no_other() {
    let (_gathering, storage, repository) = far_repository();
    for (key, bytes) in objects_of(storage.as_ref()) {
        if !["index/", "snapshots/", "packs/"]
            .iter()
            .any(|kind| key.starts_with(kind))
        {
            continue;
        }
        let mut damaged = bytes.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        put(storage.as_ref(), &key, Arc::new(damaged));
        let report = check_all(&repository).unwrap();
        let named: Vec<&str> = report.damage.iter().map(|damage| damage.what.as_str()).collect();
        assert!(
            !named.is_empty() && named.iter().all(|what| what.contains(&key)),
            "{key}: {named:?}"
        );
        put(storage.as_ref(), &key, bytes);
    }
    assert!(!check_all(&repository).unwrap().is_damaged());
}
