//! What the fuzz targets share: the checksum that some objects end with.

/// BLAKE3 of the bytes.
pub fn blake3(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
