//! Damage and failures: what is broken is named, wrong bytes are never delivered, and what was saved before stays whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use plakar_core::repository::{OpenError, Repository, Snapshot};
use plakar_core::restore::{Overwrite, restore};
use plakar_core::storage::{Storage, StorageErrorKind};
use plakar_testkit::engine::{self, Objects};
use plakar_testkit::faulty::{Fault, FaultyStorage, Manner, Operation};
use plakar_testkit::lab::PASSPHRASE;
use plakar_testkit::mount::Tmpfs;
use plakar_testkit::tree::{Tree, mixed};
use plakar_testkit::{Image, Lab, assert_same, random};
use rustix::fs::FileType;
use tempfile::TempDir;

/// A folder in memory where there is one: these tests restore thousands of times.
fn fast_folder() -> TempDir {
    TempDir::with_prefix_in("plakar-test-", "/dev/shm")
        .or_else(|_| TempDir::with_prefix("plakar-test-"))
        .unwrap()
}

/// A small repository as plain objects, and what is in it.
struct Sample {
    folder: TempDir,
    secret: Option<&'static str>,
    objects: Objects,
    source: Image,
}

impl Sample {
    fn new(secret: Option<&'static str>, fill: impl FnOnce(&Tree)) -> Self {
        let folder = fast_folder();
        let tree = Tree::new(folder.path().join("source"));
        fill(&tree);
        let storage = engine::storage_of(&Objects::new());
        let repository = engine::create(storage.clone(), secret);
        if let Some(secret) = secret {
            engine::cheapen(storage.as_ref(), secret);
        }
        engine::snapshot_of(&repository, tree.root());
        let sample = Self {
            objects: engine::objects_of(storage.as_ref()),
            source: Image::of(tree.root()),
            secret,
            folder,
        };
        let judged = sample.judge(&sample.objects);
        assert_eq!(
            judged,
            Judged {
                named: false,
                files: 0,
                lost: 0
            }
            .with_files(&sample.source),
            "the sample is not whole"
        );
        sample
    }

    fn small(secret: Option<&'static str>) -> Self {
        Self::new(secret, |tree| {
            tree.file("inline", "a few bytes");
            tree.file("folder/random", random::bytes(1, 1100));
            tree.file("folder/text", "the same line again and again\n".repeat(40));
            tree.file("folder/deeper/more", random::bytes(2, 1200));
            tree.sparse("sparse", 1 << 20, &[(512 << 10, b"in the middle")]);
            tree.symlink("link", "folder/random");
        })
    }

    fn open(&self, objects: &Objects) -> Result<Repository, OpenError> {
        engine::open(engine::storage_of(objects), self.secret)
    }

    /// Opens, checks and restores; wrong bytes fail the test.
    fn judge(&self, objects: &Objects) -> Judged {
        let Ok(repository) = self.open(objects) else {
            return Judged {
                named: true,
                files: 0,
                lost: 0,
            };
        };
        let named = engine::check_all(&repository).map_or(true, |report| report.is_damaged());
        let mut judged = Judged {
            named,
            files: 0,
            lost: 0,
        };
        let Ok((snapshots, _)) = repository.snapshots() else {
            return judged;
        };
        for snapshot in snapshots {
            let target = TempDir::with_prefix_in("restored-", self.folder.path()).unwrap();
            let target = target.path().join("target");
            // An error is one way to deliver nothing wrong.
            drop(engine::restore_to(&repository, &snapshot, &target));
            let restored = if target.exists() {
                Image::of(&target)
            } else {
                Image::default()
            };
            self.compare(&restored, &mut judged);
        }
        judged
    }

    /// Whatever was restored is as it was; directories may lack what was lost.
    fn compare(&self, restored: &Image, judged: &mut Judged) {
        for (path, node) in &restored.nodes {
            let wanted = self
                .source
                .nodes
                .get(path)
                .unwrap_or_else(|| panic!("{} was made up", path.escape_ascii()));
            if node.kind != FileType::Directory {
                assert_eq!(node, wanted, "{} is not as it was", path.escape_ascii());
                judged.files += 1;
            }
        }
        judged.lost = self.source.nodes.len() - restored.nodes.len();
    }

