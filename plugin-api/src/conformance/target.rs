//! What the suite runs on: a bare connector, or anything a host has opened.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi_stable::erased_types::TD_Opaque;
use abi_stable::std_types::RStr;

use crate::abi::{HostServices, HostServices_TO};
use crate::connector::Connector;
use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::settings::Settings;
use crate::types::{Capabilities, ListPage, ObjectInfo, PutOptions, Space};

/// An open place. The methods are those of [`Connector`], where the contract of each is written.
pub trait Target: Send + Sync {
    /// See [`Connector::probe`].
    fn probe(&self) -> Result<Capabilities>;
    /// See [`Connector::init`]. `Unsupported` when it cannot be called from here.
    fn init(&self) -> Result<()> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "init cannot be called from here",
        ))
    }
    /// See [`Connector::list`].
    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage>;
    /// See [`Connector::stat`].
    fn stat(&self, key: &str) -> Result<ObjectInfo>;
    /// See [`Connector::get_into`]; gives at most `length` bytes.
    fn get(&self, key: &str, offset: u64, length: usize) -> Result<Vec<u8>>;
    /// See [`Connector::put`].
    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()>;
    /// See [`Connector::delete`].
    fn delete(&self, key: &str) -> Result<()>;
    /// See [`Connector::space`].
    fn space(&self) -> Result<Option<Space>>;
    /// See [`Connector::close`].
    fn close(&self) -> Result<()> {
        Ok(())
    }
    /// Tells the calls on this handle to end, from now on; `false` when there is no way to.
    fn cancel(&self) -> bool;
}

/// A [`Connector`] called directly, without the boundary: for an author's own tests.
#[derive(Debug)]
pub struct ConnectorTarget<C> {
    connector: C,
    cancelled: Arc<AtomicBool>,
}

impl<C: Connector> ConnectorTarget<C> {
    /// Opens the connector with a host of the suite's own.
    pub fn open(location: &str, settings: &Settings) -> Result<Self> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let services = HostServices_TO::from_value(TestHost(Arc::clone(&cancelled)), TD_Opaque);
        Ok(Self {
            connector: C::open(location, settings, Host::from_raw(services))?,
            cancelled,
        })
    }

    /// The connector itself.
    pub fn connector(&self) -> &C {
        &self.connector
    }
}

impl<C: Connector> Target for ConnectorTarget<C> {
    fn probe(&self) -> Result<Capabilities> {
        self.connector.probe()
    }

    fn init(&self) -> Result<()> {
        self.connector.init()
    }

    fn list(&self, prefix: &str, start_after: &str, limit: usize) -> Result<ListPage> {
        self.connector.list(prefix, start_after, limit)
    }

    fn stat(&self, key: &str) -> Result<ObjectInfo> {
        self.connector.stat(key)
    }

    fn get(&self, key: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        let filled = self.connector.get_into(key, offset, &mut buffer)?;
        if filled > length {
            return Err(Error::new(
                ErrorKind::Other,
                format!("gave {filled} bytes where {length} were asked"),
            ));
        }
        buffer.truncate(filled);
        Ok(buffer)
    }

    fn put(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<()> {
        self.connector.put(key, bytes, options)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.connector.delete(key)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.connector.space()
    }

    fn close(&self) -> Result<()> {
        self.connector.close()
    }

    fn cancel(&self) -> bool {
        self.cancelled.store(true, Ordering::SeqCst);
        true
    }
}

struct TestHost(Arc<AtomicBool>);

impl HostServices for TestHost {
    fn log(&self, _level: u8, _target: RStr<'_>, _message: RStr<'_>) {}

    fn cancelled(&self, _call: u64) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn progress(&self, _call: u64, _bytes: u64) {}
}
