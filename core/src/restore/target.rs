//! The folder that is restored into, reached only through descriptors and without following symlinks.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use crate::format::tree::Entry;
use crate::repository::split_path;

use super::RestoreError;

/// Flags with which every directory is opened.
pub(super) const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The root of a restore.
#[derive(Debug)]
pub(super) struct Target {
    root: Option<OwnedFd>,
    created: bool,
}

/// A directory being filled. When the last holder lets go, its attributes are set and its parent is let go.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    /// Path in the snapshot.
    pub(super) path: Vec<u8>,
    /// Its attributes, unless it existed and keeps its own.
    pub(super) entry: Option<Box<Entry>>,
    /// Whether it was there before.
    pub(super) existed: bool,
    /// Whether what is made in it is given access control entries that nobody asked for.
    pub(super) passes_on_acl: bool,
    pub(super) parent: Option<Arc<Folder>>,
}

fn failed(path: &Path, error: impl Into<std::io::Error>) -> RestoreError {
    RestoreError::Target {
        path: path.display().to_string(),
        source: error.into(),
    }
}

impl Target {
    /// A target for dry runs.
    pub(super) fn nowhere() -> Self {
        Self {
            root: None,
            created: false,
        }
    }

    /// Refuses, for a dry run, what [`Target::open`] would refuse.
    pub(super) fn look(path: &Path) -> Result<(), RestoreError> {
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(RestoreError::TargetExists {
                path: path.display().to_string(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed(path, error)),
        }
    }

    /// Opens or makes the folder. The path itself is the user's: symlinks in it are followed.
    pub(super) fn open(path: &Path) -> Result<Self, RestoreError> {
        let created = match std::fs::symlink_metadata(path) {
            Ok(_) => false,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path).map_err(|error| failed(path, error))?;
                true
            }
            Err(error) => return Err(failed(path, error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Self {
                root: Some(root),
                created,
            }),
            Err(Errno::NOTDIR) => Err(RestoreError::TargetExists {
                path: path.display().to_string(),
            }),
            Err(error) => Err(failed(path, error)),
        }
    }

    /// Whether this restore made it.
    pub(super) fn created(&self) -> bool {
        self.created
    }

    /// A descriptor of the root.
    pub(super) fn root(&self) -> Result<OwnedFd, Errno> {
        let root = self.root.as_ref().ok_or(Errno::BADF)?;
        openat(root, ".", DIRECTORY_FLAGS, Mode::empty())
    }

    /// Opens the folder that holds `below`, name by name, and gives the last name.
    pub(super) fn folder_of<'n>(&self, below: &'n [u8]) -> Result<(OwnedFd, &'n [u8]), Errno> {
        let mut names: Vec<&[u8]> = split_path(below).collect();
        let last = names.pop().ok_or(Errno::NOENT)?;
        let mut folder = self.root()?;
        for name in names {
            folder = openat(&folder, name, DIRECTORY_FLAGS, Mode::empty())?;
        }
        Ok((folder, last))
    }

    /// Removes one name that is not a directory.
    pub(super) fn remove(&self, below: &[u8]) -> Result<(), Errno> {
        let (folder, name) = self.folder_of(below)?;
        unlinkat(&folder, name, AtFlags::empty())
    }
}

/// Makes a directory that only we can use until its attributes are set, and opens it. `EEXIST` when the name is taken.
pub(super) fn make_directory(folder: &OwnedFd, name: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    mkdirat(folder, name, mode)?;
    open_directory(folder, name)
}

/// Opens a directory; a symlink or anything else under the name is an error.
pub(super) fn open_directory(folder: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    openat(folder, name, DIRECTORY_FLAGS, Mode::empty())
}

/// Removes what stands under a name: anything but a directory with contents.
pub(super) fn clear_name(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => unlinkat(folder, name, AtFlags::REMOVEDIR),
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Whether an error of the target concerns everything that follows.
pub(super) fn is_fatal(error: Errno) -> bool {
    matches!(error, Errno::NOSPC | Errno::DQUOT | Errno::ROFS)
}
