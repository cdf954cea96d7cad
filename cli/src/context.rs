//! What every command is given: the options, the output, and the way to the configuration, the connectors and the
//! repository.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plakar_core::environment::{Environment, Timestamp};
use plakar_core::id::SnapshotId;
use plakar_core::plugin::{HostOptions, PluginError, Registry};
use plakar_core::repository::{Found, OpenError, OpenOptions, Repository};
use plakar_core::storage::counted::{Traffic, TrafficTotals};
use plakar_core::storage::decorate::{Decoration, decorate};
use plakar_core::storage::limited::{Limits, Throttle};
use plakar_core::storage::pace::Pace;
use plakar_core::storage::retried::Retried;
use plakar_core::storage::{Storage, StorageErrorKind};
use zeroize::Zeroize;

use crate::args::GlobalOptions;
use crate::config::{Alias, Config, Editor, expand_home, is_location, mask_password};
use crate::engine_errors::{connector_error, open_error};
use crate::error::{CommandError, Exit};
use crate::interrupt;
use crate::passphrase::{self, Secret};
use crate::ui::Output;
use crate::ui::format::{escaped, one_line};
use crate::ui::json::ProblemEvent;

/// Local copies of metadata, of all repositories together.
const CACHE_BYTES: u64 = 6 << 30;

/// How long a call to another machine may show no life. A disk of this one may have to wake up.
pub(crate) const FAR_TIMEOUT: Duration = Duration::from_mins(2);
/// How long a connector that has to reach something may take to open, unless its `connect_timeout_seconds` wants more.
const FAR_OPEN_TIMEOUT: Duration = Duration::from_mins(2);
const LONGEST_OPEN_TIMEOUT: Duration = Duration::from_mins(30);

/// The options and what they lead to.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where everything is shown.
    pub(crate) output: Arc<Output>,
    /// The global options.
    pub(crate) options: GlobalOptions,
    /// Time and randomness.
    pub(crate) environment: Environment,
    at: Option<OsString>,
    config: OnceCell<Config>,
    traffic: OnceCell<Arc<Traffic>>,
}

/// Where a repository is and what is known about it.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// A URL or an absolute path.
    pub(crate) location: String,
    /// The configuration that it came from.
    pub(crate) alias: Option<&'a Alias>,
}

impl Place<'_> {
    /// Whether it is reached by a URL.
    pub(crate) fn is_remote(&self) -> bool {
        self.location.contains("://")
    }

    /// Whether it is reached by other means than the file system.
    pub(crate) fn is_far(&self) -> bool {
        self.is_remote() && self.local_path().is_none()
    }

    /// The folder of the repository, when it is one of this machine.
    pub(crate) fn local_path(&self) -> Option<PathBuf> {
        let path = self
            .location
            .strip_prefix("fs://")
            .or_else(|| self.location.strip_prefix("file://"));
        let path = Path::new(path.unwrap_or(&self.location));
        path.is_absolute().then(|| path.to_owned())
    }

    /// What the configuration says to the connector, with commands run.
    fn settings(&self) -> Result<SecretSettings, CommandError> {
        self.alias
            .map_or_else(|| Ok(BTreeMap::new()), Alias::settings)
            .map(SecretSettings)
    }
}

/// Settings of a connector, wiped after use: some are secrets.
pub(crate) struct SecretSettings(BTreeMap<String, String>);

impl Deref for SecretSettings {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for SecretSettings {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

impl Context {
    /// A context; `at` is what stood after `at`.
    pub(crate) fn new(output: Arc<Output>, options: GlobalOptions, at: Option<OsString>) -> Self {
        Self {
            output,
            options,
            environment: Environment::system(),
            at,
            config: OnceCell::new(),
            traffic: OnceCell::new(),
        }
    }

    /// The wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.environment.clock.now()
    }

    /// How many things to do at the same time.
    pub(crate) fn workers(&self) -> usize {
        let available = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.options.concurrency.map_or_else(available, NonZeroUsize::get)
    }

