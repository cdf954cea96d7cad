//! What the user's `ssh` configuration says of a host. It knows which words matter here and passes over the others.
//!
//! As in OpenSSH the first value of a word counts, except that identity files add up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use plakar_plugin_api::{Error, ErrorKind, Result};

use crate::config::{SshConfigChoice, Surroundings, unreadable};
use crate::pattern;

/// Files that include files that include files…
const MAX_DEPTH: usize = 16;

/// How unknown host keys are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    Refuse,
    AcceptNew,
    /// Asked for "no" checking, which we do not do: as [`Strictness::AcceptNew`].
    Off,
}

/// What the configuration says of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HostConfig {
    pub(crate) host_name: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) identity_files: Vec<String>,
    pub(crate) certificate_files: Vec<String>,
    pub(crate) identities_only: Option<bool>,
    pub(crate) identity_agent: Option<String>,
    pub(crate) proxy_jump: Option<String>,
    pub(crate) proxy_command: Option<String>,
    pub(crate) user_known_hosts: Option<Vec<String>>,
    pub(crate) global_known_hosts: Option<Vec<String>>,
    pub(crate) strictness: Option<Strictness>,
    pub(crate) hash_known_hosts: Option<bool>,
    pub(crate) host_key_alias: Option<String>,
    pub(crate) alive_interval: Option<Duration>,
    pub(crate) connect_timeout: Option<Duration>,
    /// What was passed over and may matter.
    pub(crate) remarks: Vec<String>,
}

/// Reads what the chosen files say of `host`, as the user wrote it.
pub(crate) fn lookup(
    choice: &SshConfigChoice<PathBuf>,
    surroundings: &Surroundings,
    host: &str,
    user: Option<&str>,
) -> Result<HostConfig> {
    let mut reader = Reader {
        surroundings,
        host,
        user,
        of_system: false,
        found: HostConfig::default(),
    };
    match choice {
        SshConfigChoice::None => {}
        SshConfigChoice::Only(path) => {
            let text = std::fs::read(path).map_err(|error| unreadable("ssh_config", path, &error))?;
            reader.read_text(path, &String::from_utf8_lossy(&text), true, 0)?;
        }
        SshConfigChoice::Usual => {
            if let Some(home) = &surroundings.home {
                reader.read_file(&home.join(".ssh/config"), true, 0)?;
            }
            reader.of_system = true;
            reader.read_file(Path::new("/etc/ssh/ssh_config"), true, 0)?;
        }
    }
    Ok(reader.found)
}

struct Reader<'a> {
    surroundings: &'a Surroundings,
    host: &'a str,
    user: Option<&'a str>,
    /// Whether what is read belongs to the machine, not to the user.
    of_system: bool,
    found: HostConfig,
}

