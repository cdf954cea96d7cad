//! The connections of a location: opened when first needed, shared by calls, opened again when they break.
//!
//! It does not retry: a call whose connection breaks fails, and the next call finds a new one.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plakar_plugin_api::{Error, ErrorKind, Level, Result};
use russh::Disconnect;
use tokio::task::JoinSet;

use crate::connect::{Dialer, Link};
use crate::error::Fault;
use crate::session::Session;

/// After a server refused one more connection, so long passes before it is asked again.
const REFUSED_FOR: Duration = Duration::from_mins(1);
/// A server takes some 2 MiB of a connection before it answers: what is much less does not need one of its own.
const BULK_BYTES: usize = 1 << 20;
/// How long a server may take from the login to its first answer.
const STARTING: Duration = Duration::from_secs(20);
/// How long a server may take to hear that we leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// All connections of a location.
pub(crate) struct Client {
    dialer: Dialer,
    slots: Vec<Slot>,
    refused_at: Mutex<Option<Instant>>,
}

/// Room for one connection.
#[derive(Default)]
struct Slot {
    connection: Mutex<Option<Arc<Connection>>>,
    dialing: tokio::sync::Mutex<()>,
    /// Calls that use it or wait for it.
    active: Arc<AtomicUsize>,
}

struct Connection {
    session: Session,
    link: Link,
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
}

impl Client {
    pub(crate) fn new(dialer: Dialer) -> Self {
        let slots = (0..dialer.options.connections).map(|_| Slot::default()).collect();
        Self {
            dialer,
            slots,
            refused_at: Mutex::default(),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.slots.len()
    }

    /// A connection for a call that waits for answers more than it moves bytes: the least busy of those that are open. To open one takes
    /// a dozen round trips, and requests of many calls go their way at once.
    pub(crate) async fn lease(&self) -> Result<Lease> {
        let live = self.slots.iter().filter(|slot| slot.live().is_some());
        let least = live.min_by_key(|slot| slot.active.load(Ordering::Relaxed));
        self.lease_of(least.or_else(|| self.slots.first())).await
    }

    /// A connection for a call that moves so many bytes. Many are worth a new one when all that are open are busy, if more are allowed.
    pub(crate) async fn lease_for(&self, bytes: usize) -> Result<Lease> {
        if bytes < BULK_BYTES {
            self.lease().await
        } else {
            self.lease_of(self.choose()).await
        }
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
            Err(error) => self.make_do(error),
        }
    }

    fn choose(&self) -> Option<&Slot> {
        let refused = lock(&self.refused_at).is_some_and(|at| at.elapsed() < REFUSED_FOR);
        let any_live = refused && self.slots.iter().any(|slot| slot.live().is_some());
        let usable = self
            .slots
            .iter()
            .filter(|slot| !any_live || slot.live().is_some());
        let best = usable.min_by_key(|slot| (slot.active.load(Ordering::Relaxed), slot.live().is_none()));
        best.or_else(|| self.slots.first())
    }

    /// A server that refuses one more connection is used with those there are.
    fn make_do(&self, error: Error) -> Result<Lease> {
        for slot in &self.slots {
            if let Some(connection) = slot.live() {
                *lock(&self.refused_at) = Some(Instant::now());
                let message = format!("goes on with fewer connections: {}", error.message);
                self.dialer.host.log(Level::Warn, "sftp", &message);
                return Ok(Lease {
                    connection,
                    _use: Use::of(slot),
                });
            }
        }
        Err(error)
    }

    async fn dial(&self) -> Result<Arc<Connection>> {
        let link = self.dialer.dial().await?;
        let starting = async {
            let channel = link.ssh.channel_open_session().await;
            let channel = channel.map_err(|error| Fault::Lost(error.to_string()))?;
            Session::start(channel, link.farewell.clone()).await
        };
        let patience = self.dialer.options.connect_timeout.unwrap_or(STARTING);
        let host = &self.dialer.target.host;
        let started = tokio::time::timeout(patience, starting)
            .await
            .map_err(|_elapsed| {
                let message = format!("{host} does not start SFTP within {} s", patience.as_secs());
                Error::new(ErrorKind::Timeout, message)
            })?;
        let session = started.map_err(|fault| fault.about("start SFTP on", host))?;
        Ok(Arc::new(Connection { session, link }))
    }

    /// Tells the server that we leave, once it has done what it was asked without anybody waiting for it.
    pub(crate) async fn close(&self) {
        let mut leaving = JoinSet::new();
        for slot in &self.slots {
            let Some(connection) = lock(&slot.connection).take() else {
                continue;
            };
            leaving.spawn(tokio::time::timeout(GOODBYE, async move {
                // Requests are done in their order: when this one is answered, those before it are done.
                let _unheard = connection.session.real_path(".").await.is_err();
                let ssh = &connection.link.ssh;
                ssh.disconnect(Disconnect::ByApplication, "", "").await
            }));
        }
        // Who does not hear it will notice.
        while leaving.join_next().await.is_some() {}
    }
}
