//! Behaviours of keys: all that the grammar allows, nothing that it does not.

use super::{Area, Checked, ensure, fail};
use crate::types::PutMode;

pub(super) fn valid_keys(area: &Area<'_>) -> Checked {
    let long = "l".repeat(200);
    let deep = "d/".repeat(60) + "d";
    let prefix_length = area.key("odd/").len();
    let longest = format!(
        "{0}/{0}/{1}",
        "k".repeat(150),
        "k".repeat(512 - 302 - prefix_length)
    );
    let all = "abcdefghijklmnopqrstuvwxyz0123456789-._";
    let odd = [
        "-", "--help", "_", "0", "a.", "a..b", "a...", "-._", "con", "nul.txt", "a.tmp", "tmp-1", all, &long,
        &deep, &longest,
    ];
    for name in odd {
        let key = area.key(&format!("odd/{name}"));
        area.put(&key, name.as_bytes(), PutMode::Create)?;
    }
    for name in odd {
        let key = area.key(&format!("odd/{name}"));
        ensure(area.read(&key)? == name.as_bytes(), || {
            format!("{name:?} holds other bytes")
        })?;
    }
    let listed = area.target.list(&area.key("odd/"), "", 1000)?.objects.len();
    ensure(listed == odd.len(), || {
        format!("{listed} of {} are listed", odd.len())
    })
}

pub(super) fn invalid_keys(area: &Area<'_>) -> Checked {
    let f = &area.folder;
    let below = [
        "", "/", "/x", "..", ".", "x//y", "../../x", "x/..", "x/./y", "x/", ".tmp-x", "x\0y", "x y", "X",
        "é", "x\\y",
    ];
    let whole = ["", "..", "/", "/etc/passwd", "../escape", "\0"];
    let keys = below
        .iter()
        .map(|name| format!("{f}/{name}"))
        .chain(whole.iter().map(|key| (*key).to_owned()));
    for key in keys {
        if area.put(&key, b"must not be stored", PutMode::Create).is_ok() {
            return fail(format!("put of {key:?} succeeded"));
        }
        if area.target.get(&key, 0, 1).is_ok() || area.target.stat(&key).is_ok() {
            return fail(format!("{key:?} can be read"));
        }
        if area.target.delete(&key).is_ok() {
            return fail(format!("delete of {key:?} succeeded"));
        }
    }
    Ok(())
}
