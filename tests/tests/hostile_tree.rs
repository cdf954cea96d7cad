//! Snapshots that no honest program makes: whoever restores or checks them gets errors, writes nothing outside the target,
//! and needs neither endless memory nor endless time.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plakar_core::crypto::keys::Keys;
use plakar_core::environment::{Environment, Timestamp};
use plakar_core::format::object::{HEADER_BYTES, Mode, ObjectKind, Prelude, sealed_header};
use plakar_core::format::snapshot::{Snapshot, Summary};
use plakar_core::format::tree::{
    Content, ContentItem, Entry, EntryKind, LeafWriter, NodeChild, Xattrs, encode_content_node, encode_inner,
};
use plakar_core::id::{BlobId, SessionId, SnapshotId};
use plakar_core::index::Claimed;
use plakar_core::pipeline::frame::{FrameBuilder, PlainFrame};
use plakar_core::pipeline::pack::Packer;
use plakar_core::pipeline::store::Store;
use plakar_core::progress::Counters;
use plakar_core::repository::{Compression, Repository, pack_id_of, read_pack_contents, snapshot_key};
use plakar_core::restore::{Overwrite, restore};
use plakar_core::storage::Storage;
use plakar_core::storage::memory::MemoryStorage;
use plakar_testkit::engine::{self, Objects, Problems};
use plakar_testkit::tree::Tree;
use plakar_testkit::{Image, Lab, Run};
use rustix::fs::FileType;

/// Stores blobs of any content with genuine keys: what somebody who knows the passphrase can do.
struct Forge<'a> {
    repository: &'a Repository,
    keys: &'a Keys,
    frames: FrameBuilder,
    packer: Packer<'a>,
    store: Store<'a>,
}

impl Forge<'_> {
    fn put(&mut self, plain: &[u8]) -> BlobId {
        let id = self.keys.blob_id(plain);
        if let Claimed::Fresh(claim) = self.repository.index().claim(id).unwrap()
            && let Some(frame) = self.frames.add(claim, plain)
        {
            self.pack(frame);
        }
        id
    }

    fn pack(&mut self, frame: PlainFrame) {
        for pack in self.packer.add(frame).unwrap() {
            self.store.put(pack).unwrap();
        }
    }

    fn leaf(&mut self, entries: &[Entry]) -> BlobId {
        let mut leaf = LeafWriter::default();
        entries.iter().for_each(|entry| leaf.push(entry));
        self.put(&leaf.take())
    }

    fn finish(mut self) {
        if let Some(frame) = self.frames.finish() {
            self.pack(frame);
        }
        if let Some(pack) = self.packer.finish() {
            self.store.put(pack).unwrap();
        }
        self.store.publish(true).unwrap();
    }
}

/// A repository with one snapshot whose tree `make` forges.
fn forged(make: impl FnOnce(&mut Forge<'_>) -> BlobId) -> (Arc<MemoryStorage>, Snapshot) {
    let storage = engine::storage_of(&Objects::new());
    let repository = engine::create(storage.clone(), None);
    let keys = engine::keys_of(storage.as_ref(), None);
    let environment = Environment::system();
    let counters = Counters::default();
    let mut forge = Forge {
        repository: &repository,
        keys: &keys,
        frames: FrameBuilder::new(1 << 20, Compression::Zstd(1)).unwrap(),
        packer: Packer::new(&keys, &environment, ObjectKind::TreePack, Mode::Plain, 1 << 20),
        store: Store::new(&repository, SessionId([1; 16]), &counters),
    };
    let tree = make(&mut forge);
    forge.finish();
    let snapshot = Snapshot {
        id: SnapshotId([0xab; 32]),
        time: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 0,
        },
        started: Timestamp::default(),
        duration_nanoseconds: 1,
        name: String::new(),
        tags: Vec::new(),
        hostname: String::new(),
        username: String::new(),
        roots: vec![b"/".to_vec()],
        parent: None,
        tree,
        summary: Summary::default(),
        problem_blobs: Vec::new(),
        program: String::new(),
        with_xattrs: true,
    };
    let prelude = Prelude {
        kind: ObjectKind::Snapshot,
        mode: Mode::Plain,
    };
    let salt = [7; 32];
    let mut body = snapshot.encode();
    keys.object_key(prelude, &salt)
        .seal(HEADER_BYTES as u64, &mut body);
    let mut object = sealed_header(prelude, &salt);
    object.raw(&body);
    engine::put(
        storage.as_ref(),
        &snapshot_key(snapshot.id, SessionId([1; 16])),
        Arc::new(object.into_bytes()),
    );
    (storage, snapshot)
}

