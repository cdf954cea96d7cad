//! The root module of a connector by name, with fields of other types: the host must refuse it before calling anything.
#![allow(
    non_local_definitions,
    unsafe_code,
    reason = "code made by the derive macros of abi_stable"
)]

use abi_stable::StableAbi;
use abi_stable::export_root_module;
use abi_stable::library::RootModule;
use abi_stable::prefix_type::PrefixTypeTrait as _;
use abi_stable::sabi_types::VersionStrings;

/// Like the real one in name and count of fields only.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ConnectorModuleRef)))]
#[sabi(missing_field(option))]
pub struct ConnectorModule {
    /// Not what it should be.
    pub info: u64,
    /// Not what it should be.
    #[sabi(last_prefix_field)]
    pub open: extern "C" fn() -> u64,
}

impl RootModule for ConnectorModuleRef {
    abi_stable::declare_root_module_statics! {ConnectorModuleRef}
    const BASE_NAME: &'static str = "plakar_connector";
    const NAME: &'static str = "plakar_connector";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

extern "C" fn open() -> u64 {
    std::process::abort()
}

/// What the host finds.
#[export_root_module]
pub fn module() -> ConnectorModuleRef {
    ConnectorModule { info: 7, open }.leak_into_prefix()
}
