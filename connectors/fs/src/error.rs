//! Errors of the operating system, told apart, with the path they are about.

use std::path::Path;

use plakar_plugin_api::{Error, ErrorKind};
use rustix::io::Errno;

/// The error for `errno` met while `doing` something to `path`.
pub(crate) fn os_error(doing: &str, path: &Path, errno: Errno) -> Error {
    let (kind, note) = match errno {
        Errno::NOENT => (ErrorKind::NotFound, ""),
        Errno::EXIST => (ErrorKind::AlreadyExists, ""),
        Errno::NOSPC => (ErrorKind::NoSpace, "the file system is full: "),
        Errno::DQUOT => (ErrorKind::NoSpace, "the quota is used up: "),
        Errno::ROFS => (ErrorKind::Permission, "the file system is read-only: "),
        Errno::ACCESS | Errno::PERM => (ErrorKind::Permission, ""),
        Errno::FBIG => (
            ErrorKind::Unsupported,
            "the file is too large for the file system: ",
        ),
        Errno::LOOP => (ErrorKind::Other, "a symbolic link, which is not followed: "),
        Errno::NOTDIR => (
            ErrorKind::Other,
            "a part of the path is not a folder (or is a symbolic link): ",
        ),
        Errno::STALE => (ErrorKind::Other, "the server no longer knows the file: "),
        Errno::IO => (ErrorKind::Other, "the device or the network failed: "),
        Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::BUSY => (ErrorKind::Transient, ""),
        Errno::TIMEDOUT => (ErrorKind::Timeout, ""),
        _ => (ErrorKind::Other, ""),
    };
    let text = std::io::Error::from(errno);
    Error::new(kind, format!("cannot {doing} {}: {note}{text}", path.display()))
}

/// The error for `errno` met while reading what is stored at `path`. A sector that is gone, or a checksum of the file system that
/// differs, is damage of this object and says nothing of others: whoever asked can go on with them.
pub(crate) fn read_error(path: &Path, errno: Errno) -> Error {
    let error = os_error("read", path, errno);
    match errno {
        Errno::IO | Errno::BADMSG | Errno::UCLEAN | Errno::NODATA | Errno::REMOTEIO => {
            Error::new(ErrorKind::Corrupt, error.message)
        }
        _ => error,
    }
}

/// The error for something at `path` that is there but of the wrong kind.
pub(crate) fn wrong_kind(kind: ErrorKind, path: &Path, what: &str) -> Error {
    Error::new(kind, format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_and_say_path_and_cause() {
        let cases = [
            (Errno::NOSPC, ErrorKind::NoSpace, "full"),
            (Errno::DQUOT, ErrorKind::NoSpace, "quota"),
            (Errno::ROFS, ErrorKind::Permission, "read-only"),
            (Errno::ACCESS, ErrorKind::Permission, "Permission denied"),
            (Errno::PERM, ErrorKind::Permission, "not permitted"),
            (Errno::NOENT, ErrorKind::NotFound, "No such file"),
            (Errno::STALE, ErrorKind::Other, "os error"),
            (Errno::IO, ErrorKind::Other, "os error"),
        ];
        for (errno, kind, words) in cases {
            let error = os_error("write", Path::new("/srv/backup/x"), errno);
            assert_eq!(error.kind, kind);
            assert!(
                error.message.contains("/srv/backup/x") && error.message.contains(words),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn what_the_device_cannot_give_back_is_damage_of_that_object() {
        for (errno, kind) in [
            (Errno::IO, ErrorKind::Corrupt),
            (Errno::BADMSG, ErrorKind::Corrupt),
            (Errno::UCLEAN, ErrorKind::Corrupt),
            (Errno::ACCESS, ErrorKind::Permission),
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::TIMEDOUT, ErrorKind::Timeout),
        ] {
            let error = read_error(Path::new("/srv/backup/x"), errno);
            assert_eq!(error.kind, kind);
            assert!(error.message.starts_with("cannot read /srv/backup/x"));
        }
    }
}
