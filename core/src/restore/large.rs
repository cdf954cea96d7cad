//! Writes a file with a content list of several levels: its stretches are shared among this worker and those that have nothing to do.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::ftruncate;

use crate::format::tree::{ContentItem, Entry};
use crate::read_error::ReadError;
use crate::repository::BlobReader;

use super::Shared;
use super::file::{FileError, target, write_items};
use super::worker::data_reader;

/// Content of one stretch, in bytes: several frames, read one after the other.
const STRETCH_BYTES: u64 = 16 << 20;

/// Pieces of one stretch, however short they are: a repository that means harm has them of any length.
const STRETCH_ITEMS: usize = 4096;

/// Neighbouring pieces of the content, and where they begin.
struct Stretch {
    offset: u64,
    items: Vec<ContentItem>,
}

/// The first failure, and whether to stop.
#[derive(Default)]
struct Failure {
    first: Mutex<Option<FileError>>,
    happened: AtomicBool,
}

impl Failure {
    fn set(&self, error: FileError) {
        self.first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.happened.store(true, Ordering::Relaxed);
    }
}

/// Writes the content of a large file; holes stay holes.
pub(super) fn fill_large(
    shared: &Shared<'_>,
    entry: &Entry,
    file: &OwnedFd,
    lists: &mut BlobReader<'_>,
) -> Result<(), FileError> {
    let failure = Failure::default();
    let writers = 1 + shared.idle.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let (stretch_in, stretch_out) = bounded(writers);
        for _ in 0..writers {
            let (stretch_out, failure) = (stretch_out.clone(), &failure);
            scope.spawn(move || write_stretches(shared, file, &stretch_out, failure));
        }
        drop(stretch_out);
        if let Err(error) = send_stretches(shared, entry, lists, &stretch_in, &failure) {
            // After a failure it is only the word for not going on; the failure came first and stays.
            failure.set(FileError::Read(error));
        }
    });
    match failure.first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => ftruncate(file, entry.size_bytes).map_err(target("cannot set the size")),
    }
}

fn send_stretches(
    shared: &Shared<'_>,
    entry: &Entry,
    lists: &mut BlobReader<'_>,
    stretches: &Sender<Stretch>,
    failure: &Failure,
) -> Result<(), ReadError> {
    let (mut offset, mut bytes, mut items) = (0, 0, Vec::new());
    lists.for_each_item(&entry.content, &mut |item| {
        if shared.stopped() {
            failure.set(FileError::Stopped);
        }
        // The list may go on for ever.
        if failure.happened.load(Ordering::Relaxed) {
            return Err(ReadError::damaged("the file", "writing stopped"));
        }
        items.push(item);
        bytes += item.length;
        if bytes >= STRETCH_BYTES || items.len() >= STRETCH_ITEMS {
            send(stretches, offset, std::mem::take(&mut items));
            offset += std::mem::take(&mut bytes);
        }
        Ok(())
    })?;
    send(stretches, offset, items);
    Ok(())
}

fn send(stretches: &Sender<Stretch>, offset: u64, items: Vec<ContentItem>) {
    // Writers that are gone have left their failure behind.
    let _unheard = stretches.send(Stretch { offset, items }).is_err();
}

fn write_stretches(shared: &Shared<'_>, file: &OwnedFd, stretches: &Receiver<Stretch>, failure: &Failure) {
    let mut reader = data_reader(shared);
    let mut next = None;
    while let Some(stretch) = next
        .take()
        .or_else(|| expected(stretches.recv().ok(), &mut reader))
    {
        if shared.fetches.is_some() {
            next = expected(stretches.try_recv().ok(), &mut reader);
        }
        if failure.happened.load(Ordering::Relaxed) {
            continue;
        }
        if let Err(error) = write_items(shared, file, &stretch.items, stretch.offset, &mut reader) {
            failure.set(error);
        }
    }
}

/// Tells the reader what it will be asked for.
fn expected(stretch: Option<Stretch>, reader: &mut BlobReader<'_>) -> Option<Stretch> {
    stretch.inspect(|stretch| reader.expect(stretch.items.iter().filter_map(|item| item.blob.as_ref())))
}
