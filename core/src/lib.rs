//! The plakar engine: backs up files into a repository, lists, checks and restores them.
//!
//! ```text
//! backup:  scan ► chunk ► dedup ► frame ► seal ► pack ► store        (restore walks the same corridor back)
//! ```
//! It never prints, reads no environment variable and no home directory; storages are reached through [`storage::Storage`].
//! Modules are declared in walking order: each imports only what stands above it.

pub mod backup;
pub mod check;
pub mod crypto;
pub mod environment;
pub mod format;
pub mod id;
pub mod index;
pub mod pipeline;
pub mod plugin;
pub mod progress;
pub mod read_error;
pub mod repository;
pub mod restore;
pub mod storage;

/// How many threads the machine runs at once.
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
