//! How much there is to back up: a second walk beside the first, so that a first backup can tell how long it will take.
//! It opens no file, and what it finds is only shown.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plakar_core::backup::{BackupOptions, FilterItem, Source};

type Filter = dyn Fn(&FilterItem<'_>) -> bool + Send + Sync;

/// What will be walked.
pub(crate) struct Estimate {
    roots: Vec<PathBuf>,
    filter: Option<Arc<Filter>>,
    one_file_system: bool,
    exclude_caches: bool,
    /// Device and inode of the repository's own folder.
    repository: Option<(u64, u64)>,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Estimate {
    /// Of the same sources as the backup.
    pub(crate) fn new(options: &BackupOptions) -> Self {
        let paths = options.sources.iter().filter_map(|source| match source {
            Source::Path(path) => Some(path.clone()),
            Source::Stream { .. } => None,
        });
        let mut roots: Vec<PathBuf> = paths.collect();
        // Sorted, what lies below another root follows it.
        roots.sort();
        roots.dedup_by(|below, root| below.starts_with(&*root));
        let repository = options.repository_path.as_ref();
        Self {
            roots,
            filter: options.filter.clone(),
            one_file_system: options.one_file_system,
            exclude_caches: options.exclude_caches,
            repository: repository
                .and_then(|path| fs::metadata(path).ok())
                .map(|found| (found.dev(), found.ino())),
        }
    }

    /// Walks everything, unless it is told to stop. What cannot be read counts for nothing.
    pub(crate) fn walk(&self, stopped: impl Fn() -> bool) -> Option<Amount> {
        let mut amount = Amount::default();
        for root in &self.roots {
            let Ok(metadata) = fs::symlink_metadata(root) else {
                continue;
            };
            let mut open = Vec::new();
            self.count(root, &metadata, metadata.dev(), &mut amount, &mut open);
            while let Some(folder) = open.pop() {
                if stopped() {
                    return None;
                }
                let Ok(entries) = fs::read_dir(&folder) else {
                    continue;
                };
                for entry in entries.flatten() {
                    let (path, Ok(found)) = (entry.path(), entry.metadata()) else {
                        continue;
                    };
                    if !self.leaves_out(root, &path, found.is_dir()) {
                        self.count(&path, &found, metadata.dev(), &mut amount, &mut open);
                    }
                }
            }
        }
        Some(amount)
    }

    fn leaves_out(&self, root: &Path, path: &Path, directory: bool) -> bool {
        let (Some(filter), Ok(relative)) = (&self.filter, path.strip_prefix(root)) else {
            return false;
        };
        filter(&FilterItem {
            root,
            relative,
            directory,
        })
    }

    fn count(
        &self,
        path: &Path,
        found: &Metadata,
        device: u64,
        amount: &mut Amount,
        open: &mut Vec<PathBuf>,
    ) {
        if self.repository == Some((found.dev(), found.ino())) {
            return;
        }
        amount.entries += 1;
        if found.is_file() {
            amount.bytes += found.len();
        }
        let stays_out = (self.one_file_system && found.dev() != device)
            || (self.exclude_caches && path.join("CACHEDIR.TAG").exists());
        if found.is_dir() && !stays_out {
            open.push(path.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_be_saved_is_counted_once_and_what_is_left_out_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("it is there");
        for (name, bytes) in [
            ("a/one", 10),
            ("a/b/two", 200),
            ("a/skipped/three", 4000),
            ("repository/x", 9),
        ] {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("it has one")).expect("made");
            fs::write(path, vec![0; bytes]).expect("written");
        }
        let options = BackupOptions {
            sources: [root.join("a/b"), root.clone()].map(Source::Path).into(),
            filter: Some(Arc::new(|item: &FilterItem<'_>| {
                item.relative.ends_with("skipped")
            })),
            repository_path: Some(root.join("repository")),
            ..BackupOptions::default()
        };
        let estimate = Estimate::new(&options);
        let expected = Amount {
            entries: 5,
            bytes: 210,
        };
        assert_eq!(estimate.walk(|| false), Some(expected));
        assert_eq!(estimate.walk(|| true), None);
    }
}
