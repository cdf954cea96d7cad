//! The binary boundary: what crosses between host and connector, and nothing about how either works.
//!
//! Frozen within 1.x: fields, their order and their types. Additions go at the end only: a root module field with
//! `missing_field(option)`, a trait method with a default body, an error kind that fits the size, a meaning for a
//! reserved word. Reserved words are zero; a connector answers `Unsupported` to options whose reserved words are not.
#![expect(
    unsafe_code,
    non_local_definitions,
    clippy::mem_forget,
    reason = "code made by the derive macros of abi_stable"
)]
#![allow(
    missing_docs,
    missing_debug_implementations,
    elided_lifetimes_in_paths,
    unused_qualifications,
    unreachable_pub,
    clippy::pedantic,
    clippy::indexing_slicing,
    reason = "code made by the derive macros of abi_stable"
)]

mod convert;
mod error;
mod module;
mod traits;
mod types;

pub use convert::beginning;
pub use error::{RawError, RawErrorKind, RawErrorKind_NE};
pub use module::{ABI_MINOR, ConnectorModule, ConnectorModuleRef, RawPluginInfo};
pub use traits::{HostServices, HostServices_TO, RawConnector, RawConnector_TO};
pub use types::{RawCall, RawCapabilities, RawListPage, RawObject, RawPutOptions, RawSetting, RawSpace};

use abi_stable::std_types::{RBox, RResult};

/// What a connector method returns.
pub type RawResult<T> = RResult<T, RawError>;

/// An open connector, owned by the host.
pub type RawConnectorBox = RawConnector_TO<'static, RBox<()>>;

/// The host's services, owned by a connector.
pub type RawHost = HostServices_TO<'static, RBox<()>>;
