//! What every storage gets around it: passing failures are waited out, rates hold, requests are counted. Time is simulated.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use plakar_core::environment::{Clock, Environment, Timestamp};
use plakar_core::storage::counted::Traffic;
use plakar_core::storage::decorate::{Decoration, decorate};
use plakar_core::storage::limited::Limits;
use plakar_core::storage::memory::MemoryStorage;
use plakar_core::storage::pace::Pace;
use plakar_core::storage::{PutMode, PutOptions, Storage, StorageError, StorageErrorKind};
use plakar_testkit::faulty::{Fault, FaultyStorage, Manner, Operation};

/// A clock that moves only when somebody sleeps.
#[derive(Default)]
struct Simulated {
    nanoseconds: AtomicU64,
    slept: Mutex<Vec<Duration>>,
    /// Set when this much time has passed.
    alarm: Mutex<Option<(Duration, Arc<AtomicBool>)>>,
}

impl Clock for Simulated {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    fn monotonic_nanoseconds(&self) -> u64 {
        self.nanoseconds.load(Ordering::SeqCst)
    }

    fn sleep(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap();
        let now = self.nanoseconds.fetch_add(nanoseconds, Ordering::SeqCst) + nanoseconds;
        self.slept.lock().unwrap().push(duration);
        if let Some((at, flag)) = &*self.alarm.lock().unwrap()
            && Duration::from_nanos(now) >= *at
        {
            flag.store(true, Ordering::SeqCst);
        }
    }
}

struct Scene {
    clock: Arc<Simulated>,
    cancelled: Arc<AtomicBool>,
    faulty: Arc<FaultyStorage>,
    memory: Arc<MemoryStorage>,
    storage: Arc<dyn Storage>,
    traffic: Arc<Traffic>,
}

fn scene(limits: Limits) -> Scene {
    let clock = Arc::new(Simulated::default());
    let cancelled = Arc::new(AtomicBool::new(false));
    let environment = Environment {
        clock: Arc::<Simulated>::clone(&clock),
        ..Environment::system()
    };
    let memory = Arc::new(MemoryStorage::new());
    let faulty = FaultyStorage::around(Arc::<MemoryStorage>::clone(&memory));
    let decoration = Decoration {
        limits,
        ..Decoration::default()
    };
    let pace = Pace::new(environment, Some(Arc::clone(&cancelled)));
    let (storage, traffic) = decorate(Arc::<FaultyStorage>::clone(&faulty), decoration, &pace);
    Scene {
        clock,
        cancelled,
        faulty,
        memory,
        storage,
        traffic,
    }
}

impl Scene {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_nanoseconds())
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let options = PutOptions {
            mode: PutMode::Create,
            durable: true,
            blake3: *blake3::hash(bytes).as_bytes(),
        };
        self.storage.put(key, Arc::new(bytes.to_vec()), options)
    }

    fn fails(&self, operation: Operation, manner: Manner, kind: StorageErrorKind) {
        self.faulty.arm(Fault {
            operation: Some(operation),
            call: 0,
            manner,
            kind,
        });
    }
}

#[test]
fn a_stumble_is_waited_out_and_counted() {
    for kind in [StorageErrorKind::Transient, StorageErrorKind::Timeout] {
        let scene = scene(Limits::default());
        scene.fails(Operation::Put, Manner::Refuses, kind);
        scene.put("a", b"bytes").unwrap();
        assert_eq!(scene.memory.get("a", 0, 10).unwrap(), b"bytes");
        let waited = scene.elapsed();
        assert!(
            Duration::from_millis(250) <= waited && waited <= Duration::from_millis(600),
            "{waited:?}"
        );
        let totals = scene.traffic.totals();
        assert_eq!(
            (totals.puts, totals.retries, totals.failed, totals.sent_bytes),
            (2, 1, 1, 5)
        );
    }
}

