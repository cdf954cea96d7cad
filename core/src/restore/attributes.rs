//! Sets owners, extended attributes, times and modes. In this order: a change of owner clears setuid bits and capabilities, all but the
//! mode touch the times, and the mode tells that a file or folder is finished.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat,
    utimensat,
};
use rustix::io::Errno;

use crate::environment::Timestamp;
use crate::format::snapshot::Snapshot;
use crate::format::tree::{Entry, EntryKind, Xattr};
use crate::pipeline::metadata::Stat;

/// The mode of a file that is being restored. No program gives it to a file that somebody uses: so one that a killed restore has left
/// is known for what it is, and nobody takes it for whole. Its owner may write, as setting some attributes demands.
const UNFINISHED_FILE: u32 = 0o1200;
/// The mode of a folder whose attributes are not set yet.
const UNFINISHED_FOLDER: u32 = 0o1700;

/// A folder may hand this on to what is made in it.
const SET_GROUP: u32 = 0o2000;

fn unfinished_mode(kind: EntryKind) -> u32 {
    if kind == EntryKind::Directory {
        UNFINISHED_FOLDER
    } else {
        UNFINISHED_FILE
    }
}

/// What the usual mode of something new is before the umask.
fn usual_mode(kind: EntryKind) -> u32 {
    if kind == EntryKind::Directory {
        0o777
    } else {
        0o666
    }
}

/// Whether a mode is the mark of what is not finished.
fn is_mark(mode: u32, kind: EntryKind) -> bool {
    mode & !SET_GROUP == unfinished_mode(kind)
}

/// Whether a type and mode, as the system gives them, are those of a file that is not finished.
pub(super) fn is_unfinished_file(type_and_mode: u32) -> bool {
    FileType::from_raw_mode(type_and_mode).is_file() && is_mark(type_and_mode & 0o7777, EntryKind::File)
}

/// Whether what stands under the name of an entry was left by a restore that was killed.
pub(super) fn is_unfinished(existing: &Stat, entry: &Entry) -> bool {
    matches!(existing.kind, EntryKind::File | EntryKind::Directory)
        && existing.kind == entry.kind
        && is_mark(existing.mode, existing.kind)
        && entry.mode != unfinished_mode(entry.kind)
}

/// The bits that are taken from the mode of what this process makes. Asking for them any other way would change them.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    told.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok())
        .unwrap_or(0o077)
}

/// What this process may set, and whom names mean here.
#[derive(Debug)]
pub(super) struct Attributes {
    permissions: bool,
    /// Asked for only where the modes of the snapshot are not wanted.
    umask: u32,
    /// Whether the snapshot knows extended attributes.
    with_xattrs: bool,
    root: bool,
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
}

/// What a file or folder was before its attributes are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    /// Made by this restore.
    Ours,
    /// There before: it may have attributes that the snapshot knows nothing of.
    Theirs,
}

/// The access control list of a file, and the one that a folder gives to what is made in it.
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Whether what is made in a folder inherits access control entries.
pub(super) fn passes_on_acl(folder: impl AsFd) -> bool {
    rustix::fs::fgetxattr(folder, DEFAULT_ACL, &mut [0_u8; 0][..]).is_ok()
}

/// Attributes that decide who may do what, or that users set: not those that the system keeps for itself.
fn is_theirs_to_remove(name: &[u8]) -> bool {
    name == ACCESS_ACL || name == DEFAULT_ACL || name == b"security.capability" || name.starts_with(b"user.")
}

/// With these a program runs as the owner or group of its file: which must then be the right ones.
const SET_ID_BITS: u32 = 0o6000;

fn path_of(folder: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

/// Linux has no chmod that refuses symlinks everywhere. Whoever may write in the folder could have put one there since the name was made:
/// so what has the name is held, which follows nothing, and its mode is set.
fn set_mode_by_name(folder: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(mode))
}

fn times(modified: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: modified.nanoseconds.into(),
        },
    }
}

impl Attributes {
    pub(super) fn new(permissions: bool, snapshot: &Snapshot) -> Self {
        Self {
            permissions,
            umask: if permissions { 0 } else { umask() },
            with_xattrs: snapshot.with_xattrs,
            root: rustix::process::geteuid().is_root(),
            users: Mutex::default(),
            groups: Mutex::default(),
        }
    }

    /// Takes away what a new file or folder was given by the folder that it was made in. It can fail only where nothing was given.
    pub(super) fn drop_inherited(&self, fd: BorrowedFd<'_>) {
        if self.permissions {
            for name in [ACCESS_ACL, DEFAULT_ACL] {
                rustix::fs::fremovexattr(fd, name).unwrap_or_default();
            }
        }
    }

    /// The same for a name that cannot be opened.
    pub(super) fn drop_inherited_by_name(&self, folder: BorrowedFd<'_>, name: &[u8]) {
        if self.permissions {
            rustix::fs::lremovexattr(path_of(folder, name).as_slice(), ACCESS_ACL).unwrap_or_default();
        }
    }

