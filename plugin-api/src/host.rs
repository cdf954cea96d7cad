//! The connector's way back to the host: log lines, cancellation, progress.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use crate::abi::{HostServices_TO, RawHost};

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something is odd and the user may want to know.
    Warn = 2,
    /// Something a user who asks for details wants to see.
    Info = 3,
    /// For who looks for a fault.
    Debug = 4,
    /// Every step.
    Trace = 5,
}

thread_local! {
    /// The host's number of the call this thread is in; 0 outside one.
    static CURRENT_CALL: Cell<u64> = const { Cell::new(0) };
}

/// A handle to the host. Cheap to clone, usable from any thread, valid as long as anyone holds it.
///
/// It knows by the thread which call it is used in. To hand it to threads or tasks of your own, take
/// [`for_this_call`](Self::for_this_call) first.
#[derive(Clone)]
pub struct Host {
    services: Arc<RawHost>,
    call: Option<u64>,
}

impl Host {
    /// A host that logs nothing and never cancels, for a connector's own tests.
    pub fn none() -> Self {
        Self::from_raw(HostServices_TO::from_value(
            Nobody,
            abi_stable::erased_types::TD_Opaque,
        ))
    }

    /// Wraps the host's side of the boundary.
    pub fn from_raw(services: RawHost) -> Self {
        Self {
            services: Arc::new(services),
            call: None,
        }
    }

    /// The same host, bound to the call this thread is in, wherever it is used.
    #[must_use]
    pub fn for_this_call(&self) -> Self {
        Self {
            services: Arc::clone(&self.services),
            call: Some(self.call_id()),
        }
    }

    /// Writes a line to the host's log. `target` says which part of the connector speaks. Never a secret.
    pub fn log(&self, level: Level, target: &str, message: &str) {
        self.services.log(level as u8, target.into(), message.into());
    }

    /// Whether the host wants this call to end. Ask between steps, and return `Cancelled` when it is true.
    pub fn cancelled(&self) -> bool {
        self.services.cancelled(self.call_id())
    }

    /// Reports that `bytes` more have been moved in this call: that it is alive, and how fast. Where the user limits the rate it
    /// returns only when the next bytes may move. So report steps of a megabyte or less, from where the next step is begun.
    pub fn progress(&self, bytes: u64) {
        self.services.progress(self.call_id(), bytes);
    }

    fn call_id(&self) -> u64 {
        self.call.unwrap_or_else(|| CURRENT_CALL.get())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Host")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

/// Runs `work` as the call numbered `call`.
pub(crate) fn within_call<T>(call: u64, work: impl FnOnce() -> T) -> T {
    struct Restore(u64);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT_CALL.set(self.0);
        }
    }
    let _restore = Restore(CURRENT_CALL.replace(call));
    work()
}

struct Nobody;

impl crate::abi::HostServices for Nobody {
    fn log(
        &self,
        _level: u8,
        _target: abi_stable::std_types::RStr<'_>,
        _message: abi_stable::std_types::RStr<'_>,
    ) {
    }

    fn cancelled(&self, _call: u64) -> bool {
        false
    }

    fn progress(&self, _call: u64, _bytes: u64) {}
}
