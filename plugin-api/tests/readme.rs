//! The connector of the README is the one in `readme/shelf.rs`, and behaves as a connector must.

#[path = "readme/shelf.rs"]
pub mod shelf;

use std::sync::Mutex;

use plakar_plugin_api::conformance::{self, ConnectorTarget, Outcome, Report, Target, Verdict};
use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, ListPage, ObjectInfo, PutMode, PutOptions, Result,
    Settings, Space,
};
use shelf::ShelfConnector;
use tempfile::TempDir;

/// A shelf in a folder of its own.
struct Place {
    _folder: TempDir,
    location: String,
}

impl Place {
    fn new() -> Self {
        // In memory where that can be: twenty suites of durable puts would wait for a disk.
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a temporary folder can be made");
        let location = format!("shelf://{}", folder.path().display());
        Self {
            _folder: folder,
            location,
        }
    }

    fn open(&self) -> Result<ShelfConnector> {
        ShelfConnector::open(&self.location, &Settings::new(), Host::none())
    }
}

#[test]
fn the_readme_shows_this_very_connector() {
    assert!(include_str!("../README.md").contains(include_str!("readme/shelf.rs")));
}

#[test]
fn the_connector_of_the_readme_passes_the_suite() {
    let place = Place::new();
    let report = conformance::run(&|| {
        Ok(Box::new(ConnectorTarget::<ShelfConnector>::open(
            &place.location,
            &Settings::new(),
        )?))
    });
    assert!(report.passed(), "{report}");
    assert_eq!(skipped(&report), ["space is told where it is known"], "{report}");
}

fn skipped(report: &Report) -> Vec<&str> {
    let skipped = |verdict: &&Verdict| matches!(verdict.outcome, Outcome::Skipped { .. });
    report
        .verdicts
        .iter()
        .filter(skipped)
        .map(|verdict| verdict.name)
        .collect()
}

#[test]
fn a_storage_that_does_not_claim_exclusive_create_is_told_what_it_does() {
    let place = Place::new();
    let report = conformance::run(&|| {
        Ok(Box::new(Broken {
            inner: place.open()?,
            fault: Fault::ModestAndReplaces,
        }))
    });
    assert!(report.passed(), "{report}");
    assert!(
        report
            .to_string()
            .contains("does not claim exclusive_create, and replaced the object on a second Create"),
        "{report}"
    );
}

/// What a broken connector does wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    ReplacesOnCreate,
    HidesFromListings,
    ListsUnordered,
    ForgetsToPage,
    IgnoresStartAfter,
    PrefixIsAFolder,
    ShortReads,
    FailsPastTheEnd,
    MissingIsEmpty,
    DeleteIsLazy,
    DeleteMissingFails,
    AcceptsAnyKey,
    LosesTheEnd,
    InitTakesAnything,
    MissesWhileWriting,
    LosesLongKeys,
    OneRangeAtATime,
    LosesBigObjects,
    ListsOldSizes,
    StatAnswersForAnother,
    PanicsInDelete,
    FailsToClose,
    /// Not a fault: it replaces on `Create`, and says so.
    ModestAndReplaces,
}

struct Broken {
    inner: ShelfConnector,
    fault: Fault,
}

impl Target for Broken {
    fn probe(&self) -> Result<Capabilities> {
        let capabilities = self.inner.probe()?;
        let exclusive_create = capabilities.exclusive_create && self.fault != Fault::ModestAndReplaces;
        Ok(Capabilities {
            exclusive_create,
            ..capabilities
        })
    }

