//! The trailer and the table of contents of a pack.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::pack::{TRAILER_BYTES, Trailer, decode_contents, encode_contents};

fuzz_target!(|bytes: &[u8]| {
    if let Some((contents, trailer)) = bytes.split_last_chunk::<TRAILER_BYTES>() {
        if let Ok(decoded) = Trailer::decode(trailer, bytes.len() as u64) {
            assert_eq!(decoded.encode(), *trailer);
        }
        _ = decode_contents(contents, contents.len() as u64);
    }
    // The end of the frames as the first bytes say, so that a table can be whole.
    if let Some((end, contents)) = bytes.split_first_chunk() {
        let end = u64::from(u32::from_le_bytes(*end));
        if let Ok(frames) = decode_contents(contents, end) {
            assert_eq!(
                decode_contents(&encode_contents(&frames), end).as_ref(),
                Ok(&frames)
            );
            assert_eq!(
                frames.iter().map(|frame| u64::from(frame.length)).sum::<u64>() + 40,
                end
            );
        }
    }
});