    /// The objects of a kind, named by the first part of their keys; packs are told apart by the fifth byte.
    fn keys(&self) -> BTreeMap<&'static str, String> {
        let mut keys = BTreeMap::new();
        for (key, bytes) in &self.objects {
            let kind = match (key.split('/').next().unwrap(), bytes[4]) {
                ("config", _) => "config",
                ("keys", _) => "key slot",
                ("packs", 3) => "data pack",
                ("packs", _) => "tree pack",
                ("index", _) => "index segment",
                _ => "snapshot",
            };
            assert!(
                keys.insert(kind, key.clone()).is_none(),
                "the sample has two objects of kind {kind}"
            );
        }
        assert_eq!(keys.len(), if self.secret.is_some() { 6 } else { 5 }, "{keys:?}");
        keys
    }

    fn with(&self, key: &str, bytes: Option<Vec<u8>>) -> Objects {
        let mut objects = self.objects.clone();
        match bytes {
            Some(bytes) => objects.insert(key.to_owned(), Arc::new(bytes)),
            None => objects.remove(key),
        };
        objects
    }

    /// Judges mutants on all processors; each must be named as damage.
    fn all_named(&self, mutants: &[(String, String, Vec<u8>)]) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let workers = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
            let workers: Vec<_> = (0..workers)
                .map(|_| {
                    scope.spawn(|| {
                        while let Some((what, key, bytes)) = mutants.get(next.fetch_add(1, Ordering::Relaxed))
                        {
                            let judged = self.judge(&self.with(key, Some(bytes.clone())));
                            assert!(judged.named, "{what} of {key} goes unnoticed: {judged:?}");
                            if key.starts_with("index/") {
                                assert_eq!(
                                    judged.lost, 0,
                                    "{what} of {key}: packs tell what they hold, nothing is lost"
                                );
                            }
                        }
                    })
                })
                .collect();
            for worker in workers {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Judged {
    /// Opening failed or check found damage.
    named: bool,
    /// What was restored and is not a directory.
    files: usize,
    /// What was not restored.
    lost: usize,
}

impl Judged {
    fn with_files(mut self, source: &Image) -> Self {
        self.files = source
            .nodes
            .values()
            .filter(|node| node.kind != FileType::Directory)
            .count();
        self
    }
}

fn every_byte_flipped(secret: Option<&'static str>) {
    let sample = Sample::small(secret);
    let mut mutants = Vec::new();
    for (kind, key) in sample.keys() {
        let bytes = &sample.objects[&key];
        for position in 0..bytes.len() {
            let mut bytes = bytes.to_vec();
            bytes[position] ^= 1 << (position % 8);
            mutants.push((format!("byte {position} ({kind})"), key.clone(), bytes));
        }
    }
    assert!(
        mutants.len() > 2000,
        "the sample has only {} bytes",
        mutants.len()
    );
    sample.all_named(&mutants);
}

#[test]
fn every_flipped_byte_of_an_encrypted_repository_is_named_and_delivers_nothing_wrong() {
    every_byte_flipped(Some(PASSPHRASE));
}

#[test]
fn every_flipped_byte_of_a_plain_repository_is_named_and_delivers_nothing_wrong() {
    every_byte_flipped(None);
}

#[test]
fn flipped_bytes_of_large_objects_are_named_and_deliver_nothing_wrong() {
    let sample = Sample::new(None, |tree| {
        for number in 0..40 {
            tree.file(
                format!("folder-{}/{number}", number % 7),
                random::bytes(number, 5000 + number as usize * 100),
            );
        }
        for number in 0..200 {
            tree.file(
                format!("many/{number:04}-{}", "n".repeat(60)),
                format!("{number}"),
            );
        }
    });
    let mut random = random::Random::new(7);
    let mut mutants = Vec::new();
    for (kind, key) in sample.keys() {
        let bytes = &sample.objects[&key];
        let end = bytes.len();
        let mut positions: Vec<usize> = (0..end.min(60)).chain(end.saturating_sub(200)..end).collect();
        positions.extend((0..300).map(|_| usize::try_from(random.below(end as u64)).unwrap()));
        positions.sort_unstable();
        positions.dedup();
        for position in positions {
            let mut bytes = bytes.to_vec();
            bytes[position] ^= 0x80;
            mutants.push((format!("byte {position} ({kind})"), key.clone(), bytes));
        }
    }
    sample.all_named(&mutants);
}

#[test]
fn every_cut_or_lengthened_object_is_named_and_delivers_nothing_wrong() {
    for secret in [None, Some(PASSPHRASE)] {
        let sample = Sample::small(secret);
        let mut mutants = Vec::new();
        for (kind, key) in sample.keys() {
            let bytes = &sample.objects[&key];
            let end = bytes.len();
            for length in [
                0,
                1,
                4,
                7,
                8,
                9,
                39,
                40,
                41,
                end / 3,
                end / 2,
                end - 49,
                end - 33,
                end - 32,
                end - 17,
                end - 16,
                end - 1,
            ] {
                mutants.push((
                    format!("cut to {length} ({kind})"),
                    key.clone(),
                    bytes[..length].to_vec(),
                ));
            }
            for extra in [1, 32, 5000] {
                let longer = [bytes.as_slice(), &vec![0; extra]].concat();
                mutants.push((format!("{extra} bytes more ({kind})"), key.clone(), longer));
                let doubled = [bytes.as_slice(), &bytes[end.saturating_sub(extra)..]].concat();
                mutants.push((
                    format!("its last {extra} bytes twice ({kind})"),
                    key.clone(),
                    doubled,
                ));
            }
            mutants.push((format!("emptied to zeros ({kind})"), key.clone(), vec![0; end]));
        }
        sample.all_named(&mutants);
    }
}

#[test]
fn an_object_in_the_place_of_another_is_named_and_delivers_nothing_wrong() {
    for secret in [None, Some(PASSPHRASE)] {
        let sample = Sample::small(secret);
        let stranger = Sample::small(secret);
        let mut mutants = Vec::new();
        for (kind, key) in sample.keys() {
            for (other_kind, other) in sample.keys() {
                if kind != other_kind {
                    mutants.push((
                        format!("{other_kind} in place ({kind})"),
                        key.clone(),
                        sample.objects[&other].to_vec(),
                    ));
                }
            }
            let foreign = &stranger.objects[&stranger.keys()[kind]];
            mutants.push((
                format!("that of another repository ({kind})"),
                key.clone(),
                foreign.to_vec(),
            ));
        }
        sample.all_named(&mutants);
    }
}

#[test]
fn every_removed_object_is_named_or_made_again() {
    for secret in [None, Some(PASSPHRASE)] {
        let sample = Sample::small(secret);
        for (kind, key) in sample.keys() {
            let objects = sample.with(&key, None);
            let judged = sample.judge(&objects);
            match kind {
                // Nothing else names these: a snapshot is there or not, and the index is made from the packs.
                "snapshot" => {
                    assert_eq!(sample.open(&objects).unwrap().snapshots().unwrap().0.len(), 0);
                }
                "index segment" => assert_eq!(
                    judged.lost, 0,
                    "without its index a repository must still restore everything"
                ),
                _ => assert!(judged.named, "a missing {kind} goes unnoticed: {judged:?}"),
            }
            if matches!(kind, "data pack" | "tree pack") {
                assert!(judged.lost > 0, "without its {kind} nothing was lost?");
            }
        }
    }
}

#[test]
fn without_its_index_a_repository_restores_and_the_next_backup_stores_little_and_works() {
    let folder = fast_folder();
    let tree = mixed(folder.path().join("source"));
    let storage = engine::storage_of(&Objects::new());
    engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    for key in engine::objects_of(storage.as_ref())
        .keys()
        .filter(|key| key.starts_with("index/"))
    {
        storage.delete(key).unwrap();
    }
    let repository = engine::open(storage.clone(), None).unwrap();
    let (snapshots, _) = repository.snapshots().unwrap();
    let target = folder.path().join("first");
    engine::restore_to(&repository, &snapshots[0], &target).unwrap();
    assert_same(&Image::of(tree.root()), &Image::of(&target));
    engine::assert_clean(&repository);

    tree.file("new", random::bytes(77, 10_000));
    let repository = engine::open(storage.clone(), None).unwrap();
    let report = engine::back_up(&repository, tree.root()).unwrap();
    assert!(
        report.bytes_stored < 64 << 10,
        "{} bytes were stored again",
        report.bytes_stored
    );
    let repository = engine::open(storage, None).unwrap();
    engine::assert_clean(&repository);
    let target = folder.path().join("second");
    engine::restore_to(&repository, &report.snapshot.unwrap(), &target).unwrap();
    assert_same(&Image::of(tree.root()), &Image::of(&target));
}

#[test]
fn a_lost_pack_is_healed_by_the_next_full_backup_of_the_same_files() {
    let folder = fast_folder();
    let tree = mixed(folder.path().join("source"));
    let storage = engine::storage_of(&Objects::new());
    engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    let packs: Vec<String> = engine::objects_of(storage.as_ref())
        .into_keys()
        .filter(|key| key.starts_with("packs/"))
        .collect();
    let mut healed = 0;
    for pack in packs {
        let objects = engine::objects_of(storage.as_ref());
        storage.delete(&pack).unwrap();
        let repository = engine::open(storage.clone(), None).unwrap();
        assert!(
            engine::check_all(&repository).unwrap().is_damaged(),
            "a lost pack is not named"
        );
        let snapshot = engine::snapshot_of(&repository, tree.root());
        let repository = engine::open(storage.clone(), None).unwrap();
        let report = engine::check_all(&repository).unwrap();
        // Nodes of the folders above the source, which others change, may be lost to the first snapshot for good.
        if report.damaged_entries == 0 {
            assert!(!report.is_damaged(), "nothing is missed: {:?}", report.damage);
            healed += 1;
        }
        let target = TempDir::new_in(folder.path()).unwrap();
        let target = target.path().join("target");
        engine::restore_to(&repository, &snapshot, &target).unwrap();
        assert_same(&Image::of(tree.root()), &Image::of(&target));
        for key in engine::objects_of(storage.as_ref()).keys() {
            storage.delete(key).unwrap();
        }
        for (key, bytes) in objects {
            engine::put(storage.as_ref(), &key, bytes);
        }
    }
    assert!(healed > 0, "what was stored again is still missed");
}

#[test]
fn of_a_lost_pack_only_what_nothing_else_holds_is_still_missed() {
    let folder = fast_folder();
    let tree = Tree::new(folder.path().join("source"));
    tree.file("gone", random::bytes(1, 30_000));
    tree.file("kept", random::bytes(2, 30_000));
    let storage = engine::storage_of(&Objects::new());
    engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    let pack = largest_pack(storage.as_ref());
    let bytes = engine::objects_of(storage.as_ref())[&pack].clone();
    storage.delete(&pack).unwrap();
    let names_it = |repository: &Repository| {
        let report = engine::check_all(repository).unwrap();
        report.damage.iter().any(|damage| damage.what.contains(&pack))
    };
    // The source has half of what was in it.
    fs::remove_file(tree.path("gone")).unwrap();
    let second = engine::snapshot_of(&engine::open(storage.clone(), None).unwrap(), tree.root());
    let repository = engine::open(storage.clone(), None).unwrap();
    assert!(names_it(&repository), "what is lost for good is in it");
    assert_restores(&repository, &second, &Image::of(tree.root()), folder.path());
    // The other half: nothing names it any more.
    tree.file("gone", random::bytes(1, 30_000));
    engine::snapshot_of(&repository, tree.root());
    let repository = engine::open(storage.clone(), None).unwrap();
    assert!(!names_it(&repository));
    engine::assert_clean(&repository);
    // It was only mislaid: no harm either.
    engine::put(storage.as_ref(), &pack, bytes);
    let repository = engine::open(storage.clone(), None).unwrap();
    engine::assert_clean(&repository);
    let last = engine::snapshot_of(&repository, tree.root());
    let repository = engine::open(storage, None).unwrap();
    engine::assert_clean(&repository);
    assert_restores(&repository, &last, &Image::of(tree.root()), folder.path());
}

#[test]
fn a_lost_pack_of_which_all_is_stored_twice_is_missed_until_the_next_backup() {
    let folder = fast_folder();
    let tree = Tree::new(folder.path().join("source"));
    for number in 0..200 {
        tree.file(format!("{number}"), random::bytes(number, 2000));
    }
    let storage = engine::storage_of(&Objects::new());
    let one = engine::create(storage.clone(), None);
    // Two sessions at once, neither of which knows of the other.
    let aside = engine::storage_of(&engine::objects_of(storage.as_ref()));
    let snapshot = engine::snapshot_of(&one, tree.root());
    let lost = largest_pack(storage.as_ref());
    engine::snapshot_of(&engine::open(aside.clone(), None).unwrap(), tree.root());
    let there = engine::objects_of(storage.as_ref());
    for (key, bytes) in engine::objects_of(aside.as_ref()) {
        if !there.contains_key(&key) {
            engine::put(storage.as_ref(), &key, bytes);
        }
    }
    storage.delete(&lost).unwrap();
    let repository = engine::open(storage.clone(), None).unwrap();
    assert!(engine::check_all(&repository).unwrap().is_damaged());
    // The segment that no longer names it says less than the one that it replaces.
    engine::snapshot_of(&repository, tree.root());
    let repository = engine::open(storage, None).unwrap();
    engine::assert_clean(&repository);
    assert_restores(&repository, &snapshot, &Image::of(tree.root()), folder.path());
}

fn largest_pack(storage: &dyn Storage) -> String {
    let objects = engine::objects_of(storage).into_iter();
    let packs = objects.filter(|(key, _)| key.starts_with("packs/"));
    packs.max_by_key(|(_, bytes)| bytes.len()).unwrap().0
}

/// Restores and compares.
fn assert_restores(repository: &Repository, snapshot: &Snapshot, wanted: &Image, folder: &Path) {
    let target = TempDir::with_prefix_in("restored-", folder).unwrap();
    let target = target.path().join("target");
    let report = engine::restore_to(repository, snapshot, &target).expect("a restore");
    assert_eq!(report.problem_count, 0);
    assert_same(wanted, &Image::of(&target));
}

/// One fault at every call of a backup in turn; afterwards everything must be in order.
fn sweep_backup(operation: Option<Operation>, manner: Manner, kind: StorageErrorKind) {
    let folder = fast_folder();
    let tree = Tree::new(folder.path().join("source"));
    tree.file("old", random::bytes(1, 3000));
    tree.file("folder/kept", random::bytes(2, 3000));
    let before = Image::of(tree.root());
    let storage = engine::storage_of(&Objects::new());
    let first = engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    let objects = engine::objects_of(storage.as_ref());
    tree.file("new", random::bytes(3, 40_000));
    fs::remove_file(tree.path("old")).unwrap();
    let after = Image::of(tree.root());
    let mut failed = 0;
    for call in 0.. {
        let inner = engine::storage_of(&objects);
        let faulty = FaultyStorage::around(inner.clone());
        faulty.arm(Fault {
            operation,
            call,
            manner,
            kind,
        });
        let result =
            engine::open(faulty.clone(), None).map(|repository| engine::back_up(&repository, tree.root()));
        let committed = match result {
            Ok(Ok(report)) => report.snapshot,
            _ => None,
        };
        faulty.disarm();
        failed += usize::from(committed.is_none());
        let repository =
            engine::open(inner.clone(), None).expect("a fault of a backup never harms the repository");
        engine::assert_clean(&repository);
        assert_restores(&repository, &first, &before, folder.path());
        if let Some(snapshot) = &committed {
            assert_restores(&repository, snapshot, &after, folder.path());
        }
        let next = engine::snapshot_of(&repository, tree.root());
        let repository = engine::open(inner, None).unwrap();
        assert_restores(&repository, &next, &after, folder.path());
        engine::assert_clean(&repository);
        if !faulty.struck() {
            assert!(call > 0 && committed.is_some(), "a backup without a fault failed");
            break;
        }
        assert!(call < 1000, "the sweep does not end");
    }
    if manner != Manner::Tears {
        assert!(failed > 0, "no fault made a backup fail");
    }
}

#[test]
fn a_refused_call_anywhere_in_a_backup_harms_nothing() {
    sweep_backup(None, Manner::Refuses, StorageErrorKind::Other);
}

#[test]
fn a_full_storage_anywhere_in_a_backup_harms_nothing() {
    sweep_backup(Some(Operation::Put), Manner::Refuses, StorageErrorKind::NoSpace);
}

#[test]
fn an_object_that_arrived_although_an_error_came_back_harms_nothing() {
    sweep_backup(Some(Operation::Put), Manner::Forgets, StorageErrorKind::Timeout);
}

#[test]
fn a_torn_read_anywhere_in_a_backup_harms_nothing() {
    sweep_backup(Some(Operation::Get), Manner::Tears, StorageErrorKind::Other);
}

#[test]
fn a_storage_that_goes_away_anywhere_in_a_backup_harms_nothing() {
    sweep_backup(None, Manner::Dies, StorageErrorKind::Transient);
}

#[test]
fn a_fault_at_any_call_of_a_restore_or_check_never_delivers_wrong_bytes_nor_claims_success() {
    let folder = fast_folder();
    let tree = mixed(folder.path().join("source"));
    let wanted = Image::of(tree.root());
    let storage = engine::storage_of(&Objects::new());
    engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    for manner in [Manner::Refuses, Manner::Tears, Manner::Dies] {
        for call in 0.. {
            let faulty = FaultyStorage::around(storage.clone());
            let Ok(repository) = engine::open(faulty.clone(), None) else {
                panic!("nothing was armed")
            };
            let (snapshots, _) = repository.snapshots().unwrap();
            let target = TempDir::new_in(folder.path()).unwrap();
            let target = target.path().join("target");
            faulty.arm(Fault {
                operation: Some(Operation::Get),
                call,
                manner,
                kind: StorageErrorKind::Other,
            });
            let result = engine::restore_to(&repository, &snapshots[0], &target);
            let struck = faulty.struck();
            let whole = result.is_ok_and(|report| report.problem_count == 0);
            if target.exists() {
                let restored = Image::of(&target);
                for (path, node) in restored
                    .nodes
                    .iter()
                    .filter(|(_, node)| node.kind == FileType::RegularFile)
                {
                    let mut wanted = wanted.nodes[path].clone();
                    wanted.link_group.clone_from(&node.link_group);
                    assert_eq!(*node, wanted, "{}", path.escape_ascii());
                }
                if whole {
                    assert_same(&wanted, &restored);
                }
            }
            faulty.arm(Fault {
                operation: Some(Operation::Get),
                call,
                manner,
                kind: StorageErrorKind::Other,
            });
            let checked = engine::check_all(&repository);
            // A read that came back short may be asked for again: then nothing was wrong.
            let excused = manner == Manner::Tears || !faulty.struck();
            assert!(
                excused || checked.map_or(true, |report| report.is_damaged()),
                "check did not notice {manner:?} at call {call}"
            );
            if !struck {
                assert!(whole && call > 0);
                break;
            }
        }
    }
}

#[test]
fn a_damaged_file_is_not_put_over_a_good_one() {
    let sample = Sample::small(None);
    let folder = fast_folder();
    let target = folder.path().join("target");
    let repository = sample.open(&sample.objects).unwrap();
    let snapshot = repository.snapshots().unwrap().0.remove(0);
    engine::restore_to(&repository, &snapshot, &target).unwrap();
    let own = random::bytes(99, 1100);
    fs::write(target.join("folder/random"), &own).unwrap();
    let key = sample.keys()["data pack"].clone();
    let mut bytes = sample.objects[&key].to_vec();
    bytes[60] ^= 1;
    let repository = sample.open(&sample.with(&key, Some(bytes))).unwrap();
    let mut options = engine::restore_options(&target);
    options.overwrite = Overwrite::Always;
    let report = engine::silently(|job| restore(&repository, &snapshot, options, job)).unwrap();
    assert!(report.damage_count > 0);
    assert_eq!(
        fs::read(target.join("folder/random")).unwrap(),
        own,
        "a file was replaced by nothing"
    );
    assert!(!fs::read_dir(target.join("folder")).unwrap().any(|entry| {
        entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".plakar")
    }));
}

