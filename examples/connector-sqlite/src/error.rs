//! Errors of SQLite, told apart, with the file they are about.

use std::path::Path;

use plakar_plugin_api::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// The error of SQLite met while `doing` something to `what` in the database at `path`.
pub(crate) fn sqlite_error(doing: &str, what: &str, path: &Path, error: &rusqlite::Error) -> Error {
    let (kind, note) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (ErrorKind::NoSpace, "the file system is full: "),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            ErrorKind::Permission,
            "the file or its folder cannot be written: ",
        ),
        Some(ErrorCode::NotADatabase) => (ErrorKind::Config, "the file is no SQLite database: "),
        Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Corrupt, "the database is damaged: "),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Transient, "others are writing: ")
        }
        Some(ErrorCode::ConstraintViolation) => (ErrorKind::AlreadyExists, "it exists: "),
        Some(ErrorCode::TooBig) => (ErrorKind::Unsupported, ""),
        Some(ErrorCode::CannotOpen) => (kind_of_opening(path), ""),
        _ => (ErrorKind::Other, ""),
    };
    Error::new(
        kind,
        format!("cannot {doing} {what} in {}: {note}{error}", path.display()),
    )
}

/// SQLite says only that it cannot open a file; the system says why.
fn kind_of_opening(path: &Path) -> ErrorKind {
    match std::fs::File::options().read(true).write(true).open(path) {
        // The file opens: it is the journal beside it that cannot be made.
        Ok(_) => ErrorKind::Permission,
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => ErrorKind::Config,
        Err(error) => Error::io("", &error).kind,
    }
}

/// What is at `path` is not what this connector made.
pub(crate) fn foreign(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Config, format!("{} {what}", path.display()))
}