    /// The configuration, read once.
    pub(crate) fn config(&self) -> Result<&Config, CommandError> {
        if let Some(config) = self.config.get() {
            return Ok(config);
        }
        let config = match &self.options.config {
            Some(file) => Config::load(file, true)?,
            None => Config::load(&config_folder().join("config.toml"), false)?,
        };
        if let Some(warning) = &config.warning {
            self.output.warn(warning);
        }
        Ok(self.config.get_or_init(|| config))
    }

    /// The configuration, to be changed by nobody else meanwhile.
    pub(crate) fn editor(&self) -> Result<Editor, CommandError> {
        Editor::open(&self.config()?.file)
    }

    /// The registry files, first the one that wins.
    pub(crate) fn registry_files(&self) -> Vec<PathBuf> {
        let system = Path::new("/etc/plakar/connectors.toml").to_owned();
        self.options
            .connectors
            .iter()
            .cloned()
            .chain([user_registry(), system])
            .collect()
    }

    /// The registry file that `connector add` and `connector remove` change.
    pub(crate) fn own_registry(&self) -> PathBuf {
        self.options.connectors.clone().unwrap_or_else(user_registry)
    }

    /// The connectors that can be used.
    pub(crate) fn registry(&self) -> Result<Registry, CommandError> {
        if let Some(file) = &self.options.connectors
            && let Err(error) = std::fs::metadata(file)
        {
            let what = format!(
                "cannot read the connector registry {}",
                passphrase::shown(file.as_os_str())
            );
            return Err(CommandError::because(Exit::Configuration, &what, &error));
        }
        Registry::load(&self.registry_files(), &bundled_folders()).map_err(|error| connector_error(&error))
    }

    /// The repository that is meant: `at`, `$PLAKAR_REPOSITORY`, `default`, ~/.plakar.
    pub(crate) fn place(&self) -> Result<Place<'_>, CommandError> {
        if let Some(at) = &self.at {
            return self.place_of(at);
        }
        if let Some(variable) = std::env::var_os("PLAKAR_REPOSITORY").filter(|value| !value.is_empty()) {
            return self.place_of(&variable);
        }
        match &self.config()?.default {
            Some(default) if is_location(default) => self.place_of(OsStr::new(default)),
            Some(default) => self.place_of(OsStr::new(&format!("@{}", default.trim_start_matches('@')))),
            None => self.place_of(expand_home("~/.plakar").as_os_str()),
        }
    }