#[test]
fn a_damaged_file_of_several_names_is_not_put_over_good_ones() {
    let folder = fast_folder();
    let tree = Tree::new(folder.path().join("source"));
    tree.file("first", random::bytes(1, 5000));
    tree.hard_link("first", "second");
    let storage = engine::storage_of(&Objects::new());
    let snapshot = engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    let mut objects = engine::objects_of(storage.as_ref());
    let target = folder.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("first"), "good").unwrap();
    fs::write(target.join("second"), "good too").unwrap();
    let data = objects
        .values_mut()
        .find(|object| object[4] == 3)
        .expect("a data pack");
    Arc::make_mut(data)[60] ^= 1;
    let repository = engine::open(engine::storage_of(&objects), None).unwrap();
    let mut options = engine::restore_options(&target);
    options.overwrite = Overwrite::Always;
    let report = engine::silently(|job| restore(&repository, &snapshot, options, job)).unwrap();
    assert!(report.damage_count > 0);
    assert_eq!(fs::read(target.join("first")).unwrap(), b"good");
    assert_eq!(fs::read(target.join("second")).unwrap(), b"good too");
    // With a whole repository they are replaced, and are one file again.
    let repository = engine::open(storage, None).unwrap();
    let mut options = engine::restore_options(&target);
    options.overwrite = Overwrite::Always;
    let report = engine::silently(|job| restore(&repository, &snapshot, options, job)).unwrap();
    assert_eq!((report.damage_count, report.problem_count), (0, 0));
    // The target itself was there before, and keeps its own times.
    assert_same(&Image::of(tree.root()).below(), &Image::of(&target).below());
}

