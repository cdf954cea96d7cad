//! Fidelity: what is backed up comes back as it was, one test for each row of the table in the product's contract.
//!
//! Run as root, on a file system with extended attributes: a test that cannot show its row fails and says why.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use plakar_testkit::mount::Tmpfs;
use plakar_testkit::tree::{Tree, mixed, set_mode, set_modified, set_owner, set_xattr};
use plakar_testkit::{Image, Lab, Output, assert_same, random};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, openat};

fn root_only() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test shows something that only root may do: run it as root"
    );
}

/// Backs up a tree, restores it and compares everything, the root's own attributes too.
fn comes_back(make: impl FnOnce(&Tree)) -> (Lab, PathBuf) {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    make(&tree);
    let wanted = Image::of(tree.root());
    let id = lab.backup([tree.root()]);
    let target = lab.restore(&id, "restored");
    assert_same(&wanted, &Image::of(&target));
    lab.check();
    (lab, target)
}

fn restore(lab: &Lab, target: &Path, words: &[&str]) -> plakar_testkit::Run {
    let mut all: Vec<&OsStr> = vec!["restore".as_ref(), "-to".as_ref(), target.as_os_str()];
    all.extend(words.iter().map(OsStr::new));
    lab.plakar(all)
}

#[test]
fn names_that_are_not_utf8_come_back() {
    comes_back(|tree| {
        tree.file(b"latin-\xe9t\xe9", "1");
        tree.file(b"\xff\xfe/\x80file", "2");
        tree.file(b"control\x01\x1b[31m\nnewline", "3");
        tree.file("ünï/cødé \u{1f980}", "4");
        tree.file("- leading dash", "5");
        tree.file(" spaces and \"quotes\" and \\", "6");
    });
}

#[test]
fn names_of_255_bytes_come_back() {
    comes_back(|tree| {
        tree.file("x".repeat(255), "file");
        tree.file(format!("{}/{}", "d".repeat(255), "f".repeat(255)), "in a folder");
        tree.file(vec![0xff; 255], "not text");
    });
}

#[test]
fn paths_deeper_than_the_limit_of_the_system_come_back() {
    let (_lab, target) = comes_back(|tree| {
        let name = "n".repeat(250);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::open(tree.root(), flags, Mode::empty()).unwrap();
        for _ in 0..40 {
            mkdirat(&folder, name.as_str(), Mode::RWXU).unwrap();
            folder = openat(&folder, name.as_str(), flags, Mode::empty()).unwrap();
        }
        let file = openat(
            &folder,
            "bottom",
            OFlags::WRONLY | OFlags::CREATE,
            Mode::RUSR | Mode::WUSR,
        )
        .unwrap();
        rustix::io::write(&file, b"10,000 bytes down").unwrap();
    });
    let deepest = Image::of(&target).nodes.keys().map(Vec::len).max().unwrap();
    assert!(deepest > 4096, "the deepest path has {deepest} bytes only");
}

