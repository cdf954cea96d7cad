//! Connectors as libraries: which one serves a location, whether it may be loaded, and calls into it that cannot hang
//! or crash the program.
//!
//! Nothing outside this module knows that a storage is a library: what comes out is a [`Storage`](crate::storage::Storage).
//! It does not retry, cache or verify what it stores.

mod adapter;
mod calls;
mod conformance;
mod elf;
mod error;
mod load;
mod open;
mod pool;
mod registry;
mod registry_file;
mod verify;

pub use adapter::PluginStorage;
pub use conformance::{check, check_telling};
pub use error::PluginError;
pub use load::ConnectorInfo;
pub use open::HostOptions;
pub use registry::{ConnectorEntry, Registry, inspect, pin_of, scheme_of};
