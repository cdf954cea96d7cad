//! Behaviours with several callers at once: atomicity, races, cancellation.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{
    Area, AtTheEnd, BIG_OBJECT_BYTES, Checked, Stop, Target, content, ensure, ensure_bytes, fail, put_options,
};
use crate::error::{Error, ErrorKind, Result};
use crate::types::PutMode;

const READERS: usize = 2;
/// Failures that may pass, of one reader in a row.
const MOST_TRANSIENT: u32 = 20;

/// Runs `write` while readers look at `key`, and hands everything they read to `judge`.
fn watch(
    area: &Area<'_>,
    key: &str,
    length: usize,
    judge: &(dyn Fn(Option<Vec<u8>>) -> Checked + Sync),
    write: impl FnOnce() -> Checked,
) -> Checked {
    let done = AtomicBool::new(false);
    let readers = (0..READERS).map(|_| area.other()).collect::<Result<Vec<_>>>()?;
    let watch_one = &|reader: Box<dyn Target>| -> Checked {
        let mut failed = 0;
        loop {
            let last = done.load(Ordering::SeqCst);
            match read_whole(reader.as_ref(), key, length) {
                // What may pass is tried again, as the host would: it shows nothing of the object.
                Err(error) if error.kind == ErrorKind::Transient && failed < MOST_TRANSIENT => {
                    failed += 1;
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
                seen => judge(seen?)?,
            }
            // Nobody leaves without having seen anything.
            if last {
                return Ok(());
            }
            failed = 0;
        }
    };
    thread::scope(|scope| {
        let watching: Vec<_> = readers
            .into_iter()
            .map(|reader| scope.spawn(move || watch_one(reader)))
            .collect();
        let end = AtTheEnd(|| done.store(true, Ordering::SeqCst));
        let written = write();
        drop(end);
        for watcher in watching {
            watcher.join().unwrap_or_else(|_| fail("a reader panicked"))?;
        }
        written
    })
}

fn read_whole(reader: &dyn Target, key: &str, length: usize) -> Result<Option<Vec<u8>>> {
    match reader.get(key, 0, length + 1) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error {
            kind: ErrorKind::NotFound,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn atomic_put(area: &Area<'_>) -> Checked {
    const LENGTH: usize = 4 << 20;
    let bytes = content(21, LENGTH);
    let key = area.key("atomic/put");
    let judge = |seen: Option<Vec<u8>>| match seen {
        Some(seen) => ensure(seen == bytes, || {
            format!("a reader saw {} of {LENGTH} bytes", seen.len())
        }),
        None => Ok(()),
    };
    watch(area, &key, LENGTH, &judge, || {
        for _ in 0..6 {
            area.put(&key, &bytes, PutMode::Create)?;
            area.target.delete(&key)?;
        }
        Ok(())
    })
}

pub(super) fn atomic_replace(area: &Area<'_>) -> Checked {
    const LENGTH: usize = 2 << 20;
    let versions = [content(31, LENGTH), content(32, LENGTH / 2)];
    let key = area.key("atomic/replace");
    let [first, second] = &versions;
    area.put(&key, first, PutMode::Create)?;
    let judge = |seen: Option<Vec<u8>>| match seen {
        Some(seen) => ensure(versions.contains(&seen), || {
            format!("a reader saw a mixture, {} bytes", seen.len())
        }),
        None => fail("a reader saw no object while it was replaced"),
    };
    watch(area, &key, LENGTH, &judge, || {
        for _ in 0..6 {
            area.put(&key, second, PutMode::Replace)?;
            area.put(&key, first, PutMode::Replace)?;
        }
        Ok(())
    })
}

pub(super) fn racing_creators(area: &Area<'_>) -> Checked {
    const CREATORS: u64 = 8;
    if !area.capabilities.exclusive_create {
        return Err(Stop::Skip("the storage does not claim exclusive_create".into()));
    }
    for round in 0..5 {
        let key = area.key(&format!("race/{round}"));
        let create = |creator| area.put(&key, &content(creator, 50_000), PutMode::Create);
        let outcomes: Vec<Result<()>> = thread::scope(|scope| {
            let racing: Vec<_> = (0..CREATORS)
                .map(|creator| scope.spawn(move || create(creator)))
                .collect();
            let crashed = || Err(Error::new(ErrorKind::Panicked, "a creator panicked"));
            racing
                .into_iter()
                .map(|creator| creator.join().unwrap_or_else(|_| crashed()))
                .collect()
        });
        let winners: Vec<u64> = (0..CREATORS)
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_ok())
            .map(|(creator, _)| creator)
            .collect();
        let [winner] = winners.as_slice() else {
            return fail(format!("{} of {CREATORS} creators won", winners.len()));
        };
        for error in outcomes.into_iter().filter_map(Result::err) {
            ensure(error.kind == ErrorKind::AlreadyExists, || {
                format!("a loser got {:?}", error.kind)
            })?;
        }
        ensure(area.read(&key)? == content(*winner, 50_000), || {
            "the object is not the winner's".into()
        })?;
    }
    Ok(())
}

pub(super) fn parallel_ranges(area: &Area<'_>) -> Checked {
    const LENGTH: usize = 2 << 20;
    const READERS: usize = 8;
    let key = area.key("shared");
    let bytes = content(51, LENGTH);
    area.put(&key, &bytes, PutMode::Create)?;
    let together = Barrier::new(READERS);
    let read = |reader: usize| -> Checked {
        together.wait();
        for step in 0..4 {
            let offset = (reader * 4 + step) * (LENGTH / READERS / 4) + reader;
            let wanted: Vec<u8> = bytes.iter().copied().skip(offset).take(70_000).collect();
            let got = area.target.get(&key, offset as u64, 70_000)?;
            ensure_bytes(&got, &wanted, || format!("reader {reader} at {offset}"))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let reading: Vec<_> = (0..READERS)
            .map(|reader| {
                scope.spawn({
                    let read = &read;
                    move || read(reader)
                })
            })
            .collect();
        reading
            .into_iter()
            .try_for_each(|reader| reader.join().unwrap_or_else(|_| fail("a reader panicked")))
    })
}

pub(super) fn many_threads(area: &Area<'_>) -> Checked {
    const THREADS: u64 = 16;
    const OBJECTS: u64 = 8;
    let work = |thread: u64| -> Checked {
        for object in 0..OBJECTS {
            let key = area.key(&format!("many/{object}/{thread:02}"));
            let bytes = content(thread * 1000 + object, 30_000);
            area.put(&key, &bytes, PutMode::Create)?;
            ensure(area.read(&key)? == bytes, || format!("{key} holds other bytes"))?;
            area.target.list(&area.key("many/"), "", 50)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let working: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        working
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|_| fail("a thread panicked")))
    })?;
    let listed = area.target.list(&area.key("many/"), "", 10_000)?.objects.len() as u64;
    ensure(listed == THREADS * OBJECTS, || {
        format!("{listed} of {} objects are listed", THREADS * OBJECTS)
    })
}

