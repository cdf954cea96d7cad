//! The root module, with a function that today's host does not know.

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RSlice, RStr, RString, RVec};

use super::types::RawSetting;
use super::{RawConnectorBox, RawHost, RawResult};

/// Counts the additions within 1.x.
pub const ABI_MINOR: u32 = 0;

/// What a connector says about itself.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct RawPluginInfo {
    /// The connector's name.
    pub name: RString,
    /// The connector's version.
    pub version: RString,
    /// The `ABI_MINOR` it was built with.
    pub abi_minor: u32,
    /// The URL schemes it serves.
    pub schemes: RVec<RString>,
    /// Zero.
    pub reserved: [u64; 4],
}

/// The root module of a connector's library.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ConnectorModuleRef)))]
#[sabi(missing_field(option))]
pub struct ConnectorModule {
    /// Describes the connector. Does no work.
    pub info: extern "C" fn() -> RawPluginInfo,
    /// Makes a handle for a location.
    #[sabi(last_prefix_field)]
    pub open: extern "C" fn(RStr<'_>, RSlice<'_, RawSetting>, RawHost) -> RawResult<RawConnectorBox>,
    /// Added later.
    pub added: extern "C" fn() -> u64,
}

impl RootModule for ConnectorModuleRef {
    abi_stable::declare_root_module_statics! {ConnectorModuleRef}
    const BASE_NAME: &'static str = "plakar_connector";
    const NAME: &'static str = "plakar_connector";
    /// The version of the boundary, not of the crate: an equal major is compatible.
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}
