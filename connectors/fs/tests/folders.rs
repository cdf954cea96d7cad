//! What the connector does with folders: `init`, modes, links, files of others.
#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use common::{connector, keys, put};
use plakar_plugin_api::{Connector, ErrorKind};

#[test]
fn init_creates_the_folder_and_its_parents_for_the_owner_alone() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("a/b/c");
    let storage = connector(&root);
    assert_eq!(storage.probe().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(storage.list("", "", 1).unwrap_err().kind, ErrorKind::NotFound);
    storage.init().unwrap();
    storage.init().expect("an empty folder may be initialised again");
    storage.probe().unwrap();
    put(&storage, "packs/ab/x", b"1").unwrap();
    for (path, mode) in [
        ("a", 0o700),
        ("a/b/c", 0o700),
        ("a/b/c/packs/ab", 0o700),
        ("a/b/c/packs/ab/x", 0o600),
    ] {
        let found = fs::metadata(parent.path().join(path))
            .unwrap()
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(found, mode, "{path}");
    }
}

#[test]
fn init_refuses_a_folder_in_use_and_leaves_it_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("thesis.txt"), "years").unwrap();
    let error = connector(root.path()).init().unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists);
    assert!(error.message.contains("is not empty"), "{error}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn init_accepts_what_a_killed_creation_left_and_nothing_more() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("keys")).unwrap();
    fs::write(root.path().join("keys/.tmp-00ff"), "half a slot").unwrap();
    connector(root.path()).init().unwrap();
    fs::write(root.path().join("keys/mine"), "somebody's").unwrap();
    assert_eq!(
        connector(root.path()).init().unwrap_err().kind,
        ErrorKind::AlreadyExists
    );
}

#[test]
fn init_accepts_a_fresh_file_system() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("lost+found")).unwrap();
    connector(root.path()).init().unwrap();
    assert_eq!(keys(&connector(root.path())), Vec::<String>::new());
}

#[test]
fn a_root_that_is_a_file_is_a_mistake_of_the_user() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "x").unwrap();
    for storage in [connector(&file), connector(&file.join("below"))] {
        assert_eq!(storage.probe().unwrap_err().kind, ErrorKind::Config);
        assert_eq!(storage.init().unwrap_err().kind, ErrorKind::Config);
        assert_eq!(storage.list("", "", 1).unwrap_err().kind, ErrorKind::Config);
    }
}

#[test]
fn a_root_removed_while_open_is_not_found() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("root");
    let storage = connector(&root);
    storage.init().unwrap();
    put(&storage, "a", b"1").unwrap();
    fs::remove_dir_all(&root).unwrap();
    assert_eq!(storage.probe().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(storage.list("", "", 1).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(storage.stat("a").unwrap_err().kind, ErrorKind::NotFound);
    storage.init().unwrap();
    put(&storage, "b", b"1").unwrap();
    assert_eq!(keys(&connector(&root)), ["b"]);
}

#[test]
fn links_are_never_followed_out_of_the_root() {
    let parent = tempfile::tempdir().unwrap();
    let (root, outside) = (parent.path().join("root"), parent.path().join("outside"));
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let storage = connector(&root);
    storage.init().unwrap();
    put(&storage, "real", b"1").unwrap();
    symlink(&outside, root.join("packs")).unwrap();
    symlink(outside.join("secret"), root.join("link")).unwrap();
    symlink("real", root.join("alias")).unwrap();

    let mut buffer = [0; 10];
    for key in ["packs/secret", "link", "alias"] {
        assert_eq!(
            storage.get_into(key, 0, &mut buffer).unwrap_err().kind,
            ErrorKind::Other,
            "read {key}"
        );
        assert_eq!(
            storage.stat(key).unwrap_err().kind,
            ErrorKind::Other,
            "stat {key}"
        );
    }
    assert_eq!(
        put(&storage, "packs/new", b"x").unwrap_err().kind,
        ErrorKind::Other
    );
    assert_eq!(
        put(&storage, "link", b"x").unwrap_err().kind,
        ErrorKind::AlreadyExists
    );
    assert!(storage.delete("packs/secret").is_err());
    assert_eq!(keys(&storage), ["real"]);
    assert_eq!(storage.list("packs/", "", 10).unwrap_err().kind, ErrorKind::Other);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
}

#[test]
fn what_is_not_an_object_is_neither_listed_nor_read() {
    let root = tempfile::tempdir().unwrap();
    let storage = connector(root.path());
    put(&storage, "packs/ab/x", b"1").unwrap();
    for foreign in [
        ".tmp-0011",
        ".hidden",
        "README",
        "note.TXT",
        "packs/ab/.tmp-77",
        "packs/.nfs0001",
    ] {
        fs::write(root.path().join(foreign), "foreign").unwrap();
    }
    fs::create_dir(root.path().join("empty")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.path().join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert_eq!(keys(&storage), ["packs/ab/x"]);
    for key in ["packs", "packs/ab", "pipe", "empty"] {
        assert_eq!(
            storage.stat(key).unwrap_err().kind,
            ErrorKind::Other,
            "stat {key}"
        );
        assert_eq!(
            storage.get_into(key, 0, &mut [0; 4]).unwrap_err().kind,
            ErrorKind::Other,
            "read {key}"
        );
        assert!(put(&storage, key, b"x").is_err(), "put {key}");
    }
    assert!(storage.delete("packs").is_err());
    assert_eq!(keys(&storage), ["packs/ab/x"]);
    assert!(!root.path().read_dir().unwrap().any(|entry| {
        let name = entry.unwrap().file_name();
        name != ".tmp-0011" && name.to_str().unwrap().starts_with(".tmp-")
    }));
}

#[test]
fn a_long_listing_comes_page_by_page() {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let storage = connector(root.path());
    let mut wanted = Vec::new();
    for shard in 0..20 {
        fs::create_dir_all(root.path().join(format!("packs/{shard:02x}"))).unwrap();
        for object in 0..500 {
            let key = format!("packs/{shard:02x}/{object:04}");
            fs::write(root.path().join(&key), "x").unwrap();
            wanted.push(key);
        }
    }
    let mut listed: Vec<String> = Vec::new();
    loop {
        let after = listed.last().cloned().unwrap_or_default();
        let page = storage.list("packs/", &after, 333).unwrap();
        listed.extend(page.objects.into_iter().map(|object| object.key));
        if !page.more {
            break;
        }
    }
    assert_eq!(listed, wanted);
}

#[test]
fn a_put_removes_abandoned_temporary_files_and_a_listing_does_not() {
    let root = tempfile::tempdir().unwrap();
    put(&connector(root.path()), "packs/ab/x", b"1").unwrap();
    let folder = root.path().join("packs/ab");
    let (old, new) = (
        folder.join(".tmp-0000000000000001"),
        folder.join(".tmp-0000000000000002"),
    );
    for path in [&old, &new] {
        fs::write(path, "left by a killed process").unwrap();
    }
    let two_days = std::time::SystemTime::now() - std::time::Duration::from_hours(48);
    fs::File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(two_days)
        .unwrap();
    let storage = connector(root.path());
    assert_eq!(keys(&storage), ["packs/ab/x"]);
    assert!(old.exists(), "a reader writes nothing");
    put(&storage, "packs/ab/y", b"2").unwrap();
    assert!(!old.exists());
    assert!(new.exists(), "somebody may be writing it");
}