#[test]
fn a_damaged_tree_is_stored_again_by_the_next_backup_of_unchanged_files() {
    let folder = fast_folder();
    let tree = mixed(folder.path().join("source"));
    let storage = engine::storage_of(&Objects::new());
    engine::snapshot_of(&engine::create(storage.clone(), None), tree.root());
    let mut objects = engine::objects_of(storage.as_ref());
    let pack = objects
        .values_mut()
        .find(|object| object[4] == 4)
        .expect("a tree pack");
    Arc::make_mut(pack)[100] ^= 1;
    let storage = engine::storage_of(&objects);
    let repository = engine::open(storage.clone(), None).unwrap();
    let snapshot = engine::snapshot_of(&repository, tree.root());
    let repository = engine::open(storage, None).unwrap();
    assert_restores(&repository, &snapshot, &Image::of(tree.root()), folder.path());
}

#[test]
fn a_pack_that_the_device_cannot_give_back_takes_no_other_file_with_it() {
    let folder = fast_folder();
    let storage = FaultyStorage::around(engine::storage_of(&Objects::new()));
    let repository = engine::create(storage.clone(), None);
    let first = Tree::new(folder.path().join("source"));
    first.file("lost", random::bytes(1, 5000));
    engine::snapshot_of(&repository, first.root());
    first.file("whole", random::bytes(2, 5000));
    let snapshot = engine::snapshot_of(&repository, first.root());
    let repository = engine::open(storage.clone(), None).unwrap();
    let mut told = 0;
    for call in 0..20 {
        let target = TempDir::new_in(folder.path()).unwrap();
        let target = target.path().join("target");
        storage.arm(Fault {
            operation: Some(Operation::Get),
            call,
            manner: Manner::Refuses,
            kind: StorageErrorKind::Corrupt,
        });
        let Ok(report) = engine::restore_to(&repository, &snapshot, &target) else {
            continue;
        };
        for name in ["lost", "whole"] {
            let restored = target.join(name);
            let wanted = fs::read(first.path(name)).unwrap();
            assert!(report.damage_count > 0 || fs::read(&restored).unwrap() == wanted);
            assert!(!restored.exists() || fs::read(&restored).unwrap() == wanted);
        }
        told += u32::from(report.damage_count == 1 && target.join("whole").exists());
    }
    assert!(told > 0, "one unreadable pack was never only one lost file");
}

