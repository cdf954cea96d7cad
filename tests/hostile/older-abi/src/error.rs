//! The error of the boundary, as if its last kinds had not been thought of yet.

use abi_stable::StableAbi;
use abi_stable::std_types::RString;

/// Ends before `Config`, `Panicked` and `Other`.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq)]
#[sabi(kind(WithNonExhaustive(size = [u64; 2], align = 8, traits(Debug, Clone, PartialEq))))]
pub enum RawErrorKind {
    NotFound,
    AlreadyExists,
    Transient,
    Timeout,
    Auth,
    Permission,
    NoSpace,
    Corrupt,
    Unsupported,
    Cancelled,
}

/// As it is.
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct RawError {
    pub kind: RawErrorKind_NE,
    pub message: RString,
    pub retry_after_ms_plus_1: u64,
    pub reserved: [u64; 4],
}
