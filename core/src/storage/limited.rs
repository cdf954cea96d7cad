//! Keeps below the rates that the user set: bytes a second out and in, calls a second.
//!
//! A call is begun when what was moved before has been paid for in time, and a read ends when its own bytes have, so the average holds
//! whatever a connector does. One that reports its progress is held back within a call as well ([`Throttle`]), so that a large object
//! does not fill the line either.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::StorageError;
use super::layer::{Policy, Request, RequestKind};
use super::pace::{self, Pace};

/// The rates; `None` is without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of objects sent, a second.
    pub upload_bytes: Option<u64>,
    /// Bytes of objects received, a second.
    pub download_bytes: Option<u64>,
    /// Calls a second.
    pub requests: Option<u64>,
}

impl Limits {
    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.upload_bytes.is_some() || self.download_bytes.is_some() || self.requests.is_some()
    }
}

/// Waits before calls as the limits demand.
#[derive(Debug)]
pub struct Limited {
    pace: Pace,
    upload: Option<Rate>,
    download: Option<Rate>,
    requests: Option<Rate>,
}

impl Limited {
    /// Limits by the clock of `pace`.
    pub fn new(limits: Limits, pace: Pace) -> Self {
        Self {
            pace,
            upload: limits.upload_bytes.map(Rate::new),
            download: limits.download_bytes.map(Rate::new),
            requests: limits.requests.map(Rate::new),
        }
    }

    fn pay(&self, rate: Option<&Rate>, amount: u64, request: Request<'_>) -> Result<(), StorageError> {
        let Some(rate) = rate else { return Ok(()) };
        let begin = rate.book(amount, self.pace.now()).start;
        self.pace
            .wait(begin.saturating_sub(self.pace.now()), "reach", request.subject)
    }
}

impl Policy for Limited {
    /// When it was.
    type Begun = Duration;

    fn before(&self, request: Request<'_>) -> Result<Duration, StorageError> {
        self.pay(self.requests.as_ref(), 1, request)?;
        if request.sent_bytes > 0 {
            self.pay(self.upload.as_ref(), request.sent_bytes, request)?;
        }
        if request.kind == RequestKind::Get {
            self.pay(self.download.as_ref(), 0, request)?;
        }
        Ok(self.pace.now())
    }

    fn after(&self, request: Request<'_>, begun: Duration, outcome: Result<u64, &StorageError>) {
        // What comes in is known only now, and no other read may follow: it is paid for before it is handed on. The time that the call
        // itself took counts: a connector that is held back as it reports progress has paid already.
        if let (Some(download), Ok(received)) = (&self.download, outcome) {
            let end = download.book(received, begun).end;
            let left = end.saturating_sub(self.pace.now());
            // Who is told to stop is told by the next call.
            let _stopped = self.pace.wait(left, "read", request.subject).is_err();
        }
    }
}

/// Holds back calls under way: by the bytes that they report, as they move.
#[derive(Debug)]
pub struct Throttle {
    pace: Pace,
    upload: Option<Rate>,
    download: Option<Rate>,
}

impl Throttle {
    /// Holds to the limits on bytes by the clock of `pace`.
    pub fn new(limits: Limits, pace: Pace) -> Self {
        Self {
            pace,
            upload: limits.upload_bytes.map(Rate::new),
            download: limits.download_bytes.map(Rate::new),
        }
    }

    /// Waits until `bytes` more may have moved; `alive` is called now and then meanwhile.
    pub(crate) fn moved(&self, sent: bool, bytes: u64, mut alive: impl FnMut()) {
        let rate = if sent { &self.upload } else { &self.download };
        let Some(rate) = rate else { return };
        let begin = rate.book(bytes, self.pace.now()).start;
        // Until the time that these bytes take is over, but for the last step: the next report waits for it.
        while self.pace.now() < begin {
            alive();
            let left = begin.saturating_sub(self.pace.now());
            if self.pace.wait(left.min(pace::STEP), "reach", "").is_err() {
                return;
            }
        }
    }
}

/// A rate and the time up to which it is used.
#[derive(Debug)]
struct Rate {
    per_second: u64,
    booked_until: Mutex<Duration>,
}

impl Rate {
    fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second.max(1),
            booked_until: Mutex::default(),
        }
    }

    /// Books the time that `amount` takes, and returns when it begins and ends.
    fn book(&self, amount: u64, now: Duration) -> Range<Duration> {
        let mut until = self.booked_until.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = (*until).max(now);
        let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(self.per_second);
        *until = begin + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX / 4));
        begin..*until
    }
}

#[cfg(test)]
mod tests {
    use super::super::pace::simulated;
    use super::*;

    #[test]
    fn a_rate_holds_on_average_and_time_not_used_is_not_saved_up() {
        let rate = Rate::new(1000);
        let second = Duration::from_secs;
        assert_eq!(rate.book(2000, second(10)), second(10)..second(12));
        let begin = rate.book(500, second(10)).start;
        assert_eq!(begin, second(12), "it waits for those before it");
        assert_eq!(rate.book(500, second(100)).start, second(100));
        assert_eq!(rate.book(500, second(100)).start, Duration::from_millis(100_500));
    }
    const READ: Request<'_> = Request {
        kind: RequestKind::Get,
        subject: "k",
        sent_bytes: 0,
    };

    /// How long five reads of 1000 bytes take at 1000 bytes a second, when each takes `each` by itself.
    fn five_reads(each: Duration) -> Duration {
        let pace = simulated::pace();
        let limits = Limits {
            download_bytes: Some(1000),
            ..Limits::default()
        };
        let limited = Limited::new(limits, pace.clone());
        for _ in 0..5 {
            let begun = limited.before(READ).unwrap();
            pace.wait(each, "read", "k").unwrap();
            limited.after(READ, begun, Ok(1000));
        }
        pace.now()
    }

    #[test]
    fn a_read_is_paid_for_before_it_ends_and_what_it_took_by_itself_counts() {
        let second = Duration::from_secs;
        assert_eq!(five_reads(second(0)), second(5));
        assert_eq!(
            five_reads(second(1)),
            second(5),
            "held back within the call, not again after it"
        );
        assert_eq!(
            five_reads(second(3)),
            second(15),
            "the storage is slower than the limit"
        );
    }
}
