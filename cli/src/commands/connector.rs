//! `plakar connector`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use plakar_core::plugin::{self, ConnectorEntry, ConnectorInfo, HostOptions, PluginError};
use plakar_plugin_api::conformance::{Outcome, Verdict};
use serde_json::json;

use crate::context::{Context, FAR_TIMEOUT, host_options, shown_location};
use crate::engine_errors::connector_error;
use crate::error::{CommandError, Exit};
use crate::passphrase::shown;
use crate::registry_edit::{self, Displaced};
use crate::ui::format::{count, duration, escaped, one_line};

/// List, show, add, remove or test the connectors that reach storages
///
/// A connector is a library that serves the schemes of some URLs. It is loaded only when its content is what was pinned when
/// it was added. Registries are searched in order: -connectors FILE, ~/.config/plakar/connectors.toml,
/// /etc/plakar/connectors.toml, then the connectors that come with the program.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar connector list
  plakar connector show sftp
  plakar connector add ~/lib/libplakar_connector_ftp.so
  plakar connector remove ftp
  plakar connector check sftp://me@nas.example/tmp/try")]
pub(crate) struct ConnectorArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(ListArgs),
    Show(ShowArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    Check(CheckArgs),
}

/// List the connectors: schemes, library, and where it is registered
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar connector list")]
struct ListArgs {}

/// Load a connector and show what it says of itself
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar connector show fs")]
struct ShowArgs {
    /// One of its schemes, such as `sftp`, or the name it gives itself
    #[arg(value_name = "NAME")]
    name: String,
}

/// Register a connector: load it once, show what it is, and pin its content
///
/// This runs the library's code with your rights: add only what you trust. From then on it serves its schemes, in place of
/// any connector that did; one that has other schemes too keeps those.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar connector add ~/lib/libplakar_connector_ftp.so")]
struct AddArgs {
    /// The library
    #[arg(value_name = "FILE")]
    library: PathBuf,
}

/// Remove a connector from your registry; its library stays
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar connector remove ftp")]
struct RemoveArgs {
    /// One of its schemes, the name it gives itself, or its library
    #[arg(value_name = "NAME")]
    name: String,
}

/// Test a connector against a real location, and print a verdict for each behaviour
///
/// The location must exist. What is written there is removed again, but where folders are made an empty one may stay.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar connector check /tmp/empty\n  plakar connector check @nas")]
struct CheckArgs {
    /// A path, URL or `@alias`
    #[arg(value_name = "URL")]
    location: String,
}

impl ConnectorArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let result = match self.action {
            Action::List(ListArgs {}) => list(context),
            Action::Show(show) => show.run(context),
            Action::Add(add) => add.run(context),
            Action::Remove(remove) => remove.run(context),
            Action::Check(check) => check.run(context),
        };
        result.map_err(|error| error.context("connector"))
    }
}

fn list(context: &Context) -> Result<Exit, CommandError> {
    for ConnectorEntry {
        schemes,
        library,
        pinned,
        origin,
    } in context.registry()?.entries()
    {
        let (library, origin) = (shown(library.as_os_str()), shown(origin.as_os_str()));
        let event = json!({"event": "connector", "schemes": schemes, "library": library, "blake3": pinned, "registered_in": origin});
        let pin = if pinned.is_some() { "pinned" } else { "bundled" };
        context.output.conclude(
            &event,
            format_args!("{} {library} {pin} in {origin}", schemes.join(",")),
        );
    }
    Ok(Exit::Done)
}

fn tell(context: &Context, event: &str, info: &ConnectorInfo, ending: &str) {
    let library = shown(info.library.as_os_str());
    let event = json!({
        "event": event, "name": info.name, "version": info.version, "schemes": info.schemes, "library": library, "abi": info.abi,
        "blake3": info.blake3,
    });
    let lines = format!(
        "Name: {}\nVersion: {}\nSchemes: {}\nLibrary: {library}\nPlugin ABI: {}\nBLAKE3: {}{ending}",
        one_line(&info.name),
        one_line(&info.version),
        one_line(&info.schemes.join(", ")),
        one_line(&info.abi),
        info.blake3,
    );
    context.output.conclude(&event, lines);
}

impl ShowArgs {
    fn run(&self, context: &Context) -> Result<Exit, CommandError> {
        let registry = context.registry()?;
        let info = registry.info(&self.name).or_else(|error| match error {
            PluginError::UnknownScheme { .. } => registry.info_of_name(&self.name).ok_or(error),
            other => Err(other),
        });
        let info = info.map_err(|error| connector_error(&error))?;
        tell(context, "connector", &info, "");
        Ok(Exit::Done)
    }
}

impl AddArgs {
    fn run(&self, context: &Context) -> Result<Exit, CommandError> {
        let library = std::fs::canonicalize(&self.library).map_err(|error| {
            CommandError::because(
                Exit::Failed,
                &format!("cannot add {}", shown(self.library.as_os_str())),
                &error,
            )
        })?;
        let info = plugin::inspect(&library, &host_options()).map_err(|error| connector_error(&error))?;
        check_schemes(&info)?;
        let file = context.own_registry();
        let displaced = registry_edit::add(&file, &info)?;
        let mut ending = vec![String::new()];
        for Displaced { library, schemes } in &displaced {
            let line = format!("connector: {library} no longer serves {}", schemes.join(", "));
            ending.push(one_line(&line).into_owned());
        }
        ending.push(format!("connector: added in {}", shown(file.as_os_str())));
        tell(context, "connector_added", &info, &ending.join("\n"));
        Ok(Exit::Done)
    }
}

