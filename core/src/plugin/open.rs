//! Opening a location with a connector: loading and `open` on a thread of their own, with a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use plakar_plugin_api as api;
use plakar_plugin_api::abi::{RawCall, RawConnector_TO, RawConnectorBox, RawSetting};
use plakar_plugin_api::abi_stable::std_types::{RBox, RSlice};

use super::adapter::{PluginStorage, kind_of};
use super::calls::Calls;
use super::error::PluginError;
use super::load::{ConnectorInfo, Loaded, load};
use super::pool::Pool;
use super::verify::Verified;
use crate::storage::StorageErrorKind;
use crate::storage::limited::Throttle;

/// Most threads for one open connector, whatever it asks for.
pub(super) const MAX_THREADS: u32 = 16;

/// How patient the host is, and how it is stopped.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// How long loading and opening may take.
    pub open_timeout: Duration,
    /// How long a call may show no life (a call that reports progress is alive).
    pub request_timeout: Duration,
    /// How long closing may take, and how long a call may show no life once the program is to stop.
    pub close_timeout: Duration,
    /// When the program sets this, connectors are asked to end their calls.
    pub cancelled: Option<Arc<AtomicBool>>,
    /// Holds back what connectors move, as they report it.
    pub throttle: Option<Arc<Throttle>>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            open_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_mins(10),
            close_timeout: Duration::from_secs(5),
            cancelled: None,
            throttle: None,
        }
    }
}

/// Loads a library only to learn what it is.
pub(super) fn describe(verified: Verified, options: &HostOptions) -> Result<ConnectorInfo, PluginError> {
    let what = verified.path.display().to_string();
    with_deadline(&what, options.open_timeout, move || load(verified)).map(|loaded| loaded.info)
}

/// Loads a library and opens `location` with it. It must serve `scheme`.
pub(super) fn open(
    verified: Verified,
    scheme: &str,
    location: &str,
    settings: &BTreeMap<String, String>,
    options: &HostOptions,
) -> Result<PluginStorage, PluginError> {
    let settings: Vec<RawSetting> = settings
        .iter()
        .map(|(name, value)| RawSetting {
            name: name.as_str().into(),
            value: value.as_str().into(),
        })
        .collect();
    let (scheme, wanted) = (scheme.to_owned(), location.to_owned());
    let own_options = options.clone();
    let (info, calls, connector, capabilities) = with_deadline(location, options.open_timeout, move || {
        let loaded = load(verified)?;
        check_scheme(&loaded.info, &scheme)?;
        let calls = Arc::new(Calls::new(loaded.info.name.clone(), &own_options));
        let (connector, capabilities) = call_open(&loaded, &wanted, &settings, &calls)?;
        Ok((loaded.info, calls, connector, capabilities))
    })?;
    let threads = capabilities.concurrency.clamp(1, MAX_THREADS) as usize;
    let pool =
        Pool::start(&info.name, &Arc::new(connector), Arc::clone(&calls), threads).map_err(|source| {
            PluginError::Thread {
                location: location.to_owned(),
                source,
            }
        })?;
    Ok(PluginStorage::new(
        location,
        info,
        &capabilities,
        pool,
        calls,
        options,
    ))
}

fn check_scheme(info: &ConnectorInfo, scheme: &str) -> Result<(), PluginError> {
    if info.schemes.iter().any(|served| served == scheme) {
        return Ok(());
    }
    Err(PluginError::WrongScheme {
        path: info.library.clone(),
        name: info.name.clone(),
        scheme: scheme.to_owned(),
        serves: info.schemes.clone(),
    })
}

fn call_open(
    loaded: &Loaded,
    location: &str,
    settings: &[RawSetting],
    calls: &Arc<Calls>,
) -> Result<(RawConnectorBox, api::Capabilities), PluginError> {
    let refused = |error| {
        let api::Error { kind, message, .. } = api::Error::from(error);
        PluginError::Open {
            location: location.to_owned(),
            kind: kind_of(kind),
            message,
        }
    };
    let opened = loaded.module.open()(location.into(), RSlice::from_slice(settings), calls.as_host());
    let connector: RawConnector_TO<'static, RBox<()>> = opened.into_result().map_err(refused)?;
    let call = RawCall {
        id: 0,
        timeout_ms: 0,
        reserved: [0; 2],
    };
    let capabilities = connector.capabilities(call).into_result().map_err(refused)?;
    Ok((connector, capabilities.into()))
}

/// Runs `work` on a thread that is left behind when it takes too long.
fn with_deadline<T: Send + 'static>(
    what: &str,
    patience: Duration,
    work: impl FnOnce() -> Result<T, PluginError> + Send + 'static,
) -> Result<T, PluginError> {
    let (answer, answered) = bounded(1);
    let thread = thread::Builder::new().name("connector-open".into());
    let spawned = thread.spawn(move || {
        // A caller that has given up has dropped its end.
        let _unheard = answer.send(work()).is_err();
    });
    spawned.map_err(|source| PluginError::Thread {
        location: what.to_owned(),
        source,
    })?;
    let silent = || PluginError::Silent {
        location: what.to_owned(),
        waited: patience,
    };
    let failed = || PluginError::Open {
        location: what.to_owned(),
        kind: StorageErrorKind::Panicked,
        message: "the thread that loads the connector failed".into(),
    };
    answered.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => silent(),
        RecvTimeoutError::Disconnected => failed(),
    })?
}
