//! Whether a file may be used as code or as a list of code: who owns it, who can write it, which bytes it has.
//!
//! What was checked is what gets loaded: the bytes are copied into sealed memory. It runs nothing.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::elf;
use super::error::PluginError;

/// Larger files are not libraries of ours.
const MAX_LIBRARY_BYTES: u64 = 512 << 20;
const OTHERS_MAY_WRITE: u32 = 0o022;

/// A library whose bytes were checked.
#[derive(Debug)]
pub(super) struct Verified {
    /// Where the bytes came from, for messages.
    pub(super) path: PathBuf,
    pub(super) hash: blake3::Hash,
    bytes: Vec<u8>,
}

/// Something the dynamic loader can open, holding the checked bytes.
pub(super) enum Loadable {
    /// Sealed memory. The descriptor must stay open as long as the library is loaded: the loader knows libraries by
    /// the names they were opened by, and a number used again would name an old library.
    Memory(OwnedFd),
    /// The file itself, where there is no sealed memory.
    File(PathBuf),
}

impl Loadable {
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Memory(descriptor) => PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd())),
            Self::File(path) => path.clone(),
        }
    }
}

/// Reads and checks a library: trusted place, the pinned bytes (when there is a pin), whole.
pub(super) fn library(path: &Path, pin: Option<&blake3::Hash>) -> Result<Verified, PluginError> {
    let bytes = read_trusted(path)?;
    let hash = blake3::hash(&bytes);
    if let Some(pinned) = pin.filter(|&pinned| *pinned != hash) {
        let (pinned, found) = (pinned.to_hex().to_string(), hash.to_hex().to_string());
        return Err(PluginError::Changed {
            path: path.to_owned(),
            pinned,
            found,
        });
    }
    if let Some(fault) = elf::fault(&bytes) {
        return Err(PluginError::not_a_library(path, fault));
    }
    Ok(Verified {
        path: path.to_owned(),
        hash,
        bytes,
    })
}

