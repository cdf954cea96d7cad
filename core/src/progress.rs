//! How a long operation tells what it does and is told to stop. It prints nothing and decides nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::id::SnapshotId;

/// What part of an operation is running, for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Loading the index.
    Opening,
    /// Reading the source, or walking the snapshot.
    Walking,
    /// Reading and verifying stored data.
    Reading,
    /// Writing what is left and committing.
    Committing,
}

/// The kind of a finished item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemState {
    /// New or changed since the parent snapshot, restored, or verified.
    Done,
    /// The same as in the parent snapshot, or already in place.
    Unchanged,
    /// Would have been done (dry run).
    Planned,
}

/// One finished entry.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// Absolute path in the snapshot (bytes, not necessarily UTF-8).
    pub path: &'a [u8],
    /// What became of it.
    pub state: ItemState,
    /// Whether it is a directory.
    pub directory: bool,
    /// Logical size in bytes (0 for anything but a regular file).
    pub size_bytes: u64,
}

/// A problem with one entry: it did not stop the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Absolute path in the snapshot (bytes, not necessarily UTF-8).
    pub path: Vec<u8>,
    /// What went wrong, in one line.
    pub message: String,
}

/// Receives what happens. Called from the operation's threads, never from two at once for `item`.
pub trait Observer: Send + Sync {
    /// The snapshot at work has this id. Called once, first.
    fn snapshot(&self, id: SnapshotId) {
        let _ = id;
    }

    /// A phase began.
    fn phase(&self, phase: Phase) {
        let _ = phase;
    }

    /// An entry is finished.
    fn item(&self, item: Item<'_>) {
        let _ = item;
    }

    /// An entry failed.
    fn problem(&self, problem: &Problem) {
        let _ = problem;
    }
}

/// An observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// Running totals, for a progress display to poll.
#[derive(Debug, Default)]
pub struct Counters {
    /// Entries finished.
    pub entries: AtomicU64,
    /// Entries expected, 0 while unknown.
    pub entries_expected: AtomicU64,
    /// Logical bytes finished.
    pub bytes: AtomicU64,
    /// Logical bytes expected, 0 while unknown.
    pub bytes_expected: AtomicU64,
    /// Bytes written to the repository.
    pub bytes_stored: AtomicU64,
    /// Problems met.
    pub problems: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// A request to stop, shared between the asker and the operation.
#[derive(Debug, Default)]
pub struct Cancel(AtomicBool);

impl Cancel {
    /// Asks the operation to stop soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What every long operation is given.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Receives events.
    pub observer: &'a dyn Observer,
    /// Receives totals.
    pub counters: &'a Counters,
    /// Asks to stop.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("counters", self.counters)
            .field("cancel", self.cancel)
            .finish_non_exhaustive()
    }
}

impl Job<'_> {
    /// Reports and counts a problem.
    pub fn problem(&self, problem: &Problem) {
        Counters::add(&self.counters.problems, 1);
        self.observer.problem(problem);
    }

    /// Reports and counts a finished entry.
    pub fn item(&self, item: Item<'_>) {
        Counters::add(&self.counters.entries, 1);
        self.observer.item(item);
    }
}
