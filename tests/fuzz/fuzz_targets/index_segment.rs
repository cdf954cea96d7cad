//! The head of an index segment, and its entries.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::MAX_FRAME_BYTES;
use plakar_core::format::index_segment::{ENTRY_BYTES, IndexEntry, SegmentHead};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(head) = SegmentHead::decode(bytes) {
        assert_eq!(SegmentHead::decode(&head.encode()).as_ref(), Ok(&head));
    }
    for row in bytes.as_chunks::<ENTRY_BYTES>().0 {
        if let Ok(entry) = IndexEntry::read(row) {
            assert!((entry.blob_offset + entry.blob_length) as usize <= MAX_FRAME_BYTES);
            let mut written = Vec::new();
            entry.write(&mut written);
            assert_eq!(written, row);
        }
    }
});
