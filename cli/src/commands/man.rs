//! `plakar man`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::passphrase::shown;

/// Write the manual pages into a folder
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The folder; it is made if it does not exist
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl ManArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let written = std::fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(crate::args::command(), &self.folder));
        if let Err(error) = written {
            let what = format!(
                "man: cannot write the manual pages to {}",
                shown(self.folder.as_os_str())
            );
            return Err(CommandError::because(Exit::CannotCreate, &what, &error));
        }
        let folder = shown(self.folder.as_os_str());
        context.output.show(
            &json!({"event": "man", "folder": folder}),
            format_args!("man: wrote the manual pages to {folder}"),
        );
        Ok(Exit::Done)
    }
}
