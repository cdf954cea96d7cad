//! The configuration file: what a repository is called, where it is, and what its connector is told. Reading checks
//! everything and names the line; writing keeps comments and layout.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use toml_edit::{Document, DocumentMut, Item, Key, Table, TableLike, Value};
use zeroize::Zeroizing;

use crate::error::{CommandError, Exit};
use crate::passphrase::{Secret, shown};

/// The ending that makes a key's value the output of a command.
const COMMAND_ENDING: &str = "_command";
/// Keys that this program uses itself; the others are the connector's.
const OWN_KEYS: [&str; 3] = ["location", "passphrase", "keyfile"];
/// A command that prints more than this was meant to be something else.
const COMMAND_OUTPUT_BYTES: usize = 64 << 10;

/// A configuration file that was read and makes sense, or that does not exist.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// The file.
    pub(crate) file: PathBuf,
    /// What `default` names.
    pub(crate) default: Option<String>,
    /// The repositories by name.
    pub(crate) repositories: BTreeMap<String, Alias>,
    /// What the user should know about the file.
    pub(crate) warning: Option<String>,
}

/// One repository of the configuration.
#[derive(Debug)]
pub(crate) struct Alias {
    /// Its name, without `@`.
    pub(crate) name: String,
    /// Where it is.
    pub(crate) location: String,
    /// The file and line of the location, for messages.
    pub(crate) place: String,
    keys: Vec<Setting>,
}

/// One key of a repository.
struct Setting {
    key: String,
    value: Zeroizing<String>,
    place: String,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} = …", self.key)
    }
}

impl Config {
    /// Reads a file. A missing one is empty, unless the user named it.
    pub(crate) fn load(file: &Path, named_by_user: bool) -> Result<Self, CommandError> {
        let text = match fs::read_to_string(file) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named_by_user => {
                return Ok(Self {
                    file: file.to_owned(),
                    ..Self::default()
                });
            }
            Err(error) => {
                let what = format!("cannot read the configuration {}", shown(file.as_os_str()));
                return Err(CommandError::because(Exit::Configuration, &what, &error));
            }
        };
        let mut config = Self::parse(file, &text)?;
        config.warning = config.exposure();
        Ok(config)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, CommandError> {
        let source = SourceText { file, text };
        let document = Document::parse(text).map_err(|error| source.error(error.span(), error.message()))?;
        let mut config = Self {
            file: file.to_owned(),
            ..Self::default()
        };
        for (name, item) in document.iter() {
            let key = document.as_table().key(name);
            match name {
                "default" => config.default = Some(source.string("default", item)?.to_owned()),
                "repositories" => config.repositories = source.repositories(item, key)?,
                _ => return Err(source.error(span(item, key), &format!("unknown key `{name}`"))),
            }
        }
        if let Some(default) = &config.default
            && !is_location(default)
            && !config.repositories.contains_key(default.trim_start_matches('@'))
        {
            let item = document.as_table().get("default");
            let why = format!("`default` names `{default}`, which is not in [repositories]");
            return Err(source.error(item.and_then(Item::span), &why));
        }
        Ok(config)
    }

    /// Finds a repository by name, with or without `@`.
    pub(crate) fn alias(&self, name: &str) -> Result<&Alias, CommandError> {
        let name = name.strip_prefix('@').unwrap_or(name);
        self.repositories.get(name).ok_or_else(|| {
            let file = shown(self.file.as_os_str());
            CommandError::new(
                Exit::NotFound,
                format!("no repository is called `{name}` in {file}"),
            )
            .hint(format!("add it with `plakar store add {name} LOCATION`"))
        })
    }

    /// Why the file should be protected, if it should.
    fn exposure(&self) -> Option<String> {
        let mode = fs::metadata(&self.file).ok()?.permissions().mode();
        let secret = self
            .repositories
            .values()
            .flat_map(|alias| &alias.keys)
            .find(|key| is_secret(&key.key))?;
        let file = shown(self.file.as_os_str());
        (mode & 0o044 != 0).then(|| {
            format!(
                "other users can read {file}, which holds the secret `{}`; run `chmod 600 {file}`",
                secret.key
            )
        })
    }
}

