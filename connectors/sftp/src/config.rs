//! From a location and settings to values; touches no network.

use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::percent_decode_str;
use plakar_plugin_api::{Error, ErrorKind, Result, Settings};
use zeroize::Zeroizing;

const KNOWN: &[&str] = &[
    "accept_new_host_key",
    "connect_timeout_seconds",
    "connections",
    "identity_file",
    "identity_passphrase",
    "known_hosts_file",
    "password",
    "ssh_config",
    "use_agent",
];

/// What a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    pub(crate) folder: Folder,
}

/// The root folder on the server, without a `/` at its end (that of the whole server is empty).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Folder {
    Absolute(String),
    /// Below the folder that a login begins in.
    BelowLogin(String),
}

/// Where the user's own `ssh` would look for its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SshConfigChoice<P> {
    Usual,
    Only(P),
    None,
}

/// The settings, checked.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) identity_file: Option<PathBuf>,
    pub(crate) identity_passphrase: Option<Zeroizing<String>>,
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) known_hosts_file: Option<PathBuf>,
    pub(crate) accept_new_host_key: bool,
    /// How many the user wants; without, as many as the line makes worthwhile.
    pub(crate) connections: Option<usize>,
    pub(crate) ssh_config: SshConfigChoice<PathBuf>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) use_agent: bool,
}

/// What is taken from the process: read once, then handed down.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) home: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) agent: Option<PathBuf>,
}

impl Surroundings {
    pub(crate) fn of_this_process() -> Self {
        let user = uzers::get_current_username().map(|name| name.to_string_lossy().into_owned());
        Self {
            home: std::env::home_dir().filter(|home| home.is_absolute()),
            user: user.or_else(|| std::env::var("USER").ok()),
            agent: std::env::var_os("SSH_AUTH_SOCK")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
        }
    }

    /// A path with `~/` at its beginning expanded.
    pub(crate) fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(below), Some(home)) => home.join(below),
            _ => PathBuf::from(path),
        }
    }
}

impl Location {
    /// `sftp://[user@]host[:port]/path`; `/./path` is below the login folder.
    pub(crate) fn parse(location: &str) -> Result<Self> {
        let wrong = |why: &str| wrong(location, why);
        let rest = location
            .strip_prefix("sftp://")
            .ok_or_else(|| wrong("it does not begin with sftp://"))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => {
                return Err(wrong(
                    "it names no folder: write sftp://host/path, or sftp://host/./path below the login folder",
                ));
            }
        };
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        // A password must not come back in the message.
        if user.is_some_and(|user| user.contains(':')) {
            let shown = format!("sftp://…@{host}{path}");
            let why =
                "a password does not belong in a URL; put it in the setting `password`, or better use a key";
            return Err(self::wrong(&shown, why));
        }
        if rest.contains(['?', '#']) {
            return Err(wrong(
                "`?` and `#` have no meaning here; in a name write %3F and %23",
            ));
        }
        let (host, port) =
            split_port(host).ok_or_else(|| wrong("the port is not a number from 1 to 65535"))?;
        let user = user.map(decode).transpose().map_err(&wrong)?;
        if user.as_deref().is_some_and(|user| !is_user(user)) {
            return Err(wrong("the user name has characters that no user name has"));
        }
        if !is_harmless_host(host) {
            return Err(wrong(
                "the host is not a name or an address (IPv6 goes in brackets)",
            ));
        }
        Ok(Self {
            user,
            host: host.to_owned(),
            port,
            folder: Folder::parse(&decode(path).map_err(&wrong)?).map_err(&wrong)?,
        })
    }
}

impl Folder {
    /// The path begins with `/`.
    fn parse(path: &str) -> std::result::Result<Self, &'static str> {
        if path.contains('\0') {
            return Err("the path has a NUL character");
        }
        let components = path.split('/').filter(|name| !name.is_empty() && *name != ".");
        let joined: Vec<&str> = components.collect();
        if joined.contains(&"..") {
            return Err("`..` in the path is not followed; write the path without it");
        }
        let joined = joined.join("/");
        if path == "/." || path.starts_with("/./") {
            Ok(Self::BelowLogin(joined))
        } else if joined.is_empty() {
            Ok(Self::Absolute(joined))
        } else {
            Ok(Self::Absolute(format!("/{joined}")))
        }
    }
}

/// A host with an optional `:port`; an address with colons stands in brackets, which are taken off.
pub(crate) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |digits: &str| digits.parse().ok().filter(|port| *port != 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(digits) => Some((host, Some(port(digits)?))),
            None => after.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, digits)) => Some((host, Some(port(digits)?))),
        None => Some((text, None)),
    }
}

/// Whether a host can stand on a command line and in a file of hosts: names, addresses, scopes.
pub(crate) fn is_harmless_host(host: &str) -> bool {
    !host.is_empty()
        && !host.starts_with('-')
        && host
            .chars()
            .all(|letter| letter.is_alphanumeric() || "._-:%".contains(letter))
}

/// Whether a name can be that of a user. Some servers have names with spaces, or with a domain and `\\` in front.
pub(crate) fn is_user(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(char::is_control)
}

/// Whether a user's name can stand on a command line.
pub(crate) fn is_harmless_user(user: &str) -> bool {
    !user.starts_with('-')
        && !user
            .chars()
            .any(|letter| letter.is_whitespace() || "'\"`$;&<>|(){}\\".contains(letter))
}

fn decode(text: &str) -> std::result::Result<String, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded
        .map(Into::into)
        .map_err(|_error| "what is written with % is not UTF-8")
}

fn wrong(location: &str, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("wrong location {location:?}: {why}"))
}

