//! `plakar store`.

use std::ffi::OsStr;
use std::path::Path;

use clap::{Args, Subcommand};
use plakar_core::repository::{OpenError, Repository};
use serde_json::{Map, Value, json};

use crate::config::{expand_home, is_location};
use crate::context::{Context, shown_location};
use crate::engine_errors::open_error;
use crate::error::{CommandError, Exit};
use crate::passphrase::shown;
use crate::ui::format::escaped;

/// Name repositories in the configuration, to use them as `@NAME`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  plakar store add -default home /var/backups 'passphrase_command=pass show plakar/home'
  plakar store add nas sftp://gilles@nas.example/var/backups identity_file=~/.ssh/id_ed25519
  plakar store set nas connections=8
  plakar store show
  plakar store ping nas
  plakar at @nas ls")]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Add(AddArgs),
    Set(SetArgs),
    Unset(UnsetArgs),
    Rm(RmArgs),
    Show(ShowArgs),
    Ping(PingArgs),
}

/// Name a repository
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  plakar store add nas sftp://gilles@nas.example/var/backups connections=4"
)]
struct AddArgs {
    /// Use this repository when none is named
    #[arg(long)]
    default: bool,
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    /// A path or URL
    #[arg(value_name = "LOCATION")]
    location: String,
    /// Settings; `KEY_command` runs a command and takes the first line that it prints
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Change settings of a repository
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar store set nas connections=8 location=sftp://nas.example/backups")]
struct SetArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    /// The settings
    #[arg(value_name = "KEY=VALUE", required = true)]
    settings: Vec<String>,
}

/// Remove settings of a repository
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar store unset nas connections")]
struct UnsetArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
    /// The keys
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
}

/// Forget the name of a repository; the repository itself stays
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar store rm nas")]
struct RmArgs {
    /// The name
    #[arg(value_name = "NAME")]
    name: String,
}

/// Show the named repositories and their settings
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar store show\n  plakar store show -secrets nas")]
struct ShowArgs {
    /// Show secrets as they are
    #[arg(long)]
    secrets: bool,
    /// The names [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Try to reach a repository
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  plakar store ping nas\n  plakar store ping /var/backups")]
struct PingArgs {
    /// A name, path or URL
    #[arg(value_name = "NAME")]
    name: String,
}

impl StoreArgs {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, CommandError> {
        let result = match self.action {
            Action::Add(add) => add.run(context),
            Action::Set(set) => set.run(context),
            Action::Unset(unset) => unset.run(context),
            Action::Rm(rm) => rm.run(context),
            Action::Show(show) => show.run(context),
            Action::Ping(ping) => ping.run(context),
        };
        result
            .map(|()| Exit::Done)
            .map_err(|error| error.context("store"))
    }
}

/// The name without `@`, if it can be one.
fn checked_name(name: &str) -> Result<&str, CommandError> {
    let plain = name.strip_prefix('@').unwrap_or(name);
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if plain.is_empty() || plain.starts_with('-') || !plain.chars().all(allowed) {
        let message = format!("`{}` cannot be a name", escaped(name.as_bytes()));
        return Err(CommandError::usage(message).hint("use letters, digits, `-`, `_` and `.`"));
    }
    Ok(plain)
}

fn parse_settings(settings: &[String]) -> Result<Vec<(String, String)>, CommandError> {
    let parse = |setting: &String| match setting.split_once('=') {
        Some((key, value))
            if !key.is_empty()
                && key
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-') =>
        {
            Ok((key.to_owned(), value.to_owned()))
        }
        // What stands before `=` only: the rest may be a secret.
        Some((key, _)) => Err(CommandError::usage(format!(
            "`{}` cannot be a key",
            escaped(key.as_bytes())
        ))),
        None => Err(CommandError::usage(format!(
            "`{}` is not KEY=VALUE",
            escaped(setting.as_bytes())
        ))),
    };
    settings.iter().map(parse).collect()
}

/// A location for the file: a path is made absolute, so that it means the same everywhere.
fn checked_location(location: &str) -> Result<String, CommandError> {
    if location.contains("://") || location.starts_with('~') {
        return Ok(location.to_owned());
    }
    let path = std::path::absolute(expand_home(location));
    path.ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .ok_or_else(|| {
            CommandError::usage(format!("`{}` cannot be a location", escaped(location.as_bytes())))
        })
}

fn tell(context: &Context, event: &str, name: &str, line: &str) {
    let file = context
        .config()
        .map(|config| shown(config.file.as_os_str()))
        .unwrap_or_default();
    context.output.show(
        &json!({"event": event, "name": name, "file": file}),
        format_args!("store: {line} in {file}"),
    );
}

impl AddArgs {
    fn run(&self, context: &Context) -> Result<(), CommandError> {
        let name = checked_name(&self.name)?;
        let mut editor = context.editor()?;
        if editor.config().repositories.contains_key(name) {
            return Err(
                CommandError::new(Exit::CannotCreate, format!("`{name}` exists already"))
                    .hint(format!("change it with `plakar store set {name} KEY=VALUE`")),
            );
        }
        let mut keys = vec![("location".to_owned(), checked_location(&self.location)?)];
        keys.extend(parse_settings(&self.settings)?);
        if keys.iter().filter(|(key, _)| key == "location").count() > 1 {
            return Err(
                CommandError::usage("the location is given twice").hint("leave out the setting `location=`")
            );
        }
        editor.set(name, &keys)?;
        if self.default {
            editor.set_default(Some(name));
        }
        editor.save()?;
        tell(context, "store_added", name, &format!("added @{name}"));
        Ok(())
    }
}

impl SetArgs {
    fn run(&self, context: &Context) -> Result<(), CommandError> {
        let mut keys = parse_settings(&self.settings)?;
        for (_, location) in keys.iter_mut().filter(|(key, _)| key == "location") {
            *location = checked_location(location)?;
        }
        let mut editor = context.editor()?;
        let name = editor.config().alias(&self.name)?.name.clone();
        editor.set(&name, &keys)?;
        editor.save()?;
        tell(context, "store_set", &name, &format!("changed @{name}"));
        Ok(())
    }
}

impl UnsetArgs {
    fn run(&self, context: &Context) -> Result<(), CommandError> {
        let mut editor = context.editor()?;
        let name = editor.config().alias(&self.name)?.name.clone();
        for key in &self.keys {
            if key == "location" {
                return Err(CommandError::usage("a repository must have a location")
                    .hint(format!("forget it with `plakar store rm {name}`")));
            }
            if !editor.unset(&name, key)? {
                return Err(CommandError::new(
                    Exit::Failed,
                    format!("`{name}` has no `{}`", escaped(key.as_bytes())),
                ));
            }
        }
        editor.save()?;
        tell(context, "store_unset", &name, &format!("changed @{name}"));
        Ok(())
    }
}

impl RmArgs {
    fn run(&self, context: &Context) -> Result<(), CommandError> {
        let mut editor = context.editor()?;
        let name = editor.config().alias(&self.name)?.name.clone();
        editor.remove(&name)?;
        let default = editor.config().default.as_deref();
        if default.is_some_and(|default| default.trim_start_matches('@') == name) {
            editor.set_default(None);
        }
        editor.save()?;
        tell(context, "store_removed", &name, &format!("forgot @{name}"));
        Ok(())
    }
}

impl ShowArgs {
    fn run(&self, context: &Context) -> Result<(), CommandError> {
        let config = context.config()?;
        let all: Vec<String> = config.repositories.keys().cloned().collect();
        for name in if self.names.is_empty() { &all } else { &self.names } {
            let alias = config.alias(name)?;
            let keys = alias.shown(self.secrets);
            let is_default = config
                .default
                .as_deref()
                .is_some_and(|default| default.trim_start_matches('@') == alias.name);
            let settings: Map<_, _> = keys
                .iter()
                .map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str())))
                .collect();
            let event =
                json!({"event": "store", "name": alias.name, "default": is_default, "settings": settings});
            let mut text = format!(
                "@{}{}",
                escaped(alias.name.as_bytes()),
                if is_default { " (default)" } else { "" }
            );
            for (key, value) in &keys {
                text.extend([
                    "\n  ",
                    &escaped(key.as_bytes()),
                    " = ",
                    &escaped(value.as_bytes()),
                ]);
            }
            context.output.conclude(&event, text);
        }
        Ok(())
    }
}

