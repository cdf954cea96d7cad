//! Properties: whatever tree is backed up comes back, and backing up again what did not change stores next to nothing.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use plakar_core::repository::Repository;
use plakar_testkit::engine::{self, Objects};
use plakar_testkit::tree::{mixed, set_mode, set_modified};
use plakar_testkit::{Image, assert_same, random};
use proptest::prelude::*;
use tempfile::TempDir;

/// An entry to make; links go to what was made before.
#[derive(Debug, Clone)]
enum Make {
    File { content: Vec<u8>, mode: u32 },
    Random { seed: u64, length: usize },
    Sparse { length: u64, data: Vec<(u64, Vec<u8>)> },
    Directory(BTreeMap<Vec<u8>, Make>, u32),
    Symlink(Vec<u8>),
    HardLink(usize),
    Fifo,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let any = prop::collection::vec(
        any::<u8>().prop_filter("a plain name", |byte| *byte != 0 && *byte != b'/'),
        1..20,
    );
    prop_oneof![4 => "[a-e]{1,3}".prop_map(String::into_bytes), 1 => any, 1 => Just(vec![b'n'; 255])]
        .prop_filter("a plain name", |name| name != b"." && name != b"..")
}

fn make() -> impl Strategy<Value = Make> {
    let stretch = (0_u64..3_000_000, prop::collection::vec(any::<u8>(), 1..50));
    let leaf = prop_oneof![
        4 => (prop::collection::vec(any::<u8>(), 0..300), 0_u32..0o10000).prop_map(|(content, mode)| Make::File { content, mode }),
        2 => (0_u64..20, prop_oneof![0_usize..10_000, 200_000_usize..6_000_000]).prop_map(|(seed, length)| Make::Random { seed, length }),
        1 => (0_u64..4_000_000, prop::collection::vec(stretch, 0..4)).prop_map(|(length, data)| Make::Sparse { length, data }),
        1 => prop::collection::vec(1_u8..=255, 1..60).prop_map(Make::Symlink),
        1 => (0_usize..8).prop_map(Make::HardLink),
        1 => Just(Make::Fifo),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        (prop::collection::btree_map(name(), inner, 0..6), 0_u32..0o10000)
            .prop_map(|(below, mode)| Make::Directory(below, mode))
    })
}

/// Makes the entries below a folder; `files` are those that a hard link may name.
fn fill(folder: &Path, entries: &BTreeMap<Vec<u8>, Make>, files: &mut Vec<std::path::PathBuf>) {
    for (number, (name, make)) in entries.iter().enumerate() {
        let path = folder.join(OsStr::from_bytes(name));
        match make {
            Make::File { content, mode } => {
                fs::write(&path, content).unwrap();
                set_mode(&path, *mode);
                files.push(path.clone());
            }
            Make::Random { seed, length } => {
                fs::write(&path, random::bytes(*seed, *length)).unwrap();
                files.push(path.clone());
            }
            Make::Sparse { length, data } => {
                let file = fs::File::create(&path).unwrap();
                file.set_len(*length).unwrap();
                for (offset, bytes) in data {
                    file.write_all_at(bytes, *offset).unwrap();
                }
                files.push(path.clone());
            }
            Make::Directory(below, mode) => {
                fs::create_dir(&path).unwrap();
                fill(&path, below, files);
                set_mode(&path, *mode);
            }
            Make::Symlink(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), &path).unwrap(),
            Make::HardLink(which) => match files.get(which % files.len().max(1)) {
                Some(file) => fs::hard_link(file, &path).unwrap(),
                None => fs::write(&path, "nothing to link to").unwrap(),
            },
            Make::Fifo => rustix::fs::mknodat(
                rustix::fs::CWD,
                &path,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR,
                0,
            )
            .unwrap(),
        }
        set_modified(
            &path,
            1_000_000_000 + number as i64 * 77,
            number as u32 * 1_234_567 % 1_000_000_000,
        );
    }
}

/// Keys and bytes of what the second storage has more than the first.
fn added(before: &Objects, after: &Objects) -> Vec<(String, usize)> {
    after
        .iter()
        .filter(|(key, _)| !before.contains_key(*key))
        .map(|(key, bytes)| (key.clone(), bytes.len()))
        .collect()
}

#[track_caller]
fn assert_next_to_nothing(before: &Objects, after: &Objects) {
    let added = added(before, after);
    let bytes: usize = added.iter().map(|(_, length)| length).sum();
    assert!(
        bytes < 64 << 10,
        "{bytes} bytes were stored for nothing new: {added:?}"
    );
    let mut kinds: BTreeMap<(&str, u8), u32> = BTreeMap::new();
    for (key, _) in &added {
        *kinds
            .entry((key.split('/').next().unwrap(), after[key][4]))
            .or_default() += 1;
    }
    assert!(
        kinds.values().all(|count| *count == 1),
        "more than one object of a kind: {kinds:?}"
    );
    assert!(
        before.keys().all(|key| after.contains_key(key)),
        "an object is gone"
    );
}

