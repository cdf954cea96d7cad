//! Writes one file: new ones under their own name, changed ones beside it and then renamed over it. What cannot be finished is removed;
//! what a killed process leaves is known by its mode (`attributes::is_unfinished`).

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, SeekFrom, flock, fstat, ftruncate, linkat, openat, renameat, seek,
    unlinkat,
};
use rustix::io::{Errno, pread, pwrite};

use crate::format::tree::{Content, ContentItem, Entry, EntryKind};
use crate::id::BlobId;
use crate::pipeline::metadata::{Stat, stat_at, stat_fd};
use crate::progress::{Counters, Item, ItemState};
use crate::read_error::ReadError;
use crate::repository::BlobReader;

use super::attributes::{Was, is_unfinished, is_unfinished_file};
use super::large::fill_large;
use super::target::{clear_name, is_fatal};
use super::worker::FileWork;
use super::{Overwrite, RestoreError, Shared};

/// What became of a name that was to be made at once.
pub(super) enum Existing {
    /// An empty file was made, to be filled later.
    Placeholder(OwnedFd),
    /// What exists is kept.
    Kept,
}

/// Why a file was not written.
pub(super) enum FileError {
    Target(&'static str, Errno),
    Read(ReadError),
    Stopped,
}

impl From<ReadError> for FileError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

pub(super) fn target(what: &'static str) -> impl FnOnce(Errno) -> FileError {
    move |error| FileError::Target(what, error)
}

/// Counts a finished entry and tells the observer.
pub(super) fn count(shared: &Shared<'_>, work: &FileWork, state: ItemState) {
    use std::sync::atomic::Ordering;
    if work.entry.kind == EntryKind::File {
        shared.files.fetch_add(1, Ordering::Relaxed);
        shared.bytes.fetch_add(work.entry.size_bytes, Ordering::Relaxed);
    }
    shared.item(Item {
        path: &work.path,
        state,
        directory: false,
        size_bytes: work.entry.size_bytes,
    });
}

/// Reports a failure of one file, or ends the restore when all others would fail alike.
pub(super) fn report(shared: &Shared<'_>, work: &FileWork, error: FileError) {
    match error {
        FileError::Stopped => {}
        FileError::Read(error) => shared.read_problem(&work.path, error),
        FileError::Target(_, error) if is_fatal(error) => {
            let path = String::from_utf8_lossy(&work.path).into_owned();
            shared.fail(RestoreError::Target {
                path,
                source: error.into(),
            });
        }
        FileError::Target(what, error) => {
            shared.problem(&work.path, format!("{what}: {}", std::io::Error::from(error)));
        }
    }
}

/// Whether something that exists is to be replaced.
fn replaces(overwrite: Overwrite, entry: &Entry, existing: &Stat) -> Result<bool, Errno> {
    match overwrite {
        Overwrite::IfNewer | Overwrite::Never if is_unfinished(existing, entry) => Ok(true),
        Overwrite::Always => Ok(true),
        Overwrite::IfNewer => Ok(existing.modified < entry.modified),
        Overwrite::Never => Ok(false),
        // It appeared after the look at the target.
        Overwrite::Error => Err(Errno::EXIST),
    }
}

/// Frees a name as far as the overwrite mode allows. `false` when what is there is kept.
pub(super) fn make_way(shared: &Shared<'_>, work: &FileWork) -> Result<bool, Errno> {
    let (folder, name) = (&work.folder.fd, work.entry.name.as_slice());
    match stat_at(folder, name) {
        Err(Errno::NOENT) => Ok(true),
        Err(error) => Err(error),
        Ok(existing) => {
            let replace = replaces(shared.overwrite, &work.entry, &existing)?;
            if replace {
                clear_name(folder, name)?;
            } else {
                count(shared, work, ItemState::Unchanged);
            }
            Ok(replace)
        }
    }
}

/// Makes the entry's name one more name of the file `first` in `of`. What exists under the name is replaced in one step, or left.
pub(super) fn link(
    shared: &Shared<'_>,
    work: &FileWork,
    of: &OwnedFd,
    first: &[u8],
) -> Result<ItemState, Errno> {
    let (folder, name) = (&work.folder.fd, work.entry.name.as_slice());
    let existing = match stat_at(folder, name) {
        Err(Errno::NOENT) => {
            return linkat(of, first, folder, name, AtFlags::empty()).map(|()| ItemState::Done);
        }
        existing => existing?,
    };
    if !replaces(shared.overwrite, &work.entry, &existing)? {
        return Ok(ItemState::Unchanged);
    }
    let inode = stat_at(of, first)?;
    if (inode.device, inode.inode) == (existing.device, existing.inode) {
        return Ok(ItemState::Done);
    }
    let mut temporary = temporary_name(name);
    let link = |temporary: &[u8]| linkat(of, first, folder, temporary, AtFlags::empty());
    match link(&temporary) {
        Err(Errno::EXIST) => {
            temporary = free_name(shared, folder, temporary)?;
            link(&temporary)?;
        }
        linked => linked?,
    }
    let replaced = match existing.kind {
        EntryKind::Directory => clear_name(folder, name),
        _ => Ok(()),
    }
    .and_then(|()| renameat(folder, temporary.as_slice(), folder, name));
    if replaced.is_err() {
        discard(work, &temporary);
    }
    replaced.map(|()| ItemState::Done)
}

const CREATE: OFlags = OFlags::RDWR
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn creation_mode(shared: &Shared<'_>, work: &FileWork) -> Mode {
    shared
        .attributes
        .creation_mode(EntryKind::File, work.folder.passes_on_acl)
}

/// Makes an empty file of the entry's name, so that other names can be linked to it before it is filled.
pub(super) fn placeholder(shared: &Shared<'_>, work: &FileWork) -> Result<Existing, Errno> {
    if !make_way(shared, work)? {
        return Ok(Existing::Kept);
    }
    openat(
        &work.folder.fd,
        work.entry.name.as_slice(),
        CREATE,
        creation_mode(shared, work),
    )
    .map(Existing::Placeholder)
}

/// Restores a regular file.
pub(super) fn write_file(
    shared: &Shared<'_>,
    work: &mut FileWork,
    reader: &mut BlobReader<'_>,
    lists: &mut BlobReader<'_>,
) -> Result<ItemState, FileError> {
    if let Some(file) = work.placeholder.take() {
        return match fill_and_set(shared, work, &file, reader, lists) {
            Ok(()) => Ok(ItemState::Done),
            Err(error) => {
                discard(work, &work.entry.name);
                Err(error)
            }
        };
    }
    let mode = creation_mode(shared, work);
    match openat(&work.folder.fd, work.entry.name.as_slice(), CREATE, mode) {
        Ok(file) => match fill_and_set(shared, work, &file, reader, lists) {
            Ok(()) => Ok(ItemState::Done),
            Err(error) => {
                discard(work, &work.entry.name);
                Err(error)
            }
        },
        Err(Errno::EXIST) => over_existing(shared, work, reader, lists),
        Err(error) => Err(FileError::Target("cannot create the file", error)),
    }
}

/// Removes what was not finished. There is nobody to tell if that fails too: the file itself is reported.
fn discard(work: &FileWork, name: &[u8]) {
    if let Err(error) = unlinkat(&work.folder.fd, name, AtFlags::empty()) {
        tracing::warn!("an unfinished file stays: {error}");
    }
}

fn over_existing(
    shared: &Shared<'_>,
    work: &FileWork,
    reader: &mut BlobReader<'_>,
    lists: &mut BlobReader<'_>,
) -> Result<ItemState, FileError> {
    let (folder, name) = (&work.folder.fd, work.entry.name.as_slice());
    let existing = stat_at(folder, name).map_err(target("cannot look at the existing file"))?;
    if !replaces(shared.overwrite, &work.entry, &existing).map_err(target("cannot create the file"))? {
        return Ok(ItemState::Unchanged);
    }
    // One with other names is never touched: they would change too.
    if existing.kind == EntryKind::File && existing.size_bytes == work.entry.size_bytes && existing.links == 1
    {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        if let Ok(file) = openat(folder, name, flags, Mode::empty())
            && is_same(shared, work, &file, lists)?
        {
            set_attributes(shared, work, &file, Was::Theirs, lists)?;
            return Ok(ItemState::Unchanged);
        }
    }
    let (temporary, file) = create_beside(shared, work).map_err(target("cannot create the file"))?;
    let written = fill_and_set(shared, work, &file, reader, lists).and_then(|()| {
        if existing.kind == EntryKind::Directory {
            clear_name(folder, name).map_err(target("cannot replace the directory"))?;
        }
        renameat(folder, temporary.as_slice(), folder, name).map_err(target("cannot replace the file"))
    });
    if let Err(error) = written {
        discard(work, &temporary);
        return Err(error);
    }
    Ok(ItemState::Done)
}

/// Creates the file that will take the name of the entry once it is whole. It is locked for as long as it is open.
fn create_beside(shared: &Shared<'_>, work: &FileWork) -> Result<(Vec<u8>, OwnedFd), Errno> {
    let folder = &work.folder.fd;
    let mut temporary = temporary_name(&work.entry.name);
    let create = |name: &[u8]| openat(folder, name, CREATE, creation_mode(shared, work));
    let mut file = match create(&temporary) {
        Err(Errno::EXIST) => {
            temporary = free_name(shared, folder, temporary)?;
            match create(&temporary) {
                // Another restore was faster.
                Err(Errno::EXIST) => {
                    temporary = random_name(shared)?;
                    create(&temporary)?
                }
                created => created?,
            }
        }
        created => created?,
    };
    // Where there are no locks, what a killed process left is taken for that of another one, and stays.
    let locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    // Another restore may have met it before it was locked, and taken it for one that was left.
    if locked == Err(Errno::WOULDBLOCK) || !is_at(&file, folder, &temporary) {
        temporary = random_name(shared)?;
        file = create(&temporary)?;
    }
    Ok((temporary, file))
}

/// Whether an open file is the one that has a name.
fn is_at(file: &OwnedFd, folder: &OwnedFd, name: &[u8]) -> bool {
    let inode = |stat: &Stat| (stat.device, stat.inode);
    match (stat_fd(file), stat_at(folder, name)) {
        (Ok(open), Ok(named)) => inode(&open) == inode(&named),
        _ => false,
    }
}

/// Under what name an entry is written before it replaces what has its own. The same every time: a restore that was killed is run
/// again, and meets what it left.
fn temporary_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    format!(".plakar-restore-{hash:.16}").into_bytes()
}

