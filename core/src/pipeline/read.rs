//! Saves one file: compares it with the parent snapshot, reads it, cuts it, and gives its entry. What goes wrong with it is returned as data.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags, SeekFrom, openat, readlinkat, seek};
use rustix::io::{Errno, pread};

use crate::environment::Timestamp;
use crate::format::tree::{Content, ContentItem, Entry, EntryKind, Xattr, Xattrs, encode_xattrs};
use crate::id::BlobId;
use crate::progress::{Cancel, Counters, ItemState, Problem};
use crate::read_error::ReadError;
use crate::repository::{BlobReader, Repository};

use super::chunk::Chunker;
use super::metadata::{Owners, Stat, entry_of, file_xattrs, name_xattrs, stat_at, stat_fd};
use super::scan::{FileItem, join};
use super::tree::{BlobSink, store_content};

/// Files up to this size are kept in their entry, in bytes.
const INLINE_BYTES: usize = 1024;
/// Extended attributes up to this size are kept in their entry, in bytes.
const INLINE_XATTRS_BYTES: usize = 4096;
/// Inodes with several names whose content is remembered, so that it is read once.
const REMEMBERED_LINKS: usize = 65_536;
/// A file whose inode changed later than this before the parent backup began may have changed again unseen: clocks tick coarsely.
const RACY_SECONDS: i64 = 2;

/// What all workers share.
pub struct ReadContext<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Cuts files.
    pub chunker: &'a Chunker,
    /// Names of owners.
    pub owners: &'a Owners,
    /// Totals.
    pub counters: &'a Counters,
    /// Asks to stop.
    pub cancel: &'a Cancel,
    /// Save extended attributes.
    pub xattrs: bool,
    /// Only look, read no contents.
    pub dry_run: bool,
    /// When the parent snapshot began; `None` reads everything.
    pub parent_time: Option<Timestamp>,
    /// Contents of inodes with several names, each with what the inode looked like when it was read.
    pub links: Mutex<HashMap<(u64, u64), (Stat, Content)>>,
}

impl std::fmt::Debug for ReadContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadContext")
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

/// Where chunks go: possibly to other workers, the ids come back in order.
pub trait ChunkSink: BlobSink {
    /// Takes a chunk of a large file. Its id is given by [`ChunkSink::drain`], in order.
    fn submit(&mut self, plain: &[u8]) -> Result<(), ReadError>;

    /// Waits until at most `limit` submitted chunks are unfinished and hands over the ids of the finished ones.
    fn drain(&mut self, limit: usize, ids: &mut Vec<BlobId>) -> Result<(), ReadError>;

    /// Nobody wants the ids of submitted chunks any more: their file could not be read to its end. The next file's come first.
    fn abandon(&mut self);
}

/// What became of one file.
#[derive(Debug)]
pub struct Saved {
    /// Its entry; `None` when it could not be saved at all.
    pub entry: Option<Entry>,
    /// Whether it was read.
    pub state: ItemState,
    /// What went wrong.
    pub problems: Vec<Problem>,
}

/// Why a file could not be saved: its own fault, or the repository's.
enum Failure {
    Source(&'static str, Errno),
    Repository(ReadError),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Repository(error)
    }
}

fn source(what: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |error| Failure::Source(what, error)
}

/// Saves what stands under one name. Fails only when the repository fails.
pub fn save(
    context: &ReadContext<'_>,
    item: FileItem,
    buffer: &mut Vec<u8>,
    sink: &mut dyn ChunkSink,
) -> Result<Saved, ReadError> {
    let path = join(&item.directory.path, &item.name);
    let mut problems = Vec::new();
    match save_item(context, item, &path, buffer, sink, &mut problems) {
        Ok((entry, state)) => Ok(Saved {
            entry: Some(entry),
            state,
            problems,
        }),
        Err(Failure::Source(what, error)) => {
            let message = match error {
                Errno::NOENT => "it vanished before it could be read".to_owned(),
                error => format!("{what}: {}", std::io::Error::from(error)),
            };
            problems.push(Problem { path, message });
            Ok(Saved {
                entry: None,
                state: ItemState::Done,
                problems,
            })
        }
        Err(Failure::Repository(error)) => Err(error),
    }
}

