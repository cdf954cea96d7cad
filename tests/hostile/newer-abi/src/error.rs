//! The error of the boundary, with one kind more.

use abi_stable::StableAbi;
use abi_stable::std_types::RString;

/// With a kind that today's host does not know.
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
    Config,
    Panicked,
    Other,
    Frozen,
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
