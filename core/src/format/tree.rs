//! Tree nodes: the entries of directories and the content lists of large files, as blobs.
//!
//! ```text
//! leaf:    0 u8 | entry count | per entry: length, entry
//! inner:   1 u8 | child count | per child: node id (24), entries below, last name below
//! content: 2 u8 | item count  | per item: length << 1 | hole, and unless a hole the id (24)
//! entry:   name | kind u8 | mode | uid | gid | user | group | modified | changed | inode | size | tagged fields
//! ```
//! Integers are LEB128, times zigzag seconds and nanoseconds, names and texts length-prefixed. Names ascend by their bytes in a leaf and from leaf to leaf.

use crate::environment::Timestamp;
use crate::id::BlobId;

use super::codec::{DecodeError, Reader, Writer};
use super::config::{read_timestamp, write_timestamp};

/// Longest name accepted, in bytes (the file systems of today stop at 255 bytes, or 1,020 in UTF-8).
pub const MAX_NAME_BYTES: usize = 4096;

/// Largest leaf and largest content node accepted, in bytes. Writers stay well below; decoded, a node takes up to some thirty times as much.
pub const MAX_NODE_BYTES: usize = 1 << 20;
/// Largest inner node accepted, in bytes: its names are longer than the rest.
pub const MAX_INNER_BYTES: usize = 4 << 20;
/// No entry is shorter, its length prefix included, in bytes.
const MIN_ENTRY_BYTES: usize = 15;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A regular file.
    File = 0,
    /// A directory.
    Directory = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A named pipe.
    Fifo = 3,
    /// A socket.
    Socket = 4,
    /// A character device.
    CharDevice = 5,
    /// A block device.
    BlockDevice = 6,
}

const KINDS: [EntryKind; 7] = [
    EntryKind::File,
    EntryKind::Directory,
    EntryKind::Symlink,
    EntryKind::Fifo,
    EntryKind::Socket,
    EntryKind::CharDevice,
    EntryKind::BlockDevice,
];

/// A stretch of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentItem {
    /// Length in bytes.
    pub length: u64,
    /// The blob that holds it, or `None` for a hole. At depth 0 a chunk, above it a node of the content list.
    pub blob: Option<BlobId>,
}

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the entry itself.
    Inline(Vec<u8>),
    /// A list of stretches; at `depth` n > 0 the items name content nodes of depth n - 1.
    List {
        /// Levels of nodes below.
        depth: u8,
        /// The stretches, in order.
        items: Vec<ContentItem>,
    },
}

impl Default for Content {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Its name, with the namespace: `user.mime_type`.
    pub name: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// The extended attributes of an entry. POSIX ACLs and file capabilities are among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Xattrs {
    /// In the entry itself.
    Inline(Vec<Xattr>),
    /// Too large for the entry: the encoded list is stored as content.
    Stored(Content),
}

impl Default for Xattrs {
    fn default() -> Self {
        Self::Inline(Vec::new())
    }
}

/// Tells the names of one inode apart from all others of the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HardLink {
    /// The device it was on.
    pub device: u64,
    /// How many names it had.
    pub links: u64,
}

/// One file system object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without any `/`.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits, setuid, setgid and sticky (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Name of the owner, empty when unknown.
    pub user: String,
    /// Name of the group, empty when unknown.
    pub group: String,
    /// Time of the last change of content.
    pub modified: Timestamp,
    /// Time of the last change of the inode.
    pub changed: Timestamp,
    /// Time of creation, where the file system knows.
    pub born: Option<Timestamp>,
    /// Inode number at the source: tells whether a file of the same name is the same file.
    pub inode: u64,
    /// Size in bytes of a regular file; 0 for others.
    pub size_bytes: u64,
    /// Major and minor number of a device.
    pub device: Option<(u32, u32)>,
    /// Target of a symlink.
    pub link_target: Vec<u8>,
    /// Set when the inode has several names.
    pub hard_link: Option<HardLink>,
    /// Content of a file.
    pub content: Content,
    /// Node of a directory's entries.
    pub node: Option<BlobId>,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

