//! What is on disk: pure functions between bytes and values, specified in `FORMAT.md`. No input or output, no keys.
//!
//! Every decoder is bounded: a length is checked against the bytes that are there before anything is allocated.

pub mod codec;
pub mod config;
pub mod index_segment;
pub mod key_slot;
pub mod object;
pub mod pack;
pub mod snapshot;
pub mod tree;

/// The newest format version that this program writes and reads.
pub const FORMAT_VERSION: u8 = 1;

/// Largest plain blob, frame and sealed frame, in bytes: lengths fit in 24 bits of an index entry.
pub const MAX_FRAME_BYTES: usize = (1 << 24) - 1;
