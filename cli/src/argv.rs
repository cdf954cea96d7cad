//! The grammar of the command line, brought into the form that clap reads. It knows the options from clap's own
//! definition and decides nothing about what they mean.
//!
//! An option has one dash or two, its value follows as the next word or after `=`, and it may stand before or after the
//! arguments. `at REPOSITORY` stands before the command. Short flags do not bundle.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{Arg, Command};

use crate::error::CommandError;

/// A command line ready for clap.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Normalised {
    /// What stood after `at`.
    pub(crate) repository: Option<OsString>,
    /// Global options first, then the command and its words. Without the program's name.
    pub(crate) words: Vec<OsString>,
    /// The command and subcommands that were recognised.
    pub(crate) command: Vec<String>,
}

/// Brings the words after the program's name into clap's form. `root` must know its global options.
pub(crate) fn normalise(root: &Command, words: Vec<OsString>) -> Result<Normalised, CommandError> {
    let mut walk = Walk::new(root);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            walk.rest.push(word);
            walk.rest.extend(words);
            break;
        } else if is_option(bytes) {
            walk.option(&word, &mut words);
        } else {
            walk.argument(word, &mut words)?;
        }
    }
    Ok(walk.finish())
}

/// Whether the words ask for JSON, for errors that come before the options are understood.
pub(crate) fn asks_for_json(words: &[OsString]) -> bool {
    words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word == "-json" || word == "--json")
}

fn is_option(word: &[u8]) -> bool {
    match word {
        [b'-', second, ..] => !second.is_ascii_digit(),
        _ => false,
    }
}

struct Walk<'a> {
    root: &'a Command,
    current: &'a Command,
    command: Vec<String>,
    seen_argument: bool,
    repository: Option<OsString>,
    global: Vec<OsString>,
    rest: Vec<OsString>,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Command) -> Self {
        Self {
            root,
            current: root,
            command: Vec::new(),
            seen_argument: false,
            repository: None,
            global: Vec::new(),
            rest: Vec::new(),
        }
    }

    fn option(&mut self, word: &OsStr, following: &mut impl Iterator<Item = OsString>) {
        let bytes = word.as_bytes();
        let name = bytes
            .strip_prefix(b"--")
            .or_else(|| bytes.strip_prefix(b"-"))
            .unwrap_or(bytes);
        let (name, value) = match name.iter().position(|&byte| byte == b'=') {
            Some(at) => name.split_at(at),
            None => (name, &[][..]),
        };
        if self.command.is_empty() && matches!(name, b"version" | b"V") && value.is_empty() {
            return self.enter(self.root.find_subcommand("version").unwrap_or(self.root));
        }
        if matches!(name, b"h" | b"?") {
            return self.rest.push("-h".into());
        }
        let global = find(self.root, name);
        let found = find(self.current, name).or(global);
        let mut long = OsString::from("--");
        long.push(OsStr::from_bytes(name));
        long.push(OsStr::from_bytes(value));
        if let Some(arg) = found
            && arg.get_action().takes_values()
            && value.is_empty()
            && let Some(next) = following.next()
        {
            // Joined with `=`, so that clap takes the value as it is, even one that starts with a dash.
            long.push("=");
            long.push(next);
        }
        let destination = if global.is_some() {
            &mut self.global
        } else {
            &mut self.rest
        };
        destination.push(long);
    }

    fn argument(
        &mut self,
        word: OsString,
        following: &mut impl Iterator<Item = OsString>,
    ) -> Result<(), CommandError> {
        if self.command.is_empty() && self.rest.is_empty() && word == "at" {
            let Some(repository) = following.next().filter(|repository| !repository.is_empty()) else {
                return Err(CommandError::usage("`at` needs a repository").hint("see `plakar help`"));
            };
            if self.repository.replace(repository).is_some() {
                return Err(CommandError::usage("`at REPOSITORY` is given twice").hint("see `plakar help`"));
            }
            return Ok(());
        }
        match word.to_str().and_then(|name| self.current.find_subcommand(name)) {
            Some(command) if !self.seen_argument => self.enter(command),
            _ => {
                self.seen_argument = true;
                self.rest.push(word);
            }
        }
        Ok(())
    }

    fn enter(&mut self, command: &'a Command) {
        self.command.push(command.get_name().to_owned());
        self.rest.push(command.get_name().into());
        self.current = command;
    }

    fn finish(self) -> Normalised {
        let mut words = self.global;
        words.extend(self.rest);
        Normalised {
            repository: self.repository,
            words,
            command: self.command,
        }
    }
}

