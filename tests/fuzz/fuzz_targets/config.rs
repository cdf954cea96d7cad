//! The `config` object: whatever decodes, decodes to the same again from its own encoding.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::config::Config;

fuzz_target!(|bytes: &[u8]| {
    _ = Config::decode(bytes);
    // With the right checksum the fuzzer gets past it.
    let mut object = bytes.to_vec();
    object.extend_from_slice(&plakar_fuzz::blake3(bytes));
    if let Ok((config, tag)) = Config::decode(&object) {
        let (again, _) = Config::decode(&config.encode(|_| tag.tag)).expect("what was encoded decodes");
        assert_eq!(again, config);
    }
});
