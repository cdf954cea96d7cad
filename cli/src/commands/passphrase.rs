//! `plakar passphrase`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use plakar_core::id::SlotId;
use plakar_core::repository::{Repository, SlotInfo};
use serde_json::json;

use crate::context::{Context, shown_location};
use crate::engine_errors::{read_error, slot_error};
use crate::error::{CommandError, Exit};
use crate::passphrase::{Secret, Strength, accept_new, ask_new};
use crate::ui::format::{escaped, time};
use crate::ui::json::time as precise_time;

/// Change, add, remove or list the passphrases of the repository
///
/// A repository may have several passphrases, each in a key slot of its own. No data is written again. A passphrase that
/// somebody else knew protects nothing they could copy before it was removed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar passphrase change
  plakar passphrase add -label 'the office safe'
  plakar passphrase ls
  plakar passphrase rm 5d41402a")]
pub(crate) struct PassphraseArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Change(NewArgs),
    Add(AddArgs),
    Rm(RmArgs),
    Ls(LsArgs),
}

/// Replace the passphrase that you give
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  plakar passphrase change\n  plakar passphrase change -new-keyfile /root/plakar.key"
)]
struct NewArgs {
    /// Take the new passphrase from this file, less one newline at its end [else: `$PLAKAR_NEW_PASSPHRASE`, or it is asked for]
    #[arg(long, value_name = "FILE")]
    new_keyfile: Option<PathBuf>,
    /// Accept a new passphrase that is easy to guess
    #[arg(long)]
    weak_passphrase: bool,
}

/// Add another passphrase
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar passphrase add -label 'the office safe'")]
struct AddArgs {
    /// What to call it in the list
    #[arg(long, default_value = "", hide_default_value = true)]
    label: String,
    #[command(flatten)]
    new: NewArgs,
}

/// Remove a passphrase; the last one stays
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar passphrase rm 5d41402a")]
struct RmArgs {
    /// The first digits of the slot's id, from `plakar passphrase ls`
    #[arg(value_name = "SLOT")]
    slot: String,
}

/// List the key slots; `*` marks the one that you opened
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar passphrase ls")]
struct LsArgs {}

impl PassphraseArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let (repository, _) = context.open()?;
        if !repository.config().encrypted {
            let location = shown_location(repository.location());
            return Err(CommandError::new(
                Exit::Failed,
                format!("passphrase: the repository at {location} is not encrypted"),
            )
            .hint("create an encrypted one and back up to that"));
        }
        let result = match self.action {
            Action::Change(new) => change(context, &repository, &new),
            Action::Add(add) => add.run(context, &repository),
            Action::Rm(rm) => rm.run(context, &repository),
            Action::Ls(LsArgs {}) => list(context, &repository),
        };
        result
            .map(|()| Exit::Done)
            .map_err(|error| error.context("passphrase"))
    }
}

impl NewArgs {
    fn secret(&self) -> Result<Secret, CommandError> {
        let strength = if self.weak_passphrase {
            Strength::Any
        } else {
            Strength::Strong
        };
        let given = self
            .new_keyfile
            .as_deref()
            .map(Secret::from_keyfile)
            .transpose()?;
        match given.or_else(|| Secret::from_variable("PLAKAR_NEW_PASSPHRASE")) {
            Some(secret) => accept_new(secret, strength),
            None => ask_new(
                "new repository passphrase",
                strength,
                "use -new-keyfile FILE or PLAKAR_NEW_PASSPHRASE",
            ),
        }
    }
}

fn slots(repository: &Repository) -> Result<Vec<SlotInfo>, CommandError> {
    repository.slots().map_err(|error| read_error(repository, &error))
}

fn change(context: &Context, repository: &Repository, new: &NewArgs) -> Result<(), CommandError> {
    let old = slots(repository)?.into_iter().find(|slot| slot.unlocked_by_us);
    let secret = new.secret()?;
    let label = old.as_ref().map_or("", |slot| slot.label.as_str());
    // First the new one, so that there is always one that works.
    let added = repository
        .add_slot(&secret.passphrase(), label)
        .map_err(|error| slot_error(repository, &error))?;
    if let Some(old) = &old {
        repository
            .remove_slot(old.id)
            .map_err(|error| slot_error(repository, &error))?;
    }
    let event = json!({"event": "passphrase_changed", "slot": added.to_string(), "removed": old.map(|old| old.id.to_string())});
    context.output.conclude(
        &event,
        format_args!("passphrase: changed, the slot is {}", added.short()),
    );
    Ok(())
}

impl AddArgs {
    fn run(&self, context: &Context, repository: &Repository) -> Result<(), CommandError> {
        let secret = self.new.secret()?;
        let added = repository
            .add_slot(&secret.passphrase(), &self.label)
            .map_err(|error| slot_error(repository, &error))?;
        let event = json!({"event": "passphrase_added", "slot": added.to_string(), "label": self.label});
        context
            .output
            .conclude(&event, format_args!("passphrase: added slot {}", added.short()));
        Ok(())
    }
}

impl RmArgs {
    fn run(&self, context: &Context, repository: &Repository) -> Result<(), CommandError> {
        let ids: Vec<_> = slots(repository)?.into_iter().map(|slot| slot.id).collect();
        let id = unique(&self.slot, &ids)?;
        repository
            .remove_slot(id)
            .map_err(|error| slot_error(repository, &error))?;
        let event = json!({"event": "passphrase_removed", "slot": id.to_string()});
        context
            .output
            .conclude(&event, format_args!("passphrase: removed slot {}", id.short()));
        Ok(())
    }
}

fn unique(prefix: &str, ids: &[SlotId]) -> Result<SlotId, CommandError> {
    let prefix = prefix.to_ascii_lowercase();
    let matching: Vec<_> = ids
        .iter()
        .filter(|id| id.to_string().starts_with(&prefix))
        .collect();
    match matching.as_slice() {
        _ if prefix.is_empty() => Err(CommandError::usage("the slot's id is empty")),
        [id] => Ok(**id),
        [] => Err(CommandError::new(
            Exit::NotFound,
            format!("no key slot `{}`", escaped(prefix.as_bytes())),
        )),
        _ => Err(CommandError::usage(format!(
            "`{prefix}` is ambiguous: {} key slots match",
            matching.len()
        ))),
    }
    .map_err(|error: CommandError| error.hint("list the slots with `plakar passphrase ls`"))
}

fn list(context: &Context, repository: &Repository) -> Result<(), CommandError> {
    for slot in slots(repository)? {
        let event = json!({
            "event": "slot", "slot": slot.id.to_string(), "label": slot.label, "created": precise_time(slot.created),
            "in_use": slot.unlocked_by_us,
        });
        let mark = if slot.unlocked_by_us { "*" } else { " " };
        let line = format!(
            "{} {}{mark} {}",
            time(slot.created),
            slot.id.short(),
            escaped(slot.label.as_bytes())
        );
        context.output.conclude(&event, line.trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_by_an_unambiguous_prefix() {
        let ids = [SlotId([0xab; 16]), SlotId([0xac; 16])];
        assert_eq!(unique("AB", &ids).expect("one"), ids[0]);
        assert_eq!(unique("a", &ids).expect_err("two").exit, Exit::Usage);
        assert_eq!(unique("", &ids).expect_err("none given").exit, Exit::Usage);
        assert_eq!(unique("f", &ids).expect_err("none").exit, Exit::NotFound);
    }
}
