//! A real OpenSSH server on a free port of this machine, with keys, hosts and users of its own, and an agent.
//!
//! Nothing of the system is changed: as root the server runs in a mount namespace of its own, where it finds the folders
//! and the passwords that it wants.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const SERVER: &str = "/usr/sbin/sshd";
/// OpenSSH's SFTP server.
pub const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
const PATIENCE: Duration = Duration::from_secs(20);

/// The password of the user that [`SshdOptions::password`] is about.
pub const PASSWORD: &str = "correct horse";
/// The same as `crypt` stores it.
const PASSWORD_HASH: &str =
    "$6$plakar$z6MMvd7qG9U7KflK20dqSCK1TT/JhtD1mPCNHzJfVsd8QB2AWpOdu22ntmbiO/1FeRLwMXgevwxP/mHMmFI6n.";

/// How a server is to be.
#[derive(Debug, Clone)]
pub struct SshdOptions {
    /// Kinds of host keys, as `ssh-keygen -t` names them.
    pub host_keys: Vec<&'static str>,
    /// Lines of `sshd_config` before the usual ones: of a word that comes twice the first counts.
    pub first_lines: Vec<String>,
    /// More lines of `sshd_config`.
    pub lines: Vec<String>,
    /// Requests and extensions that the SFTP server does not know, as `sftp-server -P` takes them.
    pub without: Option<&'static str>,
    /// Whether the SFTP server writes down which files it opens and closes, see [`Sshd::written`].
    pub logs_files: bool,
    /// The command of the SFTP server, in place of OpenSSH's.
    pub sftp_server: Option<String>,
    /// Whether the host key comes with a certificate of an authority, and for which names.
    pub certificate_for: Option<&'static str>,
    /// Passwords are accepted, by this method; keys are not. Needs root.
    pub password: Option<PasswordMethod>,
}

/// How a server asks for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordMethod {
    /// The method `password`.
    Plain,
    /// The method `keyboard-interactive`, through PAM.
    Interactive,
}

impl Default for SshdOptions {
    fn default() -> Self {
        Self {
            host_keys: vec!["ed25519"],
            first_lines: Vec::new(),
            lines: Vec::new(),
            without: None,
            logs_files: false,
            sftp_server: None,
            certificate_for: None,
            password: None,
        }
    }
}

/// A running server. It is killed, with all its sessions, when this is dropped.
#[derive(Debug)]
pub struct Sshd {
    folder: TempDir,
    port: u16,
    options: SshdOptions,
    child: Option<Child>,
}

impl Sshd {
    /// A server with one host key that lets in whoever has [`identity`](Self::identity).
    pub fn start() -> Self {
        Self::with(SshdOptions::default())
    }

    /// A server as wanted.
    pub fn with(options: SshdOptions) -> Self {
        Self::inside(&std::env::temp_dir(), options)
    }

    /// A server whose files are in a folder of choice.
    pub fn inside(parent: &Path, options: SshdOptions) -> Self {
        assert!(
            Path::new(SERVER).exists() && Path::new(SFTP_SERVER).exists(),
            "{SERVER} is missing: as root, run `apt-get install openssh-server openssh-client openssh-sftp-server`"
        );
        assert!(
            options.password.is_none() || is_root(),
            "a server that knows passwords needs root: run this test as root"
        );
        let folder = TempDir::with_prefix_in("plakar-sshd-", parent).expect("a temporary folder");
        fs::create_dir(folder.path().join("data")).expect("a folder for data");
        generate_key(&folder.path().join("identity"), "ed25519", "");
        fs::copy(
            folder.path().join("identity.pub"),
            folder.path().join("authorized_keys"),
        )
        .expect("a copied key");
        let mut server = Self {
            folder,
            port: 0,
            options,
            child: None,
        };
        server.generate_host_keys();
        server.restart();
        server
    }