mod tag {
    pub(super) const BORN: u64 = 1;
    pub(super) const DEVICE: u64 = 2;
    pub(super) const LINK_TARGET: u64 = 3;
    pub(super) const HARD_LINK: u64 = 4;
    pub(super) const INLINE: u64 = 5;
    pub(super) const CONTENT: u64 = 6;
    pub(super) const NODE: u64 = 7;
    pub(super) const XATTR: u64 = 8;
    pub(super) const STORED_XATTRS: u64 = 9;
}

impl Entry {
    /// An entry of a kind and name with nothing else known.
    pub fn new(name: Vec<u8>, kind: EntryKind) -> Self {
        Self {
            name,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            modified: Timestamp::default(),
            changed: Timestamp::default(),
            born: None,
            inode: 0,
            size_bytes: 0,
            device: None,
            link_target: Vec::new(),
            hard_link: None,
            content: Content::default(),
            node: None,
            xattrs: Xattrs::default(),
        }
    }

    /// Appends the entry.
    pub fn write(&self, out: &mut Writer) {
        out.bytes(&self.name);
        out.u8(self.kind as u8);
        out.varint(self.mode.into());
        out.varint(self.uid.into());
        out.varint(self.gid.into());
        out.bytes(self.user.as_bytes());
        out.bytes(self.group.as_bytes());
        write_timestamp(out, self.modified);
        write_timestamp(out, self.changed);
        out.varint(self.inode);
        out.varint(self.size_bytes);
        if let Some(born) = self.born {
            // Most files are created moments before their inode changes last: the difference is short.
            out.field_with(tag::BORN, |value| {
                value.signed(born.seconds.wrapping_sub(self.changed.seconds));
                value.signed(i64::from(born.nanoseconds) - i64::from(self.changed.nanoseconds));
            });
        }
        if let Some((major, minor)) = self.device {
            out.field_with(tag::DEVICE, |value| {
                value.varint(major.into());
                value.varint(minor.into());
            });
        }
        if !self.link_target.is_empty() {
            out.field(tag::LINK_TARGET, &self.link_target);
        }
        if let Some(link) = self.hard_link {
            out.field_with(tag::HARD_LINK, |value| {
                value.varint(link.device);
                value.varint(link.links);
            });
        }
        match &self.content {
            Content::Inline(bytes) if bytes.is_empty() => {}
            Content::Inline(bytes) => out.field(tag::INLINE, bytes),
            Content::List { .. } => out.field_with(tag::CONTENT, |value| write_content(value, &self.content)),
        }
        if let Some(node) = &self.node {
            out.field(tag::NODE, node.as_bytes());
        }
        match &self.xattrs {
            Xattrs::Inline(list) => {
                for xattr in list {
                    out.field_with(tag::XATTR, |value| {
                        value.bytes(&xattr.name);
                        value.raw(&xattr.value);
                    });
                }
            }
            Xattrs::Stored(content) => {
                out.field_with(tag::STORED_XATTRS, |value| write_content(value, content));
            }
        }
    }

