//! Tries again what failed for a reason that may pass. It decides by the kind of an error alone; damage is no such reason.

use std::sync::Arc;
use std::time::Duration;

use super::counted::Traffic;
use super::pace::Pace;
use super::{
    Capabilities, ListPage, ObjectInfo, PutMode, PutOptions, Space, Storage, StorageError, StorageErrorKind,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// The longest wait that a storage may ask for.
const LONGEST_ASKED: Duration = Duration::from_mins(5);

/// How patiently calls are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The wait after the first failure; it doubles from one to the next.
    pub first: Duration,
    /// The longest wait, unless the storage asks for more.
    pub longest: Duration,
    /// How long a call may go on failing, in all.
    pub budget: Duration,
    /// The same for a storage that has not yet answered at all: it may well be the wrong address.
    pub budget_unknown: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            budget: Duration::from_mins(15),
            budget_unknown: Duration::from_secs(20),
        }
    }
}

/// A storage whose passing failures are waited out.
#[derive(Debug)]
pub struct Retried {
    inner: Arc<dyn Storage>,
    policy: RetryPolicy,
    pace: Pace,
    traffic: Arc<Traffic>,
    answered: AtomicBool,
    /// Whether the last put that ended found no space.
    full: AtomicBool,
}

/// Failures of one call up to now.
struct Trouble {
    since: Duration,
    tries: u32,
    pause: Duration,
}

impl Retried {
    /// Tries again as `policy` says, and counts it in `traffic`.
    pub fn new(inner: Arc<dyn Storage>, policy: RetryPolicy, pace: Pace, traffic: Arc<Traffic>) -> Self {
        Self {
            inner,
            policy,
            pace,
            traffic,
            answered: AtomicBool::new(false),
            full: AtomicBool::new(false),
        }
    }

    /// Calls until it works, fails for good, or the budget is used up. `work` is told whether it was tried before.
    fn persist<T>(&self, mut work: impl FnMut(bool) -> Result<T, StorageError>) -> Result<T, StorageError> {
        let mut trouble: Option<Trouble> = None;
        loop {
            let error = match work(trouble.is_some()) {
                Err(error) if may_pass(error.kind) => {
                    // Who says how long to wait has answered.
                    if error.retry_after.is_some() {
                        self.answered.store(true, Ordering::Relaxed);
                    }
                    error
                }
                result => {
                    if !matches!(&result, Err(error) if error.kind == StorageErrorKind::Cancelled) {
                        self.answered.store(true, Ordering::Relaxed);
                    }
                    return result;
                }
            };
            self.wait_after(error, &mut trouble)?;
            self.traffic.retry();
        }
    }

    /// Opens what may have to be reached first, and tries again as long as one that has not answered yet is given.
    pub fn open_patiently<T, E: std::fmt::Display>(
        policy: RetryPolicy,
        pace: &Pace,
        location: &str,
        mut open: impl FnMut() -> Result<T, E>,
        may_pass: impl Fn(&E) -> bool,
    ) -> Result<T, E> {
        let since = pace.now();
        let mut pause = policy.first;
        loop {
            let error = match open() {
                Err(error) if may_pass(&error) => error,
                result => return result,
            };
            let wait = pace.jittered(pause);
            if pace.now().saturating_sub(since) + wait > policy.budget_unknown {
                return Err(error);
            }
            if pause > policy.first * 2 {
                tracing::warn!("{error}; trying again in {:.0} s", wait.as_secs_f64().ceil());
            } else {
                tracing::debug!("{error}; trying again in {:.1} s", wait.as_secs_f64());
            }
            pause = (pause * 2).min(policy.longest);
            if pace.wait(wait, "open", location).is_err() {
                return Err(error);
            }
        }
    }

    fn wait_after(&self, mut error: StorageError, trouble: &mut Option<Trouble>) -> Result<(), StorageError> {
        let now = self.pace.now();
        let trouble = trouble.get_or_insert(Trouble {
            since: now,
            tries: 0,
            pause: self.policy.first,
        });
        trouble.tries += 1;
        let asked = error.retry_after.unwrap_or_default().min(LONGEST_ASKED);
        let wait = self.pace.jittered(trouble.pause).max(asked);
        let budget = if self.answered.load(Ordering::Relaxed) {
            self.policy.budget
        } else {
            self.policy.budget_unknown
        };
        let failing_for = now.saturating_sub(trouble.since);
        if failing_for + wait > budget {
            error.message = format!("{} (given up after {} tries)", error.message, trouble.tries);
            return Err(error);
        }
        // One stumble is nothing to tell; that it goes on is.
        if trouble.tries > 2 {
            tracing::warn!("{error}; trying again in {:.0} s", wait.as_secs_f64().ceil());
        } else {
            tracing::debug!("{error}; trying again in {:.1} s", wait.as_secs_f64());
        }
        trouble.pause = (trouble.pause * 2).min(self.policy.longest);
        self.pace.wait(wait, error.operation, &error.subject)
    }

