//! From a host's name to a connection that is logged in: directly, through other hosts, or through a command.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use plakar_plugin_api::{Error, ErrorKind, Host, Level, Result};
use russh::client::{self, DisconnectReason, Handle};
use russh::keys::PublicKeyOrCertificate;
use russh::{ChannelOpenFailure, Disconnect, Preferred, cipher, compression};
use tokio::process::Child;

use crate::auth::{Credentials, Identity, log_in};
use crate::config::{Options, Surroundings, is_harmless_host, is_user};
use crate::error::quoted;
use crate::known_hosts::{KnownHost, Lookup};
use crate::route::{
    Hop, Route, Stream, config_error, connect_tcp, expand_percent, parse_jumps, run_proxy, shown,
};
use crate::ssh_config::{HostConfig, Strictness, lookup};
use crate::unstuck::Unstuck;

const DEFAULT_PORT: u16 = 22;
const DEFAULT_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Keep-alives that may stay unanswered.
const UNANSWERED: u32 = 3;
/// Hosts that are reached through hosts that are reached through hosts…
const MAX_JUMPS: usize = 8;
const DEFAULT_IDENTITIES: [&str; 3] = ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"];

/// What all connections of a location are made with.
pub(crate) struct Dialer {
    pub(crate) target: Hop,
    pub(crate) options: Options,
    pub(crate) surroundings: Surroundings,
    pub(crate) host: Host,
    /// Whether there was a connection: then a name that is not found is no mistake in the name.
    pub(crate) reached: AtomicBool,
}

/// A connection that is logged in, with what it goes through.
pub(crate) struct Link {
    pub(crate) ssh: Handle<HostKeyCheck>,
    pub(crate) farewell: Farewell,
    _via: Option<Box<Link>>,
    _command: Option<Child>,
}

/// A hop with all that the configuration says of it.
pub(crate) struct Resolved {
    config: HostConfig,
    pub(crate) written: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
}

impl Dialer {
    /// Connects to the target.
    pub(crate) async fn dial(&self) -> Result<Link> {
        let resolved = self.resolve(&self.target)?;
        let timeout = self.timeout(&resolved);
        let what = shown(&resolved.host, resolved.port);
        match tokio::time::timeout(timeout, self.connect(&self.target, None, 0)).await {
            Ok(connected) => connected.inspect(|_link| self.reached.store(true, Ordering::Relaxed)),
            Err(_elapsed) => {
                let message = format!("no connection to {what} within {} s", timeout.as_secs());
                Err(Error::new(ErrorKind::Timeout, message))
            }
        }
    }

    fn timeout(&self, resolved: &Resolved) -> Duration {
        let told = self.options.connect_timeout.or(resolved.config.connect_timeout);
        told.unwrap_or(Duration::from_secs(20))
    }

    fn resolve(&self, hop: &Hop) -> Result<Resolved> {
        let config = lookup(
            &self.options.ssh_config,
            &self.surroundings,
            &hop.host,
            hop.user.as_deref(),
        )?;
        for remark in &config.remarks {
            self.host.log(Level::Info, "sftp::ssh_config", remark);
        }
        let host = config.host_name.as_deref().map_or_else(
            || hop.host.clone(),
            |name| expand_percent(name, &[('h', &hop.host)]),
        );
        let user = hop
            .user
            .clone()
            .or_else(|| config.user.clone())
            .or_else(|| self.surroundings.user.clone());
        let user = user.ok_or_else(|| {
            config_error("whose login? name a user in the URL: sftp://user@host/path".to_owned())
        })?;
        if !is_harmless_host(&host) || !is_user(&user) {
            return Err(config_error(format!(
                "the ssh configuration gives {:?} a host or user name that is none",
                hop.host
            )));
        }
        let port = hop.port.or(config.port).unwrap_or(DEFAULT_PORT);
        Ok(Resolved {
            config,
            written: hop.host.clone(),
            host,
            port,
            user,
        })
    }