impl Alias {
    /// What the connector is told, with commands run. Wipe it after use.
    pub(crate) fn settings(&self) -> Result<BTreeMap<String, String>, CommandError> {
        let mut settings = BTreeMap::new();
        for setting in &self.keys {
            let name = setting.name();
            if !OWN_KEYS.contains(&name) {
                settings.insert(name.to_owned(), setting.resolve()?.to_string());
            }
        }
        Ok(settings)
    }

    /// The passphrase that the configuration gives, if it gives one.
    pub(crate) fn passphrase(&self) -> Result<Option<Secret>, CommandError> {
        if let Some(setting) = self.keys.iter().find(|setting| setting.name() == "passphrase") {
            return Ok(Some(Secret::new(setting.resolve()?.as_bytes().to_vec())));
        }
        match self.keys.iter().find(|setting| setting.name() == "keyfile") {
            Some(setting) => Secret::from_keyfile(&expand_home(&setting.resolve()?)).map(Some),
            None => Ok(None),
        }
    }

    /// Where the setting stands that a message from the connector is about, or else the location.
    pub(crate) fn place_of_fault(&self, message: &str) -> String {
        let about = |setting: &&Setting| message.contains(&format!("`{}`", setting.name()));
        match self.keys.iter().find(about) {
            Some(setting) => setting.place.clone(),
            None => format!("{}, `location`", self.place),
        }
    }

    /// Every key with its value, secrets masked unless `reveal`; the location first.
    pub(crate) fn shown(&self, reveal: bool) -> Vec<(&str, String)> {
        let location = if reveal {
            self.location.clone()
        } else {
            mask_password(&self.location)
        };
        let mut keys = vec![("location", location)];
        keys.extend(self.keys.iter().map(|setting| {
            let hidden = !reveal && is_secret(&setting.key);
            (
                setting.key.as_str(),
                if hidden {
                    "********".to_owned()
                } else {
                    setting.value.to_string()
                },
            )
        }));
        keys
    }
}

impl Setting {
    /// The key that this sets, less the ending that asks for a command.
    fn name(&self) -> &str {
        self.key.strip_suffix(COMMAND_ENDING).unwrap_or(&self.key)
    }

    fn resolve(&self) -> Result<Zeroizing<String>, CommandError> {
        if self.key.ends_with(COMMAND_ENDING) {
            run(&self.value, &self.place)
        } else {
            Ok(self.value.clone())
        }
    }
}

/// The first line that a shell command prints.
fn run(command: &str, place: &str) -> Result<Zeroizing<String>, CommandError> {
    let refused = |why: String| {
        Err(CommandError::new(
            Exit::Denied,
            format!("{place}: the command {why}"),
        ))
    };
    let (bytes, status) = match output_of(command) {
        Ok(output) => output,
        Err(error) => return refused(format!("could not be run: {error}")),
    };
    if bytes.len() > COMMAND_OUTPUT_BYTES {
        return refused(format!("printed more than {} KiB", COMMAND_OUTPUT_BYTES >> 10));
    }
    if !status.success() {
        return refused(format!("failed with {status}"));
    }
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    match std::str::from_utf8(line).map(|line| line.trim_end_matches('\r')) {
        Ok("") => refused("printed nothing".to_owned()),
        Ok(line) => Ok(Zeroizing::new(line.to_owned())),
        Err(error) => refused(format!("did not print text: {error}")),
    }
}

/// What a shell command prints, and how it ended. One that prints too much is ended.
fn output_of(command: &str) -> io::Result<(Zeroizing<Vec<u8>>, ExitStatus)> {
    // A question is answered on the terminal. Anything else on standard input is not for the command: it may be the data of
    // `backup -stdin`, and a command that reads what it is given, as ssh does, would take its beginning away.
    let stdin = if io::stdin().is_terminal() {
        Stdio::inherit()
    } else {
        Stdio::null()
    };
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(stdin)
        .stdout(Stdio::piped())
        .spawn()?;
    // As large as it can become, so that no copy of a secret is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(COMMAND_OUTPUT_BYTES + 1));
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(COMMAND_OUTPUT_BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
    }
    if bytes.len() > COMMAND_OUTPUT_BYTES {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok((bytes, status))
}

/// A text and the file that it is from, for messages.
struct SourceText<'a> {
    file: &'a Path,
    text: &'a str,
}

