//! Behaviours of single objects: put, read, replace, delete.

use super::{
    Area, BIG_OBJECT_BYTES, Checked, MAX_OBJECT_BYTES, Stop, content, ensure, ensure_bytes, ensure_refused,
    put_options,
};
use crate::error::ErrorKind;
use crate::types::{PutMode, PutOptions};

pub(super) fn probe_finds_the_place(area: &Area<'_>) -> Checked {
    let capabilities = area.target.probe()?;
    ensure(capabilities.atomic_put, || {
        "the storage does not claim atomic puts, which the host needs".into()
    })?;
    ensure(capabilities.strongly_consistent, || {
        "the storage does not claim that what is put is listed at once, which the host needs".into()
    })?;
    ensure(capabilities.concurrency >= 1, || "concurrency is 0".into())?;
    let pack = capabilities.preferred_pack_bytes;
    ensure((16 << 20..=128 << 20).contains(&pack), || {
        format!("packs of {pack} bytes: not within 16 to 128 MiB")
    })?;
    ensure(capabilities.max_object_bytes >= pack, || {
        "the largest object is smaller than a pack".into()
    })
}

pub(super) fn init_refuses_what_is_not_empty(area: &Area<'_>) -> Checked {
    let key = area.key("in/the/way");
    area.put(&key, b"mine", PutMode::Create)?;
    match area.target.init() {
        Err(error) if error.kind == ErrorKind::Unsupported => {
            return Err(Stop::Skip("there is no way to try from here".into()));
        }
        outcome => ensure_refused(outcome, ErrorKind::AlreadyExists, "init of a place with objects")?,
    }
    ensure(area.read(&key)? == b"mine", || {
        "the refused init changed an object".into()
    })
}

pub(super) fn read_after_write(area: &Area<'_>) -> Checked {
    for round in 0..8 {
        let key = area.key(&format!("read/{round}"));
        let bytes = content(round, 10_000);
        area.put(&key, &bytes, PutMode::Create)?;
        ensure_bytes(&area.read(&key)?, &bytes, || "the handle that wrote".into())?;
        let other = area.other()?;
        let found = other.stat(&key)?;
        ensure(found.size_bytes == 10_000, || {
            format!("stat gives {} bytes for 10000", found.size_bytes)
        })?;
        ensure(found.key == key, || {
            format!("stat of {key} answers for {}", found.key)
        })?;
        ensure_bytes(&other.get(&key, 0, 10_000)?, &bytes, || "a new handle".into())?;
    }
    Ok(())
}

pub(super) fn replace(area: &Area<'_>) -> Checked {
    let key = area.key("replaced");
    for (round, length) in [(1, 5000), (2, 9000), (3, 10), (4, 0), (5, 7)] {
        let bytes = content(round, length);
        area.put(&key, &bytes, PutMode::Replace)?;
        ensure(area.read(&key)? == bytes, || {
            format!("round {round}: not the bytes of the last put")
        })?;
        let listed = area.target.list(&key, "", 10)?.objects;
        ensure(listed.len() == 1, || format!("listed {} times", listed.len()))?;
        ensure(
            listed.iter().all(|object| object.size_bytes == length as u64),
            || "listed with an old size".into(),
        )?;
    }
    Ok(())
}

pub(super) fn create_only(area: &Area<'_>) -> Checked {
    let key = area.key("created");
    let first = content(1, 3000);
    area.put(&key, &first, PutMode::Create)?;
    if !area.capabilities.exclusive_create {
        return Err(Stop::Skip(format!(
            "the storage does not claim exclusive_create, and {}",
            match area.put(&key, &content(2, 3000), PutMode::Create) {
                Ok(()) if area.read(&key)? == first => "ignored a second Create",
                Ok(()) => "replaced the object on a second Create",
                Err(_) => "refused a second Create all the same",
            }
        )));
    }
    ensure_refused(
        area.put(&key, &content(2, 3000), PutMode::Create),
        ErrorKind::AlreadyExists,
        "a second Create",
    )?;
    ensure_refused(
        area.put(&key, &first, PutMode::Create),
        ErrorKind::AlreadyExists,
        "the same Create again",
    )?;
    ensure(area.read(&key)? == first, || {
        "the refused put changed the object".into()
    })
}

