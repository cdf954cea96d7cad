//! A storage in memory: for tests and for embedding, never for keeping data.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{
    Capabilities, ListPage, ObjectInfo, PutMode, PutOptions, Space, Storage, StorageError, StorageErrorKind,
};

/// Objects in a sorted map behind a lock.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    objects: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    preferred_pack_bytes: Option<u64>,
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty storage that asks for packs of another size than 32 MiB.
    pub fn with_pack_bytes(preferred_pack_bytes: u64) -> Self {
        Self {
            objects: Mutex::default(),
            preferred_pack_bytes: Some(preferred_pack_bytes),
        }
    }

    fn objects(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Vec<u8>>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, operation: &'static str, key: &str) -> Result<Arc<Vec<u8>>, StorageError> {
        self.objects()
            .get(key)
            .cloned()
            .ok_or_else(|| StorageError::new(StorageErrorKind::NotFound, operation, key, "no such object"))
    }
}

impl Storage for MemoryStorage {
    fn location(&self) -> &'static str {
        "memory:"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            atomic_put: true,
            durable_put: false,
            strongly_consistent: true,
            exclusive_create: true,
            max_object_bytes: u64::MAX,
            preferred_pack_bytes: self.preferred_pack_bytes.unwrap_or(32 << 20),
            concurrency: 4,
        }
    }

    fn init(&self) -> Result<(), StorageError> {
        if self.objects().is_empty() {
            Ok(())
        } else {
            Err(StorageError::new(
                StorageErrorKind::AlreadyExists,
                "initialise",
                self.location(),
                "it is not empty",
            ))
        }
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage, StorageError> {
        let objects = self.objects();
        let mut matching = objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|(key, _)| key.as_str() > start_after);
        let page = matching
            .by_ref()
            .take(limit)
            .map(|(key, bytes)| ObjectInfo {
                key: key.clone(),
                size_bytes: bytes.len() as u64,
            })
            .collect();
        Ok(ListPage {
            objects: page,
            more: matching.next().is_some(),
        })
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        let bytes = self.object("stat", key)?;
        Ok(ObjectInfo {
            key: key.to_owned(),
            size_bytes: bytes.len() as u64,
        })
    }

    fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StorageError> {
        let bytes = self.object("read", key)?;
        let start = usize::try_from(offset).map_or(bytes.len(), |start| start.min(bytes.len()));
        let length = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .min(bytes.len() - start);
        Ok(bytes.iter().skip(start).take(length).copied().collect())
    }

    fn put(&self, key: &str, bytes: Arc<Vec<u8>>, options: PutOptions) -> Result<(), StorageError> {
        let mut objects = self.objects();
        if options.mode == PutMode::Create && objects.contains_key(key) {
            return Err(StorageError::new(
                StorageErrorKind::AlreadyExists,
                "write",
                key,
                "the object exists",
            ));
        }
        objects.insert(key.to_owned(), bytes);
        Ok(())
    }

    fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.objects().remove(key);
        Ok(())
    }

    fn space(&self) -> Result<Option<Space>, StorageError> {
        Ok(None)
    }
}
