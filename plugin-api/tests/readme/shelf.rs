//! A connector that keeps objects as files below one folder: the key `a/b` of `shelf:///srv/shelf` is `/srv/shelf/a/b`.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, Level, ListPage, ObjectInfo, PutMode, PutOptions,
    Result, Settings, check_key,
};

plakar_plugin_api::export_connector! {
    type: ShelfConnector, name: "shelf", version: env!("CARGO_PKG_VERSION"), schemes: ["shelf"]
}

/// How much is written between two looks at whether the host wants to stop.
const STEP_BYTES: usize = 1 << 20;

/// An open shelf.
#[derive(Debug)]
pub struct ShelfConnector {
    folder: PathBuf,
    host: Host,
}

impl Connector for ShelfConnector {
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self> {
        settings.only(&[])?; // a misspelt setting is an error, not a surprise
        let path = location
            .strip_prefix("shelf://")
            .map(Path::new)
            .filter(|path| path.is_absolute());
        let folder = path
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Config,
                    format!("{location} is not of the form shelf:///FOLDER"),
                )
            })?
            .to_owned();
        host.log(Level::Debug, "open", location);
        Ok(Self { folder, host })
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: true,
            strongly_consistent: true,
            exclusive_create: true,
            max_object_bytes: 1 << 40,
            preferred_pack_bytes: 16 << 20,
            concurrency: 4,
        }
    }

    fn probe(&self) -> Result<Capabilities> {
        match fs::metadata(&self.folder) {
            Ok(found) if found.is_dir() => Ok(self.capabilities()),
            Ok(_) => Err(Error::new(
                ErrorKind::Config,
                format!("{} is not a folder", self.folder.display()),
            )),
            Err(error) => Err(self.failed("open", "", &error)),
        }
    }

    fn init(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).map_err(|error| self.failed("create", "", &error))?;
        let mut entries = fs::read_dir(&self.folder).map_err(|error| self.failed("list", "", &error))?;
        if entries.next().is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{} is not empty", self.folder.display()),
            ));
        }
        self.folder
            .ancestors()
            .try_for_each(sync_folder)
            .map_err(|error| self.failed("sync", "", &error))
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let mut objects = Vec::new();
        collect(&self.folder, "", &mut objects).map_err(|error| self.failed("list", "", &error))?;
        objects.retain(|object| object.key.starts_with(prefix) && object.key.as_str() > start_after);
        objects.sort();
        let more = objects.len() > limit;
        objects.truncate(limit);
        Ok(ListPage { objects, more })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        let size_bytes = self.open_object(key)?.1;
        Ok(ObjectInfo {
            key: key.to_owned(),
            size_bytes,
        })
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let (mut file, size_bytes) = self.open_object(key)?;
        if offset >= size_bytes {
            return Ok(0);
        }
        let mut rest = buffer;
        let read = file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| io::copy(&mut file.take(rest.len() as u64), &mut rest));
        let read = read.map_err(|error| self.failed("read", key, &error))?;
        self.host.progress(read);
        Ok(usize::try_from(read).unwrap_or(usize::MAX))
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        check_key(key)?;
        let random = RandomState::new().build_hasher().finish();
        let temporary = self.folder.join(format!(".tmp-{random:016x}")); // no key starts with a dot
        let stored = self
            .write(key, &temporary, bytes)
            .and_then(|()| self.publish(key, &temporary, options));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                stored.and(Err(self.failed("tidy", key, &error)))
            }
            _ => stored,
        }
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        match fs::remove_file(self.folder.join(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed("delete", key, &error)),
            _ => Ok(()),
        }
    }
}

impl ShelfConnector {
    fn failed(&self, doing: &str, key: &str, error: &io::Error) -> Error {
        Error::io(
            format_args!("cannot {doing} {}", self.folder.join(key).display()),
            error,
        )
    }

    fn open_object(&self, key: &str) -> Result<(File, u64)> {
        check_key(key)?;
        let file = File::open(self.folder.join(key)).map_err(|error| self.failed("open", key, &error))?;
        let found = file
            .metadata()
            .map_err(|error| self.failed("open", key, &error))?;
        if found.is_file() {
            Ok((file, found.len()))
        } else {
            Err(Error::new(
                ErrorKind::NotFound,
                format!("{key} is a folder, not an object"),
            ))
        }
    }

    /// Writes the bytes under a name that nobody else uses and no listing shows.
    fn write(&self, key: &str, temporary: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = File::create_new(temporary).map_err(|error| self.failed("write", key, &error))?;
        for step in bytes.chunks(STEP_BYTES) {
            if self.host.cancelled() {
                return Err(Error::new(ErrorKind::Cancelled, "stopped as asked"));
            }
            file.write_all(step)
                .map_err(|error| self.failed("write", key, &error))?;
            self.host.progress(step.len() as u64);
        }
        file.sync_all().map_err(|error| self.failed("sync", key, &error))
    }

    /// Gives the written bytes their key, in one step: others see nothing, or the whole object.
    fn publish(&self, key: &str, temporary: &Path, options: PutOptions) -> Result<()> {
        let path = self.folder.join(key);
        let folders: Vec<&Path> = path
            .ancestors()
            .skip(1)
            .take_while(|above| above.starts_with(&self.folder))
            .collect();
        folders
            .first()
            .map_or(Ok(()), fs::create_dir_all)
            .map_err(|error| self.failed("write", key, &error))?;
        let published = match options.mode {
            PutMode::Create => fs::hard_link(temporary, &path), // refuses a name that is taken
            PutMode::Replace => fs::rename(temporary, &path),
        };
        published.map_err(|error| self.failed("write", key, &error))?;
        if options.durable {
            folders
                .into_iter()
                .try_for_each(sync_folder)
                .map_err(|error| self.failed("sync", key, &error))?;
        }
        Ok(())
    }
}

/// Makes the names in a folder survive a loss of power.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// All objects in a folder and below. What is no object (temporary files, foreign ones) has no valid key.
fn collect(folder: &Path, above: &str, objects: &mut Vec<ObjectInfo>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let key = format!("{above}{}", entry.file_name().display());
        match entry.metadata() {
            Ok(found) if found.is_dir() => collect(&entry.path(), &format!("{key}/"), objects)?,
            Ok(found) if found.is_file() && check_key(&key).is_ok() => {
                objects.push(ObjectInfo {
                    key,
                    size_bytes: found.len(),
                });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // deleted meanwhile
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
