//! An opened frame: split, and never a raw length beyond the bound.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::MAX_FRAME_BYTES;
use plakar_core::format::pack::{Codec, split_frame};

fuzz_target!(|bytes: &[u8]| {
    if let Ok((codec, raw_length, payload)) = split_frame(bytes) {
        assert!(raw_length <= MAX_FRAME_BYTES);
        assert!(codec == Codec::Zstd || payload.len() == raw_length);
    }
});