#[test]
fn what_is_nested_deeper_than_could_be_restored_is_reported_by_the_backup() {
    plakar_testkit::lab::allow_many_files();
    let deep = std::thread::Builder::new().stack_size(256 << 20).spawn(|| {
        let lab = Lab::with_repository();
        let tree = Tree::new(lab.path("data/tree"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::open(tree.root(), flags, Mode::empty()).unwrap();
        for _ in 0..5100 {
            mkdirat(&folder, "d", Mode::RWXU).unwrap();
            folder = openat(&folder, "d", flags, Mode::empty()).unwrap();
        }
        tree.file("beside", "this is saved");
        let output = lab.plakar(["backup", tree.root().to_str().unwrap()]).code(3);
        assert!(output.stderr.contains("more than 5000 deep"), "{}", output.stderr);
        lab.plakar(["-quiet", "check"]).ok();
        let target = lab.path("restored");
        lab.plakar(["-quiet", "restore", "-to", target.to_str().unwrap()])
            .ok();
        assert_eq!(std::fs::read(target.join("beside")).unwrap(), b"this is saved");
    });
    deep.unwrap().join().unwrap();
}

#[test]
fn folders_nested_three_thousand_deep_come_back() {
    plakar_testkit::lab::allow_many_files();
    // Looking at the tree, and removing it, takes a call in a call for each level.
    let deep = std::thread::Builder::new().stack_size(256 << 20).spawn(|| {
        comes_back(|tree| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let mut folder = rustix::fs::open(tree.root(), flags, Mode::empty()).unwrap();
            for _ in 0..3000 {
                mkdirat(&folder, "d", Mode::RWXU).unwrap();
                folder = openat(&folder, "d", flags, Mode::empty()).unwrap();
            }
            openat(
                &folder,
                "bottom",
                OFlags::WRONLY | OFlags::CREATE,
                Mode::RUSR | Mode::WUSR,
            )
            .unwrap();
        });
    });
    deep.unwrap()
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn empty_files_and_folders_come_back() {
    comes_back(|tree| {
        tree.file("empty", "");
        tree.directory("nothing");
        tree.directory("nothing but/nothing/at all");
    });
}

#[test]
fn an_empty_root_comes_back() {
    comes_back(|_| {});
}

#[test]
fn files_of_every_size_around_the_limits_come_back() {
    comes_back(|tree| {
        let sizes = [
            1, 127, 128, 129, 1023, 1024, 1025, 4095, 4096, 4097, 65_536, 262_143, 262_144, 262_145,
        ];
        for size in sizes
            .into_iter()
            .chain([1 << 20, (1 << 20) + 1, 4 << 20, (4 << 20) + 1, 17 << 20])
        {
            tree.file(format!("random-{size}"), random::bytes(size as u64, size));
            tree.file(format!("zeros-{size}"), vec![0; size]);
        }
    });
}

#[test]
fn a_large_file_comes_back() {
    comes_back(|tree| {
        let path = tree.file("large", "");
        let mut file = fs::File::options().append(true).open(path).unwrap();
        for part in 0..300 {
            std::io::Write::write_all(&mut file, &random::bytes(part % 250, 1 << 20)).unwrap();
        }
    });
}

#[test]
fn many_files_in_one_folder_come_back() {
    comes_back(|tree| {
        for number in 0..20_000 {
            fs::write(tree.path(format!("file-{number:05}")), number.to_string()).unwrap();
        }
    });
}

#[test]
fn holes_stay_holes() {
    let (_lab, target) = comes_back(|tree| {
        tree.sparse("all hole", 64 << 20, &[]);
        tree.sparse("hole at the end", 8 << 20, &[(0, &random::bytes(1, 70_000))]);
        tree.sparse("hole at the start", 8 << 20, &[((8 << 20) - 5, b"the end")]);
        tree.sparse(
            "holes between",
            40 << 20,
            &[
                (1 << 20, b"a"),
                (9 << 20, b"b"),
                (33 << 20, &random::bytes(2, 1 << 20)),
            ],
        );
        tree.sparse("small hole", 5000, &[]);
        tree.sparse("a terabyte", 1 << 40, &[(1 << 39, b"in the middle")]);
        tree.file("zeros that are no hole", vec![0; 2 << 20]);
    });
    for name in ["all hole", "a terabyte"] {
        let blocks = target.join(name).metadata().unwrap().blocks();
        assert!(blocks <= 64, "`{name}` takes {blocks} blocks");
    }
    assert!(target.join("zeros that are no hole").metadata().unwrap().blocks() >= 4096);
}

#[test]
fn hard_links_are_linked_again_and_stored_once() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file("a", random::bytes(1, 3 << 20));
    tree.hard_link("a", "b");
    tree.directory("z/y");
    tree.hard_link("a", "z/y/c");
    tree.file("small", "x");
    tree.hard_link("small", "z/small too");
    tree.symlink("link", "a");
    tree.hard_link("link", "link too");
    tree.special("pipe", FileType::Fifo, 0, 0);
    tree.hard_link("pipe", "z/pipe too");
    let wanted = Image::of(tree.root());
    assert_eq!(wanted.nodes[&b"z/y/c"[..]].link_group.as_deref(), Some(&b"a"[..]));
    let id = lab.backup([tree.root()]);
    let target = lab.restore(&id, "restored");
    assert_same(&wanted, &Image::of(&target));
    assert!(
        folder_bytes(&lab.repository()) < 4 << 20,
        "the linked file is stored more than once"
    );
}

#[test]
fn a_file_written_to_between_two_of_its_names_has_under_each_what_was_read_then() {
    use plakar_core::backup::{BackupOptions, FilterItem, Source, backup};
    use plakar_core::progress::{Item, Observer};
    use plakar_testkit::engine;

    /// Remembers whether the first name was saved.
    #[derive(Debug, Default)]
    struct Watch {
        saved: std::sync::Mutex<bool>,
        changed: std::sync::Condvar,
    }
    impl Observer for Watch {
        fn item(&self, item: Item<'_>) {
            if item.path.ends_with(b"/a") {
                *self.saved.lock().unwrap() = true;
                self.changed.notify_all();
            }
        }
    }
    let lab = Lab::new();
    let tree = Tree::new(lab.path("source"));
    tree.file("a", random::bytes(1, 5000));
    tree.hard_link("a", "z");
    // A batch of files between the two names.
    for number in 0..2000 {
        tree.file(format!("m{number}"), "");
    }
    let watch = Arc::new(Watch::default());
    let filter = {
        let (watch, path) = (Arc::clone(&watch), tree.path("z"));
        move |item: &FilterItem<'_>| {
            if item.relative == Path::new("z") {
                let mut saved = watch.saved.lock().unwrap();
                while !*saved {
                    saved = watch.changed.wait(saved).unwrap();
                }
                fs::write(&path, random::bytes(2, 5000)).unwrap();
            }
            false
        }
    };
    let storage = engine::storage_of(&engine::Objects::new());
    let repository = engine::create(storage, None);
    let options = BackupOptions {
        sources: vec![Source::Path(tree.root().to_owned())],
        filter: Some(Arc::new(filter)),
        workers: 2,
        ..BackupOptions::default()
    };
    let report = engine::watched(watch.as_ref(), |job| backup(&repository, options, job)).unwrap();
    let target = lab.path("restored");
    engine::restore_to(&repository, &report.snapshot.unwrap(), &target).unwrap();
    assert_eq!(fs::read(target.join("a")).unwrap(), random::bytes(1, 5000));
    assert_eq!(fs::read(target.join("z")).unwrap(), random::bytes(2, 5000));
}

#[test]
fn a_hard_link_whose_other_name_is_not_backed_up_comes_back_as_a_file() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file("in/a", "content");
    tree.directory("out");
    tree.hard_link("in/a", "out/b");
    let id = lab.backup([tree.path("in")]);
    let target = lab.restore(&id, "restored");
    assert_eq!(fs::read(target.join("a")).unwrap(), b"content");
    assert_eq!(target.join("a").metadata().unwrap().nlink(), 1);
}

#[test]
fn symlinks_of_every_kind_come_back() {
    comes_back(|tree| {
        tree.directory("folder");
        tree.symlink("dangling", "nowhere/at all");
        tree.symlink("absolute", "/etc/passwd");
        tree.symlink("to a folder", "folder");
        tree.symlink("upwards", "../../..");
        tree.symlink("loop", "loop");
        tree.symlink("long", "t".repeat(4000));
        tree.symlink("bytes", b"\xff\xfe");
        set_modified(&tree.path("dangling"), 1_234_567_890, 987_654_321);
        set_owner(&tree.path("dangling"), 12, 34);
    });
}

#[test]
fn pipes_and_sockets_come_back() {
    comes_back(|tree| {
        set_mode(&tree.special("pipe", FileType::Fifo, 0, 0), 0o620);
        set_modified(&tree.path("pipe"), 1_111_111_111, 1);
        let socket = std::os::unix::net::UnixListener::bind(tree.path("socket")).unwrap();
        drop(socket);
        set_owner(&tree.path("socket"), 7, 8);
    });
}

#[test]
fn devices_come_back() {
    root_only();
    comes_back(|tree| {
        set_mode(&tree.special("null", FileType::CharacterDevice, 1, 3), 0o666);
        tree.special("block", FileType::BlockDevice, 259, 70_000);
        tree.special("without a driver", FileType::CharacterDevice, 4000, 1_000_000);
    });
}

#[test]
fn modes_with_setuid_setgid_and_sticky_come_back() {
    root_only();
    comes_back(|tree| {
        for mode in [
            0o000, 0o200, 0o400, 0o444, 0o600, 0o755, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777,
        ] {
            set_mode(&tree.file(format!("file-{mode:o}"), format!("{mode}")), mode);
            set_mode(&tree.directory(format!("folder-{mode:o}")), mode);
        }
        let owned = tree.file("owned by another and setuid", "x");
        set_owner(&owned, 1234, 5678);
        set_mode(&owned, 0o6755);
    });
}

