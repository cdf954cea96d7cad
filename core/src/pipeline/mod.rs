//! The stages of a backup, in walking order. Each is a plain function on values; threads and channels are wired in `backup`.

pub mod chunk;
pub mod frame;
pub mod metadata;
pub mod pack;
pub mod read;
pub mod scan;
pub mod seal;
pub mod store;
pub mod tree;
