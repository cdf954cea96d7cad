//! Connectors that panic, hang and lie: each is a clear error of one call, and the program lives.

mod plugin_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use plakar_core::environment::Environment;
use plakar_core::plugin::{HostOptions, PluginError};
use plakar_core::repository::{CreateError, CreateOptions, Repository};
use plakar_core::storage::{Storage, StorageError, StorageErrorKind};
use plakar_testkit::engine::{back_up, check_all, create};
use plakar_testkit::random;
use plugin_support::{impatient, message, misbehaving, open_with, put, settings};

fn failure<T: std::fmt::Debug>(outcome: Result<T, StorageError>, kind: StorageErrorKind, words: &str) {
    let error = outcome.unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    let text = error.to_string();
    assert!(text.contains(words) && !text.contains('\n'), "{text}");
}

/// A call that has nothing to do with the fault still works.
fn still_works(storage: &dyn Storage) {
    storage.delete("anything").unwrap();
}

#[test]
fn without_a_fault_it_behaves() {
    let storage = open_with("none").unwrap();
    put(storage.as_ref(), "a", b"bytes").unwrap();
    assert_eq!(storage.get("a", 1, 3).unwrap(), b"yte");
    assert_eq!(storage.list("", "", 5).unwrap().objects.len(), 1);
    assert_eq!(storage.capabilities().concurrency, 2);
}

#[test]
fn a_panic_while_opening_is_an_error() {
    let text = message(open_with("panic-open"));
    assert!(
        text.contains("the connector panicked at") && text.contains("out of cheese"),
        "{text}"
    );
    assert!(message(open_with("panic-capabilities")).contains("no idea"));
}

