//! What the file system says about an object, as an entry: `statx`, owners' names, extended attributes.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use crate::environment::Timestamp;
use crate::format::tree::{Entry, EntryKind, HardLink, Xattr};

/// The result of `statx`, in the engine's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub modified: Timestamp,
    /// Last change of the inode.
    pub changed: Timestamp,
    /// Creation, where known.
    pub born: Option<Timestamp>,
    /// Device it is on.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Names of the inode.
    pub links: u64,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Bytes allocated.
    pub allocated_bytes: u64,
    /// Major and minor number, of a device.
    pub special: (u32, u32),
}

fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec.min(999_999_999),
    }
}

fn convert(raw: &rustix::fs::Statx) -> Result<Stat, Errno> {
    let kind = match FileType::from_raw_mode(raw.stx_mode.into()) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink,
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::CharacterDevice => EntryKind::CharDevice,
        FileType::BlockDevice => EntryKind::BlockDevice,
        FileType::Unknown => return Err(Errno::OPNOTSUPP),
    };
    let born = StatxFlags::from_bits_retain(raw.stx_mask)
        .contains(StatxFlags::BTIME)
        .then(|| timestamp(raw.stx_btime));
    Ok(Stat {
        kind,
        mode: u32::from(raw.stx_mode) & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        modified: timestamp(raw.stx_mtime),
        changed: timestamp(raw.stx_ctime),
        born,
        device: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
        inode: raw.stx_ino,
        links: raw.stx_nlink.into(),
        size_bytes: raw.stx_size,
        allocated_bytes: raw.stx_blocks.saturating_mul(512),
        special: (raw.stx_rdev_major, raw.stx_rdev_minor),
    })
}

const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// What a name in a directory is; symlinks are not followed.
pub fn stat_at(directory: impl AsFd, name: &[u8]) -> Result<Stat, Errno> {
    convert(&statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, MASK)?)
}

/// What an open descriptor is.
pub fn stat_fd(fd: impl AsFd) -> Result<Stat, Errno> {
    convert(&statx(fd, "", AtFlags::EMPTY_PATH, MASK)?)
}

/// Names of users and groups, each looked up once.
#[derive(Debug, Default)]
pub struct Owners {
    users: Mutex<HashMap<u32, String>>,
    groups: Mutex<HashMap<u32, String>>,
}

impl Owners {
    /// The user's name, or nothing.
    pub fn user(&self, uid: u32) -> String {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let find = || uzers::get_user_by_uid(uid).map(|user| user.name().to_string_lossy().into_owned());
        users
            .entry(uid)
            .or_insert_with(|| find().unwrap_or_default())
            .clone()
    }

    /// The group's name, or nothing.
    pub fn group(&self, gid: u32) -> String {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let find = || uzers::get_group_by_gid(gid).map(|group| group.name().to_string_lossy().into_owned());
        groups
            .entry(gid)
            .or_insert_with(|| find().unwrap_or_default())
            .clone()
    }
}

/// An entry with everything that `statx` says.
pub fn entry_of(name: Vec<u8>, stat: &Stat, owners: &Owners) -> Entry {
    let mut entry = Entry::new(name, stat.kind);
    entry.mode = stat.mode;
    entry.uid = stat.uid;
    entry.gid = stat.gid;
    entry.user = owners.user(stat.uid);
    entry.group = owners.group(stat.gid);
    entry.modified = stat.modified;
    entry.changed = stat.changed;
    entry.born = stat.born;
    entry.inode = stat.inode;
    match stat.kind {
        EntryKind::File => entry.size_bytes = stat.size_bytes,
        EntryKind::CharDevice | EntryKind::BlockDevice => entry.device = Some(stat.special),
        _ => {}
    }
    if stat.kind != EntryKind::Directory && stat.links > 1 {
        entry.hard_link = Some(HardLink {
            device: stat.device,
            links: stat.links,
        });
    }
    entry
}

/// Reads until the buffer was large enough: the list may grow between asking for its size and reading it.
fn read_growing(mut read: impl FnMut(&mut Vec<u8>) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

fn collect(
    list: Result<Vec<u8>, Errno>,
    mut value: impl FnMut(&[u8]) -> Result<Vec<u8>, Errno>,
) -> Result<Vec<Xattr>, Errno> {
    let list = match list {
        Ok(list) => list,
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut xattrs = Vec::new();
    for name in list.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match value(name) {
            Ok(value) => xattrs.push(Xattr {
                name: name.to_vec(),
                value,
            }),
            // Removed meanwhile, or a computed one without a value.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Extended attributes of an open file or directory, sorted by name.
pub fn file_xattrs(fd: impl AsFd) -> Result<Vec<Xattr>, Errno> {
    let fd = fd.as_fd();
    let list = read_growing(|buffer| rustix::fs::flistxattr(fd, buffer.as_mut_slice()));
    collect(list, |name| {
        read_growing(|buffer| rustix::fs::fgetxattr(fd, name, buffer.as_mut_slice()))
    })
}

/// Extended attributes of a name in a directory that cannot be opened (a symlink, a FIFO, a socket, a device).
pub fn name_xattrs(directory: impl AsFd, name: &[u8]) -> Result<Vec<Xattr>, Errno> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let list = read_growing(|buffer| rustix::fs::llistxattr(path.as_slice(), buffer.as_mut_slice()));
    collect(list, |attribute| {
        read_growing(|buffer| rustix::fs::lgetxattr(path.as_slice(), attribute, buffer.as_mut_slice()))
    })
}