fn save_item(
    context: &ReadContext<'_>,
    item: FileItem,
    path: &[u8],
    buffer: &mut Vec<u8>,
    sink: &mut dyn ChunkSink,
    problems: &mut Vec<Problem>,
) -> Result<(Entry, ItemState), Failure> {
    if context.dry_run || item.previous.is_some() {
        let stat = stat_at(&item.directory.fd, &item.name).map_err(source("cannot read"))?;
        let previous = item.previous.as_deref();
        let unchanged = previous.is_some_and(|previous| is_unchanged(context, previous, &stat));
        if context.dry_run {
            let state = if unchanged {
                ItemState::Unchanged
            } else {
                ItemState::Planned
            };
            return Ok((entry_of(item.name, &stat, context.owners), state));
        }
        if unchanged && let Some(entry) = reuse(context, item.previous.as_deref(), &stat)? {
            return Ok((entry, ItemState::Unchanged));
        }
    }
    if item.regular {
        match open_file(&item) {
            Ok(file) => {
                let stat = stat_fd(&file).map_err(source("cannot read"))?;
                if stat.kind == EntryKind::File {
                    let entry = save_regular(context, item, &file, &stat, path, buffer, sink, problems)?;
                    return Ok((entry, ItemState::Done));
                }
            }
            // Replaced by a symlink or a socket since it was listed.
            Err(Errno::LOOP | Errno::NXIO) => {}
            Err(error) => return Err(Failure::Source("cannot open", error)),
        }
    }
    let entry = save_special(context, item, path, sink, problems)?;
    Ok((entry, ItemState::Done))
}

/// Opens for reading without following a symlink, without waiting for a FIFO's writer, and, where allowed, without touching the access time.
fn open_file(item: &FileItem) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match openat(
        &item.directory.fd,
        item.name.as_slice(),
        flags | OFlags::NOATIME,
        Mode::empty(),
    ) {
        Err(Errno::PERM) => openat(&item.directory.fd, item.name.as_slice(), flags, Mode::empty()),
        opened => opened,
    }
}

/// Saves a stream of unknown length as a regular file called `name`.
pub fn save_stream(
    context: &ReadContext<'_>,
    entry: Entry,
    path: &[u8],
    reader: &mut dyn std::io::Read,
    buffer: &mut Vec<u8>,
    sink: &mut dyn ChunkSink,
) -> Result<Saved, ReadError> {
    let mut items = Vec::new();
    let mut fill = |space: &mut [u8], _| {
        let mut filled = 0;
        while let Some(rest) = space.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            }
        }
        Ok(filled)
    };
    let mut problems = Vec::new();
    match read_extent(context, &mut fill, (0, u64::MAX), buffer, sink, &mut items) {
        Ok(_) => {}
        Err(Failure::Repository(error)) => return Err(error),
        Err(Failure::Source(what, error)) => {
            let message = format!("{what}: {}", std::io::Error::from(error));
            problems.push(Problem {
                path: path.to_vec(),
                message,
            });
            return Ok(Saved {
                entry: None,
                state: ItemState::Done,
                problems,
            });
        }
    }
    let mut entry = entry;
    entry.size_bytes = items.iter().map(|item| item.length).sum();
    entry.content = store_content(items, sink)?;
    Ok(Saved {
        entry: Some(entry),
        state: ItemState::Done,
        problems,
    })
}

/// Whether the inode is the one of the parent snapshot, untouched: same size, times and number.
fn is_unchanged(context: &ReadContext<'_>, previous: &Entry, stat: &Stat) -> bool {
    let Some(parent_time) = context.parent_time else {
        return false;
    };
    previous.kind == stat.kind
        && previous.inode == stat.inode
        && previous.changed == stat.changed
        && previous.modified == stat.modified
        && (stat.kind != EntryKind::File || previous.size_bytes == stat.size_bytes)
        && stat.changed.seconds.saturating_add(RACY_SECONDS) < parent_time.seconds
}

/// The new entry with the content of the old one, if all of that is still stored.
fn reuse(
    context: &ReadContext<'_>,
    previous: Option<&Entry>,
    stat: &Stat,
) -> Result<Option<Entry>, ReadError> {
    let Some(previous) = previous else { return Ok(None) };
    if !is_stored(context, &previous.content)? {
        return Ok(None);
    }
    if let Xattrs::Stored(content) = &previous.xattrs
        && !is_stored(context, content)?
    {
        return Ok(None);
    }
    let mut entry = entry_of(previous.name.clone(), stat, context.owners);
    entry.content = previous.content.clone();
    entry.xattrs = previous.xattrs.clone();
    entry.link_target.clone_from(&previous.link_target);
    Ok(Some(entry))
}

