//! The walker: makes directories and names of hard links, and gathers files into batches.

use std::os::fd::AsFd;
use std::sync::Arc;

use crossbeam_channel::Sender;
use rustix::io::Errno;

use crate::format::tree::{Entry, EntryKind, MAX_DIRECTORY_DEPTH};
use crate::id::BlobId;
use crate::pipeline::metadata::stat_at;
use crate::progress::{Item, ItemState};
use crate::read_error::ReadError;
use crate::repository::{BlobReader, EntryCursor, Repository};

use super::attributes::{is_unfinished, passes_on_acl};
use super::file::{self, Existing};
use super::target::{Folder, Target, clear_name, is_fatal, make_directory, open_directory};
use super::worker::{FileWork, Work, finish_folder, make_now};
use super::{Inode, Links, Overwrite, RestoreError, RestoreOptions, Selection, Shared, Start};

/// Files in a batch.
const BATCH_FILES: usize = 2048;
/// Plain bytes in a batch: about 32 neighbouring frames.
const BATCH_BYTES: u64 = 32 << 20;
/// Folders in a batch: bounds the open descriptors.
const BATCH_FOLDERS: usize = 96;
/// Decompressed metadata that the walker keeps, in bytes.
const WALK_CACHE_BYTES: usize = 8 << 20;

struct Level {
    cursor: EntryCursor,
    /// `None` until something in the directory is taken.
    folder: Option<Arc<Folder>>,
    entry: Box<Entry>,
    path: Vec<u8>,
    below: Vec<u8>,
}

/// One walk.
pub(super) struct Walk<'a> {
    shared: &'a Shared<'a>,
    options: &'a RestoreOptions,
    work: Sender<Work>,
    batch: Vec<FileWork>,
    batch_bytes: u64,
    batch_folders: usize,
    links: Links,
    /// Whether files that exist may be replaced.
    replaces: bool,
}

fn below_of(above: &[u8], name: &[u8]) -> Vec<u8> {
    let mut below = above.to_vec();
    if !below.is_empty() {
        below.push(b'/');
    }
    below.extend_from_slice(name);
    below
}