/// Reads a file that nobody but the user and root can have written.
pub(super) fn read_trusted(path: &Path) -> Result<Vec<u8>, PluginError> {
    let unreadable = |errno: Errno| PluginError::Read {
        path: path.to_owned(),
        source: errno.into(),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(PluginError::untrusted(path, "it is not the path of a file"));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(parent, flags | OFlags::DIRECTORY, Mode::empty()).map_err(unreadable)?;
    check_owner(parent, &folder, "folder")?;
    let file = match rustix::fs::openat(
        &folder,
        name,
        flags | OFlags::NOFOLLOW | OFlags::NONBLOCK,
        Mode::empty(),
    ) {
        Ok(file) => file,
        Err(Errno::LOOP) => {
            return Err(PluginError::untrusted(
                path,
                "it is a symbolic link; name the file it points to",
            ));
        }
        Err(errno) => return Err(unreadable(errno)),
    };
    let size = check_owner(path, &file, "file")?;
    if size > MAX_LIBRARY_BYTES {
        return Err(PluginError::untrusted(path, "it is larger than 512 MiB"));
    }
    let mut bytes = Vec::new();
    let read = File::from(file).take(MAX_LIBRARY_BYTES).read_to_end(&mut bytes);
    read.map_err(|source| PluginError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(bytes)
}

/// Refuses what someone other than the user or root owns or may write. Gives the size.
fn check_owner(path: &Path, file: &OwnedFd, what: &str) -> Result<u64, PluginError> {
    let stat = rustix::fs::fstat(file).map_err(|errno| PluginError::Read {
        path: path.to_owned(),
        source: errno.into(),
    })?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if what == "file" && kind != FileType::RegularFile {
        return Err(PluginError::untrusted(path, "it is not a plain file"));
    }
    let user = rustix::process::geteuid().as_raw();
    if stat.st_uid != 0 && stat.st_uid != user {
        let why = format!(
            "the {what} belongs to user {}, who could change it; it must belong to you or root",
            stat.st_uid
        );
        return Err(PluginError::untrusted(path, why));
    }
    if Mode::from_raw_mode(stat.st_mode).bits() & OTHERS_MAY_WRITE != 0 {
        let why = format!(
            "the {what} can be written by others; run `chmod go-w {}`",
            path.display()
        );
        return Err(PluginError::untrusted(path, why));
    }
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

impl Verified {
    /// Puts the checked bytes where the dynamic loader can open them.
    pub(super) fn into_loadable(self) -> Result<Loadable, PluginError> {
        match sealed_memory(&self.bytes) {
            Ok(Some(memory)) => Ok(Loadable::Memory(memory)),
            Ok(None) => Ok(Loadable::File(self.path)),
            Err(source) => Err(PluginError::Read {
                path: self.path,
                source,
            }),
        }
    }
}

/// Memory that holds `bytes` and can never be changed again; `None` where the system has none.
#[cfg(target_os = "linux")]
fn sealed_memory(bytes: &[u8]) -> std::io::Result<Option<OwnedFd>> {
    use rustix::fs::MemfdFlags;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Newer kernels want to be told that it will be executed, older ones do not know the flag.
    let created = rustix::fs::memfd_create("plakar-connector", flags | MemfdFlags::EXEC)
        .or_else(|_unknown_flag| rustix::fs::memfd_create("plakar-connector", flags));
    let Ok(memory) = created else { return Ok(None) };
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    let memory = OwnedFd::from(file);
    seal(&memory)?;
    Ok(Some(memory))
}

/// Seals memory that this process alone holds, and of which there is no mapping.
///
/// `F_SEAL_WRITE` is refused with `EBUSY` while anything holds a reference to one of the pages: the kernel itself does at times, when
/// memory is scanned or moved. `F_SEAL_FUTURE_WRITE` (Linux 5.1) asks for no such thing, and where there is no mapping yet it
/// promises as much.
#[cfg(target_os = "linux")]
fn seal(memory: &OwnedFd) -> std::io::Result<()> {
    use rustix::fs::{SealFlags, fcntl_add_seals};
    let size = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    match fcntl_add_seals(memory, size | SealFlags::WRITE) {
        Err(Errno::BUSY) => fcntl_add_seals(memory, size | SealFlags::FUTURE_WRITE)?,
        sealed => sealed?,
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn sealed_memory(_bytes: &[u8]) -> std::io::Result<Option<OwnedFd>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn refusal(path: &Path) -> String {
        let error = read_trusted(path).unwrap_err();
        assert!(matches!(error, PluginError::Untrusted { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn what_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lib.so");
        fs::write(&file, "x").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        set(&file, 0o644);
        assert_eq!(read_trusted(&file).unwrap(), b"x");
        for mode in [0o664, 0o646, 0o666] {
            set(&file, mode);
            assert!(refusal(&file).contains("chmod go-w"), "file {mode:o}");
        }
        set(&file, 0o644);
        for mode in [0o775, 0o757, 0o1777] {
            set(folder.path(), mode);
            assert!(
                refusal(&file).contains("the folder can be written by others"),
                "folder {mode:o}"
            );
        }
    }

    #[test]
    fn links_and_special_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("lib.so"), folder.path().join("link.so"));
        fs::write(&file, "x").unwrap();
        symlink(&file, &link).unwrap();
        assert!(refusal(&link).contains("symbolic link"));
        assert!(refusal(Path::new("/dev/null")).contains("plain file"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn sealed_memory_cannot_be_changed() {
        let memory = sealed_memory(b"checked").unwrap().unwrap();
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        assert_eq!(fs::read(&path).unwrap(), b"checked");
        assert!(rustix::io::pwrite(&memory, b"changed", 0).is_err());
        assert!(rustix::fs::ftruncate(&memory, 0).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"checked");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_sealed_even_while_something_holds_one_of_its_pages() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals};
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::io::pwrite(&memory, b"checked", 0).unwrap();
        // Copied without being moved: the pipe refers to the page itself.
        let (_reader, writer) = std::io::pipe().unwrap();
        let copied = rustix::fs::sendfile(&writer, &memory, Some(&mut 0), 7).unwrap();
        assert_eq!(copied, 7);
        assert_eq!(fcntl_add_seals(&memory, SealFlags::WRITE), Err(Errno::BUSY));
        seal(&memory).unwrap();
        assert!(rustix::io::pwrite(&memory, b"changed", 0).is_err());
        assert!(rustix::fs::ftruncate(&memory, 0).is_err());
    }
}
