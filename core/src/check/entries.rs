//! Verifying entries: every node can be read, every chunk has a place in a pack that is whole, and every file is as long as its entry says.

use std::collections::{HashMap, HashSet};

use crossbeam_channel::Sender;

use crate::format::snapshot::Snapshot;
use crate::format::tree::{Content, Entry, MAX_DIRECTORY_DEPTH, Xattrs};
use crate::id::{BlobId, PackId};
use crate::progress::{Item, ItemState, Job, Problem};
use crate::read_error::ReadError;
use crate::repository::{BlobReader, EntryCursor, Fetch, Repository, split_path};

use super::CheckError;
use super::packs::Verification;

/// Decompressed metadata that is kept, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// The same directory may stand in many places; after so many it is not walked again, so that directories made of themselves end.
const MAX_VISITS: u32 = 4096;

struct Level {
    cursor: EntryCursor,
    path: Vec<u8>,
    node: BlobId,
    whole: bool,
}

/// What is known of packs so far.
struct Verdicts<'a> {
    verification: &'a Verification<'a>,
    suspect: HashMap<PackId, bool>,
}

impl Verdicts<'_> {
    /// Whether what is in a pack must be read blob by blob.
    fn is_suspect(&mut self, pack: PackId) -> bool {
        *self
            .suspect
            .entry(pack)
            .or_insert_with(|| self.verification.is_suspect(pack))
    }
}

/// Walks snapshots and judges their entries.
pub(super) struct EntryCheck<'a> {
    repository: &'a Repository,
    job: Job<'a>,
    reader: BlobReader<'a>,
    chunks: BlobReader<'a>,
    verdicts: Verdicts<'a>,
    /// Directories known to be whole: checked once when the whole repository is.
    verified: Option<HashSet<BlobId>>,
    /// How often each directory was walked into.
    walked: HashMap<BlobId, u32>,
    content_nodes: HashSet<BlobId>,
    seen: u64,
    damaged: u64,
}

/// A path of a snapshot made absolute: relative ones start at what was backed up.
pub(super) fn absolute(snapshot: &Snapshot, path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") {
        return path.to_vec();
    }
    let mut whole = crate::restore::common_root(snapshot);
    whole.push(b'/');
    whole.extend_from_slice(path);
    whole
}

impl<'a> EntryCheck<'a> {
    /// With `once`, directories that were found whole are not walked again. `fetches` goes to threads that read ahead.
    pub(super) fn new(
        repository: &'a Repository,
        job: Job<'a>,
        verification: &'a Verification<'a>,
        once: bool,
        fetches: Option<&Sender<Fetch>>,
    ) -> Self {
        Self {
            repository,
            job,
            reader: BlobReader::with_read_ahead(repository, CACHE_BYTES, fetches),
            chunks: BlobReader::new(repository, CACHE_BYTES),
            verdicts: Verdicts {
                verification,
                suspect: HashMap::new(),
            },
            verified: once.then(HashSet::new),
            walked: HashMap::new(),
            content_nodes: HashSet::new(),
            seen: 0,
            damaged: 0,
        }
    }

