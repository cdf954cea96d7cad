//! What a command can fail with: an exit code, one line that says what and why, and what to do next.

use std::error::Error;
use std::fmt;

/// The exit codes, as promised to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done, all of it.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Done, but some items could not be read, restored or copied.
    Partial = 3,
    /// The command line makes no sense.
    Usage = 64,
    /// Damaged data was found.
    Damaged = 65,
    /// No such repository, snapshot, or path in one.
    NotFound = 66,
    /// A connector or a remote is unavailable.
    Unavailable = 69,
    /// A target exists or cannot be created.
    CannotCreate = 73,
    /// A passphrase or credentials are wrong or missing.
    Denied = 77,
    /// The configuration is wrong, or the format is not supported.
    Configuration = 78,
    /// Stopped by a signal.
    Interrupted = 130,
}

impl Exit {
    /// What two parts of one command come to: damage outweighs what could not be read, and that outweighs success.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Damaged, _) | (_, Self::Damaged) => Self::Damaged,
            (Self::Done, other) => other,
            (first, _) => first,
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// The exit code of the program.
    pub exit: Exit,
    /// What failed, on what, and why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl CommandError {
    /// An error without advice.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    /// A mistake on the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An error whose message is `what`, then the error and its causes.
    pub(crate) fn because(exit: Exit, what: &str, error: &dyn Error) -> Self {
        Self::new(exit, format!("{what}: {}", with_causes(error)))
    }

    /// Adds what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says first what was being done.
    #[must_use]
    pub(crate) fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// An error and its causes on one line. A cause that only repeats what stands before it is left out.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_one_line_with_its_causes_and_advice() {
        #[derive(Debug)]
        struct Outer(std::io::Error);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("cannot read the file")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let error = Outer(std::io::Error::other("disk on fire"));
        let error = CommandError::because(Exit::Failed, "backup", &error).hint("call for help");
        assert_eq!(
            error.to_string(),
            "backup: cannot read the file: disk on fire; call for help"
        );
    }
}