#[test]
fn a_refusal_while_opening_keeps_its_kind() {
    let error = open_with("refuse-open").unwrap_err();
    assert!(
        matches!(
            error,
            PluginError::Open {
                kind: StorageErrorKind::Auth,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "cannot open hostile://here: the password is wrong"
    );
}

#[test]
fn a_panic_in_a_call_fails_that_call_alone() {
    let storage = open_with("panic-put").unwrap();
    for _ in 0..20 {
        failure(
            put(storage.as_ref(), "key", b"x"),
            StorageErrorKind::Panicked,
            "put key where?",
        );
    }
    still_works(storage.as_ref());
    failure(
        open_with("panic-list").unwrap().list("", "", 1),
        StorageErrorKind::Panicked,
        "what list?",
    );
}

#[test]
fn a_panic_that_poisons_the_connector_stays_its_own_problem() {
    let storage = open_with("panic-put-holding-lock").unwrap();
    failure(
        put(storage.as_ref(), "a", b"x"),
        StorageErrorKind::Panicked,
        "with the lock held",
    );
    failure(storage.get("a", 0, 1), StorageErrorKind::Panicked, "Poison");
}

#[test]
fn a_panic_while_it_is_dropped_is_survived() {
    for _ in 0..5 {
        drop(open_with("panic-drop").unwrap());
    }
    thread::sleep(Duration::from_millis(100));
    still_works(open_with("none").unwrap().as_ref());
}

#[test]
fn hanging_while_opening_ends_with_the_patience() {
    let begun = Instant::now();
    let text = message(open_with("hang-open"));
    assert_eq!(
        text,
        "cannot open hostile://here: the connector has not answered for 500 ms"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    still_works(open_with("none").unwrap().as_ref());
}

#[test]
fn a_call_that_hangs_times_out_and_others_go_on() {
    let storage = open_with("hang-get").unwrap();
    put(storage.as_ref(), "free", b"yes").unwrap();
    for _ in 0..2 {
        failure(
            storage.get("stuck", 0, 1),
            StorageErrorKind::Timeout,
            "has not answered for 500 ms",
        );
        assert_eq!(storage.get("free", 0, 3).unwrap(), b"yes");
    }
}

#[test]
fn a_connector_that_hangs_for_ever_loses_its_threads_and_says_so() {
    let storage = open_with("hang-get").unwrap();
    // Two threads, and two that replace them: after four lost calls nobody is left to try.
    for _ in 0..4 {
        failure(
            storage.get("stuck", 0, 1),
            StorageErrorKind::Timeout,
            "has not answered",
        );
    }
    let begun = Instant::now();
    failure(
        storage.get("stuck", 0, 1),
        StorageErrorKind::Timeout,
        "all its threads hang",
    );
    failure(
        storage.delete("x"),
        StorageErrorKind::Timeout,
        "all its threads hang",
    );
    assert!(
        begun.elapsed() < Duration::from_millis(200),
        "this is known without waiting"
    );
    drop(storage);
}

#[test]
fn calls_that_wait_behind_hanging_ones_end_too() {
    let storage = open_with("hang-get").unwrap();
    put(storage.as_ref(), "free", b"yes").unwrap();
    let begun = Instant::now();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| storage.get("stuck", 0, 1)))
            .collect();
        for caller in callers {
            assert_eq!(
                caller.join().unwrap().unwrap_err().kind,
                StorageErrorKind::Timeout
            );
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_call_given_up_is_told_to_end_and_its_thread_returns() {
    let storage = open_with("wait-for-cancel").unwrap();
    // More calls than there are threads and replacements: each comes back once it is told that nobody waits.
    for _ in 0..8 {
        failure(
            storage.get("x", 0, 1),
            StorageErrorKind::Timeout,
            "has not answered",
        );
        thread::sleep(Duration::from_millis(50));
    }
    still_works(storage.as_ref());
}

#[test]
fn the_program_can_cancel_calls_under_way() {
    let flag = Arc::new(AtomicBool::new(false));
    let options = HostOptions {
        cancelled: Some(Arc::clone(&flag)),
        ..HostOptions::default()
    };
    let storage = misbehaving()
        .registry()
        .open(
            "hostile://x",
            &settings(&[("fault", "wait-for-cancel")]),
            &options,
        )
        .unwrap();
    thread::scope(|scope| {
        let call = scope.spawn(|| storage.get("x", 0, 1));
        thread::sleep(Duration::from_millis(50));
        assert!(!call.is_finished());
        flag.store(true, Ordering::SeqCst);
        failure(
            call.join().unwrap(),
            StorageErrorKind::Cancelled,
            "stopped as asked",
        );
    });
}

#[test]
fn a_program_that_is_to_stop_does_not_wait_for_calls_that_hang() {
    let flag = Arc::new(AtomicBool::new(false));
    let options = HostOptions {
        cancelled: Some(Arc::clone(&flag)),
        request_timeout: Duration::from_hours(1),
        ..impatient()
    };
    let storage = misbehaving()
        .registry()
        .open("hostile://x", &settings(&[("fault", "hang-get")]), &options)
        .unwrap();
    thread::scope(|scope| {
        // More than there are threads and places in the queue.
        let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| storage.get("x", 0, 1))).collect();
        thread::sleep(Duration::from_millis(100));
        flag.store(true, Ordering::SeqCst);
        for call in calls {
            assert_eq!(call.join().unwrap().unwrap_err().kind, StorageErrorKind::Timeout);
        }
    });
}

#[test]
fn a_slow_call_that_shows_progress_is_not_given_up() {
    let storage = open_with("slow-progress").unwrap();
    put(storage.as_ref(), "a", b"slow").unwrap();
    let begun = Instant::now();
    assert_eq!(storage.get("a", 0, 4).unwrap(), b"slow");
    assert!(
        begun.elapsed() > Duration::from_millis(900),
        "it was slower than the patience of 500 ms"
    );
}

#[test]
fn hanging_while_closing_does_not_hold_the_program() {
    let begun = Instant::now();
    drop(open_with("hang-close").unwrap());
    let folder = misbehaving();
    let storage = folder
        .registry()
        .open_connector("hostile://x", &settings(&[("fault", "hang-close")]), &impatient())
        .unwrap();
    failure(
        storage.close(),
        StorageErrorKind::Timeout,
        "cannot close hostile://x",
    );
    storage.close().expect("closing twice is closing once");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn lies_about_sizes_are_found_out() {
    for fault in ["lie-get", "huge-lie-get"] {
        let storage = open_with(fault).unwrap();
        for length in [0, 1, 4096, 1 << 20] {
            failure(
                storage.get("a", 0, length),
                StorageErrorKind::Other,
                "returned more than asked",
            );
        }
    }
    let storage = open_with("huge-stat").unwrap();
    put(storage.as_ref(), "a", b"small").unwrap();
    failure(
        storage.get("a", 0, u64::MAX),
        StorageErrorKind::Other,
        "no memory",
    );
    assert_eq!(storage.get("a", 0, 100).unwrap(), b"small");
    let storage = open_with("stat-other").unwrap();
    put(storage.as_ref(), "a", b"x").unwrap();
    failure(storage.stat("a"), StorageErrorKind::Other, "another object");
}

#[test]
fn listings_out_of_order_are_found_out() {
    let with_objects = |fault: &str| {
        let storage = open_with(fault).unwrap();
        for key in ["a", "b", "c"] {
            put(storage.as_ref(), key, b"x").unwrap();
        }
        storage
    };
    failure(
        with_objects("unordered-list").list("", "", 10),
        StorageErrorKind::Other,
        "listing is out of order",
    );
    failure(
        with_objects("foreign-list").list("a", "", 10),
        StorageErrorKind::Other,
        "outside the prefix",
    );
    failure(
        with_objects("long-list").list("", "", 2),
        StorageErrorKind::Other,
        "more than asked",
    );
    let page = with_objects("endless-list").list("", "", 2).unwrap();
    assert!(!page.more, "an empty page ends a listing");
}

#[test]
fn a_storage_that_asks_to_wait_is_heard() {
    let error = put(open_with("ask-to-wait").unwrap().as_ref(), "a", b"x").unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Transient);
    assert_eq!(error.retry_after, Some(Duration::from_millis(1500)));
}

#[test]
fn no_connector_gets_more_threads_than_there_are_for_it() {
    let before = thread_count();
    let storage = open_with("greedy").unwrap();
    assert!(
        thread_count() <= before + 60,
        "other tests run beside this one, but none starts thousands"
    );
    assert_eq!(storage.capabilities().concurrency, 16);
    still_works(storage.as_ref());
}

#[test]
fn calls_wait_for_their_turn_behind_slow_ones_that_show_progress() {
    let storage = open_with("slow-progress").unwrap();
    put(storage.as_ref(), "a", b"slow").unwrap();
    // Each takes a second, twice the patience, on two threads: the last ones wait for three seconds.
    thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| storage.get("a", 0, 4))).collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap(), b"slow");
        }
    });
}