    fn generate_host_keys(&self) {
        for kind in &self.options.host_keys {
            let key = self.path(&format!("host_{kind}"));
            generate_key(&key, kind, "");
            if let Some(names) = self.options.certificate_for {
                if !self.path("authority").exists() {
                    generate_key(&self.path("authority"), "ed25519", "");
                }
                sign(
                    &self.path("authority"),
                    &key,
                    &["-h", "-n", names, "-V", "-1h:+1h"],
                );
            }
        }
    }

    /// Starts the server again on its port, or on any free one when it never ran.
    pub fn restart(&mut self) {
        self.kill();
        let begun = Instant::now();
        loop {
            if self.port == 0 || begun.elapsed() > Duration::from_secs(5) {
                self.port = free_port();
            }
            self.spawn();
            if self.answers() {
                return;
            }
            self.kill();
            assert!(
                begun.elapsed() < PATIENCE,
                "sshd does not answer:\n{}",
                self.log()
            );
        }
    }

    fn spawn(&mut self) {
        fs::write(self.path("sshd_config"), self.configuration()).expect("a configuration");
        let mut command = if is_root() {
            self.in_a_namespace()
        } else {
            Command::new(SERVER)
        };
        command
            .args(["-D", "-f"])
            .arg(self.path("sshd_config"))
            .arg("-E")
            .arg(self.path("log"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("sshd starts"));
    }

    /// Root's server wants an empty folder in `/run`, and passwords are looked up in `/etc`.
    fn in_a_namespace(&self) -> Command {
        let mut script = String::from("mount -t tmpfs none /run && mkdir -m 755 /run/sshd && ");
        if self.options.password.is_some() {
            fs::write(
                self.path("shadow"),
                format!("root:*:1::::::\nplakar-test:{PASSWORD_HASH}:1::::::\n"),
            )
            .expect("shadow");
            let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
            let user = format!("plakar-test:x:0:0::{}:/bin/sh\n", self.path("data").display());
            fs::write(self.path("passwd"), passwd + &user).expect("passwd");
            fs::write(
                self.path("pam"),
                "auth required pam_unix.so\naccount required pam_permit.so\nsession required pam_permit.so\n",
            )
            .expect("a file for PAM");
            for (ours, theirs) in [
                ("shadow", "/etc/shadow"),
                ("passwd", "/etc/passwd"),
                ("pam", "/etc/pam.d/sshd"),
            ] {
                script.push_str(&format!(
                    "mount --bind '{}' {theirs} && ",
                    self.path(ours).display()
                ));
            }
        }
        script.push_str("exec \"$0\" \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, SERVER]);
        command
    }

    fn configuration(&self) -> String {
        let folder = self.folder.path().display();
        let mut lines = self.options.first_lines.clone();
        lines.extend([
            format!("Port {}", self.port),
            "ListenAddress 127.0.0.1".into(),
            "PidFile none".into(),
            "StrictModes no".into(),
            "LogLevel VERBOSE".into(),
            "MaxStartups 100".into(),
            "PermitRootLogin yes".into(),
        ]);
        for kind in &self.options.host_keys {
            lines.push(format!("HostKey {folder}/host_{kind}"));
            if self.options.certificate_for.is_some() {
                lines.push(format!("HostCertificate {folder}/host_{kind}-cert.pub"));
            }
        }
        let (keys, plain, interactive) = match self.options.password {
            None => ("yes", "no", "no"),
            Some(PasswordMethod::Plain) => ("no", "yes", "no"),
            Some(PasswordMethod::Interactive) => ("no", "no", "yes"),
        };
        lines.extend([
            format!("PubkeyAuthentication {keys}"),
            format!("PasswordAuthentication {plain}"),
            format!("KbdInteractiveAuthentication {interactive}"),
            format!("UsePAM {interactive}"),
            format!("AuthorizedKeysFile {folder}/authorized_keys"),
        ]);
        lines.push(match self.options.without {
            None if let Some(command) = &self.options.sftp_server => format!("Subsystem sftp {command}"),
            None if self.options.logs_files => {
                format!("Subsystem sftp {SFTP_SERVER} -e -l VERBOSE 2>>{folder}/files")
            }
            Some(denied) => format!("Subsystem sftp {SFTP_SERVER} -P {denied}"),
            None => "Subsystem sftp internal-sftp".into(),
        });
        lines.extend(self.options.lines.iter().cloned());
        lines.join("\n") + "\n"
    }

    /// Whether the server greets on its port before it ends.
    fn answers(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("it can be waited for").is_some() {
                return false;
            }
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let mut greeting = [0; 4];
                return stream.read_exact(&mut greeting).is_ok() && &greeting == b"SSH-";
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// Kills the server and all its sessions without a warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            for process in family(child.id()) {
                signal(process, Signal::KILL);
            }
            child.wait().expect("it can be waited for");
        }
    }

