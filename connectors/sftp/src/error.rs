//! What can go wrong with a request, and the error the host is given for it: kind, words, and what it was about.

use plakar_plugin_api::{Error, ErrorKind};

use crate::protocol::{Malformed, Status, status};

/// Why a request gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ended before the answer came.
    Lost(String),
    /// The server said no.
    Refused(Status),
    /// The server's answer makes no sense.
    Nonsense(&'static str),
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Nonsense("a packet is malformed")
    }
}

impl Fault {
    /// Whether the server says that there is no such file.
    pub(crate) fn is_missing(&self) -> bool {
        self.code()
            .is_some_and(|code| matches!(code, status::NO_SUCH_FILE | status::NO_SUCH_PATH))
    }

    /// Whether the server says that it does not know the request.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.code() == Some(status::UNSUPPORTED)
    }

    /// Whether the server gave no reason: such a failure may be looked into.
    pub(crate) fn is_vague(&self) -> bool {
        self.code() == Some(status::FAILURE)
    }

    pub(crate) fn code(&self) -> Option<u32> {
        match self {
            Self::Refused(status) => Some(status.code),
            _ => None,
        }
    }

    /// The error of the host, met while `doing` something to `path`.
    pub(crate) fn about(&self, doing: &str, path: &str) -> Error {
        let (kind, why) = match self {
            Self::Lost(why) => (ErrorKind::Transient, format!("the connection was lost: {why}")),
            Self::Nonsense(why) => (
                ErrorKind::Transient,
                format!("the server's answer makes no sense: {why}"),
            ),
            Self::Refused(status) => refusal(status),
        };
        Error::new(kind, format!("cannot {doing} {path}: {why}"))
    }
}

fn refusal(refused: &Status) -> (ErrorKind, String) {
    let (kind, words) = match refused.code {
        status::NO_SUCH_FILE | status::NO_SUCH_PATH => (ErrorKind::NotFound, "no such file or folder"),
        status::PERMISSION_DENIED => (ErrorKind::Permission, "permission denied"),
        status::WRITE_PROTECT => (ErrorKind::Permission, "the file system is read-only"),
        status::ALREADY_EXISTS => (ErrorKind::AlreadyExists, "it exists"),
        status::NO_SPACE => (ErrorKind::NoSpace, "the file system is full"),
        status::QUOTA_EXCEEDED => (ErrorKind::NoSpace, "the quota is used up"),
        status::UNSUPPORTED => (ErrorKind::Unsupported, "the server does not support this"),
        status::NO_CONNECTION | status::CONNECTION_LOST => {
            (ErrorKind::Transient, "the server lost a connection")
        }
        status::FAILURE => (ErrorKind::Other, "the server gives no reason"),
        status::BAD_MESSAGE => (ErrorKind::Other, "the server does not accept the request"),
        _ => (ErrorKind::Other, "the server refused"),
    };
    (
        kind,
        format!("{words} (status {}{})", refused.code, quoted(&refused.message)),
    )
}

/// A server's own words on one line, without control characters and of bounded length.
pub(crate) fn quoted(message: &str) -> String {
    let clean: String = message
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .take(200)
        .collect();
    match clean.trim() {
        "" => String::new(),
        words => format!(", \"{words}\""),
    }
}

/// The error for something at `path` that is there but of the wrong kind.
pub(crate) fn wrong_kind(kind: ErrorKind, path: &str, what: &str) -> Error {
    Error::new(kind, format!("{path} {what}"))
}

/// The error of a call that the host wants to end.
pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped as asked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_and_say_path_and_cause() {
        let cases = [
            (2, ErrorKind::NotFound, "no such"),
            (3, ErrorKind::Permission, "permission"),
            (4, ErrorKind::Other, "no reason"),
            (7, ErrorKind::Transient, "lost"),
            (8, ErrorKind::Unsupported, "support"),
            (11, ErrorKind::AlreadyExists, "exists"),
            (14, ErrorKind::NoSpace, "full"),
            (15, ErrorKind::NoSpace, "quota"),
            (99, ErrorKind::Other, "status 99"),
        ];
        for (code, kind, words) in cases {
            let message = "in\ntwo lines".to_owned();
            let error = Fault::Refused(Status { code, message }).about("write", "/srv/x");
            assert_eq!(error.kind, kind);
            for part in ["/srv/x", words, "\"in two lines\""] {
                assert!(error.message.contains(part), "{}", error.message);
            }
            assert!(!error.message.contains('\n'));
        }
        assert_eq!(
            Fault::Lost("reset".into()).about("read", "/x").kind,
            ErrorKind::Transient
        );
    }
}
