//! The folder of a location on its server: keys to paths, folders made, failures looked into.
//!
//! It does not know modes of put or what a listing is.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plakar_plugin_api::{Error, ErrorKind, Host, Level, Result};

use crate::client::Client;
use crate::error::{Fault, wrong_kind};
use crate::listing::Cut;
use crate::protocol::{Attributes, Kind, Name};
use crate::remote::Opened;
use crate::session::Session;

/// Every temporary file's name starts so; no key's component does (see `check_key`).
pub(crate) const TEMPORARY_PREFIX: &str = ".tmp-";
/// A temporary file that was not written to for so long belongs to nobody any more.
const ABANDONED_SECONDS: u32 = 24 * 60 * 60;
/// Less space than this is none.
const NO_SPACE_BYTES: u64 = 1 << 20;
/// Nor is less than a failed write has bytes, times as many as are written at once.
const FULL_FOR: u64 = 16;
/// Temporary files of broken connections that are remembered.
const MAX_ORPHANS: usize = 1000;

/// The root folder and what is remembered of it.
pub(crate) struct Place {
    pub(crate) client: Client,
    pub(crate) host: Host,
    /// Without a `/` at its end, so that of a whole server is empty.
    root: String,
    /// Temporary files seen in folders that were read, with their times; a folder that was not is absent.
    temporaries: Mutex<HashMap<String, Vec<(String, u32)>>>,
    /// Folders that were tidied.
    tidied: Mutex<HashSet<String>>,
    /// Folders whose entries in all parents were synced.
    durable: Mutex<HashSet<String>>,
    /// Cleared when the server turned out not to sync folders.
    syncs_folders: AtomicBool,
    /// Set once it did.
    synced_a_folder: AtomicBool,
    /// Our own files that could not be removed because their connection broke.
    orphans: Mutex<Vec<String>>,
    /// Where the last page of a listing ended.
    pub(crate) cut: Mutex<Option<Cut>>,
    /// Changes whenever this process changes what is listed.
    pub(crate) generation: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    pub(crate) fn new(client: Client, host: Host, root: String) -> Self {
        Self {
            client,
            host,
            root,
            temporaries: Mutex::default(),
            tidied: Mutex::default(),
            durable: Mutex::default(),
            syncs_folders: AtomicBool::new(true),
            synced_a_folder: AtomicBool::new(false),
            orphans: Mutex::default(),
            cut: Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// The path of the root folder itself.
    pub(crate) fn root(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    /// The path of a key, or of a folder of keys.
    pub(crate) fn path(&self, key: &str) -> String {
        if key.is_empty() {
            self.root().to_owned()
        } else {
            format!("{}/{key}", self.root)
        }
    }

    /// Says that what is listed changes.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The root must be a folder: a missing one is `NotFound`, anything else `Config`.
    pub(crate) async fn check_root(&self, session: &Session) -> Result<()> {
        match session.stat(self.root()).await {
            Ok(found) if matches!(found.kind(), Kind::Folder | Kind::Unknown) => Ok(()),
            Ok(_) => Err(wrong_kind(ErrorKind::Config, self.root(), "is not a folder")),
            Err(fault) => Err(fault.about("open", self.root())),
        }
    }

    /// Makes a folder below the root with its parents. The root itself must be there.
    pub(crate) async fn make_folders(&self, session: &Session, folder: &str) -> Result<()> {
        let mut missing = vec![folder];
        // Down to what is there and up again; where nothing can be made, servers may say that something is missing each time.
        let mut steps = 2 * folder.split('/').count();
        while let Some(&next) = missing.last() {
            let path = self.path(next);
            match session.make_folder(&path).await {
                Ok(()) => missing.truncate(missing.len() - 1),
                Err(fault) if fault.is_missing() && steps > 0 => {
                    steps -= 1;
                    let above = parent(next);
                    if above.is_empty() {
                        return Err(fault.about("create the folder", &path));
                    }
                    missing.push(above);
                }
                // There is no word for "exists" in this version of the protocol.
                Err(fault) => match session.stat(&path).await {
                    Ok(found) if found.kind() == Kind::Folder => missing.truncate(missing.len() - 1),
                    _ => return Err(self.explain(session, &fault, "create the folder", &path).await),
                },
            }
        }
        Ok(())
    }

    /// The error for a failed change. Servers say "failure" when a disk is full or read-only: this looks closer.
    pub(crate) async fn explain(&self, session: &Session, fault: &Fault, doing: &str, path: &str) -> Error {
        self.explain_write(session, fault, doing, path, 0).await
    }

    /// The same for so many bytes: others that failed with us may have made room by now, but less than they and we need.
    pub(crate) async fn explain_write(
        &self,
        session: &Session,
        fault: &Fault,
        doing: &str,
        path: &str,
        bytes: u64,
    ) -> Error {
        let error = fault.about(doing, path);
        if !fault.is_vague() {
            return error;
        }
        let Ok(Some(found)) = session.file_system(self.root()).await else {
            return error;
        };
        let (kind, why) = if found.read_only {
            (ErrorKind::Permission, "the file system is read-only")
        } else if found.space.available_bytes < bytes.saturating_mul(FULL_FOR).max(NO_SPACE_BYTES) {
            (ErrorKind::NoSpace, "the file system is full")
        } else if found.inodes > 0 && found.free_inodes == 0 {
            (ErrorKind::NoSpace, "the file system has no room for more files")
        } else {
            return error;
        };
        Error::new(kind, format!("cannot {doing} {path}: {why}"))
    }

    /// Waits until a folder's entries would survive a loss of power, where the server can do that. Nothing in the protocol
    /// does it, but servers on Unix open folders as they do files.
    pub(crate) async fn sync_folder(&self, session: &Session, path: &str) -> Result<()> {
        let folders = vec![path.to_owned()];
        let opened = self.open_to_sync(session, &folders).await;
        self.sync_opened(session, &folders, opened).await
    }

    /// The paths of the folders that must be synced so that a new name in `folder` (of keys) survives a loss of power: that folder, and
    /// once per folder and process those above it.
    pub(crate) fn folders_to_sync(&self, folder: &str) -> Vec<String> {
        let durable = lock(&self.durable);
        let mut folders = vec![self.path(folder)];
        let mut above = folder;
        while !above.is_empty() && !durable.contains(above) {
            above = parent(above);
            folders.push(self.path(above));
        }
        folders
    }

    /// Notes that these need not be synced for others again.
    pub(crate) fn are_durable(&self, folder: &str) {
        let mut durable = lock(&self.durable);
        let mut above = folder;
        while !above.is_empty() && durable.insert(above.to_owned()) {
            above = parent(above);
        }
    }

    /// The first half of a sync, which may go on while something is named: opens folders, all at once.
    pub(crate) async fn open_to_sync<'s>(
        &self,
        session: &'s Session,
        folders: &[String],
    ) -> Vec<std::result::Result<Opened<'s>, Fault>> {
        if !session.abilities.fsync || !self.syncs_folders.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut opening = Vec::with_capacity(folders.len());
        for path in folders {
            opening.push(session.begin_to_open(path).await);
        }
        let mut opened = Vec::with_capacity(folders.len());
        for opening in opening {
            opened.push(match opening {
                Ok(pending) => session.opened(pending).await,
                Err(fault) => Err(fault),
            });
        }
        opened
    }

    /// The second half: syncs the folders that were opened, all at once.
    pub(crate) async fn sync_opened(
        &self,
        session: &Session,
        folders: &[String],
        opened: Vec<std::result::Result<Opened<'_>, Fault>>,
    ) -> Result<()> {
        let mut syncing = Vec::with_capacity(folders.len());
        for folder in &opened {
            syncing.push(match folder {
                Ok(folder) => Some(session.begin_to_sync(&folder.handle).await),
                Err(_) => None,
            });
        }
        for ((path, opened), syncing) in folders.iter().zip(opened).zip(syncing) {
            let synced = match (opened, syncing) {
                (Err(fault), _) | (Ok(_), Some(Err(fault))) => Err(fault),
                (Ok(_), Some(Ok(pending))) => pending.done().await,
                (Ok(_), None) => Ok(()),
            };
            match synced {
                Ok(()) => self.synced_a_folder.store(true, Ordering::Relaxed),
                Err(fault) if shows_inability(&fault, self.synced_a_folder.load(Ordering::Relaxed)) => {
                    self.syncs_folders.store(false, Ordering::Relaxed);
                    self.host
                        .log(Level::Debug, "sftp", "the server does not sync folders");
                }
                Err(fault) => return Err(fault.about("sync the folder", path)),
            }
        }
        Ok(())
    }

    /// Creates a file that must not exist, in a folder (of keys) that may be missing, as may those above: what is not known to be
    /// there is made meanwhile.
    pub(crate) async fn create_in<'s>(
        &self,
        session: &'s Session,
        folder: &str,
        path: &str,
    ) -> std::result::Result<Opened<'s>, Fault> {
        // Servers do what they are asked in its order. Where this one does not, the file's failure tells.
        let mut made = Vec::new();
        for folder in self.unknown_folders(folder) {
            made.push(session.begin_to_make_folder(&folder).await?);
        }
        session.create(path).await
    }

    /// The paths of a folder (of keys) and of those above it, from the uppermost on, that were not synced for good by this process.
    fn unknown_folders(&self, folder: &str) -> Vec<String> {
        let durable = lock(&self.durable);
        let mut unknown = Vec::new();
        let mut above = folder;
        while !above.is_empty() && !durable.contains(above) {
            unknown.push(self.path(above));
            above = parent(above);
        }
        unknown.reverse();
        unknown
    }

    /// Remembers what was seen of temporary files when a folder (of keys) was read.
    pub(crate) fn saw(&self, folder: &str, entries: &[Name]) {
        let temporaries = entries.iter().filter_map(|entry| {
            let name = std::str::from_utf8(&entry.name).ok()?;
            let ours = name.starts_with(TEMPORARY_PREFIX) && !name.contains('/');
            Some((name.to_owned(), entry.attributes.modified?)).filter(|_| ours)
        });
        lock(&self.temporaries).insert(folder.to_owned(), temporaries.collect());
    }

    /// Removes temporary files that a killed process left in a folder more than a day before `now`, by the server's clock. Each
    /// folder is looked through once, by whoever writes into it. What cannot be removed stays; it hurts nobody.
    pub(crate) fn tidy(self: &Arc<Self>, folder: &str, now: &Attributes) {
        let Some(now) = now
            .modified
            .filter(|_| lock(&self.tidied).insert(folder.to_owned()))
        else {
            return;
        };
        let (place, folder) = (Arc::clone(self), folder.to_owned());
        tokio::spawn(async move {
            let Ok(session) = place.client.lease().await else {
                return;
            };
            if !lock(&place.temporaries).contains_key(&folder)
                && let Ok(entries) = session.read_folder(&place.path(&folder)).await
            {
                place.saw(&folder, &entries);
            }
            let seen = lock(&place.temporaries).remove(&folder).unwrap_or_default();
            for (name, modified) in seen {
                if modified.saturating_add(ABANDONED_SECONDS) < now {
                    let path = format!("{}/{name}", place.path(&folder));
                    let _stays = session.remove(&path).await.is_err();
                }
            }
        });
    }

    /// Removes what broken connections left of our own.
    pub(crate) fn remove_orphans(&self, session: &Session) {
        for path in std::mem::take(&mut *lock(&self.orphans)) {
            session.send_unheard(crate::protocol::Request::Remove { path: &path });
        }
    }

    fn orphan(&self, path: &str) {
        let mut orphans = lock(&self.orphans);
        if orphans.len() < MAX_ORPHANS {
            orphans.push(path.to_owned());
        }
    }
}