    /// Reads an entry. Its name is one that can stand in a directory: not empty, not `.` or `..`, without `/` and NUL.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = reader.bytes("a name")?;
        if !is_plain_name(name) {
            return Err(DecodeError::Invalid("a name"));
        }
        let kind = reader.u8("a kind")?;
        let kind = *KINDS
            .get(usize::from(kind))
            .ok_or(DecodeError::Invalid("a kind"))?;
        let mut entry = Self::new(name.to_vec(), kind);
        entry.mode = reader.varint_u32("a mode")? & 0o7777;
        entry.uid = reader.varint_u32("an owner")?;
        entry.gid = reader.varint_u32("a group")?;
        entry.user = reader.text("an owner's name")?;
        entry.group = reader.text("a group's name")?;
        entry.modified = read_timestamp(reader, "a modification time")?;
        entry.changed = read_timestamp(reader, "a change time")?;
        entry.inode = reader.varint("an inode")?;
        entry.size_bytes = reader.varint("a size")?;
        while let Some((tag, mut value)) = reader.field("a field of an entry")? {
            entry.take(tag, &mut value)?;
        }
        entry.validate()?;
        Ok(entry)
    }

    fn take(&mut self, tag: u64, value: &mut Reader<'_>) -> Result<(), DecodeError> {
        match tag {
            tag::BORN => self.born = Some(read_born(value, self.changed)?),
            tag::DEVICE => {
                self.device = Some((
                    value.varint_u32("a device number")?,
                    value.varint_u32("a device number")?,
                ));
            }
            tag::LINK_TARGET => self.link_target = value.rest().to_vec(),
            tag::HARD_LINK => {
                let device = value.varint("a hard link")?;
                self.hard_link = Some(HardLink {
                    device,
                    links: value.varint("a hard link")?,
                });
            }
            tag::INLINE => self.content = Content::Inline(value.rest().to_vec()),
            tag::CONTENT => self.content = read_content(value)?,
            tag::NODE => self.node = Some(BlobId(value.array("a node id")?)),
            tag::XATTR => {
                let name = value.bytes("an attribute's name")?.to_vec();
                if let Xattrs::Inline(list) = &mut self.xattrs {
                    list.push(Xattr {
                        name,
                        value: value.rest().to_vec(),
                    });
                }
            }
            tag::STORED_XATTRS => self.xattrs = Xattrs::Stored(read_content(value)?),
            _ => {}
        }
        Ok(())
    }

    /// Checks that the fields agree with each other: a directory has a node, the content is as long as the size says.
    fn validate(&self) -> Result<(), DecodeError> {
        let length = content_length(&self.content)?;
        let ok = match self.kind {
            EntryKind::File => length == self.size_bytes && self.node.is_none(),
            EntryKind::Directory => self.node.is_some() && length == 0,
            EntryKind::Symlink => !self.link_target.is_empty() && !self.link_target.contains(&0),
            EntryKind::CharDevice | EntryKind::BlockDevice => self.device.is_some(),
            EntryKind::Fifo | EntryKind::Socket => true,
        };
        if ok {
            Ok(())
        } else {
            Err(DecodeError::Invalid("an entry"))
        }
    }
}

fn read_born(value: &mut Reader<'_>, changed: Timestamp) -> Result<Timestamp, DecodeError> {
    let invalid = || DecodeError::Invalid("a creation time");
    let seconds = changed.seconds.wrapping_add(value.signed("a creation time")?);
    let nanoseconds = i64::from(changed.nanoseconds)
        .checked_add(value.signed("a creation time")?)
        .ok_or_else(invalid)?;
    let nanoseconds = u32::try_from(nanoseconds)
        .ok()
        .filter(|&n| n < 1_000_000_000)
        .ok_or_else(invalid)?;
    Ok(Timestamp { seconds, nanoseconds })
}

/// Whether a name can stand in a directory.
pub fn is_plain_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name != b"."
        && name != b".."
        && !name.iter().any(|&byte| byte == b'/' || byte == 0)
}

/// Length of a content in bytes.
pub fn content_length(content: &Content) -> Result<u64, DecodeError> {
    match content {
        Content::Inline(bytes) => Ok(bytes.len() as u64),
        Content::List { items, .. } => items
            .iter()
            .try_fold(0_u64, |sum, item| sum.checked_add(item.length))
            .filter(|&sum| i64::try_from(sum).is_ok())
            .ok_or(DecodeError::Invalid("a content's length")),
    }
}

fn write_content(out: &mut Writer, content: &Content) {
    match content {
        Content::Inline(bytes) => {
            out.u8(u8::MAX);
            out.raw(bytes);
        }
        Content::List { depth, items } => {
            out.u8(*depth);
            write_items(out, items);
        }
    }
}

fn read_content(value: &mut Reader<'_>) -> Result<Content, DecodeError> {
    match value.u8("a content's depth")? {
        u8::MAX => Ok(Content::Inline(value.rest().to_vec())),
        depth if depth <= MAX_CONTENT_DEPTH => {
            let items = read_items(value)?;
            Ok(Content::List { depth, items })
        }
        _ => Err(DecodeError::Invalid("a content's depth")),
    }
}

/// Levels of content nodes accepted: with at least two items to a node, enough for any file.
pub const MAX_CONTENT_DEPTH: u8 = 63;
/// Directories inside each other that are backed up, restored and checked. No real tree comes near; each level takes an open
/// directory, so a tree made to exhaust the reader ends here.
pub const MAX_DIRECTORY_DEPTH: usize = 5_000;

