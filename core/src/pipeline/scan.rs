//! Walks the source: gives directories and names in the order in which the tree is built. It reads no file.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, RawDir, SeekFrom, openat, seek};
use rustix::io::Errno;

use crate::format::tree::{Entry, EntryKind, MAX_DIRECTORY_DEPTH};
use crate::id::BlobId;
use crate::progress::Problem;
use crate::read_error::ReadError;
use crate::repository::{BlobReader, EntryCursor};

use super::metadata::{Owners, Stat, entry_of, file_xattrs, stat_at, stat_fd};

/// Tells which entries to leave out.
#[derive(Debug, Clone, Copy)]
pub struct FilterItem<'a> {
    /// The backed-up root that the entry lies in.
    pub root: &'a Path,
    /// The path below the root.
    pub relative: &'a Path,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Returns whether to leave an entry out; what is below an excluded directory is not asked for.
pub type Filter = dyn Fn(&FilterItem<'_>) -> bool + Send + Sync;

/// What to walk and what to leave out.
pub struct ScanOptions<'a> {
    /// Absolute paths without symlinks, `.` and `..`.
    pub roots: &'a [PathBuf],
    /// Leaves entries out.
    pub filter: Option<&'a Filter>,
    /// Do not go into other file systems.
    pub one_file_system: bool,
    /// Leave out the contents of directories with a `CACHEDIR.TAG`.
    pub exclude_caches: bool,
    /// Save extended attributes.
    pub xattrs: bool,
    /// Device and inode of the repository's own folder: never walked.
    pub repository: Option<(u64, u64)>,
    /// Names of owners.
    pub owners: &'a Owners,
}

impl std::fmt::Debug for ScanOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScanOptions")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

/// An open directory of the source.
#[derive(Debug)]
pub struct Directory {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// Its absolute path.
    pub path: Vec<u8>,
    root: Option<Arc<Root>>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    device: u64,
}

/// A name in a directory that is not a directory.
#[derive(Debug)]
pub struct FileItem {
    /// Where it is.
    pub directory: Arc<Directory>,
    /// Its name.
    pub name: Vec<u8>,
    /// Whether it is known to be a regular file: nothing else may be opened, because opening a device or a FIFO has effects.
    pub regular: bool,
    /// The entry of this name in the parent snapshot.
    pub previous: Option<Box<Entry>>,
}

/// One step of the walk.
pub enum WalkItem {
    /// A directory begins; its entry has everything but the node.
    Enter(Box<Entry>, Vec<u8>),
    /// Something that is not a directory.
    File(FileItem),
    /// A stream to save as a file: its entry without content, and its path.
    Stream(Box<Entry>, Vec<u8>, Box<dyn std::io::Read + Send>),
    /// Something could not be walked.
    Problem(Problem),
    /// The directory entered last ends.
    Leave,
}

impl std::fmt::Debug for WalkItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Enter(entry, _) => write!(f, "Enter({:?})", entry.name),
            Self::File(item) => write!(f, "File({:?})", item.name),
            Self::Stream(entry, ..) => write!(f, "Stream({:?})", entry.name),
            Self::Problem(problem) => write!(f, "Problem({problem:?})"),
            Self::Leave => f.write_str("Leave"),
        }
    }
}

/// Steps that go to one worker.
pub type Batch = Vec<WalkItem>;

/// Files in a batch: neighbours that are likely to share frames.
const BATCH_FILES: usize = 512;
/// Steps of any kind in a batch.
const BATCH_STEPS: usize = 4096;
/// Directories in a batch: bounds the open descriptors.
const BATCH_DIRECTORIES: usize = 64;

/// What of the tree is to be walked: the roots, and the directories above them.
#[derive(Debug, Default)]
struct Plan {
    root: bool,
    children: BTreeMap<Vec<u8>, Plan>,
}