/// The name of a temporary file that is there already: cleared when it is marked as unfinished and nobody is at work on it, otherwise
/// another one. A snapshot may hold a file of such a name, and this may be it.
fn free_name(shared: &Shared<'_>, folder: &OwnedFd, name: Vec<u8>) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if let Ok(file) = openat(folder, name.as_slice(), flags | OFlags::WRONLY, Mode::empty())
        && fstat(&file).is_ok_and(|found| is_unfinished_file(found.st_mode))
        && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
        && is_at(&file, folder, &name)
    {
        // While it is locked nobody else clears it, so it is this one that goes.
        unlinkat(folder, name.as_slice(), AtFlags::empty())?;
        return Ok(name);
    }
    random_name(shared)
}

fn random_name(shared: &Shared<'_>) -> Result<Vec<u8>, Errno> {
    let random = shared.repository.environment().random::<8>();
    let random = random.map_err(|error| Errno::from_io_error(&error.0).unwrap_or(Errno::AGAIN))?;
    Ok(format!(".plakar-restore-{:016x}", u64::from_le_bytes(random)).into_bytes())
}

fn fill_and_set(
    shared: &Shared<'_>,
    work: &FileWork,
    file: &OwnedFd,
    reader: &mut BlobReader<'_>,
    lists: &mut BlobReader<'_>,
) -> Result<(), FileError> {
    if work.folder.passes_on_acl {
        shared.attributes.drop_inherited(file.as_fd());
    }
    fill(shared, &work.entry, file, reader, lists)?;
    set_attributes(shared, work, file, Was::Ours, lists)
}

