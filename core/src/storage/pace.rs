//! Waiting that ends when the program is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{StorageError, StorageErrorKind};
use crate::environment::Environment;

/// How long a wait goes on without looking whether to stop.
pub(super) const STEP: Duration = Duration::from_millis(50);

/// Time, chance, and the wish to stop: what the decorators wait with.
#[derive(Debug, Clone)]
pub struct Pace {
    environment: Environment,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Pace {
    /// Waits by the environment's clock until `cancelled` is set.
    pub fn new(environment: Environment, cancelled: Option<Arc<AtomicBool>>) -> Self {
        Self {
            environment,
            cancelled,
        }
    }

    /// The monotonic clock.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_nanos(self.environment.clock.monotonic_nanoseconds())
    }

    /// Waits, or returns `Cancelled` for the call `operation` on `subject` as soon as the program is to stop.
    pub(super) fn wait(
        &self,
        duration: Duration,
        operation: &'static str,
        subject: &str,
    ) -> Result<(), StorageError> {
        let end = self.now() + duration;
        loop {
            self.go_on(operation, subject)?;
            let left = end.saturating_sub(self.now());
            if left.is_zero() {
                return Ok(());
            }
            self.environment.clock.sleep(left.min(STEP));
        }
    }

    /// `Cancelled` when the program is to stop.
    pub(super) fn go_on(&self, operation: &'static str, subject: &str) -> Result<(), StorageError> {
        let stop = self
            .cancelled
            .as_ref()
            .is_some_and(|flag| flag.load(Ordering::SeqCst));
        if stop {
            return Err(StorageError::new(
                StorageErrorKind::Cancelled,
                operation,
                subject,
                "stopped as asked",
            ));
        }
        Ok(())
    }

    /// A share of `duration` between a half and all of it, by chance: those who failed together do not try again together.
    pub(super) fn jittered(&self, duration: Duration) -> Duration {
        let [chance] = self.environment.random::<1>().unwrap_or([255]);
        duration / 2 + duration * u32::from(chance) / 510
    }
}

/// Time for tests: it passes only while somebody waits.
#[cfg(test)]
pub(crate) mod simulated {
    use std::sync::atomic::AtomicU64;

    use super::{Arc, Duration, Environment, Ordering, Pace};
    use crate::environment::{Clock, Timestamp};

    #[derive(Default)]
    struct Simulated(AtomicU64);

    impl Clock for Simulated {
        fn now(&self) -> Timestamp {
            Timestamp::default()
        }

        fn monotonic_nanoseconds(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }

        fn sleep(&self, duration: Duration) {
            let nanoseconds = u64::try_from(duration.as_nanos()).unwrap();
            self.0.fetch_add(nanoseconds, Ordering::SeqCst);
        }
    }

    pub(crate) fn pace() -> Pace {
        let environment = Environment {
            clock: Arc::new(Simulated::default()),
            ..Environment::system()
        };
        Pace::new(environment, None)
    }
}
