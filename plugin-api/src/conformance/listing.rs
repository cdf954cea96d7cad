//! Behaviours of listings: order, pages, prefixes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::{Area, AtTheEnd, Checked, ensure, fail, put_options};
use crate::error::Result;
use crate::types::PutMode;

/// Names whose byte order differs from that of folders read one after the other (`-` and `.` sort before `/`).
const TRICKY: &[&str] = &[
    "a",
    "a-b",
    "a.b",
    "b/c",
    "b-/c",
    "b.c/d",
    "b/c-d",
    "b0/c",
    "b/0",
    "b_",
    "b--",
    "c/d/e/f",
    "c/d-e",
    "c/d/e-f",
    "c/d.e",
    "c-d/e",
    "z/z/z",
    "0",
    "-",
    "_/_",
    "packs/aa/1",
    "packs/ab/x",
    "packs/ab/y",
    "packs/b/1",
    "packs-old/ab/x",
];

fn put_tricky(area: &Area<'_>, folder: &str) -> Result<Vec<String>> {
    let mut keys: Vec<String> = TRICKY
        .iter()
        .map(|name| area.key(&format!("{folder}/{name}")))
        .collect();
    for key in &keys {
        area.put(key, key.as_bytes(), PutMode::Replace)?;
    }
    keys.sort();
    Ok(keys)
}

/// All keys from pages of `limit`.
fn list_by(area: &Area<'_>, prefix: &str, start_after: &str, limit: usize) -> Result<Vec<String>> {
    let mut keys: Vec<String> = Vec::new();
    let mut after = start_after.to_owned();
    loop {
        let page = area.target.list(prefix, &after, limit)?;
        let Some(last) = page.objects.last() else {
            return Ok(keys);
        };
        let advances = last.key > after;
        after.clone_from(&last.key);
        keys.extend(page.objects.into_iter().map(|object| object.key));
        if !page.more || !advances {
            return Ok(keys);
        }
    }
}

/// Wants exactly these keys, in this order; says where others differ.
fn ensure_listed<'k>(
    listed: &[String],
    wanted: impl IntoIterator<Item = &'k String>,
    what: impl FnOnce() -> String,
) -> Checked {
    let mut listed = listed.iter();
    let mut wanted = wanted.into_iter();
    loop {
        let difference = match (listed.next(), wanted.next()) {
            (None, None) => return Ok(()),
            (Some(got), Some(key)) if got == key => continue,
            (Some(got), Some(key)) => format!("{got:?} is listed where {key:?} belongs"),
            (Some(got), None) => format!("{got:?} is listed and does not belong"),
            (None, Some(key)) => format!("{key:?} is not listed"),
        };
        return fail(format!("{}: {difference}", what()));
    }
}

pub(super) fn list_after_write(area: &Area<'_>) -> Checked {
    let other = area.other()?;
    for round in 0..20 {
        let key = area.key(&format!("listed/{round:02}/object"));
        area.put(&key, b"listed", PutMode::Create)?;
        for (who, target) in [("the writer", &area.target), ("another handle", &other)] {
            let page = target.list(&area.key("listed/"), "", 100)?;
            let seen = page.objects.iter().find(|object| object.key == key);
            ensure(seen.is_some(), || format!("{who} does not list object {round}"))?;
            ensure(seen.is_some_and(|object| object.size_bytes == 6), || {
                format!("{who} lists object {round} with another size")
            })?;
            ensure(page.objects.len() == round + 1, || {
                format!("{who} lists {} objects", page.objects.len())
            })?;
        }
    }
    Ok(())
}

pub(super) fn byte_order(area: &Area<'_>) -> Checked {
    let keys = put_tricky(area, "order")?;
    let page = area.target.list(&area.key("order/"), "", 1000)?;
    let listed: Vec<String> = page.objects.iter().map(|object| object.key.clone()).collect();
    ensure_listed(&listed, &keys, || "all on one page".into())?;
    ensure(
        page.objects
            .iter()
            .all(|object| object.size_bytes == object.key.len() as u64),
        || "a size is wrong".into(),
    )
}

pub(super) fn start_after(area: &Area<'_>) -> Checked {
    let keys = put_tricky(area, "after")?;
    let prefix = area.key("after/");
    let between = [
        "",
        "a",
        "a-",
        "a/",
        "b",
        "b/",
        "b/b",
        "c/d",
        "c/d/",
        "c/d/z",
        "packs/a",
        "packs/ab/",
        "zz",
        "~",
    ];
    let starts = between.iter().map(|name| area.key(&format!("after/{name}")));
    for start in starts
        .chain(keys.iter().cloned())
        .chain(["0".into(), "zzz".into()])
    {
        let wanted = keys.iter().filter(|key| **key > start);
        let listed = list_by(area, &prefix, &start, 1000)?;
        ensure_listed(&listed, wanted, || format!("after {start:?}"))?;
    }
    Ok(())
}

