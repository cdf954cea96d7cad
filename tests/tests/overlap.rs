//! A storage that is far away does not hold up the work: while a pack is on its way, the next ones are made and sent.

use std::sync::Arc;

use plakar_core::storage::memory::MemoryStorage;
use plakar_testkit::engine::{assert_clean, create, snapshot_of};
use plakar_testkit::random;
use plakar_testkit::watched::{Call, Meeting, WatchedStorage};

/// So many packs are held back until the next one is on its way as well.
const HELD_BACK: usize = 4;

#[test]
fn packs_are_made_and_sent_while_others_are_on_their_way() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..120 {
        let bytes = random::bytes(number, 200_000);
        std::fs::write(source.path().join(format!("file-{number}")), bytes).unwrap();
    }
    let meeting = Arc::new(Meeting::default());
    let packs = Arc::clone(&meeting);
    let storage = WatchedStorage::new(MemoryStorage::with_pack_bytes(512 << 10), 4, move |call| {
        if matches!(call, Call::Put(key) if key.starts_with("packs/")) {
            packs.join("a pack", |number, begun| {
                number > HELD_BACK || begun["a pack"] > number
            });
        }
    });
    let repository = create(storage, None);
    snapshot_of(&repository, source.path());
    assert_eq!(meeting.alone(), Vec::<String>::new(), "packs went alone");
    assert!(
        meeting.begun()["a pack"] > HELD_BACK + 2,
        "none of those was the last"
    );
    assert_clean(&repository);
}