#[test]
fn owners_and_groups_come_back() {
    root_only();
    comes_back(|tree| {
        set_owner(&tree.file("known", "1"), 1, 1);
        set_owner(&tree.file("unknown", "2"), 1_234_567, 7_654_321);
        set_owner(&tree.directory("folder"), 65534, 0);
        set_owner(&tree.symlink("link", "known"), 3, 4);
        tree.file("target of a link", "3");
        tree.symlink("link that must not be followed", "target of a link");
        set_owner(&tree.path("link that must not be followed"), 99, 99);
    });
}

#[test]
fn extended_attributes_come_back() {
    root_only();
    comes_back(|tree| {
        let file = tree.file("file", "1");
        set_xattr(&file, "user.text", b"a value");
        set_xattr(&file, "user.empty", b"");
        set_xattr(&file, "user.bytes", b"\0\xff\n");
        set_xattr(&file, "trusted.secret", b"root's own");
        set_xattr(&tree.directory("folder"), "user.of a folder", b"2");
        set_xattr(&tree.symlink("link", "file"), "trusted.of a link", b"3");
        set_xattr(
            &tree.special("pipe", FileType::Fifo, 0, 0),
            "trusted.of a pipe",
            b"4",
        );
        let read_only = tree.file("read only", "5");
        set_xattr(&read_only, "user.kept", b"6");
        set_mode(&read_only, 0o400);
        set_xattr(tree.root(), "user.of the root", b"7");
    });
}

#[test]
fn large_extended_attributes_come_back() {
    root_only();
    let lab = Lab::with_repository();
    // Not every file system takes values larger than a block: this one does.
    let source = Tmpfs::mount(lab.path("source"), 64 << 20);
    let target = Tmpfs::mount(lab.path("restored"), 64 << 20);
    let tree = Tree::new(source.path());
    for (name, size) in [("one", 3000), ("two", 20_000), ("three", 60_000)] {
        let file = tree.file(name, name);
        set_xattr(&file, "user.large", &random::bytes(size, size as usize));
        set_xattr(&file, "user.small", b"beside it");
    }
    set_xattr(&tree.directory("folder"), "user.large", &random::bytes(9, 30_000));
    let wanted = Image::of(tree.root());
    let id = lab.backup([tree.root()]);
    lab.restore(&id, "restored");
    assert_same(&wanted.below(), &Image::of(target.path()).below());
}