    /// Connects to a hop: through `via` when hosts are listed there, else as the configuration says.
    fn connect<'a>(
        &'a self,
        hop: &'a Hop,
        via: Option<Vec<Hop>>,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Link>> + Send + 'a>> {
        Box::pin(async move {
            if depth > MAX_JUMPS {
                return Err(config_error(format!(
                    "{} is reached through too many hosts: does a ProxyJump lead back?",
                    hop.host
                )));
            }
            let resolved = self.resolve(hop)?;
            let route = self.route(&resolved, via, depth).await?;
            let farewell = Farewell::default();
            let mut ssh = self.shake_hands(&resolved, route.stream, &farewell).await?;
            log_in(&mut ssh, &farewell, &self.credentials(&resolved), &self.host).await?;
            Ok(Link {
                ssh,
                farewell,
                _via: route.via,
                _command: route.command,
            })
        })
    }

    async fn route(&self, to: &Resolved, via: Option<Vec<Hop>>, depth: usize) -> Result<Route> {
        let via = match (via, to.config.proxy_jump.as_deref()) {
            (Some(via), _) => via,
            (None, Some(jumps)) => parse_jumps(jumps)?,
            (None, None) => Vec::new(),
        };
        // A pattern that covers the host on the way as well does not mean that it is reached through itself.
        let via = if via.iter().any(|hop| hop.host == to.written) {
            Vec::new()
        } else {
            via
        };
        if let Some((last, before)) = via.split_last() {
            return self.route_through(to, last, before, depth).await;
        }
        match to.config.proxy_command.as_deref() {
            Some(command) if !command.eq_ignore_ascii_case("none") => run_proxy(to, command),
            _ => Ok(Route {
                stream: Box::new(connect_tcp(to, self.reached.load(Ordering::Relaxed)).await?),
                via: None,
                command: None,
            }),
        }
    }

    async fn route_through(&self, to: &Resolved, last: &Hop, before: &[Hop], depth: usize) -> Result<Route> {
        let before = (!before.is_empty()).then(|| before.to_vec());
        let link = self.connect(last, before, depth + 1).await?;
        let channel = link
            .ssh
            .channel_open_direct_tcpip(&to.host, u32::from(to.port), "127.0.0.1", 0)
            .await;
        let channel = channel.map_err(|error| {
            let what = format!("cannot reach {} through {}", shown(&to.host, to.port), last.host);
            match error {
                russh::Error::ChannelOpenFailure(ChannelOpenFailure::AdministrativelyProhibited) => {
                    let message = format!("{what}: that host does not let this user forward connections");
                    Error::new(ErrorKind::Permission, message)
                }
                error => Error::new(ErrorKind::Transient, format!("{what}: {error}")),
            }
        })?;
        Ok(Route {
            stream: Box::new(channel.into_stream()),
            via: Some(Box::new(link)),
            command: None,
        })
    }

    async fn shake_hands(
        &self,
        to: &Resolved,
        stream: Box<dyn Stream>,
        farewell: &Farewell,
    ) -> Result<Handle<HostKeyCheck>> {
        let known = self.known_host(to);
        let alive_interval = to.config.alive_interval.unwrap_or(DEFAULT_ALIVE_INTERVAL);
        let config = client::Config {
            window_size: 16 << 20,
            keepalive_interval: Some(alive_interval),
            keepalive_max: UNANSWERED as usize,
            preferred: Preferred {
                key: known.algorithms().into(),
                host_key_certificates: known.certificate_algorithms().into(),
                // AES is faster than ChaCha20 on every processor that has instructions for it.
                cipher: vec![
                    cipher::AES_128_GCM,
                    cipher::AES_256_GCM,
                    cipher::CHACHA20_POLY1305,
                    cipher::AES_128_CTR,
                    cipher::AES_192_CTR,
                    cipher::AES_256_CTR,
                ]
                .into(),
                compression: vec![compression::NONE].into(),
                ..Preferred::DEFAULT
            },
            ..client::Config::default()
        };
        let check = HostKeyCheck {
            known,
            accepted: None,
            farewell: farewell.clone(),
        };
        // While a write is stuck no keep-alive is sent, so a write gets the same time.
        let stream = Unstuck::new(stream, alive_interval * (UNANSWERED + 1));
        let connected = client::connect_stream(Arc::new(config), stream, check).await;
        connected.map_err(|failure| match failure {
            Failure::Refused(error) => error,
            Failure::Ssh(error) => {
                let message = format!("no SSH connection to {}: {error}", shown(&to.host, to.port));
                Error::new(handshake_kind(&error), message)
            }
        })
    }

    fn known_host(&self, to: &Resolved) -> KnownHost {
        let expand = |files: &[String]| -> Vec<PathBuf> {
            let named = files.iter().filter(|file| !file.eq_ignore_ascii_case("none"));
            named.map(|file| self.expand_tokens(to, file)).collect()
        };
        let strings = |files: &[&str]| files.iter().map(|&file| file.to_owned()).collect::<Vec<_>>();
        let (user_files, global_files) = if let Some(file) = &self.options.known_hosts_file {
            (vec![file.clone()], Vec::new())
        } else {
            let own = || match self.surroundings.home {
                Some(_) => strings(&["~/.ssh/known_hosts", "~/.ssh/known_hosts2"]),
                None => Vec::new(),
            };
            let global = || strings(&["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]);
            (
                expand(&to.config.user_known_hosts.clone().unwrap_or_else(own)),
                expand(&to.config.global_known_hosts.clone().unwrap_or_else(global)),
            )
        };
        if to.config.strictness == Some(Strictness::Off) {
            let message = format!(
                "StrictHostKeyChecking no for {} is treated as accept-new",
                to.written
            );
            self.host.log(Level::Warn, "sftp::ssh_config", &message);
        }
        let accepts = matches!(
            to.config.strictness,
            Some(Strictness::AcceptNew | Strictness::Off)
        );
        Lookup {
            host: &to.host,
            port: to.port,
            alias: to.config.host_key_alias.as_deref(),
            user_files,
            global_files,
            accept_new: self.options.accept_new_host_key || accepts,
            hash_names: to.config.hash_known_hosts,
        }
        .read()
    }

    fn credentials(&self, to: &Resolved) -> Credentials {
        let options = &self.options;
        let named = |path: PathBuf| Identity { path, named: true };
        let mut identities: Vec<Identity> = options.identity_file.iter().cloned().map(named).collect();
        let configured = to
            .config
            .identity_files
            .iter()
            .filter(|file| !file.eq_ignore_ascii_case("none"));
        identities.extend(configured.map(|file| named(self.expand_tokens(to, file))));
        if identities.is_empty() && to.config.identity_files.is_empty() && self.surroundings.home.is_some() {
            let usual = DEFAULT_IDENTITIES
                .iter()
                .map(|file| self.surroundings.expand(file));
            identities.extend(usual.map(|path| Identity { path, named: false }));
        }
        let agent = match to.config.identity_agent.as_deref() {
            _ if !options.use_agent => None,
            Some(agent) if agent.eq_ignore_ascii_case("none") => None,
            Some(agent) if agent != "SSH_AUTH_SOCK" => Some(self.expand_tokens(to, agent)),
            _ => self.surroundings.agent.clone(),
        };
        Credentials {
            user: to.user.clone(),
            target: format!("{}@{}", to.user, shown(&to.host, to.port)),
            agent,
            identities,
            certificates: to
                .config
                .certificate_files
                .iter()
                .map(|file| self.expand_tokens(to, file))
                .collect(),
            identities_only: to.config.identities_only.unwrap_or(false),
            passphrase: options.identity_passphrase.clone(),
            // Hosts on the way are other machines: the password is for the target.
            password: options
                .password
                .clone()
                .filter(|_| to.written == self.target.host),
        }
    }

    fn expand_tokens(&self, to: &Resolved, path: &str) -> PathBuf {
        let home = self
            .surroundings
            .home
            .as_ref()
            .map(|home| home.to_string_lossy().into_owned())
            .unwrap_or_default();
        let local = self.surroundings.user.clone().unwrap_or_default();
        let port = to.port.to_string();
        let number = uzers::get_current_uid().to_string();
        let known_as = to.config.host_key_alias.as_ref().unwrap_or(&to.written);
        let expanded = expand_percent(
            path,
            &[
                ('d', &home),
                ('u', &local),
                ('i', &number),
                ('k', known_as),
                ('h', &to.host),
                ('n', &to.written),
                ('p', &port),
                ('r', &to.user),
            ],
        );
        self.surroundings.expand(&expanded)
    }
}

fn handshake_kind(error: &russh::Error) -> ErrorKind {
    match error {
        russh::Error::NoCommonAlgo { .. } | russh::Error::Version | russh::Error::UnknownAlgo => {
            ErrorKind::Config
        }
        russh::Error::WrongServerSig | russh::Error::UnknownKey => ErrorKind::Auth,
        _ => ErrorKind::Transient,
    }
}

/// Decides whether the server is the one it should be.
#[derive(Debug)]
pub(crate) struct HostKeyCheck {
    known: KnownHost,
    /// What was accepted when the connection began; it is shown again with every change of keys.
    accepted: Option<russh::keys::PublicKey>,
    farewell: Farewell,
}

/// Why a connection ended, once it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Farewell(Arc<OnceLock<Ending>>);

#[derive(Debug)]
struct Ending {
    why: String,
    /// The server said that it will have nothing to do with us.
    refusal: bool,
}

impl Farewell {
    /// Whether the server ended it because of what it was offered.
    pub(crate) fn is_refusal(&self) -> bool {
        self.0.get().is_some_and(|ending| ending.refusal)
    }

    /// Why it ended, or `otherwise` when nobody said.
    pub(crate) fn why(&self, otherwise: &str) -> String {
        self.0
            .get()
            .map_or_else(|| otherwise.to_owned(), |ending| ending.why.clone())
    }

    fn set(&self, why: String, refusal: bool) {
        let _known_before = self.0.set(Ending { why, refusal }).is_err();
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Failure {
    /// We do not trust the server.
    Refused(Error),
    Ssh(russh::Error),
}

impl From<russh::Error> for Failure {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl client::Handler for HostKeyCheck {
    type Error = Failure;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> std::result::Result<bool, Failure> {
        let key = shown.public_key();
        if self
            .accepted
            .as_ref()
            .is_some_and(|accepted| accepted.key_data() == key.key_data())
        {
            return Ok(true);
        }
        self.known.check(shown).map_err(Failure::Refused)?;
        self.accepted = Some(key);
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Failure>) -> std::result::Result<(), Failure> {
        match reason {
            DisconnectReason::ReceivedDisconnect(said) => {
                // "Too many authentication failures" is the first of these.
                let refusal = matches!(
                    said.reason_code,
                    Disconnect::ProtocolError
                        | Disconnect::HostNotAllowedToConnect
                        | Disconnect::AuthCancelledByUser
                        | Disconnect::NoMoreAuthMethodsAvailable
                        | Disconnect::IllegalUserName
                );
                let words = quoted(&said.message);
                self.farewell
                    .set(format!("the server ended the connection{words}"), refusal);
                Ok(())
            }
            DisconnectReason::Error(failure) => {
                let why = match &failure {
                    Failure::Refused(error) => error.message.clone(),
                    Failure::Ssh(error) => error.to_string(),
                };
                self.farewell.set(why, false);
                Err(failure)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_was_found_once_may_be_found_again() {
        let to = Resolved {
            config: HostConfig::default(),
            written: "nas".into(),
            host: "host.invalid".into(),
            port: 22,
            user: "me".into(),
        };
        for (reached, kind) in [(false, ErrorKind::Config), (true, ErrorKind::Transient)] {
            let error = connect_tcp(&to, reached).await.unwrap_err();
            assert!(
                error.kind == kind && error.message.contains("host.invalid"),
                "{error}"
            );
        }
    }
}