fn find<'a>(command: &'a Command, name: &[u8]) -> Option<&'a Arg> {
    let name = std::str::from_utf8(name).ok()?;
    command.get_arguments().find(|arg| {
        arg.get_long() == Some(name)
            || arg
                .get_all_aliases()
                .is_some_and(|aliases| aliases.contains(&name))
    })
}

/// The bytes of one word, whatever they are.
pub(crate) fn bytes_of(word: OsString) -> Vec<u8> {
    word.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(words: &[&str]) -> Normalised {
        let words = words.iter().map(OsString::from).collect();
        normalise(&crate::args::command(), words).expect("the words are well formed")
    }

    fn words(normalised: &Normalised) -> Vec<&str> {
        normalised
            .words
            .iter()
            .map(|word| word.to_str().expect("the tests use text"))
            .collect()
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        for line in [["restore", "-to", "DIR"], ["restore", "--to", "DIR"]] {
            assert_eq!(words(&normal(&line)), ["restore", "--to=DIR"]);
        }
        assert_eq!(words(&normal(&["restore", "-to=DIR"])), ["restore", "--to=DIR"]);
        assert_eq!(words(&normal(&["ls", "-recursive"])), ["ls", "--recursive"]);
    }

    #[test]
    fn options_may_follow_arguments_and_globals_may_stand_anywhere() {
        let line = normal(&["restore", "9abc3294", "-to", "DIR", "-json"]);
        assert_eq!(words(&line), ["--json", "restore", "9abc3294", "--to=DIR"]);
        assert_eq!(
            words(&normal(&["-keyfile", "at", "at", "x", "ls"])),
            ["--keyfile=at", "ls"]
        );
    }

    #[test]
    fn the_value_of_an_option_is_taken_as_it_is() {
        assert_eq!(
            words(&normal(&["backup", "-ignore", "-foo", "."])),
            ["backup", "--ignore=-foo", "."]
        );
        assert_eq!(
            words(&normal(&["backup", "-ignore", "at"])),
            ["backup", "--ignore=at"]
        );
        assert_eq!(words(&normal(&["backup", "-tag"])), ["backup", "--tag"]);
    }

    #[test]
    fn lone_dashes_negative_numbers_and_help_are_left_alone() {
        assert_eq!(
            words(&normal(&["cat", "-", "-5", "-h"])),
            ["cat", "-", "-5", "-h"]
        );
        assert_eq!(
            words(&normal(&["backup", "--", "-json", "at"])),
            ["backup", "--", "-json", "at"]
        );
        assert_eq!(words(&normal(&["backup", "-abc"])), ["backup", "--abc"]);
    }

    #[test]
    fn at_is_taken_only_before_the_command() {
        let line = normal(&["-quiet", "at", "@nas", "backup", "at", "ls"]);
        assert_eq!(line.repository, Some("@nas".into()));
        assert_eq!(words(&line), ["--quiet", "backup", "at", "ls"]);
        assert_eq!(line.command, ["backup"]);
        let root = crate::args::command();
        assert!(normalise(&root, vec!["at".into()]).is_err());
        assert!(normalise(&root, ["at", "a", "at", "b"].map(OsString::from).to_vec()).is_err());
    }

    #[test]
    fn subcommands_are_followed_so_that_their_options_are_known() {
        let line = normal(&["passphrase", "add", "-label", "-x-", "-json"]);
        assert_eq!(words(&line), ["--json", "passphrase", "add", "--label=-x-"]);
        assert_eq!(line.command, ["passphrase", "add"]);
        assert_eq!(words(&normal(&["-version"])), ["version"]);
    }

    #[test]
    fn json_is_noticed_before_the_options_are_understood() {
        assert!(asks_for_json(&["ls".into(), "-json".into()]));
        assert!(!asks_for_json(&["ls".into(), "--".into(), "-json".into()]));
    }
}