#[test]
fn a_full_repository_disk_fails_clearly_keeps_what_was_there_and_works_again_with_space() {
    let lab = Lab::new();
    let disk = Tmpfs::mount(lab.repository(), 6 << 20);
    lab.plakar(["create", "-no-encryption"]).ok();
    let tree = mixed(lab.path("source"));
    let before = Image::of(tree.root());
    let first = lab.backup([tree.root()]);
    for number in 0..6 {
        tree.file(format!("more/{number}"), random::bytes(100 + number, 5 << 20));
    }
    let output = lab
        .plakar(["backup".as_ref(), tree.root().as_os_str(), "-quiet".as_ref()])
        .fails(73, "No space left");
    assert!(
        output.stdout.is_empty(),
        "a failed backup claims: {}",
        output.stdout
    );
    lab.check();
    assert_eq!(lab.plakar(["ls"]).ok().stdout.lines().count(), 1);
    assert_same(&before, &Image::of(&lab.restore(&first, "first")));
    disk.resize(64 << 20);
    let second = lab.backup([tree.root()]);
    lab.check();
    assert_same(
        &Image::of(tree.root()),
        &Image::of(&lab.restore(&second, "second")),
    );
    assert_same(&before, &Image::of(&lab.restore(&first, "first again")));
}

#[test]
fn a_disk_too_full_to_create_a_repository_is_told() {
    let lab = Lab::new();
    // Room for the key slot and not for the settings.
    let disk = Tmpfs::mount(lab.repository(), 4096);
    let create = || lab.plakar(["create"]).env("PLAKAR_PASSPHRASE", PASSPHRASE);
    create().fails(73, "No space left");
    disk.resize(1 << 20);
    create().ok();
    lab.plakar(["check"]).env("PLAKAR_PASSPHRASE", PASSPHRASE).ok();
}

