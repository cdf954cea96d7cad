//! Sets owners, modes, extended attributes and times. In this order: a change of owner clears setuid bits and capabilities, and all of them touch the times.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat, utimensat};
use rustix::io::Errno;

use crate::environment::Timestamp;
use crate::format::tree::{Entry, EntryKind, Xattr};

/// What this process may set, and whom names mean here.
#[derive(Debug)]
pub(super) struct Attributes {
    permissions: bool,
    root: bool,
    uid: u32,
    gid: u32,
    umask: u32,
    users: Mutex<HashMap<String, Option<u32>>>,
    groups: Mutex<HashMap<String, Option<u32>>>,
}

/// The file mode creation mask, read without changing it.
fn read_umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

fn path_of(folder: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
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
    pub(super) fn new(permissions: bool) -> Self {
        let uid = rustix::process::geteuid();
        Self {
            permissions,
            root: uid.is_root(),
            uid: uid.as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: read_umask().unwrap_or(0o777),
            users: Mutex::default(),
            groups: Mutex::default(),
        }
    }

    /// The mode with which to create a file so that, most often, no second call is needed.
    pub(super) fn creation_mode(&self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(if self.permissions {
            entry.mode & 0o777
        } else {
            0o666
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

    /// Sets everything on an open file or directory. `fresh` says that it was just created with [`Attributes::creation_mode`].
    /// All is tried; what failed is returned.
    pub(super) fn set_fd(
        &self,
        fd: BorrowedFd<'_>,
        entry: &Entry,
        xattrs: &[Xattr],
        fresh: bool,
    ) -> Vec<(String, Errno)> {
        let mut failed = Vec::new();
        let mut note = |what: &str, result: Result<(), Errno>| {
            if let Err(error) = result {
                failed.push((what.to_owned(), error));
            }
        };
        if self.permissions {
            let (uid, gid) = self.owner(entry);
            let chown = self.root && !(fresh && uid == self.uid && gid == self.gid);
            if chown {
                let result = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                note("cannot set the owner", result);
            }
            if !(fresh && !chown && entry.mode & !0o777 == 0 && entry.mode & self.umask == 0) {
                note(
                    "cannot set the mode",
                    rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)),
                );
            }
            for xattr in xattrs {
                let result = rustix::fs::fsetxattr(fd, &*xattr.name, &xattr.value, XattrFlags::empty());
                note(&xattr_failure(xattr), self.excuse(xattr, result));
            }
        }
        note(
            "cannot set the time",
            rustix::fs::futimens(fd, &times(entry.modified)),
        );
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
                // Linux has no chmod that refuses symlinks everywhere; the name was just made by us, in a folder reached without following any.
                let mode = Mode::from_raw_mode(entry.mode);
                note(
                    "cannot set the mode",
                    rustix::fs::chmodat(folder, name, mode, AtFlags::empty()),
                );
            }
            let path = path_of(folder, name);
            for xattr in xattrs {
                let result =
                    rustix::fs::lsetxattr(path.as_slice(), &*xattr.name, &xattr.value, XattrFlags::empty());
                note(&xattr_failure(xattr), self.excuse(xattr, result));
            }
        }
        let result = utimensat(folder, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW);
        note("cannot set the time", result);
        failed
    }

    /// Only root may set trusted and security attributes: for others their absence is no problem.
    fn excuse(&self, xattr: &Xattr, result: Result<(), Errno>) -> Result<(), Errno> {
        let privileged = xattr.name.starts_with(b"trusted.") || xattr.name.starts_with(b"security.");
        if privileged && !self.root { Ok(()) } else { result }
    }
}

fn xattr_failure(xattr: &Xattr) -> String {
    format!(
        "cannot set the attribute {}",
        String::from_utf8_lossy(&xattr.name)
    )
}
