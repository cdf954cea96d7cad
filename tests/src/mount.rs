//! Small file systems in memory, mounted for one test. Only root can.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

/// A mounted tmpfs, unmounted at the end.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts a tmpfs of a size over a folder, which is made.
    pub fn mount(path: PathBuf, size_bytes: u64) -> Self {
        std::fs::create_dir_all(&path).expect("a place to mount on");
        let options = CString::new(format!("size={size_bytes}")).expect("no NUL");
        mount(
            "tmpfs",
            &path,
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("this test mounts a tmpfs: it must be run as root");
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another size.
    pub fn resize(&self, size_bytes: u64) {
        let options = CString::new(format!("size={size_bytes}")).expect("no NUL");
        mount_remount(&self.path, MountFlags::empty(), options.as_c_str()).expect("a tmpfs can be resized");
    }

    /// Makes it read-only, or writable again, also for who sees it in another mount namespace.
    pub fn read_only(&self, wanted: bool) {
        let flags = if wanted {
            MountFlags::RDONLY
        } else {
            MountFlags::empty()
        };
        mount_remount(&self.path, flags, c"").expect("a tmpfs can be remounted");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.path.display());
        }
    }
}
