//! A connector built against an older boundary than the host's: fewer kinds of errors. The host must load it all the same.
#![allow(
    non_local_definitions,
    unsafe_code,
    dead_code,
    unused_imports,
    missing_docs,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "code made by the derive macros of abi_stable, and parts of the boundary that are not used here"
)]

mod error;
#[path = "../../../../plugin-api/src/abi/module.rs"]
mod module;
#[path = "../../../../plugin-api/src/abi/traits.rs"]
mod traits;

#[path = "../../../../plugin-api/src/abi/types.rs"]
mod types;

pub use error::{RawError, RawErrorKind, RawErrorKind_NE};
pub use module::{ConnectorModule, ConnectorModuleRef, RawPluginInfo};
pub use traits::{HostServices_TO, RawConnector, RawConnector_TO};
pub use types::{RawCall, RawCapabilities, RawListPage, RawObject, RawPutOptions, RawSetting, RawSpace};

/// What a connector method returns.
pub type RawResult<T> = RResult<T, RawError>;
/// An open connector.
pub type RawConnectorBox = RawConnector_TO<'static, RBox<()>>;
/// The host.
pub type RawHost = HostServices_TO<'static, RBox<()>>;

use abi_stable::erased_types::TD_Opaque;
use abi_stable::export_root_module;
use abi_stable::prefix_type::PrefixTypeTrait as _;
use abi_stable::std_types::{RBox, RErr, ROk, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec};

/// Holds one object of one byte; every other key is an error of its last kind.
struct One;

fn refused<T>() -> RawResult<T> {
    RErr(RawError {
        kind: RawErrorKind_NE::new(RawErrorKind::LAST),
        message: "this is all there is".into(),
        retry_after_ms_plus_1: 0,
        reserved: [0; 4],
    })
}

impl RawConnector for One {
    fn capabilities(&self, _call: RawCall) -> RawResult<RawCapabilities> {
        ROk(RawCapabilities {
            promises: 5,
            max_object_bytes: 1 << 30,
            preferred_pack_bytes: 32 << 20,
            concurrency: 1,
            reserved_small: 0,
            reserved: [0; 6],
        })
    }

    fn probe(&self, call: RawCall) -> RawResult<RawCapabilities> {
        self.capabilities(call)
    }

    fn init(&self, _call: RawCall) -> RawResult<()> {
        ROk(())
    }

    fn list(
        &self,
        _call: RawCall,
        _prefix: RStr<'_>,
        _after: RStr<'_>,
        _limit: u64,
    ) -> RawResult<RawListPage> {
        let one = RawObject {
            key: "one".into(),
            size_bytes: 1,
            reserved: [0; 2],
        };
        ROk(RawListPage {
            objects: RVec::from(vec![one]),
            more: false,
            reserved: [0; 2],
        })
    }

    fn stat(&self, _call: RawCall, _key: RStr<'_>) -> RawResult<RawObject> {
        refused()
    }

    fn get_into(
        &self,
        _call: RawCall,
        _key: RStr<'_>,
        _at: u64,
        mut buffer: RSliceMut<'_, u8>,
    ) -> RawResult<u64> {
        buffer.as_mut_slice().fill(7);
        ROk(1)
    }

    fn put(
        &self,
        _call: RawCall,
        _key: RStr<'_>,
        _bytes: RSlice<'_, u8>,
        _options: RawPutOptions,
    ) -> RawResult<()> {
        refused()
    }

    fn delete(&self, _call: RawCall, _key: RStr<'_>) -> RawResult<()> {
        ROk(())
    }

    fn space(&self, _call: RawCall) -> RawResult<ROption<RawSpace>> {
        ROk(ROption::RNone)
    }

    fn close(&self, _call: RawCall) -> RawResult<()> {
        ROk(())
    }
}

impl RawErrorKind {
    const LAST: Self = Self::Cancelled;
}

extern "C" fn info() -> RawPluginInfo {
    RawPluginInfo {
        name: "older".into(),
        version: "0.9.0".into(),
        abi_minor: 0,
        schemes: RVec::from(vec![RString::from("older")]),
        reserved: [0; 4],
    }
}

extern "C" fn open(
    _at: RStr<'_>,
    _with: RSlice<'_, RawSetting>,
    _host: RawHost,
) -> RawResult<RawConnectorBox> {
    ROk(RawConnector_TO::from_value(One, TD_Opaque))
}

/// What the host finds.
#[export_root_module]
pub fn root() -> ConnectorModuleRef {
    ConnectorModule { info, open }.leak_into_prefix()
}