fn path_of(above: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = above.to_vec();
    if !path.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn select(options: &RestoreOptions, below: &[u8], entry: &Entry) -> Selection {
    options.select.as_ref().map_or(Selection::Take, |select| {
        select(below, entry.kind == EntryKind::Directory)
    })
}

/// Above the start of a single file, the path of its directory.
fn walked_path(start: &Start) -> Vec<u8> {
    match &start.only {
        None => start.path.clone(),
        Some(name) => {
            let end = start.path.len().saturating_sub(name.len() + 1);
            start.path.get(..end.max(1)).unwrap_or(b"/").to_vec()
        }
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, options: &'a RestoreOptions, work: Sender<Work>) -> Self {
        Self {
            shared,
            options,
            work,
            batch: Vec::new(),
            batch_bytes: 0,
            batch_folders: 0,
            links: Links::new(),
            replaces: matches!(options.overwrite, Overwrite::Always | Overwrite::IfNewer)
                && !shared.target.created(),
        }
    }

    /// Walks everything. Failures are in `shared`.
    pub(super) fn run(mut self, start: &Start) -> Links {
        let mut reader = BlobReader::new(self.shared.repository, WALK_CACHE_BYTES);
        let mut stack = Vec::new();
        match self.first_level(start) {
            Ok(level) => stack.push(level),
            Err(error) => self.shared.fail(error),
        }
        while !stack.is_empty() {
            if self.shared.stopped() {
                break;
            }
            let next = match (&start.only, stack.len()) {
                (Some(name), 1) => level_seek(&mut stack, &mut reader, name),
                _ => level_next(&mut stack, &mut reader),
            };
            match next {
                Ok(Some(entry)) => self.visit(&mut stack, entry),
                Ok(None) => self.leave(&mut stack),
                Err(error) => {
                    if let Some(level) = stack.last() {
                        self.shared.read_problem(&level.path, error);
                    }
                    self.leave(&mut stack);
                }
            }
        }
        self.flush();
        while !stack.is_empty() {
            self.leave(&mut stack);
        }
        self.links
    }

    fn first_level(&self, start: &Start) -> Result<Level, RestoreError> {
        let path = walked_path(start);
        let folder = if self.options.dry_run {
            None
        } else {
            let failed = |error: Errno| RestoreError::Target {
                path: self.options.target.display().to_string(),
                source: error.into(),
            };
            let own = self.shared.target.created() && start.only.is_none() && start.entry.name != b"/";
            let fd = self.shared.target.root().map_err(failed)?;
            Some(Arc::new(Folder {
                passes_on_acl: passes_on_acl(&fd),
                fd,
                path: path.clone(),
                entry: own.then(|| Box::new(start.entry.clone())),
                existed: !self.shared.target.created(),
                parent: None,
            }))
        };
        let node = start.entry.node.unwrap_or(BlobId([0; 24]));
        let entry = Box::new(start.entry.clone());
        Ok(Level {
            cursor: EntryCursor::new(node),
            folder,
            entry,
            path,
            below: Vec::new(),
        })
    }

    fn visit(&mut self, stack: &mut Vec<Level>, entry: Entry) {
        let Some(level) = stack.last() else { return };
        let below = below_of(&level.below, &entry.name);
        let path = path_of(&level.path, &entry.name);
        let selection = select(self.options, &below, &entry);
        match (selection, entry.kind) {
            (Selection::Skip, _) | (Selection::Descend, EntryKind::Symlink) => {}
            (selection, EntryKind::Directory) => self.directory(stack, entry, path, below, selection),
            (Selection::Descend, _) => {}
            (Selection::Take, _) if self.options.dry_run => {
                let item = Item {
                    path: &path,
                    state: ItemState::Planned,
                    directory: false,
                    size_bytes: entry.size_bytes,
                };
                self.shared.item(item);
            }
            (Selection::Take, _) => {
                if let Some(folder) = self.folder(stack) {
                    self.take(folder, entry, path, below);
                }
            }
        }
    }

    fn directory(
        &mut self,
        stack: &mut Vec<Level>,
        entry: Entry,
        path: Vec<u8>,
        below: Vec<u8>,
        selection: Selection,
    ) {
        if stack.len() >= MAX_DIRECTORY_DEPTH {
            self.shared
                .problem(&path, "directories are nested too deep".to_owned());
            return;
        }
        let Some(node) = entry.node else { return };
        let level = Level {
            cursor: EntryCursor::new(node),
            folder: None,
            entry: Box::new(entry),
            path,
            below,
        };
        stack.push(level);
        if selection == Selection::Take && !self.options.dry_run && self.folder(stack).is_none() {
            stack.pop();
        }
    }

    /// The folder of the innermost level; makes it, and those above it, when nothing needed them before.
    fn folder(&mut self, stack: &mut [Level]) -> Option<Arc<Folder>> {
        let made = stack.iter().rposition(|level| level.folder.is_some())?;
        let mut parent = stack.get(made)?.folder.clone()?;
        for level in stack.iter_mut().skip(made + 1) {
            match self.make(&parent, level) {
                Ok(folder) => {
                    level.folder = Some(Arc::clone(&folder));
                    parent = folder;
                }
                Err(error) => {
                    self.target_problem(&level.path, "cannot make the directory", error);
                    return None;
                }
            }
        }
        Some(parent)
    }

    fn make(&mut self, parent: &Arc<Folder>, level: &Level) -> Result<Arc<Folder>, Errno> {
        let name = &level.entry.name;
        let (mut keeps_own, mut existed) = (false, false);
        let mode = self
            .shared
            .attributes
            .creation_mode(EntryKind::Directory, parent.passes_on_acl);
        let fd = match make_directory(&parent.fd, name, mode) {
            Err(Errno::EXIST) => match open_directory(&parent.fd, name) {
                Ok(fd) => {
                    keeps_own = !self.may_replace(parent, &level.entry);
                    existed = true;
                    Ok(fd)
                }
                // Something else has the name.
                Err(Errno::NOTDIR | Errno::LOOP) if self.may_replace(parent, &level.entry) => {
                    clear_name(&parent.fd, name)?;
                    make_directory(&parent.fd, name, mode)
                }
                Err(Errno::NOTDIR | Errno::LOOP) => Err(Errno::EXIST),
                Err(error) => Err(error),
            },
            made => made,
        }?;
        self.batch_folders += 1;
        if parent.passes_on_acl && !existed {
            self.shared.attributes.drop_inherited(fd.as_fd());
        }
        Ok(Arc::new(Folder {
            passes_on_acl: (existed || parent.passes_on_acl) && passes_on_acl(&fd),
            fd,
            path: level.path.clone(),
            entry: (!keeps_own).then(|| level.entry.clone()),
            existed,
            parent: Some(Arc::clone(parent)),
        }))
    }

    /// Whether an existing name may be replaced, or an existing directory given other attributes.
    fn may_replace(&self, parent: &Folder, entry: &Entry) -> bool {
        let existing = || stat_at(&parent.fd, &entry.name);
        match self.shared.overwrite {
            Overwrite::Always => true,
            Overwrite::Never => existing().is_ok_and(|existing| is_unfinished(&existing, entry)),
            // Only directories got here past the check for conflicts.
            Overwrite::Error => entry.kind == EntryKind::Directory,
            Overwrite::IfNewer => existing().map_or(true, |existing| {
                existing.modified < entry.modified || is_unfinished(&existing, entry)
            }),
        }
    }

    fn target_problem(&self, path: &[u8], what: &str, error: Errno) {
        if is_fatal(error) {
            let path = String::from_utf8_lossy(path).into_owned();
            self.shared.fail(RestoreError::Target {
                path,
                source: error.into(),
            });
        } else {
            self.shared
                .problem(path, format!("{what}: {}", std::io::Error::from(error)));
        }
    }

    fn take(&mut self, folder: Arc<Folder>, entry: Entry, path: Vec<u8>, below: Vec<u8>) {
        let inode = Inode::of(&entry);
        let mut work = FileWork {
            folder,
            entry: Box::new(entry),
            path,
            placeholder: None,
        };
        if let Some(inode) = inode {
            if self.link(&work, inode, &below) {
                return;
            }
            // Made here and now, so that its other names can be linked to it: and where something may be replaced, only by what is whole.
            if work.entry.kind != EntryKind::File || self.replaces {
                if make_now(self.shared, &mut work) {
                    self.links.insert(inode, vec![(below, work.path.clone())]);
                }
                return;
            }
            match file::placeholder(self.shared, &work) {
                Ok(Existing::Placeholder(file)) => {
                    work.placeholder = Some(file);
                    self.links.insert(inode, vec![(below, work.path.clone())]);
                }
                Ok(Existing::Kept) => return,
                Err(error) => return self.target_problem(&work.path, "cannot create the file", error),
            }
        }
        self.batch_bytes += work.entry.size_bytes;
        self.batch.push(work);
        let full = self.batch.len() >= BATCH_FILES
            || self.batch_bytes >= BATCH_BYTES
            || self.batch_folders >= BATCH_FOLDERS;
        if full {
            self.flush();
        }
    }

    /// Makes one more name of an inode that was restored already. `false` when it was not, or cannot be linked: then it is restored as a file.
    fn link(&mut self, work: &FileWork, inode: Inode, below: &[u8]) -> bool {
        let Some(names) = self.links.get_mut(&inode) else {
            return false;
        };
        let Some((first, _)) = names.first() else {
            return false;
        };
        let linked = self
            .shared
            .target
            .folder_of(first)
            .and_then(|(folder, name)| file::link(self.shared, work, &folder, name));
        let Ok(state) = linked else {
            return false;
        };
        if state == ItemState::Done {
            names.push((below.to_vec(), work.path.clone()));
        }
        file::count(self.shared, work, state);
        true
    }

    fn flush(&mut self) {
        self.batch_bytes = 0;
        self.batch_folders = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return;
        }
        // A send fails only when every worker is gone, which a failure told about.
        if self.work.send(Work::Files(batch)).is_err() {
            self.shared.fail(RestoreError::Cancelled);
        }
    }

    fn leave(&mut self, stack: &mut Vec<Level>) {
        let Some(level) = stack.pop() else { return };
        match level.folder {
            Some(folder) => finish_folder(self.shared, folder),
            None if self.options.dry_run && !stack.is_empty() => {
                let item = Item {
                    path: &level.path,
                    state: ItemState::Planned,
                    directory: true,
                    size_bytes: 0,
                };
                self.shared.item(item);
            }
            None => {}
        }
    }
}