impl Options {
    pub(crate) fn read(settings: &Settings, surroundings: &Surroundings) -> Result<Self> {
        settings.only(KNOWN)?;
        let path = |name| settings.get(name).map(|path| surroundings.expand(path));
        let secret = |name| settings.get(name).map(|text| Zeroizing::new(text.to_owned()));
        let connections = settings.parse("connections")?;
        if connections.is_some_and(|number| !(1..=8).contains(&number)) {
            return Err(Error::new(
                ErrorKind::Config,
                "the setting `connections` is wrong: it is a number from 1 to 8",
            ));
        }
        let ssh_config = match settings.get("ssh_config") {
            None => SshConfigChoice::Usual,
            Some("none") => SshConfigChoice::None,
            Some(path) => SshConfigChoice::Only(surroundings.expand(path)),
        };
        let seconds: Option<u64> = settings.parse("connect_timeout_seconds")?;
        if seconds == Some(0) {
            let message = "the setting `connect_timeout_seconds` is wrong: it is a number from 1";
            return Err(Error::new(ErrorKind::Config, message));
        }
        Ok(Self {
            identity_file: path("identity_file")
                .map(|path| readable("identity_file", path))
                .transpose()?,
            identity_passphrase: secret("identity_passphrase"),
            password: secret("password"),
            known_hosts_file: path("known_hosts_file"),
            accept_new_host_key: settings.parse("accept_new_host_key")?.unwrap_or(false),
            connections,
            ssh_config,
            connect_timeout: seconds.map(Duration::from_secs),
            use_agent: settings.parse("use_agent")?.unwrap_or(true),
        })
    }
}

/// A file that the user named must be there: passing over it in silence would hide a typing error.
fn readable(name: &str, path: PathBuf) -> Result<PathBuf> {
    match std::fs::File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(unreadable(name, &path, &error)),
    }
}

pub(crate) fn unreadable(name: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::new(
        ErrorKind::Config,
        format!(
            "the setting `{name}` is wrong: cannot read {}: {error}",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(location: &str) -> (Option<String>, String, Option<u16>, Folder) {
        let found = Location::parse(location).unwrap();
        (found.user, found.host, found.port, found.folder)
    }

    #[test]
    fn a_url_names_user_host_port_and_folder() {
        let absolute = |path: &str| Folder::Absolute(path.into());
        let below = |path: &str| Folder::BelowLogin(path.into());
        let cases = [
            ("sftp://h/srv/b", None, "h", None, absolute("/srv/b")),
            (
                "sftp://me@h:2222/srv//b/",
                Some("me"),
                "h",
                Some(2222),
                absolute("/srv/b"),
            ),
            ("sftp://h/./backups", None, "h", None, below("backups")),
            ("sftp://h/.", None, "h", None, below("")),
            ("sftp://h/", None, "h", None, absolute("")),
            ("sftp://h/a/./b", None, "h", None, absolute("/a/b")),
            ("sftp://[::1]:22/x", None, "::1", Some(22), absolute("/x")),
            (
                "sftp://[fe80::1%eth0]/x",
                None,
                "fe80::1%eth0",
                None,
                absolute("/x"),
            ),
            (
                "sftp://a%40b@h/my%20caf%C3%A9",
                Some("a@b"),
                "h",
                None,
                absolute("/my café"),
            ),
            ("sftp://h/my café", None, "h", None, absolute("/my café")),
            (
                "sftp://DOMAIN%5CJos%C3%A9 P@h/x",
                Some("DOMAIN\\José P"),
                "h",
                None,
                absolute("/x"),
            ),
        ];
        for (location, user, host, port, folder) in cases {
            let wanted = (user.map(str::to_owned), host.to_owned(), port, folder);
            assert_eq!(parsed(location), wanted, "{location}");
        }
    }

    #[test]
    fn wrong_urls_are_refused() {
        for location in [
            "",
            "sftp:/h/x",
            "fs://h/x",
            "sftp://h",
            "sftp:///x",
            "sftp://h:0/x",
            "sftp://h:99999/x",
            "sftp://h:/x",
            "sftp://[::1/x",
            "sftp://::1/x",
            "sftp://h/a/../b",
            "sftp://h/%00",
            "sftp://h/%ff",
            "sftp://h/a?b",
            "sftp://-oProxyCommand=x/y",
            "sftp://h;id/y",
            "sftp://$(id)/y",
            "sftp://a%0Ab@h/y",
            "sftp://@h/y",
        ] {
            let error = Location::parse(location).expect_err(location);
            assert_eq!(error.kind, ErrorKind::Config, "{location:?}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let error = Location::parse("sftp://me:swordfish@h/x").unwrap_err();
        assert!(error.message.contains("`password`"), "{}", error.message);
        assert!(!error.message.contains("swordfish"), "{}", error.message);
    }

    #[test]
    fn settings_are_checked() {
        let home = Surroundings {
            home: Some("/home/me".into()),
            user: None,
            agent: None,
        };
        let read = |name: &str, value: &str| Options::read(&[(name, value)].into_iter().collect(), &home);
        for (name, value) in [
            ("connections", "0"),
            ("connections", "9"),
            ("connections", "many"),
            ("connect_timeout_seconds", "0"),
            ("accept_new_host_key", "yes"),
            ("use_agent", "1"),
            ("identity_file", "/nonexistent/key"),
            ("port", "22"),
        ] {
            let error = read(name, value).err().unwrap();
            assert_eq!(error.kind, ErrorKind::Config);
            assert!(error.message.contains(&format!("`{name}`")), "{}", error.message);
        }
        let options = read("known_hosts_file", "~/hosts").unwrap();
        assert_eq!(
            options.known_hosts_file.as_deref(),
            Some(Path::new("/home/me/hosts"))
        );
        assert_eq!((options.connections, options.use_agent), (None, true));
    }
}