    /// Whether a put of a full storage may be tried again: not once another was refused for want of space. Servers with a
    /// full disk refuse some and leave others without any answer, each of which would be waited out by itself.
    fn unless_full(&self, result: Result<(), StorageError>) -> Result<(), StorageError> {
        match &result {
            Ok(()) => self.full.store(false, Ordering::Relaxed),
            Err(error) if error.kind == StorageErrorKind::NoSpace => self.full.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
        result.map_err(|mut error| {
            if may_pass(error.kind) && self.full.load(Ordering::Relaxed) {
                error.kind = StorageErrorKind::NoSpace;
                error.message += "; others were refused because the storage is full";
            }
            error
        })
    }

    /// Whether an object holds what a try that seemed to fail had sent.
    fn arrived(&self, key: &str, length: usize, blake3: &[u8; 32]) -> Result<bool, StorageError> {
        if self.inner.stat(key)?.size_bytes != length as u64 {
            return Ok(false);
        }
        let bytes = self.inner.get(key, 0, length as u64)?;
        Ok(blake3::hash(&bytes) == *blake3)
    }
}

fn may_pass(kind: StorageErrorKind) -> bool {
    matches!(kind, StorageErrorKind::Transient | StorageErrorKind::Timeout)
}

impl Storage for Retried {
    fn location(&self) -> &str {
        self.inner.location()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn probe(&self) -> Result<Capabilities, StorageError> {
        self.persist(|_| self.inner.probe())
    }

    fn init(&self) -> Result<(), StorageError> {
        self.persist(|_| self.inner.init())
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        self.persist(|_| self.inner.list(prefix, start_after, limit))
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        self.persist(|_| self.inner.stat(key))
    }

    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        self.get_with(key, offset, length, Vec::new())
    }

    fn get_with(
        &self,
        key: &str,
        offset: u64,
        length: u64,
        mut memory: Vec<u8>,
    ) -> Result<Vec<u8>, StorageError> {
        // A try that fails keeps it.
        self.persist(|_| {
            self.inner
                .get_with(key, offset, length, std::mem::take(&mut memory))
        })
    }

    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        self.persist(|tried_before| {
            match self.unless_full(self.inner.put(key, Arc::clone(&bytes), options)) {
                // The answer to an earlier try was lost, but the object had arrived.
                Err(error)
                    if tried_before
                        && options.mode == PutMode::Create
                        && error.kind == StorageErrorKind::AlreadyExists
                        && self.arrived(key, bytes.len(), &options.blake3)? =>
                {
                    Ok(())
                }
                result => result,
            }
        })
    }

    fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.persist(|_| self.inner.delete(key))
    }

    fn space(&self) -> Result<Option<Space>, StorageError> {
        self.persist(|_| self.inner.space())
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStorage;
    use super::super::pace::simulated;
    use super::*;

    /// A connector that cannot be opened for its first so many tries.
    fn opened_after(failures: u32, kind: StorageErrorKind) -> (Result<u32, StorageErrorKind>, u32) {
        let mut tries = 0;
        let open = || {
            tries += 1;
            if tries > failures {
                Ok(tries)
            } else {
                Err(format!("{kind:?}"))
            }
        };
        let passing = |error: &String| error == "Transient";
        let opened =
            Retried::open_patiently(RetryPolicy::default(), &simulated::pace(), "there", open, passing);
        (opened.map_err(|_same| kind), tries)
    }

    #[test]
    fn opening_is_tried_again_for_a_while_when_that_may_help() {
        assert_eq!(opened_after(3, StorageErrorKind::Transient), (Ok(4), 4));
        let (gone, tries) = opened_after(1000, StorageErrorKind::Transient);
        assert!(gone.is_err() && (4..20).contains(&tries), "{tries} tries");
        assert_eq!(
            opened_after(1, StorageErrorKind::Auth),
            (Err(StorageErrorKind::Auth), 1)
        );
    }

    #[test]
    fn a_put_is_not_tried_again_while_others_find_the_storage_full() {
        let retried = Retried::new(
            Arc::new(MemoryStorage::new()),
            RetryPolicy::default(),
            simulated::pace(),
            Arc::default(),
        );
        let failed = |kind| Err(StorageError::new(kind, "write", "packs/ab", "as it is"));
        let kind = |result: Result<(), StorageError>| retried.unless_full(result).map_err(|error| error.kind);
        let silent = || kind(failed(StorageErrorKind::Timeout));
        assert_eq!(silent(), Err(StorageErrorKind::Timeout));
        assert_eq!(
            kind(failed(StorageErrorKind::NoSpace)),
            Err(StorageErrorKind::NoSpace)
        );
        assert_eq!(silent(), Err(StorageErrorKind::NoSpace));
        assert_eq!(kind(failed(StorageErrorKind::Auth)), Err(StorageErrorKind::Auth));
        assert_eq!(kind(Ok(())), Ok(()));
        assert_eq!(silent(), Err(StorageErrorKind::Timeout));
    }

    #[test]
    fn a_storage_that_asks_for_a_long_wait_has_answered() {
        let pace = simulated::pace();
        let inner = Arc::new(MemoryStorage::new());
        let retried = Retried::new(inner, RetryPolicy::default(), pace.clone(), Arc::default());
        let begun = pace.now();
        let mut answers = vec![Some(Duration::from_secs(50)), Some(Duration::from_secs(40))];
        let result = retried.persist(|_| match answers.pop() {
            Some(retry_after) => Err(StorageError {
                retry_after,
                ..StorageError::new(StorageErrorKind::Transient, "list", "", "busy")
            }),
            None => Ok(()),
        });
        assert!(result.is_ok());
        assert!(pace.now().checked_sub(begun).unwrap() >= Duration::from_secs(90));
    }
}
