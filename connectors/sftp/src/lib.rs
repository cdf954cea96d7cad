//! The SFTP connector: what it is made of and how it is exported.
//!
//! A key `a/b/c` is the file `a/b/c` below the root folder on the server. From top to bottom: `storage` keeps the
//! promises, with `put`, `listing` and `transfer`; `place` knows the root folder; `client` shares out connections that
//! `connect` makes (with `route`, `unstuck`, `auth`, `known_hosts`, `ssh_config`); `session`, `remote` and `protocol` speak SFTP.

mod auth;
mod client;
mod config;
mod connect;
mod error;
mod known_hosts;
mod listing;
mod pattern;
mod place;
mod protocol;
mod put;
mod remote;
mod route;
mod session;
mod ssh_config;
mod storage;
mod transfer;
mod unstuck;

pub use storage::SftpConnector;

plakar_plugin_api::export_connector! {
    type: SftpConnector, name: "sftp", version: env!("CARGO_PKG_VERSION"), schemes: ["sftp"]
}
