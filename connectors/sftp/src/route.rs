//! Where the bytes of a connection go: to an address, through another connection, or through a command.
//!
//! It does not know who is at the other end.

use std::process::Stdio;

use plakar_plugin_api::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::config::{is_harmless_host, split_port};
use crate::connect::{Link, Resolved};

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

pub(crate) async fn connect_tcp(to: &Resolved) -> Result<TcpStream> {
    let what = format!("{}:{}", to.host, to.port);
    let addresses = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
    let addresses: Vec<_> = addresses
        .map_err(|error| config_error(format!("the host {} is not found: {error}", to.host)))?
        .collect();
    let stream = TcpStream::connect(addresses.as_slice()).await.map_err(|error| {
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

pub(crate) fn run_proxy(to: &Resolved, command: &str) -> Result<Route> {
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