impl SourceText<'_> {
    fn place(&self, span: Option<Range<usize>>) -> String {
        let file = shown(self.file.as_os_str());
        match span.and_then(|span| self.text.get(..span.start)) {
            Some(before) => format!("{file}, line {}", before.matches('\n').count() + 1),
            None => file,
        }
    }

    fn error(&self, span: Option<Range<usize>>, why: &str) -> CommandError {
        let why = why.lines().collect::<Vec<_>>().join(", ");
        CommandError::new(Exit::Configuration, format!("{}: {why}", self.place(span)))
    }

    fn string<'i>(&self, name: &str, item: &'i Item) -> Result<&'i str, CommandError> {
        item.as_str()
            .ok_or_else(|| self.error(item.span(), &format!("`{name}` must be a text in quotes")))
    }

    fn repositories(&self, item: &Item, key: Option<&Key>) -> Result<BTreeMap<String, Alias>, CommandError> {
        let Some(table) = item.as_table_like() else {
            return Err(self.error(
                span(item, key),
                "`repositories` must be tables: [repositories.NAME]",
            ));
        };
        table
            .iter()
            .map(|(name, item)| Ok((name.to_owned(), self.alias(name, item, table.key(name))?)))
            .collect()
    }

    fn alias(&self, name: &str, item: &Item, key: Option<&Key>) -> Result<Alias, CommandError> {
        let Some(table) = item.as_table_like() else {
            return Err(self.error(span(item, key), &format!("`repositories.{name}` must be a table")));
        };
        let Some(location) = table.get("location") else {
            return Err(self.error(span(item, key), &format!("repository `{name}` has no `location`")));
        };
        let text = self.string("location", location)?;
        if !(text.contains("://") || text.starts_with('/') || text == "~" || text.starts_with("~/")) {
            let why = format!("the location `{text}` of `{name}` must be a URL or start with `/` or `~/`");
            return Err(self.error(location.span(), &why));
        }
        let place = self.place(location.span());
        let keys = self.settings(table)?;
        Ok(Alias {
            name: name.to_owned(),
            location: text.to_owned(),
            place,
            keys,
        })
    }

    fn settings(&self, table: &dyn TableLike) -> Result<Vec<Setting>, CommandError> {
        let mut settings: Vec<Setting> = Vec::new();
        for (key, item) in table.iter().filter(|(key, _)| *key != "location") {
            let setting = Setting {
                key: key.to_owned(),
                value: Zeroizing::new(self.scalar(key, item, table.key(key))?),
                place: format!("{}, `{key}`", self.place(span(item, table.key(key)))),
            };
            if key == "location_command" {
                return Err(self.error(item.span(), "`location` cannot come from a command"));
            }
            if settings.iter().any(|before| before.name() == setting.name()) {
                let why = format!("`{0}` and `{0}_command` are both given", setting.name());
                return Err(self.error(span(item, table.key(key)), &why));
            }
            settings.push(setting);
        }
        Ok(settings)
    }

    fn scalar(&self, name: &str, item: &Item, key: Option<&Key>) -> Result<String, CommandError> {
        match item.as_value() {
            Some(Value::String(text)) => Ok(text.value().clone()),
            Some(Value::Integer(number)) => Ok(number.value().to_string()),
            Some(Value::Float(number)) => Ok(number.value().to_string()),
            Some(Value::Boolean(truth)) => Ok(truth.value().to_string()),
            _ => Err(self.error(
                span(item, key),
                &format!("`{name}` must be a text, a number, true or false"),
            )),
        }
    }
}

/// Where a key stands, or its value where the key is not known.
fn span(item: &Item, key: Option<&Key>) -> Option<Range<usize>> {
    key.and_then(Key::span).or_else(|| item.span())
}

