//! The plakar engine: backs up files into a repository, lists, checks and restores them.
//!
//! ```text
//! backup:  scan ► chunk ► dedup ► frame ► seal ► pack ► store        (restore walks the same corridor back)
//! ```
//! It never prints, reads no environment variable and no home directory; storages are reached through [`storage::Storage`].
//! Modules are declared in walking order: each imports only what stands above it.

pub mod id;
pub mod progress;
pub mod environment;
pub mod format;
pub mod crypto;
pub mod storage;
pub mod plugin;
pub mod read_error;
pub mod index;
pub mod repository;
pub mod pipeline;
pub mod backup;
pub mod restore;
pub mod check;

/// How many threads the machine runs at once.
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
