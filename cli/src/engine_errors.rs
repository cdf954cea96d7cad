//! What the engine's errors mean to someone at a terminal: the exit code, and what to do next.

use std::error::Error;

use plakar_core::backup::BackupError;
use plakar_core::check::CheckError;
use plakar_core::plugin::PluginError;
use plakar_core::read_error::ReadError;
use plakar_core::repository::{CreateError, OpenError, ReadFileError, Repository, SlotError};
use plakar_core::restore::RestoreError;
use plakar_core::storage::{StorageError, StorageErrorKind};

use crate::context::{Place, shown_location};
use crate::error::{CommandError, Exit, with_causes};
use crate::ui::format::escaped;

/// A failed storage call.
pub(crate) fn storage_error(error: &StorageError) -> CommandError {
    of_kind(error.kind, with_causes(error))
}

fn of_kind(kind: StorageErrorKind, message: String) -> CommandError {
    let (exit, hint) = match kind {
        StorageErrorKind::NotFound => (Exit::NotFound, None),
        StorageErrorKind::AlreadyExists => (Exit::CannotCreate, None),
        StorageErrorKind::Auth => (
            Exit::Denied,
            Some("check the credentials in the configuration or the environment"),
        ),
        StorageErrorKind::Permission => (Exit::Denied, Some("check who may read and write there")),
        StorageErrorKind::NoSpace => (
            Exit::CannotCreate,
            Some("free some space and run the same command again"),
        ),
        StorageErrorKind::Corrupt => (Exit::Damaged, Some("run `plakar check`")),
        StorageErrorKind::Cancelled => (Exit::Interrupted, None),
        StorageErrorKind::Config => (Exit::Configuration, Some("check the location and its settings")),
        StorageErrorKind::Unsupported => (Exit::Unavailable, None),
        _ => (
            Exit::Unavailable,
            Some("try again, or test the place with `plakar store ping`"),
        ),
    };
    CommandError {
        exit,
        message,
        hint: hint.map(str::to_owned),
    }
}

/// An operation that failed for a reason of its own.
fn failed(error: &dyn Error) -> CommandError {
    CommandError::new(Exit::Failed, with_causes(error))
}

/// A connector that cannot be found, loaded or opened.
pub(crate) fn connector_error(error: &PluginError) -> CommandError {
    let message = with_causes(error);
    match error {
        // Who is refused at the door is told why, and what to do, by the connector.
        PluginError::Open {
            kind: StorageErrorKind::Auth,
            ..
        } => CommandError::new(Exit::Denied, message),
        PluginError::Open { kind, .. } => CommandError {
            message,
            ..of_kind(*kind, String::new())
        },
        PluginError::Registry { .. } => CommandError::new(Exit::Configuration, message),
        PluginError::UnknownScheme { .. } | PluginError::Untrusted { .. } | PluginError::Changed { .. } => {
            CommandError::new(Exit::Unavailable, message)
        }
        _ => CommandError::new(Exit::Unavailable, message)
            .hint("list the connectors with `plakar connector list`"),
    }
}

/// A repository that cannot be created.
pub(crate) fn create_error(place: &Place<'_>, error: &CreateError) -> CommandError {
    let location = shown_location(&place.location);
    let what = format!("cannot create a repository at {location}");
    match error {
        CreateError::NotEmpty { .. } => {
            CommandError::new(Exit::CannotCreate, format!("{what}: it is not empty"))
                .hint("choose a place that is empty or does not exist")
        }
        CreateError::Unfit { promise, .. } => CommandError::new(
            Exit::Unavailable,
            format!("{what}: the storage does not promise {promise}"),
        )
        .hint("choose another storage"),
        CreateError::Storage(error) => {
            let error = storage_error(error).context(&what);
            // Whatever is in the way of creating is called that.
            let exit = if error.exit == Exit::NotFound || error.exit == Exit::Denied && !place.is_remote() {
                Exit::CannotCreate
            } else {
                error.exit
            };
            CommandError { exit, ..error }
        }
        CreateError::Open(error) => open_error(place, error).context(&what),
        CreateError::Entropy(_) | CreateError::Crypto(_) => failed(error).context(&what),
    }
}

