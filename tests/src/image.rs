//! What a tree is in every respect that a backup must keep, and a strict comparison of two trees.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, StatxFlags, openat, readlinkat, seek, statx,
};
use rustix::io::Errno;

/// One entry of a tree. Access and change times, inode numbers and the size of directories are not kept by any backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// File, directory, link, …
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time in seconds and nanoseconds.
    pub modified: (i64, u32),
    /// Size of a regular file in bytes.
    pub size: u64,
    /// BLAKE3 of the stretches with data of a regular file.
    pub content: Option<[u8; 32]>,
    /// Stretches with data: what lies between are holes.
    pub data: Vec<(u64, u64)>,
    /// The first path of the same inode, when it has several.
    pub link_group: Option<Vec<u8>>,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tree: paths below its root (the root itself is the empty path) and what is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The entries.
    pub nodes: BTreeMap<Vec<u8>, Node>,
}

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

impl Image {
    /// Looks at everything below a folder, or at a single file. Paths may be longer than the system's limit.
    pub fn of(path: &Path) -> Self {
        let mut image = Self::default();
        let mut groups = HashMap::new();
        let top = rustix::fs::open(
            path.parent().expect("not the root"),
            OPEN | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = std::os::unix::ffi::OsStrExt::as_bytes(path.file_name().expect("a name"));
        image.add(&top, name, Vec::new(), &mut groups);
        image.forget_single_names();
        image
    }

    /// Without the entries at a path and below it.
    #[must_use]
    pub fn without(mut self, path: &str) -> Self {
        let below = [path.as_bytes(), b"/"].concat();
        self.nodes
            .retain(|key, _| key != path.as_bytes() && !key.starts_with(&below));
        self
    }

    /// Without the root's own attributes.
    #[must_use]
    pub fn below(mut self) -> Self {
        self.nodes.remove(&b""[..]);
        self
    }

    /// The paths, lossily as text.
    pub fn paths(&self) -> Vec<String> {
        self.nodes
            .keys()
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect()
    }

    /// An inode whose other names lie elsewhere is like one with a single name.
    fn forget_single_names(&mut self) {
        let mut names: HashMap<Vec<u8>, u32> = HashMap::new();
        for group in self.nodes.values().filter_map(|node| node.link_group.clone()) {
            *names.entry(group).or_default() += 1;
        }
        for node in self.nodes.values_mut() {
            node.link_group = node.link_group.take().filter(|group| names[group] > 1);
        }
    }

    fn add(
        &mut self,
        folder: &OwnedFd,
        name: &[u8],
        path: Vec<u8>,
        groups: &mut HashMap<(u32, u32, u64), Vec<u8>>,
    ) {
        let stat = statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).expect("statx");
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let mut node = Node {
            kind,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            size: 0,
            content: None,
            data: Vec::new(),
            link_group: None,
            target: Vec::new(),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            xattrs: xattrs(folder, name),
        };
        if kind != FileType::Directory && stat.stx_nlink > 1 {
            let inode = (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
            node.link_group = Some(groups.entry(inode).or_insert_with(|| path.clone()).clone());
        }
        match kind {
            FileType::Symlink => {
                node.target = readlinkat(folder, name, Vec::new())
                    .expect("a target")
                    .into_bytes();
            }
            FileType::RegularFile => {
                let file = openat(folder, name, OPEN, Mode::empty()).expect("readable: compare as root");
                node.size = stat.stx_size;
                node.data = data(&file, stat.stx_size);
                node.content = Some(digest(std::fs::File::from(file), &node.data));
            }
            FileType::Directory => {
                let below = openat(folder, name, OPEN | OFlags::DIRECTORY, Mode::empty()).expect("listable");
                let entries = Dir::read_from(&below).expect("listable");
                let names = entries.map(|entry| entry.expect("listable").file_name().to_bytes().to_vec());
                let mut names: Vec<_> = names.filter(|name| name != b"." && name != b"..").collect();
                names.sort();
                for child in names {
                    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    self.add(&below, &child, [&path, slash, &child].concat(), groups);
                }
            }
            _ => {}
        }
        self.nodes.insert(path, node);
    }

    /// What differs from another tree, one line each.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, node) in &self.nodes {
            let shown = path.escape_ascii();
            match other.nodes.get(path) {
                None => lines.push(format!("`{shown}` is missing")),
                Some(found) if found != node => lines.push(format!("`{shown}`: {}", difference(node, found))),
                Some(_) => {}
            }
        }
        let extra = other.nodes.keys().filter(|path| !self.nodes.contains_key(*path));
        lines.extend(extra.map(|path| format!("`{}` is too much", path.escape_ascii())));
        lines
    }
}

fn difference(wanted: &Node, found: &Node) -> String {
    let mut parts = Vec::new();
    let mut part = |what: &str, wanted: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
        let (wanted, found) = (format!("{wanted:?}"), format!("{found:?}"));
        if wanted != found {
            parts.push(format!("{what} is {found:.300} in place of {wanted:.300}"));
        }
    };
    part("kind", &wanted.kind, &found.kind);
    part(
        "mode",
        &format!("{:o}", wanted.mode),
        &format!("{:o}", found.mode),
    );
    part("owner", &(wanted.uid, wanted.gid), &(found.uid, found.gid));
    part("mtime", &wanted.modified, &found.modified);
    part("size", &wanted.size, &found.size);
    part("content", &wanted.content, &found.content);
    part("data", &wanted.data, &found.data);
    part("link group", &wanted.link_group, &found.link_group);
    part("target", &wanted.target, &found.target);
    part("device", &wanted.device, &found.device);
    part("xattrs", &wanted.xattrs, &found.xattrs);
    parts.join("; ")
}

/// BLAKE3 of the stretches with data: where they are is compared beside it, and holes may be terabytes.
fn digest(mut file: std::fs::File, data: &[(u64, u64)]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for &(start, end) in data {
        file.seek(std::io::SeekFrom::Start(start)).expect("seekable");
        hasher.update_reader((&file).take(end - start)).expect("readable");
    }
    *hasher.finalize().as_bytes()
}

/// Where a file has data, in stretches.
fn data(file: &OwnedFd, size: u64) -> Vec<(u64, u64)> {
    let mut stretches = Vec::new();
    let mut offset = 0;
    while offset < size {
        let start = match seek(file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => panic!("this file system tells no holes: {error}"),
        };
        let end = seek(file, SeekFrom::Hole(start)).expect("a hole or the end");
        stretches.push((start, end));
        offset = end;
    }
    seek(file, SeekFrom::Start(0)).expect("back to the start");
    stretches
}

fn xattrs(folder: &OwnedFd, name: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path.as_slice(), &mut list).unwrap_or(0);
    let mut xattrs = Vec::new();
    for name in list[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path.as_slice(), name, &mut value).expect("a listed attribute");
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort();
    xattrs
}

/// Fails with every difference between two trees.
#[track_caller]
pub fn assert_same(wanted: &Image, found: &Image) {
    let differences = wanted.differences(found);
    assert!(
        differences.is_empty(),
        "the trees differ:\n{}",
        differences.join("\n")
    );
}
