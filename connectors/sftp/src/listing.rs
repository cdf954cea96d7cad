//! Listings in byte order of whole keys, from folders that are read ahead of the walk through them.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use plakar_plugin_api::{Error, ErrorKind, Host, ListPage, ObjectInfo, Result, check_key};
use tokio::task::JoinHandle;

use crate::place::{Place, parent};
use crate::protocol::{Kind, Name};
use crate::session::Session;

/// Folders read at the same time, ahead of the walk: every snapshot has one, and each takes two round trips.
const MAX_AHEAD: usize = 64;
/// A page that asks for few objects does not read far ahead: one folder for so many objects.
const OBJECTS_PER_FOLDER: usize = 32;
/// How long the rest of a listing is kept for the next page.
const KEPT_FOR: Duration = Duration::from_secs(10);

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

/// The rest of a listing whose last page was full. The next page goes on with it, so that no folder is read twice; what
/// others have stored meanwhile in folders that were read already is not seen, what this process has stored is.
pub(crate) struct Cut {
    prefix: String,
    last_key: String,
    levels: Vec<Level>,
    at: Instant,
    generation: u64,
}

/// A folder being walked: its entries in reverse order, so that the next one is the last.
struct Level {
    /// With a `/` at the end, except for the root's, which is empty.
    path: String,
    entries: Vec<Entry>,
}

/// A folder's name ends with `/`, which puts it where the keys below it belong: `a-b` before `a/b`.
struct Entry {
    name: String,
    what: What,
}

enum What {
    Object(u64),
    Folder(Option<Ahead>),
}

