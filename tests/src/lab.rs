//! A hermetic place: its own home, configuration and cache, a folder for the repository, and the program run in a clean environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::chown;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::random;
use crate::tree::Tree;

/// The passphrase of encrypted repositories in tests.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// A user who is not root.
pub const NOBODY: u32 = 65534;

/// Folders that vanish with it.
#[derive(Debug)]
pub struct Lab {
    folder: TempDir,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// An empty lab in the folder for temporary files. No repository is created.
    pub fn new() -> Self {
        Self::inside(&std::env::temp_dir())
    }

    /// An empty lab in a folder of choice.
    pub fn inside(folder: &Path) -> Self {
        let folder = TempDir::with_prefix_in("plakar-test-", folder).expect("a temporary folder");
        let lab = Self { folder };
        for name in ["home", "config", "cache", "data", "run", "tmp"] {
            std::fs::create_dir(lab.path(name)).expect("a folder of the lab");
        }
        lab
    }

    /// A lab with a repository without encryption.
    pub fn with_repository() -> Self {
        let lab = Self::new();
        lab.plakar(["create", "-no-encryption"]).ok();
        lab
    }

    /// Something in the lab.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the repository is, or would be.
    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// The program, working on the lab's repository.
    pub fn plakar<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Run {
        let mut all: Vec<OsString> = vec!["at".into(), self.repository().into()];
        all.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self.plain(all)
    }

    /// The program with exactly these words.
    pub fn plain<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Run {
        let mut command = Command::new(crate::program::program());
        command.args(words).current_dir(self.path("home"));
        self.clean(&mut command);
        Run { command, input: None }
    }

    /// Gives a command nothing but what the lab holds.
    pub fn clean(&self, command: &mut Command) {
        command.env_clear();
        for (name, value) in [
            ("HOME", "home"),
            ("XDG_CONFIG_HOME", "config"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_DATA_HOME", "data"),
            ("XDG_RUNTIME_DIR", "run"),
            ("TMPDIR", "tmp"),
        ] {
            command.env(name, self.path(value));
        }
        command
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("NO_COLOR", "1");
    }

    /// Backs up and gives the snapshot's short id.
    pub fn backup<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> String {
        let mut all: Vec<OsString> = vec!["backup".into(), "-quiet".into()];
        all.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        self.plakar(all).ok().snapshot()
    }

    /// Restores a snapshot into a folder of the lab and gives that folder.
    pub fn restore(&self, id: &str, name: &str) -> PathBuf {
        let target = self.path(name);
        self.plakar([
            OsStr::new("restore"),
            "-quiet".as_ref(),
            "-to".as_ref(),
            target.as_os_str(),
            id.as_ref(),
        ])
        .ok();
        target
    }

    /// Checks the whole repository, which must be without damage.
    pub fn check(&self) {
        self.plakar(["check", "-quiet"]).ok();
    }

    /// A folder of so many files, each of a megabyte that does not compress; a seed is the same file each time.
    pub fn megabytes(&self, name: &str, seeds: std::ops::Range<u64>) -> PathBuf {
        let tree = Tree::new(self.path(name));
        for seed in seeds {
            tree.file(seed.to_string(), random::bytes(seed, 1 << 20));
        }
        tree.root().to_owned()
    }

    /// Writes the configuration: an alias `nas` with these lines, which is used when nothing else is named.
    pub fn configure_nas(&self, lines: &str) {
        let tree = Tree::new(self.path("config/plakar"));
        tree.file(
            "config.toml",
            format!("default = \"nas\"\n[repositories.nas]\n{lines}"),
        );
    }

    /// Gives everything in the lab to a user who is not root and lets the user in.
    pub fn hand_over(&self) {
        fn give(path: &Path) {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("only root can run this test");
            if path.symlink_metadata().expect("it is there").is_dir() {
                for entry in std::fs::read_dir(path).expect("readable") {
                    give(&entry.expect("readable").path());
                }
            }
        }
        give(self.folder.path());
    }
}

/// A run of the program that has not begun.
#[derive(Debug)]
pub struct Run {
    command: Command,
    input: Option<Vec<u8>>,
}

impl Run {
    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it as a user who is not root.
    pub fn as_nobody(mut self) -> Self {
        self.command.uid(NOBODY).gid(NOBODY);
        self
    }

