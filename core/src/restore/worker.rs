//! A worker: writes the files of a batch and everything that is not a directory, and finishes folders that nobody needs any more.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use rustix::fs::{AtFlags, FileType, Mode, makedev, mknodat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::format::tree::{Content, Entry, EntryKind};
use crate::pipeline::metadata::stat_at;
use crate::progress::{Item, ItemState};
use crate::repository::BlobReader;

use super::attributes::Was;
use super::file::{FileError, count, make_way, report, write_file};
use super::target::Folder;
use super::{Inode, Overwrite, Shared};

/// Decompressed frames that a worker keeps, in bytes.
const FRAME_CACHE_BYTES: usize = 8 << 20;
/// Decompressed metadata that a worker keeps, in bytes.
const LIST_CACHE_BYTES: usize = 2 << 20;

/// One entry to make.
#[derive(Debug)]
pub(super) struct FileWork {
    pub(super) folder: Arc<Folder>,
    pub(super) entry: Box<Entry>,
    /// Path in the snapshot.
    pub(super) path: Vec<u8>,
    /// The empty file, when other names may be linked to it already.
    pub(super) placeholder: Option<OwnedFd>,
}

/// What a worker is given.
#[derive(Debug)]
pub(super) enum Work {
    /// Neighbouring entries.
    Files(Vec<FileWork>),
}

/// Works until no more comes. After a failure it goes on taking work, so that the walker never waits for ever.
pub(super) fn run(shared: &Shared<'_>, work: &Receiver<Work>) {
    let mut reader = data_reader(shared);
    let mut lists = BlobReader::new(shared.repository, LIST_CACHE_BYTES);
    let mut next = None;
    while let Some(files) = next.take().or_else(|| wait_for_work(shared, work, &mut reader)) {
        next = next_batch(shared, work, &mut reader);
        for mut file in files {
            if !shared.stopped() {
                one(shared, &mut file, &mut reader, &mut lists);
            } else if file.placeholder.is_some() {
                discard_placeholder(shared, &file);
            }
            finish_folder(shared, file.folder);
        }
    }
}

/// A reader of file contents, which reads ahead where that helps.
pub(super) fn data_reader<'a>(shared: &Shared<'a>) -> BlobReader<'a> {
    BlobReader::with_read_ahead(shared.repository, FRAME_CACHE_BYTES, shared.fetches.as_ref())
}

fn wait_for_work(
    shared: &Shared<'_>,
    work: &Receiver<Work>,
    reader: &mut BlobReader<'_>,
) -> Option<Vec<FileWork>> {
    shared.idle.fetch_add(1, Ordering::Relaxed);
    let received = work.recv();
    shared.idle.fetch_sub(1, Ordering::Relaxed);
    let Work::Files(files) = received.ok()?;
    expect_contents(shared, &files, reader);
    Some(files)
}

/// The batch after this one, if there is one already and the storage is far away: its data then comes while this one is written.
fn next_batch(
    shared: &Shared<'_>,
    work: &Receiver<Work>,
    reader: &mut BlobReader<'_>,
) -> Option<Vec<FileWork>> {
    shared.fetches.as_ref()?;
    let Work::Files(files) = work.try_recv().ok()?;
    expect_contents(shared, &files, reader);
    Some(files)
}

fn expect_contents(shared: &Shared<'_>, files: &[FileWork], reader: &mut BlobReader<'_>) {
    if shared.fetches.is_none() {
        return;
    }
    // What exists may be what is wanted already: its content is then not read at all.
    let absent = files.iter().filter(|file| {
        file.placeholder.is_some() || stat_at(&file.folder.fd, file.entry.name.as_slice()).is_err()
    });
    let items = absent.flat_map(|file| match &file.entry.content {
        Content::List { depth: 0, items } => items.as_slice(),
        _ => &[],
    });
    reader.expect(items.filter_map(|item| item.blob.as_ref()));
}

fn discard_placeholder(shared: &Shared<'_>, work: &FileWork) {
    if let Err(error) = unlinkat(&work.folder.fd, work.entry.name.as_slice(), AtFlags::empty()) {
        tracing::warn!("an unfinished file stays: {error}");
    }
    fail_links(shared, work);
}

fn fail_links(shared: &Shared<'_>, work: &FileWork) {
    shared
        .failed_links
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(Inode::of(&work.entry));
}

