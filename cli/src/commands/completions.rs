//! `plakar completions`.

use clap::Args;
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
        clap_complete::generate(self.shell, &mut crate::args::command(), "plakar", &mut script);
        let script = String::from_utf8_lossy(&script);
        let event = json!({"event": "completions", "shell": self.shell.to_string(), "script": script});
        context.output.conclude(&event, script.trim_end());
        Ok(Exit::Done)
    }
}