    /// A repository by path, URL or `@alias`.
    pub(crate) fn place_of(&self, text: &OsStr) -> Result<Place<'_>, CommandError> {
        let Some(location) = text.to_str() else {
            return Err(CommandError::usage(format!(
                "the repository {} must be named in UTF-8",
                passphrase::shown(text)
            )));
        };
        if location.starts_with('@') {
            let alias = self.config()?.alias(location)?;
            return Ok(Place {
                location: absolute(&alias.location)?,
                alias: Some(alias),
            });
        }
        Ok(Place {
            location: absolute(location)?,
            alias: None,
        })
    }

    /// Opens the connector of a place. Nothing is read yet.
    pub(crate) fn storage_at(&self, place: &Place<'_>) -> Result<Arc<dyn Storage>, CommandError> {
        let registry = self.registry()?;
        let settings = self.settings_of(place)?;
        let pace = Pace::new(self.environment.clone(), Some(interrupt::stopping()));
        let decoration = self.decoration();
        let patience = host_options().request_timeout;
        let options = HostOptions {
            request_timeout: if place.is_far() {
                patience.min(FAR_TIMEOUT)
            } else {
                patience
            },
            open_timeout: if place.is_far() {
                // A connector has times of its own for each step; this is for one that hangs.
                let told = settings.get("connect_timeout_seconds");
                let told = told
                    .and_then(|seconds| seconds.parse().ok())
                    .map(Duration::from_secs);
                // To connect, and to start.
                (2 * told.unwrap_or_default().min(LONGEST_OPEN_TIMEOUT)).max(FAR_OPEN_TIMEOUT)
            } else {
                host_options().open_timeout
            },
            throttle: decoration
                .limits
                .any()
                .then(|| Arc::new(Throttle::new(decoration.limits, pace.clone()))),
            ..host_options()
        };
        let opened = Retried::open_patiently(
            decoration.retry,
            &pace,
            &shown_location(&place.location),
            || registry.open(&place.location, &settings, &options),
            |error| {
                matches!(error, PluginError::Open { kind, .. }
                    if matches!(kind, StorageErrorKind::Transient | StorageErrorKind::Timeout))
            },
        );
        let storage = opened.map_err(|error| {
            let wrong_location = matches!(error, PluginError::UnknownScheme { .. });
            let error = connector_error(&error);
            match place.alias {
                // What the file says is wrong: say where.
                Some(alias) if wrong_location || error.exit == Exit::Configuration => {
                    let fault = alias.place_of_fault(&error.message);
                    CommandError {
                        exit: Exit::Configuration,
                        ..error
                    }
                    .context(&fault)
                }
                _ => error,
            }
        })?;
        let (storage, traffic) = decorate(storage, decoration, &pace);
        // Of several repositories, the first is the one that the command works on.
        let _not_first = self.traffic.set(traffic).is_err();
        Ok(storage)
    }

    /// What the connector is told: the alias's own keys, then what the options say.
    pub(crate) fn settings_of(&self, place: &Place<'_>) -> Result<SecretSettings, CommandError> {
        let mut settings = place.settings()?;
        // Others have no such keys, and refuse settings that they do not know.
        if self.options.accept_new_host_key && place.location.starts_with("sftp://") {
            settings
                .0
                .insert("accept_new_host_key".to_owned(), "true".to_owned());
        }
        Ok(settings)
    }

    fn decoration(&self) -> Decoration {
        Decoration {
            limits: Limits {
                upload_bytes: self.options.limit_upload,
                download_bytes: self.options.limit_download,
                requests: self.options.limit_requests,
            },
            ..Decoration::default()
        }
    }

    /// What was asked of the storage up to now, if one was opened.
    pub(crate) fn traffic(&self) -> Option<TrafficTotals> {
        self.traffic.get().map(|traffic| traffic.totals())
    }

    /// Opens the repository that is meant, asking for the passphrase where needed.
    pub(crate) fn open(&self) -> Result<(Repository, Place<'_>), CommandError> {
        let place = self.place()?;
        match self.open_at(&place) {
            Ok(repository) => Ok((repository, place)),
            Err(error) => Err(self.with_forgotten_sign(error)),
        }
    }

    /// Who writes `at nas` for `at @nas` is not told to create a repository in the folder `nas`.
    fn with_forgotten_sign(&self, error: CommandError) -> CommandError {
        let at = self.at.as_deref().and_then(OsStr::to_str).unwrap_or_default();
        let known = || {
            self.config()
                .is_ok_and(|config| config.repositories.contains_key(at))
        };
        if error.exit == Exit::NotFound && known() {
            return error.hint(format!("the repository that is called {at} is `at @{at}`"));
        }
        error
    }

    fn open_at(&self, place: &Place<'_>) -> Result<Repository, CommandError> {
        let storage = self.storage_at(place)?;
        let found =
            Repository::find_at(storage, place.is_far()).map_err(|error| open_error(place, &error))?;
        let secret = self.given_secret(place)?;
        if !found.config().encrypted {
            self.accept_unencrypted(place, secret.is_some())?;
            return self
                .unlock(&found, place, None)
                .map_err(|error| open_error(place, &error));
        }
        match secret.or_else(|| Secret::from_variable("PLAKAR_PASSPHRASE")) {
            Some(secret) => self
                .unlock(&found, place, Some(&secret))
                .map_err(|error| open_error(place, &error)),
            None => self.unlock_by_asking(&found, place),
        }
    }

    /// Whoever controls the storage could put an unencrypted repository in place of an encrypted one, to be sent
    /// plain data. So one that has a passphrase configured must be encrypted.
    fn accept_unencrypted(&self, place: &Place<'_>, secret_given: bool) -> Result<(), CommandError> {
        if secret_given {
            let location = shown_location(&place.location);
            let message = format!(
                "the repository at {location} is not encrypted, though a passphrase is configured for it"
            );
            return Err(CommandError::new(Exit::Denied, message)
                .hint("make sure that nobody replaced it, then leave the passphrase out"));
        }
        if Secret::from_variable("PLAKAR_PASSPHRASE").is_some() {
            self.output
                .warn("PLAKAR_PASSPHRASE is not used: the repository is not encrypted");
        }
        Ok(())
    }

    /// The secret that the options or the configuration give.
    pub(crate) fn given_secret(&self, place: &Place<'_>) -> Result<Option<Secret>, CommandError> {
        match (&self.options.keyfile, place.alias) {
            (Some(keyfile), _) => Secret::from_keyfile(keyfile).map(Some),
            (None, Some(alias)) => alias.passphrase(),
            (None, None) => Ok(None),
        }
    }

    fn unlock_by_asking(&self, found: &Found, place: &Place<'_>) -> Result<Repository, CommandError> {
        let mut tries = 1;
        loop {
            let secret = passphrase::ask("repository passphrase:", passphrase::HOW_TO_GIVE)?;
            match self.unlock(found, place, Some(&secret)) {
                Err(OpenError::WrongPassphrase { .. }) if tries < passphrase::TRIES => {
                    tries += 1;
                    passphrase::tell("wrong passphrase, try again");
                }
                result => return result.map_err(|error| open_error(place, &error)),
            }
        }
    }

    fn unlock(
        &self,
        found: &Found,
        place: &Place<'_>,
        secret: Option<&Secret>,
    ) -> Result<Repository, OpenError> {
        let passphrase = secret.map(Secret::passphrase);
        let options = OpenOptions {
            heap_index_bytes: None,
            cache_directory: self.cache_folder(),
            cache_bytes: (!self.options.no_cache).then_some(CACHE_BYTES),
            far: place.is_far(),
        };
        found.unlock(passphrase.as_ref(), options, self.environment.clone())
    }

    fn cache_folder(&self) -> Option<PathBuf> {
        let home = || xdg_folder("XDG_CACHE_HOME", ".cache");
        self.options.cache_dir.clone().or_else(home)
    }

    /// Shows that a snapshot cannot be read while the rest goes on.
    pub(crate) fn snapshot_problem(&self, id: SnapshotId, message: &str) {
        self.output.problem(
            &ProblemEvent::new(Some(&id.to_string()), b"", message),
            format_args!("{}: ✘ {}", id.short(), one_line(message)),
        );
    }
}

