//! A real S3 server for one test: Garage with one node, on free ports of the loopback device, stopped when it is dropped.
//!
//! Another server is used where `PLAKAR_TEST_S3_ENDPOINT` (`HOST:PORT`) names it, with a bucket for tests in
//! `PLAKAR_TEST_S3_BUCKET`, its keys in `PLAKAR_TEST_S3_ACCESS_KEY` and `PLAKAR_TEST_S3_SECRET_KEY`, and where needed
//! `PLAKAR_TEST_S3_TLS=true` and `PLAKAR_TEST_S3_REGION`. Each test then works below a prefix of its own, and leaves it there.
//! Tests that stop the server, fill it or give rights in it take Garage all the same.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use tempfile::TempDir;

const BUCKET: &str = "backups";
const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
const SECRET_KEY: &str = "89abcdef0123456789abcdef0123456789abcdef0123456789abcdef01234567";

/// How long the server may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with one bucket, and a key that may do everything in it.
#[derive(Debug)]
pub struct S3Server {
    endpoint: String,
    bucket: String,
    access_key: String,
    secret_key: String,
    /// What every prefix begins with: in the bucket of another server there is more than one test.
    below: String,
    tls: bool,
    region: Option<String>,
    own: Option<Own>,
}

/// A server that was started here.
#[derive(Debug)]
struct Own {
    folder: TempDir,
    child: Option<Child>,
}

impl S3Server {
    /// Starts a server, or takes the one that the environment names.
    pub fn start() -> Self {
        Self::external().unwrap_or_else(Self::garage)
    }

    /// Like [`start`](Self::start), for tests that put something between that understands no TLS.
    pub fn start_plain() -> Self {
        let external = Self::external().filter(|server| !server.tls);
        external.unwrap_or_else(Self::garage)
    }

    fn external() -> Option<Self> {
        let need =
            |name: &str| env::var(name).unwrap_or_else(|_| panic!("set {name} with PLAKAR_TEST_S3_ENDPOINT"));
        Some(Self {
            endpoint: env::var("PLAKAR_TEST_S3_ENDPOINT").ok()?,
            bucket: need("PLAKAR_TEST_S3_BUCKET"),
            access_key: need("PLAKAR_TEST_S3_ACCESS_KEY"),
            secret_key: need("PLAKAR_TEST_S3_SECRET_KEY"),
            below: format!("plakar-test-{}-{}/", std::process::id(), nanoseconds()),
            tls: env::var("PLAKAR_TEST_S3_TLS").is_ok_and(|tls| tls == "true"),
            region: env::var("PLAKAR_TEST_S3_REGION").ok(),
            own: None,
        })
    }

    /// Starts a server of our own, also when the environment names another.
    pub fn garage() -> Self {
        let folder = TempDir::with_prefix("plakar-s3-").expect("a temporary folder");
        let [api, rpc] = free_ports();
        fs::write(
            folder.path().join("garage.toml"),
            configuration(folder.path(), api, rpc),
        )
        .expect("a configuration");
        let mut server = Self {
            endpoint: format!("127.0.0.1:{api}"),
            bucket: BUCKET.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            below: String::new(),
            tls: false,
            region: None,
            own: Some(Own { folder, child: None }),
        };
        server.restart();
        server.command(&["key", "allow", "--create-bucket", ACCESS_KEY]);
        server
    }

    /// `HOST:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The bucket that is there.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// Who may use it.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The secret of the access key.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// Where a prefix of the bucket is, for a program that talks to the server.
    pub fn location(&self, prefix: &str) -> String {
        self.location_at(&self.endpoint, prefix)
    }

    /// The same through someone in between.
    pub fn location_at(&self, endpoint: &str, prefix: &str) -> String {
        format!("s3://{endpoint}/{}/{}{prefix}", self.bucket, self.below)
    }

    /// What the connector must be told.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let pairs = [
            ("access_key_id", self.access_key.clone()),
            ("secret_access_key", self.secret_key.clone()),
            ("tls", self.tls.to_string()),
        ];
        let region = self.region.clone().map(|region| ("region", region));
        pairs
            .into_iter()
            .chain(region)
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// Runs an administrator's command and gives what it prints.
    pub fn command(&self, words: &[&str]) -> String {
        let own = self.own.as_ref().expect("the server is not ours");
        let output = Command::new(garage())
            .arg("-c")
            .arg(own.folder.path().join("garage.toml"))
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("garage runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "garage {words:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Ends the server as a loss of power would.
    pub fn kill(&mut self) {
        self.own.as_mut().expect("the server is not ours").kill();
    }

    /// Starts the server again on what it has stored, on the same port, and waits until it answers.
    pub fn restart(&mut self) {
        let own = self.own.as_mut().expect("the server is not ours");
        own.kill();
        let log = own.folder.path().join("log");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log");
        let child = Command::new(garage())
            .arg("-c")
            .arg(own.folder.path().join("garage.toml"))
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_KEY)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .env("RUST_LOG", "garage=info")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .expect("garage starts");
        own.child = Some(child);
        let begun = Instant::now();
        while !answers(&self.endpoint) {
            let own = self.own.as_mut().expect("just used");
            let ended = own
                .child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "garage does not answer: {}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Own {
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the server has its layout and answers requests, if only with a refusal.
fn answers(endpoint: &str) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(endpoint)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "GET /{BUCKET} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 4"))
}

/// The program: as `PLAKAR_TEST_GARAGE` says, where `tests/run.sh` installs it, or on the PATH.
fn garage() -> PathBuf {
    if let Some(path) = env::var_os("PLAKAR_TEST_GARAGE") {
        return path.into();
    }
    let test = env::current_exe().expect("a test knows its own path");
    let target = test.ancestors().nth(3).expect("tests lie in target/PROFILE/deps");
    let installed = target.join("tools/bin/garage");
    let paths = env::var_os("PATH").unwrap_or_default();
    std::iter::once(installed)
        .chain(env::split_paths(&paths).map(|folder| folder.join("garage")))
        .find(|path| path.is_file())
        .expect(
            "the S3 server garage is missing: run `bash tests/run.sh`, which installs it, or `cargo install garage \
             --locked --version 2.5.0 --debug --no-default-features --features sqlite,bundled-libs`, or name it in PLAKAR_TEST_GARAGE",
        )
}

fn configuration(folder: &Path, api: u16, rpc: u16) -> String {
    let folder = folder.display();
    format!(
        r#"
metadata_dir = "{folder}/meta"
data_dir = "{folder}/data"
db_engine = "sqlite"
replication_factor = 1
metadata_fsync = false
data_fsync = false
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:{api}"
root_domain = ".s3.garage.amazonaws.com"
"#
    )
}

/// A number that no other test of this machine has at the same time, nor one before.
fn nanoseconds() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("a clock").as_nanos()
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a bound port").port())
}
