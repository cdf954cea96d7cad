//! Builds the tree of a snapshot from entries in walking order: cuts directories and content lists into nodes at content-defined places.

use crate::crypto::keys::Keys;
use crate::format::tree::{
    Content, ContentItem, Entry, LeafWriter, NodeChild, encode_content_node, encode_inner,
};
use crate::id::BlobId;
use crate::read_error::ReadError;

/// A leaf is cut at a chosen name once it is this long, in bytes.
const LEAF_MIN_BYTES: usize = 16 << 10;
/// A leaf is cut at any name once it is this long, in bytes.
const LEAF_MAX_BYTES: usize = 512 << 10;
/// One name in so many is a chosen one.
const LEAF_CHOICE: u64 = 256;
/// Children of an inner node at most; one node in [`INNER_CHOICE`] ends it before.
const INNER_MAX: usize = 4096;
const INNER_CHOICE: u8 = 64;
/// Content items that an entry holds itself.
const ENTRY_ITEMS: usize = 32;
/// Items of a content node at most; one blob in [`CONTENT_CHOICE`] ends it before.
const CONTENT_MAX: usize = 4096;
const CONTENT_CHOICE: u16 = 512;

/// Receives plain blobs and gives their ids: where nodes go.
pub trait BlobSink {
    /// Stores a blob unless it is known, and returns its id.
    fn put(&mut self, plain: &[u8]) -> Result<BlobId, ReadError>;
}

/// Gathers the entries of one directory. Holds one leaf and the unfinished inner nodes, however large the directory.
#[derive(Debug, Default)]
pub struct DirectoryBuilder {
    leaf: LeafWriter,
    last_name: Vec<u8>,
    levels: Vec<Vec<NodeChild>>,
}

impl DirectoryBuilder {
    /// Adds an entry; names must ascend.
    pub fn add(&mut self, entry: &Entry, keys: &Keys, sink: &mut dyn BlobSink) -> Result<(), ReadError> {
        debug_assert!(self.last_name < entry.name, "entries ascend");
        self.leaf.push(entry);
        self.last_name.clone_from(&entry.name);
        let chosen =
            self.leaf.len() >= LEAF_MIN_BYTES && keys.node_boundary(&entry.name).is_multiple_of(LEAF_CHOICE);
        if chosen || self.leaf.len() >= LEAF_MAX_BYTES {
            self.cut_leaf(sink)
        } else {
            Ok(())
        }
    }

    fn cut_leaf(&mut self, sink: &mut dyn BlobSink) -> Result<(), ReadError> {
        let entries = self.leaf.count();
        let node = sink.put(&self.leaf.take())?;
        self.push_child(
            0,
            NodeChild {
                node,
                entries,
                last_name: self.last_name.clone(),
            },
            sink,
        )
    }

    fn push_child(
        &mut self,
        level: usize,
        child: NodeChild,
        sink: &mut dyn BlobSink,
    ) -> Result<(), ReadError> {
        let [first, ..] = child.node.0;
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        let Some(children) = self.levels.get_mut(level) else {
            return Ok(());
        };
        children.push(child);
        // At least two children to a node, so that the number of levels is bounded.
        let ends = (first.is_multiple_of(INNER_CHOICE) && children.len() >= 2) || children.len() >= INNER_MAX;
        if ends { self.cut_inner(level, sink) } else { Ok(()) }
    }

    fn cut_inner(&mut self, level: usize, sink: &mut dyn BlobSink) -> Result<(), ReadError> {
        let Some(children) = self.levels.get_mut(level).map(std::mem::take) else {
            return Ok(());
        };
        let Some(last) = children.last() else {
            return Ok(());
        };
        let child = NodeChild {
            node: sink.put(&encode_inner(&children))?,
            entries: children.iter().map(|child| child.entries).sum(),
            last_name: last.last_name.clone(),
        };
        self.push_child(level + 1, child, sink)
    }

