//! Logging in: which keys and passwords are offered in which order. It asks nobody anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plakar_plugin_api::{Error, ErrorKind, Host, Level};
use russh::MethodKind;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Interactive};
use russh::keys::agent::client::AgentClient;
use russh::keys::agent::{AgentIdentity, AgentSessionBinding};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{
    Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, load_openssh_certificate,
};
use zeroize::Zeroizing;

use crate::connect::{Farewell, HostKeyCheck};

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
pub(crate) async fn log_in(
    ssh: &mut Ssh,
    farewell: &Farewell,
    credentials: &Credentials,
    host: &Host,
) -> Result<(), Error> {
    let mut login = Login {
        ssh,
        credentials,
        host,
        tried: Vec::new(),
        offered: Vec::new(),
        accepted: 0,
        rsa_hash: RsaHash::NotAsked,
        methods: Vec::new(),
    };
    let outcome = login.run().await;
    let failed = |why: String| Error::new(ErrorKind::Transient, why);
    let target = &credentials.target;
    match outcome {
        Ok(true) => Ok(()),
        // A connection that breaks says nothing of what was offered on it.
        _ if login.ssh.is_closed() && !farewell.is_refusal() => Err(failed(format!(
            "the connection was lost while logging in as {target}{}: {}",
            login.so_far(),
            farewell.why("the server ended it")
        ))),
        _ if login.ssh.is_closed() => {
            let mut refused = login.refused();
            refused.message.push_str("; ");
            refused
                .message
                .push_str(&farewell.why("the server ended the connection"));
            Err(refused)
        }
        Ok(false) => Err(login.refused()),
        Err(error) => Err(failed(format!("cannot log in as {target}: {error}"))),
    }
}

