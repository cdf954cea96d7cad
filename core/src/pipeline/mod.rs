//! The stages of a backup, in walking order. Each is a plain function on values; threads and channels are wired in `backup`.

pub mod metadata;
pub mod scan;
pub mod chunk;
pub mod frame;
pub mod seal;
pub mod pack;
pub mod store;
pub mod read;
pub mod tree;