/// How connectors are run.
pub(crate) fn host_options() -> HostOptions {
    HostOptions {
        cancelled: Some(interrupt::stopping()),
        ..HostOptions::default()
    }
}

/// A location without its password and without control characters.
pub(crate) fn shown_location(location: &str) -> String {
    escaped(mask_password(location).as_bytes()).into_owned()
}

/// A URL as it is; a path made absolute, with `~` replaced.
fn absolute(location: &str) -> Result<String, CommandError> {
    if location.contains("://") {
        return Ok(location.to_owned());
    }
    let unusable = |why: String| {
        CommandError::usage(format!(
            "the repository `{}` cannot be used: {why}",
            escaped(location.as_bytes())
        ))
    };
    let path = std::path::absolute(expand_home(location)).map_err(|error| unusable(error.to_string()))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| unusable(format!("{} is not UTF-8", escaped(path.as_bytes()))))
}

/// Where the user's configuration is.
fn config_folder() -> PathBuf {
    xdg_folder("XDG_CONFIG_HOME", ".config").unwrap_or_else(|| PathBuf::from("/nonexistent"))
}

fn user_registry() -> PathBuf {
    config_folder().join("connectors.toml")
}

/// `$VARIABLE/plakar`, or `~/DEFAULT/plakar`. The XDG specification ignores relative paths in its variables.
fn xdg_folder(variable: &str, default: &str) -> Option<PathBuf> {
    let base = std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let base = base.or_else(|| std::env::home_dir().map(|home| home.join(default)))?;
    Some(base.join("plakar"))
}

/// Where the connectors are that come with the program: beside it, or under the same prefix.
fn bundled_folders() -> Vec<PathBuf> {
    let Ok(program) = std::env::current_exe().and_then(std::fs::canonicalize) else {
        return Vec::new();
    };
    let Some(folder) = program.parent() else {
        return Vec::new();
    };
    let prefix = folder.parent().map(|prefix| prefix.join("lib/plakar/connectors"));
    prefix.into_iter().chain([folder.to_owned()]).collect()
}