fn round_trip(repository: &Repository, source: &Path, folder: &Path) {
    let snapshot = engine::snapshot_of(repository, source);
    let target = TempDir::with_prefix_in("restored-", folder).unwrap();
    let target = target.path().join("target");
    let report = engine::restore_to(repository, &snapshot, &target).unwrap();
    assert_eq!(report.problem_count, 0);
    assert_same(&Image::of(source), &Image::of(&target));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn restore_of_backup_is_the_same_tree(
        entries in prop::collection::btree_map(name(), make(), 0..8),
        more in prop::collection::btree_map(name(), make(), 0..4),
        encrypted in any::<bool>(),
    ) {
        let folder = TempDir::with_prefix("plakar-test-").unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        fill(&source, &entries, &mut Vec::new());
        let storage = engine::storage_of(&Objects::new());
        let secret = encrypted.then_some("a passphrase");
        let repository = engine::create(storage.clone(), secret);
        round_trip(&repository, &source, folder.path());
        let before = engine::objects_of(storage.as_ref());
        round_trip(&repository, &source, folder.path());
        assert_next_to_nothing(&before, &engine::objects_of(storage.as_ref()));
        let second = source.join("more");
        if !second.exists() {
            fs::create_dir(&second).unwrap();
            fill(&second, &more, &mut Vec::new());
            round_trip(&repository, &source, folder.path());
        }
        engine::assert_clean(&repository);
    }
}

#[test]
fn a_backup_of_an_unchanged_tree_stores_next_to_nothing_however_often() {
    let folder = TempDir::with_prefix("plakar-test-").unwrap();
    let tree = mixed(folder.path().join("source"));
    for number in 0..3000 {
        tree.file(
            format!("many/{}/{number}", number % 30),
            random::bytes(number, 700),
        );
    }
    let storage = engine::storage_of(&Objects::new());
    engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    for _ in 0..5 {
        let before = engine::objects_of(storage.as_ref());
        let repository = engine::open(storage.clone(), None).unwrap();
        let report = engine::back_up(&repository, tree.root()).unwrap();
        let after = engine::objects_of(storage.as_ref());
        assert_next_to_nothing(&before, &after);
        let bytes: usize = added(&before, &after).iter().map(|(_, length)| length).sum();
        assert_eq!(report.bytes_stored, bytes as u64, "the report is wrong");
    }
}

#[test]
fn a_byte_put_in_front_of_a_large_file_stores_little() {
    let folder = TempDir::with_prefix("plakar-test-").unwrap();
    let tree = mixed(folder.path().join("source"));
    let content = random::bytes(1, 40 << 20);
    let path = tree.file("large", &content);
    let storage = engine::storage_of(&Objects::new());
    let repository = engine::create(storage, None);
    engine::snapshot_of(&repository, tree.root());
    fs::write(path, [b"x", content.as_slice()].concat()).unwrap();
    let report = engine::back_up(&repository, tree.root()).unwrap();
    assert!(
        report.bytes_stored < 6 << 20,
        "{} bytes were stored for one new byte",
        report.bytes_stored
    );
}

#[test]
fn the_same_content_under_many_names_is_stored_once() {
    let folder = TempDir::with_prefix("plakar-test-").unwrap();
    let tree = mixed(folder.path().join("source"));
    let content = random::bytes(5, 3 << 20);
    for number in 0..20 {
        tree.file(format!("copies/{number}"), &content);
    }
    let repository = engine::create(engine::storage_of(&Objects::new()), None);
    let report = engine::back_up(&repository, tree.root()).unwrap();
    assert!(
        report.bytes_stored < 8 << 20,
        "{} bytes were stored",
        report.bytes_stored
    );
}

#[test]
fn snapshots_of_one_repository_do_not_disturb_each_other() {
    let folder = TempDir::with_prefix("plakar-test-").unwrap();
    let tree = mixed(folder.path().join("source"));
    let storage = engine::storage_of(&Objects::new());
    let repository = engine::create(storage.clone(), None);
    let mut kept = Vec::new();
    for turn in 0..6_u64 {
        tree.file(format!("turn-{turn}"), random::bytes(turn, 100_000));
        tree.file(
            "folder/random",
            random::bytes(turn, 5000 + usize::try_from(turn).unwrap()),
        );
        kept.push((
            engine::snapshot_of(&repository, tree.root()),
            Image::of(tree.root()),
        ));
    }
    let repository = engine::open(Arc::clone(&storage) as _, None).unwrap();
    for (snapshot, image) in kept {
        let target = TempDir::with_prefix_in("restored-", folder.path()).unwrap();
        let target = target.path().join("target");
        engine::restore_to(&repository, &snapshot, &target).unwrap();
        assert_same(&image, &Image::of(&target));
    }
}