#[test]
fn what_will_not_pass_is_not_tried_again() {
    for kind in [
        StorageErrorKind::NotFound,
        StorageErrorKind::AlreadyExists,
        StorageErrorKind::Auth,
        StorageErrorKind::Permission,
        StorageErrorKind::NoSpace,
        StorageErrorKind::Corrupt,
        StorageErrorKind::Config,
        StorageErrorKind::Panicked,
        StorageErrorKind::Other,
    ] {
        let scene = scene(Limits::default());
        scene.fails(Operation::Get, Manner::Refuses, kind);
        assert_eq!(scene.storage.get("a", 0, 1).unwrap_err().kind, kind);
        assert_eq!(scene.elapsed(), Duration::ZERO);
        assert_eq!(scene.traffic.totals().retries, 0);
    }
}

#[test]
fn a_put_whose_answer_was_lost_is_recognised_by_its_bytes() {
    let scene = scene(Limits::default());
    scene.fails(Operation::Put, Manner::Forgets, StorageErrorKind::Timeout);
    scene.put("a", b"bytes").unwrap();

    // Another object of that name is no such thing.
    scene.faulty.disarm();
    scene.fails(Operation::Put, Manner::Refuses, StorageErrorKind::Timeout);
    assert_eq!(
        scene.put("a", b"other").unwrap_err().kind,
        StorageErrorKind::AlreadyExists
    );
    assert_eq!(scene.memory.get("a", 0, 10).unwrap(), b"bytes");

    // And without a try before it, an existing object is simply in the way.
    scene.faulty.disarm();
    assert_eq!(
        scene.put("a", b"bytes").unwrap_err().kind,
        StorageErrorKind::AlreadyExists
    );
}

#[test]
fn a_storage_that_went_away_is_given_up_in_the_end_with_its_own_error() {
    let scene = scene(Limits::default());
    scene.put("a", b"x").unwrap();
    scene.fails(Operation::Get, Manner::Dies, StorageErrorKind::Transient);
    let error = scene.storage.get("a", 0, 1).unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Transient);
    assert!(
        error.message.contains("a fault that a test ordered") && error.message.contains("given up after")
    );
    let waited = scene.elapsed();
    assert!(
        Duration::from_mins(13) < waited && waited <= Duration::from_mins(15),
        "{waited:?}"
    );
}

#[test]
fn one_that_never_answered_is_given_up_soon() {
    let scene = scene(Limits::default());
    scene.fails(Operation::Get, Manner::Dies, StorageErrorKind::Transient);
    scene.storage.get("a", 0, 1).unwrap_err();
    assert!(scene.elapsed() <= Duration::from_secs(20));
    assert!(scene.traffic.totals().retries >= 3);
}

#[test]
fn the_wait_ends_when_the_program_is_told_to_stop() {
    let scene = scene(Limits::default());
    scene.put("a", b"x").unwrap();
    scene.fails(Operation::Get, Manner::Dies, StorageErrorKind::Transient);
    *scene.clock.alarm.lock().unwrap() = Some((Duration::from_secs(100), Arc::clone(&scene.cancelled)));
    assert_eq!(
        scene.storage.get("a", 0, 1).unwrap_err().kind,
        StorageErrorKind::Cancelled
    );
    assert!(scene.elapsed() < Duration::from_secs(101));
}

#[test]
fn rates_hold_on_average() {
    let scene = scene(Limits {
        upload_bytes: Some(1000),
        download_bytes: Some(500),
        requests: None,
    });
    for number in 0..10 {
        scene.put(&format!("k{number}"), &[7; 1000]).unwrap();
    }
    let up = scene.elapsed();
    assert!((9..=10).contains(&up.as_secs()), "{up:?}");
    for number in 0..10 {
        scene.storage.get(&format!("k{number}"), 0, 1000).unwrap();
    }
    let down = scene.elapsed() - up;
    assert!((18..=20).contains(&down.as_secs()), "{down:?}");
}

#[test]
fn requests_a_second_hold_for_all_kinds_together() {
    let scene = scene(Limits {
        requests: Some(10),
        ..Limits::default()
    });
    scene.put("a", b"x").unwrap();
    for _ in 0..50 {
        scene.storage.stat("a").unwrap();
        scene.storage.list("", "", 10).unwrap();
    }
    let waited = scene.elapsed();
    assert!((9..=11).contains(&waited.as_secs()), "{waited:?}");
    let totals = scene.traffic.totals();
    assert_eq!((totals.requests(), totals.lists, totals.stats), (101, 50, 50));
}
