//! Runs the real program in a world of its own: an empty home, no variables, no terminal.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// A passphrase that is not refused.
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";

/// A folder with a home in it.
pub(crate) struct World {
    folder: tempfile::TempDir,
}

/// What a run of the program printed and returned.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("home")).expect("a home");
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with the folders above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is below the world")).expect("folders");
        fs::write(&path, bytes).expect("written");
        path
    }

    /// The program, in a session without a terminal, in the world's folder.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new("setsid");
        command.args(["-w", env!("CARGO_BIN_EXE_plakar")]);
        self.shut_in(&mut command);
        command
    }

    /// Runs the program with words separated by spaces.
    pub(crate) fn run(&self, words: &str) -> Run {
        finish(self.program().args(words.split_whitespace()))
    }

    /// Runs the program with the passphrase in its environment.
    pub(crate) fn unlocked(&self, words: &str) -> Run {
        finish(
            self.program()
                .args(words.split_whitespace())
                .env("PLAKAR_PASSPHRASE", PASSPHRASE),
        )
    }

    /// Runs the program on a terminal where `typed` is typed. Everything that the terminal shows is in `stdout`.
    pub(crate) fn on_terminal(&self, words: &str, typed: &str) -> Run {
        let mut command = Command::new("script");
        command.args([
            "-qec",
            &format!("{} {words}", env!("CARGO_BIN_EXE_plakar")),
            "/dev/null",
        ]);
        self.shut_in(&mut command);
        let mut script = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("script runs");
        let mut stdin = script.stdin.take().expect("it is piped");
        stdin.write_all(typed.as_bytes()).expect("typed");
        // The terminal stays open while the program runs.
        let output = script.wait_with_output().expect("script ends");
        drop(stdin);
        Run::new(&output)
    }

    fn shut_in(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path("home"))
            .env("TERM", "xterm");
        command.current_dir(self.folder.path());
    }
}

/// Runs to the end.
pub(crate) fn finish(command: &mut Command) -> Run {
    Run::new(&command.stdin(Stdio::null()).output().expect("the program runs"))
}

impl Run {
    fn new(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the output is text");
        Self {
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            code: output.status.code().expect("it was not killed"),
        }
    }

    /// Fails the test unless all went well and nothing was complained about.
    #[track_caller]
    pub(crate) fn fine(self) -> String {
        assert!(self.code == 0 && self.stderr.is_empty(), "{self:?}");
        self.stdout
    }

    /// Fails the test unless the program ended with this code, nothing on standard output and one line on standard error.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert!(self.code == code && self.stdout.is_empty(), "{self:?}");
        assert!(
            self.stderr.starts_with("plakar: ") && self.stderr.trim_end().lines().count() == 1,
            "{self:?}"
        );
        self.stderr.trim_start_matches("plakar: ").trim_end().to_owned()
    }
}

/// Puts the connector of local folders beside the program, once.
pub(crate) fn build_connector() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        // Whoever has just built the whole workspace has built it with the features of all: alone it would be built anew.
        if std::env::var_os("PLAKAR_TESTS_BUILT").is_some() {
            return;
        }
        let folder = Path::new(env!("CARGO_BIN_EXE_plakar"))
            .parent()
            .expect("the program is in a folder");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .parent()
                .expect("the workspace"),
        );
        cargo.args(["build", "--quiet", "-p", "plakar-connector-fs", "--target-dir"]);
        cargo.arg(folder.parent().expect("the target folder"));
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(
            cargo.status().expect("cargo runs").success(),
            "the connector does not build"
        );
    });
}
