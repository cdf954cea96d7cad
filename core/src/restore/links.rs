//! Names of one inode: which entries are linked to each other.

use std::collections::HashMap;

use crate::environment::Timestamp;
use crate::format::tree::{Content, Entry, EntryKind};

/// What tells an inode of the snapshot apart from others. Its number alone does not: while the backup ran, a file may have gone and its
/// number have been given to a new one, or a file may have been written to between two of its names. What differs is not linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Inode {
    device: u64,
    number: u64,
    kind: EntryKind,
    born: Option<(i64, u32)>,
    content: [u8; 32],
}

/// Where the names of each inode with several names were made: below the target, and in the snapshot.
pub(super) type Links = HashMap<Inode, Vec<(Vec<u8>, Vec<u8>)>>;

impl Inode {
    /// The inode of an entry that is one of several names.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let link = entry.hard_link?;
        Some(Self {
            device: link.device,
            number: entry.inode,
            kind: entry.kind,
            born: entry
                .born
                .map(|Timestamp { seconds, nanoseconds }| (seconds, nanoseconds)),
            content: digest(entry),
        })
    }
}

fn digest(entry: &Entry) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    match &entry.content {
        Content::Inline(bytes) => {
            hasher.update(bytes);
        }
        Content::List { items, .. } => {
            for item in items {
                hasher.update(&item.length.to_le_bytes());
                hasher.update(item.blob.as_ref().map_or(&[], |blob| blob.as_bytes()));
            }
        }
    }
    hasher.update(&entry.link_target);
    if let Some((major, minor)) = entry.device {
        hasher.update(&major.to_le_bytes());
        hasher.update(&minor.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}