/// A repository that cannot be opened.
pub(crate) fn open_error(place: &Place<'_>, error: &OpenError) -> CommandError {
    let location = shown_location(&place.location);
    let create = format!("create one with `plakar at {location} create`");
    match error {
        OpenError::NotFound { why, .. } => {
            // More is missing than a repository.
            let bucket = "the bucket does not exist";
            let what = if why.contains(bucket) { bucket } else { "nothing is there" };
            CommandError::new(Exit::NotFound, format!("no repository at {location}: {what}")).hint(create)
        }
        OpenError::Empty { .. } => {
            CommandError::new(Exit::NotFound, format!("no repository at {location}: the place is empty")).hint(create)
        }
        OpenError::Foreign { what, .. } => {
            CommandError::new(Exit::Configuration, format!("cannot open {location}: it holds {what}, not a repository of this program"))
                .hint("check the location")
        }
        OpenError::UnsupportedVersion { found, supported, .. } => CommandError::new(
            Exit::Configuration,
            format!("cannot open the repository at {location}: its format is version {found}, this program reads up to {supported}"),
        )
        .hint("use a newer plakar"),
        OpenError::WrongPassphrase { .. } => {
            CommandError::new(Exit::Denied, format!("wrong passphrase for the repository at {location}"))
        }
        OpenError::PassphraseNeeded { .. } => {
            CommandError::new(Exit::Denied, format!("the repository at {location} needs a passphrase"))
        }
        OpenError::Damaged { what, why, .. } => CommandError::new(
            Exit::Damaged,
            format!("cannot open the repository at {location}: {what} is damaged: {why}"),
        ),
        OpenError::Storage(cause) => storage_error(cause).context(&format!("cannot open the repository at {location}")),
    }
}

/// Something in the repository that cannot be read.
pub(crate) fn read_error(repository: &Repository, error: &ReadError) -> CommandError {
    match error {
        ReadError::Damaged { .. } => {
            let location = shown_location(repository.location());
            CommandError::new(Exit::Damaged, with_causes(error))
                .hint(format!("see what is damaged with `plakar at {location} check`"))
        }
        ReadError::Storage(error) => storage_error(error),
    }
}

/// A file of the repository that cannot be written out. `None` when nobody reads the output any more.
pub(crate) fn read_file_error(repository: &Repository, error: &ReadFileError) -> Option<CommandError> {
    match error {
        ReadFileError::Read(error) => Some(read_error(repository, error)),
        ReadFileError::Write(error) if error.kind() == std::io::ErrorKind::BrokenPipe => None,
        ReadFileError::Write(error) => Some(CommandError::because(
            Exit::Failed,
            "cannot write the output",
            error,
        )),
    }
}

/// A key slot that cannot be changed.
pub(crate) fn slot_error(repository: &Repository, error: &SlotError) -> CommandError {
    match error {
        SlotError::LastSlot(_) => failed(error).hint("add another first with `plakar passphrase add`"),
        SlotError::Missing(_) => CommandError::new(Exit::NotFound, with_causes(error)),
        SlotError::TooMany => failed(error).hint("remove one with `plakar passphrase rm`"),
        SlotError::Read(error) => read_error(repository, error),
        SlotError::Storage(error) => storage_error(error),
        SlotError::NotEncrypted | SlotError::Entropy(_) | SlotError::Crypto(_) => failed(error),
    }
}

/// A backup that could not be made.
pub(crate) fn backup_error(repository: &Repository, error: &BackupError) -> CommandError {
    match error {
        BackupError::Cancelled => {
            CommandError::new(Exit::Interrupted, "backup: stopped, no snapshot was made")
                .hint("what was stored is kept, the same command goes on from there")
        }
        BackupError::Read(error) => read_error(repository, error).context("backup"),
        BackupError::Storage(error) => storage_error(error).context("backup"),
        BackupError::Source { .. }
        | BackupError::NoSource
        | BackupError::Mixed
        | BackupError::Entropy(_)
        | BackupError::Compression(_) => failed(error).context("backup"),
    }
}

/// A restore that could not be done.
pub(crate) fn restore_error(repository: &Repository, error: &RestoreError) -> CommandError {
    match error {
        RestoreError::NoSuchPath { path } => no_such_path(path.as_bytes()),
        RestoreError::TargetExists { path } => {
            let path = escaped(path.as_bytes());
            CommandError::new(
                Exit::CannotCreate,
                format!("{path} exists already, nothing was written"),
            )
            .hint(
                "choose another folder with -to, or say what to do with -overwrite always, if-newer or never",
            )
        }
        RestoreError::Target { path, source } => {
            let what = format!("cannot write {}", escaped(path.as_bytes()));
            CommandError::because(Exit::CannotCreate, &what, source)
        }
        RestoreError::Cancelled => {
            CommandError::new(Exit::Interrupted, "stopped, not everything was restored")
                .hint("the same command with -overwrite always goes on")
        }
        RestoreError::Read(error) => read_error(repository, error),
    }
    .context("restore")
}

/// A check that could not be done.
pub(crate) fn check_error(repository: &Repository, error: &CheckError) -> CommandError {
    match error {
        CheckError::NoSuchPath { path, .. } => no_such_path(path.as_bytes()),
        CheckError::Cancelled => CommandError::new(Exit::Interrupted, "stopped, not everything was checked"),
        CheckError::Read(error) => read_error(repository, error),
    }
    .context("check")
}

/// A path that the snapshot does not have.
pub(crate) fn no_such_path(path: &[u8]) -> CommandError {
    CommandError::new(Exit::NotFound, format!("the snapshot has no {}", escaped(path)))
        .hint("see what it has with `plakar ls -recursive ID`")
}
