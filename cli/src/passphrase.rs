//! Where passphrases come from: files, variables, the terminal. They are wiped from memory and never shown.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use plakar_core::crypto::Passphrase;
use zeroize::{Zeroize, Zeroizing};

use crate::error::{CommandError, Exit};
use crate::interrupt;
use crate::ui::format::escaped;

/// How often a passphrase is asked for.
pub(crate) const TRIES: u32 = 3;

/// A keyfile larger than this was meant to be something else.
const KEYFILE_LIMIT_BYTES: u64 = 1 << 20;

/// The weakest passphrase accepted, on zxcvbn's scale from 0 to 4: safe from guessing with a slow hash.
const WEAKEST_SCORE: zxcvbn::Score = zxcvbn::Score::Three;

/// A passphrase on its way from its source to the engine.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Takes over the bytes.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What the engine takes.
    pub(crate) fn passphrase(&self) -> Passphrase {
        Passphrase::new(self.0.to_vec())
    }

    #[cfg(test)]
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        *self.0 == bytes
    }

    /// Reads a keyfile: its content less one newline at its end.
    pub(crate) fn from_keyfile(path: &Path) -> Result<Self, CommandError> {
        let name = escaped(path.as_os_str().as_bytes());
        let mut bytes = Zeroizing::new(Vec::new());
        let read =
            File::open(path).and_then(|file| file.take(KEYFILE_LIMIT_BYTES + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            return Err(CommandError::because(
                Exit::Denied,
                &format!("cannot read the keyfile {name}"),
                &error,
            ));
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.is_empty() {
            return Err(CommandError::new(
                Exit::Denied,
                format!("the keyfile {name} is empty"),
            ));
        }
        if bytes.len() as u64 > KEYFILE_LIMIT_BYTES {
            return Err(CommandError::new(
                Exit::Denied,
                format!("the keyfile {name} is larger than 1 MiB"),
            ));
        }
        Ok(Self(bytes))
    }

    /// Takes a passphrase from an environment variable, if it is set and not empty.
    pub(crate) fn from_variable(name: &str) -> Option<Self> {
        let value = std::env::var_os(name)?;
        let secret = Self::new(value.as_bytes().to_vec());
        value.into_encoded_bytes().zeroize();
        (!secret.0.is_empty()).then_some(secret)
    }

    /// Why this is too weak for a new repository, if it is.
    pub(crate) fn weakness(&self) -> Option<String> {
        let text = Zeroizing::new(String::from_utf8_lossy(&self.0).into_owned());
        let estimate = zxcvbn::zxcvbn(&text, &["plakar", "backup", "passphrase"]);
        if estimate.score() >= WEAKEST_SCORE {
            return None;
        }
        let warning = estimate.feedback().and_then(zxcvbn::feedback::Feedback::warning);
        Some(match warning {
            Some(warning) => warning.to_string().trim_end_matches('.').to_owned(),
            None => "it would not take long to guess".to_owned(),
        })
    }
}

/// Whether there is a terminal to ask on.
fn terminal() -> Option<File> {
    File::options().read(true).write(true).open("/dev/tty").ok()
}

/// How to give a passphrase where nobody can be asked.
pub(crate) const HOW_TO_GIVE: &str =
    "use -keyfile FILE, PLAKAR_PASSPHRASE or passphrase_command in the configuration";

/// Asks on the terminal without echo. `label` ends in a colon. Without a terminal this fails at once, with `advice`.
pub(crate) fn ask(label: &str, advice: &str) -> Result<Secret, CommandError> {
    let Some(terminal) = terminal() else {
        return Err(CommandError::new(
            Exit::Denied,
            "no passphrase was given and there is no terminal to ask on",
        )
        .hint(advice));
    };
    // Before the prompt: who types at once is not shown either.
    let guard = interrupt::hiding(terminal.into());
    let answer = rpassword::prompt_password(format!("{label} "));
    drop(guard);
    match answer {
        Ok(answer) => Ok(Secret::new(answer.into_bytes())),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => interrupt::leave(),
        Err(error) => Err(CommandError::because(
            Exit::Denied,
            "cannot read the passphrase",
            &error,
        )),
    }
}

/// Says something on the terminal, between two questions.
pub(crate) fn tell(message: &str) {
    if let Some(mut terminal) = terminal() {
        // Only a courtesy between two questions, and the next question shows whether the terminal works.
        drop(writeln!(terminal, "{message}"));
    }
}

/// Whether weak passphrases are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strength {
    /// Only an empty one is refused.
    Any,
    /// Weak ones are refused.
    Strong,
}

/// Asks for a new passphrase twice. `label` has no colon: `repository passphrase`.
pub(crate) fn ask_new(label: &str, strength: Strength, advice: &str) -> Result<Secret, CommandError> {
    for _ in 0..TRIES {
        let secret = ask(&format!("{label}:"), advice)?;
        if let Some(why) = refusal(&secret, strength) {
            tell(&format!("passphrase refused: {why}"));
            continue;
        }
        let again = ask(&format!("{label} (confirm):"), advice)?;
        if *secret.0 == *again.0 {
            return Ok(secret);
        }
        tell("the passphrases are not the same");
    }
    Err(
        CommandError::new(Exit::Denied, format!("no usable passphrase in {TRIES} tries"))
            .hint("-weak-passphrase accepts a weak one"),
    )
}

/// Checks a passphrase that nobody can be asked about.
pub(crate) fn accept_new(secret: Secret, strength: Strength) -> Result<Secret, CommandError> {
    match refusal(&secret, strength) {
        None => Ok(secret),
        Some(why) => Err(
            CommandError::new(Exit::Denied, format!("the new passphrase is too weak: {why}"))
                .hint("choose a longer one, or allow it with -weak-passphrase"),
        ),
    }
}

fn refusal(secret: &Secret, strength: Strength) -> Option<String> {
    if secret.0.is_empty() {
        return Some("it is empty".to_owned());
    }
    match strength {
        Strength::Any => None,
        Strength::Strong => secret.weakness(),
    }
}

/// A path in a sentence.
pub(crate) fn shown(path: &OsStr) -> String {
    escaped(path.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weakness(passphrase: &str) -> Option<String> {
        Secret::new(passphrase.as_bytes().to_vec()).weakness()
    }

    #[test]
    fn guessable_passphrases_are_weak_and_the_reason_is_told() {
        assert_eq!(
            weakness("password").as_deref(),
            Some("This is a top-10 common password")
        );
        assert!(weakness("plakar2024").is_some());
        assert!(weakness("qwertyuiop").is_some());
        assert_eq!(weakness("correct horse battery staple"), None);
        assert_eq!(weakness("Xp9#vT2!mQ7z"), None);
    }

    #[test]
    fn an_empty_passphrase_is_never_accepted() {
        assert!(accept_new(Secret::new(Vec::new()), Strength::Any).is_err());
        assert!(accept_new(Secret::new(b"1234".to_vec()), Strength::Any).is_ok());
        assert!(accept_new(Secret::new(b"1234".to_vec()), Strength::Strong).is_err());
    }

    #[test]
    fn a_keyfile_loses_one_newline_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("key");
        std::fs::write(&path, b"two\n\n").expect("written");
        assert_eq!(*Secret::from_keyfile(&path).expect("a keyfile").0, b"two\n");
        std::fs::write(&path, b"\n").expect("written");
        assert!(Secret::from_keyfile(&path).is_err());
        assert!(Secret::from_keyfile(&folder.path().join("none")).is_err());
    }

    #[test]
    fn a_secret_is_not_shown_by_debug() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "Secret");
    }
}