impl Plan {
    fn new(roots: &[PathBuf]) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let mut plan = Self::default();
        for root in roots {
            let mut node = &mut plan;
            for name in crate::repository::split_path(root.as_os_str().as_bytes()) {
                node = node.children.entry(name.to_vec()).or_default();
            }
            node.root = true;
        }
        plan
    }
}

/// Sorted names of a directory in two allocations, because directories of a million names exist.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    places: Vec<(u32, u16, EntryHint)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EntryHint {
    Directory,
    File,
    Special,
    Unknown,
}

impl Names {
    fn push(&mut self, name: &[u8], hint: EntryHint) {
        let start = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(name);
        self.places
            .push((start, u16::try_from(name.len()).unwrap_or(u16::MAX), hint));
    }

    fn name(&self, place: (u32, u16, EntryHint)) -> &[u8] {
        let start = place.0 as usize;
        self.bytes
            .get(start..start + usize::from(place.1))
            .unwrap_or_default()
    }

    /// Puts the names in order, each once. A name that was taken away and made again while the directory was read may have been
    /// given twice, and may have become something else: who visits it looks again.
    fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |place: &(u32, u16, EntryHint)| {
            let start = place.0 as usize;
            bytes.get(start..start + usize::from(place.1)).unwrap_or_default()
        };
        self.places.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        self.places.dedup_by(|again, kept| {
            let same = name(again) == name(kept);
            if same && again.2 != kept.2 {
                kept.2 = EntryHint::Unknown;
            }
            same
        });
    }

    /// Adds what another reading of the directory found. A name that only one of the two has stays if `is_there` says so.
    fn merge(self, again: &Self, mut is_there: impl FnMut(&[u8]) -> bool) -> Self {
        let mut all = Self::default();
        for (one, other) in [(&self, again), (again, &self)] {
            for &place in &one.places {
                let name = one.name(place);
                if other.has(name) || is_there(name) {
                    all.push(name, place.2);
                }
            }
        }
        all.sort();
        all
    }

    fn has(&self, wanted: &[u8]) -> bool {
        self.places
            .binary_search_by(|place| self.name(*place).cmp(wanted))
            .is_ok()
    }

    fn retain(&mut self, wanted: &[u8]) {
        let bytes = &self.bytes;
        self.places.retain(|place| {
            let start = place.0 as usize;
            bytes.get(start..start + usize::from(place.1)) == Some(wanted)
        });
    }
}

struct Level {
    directory: Arc<Directory>,
    names: Names,
    next: usize,
    plan: Plan,
    previous: Option<EntryCursor>,
}

/// The walk.
pub struct Scanner<'a> {
    options: &'a ScanOptions<'a>,
    reader: BlobReader<'a>,
    batch: Batch,
    files: usize,
    directories: usize,
    emit: &'a mut dyn FnMut(Batch) -> ControlFlow<()>,
}

impl std::fmt::Debug for Scanner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scanner")
            .field("options", self.options)
            .finish_non_exhaustive()
    }
}

fn read_names(directory: &OwnedFd) -> Result<Names, Errno> {
    let mut names = Names::default();
    let mut buffer = Vec::with_capacity(64 << 10);
    let space: &mut [MaybeUninit<u8>] = buffer.spare_capacity_mut();
    let mut entries = RawDir::new(directory.as_fd(), space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let hint = match entry.file_type() {
            FileType::Directory => EntryHint::Directory,
            FileType::Unknown => EntryHint::Unknown,
            FileType::RegularFile => EntryHint::File,
            _ => EntryHint::Special,
        };
        names.push(name, hint);
    }
    names.sort();
    Ok(names)
}

/// Readings of a directory that is written to meanwhile, at most.
const READINGS: usize = 5;

/// Reads a directory until it did not change meanwhile. A file that is saved by renaming another over it may move to a place in the
/// directory that was read already, and would be missed although it was there all the time.
fn read_settled(directory: &OwnedFd) -> Result<Names, Errno> {
    let state = || stat_fd(directory).map(|stat| (stat.modified, stat.changed));
    let is_there = |name: &[u8]| stat_at(directory, name).is_ok();
    let read = || {
        seek(directory, SeekFrom::Start(0))?;
        read_names(directory)
    };
    settle(state, read, is_there)
}

