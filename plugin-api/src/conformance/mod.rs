//! The behaviours every connector must show, as a library: run it on a connector, or on an open location.
//!
//! It writes under one throw-away folder of keys, `conformance-<random>/`, and deletes what it wrote.

mod keys;
mod listing;
mod objects;
mod report;
mod sharing;
mod target;

pub use report::{Outcome, Report, Verdict};
pub use target::{ConnectorTarget, Target};

use std::hash::{BuildHasher as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Capabilities, PutMode, PutOptions};

/// Size of the big object: beyond any sensible buffer, within any sensible limit.
const BIG_OBJECT_BYTES: usize = 40 << 20;
/// The largest pack that the host makes, and so the largest object the suite tries.
const MAX_OBJECT_BYTES: usize = 128 << 20;

/// Makes a new handle to the same, initialised place each time it is called.
pub type Opener<'a> = dyn Fn() -> Result<Box<dyn Target>> + Sync + 'a;

type Check = fn(&Area<'_>) -> Checked;
type Checked = std::result::Result<(), Stop>;

/// Every behaviour, in the order it is tried.
const CHECKS: &[(&str, Check)] = &[
    ("probe finds the place", objects::probe_finds_the_place),
    (
        "init refuses a place that is not empty",
        objects::init_refuses_what_is_not_empty,
    ),
    (
        "an object is readable as soon as it is put",
        objects::read_after_write,
    ),
    (
        "an object is listed as soon as it is put",
        listing::list_after_write,
    ),
    ("an object put again with Replace is replaced", objects::replace),
    ("Create leaves an existing object as it was", objects::create_only),
    (
        "of several that create one key, one wins",
        sharing::racing_creators,
    ),
    ("ranges are exact, also at and past the end", objects::ranges),
    ("an empty object is an object", objects::empty_object),
    (
        "ranges of one object may be read by many at once",
        sharing::parallel_ranges,
    ),
    (
        "an object as large as a pack comes back unchanged",
        objects::big_object,
    ),
    ("a durable put works", objects::durable_put),
    ("a missing object is NotFound", objects::missing_object),
    ("deleting works, also of what is missing", objects::delete),
    ("listings are in byte order of whole keys", listing::byte_order),
    ("listings go on after any key", listing::start_after),
    ("pages of any limit give the same listing", listing::pagination),
    (
        "a prefix need not end at a slash",
        listing::prefix_within_a_component,
    ),
    ("listing nothing is an empty page", listing::empty_listing),
    (
        "a listing while others write misses nothing",
        listing::while_others_write,
    ),
    ("every kind of valid key works", keys::valid_keys),
    ("invalid keys are refused", keys::invalid_keys),
    ("a reader sees all of an object or nothing", sharing::atomic_put),
    ("a reader sees the old or the new object", sharing::atomic_replace),
    ("many threads may call at once", sharing::many_threads),
    (
        "a cancelled call ends, and leaves all or nothing",
        sharing::cancellation,
    ),
    ("space is told where it is known", objects::space),
    (
        "a handle is closed in good order, and others go on",
        sharing::closing,
    ),
];

/// Runs every check on the place that `open` gives handles to.
pub fn run(open: &Opener<'_>) -> Report {
    run_telling(open, &mut |_| {})
}

/// Like [`run`], and tells each verdict as soon as it is reached: a call that hangs is seen in what is not told.
pub fn run_telling(open: &Opener<'_>, tell: &mut dyn FnMut(&Verdict)) -> Report {
    let mut report = Report::default();
    let mut note = |verdict: Verdict| {
        tell(&verdict);
        report.verdicts.push(verdict);
    };
    let begun = Instant::now();
    match Area::new(open) {
        Ok(area) => {
            for (name, check) in CHECKS {
                note(verdict(name, *check, &area));
            }
            note(verdict("nothing stays behind", listing::clean_up, &area));
        }
        Err(error) => note(Verdict {
            name: "the place opens",
            outcome: Outcome::Fail {
                why: describe(&error),
            },
            elapsed: begun.elapsed(),
        }),
    }
    report
}

fn verdict(name: &'static str, check: Check, area: &Area<'_>) -> Verdict {
    let begun = Instant::now();
    // Called directly, a connector's panic comes up to here; through a host it is an error.
    let outcome = match catch_unwind(AssertUnwindSafe(|| check(area))) {
        Ok(Ok(())) => Outcome::Pass,
        Ok(Err(Stop::Fail(why))) => Outcome::Fail { why },
        Ok(Err(Stop::Skip(why))) => Outcome::Skipped { why },
        Err(_) => Outcome::Fail {
            why: "the connector panicked".into(),
        },
    };
    Verdict {
        name,
        outcome,
        elapsed: begun.elapsed(),
    }
}

/// Why a check ended early.
enum Stop {
    Fail(String),
    Skip(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(describe(&error))
    }
}

fn describe(error: &Error) -> String {
    format!("{:?}: {}", error.kind, error.message)
}

fn fail<T>(why: impl Into<String>) -> std::result::Result<T, Stop> {
    Err(Stop::Fail(why.into()))
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { fail(why()) }
}

/// Does something at the end of its scope, also when that is a panic: others wait for it.
struct AtTheEnd<F: Fn()>(F);

impl<F: Fn()> Drop for AtTheEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Wants exactly these bytes; says how others differ.
fn ensure_bytes(got: &[u8], wanted: &[u8], what: impl FnOnce() -> String) -> Checked {
    if got == wanted {
        return Ok(());
    }
    let what = what();
    match got.iter().zip(wanted).position(|(got, wanted)| got != wanted) {
        Some(place) => fail(format!("{what}: byte {place} of {} is wrong", wanted.len())),
        None => fail(format!("{what}: {} bytes came, not {}", got.len(), wanted.len())),
    }
}

/// Wants the error kind `wanted` and nothing else.
fn ensure_refused<T>(outcome: Result<T>, wanted: ErrorKind, what: &str) -> Checked {
    match outcome {
        Err(error) if error.kind == wanted => Ok(()),
        Err(error) => fail(format!("{what} should be {wanted:?} but is {}", describe(&error))),
        Ok(_) => fail(format!("{what} should be {wanted:?} but succeeded")),
    }
}

/// The throw-away folder of keys, and a handle to the place.
struct Area<'a> {
    open: &'a Opener<'a>,
    target: Box<dyn Target>,
    capabilities: Capabilities,
    folder: String,
}

impl<'a> Area<'a> {
    fn new(open: &'a Opener<'a>) -> Result<Self> {
        let random = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        let target = open()?;
        let capabilities = target.probe()?;
        Ok(Self {
            open,
            target,
            capabilities,
            folder: format!("conformance-{random:016x}"),
        })
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    /// Another handle to the same place: what one wrote, the other must see.
    fn other(&self) -> Result<Box<dyn Target>> {
        (self.open)()
    }

    fn put(&self, key: &str, bytes: &[u8], mode: PutMode) -> Result<()> {
        self.target.put(key, bytes, put_options(bytes, mode))
    }

    fn read(&self, key: &str) -> Result<Vec<u8>> {
        let size = self.target.stat(key)?.size_bytes;
        self.target.get(
            key,
            0,
            usize::try_from(size)
                .unwrap_or(usize::MAX)
                .min(2 * MAX_OBJECT_BYTES),
        )
    }
}

fn put_options(bytes: &[u8], mode: PutMode) -> PutOptions {
    PutOptions {
        mode,
        durable: false,
        blake3: *blake3::hash(bytes).as_bytes(),
    }
}

/// Bytes without a pattern a storage could mistake, different for each `seed`.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
