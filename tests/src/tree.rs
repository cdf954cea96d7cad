//! Makes trees to back up.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat, utimensat,
};

use crate::random;

/// All names of files below a folder, temporary ones too, in order.
pub fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let below = path.strip_prefix(folder).expect("it is below");
                names.push(text(below).to_owned());
            }
        }
    }
    names.sort();
    names
}

/// A path that is UTF-8, as those of tests are unless they are about other ones.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is UTF-8")
}

/// A folder being filled. Every step fails loudly.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A new folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        fs::create_dir_all(&root).expect("a folder for the tree");
        Self { root }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A place in it.
    pub fn path(&self, name: impl AsRef<[u8]>) -> PathBuf {
        self.root.join(OsStr::from_bytes(name.as_ref()))
    }

    /// Writes a file, and the folders above it.
    pub fn file(&self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("folders above");
        fs::write(&path, content).expect("a file");
        path
    }

    /// Makes a folder.
    pub fn directory(&self, name: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a folder");
        path
    }

    /// Makes a file with data at some offsets and holes elsewhere.
    pub fn sparse(&self, name: &str, size: u64, data: &[(u64, &[u8])]) -> PathBuf {
        let path = self.file(name, "");
        let file = fs::File::options().write(true).open(&path).expect("a file");
        file.set_len(size).expect("a size");
        for (offset, bytes) in data {
            file.write_all_at(bytes, *offset).expect("written");
        }
        path
    }

    /// Makes a symlink.
    pub fn symlink(&self, name: &str, target: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::os::unix::fs::symlink(OsStr::from_bytes(target.as_ref()), &path).expect("a symlink");
        path
    }

    /// Gives a file another name.
    pub fn hard_link(&self, from: &str, to: &str) {
        fs::hard_link(self.path(from), self.path(to)).expect("a hard link");
    }

    /// Makes a FIFO, a socket or a device.
    pub fn special(&self, name: &str, kind: FileType, major: u32, minor: u32) -> PathBuf {
        let path = self.path(name);
        mknodat(CWD, &path, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
            .expect("this test makes special files: it must be run as root");
        path
    }
}

/// Sets permission bits.
pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Sets the modification time, without following a symlink.
pub fn set_modified(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

/// Sets an extended attribute, without following a symlink.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|error| {
        panic!("this test needs root and a file system with the attribute {name}: {error}")
    });
}

/// Sets the owner, without following a symlink.
pub fn set_owner(path: &Path, uid: u32, gid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        .expect("this test changes owners: it must be run as root");
}

/// A few folders with small and middling files, a link and a hole: something of everything that is cheap.
pub fn mixed(root: impl Into<PathBuf>) -> Tree {
    let tree = Tree::new(root);
    tree.file("empty", "");
    tree.file("small", "a few bytes");
    tree.file("text", "the same line again and again\n".repeat(400));
    tree.file("folder/random", random::bytes(1, 5000));
    tree.file("folder/copy", random::bytes(1, 5000));
    tree.file("folder/deeper/large", random::bytes(2, 3 << 20));
    tree.directory("nothing");
    tree.symlink("link", "folder/random");
    tree.hard_link("text", "folder/text again");
    tree.sparse("sparse", 1 << 20, &[(512 << 10, b"in the middle")]);
    set_modified(&tree.path("folder"), 1_000_000_000, 123_456_789);
    tree
}