fn file(name: &[u8], content: &[u8]) -> Entry {
    let mut entry = Entry::new(name.to_vec(), EntryKind::File);
    entry.mode = 0o644;
    entry.size_bytes = content.len() as u64;
    entry.content = Content::Inline(content.to_vec());
    entry
}

fn directory(name: &[u8], node: BlobId) -> Entry {
    let mut entry = Entry::new(name.to_vec(), EntryKind::Directory);
    entry.mode = 0o755;
    entry.node = Some(node);
    entry
}

fn symlink(name: &[u8], target: &[u8]) -> Entry {
    let mut entry = Entry::new(name.to_vec(), EntryKind::Symlink);
    entry.link_target = target.to_vec();
    entry
}

fn listed(name: &[u8], size: u64, depth: u8, items: Vec<ContentItem>) -> Entry {
    let mut entry = file(name, b"");
    entry.size_bytes = size;
    entry.content = Content::List { depth, items };
    entry
}

/// Forges one entry.
type MakeEntry = dyn Fn(&mut Forge<'_>) -> Entry;

/// What became of a forged snapshot.
struct Outcome {
    /// Check found damage.
    named: bool,
    /// Restore failed, or told of problems.
    refused: bool,
    /// What stands in the target.
    restored: Image,
}

/// Checks and restores in every overwrite mode, beside a folder that must stay as it is. `{outside}` is `../outside` from the target.
fn outcome(make: impl FnOnce(&mut Forge<'_>, &Path) -> BlobId) -> Outcome {
    let lab = Lab::new();
    let outside = Tree::new(lab.path("outside"));
    outside.file("victim", "untouched");
    let (storage, snapshot) = forged(|forge| make(forge, outside.root()));
    let before = Image::of(&lab.path("")).without("target");
    let repository = engine::open(storage, None).unwrap();
    let named = engine::check_all(&repository).map_or(true, |report| report.is_damaged());
    let target = lab.path("target");
    let mut refused = false;
    for overwrite in [
        Overwrite::Error,
        Overwrite::Never,
        Overwrite::IfNewer,
        Overwrite::Always,
    ] {
        let mut options = engine::restore_options(&target);
        options.overwrite = overwrite;
        let problems = Problems::default();
        let result = engine::watched(&problems, |job| restore(&repository, &snapshot, options, job));
        refused |= result.is_err() || !problems.lines().is_empty();
        let after = Image::of(&lab.path(""));
        let differences: Vec<_> = before
            .clone()
            .below()
            .differences(&after.without("target").below());
        assert!(
            differences.is_empty(),
            "something was written outside the target: {differences:?}"
        );
    }
    let restored = if target.exists() {
        Image::of(&target)
    } else {
        Image::default()
    };
    Outcome {
        named,
        refused,
        restored,
    }
}

#[test]
fn names_that_lead_elsewhere_are_damage_and_reach_nothing() {
    let names: [&[u8]; 9] = [
        b"..",
        b".",
        b"",
        b"../outside/victim",
        b"/etc/plakar-was-here",
        b"a/b",
        b"nul\0",
        b"/",
        b"../../victim",
    ];
    for name in names {
        let judged = outcome(|forge, _| forge.leaf(&[file(name, b"hostile")]));
        assert!(judged.named && judged.refused, "{} is taken", name.escape_ascii());
        let as_folder = outcome(|forge, _| {
            let inside = forge.leaf(&[file(b"victim", b"hostile")]);
            forge.leaf(&[directory(name, inside)])
        });
        assert!(
            as_folder.named && as_folder.refused,
            "the folder {} is taken",
            name.escape_ascii()
        );
    }
    assert!(!Path::new("/etc/plakar-was-here").exists());
}

#[test]
fn a_symlink_and_a_folder_of_the_same_name_in_one_node_are_damage() {
    let judged = outcome(|forge, outside| {
        use std::os::unix::ffi::OsStrExt;
        let inside = forge.leaf(&[file(b"victim", b"hostile")]);
        forge.leaf(&[
            symlink(b"x", outside.as_os_str().as_bytes()),
            directory(b"x", inside),
        ])
    });
    assert!(judged.named && judged.refused);
}

#[test]
fn a_symlink_and_a_folder_of_the_same_name_in_two_nodes_are_damage_and_the_link_is_not_followed() {
    for folder_first in [false, true] {
        let judged = outcome(|forge, outside| {
            use std::os::unix::ffi::OsStrExt;
            let inside = forge.leaf(&[file(b"victim", b"hostile")]);
            let link = symlink(b"x", outside.as_os_str().as_bytes());
            let folder = directory(b"x", inside);
            let (first, second) = if folder_first {
                (folder, link)
            } else {
                (link, folder)
            };
            let one = forge.leaf(&[first]);
            let two = forge.leaf(&[second, file(b"y", b"")]);
            let children = [
                NodeChild {
                    node: one,
                    entries: 1,
                    last_name: b"x".to_vec(),
                },
                NodeChild {
                    node: two,
                    entries: 2,
                    last_name: b"y".to_vec(),
                },
            ];
            forge.put(&encode_inner(&children))
        });
        assert!(judged.named, "check takes a folder with two entries of one name");
    }
}

#[test]
fn entries_out_of_order_across_nodes_are_damage() {
    let judged = outcome(|forge, _| {
        let one = forge.leaf(&[file(b"m", b"1"), file(b"z", b"2")]);
        let two = forge.leaf(&[file(b"a", b"3")]);
        let children = [
            NodeChild {
                node: one,
                entries: 2,
                last_name: b"n".to_vec(),
            },
            NodeChild {
                node: two,
                entries: 1,
                last_name: b"o".to_vec(),
            },
        ];
        forge.put(&encode_inner(&children))
    });
    assert!(judged.named, "check takes a folder that lookups cannot search");
}

#[test]
fn a_hard_link_to_what_became_a_symlink_reaches_nothing() {
    outcome(|forge, outside| {
        use std::os::unix::ffi::OsStrExt;
        let mut first = symlink(
            b"a",
            [outside.as_os_str().as_bytes(), b"/victim"].concat().as_slice(),
        );
        let mut second = file(b"b", b"hostile");
        for entry in [&mut first, &mut second] {
            entry.inode = 5;
            entry.hard_link = Some(plakar_core::format::tree::HardLink { device: 1, links: 2 });
        }
        forge.leaf(&[first, second])
    });
}

#[test]
fn an_inode_number_that_was_given_again_while_the_backup_ran_links_nothing_wrong() {
    let numbered = |mut entry: Entry, born: Option<i64>| {
        entry.inode = 7;
        entry.hard_link = Some(plakar_core::format::tree::HardLink { device: 1, links: 2 });
        entry.born = born.map(|seconds| Timestamp {
            seconds,
            nanoseconds: 0,
        });
        entry
    };
    let judged = outcome(|forge, _| {
        let mut private = numbered(file(b"d private", b"first"), Some(2));
        private.mode = 0o600;
        forge.leaf(&[
            numbered(file(b"a", b"first"), Some(1)),
            numbered(file(b"b", b"other"), Some(1)),
            numbered(file(b"c", b"first"), Some(1)),
            private,
            numbered(symlink(b"e", b"nowhere"), Some(1)),
        ])
    });
    assert!(!judged.named && !judged.refused);
    let node = |name: &[u8]| &judged.restored.nodes[name];
    let content = |bytes: &[u8]| Some(*blake3::hash(bytes).as_bytes());
    assert_eq!(
        node(b"b").content,
        content(b"other"),
        "a file has the content of another"
    );
    assert_eq!(node(b"d private").mode, 0o600, "a file has the mode of another");
    assert_eq!(node(b"e").kind, FileType::Symlink);
    assert_eq!(node(b"a").content, content(b"first"));
    let together = [node(b"a"), node(b"c"), node(b"b")].map(|node| node.link_group.as_deref());
    assert_eq!(together, [Some(&b"a"[..]), Some(b"a"), None]);
}

#[test]
fn an_index_that_looks_for_a_blob_in_another_frame_is_named() {
    let (storage, _) = forged(|forge| forge.leaf(&[file(b"a", b"1")]));
    let index: Vec<String> = engine::objects_of(storage.as_ref())
        .into_keys()
        .filter(|key| key.starts_with("index/"))
        .collect();
    for key in index {
        storage.delete(&key).unwrap();
    }
    let repository = engine::open(storage.clone(), None).unwrap();
    let keys = engine::keys_of(storage.as_ref(), None);
    let counters = Counters::default();
    let pack = engine::objects_of(storage.as_ref())
        .into_iter()
        .find(|object| object.0.starts_with("packs/"))
        .unwrap();
    let id = pack_id_of(&pack.0).unwrap();
    let size = pack.1.len() as u64;
    let mut opened = read_pack_contents(storage.as_ref(), &keys, Mode::Plain, id, size).unwrap();
    opened.frames[0].offset += 1;
    repository.index().record(opened.info, &opened.frames);
    let store = Store::new(&repository, SessionId([2; 16]), &counters);
    store.publish(true).unwrap();
    let repository = engine::open(storage, None).unwrap();
    let report = engine::check_all(&repository).unwrap();
    assert!(
        report
            .damage
            .iter()
            .any(|damage| damage.why.contains("names another place")),
        "{:?}",
        report.damage
    );
}

#[test]
fn lengths_that_lie_are_damage_and_allocate_nothing() {
    let cases: Vec<(&str, Box<MakeEntry>)> = vec![
        (
            "a chunk said to be 4 GiB",
            Box::new(|forge| {
                let blob = Some(forge.put(b"ten bytes."));
                listed(
                    b"f",
                    4 << 30,
                    0,
                    vec![ContentItem {
                        length: 4 << 30,
                        blob,
                    }],
                )
            }),
        ),
        (
            "a chunk said to be shorter",
            Box::new(|forge| {
                let blob = Some(forge.put(b"ten bytes."));
                listed(b"f", 3, 0, vec![ContentItem { length: 3, blob }])
            }),
        ),
        (
            "a size that is not that of the content",
            Box::new(|_| {
                let mut entry = file(b"f", b"ten bytes.");
                entry.size_bytes = 1 << 40;
                entry
            }),
        ),
        (
            "lengths that overflow",
            Box::new(|_| {
                let item = ContentItem {
                    length: u64::MAX >> 1,
                    blob: None,
                };
                listed(b"f", u64::MAX - 1, 0, vec![item, item])
            }),
        ),
        (
            "a content node that is longer than said",
            Box::new(|forge| {
                let item = ContentItem {
                    length: 10,
                    blob: Some(forge.put(b"ten bytes.")),
                };
                let node = forge.put(&encode_content_node(&[item, item]));
                listed(
                    b"f",
                    10,
                    1,
                    vec![ContentItem {
                        length: 10,
                        blob: Some(node),
                    }],
                )
            }),
        ),
        (
            "a content node that is no node",
            Box::new(|forge| {
                let blob = Some(forge.put(b"\x02\xff\xff\xff\xff\x0f"));
                listed(b"f", 10, 1, vec![ContentItem { length: 10, blob }])
            }),
        ),
        (
            "a chunk that is nowhere",
            Box::new(|_| {
                listed(
                    b"f",
                    10,
                    0,
                    vec![ContentItem {
                        length: 10,
                        blob: Some(BlobId([9; BlobId::LENGTH])),
                    }],
                )
            }),
        ),
        (
            "attributes said to be huge",
            Box::new(|forge| {
                let blob = Some(forge.put(b"\xff\xff\xff\xff\xff\x0f"));
                let mut entry = file(b"f", b"");
                entry.xattrs = Xattrs::Stored(Content::List {
                    depth: 0,
                    items: vec![ContentItem {
                        length: 1 << 40,
                        blob,
                    }],
                });
                entry
            }),
        ),
        (
            "a folder whose node is a chunk",
            Box::new(|forge| directory(b"f", forge.put(b"not a node"))),
        ),
        (
            "a folder whose node is a content list",
            Box::new(|forge| {
                let node = forge.put(&encode_content_node(&[ContentItem {
                    length: 1,
                    blob: None,
                }]));
                directory(b"f", node)
            }),
        ),
    ];
    for (what, make) in cases {
        let judged = outcome(|forge, _| {
            let entry = make(forge);
            forge.leaf(&[entry])
        });
        assert!(
            judged.named && judged.refused,
            "{what}: named {}, refused {}",
            judged.named,
            judged.refused
        );
        assert!(
            !judged.restored.nodes.contains_key(&b"f"[..])
                || what.contains("folder")
                || what.contains("attributes"),
            "{what}"
        );
    }
}

#[test]
fn a_file_of_eight_exabytes_of_holes_is_refused_by_the_target_only() {
    let length = i64::MAX.cast_unsigned();
    let judged =
        outcome(|forge, _| forge.leaf(&[listed(b"f", length, 0, vec![ContentItem { length, blob: None }])]));
    assert!(judged.refused && !judged.restored.nodes.contains_key(&b"f"[..]));
}

#[test]
fn inner_nodes_nested_for_ever_are_damage() {
    let judged = outcome(|forge, _| {
        let mut node = forge.leaf(&[file(b"f", b"1")]);
        for _ in 0..100_000 {
            node = forge.put(&encode_inner(&[NodeChild {
                node,
                entries: 1,
                last_name: b"f".to_vec(),
            }]));
        }
        node
    });
    assert!(judged.named && judged.refused);
}

/// A forged repository in a folder, for the program itself.
fn in_a_folder(lab: &Lab, make: impl FnOnce(&mut Forge<'_>) -> BlobId) -> String {
    let (storage, snapshot) = forged(make);
    for (key, bytes) in engine::objects_of(storage.as_ref() as &dyn Storage) {
        let path = lab.repository().join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes.as_slice()).unwrap();
    }
    snapshot.id.short()
}

/// Runs for at most a while with little memory; gives the exit code, or `None` when it was still busy and stopped when asked.
fn bounded(run: Run, patience: Duration) -> Option<i32> {
    let mut child = run.memory_limit(1 << 30).spawn();
    let mut errors = child.stderr.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()).unwrap());
    let told = std::thread::spawn(move || {
        let mut last = Vec::new();
        let mut buffer = [0; 65_536];
        while let Ok(length @ 1..) = std::io::Read::read(&mut errors, &mut buffer) {
            last = buffer[..length].to_vec();
        }
        String::from_utf8_lossy(&last).into_owned()
    });
    let started = Instant::now();
    let mut asked = false;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if !asked && started.elapsed() > patience {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
            asked = true;
        }
        if started.elapsed() > patience + Duration::from_secs(20) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it did not stop when asked");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    drain.join().unwrap();
    let told = told.join().unwrap();
    assert!(
        !told.contains("panicked") && !told.contains("memory allocation"),
        "{told}"
    );
    let code = status
        .code()
        .unwrap_or_else(|| panic!("a signal ended it: {status:?}; {told}"));
    if asked { None } else { Some(code) }
}