    /// Stops the server and all its sessions in the middle of what they do.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, what: Signal) {
        for process in self.child.iter().flat_map(|child| family(child.id())) {
            signal(process, what);
        }
    }

    /// A file of the server.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder for objects.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The private key that the server lets in.
    pub fn identity(&self) -> PathBuf {
        self.path("identity")
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server wrote to its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// How many logins the server has granted.
    pub fn logins(&self) -> usize {
        // A key that is known is "accepted" before it has signed.
        self.logged("Accepted ") - self.logged("Accepted key ")
    }

    /// How many lines of the log hold these words.
    pub fn logged(&self, words: &str) -> usize {
        self.log().lines().filter(|line| line.contains(words)).count()
    }

    /// How many SFTP sessions were begun.
    pub fn sessions(&self) -> usize {
        self.logged("subsystem 'sftp'")
    }

    /// What the SFTP server wrote down of files, if it does.
    pub fn files(&self) -> String {
        fs::read_to_string(self.path("files")).unwrap_or_default()
    }

    /// How much was written each time a file under a temporary name was open, in bytes and in the order in which they were closed.
    /// Of a server that writes that down.
    pub fn written(&self) -> Vec<u64> {
        let files = self.files();
        let closed = files
            .lines()
            .filter(|line| line.contains("close \"") && line.contains("/.tmp-"));
        closed
            .filter_map(|line| line.trim_end().rsplit(' ').next()?.parse().ok())
            .collect()
    }

    /// Lets another public key in.
    pub fn authorize(&self, public: &Path) {
        let mut keys = fs::read_to_string(self.path("authorized_keys")).expect("authorized_keys");
        keys.push_str(&fs::read_to_string(public).expect("a public key"));
        fs::write(self.path("authorized_keys"), keys).expect("authorized_keys");
    }

    /// The public host key of a kind: its algorithm and its text.
    pub fn host_key(&self, kind: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("host_{kind}.pub"))).expect("a host key");
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// The fingerprint of a host key, as `ssh-keygen -l` tells it.
    pub fn fingerprint(&self, kind: &str) -> String {
        let output = Command::new("ssh-keygen")
            .arg("-lf")
            .arg(self.path(&format!("host_{kind}.pub")))
            .output();
        let text = String::from_utf8(output.expect("ssh-keygen runs").stdout).expect("text");
        text.split(' ').nth(1).expect("a fingerprint").to_owned()
    }

    /// Writes a file of known hosts with all keys of this server, as of `port`.
    pub fn known_hosts(&self, port: u16) -> PathBuf {
        let lines = self
            .options
            .host_keys
            .iter()
            .map(|kind| format!("[127.0.0.1]:{port} {}\n", self.host_key(kind)));
        let path = self.path(&format!("known_hosts_{port}"));
        fs::write(&path, lines.collect::<String>()).expect("known_hosts");
        path
    }

    /// The URL of a path on the server.
    pub fn url(&self, path: &Path) -> String {
        self.url_at(self.port, path)
    }

    /// The URL of a path, through another port.
    pub fn url_at(&self, port: u16, path: &Path) -> String {
        let user = if self.options.password.is_some() {
            "plakar-test@"
        } else {
            ""
        };
        format!("sftp://{user}127.0.0.1:{port}{}", path.display())
    }

    /// Settings with which the server is known and lets us in, whatever this machine's own `ssh` is told.
    pub fn settings(&self) -> BTreeMap<String, String> {
        self.settings_at(self.port)
    }

    /// The same for a way through another port.
    pub fn settings_at(&self, port: u16) -> BTreeMap<String, String> {
        let text = |path: PathBuf| path.to_str().expect("text").to_owned();
        let mut settings = BTreeMap::from([
            ("known_hosts_file".to_owned(), text(self.known_hosts(port))),
            ("ssh_config".to_owned(), "none".to_owned()),
            ("use_agent".to_owned(), "false".to_owned()),
        ]);
        if self.options.password.is_some() {
            settings.insert("password".to_owned(), PASSWORD.to_owned());
        } else {
            settings.insert("identity_file".to_owned(), text(self.identity()));
        }
        settings
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running `ssh-agent`, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    folder: TempDir,
    child: Child,
}

