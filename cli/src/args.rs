//! The command line as clap sees it: global options, commands, and what a mistake is called.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands;
use crate::error::CommandError;

/// Back up anything to anywhere: encrypted, deduplicated, verifiable.
///
/// REPOSITORY is a path, a URL (`sftp://user@host/path`, `s3://host/bucket`) or `@ALIAS` from the configuration.
/// Without `at`: `$PLAKAR_REPOSITORY`, then `default` in the configuration, then ~/.plakar.
///
/// Options may stand before or after arguments, with one dash or two: `-to DIR`, `--to DIR`, `-to=DIR`.
#[derive(Debug, Parser)]
#[command(
    name = "plakar",
    override_usage = "plakar [OPTIONS] [at REPOSITORY] COMMAND [OPTIONS] [ARGUMENTS]",
    disable_version_flag = true,
    args_override_self = true,
    subcommand_required = true,
    after_help = "\
Examples:
  plakar at /var/backups create
  plakar at /var/backups backup /etc
  plakar at /var/backups ls
  plakar at /var/backups check 9abc3294
  plakar at /var/backups restore -to /tmp/restore 9abc3294
  plakar help backup

Exit codes:
  0  all done                     69 connector or remote unavailable
  1  failed                       73 target exists or cannot be created
  3  done, except for some items  77 wrong or missing passphrase or credentials
  64 bad command line             78 bad configuration or unsupported format
  65 damaged data found           130 interrupted
  66 no such repository, snapshot or path"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) options: GlobalOptions,
    #[command(subcommand)]
    pub(crate) command: Verb,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// Show only problems and the last line
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
    /// Write each event, result, problem and error as one JSON object a line on standard output
    ///
    /// Every object has an `event` field: `item`, `problem`, `warning`, `progress`, `error` or the name of a result. A fatal
    /// error is also written as a plain line on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Read this configuration instead of ~/.config/plakar/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Look for connectors in this registry first
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) connectors: Option<PathBuf>,
    /// Take the passphrase from this file, less one newline at its end
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) keyfile: Option<PathBuf>,
    /// Keep caches here instead of ~/.cache/plakar
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Show no progress on the terminal
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Work on this many things at the same time (default: the number of processors)
    #[arg(long, global = true, value_name = "N", value_parser = at_least_one)]
    pub(crate) concurrency: Option<NonZeroUsize>,
    /// Send at most this many bytes a second, on average: 500K, 5MB, 10MiB
    #[arg(long, global = true, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_upload: Option<u64>,
    /// Receive at most this many bytes a second, on average
    #[arg(long, global = true, value_name = "RATE", value_parser = rate)]
    pub(crate) limit_download: Option<u64>,
    /// Make at most this many requests a second
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit_requests: Option<u64>,
    /// Keep no local copies of metadata that comes from far away
    #[arg(long, global = true)]
    pub(crate) no_cache: bool,
    /// Accept the key of an SSH server that is not known yet, and remember it; a changed key is refused all the same
    #[arg(long, global = true)]
    pub(crate) accept_new_host_key: bool,
    /// Write what happens inside to standard error
    #[arg(long, global = true)]
    pub(crate) trace: bool,
}

fn rate(text: &str) -> Result<u64, String> {
    let rate = text.trim_end_matches("/s").parse::<bytesize::ByteSize>();
    match rate.map(|rate| rate.as_u64()) {
        Ok(0) => Err("it must be more than 0".to_owned()),
        Ok(rate) => Ok(rate),
        Err(_unreadable) => {
            Err("it must be a number of bytes a second, such as 500K, 5MB or 10MiB".to_owned())
        }
    }
}

fn at_least_one(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse()
        .map_err(|_error: std::num::ParseIntError| "it must be a number, 1 or more")
}

/// The commands, one file each.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Version(commands::version::VersionArgs),
    Create(commands::create::CreateArgs),
    Backup(commands::backup::BackupArgs),
    Ls(commands::ls::LsArgs),
    Check(commands::check::CheckArgs),
    Restore(commands::restore::RestoreArgs),
    Cat(commands::cat::CatArgs),
    Info(commands::info::InfoArgs),
    Passphrase(commands::passphrase::PassphraseArgs),
    Store(commands::store::StoreArgs),
    Connector(commands::connector::ConnectorArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::man::ManArgs),
}

/// The commands that work on a repository, so that their usage shows where it is named.
const ON_A_REPOSITORY: [&str; 8] = [
    "create",
    "backup",
    "ls",
    "check",
    "restore",
    "cat",
    "info",
    "passphrase",
];

/// The whole command line, for parsing, completions and manual pages.
pub fn command() -> clap::Command {
    ON_A_REPOSITORY.into_iter().fold(Cli::command(), |command, name| {
        command.mut_subcommand(name, |verb| with_repository(verb, "plakar [at REPOSITORY]"))
    })
}