/// The single entry that was asked for, once.
fn level_seek(
    stack: &mut [Level],
    reader: &mut BlobReader<'_>,
    name: &[u8],
) -> Result<Option<Entry>, ReadError> {
    stack
        .last_mut()
        .map_or(Ok(None), |level| level.cursor.seek(reader, name))
}

fn level_next(stack: &mut [Level], reader: &mut BlobReader<'_>) -> Result<Option<Entry>, ReadError> {
    stack
        .last_mut()
        .map_or(Ok(None), |level| level.cursor.next(reader))
}

/// Looks through the target for anything in the way, before anything is written.
pub(super) fn refuse_conflicts(
    repository: &Repository,
    start: &Start,
    options: &RestoreOptions,
) -> Result<(), RestoreError> {
    match std::fs::read_dir(&options.target) {
        Ok(mut names) => {
            if names.next().is_none() {
                return Ok(());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(RestoreError::TargetExists {
                path: options.target.display().to_string(),
            });
        }
        Err(source) => {
            return Err(RestoreError::Target {
                path: options.target.display().to_string(),
                source,
            });
        }
    }
    let target = Target::open(&options.target)?;
    let failed = |error: Errno| RestoreError::Target {
        path: options.target.display().to_string(),
        source: error.into(),
    };
    let mut reader = BlobReader::new(repository, WALK_CACHE_BYTES);
    let node = start.entry.node.unwrap_or(BlobId([0; 24]));
    let mut stack = vec![(EntryCursor::new(node), target.root().map_err(failed)?, Vec::new())];
    while let Some((cursor, folder, below)) = stack.last_mut() {
        // Damage is met again, and reported, by the walk itself.
        let Ok(Some(entry)) = cursor.next(&mut reader) else {
            stack.pop();
            continue;
        };
        let below = below_of(below, &entry.name);
        let wanted = start
            .only
            .as_ref()
            .is_none_or(|only| stack_is_inside(&below, only));
        if !wanted || select(options, &below, &entry) == Selection::Skip {
            continue;
        }
        let Ok(existing) = stat_at(&*folder, &entry.name) else {
            continue;
        };
        if existing.kind != EntryKind::Directory || entry.kind != EntryKind::Directory {
            use std::os::unix::ffi::OsStrExt;
            let path = options.target.join(std::ffi::OsStr::from_bytes(&below));
            return Err(RestoreError::TargetExists {
                path: path.display().to_string(),
            });
        }
        if let (Ok(fd), Some(node)) = (open_directory(folder, &entry.name), entry.node) {
            stack.push((EntryCursor::new(node), fd, below));
        }
    }
    Ok(())
}

/// Whether a path below the start of a single-file restore is that file.
fn stack_is_inside(below: &[u8], only: &[u8]) -> bool {
    below == only
}
