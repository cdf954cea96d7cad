//! A local copy of metadata that was read before, bounded and shared by all processes of the user.
//!
//! Each piece (a range of an object) is a file: the stored bytes, then a keyed BLAKE3 of name and bytes. The key is of the
//! repository, so a file that anyone else wrote is as if it were not there. It holds only what its reader has verified. Objects
//! never change under a name, so a piece never grows old. Deleting any of it costs time and no data; no failure of it is an error.

use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

/// Length of the keyed hash at the end of each file.
const TAG_BYTES: usize = 32;
/// A piece read again within this time is not marked as used again.
const MARK_EVERY: Duration = Duration::from_hours(1);
/// How full the cache is after it was tidied, in hundredths of its limit.
const TIDY_TO_PERCENT: u64 = 80;

/// The metadata of one repository.
#[derive(Debug)]
pub struct MetadataCache {
    folder: PathBuf,
    key: [u8; 32],
    limit_bytes: u64,
    /// Bytes on disk as far as known; `None` until first needed.
    used_bytes: Mutex<Option<u64>>,
}

impl MetadataCache {
    /// A cache in `folder`, of at most about `limit_bytes`. Nothing is read or made yet.
    pub fn new(folder: PathBuf, key: [u8; 32], limit_bytes: u64) -> Self {
        Self {
            folder,
            key,
            limit_bytes,
            used_bytes: Mutex::new(None),
        }
    }

    /// The bytes of a piece, if it is there and genuine.
    pub fn load(&self, key: &str, offset: u64, length: u64) -> Option<Vec<u8>> {
        let name = self.name(key, offset, length);
        let path = self.path(&name);
        let mut bytes = fs::read(&path).ok()?;
        let content = bytes.len().checked_sub(TAG_BYTES)?;
        let tag: [u8; TAG_BYTES] = bytes.get(content..)?.try_into().ok()?;
        bytes.truncate(content);
        if self.tag(&name, &bytes) != tag {
            tracing::debug!(file = %path.display(), "not a genuine piece of the cache");
            drop_file(&path);
            return None;
        }
        mark_used(&path);
        Some(bytes)
    }

    /// Whether a piece seems to be there; it may yet turn out not to be genuine, or go. It counts as used.
    pub fn has(&self, key: &str, offset: u64, length: u64) -> bool {
        let path = self.path(&self.name(key, offset, length));
        let is_there = fs::metadata(&path).is_ok_and(|file| file.len() == length + TAG_BYTES as u64);
        if is_there {
            mark_used(&path);
        }
        is_there
    }

    /// Keeps a piece whose content was verified.
    pub fn store(&self, key: &str, offset: u64, length: u64, bytes: &[u8]) {
        let name = self.name(key, offset, length);
        if let Err(error) = self.write(&name, bytes) {
            tracing::debug!(folder = %self.folder.display(), %error, "the cache cannot be written");
        }
    }

    /// Drops a piece.
    pub fn forget(&self, key: &str, offset: u64, length: u64) {
        drop_file(&self.path(&self.name(key, offset, length)));
    }

    fn name(&self, key: &str, offset: u64, length: u64) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&offset.to_le_bytes());
        hasher.update(&length.to_le_bytes());
        hasher.update(key.as_bytes());
        hasher.finalize()
    }

    fn tag(&self, name: &blake3::Hash, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(b"piece");
        hasher.update(name.as_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }

    fn path(&self, name: &blake3::Hash) -> PathBuf {
        let text = name.to_hex();
        let (folder, file) = text.split_at(2);
        self.folder.join(folder).join(file)
    }

    fn write(&self, name: &blake3::Hash, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(name);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.write_all(self.tag(name, bytes).as_bytes())?;
        file.persist(&path).map_err(|error| error.error)?;
        self.count((bytes.len() + TAG_BYTES) as u64);
        Ok(())
    }

    fn count(&self, more: u64) {
        let mut used = self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let total = used.map_or_else(
            || pieces(&self.folder).iter().map(|piece| piece.1).sum(),
            |used| used + more,
        );
        *used = Some(if total > self.limit_bytes {
            self.tidy()
        } else {
            total
        });
    }

    /// Removes what was not used for longest, and returns what is left.
    fn tidy(&self) -> u64 {
        let mut pieces = pieces(&self.folder);
        pieces.sort();
        let mut left: u64 = pieces.iter().map(|piece| piece.1).sum();
        for (_, size, path) in pieces {
            if left <= self.limit_bytes / 100 * TIDY_TO_PERCENT {
                break;
            }
            drop_file(&path);
            left = left.saturating_sub(size);
        }
        left
    }
}