    /// Tells which snapshots will be checked, in order: what is new in each mostly lies together with its root.
    pub(super) fn expect<'s>(&mut self, snapshots: impl Iterator<Item = &'s Snapshot>) {
        self.reader.expect(snapshots.map(|snapshot| &snapshot.tree));
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Checks a snapshot, or what is at a path in it. Returns the absolute path.
    pub(super) fn snapshot(
        &mut self,
        snapshot: &Snapshot,
        path: Option<&[u8]>,
    ) -> Result<Vec<u8>, CheckError> {
        self.job.observer.snapshot(snapshot.id);
        let whole = path.is_none();
        let path = match path {
            Some(path) => normal(&absolute(snapshot, path)),
            None => crate::restore::common_root(snapshot),
        };
        for id in &snapshot.problem_blobs {
            if let Err(error) = self.chunks.read(id) {
                self.damage(&path, error)?;
            }
        }
        match self.repository.entry_at_by(&mut self.reader, snapshot, &path) {
            Ok(Some(entry)) => self.walk(&entry, path.clone())?,
            // What was asked for could not be saved: the snapshot says so in its problems.
            Ok(None) if whole => {}
            Ok(None) => {
                let path = String::from_utf8_lossy(&path).into_owned();
                return Err(CheckError::NoSuchPath {
                    path,
                    snapshot: snapshot.id.short(),
                });
            }
            Err(error) => self.damage(&path, error)?,
        }
        Ok(path)
    }

    /// Reports damage; a failure to reach the storage is an error.
    fn damage(&mut self, path: &[u8], error: ReadError) -> Result<(), CheckError> {
        if !error.is_damage() {
            return Err(error.into());
        }
        self.damaged += 1;
        self.job.problem(&Problem {
            path: path.to_vec(),
            message: error.to_string(),
        });
        Ok(())
    }

    fn walk(&mut self, start: &Entry, path: Vec<u8>) -> Result<(), CheckError> {
        let mut stack: Vec<Level> = Vec::new();
        self.visit(start, path, &mut stack)?;
        while let Some(level) = stack.last_mut() {
            // What failed is told by the verification itself.
            if self.job.cancel.is_cancelled() || self.verdicts.verification.has_failed() {
                return Err(CheckError::Cancelled);
            }
            match level.cursor.next(&mut self.reader) {
                Ok(Some(entry)) => {
                    let mut path = level.path.clone();
                    if !path.ends_with(b"/") {
                        path.push(b'/');
                    }
                    path.extend_from_slice(&entry.name);
                    self.visit(&entry, path, &mut stack)?;
                }
                Ok(None) => self.leave(&mut stack),
                Err(error) => {
                    level.whole = false;
                    let path = level.path.clone();
                    self.damage(&path, error)?;
                    if let Some(level) = stack.pop() {
                        mark(&mut stack, level.whole);
                    }
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self, stack: &mut Vec<Level>) {
        let Some(level) = stack.pop() else { return };
        self.job.item(Item {
            path: &level.path,
            state: ItemState::Done,
            directory: true,
            size_bytes: 0,
        });
        if let Some(verified) = self.verified.as_mut().filter(|_| level.whole) {
            verified.insert(level.node);
        }
        mark(stack, level.whole);
    }

    fn visit(&mut self, entry: &Entry, path: Vec<u8>, stack: &mut Vec<Level>) -> Result<(), CheckError> {
        self.seen += 1;
        let attributes = match &entry.xattrs {
            Xattrs::Stored(_) => self.reader.xattrs(entry).map(drop),
            Xattrs::Inline(_) => Ok(()),
        };
        let content = attributes.and_then(|()| self.content(&entry.content));
        if let Err(error) = content {
            mark(stack, false);
            return self.damage(&path, error);
        }
        let item = |state, directory| Item {
            path: &path,
            state,
            directory,
            size_bytes: entry.size_bytes,
        };
        let Some(node) = entry.node else {
            self.job.item(item(ItemState::Done, false));
            return Ok(());
        };
        let visits = self.walked.entry(node).or_default();
        *visits += 1;
        let known = *visits > MAX_VISITS
            || self
                .verified
                .as_ref()
                .is_some_and(|verified| verified.contains(&node));
        if known {
            self.job.item(item(ItemState::Unchanged, true));
        } else if stack.len() >= MAX_DIRECTORY_DEPTH {
            mark(stack, false);
            return self.damage(
                &path,
                ReadError::damaged("the tree", "directories are nested too deep"),
            );
        } else {
            stack.push(Level {
                cursor: EntryCursor::new(node),
                path,
                node,
                whole: true,
            });
        }
        Ok(())
    }

    /// Checks that every chunk has a place, in a pack that is whole or from which it can be read, with the right length.
    fn content(&mut self, content: &Content) -> Result<(), ReadError> {
        let Self {
            repository,
            reader,
            chunks,
            verdicts,
            content_nodes,
            ..
        } = self;
        // A content node that was found whole is not looked into again: lists that repeat themselves cannot go on for ever.
        let mut entered = Vec::new();
        let mut enter = |id: &BlobId| {
            let new = content_nodes.insert(*id);
            entered.extend(new.then_some(*id));
            new
        };
        let result = reader.for_each_item_below(content, &mut enter, &mut |item| {
            let Some(id) = item.blob else { return Ok(()) };
            let place = repository.find(&id)?;
            let place = place.ok_or_else(|| ReadError::damaged(format!("blob {id}"), "it is in no pack"))?;
            if u64::from(place.blob_length) != item.length {
                return Err(ReadError::damaged(
                    format!("blob {id}"),
                    "its length differs from what is expected",
                ));
            }
            if verdicts.is_suspect(place.pack.id) {
                chunks.read(&id)?;
            }
            Ok(())
        });
        if result.is_err() {
            // The next file that shares them is damaged too, and must be named.
            for id in entered {
                content_nodes.remove(&id);
            }
        }
        result
    }
}

fn mark(stack: &mut [Level], whole: bool) {
    if let Some(level) = stack.last_mut() {
        level.whole &= whole;
    }
}

/// Without doubled slashes and dots.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut normal = Vec::new();
    for name in split_path(path) {
        normal.push(b'/');
        normal.extend_from_slice(name);
    }
    if normal.is_empty() { b"/".to_vec() } else { normal }
}