/// An access control list in the kernel's form: version 2, then tag, permissions and id of each line.
fn acl(lines: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in lines {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn access_control_lists_come_back() {
    root_only();
    const NOBODY: u32 = u32::MAX;
    let list = acl(&[
        (1, 6, NOBODY),
        (2, 4, 1000),
        (4, 4, NOBODY),
        (16, 6, NOBODY),
        (32, 0, NOBODY),
    ]);
    let (_lab, target) = comes_back(|tree| {
        set_xattr(&tree.file("file", "1"), "system.posix_acl_access", &list);
        let folder = tree.directory("folder");
        set_xattr(&folder, "system.posix_acl_access", &list);
        set_xattr(&folder, "system.posix_acl_default", &list);
        tree.file("folder/that inherits", "2");
        let plain = tree.file("folder/without a list", "3");
        rustix::fs::removexattr(&plain, "system.posix_acl_access").unwrap();
        set_mode(&plain, 0o644);
    });
    assert_eq!(
        Image::of(&target).nodes[&b"file"[..]].xattrs[0].0,
        b"system.posix_acl_access"
    );
}

/// What a folder gives to whatever is made in it: access for others, and its group.
fn set_inherited(folder: &Path) {
    const NOBODY: u32 = u32::MAX;
    let list = acl(&[
        (1, 7, NOBODY),
        (2, 7, 1000),
        (4, 7, NOBODY),
        (16, 7, NOBODY),
        (32, 0, NOBODY),
    ]);
    set_xattr(folder, "system.posix_acl_default", &list);
    set_owner(folder, 0, 4242);
    set_mode(folder, 0o2755);
}

#[test]
fn what_a_target_folder_gives_to_new_files_is_taken_from_restored_ones() {
    root_only();
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    set_mode(&tree.file("private", "1"), 0o640);
    set_mode(&tree.file("public", random::bytes(5, 5000)), 0o664);
    set_mode(&tree.file("folder/deeper/private", "2"), 0o640);
    tree.file("linked", random::bytes(6, 5000));
    tree.hard_link("linked", "folder/linked too");
    tree.special("pipe", FileType::Fifo, 0, 0);
    set_mode(&tree.path("pipe"), 0o640);
    let wanted = Image::of(tree.root());
    let id = lab.backup([tree.root()]);
    let target = Tree::new(lab.path("restored"));
    set_inherited(target.root());
    lab.restore(&id, "restored");
    assert_same(&wanted.clone().below(), &Image::of(target.root()).below());
    // And in folders that exist already and stay as they are.
    let target = Tree::new(lab.path("again"));
    set_inherited(&target.directory("folder"));
    let kept = Image::of(&target.path("folder"));
    restore(&lab, target.root(), &["-quiet", "-overwrite", "never", &id]).ok();
    let restored = Image::of(target.root());
    assert_eq!(restored.nodes[&b"folder"[..]].xattrs, kept.nodes[&b""[..]].xattrs);
    let inside = |image: Image| {
        let mut image = image.below();
        image.nodes.remove(&b"folder"[..]);
        image
    };
    assert_same(&inside(wanted), &inside(restored));
}

#[test]
fn overwrite_always_takes_away_what_others_were_given_since() {
    root_only();
    const NOBODY: u32 = u32::MAX;
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    set_xattr(&tree.path("text"), "user.kept", b"1");
    let wanted = Image::of(tree.root());
    let id = lab.backup([tree.root()]);
    let target = lab.restore(&id, "restored");
    let list = acl(&[
        (1, 7, NOBODY),
        (2, 7, 1000),
        (4, 7, NOBODY),
        (16, 7, NOBODY),
        (32, 0, NOBODY),
    ]);
    for name in ["small", "folder"] {
        set_xattr(&target.join(name), "system.posix_acl_access", &list);
    }
    set_xattr(&target.join("folder"), "system.posix_acl_default", &list);
    set_xattr(&target.join("empty"), "user.foreign", b"2");
    restore(&lab, &target, &["-quiet", "-overwrite", "always", &id]).ok();
    assert_same(&wanted.below(), &Image::of(&target).below());
}

#[test]
fn file_capabilities_come_back() {
    root_only();
    // Revision 2, effective, cap_net_bind_service permitted.
    let capability = [0x0200_0001_u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    let (_lab, target) = comes_back(|tree| {
        let program = tree.file("program", "#!");
        set_owner(&program, 500, 500);
        set_mode(&program, 0o755);
        set_xattr(&program, "security.capability", &capability);
    });
    assert_eq!(
        Image::of(&target).nodes[&b"program"[..]].xattrs[0].0,
        b"security.capability"
    );
}

#[test]
fn no_xattr_leaves_attributes_out() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    set_xattr(&tree.file("file", "1"), "user.text", b"a value");
    let id = lab.backup(["-no-xattr".as_ref(), tree.root().as_os_str()]);
    assert!(
        Image::of(&lab.restore(&id, "without")).nodes[&b"file"[..]]
            .xattrs
            .is_empty()
    );
    let id = lab.backup([tree.root()]);
    assert_eq!(
        Image::of(&lab.restore(&id, "with")).nodes[&b"file"[..]]
            .xattrs
            .len(),
        1,
        "taken over from the wrong parent"
    );
}

#[test]
fn times_come_back_to_the_nanosecond_of_folders_too() {
    comes_back(|tree| {
        for (name, seconds, nanoseconds) in [
            ("now", 1_700_000_000, 999_999_999),
            ("epoch", 0, 0),
            ("past", -1, 1),
            ("far", 4_102_444_800, 5),
        ] {
            set_modified(
                &tree.file(format!("folder-{name}/file"), name),
                seconds,
                nanoseconds,
            );
            tree.file(format!("folder-{name}/below/deep"), name);
            set_modified(
                &tree.path(format!("folder-{name}/below")),
                seconds,
                nanoseconds / 3,
            );
            set_modified(&tree.path(format!("folder-{name}")), seconds, nanoseconds / 7);
        }
        set_modified(tree.root(), 1_000_000_000, 123_456_789);
    });
}

#[test]
fn read_only_folders_come_back_with_what_is_in_them() {
    let lab = Lab::new();
    let tree = Tree::new(lab.path("source"));
    tree.file("folder/below/file", "1");
    tree.file("closed/file", "2");
    for (name, mode) in [
        ("folder/below/file", 0o400),
        ("folder/below", 0o500),
        ("folder", 0o555),
        ("closed", 0o500),
    ] {
        set_mode(&tree.path(name), mode);
    }
    lab.hand_over();
    let wanted = Image::of(tree.root());
    lab.plakar(["create", "-no-encryption"]).as_nobody().ok();
    // Not as root, who is stopped by no mode.
    let id = lab
        .plakar(["backup".as_ref(), tree.root().as_os_str()])
        .as_nobody()
        .ok()
        .snapshot();
    restore(&lab, &lab.path("restored"), &[&id]).as_nobody().ok();
    assert_same(&wanted, &Image::of(&lab.path("restored")));
}

#[test]
fn an_unreadable_file_and_folder_are_named_and_the_rest_is_saved() {
    root_only();
    let lab = Lab::new();
    let tree = Tree::new(lab.path("source"));
    tree.file("good", "1");
    tree.file("secret", "2");
    tree.file("locked/inside", "3");
    tree.file("zebra/good too", "4");
    lab.hand_over();
    set_mode(&tree.path("secret"), 0);
    set_mode(&tree.path("locked"), 0);
    lab.plakar(["create", "-no-encryption"]).as_nobody().ok();
    let output = lab
        .plakar(["backup".as_ref(), tree.root().as_os_str()])
        .as_nobody()
        .code(3);
    for name in ["source/secret", "source/locked"] {
        let named = output
            .stderr
            .lines()
            .any(|line| line.contains(name) && line.contains("ermission denied"));
        assert!(named, "{name} is not named: {}", output.stderr);
    }
    assert_eq!(output.stderr.lines().count(), 2, "{}", output.stderr);
    let id = output.snapshot();
    restore(&lab, &lab.path("restored"), &[&id]).as_nobody().ok();
    assert_eq!(
        Image::of(&lab.path("restored")).paths(),
        ["", "good", "locked", "zebra", "zebra/good too"]
    );
    let errors = lab.plakar(["info", "-errors", &id]).as_nobody().ok();
    assert_eq!(errors.stdout.lines().count(), 2, "{}", errors.stdout);
}

/// Changes the source until the backups are done, and checks that whatever was saved can be restored.
fn while_changing(change: impl Fn(&Tree, u64) + Send + Sync + 'static) -> Vec<Output> {
    let lab = Lab::with_repository();
    let tree = Arc::new(Tree::new(lab.path("source")));
    for number in 0..200 {
        tree.file(format!("steady/{number:03}"), random::bytes(number, 3000));
    }
    let stop = Arc::new(AtomicBool::new(false));
    change(&tree, 0);
    let changer = std::thread::spawn({
        let (tree, stop) = (Arc::clone(&tree), Arc::clone(&stop));
        move || {
            for turn in 1.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                change(&tree, turn);
            }
        }
    });
    let outputs: Vec<Output> = (0..8)
        .map(|_| {
            lab.plakar([
                "backup".as_ref(),
                "-full".as_ref(),
                "-quiet".as_ref(),
                tree.root().as_os_str(),
            ])
            .output()
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    changer.join().unwrap();
    let steady = Image::of(&tree.path("steady"));
    for (turn, output) in outputs.iter().enumerate() {
        assert!(matches!(output.code, Some(0 | 3)), "{output:?}");
        let target = lab.restore(&output.snapshot(), &format!("restored-{turn}"));
        assert_same(&steady, &Image::of(&target.join("steady")));
    }
    lab.check();
    outputs
}

#[test]
fn a_growing_file_is_saved_and_reported() {
    let outputs = while_changing(|tree, turn| {
        let path = tree.path("growing");
        if turn == 0 {
            fs::write(&path, random::bytes(0, 30 << 20)).unwrap();
        } else {
            let mut file = fs::File::options().append(true).open(path).unwrap();
            std::io::Write::write_all(&mut file, &random::bytes(turn, 512)).unwrap();
        }
    });
    let reported = outputs
        .iter()
        .filter(|output| output.code == Some(3) && output.stderr.contains("growing"))
        .count();
    assert!(reported > 0, "no backup noticed the growing file");
}

#[test]
fn a_shrinking_file_is_saved_and_reported() {
    let outputs = while_changing(|tree, turn| {
        let path = tree.path("shrinking");
        if turn % 40 == 0 {
            fs::write(&path, random::bytes(1, 20 << 20)).unwrap();
        } else {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len((20 << 20) - turn % 40 * 100_000).unwrap();
        }
    });
    let reported = outputs
        .iter()
        .filter(|output| output.code == Some(3) && output.stderr.contains("shrinking"))
        .count();
    assert!(reported > 0, "no backup noticed the shrinking file");
}

#[test]
fn vanishing_files_and_folders_do_no_harm() {
    while_changing(|tree, turn| {
        if turn % 2 == 0 {
            for number in 0..300 {
                tree.file(format!("vanishing-{number}/a/file"), "here");
            }
        } else {
            for number in 0..300 {
                fs::remove_dir_all(tree.path(format!("vanishing-{number}"))).unwrap();
            }
        }
    });
}

#[test]
fn what_changes_its_kind_does_no_harm() {
    while_changing(|tree, turn| {
        for number in 0..50 {
            let path = tree.path(format!("changing-{number}"));
            match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path).unwrap(),
                Ok(_) => fs::remove_file(&path).unwrap(),
                Err(_) => {}
            }
            match turn % 4 {
                0 => fs::write(&path, "a file").unwrap(),
                1 => fs::create_dir(&path).unwrap(),
                2 => std::os::unix::fs::symlink("/etc", &path).unwrap(),
                _ => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
            }
        }
    });
}

fn folder_bytes(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        bytes += if metadata.is_dir() {
            folder_bytes(&entry.path())
        } else {
            metadata.len()
        };
    }
    bytes
}

