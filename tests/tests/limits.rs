//! The rates that the user sets, on the real program.

use std::time::{Duration, Instant};

use plakar_testkit::{Lab, random};

/// Only from below: a machine may always be slower.
fn takes_at_least(least: Duration, work: impl FnOnce()) {
    let begun = Instant::now();
    work();
    let taken = begun.elapsed();
    assert!(taken >= least, "it took {taken:?} only");
}

#[test]
fn uploads_and_downloads_keep_below_the_rate_of_the_user() {
    let lab = Lab::with_repository();
    std::fs::write(lab.path("data/file"), random::bytes(1, 8_000_000)).unwrap();
    let data = lab.path("data");
    takes_at_least(Duration::from_millis(1700), || {
        lab.plakar(["-limit-upload", "4MB", "backup", data.to_str().unwrap()])
            .ok();
    });
    takes_at_least(Duration::from_millis(1300), || {
        lab.plakar(["-limit-download=4MB/s", "check"]).ok();
    });
    let target = lab.path("restored");
    lab.plakar([
        "-limit-requests",
        "1000",
        "restore",
        "-to",
        target.to_str().unwrap(),
    ])
    .ok();
    assert_eq!(
        std::fs::read(target.join("file")).unwrap(),
        std::fs::read(data.join("file")).unwrap()
    );
}

#[test]
fn a_rate_that_makes_no_sense_is_refused() {
    let lab = Lab::with_repository();
    for rate in ["0", "fast", "-5", "4 lightyears", ""] {
        lab.plakar(["-limit-upload", rate, "ls"])
            .fails(64, "-limit-upload");
    }
}

#[test]
fn requests_are_counted_and_told() {
    let lab = Lab::with_repository();
    std::fs::write(lab.path("data/file"), b"small").unwrap();
    let output = lab
        .plakar(["-json", "backup", lab.path("data").to_str().unwrap()])
        .ok();
    let last: serde_json::Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "storage");
    // A pack of trees, an index segment, the snapshot: what is small is inline.
    assert_eq!(last["writes"], 3, "{last}");
    assert_eq!(last["retries"], 0);
    assert!(last["sent_bytes"].as_u64().unwrap() > 500);
    let info = lab.plakar(["info"]).ok();
    assert!(info.stdout.contains("Storage: "), "{}", info.stdout);
}