pub(super) fn cancellation(area: &Area<'_>) -> Checked {
    let key = area.key("cancelled");
    let target = area.other()?;
    let bytes = content(
        41,
        BIG_OBJECT_BYTES.min(usize::try_from(area.capabilities.max_object_bytes).unwrap_or(usize::MAX)),
    );
    let options = put_options(&bytes, PutMode::Create);
    let outcome = thread::scope(|scope| {
        let putting = scope.spawn(|| target.put(&key, &bytes, options));
        thread::sleep(Duration::from_millis(2));
        let possible = target.cancel();
        putting
            .join()
            .map_or_else(|_| fail("the put panicked"), |outcome| Ok((possible, outcome)))
    });
    let (possible, outcome) = outcome?;
    if !possible {
        return Err(Stop::Skip("there is no way to cancel from here".into()));
    }
    match outcome {
        Ok(()) => {}
        Err(error) if error.kind == ErrorKind::Cancelled => {}
        Err(error) => return Err(error.into()),
    }
    match area.read(&key) {
        Ok(stored) => ensure(stored == bytes, || "half of the object stayed".into()),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn closing(area: &Area<'_>) -> Checked {
    let (key, bytes) = (area.key("closed"), content(61, 10_000));
    let closed = area.other()?;
    closed.put(&key, &bytes, put_options(&bytes, PutMode::Create))?;
    closed.close()?;
    ensure(area.read(&key)? == bytes, || {
        "another handle does not read what the closed one put".into()
    })?;
    drop(closed);
    ensure(area.other()?.get(&key, 0, bytes.len())? == bytes, || {
        "a new handle does not read what the closed one put".into()
    })
}
