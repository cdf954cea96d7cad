//! One entry, and a stored list of extended attributes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plakar_core::format::codec::{Reader, Writer};
use plakar_core::format::tree::{Entry, content_length, decode_xattrs, encode_xattrs};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = Entry::read(&mut Reader::new(bytes)) {
        assert!(content_length(&entry.content).is_ok());
        let mut out = Writer::new();
        entry.write(&mut out);
        assert_eq!(Entry::read(&mut Reader::new(out.as_slice())).as_ref(), Ok(&entry));
    }
    if let Ok(xattrs) = decode_xattrs(bytes) {
        assert_eq!(decode_xattrs(&encode_xattrs(&xattrs)).as_ref(), Ok(&xattrs));
    }
});