/// A folder that is read while the walk is elsewhere; given up when nobody wants it any more.
struct Ahead(JoinHandle<Result<Option<Vec<Found>>>>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An entry whose name may be part of a key.
struct Found {
    name: String,
    /// `None` for folders.
    size: Option<u64>,
}

/// Lists as [`Connector::list`](plakar_plugin_api::Connector::list) says.
pub(crate) async fn list(
    place: &Arc<Place>,
    prefix: &str,
    start_after: &str,
    limit: usize,
    host: &Host,
) -> Result<ListPage> {
    let wanted = Wanted { prefix, start_after };
    let generation = place.generation.load(Ordering::SeqCst);
    let mut levels = match resume(place, prefix, start_after, generation) {
        Some(levels) => levels,
        None => match begin(place, &wanted).await? {
            Some(level) => vec![level],
            None => return Ok(ListPage::default()),
        },
    };
    let ahead = (limit / OBJECTS_PER_FOLDER).clamp(1, MAX_AHEAD);
    let mut page = ListPage::default();
    while let Some(level) = levels.last_mut() {
        level.read_ahead(place, ahead);
        let Some(entry) = level.entries.pop() else {
            levels.pop();
            continue;
        };
        let key = format!("{}{}", level.path, entry.name);
        match entry.what {
            What::Object(_) if page.objects.len() >= limit => {
                level.entries.push(entry);
                page.more = true;
                keep(place, &wanted, &page, levels, generation);
                return Ok(page);
            }
            What::Object(size_bytes) => page.objects.push(ObjectInfo { key, size_bytes }),
            What::Folder(reading) => {
                let found = match reading {
                    Some(mut reading) => (&mut reading.0).await.map_err(|error| not_read(&key, &error))??,
                    None => read(place, key.trim_end_matches('/')).await?,
                };
                host.progress(0);
                // A folder that has gone since its name was read holds nothing.
                levels.extend(found.map(|found| Level::new(key, found, &wanted)));
            }
        }
    }
    Ok(page)
}

fn resume(place: &Place, prefix: &str, start_after: &str, generation: u64) -> Option<Vec<Level>> {
    let cut = place.cut.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let fits = cut.prefix == prefix && cut.last_key == start_after && !start_after.is_empty();
    (fits && cut.generation == generation && cut.at.elapsed() < KEPT_FOR).then_some(cut.levels)
}

fn keep(place: &Place, wanted: &Wanted<'_>, page: &ListPage, levels: Vec<Level>, generation: u64) {
    let Some(last) = page.objects.last() else { return };
    let cut = Cut {
        prefix: wanted.prefix.to_owned(),
        last_key: last.key.clone(),
        levels,
        at: Instant::now(),
        generation,
    };
    *place.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(cut);
}

/// The folder to begin with, the deepest that all wanted keys are in. `None` when it is missing.
async fn begin(place: &Arc<Place>, wanted: &Wanted<'_>) -> Result<Option<Level>> {
    let start = parent(wanted.prefix);
    if let Some(found) = read(place, start).await? {
        let path = if start.is_empty() {
            String::new()
        } else {
            format!("{start}/")
        };
        return Ok(Some(Level::new(path, found, wanted)));
    }
    let session = place.client.lease().await?;
    place.check_root(&session).await.map(|()| None)
}

impl Level {
    fn new(path: String, found: Vec<Found>, wanted: &Wanted<'_>) -> Self {
        let mut key = path.clone();
        let mut entries = Vec::with_capacity(found.len());
        for Found { mut name, size } in found {
            key.truncate(path.len());
            key.push_str(&name);
            match size {
                Some(size) if wanted.file(&key) => entries.push(Entry {
                    name,
                    what: What::Object(size),
                }),
                Some(_) => {}
                None => {
                    key.push('/');
                    if wanted.folder(&key) {
                        name.push('/');
                        entries.push(Entry {
                            name,
                            what: What::Folder(None),
                        });
                    }
                }
            }
        }
        entries.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        Self { path, entries }
    }

    /// Starts to read the next folders.
    fn read_ahead(&mut self, place: &Arc<Place>, ahead: usize) {
        for entry in self.entries.iter_mut().rev().take(ahead) {
            if let What::Folder(reading @ None) = &mut entry.what {
                let (place, folder) = (Arc::clone(place), format!("{}{}", self.path, entry.name));
                let read = async move { read(&place, folder.trim_end_matches('/')).await };
                *reading = Some(Ahead(tokio::spawn(read)));
            }
        }
    }
}

/// A listing without this folder would be wrong.
fn not_read(folder: &str, error: &tokio::task::JoinError) -> Error {
    Error::new(
        ErrorKind::Other,
        format!("cannot list {folder}: the task that reads it failed: {error}"),
    )
}

/// What may be part of keys in a folder; `None` when it is missing or no folder.
async fn read(place: &Arc<Place>, folder: &str) -> Result<Option<Vec<Found>>> {
    let session = place.client.lease().await?;
    let path = place.path(folder);
    let entries = match session.read_folder(&path).await {
        Ok(entries) => entries,
        Err(fault) if fault.is_missing() => return Ok(None),
        Err(fault) => {
            // Some servers give no reason when the folder is an object.
            return match session.stat_link(&path).await {
                Ok(found) if !folder.is_empty() && found.kind() == Kind::File => Ok(None),
                _ => Err(fault.about("list", &path)),
            };
        }
    };
    place.saw(folder, &entries);
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        found.extend(examine(&session, &path, entry).await?);
    }
    Ok(Some(found))
}

/// Names that are no key's component are not ours: `.`, `..`, temporary files, what others have put here.
async fn examine(session: &Session, folder: &str, entry: Name) -> Result<Option<Found>> {
    let Some(name) = std::str::from_utf8(&entry.name)
        .ok()
        .filter(|name| !name.contains('/') && check_key(name).is_ok())
    else {
        return Ok(None);
    };
    let mut attributes = entry.attributes;
    if attributes.kind() == Kind::Unknown || (attributes.kind() == Kind::File && attributes.size.is_none()) {
        let path = format!("{folder}/{name}");
        attributes = match session.stat_link(&path).await {
            Ok(attributes) => attributes,
            Err(fault) if fault.is_missing() => return Ok(None),
            Err(fault) => return Err(fault.about("look at", &path)),
        };
    }
    Ok(match attributes.kind() {
        Kind::File => Some(Found {
            name: name.to_owned(),
            size: attributes.size.or(Some(0)),
        }),
        Kind::Folder => Some(Found {
            name: name.to_owned(),
            size: None,
        }),
        _ => None,
    })
}