fn drop_file(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(file = %path.display(), %error, "a file of the cache cannot be removed");
    }
}

/// Marks a piece as used now, by its time of change.
fn mark_used(path: &Path) {
    let now = SystemTime::now();
    let stale = |file: &File| {
        let changed = file.metadata().and_then(|metadata| metadata.modified()).ok()?;
        Some(now.duration_since(changed).ok()? > MARK_EVERY)
    };
    let marked = File::open(path).and_then(|file| {
        if stale(&file) == Some(true) {
            file.set_times(FileTimes::new().set_modified(now))?;
        }
        Ok(())
    });
    if let Err(error) = marked {
        tracing::trace!(file = %path.display(), %error, "the use of a piece was not noted");
    }
}

/// When each piece was last used, its size and its file.
fn pieces(folder: &Path) -> Vec<(SystemTime, u64, PathBuf)> {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    entries(folder)
        .flat_map(|below| entries(&below.path()))
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(folder: &Path, key: u8, limit_bytes: u64) -> MetadataCache {
        MetadataCache::new(folder.join("cache"), [key; 32], limit_bytes)
    }

    #[test]
    fn a_piece_comes_back_by_its_exact_name_and_only_with_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let ours = cache(folder.path(), 1, 1 << 20);
        ours.store("packs/ab/x", 10, 4, b"data");
        assert_eq!(ours.load("packs/ab/x", 10, 4).as_deref(), Some(&b"data"[..]));
        assert_eq!(ours.load("packs/ab/x", 10, 5), None);
        assert_eq!(ours.load("packs/ab/x", 11, 4), None);
        assert_eq!(ours.load("packs/ab/y", 10, 4), None);
        assert_eq!(cache(folder.path(), 2, 1 << 20).load("packs/ab/x", 10, 4), None);
        ours.forget("packs/ab/x", 10, 4);
        assert_eq!(ours.load("packs/ab/x", 10, 4), None);
    }

    #[test]
    fn every_changed_byte_and_every_cut_makes_a_piece_vanish() {
        let folder = tempfile::tempdir().unwrap();
        let ours = cache(folder.path(), 1, 1 << 20);
        let path = ours.path(&ours.name("k", 0, 5));
        for position in 0..5 + TAG_BYTES {
            ours.store("k", 0, 5, b"hello");
            let mut bytes = fs::read(&path).unwrap();
            bytes[position] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert_eq!(ours.load("k", 0, 5), None);
            assert!(!path.exists());
            fs::write(&path, &bytes[..position]).unwrap();
            assert_eq!(ours.load("k", 0, 5), None);
        }
    }

    #[test]
    fn a_piece_moved_to_another_name_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let ours = cache(folder.path(), 1, 1 << 20);
        ours.store("a", 0, 5, b"hello");
        ours.store("b", 0, 5, b"world");
        fs::copy(ours.path(&ours.name("a", 0, 5)), ours.path(&ours.name("b", 0, 5))).unwrap();
        assert_eq!(ours.load("b", 0, 5), None);
    }

    #[test]
    fn it_stays_below_its_limit_and_drops_what_was_not_used_for_longest() {
        let folder = tempfile::tempdir().unwrap();
        let ours = cache(folder.path(), 1, 10_000);
        let old = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(100_000));
        for number in 0..30_u64 {
            ours.store("k", number, 1000, &[7; 1000]);
            if number != 3 {
                let path = ours.path(&ours.name("k", number, 1000));
                File::open(path).and_then(|file| file.set_times(old)).unwrap();
            }
            let used: u64 = pieces(&ours.folder).iter().map(|piece| piece.1).sum();
            assert!(used <= 10_000 + 1032, "{used}");
        }
        assert!(
            ours.load("k", 3, 1000).is_some(),
            "the one that was used last stays"
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cache"), b"a file").unwrap();
        let ours = cache(folder.path(), 1, 1 << 20);
        ours.store("k", 0, 1, b"x");
        assert_eq!(ours.load("k", 0, 1), None);
    }
}