fn settle<S: PartialEq>(
    mut state: impl FnMut() -> Result<S, Errno>,
    mut read: impl FnMut() -> Result<Names, Errno>,
    mut is_there: impl FnMut(&[u8]) -> bool,
) -> Result<Names, Errno> {
    let mut before = state()?;
    let mut names = read()?;
    for _ in 1..READINGS {
        let after = state()?;
        if before == after {
            break;
        }
        before = after;
        names = names.merge(&read()?, &mut is_there);
    }
    Ok(names)
}

/// `directory/name`.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

impl<'a> Scanner<'a> {
    /// A walk that hands batches to `emit` until that breaks.
    pub fn new(
        options: &'a ScanOptions<'a>,
        reader: BlobReader<'a>,
        emit: &'a mut dyn FnMut(Batch) -> ControlFlow<()>,
    ) -> Self {
        Self {
            options,
            reader,
            batch: Batch::new(),
            files: 0,
            directories: 0,
            emit,
        }
    }

    /// Walks everything. `previous` is the node of `/` in the parent snapshot. Fails only when the repository cannot be read.
    pub fn run(mut self, previous: Option<BlobId>) -> Result<(), ReadError> {
        let mut stack = Vec::new();
        let plan = Plan::new(self.options.roots);
        match rustix::fs::open("/", DIRECTORY_FLAGS, Mode::empty()) {
            Ok(fd) => stack.push(self.level(fd, b"/".to_vec(), None, plan, previous)),
            Err(error) => self.problem(b"/".to_vec(), "cannot open", error),
        }
        while let Some(level) = stack.last_mut() {
            let Some(place) = level.names.places.get(level.next).copied() else {
                stack.pop();
                // The root directory `/` was never entered: the builder begins in it.
                if !stack.is_empty() {
                    self.batch.push(WalkItem::Leave);
                }
                continue;
            };
            level.next += 1;
            let name = level.names.name(place).to_vec();
            let directory = Arc::clone(&level.directory);
            let plan = level.plan.children.remove(&name).unwrap_or_default();
            let previous = match level
                .previous
                .as_mut()
                .map(|cursor| cursor.seek(&mut self.reader, &name))
            {
                None => None,
                Some(Ok(previous)) => previous,
                Some(Err(error)) if error.is_damage() => {
                    tracing::warn!("the parent snapshot cannot be used here: {error}");
                    level.previous = None;
                    None
                }
                Some(Err(error)) => return Err(error),
            };
            if let Some(below) = self.visit(directory, name, place.2, plan, previous) {
                if stack.len() < MAX_DIRECTORY_DEPTH {
                    stack.push(below);
                } else {
                    self.too_deep(&below);
                }
            }
            let full = self.files >= BATCH_FILES
                || self.directories >= BATCH_DIRECTORIES
                || self.batch.len() >= BATCH_STEPS;
            if full && self.flush().is_break() {
                return Ok(());
            }
        }
        // The last batch: whether anybody still wants more makes no difference.
        match self.flush() {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
        }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        self.files = 0;
        self.directories = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            ControlFlow::Continue(())
        } else {
            (self.emit)(batch)
        }
    }

    fn problem(&mut self, path: Vec<u8>, what: &str, error: Errno) {
        let message = format!("{what}: {}", std::io::Error::from(error));
        self.batch.push(WalkItem::Problem(Problem { path, message }));
    }

    /// A directory that was entered and that nobody could restore: it stays empty.
    fn too_deep(&mut self, level: &Level) {
        self.batch.push(WalkItem::Leave);
        let message =
            format!("what is in it is left out: directories are nested more than {MAX_DIRECTORY_DEPTH} deep");
        let path = level.directory.path.clone();
        self.batch.push(WalkItem::Problem(Problem { path, message }));
    }

    /// Takes one name: a file goes into the batch, a directory is opened and becomes the next level.
    fn visit(
        &mut self,
        directory: Arc<Directory>,
        name: Vec<u8>,
        hint: EntryHint,
        plan: Plan,
        previous: Option<Entry>,
    ) -> Option<Level> {
        // Above the roots only the planned names are walked; they are directories, or a root that is a file.
        let kind = match hint {
            EntryHint::Directory => EntryKind::Directory,
            EntryHint::File => EntryKind::File,
            EntryHint::Special => EntryKind::Symlink,
            EntryHint::Unknown => match stat_at(&directory.fd, &name) {
                Ok(stat) => stat.kind,
                Err(error) => {
                    self.problem(join(&directory.path, &name), "cannot read", error);
                    return None;
                }
            },
        };
        let is_directory = kind == EntryKind::Directory;
        if self.excluded(&directory, &name, is_directory) {
            return None;
        }
        if !is_directory {
            self.files += 1;
            self.batch.push(WalkItem::File(FileItem {
                directory,
                name,
                regular: kind == EntryKind::File,
                previous: previous.map(Box::new),
            }));
            return None;
        }
        self.enter(&directory, name, plan, previous)
    }

    fn excluded(&self, directory: &Directory, name: &[u8], is_directory: bool) -> bool {
        let (Some(filter), Some(root)) = (self.options.filter, &directory.root) else {
            return false;
        };
        let path = join(&directory.path, name);
        let relative = as_path(&path).strip_prefix(&root.path).unwrap_or(as_path(&path));
        filter(&FilterItem {
            root: &root.path,
            relative,
            directory: is_directory,
        })
    }

    fn enter(
        &mut self,
        above: &Directory,
        name: Vec<u8>,
        plan: Plan,
        previous: Option<Entry>,
    ) -> Option<Level> {
        let path = join(&above.path, &name);
        let opened = openat(&above.fd, name.as_slice(), DIRECTORY_FLAGS, Mode::empty());
        let (fd, stat) = match opened.and_then(|fd| stat_fd(&fd).map(|stat| (fd, stat))) {
            Ok(opened) => opened,
            Err(error) => {
                self.unreadable(above, name, path, error);
                return None;
            }
        };
        if self.options.repository == Some((stat.device, stat.inode)) {
            tracing::info!(
                "the repository itself is not backed up: {}",
                String::from_utf8_lossy(&path)
            );
            return None;
        }
        let xattrs = if self.options.xattrs {
            file_xattrs(&fd)
        } else {
            Ok(Vec::new())
        };
        let xattrs = xattrs.unwrap_or_else(|error| {
            self.problem(path.clone(), "cannot read the extended attributes", error);
            Vec::new()
        });
        let mut entry = entry_of(name, &stat, self.options.owners);
        entry.xattrs = crate::format::tree::Xattrs::Inline(xattrs);
        self.directories += 1;
        self.batch.push(WalkItem::Enter(Box::new(entry), path.clone()));
        let root = match &above.root {
            Some(root) => Some(Arc::clone(root)),
            None if plan.root => Some(Arc::new(Root {
                path: as_path(&path).to_path_buf(),
                device: stat.device,
            })),
            None => None,
        };
        let other_file_system =
            self.options.one_file_system && root.as_ref().is_some_and(|root| root.device != stat.device);
        let node = previous.and_then(|previous| previous.node);
        if other_file_system {
            self.batch.push(WalkItem::Leave);
            return None;
        }
        Some(self.level(fd, path, root, plan, node))
    }

    /// Saves a directory that cannot be opened as an empty one and says so.
    fn unreadable(&mut self, above: &Directory, name: Vec<u8>, path: Vec<u8>, error: Errno) {
        self.problem(path.clone(), "cannot open the directory", error);
        if let Ok(
            stat @ Stat {
                kind: EntryKind::Directory,
                ..
            },
        ) = stat_at(&above.fd, &name)
        {
            let entry = entry_of(name, &stat, self.options.owners);
            self.batch.push(WalkItem::Enter(Box::new(entry), path));
            self.batch.push(WalkItem::Leave);
        }
    }

    fn level(
        &mut self,
        fd: OwnedFd,
        path: Vec<u8>,
        root: Option<Arc<Root>>,
        plan: Plan,
        previous: Option<BlobId>,
    ) -> Level {
        let inside = root.is_some() || plan.root;
        let mut names = Names::default();
        if inside {
            match read_settled(&fd) {
                Ok(read) => names = read,
                Err(error) => self.problem(path.clone(), "cannot list the directory", error),
            }
            if self.options.exclude_caches && names.has(CACHE_TAG_NAME) && is_cache(&fd) {
                names.retain(CACHE_TAG_NAME);
            }
        } else {
            for name in plan.children.keys() {
                names.push(name, EntryHint::Unknown);
            }
        }
        let root = root.or_else(|| {
            let device = stat_fd(&fd).map_or(0, |stat| stat.device);
            plan.root.then(|| {
                Arc::new(Root {
                    path: as_path(&path).to_path_buf(),
                    device,
                })
            })
        });
        let directory = Arc::new(Directory { fd, path, root });
        Level {
            directory,
            names,
            next: 0,
            plan,
            previous: previous.map(EntryCursor::new),
        }
    }
}