#[test]
fn a_message_without_end_is_cut() {
    let error = open_with("endless-error").unwrap().list("", "", 1).unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Auth);
    assert!(
        error.message.starts_with("no, no, ") && error.message.len() <= 4096,
        "{} bytes",
        error.message.len()
    );
}

#[test]
fn threads_that_go_on_after_their_call_and_panic_change_nothing() {
    let storage = open_with("report-late").unwrap();
    for round in 0..20 {
        put(storage.as_ref(), &format!("k{round}"), b"x").unwrap();
    }
    thread::sleep(Duration::from_millis(100));
    assert_eq!(storage.list("", "", 100).unwrap().objects.len(), 20);
}

#[test]
fn a_storage_that_does_not_promise_what_is_needed_is_refused() {
    for (fault, promise) in [
        ("not-atomic", "whole or not at all"),
        ("not-atomic-after-all", "whole or not at all"),
        ("late-listing", "listed once it is stored"),
        ("small-objects", "as large as a pack"),
    ] {
        let created = Repository::create(
            open_with(fault).unwrap(),
            CreateOptions::default(),
            Environment::system(),
        );
        let error = created.map(drop).unwrap_err();
        assert!(matches!(error, CreateError::Unfit { .. }), "{fault}: {error}");
        assert!(error.to_string().contains(promise), "{fault}: {error}");
    }
}

#[test]
fn what_a_connector_loses_without_a_word_is_found_by_check() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), random::bytes(1, 300_000)).unwrap();
    for fault in [
        "none",
        "lose-packs",
        "empty-packs",
        "short-packs",
        "flipped-packs",
    ] {
        let repository = create(open_with(fault).unwrap(), None);
        let report = back_up(&repository, source.path());
        // It may be noticed in the backup itself; if not, the check must notice.
        if let Ok(report) = report {
            assert_eq!(report.problem_count, 0);
            assert_eq!(
                check_all(&repository).unwrap().is_damaged(),
                fault != "none",
                "{fault}"
            );
        }
    }
}

#[test]
fn a_snapshot_that_is_not_there_after_all_is_no_success() {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), b"small").unwrap();
    let repository = create(open_with("lose-snapshots").unwrap(), None);
    let error = back_up(&repository, source.path()).unwrap_err().to_string();
    assert!(
        error.contains("has it not") && error.contains("snapshots/"),
        "{error}"
    );
}

fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