struct Over {
    lab: Lab,
    id: String,
    target: PathBuf,
}

/// A backed-up `file` of 2,000 bytes dated 2001, and a target where another one stands.
fn over(existing_date: i64) -> Over {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    set_modified(&tree.file("file", vec![b'n'; 2000]), 1_000_000_000, 0);
    tree.file("new", "only in the snapshot");
    let id = lab.backup([tree.root()]);
    let there = Tree::new(lab.path("target"));
    set_modified(&there.file("file", vec![b'o'; 2000]), existing_date, 0);
    there.file("other", "only in the target");
    Over {
        target: there.root().to_owned(),
        lab,
        id,
    }
}

impl Over {
    fn restore(&self, words: &[&str]) -> plakar_testkit::Run {
        restore(&self.lab, &self.target, &[words, &[&self.id]].concat())
    }

    #[track_caller]
    fn is(&self, file: u8, new: bool) {
        assert_eq!(fs::read(self.target.join("file")).unwrap(), vec![file; 2000]);
        assert_eq!(self.target.join("new").exists(), new);
        assert_eq!(
            fs::read(self.target.join("other")).unwrap(),
            b"only in the target"
        );
        let names = fs::read_dir(&self.target).unwrap().count();
        assert_eq!(names, 2 + usize::from(new), "something is left over");
    }
}

#[test]
fn restore_refuses_to_overwrite_unless_told_and_writes_nothing() {
    let over = over(0);
    over.restore(&[]).fails(73, "file");
    over.is(b'o', false);
    over.restore(&["-overwrite", "error"]).fails(73, "file");
    over.is(b'o', false);
}

#[test]
fn overwrite_always_replaces_what_differs() {
    let over = over(2_000_000_000);
    over.restore(&["-overwrite", "always"]).ok();
    over.is(b'n', true);
}

#[test]
fn overwrite_if_newer_replaces_only_what_is_older() {
    let older = over(999_999_999);
    older.restore(&["-overwrite", "if-newer"]).ok();
    older.is(b'n', true);
    let newer = over(1_000_000_001);
    newer.restore(&["-overwrite", "if-newer"]).ok();
    newer.is(b'o', true);
}

#[test]
fn overwrite_never_keeps_what_is_there_and_adds_what_is_not() {
    let over = over(0);
    over.restore(&["-overwrite", "never"]).ok();
    over.is(b'o', true);
}

#[test]
fn overwrite_replaces_one_kind_by_another_and_follows_no_link() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file("file over link", "1");
    tree.file("folder over link/file", "2");
    tree.symlink("link over file", "target");
    tree.file("folder over file/file", "3");
    tree.file("file over empty folder", "4");
    let id = lab.backup([tree.root()]);
    let outside = Tree::new(lab.path("outside"));
    outside.file("victim", "untouched");
    let there = Tree::new(lab.path("target"));
    there.symlink("file over link", outside.path("victim").as_os_str().as_bytes());
    there.symlink("folder over link", outside.root().as_os_str().as_bytes());
    there.file("link over file", "5");
    there.file("folder over file", "6");
    there.directory("file over empty folder");
    let before = Image::of(outside.root());
    restore(&lab, there.root(), &["-overwrite", "always", &id]).ok();
    assert_same(&Image::of(tree.root()).below(), &Image::of(there.root()).below());
    assert_same(&before, &Image::of(outside.root()));
}

#[test]
fn only_files_that_differ_are_written_again() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    let id = lab.backup([tree.root()]);
    let target = lab.restore(&id, "restored");
    fs::write(target.join("small"), "A few bytes").unwrap();
    set_mode(&target.join("folder/copy"), 0o600);
    let inodes = |names: &[&str]| -> Vec<u64> {
        names
            .iter()
            .map(|name| target.join(name).metadata().unwrap().ino())
            .collect()
    };
    let kept = [
        "empty",
        "folder/random",
        "folder/deeper/large",
        "folder/copy",
        "sparse",
    ];
    let (before, changed) = (inodes(&kept), inodes(&["small"]));
    // Whoever reads a file's bytes can see it being written: this one would fail to be.
    let large = target.join("folder/deeper/large");
    let blocks = large.metadata().unwrap().blocks();
    restore(&lab, &target, &["-overwrite", "always", &id]).ok();
    assert_eq!(inodes(&kept), before, "files that did not differ were replaced");
    assert_ne!(
        inodes(&["small"]),
        changed,
        "a file that differed was not replaced"
    );
    assert_eq!(large.metadata().unwrap().blocks(), blocks);
    // The target itself was there: it keeps its own attributes.
    assert_same(&Image::of(tree.root()).below(), &Image::of(&target).below());
}

