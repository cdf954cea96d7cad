//! The connector: its promises, and how each is kept with files.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, ListPage, ObjectInfo, PutMode, PutOptions, Result,
    Settings, Space, check_key, check_prefix,
};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::client::{
    FOLDER_MODE, Root, TEMPORARY_PREFIX, TemporaryFile, kind_of, not_an_object, open_below, sync,
};
use crate::config::root_path;
use crate::error::{os_error, read_error, wrong_kind};
use crate::listing;

/// How much is written between two looks at whether the host wants to stop.
const WRITE_STEP_BYTES: usize = 4 << 20;

/// Objects as files below a folder.
#[derive(Debug)]
pub struct FsConnector {
    root: Root,
    host: Host,
    /// Cleared when the file system turned out to have no way to create without replacing.
    exclusive_create: AtomicBool,
}

impl FsConnector {
    fn stop_if_cancelled(&self) -> Result<()> {
        if self.host.cancelled() {
            Err(Error::new(ErrorKind::Cancelled, "stopped as asked"))
        } else {
            Ok(())
        }
    }

    fn missing(&self, key: &str) -> Error {
        os_error("read", &self.root.display(key), Errno::NOENT)
    }

    fn write_temporary(&self, temporary: &TemporaryFile, bytes: &[u8], path: &Path) -> Result<()> {
        for step in bytes.chunks(WRITE_STEP_BYTES) {
            self.stop_if_cancelled()?;
            temporary
                .write_all(step)
                .map_err(|errno| os_error("write", path, errno))?;
            self.host.progress(step.len() as u64);
        }
        self.stop_if_cancelled()
    }
}

