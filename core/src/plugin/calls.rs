//! The calls under way in one open connector: alive, abandoned or cancelled; and the host's side of the boundary.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use plakar_plugin_api::abi::{HostServices, HostServices_TO, RawHost, beginning};
use plakar_plugin_api::abi_stable::erased_types::TD_Opaque;
use plakar_plugin_api::abi_stable::std_types::RStr;

use super::open::HostOptions;
use crate::storage::limited::Throttle;

const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const DONE: u8 = 2;
const ABANDONED: u8 = 3;

/// The bytes of an object that a call moves: what the limits of the user are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    /// Whether they go to the storage.
    pub(super) sent: bool,
    pub(super) bytes: u64,
}

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: u64,
    sends: bool,
    /// Bytes that may yet be reported as moved. A connector that reports more than there are counts wrongly, and would be held back
    /// for it without end.
    unreported_bytes: AtomicU64,
    phase: AtomicU8,
    /// When the connector last showed life, in milliseconds since `born`.
    alive_ms: AtomicU64,
    born: Instant,
}

/// What the caller finds when its patience ends.
pub(super) enum Abandoned {
    /// It had not begun; no thread is lost.
    Waiting,
    /// It hangs; its thread is lost until it comes back.
    Running,
    /// It has ended in this very moment.
    No,
}

impl Call {
    /// Takes the call up; `false` when nobody waits for it any more.
    pub(super) fn begin(&self) -> bool {
        self.touch();
        self.phase
            .compare_exchange(WAITING, RUNNING, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Ends the call; `false` when it had been given up.
    pub(super) fn end(&self) -> bool {
        self.phase
            .compare_exchange(RUNNING, DONE, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    pub(super) fn abandon(&self) -> Abandoned {
        let give_up = |from| {
            self.phase
                .compare_exchange(from, ABANDONED, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        };
        if give_up(WAITING) {
            Abandoned::Waiting
        } else if give_up(RUNNING) {
            Abandoned::Running
        } else {
            Abandoned::No
        }
    }

    /// Whether no thread has taken it up yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.phase.load(Ordering::SeqCst) == WAITING
    }

    /// How long nothing was heard of it.
    pub(super) fn silent_for(&self) -> Duration {
        self.born
            .elapsed()
            .saturating_sub(Duration::from_millis(self.alive_ms.load(Ordering::SeqCst)))
    }

    fn touch(&self) {
        self.alive_ms
            .store(milliseconds_since(self.born), Ordering::SeqCst);
    }

    /// Notes bytes that are said to have moved; gives how many of them can be believed.
    fn report(&self, bytes: u64) -> u64 {
        let before = self
            .unreported_bytes
            .update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.saturating_sub(bytes)
            });
        before.min(bytes)
    }
}

/// All calls of one open connector.
#[derive(Debug)]
pub(super) struct Calls {
    connector: String,
    born: Instant,
    /// When any call last showed life, in milliseconds since `born`.
    alive_ms: AtomicU64,
    next_id: AtomicU64,
    live: Mutex<HashMap<u64, Arc<Call>>>,
    cancelled: AtomicBool,
    cancelled_by_program: Option<Arc<AtomicBool>>,
    /// How long a call may show no life once all are asked to end.
    stopping_patience: Duration,
    throttle: Option<Arc<Throttle>>,
}

impl Calls {
    pub(super) fn new(connector: String, options: &HostOptions) -> Self {
        Self {
            connector,
            born: Instant::now(),
            alive_ms: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
            live: Mutex::default(),
            cancelled: AtomicBool::new(false),
            cancelled_by_program: options.cancelled.clone(),
            stopping_patience: options.close_timeout,
            throttle: options.throttle.clone(),
        }
    }

    /// Registers a new call.
    pub(super) fn start(&self, content: Content) -> Arc<Call> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let call = Call {
            id,
            sends: content.sent,
            unreported_bytes: AtomicU64::new(content.bytes),
            phase: AtomicU8::new(WAITING),
            alive_ms: AtomicU64::new(0),
            born: Instant::now(),
        };
        let call = Arc::new(call);
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, Arc::clone(&call));
        call
    }