pub(super) fn ranges(area: &Area<'_>) -> Checked {
    let key = area.key("ranges");
    let bytes = content(7, 100_000);
    area.put(&key, &bytes, PutMode::Create)?;
    let (end, most) = (bytes.len(), usize::MAX);
    let wanted: &[(usize, usize)] = &[
        (0, 1),
        (0, end),
        (1, 1),
        (4095, 2),
        (4096, 4096),
        (end - 1, 1),
        (end - 10, 100),
        (0, end + 1),
        (0, 0),
    ];
    let past: &[(usize, usize)] = &[(50, 0), (end, 0), (end, 1), (end + 1, 1), (end + (1 << 40), 10)];
    for &(offset, length) in wanted.iter().chain(past) {
        let expected: Vec<u8> = bytes
            .iter()
            .copied()
            .skip(offset.min(most))
            .take(length)
            .collect();
        let got = area.target.get(&key, offset as u64, length)?;
        ensure_bytes(&got, &expected, || format!("offset {offset}, length {length}"))?;
    }
    let got = area.target.get(&key, i64::MAX as u64, 1)?;
    ensure(got.is_empty(), || "the largest offset gives bytes".into())
}

pub(super) fn empty_object(area: &Area<'_>) -> Checked {
    let key = area.key("empty");
    area.put(&key, &[], PutMode::Create)?;
    ensure(area.target.stat(&key)?.size_bytes == 0, || {
        "its size is not 0".into()
    })?;
    ensure(area.target.get(&key, 0, 10)?.is_empty(), || "it has bytes".into())?;
    ensure(area.target.list(&key, "", 10)?.objects.len() == 1, || {
        "it is not listed".into()
    })
}

pub(super) fn big_object(area: &Area<'_>) -> Checked {
    let pack = usize::try_from(area.capabilities.preferred_pack_bytes).unwrap_or(usize::MAX);
    let length = pack.clamp(BIG_OBJECT_BYTES, MAX_OBJECT_BYTES);
    if area.capabilities.max_object_bytes < length as u64 {
        return Err(Stop::Skip(format!(
            "{length} bytes are more than the largest object of the storage"
        )));
    }
    let key = area.key("big");
    let bytes = content(11, length);
    area.put(&key, &bytes, PutMode::Create)?;
    ensure_bytes(&area.read(&key)?, &bytes, || "other bytes came back".into())?;
    let tail = area.target.get(&key, (length - 1000) as u64, 5000)?;
    ensure(bytes.ends_with(&tail) && tail.len() == 1000, || {
        "its end is wrong".into()
    })?;
    Ok(area.target.delete(&key)?)
}

pub(super) fn durable_put(area: &Area<'_>) -> Checked {
    let bytes = content(3, 20_000);
    for (mode, name) in [(PutMode::Create, "create"), (PutMode::Replace, "replace")] {
        let key = area.key(&format!("durable-{name}/new/folder/object"));
        area.target.put(
            &key,
            &bytes,
            PutOptions {
                durable: true,
                ..put_options(&bytes, mode)
            },
        )?;
        ensure(area.read(&key)? == bytes, || {
            format!("{name}: other bytes came back")
        })?;
    }
    if area.capabilities.durable_put {
        Ok(())
    } else {
        Err(Stop::Skip(
            "it was stored, but the storage does not claim durable_put".into(),
        ))
    }
}

pub(super) fn missing_object(area: &Area<'_>) -> Checked {
    area.put(&area.key("present/object"), b"x", PutMode::Create)?;
    for name in [
        "absent",
        "absent/deep/er",
        "present/absent",
        "present/objec",
        "present/object2",
    ] {
        let key = area.key(name);
        ensure_refused(
            area.target.stat(&key),
            ErrorKind::NotFound,
            &format!("stat of {name}"),
        )?;
        ensure_refused(
            area.target.get(&key, 0, 10),
            ErrorKind::NotFound,
            &format!("read of {name}"),
        )?;
        ensure_refused(
            area.target.get(&key, 0, 0),
            ErrorKind::NotFound,
            &format!("empty read of {name}"),
        )?;
    }
    Ok(())
}

pub(super) fn delete(area: &Area<'_>) -> Checked {
    let (key, neighbour) = (area.key("deleted/a"), area.key("deleted/ab"));
    area.put(&key, b"1", PutMode::Create)?;
    area.put(&neighbour, b"2", PutMode::Create)?;
    area.target.delete(&key)?;
    ensure_refused(
        area.other()?.stat(&key),
        ErrorKind::NotFound,
        "stat of a deleted object",
    )?;
    ensure(
        area.target.list(&area.key("deleted/"), "", 10)?.objects.len() == 1,
        || "the listing is wrong".into(),
    )?;
    ensure(area.read(&neighbour)? == b"2", || "its neighbour suffered".into())?;
    area.target.delete(&key)?;
    area.target.delete(&area.key("never/was/there"))?;
    area.put(&key, b"3", PutMode::Create)?;
    ensure(area.read(&key)? == b"3", || "it cannot be put again".into())
}

pub(super) fn space(area: &Area<'_>) -> Checked {
    let Some(space) = area.target.space()? else {
        return Err(Stop::Skip("the storage does not tell".into()));
    };
    ensure(space.total_bytes > 0, || "its capacity is 0".into())?;
    ensure(space.available_bytes <= space.total_bytes, || {
        "more is available than there is".into()
    })
}