pub(super) fn pagination(area: &Area<'_>) -> Checked {
    let keys = put_tricky(area, "pages")?;
    let prefix = area.key("pages/");
    for limit in [1, 2, 3, 7, keys.len() - 1, keys.len(), keys.len() + 1] {
        let first = area.target.list(&prefix, "", limit)?;
        ensure(first.objects.len() == limit.min(keys.len()), || {
            format!("limit {limit}: a page of {}", first.objects.len())
        })?;
        ensure(first.more || limit >= keys.len(), || {
            format!("limit {limit}: says that nothing follows")
        })?;
        let listed = list_by(area, &prefix, "", limit)?;
        ensure_listed(&listed, &keys, || format!("limit {limit}"))?;
    }
    Ok(())
}

pub(super) fn while_others_write(area: &Area<'_>) -> Checked {
    const ROUNDS: usize = 24;
    let keys = put_tricky(area, "steady")?;
    let other = area.other()?;
    let (rounds, seen) = (AtomicUsize::new(0), AtomicBool::new(false));
    // One of three is always there, never the same for long.
    let passing = ["0a", "c0", "d"].map(|name| area.key(&format!("steady/b/{name}")));
    let come_and_go = || -> Checked {
        for (coming, going) in passing.iter().zip(passing.iter().cycle().skip(2)).cycle() {
            if seen.load(Ordering::SeqCst) {
                break;
            }
            other.put(coming, b"passing", put_options(b"passing", PutMode::Replace))?;
            other.delete(going)?;
            rounds.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    let look = || -> Checked {
        for limit in [1, 3, 1000, 2, 5, 1].into_iter().cycle() {
            if rounds.load(Ordering::SeqCst) >= ROUNDS {
                break;
            }
            look_for_gaps(area, &keys, limit)?;
        }
        (1..4).try_for_each(|limit| look_for_gaps(area, &keys, limit))
    };
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            // Also after a failure nobody waits for more.
            let _end = AtTheEnd(|| {
                rounds.fetch_add(ROUNDS, Ordering::SeqCst);
            });
            come_and_go()
        });
        let end = AtTheEnd(|| seen.store(true, Ordering::SeqCst));
        let looked = look();
        drop(end);
        writer.join().unwrap_or_else(|_| fail("the writer panicked"))?;
        looked
    })
}

/// What was there all the time is listed, once, and in order.
fn look_for_gaps(area: &Area<'_>, keys: &[String], limit: usize) -> Checked {
    let listed = list_by(area, &area.key("steady/"), "", limit)?;
    ensure(listed.is_sorted_by(|one, next| one < next), || {
        format!("limit {limit}: a key is out of order or listed twice")
    })?;
    let missed = keys.iter().find(|key| !listed.contains(key));
    ensure(missed.is_none(), || {
        format!("limit {limit}: {missed:?} was there all the time and is not listed")
    })
}

pub(super) fn prefix_within_a_component(area: &Area<'_>) -> Checked {
    let keys = put_tricky(area, "prefix")?;
    let names = [
        "",
        "p",
        "packs",
        "packs/",
        "packs/a",
        "packs/ab",
        "packs/ab/",
        "packs/ab/x",
        "packs-",
        "b",
        "b/",
        "c/d",
    ];
    for prefix in names
        .iter()
        .map(|name| area.key(&format!("prefix/{name}")))
        .chain([area.key("prefi")])
    {
        for limit in [2, 1000] {
            let wanted = keys.iter().filter(|key| key.starts_with(&prefix));
            let listed = list_by(area, &prefix, "", limit)?;
            ensure_listed(&listed, wanted, || format!("prefix {prefix:?}, limit {limit}"))?;
        }
    }
    Ok(())
}

pub(super) fn empty_listing(area: &Area<'_>) -> Checked {
    area.put(&area.key("lonely/object"), b"x", PutMode::Create)?;
    for name in [
        "nothing",
        "nothing/",
        "nothing/at/all",
        "lonely/object/",
        "lonely/objects",
    ] {
        let page = area.target.list(&area.key(name), "", 10)?;
        ensure(page.objects.is_empty(), || format!("{name}: {:?}", page.objects))?;
        ensure(!page.more, || {
            format!("{name}: nothing is listed but more is said to follow")
        })?;
    }
    Ok(())
}

pub(super) fn clean_up(area: &Area<'_>) -> Checked {
    let folder = format!("{}/", area.folder);
    for key in list_by(area, &folder, "", 1000)? {
        area.target.delete(&key)?;
    }
    let left = list_by(area, &folder, "", 10)?;
    ensure(left.is_empty(), || {
        format!(
            "{} objects are still listed, {:?} first",
            left.len(),
            left.first()
        )
    })
}
