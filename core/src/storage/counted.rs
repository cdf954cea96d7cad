//! Counts the calls that reach a storage, and the bytes they move; and tells each to the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::layer::{Policy, Request, RequestKind};
use super::pace::Pace;
use super::{StorageError, StorageErrorKind};

/// Running totals of what was asked of a storage, tries again included.
#[derive(Debug, Default)]
pub struct Traffic {
    lists: AtomicU64,
    stats: AtomicU64,
    gets: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    others: AtomicU64,
    failed: AtomicU64,
    retries: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// The totals at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrafficTotals {
    /// Pages listed.
    pub lists: u64,
    /// Objects asked for their size.
    pub stats: u64,
    /// Reads.
    pub gets: u64,
    /// Writes.
    pub puts: u64,
    /// Deletions.
    pub deletes: u64,
    /// Other calls.
    pub others: u64,
    /// How many of all failed, but for objects that were not there.
    pub failed: u64,
    /// How many were tries again.
    pub retries: u64,
    /// Bytes of objects sent.
    pub sent_bytes: u64,
    /// Bytes of objects received.
    pub received_bytes: u64,
}

impl TrafficTotals {
    /// All calls together.
    pub fn requests(&self) -> u64 {
        self.lists + self.stats + self.gets + self.puts + self.deletes + self.others
    }
}

impl Traffic {
    /// The totals now.
    pub fn totals(&self) -> TrafficTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrafficTotals {
            lists: read(&self.lists),
            stats: read(&self.stats),
            gets: read(&self.gets),
            puts: read(&self.puts),
            deletes: read(&self.deletes),
            others: read(&self.others),
            failed: read(&self.failed),
            retries: read(&self.retries),
            sent_bytes: read(&self.sent_bytes),
            received_bytes: read(&self.received_bytes),
        }
    }

    pub(super) fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, kind: RequestKind) -> &AtomicU64 {
        match kind {
            RequestKind::List => &self.lists,
            RequestKind::Stat => &self.stats,
            RequestKind::Get => &self.gets,
            RequestKind::Put => &self.puts,
            RequestKind::Delete => &self.deletes,
            RequestKind::Probe | RequestKind::Init | RequestKind::Space => &self.others,
        }
    }
}

/// Counts into totals that others read.
#[derive(Debug)]
pub struct Counted {
    traffic: Arc<Traffic>,
    pace: Pace,
}

impl Counted {
    /// Counts in `traffic`, and takes the time by `pace`.
    pub fn new(traffic: Arc<Traffic>, pace: Pace) -> Self {
        Self { traffic, pace }
    }
}

impl Policy for Counted {
    /// When it was.
    type Begun = Duration;

    fn before(&self, request: Request<'_>) -> Result<Duration, StorageError> {
        self.traffic.of(request.kind).fetch_add(1, Ordering::Relaxed);
        Ok(self.pace.now())
    }

    fn after(&self, request: Request<'_>, begun: Duration, outcome: Result<u64, &StorageError>) {
        let Request {
            kind,
            subject,
            sent_bytes: sent,
        } = request;
        let milliseconds = self.pace.now().saturating_sub(begun).as_millis();
        match outcome {
            Ok(received) => {
                self.traffic.sent_bytes.fetch_add(sent, Ordering::Relaxed);
                self.traffic.received_bytes.fetch_add(received, Ordering::Relaxed);
                tracing::debug!(?kind, subject, sent, received, milliseconds, "request");
            }
            Err(error) => {
                tracing::debug!(?kind, subject, sent, milliseconds, %error, "request failed");
                if error.kind != StorageErrorKind::NotFound {
                    self.traffic.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
