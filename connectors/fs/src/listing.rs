//! Listings in byte order of whole keys, from folders that hold names only; one folder per level in memory.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use plakar_plugin_api::{ListPage, ObjectInfo, Result, check_key};
use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use crate::client::{Root, kind_of, open_below};
use crate::error::os_error;

/// What is asked for.
struct Wanted<'a> {
    prefix: &'a str,
    start_after: &'a str,
}

impl Wanted<'_> {
    fn file(&self, key: &str) -> bool {
        key.starts_with(self.prefix) && key > self.start_after
    }

    /// Whether a folder (its path ends with `/`) may hold anything of interest.
    fn folder(&self, path: &str) -> bool {
        let matches = path.starts_with(self.prefix) || self.prefix.starts_with(path);
        let all_before = self.start_after > path && !self.start_after.starts_with(path);
        matches && !all_before
    }
}

/// A folder being walked: its entries in reverse order, so that the next one is the last.
struct Level {
    folder: Arc<OwnedFd>,
    /// With a `/` at the end, except for the root's, which is empty.
    path: String,
    entries: Vec<Entry>,
}

/// An entry's name; a folder's ends with `/`, which puts it where the keys below it belong: `a-b` before `a/b`.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry(String);

/// Lists as [`Connector::list`](plakar_plugin_api::Connector::list) says.
pub(crate) fn list(root: &Root, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
    let wanted = Wanted { prefix, start_after };
    let start = prefix.rsplit_once('/').map_or("", |(folders, _)| folders);
    let Some(folder) = root.open_folder(start)? else {
        return Ok(ListPage::default());
    };
    let path = if start.is_empty() {
        String::new()
    } else {
        format!("{start}/")
    };
    let mut levels = vec![read_level(root, folder, path, &wanted)?];
    let mut page = ListPage::default();
    while let Some(level) = levels.last_mut() {
        let Some(Entry(name)) = level.entries.pop() else {
            levels.pop();
            continue;
        };
        if let Some(folder_name) = name.strip_suffix('/') {
            let path = format!("{}{name}", level.path);
            match open_below(&level.folder, folder_name) {
                Ok(folder) => levels.push(read_level(root, Arc::new(folder), path, &wanted)?),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {} // gone or changed since it was read
                Err(errno) => return Err(os_error("open", &root.display(&path), errno)),
            }
            continue;
        }
        let key = format!("{}{name}", level.path);
        match kind_of(&level.folder, &name) {
            Ok((FileType::RegularFile, _)) if page.objects.len() == limit => {
                page.more = true;
                return Ok(page);
            }
            Ok((FileType::RegularFile, size_bytes)) => page.objects.push(ObjectInfo { key, size_bytes }),
            Ok(_) | Err(Errno::NOENT) => {} // no object, or deleted since the folder was read
            Err(errno) => return Err(os_error("stat", &root.display(&key), errno)),
        }
    }
    Ok(page)
}

fn read_level(root: &Root, folder: Arc<OwnedFd>, path: String, wanted: &Wanted<'_>) -> Result<Level> {
    let entries = read_entries(&folder, &path, wanted);
    let mut entries = entries.map_err(|errno| os_error("list", &root.display(&path), errno))?;
    entries.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Level {
        folder,
        path,
        entries,
    })
}

fn read_entries(folder: &OwnedFd, path: &str, wanted: &Wanted<'_>) -> rustix::io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut key = path.to_owned();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        // Names that are no key's component are not ours: `.`, `..`, temporary files, what others have put here.
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if check_key(name).is_err() {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match kind_of(folder, name) {
                Ok((kind, _)) => kind,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            },
            kind => kind,
        };
        key.truncate(path.len());
        key.push_str(name);
        match kind {
            FileType::RegularFile if wanted.file(&key) => entries.push(Entry(name.to_owned())),
            FileType::Directory => {
                key.push('/');
                if wanted.folder(&key) {
                    entries.push(Entry(format!("{name}/")));
                }
            }
            _ => {}
        }
    }
    Ok(entries)
}
