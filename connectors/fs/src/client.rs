//! System calls on keys below a root folder, which never leave it: no symbolic link below the root is followed.
//!
//! It does not know modes of put or what a listing is.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use plakar_plugin_api::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{os_error, wrong_kind};

/// Every temporary file's name starts so; no key's component does (see `check_key`).
pub(crate) const TEMPORARY_PREFIX: &str = ".tmp-";

/// A temporary file that was not written to for so long belongs to nobody any more.
const ABANDONED_SECONDS: u64 = 24 * 60 * 60;

const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
pub(crate) const FOLDER_MODE: Mode = Mode::RWXU;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The root folder, opened when first needed, so that `init` may create it.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    folder: RwLock<Option<Arc<OwnedFd>>>,
    /// Folders whose entries in all parents this process has synced.
    durable: Mutex<HashSet<String>>,
    /// Folders that this process has looked through for abandoned temporary files.
    tidied: Mutex<HashSet<String>>,
}

/// A folder below the root, with the last component of the key that led to it.
pub(crate) struct Place<'k> {
    pub(crate) folder: Arc<OwnedFd>,
    pub(crate) name: &'k str,
}

impl Root {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            folder: RwLock::default(),
            durable: Mutex::default(),
            tidied: Mutex::default(),
        }
    }

    /// Removes temporary files that a killed process left in the folder of `key` more than a day ago. Each folder is looked through
    /// once, by whoever writes into it: readers write nothing. What cannot be removed stays; it hurts nobody.
    pub(crate) fn tidy(&self, key: &str, folder: &OwnedFd) {
        let above = key.rsplit_once('/').map_or("", |(above, _)| above);
        let first = self
            .tidied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(above.to_owned());
        let Some(names) = first.then(|| rustix::fs::Dir::read_from(folder).ok()).flatten() else {
            return;
        };
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        for entry in names.flatten() {
            let name = entry.file_name();
            if !name.to_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                continue;
            }
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
            let old = stat.is_ok_and(|stat| {
                u64::try_from(stat.st_mtime)
                    .is_ok_and(|modified| modified.saturating_add(ABANDONED_SECONDS) < now)
            });
            if old {
                rustix::fs::unlinkat(folder, name, AtFlags::empty()).unwrap_or_default();
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The full path of a key, for messages only.
    pub(crate) fn display(&self, key: &str) -> PathBuf {
        self.path.join(key)
    }

    /// The root's descriptor. A missing root is `NotFound`, one that is no folder `Config`.
    pub(crate) fn folder(&self) -> Result<Arc<OwnedFd>> {
        if let Some(folder) = self
            .folder
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            && !is_removed(folder)
        {
            return Ok(Arc::clone(folder));
        }
        let opened = match retry_on_intr(|| rustix::fs::open(&self.path, FOLDER_FLAGS, Mode::empty())) {
            Ok(opened) => Arc::new(opened),
            Err(Errno::NOTDIR) => return Err(wrong_kind(ErrorKind::Config, &self.path, "is not a folder")),
            Err(errno) => return Err(os_error("open", &self.path, errno)),
        };
        *self.folder.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// The folder that holds (or would hold) `key`. `None` when a folder on the way is missing or an object.
    pub(crate) fn find<'k>(&self, key: &'k str) -> Result<Option<Place<'k>>> {
        let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
        Ok(self.open_folder(folders)?.map(|folder| Place { folder, name }))
    }

    /// A folder below the root; `None` when it is missing or not a folder.
    pub(crate) fn open_folder(&self, folders: &str) -> Result<Option<Arc<OwnedFd>>> {
        let mut folder = self.folder()?;
        for name in folders.split('/').filter(|name| !name.is_empty()) {
            match open_below(&folder, name) {
                Ok(below) => folder = Arc::new(below),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => return self.refuse_link(&folder, name, folders),
                Err(errno) => return Err(os_error("open", &self.display(folders), errno)),
            }
        }
        Ok(Some(folder))
    }

    /// What is in the way of a folder: an object means that the key is missing, a link is an error.
    fn refuse_link<T>(&self, folder: &OwnedFd, name: &str, folders: &str) -> Result<Option<T>> {
        match kind_of(folder, name) {
            Ok((FileType::Symlink, _)) => Err(os_error("open", &self.display(folders), Errno::LOOP)),
            _ => Ok(None),
        }
    }

    /// The folder for `key`, created with its parents where missing.
    pub(crate) fn create_folders<'k>(&self, key: &'k str) -> Result<Place<'k>> {
        if let Some(place) = self.find(key)? {
            return Ok(place);
        }
        let (folders, name) = key.rsplit_once('/').unwrap_or(("", key));
        let mut folder = self.folder()?;
        for component in folders.split('/').filter(|component| !component.is_empty()) {
            match retry_on_intr(|| rustix::fs::mkdirat(&folder, component, FOLDER_MODE)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(os_error("create the folder", &self.display(folders), errno)),
            }
            let below = open_below(&folder, component)
                .map_err(|errno| os_error("open", &self.display(folders), errno))?;
            folder = Arc::new(below);
        }
        Ok(Place { folder, name })
    }

    /// Makes the folders of `key` survive a loss of power: syncs every parent, once per folder and process, also
    /// when another process created them, which may not have come to its own sync yet.
    pub(crate) fn sync_parents(&self, key: &str) -> Result<()> {
        let (folders, _) = key.rsplit_once('/').unwrap_or(("", key));
        let known = || self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if folders.is_empty() || known().contains(folders) {
            return Ok(());
        }
        let mut folder = self.folder()?;
        let mut path = String::new();
        for name in folders.split('/') {
            path.push_str(name);
            let failed = |errno| os_error("sync the folder of", &self.display(&path), errno);
            if !known().contains(&path) {
                sync(&folder).map_err(failed)?;
                known().insert(path.clone());
            }
            folder = Arc::new(open_below(&folder, name).map_err(failed)?);
            path.push('/');
        }
        Ok(())
    }
}