    /// Finishes the directory and returns its top node.
    pub fn finish(mut self, sink: &mut dyn BlobSink) -> Result<BlobId, ReadError> {
        if self.levels.is_empty() {
            return sink.put(&self.leaf.take());
        }
        if !self.leaf.is_empty() {
            self.cut_leaf(sink)?;
        }
        let mut level = 0;
        loop {
            let above = self
                .levels
                .iter()
                .skip(level + 1)
                .any(|children| !children.is_empty());
            match self.levels.get(level).map(Vec::as_slice) {
                Some([only]) if !above => return Ok(only.node),
                Some([]) => {}
                Some(_) => self.cut_inner(level, sink)?,
                None => return sink.put(&self.leaf.take()),
            }
            level += 1;
        }
    }
}

/// Puts the list of a file's stretches into nodes until what is left fits an entry.
pub fn store_content(mut items: Vec<ContentItem>, sink: &mut dyn BlobSink) -> Result<Content, ReadError> {
    let mut depth = 0;
    while items.len() > ENTRY_ITEMS {
        let mut above = Vec::new();
        let mut node = Vec::new();
        for item in items {
            node.push(item);
            let chosen = item.blob.is_some_and(|id| {
                let [first, second, ..] = id.0;
                u16::from_le_bytes([first, second]).is_multiple_of(CONTENT_CHOICE)
            });
            if (chosen && node.len() >= 2) || node.len() >= CONTENT_MAX {
                above.push(content_node(&node, sink)?);
                node.clear();
            }
        }
        if !node.is_empty() {
            above.push(content_node(&node, sink)?);
        }
        items = above;
        depth += 1;
    }
    Ok(Content::List { depth, items })
}

fn content_node(items: &[ContentItem], sink: &mut dyn BlobSink) -> Result<ContentItem, ReadError> {
    let blob = sink.put(&encode_content_node(items))?;
    Ok(ContentItem {
        length: items.iter().map(|item| item.length).sum(),
        blob: Some(blob),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::keys::MasterKey;
    use crate::format::tree::{EntryKind, Node};
    use crate::id::RepositoryId;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Blobs(HashMap<BlobId, Vec<u8>>);

    impl BlobSink for Blobs {
        fn put(&mut self, plain: &[u8]) -> Result<BlobId, ReadError> {
            let id = BlobId(*blake3::hash(plain).as_bytes().first_chunk().unwrap());
            self.0.insert(id, plain.to_vec());
            Ok(id)
        }
    }

    impl Blobs {
        fn names(&self, id: BlobId) -> Vec<Vec<u8>> {
            match Node::decode(&self.0[&id]).unwrap() {
                Node::Leaf(entries) => entries.into_iter().map(|entry| entry.name).collect(),
                Node::Inner(children) => children.iter().flat_map(|child| self.names(child.node)).collect(),
                Node::Content(_) => panic!("not a directory"),
            }
        }
    }

    fn build(names: impl Iterator<Item = String>, blobs: &mut Blobs) -> BlobId {
        let keys = Keys::derive(&MasterKey::new([1; 32]), RepositoryId([1; 16]));
        let mut builder = DirectoryBuilder::default();
        for name in names {
            builder
                .add(&Entry::new(name.into_bytes(), EntryKind::File), &keys, blobs)
                .unwrap();
        }
        builder.finish(blobs).unwrap()
    }

    #[test]
    fn a_large_directory_is_cut_and_one_new_name_rewrites_few_nodes() {
        let names = |extra: Option<&str>| {
            let mut names: Vec<String> = (0..50_000).map(|n| format!("file-{n:06}")).collect();
            names.extend(extra.map(str::to_owned));
            names.sort();
            names
        };
        let mut blobs = Blobs::default();
        let top = build(names(None).into_iter(), &mut blobs);
        let before = blobs.0.len();
        assert!(before > 20, "{before} nodes");
        assert_eq!(blobs.names(top).len(), 50_000);
        let changed = build(names(Some("file-025000-new")).into_iter(), &mut blobs);
        assert!(
            blobs.0.len() - before <= 4,
            "{} new nodes",
            blobs.0.len() - before
        );
        assert_eq!(blobs.names(changed).len(), 50_001);
        assert!(blobs.0.values().all(|node| node.len() < 1 << 20));
    }

    #[test]
    fn an_empty_directory_has_a_node() {
        let mut blobs = Blobs::default();
        let top = build(std::iter::empty(), &mut blobs);
        assert!(blobs.names(top).is_empty());
    }
}