/// Whether this is a path or URL, not the name of a repository.
pub(crate) fn is_location(text: &str) -> bool {
    text.contains('/') || text == "~" || text == "." || text == ".."
}

/// Replaces a `~` at the start with the home folder.
pub(crate) fn expand_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(path),
    }
}

/// Whether the value of a key must not be shown. The keys of connectors by others are not known, so this errs on the side
/// of hiding.
pub(crate) fn is_secret(key: &str) -> bool {
    const SECRETS: [&str; 9] = [
        "pass",
        "passphrase",
        "password",
        "passwd",
        "pwd",
        "secret",
        "token",
        "credential",
        "credentials",
    ];
    // What only names where a secret is, or who it is for.
    const NAMES: [&str; 5] = ["command", "file", "path", "id", "name"];
    let key = key.to_ascii_lowercase().replace('-', "_");
    let words: Vec<&str> = key.split('_').collect();
    if words.last().is_some_and(|last| NAMES.contains(last)) {
        return false;
    }
    let is_key =
        words.last() == Some(&"key") && !["public_key", "host_key"].iter().any(|end| key.ends_with(end));
    is_key || words.iter().any(|word| SECRETS.contains(word))
}

/// Hides the password in `scheme://user:password@host/…`.
pub(crate) fn mask_password(location: &str) -> String {
    let Some((scheme, rest)) = location.split_once("://") else {
        return location.to_owned();
    };
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    match authority
        .rsplit_once('@')
        .and_then(|(user, host)| Some((user.split_once(':')?.0, host)))
    {
        Some((user, host)) => format!("{scheme}://{user}:********@{host}{path}"),
        None => location.to_owned(),
    }
}

/// A configuration file being changed. Nobody else changes it meanwhile.
#[derive(Debug)]
pub(crate) struct Editor {
    config: Config,
    document: DocumentMut,
    _lock: EditLock,
}

impl Editor {
    /// Opens a file that makes sense, and waits for whoever changes it; a missing one is empty.
    pub(crate) fn open(file: &Path) -> Result<Self, CommandError> {
        let lock = EditLock::take(file).map_err(|error| not_written(file, &error))?;
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| not_written(file, &error))?,
        };
        let text = Zeroizing::new(text);
        let config = Config::parse(file, &text)?;
        let source = SourceText { file, text: &text };
        let document = text
            .parse::<DocumentMut>()
            .map_err(|error| source.error(error.span(), error.message()))?;
        Ok(Self {
            config,
            document,
            _lock: lock,
        })
    }

    /// What the file says, before any change.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Makes a repository the default.
    pub(crate) fn set_default(&mut self, name: Option<&str>) {
        match name {
            Some(name) => {
                self.document.insert("default", toml_edit::value(name));
            }
            None => {
                self.document.remove("default");
            }
        }
    }

    /// Adds or changes keys of a repository.
    pub(crate) fn set(&mut self, name: &str, keys: &[(String, String)]) -> Result<(), CommandError> {
        let file = shown(self.config.file.as_os_str());
        let table = self.repositories(&file)?;
        let repository = table.entry(name).or_insert_with(toml_edit::table);
        let Some(repository) = repository.as_table_like_mut() else {
            return Err(not_a_table(&file, name));
        };
        for (key, text) in keys {
            match repository.get_mut(key).and_then(Item::as_value_mut) {
                // Keeps the comment behind the value.
                Some(value) => {
                    let decor = value.decor().clone();
                    *value = Value::from(text);
                    *value.decor_mut() = decor;
                }
                None => {
                    repository.insert(key, toml_edit::value(text));
                }
            }
        }
        Ok(())
    }

    /// Removes a key of a repository. False when it had none.
    pub(crate) fn unset(&mut self, name: &str, key: &str) -> Result<bool, CommandError> {
        let file = shown(self.config.file.as_os_str());
        let table = self.repositories(&file)?;
        let repository = table.get_mut(name).and_then(Item::as_table_like_mut);
        Ok(repository.is_some_and(|repository| repository.remove(key).is_some()))
    }

    /// Removes a repository.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), CommandError> {
        let file = shown(self.config.file.as_os_str());
        self.repositories(&file)?.remove(name);
        Ok(())
    }

    /// Writes the file as a whole or not at all. What would not make sense is not written.
    pub(crate) fn save(&self) -> Result<(), CommandError> {
        let text = Zeroizing::new(self.document.to_string());
        let file = &self.config.file;
        Config::parse(file, &text)?;
        write_atomically(file, text.as_bytes()).map_err(|error| not_written(file, &error))
    }

    fn repositories(&mut self, file: &str) -> Result<&mut dyn TableLike, CommandError> {
        let item = self.document.entry("repositories").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        item.as_table_like_mut()
            .ok_or_else(|| not_a_table(file, "repositories"))
    }
}

