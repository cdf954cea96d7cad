//! Opening a repository that is far away: what does not need each other is asked for at the same time, and what was asked for early is
//! asked for again when it has changed.

use std::sync::{Arc, Mutex};

use plakar_core::backup::{BackupOptions, Source, backup};
use plakar_core::environment::Environment;
use plakar_core::repository::{OpenError, OpenOptions, Repository};
use plakar_core::storage::Storage;
use plakar_core::storage::memory::MemoryStorage;
use plakar_testkit::engine::{create, open, passphrase, silently};
use plakar_testkit::watched::{Call, Meeting, WatchedStorage};

/// What is answered only once the other has been asked for as well.
const TOGETHER: [(&str, &str); 3] = [
    ("config", "keys/"),
    ("index/", "keys/*"),
    ("packs/", "snapshots/"),
];

fn far() -> OpenOptions {
    OpenOptions {
        far: true,
        ..OpenOptions::default()
    }
}

#[test]
fn what_is_far_away_is_asked_for_at_the_same_time_and_once() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), b"bytes").unwrap();
    let (meeting, strict) = (Arc::new(Meeting::default()), Arc::new(Mutex::new(false)));
    let (calls, waits) = (Arc::clone(&meeting), Arc::clone(&strict));
    let storage = WatchedStorage::new(MemoryStorage::default(), 4, move |call| {
        let what = match call {
            Call::List(prefix) => prefix,
            Call::Get(key, _) if key.starts_with("keys/") => "keys/*",
            Call::Get(key, _) => key,
            Call::Put(_) => return,
        };
        let other = TOGETHER.iter().find(|(one, _)| *one == what);
        let strict = *waits.lock().unwrap();
        calls.join(what, |_, begun| {
            !strict || other.is_none_or(|(_, other)| begun.contains_key(*other))
        });
    });
    let shared: Arc<dyn Storage> = storage;
    create(Arc::clone(&shared), Some("secret"));
    *strict.lock().unwrap() = true;
    meeting.restart();
    let secret = passphrase("secret");
    let repository = Repository::open(shared, Some(&secret), far(), Environment::system()).unwrap();
    let options = BackupOptions {
        sources: vec![Source::Path(source.path().to_owned())],
        workers: 2,
        ..BackupOptions::default()
    };
    assert!(
        silently(|job| backup(&repository, options, job))
            .unwrap()
            .snapshot
            .is_some()
    );
    assert_eq!(meeting.alone(), Vec::<String>::new());
    let asked = meeting.begun();
    let asked: Vec<_> = asked
        .iter()
        .map(|(what, times)| (what.as_str(), *times))
        .collect();
    let once = ["config", "index/", "keys/", "keys/*", "packs/", "snapshots/"];
    assert_eq!(asked, once.map(|what| (what, 1)));
}

#[test]
fn a_passphrase_that_was_changed_while_somebody_typed_it_counts() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    create(Arc::clone(&storage), Some("old"));
    for is_far in [false, true] {
        let found = Repository::find_at(Arc::clone(&storage), is_far).unwrap();
        let unlock = |secret: &str| found.unlock(Some(&passphrase(secret)), far(), Environment::system());
        let changing = open(Arc::clone(&storage), Some("old")).unwrap();
        let old = changing.current_slot().unwrap();
        changing.add_slot(&passphrase("new"), "").unwrap();
        changing.remove_slot(old).unwrap();
        assert!(unlock("new").is_ok());
        assert!(matches!(unlock("old"), Err(OpenError::WrongPassphrase { .. })));
        // Back again, for the next round.
        let changing = open(Arc::clone(&storage), Some("new")).unwrap();
        let new = changing.current_slot().unwrap();
        changing.add_slot(&passphrase("old"), "").unwrap();
        changing.remove_slot(new).unwrap();
        assert!(unlock("old").is_ok());
    }
}
