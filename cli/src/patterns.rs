//! Patterns as in .gitignore, for what to back up and what to restore.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{CommandError, Exit};
use crate::passphrase::shown;

/// Some patterns; the last one that matches decides.
#[derive(Debug)]
pub(crate) struct Patterns(Gitignore);

impl Patterns {
    /// Patterns given with `option`.
    pub(crate) fn new(option: &str, patterns: &[String]) -> Result<Self, CommandError> {
        Self::with_files(option, &[], patterns)
    }

    /// The patterns of some files, then those given with `option`. A file that cannot be read is an error.
    pub(crate) fn with_files(
        option: &str,
        files: &[PathBuf],
        patterns: &[String],
    ) -> Result<Self, CommandError> {
        // Paths are matched relative to the root, so the root of the matcher is empty.
        let mut builder = GitignoreBuilder::new("");
        for file in files {
            if let Some(error) = builder.add(file) {
                let what = format!("cannot use the patterns of {}", shown(file.as_os_str()));
                return Err(CommandError::because(Exit::Configuration, &what, &error));
            }
        }
        for pattern in patterns {
            if let Err(error) = builder.add_line(None, pattern) {
                return Err(CommandError::usage(format!(
                    "{option}: `{pattern}` is not a pattern: {error}"
                )));
            }
        }
        let built = builder.build();
        built.map(Self).map_err(|error| {
            CommandError::because(Exit::Usage, &format!("{option}: too many patterns"), &error)
        })
    }

    /// Whether the patterns choose this path, relative to the root.
    pub(crate) fn matches(&self, relative: &[u8], directory: bool) -> bool {
        !relative.is_empty() && self.0.matched(path(relative), directory).is_ignore()
    }

    /// Whether the patterns choose this path or a folder that it is in.
    pub(crate) fn matches_with_parents(&self, relative: &[u8], directory: bool) -> bool {
        !relative.is_empty()
            && self
                .0
                .matched_path_or_any_parents(path(relative), directory)
                .is_ignore()
    }
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_follow_gitignore() {
        let list = ["*.o", "!keep.o", "/top", "dir/", "**/deep/x"].map(str::to_owned);
        let patterns = Patterns::new("-ignore", &list).expect("good patterns");
        assert!(patterns.matches(b"a/b.o", false));
        assert!(patterns.matches(b"a/\xff.o", false));
        assert!(!patterns.matches(b"keep.o", false));
        assert!(patterns.matches(b"top", false) && !patterns.matches(b"a/top", false));
        assert!(patterns.matches(b"a/dir", true) && !patterns.matches(b"a/dir", false));
        assert!(patterns.matches(b"a/deep/x", false));
        assert!(!patterns.matches(b"", true));
    }

    #[test]
    fn a_missing_file_and_a_bad_pattern_are_errors() {
        let missing = Patterns::with_files("-ignore", &["/nonexistent/x".into()], &[]);
        assert_eq!(
            missing.expect_err("there is no such file").exit,
            Exit::Configuration
        );
        assert_eq!(
            Patterns::new("-ignore", &["{a".to_owned()])
                .expect_err("unclosed")
                .exit,
            Exit::Usage
        );
    }
}
