//! The connections of a location: opened when first needed, shared by calls, opened again when they break.
//!
//! It does not retry: a call whose connection breaks fails, and the next call finds a new one.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use plakar_plugin_api::{Error, ErrorKind, Level, Result};
use russh::Disconnect;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::connect::{Dialer, Link};
use crate::error::Fault;
use crate::session::Session;

/// After a server refused one more connection, so long passes before it is asked again.
const REFUSED_FOR: Duration = Duration::from_mins(1);
/// A server takes some 2 MiB of a connection before it answers: what is much less does not need one of its own.
const BULK_BYTES: usize = 1 << 20;
/// Connections that are opened when there is enough to do.
const CONNECTIONS: usize = 4;
/// Where answers come so soon, fewer connections keep a line full, and each is work for the server.
const NEAR: Duration = Duration::from_millis(3);
const NEAR_CONNECTIONS: usize = 2;
/// How long a server may take from the login to its first answer.
const STARTING: Duration = Duration::from_secs(20);
/// How long a server may take to hear that we leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// All connections of a location.
pub(crate) struct Client(Arc<Connections>);

struct Connections {
    dialer: Dialer,
    slots: Vec<Slot>,
    refused_at: Mutex<Option<Instant>>,
    /// Set while a second session is asked for, and for good when a connection did not get one: there are servers that end it for that.
    single: AtomicBool,
    /// Tells who waits that there is one more session.
    arrivals: Notify,
}

/// Room for one connection.
#[derive(Default)]
struct Slot {
    connection: Mutex<Option<Arc<Connection>>>,
    dialing: tokio::sync::Mutex<()>,
    /// Whether a connection is opened that nobody waits for.
    opening: AtomicBool,
    /// Calls that use it or wait for it.
    active: Arc<AtomicUsize>,
}

struct Connection {
    session: Session,
    /// For large objects, once the first of them has come by; see [`Client::second`].
    second: OnceLock<Session>,
    widened: AtomicBool,
    link: Link,
}

impl Connection {
    fn is_near(&self) -> bool {
        self.session
            .round_trip()
            .is_some_and(|round_trip| round_trip < NEAR)
    }

    /// Whether one object is better written by several sessions: not where answers come at once, and not where what is written may
    /// not be seen by the others.
    fn may_be_striped(&self) -> bool {
        self.session.abilities.shows_files() && !self.is_near()
    }

    /// Starts a second session, which nobody waits for. A server that does not want it is used with one.
    fn widen(self: &Arc<Self>, all: &Arc<Connections>) {
        let wanted = self.may_be_striped();
        if !wanted || self.widened.load(Ordering::Relaxed) || all.single.swap(true, Ordering::Relaxed) {
            return;
        }
        if self.widened.swap(true, Ordering::Relaxed) {
            all.single.store(false, Ordering::Relaxed);
            return;
        }
        let (connection, all) = (Arc::clone(self), Arc::clone(all));
        tokio::spawn(async move {
            match tokio::time::timeout(STARTING, start(&connection.link)).await {
                Ok(Ok(session)) => {
                    all.single.store(false, Ordering::Relaxed);
                    drop(connection.second.set(session));
                    all.arrivals.notify_waiters();
                }
                Ok(Err(fault)) => {
                    let message = format!("goes on with one session a connection: {fault:?}");
                    all.dialer.host.log(Level::Debug, "sftp", &message);
                }
                Err(_elapsed) => {}
            }
        });
    }
}

/// Whether no more connections are opened than are `begun`. Where any shows that the server is `near`, two are enough, unless so many
/// were `wanted`.
fn is_enough(wanted: Option<usize>, near: usize, begun: usize) -> bool {
    wanted.is_none() && near > 0 && begun >= NEAR_CONNECTIONS
}

async fn start(link: &Link) -> std::result::Result<Session, Fault> {
    let channel = link.ssh.channel_open_session().await;
    let channel = channel.map_err(|error| Fault::Lost(error.to_string()))?;
    Session::start(channel, link.farewell.clone()).await
}

/// A connection in use by a call.
pub(crate) struct Lease {
    connection: Arc<Connection>,
    _use: Use,
}

impl Deref for Lease {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.connection.session
    }
}

impl Lease {
    /// Whether one object is better written by several sessions at once.
    pub(crate) fn may_be_striped(&self) -> bool {
        self.connection.may_be_striped()
    }
}