#[test]
fn folders_nested_a_hundred_thousand_deep_are_refused_within_bounded_memory() {
    let lab = Lab::new();
    let id = in_a_folder(&lab, |forge| {
        let mut node = forge.leaf(&[file(b"f", b"1")]);
        for _ in 0..100_000 {
            node = forge.leaf(&[directory(b"d", node)]);
        }
        node
    });
    let patience = Duration::from_secs(60);
    assert_eq!(
        bounded(lab.plakar(["check", "-quiet"]), patience),
        Some(65),
        "check"
    );
    assert_eq!(
        bounded(lab.plakar(["check", "-quiet", &id]), patience),
        Some(65),
        "check of the snapshot"
    );
    let restored = bounded(lab.plakar(["restore", "-quiet", "-to", "out", &id]), patience);
    assert!(
        matches!(restored, Some(1 | 3 | 65)),
        "restore ended with {restored:?}"
    );
}

#[test]
fn folders_that_hold_themselves_over_and_over_do_not_exhaust_check() {
    let lab = Lab::new();
    let id = in_a_folder(&lab, |forge| {
        let mut node = forge.leaf(&[file(b"f", b"1")]);
        for _ in 0..60 {
            node = forge.leaf(&[directory(b"a", node), directory(b"b", node)]);
        }
        node
    });
    let patience = Duration::from_secs(15);
    // Each folder is looked at once: 2^60 paths, 61 folders.
    assert!(
        bounded(lab.plakar(["check", "-quiet"]), patience).is_some(),
        "check of the repository does not end"
    );
    // A single snapshot may take as long as it has entries, and stops when asked.
    bounded(lab.plakar(["check", "-quiet", &id]), Duration::from_secs(3));
    bounded(lab.plakar(["ls", "-recursive", &id]), Duration::from_secs(3));
    bounded(
        lab.plakar(["restore", "-quiet", "-dry-run", "-to", "out", &id]),
        Duration::from_secs(3),
    );
    bounded(
        lab.plakar(["restore", "-quiet", "-to", "out", &id]),
        Duration::from_secs(1),
    );
}

#[test]
fn a_file_that_holds_itself_over_and_over_does_not_exhaust_check() {
    let lab = Lab::new();
    let id = in_a_folder(&lab, |forge| {
        let mut item = ContentItem {
            length: 1,
            blob: Some(forge.put(b"x")),
        };
        for _ in 0..60 {
            let blob = Some(forge.put(&encode_content_node(&[item, item])));
            item = ContentItem {
                length: item.length * 2,
                blob,
            };
        }
        forge.leaf(&[listed(b"f", item.length, 60, vec![item])])
    });
    for command in [
        &["check", "-quiet"][..],
        &["check", "-quiet", &id],
        &["restore", "-quiet", "-to", "out", &id],
    ] {
        bounded(lab.plakar(command.iter().copied()), Duration::from_secs(3));
    }
}

#[test]
fn an_honest_tree_made_by_the_same_means_is_whole() {
    let judged = outcome(|forge, _| {
        let inside = forge.leaf(&[file(b"g", b"2")]);
        forge.leaf(&[directory(b"d", inside), file(b"f", b"1"), symlink(b"l", b"f")])
    });
    assert!(!judged.named, "the forge itself makes damage");
    assert_eq!(judged.restored.below().paths(), ["d", "d/g", "f", "l"]);
}
