//! Reading metadata through the local copies: only what was verified is kept, and what is kept and wrong is read again.

use crate::index::Loading;
use crate::read_error::ReadError;
use crate::storage::cache::MetadataCache;

use super::Repository;

impl Repository {
    /// The same repository, read from the storage alone: what is in doubt is what is stored, not what is kept here.
    pub(crate) fn without_cache(&self) -> Self {
        Self {
            inner: std::sync::Arc::clone(&self.inner),
            cached: false,
        }
    }

    /// The local copies of metadata, where there are any and this handle may use them: of a storage that is far away.
    pub(crate) fn cache(&self) -> Option<&MetadataCache> {
        let usable = self.cached && self.inner.far;
        self.inner.cache.as_deref().filter(|_| usable)
    }

    /// Where segments of the index are loaded from.
    pub(super) fn loading(&self) -> Loading<'_> {
        Loading {
            storage: self.storage(),
            keys: self.keys(),
            cache: self.inner.cache.as_ref().filter(|_| self.cached),
            far: self.inner.far,
        }
    }

    /// How many small reads are worth doing at a time: each waits for the storage.
    pub(crate) fn threads_for_small_reads(&self) -> usize {
        if self.reads_ahead() {
            self.storage().capabilities().concurrency as usize
        } else {
            1
        }
    }

    /// Whether reads are to be made ahead and in parallel.
    pub(crate) fn reads_ahead(&self) -> bool {
        self.inner.far
    }

    /// Reads a range of an object that must be there, and has `open` verify it and make something of it.
    pub(crate) fn read_metadata<T>(
        &self,
        key: &str,
        offset: u64,
        length: u64,
        open: &mut dyn FnMut(Vec<u8>) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let cache = self.cache();
        if let Some(bytes) = cache.and_then(|cache| cache.load(key, offset, length)) {
            match open(bytes) {
                Err(error) if error.is_damage() => {
                    tracing::debug!(key, %error, "a local copy was of no use");
                    cache.inspect(|cache| cache.forget(key, offset, length));
                }
                result => return result,
            }
        }
        let bytes = self
            .storage()
            .get(key, offset, length)
            .map_err(|error| ReadError::required(key, error))?;
        let copy = cache.map(|cache| (cache, bytes.clone()));
        let made = open(bytes)?;
        if let Some((cache, bytes)) = copy {
            cache.store(key, offset, length, &bytes);
        }
        Ok(made)
    }
}