/// The commands that work on a repository.
pub(crate) fn on_a_repository(root: &clap::Command) -> impl Iterator<Item = clap::Command> {
    ON_A_REPOSITORY
        .into_iter()
        .filter_map(|name| root.find_subcommand(name).cloned())
}

fn with_repository(verb: clap::Command, before: &str) -> clap::Command {
    let path = format!("{before} {}", verb.get_name());
    let usage = verb.clone().bin_name(&path).render_usage().to_string();
    let names: Vec<_> = verb
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .collect();
    let verb = names.into_iter().fold(verb, |verb, name| {
        verb.mut_subcommand(name, |verb| with_repository(verb, &path))
    });
    verb.override_usage(usage.trim_start_matches("Usage:").trim().to_owned())
}

/// What a refused command line is, on one line. `verb` is the command that was recognised.
pub(crate) fn usage_error(error: &clap::Error, verb: &[String]) -> CommandError {
    let name = verb.join(" ");
    let help = if name.is_empty() {
        "see `plakar help`".to_owned()
    } else {
        format!("see `plakar help {name}`")
    };
    let argument = context(error, ContextKind::InvalidArg).unwrap_or_default();
    let value = context(error, ContextKind::InvalidValue).unwrap_or_default();
    let message = match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            if name.is_empty() =>
        {
            "no command given".to_owned()
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("`{name}` needs one of its commands")
        }
        ErrorKind::InvalidSubcommand => {
            format!(
                "no such command `{}`",
                context(error, ContextKind::InvalidSubcommand).unwrap_or_default()
            )
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => format!("unknown option `{argument}`"),
        ErrorKind::UnknownArgument => format!("unexpected argument `{argument}`"),
        ErrorKind::MissingRequiredArgument => format!("missing {argument}"),
        ErrorKind::ArgumentConflict => format!(
            "`{argument}` cannot be used with `{}`",
            context(error, ContextKind::PriorArg).unwrap_or_else(|| "the other arguments".to_owned())
        ),
        ErrorKind::InvalidValue if value.is_empty() => format!("`{argument}` needs a value"),
        _ => first_line(error),
    };
    let message = match suggestion(error) {
        Some(suggestion) => format!("{message} (did you mean `{suggestion}`?)"),
        None => message,
    };
    let message = if name.is_empty() {
        message
    } else {
        format!("{name}: {message}")
    };
    CommandError::usage(message).hint(help)
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => Some(texts.join(", ")),
        other => Some(other.to_string()),
    }
}

fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ];
    kinds.into_iter().find_map(|kind| context(error, kind))
}

/// The first paragraph of clap's own words, on one line.
fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    line.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(words: &[&str], verb: &[&str]) -> String {
        let words = std::iter::once("plakar").chain(words.iter().copied());
        let error = command()
            .try_get_matches_from(words)
            .expect_err("the words make no sense");
        let verb: Vec<_> = verb.iter().map(|&name| name.to_owned()).collect();
        usage_error(&error, &verb).to_string()
    }

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn the_usage_of_a_command_shows_where_the_repository_is_named() {
        let mut command = command();
        command.build();
        let backup = command
            .find_subcommand_mut("backup")
            .expect("backup is a command");
        let usage = backup.render_usage().to_string();
        assert_eq!(usage, "Usage: plakar [at REPOSITORY] backup [OPTIONS] [PATH]...");
        let change = command
            .find_subcommand_mut("passphrase")
            .and_then(|verb| verb.find_subcommand_mut("add"));
        let usage = change.expect("add is a command").render_usage().to_string();
        assert_eq!(usage, "Usage: plakar [at REPOSITORY] passphrase add [OPTIONS]");
    }

    #[test]
    fn a_mistake_is_told_on_one_line_with_what_to_do() {
        assert_eq!(refusal(&[], &[]), "no command given; see `plakar help`");
        assert_eq!(
            refusal(&["passphrase"], &["passphrase"]),
            "passphrase: `passphrase` needs one of its commands; see `plakar help passphrase`"
        );
        assert_eq!(
            refusal(&["bakup"], &[]),
            "no such command `bakup` (did you mean `backup`?); see `plakar help`"
        );
        assert_eq!(
            refusal(&["restore", "--too=x"], &["restore"]),
            "restore: unknown option `--too` (did you mean `--to`?); see `plakar help restore`"
        );
        assert_eq!(
            refusal(&["backup", "--tag"], &["backup"]),
            "backup: `--tag <TAG,…>` needs a value; see `plakar help backup`"
        );
        assert_eq!(
            refusal(&["cat"], &["cat"]),
            "cat: missing <ID:PATH>...; see `plakar help cat`"
        );
        assert!(refusal(&["--concurrency=0", "ls"], &["ls"]).contains("it must be a number, 1 or more"));
    }
}