/// Whether a folder was removed while it was open: it would look empty, not gone.
fn is_removed(folder: &OwnedFd) -> bool {
    rustix::fs::fstat(folder).is_ok_and(|stat| stat.st_nlink == 0)
}

/// Opens a folder that is an entry of another, and not a link.
pub(crate) fn open_below(folder: &OwnedFd, name: &str) -> rustix::io::Result<OwnedFd> {
    retry_on_intr(|| rustix::fs::openat(folder, name, FOLDER_FLAGS | OFlags::NOFOLLOW, Mode::empty()))
}

/// What an entry is, and its size; links are not followed.
pub(crate) fn kind_of(folder: &OwnedFd, name: &str) -> rustix::io::Result<(FileType, u64)> {
    let stat: Stat = retry_on_intr(|| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))?;
    Ok((
        FileType::from_raw_mode(stat.st_mode),
        u64::try_from(stat.st_size).unwrap_or(0),
    ))
}

pub(crate) fn sync(file: impl AsFd) -> rustix::io::Result<()> {
    let file = file.as_fd();
    retry_on_intr(|| rustix::fs::fsync(file))
}

/// A new file of a random name in `folder`, removed again unless it is `kept`.
pub(crate) struct TemporaryFile {
    folder: Arc<OwnedFd>,
    name: String,
    file: OwnedFd,
    kept: bool,
}

impl TemporaryFile {
    pub(crate) fn create(folder: &Arc<OwnedFd>) -> rustix::io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            let random = std::collections::hash_map::RandomState::new()
                .build_hasher()
                .finish();
            let name = format!("{TEMPORARY_PREFIX}{random:016x}");
            match retry_on_intr(|| rustix::fs::openat(folder, &name, flags, FILE_MODE)) {
                Ok(file) => {
                    return Ok(Self {
                        folder: Arc::clone(folder),
                        name,
                        file,
                        kept: false,
                    });
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    pub(crate) fn write_all(&self, mut bytes: &[u8]) -> rustix::io::Result<()> {
        while !bytes.is_empty() {
            let written = retry_on_intr(|| rustix::io::write(&self.file, bytes))?;
            if written == 0 {
                return Err(Errno::IO);
            }
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives the file its name, whether or not that is taken.
    pub(crate) fn replace(mut self, name: &str) -> rustix::io::Result<()> {
        retry_on_intr(|| rustix::fs::renameat(&self.folder, &self.name, &self.folder, name))?;
        self.kept = true;
        Ok(())
    }

    /// Gives the file its name, unless that is taken (`EXIST`): without a gap, on every file system that can.
    pub(crate) fn create_as(mut self, name: &str) -> rustix::io::Result<()> {
        match self.rename_without_replacing(name) {
            // File systems without that flag (NFS, some FUSE): a hard link refuses an existing name too.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => retry_on_intr(|| {
                rustix::fs::linkat(&self.folder, &self.name, &self.folder, name, AtFlags::empty())
            }),
            Ok(()) => {
                self.kept = true;
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    #[cfg(target_os = "linux")]
    fn rename_without_replacing(&self, name: &str) -> rustix::io::Result<()> {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        retry_on_intr(|| rustix::fs::renameat_with(&self.folder, &self.name, &self.folder, name, flags))
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, reason = "the same shape as on Linux")]
    fn rename_without_replacing(&self, _name: &str) -> rustix::io::Result<()> {
        Err(Errno::NOSYS)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing can be done about a failure here; the file is never listed and has no key.
            let _failed = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty()).is_err();
        }
    }
}

/// The error for something at `key` that is not a plain file.
pub(crate) fn not_an_object(path: &Path, kind: FileType) -> Error {
    let what = match kind {
        FileType::Directory => "is a folder, not an object",
        FileType::Symlink => "is a symbolic link, not an object",
        _ => "is a special file, not an object",
    };
    wrong_kind(ErrorKind::Other, path, what)
}