/// Counts a call for as long as it lives.
struct Use(Arc<AtomicUsize>);

impl Use {
    fn of(slot: &Slot) -> Self {
        slot.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&slot.active))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    /// The connection, if it is there and whole.
    fn live(&self) -> Option<Arc<Connection>> {
        lock(&self.connection)
            .as_ref()
            .filter(|connection| !connection.session.is_over())
            .cloned()
    }

    /// Whether there is a connection, or somebody waits for it.
    fn is_begun(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
            || self.opening.load(Ordering::Relaxed)
            || self.live().is_some()
    }
}

impl Client {
    pub(crate) fn new(dialer: Dialer) -> Self {
        let most = dialer.options.connections.unwrap_or(CONNECTIONS);
        Self(Arc::new(Connections {
            dialer,
            slots: (0..most).map(|_| Slot::default()).collect(),
            refused_at: Mutex::default(),
            single: AtomicBool::default(),
            arrivals: Notify::new(),
        }))
    }

    pub(crate) fn connections(&self) -> usize {
        self.0.slots.len()
    }

    /// A connection for a call that waits for answers more than it moves bytes: the least busy of those that are open. To open one takes
    /// a dozen round trips, and requests of many calls go their way at once.
    pub(crate) async fn lease(&self) -> Result<Lease> {
        match self.0.least_busy() {
            Some(lease) => Ok(lease),
            None => self.0.lease_of(self.0.slots.first()).await,
        }
    }

    /// A connection for a call that moves so many bytes. When all that are open are busy and more are allowed, another is opened for
    /// the calls that follow.
    pub(crate) async fn lease_for(&self, bytes: usize) -> Result<Lease> {
        if bytes < BULK_BYTES {
            return self.lease().await;
        }
        let number = self.0.choose();
        let slot = self.0.slots.get(number);
        if slot.is_some_and(|slot| slot.live().is_none())
            && let Some(lease) = self.0.least_busy()
        {
            self.open(number);
            return Ok(lease);
        }
        self.0.lease_of(slot).await
    }

    /// The same for a call that writes.
    pub(crate) async fn lease_to_write(&self, bytes: usize) -> Result<Lease> {
        let lease = self.lease_for(bytes).await?;
        if bytes >= BULK_BYTES {
            lease.connection.widen(&self.0);
        }
        Ok(lease)
    }

    /// Another session of the connection, as soon as there is one: a server takes only so many bytes of each before it answers. It may
    /// never come.
    pub(crate) async fn second<'l>(&self, lease: &'l Lease) -> &'l Session {
        let second = || lease.connection.second.get();
        self.0
            .arrival(|| second().filter(|session| !session.is_over()))
            .await
    }

    /// A connection that nobody uses, as soon as there is one. It may never come.
    pub(crate) async fn idle(&self) -> Lease {
        self.0.arrival(|| self.0.idle()).await
    }

    /// Opens a connection that nobody waits for.
    fn open(&self, number: usize) {
        let connections = Arc::clone(&self.0);
        tokio::spawn(async move {
            let Some(slot) = connections.slots.get(number) else {
                return;
            };
            if slot.opening.swap(true, Ordering::Relaxed) {
                return;
            }
            {
                let _alone = slot.dialing.lock().await;
                if slot.live().is_none() {
                    match connections.dial().await {
                        Ok(connection) => {
                            *lock(&slot.connection) = Some(connection);
                            connections.arrivals.notify_waiters();
                        }
                        Err(error) => connections.refused(&error),
                    }
                }
            }
            slot.opening.store(false, Ordering::Relaxed);
        });
    }

    /// Tells the server that we leave, once it has done what it was asked without anybody waiting for it.
    pub(crate) async fn close(&self) {
        let mut leaving = JoinSet::new();
        for slot in &self.0.slots {
            let Some(connection) = lock(&slot.connection).take() else {
                continue;
            };
            leaving.spawn(tokio::time::timeout(GOODBYE, async move {
                if connection.session.owes_removals() {
                    // Requests are done in their order: when this one is answered, those before it are done.
                    let _unheard = connection.session.real_path(".").await.is_err();
                }
                let ssh = &connection.link.ssh;
                ssh.disconnect(Disconnect::ByApplication, "", "").await
            }));
        }
        // Who does not hear it will notice.
        while leaving.join_next().await.is_some() {}
    }
}

