//! The connector for S3 object stores: what it is made of and how it is exported.
//!
//! A key `a/b/c` is the object `PREFIX/a/b/c` of a bucket. It knows nothing of what the objects mean.

mod bucket;
mod client;
mod config;
mod credentials;
mod download;
mod error;
mod listing;
mod location;
mod messages;
mod request;
mod storage;
mod time;
mod transport;
mod upload;

pub use storage::S3Connector;

plakar_plugin_api::export_connector! {
    type: S3Connector, name: "s3", version: env!("CARGO_PKG_VERSION"), schemes: ["s3"]
}
