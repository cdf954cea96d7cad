//! The opened header of a snapshot.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::snapshot::Snapshot;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(snapshot) = Snapshot::decode(bytes) {
        assert_eq!(Snapshot::decode(&snapshot.encode()).as_ref(), Ok(&snapshot));
    }
});
