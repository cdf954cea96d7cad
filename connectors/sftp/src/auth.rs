//! Logging in: which keys and passwords are offered in which order. It asks nobody anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plakar_plugin_api::{Error, ErrorKind, Host, Level};
use russh::MethodKind;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Interactive};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{
    Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, load_openssh_certificate,
};
use zeroize::Zeroizing;

use crate::connect::HostKeyCheck;

/// Servers that ask again and again are left.
const MAX_ROUNDS: usize = 8;

/// What a login may use.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    /// For messages: user, host and port.
    pub(crate) target: String,
    /// The socket of an agent.
    pub(crate) agent: Option<PathBuf>,
    pub(crate) identities: Vec<Identity>,
    pub(crate) certificates: Vec<PathBuf>,
    /// Keys of the agent that are not among the identities are not offered.
    pub(crate) identities_only: bool,
    pub(crate) passphrase: Option<Zeroizing<String>>,
    pub(crate) password: Option<Zeroizing<String>>,
}

/// A file with a private key.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) path: PathBuf,
    /// Whether it was named by the user: then it is told when it cannot be used.
    pub(crate) named: bool,
}

type Ssh = Handle<HostKeyCheck>;

/// Logs in or says what was tried.
pub(crate) async fn log_in(ssh: &mut Ssh, credentials: &Credentials, host: &Host) -> Result<(), Error> {
    let mut login = Login {
        ssh,
        credentials,
        host,
        tried: Vec::new(),
        offered: Vec::new(),
        rsa_hash: RsaHash::NotAsked,
        methods: Vec::new(),
    };
    let outcome = login.run().await;
    match outcome {
        Ok(true) => Ok(()),
        Ok(false) => Err(login.refused()),
        Err(error) if login.ssh.is_closed() && !login.tried.is_empty() => {
            let refused = login.refused();
            let message = format!("{}; the server ended the connection ({error})", refused.message);
            Err(Error::new(refused.kind, message))
        }
        Err(error) => {
            let message = format!("cannot log in as {}: {error}", credentials.target);
            Err(Error::new(ErrorKind::Transient, message))
        }
    }
}

struct Login<'a> {
    ssh: &'a mut Ssh,
    credentials: &'a Credentials,
    host: &'a Host,
    tried: Vec<String>,
    /// Public keys that the server has turned down.
    offered: Vec<PublicKey>,
    rsa_hash: RsaHash,
    /// What the server would go on with.
    methods: Vec<MethodKind>,
}

/// What RSA keys sign with at this server.
#[derive(Clone, Copy)]
enum RsaHash {
    NotAsked,
    OnlySha1,
    Known(HashAlg),
}

/// Whether and with which hash a key can sign; keys other than RSA bring their own.
enum Signing {
    No,
    With(Option<HashAlg>),
}

/// Whether we are in.
type Step = Result<bool, russh::Error>;

