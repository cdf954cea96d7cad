//! The header of a snapshot: the small sealed object whose presence makes a backup exist.
//!
//! ```text
//! prelude (8) | salt (32) | sealed body: tagged fields
//! ```

use crate::environment::Timestamp;
use crate::id::{BlobId, SnapshotId};

use super::codec::{DecodeError, Reader, Writer};
use super::config::{read_timestamp, write_timestamp};

/// Largest header object accepted, in bytes.
pub const MAX_SNAPSHOT_BYTES: usize = 4 << 20;

/// What a snapshot holds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symlinks, devices, FIFOs and sockets.
    pub others: u64,
    /// Sum of the sizes of regular files, in bytes (hard links counted each).
    pub logical_bytes: u64,
    /// Entries that could not be saved, or changed while they were read.
    pub problems: u64,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Random, and kept when the snapshot is copied to another repository.
    pub id: SnapshotId,
    /// The time of the snapshot: when the backup began, unless the user set another.
    pub time: Timestamp,
    /// When the backup really began: what changed shortly before may have changed again unseen.
    pub started: Timestamp,
    /// How long it took, in nanoseconds.
    pub duration_nanoseconds: u64,
    /// What the user calls the series.
    pub name: String,
    /// Tags.
    pub tags: Vec<String>,
    /// The machine.
    pub hostname: String,
    /// The user.
    pub username: String,
    /// The absolute paths that were backed up (bytes, not necessarily UTF-8).
    pub roots: Vec<Vec<u8>>,
    /// The snapshot that unchanged files were taken from.
    pub parent: Option<SnapshotId>,
    /// The node of the directory `/`.
    pub tree: BlobId,
    /// Numbers.
    pub summary: Summary,
    /// Blobs with the list of problems, in order.
    pub problem_blobs: Vec<BlobId>,
    /// Name and version of the program that made it.
    pub program: String,
    /// Whether extended attributes were saved.
    pub with_xattrs: bool,
}

mod tag {
    pub(super) const ID: u64 = 1;
    pub(super) const TIME: u64 = 2;
    pub(super) const DURATION: u64 = 3;
    pub(super) const NAME: u64 = 4;
    pub(super) const TAG: u64 = 5;
    pub(super) const HOSTNAME: u64 = 6;
    pub(super) const USERNAME: u64 = 7;
    pub(super) const ROOT: u64 = 8;
    pub(super) const PARENT: u64 = 9;
    pub(super) const TREE: u64 = 10;
    pub(super) const SUMMARY: u64 = 11;
    pub(super) const PROBLEMS: u64 = 12;
    pub(super) const PROGRAM: u64 = 13;
    pub(super) const WITHOUT_XATTRS: u64 = 14;
    pub(super) const STARTED: u64 = 15;
}

