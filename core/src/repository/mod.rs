//! An open repository: its settings, keys and index, and reading what it holds. It does not write packs and deletes nothing but key slots.

mod blobs;
mod create;
mod fan_out;
mod metadata;
mod open;
mod packs;
mod read_ahead;
mod slots;
mod snapshots;
mod tree;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::crypto::keys::Keys;
use crate::environment::Environment;
use crate::format::config::Config;
use crate::id::{BlobId, SlotId};
use crate::index::{Claimed, Index, Place, SegmentProblem};
use crate::read_error::ReadError;
use crate::storage::Storage;
use crate::storage::cache::MetadataCache;

pub use crate::format::config::{ChunkerSettings, Compression};
pub use crate::format::snapshot::{Snapshot, Summary};
pub use crate::format::tree::{Entry, EntryKind};
pub use blobs::{Blob, BlobReader, FrameDecoder};
pub use create::{CreateError, CreateOptions};
pub(crate) use fan_out::{both, fan_out};
pub use open::{Found, OpenError};
pub(crate) use packs::open_contents;
pub use packs::{OpenedPack, pack_id_of, pack_key, read_pack_contents};
pub(crate) use read_ahead::{Fetch, serve};
pub use slots::{SlotError, SlotInfo};
pub use snapshots::snapshot_key;
pub(crate) use snapshots::snapshot_of_key;
pub use tree::{EntryCursor, ReadFileError, is_below, split_path};

/// How to open a repository.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Where large index tables may be kept while the repository is open; without it they are kept in memory.
    pub cache_directory: Option<PathBuf>,
    /// Index tables up to this size are read at once and kept in memory, in bytes; those that are larger are read as they are needed.
    /// Without it, what is usual.
    pub heap_index_bytes: Option<usize>,
    /// How much is kept there from one time to the next, in bytes, of all repositories together: summaries of a large index and, of
    /// those that are far away, metadata that was read. Without it nothing is kept.
    pub cache_bytes: Option<u64>,
    /// Whether the storage is far away: then metadata is kept, and reads are made ahead and in parallel, because each takes long.
    pub far: bool,
}

/// Numbers about a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Visible snapshots.
    pub snapshots: u64,
    /// Sum of the logical sizes of all snapshots, in bytes.
    pub logical_bytes: u64,
    /// Size of all packs in use, in bytes.
    pub stored_bytes: u64,
    /// Packs in use.
    pub packs: u64,
    /// Blobs in the index.
    pub blobs: u64,
    /// Index segments in use.
    pub index_segments: u64,
    /// Plain size of all distinct blobs, in bytes.
    pub unique_bytes: u64,
}

/// An open repository. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct Repository {
    inner: Arc<Inner>,
    /// Whether this handle may read metadata from the local copies.
    cached: bool,
}

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    config: Config,
    keys: Keys,
    index: Index,
    index_problems: Vec<SegmentProblem>,
    cache: Option<Arc<MetadataCache>>,
    far: bool,
    environment: Environment,
    slot: Option<SlotId>,
    /// Set once packs that no segment names were looked through: how many segments had turned out damaged by then.
    adoption: Mutex<Option<usize>>,
    session: Mutex<()>,
}

impl Repository {
    /// The settings fixed at creation.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Where it is, as the user named it.
    pub fn location(&self) -> &str {
        self.inner.storage.location()
    }

    /// The storage.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.inner.index
    }

    /// Index segments that could not be used when the repository was opened.
    pub fn index_problems(&self) -> &[SegmentProblem] {
        &self.inner.index_problems
    }

    /// Time and randomness.
    pub fn environment(&self) -> &Environment {
        &self.inner.environment
    }

    /// Begins a session: only one at a time writes through one open repository, because claims are shared.
    /// What an earlier one claimed and did not finish is forgotten.
    pub(crate) fn begin_session(&self) -> MutexGuard<'_, ()> {
        let session = self.inner.session.lock().unwrap_or_else(PoisonError::into_inner);
        self.index().forget_session();
        session
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.inner.keys
    }

    /// Finds a blob. When the index does not have it, packs that no segment names are looked through once: the index is derived, packs are not.
    pub fn find(&self, id: &BlobId) -> Result<Option<Place>, ReadError> {
        if let Some(place) = self.index().find(id)? {
            return Ok(Some(place));
        }
        {
            let mut adopted = self.inner.adoption.lock().unwrap_or_else(PoisonError::into_inner);
            if *adopted == Some(self.index().abandoned_count()) {
                return self.index().find(id);
            }
            self.index().load(self.loading())?;
            if self.index().find(id)?.is_none() {
                let abandoned = self.index().abandoned_count();
                let known = self.index().packs().iter().map(|pack| pack.id).collect();
                let packs = self.packs_besides(&known)?;
                self.index().adopt(packs)?;
                *adopted = Some(abandoned);
            }
        }
        self.index().find(id)
    }

    /// Asks who stores a blob in this session; the first who asks for an unknown one gets the claim.
    pub(crate) fn claim(&self, id: BlobId) -> Result<Claimed, ReadError> {
        loop {
            if self.index().is_known(&id)? {
                return Ok(Claimed::Known);
            }
            if self.index().is_settled() {
                return Ok(self.index().claim_unknown(id));
            }
            self.make_up_for_damage()?;
        }
    }

    /// A segment turned out damaged after the session began: segments that it had replaced are loaded, and packs that none names now
    /// are taken into the session, so that what they hold is not stored again and stands in a sound segment at its end.
    fn make_up_for_damage(&self) -> Result<(), ReadError> {
        let _adopting = self.inner.adoption.lock().unwrap_or_else(PoisonError::into_inner);
        let abandoned = self.index().abandoned_count();
        if !self.index().is_settled() {
            self.index().load(self.loading())?;
            let mut known = self.index().published_packs();
            known.extend(self.index().pending_packs());
            let packs = self.packs_besides(&known)?;
            self.index().adopt_into_session(packs);
            self.index().settle(abandoned);
        }
        Ok(())
    }

    /// Numbers about the repository.
    pub fn statistics(&self) -> Result<Statistics, ReadError> {
        let (snapshots, _) = self.snapshots()?;
        let packs = self.index().packs();
        let mut unique_bytes = 0;
        self.index()
            .for_each(|_, entry| unique_bytes += u64::from(entry.blob_length))?;
        let (blobs, segments) = self.index().counts();
        Ok(Statistics {
            snapshots: snapshots.len() as u64,
            logical_bytes: snapshots
                .iter()
                .map(|snapshot| snapshot.summary.logical_bytes)
                .sum(),
            stored_bytes: packs.iter().map(|pack| pack.size_bytes).sum(),
            packs: packs.len() as u64,
            blobs,
            index_segments: segments as u64,
            unique_bytes,
        })
    }
}