impl Login<'_> {
    async fn run(&mut self) -> Step {
        let answer = self.ssh.authenticate_none(&self.credentials.user).await?;
        if self.note(answer, None) {
            return Ok(true);
        }
        Ok(self.try_agent().await?
            || self.try_files().await?
            || self.try_password().await?
            || self.try_interactive().await?)
    }

    /// Takes in the server's answer; whether we are in.
    fn note(&mut self, answer: AuthResult, what: Option<String>) -> bool {
        let AuthResult::Failure {
            remaining_methods,
            partial_success,
        } = answer
        else {
            return true;
        };
        if !remaining_methods.is_empty() {
            self.methods = remaining_methods.to_vec();
        }
        self.tried.extend(what.map(|what| {
            if partial_success {
                format!("{what} (accepted, but not enough)")
            } else {
                what
            }
        }));
        false
    }

    fn wants(&self, method: MethodKind) -> bool {
        !self.ssh.is_closed() && self.methods.contains(&method)
    }

    async fn try_agent(&mut self) -> Step {
        let Some(socket) = self
            .credentials
            .agent
            .clone()
            .filter(|_| self.wants(MethodKind::PublicKey))
        else {
            return Ok(false);
        };
        let (mut agent, identities) = match identities_of(&socket).await {
            Ok(found) => found,
            Err(error) => {
                self.log(
                    Level::Warn,
                    &format!("the agent at {} cannot be used: {error}", socket.display()),
                );
                return Ok(false);
            }
        };
        let own: Vec<PublicKey> = self
            .credentials
            .identities
            .iter()
            .filter_map(|identity| public_half(&identity.path))
            .collect();
        let is_own = |identity: &AgentIdentity| {
            own.iter()
                .any(|key| key.key_data() == identity.public_key().key_data())
        };
        let (first, rest): (Vec<_>, Vec<_>) = identities.into_iter().partition(is_own);
        let rest = if self.credentials.identities_only {
            Vec::new()
        } else {
            rest
        };
        for identity in first.into_iter().chain(rest) {
            if !self.wants(MethodKind::PublicKey) {
                break;
            }
            if self.try_agent_identity(&mut agent, identity).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn try_agent_identity(
        &mut self,
        agent: &mut AgentClient<tokio::net::UnixStream>,
        identity: AgentIdentity,
    ) -> Step {
        let key = identity.public_key().into_owned();
        let what = format!("agent key {}", key.fingerprint(HashAlg::Sha256));
        let Signing::With(hash) = self.signing_for(&key).await? else {
            return Ok(false);
        };
        let user = &self.credentials.user;
        let answer = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                self.ssh.authenticate_publickey_with(user, key, hash, agent).await
            }
            AgentIdentity::Certificate { certificate, .. } => {
                self.ssh
                    .authenticate_certificate_with(user, certificate, hash, agent)
                    .await
            }
        };
        match answer {
            Ok(answer) => {
                self.offered.push(key);
                Ok(self.note(answer, Some(what)))
            }
            Err(error) => {
                self.log(
                    Level::Warn,
                    &format!("the agent did not sign with {what}: {error}"),
                );
                self.tried.push(format!("{what} (the agent did not sign)"));
                Ok(false)
            }
        }
    }

    async fn try_files(&mut self) -> Step {
        let credentials = self.credentials;
        for identity in &credentials.identities {
            if !self.wants(MethodKind::PublicKey) {
                return Ok(false);
            }
            let Some(key) = self.load(identity) else { continue };
            let Signing::With(hash) = self.signing_for(key.public_key()).await? else {
                continue;
            };
            let shown = identity.path.display();
            for certificate in self.certificates_for(&identity.path, &key) {
                let answer = self
                    .ssh
                    .authenticate_openssh_cert(&credentials.user, Arc::clone(&key), certificate)
                    .await?;
                if self.note(answer, Some(format!("certificate of {shown}"))) {
                    return Ok(true);
                }
            }
            if self
                .offered
                .iter()
                .any(|offered| offered.key_data() == key.public_key().key_data())
            {
                continue;
            }
            self.offered.push(key.public_key().clone());
            let signer = PrivateKeyWithHashAlg::new(key, hash);
            let answer = self.ssh.authenticate_publickey(&credentials.user, signer).await?;
            if self.note(answer, Some(format!("key {shown}"))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads a private key. One that is not there is passed over in silence unless it was named.
    fn load(&mut self, identity: &Identity) -> Option<Arc<PrivateKey>> {
        let path = &identity.path;
        let why = match std::fs::read_to_string(path).map(Zeroizing::new) {
            Ok(text) => {
                let passphrase = self.credentials.passphrase.as_ref().map(|text| text.as_str());
                // A key that is not encrypted is read without, whatever the setting says.
                let read = russh::keys::decode_secret_key(&text, None).or_else(|error| {
                    passphrase.map_or(Err(error), |text_of| {
                        russh::keys::decode_secret_key(&text, Some(text_of))
                    })
                });
                match read {
                    Ok(key) => return Some(Arc::new(key)),
                    Err(russh::keys::Error::KeyIsEncrypted) => {
                        "is encrypted: set identity_passphrase, or add it to an agent".to_owned()
                    }
                    Err(_) if passphrase.is_some() => {
                        "cannot be decrypted: is identity_passphrase right?".to_owned()
                    }
                    Err(error) => format!("cannot be used: {error}"),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !identity.named => return None,
            Err(error) => format!("cannot be read: {error}"),
        };
        self.log(Level::Warn, &format!("the key {} {why}", path.display()));
        self.tried.push(format!("key {} ({why})", path.display()));
        None
    }

    fn certificates_for(&self, identity: &Path, key: &PrivateKey) -> Vec<Certificate> {
        let mut beside = identity.as_os_str().to_owned();
        beside.push("-cert.pub");
        let files =
            std::iter::once(PathBuf::from(beside)).chain(self.credentials.certificates.iter().cloned());
        let certificates = files.filter_map(|path| load_openssh_certificate(path).ok());
        certificates
            .filter(|certificate| certificate.public_key() == key.public_key().key_data())
            .collect()
    }

    /// What a key signs with; nothing else than SHA-1 is no way to sign.
    async fn signing_for(&mut self, key: &PublicKey) -> Result<Signing, russh::Error> {
        if !key.algorithm().is_rsa() {
            return Ok(Signing::With(None));
        }
        if matches!(self.rsa_hash, RsaHash::NotAsked) {
            // A server that does not say what it knows is most likely to know this.
            let told = self
                .ssh
                .best_supported_rsa_hash()
                .await?
                .unwrap_or(Some(HashAlg::Sha512));
            self.rsa_hash = told.map_or(RsaHash::OnlySha1, RsaHash::Known);
        }
        let RsaHash::Known(hash) = self.rsa_hash else {
            self.log(
                Level::Warn,
                "RSA keys are not offered: the server knows them with SHA-1 only",
            );
            return Ok(Signing::No);
        };
        Ok(Signing::With(Some(hash)))
    }

    async fn try_password(&mut self) -> Step {
        let Some(password) = self
            .credentials
            .password
            .clone()
            .filter(|_| self.wants(MethodKind::Password))
        else {
            return Ok(false);
        };
        let answer = self
            .ssh
            .authenticate_password(&self.credentials.user, password.as_str())
            .await?;
        Ok(self.note(answer, Some("the password".into())))
    }

    /// Answers hidden questions with the password, once: a second question is not about the password.
    async fn try_interactive(&mut self) -> Step {
        let Some(password) = self
            .credentials
            .password
            .clone()
            .filter(|_| self.wants(MethodKind::KeyboardInteractive))
        else {
            return Ok(false);
        };
        let mut answered = false;
        let mut answer = self
            .ssh
            .authenticate_keyboard_interactive_start(&self.credentials.user, None)
            .await?;
        for _ in 0..MAX_ROUNDS {
            let prompts = match answer {
                Interactive::Success => return Ok(true),
                Interactive::Failure { .. } => break,
                Interactive::InfoRequest { prompts, .. } => prompts,
            };
            let askable = prompts.iter().all(|prompt| !prompt.echo) && (!answered || prompts.is_empty());
            let replies = prompts.iter().map(|_| {
                if askable {
                    password.to_string()
                } else {
                    String::new()
                }
            });
            answered |= !prompts.is_empty();
            answer = self
                .ssh
                .authenticate_keyboard_interactive_respond(replies.collect())
                .await?;
        }
        self.tried.push("the password (keyboard-interactive)".into());
        Ok(false)
    }

    fn log(&self, level: Level, message: &str) {
        self.host.log(level, "sftp::auth", message);
    }

    fn refused(&self) -> Error {
        let tried = if self.tried.is_empty() {
            "there was nothing to offer: set identity_file or password, or add a key to an agent".to_owned()
        } else {
            format!("tried {}", self.tried.join(", "))
        };
        let methods: Vec<&str> = self.methods.iter().map(<&str>::from).collect();
        let message = format!(
            "the server does not let {} in: {tried} (it accepts {})",
            self.credentials.target,
            if methods.is_empty() {
                "nothing".to_owned()
            } else {
                methods.join(", ")
            },
        );
        Error::new(ErrorKind::Auth, message)
    }
}

async fn identities_of(
    socket: &Path,
) -> Result<(AgentClient<tokio::net::UnixStream>, Vec<AgentIdentity>), russh::keys::Error> {
    let mut agent = AgentClient::connect_uds(socket).await?;
    let identities = agent.request_identities().await?;
    Ok((agent, identities))
}

/// The public half of a private key's file, without its passphrase: from the file beside it, or from itself.
fn public_half(path: &Path) -> Option<PublicKey> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    let from_private = || {
        let text = Zeroizing::new(std::fs::read_to_string(path).ok()?);
        Some(
            PrivateKey::from_openssh(text.as_bytes())
                .ok()?
                .public_key()
                .clone(),
        )
    };
    // The file may hold a public key itself: then the agent has the private half.
    let public = |path: &Path| russh::keys::load_public_key(path).ok();
    public(Path::new(&beside))
        .or_else(from_private)
        .or_else(|| public(path))
}