    fn init(&self) -> Result<()> {
        if self.fault == Fault::InitTakesAnything {
            Ok(())
        } else {
            self.inner.init()
        }
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        let after = if self.fault == Fault::IgnoresStartAfter {
            ""
        } else {
            start_after
        };
        let mut page = self.inner.list(prefix, after, limit)?;
        match self.fault {
            Fault::HidesFromListings => page.objects.retain(|object| !object.key.contains("listed/19")),
            Fault::ListsUnordered => page.objects.sort_by_key(|object| object.key.replace('/', "\0")),
            Fault::ListsOldSizes => page.objects.iter_mut().for_each(|object| object.size_bytes += 1),
            Fault::ForgetsToPage => page.more = false,
            Fault::MissesWhileWriting => {
                if let Some(passing) = page.objects.iter().position(|object| object.size_bytes == 7) {
                    page.objects.truncate(passing);
                    page.more = false;
                }
            }
            Fault::PrefixIsAFolder => {
                page.objects
                    .retain(|object| object.key == prefix || prefix.is_empty() || prefix.ends_with('/'));
            }
            _ => {}
        }
        Ok(page)
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        match self.inner.stat(key) {
            Err(_) if self.fault == Fault::MissingIsEmpty => Ok(ObjectInfo {
                key: key.into(),
                size_bytes: 0,
            }),
            Ok(found) if self.fault == Fault::StatAnswersForAnother => Ok(ObjectInfo {
                key: format!("{key}-"),
                ..found
            }),
            other => other,
        }
    }

