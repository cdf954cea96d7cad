//! Several backups in one process, through one open repository: what a failed one claimed is not lost for the next.

use std::sync::Arc;

use plakar_core::storage::StorageErrorKind;
use plakar_core::storage::memory::MemoryStorage;
use plakar_testkit::engine::{assert_clean, back_up, create, open, snapshot_of};
use plakar_testkit::faulty::{Fault, FaultyStorage, Manner, Operation};

#[test]
fn a_backup_after_a_failed_one_in_the_same_process_is_whole() {
    let source = tempfile::tempdir().expect("there is room");
    let mut bytes = vec![0; 300_000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    std::fs::write(source.path().join("file"), &bytes).expect("it can be written");
    let memory = Arc::new(MemoryStorage::new());
    let faulty = FaultyStorage::around(memory.clone());
    let repository = create(faulty.clone(), None);
    let kind = StorageErrorKind::NoSpace;
    faulty.arm(Fault {
        operation: Some(Operation::Put),
        call: 0,
        manner: Manner::Dies,
        kind,
    });
    back_up(&repository, source.path()).expect_err("the storage is full");
    faulty.disarm();
    let snapshot = snapshot_of(&repository, source.path());
    let again = open(memory, None).expect("it opens");
    let path = source.path().join("file");
    let entry = again
        .entry_at(&snapshot, path.as_os_str().as_encoded_bytes())
        .expect("the tree can be read");
    let mut read = Vec::new();
    again
        .read_file(&entry.expect("it is there"), &mut read)
        .expect("the content was stored");
    assert_eq!(read, bytes);
    assert_clean(&again);
}
