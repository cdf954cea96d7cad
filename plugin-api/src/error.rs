//! The one error a connector returns: a kind the host acts on, and a message a person reads.

use std::fmt;
use std::io;
use std::time::Duration;

/// What a connector call returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What the host does about a failure depends on this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such object, or no such place.
    NotFound,
    /// An object of that name exists, or the place to initialise is not empty.
    AlreadyExists,
    /// May succeed when tried again; the host waits and retries.
    Transient,
    /// Took longer than allowed; the host retries.
    Timeout,
    /// Credentials are missing or refused.
    Auth,
    /// The caller is known, but may not do this.
    Permission,
    /// The storage or a quota is full.
    NoSpace,
    /// The bytes arrived damaged (a checksum of the protocol failed).
    Corrupt,
    /// The storage cannot do this.
    Unsupported,
    /// Stopped because the host asked for it.
    Cancelled,
    /// The location or a setting is wrong.
    Config,
    /// The connector panicked; made by the glue, never by an author.
    Panicked,
    /// Anything else; treated as permanent.
    Other,
}

/// A failed connector call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What the host acts on.
    pub kind: ErrorKind,
    /// One line for a person: what went wrong, on what, in the system's own words. Never a secret.
    pub message: String,
    /// How long the storage asked to wait before the next try (`Transient` only).
    pub retry_after: Option<Duration>,
}

impl Error {
    /// An error without a retry hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
        }
    }

    /// Adds how long the storage asked to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// An error of the operating system about `subject`, its kind chosen by the system's own.
    pub fn io(subject: impl fmt::Display, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Permission,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::TimedOut => ErrorKind::Timeout,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable => ErrorKind::Transient,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Other,
        };
        Self::new(kind, format!("{subject}: {error}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