/// The folder that a key, a folder of keys or a path is in; empty when it names none.
pub(crate) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(above, _)| above)
}

/// Whether a folder was not synced because the server cannot do that. From one that could before it is a failure: what was
/// stored may be lost.
fn shows_inability(fault: &Fault, could_before: bool) -> bool {
    matches!(fault, Fault::Refused(_)) && !could_before
}

/// The name of a file that is being written. The file is removed when this is dropped, unless it is `kept`.
pub(crate) struct Temporary<'p> {
    place: &'p Place,
    session: &'p Session,
    pub(crate) path: String,
    pub(crate) kept: bool,
}

impl<'p> Temporary<'p> {
    pub(crate) fn in_folder(place: &'p Place, session: &'p Session, folder: &str) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| {
            Error::new(
                ErrorKind::Other,
                format!("the system has no random numbers: {error}"),
            )
        })?;
        let random = u64::from_le_bytes(random);
        let path = format!("{}/{TEMPORARY_PREFIX}{random:016x}", place.path(folder));
        Ok(Self {
            place,
            session,
            path,
            kept: false,
        })
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if self.session.is_over() {
            self.place.orphan(&self.path);
        } else {
            self.session
                .send_unheard(crate::protocol::Request::Remove { path: &self.path });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Status, status};

    #[test]
    fn a_folder_that_is_not_synced_is_a_failure_where_others_were() {
        let refused = Fault::Refused(Status {
            code: status::FAILURE,
            message: String::new(),
        });
        assert!(shows_inability(&refused, false));
        assert!(!shows_inability(&refused, true));
        assert!(!shows_inability(&Fault::Lost(String::new()), false));
    }
}
