//! The connector: its promises, and how each is kept with requests to a server.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use plakar_plugin_api::{
    Capabilities, Connector, Error, ErrorKind, Host, ListPage, ObjectInfo, PutOptions, Result, Settings,
    Space, check_key, check_prefix,
};
use tokio::runtime::Runtime;

use crate::client::Client;
use crate::config::{Folder, Location, Options, Surroundings};
use crate::connect::Dialer;
use crate::error::{Fault, cancelled, wrong_kind};
use crate::place::{Place, TEMPORARY_PREFIX, parent};
use crate::protocol::Kind;
use crate::put::{self, not_an_object};
use crate::route::Hop;
use crate::session::{Abilities, Session};
use crate::{listing, transfer};

/// How often a call that waits looks whether the host wants it to end.
const TICK: Duration = Duration::from_millis(50);
const RUNTIME_THREADS: usize = 2;
/// More calls than connections keep each connection busy while answers are on their way.
const CALLS_PER_CONNECTION: usize = 4;
const MAX_CALLS: usize = 16;

/// Objects as files below a folder of an SFTP server.
pub struct SftpConnector {
    place: Arc<Place>,
    /// What the server could do when it was first asked.
    abilities: Abilities,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for SftpConnector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SftpConnector")
            .field("root", &self.place.root())
            .finish_non_exhaustive()
    }
}

impl Drop for SftpConnector {
    fn drop(&mut self) {
        // Not waiting: a name that is being looked up may take long.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl SftpConnector {
    /// Runs a call to its end, or to when the host wants it to end.
    fn call<T>(&self, work: impl AsyncFnOnce(&Arc<Place>, Host) -> Result<T>) -> Result<T> {
        let host = self.place.host.for_this_call();
        let runtime = self.runtime.as_ref().expect("it is taken only by drop");
        runtime.block_on(until_cancelled(&host, work(&self.place, host.clone())))
    }

    fn promises(&self, abilities: Abilities) -> Capabilities {
        let calls = (CALLS_PER_CONNECTION * self.place.client.connections()).min(MAX_CALLS);
        Capabilities {
            atomic_put: true,
            durable_put: abilities.fsync,
            strongly_consistent: true,
            exclusive_create: abilities.hard_link,
            max_object_bytes: i64::MAX as u64,
            preferred_pack_bytes: 16 << 20,
            concurrency: u32::try_from(calls).unwrap_or(1),
        }
    }
}

async fn until_cancelled<T>(host: &Host, work: impl Future<Output = Result<T>>) -> Result<T> {
    if host.cancelled() {
        return Err(cancelled());
    }
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(TICK, work.as_mut()).await {
            Ok(outcome) => return outcome,
            Err(_elapsed) if host.cancelled() => return Err(cancelled()),
            Err(_elapsed) => {}
        }
    }
}

