//! The threads that call into one open connector, and the patience of those who wait for them.
//!
//! A call that shows no life for too long is given up with its thread, and a new thread takes the place: the program
//! lives on. It knows nothing of what the calls do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded};
use plakar_plugin_api::abi::{RawCall, RawConnectorBox};

use super::calls::{Abandoned, Call, Calls, Content};

/// How long a wait goes on without looking whether the program is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The open connector. Only worker threads hold it, so that its end, too, runs (and may hang) on one of them.
pub(super) type Connector = Arc<RawConnectorBox>;

/// Why a call gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// It showed no life for this long.
    Silent(Duration),
    /// All threads hang in calls that were given up.
    AllHang,
    /// The worker itself failed.
    Broken,
}

/// What a worker does with the connector.
type Work = Box<dyn FnOnce(&RawConnectorBox, RawCall) + Send>;

struct Job {
    call: Arc<Call>,
    work: Work,
}

/// A bounded set of threads for one open connector.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: Sender<Job>,
    shared: Arc<Shared>,
    connector: Weak<RawConnectorBox>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    calls: Arc<Calls>,
    queue: Receiver<Job>,
    size: usize,
    threads: Mutex<Threads>,
}

#[derive(Debug, Default)]
struct Threads {
    serving: usize,
    given_up: usize,
}

impl Shared {
    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Starts `size` threads on `connector`.
    pub(super) fn start(
        name: &str,
        connector: &Connector,
        calls: Arc<Calls>,
        size: usize,
    ) -> std::io::Result<Self> {
        let (jobs, queue) = bounded(size);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            calls,
            queue,
            size,
            threads: Mutex::default(),
        });
        let pool = Self {
            jobs,
            shared,
            connector: Arc::downgrade(connector),
        };
        for _ in 0..size {
            pool.add_thread(Arc::clone(connector))?;
        }
        Ok(pool)
    }

    fn add_thread(&self, connector: Connector) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let worker = thread::Builder::new().name(format!("connector-{}", shared.name));
        self.shared.threads().serving += 1;
        worker
            .spawn(move || serve(&shared, &connector))
            .map(drop)
            .inspect_err(|_| self.shared.threads().serving -= 1)
    }

    /// Runs `work` on a thread of the pool and waits, as long as it shows life within `patience`.
    pub(super) fn call<T: Send + 'static>(
        &self,
        patience: Duration,
        content: Content,
        work: impl FnOnce(&RawConnectorBox, RawCall) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        if self.shared.threads().serving == 0 {
            return Err(NoAnswer::AllHang);
        }
        let call = self.shared.calls.start(content);
        let (answer, answered) = bounded(1);
        let work = Box::new(move |connector: &RawConnectorBox, call: RawCall| {
            // A caller that has given up has dropped its end.
            let _unheard = answer.send(work(connector, call)).is_err();
        });
        let job = Job {
            call: Arc::clone(&call),
            work,
        };
        if !self.queue(job, patience) {
            self.shared.calls.forget(&call);
            return Err(NoAnswer::Silent(patience));
        }
        self.wait(&call, patience, &answered)
    }

    /// Puts a job in the queue. A full queue is waited for as long as the calls before show life.
    fn queue(&self, mut job: Job, patience: Duration) -> bool {
        let begun = Instant::now();
        loop {
            job = match self.jobs.send_timeout(job, patience.min(LOOK_EVERY)) {
                Ok(()) => return true,
                Err(SendTimeoutError::Timeout(job))
                    if begun.elapsed().min(self.shared.calls.silent_for())
                        < self.shared.calls.patience(patience) =>
                {
                    job
                }
                Err(SendTimeoutError::Timeout(_) | SendTimeoutError::Disconnected(_)) => return false,
            };
        }
    }

    /// How long nothing was heard of a call; of one that still waits for a thread, of those before it.
    fn silent_for(&self, call: &Call) -> Duration {
        let own = call.silent_for();
        if call.is_waiting() {
            own.min(self.shared.calls.silent_for())
        } else {
            own
        }
    }

    fn wait<T>(&self, call: &Call, patience: Duration, answered: &Receiver<T>) -> Result<T, NoAnswer> {
        loop {
            let left = patience.saturating_sub(self.silent_for(call)).min(LOOK_EVERY);
            let waited = answered.recv_timeout(left);
            let patience = self.shared.calls.patience(patience);
            match waited {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(NoAnswer::Broken),
                Err(RecvTimeoutError::Timeout) if self.silent_for(call) < patience => {}
                Err(RecvTimeoutError::Timeout) => match call.abandon() {
                    Abandoned::Waiting => {
                        self.shared.calls.forget(call);
                        return Err(NoAnswer::Silent(patience));
                    }
                    Abandoned::Running => {
                        self.replace_thread();
                        return Err(NoAnswer::Silent(patience));
                    }
                    Abandoned::No => return answered.recv().map_err(|_gone| NoAnswer::Broken),
                },
            }
        }
    }

    /// A thread was given up: start another, unless as many as the pool has already hang.
    fn replace_thread(&self) {
        let mut threads = self.shared.threads();
        threads.serving -= 1;
        threads.given_up += 1;
        let (name, given_up) = (&self.shared.name, threads.given_up);
        tracing::warn!(connector = %name, given_up, "a call into the connector hangs and was given up");
        let replace = given_up <= self.shared.size;
        drop(threads);
        if replace
            && let Some(connector) = self.connector.upgrade()
            && let Err(error) = self.add_thread(connector)
        {
            tracing::warn!(connector = %name, "cannot start another thread: {error}");
        }
    }
}

/// A worker's life.
fn serve(shared: &Shared, connector: &Connector) {
    for Job { call, work } in &shared.queue {
        if !call.begin() {
            continue;
        }
        shared.calls.touch();
        let raw = RawCall {
            id: call.id,
            timeout_ms: 0,
            reserved: [0; 2],
        };
        // A panic here is the host's own; the answer's sender is dropped, and the caller sees `Broken`.
        let panicked = catch_unwind(AssertUnwindSafe(|| work(connector, raw))).is_err();
        let waited_for = call.end();
        shared.calls.touch();
        shared.calls.forget(&call);
        if panicked {
            tracing::error!(connector = %shared.name, "a worker thread panicked");
        }
        if !waited_for && !return_to_service(shared) {
            return;
        }
    }
    shared.threads().serving -= 1;
}

/// After a call that was given up came back: whether the thread is needed again.
fn return_to_service(shared: &Shared) -> bool {
    let mut threads = shared.threads();
    threads.given_up -= 1;
    let needed = threads.serving < shared.size;
    if needed {
        threads.serving += 1;
    }
    needed
}
