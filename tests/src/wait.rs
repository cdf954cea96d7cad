//! Waiting for what another process or thread does.

use std::time::{Duration, Instant};

/// After so long, what was waited for will not come: machines of tests are slow at times, but not so slow.
const LIMIT: Duration = Duration::from_mins(1);
/// The same for what takes no work of the program.
const SOON: Duration = Duration::from_secs(20);

/// Waits until something is so. When it takes too long, the test has failed.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_for(LIMIT, what, is_so);
}

/// The same for what must be so soon.
#[track_caller]
pub fn soon(what: &str, is_so: impl FnMut() -> bool) {
    wait_for(SOON, what, is_so);
}

#[track_caller]
fn wait_for(limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < limit, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