impl Snapshot {
    /// The plain body.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        body.field(tag::ID, self.id.as_bytes());
        body.field_with(tag::TIME, |value| write_timestamp(value, self.time));
        body.field_with(tag::DURATION, |value| value.varint(self.duration_nanoseconds));
        body.field(tag::NAME, self.name.as_bytes());
        for name in &self.tags {
            body.field(tag::TAG, name.as_bytes());
        }
        body.field(tag::HOSTNAME, self.hostname.as_bytes());
        body.field(tag::USERNAME, self.username.as_bytes());
        for root in &self.roots {
            body.field(tag::ROOT, root);
        }
        if let Some(parent) = &self.parent {
            body.field(tag::PARENT, parent.as_bytes());
        }
        body.field(tag::TREE, self.tree.as_bytes());
        body.field_with(tag::SUMMARY, |value| {
            for number in [
                self.summary.files,
                self.summary.directories,
                self.summary.others,
                self.summary.logical_bytes,
                self.summary.problems,
            ] {
                value.varint(number);
            }
        });
        for blob in &self.problem_blobs {
            body.field(tag::PROBLEMS, blob.as_bytes());
        }
        body.field(tag::PROGRAM, self.program.as_bytes());
        if !self.with_xattrs {
            body.field(tag::WITHOUT_XATTRS, &[]);
        }
        body.field_with(tag::STARTED, |value| write_timestamp(value, self.started));
        body.into_bytes()
    }

    /// Reads a plain body.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut snapshot = Self {
            id: SnapshotId([0; 32]),
            time: Timestamp::default(),
            started: Timestamp::default(),
            duration_nanoseconds: 0,
            name: String::new(),
            tags: Vec::new(),
            hostname: String::new(),
            username: String::new(),
            roots: Vec::new(),
            parent: None,
            tree: BlobId([0; 24]),
            summary: Summary::default(),
            problem_blobs: Vec::new(),
            program: String::new(),
            with_xattrs: true,
        };
        let mut seen = 0_u64;
        let mut reader = Reader::new(bytes);
        while let Some((tag, mut value)) = reader.field("a field of the snapshot")? {
            snapshot.take(tag, &mut value)?;
            seen |= 1_u64
                .checked_shl(u32::try_from(tag).unwrap_or(u32::MAX))
                .unwrap_or(0);
        }
        let required = 1 << tag::ID | 1 << tag::TIME | 1 << tag::TREE | 1 << tag::ROOT;
        if seen & required == required {
            Ok(snapshot)
        } else {
            Err(DecodeError::Truncated("the snapshot"))
        }
    }

    fn take(&mut self, tag: u64, value: &mut Reader<'_>) -> Result<(), DecodeError> {
        let text = |value: &Reader<'_>| String::from_utf8_lossy(value.rest()).into_owned();
        match tag {
            tag::ID => self.id = SnapshotId(value.array("the snapshot id")?),
            tag::TIME => self.time = read_timestamp(value, "the time")?,
            tag::DURATION => self.duration_nanoseconds = value.varint("the duration")?,
            tag::NAME => self.name = text(value),
            tag::TAG => self.tags.push(text(value)),
            tag::HOSTNAME => self.hostname = text(value),
            tag::USERNAME => self.username = text(value),
            tag::ROOT => self.roots.push(value.rest().to_vec()),
            tag::PARENT => self.parent = Some(SnapshotId(value.array("the parent")?)),
            tag::TREE => self.tree = BlobId(value.array("the tree")?),
            tag::SUMMARY => {
                self.summary = Summary {
                    files: value.varint("the summary")?,
                    directories: value.varint("the summary")?,
                    others: value.varint("the summary")?,
                    logical_bytes: value.varint("the summary")?,
                    problems: value.varint("the summary")?,
                }
            }
            tag::PROBLEMS => self
                .problem_blobs
                .push(BlobId(value.array("a list of problems")?)),
            tag::PROGRAM => self.program = text(value),
            tag::WITHOUT_XATTRS => self.with_xattrs = false,
            tag::STARTED => self.started = read_timestamp(value, "the start")?,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_and_unknown_fields_are_skipped() {
        let snapshot = Snapshot {
            id: SnapshotId([1; 32]),
            time: Timestamp {
                seconds: -5,
                nanoseconds: 7,
            },
            started: Timestamp {
                seconds: 9,
                nanoseconds: 1,
            },
            duration_nanoseconds: 8,
            name: "n".into(),
            tags: vec!["a".into(), "b".into()],
            hostname: "h".into(),
            username: "u".into(),
            roots: vec![b"/\xff".to_vec()],
            parent: Some(SnapshotId([2; 32])),
            tree: BlobId([3; 24]),
            summary: Summary {
                files: 1,
                directories: 2,
                others: 3,
                logical_bytes: 4,
                problems: 5,
            },
            problem_blobs: vec![BlobId([4; 24])],
            program: "p".into(),
            with_xattrs: false,
        };
        let mut writer = Writer::append_to(snapshot.encode());
        writer.field(1000, b"from the future");
        assert_eq!(Snapshot::decode(writer.as_slice()).unwrap(), snapshot);
        assert!(Snapshot::decode(&[]).is_err());
    }
}
