//! Stores packs and publishes index segments: in this order, so that what an index names is always there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::object::ObjectKind;
use crate::format::pack::ContentsFrame;
use crate::id::SessionId;
use crate::index::Publisher;
use crate::progress::Counters;
use crate::read_error::ReadError;
use crate::repository::{Repository, pack_key};
use crate::storage::{PutMode, PutOptions, StorageErrorKind};

use super::pack::Pack;

/// Blobs after which a segment is published during the run.
const PUBLISH_BLOBS: usize = 131_072;
/// Packs after which a segment is published during the run.
const PUBLISH_PACKS: usize = 64;

/// The last stage: gives packs to the storage and settles them in the index.
#[derive(Debug)]
pub struct Store<'a> {
    repository: &'a Repository,
    session: SessionId,
    counters: &'a Counters,
    stored_bytes: AtomicU64,
}

impl<'a> Store<'a> {
    /// A store for one session.
    pub fn new(repository: &'a Repository, session: SessionId, counters: &'a Counters) -> Self {
        Self {
            repository,
            session,
            counters,
            stored_bytes: AtomicU64::new(0),
        }
    }

    /// Bytes stored so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that were stored.
    pub fn count(&self, bytes: u64) {
        self.stored_bytes.fetch_add(bytes, Ordering::Relaxed);
        Counters::add(&self.counters.bytes_stored, bytes);
    }

    /// Stores a pack durably and records it.
    pub fn put(&self, pack: Pack) -> Result<(), ReadError> {
        let (info, frames, object) = pack.into_parts();
        let options = PutOptions {
            mode: PutMode::Create,
            durable: true,
            blake3: info.id.0,
        };
        let (key, object) = (pack_key(info.id), Arc::new(object));
        let put = self.repository.storage().put(&key, Arc::clone(&object), options);
        match put {
            Ok(()) => {}
            // The name is the hash of the bytes: an earlier try that seemed to fail had arrived.
            Err(error) if error.kind == StorageErrorKind::AlreadyExists => {}
            Err(error) => return Err(ReadError::Storage(error)),
        }
        if info.kind == ObjectKind::TreePack {
            self.keep_copies(&key, &frames, &object);
        }
        drop(object);
        self.count(info.size_bytes);
        let index = self.repository.index();
        index.record(info, &frames);
        let (blobs, packs) = index.pending_counts();
        if blobs >= PUBLISH_BLOBS || packs >= PUBLISH_PACKS {
            self.publish(false)
        } else {
            Ok(())
        }
    }

    /// Keeps local copies of metadata, which the next backup will read.
    fn keep_copies(&self, key: &str, frames: &[ContentsFrame], object: &[u8]) {
        let Some(cache) = self.repository.cache() else {
            return;
        };
        for frame in frames {
            let (offset, length) = (frame.offset as usize, frame.length as usize);
            if let Some(bytes) = object.get(offset..offset + length) {
                cache.store(key, offset as u64, length as u64, bytes);
            }
        }
    }

    /// Publishes what is recorded; `last` merges small segments.
    pub fn publish(&self, last: bool) -> Result<(), ReadError> {
        let publisher = Publisher {
            storage: self.repository.storage().as_ref(),
            keys: self.repository.keys(),
            environment: self.repository.environment(),
            session: self.session,
            cache: self.repository.cache(),
        };
        if let Some(bytes) = self.repository.index().publish(publisher, last)? {
            self.count(bytes);
        }
        Ok(())
    }
}
