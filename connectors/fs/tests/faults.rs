//! What the connector does when the file system says no, and when it is killed.
//!
//! The tests that mount a file system need root. Without it they fail: say `-- --skip needs_root` to leave them out.
#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{connector, keys, put};
use plakar_plugin_api::{Connector, ErrorKind, PutMode, PutOptions};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A tmpfs of its own, unmounted at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn new(parent: &Path, options: &str) -> Self {
        let folder = parent.join("mounted");
        fs::create_dir_all(&folder).unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        mount(
            "tmpfs",
            &folder,
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("these tests mount a tmpfs, which takes root: skip `needs_root` without it");
        Self(folder)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn temporary_files(folder: &Path) -> usize {
    let names = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_str().unwrap().starts_with(".tmp-"))
        .count()
}

#[test]
fn a_full_file_system_is_no_space_and_leaves_nothing_needs_root() {
    let parent = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(parent.path(), "size=4m");
    let storage = connector(&mounted.0);
    put(&storage, "packs/small", b"fits").unwrap();
    for mode in [PutMode::Create, PutMode::Replace] {
        let options = PutOptions {
            mode,
            durable: true,
            blake3: [0; 32],
        };
        let key = if mode == PutMode::Create {
            "packs/big"
        } else {
            "packs/small"
        };
        let error = storage.put(key, &vec![7; 8 << 20], options).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NoSpace);
        assert!(
            error.message.contains("full") && error.message.contains("mounted/packs/"),
            "{error}"
        );
    }
    assert_eq!(keys(&storage), ["packs/small"]);
    assert_eq!(storage.stat("packs/small").unwrap().size_bytes, 4);
    assert_eq!(temporary_files(&mounted.0.join("packs")), 0);
    put(&storage, "packs/after", &vec![7; 2 << 20]).expect("the space of the failed put is free again");
}

#[test]
fn a_full_inode_table_is_no_space_needs_root() {
    let parent = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(parent.path(), "nr_inodes=6");
    let storage = connector(&mounted.0);
    let error = (0..10)
        .find_map(|number| put(&storage, &format!("folder{number}/x"), b"1").err())
        .unwrap();
    assert_eq!(error.kind, ErrorKind::NoSpace);
}

#[test]
fn a_read_only_file_system_is_permission_and_can_be_read_needs_root() {
    let parent = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(parent.path(), "size=4m");
    put(&connector(&mounted.0), "packs/old", b"old").unwrap();
    // Busy as long as a process that another test starts has inherited the file that was written, until it runs its program.
    let begun = Instant::now();
    while let Err(error) = mount_remount(&mounted.0, MountFlags::RDONLY, "") {
        assert!(
            error == rustix::io::Errno::BUSY && begun.elapsed().as_secs() < 20,
            "cannot remount: {error}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let storage = connector(&mounted.0);
    for error in [
        put(&storage, "packs/new", b"x").unwrap_err(),
        put(&storage, "new/folder", b"x").unwrap_err(),
        storage.delete("packs/old").unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Permission);
        assert!(error.message.contains("read-only"), "{error}");
    }
    assert_eq!(keys(&storage), ["packs/old"]);
    let mut buffer = [0; 8];
    assert_eq!(storage.get_into("packs/old", 0, &mut buffer).unwrap(), 3);
}

#[test]
fn space_is_that_of_the_file_system_needs_root() {
    let parent = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(parent.path(), "size=4m");
    let storage = connector(&mounted.0);
    let before = storage.space().unwrap().unwrap();
    assert_eq!(before.total_bytes, 4 << 20);
    put(&storage, "x", &vec![1; 1 << 20]).unwrap();
    let after = storage.space().unwrap().unwrap();
    assert_eq!(before.available_bytes - after.available_bytes, 1 << 20);
}

/// Names the folder to work in, in the process that a test starts.
const FOLDER: &str = "PLAKAR_FS_TEST_FOLDER";

/// Runs one of this file's helpers in a process of its own.
fn helper(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null());
    command
}

#[test]
fn what_the_user_may_not_do_is_permission_needs_root() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root = parent.path().join("root");
    put(&connector(parent.path()), "root/packs/old", b"old").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(root.join("packs"), fs::Permissions::from_mode(0o755)).unwrap();
    let status = helper("as_nobody", &root).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
#[ignore = "started by another test, in a process that may give up its rights"]
fn as_nobody() {
    let Some(root) = std::env::var_os(FOLDER) else {
        return;
    };
    let nobody = rustix::process::Uid::from_raw(65534);
    // A change of user counts for this thread alone, which is the one that works.
    rustix::thread::set_thread_uid(nobody).expect("giving up root takes root");
    let storage = connector(Path::new(&root));
    let errors = [
        put(&storage, "packs/new", b"x").unwrap_err(),
        put(&storage, "new/folder", b"x").unwrap_err(),
        storage.delete("packs/old").unwrap_err(),
        storage.get_into("packs/old", 0, &mut [0; 4]).unwrap_err(),
        connector(&Path::new(&root).join("below")).init().unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, ErrorKind::Permission);
        assert!(error.message.contains("ermission denied"), "{error}");
    }
}

#[test]
fn killed_at_any_moment_a_put_leaves_whole_objects_only() {
    let parent = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut cut_short = 0;
    for round in 0..12 {
        let root = parent.path().join(round.to_string());
        connector(&root).init().unwrap();
        let mut writer = helper("writes_for_ever", &root).spawn().unwrap();
        let begun = Instant::now();
        while keys(&connector(&root)).is_empty() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "the writer does not write"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(3 * round));
        writer.kill().unwrap();
        writer.wait().unwrap();
        for key in keys(&connector(&root)) {
            let bytes = fs::read(root.join(&key)).unwrap();
            assert_eq!(bytes.len(), OBJECT_BYTES, "{key} is cut short");
            assert!(bytes.iter().all(|&byte| byte == 7));
        }
        cut_short += temporary_files(&root.join("packs"));
        fs::remove_dir_all(&root).unwrap();
    }
    assert!(
        cut_short > 0,
        "no kill came in the middle of a put: the test proved nothing"
    );
}

const OBJECT_BYTES: usize = 24 << 20;

#[test]
#[ignore = "started by another test, which kills it"]
fn writes_for_ever() {
    let Some(root) = std::env::var_os(FOLDER) else {
        return;
    };
    let storage = connector(Path::new(&root));
    let bytes = vec![7; OBJECT_BYTES];
    for number in 0..60 {
        put(&storage, &format!("packs/{number:03}"), &bytes).unwrap();
    }
}
