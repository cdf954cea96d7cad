//! The terminal side of plakar: flags, configuration, environment, passphrases, and everything that is printed.
//!
//! Architecture Invariant: nothing below this crate prints, reads the environment or knows a flag.

mod args;
mod argv;
mod commands;
mod config;
mod context;
mod engine_errors;
mod error;
mod estimate;
mod interrupt;
mod passphrase;
mod patterns;
mod registry_edit;
mod selection;
mod ui;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::FromArgMatches;
use clap::error::ErrorKind;
use rustix::process::{Resource, getrlimit, setrlimit};

pub use args::command;
use args::{Cli, Verb};
use context::Context;
use error::{CommandError, Exit};
use ui::Output;
use ui::lines::Verbosity;

/// Runs the command line (without the program's name) and returns the exit code.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let asks_for_json = argv::asks_for_json(&words);
    let (output, result) = match parse(words) {
        Ok(Parsed::Run(cli, repository)) => {
            let verbosity = Verbosity {
                quiet: cli.options.quiet,
                json: cli.options.json,
            };
            let output = Arc::new(Output::new(verbosity));
            let result = start(&output, *cli, repository);
            (output, result)
        }
        Ok(Parsed::Help(help)) => {
            let output = Arc::new(Output::new(Verbosity {
                json: asks_for_json,
                quiet: false,
            }));
            if asks_for_json {
                output.write_event(&serde_json::json!({"event": "help", "text": help.to_string()}));
            } else {
                output.gather(|buffer| {
                    buffer.extend_from_slice(rendered(&help).as_bytes());
                    Ok(())
                });
            }
            (output, Ok(Exit::Done))
        }
        Err(error) => {
            let verbosity = Verbosity {
                json: asks_for_json,
                quiet: false,
            };
            (Arc::new(Output::new(verbosity)), Err(error))
        }
    };
    finish(&output, result)
}

/// What a command line asks for.
enum Parsed {
    Run(Box<Cli>, Option<OsString>),
    Help(clap::builder::StyledStr),
}

fn parse(words: Vec<OsString>) -> Result<Parsed, CommandError> {
    let root = command();
    let normalised = argv::normalise(&root, words)?;
    let words = std::iter::once(OsString::from("plakar")).chain(normalised.words);
    let parsed = root
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli), normalised.repository)),
        Err(error) if error.kind() == ErrorKind::DisplayHelp => Ok(Parsed::Help(error.render())),
        Err(error) => Err(args::usage_error(&error, &normalised.command)),
    }
}

/// Help, with colours where they are wanted.
fn rendered(help: &clap::builder::StyledStr) -> String {
    let wanted = std::io::IsTerminal::is_terminal(&std::io::stdout())
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_some_and(|value| value != "dumb");
    if wanted {
        help.ansi().to_string()
    } else {
        help.to_string()
    }
}

fn start(output: &Arc<Output>, cli: Cli, repository: Option<OsString>) -> Result<Exit, CommandError> {
    trace(output, &cli.options);
    raise_file_limit();
    if let Err(error) = interrupt::install() {
        return Err(CommandError::because(
            Exit::Failed,
            "cannot listen for signals",
            &error,
        ));
    }
    let context = Context::new(Arc::clone(output), cli.options, repository);
    let result = run(cli.command, &context);
    if output.verbosity().json
        && let Some(totals) = context.traffic()
    {
        output.write_event(&ui::json::traffic(&totals));
    }
    result
}

fn run(verb: Verb, context: &Context) -> Result<Exit, CommandError> {
    match verb {
        Verb::Version(verb) => verb.run(context),
        Verb::Create(verb) => verb.run(context),
        Verb::Backup(verb) => verb.run(context),
        Verb::Ls(verb) => verb.run(context),
        Verb::Check(verb) => verb.run(context),
        Verb::Restore(verb) => verb.run(context),
        Verb::Cat(verb) => verb.run(context),
        Verb::Info(verb) => verb.run(context),
        Verb::Passphrase(verb) => verb.run(context),
        Verb::Store(verb) => verb.run(context),
        Verb::Connector(verb) => verb.run(context),
        Verb::Completions(verb) => verb.run(context),
        Verb::Man(verb) => verb.run(context),
    }
}

fn finish(output: &Output, result: Result<Exit, CommandError>) -> ExitCode {
    let exit = match result {
        Ok(exit) => exit,
        Err(error) => {
            output.error(&error);
            error.exit
        }
    };
    if let Err(error) = output.finish() {
        output.error(&CommandError::because(
            Exit::Failed,
            "cannot write the output",
            &error,
        ));
        return ExitCode::from(if exit == Exit::Done {
            Exit::Failed as u8
        } else {
            exit as u8
        });
    }
    ExitCode::from(exit as u8)
}

/// Sends what connectors and the engine log to standard error, above the progress bar.
fn trace(output: &Arc<Output>, options: &args::GlobalOptions) {
    let level = match (options.trace, options.quiet) {
        (true, _) => tracing::Level::TRACE,
        (false, true) => tracing::Level::ERROR,
        (false, false) => tracing::Level::WARN,
    };
    let writer = ui::lines::LogWriter::new(Arc::clone(output));
    let logger = tracing_subscriber::fmt()
        .with_writer(writer)
        .with_max_level(level)
        .with_ansi(false);
    let set = if options.trace {
        logger.try_init()
    } else {
        logger.without_time().with_target(false).try_init()
    };
    // Fails only when a program that embeds this library has its own logger, which is then the one to use.
    drop(set);
}

/// A backup has many files and objects open: allow as many as the administrator does.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}