#[test]
fn a_full_target_disk_fails_clearly_and_the_restore_can_be_finished() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    tree.file("big", random::bytes(5, 20 << 20));
    let id = lab.backup([tree.root()]);
    let disk = Tmpfs::mount(lab.path("target"), 4 << 20);
    let words = |mode: &'static str| {
        [
            "restore",
            "-quiet",
            "-overwrite",
            mode,
            "-to",
            disk.path().to_str().unwrap(),
            &id,
        ]
        .map(str::to_owned)
    };
    let output = lab.plakar(words("error")).code(73);
    assert!(
        output.stderr.lines().last().unwrap().contains("No space left"),
        "{}",
        output.stderr
    );
    assert!(
        output.stdout.is_empty(),
        "a failed restore claims: {}",
        output.stdout
    );
    for (path, node) in Image::of(disk.path())
        .nodes
        .iter()
        .filter(|(_, node)| node.kind == FileType::RegularFile)
    {
        // What is there under its name is whole.
        assert_eq!(
            node.content,
            Image::of(tree.root()).nodes[path].content,
            "{}",
            path.escape_ascii()
        );
    }
    disk.resize(64 << 20);
    lab.plakar(words("always")).ok();
    assert_same(&Image::of(tree.root()).below(), &Image::of(disk.path()).below());
}