/// Whether every blob of a content is in the index, content nodes included.
fn is_stored(context: &ReadContext<'_>, content: &Content) -> Result<bool, ReadError> {
    let Content::List { depth, items } = content else {
        return Ok(true);
    };
    let index = context.repository.index();
    for id in items.iter().filter_map(|item| item.blob) {
        if index.find(&id)?.is_none() {
            return Ok(false);
        }
    }
    if *depth == 0 {
        return Ok(true);
    }
    let mut stored = true;
    let mut reader = BlobReader::new(context.repository, 4 << 20).distrusting();
    let walked = reader.for_each_item(content, &mut |item| {
        if let Some(id) = item.blob {
            stored &= index.find(&id)?.is_some();
        }
        Ok(())
    });
    match walked {
        Ok(()) => Ok(stored),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one file at work; a struct would only rename them"
)]
fn save_regular(
    context: &ReadContext<'_>,
    item: FileItem,
    file: &OwnedFd,
    stat: &Stat,
    path: &[u8],
    buffer: &mut Vec<u8>,
    sink: &mut dyn ChunkSink,
    problems: &mut Vec<Problem>,
) -> Result<Entry, Failure> {
    let mut entry = entry_of(item.name, stat, context.owners);
    if context.xattrs {
        let xattrs = file_xattrs(file);
        entry.xattrs = keep_xattrs(xattrs, path, sink, problems)?;
    }
    let link = (stat.links > 1).then_some((stat.device, stat.inode));
    if let Some(content) = link.and_then(|link| remembered(context, link, stat)) {
        entry.content = content;
        Counters::add(&context.counters.bytes, stat.size_bytes);
        return Ok(entry);
    }
    let content = read_content(context, file, stat, buffer, sink)?;
    let read_bytes = crate::format::tree::content_length(&content).unwrap_or(stat.size_bytes);
    let after = stat_fd(file).map_err(source("cannot read"))?;
    if read_bytes != stat.size_bytes || after.size_bytes != stat.size_bytes || after.modified != stat.modified
    {
        let message = "it changed while it was read; what was read is saved".to_owned();
        problems.push(Problem {
            path: path.to_vec(),
            message,
        });
    } else if let Some(link) = link {
        let mut links = context.links.lock().unwrap_or_else(PoisonError::into_inner);
        if links.len() < REMEMBERED_LINKS {
            links.insert(link, (*stat, content.clone()));
        }
    }
    entry.size_bytes = read_bytes;
    entry.content = content;
    Ok(entry)
}

/// The content of another name of the inode, unless it was touched since: it may have been written to, or be a new file that was given
/// the number of one that is gone.
fn remembered(context: &ReadContext<'_>, link: (u64, u64), stat: &Stat) -> Option<Content> {
    let links = context.links.lock().unwrap_or_else(PoisonError::into_inner);
    let (then, content) = links.get(&link)?;
    let untouched = then.changed == stat.changed
        && then.modified == stat.modified
        && then.born == stat.born
        && then.size_bytes == stat.size_bytes;
    untouched.then(|| content.clone())
}

fn keep_xattrs(
    xattrs: Result<Vec<Xattr>, Errno>,
    path: &[u8],
    sink: &mut dyn BlobSink,
    problems: &mut Vec<Problem>,
) -> Result<Xattrs, ReadError> {
    let xattrs = match xattrs {
        Ok(xattrs) => xattrs,
        Err(error) => {
            let message = format!(
                "cannot read the extended attributes: {}",
                std::io::Error::from(error)
            );
            problems.push(Problem {
                path: path.to_vec(),
                message,
            });
            return Ok(Xattrs::default());
        }
    };
    store_xattrs(xattrs, sink)
}

/// Keeps extended attributes in the entry, or stores them as content when they are large.
pub fn store_xattrs(xattrs: Vec<Xattr>, sink: &mut dyn BlobSink) -> Result<Xattrs, ReadError> {
    let size: usize = xattrs
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len())
        .sum();
    if size <= INLINE_XATTRS_BYTES {
        return Ok(Xattrs::Inline(xattrs));
    }
    let mut items = Vec::new();
    for piece in encode_xattrs(&xattrs).chunks(1 << 20) {
        items.push(ContentItem {
            length: piece.len() as u64,
            blob: Some(sink.put(piece)?),
        });
    }
    Ok(Xattrs::Stored(store_content(items, sink)?))
}