impl Reader<'_> {
    /// A file that is missing says nothing.
    fn read_file(&mut self, path: &Path, active: bool, depth: usize) -> Result<()> {
        match std::fs::read(path) {
            Ok(text) => self.read_text(path, &String::from_utf8_lossy(&text), active, depth),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                self.found
                    .remarks
                    .push(format!("cannot read {}: {error}", path.display()));
                Ok(())
            }
        }
    }

    /// `outer` says whether the block that includes this text applies.
    fn read_text(&mut self, path: &Path, text: &str, outer: bool, depth: usize) -> Result<()> {
        let mut active = outer;
        for (number, line) in (1..).zip(text.lines()) {
            let wrong =
                |why: &str| Error::new(ErrorKind::Config, format!("{}:{number}: {why}", path.display()));
            let words = split_words(line).ok_or_else(|| wrong("a quote is not closed"))?;
            let Some((keyword, values)) = words.split_first() else {
                continue;
            };
            let Some(first) = values.first() else {
                return Err(wrong(&format!("{keyword} has no value")));
            };
            match keyword.to_ascii_lowercase().as_str() {
                "host" => {
                    active = outer && pattern::matches_list(values.iter().map(String::as_str), self.host);
                }
                "match" => active = outer && self.matches(values, &format!("{}:{number}", path.display())),
                "include" if active => self.include(values, active, depth, &wrong)?,
                word if active => self.take(word, first, values, line).map_err(|why| wrong(&why))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn include(
        &mut self,
        values: &[String],
        active: bool,
        depth: usize,
        wrong: &dyn Fn(&str) -> Error,
    ) -> Result<()> {
        if depth >= MAX_DEPTH {
            return Err(wrong("too many files include each other"));
        }
        for value in values {
            let path = self.surroundings.expand(value);
            let path = match &self.surroundings.home {
                _ if self.of_system => Path::new("/etc/ssh").join(path),
                Some(home) => home.join(".ssh").join(path),
                None => path,
            };
            let found = glob::glob(&path.to_string_lossy()).map_err(|error| wrong(&error.to_string()))?;
            for file in found.flatten() {
                self.read_file(&file, active, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Whether a `Match` line applies. What we cannot tell does not.
    fn matches(&mut self, values: &[String], place: &str) -> bool {
        let mut words = values.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let (word, wanted) = word.strip_prefix('!').map_or((word, true), |word| (word, false));
            let word = word.to_ascii_lowercase();
            if word == "all" {
                return wanted;
            }
            let subject = match word.as_str() {
                "host" => self.found.host_name.as_deref().unwrap_or(self.host).to_owned(),
                "originalhost" => self.host.to_owned(),
                "user" => self.remote_user(),
                "localuser" => self.surroundings.user.clone().unwrap_or_default(),
                _ => {
                    self.found.remarks.push(format!(
                        "{place}: passed over `Match {word}`, which is not supported"
                    ));
                    return false;
                }
            };
            let Some(patterns) = words.next() else {
                return false;
            };
            if pattern::matches_list(patterns.split(','), &subject) != wanted {
                return false;
            }
        }
        true
    }

    fn remote_user(&self) -> String {
        let known = self.user.or(self.found.user.as_deref());
        known
            .or(self.surroundings.user.as_deref())
            .unwrap_or_default()
            .to_owned()
    }

    fn take(
        &mut self,
        keyword: &str,
        first: &str,
        values: &[String],
        line: &str,
    ) -> std::result::Result<(), String> {
        let text = || Some(first.to_owned());
        let found = &mut self.found;
        match keyword {
            "hostname" => keep(&mut found.host_name, text),
            "user" => keep(&mut found.user, text),
            "port" => {
                let port = first
                    .parse()
                    .map_err(|error| format!("the port is wrong: {error}"))?;
                keep(&mut found.port, || Some(port));
            }
            "identityfile" => found.identity_files.push(first.to_owned()),
            "certificatefile" => found.certificate_files.push(first.to_owned()),
            "identitiesonly" => keep(&mut found.identities_only, || Some(is_yes(first))),
            "identityagent" => keep(&mut found.identity_agent, text),
            // Of these two the first that is met counts.
            "proxyjump" if found.proxy_command.is_none() => keep(&mut found.proxy_jump, text),
            "proxycommand" if found.proxy_jump.is_none() => {
                keep(&mut found.proxy_command, || Some(rest_of_line(line).to_owned()));
            }
            "userknownhostsfile" => keep(&mut found.user_known_hosts, || Some(values.to_vec())),
            "globalknownhostsfile" => keep(&mut found.global_known_hosts, || Some(values.to_vec())),
            "stricthostkeychecking" => keep(&mut found.strictness, || Some(strictness(first))),
            "hashknownhosts" => keep(&mut found.hash_known_hosts, || Some(is_yes(first))),
            "hostkeyalias" => keep(&mut found.host_key_alias, text),
            "serveraliveinterval" => {
                let interval = seconds(first)?;
                keep(&mut found.alive_interval, || interval);
            }
            "connecttimeout" => {
                let timeout = seconds(first)?;
                keep(&mut found.connect_timeout, || timeout);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The first value stays.
fn keep<T>(place: &mut Option<T>, value: impl FnOnce() -> Option<T>) {
    if place.is_none() {
        *place = value();
    }
}

fn is_yes(word: &str) -> bool {
    matches!(word.to_ascii_lowercase().as_str(), "yes" | "true")
}

fn strictness(word: &str) -> Strictness {
    match word.to_ascii_lowercase().as_str() {
        "accept-new" => Strictness::AcceptNew,
        "no" | "off" | "false" => Strictness::Off,
        // `ask` as well: there is nobody to ask.
        _ => Strictness::Refuse,
    }
}

/// A time as OpenSSH writes it: `90`, `90s`, `5m`, `1h30m`. Zero and `none` are no time.
fn seconds(text: &str) -> std::result::Result<Option<Duration>, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len()
            - rest
                .trim_start_matches(|letter: char| letter.is_ascii_digit())
                .len();
        let (number, after) = rest.split_at(digits);
        let number: u64 = number
            .parse()
            .map_err(|_error| format!("{text:?} is not a time"))?;
        let mut letters = after.chars();
        let unit = match letters.next().map(|letter| letter.to_ascii_lowercase()) {
            None | Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 86_400,
            Some(_) => return Err(format!("{text:?} is not a time")),
        };
        total = total.saturating_add(number.saturating_mul(unit));
        rest = letters.as_str();
    }
    Ok((total > 0).then(|| Duration::from_secs(total)))
}

/// What follows the keyword, as it stands.
fn rest_of_line(line: &str) -> &str {
    let line = line.trim();
    let after = line.trim_start_matches(|letter: char| !letter.is_whitespace() && letter != '=');
    let after = after.trim_start();
    after.strip_prefix('=').unwrap_or(after).trim_start()
}

/// A line's words as OpenSSH splits them; `None` when a quote is not closed. Between the keyword and its value may stand a `=`.
/// Quotes of both kinds may stand within a word, and `\` takes their meaning from quotes, from itself and from a space.
fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut letters = line.trim().chars().peekable();
    while let Some(&first) = letters.peek() {
        if first == '#' {
            break;
        }
        if first.is_whitespace() {
            letters.next();
            continue;
        }
        let (mut word, mut quote) = (String::new(), None);
        let keyword = words.is_empty();
        while let Some(&letter) = letters.peek() {
            if quote.is_none() && (letter.is_whitespace() || (keyword && letter == '=')) {
                break;
            }
            letters.next();
            match letter {
                '\\' => {
                    let escaped = |next: &char| "'\"\\".contains(*next) || (*next == ' ' && quote.is_none());
                    word.push(letters.next_if(escaped).unwrap_or('\\'));
                }
                '"' | '\'' if quote.is_none() => quote = Some(letter),
                _ if quote == Some(letter) => quote = None,
                _ => word.push(letter),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
        if keyword {
            while letters.next_if(|letter| letter.is_whitespace()).is_some() {}
            letters.next_if_eq(&'=');
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(home: &Path) -> Surroundings {
        Surroundings {
            home: Some(home.to_owned()),
            user: Some("local".into()),
            agent: None,
        }
    }

    fn config(text: &str, host: &str) -> HostConfig {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config");
        std::fs::write(&path, text).unwrap();
        lookup(
            &SshConfigChoice::Only(path),
            &surroundings(home.path()),
            host,
            None,
        )
        .unwrap()
    }

    #[test]
    fn the_first_value_counts_and_identities_add_up() {
        let text = "User first\nHost nas backup-?\n  User second\n  Port=2222\n  IdentityFile ~/.ssh/a\n\
                    Host *\n  Port 3\n  IdentityFile \"/with space/b\"\n  HostName = 10.0.0.1 # here\n";
        let found = config(text, "backup-1");
        assert_eq!(found.user.as_deref(), Some("first"));
        assert_eq!(found.port, Some(2222));
        assert_eq!(found.identity_files, ["~/.ssh/a", "/with space/b"]);
        assert_eq!(found.host_name.as_deref(), Some("10.0.0.1"));
        assert_eq!(config(text, "other").port, Some(3));
    }

    #[test]
    fn a_negated_pattern_excludes() {
        let text = "Host *.example.org !bad.example.org\n User me\n";
        assert_eq!(config(text, "good.example.org").user.as_deref(), Some("me"));
        assert_eq!(config(text, "bad.example.org").user, None);
        assert_eq!(config("Host !bad\n User me\n", "good").user, None);
    }

    #[test]
    fn blocks_that_match_on_what_we_cannot_tell_are_passed_over_with_a_remark() {
        let text =
            "Match exec \"touch /tmp/never\"\n User evil\nMatch host nas\n Port 7\nMatch all\n User me\n";
        let found = config(text, "nas");
        assert_eq!((found.user.as_deref(), found.port), (Some("me"), Some(7)));
        assert_eq!(found.remarks.len(), 1, "{:?}", found.remarks);
        assert!(
            found.remarks[0].contains(":1: ") && found.remarks[0].contains("exec"),
            "{:?}",
            found.remarks
        );
        assert_eq!(config(text, "other").port, None);
    }

    #[test]
    fn included_files_stand_where_they_are_included() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".ssh/config.d");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("1.conf"), "Host nas\n User included\n").unwrap();
        std::fs::write(folder.join("2.conf"), "User everybody\nPort 9\n").unwrap();
        let main =
            "Include config.d/*.conf\nUser late\nHost other\n Include config.d/2.conf\nHost *\n Port 5\n";
        std::fs::write(home.path().join(".ssh/config"), main).unwrap();
        let found = |host| lookup(&SshConfigChoice::Usual, &surroundings(home.path()), host, None).unwrap();
        assert_eq!(found("nas").user.as_deref(), Some("included"));
        assert_eq!(found("x").user.as_deref(), Some("everybody"));
        std::fs::write(
            home.path().join(".ssh/config"),
            "Host other\n Include config.d/2.conf\nHost *\n Port 5\n",
        )
        .unwrap();
        assert_eq!(found("other").port, Some(9));
        assert_eq!(found("x").port, Some(5));
        std::fs::write(home.path().join(".ssh/config"), "Include config\n").unwrap();
        assert!(lookup(&SshConfigChoice::Usual, &surroundings(home.path()), "x", None).is_err());
    }

    #[test]
    fn all_words_that_matter_are_understood() {
        let text = "ProxyCommand nc -X 5 \"%h\" %p\nProxyJump never\nUserKnownHostsFile /a ~/b\nGlobalKnownHostsFile /g\n\
                    StrictHostKeyChecking no\nHostKeyAlias alias\nServerAliveInterval 1m30s\nConnectTimeout 0\n\
                    IdentitiesOnly yes\nIdentityAgent none\nCertificateFile /c\nForwardX11 yes\nHashKnownHosts yes\n";
        let found = config(text, "h");
        assert_eq!(found.proxy_command.as_deref(), Some("nc -X 5 \"%h\" %p"));
        assert_eq!(found.proxy_jump, None);
        assert_eq!(found.user_known_hosts.unwrap(), ["/a", "~/b"]);
        assert_eq!(found.strictness, Some(Strictness::Off));
        assert_eq!(found.alive_interval, Some(Duration::from_secs(90)));
        assert_eq!(found.connect_timeout, None);
        assert_eq!(found.identities_only, Some(true));
        assert_eq!(found.certificate_files, ["/c"]);
        assert_eq!(found.hash_known_hosts, Some(true));
    }

    #[test]
    fn words_are_split_as_openssh_does_it() {
        let cases: [(&str, &[&str]); 8] = [
            ("  Port = 22 # usual", &["Port", "22"]),
            ("User=me", &["User", "me"]),
            ("IdentityFile ~/my\\ keys/id", &["IdentityFile", "~/my keys/id"]),
            ("IdentityFile ~/\"my keys\"/id", &["IdentityFile", "~/my keys/id"]),
            (
                "IdentityFile '/with \"quotes\"'",
                &["IdentityFile", "/with \"quotes\""],
            ),
            (
                "Match exec \"sh -c \\\"a b\\\" \"",
                &["Match", "exec", "sh -c \"a b\" "],
            ),
            ("LocalCommand echo '\"'", &["LocalCommand", "echo", "\""]),
            ("User me\\you = x", &["User", "me\\you", "=", "x"]),
        ];
        for (line, words) in cases {
            assert_eq!(split_words(line).unwrap(), words, "{line}");
        }
        for line in ["User \"me", "User 'me\"", "User me\\\\\""] {
            assert_eq!(split_words(line), None, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config");
        for text in [
            "\nPort many\n",
            "\nUser\n",
            "\nUser \"me\n",
            "\nConnectTimeout soon\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let choice = SshConfigChoice::Only(path.clone());
            let error = lookup(&choice, &surroundings(home.path()), "h", None).unwrap_err();
            assert!(
                error.kind == ErrorKind::Config && error.message.contains("config:2: "),
                "{}",
                error.message
            );
        }
    }
}