#[test]
fn a_terabyte_of_nothing_is_compared_without_being_read() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.sparse("sparse", 1 << 40, &[(1 << 39, b"in the middle")]);
    let id = lab.backup([tree.root()]);
    let target = lab.restore(&id, "restored");
    let inode = fs::metadata(target.join("sparse")).unwrap().ino();
    restore(&lab, &target, &["-quiet", "-overwrite", "always", &id]).ok();
    let metadata = fs::metadata(target.join("sparse")).unwrap();
    assert_eq!(metadata.ino(), inode, "the same file was written again");
    // Where one of them has a hole and the other has zeros there is no difference, elsewhere there is.
    let file = fs::File::options()
        .write(true)
        .open(target.join("sparse"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 1 << 38).unwrap();
    restore(&lab, &target, &["-quiet", "-overwrite", "always", &id]).ok();
    assert_eq!(fs::metadata(target.join("sparse")).unwrap().ino(), inode);
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", (1 << 40) - 1).unwrap();
    restore(&lab, &target, &["-quiet", "-overwrite", "always", &id]).ok();
    let metadata = fs::metadata(target.join("sparse")).unwrap();
    assert_ne!(metadata.ino(), inode, "a difference at the end was not seen");
    assert_eq!(metadata.len(), 1 << 40);
}

#[test]
fn a_dry_run_of_backup_and_restore_writes_nothing() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    let before = Image::of(&lab.repository());
    let output = lab
        .plakar(["backup".as_ref(), "-dry-run".as_ref(), tree.root().as_os_str()])
        .ok();
    assert!(output.stdout.contains("nothing was stored"), "{}", output.stdout);
    assert_same(&before, &Image::of(&lab.repository()));
    assert!(lab.plakar(["ls"]).ok().stdout.is_empty());
    let id = lab.backup([tree.root()]);
    let output = restore(&lab, &lab.path("restored"), &["-dry-run", &id]).ok();
    assert!(output.stdout.contains("folder/deeper/large"), "{}", output.stdout);
    assert!(!lab.path("restored").exists());
    // What the real one would refuse is refused.
    fs::create_dir(lab.path("restored")).unwrap();
    fs::write(lab.path("restored/folder"), "in the way").unwrap();
    restore(&lab, &lab.path("restored"), &["-dry-run", &id]).fails(73, "folder");
    let file = lab.path("restored/folder");
    restore(&lab, &file, &["-dry-run", "-overwrite", "always", &id]).fails(73, "folder");
}

#[test]
fn include_and_exclude_choose_what_is_restored() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    for name in [
        "a.jpg",
        "a.txt",
        "photos/b.jpg",
        "photos/thumbs/c.jpg",
        "photos/notes",
        "empty/nothing.txt",
    ] {
        tree.file(name, name);
    }
    let id = lab.backup([tree.root()]);
    let paths = |name: &str, words: &[&str]| {
        restore(&lab, &lab.path(name), &[words, &[&id]].concat()).ok();
        Image::of(&lab.path(name)).below().paths()
    };
    assert_eq!(
        paths("1", &["-include", "*.jpg"]),
        [
            "a.jpg",
            "photos",
            "photos/b.jpg",
            "photos/thumbs",
            "photos/thumbs/c.jpg"
        ]
    );
    assert_eq!(
        paths("2", &["-include", "*.jpg", "-exclude", "thumbs"]),
        ["a.jpg", "photos", "photos/b.jpg"]
    );
    assert_eq!(
        paths("3", &["-exclude", "*.txt", "-exclude", "photos/"]),
        ["a.jpg", "empty"]
    );
    assert_eq!(
        paths("4", &["-include", "photos/notes"]),
        ["photos", "photos/notes"]
    );
}

#[test]
fn skip_permissions_leaves_modes_and_owners_to_the_system() {
    root_only();
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    let file = tree.file("folder/file", "1");
    fs::hard_link(&file, tree.path("folder/again")).unwrap();
    set_owner(&file, 1234, 1234);
    set_mode(&file, 0o4700);
    set_mode(&tree.path("folder"), 0o511);
    let id = lab.backup([tree.root()]);
    let mode_of = |path: &Path| path.symlink_metadata().unwrap().mode() & 0o7777;
    // As is, and below a folder that gives what is made in it an access control list.
    for acl in [false, true] {
        let target = lab.path(format!("restored-{acl}"));
        fs::create_dir(&target).unwrap();
        if acl {
            set_inherited(&target);
        }
        fs::create_dir(target.join("usual")).unwrap();
        fs::write(target.join("usual/file"), "2").unwrap();
        restore(&lab, &target, &["-skip-permissions", &id]).ok();
        let is_usual = || {
            let owner = |path: &Path| path.metadata().map(|metadata| (metadata.uid(), metadata.gid()));
            assert_eq!(
                owner(&target.join("folder/file")).unwrap(),
                owner(&target.join("usual/file")).unwrap()
            );
            assert_eq!(mode_of(&target.join("folder")), mode_of(&target.join("usual")));
            for name in ["folder/file", "folder/again"] {
                assert_eq!(mode_of(&target.join(name)), mode_of(&target.join("usual/file")));
                assert_eq!(fs::read(target.join(name)).unwrap(), b"1");
            }
        };
        is_usual();
        // What a killed one leaves is finished by the next.
        set_mode(&target.join("folder"), 0o1700);
        fs::write(target.join("folder/file"), "").unwrap();
        set_mode(&target.join("folder/file"), 0o1200);
        if !acl {
            restore(&lab, &target, &["-skip-permissions", "-overwrite", "never", &id]).ok();
            is_usual();
        }
    }
}