fn write_items(out: &mut Writer, items: &[ContentItem]) {
    out.varint(items.len() as u64);
    for item in items {
        out.varint(item.length << 1 | u64::from(item.blob.is_none()));
        if let Some(blob) = &item.blob {
            out.raw(blob.as_bytes());
        }
    }
}

fn read_items(reader: &mut Reader<'_>) -> Result<Vec<ContentItem>, DecodeError> {
    let count = reader.count(1, "the number of items")?;
    let mut items = Vec::with_capacity(count.min(reader.rest().len() / 2 + 1));
    for _ in 0..count {
        let word = reader.varint("an item's length")?;
        // Every stretch has a length, so no list of a given length goes on for ever.
        if word >> 1 == 0 {
            return Err(DecodeError::Invalid("an item's length"));
        }
        let blob = if word & 1 == 1 {
            None
        } else {
            Some(BlobId(reader.array("an item's id")?))
        };
        items.push(ContentItem {
            length: word >> 1,
            blob,
        });
    }
    Ok(items)
}

/// A child of an inner node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeChild {
    /// The node.
    pub node: BlobId,
    /// Directory entries below it.
    pub entries: u64,
    /// The last name below it.
    pub last_name: Vec<u8>,
}

/// A tree node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Entries of a directory.
    Leaf(Vec<Entry>),
    /// Nodes of a large directory.
    Inner(Vec<NodeChild>),
    /// Stretches of a large file.
    Content(Vec<ContentItem>),
}

/// Encodes an inner node.
pub fn encode_inner(children: &[NodeChild]) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(1);
    out.varint(children.len() as u64);
    for child in children {
        out.raw(child.node.as_bytes());
        out.varint(child.entries);
        out.bytes(&child.last_name);
    }
    out.into_bytes()
}

/// Encodes a node of a content list.
pub fn encode_content_node(items: &[ContentItem]) -> Vec<u8> {
    let mut out = Writer::new();
    out.u8(2);
    write_items(&mut out, items);
    out.into_bytes()
}

/// Gathers encoded entries into a leaf.
#[derive(Debug, Default)]
pub struct LeafWriter {
    entries: Writer,
    count: u64,
    scratch: Writer,
}

impl LeafWriter {
    /// Appends an entry; the caller keeps the order.
    pub fn push(&mut self, entry: &Entry) {
        let mut scratch = std::mem::take(&mut self.scratch).into_bytes();
        scratch.clear();
        let mut scratch = Writer::append_to(scratch);
        entry.write(&mut scratch);
        self.entries.bytes(scratch.as_slice());
        self.scratch = scratch;
        self.count += 1;
    }

    /// Entries so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The leaf; the writer is empty afterwards.
    pub fn take(&mut self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(0);
        out.varint(self.count);
        out.raw(self.entries.as_slice());
        self.count = 0;
        let mut cleared = std::mem::take(&mut self.entries).into_bytes();
        cleared.clear();
        self.entries = Writer::append_to(cleared);
        out.into_bytes()
    }
}

impl Node {
    /// Reads a node. Names ascend strictly, so no name stands twice.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8("a node's type")?;
        let most = if kind == 1 {
            MAX_INNER_BYTES
        } else {
            MAX_NODE_BYTES
        };
        if bytes.len() > most {
            return Err(DecodeError::Invalid("a node's length"));
        }
        let node = match kind {
            0 => Self::Leaf(read_leaf(&mut reader)?),
            1 => Self::Inner(read_inner(&mut reader)?),
            2 => Self::Content(read_items(&mut reader)?),
            _ => return Err(DecodeError::Invalid("a node's type")),
        };
        reader.finish()?;
        Ok(node)
    }
}