fn one(shared: &Shared<'_>, work: &mut FileWork, reader: &mut BlobReader<'_>, lists: &mut BlobReader<'_>) {
    let linked = work.placeholder.is_some();
    let made = if work.entry.kind == EntryKind::File {
        write_file(shared, work, reader, lists).map(Some)
    } else {
        special(shared, work, lists)
    };
    match made {
        Ok(Some(state)) => count(shared, work, state),
        Ok(None) => {}
        Err(error) => {
            if linked {
                fail_links(shared, work);
            }
            report(shared, work, error);
        }
    }
}

/// Makes one entry at once, counts it and reports what went wrong. Returns whether it stands now as it is in the snapshot.
pub(super) fn make_now(shared: &Shared<'_>, work: &mut FileWork) -> bool {
    let mut lists = BlobReader::new(shared.repository, LIST_CACHE_BYTES);
    let made = if work.entry.kind == EntryKind::File {
        let mut reader = BlobReader::new(shared.repository, FRAME_CACHE_BYTES);
        write_file(shared, work, &mut reader, &mut lists).map(Some)
    } else {
        special(shared, work, &mut lists)
    };
    match made {
        Ok(Some(state)) => {
            count(shared, work, state);
            // What was left alone may be anything.
            state == ItemState::Done || shared.overwrite == Overwrite::Always
        }
        Ok(None) => false,
        Err(error) => {
            report(shared, work, error);
            false
        }
    }
}

/// Makes a symlink, FIFO, socket or device. `None` when something was there and is kept.
fn special(
    shared: &Shared<'_>,
    work: &FileWork,
    lists: &mut BlobReader<'_>,
) -> Result<Option<ItemState>, FileError> {
    let failed = |error| FileError::Target("cannot create it", error);
    if !make_way(shared, work).map_err(failed)? {
        return Ok(None);
    }
    let (folder, name) = (&work.folder.fd, work.entry.name.as_slice());
    let node = |kind: FileType, device: Option<(u32, u32)>| {
        let (major, minor) = device.unwrap_or((0, 0));
        mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
    };
    match work.entry.kind {
        EntryKind::Symlink => symlinkat(work.entry.link_target.as_slice(), folder, name),
        EntryKind::Fifo => node(FileType::Fifo, None),
        EntryKind::Socket => node(FileType::Socket, None),
        EntryKind::CharDevice => node(FileType::CharacterDevice, work.entry.device),
        EntryKind::BlockDevice => node(FileType::BlockDevice, work.entry.device),
        EntryKind::File | EntryKind::Directory => Err(Errno::INVAL),
    }
    .map_err(failed)?;
    if work.folder.passes_on_acl {
        shared.attributes.drop_inherited_by_name(folder.as_fd(), name);
    }
    let xattrs = lists.xattrs(&work.entry)?;
    for (what, error) in shared
        .attributes
        .set_name(folder.as_fd(), name, &work.entry, &xattrs)
    {
        shared.problem(&work.path, format!("{what}: {}", std::io::Error::from(error)));
    }
    Ok(Some(ItemState::Done))
}

/// Lets go of a folder. Whoever lets go last sets its attributes, when nothing in it changes any more, and lets go of the folder above.
pub(super) fn finish_folder(shared: &Shared<'_>, folder: Arc<Folder>) {
    let mut next = Some(folder);
    while let Some(folder) = next.take().and_then(Arc::into_inner) {
        // What was stopped is not finished: it keeps the mode that says so.
        if let Some(entry) = folder.entry.as_ref().filter(|_| !shared.stopped()) {
            let xattrs = BlobReader::new(shared.repository, 1 << 20).xattrs(entry);
            let xattrs = xattrs.unwrap_or_else(|error| {
                shared.read_problem(&folder.path, error);
                Vec::new()
            });
            let was = if folder.existed { Was::Theirs } else { Was::Ours };
            for (what, error) in shared.attributes.set_fd(folder.fd.as_fd(), entry, &xattrs, was) {
                shared.problem(&folder.path, format!("{what}: {}", std::io::Error::from(error)));
            }
        }
        if folder.parent.is_some() && !shared.stopped() {
            shared.item(Item {
                path: &folder.path,
                state: ItemState::Done,
                directory: true,
                size_bytes: 0,
            });
        }
        next = folder.parent;
    }
}