#[test]
fn what_a_killed_restore_left_is_finished_and_nothing_else_is_touched() {
    root_only();
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    for name in ["torn", "whole", "theirs", "marked"] {
        set_mode(&tree.file(format!("folder/{name}"), "as it was"), 0o640);
    }
    set_mode(&tree.path("folder/marked"), 0o1200);
    set_mode(&tree.path("folder"), 0o751);
    let id = lab.backup([tree.root()]);
    for mode in ["never", "if-newer"] {
        let target = lab.path(mode);
        restore(&lab, &target, &[&id]).ok();
        let wanted = Image::of(&target);
        fs::write(target.join("folder/torn"), "as").unwrap();
        set_mode(&target.join("folder/torn"), 0o1200);
        set_mode(&target.join("folder/whole"), 0o1200);
        set_mode(&target.join("folder"), 0o1700);
        restore(&lab, &target, &["-overwrite", mode, &id]).ok();
        assert_same(&wanted.clone().below(), &Image::of(&target).below());
        // Whoever has such a mode in the snapshot, and whoever has another one in the target, is not taken for unfinished.
        fs::write(target.join("folder/theirs"), "edited since").unwrap();
        fs::write(target.join("folder/marked"), "edited since").unwrap();
        restore(&lab, &target, &["-overwrite", mode, &id]).ok();
        for name in ["theirs", "marked"] {
            assert_eq!(
                fs::read(target.join("folder").join(name)).unwrap(),
                b"edited since"
            );
        }
    }
}

#[test]
fn what_a_killed_restore_was_writing_beside_a_file_goes_when_it_is_run_again() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file("file", "as it was");
    tree.file("other", "as it was too");
    tree.hard_link("file", "link");
    let id = lab.backup([tree.root()]);
    let target = lab.path("target");
    restore(&lab, &target, &[&id]).ok();
    let wanted = Image::of(&target).below();
    let beside = |name: &str| {
        let hash = blake3::hash(name.as_bytes()).to_hex();
        target.join(format!(".plakar-restore-{}", &hash[..16]))
    };
    for name in ["file", "link", "other"] {
        fs::remove_file(target.join(name)).unwrap();
        fs::write(target.join(name), "changed").unwrap();
        fs::write(beside(name), "as").unwrap();
        set_mode(&beside(name), 0o1200);
    }
    // Somebody is at work on one of them.
    let working = fs::File::options().write(true).open(beside("other")).unwrap();
    working.lock().unwrap();
    restore(&lab, &target, &["-overwrite", "always", &id]).ok();
    assert_eq!(fs::metadata(beside("other")).unwrap().len(), 2, "it is another's");
    drop(working);
    // Of such a name, but not unfinished: that of a user, or of the snapshot.
    set_mode(&beside("other"), 0o600);
    fs::write(target.join("other"), "changed").unwrap();
    restore(&lab, &target, &["-overwrite", "always", &id]).ok();
    assert_eq!(fs::read(beside("other")).unwrap(), b"as");
    fs::remove_file(beside("other")).unwrap();
    assert_same(&wanted, &Image::of(&target).below());
}

#[test]
fn a_user_who_is_not_root_restores_what_that_user_may() {
    root_only();
    let lab = Lab::new();
    let tree = Tree::new(lab.path("source"));
    set_mode(&tree.file("file", "1"), 0o640);
    set_xattr(&tree.file("read-only", "1"), "user.note", b"kept");
    set_mode(&tree.path("read-only"), 0o444);
    lab.hand_over();
    set_owner(&tree.path("file"), 1234, 1234);
    set_mode(&tree.path("file"), 0o644);
    lab.plakar(["create", "-no-encryption"]).as_nobody().ok();
    let id = lab
        .plakar(["backup".as_ref(), tree.root().as_os_str()])
        .as_nobody()
        .ok()
        .snapshot();
    restore(&lab, &lab.path("restored"), &[&id]).as_nobody().ok();
    let metadata = lab.path("restored/file").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (65534, 0o644));
    // A file that its owner may not write has attributes all the same, when it is new and when it is there.
    let read_only = lab.path("restored/read-only");
    for _ in 0..2 {
        restore(&lab, &lab.path("restored"), &["-overwrite", "always", &id])
            .as_nobody()
            .ok();
        let metadata = read_only.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (65534, 0o444));
        let mut note = [0; 10];
        let length = rustix::fs::getxattr(&read_only, "user.note", &mut note).unwrap();
        assert_eq!(note[..length], *b"kept");
    }
}

#[test]
fn several_roots_come_back_below_what_they_share() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file("one/file", "1");
    tree.file("two/deep/file", "2");
    tree.file("three", "3");
    tree.file("left out", "4");
    let id = lab.backup([
        tree.path("two/deep"),
        tree.path("one"),
        tree.path("three"),
        tree.path("one"),
    ]);
    let target = lab.restore(&id, "restored");
    assert_eq!(
        Image::of(&target).below().paths(),
        ["one", "one/file", "three", "two", "two/deep", "two/deep/file"]
    );
    assert_same(&Image::of(&tree.path("two")), &Image::of(&target.join("two")));
}

#[test]
fn a_root_inside_another_is_saved_once() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    let id = lab.backup([tree.path("folder"), tree.root().to_owned()]);
    assert_same(&Image::of(tree.root()), &Image::of(&lab.restore(&id, "restored")));
}

#[test]
fn a_single_file_comes_back_under_its_name() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    set_modified(&tree.file("file", "content"), 1_000_000_000, 5);
    tree.file("left out", "1");
    let id = lab.backup([tree.path("file")]);
    let target = lab.restore(&id, "restored");
    assert_eq!(Image::of(&target).below().paths(), ["file"]);
    assert_same(&Image::of(&tree.path("file")), &Image::of(&target.join("file")));
}

#[test]
fn a_file_out_of_a_snapshot_comes_back_alone() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    let id = lab.backup([tree.root()]);
    let target = lab.restore(&format!("{id}:folder/deeper/large"), "by relative path");
    assert_eq!(Image::of(&target).below().paths(), ["large"]);
    assert_same(
        &Image::of(&tree.path("folder/deeper/large")),
        &Image::of(&target.join("large")),
    );
    let target = lab.restore(
        &format!("{id}:{}", tree.path("folder").display()),
        "by absolute path",
    );
    assert_same(
        &Image::of(&tree.path("folder")).below(),
        &Image::of(&target).below(),
    );
}

#[test]
fn a_symlink_named_as_source_is_followed() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    let link = lab.path("link");
    std::os::unix::fs::symlink(tree.root(), &link).unwrap();
    let id = lab.backup([&link]);
    assert_same(&Image::of(tree.root()), &Image::of(&lab.restore(&id, "restored")));
    let listed = lab.plakar(["ls"]).ok().stdout;
    assert!(
        listed.trim_end().ends_with(tree.root().to_str().unwrap()),
        "{listed}"
    );
}

