//! Walking the tree of a snapshot: entries of directories, contents of files.

use std::io::Write;
use std::ops::ControlFlow;

use crate::format::codec::Reader;
use crate::format::snapshot::Snapshot;
use crate::format::tree::{Content, ContentItem, Entry, EntryKind, Node, Xattr, Xattrs, decode_xattrs};
use crate::id::BlobId;
use crate::progress::Problem;
use crate::read_error::{DamageContext, ReadError};

use super::{BlobReader, Repository};

/// Largest node accepted, in bytes: eight times what is written, and little once decoded.
const MAX_NODE_BYTES: usize = 4 << 20;
/// Nested nodes of one directory accepted: far more than any real one needs.
const MAX_NODE_DEPTH: usize = 64;
/// Largest stored list of extended attributes accepted, in bytes.
const MAX_XATTRS_BYTES: u64 = 64 << 20;
/// Decompressed metadata that a short walk keeps, in bytes.
const WALK_CACHE_BYTES: usize = 8 << 20;

/// A file could not be read out.
#[derive(Debug, thiserror::Error)]
pub enum ReadFileError {
    /// It could not be read from the repository.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It could not be written where it goes.
    #[error("cannot write")]
    Write(#[source] std::io::Error),
}

/// Splits a path into its names; `.` and empty names are dropped, `..` is kept (and matches nothing).
pub fn split_path(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

/// Whether `path` is `ancestor` or lies below it, name by name.
pub fn is_below(path: &[u8], ancestor: &[u8]) -> bool {
    let mut names = split_path(path);
    split_path(ancestor).all(|name| names.next() == Some(name))
}

impl BlobReader<'_> {
    fn node(&mut self, id: &BlobId) -> Result<Node, ReadError> {
        let blob = self.read(id)?;
        if blob.len() > MAX_NODE_BYTES {
            return Err(ReadError::damaged(
                format!("tree node {id}"),
                "it is larger than any node",
            ));
        }
        Node::decode(&blob).damage(&format!("tree node {id}"))
    }

    /// Visits the entries of a directory, in ascending order of names, that are not below `from`, until told to stop.
    pub fn for_each_entry(
        &mut self,
        directory: &BlobId,
        from: &[u8],
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut stack = vec![*directory];
        let mut depths = vec![0_usize];
        let mut last: Option<Vec<u8>> = None;
        while let (Some(id), Some(depth)) = (stack.pop(), depths.pop()) {
            let out_of_order =
                || ReadError::damaged(format!("tree node {id}"), "its entries are out of order");
            match self.node(&id)? {
                Node::Leaf(entries) => {
                    for entry in entries {
                        if last.as_ref().is_some_and(|last| *last >= entry.name) {
                            return Err(out_of_order());
                        }
                        last = Some(entry.name.clone());
                        if entry.name.as_slice() >= from && visit(entry).is_break() {
                            return Ok(());
                        }
                    }
                }
                Node::Inner(children) => {
                    if depth >= MAX_NODE_DEPTH {
                        return Err(ReadError::damaged(
                            format!("tree node {id}"),
                            "nodes are nested too deep",
                        ));
                    }
                    let wanted = children
                        .iter()
                        .rev()
                        .filter(|child| child.last_name.as_slice() >= from);
                    for child in wanted {
                        stack.push(child.node);
                        depths.push(depth + 1);
                    }
                }
                Node::Content(_) => {
                    return Err(ReadError::damaged(
                        format!("tree node {id}"),
                        "it is not a directory",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Finds an entry of a directory by name.
    pub fn lookup(&mut self, directory: &BlobId, name: &[u8]) -> Result<Option<Entry>, ReadError> {
        let mut found = None;
        self.for_each_entry(directory, name, &mut |entry| {
            if entry.name == name {
                found = Some(entry);
            }
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Visits the stretches of a content in order: chunks with their ids, holes without.
    pub fn for_each_item(
        &mut self,
        content: &Content,
        visit: &mut dyn FnMut(ContentItem) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        self.for_each_item_below(content, &mut |_| true, visit)
    }

    /// The same, but goes into a content node only when `enter` says so.
    pub fn for_each_item_below(
        &mut self,
        content: &Content,
        enter: &mut dyn FnMut(&BlobId) -> bool,
        visit: &mut dyn FnMut(ContentItem) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let Content::List { depth, items } = content else {
            return Ok(());
        };
        if *depth == 0 {
            return items.iter().try_for_each(|item| visit(*item));
        }
        let mut levels = vec![(*depth, items.clone().into_iter())];
        while let Some((depth, items)) = levels.last_mut() {
            let depth = *depth;
            let Some(item) = items.next() else {
                levels.pop();
                continue;
            };
            let Some(id) = item.blob.filter(|_| depth > 0) else {
                visit(item)?;
                continue;
            };
            if !enter(&id) {
                continue;
            }
            let Node::Content(below) = self.node(&id)? else {
                return Err(ReadError::damaged(
                    format!("tree node {id}"),
                    "it is not a content list",
                ));
            };
            let length = below
                .iter()
                .try_fold(0_u64, |sum, item| sum.checked_add(item.length));
            if length != Some(item.length) {
                return Err(ReadError::damaged(
                    format!("tree node {id}"),
                    "its length differs from what is expected",
                ));
            }
            levels.push((depth - 1, below.into_iter()));
        }
        Ok(())
    }

    /// The extended attributes of an entry.
    pub fn xattrs(&mut self, entry: &Entry) -> Result<Vec<Xattr>, ReadError> {
        match &entry.xattrs {
            Xattrs::Inline(list) => Ok(list.clone()),
            Xattrs::Stored(content) => {
                let mut bytes = Vec::new();
                self.append_content(content, MAX_XATTRS_BYTES, &mut bytes)?;
                decode_xattrs(&bytes).damage("a list of extended attributes")
            }
        }
    }

    fn append_content(&mut self, content: &Content, limit: u64, out: &mut Vec<u8>) -> Result<(), ReadError> {
        if let Content::Inline(bytes) = content {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let mut items = Vec::new();
        let mut total = 0_u64;
        self.for_each_item(content, &mut |item| {
            total = total.saturating_add(item.length);
            if total > limit {
                return Err(ReadError::damaged("a stored list", "it is longer than allowed"));
            }
            items.push(item);
            Ok(())
        })?;
        for item in items {
            let Some(id) = item.blob else {
                return Err(ReadError::damaged("a stored list", "it has a hole"));
            };
            let blob = self.read(&id)?;
            out.extend_from_slice(&blob);
        }
        Ok(())
    }
}

/// Walks one directory once, in step with somebody who asks for names in ascending order. Nodes that are out of order, or do not
/// end with the name that the node above promises, are damage: a lookup could not find what is in them.
#[derive(Debug)]
pub struct EntryCursor {
    /// Nodes still to visit: how deep they are, and the last name promised of them (empty when nothing was).
    nodes: Vec<(BlobId, usize, Vec<u8>)>,
    leaf: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    /// The last name of the leaves so far.
    last: Vec<u8>,
}

impl EntryCursor {
    /// A cursor before the first entry of a directory.
    pub fn new(directory: BlobId) -> Self {
        Self {
            nodes: vec![(directory, 0, Vec::new())],
            leaf: Vec::new().into_iter().peekable(),
            last: Vec::new(),
        }
    }

    /// The entry called `name`, or `None`. Names that sort before it are gone afterwards.
    pub fn seek(&mut self, reader: &mut BlobReader<'_>, name: &[u8]) -> Result<Option<Entry>, ReadError> {
        loop {
            while self.leaf.next_if(|entry| entry.name.as_slice() < name).is_some() {}
            if self.leaf.peek().is_some() {
                return Ok(self.leaf.next_if(|entry| entry.name == name));
            }
            if !self.advance(reader, name)? {
                return Ok(None);
            }
        }
    }

    /// The next entry, or `None` at the end.
    pub fn next(&mut self, reader: &mut BlobReader<'_>) -> Result<Option<Entry>, ReadError> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Ok(Some(entry));
            }
            if !self.advance(reader, b"")? {
                return Ok(None);
            }
        }
    }

    /// Takes one more node, and of an inner one the children that do not end before `from`. `false` when none is left.
    fn advance(&mut self, reader: &mut BlobReader<'_>, from: &[u8]) -> Result<bool, ReadError> {
        let Some((id, depth, promised)) = self.nodes.pop() else {
            return Ok(false);
        };
        let damaged = |why: &str| ReadError::damaged(format!("tree node {id}"), why);
        let kept = |last: Option<&Vec<u8>>| promised.is_empty() || last == Some(&promised);
        match reader.node(&id)? {
            Node::Leaf(entries) => {
                let last = entries.last().map(|entry| &entry.name);
                let ascends = entries.first().is_none_or(|first| self.last < first.name);
                if !ascends || !kept(last) {
                    return Err(damaged("its entries are out of order"));
                }
                self.last = last.cloned().unwrap_or_else(|| std::mem::take(&mut self.last));
                self.leaf = entries.into_iter().peekable();
            }
            Node::Inner(children) if depth < MAX_NODE_DEPTH => {
                if !kept(children.last().map(|child| &child.last_name)) {
                    return Err(damaged("its entries are out of order"));
                }
                let wanted = children
                    .into_iter()
                    .rev()
                    .filter(|child| child.last_name.as_slice() >= from);
                self.nodes
                    .extend(wanted.map(|child| (child.node, depth + 1, child.last_name)));
            }
            Node::Inner(_) | Node::Content(_) => return Err(damaged("it is not a directory")),
        }
        Ok(true)
    }
}

impl Repository {
    /// The entry of the directory `/` of a snapshot.
    pub fn root(&self, snapshot: &Snapshot) -> Entry {
        let mut root = Entry::new(b"/".to_vec(), EntryKind::Directory);
        root.mode = 0o755;
        root.modified = snapshot.time;
        root.node = Some(snapshot.tree);
        root
    }

    /// The entry at an absolute path, or `None`.
    pub fn entry_at(&self, snapshot: &Snapshot, path: &[u8]) -> Result<Option<Entry>, ReadError> {
        let mut reader = BlobReader::new(self, WALK_CACHE_BYTES);
        self.entry_at_by(&mut reader, snapshot, path)
    }

    /// The same, with a reader that may have been told what is needed.
    pub(crate) fn entry_at_by(
        &self,
        reader: &mut BlobReader<'_>,
        snapshot: &Snapshot,
        path: &[u8],
    ) -> Result<Option<Entry>, ReadError> {
        let mut entry = self.root(snapshot);
        for name in split_path(path) {
            let Some(node) = entry.node else { return Ok(None) };
            match reader.lookup(&node, name)? {
                Some(found) => entry = found,
                None => return Ok(None),
            }
        }
        Ok(Some(entry))
    }

    /// Visits the entries of a directory in ascending order of names, until told to stop.
    pub fn read_directory(
        &self,
        directory: &Entry,
        visit: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let Some(node) = directory.node else { return Ok(()) };
        BlobReader::new(self, WALK_CACHE_BYTES).for_each_entry(&node, b"", visit)
    }

    /// Writes the content of a regular file; every byte is verified before it is written. Holes are written as zeros.
    pub fn read_file(&self, file: &Entry, out: &mut dyn Write) -> Result<(), ReadFileError> {
        if let Content::Inline(bytes) = &file.content {
            return out.write_all(bytes).map_err(ReadFileError::Write);
        }
        let mut lists = BlobReader::new(self, WALK_CACHE_BYTES);
        let mut chunks = BlobReader::new(self, WALK_CACHE_BYTES);
        let mut failure = None;
        let walked = lists.for_each_item(&file.content, &mut |item| {
            let written = match item.blob {
                Some(id) => {
                    let blob = chunks.read(&id)?;
                    if blob.len() as u64 != item.length {
                        return Err(ReadError::damaged(
                            format!("blob {id}"),
                            "its length differs from what is expected",
                        ));
                    }
                    out.write_all(&blob)
                }
                None => std::io::copy(
                    &mut std::io::Read::take(std::io::repeat(0), item.length),
                    &mut *out,
                )
                .map(drop),
            };
            written.map_err(|error| {
                failure = Some(error);
                ReadError::damaged("the output", "writing failed")
            })
        });
        match (walked, failure) {
            (_, Some(error)) => Err(ReadFileError::Write(error)),
            (walked, None) => Ok(walked?),
        }
    }

    /// The problems that the backup met, as stored with the snapshot.
    pub fn problems(&self, snapshot: &Snapshot) -> Result<Vec<Problem>, ReadError> {
        let mut reader = BlobReader::new(self, WALK_CACHE_BYTES);
        let mut problems = Vec::new();
        for id in &snapshot.problem_blobs {
            let blob = reader.read(id)?;
            let mut bytes = Reader::new(&blob);
            while !bytes.is_empty() {
                let path = bytes.bytes("a path").damage("the list of problems")?.to_vec();
                let message = bytes.text("a message").damage("the list of problems")?;
                problems.push(Problem { path, message });
            }
        }
        Ok(problems)
    }
}
