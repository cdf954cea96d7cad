//! The error as it crosses: an open-ended kind, and plain data that is readable even when the kind is unknown.

use abi_stable::StableAbi;
use abi_stable::std_types::RString;

/// See [`ErrorKind`](crate::ErrorKind). New kinds go at the end.
#[repr(u8)]
#[derive(StableAbi, Debug, Clone, Copy, PartialEq, Eq)]
#[sabi(kind(WithNonExhaustive(size = [u64; 2], align = 8, traits(Debug, Clone, PartialEq))))]
pub enum RawErrorKind {
    /// No such object.
    NotFound,
    /// Exists.
    AlreadyExists,
    /// Try again.
    Transient,
    /// Took too long.
    Timeout,
    /// Credentials.
    Auth,
    /// Not allowed.
    Permission,
    /// Full.
    NoSpace,
    /// Damaged on the way.
    Corrupt,
    /// Cannot.
    Unsupported,
    /// Stopped as asked.
    Cancelled,
    /// Wrong settings.
    Config,
    /// The connector panicked.
    Panicked,
    /// Anything else.
    Other,
}

/// See [`Error`](crate::Error).
#[repr(C)]
#[derive(StableAbi, Debug, Clone)]
pub struct RawError {
    /// Which kind; one that this side does not know is `Other`.
    pub kind: RawErrorKind_NE,
    /// One line for a person.
    pub message: RString,
    /// Milliseconds to wait before the next try, plus one; 0 = the storage did not say.
    pub retry_after_ms_plus_1: u64,
    /// Zero.
    pub reserved: [u64; 4],
}