#[test]
fn a_read_only_target_is_told() {
    let lab = Lab::new();
    let tree = mixed(lab.path("source"));
    lab.hand_over();
    lab.plakar(["create", "-no-encryption"]).as_nobody().ok();
    let id = lab
        .plakar(["backup".as_ref(), "-quiet".as_ref(), tree.root().as_os_str()])
        .as_nobody()
        .ok()
        .snapshot();
    let closed = lab.path("closed");
    fs::create_dir(&closed).unwrap();
    let target = closed.join("target");
    lab.plakar(["restore", "-to", target.to_str().unwrap(), &id])
        .as_nobody()
        .fails(73, "ermission denied");
}

fn encrypted() -> Lab {
    let lab = Lab::new();
    lab.plakar(["create"]).env("PLAKAR_PASSPHRASE", PASSPHRASE).ok();
    lab
}

#[test]
fn a_wrong_passphrase_is_77() {
    let lab = encrypted();
    lab.plakar(["ls"])
        .env("PLAKAR_PASSPHRASE", "wrong")
        .fails(77, "wrong passphrase");
    let keyfile = lab.path("keyfile");
    fs::write(&keyfile, "also wrong\n").unwrap();
    lab.plakar(["ls", "-keyfile", keyfile.to_str().unwrap()])
        .fails(77, "wrong passphrase");
    fs::write(&keyfile, format!("{PASSPHRASE}\n")).unwrap();
    lab.plakar(["ls", "-keyfile", keyfile.to_str().unwrap()]).ok();
}

#[test]
fn no_passphrase_and_no_terminal_is_77_at_once() {
    let lab = encrypted();
    for words in [&["ls"][..], &["check"], &["backup", "/etc/hostname"]] {
        lab.plakar(words).fails(77, "passphrase");
    }
    let other = Lab::new();
    other.plakar(["create"]).fails(77, "passphrase");
    assert!(!other.repository().exists() || fs::read_dir(other.repository()).unwrap().next().is_none());
}

#[test]
fn a_weak_passphrase_is_refused_unless_allowed() {
    let lab = Lab::new();
    lab.plakar(["create"])
        .env("PLAKAR_PASSPHRASE", "password")
        .fails(77, "weak");
    lab.plakar(["create", "-weak-passphrase"])
        .env("PLAKAR_PASSPHRASE", "password")
        .ok();
    lab.plakar(["ls"]).env("PLAKAR_PASSPHRASE", "password").ok();
}

#[test]
fn a_missing_repository_is_66() {
    let lab = Lab::new();
    for command in ["ls", "check", "info"] {
        lab.plakar([command]).fails(66, "no repository");
    }
    assert!(!lab.repository().exists(), "looking for a repository made one");
}

#[test]
fn an_empty_folder_is_66() {
    let lab = Lab::new();
    fs::create_dir(lab.repository()).unwrap();
    lab.plakar(["ls"]).fails(66, "empty");
}

#[test]
fn a_folder_with_other_files_is_no_repository_and_none_is_created_there() {
    let lab = Lab::new();
    Tree::new(lab.repository()).file("letter.txt", "dear");
    lab.plakar(["ls"]).fails(78, "other files");
    lab.plakar(["create", "-no-encryption"]).fails(73, "not empty");
    let again = Lab::with_repository();
    again
        .plakar(["create", "-no-encryption"])
        .fails(73, "there already");
}

#[test]
fn a_kloset_repository_is_recognised_and_left_alone() {
    let lab = Lab::new();
    let tree = Tree::new(lab.repository());
    tree.file(
        "CONFIG",
        [b"_KLOSET_".as_slice(), &random::bytes(1, 300)].concat(),
    );
    tree.file("packfiles/00/00aa", random::bytes(2, 300));
    tree.file("states/00/00aa", random::bytes(3, 300));
    let before = Image::of(tree.root());
    lab.plakar(["ls"]).fails(78, "Kloset");
    lab.plakar(["backup", "/etc/hostname"]).fails(78, "Kloset");
    lab.plakar(["create", "-no-encryption"]).code(73);
    assert_same(&before, &Image::of(tree.root()));
}

#[test]
fn a_restic_repository_is_recognised_and_left_alone() {
    let lab = Lab::new();
    let tree = Tree::new(lab.repository());
    tree.file("config", random::bytes(1, 155));
    tree.file("keys/5d0bb4f6a4fd", "{\"kdf\":\"scrypt\"}");
    for folder in ["data/00", "index", "locks", "snapshots"] {
        tree.directory(folder);
    }
    tree.file("data/00/00ff", random::bytes(2, 300));
    let before = Image::of(tree.root());
    lab.plakar(["ls"]).fails(78, "restic");
    lab.plakar(["backup", "/etc/hostname"]).fails(78, "restic");
    lab.plakar(["create", "-no-encryption"]).code(73);
    assert_same(&before, &Image::of(tree.root()));
}

