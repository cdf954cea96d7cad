//! The connector for local and mounted file systems: what it is made of and how it is exported.
//!
//! A key `a/b/c` is the file `a/b/c` below the root folder. It knows nothing of what the files mean.

mod client;
mod config;
mod error;
mod listing;
mod storage;

pub use storage::FsConnector;

plakar_plugin_api::export_connector! {
    type: FsConnector, name: "fs", version: env!("CARGO_PKG_VERSION"), schemes: ["fs", "file"]
}
