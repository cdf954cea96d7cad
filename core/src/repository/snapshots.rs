//! Snapshots: listing, reading and committing their headers.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::environment::EntropyError;
use crate::format::codec::Reader;
use crate::format::object::{HEADER_BYTES, ObjectKind, Prelude, read_sealed_header, sealed_header};
use crate::format::snapshot::{MAX_SNAPSHOT_BYTES, Snapshot};
use crate::id::{SessionId, SnapshotId};
use crate::read_error::{DamageContext, ReadError};
use crate::storage::{PutMode, PutOptions, StorageError, StorageErrorKind, list_all};

use super::Repository;
use super::fan_out::fan_out;

/// Key of one commit of a snapshot.
pub fn snapshot_key(id: SnapshotId, session: SessionId) -> String {
    format!("snapshots/{id}/{session}")
}

/// The snapshot and session of a key, if it is the key of a snapshot.
pub(crate) fn snapshot_of_key(key: &str) -> Option<(SnapshotId, SessionId)> {
    let (snapshot, session) = key.strip_prefix("snapshots/")?.split_once('/')?;
    Some((snapshot.parse().ok()?, session.parse().ok()?))
}

type Unreadable = Vec<(SnapshotId, ReadError)>;

impl Repository {
    fn commits(&self, prefix: &str) -> Result<BTreeMap<SnapshotId, Vec<String>>, ReadError> {
        let mut commits: BTreeMap<SnapshotId, Vec<String>> = BTreeMap::new();
        list_all(self.storage().as_ref(), prefix, |object| {
            if let Some((id, _)) = snapshot_of_key(&object.key) {
                commits.entry(id).or_default().push(object.key);
            } else {
                tracing::warn!(object = object.key, "not the name of a snapshot");
            }
        })
        .map_err(ReadError::Storage)?;
        Ok(commits)
    }

    /// The ids of all snapshots, in ascending order.
    pub fn snapshot_ids(&self) -> Result<Vec<SnapshotId>, ReadError> {
        Ok(self.commits("snapshots/")?.into_keys().collect())
    }

    /// Reads one snapshot.
    pub fn snapshot(&self, id: SnapshotId) -> Result<Snapshot, ReadError> {
        let keys = self
            .commits(&format!("snapshots/{id}/"))?
            .remove(&id)
            .unwrap_or_default();
        self.read_any(id, &keys)
    }

    /// Reads all snapshots, oldest first; those that cannot be read come apart.
    pub fn snapshots(&self) -> Result<(Vec<Snapshot>, Unreadable), ReadError> {
        let mut snapshots = Vec::new();
        let mut unreadable = Vec::new();
        let commits: Vec<_> = self.commits("snapshots/")?.into_iter().collect();
        let read = fan_out(&commits, self.threads_for_small_reads(), |(id, keys)| {
            self.read_any(*id, keys)
        });
        for ((id, _), snapshot) in commits.into_iter().zip(read) {
            match snapshot {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(error) if error.is_damage() => unreadable.push((id, error)),
                Err(error) => return Err(error),
            }
        }
        snapshots.sort_by_key(|snapshot| (snapshot.time, snapshot.id));
        Ok((snapshots, unreadable))
    }

    /// A snapshot may be committed more than once; any readable commit will do.
    fn read_any(&self, id: SnapshotId, keys: &[String]) -> Result<Snapshot, ReadError> {
        let mut last = ReadError::damaged(format!("snapshot {id}"), "it has no header");
        for key in keys {
            match self.read_header(key, id) {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Reads one commit.
    pub(crate) fn read_header(&self, key: &str, id: SnapshotId) -> Result<Snapshot, ReadError> {
        let length = MAX_SNAPSHOT_BYTES as u64 + 1;
        self.read_metadata(key, 0, length, &mut |object| self.open_header(key, id, &object))
    }

    fn open_header(&self, key: &str, id: SnapshotId, object: &[u8]) -> Result<Snapshot, ReadError> {
        let mut reader = Reader::new(object);
        let (prelude, salt) = read_sealed_header(&mut reader, ObjectKind::Snapshot).damage(key)?;
        if prelude.mode != self.config().mode() || object.len() > MAX_SNAPSHOT_BYTES {
            return Err(ReadError::damaged(
                key,
                "it is protected in another way than the repository, or too long",
            ));
        }
        let mut body = reader.rest().to_vec();
        self.keys()
            .object_key(prelude, &salt)
            .open(HEADER_BYTES as u64, &mut body)
            .damage(key)?;
        let snapshot = Snapshot::decode(&body).damage(key)?;
        if snapshot.id != id {
            return Err(ReadError::damaged(key, "it is the header of another snapshot"));
        }
        Ok(snapshot)
    }

    /// Commits a snapshot: when this returns, the backup exists and is durable.
    pub(crate) fn commit(&self, snapshot: &Snapshot, session: SessionId) -> Result<u64, StorageError> {
        let failed = |why: String| StorageError::new(StorageErrorKind::Other, "seal", "the snapshot", why);
        let prelude = Prelude {
            kind: ObjectKind::Snapshot,
            mode: self.config().mode(),
        };
        let salt = self
            .environment()
            .random()
            .map_err(|error: EntropyError| failed(error.to_string()))?;
        let mut body = snapshot.encode();
        self.keys()
            .object_key(prelude, &salt)
            .seal(HEADER_BYTES as u64, &mut body);
        let mut object = sealed_header(prelude, &salt);
        object.raw(&body);
        let object = object.into_bytes();
        if object.len() > MAX_SNAPSHOT_BYTES {
            return Err(failed(
                "its header would be too long: use fewer tags and roots".to_owned(),
            ));
        }
        let (size, blake3) = (object.len() as u64, *blake3::hash(&object).as_bytes());
        let options = PutOptions {
            mode: PutMode::Create,
            durable: true,
            blake3,
        };
        let key = snapshot_key(snapshot.id, session);
        match self.storage().put(&key, Arc::new(object), options) {
            // The name is random: one that is there already is this one, from a try that seemed to fail.
            Err(error) if error.kind == StorageErrorKind::AlreadyExists => {}
            result => result?,
        }
        self.confirm(&key, size)?;
        Ok(size)
    }

    /// Asks once for what makes a snapshot exist: with a storage that only says that it stores, no later check would miss anything.
    fn confirm(&self, key: &str, size: u64) -> Result<(), StorageError> {
        let lost = |what: &str| {
            let why = format!("the storage said that it is stored, and {what}; do not trust this storage");
            StorageError::new(StorageErrorKind::Other, "find", key, why)
        };
        match self.storage().stat(key) {
            Ok(found) if found.size_bytes == size => Ok(()),
            Ok(found) => Err(lost(&format!("has {} bytes of {size}", found.size_bytes))),
            Err(error) if error.kind == StorageErrorKind::NotFound => Err(lost("has it not")),
            Err(error) => Err(error),
        }
    }
}