#[test]
fn standard_input_comes_back_as_a_file() {
    let lab = Lab::with_repository();
    for content in [Vec::new(), b"a few bytes".to_vec(), random::bytes(1, 9 << 20)] {
        let id = lab
            .plakar(["backup", "-stdin", "dump.sql"])
            .input(&content)
            .ok()
            .snapshot();
        assert_eq!(lab.plakar(["cat", &format!("{id}:/dump.sql")]).ok().raw, content);
        let target = lab.restore(&id, &format!("restored-{}", content.len()));
        assert_eq!(Image::of(&target).below().paths(), ["dump.sql"]);
        assert_eq!(fs::read(target.join("dump.sql")).unwrap(), content);
    }
}

#[test]
fn ignore_patterns_have_the_meaning_of_gitignore() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    let names = [
        "a.o",
        "keep.o",
        "src/b.o",
        "src/main.c",
        "build/x",
        "src/build/y",
        "build.txt",
        "docs/build",
        "doc/frotz/a",
        "a/doc/frotz/b",
        "deep/1/2/3/end",
        "#comment",
        "trailing ",
    ];
    for name in names {
        tree.file(name, name);
    }
    let file = lab.path("ignore");
    fs::write(
        &file,
        "# a comment\n*.o\n!keep.o\n/build/\ndoc/frotz/\ndeep/**/end\n\\#comment\n",
    )
    .unwrap();
    let id = lab.backup([
        "-ignore-file".as_ref(),
        file.as_os_str(),
        "-ignore".as_ref(),
        "docs/bu?ld".as_ref(),
        tree.root().as_os_str(),
    ]);
    let files: Vec<String> = {
        let image = Image::of(&lab.restore(&id, "restored"));
        let files = image
            .nodes
            .iter()
            .filter(|(_, node)| node.kind == FileType::RegularFile);
        files
            .map(|(path, _)| String::from_utf8(path.clone()).unwrap())
            .collect()
    };
    assert_eq!(
        files,
        [
            "a/doc/frotz/b",
            "build.txt",
            "keep.o",
            "src/build/y",
            "src/main.c",
            "trailing "
        ]
    );
}

#[test]
fn one_file_system_stays_in_it() {
    root_only();
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file("here", "1");
    let other = Tmpfs::mount(tree.path("other"), 1 << 20);
    fs::write(other.path().join("there"), "2").unwrap();
    let id = lab.backup(["-one-file-system".as_ref(), tree.root().as_os_str()]);
    assert_eq!(
        Image::of(&lab.restore(&id, "within")).below().paths(),
        ["here", "other"]
    );
    let id = lab.backup([tree.root()]);
    assert_eq!(
        Image::of(&lab.restore(&id, "across")).below().paths(),
        ["here", "other", "other/there"]
    );
    // A root in another file system is one of those that were asked for.
    let id = lab.backup(["-one-file-system".as_ref(), tree.path("other").as_os_str()]);
    assert_eq!(Image::of(&lab.restore(&id, "other")).below().paths(), ["there"]);
}

#[test]
fn exclude_caches_leaves_out_what_is_tagged_as_cache() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    tree.file(
        "cache/CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n",
    );
    tree.file("cache/file", "1");
    tree.file("cache/below/file", "2");
    tree.file("not a cache/CACHEDIR.TAG", "Signature: wrong");
    tree.file("not a cache/file", "3");
    let id = lab.backup(["-exclude-caches".as_ref(), tree.root().as_os_str()]);
    assert_eq!(
        Image::of(&lab.restore(&id, "restored")).below().paths(),
        [
            "cache",
            "cache/CACHEDIR.TAG",
            "not a cache",
            "not a cache/CACHEDIR.TAG",
            "not a cache/file"
        ]
    );
}

#[test]
fn the_repository_itself_is_not_backed_up() {
    let lab = Lab::with_repository();
    let link = lab.path("repository by another name");
    std::os::unix::fs::symlink(lab.repository(), &link).unwrap();
    fs::write(lab.path("home/file"), "1").unwrap();
    let id = lab.backup([lab.path("")]);
    let paths = Image::of(&lab.restore(&id, "restored")).paths();
    assert!(paths.iter().any(|path| path == "home/file"), "{paths:?}");
    assert!(
        !paths
            .iter()
            .any(|path| path == "repository" || path.starts_with("repository/")),
        "{paths:?}"
    );
}

#[test]
fn an_unchanged_file_is_taken_over_and_a_changed_one_is_read() {
    let lab = Lab::with_repository();
    let tree = mixed(lab.path("source"));
    lab.backup([tree.root()]);
    // Files that changed less than two seconds before a backup are read again.
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let second = |words: &[&str]| {
        let mut all: Vec<&OsStr> = vec!["backup".as_ref(), "-json".as_ref(), tree.root().as_os_str()];
        all.extend(words.iter().map(OsStr::new));
        let output = lab.plakar(all).ok();
        // The last event but one: how often the storage was asked comes at the very end.
        let result: serde_json::Value =
            serde_json::from_str(output.stdout.lines().nth_back(1).unwrap()).unwrap();
        (
            result["files_new"].as_u64().unwrap(),
            result["files_unchanged"].as_u64().unwrap(),
            result["id"].clone(),
        )
    };
    second(&[]);
    let (new, unchanged, _) = second(&[]);
    assert_eq!((new, unchanged), (0, 8));
    assert_eq!(second(&["-full"]).0, 8);
    let path = tree.path("folder/random");
    let (size, time) = (path.metadata().unwrap().len(), path.metadata().unwrap());
    fs::write(&path, random::bytes(99, usize::try_from(size).unwrap())).unwrap();
    // Same size and same modification time: only the inode tells.
    set_modified(&path, time.mtime(), u32::try_from(time.mtime_nsec()).unwrap());
    let (new, unchanged, _) = second(&[]);
    assert_eq!((new, unchanged), (1, 7));
    let target = lab.path("restored");
    restore(&lab, &target, &["-latest"]).ok();
    assert_same(&Image::of(tree.root()), &Image::of(&target));
}

#[test]
fn a_read_does_not_touch_access_times() {
    let lab = Lab::with_repository();
    let tree = Tree::new(lab.path("source"));
    let path = tree.file("file", "1");
    set_modified(&path, 1_000_000_000, 0);
    lab.backup([tree.root()]);
    let stat = rustix::fs::statat(CWD, &path, AtFlags::empty()).unwrap();
    assert_eq!(stat.st_atime, 1_000_000_000);
}