fn save_special(
    context: &ReadContext<'_>,
    item: FileItem,
    path: &[u8],
    sink: &mut dyn ChunkSink,
    problems: &mut Vec<Problem>,
) -> Result<Entry, Failure> {
    let directory = &item.directory.fd;
    let stat = stat_at(directory, &item.name).map_err(source("cannot read"))?;
    let mut target = Vec::new();
    match stat.kind {
        EntryKind::Symlink => {
            let link = readlinkat(directory, item.name.as_slice(), Vec::new())
                .map_err(source("cannot read the link"))?;
            target = link.into_bytes();
        }
        // It was replaced between two looks at it.
        EntryKind::File | EntryKind::Directory => {
            return Err(Failure::Source("it changed while it was read", Errno::AGAIN));
        }
        _ => {}
    }
    let xattrs = if context.xattrs {
        name_xattrs(directory, &item.name)
    } else {
        Ok(Vec::new())
    };
    let mut entry = entry_of(item.name, &stat, context.owners);
    entry.xattrs = keep_xattrs(xattrs, path, sink, problems)?;
    entry.link_target = target;
    Ok(entry)
}

/// Reads a file up to the size it had when it was opened: small ones into the entry, others in chunks, holes as holes.
fn read_content(
    context: &ReadContext<'_>,
    file: &OwnedFd,
    stat: &Stat,
    buffer: &mut Vec<u8>,
    sink: &mut dyn ChunkSink,
) -> Result<Content, Failure> {
    let inline = usize::try_from(stat.size_bytes)
        .ok()
        .filter(|&size| size <= INLINE_BYTES);
    if let Some(wanted) = inline {
        // It only ever grows: to shrink it would mean to clear it again for the next file.
        if buffer.len() < INLINE_BYTES {
            buffer.resize(INLINE_BYTES, 0);
        }
        let Some(space) = buffer.get_mut(..wanted) else {
            return Ok(Content::default());
        };
        let length = fill(file, space, 0).map_err(source("cannot read"))?;
        Counters::add(&context.counters.bytes, length as u64);
        return Ok(Content::Inline(buffer.get(..length).unwrap_or_default().to_vec()));
    }
    let mut items = Vec::new();
    let mut position = 0;
    let sparse = stat.allocated_bytes < stat.size_bytes;
    while position < stat.size_bytes {
        let (start, end) = if sparse {
            next_data(file, position, stat.size_bytes)?
        } else {
            (position, stat.size_bytes)
        };
        if start > position {
            items.push(ContentItem {
                length: start - position,
                blob: None,
            });
            Counters::add(&context.counters.bytes, start - position);
        }
        let mut fill = |space: &mut [u8], offset| fill(file, space, offset);
        let reached = read_extent(context, &mut fill, (start, end), buffer, sink, &mut items)?;
        position = end;
        if reached < end {
            break;
        }
    }
    Ok(store_content(items, sink)?)
}

/// The next stretch of data at or after `position`: from where to where. A trailing hole is an empty stretch at the end.
fn next_data(file: &OwnedFd, position: u64, size_bytes: u64) -> Result<(u64, u64), Failure> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(start) if start < size_bytes => match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => Ok((start, end.clamp(start, size_bytes))),
            Err(error) => Err(Failure::Source("cannot find the holes", error)),
        },
        Ok(_) | Err(Errno::NXIO) => Ok((size_bytes, size_bytes)),
        // The file system does not tell: everything is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((position, size_bytes)),
        Err(error) => Err(Failure::Source("cannot find the holes", error)),
    }
}

