//! The shapes of events and results in JSON. Every object has an `event` field.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use plakar_core::environment::Timestamp;
use plakar_core::id::SnapshotId;
use plakar_core::repository::Snapshot;
use plakar_core::storage::counted::TrafficTotals;

use super::format::{hex, precise_time};
use crate::error::CommandError;

/// A path: text in `path`, and the exact bytes in `path_hex` when they are not UTF-8.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PathText<'a>(pub(crate) &'a [u8]);

impl Serialize for PathText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.0))
    }
}

impl<'a> PathText<'a> {
    /// The bytes in hexadecimal, when text cannot hold them.
    pub(crate) fn exact(bytes: &'a [u8]) -> Option<String> {
        std::str::from_utf8(bytes).is_err().then(|| hex(bytes))
    }
}

/// What was asked of the storage; the last event of a command that reached one.
pub(crate) fn traffic(totals: &TrafficTotals) -> Value {
    json!({
        "event": "storage",
        "requests": totals.requests(),
        "lists": totals.lists,
        "stats": totals.stats,
        "reads": totals.gets,
        "writes": totals.puts,
        "deletes": totals.deletes,
        "failed": totals.failed,
        "retries": totals.retries,
        "sent_bytes": totals.sent_bytes,
        "received_bytes": totals.received_bytes,
    })
}

/// One finished entry.
#[derive(Debug, Serialize)]
pub(crate) struct ItemEvent<'a> {
    pub(crate) event: &'static str,
    pub(crate) snapshot: &'a str,
    pub(crate) path: PathText<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path_hex: Option<String>,
    pub(crate) state: &'static str,
    pub(crate) directory: bool,
    pub(crate) size_bytes: u64,
}

/// One entry that failed.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemEvent<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<&'a str>,
    path: PathText<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    message: &'a str,
}

impl<'a> ProblemEvent<'a> {
    pub(crate) fn new(snapshot: Option<&'a str>, path: &'a [u8], message: &'a str) -> Self {
        Self {
            event: "problem",
            snapshot,
            path: PathText(path),
            path_hex: PathText::exact(path),
            message,
        }
    }
}

/// Something the user should know.
#[derive(Debug, Serialize)]
pub(crate) struct Warning<'a> {
    event: &'static str,
    message: &'a str,
}

impl<'a> Warning<'a> {
    pub(crate) fn new(message: &'a str) -> Self {
        Self {
            event: "warning",
            message,
        }
    }
}

/// Why the command failed.
pub(crate) fn error(error: &CommandError) -> Value {
    json!({"event": "error", "code": error.exit as u8, "message": error.message, "hint": error.hint})
}

/// A snapshot, as `ls` and `info` list it. Paths that are not UTF-8 are followed by `…_hex` fields.
pub(crate) fn snapshot(event: &str, snapshot: &Snapshot) -> Value {
    json!({
        "event": event,
        "snapshot": snapshot.id.to_string(),
        "time": time(snapshot.time),
        "duration_nanoseconds": snapshot.duration_nanoseconds,
        "name": snapshot.name,
        "tags": snapshot.tags,
        "hostname": snapshot.hostname,
        "username": snapshot.username,
        "roots": snapshot.roots.iter().map(|root| PathText(root)).collect::<Vec<_>>(),
        "roots_hex": roots_hex(snapshot),
        "parent": snapshot.parent.as_ref().map(SnapshotId::to_string),
        "program": snapshot.program,
        "files": snapshot.summary.files,
        "directories": snapshot.summary.directories,
        "others": snapshot.summary.others,
        "size_bytes": snapshot.summary.logical_bytes,
        "problems": snapshot.summary.problems,
    })
}

fn roots_hex(snapshot: &Snapshot) -> Option<Vec<String>> {
    let exact = snapshot
        .roots
        .iter()
        .all(|root| std::str::from_utf8(root).is_ok());
    (!exact).then(|| snapshot.roots.iter().map(|root| hex(root)).collect())
}

/// A time in UTC with its nanoseconds.
pub(crate) fn time(time: Timestamp) -> String {
    precise_time(time)
}

/// Bytes in base 64 (RFC 4648, with padding).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = DIGITS.get((bits >> shift & 63) as usize).copied().unwrap_or(b'=');
            text.push(if place <= group.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        let known = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in known {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_path_that_is_not_text_keeps_its_bytes() {
        let event =
            serde_json::to_value(ProblemEvent::new(None, b"/a\xff", "gone")).expect("an event is JSON");
        assert_eq!(
            event,
            json!({"event": "problem", "path": "/a\u{fffd}", "path_hex": "2f61ff", "message": "gone"})
        );
    }
}
