//! The commands, one file each: its options, whose comments are the help, and what it does.

pub(crate) mod backup;
pub(crate) mod cat;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod connector;
pub(crate) mod create;
pub(crate) mod info;
pub(crate) mod ls;
pub(crate) mod man;
pub(crate) mod passphrase;
pub(crate) mod restore;
pub(crate) mod store;
pub(crate) mod version;

use crate::context::Context;
use crate::error::{CommandError, Exit};

/// What an operation that was stopped is called: it may have been a closed pipe and not a signal.
fn stopped(context: &Context, error: CommandError, verb: &str) -> CommandError {
    if error.exit == Exit::Interrupted && context.output.is_closed() {
        let message = format!("{verb}: stopped because nobody reads its output");
        return CommandError {
            exit: Exit::Failed,
            message,
            hint: error.hint,
        };
    }
    error
}