/// What a registry must not hold: with it, no connector at all could be used.
fn check_schemes(info: &ConnectorInfo) -> Result<(), CommandError> {
    let is_scheme = |name: &String| plugin::scheme_of(&format!("{name}://x")) == name;
    let fault = match info.schemes.iter().find(|name| !is_scheme(name)) {
        Some(name) => format!("`{}`, which cannot be the scheme of a URL", one_line(name)),
        None if info.schemes.is_empty() => "no scheme".to_owned(),
        None if info.schemes.iter().collect::<BTreeSet<_>>().len() < info.schemes.len() => {
            "a scheme twice".to_owned()
        }
        None => return Ok(()),
    };
    let library = shown(info.library.as_os_str());
    let what = format!("cannot add {library}: it says that it serves {fault}");
    Err(CommandError::new(Exit::Unavailable, what).hint("tell its author"))
}

impl RemoveArgs {
    fn run(&self, context: &Context) -> Result<Exit, CommandError> {
        let file = context.own_registry();
        let shown_file = shown(file.as_os_str());
        let removed = match registry_edit::remove(&file, &self.name)? {
            Some(schemes) => Some(schemes),
            None => match self.scheme_by_name(context, &file) {
                Some(scheme) => registry_edit::remove(&file, &scheme)?,
                None => None,
            },
        };
        let name = escaped(self.name.as_bytes());
        let Some(schemes) = removed else {
            return Err(CommandError::new(
                Exit::Failed,
                format!("no connector serves `{name}` in {shown_file}, or is called so"),
            )
            .hint("see which there are with `plakar connector list`"));
        };
        let event =
            json!({"event": "connector_removed", "name": self.name, "schemes": schemes, "file": shown_file});
        let schemes = schemes.join(", ");
        let schemes = one_line(&schemes);
        context.output.show(
            &event,
            format_args!("connector: removed {name}, which served {schemes}, from {shown_file}"),
        );
        Ok(Exit::Done)
    }

    /// A scheme of the connector in a registry file that is called so, or whose library is.
    fn scheme_by_name(&self, context: &Context, file: &Path) -> Option<String> {
        // A registry with a mistake elsewhere is no reason to refuse: then a scheme must do.
        let registry = context.registry().ok()?;
        let entries = registry.entries();
        let mut own = entries.iter().filter(|entry| entry.origin == file);
        let is_library = |entry: &&ConnectorEntry| {
            let path = &entry.library;
            path == Path::new(&self.name) || path.file_name() == Some(OsStr::new(&self.name))
        };
        let is_called = |entry: &&ConnectorEntry| {
            let mut known = entry
                .schemes
                .iter()
                .filter_map(|scheme| registry.info(scheme).ok());
            known.any(|info| info.name == self.name && info.library == entry.library)
        };
        own.clone()
            .find(is_library)
            .or_else(|| own.find(is_called))
            .and_then(|entry| entry.schemes.first().cloned())
    }
}

impl CheckArgs {
    fn run(&self, context: &Context) -> Result<Exit, CommandError> {
        let place = context.place_of(OsStr::new(&self.location))?;
        let registry = context.registry()?;
        let settings = context.settings_of(&place)?;
        // Each verdict is seen when it is reached: with a connector that hangs, the next one takes a while.
        let mut tell = |verdict: &Verdict| {
            tell_verdict(context, verdict);
            context.output.flush();
        };
        let options = HostOptions {
            request_timeout: FAR_TIMEOUT,
            ..host_options()
        };
        let report = plugin::check_telling(&registry, &place.location, &settings, &options, &mut tell);
        drop(settings);
        let report = report.map_err(|error| connector_error(&error))?;
        let (failed, all) = (report.failures().count() as u64, report.verdicts.len() as u64);
        let location = shown_location(&place.location);
        let event =
            json!({"event": "conformance", "location": location, "behaviours": all, "failed": failed});
        let behaviours = count(all, "behaviour");
        if failed == 0 {
            context.output.conclude(
                &event,
                format_args!("connector: {location} conforms in {behaviours}"),
            );
            return Ok(Exit::Done);
        }
        context.output.problem(
            &event,
            format_args!("connector: {location} fails {failed} of {behaviours}"),
        );
        Ok(Exit::Failed)
    }
}

fn tell_verdict(context: &Context, verdict: &Verdict) {
    let (word, why) = match &verdict.outcome {
        Outcome::Pass => ("pass", None),
        Outcome::Fail { why } => ("fail", Some(why)),
        Outcome::Skipped { why } => ("skip", Some(why)),
    };
    let nanoseconds = u64::try_from(verdict.elapsed.as_nanos()).unwrap_or(u64::MAX);
    let event = json!({
        "event": "verdict", "behaviour": verdict.name, "outcome": word, "why": why, "duration_nanoseconds": nanoseconds,
    });
    let mark = match word {
        "pass" => "✓",
        "skip" => "-",
        _ => "✘",
    };
    let why = why.map(|why| format!(": {}", one_line(why))).unwrap_or_default();
    context.output.show(
        &event,
        format_args!("{mark} {}{why} ({})", verdict.name, duration(nanoseconds)),
    );
}