impl Agent {
    /// An agent that holds a key without passphrase.
    pub fn with_key(key: &Path) -> Self {
        let agent = Self::without_keys();
        agent.add(key, &[]);
        agent
    }

    /// An agent that holds nothing yet.
    pub fn without_keys() -> Self {
        let folder = TempDir::with_prefix("plakar-agent-").expect("a temporary folder");
        let socket = folder.path().join("socket");
        let mut command = Command::new("ssh-agent");
        command
            .arg("-D")
            .arg("-a")
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command
            .spawn()
            .expect("ssh-agent starts: apt-get install openssh-client");
        // It prints its variables once it listens.
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("it speaks");
        Self { folder, child }
    }

    /// Gives it one more key without passphrase, with options of `ssh-add`.
    pub fn add(&self, key: &Path, options: &[&str]) {
        let added = Command::new("ssh-add")
            .arg("-q")
            .args(options)
            .arg(key)
            .env("SSH_AUTH_SOCK", self.socket())
            .status();
        assert!(
            added.expect("ssh-add runs").success(),
            "the agent does not take {}",
            key.display()
        );
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
    }
}

/// Makes a pair of keys: `path` and `path.pub`.
pub fn generate_key(path: &Path, kind: &str, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "plakar-test", "-f"])
        .arg(path);
    if kind == "rsa" {
        command.args(["-b", "2048"]);
    }
    assert!(
        command
            .status()
            .expect("ssh-keygen runs: apt-get install openssh-client")
            .success(),
        "no key of {kind}"
    );
}

/// Signs a public key with an authority: `key-cert.pub` comes to be beside `key.pub`.
pub fn sign(authority: &Path, key: &Path, options: &[&str]) {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-s"])
        .arg(authority)
        .args(["-I", "plakar-test"])
        .args(options);
    let signed = command
        .arg(key.with_extension("pub"))
        .status()
        .expect("ssh-keygen runs");
    assert!(signed.success(), "cannot sign {}", key.display());
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A process with all that it started, and they: sessions of `sshd` leave its group, so they are found by their parents.
fn family(head: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        if let Some(parent) = after_name
            .split(' ')
            .nth(1)
            .and_then(|parent| parent.parse().ok())
        {
            parents.push((id, parent));
        }
    }
    let mut found = vec![head];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, above)| *above == parent)
                .map(|(id, _)| *id),
        );
        next += 1;
    }
    found
}

/// A process may have ended by itself meanwhile.
fn signal(process: u32, what: Signal) {
    let id = i32::try_from(process)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    let _ended = kill_process(id, what).is_err();
}

/// Takes away all rights of others, as `ssh` wants it of private keys.
pub fn make_private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("permissions");
}