fn read_leaf(reader: &mut Reader<'_>) -> Result<Vec<Entry>, DecodeError> {
    let count = reader.count(MIN_ENTRY_BYTES, "the number of entries")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count.min(4096));
    for _ in 0..count {
        let entry = Entry::read(&mut Reader::new(reader.bytes("an entry")?))?;
        if entries.last().is_some_and(|last| last.name >= entry.name) {
            return Err(DecodeError::Invalid("the order of entries"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn read_inner(reader: &mut Reader<'_>) -> Result<Vec<NodeChild>, DecodeError> {
    let count = reader.count(BlobId::LENGTH + 2, "the number of children")?;
    let mut children: Vec<NodeChild> = Vec::with_capacity(count);
    for _ in 0..count {
        let node = BlobId(reader.array("a child's id")?);
        let entries = reader.varint("a child's entries")?;
        let last_name = reader.bytes("a child's last name")?.to_vec();
        if children.last().is_some_and(|last| last.last_name >= last_name) {
            return Err(DecodeError::Invalid("the order of children"));
        }
        children.push(NodeChild {
            node,
            entries,
            last_name,
        });
    }
    if children.is_empty() {
        Err(DecodeError::Invalid("an empty inner node"))
    } else {
        Ok(children)
    }
}

/// Encodes extended attributes that are too large for an entry.
pub fn encode_xattrs(xattrs: &[Xattr]) -> Vec<u8> {
    let mut out = Writer::new();
    out.varint(xattrs.len() as u64);
    for xattr in xattrs {
        out.bytes(&xattr.name);
        out.bytes(&xattr.value);
    }
    out.into_bytes()
}

/// Reads what [`encode_xattrs`] wrote.
pub fn decode_xattrs(bytes: &[u8]) -> Result<Vec<Xattr>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(2, "the number of attributes")?;
    let mut xattrs = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let name = reader.bytes("an attribute's name")?.to_vec();
        xattrs.push(Xattr {
            name,
            value: reader.bytes("an attribute's value")?.to_vec(),
        });
    }
    reader.finish()?;
    Ok(xattrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_entry() -> Entry {
        let mut entry = Entry::new(b"na\xffme".to_vec(), EntryKind::File);
        entry.mode = 0o4755;
        entry.uid = 1000;
        entry.user = "gilles".into();
        entry.modified = Timestamp {
            seconds: -1,
            nanoseconds: 999_999_999,
        };
        entry.born = Some(Timestamp {
            seconds: 3,
            nanoseconds: 4,
        });
        entry.size_bytes = 30;
        entry.hard_link = Some(HardLink { device: 5, links: 2 });
        entry.content = Content::List {
            depth: 0,
            items: vec![
                ContentItem {
                    length: 10,
                    blob: Some(BlobId([6; 24])),
                },
                ContentItem {
                    length: 20,
                    blob: None,
                },
            ],
        };
        entry.xattrs = Xattrs::Inline(vec![Xattr {
            name: b"user.a".to_vec(),
            value: b"\0\x01".to_vec(),
        }]);
        entry
    }

    #[test]
    fn a_leaf_survives_and_its_order_is_checked() {
        let mut leaf = LeafWriter::default();
        let first = full_entry();
        let mut second = Entry::new(b"z".to_vec(), EntryKind::Directory);
        second.node = Some(BlobId([8; 24]));
        leaf.push(&first);
        leaf.push(&second);
        let bytes = leaf.take();
        assert_eq!(
            Node::decode(&bytes).unwrap(),
            Node::Leaf(vec![first.clone(), second.clone()])
        );
        leaf.push(&second);
        leaf.push(&first);
        assert_eq!(
            Node::decode(&leaf.take()),
            Err(DecodeError::Invalid("the order of entries"))
        );
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/etc", b"a\0b"] {
            let mut entry = full_entry();
            entry.name = name.to_vec();
            let mut out = Writer::new();
            entry.write(&mut out);
            assert!(Entry::read(&mut Reader::new(out.as_slice())).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_size_that_differs_from_the_content_is_refused() {
        let mut entry = full_entry();
        entry.size_bytes += 1;
        let mut out = Writer::new();
        entry.write(&mut out);
        assert!(Entry::read(&mut Reader::new(out.as_slice())).is_err());
    }

    #[test]
    fn every_cut_of_a_node_is_an_error_and_never_a_panic() {
        let mut leaf = LeafWriter::default();
        leaf.push(&full_entry());
        let bytes = leaf.take();
        for end in 0..bytes.len() {
            assert!(Node::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