fn set_attributes(
    shared: &Shared<'_>,
    work: &FileWork,
    file: &OwnedFd,
    was: Was,
    lists: &mut BlobReader<'_>,
) -> Result<(), FileError> {
    let xattrs = lists.xattrs(&work.entry)?;
    for (what, error) in shared.attributes.set_fd(file.as_fd(), &work.entry, &xattrs, was) {
        shared.problem(&work.path, format!("{what}: {}", std::io::Error::from(error)));
    }
    Ok(())
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, offset) {
            Ok(0) => return Err(Errno::IO),
            Ok(length) => {
                bytes = bytes.get(length..).unwrap_or_default();
                offset += length as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes the content; holes stay holes.
fn fill(
    shared: &Shared<'_>,
    entry: &Entry,
    file: &OwnedFd,
    reader: &mut BlobReader<'_>,
    lists: &mut BlobReader<'_>,
) -> Result<(), FileError> {
    let items = match &entry.content {
        Content::Inline(bytes) => {
            Counters::add(&shared.job.counters.bytes, bytes.len() as u64);
            return write_all(file, bytes, 0).map_err(target("cannot write"));
        }
        Content::List { depth: 0, items } => items,
        Content::List { .. } => return fill_large(shared, entry, file, lists),
    };
    let end = write_items(shared, file, items, 0, reader)?;
    if items.last().is_some_and(|item| item.blob.is_none()) {
        ftruncate(file, end).map_err(target("cannot set the size"))?;
    }
    Ok(())
}

/// Writes stretches from `offset` on; returns where they end.
pub(super) fn write_items(
    shared: &Shared<'_>,
    file: &OwnedFd,
    items: &[ContentItem],
    mut offset: u64,
    reader: &mut BlobReader<'_>,
) -> Result<u64, FileError> {
    for item in items {
        if shared.stopped() {
            return Err(FileError::Stopped);
        }
        if let Some(id) = item.blob {
            let blob = read_exact(reader, &id, item.length)?;
            write_all(file, &blob, offset).map_err(target("cannot write"))?;
        }
        offset += item.length;
        Counters::add(&shared.job.counters.bytes, item.length);
    }
    Ok(offset)
}

fn read_exact(
    reader: &mut BlobReader<'_>,
    id: &BlobId,
    length: u64,
) -> Result<crate::repository::Blob, ReadError> {
    let blob = reader.read(id)?;
    if blob.len() as u64 == length {
        Ok(blob)
    } else {
        Err(ReadError::damaged(
            format!("blob {id}"),
            "its length differs from what is expected",
        ))
    }
}

/// Whether an existing file has the entry's content: its chunks are hashed, nothing is read from the repository but lists.
fn is_same(
    shared: &Shared<'_>,
    work: &FileWork,
    file: &OwnedFd,
    lists: &mut BlobReader<'_>,
) -> Result<bool, FileError> {
    let mut buffer = Vec::new();
    let mut offset = 0;
    let mut same = true;
    let mut compare = |wanted: Option<&BlobId>, plain: Option<&[u8]>, length: u64| -> Result<(), Errno> {
        let mut left = length;
        while same && left > 0 {
            if shared.stopped() {
                return Err(Errno::CANCELED);
            }
            // Where the existing file has a hole too there is nothing to compare: and it may be one of terabytes.
            if wanted.is_none() && plain.is_none() {
                let skipped = hole_at(file, offset).min(left);
                offset += skipped;
                left -= skipped;
                if left == 0 {
                    break;
                }
            }
            // A hole is compared piece by piece, a chunk whole: no chunk is longer than a frame.
            let piece = if wanted.is_some() || plain.is_some() {
                left
            } else {
                left.min(1 << 20)
            };
            buffer.resize(usize::try_from(piece).unwrap_or(0), 0);
            let mut filled = 0;
            while let Some(space) = buffer.get_mut(filled..).filter(|space| !space.is_empty()) {
                match pread(file, space, offset + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            same &= filled == buffer.len()
                && match (wanted, plain) {
                    (Some(id), _) => shared.repository.keys().blob_id(&buffer) == *id,
                    (None, Some(plain)) => plain == buffer.as_slice(),
                    (None, None) => buffer.iter().all(|&byte| byte == 0),
                };
            offset += piece;
            left -= piece;
        }
        Ok(())
    };
    if let Content::Inline(bytes) = &work.entry.content {
        compare(None, Some(bytes), bytes.len() as u64).map_err(target("cannot read the existing file"))?;
        return Ok(same);
    }
    let mut failure = None;
    lists.for_each_item(&work.entry.content, &mut |item| {
        let bounded = item.blob.is_none() || item.length <= crate::format::MAX_FRAME_BYTES as u64;
        if !bounded {
            return Err(ReadError::damaged(
                "a content list",
                "a chunk is longer than allowed",
            ));
        }
        if let Err(error) = compare(item.blob.as_ref(), None, item.length) {
            failure.get_or_insert(error);
        }
        Ok(())
    })?;
    match failure {
        Some(Errno::CANCELED) => Err(FileError::Stopped),
        Some(error) => Err(FileError::Target("cannot read the existing file", error)),
        None => Ok(same),
    }
}

/// How far a hole goes on from an offset: 0 where there is data, or where the file system does not tell.
fn hole_at(file: &OwnedFd, offset: u64) -> u64 {
    match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data.saturating_sub(offset),
        // No data up to the end, wherever that is.
        Err(Errno::NXIO) => fstat(file)
            .ok()
            .and_then(|stat| u64::try_from(stat.st_size).ok())
            .map_or(0, |end| end.saturating_sub(offset)),
        Err(_) => 0,
    }
}