impl Connector for FsConnector {
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self> {
        let root = Root::new(root_path(location, settings)?);
        Ok(Self {
            root,
            host,
            exclusive_create: AtomicBool::new(true),
        })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: true,
            strongly_consistent: true,
            exclusive_create: self.exclusive_create.load(Ordering::Relaxed),
            max_object_bytes: i64::MAX as u64,
            preferred_pack_bytes: 16 << 20,
            concurrency: 4,
        }
    }

    fn probe(&self) -> Result<Capabilities> {
        let folder = self.root.folder()?;
        let entries = Dir::read_from(&folder).and_then(|mut entries| entries.next().transpose());
        entries.map_err(|errno| os_error("list", self.root.path(), errno))?;
        Ok(self.capabilities())
    }

    fn init(&self) -> Result<()> {
        let path = self.root.path();
        create_root(path)?;
        let folder = self.root.folder()?;
        let entries = Dir::read_from(&folder).map_err(|errno| os_error("list", path, errno))?;
        for entry in entries {
            let entry = entry.map_err(|errno| os_error("list", path, errno))?;
            let name = entry.file_name().to_bytes();
            // `lost+found` is there on every fresh ext4; temporary files, and the first folder with no more in it, are what a
            // killed creation left.
            let vacant = [".", "..", "lost+found"].map(str::as_bytes).contains(&name)
                || name.starts_with(TEMPORARY_PREFIX.as_bytes())
                || (name == b"keys" && holds_only_temporaries(&folder, "keys"));
            if !vacant {
                return Err(wrong_kind(ErrorKind::AlreadyExists, path, "is not empty"));
            }
        }
        sync(&folder).map_err(|errno| os_error("sync", path, errno))
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        check_prefix(prefix)?;
        self.stop_if_cancelled()?;
        listing::list(&self.root, prefix, start_after, limit)
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        check_key(key)?;
        let place = self.root.find(key)?.ok_or_else(|| self.missing(key))?;
        match kind_of(&place.folder, place.name) {
            Ok((FileType::RegularFile, size_bytes)) => Ok(ObjectInfo {
                key: key.to_owned(),
                size_bytes,
            }),
            Ok((kind, _)) => Err(not_an_object(&self.root.display(key), kind)),
            Err(errno) => Err(os_error("read", &self.root.display(key), errno)),
        }
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        check_key(key)?;
        self.stop_if_cancelled()?;
        let place = self.root.find(key)?.ok_or_else(|| self.missing(key))?;
        let failed = |errno| read_error(&self.root.display(key), errno);
        // NONBLOCK: opening a foreign pipe must not wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = retry_on_intr(|| rustix::fs::openat(&place.folder, place.name, flags, Mode::empty()))
            .map_err(failed)?;
        let stat = retry_on_intr(|| rustix::fs::fstat(&file)).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            return Err(not_an_object(&self.root.display(key), kind));
        }
        if offset >= u64::try_from(stat.st_size).unwrap_or(0) {
            return Ok(0);
        }
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match retry_on_intr(|| rustix::io::pread(&file, &mut *rest, offset + filled as u64))
                .map_err(failed)?
            {
                0 => break,
                read => filled += read,
            }
        }
        self.host.progress(filled as u64);
        Ok(filled)
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        check_key(key)?;
        self.stop_if_cancelled()?;
        let path = self.root.display(key);
        let failed = |doing: &'static str| {
            let path = path.clone();
            move |errno| os_error(doing, &path, errno)
        };
        let place = self.root.create_folders(key)?;
        self.root.tidy(key, &place.folder);
        let temporary = TemporaryFile::create(&place.folder).map_err(failed("write"))?;
        self.write_temporary(&temporary, bytes, &path)?;
        if options.durable {
            sync(temporary.file()).map_err(failed("sync"))?;
        }
        match options.mode {
            PutMode::Replace => temporary.replace(place.name).map_err(failed("replace"))?,
            PutMode::Create => match temporary.create_as(place.name) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(wrong_kind(ErrorKind::AlreadyExists, &path, "exists")),
                Err(errno) => return Err(os_error("create", &path, errno)),
            },
        }
        if options.durable {
            sync(&place.folder).map_err(failed("sync the folder of"))?;
            self.root.sync_parents(key)?;
        }
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let Some(place) = self.root.find(key)? else {
            return Ok(());
        };
        match retry_on_intr(|| rustix::fs::unlinkat(&place.folder, place.name, rustix::fs::AtFlags::empty()))
        {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(os_error("delete", &self.root.display(key), errno)),
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        let folder = self.root.folder()?;
        let found = retry_on_intr(|| rustix::fs::fstatvfs(&folder));
        let found = found.map_err(|errno| os_error("ask for the free space of", self.root.path(), errno))?;
        Ok(Some(Space {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            available_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        }))
    }
}

/// Creates the folder and its missing parents, and makes each survive a loss of power.
fn create_root(path: &Path) -> Result<()> {
    match retry_on_intr(|| rustix::fs::mkdir(path, FOLDER_MODE)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {
            let parent = path
                .parent()
                .ok_or_else(|| os_error("create the folder", path, Errno::NOENT))?;
            create_root(parent)?;
            retry_on_intr(|| rustix::fs::mkdir(path, FOLDER_MODE))
                .or_else(|errno| if errno == Errno::EXIST { Ok(()) } else { Err(errno) })
                .map_err(|errno| os_error("create the folder", path, errno))?;
        }
        Err(Errno::NOTDIR) => {
            return Err(wrong_kind(
                ErrorKind::Config,
                path,
                "has a parent that is not a folder",
            ));
        }
        Err(errno) => return Err(os_error("create the folder", path, errno)),
    }
    let parent = path.parent().unwrap_or(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = retry_on_intr(|| rustix::fs::open(parent, flags, Mode::empty()));
    opened
        .and_then(sync)
        .map_err(|errno| os_error("sync", parent, errno))
}

/// Whether a folder below the root has nothing in it but what killed puts left.
fn holds_only_temporaries(root: &OwnedFd, name: &str) -> bool {
    let Ok(entries) = open_below(root, name).and_then(|folder| Dir::read_from(&folder)) else {
        return false;
    };
    entries.into_iter().all(|entry| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name().to_bytes();
            name == b"." || name == b".." || name.starts_with(TEMPORARY_PREFIX.as_bytes())
        })
    })
}
