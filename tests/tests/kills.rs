//! The program killed at random moments: nothing that was there is harmed, and nothing is stored twice.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plakar_core::id::BlobId;
use plakar_core::repository::{Repository, pack_id_of, read_pack_contents};
use plakar_core::storage::list_all;
use plakar_core::storage::memory::MemoryStorage;
use plakar_testkit::tree::Tree;
use plakar_testkit::{Image, Lab, Run, assert_same, engine, random::Random};
use rustix::fs::FileType;

/// Kills a run after a while and says whether it was still at work.
fn kill_after(run: Run, delay: Duration) -> bool {
    let mut child = run.spawn();
    std::thread::sleep(delay);
    let alive = child.try_wait().expect("a child").is_none();
    child.kill().expect("a child can be killed");
    let output = child.wait_with_output().expect("a child ends");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(alive || output.status.success(), "it failed by itself: {words}");
    alive && !output.status.success()
}

/// Whether a file is what a killed put left behind: never listed, and removed by a later put when it is a day old.
fn is_temporary(path: &[u8]) -> bool {
    path.rsplit(|&byte| byte == b'/')
        .next()
        .is_some_and(|name| name.starts_with(b".tmp-"))
}

/// The objects of a repository in a folder, in memory.
fn load(folder: &Path) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::new());
    for (path, node) in Image::of(folder).nodes {
        let temporary = is_temporary(&path);
        let key = String::from_utf8(path).expect("keys are text");
        if node.kind == FileType::RegularFile && !temporary {
            let bytes = std::fs::read(folder.join(&key)).expect("readable");
            engine::put(storage.as_ref(), &key, Arc::new(bytes));
        }
    }
    storage
}

/// How often each blob is stored, over all packs of a repository.
fn copies(folder: &Path) -> BTreeMap<BlobId, u32> {
    let storage = load(folder);
    let config = Repository::read_config(storage.as_ref()).expect("a config");
    let keys = engine::keys_of(storage.as_ref(), None);
    let mut copies = BTreeMap::new();
    let mut packs = Vec::new();
    list_all(storage.as_ref(), "packs/", |object| packs.push(object)).expect("listable");
    for object in packs {
        let id = pack_id_of(&object.key).unwrap_or_else(|| panic!("{} is no pack", object.key));
        let pack = read_pack_contents(storage.as_ref(), &keys, config.mode(), id, object.size_bytes)
            .expect("a whole pack");
        for blob in pack.frames.iter().flat_map(|frame| &frame.blobs) {
            *copies.entry(blob.id).or_default() += 1;
        }
    }
    copies
}

fn pack_bytes(folder: &Path) -> u64 {
    let image = Image::of(folder);
    let packs = image
        .nodes
        .iter()
        .filter(|(path, _)| path.starts_with(b"packs/") && !is_temporary(path));
    packs.map(|(_, node)| node.size).sum()
}