#[test]
fn a_repository_of_a_newer_version_is_78() {
    let lab = Lab::with_repository();
    let path = lab.repository().join("config");
    let mut config = fs::read(&path).unwrap();
    config[5] = 200;
    plakar_testkit::tree::set_mode(&path, 0o600);
    fs::write(&path, config).unwrap();
    lab.plakar(["ls"]).fails(78, "version 200");
    lab.plakar(["backup", "/etc/hostname"]).fails(78, "version 200");
    lab.plakar(["create", "-no-encryption"]).code(73);
}

#[test]
fn a_repository_that_lost_its_config_says_so() {
    let lab = Lab::with_repository();
    lab.backup([mixed(lab.path("source")).root()]);
    fs::remove_file(lab.repository().join("config")).unwrap();
    lab.plakar(["ls"]).fails(65, "config");
}

#[test]
fn unknown_ambiguous_and_malformed_ids_are_told_apart() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file("file", "1");
    lab.plakar(["restore", "-to", "out"]).fails(66, "no snapshot");
    // Seventeen ids and sixteen digits: two begin alike.
    let ids: Vec<String> = (0..17).map(|_| lab.backup([tree.root()])).collect();
    let first = |digit: &char| ids.iter().filter(|id| id.starts_with(*digit)).count();
    let shared = "0123456789abcdef"
        .chars()
        .find(|digit| first(digit) > 1)
        .unwrap()
        .to_string();
    let unused = (0_u32..)
        .map(|number| format!("{number:08x}"))
        .find(|id| !ids.contains(id))
        .unwrap();
    for command in [&["restore", "-to", "out"][..], &["check"], &["ls"], &["info"]] {
        let run = |id: &str| lab.plakar(command.iter().copied().chain([id]));
        run(&unused).fails(66, &unused);
        run(&shared).fails(64, &shared);
        run("xyz").fails(64, "xyz");
        run("").code(64);
        run(&"0".repeat(65)).code(64);
    }
    assert!(!lab.path("home/out").exists());
    let upper = ids[0].to_uppercase();
    lab.plakar(["check", "-quiet", &upper]).ok();
}

#[test]
fn a_path_that_is_not_in_the_snapshot_is_66() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    let id = lab.backup([tree.root()]);
    for path in ["missing", "/missing", "small/below a file", "/etc"] {
        let target = format!("{id}:{path}");
        lab.plakar(["restore", "-to", "out", &target]).code(66);
        lab.plakar(["cat", &target]).code(66);
        lab.plakar(["ls", &target]).code(66);
        lab.plakar(["check", &target]).code(66);
    }
    assert!(!lab.path("home/out").exists());
}

#[test]
fn an_unknown_scheme_is_69() {
    let lab = Lab::new();
    lab.plain(["at", "gopher://example/hole", "ls"])
        .fails(69, "gopher");
}

#[test]
fn a_missing_source_fails_and_one_of_several_is_named() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    lab.plakar(["backup", "/does/not/exist"])
        .fails(1, "/does/not/exist");
    assert!(lab.plakar(["ls"]).ok().stdout.is_empty());
    let words: [PathBuf; 4] = [
        "backup".into(),
        "-quiet".into(),
        "/does/not/exist".into(),
        tree.root().into(),
    ];
    let output = lab.plakar(words).fails(3, "/does/not/exist");
    assert_same(
        &Image::of(tree.root()),
        &Image::of(&lab.restore(&output.snapshot(), "restored")),
    );
}

#[test]
fn damage_is_named_by_check_and_restore_with_code_65() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    let id = lab.backup([tree.root()]);
    let packs = lab.repository().join("packs");
    let largest = Image::of(&packs)
        .nodes
        .into_iter()
        .max_by_key(|(_, node)| node.size)
        .unwrap()
        .0;
    let path = packs.join(String::from_utf8(largest).unwrap());
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    plakar_testkit::tree::set_mode(&path, 0o600);
    fs::write(&path, bytes).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let output = lab.plakar(["check"]).code(65);
    assert!(
        output.stderr.contains(name),
        "check does not name {name}: {}",
        output.stderr
    );
    let output = lab.plakar(["check", &id]).code(65);
    assert!(output.stderr.contains("folder/deeper/large"), "{}", output.stderr);
    lab.plakar(["check", "-fast"]).ok();
    let target = lab.path("restored");
    let output = lab
        .plakar(["restore", "-to", target.to_str().unwrap(), &id])
        .code(65);
    assert!(output.stderr.contains("folder/deeper/large"), "{}", output.stderr);
    assert!(!target.join("folder/deeper/large").exists());
    // Which small files share a frame with the damaged piece is chance: what is named is not there, and all else is whole.
    let mut others = Image::of(tree.root()).without("folder/deeper").below();
    for path in others.paths() {
        let named = format!("✘ {}: ", tree.root().join(&path).display());
        if output.stderr.contains(&named) {
            assert!(!target.join(&path).exists(), "{path} is named and was written");
            others = others.without(&path);
        }
    }
    assert_same(&others, &Image::of(&target).without("folder/deeper").below());
}
