//! `plakar version`.

use clap::Args;
use plakar_core::format::FORMAT_VERSION;
use plakar_plugin_api::abi::ABI_MINOR;
use serde_json::json;

use crate::context::Context;
use crate::error::{CommandError, Exit};

/// Show the versions of the program, of the repository format and of the plugin interface
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar version\n  plakar version -json")]
pub(crate) struct VersionArgs {}

impl VersionArgs {
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "every command runs this way"
    )]
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let version = concat!("v", env!("CARGO_PKG_VERSION"));
        // The library loads any connector of the same major version.
        let (format, abi) = (FORMAT_VERSION, format!("1.{ABI_MINOR}"));
        context.output.conclude(
            &json!({"event": "version", "version": version, "format": format, "plugin_abi": abi}),
            format_args!("plakar/{version}\nrepository format {format}\nplugin ABI {abi}"),
        );
        Ok(Exit::Done)
    }
}