    /// Takes away what the snapshot does not have: whoever was given access since would keep it.
    fn drop_others(&self, fd: BorrowedFd<'_>, wanted: &[Xattr]) -> Result<(), Errno> {
        let mut list = vec![0; 64 << 10];
        let length = match rustix::fs::flistxattr(fd, list.as_mut_slice()) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            length => length?,
        };
        let names = list.get(..length).unwrap_or_default().split(|&byte| byte == 0);
        for name in names.filter(|name| is_theirs_to_remove(name)) {
            if wanted.iter().all(|xattr| xattr.name != name) {
                match self.excuse(name, rustix::fs::fremovexattr(fd, name)) {
                    Ok(()) | Err(Errno::NODATA) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The mode with which files and folders are made, until they are finished. Where nobody wants the modes of the snapshot and the
    /// folder has a say in who may do what, it is left to the folder.
    pub(super) fn creation_mode(&self, kind: EntryKind, passes_on_acl: bool) -> Mode {
        Mode::from_raw_mode(if passes_on_acl && !self.permissions {
            usual_mode(kind)
        } else {
            unfinished_mode(kind)
        })
    }

    fn owner(&self, entry: &Entry) -> (u32, u32) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = *users.entry(entry.user.clone()).or_insert_with(|| {
            (!entry.user.is_empty())
                .then(|| uzers::get_user_by_name(&entry.user).map(|user| user.uid()))
                .flatten()
        });
        drop(users);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let gid = *groups.entry(entry.group.clone()).or_insert_with(|| {
            (!entry.group.is_empty())
                .then(|| uzers::get_group_by_name(&entry.group).map(|group| group.gid()))
                .flatten()
        });
        (uid.unwrap_or(entry.uid), gid.unwrap_or(entry.gid))
    }

    /// Sets everything on an open file or directory. All is tried; what failed is returned.
    pub(super) fn set_fd(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        xattrs: &[Xattr],
        was: Was,
    ) -> Vec<(String, Errno)> {
        let mut failed = Vec::new();
        let mut note = |what: &str, result: Result<(), Errno>| {
            if let Err(error) = result {
                failed.push((what.to_owned(), error));
            }
        };
        let is = rustix::fs::fstat(fd).ok();
        let mut mode = entry.mode;
        if self.permissions {
            let (uid, gid) = self.owner(entry);
            // The folder, or how the file system is mounted, may have had a say in whose a new file is.
            let owned = was == Was::Ours && is.is_some_and(|is| is.st_uid == uid && is.st_gid == gid);
            if self.root && !owned {
                let result = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                if result.is_err() && entry.kind == EntryKind::File {
                    mode &= !SET_ID_BITS;
                }
                note("cannot set the owner", result);
            }
            if was == Was::Theirs {
                if self.with_xattrs {
                    note("cannot remove the attributes", self.drop_others(fd, xattrs));
                }
                if !xattrs.is_empty() && !self.root {
                    // Who sets attributes must be allowed to write; what is theirs may not be writable.
                    let writable = Mode::from_raw_mode((mode & !SET_ID_BITS) | 0o200);
                    note("cannot set the mode", rustix::fs::fchmod(fd, writable));
                }
            }
            for xattr in xattrs {
                let result = rustix::fs::fsetxattr(fd, &*xattr.name, &xattr.value, XattrFlags::empty());
                note(&xattr_failure(xattr), self.excuse(&xattr.name, result));
            }
        }
        note(
            "cannot set the time",
            rustix::fs::futimens(fd, &times(entry.modified)),
        );
        let is = is.map(|is| is.st_mode & 0o7777);
        let wanted = if self.permissions {
            // Some file systems have one mode for all that is in them.
            (was == Was::Theirs || is != Some(mode)).then_some(mode)
        } else {
            is.filter(|&is| is_mark(is, entry.kind))
                .map(|is| usual_mode(entry.kind) & !self.umask | is & SET_GROUP)
        };
        if let Some(mode) = wanted {
            note(
                "cannot set the mode",
                rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)),
            );
        }
        failed
    }

    /// The same for a name that cannot be opened: a symlink, a FIFO, a socket, a device.
    pub(super) fn set_name(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        xattrs: &[Xattr],
    ) -> Vec<(String, Errno)> {
        let mut failed = Vec::new();
        let mut note = |what: &str, result: Result<(), Errno>| {
            if let Err(error) = result {
                failed.push((what.to_owned(), error));
            }
        };
        if self.permissions {
            if self.root {
                let (uid, gid) = self.owner(entry);
                let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                note(
                    "cannot set the owner",
                    chownat(folder, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW),
                );
            }
            if entry.kind != EntryKind::Symlink {
                note("cannot set the mode", set_mode_by_name(folder, name, entry.mode));
            }
            let path = path_of(folder, name);
            for xattr in xattrs {
                let result =
                    rustix::fs::lsetxattr(path.as_slice(), &*xattr.name, &xattr.value, XattrFlags::empty());
                note(&xattr_failure(xattr), self.excuse(&xattr.name, result));
            }
        }
        let result = utimensat(folder, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW);
        note("cannot set the time", result);
        failed
    }

    /// Only root may set trusted and security attributes: for others their absence is no problem.
    fn excuse(&self, name: &[u8], result: Result<(), Errno>) -> Result<(), Errno> {
        let privileged = name.starts_with(b"trusted.") || name.starts_with(b"security.");
        if privileged && !self.root { Ok(()) } else { result }
    }
}

fn xattr_failure(xattr: &Xattr) -> String {
    format!(
        "cannot set the attribute {}",
        String::from_utf8_lossy(&xattr.name)
    )
}
