//! Fewer calls at a time when the storage is pressed, more again when it is well.
//!
//! Additive increase, multiplicative decrease, as in TCP's congestion avoidance (RFC 5681): each answer without trouble adds
//! a share of one call, a sign of overload halves.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::layer::{Policy, Request};
use super::pace::{Pace, STEP};
use super::{StorageError, StorageErrorKind};

/// Signs of overload within this time count as one: calls that were under way together fail together.
const ONE_SIGN: Duration = Duration::from_secs(1);

/// Bounds the calls that are under way.
#[derive(Debug)]
pub struct Adaptive {
    pace: Pace,
    most: f64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug)]
struct State {
    limit: f64,
    running: f64,
    halved: Option<Duration>,
}

impl Adaptive {
    /// Begins with `most` calls at a time, and never makes more.
    pub fn new(most: u32, pace: Pace) -> Self {
        let most = f64::from(most.max(1));
        Self {
            pace,
            most,
            state: Mutex::new(State {
                limit: most,
                running: 0.0,
                halved: None,
            }),
            freed: Condvar::new(),
        }
    }
}

impl Policy for Adaptive {
    type Begun = ();

    fn before(&self, request: Request<'_>) -> Result<(), StorageError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.running + 1.0 > state.limit {
            self.pace.go_on("reach", request.subject)?;
            (state, _) = self
                .freed
                .wait_timeout(state, STEP)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.running += 1.0;
        Ok(())
    }

    fn after(&self, _request: Request<'_>, (): (), outcome: Result<u64, &StorageError>) {
        let now = self.pace.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running -= 1.0;
        let pressed = outcome.is_err_and(|error| {
            matches!(
                error.kind,
                StorageErrorKind::Transient | StorageErrorKind::Timeout
            )
        });
        if !pressed {
            state.limit = (state.limit + 1.0 / state.limit).min(self.most);
        } else if state
            .halved
            .is_none_or(|halved| now.saturating_sub(halved) >= ONE_SIGN)
        {
            state.limit = (state.limit / 2.0).max(1.0);
            state.halved = Some(now);
            tracing::debug!(
                limit = state.limit,
                "fewer calls at a time: the storage is pressed"
            );
        }
        drop(state);
        self.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::storage::layer::RequestKind;

    const ANY: Request<'_> = Request {
        kind: RequestKind::Get,
        subject: "k",
        sent_bytes: 0,
    };

    #[test]
    fn overload_halves_what_runs_at_once_and_good_answers_bring_it_back() {
        let pace = Pace::new(Environment::system(), None);
        let adaptive = Adaptive::new(8, pace);
        let limit = || adaptive.state.lock().unwrap().limit;
        let pressed = StorageError::new(StorageErrorKind::Transient, "read", "k", "slow down");
        let missing = StorageError::new(StorageErrorKind::NotFound, "read", "k", "no");
        let call = |outcome: Result<u64, &StorageError>| {
            adaptive.before(ANY).unwrap();
            adaptive.after(ANY, (), outcome);
        };
        call(Err(&pressed));
        call(Err(&pressed));
        assert!((limit() - 4.0).abs() < 0.01, "two signs at once count as one");
        call(Err(&missing));
        assert!(
            limit() > 4.0,
            "an error that is no sign of overload does not slow"
        );
        for _ in 0..100 {
            call(Ok(0));
        }
        assert!((limit() - 8.0).abs() < 0.01);
    }

    #[test]
    fn no_more_calls_run_than_the_limit() {
        let adaptive = Adaptive::new(3, Pace::new(Environment::system(), None));
        let running = std::sync::atomic::AtomicUsize::new(0);
        let most = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        adaptive.before(ANY).unwrap();
                        let now = running.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                        most.fetch_max(now, std::sync::atomic::Ordering::SeqCst);
                        std::thread::yield_now();
                        running.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        adaptive.after(ANY, (), Ok(0));
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
    }
}