const CACHE_TAG_NAME: &[u8] = b"CACHEDIR.TAG";
/// The signature of the Cache Directory Tagging Specification.
const CACHE_TAG_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

fn is_cache(directory: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let Ok(tag) = openat(directory, CACHE_TAG_NAME, flags, Mode::empty()) else {
        return false;
    };
    let mut start = [0; 43];
    rustix::io::read(&tag, &mut start).is_ok_and(|length| start.get(..length) == Some(CACHE_TAG_SIGNATURE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_given_twice_stands_once_and_is_looked_at_again() {
        let mut names = Names::default();
        for (name, hint) in [
            ("saved", EntryHint::File),
            ("a", EntryHint::Directory),
            ("swapped", EntryHint::File),
            ("saved", EntryHint::File),
            ("swapped", EntryHint::Directory),
            ("b", EntryHint::Special),
        ] {
            names.push(name.as_bytes(), hint);
        }
        names.sort();
        let found: Vec<_> = names
            .places
            .iter()
            .map(|&place| (names.name(place), place.2))
            .collect();
        assert_eq!(
            found,
            [
                (&b"a"[..], EntryHint::Directory),
                (b"b", EntryHint::Special),
                (b"saved", EntryHint::File),
                (b"swapped", EntryHint::Unknown),
            ]
        );
    }

    fn found(readings: &[&[&str]], states: &[u32], there: &[&str]) -> (Vec<String>, usize) {
        let (mut readings, mut states) = (readings.iter(), states.iter());
        let mut count = 0;
        let names = settle(
            || Ok(*states.next().unwrap()),
            || {
                count += 1;
                let mut names = Names::default();
                for name in *readings.next().unwrap() {
                    names.push(name.as_bytes(), EntryHint::File);
                }
                names.sort();
                Ok(names)
            },
            |name| there.iter().any(|there| there.as_bytes() == name),
        )
        .unwrap();
        let text = |&place: &_| String::from_utf8(names.name(place).to_vec()).unwrap();
        (names.places.iter().map(text).collect(), count)
    }

    #[test]
    fn a_directory_that_is_written_to_is_read_again_and_a_file_that_moved_in_it_is_not_missed() {
        assert_eq!(
            found(&[&["a", "b"]], &[1, 1], &[]),
            (vec!["a".into(), "b".into()], 1)
        );
        let moved = found(&[&["a", "gone"], &["b"]], &[1, 2, 2], &["a", "b"]);
        assert_eq!(moved, (vec!["a".into(), "b".into()], 2));
        let never_still = found(&[&["a"][..]; READINGS], &[1, 2, 3, 4, 5, 6], &[]);
        assert_eq!(never_still, (vec!["a".into()], READINGS));
    }
}