    /// Forgets a call that has ended, or that never began.
    pub(super) fn forget(&self, call: &Call) {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&call.id);
    }

    /// How long nothing was heard of any call.
    pub(super) fn silent_for(&self) -> Duration {
        self.born
            .elapsed()
            .saturating_sub(Duration::from_millis(self.alive_ms.load(Ordering::SeqCst)))
    }

    /// Notes that a call shows life.
    pub(super) fn touch(&self) {
        self.alive_ms
            .store(milliseconds_since(self.born), Ordering::SeqCst);
    }

    /// Asks all calls, present and future, to end.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Whether all calls are asked to end.
    fn are_cancelled(&self) -> bool {
        let by_program = || {
            let flag = self.cancelled_by_program.as_ref();
            flag.is_some_and(|flag| flag.load(Ordering::SeqCst))
        };
        self.cancelled.load(Ordering::SeqCst) || by_program()
    }

    /// How long a call may show no life now: whoever wants to stop does not wait for one that hangs.
    pub(super) fn patience(&self, usual: Duration) -> Duration {
        if self.are_cancelled() {
            usual.min(self.stopping_patience)
        } else {
            usual
        }
    }

    /// The host as the connector sees it.
    pub(super) fn as_host(self: &Arc<Self>) -> RawHost {
        HostServices_TO::from_value(HostSide(Arc::clone(self)), TD_Opaque)
    }

    fn find(&self, id: u64) -> Option<Arc<Call>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }
}

fn milliseconds_since(instant: Instant) -> u64 {
    u64::try_from(instant.elapsed().as_millis()).unwrap_or(u64::MAX)
}

struct HostSide(Arc<Calls>);

impl HostServices for HostSide {
    fn log(&self, level: u8, target: RStr<'_>, message: RStr<'_>) {
        let connector = self.0.connector.as_str();
        // One line each, whatever the connector says.
        let line = |text: RStr<'_>| beginning(text.as_str()).replace(char::is_control, " ");
        let (target, message) = (line(target), line(message));
        match level {
            1 => tracing::error!(target: "plakar_connector", connector, part = target, "{message}"),
            2 => tracing::warn!(target: "plakar_connector", connector, part = target, "{message}"),
            3 => tracing::info!(target: "plakar_connector", connector, part = target, "{message}"),
            5 => tracing::trace!(target: "plakar_connector", connector, part = target, "{message}"),
            _ => tracing::debug!(target: "plakar_connector", connector, part = target, "{message}"),
        }
    }

    fn cancelled(&self, call: u64) -> bool {
        let calls = &self.0;
        let given_up = || {
            calls
                .find(call)
                .is_some_and(|call| call.phase.load(Ordering::SeqCst) == ABANDONED)
        };
        calls.are_cancelled() || given_up()
    }

    /// Here a call is held back when the user limits the rate: the connector goes on when this returns.
    fn progress(&self, call: u64, bytes: u64) {
        let Some(call) = self.0.find(call) else { return };
        let alive = || {
            call.touch();
            self.0.touch();
        };
        alive();
        if let Some(throttle) = &self.0.throttle {
            throttle.moved(call.sends, call.report(bytes), alive);
            alive();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::limited::Limits;
    use crate::storage::pace::simulated;

    #[test]
    fn a_connector_that_counts_wrongly_is_not_held_back_for_more_than_there_is() {
        let pace = simulated::pace();
        let limits = Limits {
            upload_bytes: Some(1000),
            ..Limits::default()
        };
        let options = HostOptions {
            throttle: Some(Arc::new(Throttle::new(limits, pace.clone()))),
            ..HostOptions::default()
        };
        let calls = Arc::new(Calls::new("wrong".into(), &options));
        let host = HostSide(Arc::clone(&calls));
        let send = |reports: &[u64]| {
            let before = pace.now();
            let call = calls.start(Content {
                sent: true,
                bytes: 5000,
            });
            for &bytes in reports {
                host.progress(call.id, bytes);
            }
            calls.forget(&call);
            host.progress(call.id, u64::MAX);
            pace.now().saturating_sub(before)
        };
        // The last step is not waited for: the next call is.
        assert_eq!(send(&[1000; 5]).as_secs(), 4);
        // A sum up to now in place of what is new, and nonsense.
        for wrong in [&[1000, 2000, 3000, 4000, 5000][..], &[u64::MAX; 3]] {
            assert!(send(wrong).as_secs() <= 6);
        }
    }
}