impl PingArgs {
    fn run(&self, context: &Context) -> Result<(), CommandError> {
        let config = context.config()?;
        let is_name = config.repositories.contains_key(self.name.as_str());
        // A misspelt name must not pass for a folder that could be made here.
        if !is_name && !is_location(&self.name) && !Path::new(&self.name).exists() {
            config.alias(&self.name)?;
        }
        let named = if is_name {
            format!("@{}", self.name)
        } else {
            self.name.clone()
        };
        let place = context.place_of(OsStr::new(&named))?;
        let storage = context.storage_at(&place).map_err(|error| CommandError {
            // Which would be to try what is being tried.
            hint: error.hint.filter(|hint| !hint.contains("store ping")),
            ..error
        })?;
        let location = shown_location(&place.location);
        match Repository::read_config(&*storage) {
            Ok(config) => {
                let id = config.repository_id.to_string();
                let encryption = if config.encrypted {
                    "encrypted"
                } else {
                    "unencrypted"
                };
                let event = json!({"event": "pong", "location": location, "repository": id, "encrypted": config.encrypted});
                context.output.conclude(
                    &event,
                    format_args!("store: {location} holds the {encryption} repository {id}"),
                );
                Ok(())
            }
            Err(OpenError::NotFound { .. } | OpenError::Empty { .. }) => {
                let event = json!({"event": "pong", "location": location, "repository": Value::Null});
                context.output.conclude(
                    &event,
                    format_args!("store: {location} can be reached and holds no repository yet"),
                );
                Ok(())
            }
            Err(error) => Err(open_error(&place, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_settings_are_checked_and_secrets_are_not_repeated() {
        assert_eq!(checked_name("@nas.2").expect("a name"), "nas.2");
        for wrong in ["", "@", "a b", "-x", "a/b"] {
            assert!(checked_name(wrong).is_err(), "{wrong}");
        }
        let settings = parse_settings(&["a=b=c".to_owned(), "k=".to_owned()]).expect("settings");
        assert_eq!(
            settings,
            [
                ("a".to_owned(), "b=c".to_owned()),
                ("k".to_owned(), String::new())
            ]
        );
        assert!(parse_settings(&["a".to_owned()]).is_err());
        let error = parse_settings(&["pass word=hunter2".to_owned()]).expect_err("a space in the key");
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn a_path_is_made_absolute_for_the_file() {
        assert_eq!(checked_location("sftp://h/p").expect("a URL"), "sftp://h/p");
        assert_eq!(checked_location("~/b").expect("a path"), "~/b");
        assert!(checked_location("b").expect("a path").starts_with('/'));
    }
}
