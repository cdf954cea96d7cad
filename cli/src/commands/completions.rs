//! `plakar completions`.

use clap::builder::ValueHint;
use clap::{Arg, Args};
use clap_complete::Shell;
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Exit};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar completions bash > ~/.local/share/bash-completion/completions/plakar
  plakar completions zsh > ~/.local/share/zsh/site-functions/_plakar
  plakar completions fish > ~/.config/fish/completions/plakar.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    #[expect(clippy::unnecessary_wraps, reason = "every command runs this way")]
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut with_at(), "plakar", &mut script);
        let script = String::from_utf8_lossy(&script);
        let event = json!({"event": "completions", "shell": self.shell.to_string(), "script": script});
        context.output.conclude(&event, script.trim_end());
        Ok(Exit::Done)
    }
}

/// The command line with `at REPOSITORY COMMAND` as a command with commands, which is what it looks like to a shell.
fn with_at() -> clap::Command {
    let plain = crate::args::command();
    let repository = Arg::new("repository")
        .value_name("REPOSITORY")
        .help("A path, a URL or `@alias`")
        .value_hint(ValueHint::DirPath)
        .required(true);
    let at = clap::Command::new("at")
        .about("Name the repository")
        .arg(repository)
        .subcommand_required(true)
        .subcommands(crate::args::on_a_repository(&plain));
    plain.subcommand(at)
}
