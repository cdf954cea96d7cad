//! Where the bytes of a connection go: to an address, through another connection, or through a command.
//!
//! It does not know who is at the other end.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use plakar_plugin_api::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::config::{is_harmless_host, is_harmless_user, split_port};
use crate::connect::{Link, Resolved};

/// How long an address may stay silent before the next is tried as well.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_secs(1);

/// What the system says of a name that nobody has.
const UNKNOWN_NAME: [&str; 3] = [
    "Name or service not known",
    "No address associated with hostname",
    "nodename nor servname",
];

/// A host to connect to, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where the bytes of a connection go.
pub(crate) struct Route {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) via: Option<Box<Link>>,
    pub(crate) command: Option<Child>,
}

/// `reached`: there was a connection before.
pub(crate) async fn connect_tcp(to: &Resolved, reached: bool) -> Result<TcpStream> {
    let what = shown(&to.host, to.port);
    let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
    let addresses = found.map_err(|error| {
        // Who is offline learns nothing of the name.
        let why = error.to_string();
        let unknown = UNKNOWN_NAME.iter().any(|text| why.contains(text));
        let kind = if reached || !unknown {
            ErrorKind::Transient
        } else {
            ErrorKind::Config
        };
        Error::new(kind, format!("the host {} is not found: {why}", to.host))
    })?;
    let stream = connect_first(addresses).await.map_err(|error| {
        let kind = match Error::io("", &error).kind {
            ErrorKind::Other => ErrorKind::Transient,
            kind => kind,
        };
        Error::new(kind, format!("cannot connect to {what}: {error}"))
    })?;
    let nodelay = stream.set_nodelay(true);
    nodelay.map_err(|error| Error::io(format_args!("cannot connect to {what}"), &error))?;
    Ok(stream)
}

/// Connects to whichever address answers; one that is silent does not keep the next from being tried.
async fn connect_first(addresses: impl Iterator<Item = SocketAddr>) -> std::io::Result<TcpStream> {
    let mut failure = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    let mut tries = JoinSet::new();
    for address in addresses {
        tries.spawn(TcpStream::connect(address));
        match tokio::time::timeout(NEXT_ADDRESS_AFTER, tries.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failure = error,
            _ => {}
        }
    }
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_not_run) => {}
        }
    }
    Err(failure)
}

/// A host and port for messages.
pub(crate) fn shown(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

pub(crate) fn run_proxy(to: &Resolved, command: &str) -> Result<Route> {
    if command.contains("%r") && !is_harmless_user(&to.user) {
        return Err(config_error(format!(
            "the user name {:?} cannot stand in the ProxyCommand for {}",
            to.user, to.written
        )));
    }
    let port = to.port.to_string();
    let tokens = [
        ('h', to.host.as_str()),
        ('n', &to.written),
        ('p', &port),
        ('r', &to.user),
    ];
    let line = format!("exec {}", expand_percent(command, &tokens));
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &line])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let failed = |why: &str| {
        config_error(format!(
            "the ProxyCommand for {} does not start: {why}",
            to.written
        ))
    };
    let mut child = shell.spawn().map_err(|error| failed(&error.to_string()))?;
    let (Some(output), Some(input)) = (child.stdout.take(), child.stdin.take()) else {
        return Err(failed("it has no input and output"));
    };
    Ok(Route {
        stream: Box::new(tokio::io::join(output, input)),
        via: None,
        command: Some(child),
    })
}

/// `[user@]host[:port],…`, or `none`.
pub(crate) fn parse_jumps(text: &str) -> Result<Vec<Hop>> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    let hop = |text: &str| {
        let text = text.trim().strip_prefix("ssh://").unwrap_or_else(|| text.trim());
        let (user, host) = text
            .rsplit_once('@')
            .map_or((None, text), |(user, host)| (Some(user.to_owned()), host));
        let (host, port) = split_port(host)?;
        is_harmless_host(host).then(|| Hop {
            user,
            host: host.to_owned(),
            port,
        })
    };
    let hops = text
        .split(',')
        .map(|text| hop(text).ok_or_else(|| config_error(format!("ProxyJump: {text:?} is not a host"))));
    hops.collect()
}

/// Replaces `%x` by the value of `x`, and `%%` by `%`. Unknown ones stay as they are.
pub(crate) fn expand_percent(text: &str, values: &[(char, &str)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            expanded.push(letter);
            continue;
        }
        match letters.next() {
            Some('%') | None => expanded.push('%'),
            Some(token) => match values.iter().find(|(name, _)| *name == token) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.extend(['%', token]),
            },
        }
    }
    expanded
}

pub(crate) fn config_error(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_is_silent_does_not_keep_the_next_from_being_tried() {
        let listening = |backlog| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.listen(backlog).unwrap()
        };
        let (silent, good) = (listening(0), listening(8));
        let silent_address = silent.local_addr().unwrap();
        // Its queue is full: the system drops what comes on top.
        let _queued = TcpStream::connect(silent_address).await.unwrap();
        let addresses = [silent_address, good.local_addr().unwrap()];
        let connected = tokio::time::timeout(Duration::from_secs(10), connect_first(addresses.into_iter()));
        let stream = connected.await.expect("the second is tried").unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        assert!(connect_first([].into_iter()).await.is_err());
    }

    #[test]
    fn hosts_on_the_way_are_listed_with_commas() {
        let hop = |user: Option<&str>, host: &str, port| Hop {
            user: user.map(str::to_owned),
            host: host.into(),
            port,
        };
        let wanted = [
            hop(Some("me"), "a", Some(2222)),
            hop(None, "::1", Some(22)),
            hop(None, "c", None),
        ];
        assert_eq!(parse_jumps("me@a:2222, [::1]:22,ssh://c").unwrap(), wanted);
        assert_eq!(parse_jumps("none").unwrap(), []);
        for wrong in ["", "a,,b", "a:x", "-oX", "a;b"] {
            assert_eq!(parse_jumps(wrong).unwrap_err().kind, ErrorKind::Config, "{wrong}");
        }
    }

    #[test]
    fn tokens_are_replaced() {
        assert_eq!(
            expand_percent("nc %h %p 100%% %x %", &[('h', "host"), ('p', "22")]),
            "nc host 22 100% %x %"
        );
    }
}