impl Connections {
    fn least_busy(&self) -> Option<Lease> {
        let live = self.slots.iter().filter_map(|slot| Some((slot, slot.live()?)));
        let (slot, connection) = live.min_by_key(|(slot, _)| slot.active.load(Ordering::Relaxed))?;
        Some(Lease {
            connection,
            _use: Use::of(slot),
        })
    }

    /// What `find` finds, looking again whenever there is one more session.
    async fn arrival<T>(&self, find: impl Fn() -> Option<T>) -> T {
        loop {
            let arrival = self.arrivals.notified();
            if let Some(found) = find() {
                return found;
            }
            arrival.await;
        }
    }

    fn idle(&self) -> Option<Lease> {
        self.slots.iter().find_map(|slot| {
            let connection = slot.live()?;
            let free = slot
                .active
                .compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
            free.is_ok().then(|| Lease {
                connection,
                _use: Use(Arc::clone(&slot.active)),
            })
        })
    }

    async fn lease_of(&self, slot: Option<&Slot>) -> Result<Lease> {
        let slot = slot.expect("there is at least one connection");
        let used = Use::of(slot);
        if let Some(connection) = slot.live() {
            return Ok(Lease {
                connection,
                _use: used,
            });
        }
        let _alone = slot.dialing.lock().await;
        if let Some(connection) = slot.live() {
            return Ok(Lease {
                connection,
                _use: used,
            });
        }
        match self.dial().await {
            Ok(connection) => {
                *lock(&slot.connection) = Some(Arc::clone(&connection));
                Ok(Lease {
                    connection,
                    _use: used,
                })
            }
            Err(error) => {
                drop(used);
                let lease = self.least_busy().ok_or_else(|| error.clone())?;
                self.refused(&error);
                Ok(lease)
            }
        }
    }

    /// The number of the slot that a large call is best served by.
    fn choose(&self) -> usize {
        let refused = lock(&self.refused_at).is_some_and(|at| at.elapsed() < REFUSED_FOR);
        let any_live = refused && self.slots.iter().any(|slot| slot.live().is_some());
        let enough = self.has_enough();
        let usable = self.slots.iter().enumerate().filter(|(_, slot)| {
            if any_live {
                slot.live().is_some()
            } else {
                !enough || slot.is_begun()
            }
        });
        let best = usable.min_by_key(|(_, slot)| {
            let opening = usize::from(slot.opening.load(Ordering::Relaxed));
            let active = slot.active.load(Ordering::Relaxed);
            (active + opening, slot.live().is_none())
        });
        best.map_or(0, |(number, _)| number)
    }

    fn has_enough(&self) -> bool {
        let live = self.slots.iter().filter_map(Slot::live);
        let near = live.filter(|connection| connection.is_near()).count();
        let begun = self.slots.iter().filter(|slot| slot.is_begun()).count();
        is_enough(self.dialer.options.connections, near, begun)
    }

    /// A server that refuses one more connection is used with those there are.
    fn refused(&self, error: &Error) {
        *lock(&self.refused_at) = Some(Instant::now());
        let message = format!("goes on with fewer connections: {}", error.message);
        self.dialer.host.log(Level::Warn, "sftp", &message);
    }

    async fn dial(&self) -> Result<Arc<Connection>> {
        let link = self.dialer.dial().await?;
        let patience = self.dialer.options.connect_timeout.unwrap_or(STARTING);
        let host = &self.dialer.target.host;
        let started = tokio::time::timeout(patience, start(&link))
            .await
            .map_err(|_elapsed| {
                let message = format!("{host} does not start SFTP within {} s", patience.as_secs());
                Error::new(ErrorKind::Timeout, message)
            })?;
        let session = started.map_err(|fault| fault.about("start SFTP on", host))?;
        Ok(Arc::new(Connection {
            session,
            second: OnceLock::new(),
            widened: AtomicBool::new(false),
            link,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_near_gets_two_connections_unless_more_are_wanted() {
        assert!(is_enough(None, 1, 2));
        assert!(!is_enough(None, 1, 1));
        assert!(!is_enough(None, 0, 3));
        assert!(!is_enough(Some(4), 2, 2));
    }
}