/// Reads until `space` is full or the file ends; returns how much.
fn fill(file: &OwnedFd, space: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < space.len() {
        let Some(rest) = space.get_mut(filled..) else {
            break;
        };
        match pread(file, rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Fills a buffer from an offset as far as the source goes, and says how far.
type Fill<'a> = dyn FnMut(&mut [u8], u64) -> Result<usize, Errno> + 'a;

/// Cuts one stretch of data into chunks. Returns the offset that was reached: less than `end` when the file shrank.
fn read_extent(
    context: &ReadContext<'_>,
    fill: &mut Fill<'_>,
    extent: (u64, u64),
    buffer: &mut Vec<u8>,
    sink: &mut dyn ChunkSink,
    items: &mut Vec<ContentItem>,
) -> Result<u64, Failure> {
    let reached = cut_extent(context, fill, extent, buffer, sink, items);
    if reached.is_err() {
        sink.abandon();
    }
    reached
}

fn cut_extent(
    context: &ReadContext<'_>,
    fill: &mut Fill<'_>,
    (start, end): (u64, u64),
    buffer: &mut Vec<u8>,
    sink: &mut dyn ChunkSink,
    items: &mut Vec<ContentItem>,
) -> Result<u64, Failure> {
    let max = context.chunker.max_bytes();
    let small = end - start <= max as u64;
    let capacity = if small {
        usize::try_from(end - start).unwrap_or(max)
    } else {
        2 * max
    };
    if buffer.len() < capacity {
        buffer.resize(capacity, 0);
    }
    let mut lengths = Vec::new();
    let mut ids = Vec::new();
    let (mut begin, mut filled, mut offset) = (0, 0, start);
    loop {
        if context.cancel.is_cancelled() {
            return Err(Failure::Repository(cancelled()));
        }
        if filled - begin < max && offset < end {
            buffer.copy_within(begin..filled, 0);
            filled -= begin;
            begin = 0;
            let wanted = usize::try_from(end - offset)
                .unwrap_or(usize::MAX)
                .min(capacity - filled);
            let Some(space) = buffer.get_mut(filled..filled + wanted) else {
                break;
            };
            let length = fill(space, offset).map_err(source("cannot read"))?;
            filled += length;
            offset += length as u64;
            if length < wanted {
                return finish_extent(
                    context,
                    buffer,
                    (begin, filled),
                    offset,
                    sink,
                    (lengths, ids),
                    items,
                );
            }
        }
        let Some(window) = buffer.get(begin..filled).filter(|window| !window.is_empty()) else {
            break;
        };
        let length = context.chunker.cut(window);
        let (chunk, _) = window.split_at(length);
        submit(context, chunk, small, sink, &mut lengths, &mut ids)?;
        begin += length;
    }
    finish_extent(
        context,
        buffer,
        (begin, filled),
        offset,
        sink,
        (lengths, ids),
        items,
    )
}

fn cancelled() -> ReadError {
    ReadError::Storage(crate::storage::StorageError::new(
        crate::storage::StorageErrorKind::Cancelled,
        "read",
        "the source",
        "stopped",
    ))
}

/// Chunks of one file in other workers' hands, at most.
const SUBMITTED: usize = 12;

fn submit(
    context: &ReadContext<'_>,
    chunk: &[u8],
    small: bool,
    sink: &mut dyn ChunkSink,
    lengths: &mut Vec<u64>,
    ids: &mut Vec<BlobId>,
) -> Result<(), Failure> {
    lengths.push(chunk.len() as u64);
    if small {
        ids.push(sink.put(chunk)?);
    } else {
        sink.submit(chunk)?;
        sink.drain(SUBMITTED, ids)?;
    }
    Counters::add(&context.counters.bytes, chunk.len() as u64);
    Ok(())
}

/// Cuts what is left in the buffer, waits for all chunks and lists them.
fn finish_extent(
    context: &ReadContext<'_>,
    buffer: &[u8],
    (mut begin, filled): (usize, usize),
    reached: u64,
    sink: &mut dyn ChunkSink,
    (mut lengths, mut ids): (Vec<u64>, Vec<BlobId>),
    items: &mut Vec<ContentItem>,
) -> Result<u64, Failure> {
    while let Some(window) = buffer.get(begin..filled).filter(|window| !window.is_empty()) {
        let (chunk, _) = window.split_at(context.chunker.cut(window));
        // In order behind those that are still out.
        sink.drain(0, &mut ids)?;
        submit(context, chunk, true, sink, &mut lengths, &mut ids)?;
        begin += chunk.len();
    }
    sink.drain(0, &mut ids)?;
    // Never a list in which a stretch has another's bytes.
    if lengths.len() != ids.len() {
        let why = "its chunks were not stored one by one";
        return Err(Failure::Repository(ReadError::damaged("the list of a file", why)));
    }
    items.extend(lengths.into_iter().zip(ids).map(|(length, id)| ContentItem {
        length,
        blob: Some(id),
    }));
    Ok(reached)
}