    fn get(&self, key: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        if self.fault == Fault::FailsPastTheEnd && offset > self.inner.stat(key)?.size_bytes {
            return Err(Error::new(ErrorKind::Other, "range not satisfiable"));
        }
        let turn = self.fault == Fault::OneRangeAtATime && length == 70_000;
        let _turn = turn
            .then(|| TURN.try_lock())
            .transpose()
            .map_err(|_taken| busy())?;
        if turn {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let length = if self.fault == Fault::ShortReads {
            length.min(65_536)
        } else {
            length
        };
        let mut buffer = vec![0; length];
        let filled = self.inner.get_into(key, offset, &mut buffer)?;
        buffer.truncate(filled);
        Ok(buffer)
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        if self.fault == Fault::LosesLongKeys && key.len() > 400 {
            return Err(Error::new(ErrorKind::Other, "file name too long"));
        }
        if self.fault == Fault::LosesBigObjects && bytes.len() > 32 << 20 {
            return Err(Error::new(ErrorKind::Other, "too large"));
        }
        let replaces = matches!(self.fault, Fault::ReplacesOnCreate | Fault::ModestAndReplaces);
        let mode = if replaces { PutMode::Replace } else { options.mode };
        let bytes = match bytes.split_last() {
            Some((_, rest)) if self.fault == Fault::LosesTheEnd => rest,
            _ => bytes,
        };
        if self.fault == Fault::AcceptsAnyKey && plakar_plugin_api::check_key(key).is_err() {
            return Ok(());
        }
        self.inner.put(key, bytes, PutOptions { mode, ..options })
    }

    #[expect(clippy::panic, reason = "a connector that panics is one of the faults")]
    fn delete(&self, key: &str) -> Result<()> {
        match self.fault {
            Fault::DeleteIsLazy => Ok(()),
            Fault::PanicsInDelete => std::panic::panic_any("delete? never"),
            Fault::DeleteMissingFails => self.inner.stat(key).and_then(|_| self.inner.delete(key)),
            _ => self.inner.delete(key),
        }
    }

    fn space(&self) -> Result<Option<Space>> {
        self.inner.space()
    }

    fn close(&self) -> Result<()> {
        if self.fault == Fault::FailsToClose {
            return Err(Error::new(ErrorKind::Other, "still busy"));
        }
        self.inner.close()
    }

    fn cancel(&self) -> bool {
        false
    }
}

/// Held by who reads a range, where only one may.
static TURN: Mutex<()> = Mutex::new(());

fn busy() -> Error {
    Error::new(ErrorKind::Other, "busy")
}

#[test]
fn the_suite_catches_each_fault() {
    let faults = [
        (
            Fault::ReplacesOnCreate,
            "Create leaves an existing object as it was",
        ),
        (
            Fault::HidesFromListings,
            "an object is listed as soon as it is put",
        ),
        (Fault::ListsUnordered, "listings are in byte order of whole keys"),
        (Fault::ForgetsToPage, "pages of any limit give the same listing"),
        (Fault::IgnoresStartAfter, "listings go on after any key"),
        (Fault::PrefixIsAFolder, "a prefix need not end at a slash"),
        (Fault::ShortReads, "ranges are exact, also at and past the end"),
        (
            Fault::FailsPastTheEnd,
            "ranges are exact, also at and past the end",
        ),
        (Fault::MissingIsEmpty, "a missing object is NotFound"),
        (Fault::DeleteIsLazy, "deleting works, also of what is missing"),
        (
            Fault::DeleteMissingFails,
            "deleting works, also of what is missing",
        ),
        (Fault::AcceptsAnyKey, "invalid keys are refused"),
        (Fault::LosesTheEnd, "an object is readable as soon as it is put"),
        (Fault::InitTakesAnything, "init refuses a place that is not empty"),
        (
            Fault::MissesWhileWriting,
            "a listing while others write misses nothing",
        ),
        (Fault::LosesLongKeys, "every kind of valid key works"),
        (
            Fault::OneRangeAtATime,
            "ranges of one object may be read by many at once",
        ),
        (
            Fault::LosesBigObjects,
            "an object as large as a pack comes back unchanged",
        ),
        (Fault::ListsOldSizes, "an object is listed as soon as it is put"),
        (
            Fault::StatAnswersForAnother,
            "an object is readable as soon as it is put",
        ),
        (Fault::PanicsInDelete, "deleting works, also of what is missing"),
        (
            Fault::FailsToClose,
            "a handle is closed in good order, and others go on",
        ),
    ];
    for (fault, behaviour) in faults {
        let place = Place::new();
        let report = conformance::run(&|| {
            let inner = place.open()?;
            Ok(Box::new(Broken { inner, fault }))
        });
        assert!(
            report.failures().any(|verdict| verdict.name == behaviour),
            "{fault:?} was not caught:\n{report}"
        );
        let longest = report.to_string().lines().map(str::len).max();
        assert!(longest < Some(400), "{fault:?} is not told in a line:\n{report}");
    }
}

#[test]
fn each_verdict_is_told_when_it_is_reached() {
    let place = Place::new();
    let mut told = Vec::new();
    let open = || -> Result<Box<dyn Target>> {
        Ok(Box::new(Broken {
            inner: place.open()?,
            fault: Fault::ShortReads,
        }))
    };
    let report = conformance::run_telling(&open, &mut |verdict| told.push(verdict.clone()));
    assert_eq!(told, report.verdicts);
}

/// A connector whose `put` is seen while it is half done.
struct Torn(ShelfConnector);

impl Target for Torn {
    fn probe(&self) -> Result<Capabilities> {
        self.0.probe()
    }
    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        self.0.list(prefix, start_after, limit)
    }
    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        self.0.stat(key)
    }
    fn get(&self, key: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        let filled = self.0.get_into(key, offset, &mut buffer)?;
        buffer.truncate(filled);
        Ok(buffer)
    }
    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        if bytes.len() > 1 << 20 {
            self.0.put(key, bytes.split_at(bytes.len() / 2).0, options)?;
            std::thread::sleep(std::time::Duration::from_millis(20));
            self.0.delete(key)?;
        }
        self.0.put(key, bytes, options)
    }
    fn delete(&self, key: &str) -> Result<()> {
        self.0.delete(key)
    }
    fn space(&self) -> Result<Option<Space>> {
        self.0.space()
    }
    fn cancel(&self) -> bool {
        false
    }
}

#[test]
fn the_suite_catches_a_torn_put() {
    let place = Place::new();
    let report = conformance::run(&|| Ok(Box::new(Torn(place.open()?))));
    for behaviour in [
        "a reader sees all of an object or nothing",
        "a reader sees the old or the new object",
    ] {
        assert!(
            report.failures().any(|verdict| verdict.name == behaviour),
            "{behaviour}: not caught\n{report}"
        );
    }
}
