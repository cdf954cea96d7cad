//! The connector for repositories in one SQLite file: what it is made of and how it is exported.
//!
//! A key is a row of the table `objects`, its bytes are rows of `pieces`. It knows nothing of what the objects mean.

mod client;
mod config;
mod error;
mod storage;

pub use storage::SqliteConnector;

/// Not the program's allocator: what crosses the boundary is freed by the side that made it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

plakar_plugin_api::export_connector! {
    type: SqliteConnector, name: "sqlite", version: env!("CARGO_PKG_VERSION"), schemes: ["sqlite"]
}