struct Login<'a> {
    ssh: &'a mut Ssh,
    credentials: &'a Credentials,
    host: &'a Host,
    tried: Vec<String>,
    /// Public keys that the server has judged, by themselves and in certificates.
    offered: Vec<(KeyData, bool)>,
    /// How many proofs were accepted that were not enough.
    accepted: usize,
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
        let mut agent = self.reach_agent().await;
        loop {
            // Keys that the user named come before those that only happen to be in the agent: servers count.
            let accepted = self.accepted;
            if self.try_agent(agent.as_mut(), true).await?
                || self.try_files(true).await?
                || self.try_agent(agent.as_mut(), false).await?
                || self.try_files(false).await?
                || self.try_password().await?
                || self.try_interactive().await?
            {
                return Ok(true);
            }
            // A server may want several proofs, in an order of its own.
            if self.accepted == accepted {
                return Ok(false);
            }
        }
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
        self.accepted += usize::from(partial_success);
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

    /// The agent with its keys, if there is one and keys are wanted.
    async fn reach_agent(&self) -> Option<Agent> {
        let socket = self.credentials.agent.as_ref()?;
        if !self.wants(MethodKind::PublicKey) {
            return None;
        }
        match identities_of(socket, self.ssh.agent_session_binding()).await {
            Ok((client, keys)) => {
                let own = self.credentials.identities.iter();
                let own: Vec<PublicKey> = own.filter_map(|identity| public_half(&identity.path)).collect();
                let is_own = |identity: &AgentIdentity| {
                    own.iter()
                        .any(|key| key.key_data() == identity.public_key().key_data())
                };
                let (named, others) = keys.into_iter().partition(is_own);
                Some(Agent {
                    client,
                    named,
                    others,
                })
            }
            Err(error) => {
                self.log(
                    Level::Warn,
                    &format!("the agent at {} cannot be used: {error}", socket.display()),
                );
                None
            }
        }
    }

    async fn try_agent(&mut self, agent: Option<&mut Agent>, named: bool) -> Step {
        let Some(agent) = agent.filter(|_| named || !self.credentials.identities_only) else {
            return Ok(false);
        };
        let keys = if named { &agent.named } else { &agent.others };
        for identity in keys {
            if !self.wants(MethodKind::PublicKey) {
                break;
            }
            if self
                .try_agent_identity(&mut agent.client, identity.clone())
                .await?
            {
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
        let certified = matches!(identity, AgentIdentity::Certificate { .. });
        if self.was_offered(&key, certified) {
            return Ok(false);
        }
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
                self.offered.push((key.key_data().clone(), certified));
                Ok(self.note(answer, Some(what)))
            }
            Err(_) if self.ssh.is_closed() => Ok(false),
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

    fn was_offered(&self, key: &PublicKey, certified: bool) -> bool {
        let mut offered = self.offered.iter();
        offered.any(|(data, in_certificate)| data == key.key_data() && *in_certificate == certified)
    }

    async fn try_files(&mut self, named: bool) -> Step {
        let credentials = self.credentials;
        let identities = credentials.identities.iter();
        for identity in identities.filter(|identity| identity.named == named) {
            if !self.wants(MethodKind::PublicKey) {
                return Ok(false);
            }
            let Some(key) = self.load(identity) else { continue };
            let Signing::With(hash) = self.signing_for(key.public_key()).await? else {
                continue;
            };
            let shown = identity.path.display();
            let certificates = if self.was_offered(key.public_key(), true) {
                Vec::new()
            } else {
                self.certificates_for(&identity.path, &key)
            };
            for certificate in certificates {
                self.offered.push((key.public_key().key_data().clone(), true));
                let answer = self
                    .ssh
                    .authenticate_openssh_cert(&credentials.user, Arc::clone(&key), certificate)
                    .await?;
                if self.note(answer, Some(format!("certificate of {shown}"))) {
                    return Ok(true);
                }
            }
            if self.was_offered(key.public_key(), false) || !self.wants(MethodKind::PublicKey) {
                continue;
            }
            self.offered.push((key.public_key().key_data().clone(), false));
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
                    Err(error) if passphrase.is_some() => {
                        format!("cannot be decrypted: is identity_passphrase right? ({error})")
                    }
                    Err(error) => format!("cannot be used: {error}"),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !identity.named => return None,
            Err(error) => format!("cannot be read: {error}"),
        };
        // Another key may do: then nobody needs to hear of it.
        self.log(Level::Info, &format!("the key {} {why}", path.display()));
        let what = format!("key {} ({why})", path.display());
        if !self.tried.contains(&what) {
            self.tried.push(what);
        }
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
        let what = "the password (keyboard-interactive)".to_owned();
        let mut answered = false;
        let mut answer = self
            .ssh
            .authenticate_keyboard_interactive_start(&self.credentials.user, None)
            .await?;
        for _ in 0..MAX_ROUNDS {
            let prompts = match answer {
                Interactive::Success => return Ok(true),
                Interactive::Failure {
                    remaining_methods,
                    partial_success,
                } => {
                    let answer = AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    };
                    return Ok(self.note(answer, Some(what)));
                }
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
        self.tried.push(format!("{what}, asked too often"));
        Ok(false)
    }

    fn log(&self, level: Level, message: &str) {
        self.host.log(level, "sftp::auth", message);
    }

    /// What was tried, for a message that is about something else.
    fn so_far(&self) -> String {
        if self.tried.is_empty() {
            return String::new();
        }
        format!(" (after {})", self.tried.join(", "))
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

/// An agent and its keys: those of files that the user named, and the others.
struct Agent {
    client: AgentClient<tokio::net::UnixStream>,
    named: Vec<AgentIdentity>,
    others: Vec<AgentIdentity>,
}

/// Asks an agent for its keys. It is told which server they are for: of keys that are bound to servers it shows only that one's.
async fn identities_of(
    socket: &Path,
    server: Option<&AgentSessionBinding>,
) -> Result<(AgentClient<tokio::net::UnixStream>, Vec<AgentIdentity>), russh::keys::Error> {
    let mut agent = AgentClient::connect_uds(socket).await?;
    if let Some(server) = server
        && agent.bind_session(server, false).await.is_err()
    {
        // An agent that does not know the question may have hung up.
        agent = AgentClient::connect_uds(socket).await?;
    }
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
