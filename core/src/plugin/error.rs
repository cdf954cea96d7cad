//! Why a connector could not be found, trusted, loaded or opened: one line each, with what to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::storage::StorageErrorKind;

/// A connector that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// No registry file and no bundled library has the scheme.
    #[error("unknown scheme `{scheme}`: known are {}; add one with `plakar connector add FILE`", list(.known))]
    UnknownScheme {
        /// The scheme asked for.
        scheme: String,
        /// The schemes there are.
        known: Vec<String>,
    },
    /// A registry file is wrong.
    #[error("{}:{line}: {message}", .file.display())]
    Registry {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with which key.
        message: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The library is not there.
    #[error("no library {library}: looked in {}", list(.folders))]
    Missing {
        /// The library's name.
        library: String,
        /// Where it was looked for.
        folders: Vec<String>,
    },
    /// Someone else could change what would be loaded.
    #[error("refused to use {}: {why}", .path.display())]
    Untrusted {
        /// The file or folder.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The library is not the one that was pinned.
    #[error(
        "refused to load {}: its BLAKE3 is {found}, pinned is {pinned}; if you replaced it yourself, run `plakar connector add {}`",
        .path.display(), .path.display()
    )]
    Changed {
        /// The library.
        path: PathBuf,
        /// The pin.
        pinned: String,
        /// What the file has.
        found: String,
    },
    /// The file is no library for this machine.
    #[error("cannot load {}: {why}", .path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The library is for another version of the plugin boundary.
    #[error("cannot use {}: {why}; build it against plakar-plugin-api 1.x", .path.display())]
    Incompatible {
        /// The library.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The library is registered for a scheme that it does not serve.
    #[error("{} (connector {name}) does not serve `{scheme}` but {}", .path.display(), list(.serves))]
    WrongScheme {
        /// The library.
        path: PathBuf,
        /// The connector's name.
        name: String,
        /// The scheme asked for.
        scheme: String,
        /// The schemes it has.
        serves: Vec<String>,
    },
    /// The connector refused the location.
    #[error("cannot open {}: {message}", without_password(.location))]
    Open {
        /// The location.
        location: String,
        /// What kind of refusal.
        kind: StorageErrorKind,
        /// The connector's words.
        message: String,
    },
    /// The connector did not come back from loading or opening.
    #[error("cannot open {}: the connector has not answered for {}", without_password(.location), in_words(*.waited))]
    Silent {
        /// The location, or the library.
        location: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// No thread could be started.
    #[error("cannot start a thread for {}: {source}", without_password(.location))]
    Thread {
        /// The location.
        location: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl PluginError {
    pub(super) fn untrusted(path: &Path, why: impl Into<String>) -> Self {
        Self::Untrusted {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    pub(super) fn not_a_library(path: &Path, why: impl Into<String>) -> Self {
        Self::NotALibrary {
            path: path.to_owned(),
            why: why.into(),
        }
    }

    pub(super) fn incompatible(path: &Path, why: impl Into<String>) -> Self {
        Self::Incompatible {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// A location for messages: what stands for the password in `scheme://user:password@host` is not shown.
pub(super) fn without_password(location: &str) -> String {
    let hidden = location.split_once("://").and_then(|(scheme, rest)| {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (login, host) = authority.rsplit_once('@')?;
        let user = login.split_once(':')?.0;
        Some(format!("{scheme}://{user}:********@{host}{path}"))
    });
    hidden.unwrap_or_else(|| location.to_owned())
}

/// A duration as a person says it.
pub(super) fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds if seconds >= 120 && seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_location_is_not_shown() {
        for (location, shown) in [
            ("s3://key:hunter2@host/b", "s3://key:********@host/b"),
            (
                "sftp://me:p@ss:word@host:22/a@b",
                "sftp://me:********@host:22/a@b",
            ),
            ("sftp://me@host/a:b@c", "sftp://me@host/a:b@c"),
            ("/srv/a:b@c", "/srv/a:b@c"),
        ] {
            assert_eq!(without_password(location), shown);
            let location = location.to_owned();
            let waited = Duration::from_secs(1);
            let error = PluginError::Silent { location, waited };
            assert!(error.to_string().contains(shown));
        }
    }
}