/// Files that do not compress, enough for several packs.
fn corpus(tree: &Tree, seed: u64, files: u64, bytes: usize) {
    for number in 0..files {
        let content = Random::new(seed * 10_000 + number).bytes(bytes + number as usize * 7);
        tree.file(format!("corpus-{seed}/{}/{number}", number % 5), content);
    }
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

#[test]
fn create_killed_forty_times_leaves_nothing_that_is_in_the_way() {
    let mut random = Random::new(std::process::id().into());
    let whole = time(|| drop(Lab::with_repository()));
    let mut killed = 0;
    for round in 0..40 {
        let lab = Lab::new();
        let delay = whole.mul_f64(random.below(1000) as f64 / 1000.0);
        killed += u32::from(kill_after(lab.plakar(["create", "-no-encryption"]), delay));
        let there = lab.repository().join("config").exists();
        let again = lab.plakar(["create", "-no-encryption"]).output();
        let expected = if there { 73 } else { 0 };
        assert_eq!(
            again.code,
            Some(expected),
            "round {round} after {delay:?}: {}",
            again.stderr
        );
        lab.check();
    }
    assert!(killed >= 10, "only {killed} of 40 were killed in time");
}

#[test]
fn backup_killed_a_hundred_and_twenty_times_harms_nothing_and_stores_nothing_twice() {
    let mut random = Random::new(std::process::id().into());
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    corpus(&tree, 0, 60, 100_000);
    let first = lab.backup([tree.root()]);
    let kept = Image::of(tree.root());
    let words = |tree: &Tree| {
        [
            "backup".into(),
            "-quiet".into(),
            tree.root().as_os_str().to_owned(),
        ]
    };
    let mut killed = 0;
    // About as long as the backups below take: measured on the way.
    let mut whole = Duration::from_millis(300);
    for round in 1..=120 {
        // Every few rounds there is something new to save; in between the same backup is tried again.
        if round % 6 == 1 {
            corpus(&tree, round, 40, 100_000);
        }
        let delay = whole.mul_f64(random.below(1100) as f64 / 1000.0);
        killed += u32::from(kill_after(lab.plakar(words(&tree)), delay));
        lab.check();
        if round % 6 == 0 {
            let started = Instant::now();
            let id = lab.backup([tree.root()]);
            whole = (whole + started.elapsed()) / 2;
            lab.check();
            let target = lab.path("restored");
            lab.plakar(["restore", "-quiet", "-to", target.to_str().unwrap(), &id])
                .ok();
            assert_same(&Image::of(tree.root()), &Image::of(&target));
            std::fs::remove_dir_all(&target).unwrap();
            std::fs::remove_dir_all(tree.path(format!("corpus-{}", round - 5))).unwrap();
        }
    }
    assert!(killed >= 40, "only {killed} of 120 were killed in time");
    assert_same(&kept, &Image::of(&lab.restore(&first, "first")));
    let twice: HashSet<_> = copies(&lab.repository())
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .collect();
    assert!(
        twice.is_empty(),
        "{} blobs are stored more than once",
        twice.len()
    );
    // Once-only storage: 20 corpora of 40 files and one of 60, and the trees.
    let content: u64 = 60 * 100_000 + 7 * 60 * 59 / 2 + 20 * (40 * 100_000 + 7 * 40 * 39 / 2);
    let stored = pack_bytes(&lab.repository());
    assert!(
        stored < content + content / 50 + (2 << 20),
        "{stored} bytes are stored for {content} bytes of content"
    );
}

#[test]
fn a_backup_killed_after_packs_were_stored_goes_on_where_it_stopped() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    corpus(&tree, 1, 90, 1_000_000);
    let mut resumed = 0;
    for seed in 2..12 {
        corpus(&tree, seed, 70, 1_000_000);
        let before = pack_bytes(&lab.repository());
        let mut child = lab
            .plakar(["backup".as_ref(), "-quiet".as_ref(), tree.root().as_os_str()])
            .spawn();
        // As soon as one pack of this run is there, and before all are.
        let deadline = Instant::now() + Duration::from_secs(60);
        while pack_bytes(&lab.repository()) == before
            && child.try_wait().unwrap().is_none()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        lab.check();
        let survived = pack_bytes(&lab.repository()) - before;
        lab.backup([tree.root()]);
        lab.check();
        resumed += u32::from(!finished && survived > 10 << 20);
        std::fs::remove_dir_all(tree.path(format!("corpus-{}", seed - 1))).unwrap();
        if resumed >= 2 {
            break;
        }
    }
    assert!(resumed >= 1, "no run was killed between its packs");
    let twice = copies(&lab.repository())
        .into_values()
        .filter(|count| *count > 1)
        .count();
    assert_eq!(twice, 0, "blobs that a killed run had stored were stored again");
}

#[test]
fn restore_killed_forty_times_leaves_no_wrong_file_and_can_be_finished() {
    let mut random = Random::new(std::process::id().into());
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    corpus(&tree, 1, 200, 60_000);
    for number in 0..20 {
        let folder = tree.path(format!("folder-{number}/inner"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("one"), vec![7; 30_000 + number]).unwrap();
        std::fs::hard_link(folder.join("one"), folder.join("two")).unwrap();
        let mode = if number % 2 == 0 { 0o750 } else { 0o705 };
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let wanted = Image::of(tree.root());
    let id = lab.backup([tree.root()]);
    let whole = time(|| drop(lab.restore(&id, "measured")));
    let mut killed = 0;
    for round in 0..40 {
        let target = lab.path(format!("restored-{round}"));
        let words = |mode: &'static str| {
            let words = [
                "restore",
                "-quiet",
                "-overwrite",
                mode,
                "-to",
                target.to_str().unwrap(),
                &id,
            ];
            words.map(str::to_owned)
        };
        let delay = whole.mul_f64(random.below(1000) as f64 / 1000.0);
        killed += u32::from(kill_after(lab.plakar(words("error")), delay));
        // What exists is left alone by two of them: but for what was not finished.
        lab.plakar(words(["always", "never", "if-newer"][round % 3])).ok();
        let restored = Image::of(&target);
        assert_same(&wanted.clone().below(), &restored.below());
        std::fs::remove_dir_all(&target).unwrap();
    }
    assert!(killed >= 10, "only {killed} of 40 were killed in time");
    lab.check();
}