    /// Runs it in another folder.
    pub fn within(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives it so much address space and no more, in bytes.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let limit = Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        let restrict = move || setrlimit(Resource::As, limit).map_err(std::io::Error::from);
        #[expect(unsafe_code, reason = "std offers no way to limit a child")]
        // SAFETY: between fork and exec only the system call setrlimit is made, which is async-signal-safe.
        unsafe {
            self.command.pre_exec(restrict);
        }
        self
    }

    /// Gives it bytes on standard input.
    pub fn input(mut self, bytes: &[u8]) -> Self {
        self.input = Some(bytes.to_vec());
        self
    }

    /// Starts it away from any terminal, with pipes for output.
    pub fn spawn(mut self) -> Child {
        detach(&mut self.command);
        let input = if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        self.command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("the program starts");
        if let (Some(bytes), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // A program that stops reading closes the pipe: its answer tells why.
            std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes));
        }
        child
    }

    /// Runs it to its end. A panic of the program is a failure of every test.
    pub fn output(self) -> Output {
        Output::of(self.spawn())
    }

    /// Runs it; anything but success is a failure of the test.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.code(0)
    }

    /// Runs it and expects an exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Output {
        let words = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        self.output().expect(code, &words)
    }

    /// Runs it and expects a failure told on one line that contains `part`.
    #[track_caller]
    pub fn fails(self, code: i32, part: &str) -> Output {
        self.tells(code, part, &[])
    }

    /// The same, beside hints.
    #[track_caller]
    pub fn refuses(self, code: i32, part: &str) -> Output {
        self.tells(code, part, &["hint:"])
    }

    /// The same, beside hints and what was tried again.
    #[track_caller]
    pub fn gives_up(self, code: i32, part: &str) -> Output {
        self.tells(code, part, &["hint:", " WARN "])
    }

    /// Expects one line that contains `part` and does not begin as those do that may stand `beside` it.
    #[track_caller]
    fn tells(self, code: i32, part: &str, beside: &[&str]) -> Output {
        let output = self.code(code);
        let is_beside = |line: &&str| beside.iter().any(|start| line.starts_with(start));
        let lines: Vec<_> = output.stderr.lines().filter(|line| !is_beside(line)).collect();
        assert!(
            lines.len() == 1 && lines[0].contains(part),
            "wanted one line with `{part}`, got {:?}",
            output.stderr
        );
        output
    }
}

/// Takes a command away from the terminal of whoever runs the tests, so that it cannot ask there.
fn detach(command: &mut Command) {
    let leave = || rustix::process::setsid().map(drop).map_err(std::io::Error::from);
    #[expect(unsafe_code, reason = "std offers no stable way to start a session")]
    // SAFETY: between fork and exec only the system call setsid is made, which is async-signal-safe.
    unsafe {
        command.pre_exec(leave);
    }
}

/// What a run of the program said.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Standard output as it came.
    pub raw: Vec<u8>,
}

impl Output {
    /// What a run says until it ends. A panic of the program is a failure of every test.
    pub fn of(child: Child) -> Self {
        let output = child.wait_with_output().expect("the program ends");
        let output = Self {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            raw: output.stdout,
        };
        assert!(
            !output.stderr.contains("panicked at"),
            "the program panicked: {output:?}"
        );
        output
    }

    /// It must have ended with this code; `words` say which run it was.
    #[track_caller]
    pub fn expect(self, code: i32, words: &str) -> Self {
        let (stdout, stderr) = (&self.stdout, &self.stderr);
        assert_eq!(self.code, Some(code), "{words} gave\n{stdout}\n{stderr}");
        self
    }

    /// The short id in a backup's last line.
    #[track_caller]
    pub fn snapshot(&self) -> String {
        let line = self.stdout.lines().last().unwrap_or_default();
        let id = line
            .strip_prefix("backup: created unsigned snapshot ")
            .and_then(|rest| rest.split(' ').next());
        id.unwrap_or_else(|| panic!("not the last line of a backup: {line:?}; {}", self.stderr))
            .to_owned()
    }
}

/// Lets this process open as many files as the system permits: looking at a deep tree holds one for each level.
pub fn allow_many_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a limit within its bounds");
}