impl Connector for SftpConnector {
    fn open(location: &str, settings: &Settings, host: Host) -> Result<Self> {
        let location = Location::parse(location)?;
        let surroundings = Surroundings::of_this_process();
        let options = Options::read(settings, &surroundings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(RUNTIME_THREADS)
            .thread_name("connector-sftp")
            .enable_all()
            .build()
            .map_err(|error| Error::io("cannot start threads", &error))?;
        let Location {
            user,
            host: name,
            port,
            folder,
        } = location;
        let target = Hop {
            user,
            host: name,
            port,
        };
        let client = Client::new(Dialer {
            target,
            options,
            surroundings,
            host: host.clone(),
            reached: AtomicBool::new(false),
        });
        let opening = async {
            let session = client.lease().await?;
            let root = match folder {
                Folder::Absolute(path) => path,
                Folder::BelowLogin(path) => {
                    let login = session
                        .real_path(".")
                        .await
                        .map_err(|fault| fault.about("find", "the login folder"))?;
                    let login = login.trim_end_matches('/');
                    if path.is_empty() {
                        login.to_owned()
                    } else {
                        format!("{login}/{path}")
                    }
                }
            };
            Ok((session.abilities, root))
        };
        let (abilities, root) = runtime.block_on(until_cancelled(&host, opening))?;
        let place = Arc::new(Place::new(client, host, root));
        Ok(Self {
            place,
            abilities,
            runtime: Some(runtime),
        })
    }

    fn capabilities(&self) -> Capabilities {
        self.promises(self.abilities)
    }

    fn probe(&self) -> Result<Capabilities> {
        self.call(async |place, _host| {
            let session = place.client.lease().await?;
            place.check_root(&session).await?;
            session
                .read_folder(place.root())
                .await
                .map_err(|fault| fault.about("list", place.root()))?;
            Ok(self.promises(session.abilities))
        })
    }

    fn init(&self) -> Result<()> {
        self.call(async |place, _host| {
            let session = place.client.lease().await?;
            create_root(place, &session, place.root()).await?;
            place.check_root(&session).await?;
            check_vacancy(place, &session).await?;
            place.sync_folder(&session, place.root()).await
        })
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        check_prefix(prefix)?;
        self.call(async |place, host| listing::list(place, prefix, start_after, limit, &host).await)
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        check_key(key)?;
        self.call(async |place, _host| {
            let session = place.client.lease().await?;
            let path = place.path(key);
            let found = session
                .stat_link(&path)
                .await
                .map_err(|fault| fault.about("read", &path))?;
            match (found.kind(), found.size) {
                (Kind::File | Kind::Unknown, Some(size_bytes)) => Ok(ObjectInfo {
                    key: key.to_owned(),
                    size_bytes,
                }),
                (kind, _) => Err(not_an_object(&path, kind)),
            }
        })
    }

    fn get_into(&self, key: &str, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        check_key(key)?;
        self.call(async |place, host| {
            let session = place.client.lease_for(buffer.len()).await?;
            let path = place.path(key);
            let file = session
                .open_to_read(&path)
                .await
                .map_err(|fault| fault.about("read", &path))?;
            let moved = |bytes| host.progress(bytes);
            match transfer::read_into(&session, &file.handle, offset, buffer, moved).await {
                Ok(filled) => Ok(filled),
                Err(fault) => Err(unreadable(&session, &fault, &path).await),
            }
        })
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        check_key(key)?;
        self.call(async |place, host| put::put(place, key, bytes, options, &host).await)
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.call(async |place, _host| {
            let session = place.client.lease().await?;
            let path = place.path(key);
            place.changed();
            let removed = session.remove(&path).await;
            place.changed();
            match removed {
                Ok(()) => Ok(()),
                Err(fault) if fault.is_missing() => Ok(()),
                Err(fault) => Err(place.explain(&session, &fault, "delete", &path).await),
            }
        })
    }

    fn space(&self) -> Result<Option<Space>> {
        self.call(async |place, _host| {
            let session = place.client.lease().await?;
            match session.file_system(place.root()).await {
                Ok(found) => Ok(found.map(|found| found.space)),
                Err(fault) if fault.is_unsupported() => Ok(None),
                Err(fault) => Err(fault.about("ask for the free space of", place.root())),
            }
        })
    }

    fn close(&self) -> Result<()> {
        let runtime = self.runtime.as_ref().expect("it is taken only by drop");
        runtime.block_on(self.place.client.close());
        Ok(())
    }
}

/// Why an open file cannot be read: servers on Unix open folders too.
async fn unreadable(session: &Session, fault: &Fault, path: &str) -> Error {
    if fault.is_vague()
        && let Ok(found) = session.stat(path).await
        && !matches!(found.kind(), Kind::File | Kind::Unknown)
    {
        return not_an_object(path, found.kind());
    }
    fault.about("read", path)
}

/// Creates the root folder and its missing parents.
async fn create_root(place: &Place, session: &Session, root: &str) -> Result<()> {
    let mut missing = vec![root];
    // Down to what is there and up again; where nothing can be made, servers may say that something is missing each time.
    let mut steps = 2 * root.matches('/').count();
    while let Some(&path) = missing.last() {
        match session.stat(path).await {
            Ok(_) => {}
            Err(fault) if fault.is_missing() => match session.make_folder(path).await {
                Ok(()) => {}
                Err(fault) if fault.is_missing() && steps > 0 => {
                    steps -= 1;
                    let above = parent(path);
                    if above.is_empty() {
                        return Err(fault.about("create the folder", path));
                    }
                    missing.push(above);
                    continue;
                }
                Err(fault) => return Err(place.explain(session, &fault, "create the folder", path).await),
            },
            Err(fault) => return Err(fault.about("open", path)),
        }
        let above = parent(path);
        if !above.is_empty() {
            place.sync_folder(session, above).await?;
        }
        missing.pop();
    }
    Ok(())
}

/// Refuses a root that holds anything but what a fresh file system or a killed creation left.
async fn check_vacancy(place: &Place, session: &Session) -> Result<()> {
    let failed = |fault: Fault| fault.about("list", place.root());
    for entry in session.read_folder(place.root()).await.map_err(failed)? {
        let name = entry.name.as_ref();
        let vacant = [".", "..", "lost+found"].map(str::as_bytes).contains(&name)
            || name.starts_with(TEMPORARY_PREFIX.as_bytes())
            || (name == b"keys" && holds_only_temporaries(place, session, "keys").await);
        if !vacant {
            return Err(wrong_kind(ErrorKind::AlreadyExists, place.root(), "is not empty"));
        }
    }
    Ok(())
}

async fn holds_only_temporaries(place: &Place, session: &Session, folder: &str) -> bool {
    let Ok(entries) = session.read_folder(&place.path(folder)).await else {
        return false;
    };
    entries.iter().all(|entry| {
        let name = entry.name.as_ref();
        name == b"." || name == b".." || name.starts_with(TEMPORARY_PREFIX.as_bytes())
    })
}
