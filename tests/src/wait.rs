//! Waiting for what another process or thread does.

use std::time::{Duration, Instant};

/// After so long, what was waited for will not come: machines of tests are slow at times, but not so slow.
const LIMIT: Duration = Duration::from_mins(1);

/// Waits until something is so. When it takes too long, the test has failed.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LIMIT, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