fn not_a_table(file: &str, name: &str) -> CommandError {
    CommandError::new(Exit::Configuration, format!("{file}: `{name}` is not a table"))
}

/// A file that cannot be changed.
pub(crate) fn not_written(file: &Path, error: &io::Error) -> CommandError {
    CommandError::because(
        Exit::CannotCreate,
        &format!("cannot write {}", shown(file.as_os_str())),
        error,
    )
}

/// Held by whoever reads a file to write it again. It is a lock on the folder, so nothing is left behind.
#[derive(Debug)]
pub(crate) struct EditLock(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl EditLock {
    /// Waits for others. The folder is made when there is none.
    pub(crate) fn take(file: &Path) -> io::Result<Self> {
        let file = behind_links(file);
        let folder = folder_of(&file);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = File::open(folder)?;
        match lock.lock() {
            // Where files cannot be locked, the last one to write wins.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            locked => locked?,
        }
        Ok(Self(lock))
    }
}

/// Replaces a file, seen whole or not at all. A link is followed, owner and permissions are kept, a new file is private.
pub(crate) fn write_atomically(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = behind_links(file);
    let folder = folder_of(&file);
    let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
    temporary.write_all(bytes)?;
    if let Ok(before) = fs::metadata(&file) {
        let now = temporary.as_file().metadata()?;
        // So that root may change the file of a user. Before the permissions, which this can take away.
        if (before.uid(), before.gid()) != (now.uid(), now.gid())
            && let Err(error) = fchown(temporary.as_file(), Some(before.uid()), Some(before.gid()))
        {
            tracing::debug!(%error, "the file gets another owner");
        }
        temporary.as_file().set_permissions(before.permissions())?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(&file)?;
    File::open(folder)?.sync_all()
}

/// The file that is meant, where a link may lead to one that does not exist yet.
fn behind_links(file: &Path) -> PathBuf {
    if let Ok(found) = fs::canonicalize(file) {
        return found;
    }
    match fs::read_link(file) {
        Ok(target) => folder_of(file).join(target),
        Err(_not_a_link) => file.to_owned(),
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
default = "home" # the usual one
[repositories.home]
location = "/var/backups"
passphrase_command = "echo open; echo sesame"

# Down the hall.
[repositories.nas]
location = "sftp://gilles@nas.example/var/backups"
connections = 4
compression = true
password_command = "printf hunter2"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("config.toml"), text).map_err(|error| {
            assert_eq!(error.exit, Exit::Configuration);
            error.to_string()
        })
    }

    #[test]
    fn every_other_key_is_handed_to_the_connector_and_commands_are_run() {
        let config = parse(EXAMPLE).expect("the example is good");
        assert_eq!(config.default.as_deref(), Some("home"));
        let nas = config.alias("@nas").expect("nas is there");
        assert_eq!(nas.location, "sftp://gilles@nas.example/var/backups");
        let settings = nas.settings().expect("the command works");
        let expected = [
            ("compression", "true"),
            ("connections", "4"),
            ("password", "hunter2"),
        ];
        assert!(
            settings
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .eq(expected)
        );
        let home = config.alias("home").expect("home is there");
        assert!(home.settings().expect("nothing to run").is_empty());
        let passphrase = home
            .passphrase()
            .expect("the command works")
            .expect("there is one");
        assert!(passphrase.is(b"open"));
    }

    #[test]
    fn mistakes_name_the_line_and_the_key() {
        let wrong = [
            ("x = 1", "config.toml, line 1: unknown key `x`"),
            (
                "default = 3",
                "config.toml, line 1: `default` must be a text in quotes",
            ),
            (
                "\ndefault = \"gone\"",
                "config.toml, line 2: `default` names `gone`, which is not in [repositories]",
            ),
            (
                "[repositories.a]\nx = 1",
                "config.toml, line 1: repository `a` has no `location`",
            ),
            (
                "[repositories.a]\nlocation = \"b\"",
                "config.toml, line 2: the location `b` of `a` must be a URL or start with `/` or `~/`",
            ),
            (
                "[repositories.a]\nlocation = \"/b\"\nx = [1]",
                "config.toml, line 3: `x` must be a text, a number, true or false",
            ),
            (
                "[repositories.a]\nlocation = \"/b\"\nx = 1\nx_command = \"y\"",
                "config.toml, line 4: `x` and `x_command` are both given",
            ),
            ("[a\n", "config.toml, line 1: unclosed table, expected `]`"),
        ];
        for (text, message) in wrong {
            assert_eq!(parse(text).expect_err(text), message);
        }
    }

    #[test]
    fn a_command_that_fails_is_named_and_its_output_is_not() {
        let config =
            parse("[repositories.a]\nlocation = \"/b\"\npassphrase_command = \"echo secret; exit 3\"");
        let error = config
            .expect("it is well formed")
            .alias("a")
            .expect("it is there")
            .passphrase();
        let error = error.expect_err("the command fails");
        assert_eq!(error.exit, Exit::Denied);
        assert_eq!(
            error.to_string(),
            "config.toml, line 3, `passphrase_command`: the command failed with exit status: 3"
        );
    }

    #[test]
    fn editing_keeps_comments() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("deep/config.toml");
        fs::create_dir_all(folder.path().join("deep")).expect("made");
        fs::write(&file, EXAMPLE).expect("written");
        let mut editor = Editor::open(&file).expect("opened");
        editor
            .set(
                "nas",
                &[("connections".into(), "8".into()), ("new".into(), "x\"y".into())],
            )
            .expect("set");
        assert!(editor.unset("nas", "compression").expect("unset"));
        assert!(!editor.unset("nas", "compression").expect("unset"));
        editor
            .set("third", &[("location".into(), "s3://h/b".into())])
            .expect("added");
        editor.save().expect("saved");
        let text = fs::read_to_string(&file).expect("read");
        assert!(
            text.contains("# the usual one") && text.contains("# Down the hall."),
            "{text}"
        );
        assert!(
            text.contains("connections = \"8\"") && text.contains("[repositories.third]"),
            "{text}"
        );
        assert!(
            !text.contains("compression") && text.contains(r#"new = 'x"y'"#),
            "{text}"
        );
        editor.remove("home").expect("removed");
        assert!(
            editor.save().is_err(),
            "`default` would name a repository that is gone"
        );
    }

    #[test]
    fn secrets_are_masked() {
        let config = parse(
            "[repositories.a]\nlocation = \"s3://k:v@h/b\"\naccess_key_id = \"AK\"\nsecret_access_key = \"z\"",
        );
        let config = config.expect("it is well formed");
        let alias = config.alias("a").expect("it is there");
        let masked = [
            ("location", "s3://k:********@h/b"),
            ("access_key_id", "AK"),
            ("secret_access_key", "********"),
        ];
        assert_eq!(
            alias.shown(false),
            masked.map(|(key, value)| (key, value.to_owned()))
        );
        assert!(!format!("{alias:?}").contains('z'), "{alias:?}");
        for hidden in [
            "passphrase",
            "key_passphrase",
            "auth_token",
            "Password",
            "client-secret",
            "api_key",
            "sse_customer_key",
            "proxy_credentials",
        ] {
            assert!(is_secret(hidden), "{hidden}");
        }
        for open in [
            "passphrase_command",
            "identity_file",
            "password_file",
            "access_key_id",
            "accept_new_host_key",
            "public_key",
            "keyfile",
            "connections",
            "compass",
        ] {
            assert!(!is_secret(open), "{open}");
        }
    }
}
