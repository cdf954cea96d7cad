//! Key slots: whatever decodes, encodes to the same object; no cost beyond the bounds gets through.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::key_slot::KeySlot;

fuzz_target!(|bytes: &[u8]| {
    _ = KeySlot::decode(bytes);
    // With the right checksum the fuzzer gets past it.
    let mut object = bytes.to_vec();
    object.extend_from_slice(&plakar_fuzz::blake3(bytes));
    if let Ok(slot) = KeySlot::decode(&object) {
        assert_eq!(slot.encode(), object);
        assert!(slot.header.cost.memory_kib <= 1 << 20);
    }
});
