//! The contract between the plakar engine and its connectors; it knows nothing of repositories, keys or commands.
//!
//! A connector author implements [`Connector`] and writes one line of [`export_connector!`]; the README walks
//! through it. The host reads [`abi`], which no author needs.

pub use abi_stable;

pub mod abi;
mod connector;
mod error;
mod export;
mod host;
mod key;
mod settings;
mod types;

#[cfg(feature = "conformance")]
pub mod conformance;

#[doc(hidden)]
pub use export::glue;

pub use connector::Connector;
pub use error::{Error, ErrorKind, Result};
pub use host::{Host, Level};
pub use key::{check_key, check_prefix};
pub use settings::Settings;
pub use types::{Capabilities, ListPage, ObjectInfo, PutMode, PutOptions, Space};

/// The code blocks of the README are compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct ReadmeDoctests;
