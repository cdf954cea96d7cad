//! Failures of connections, told apart by what lies at the bottom of them; it knows no answers of servers.

use std::error::Error as StdError;

use plakar_plugin_api::ErrorKind;

use crate::error::one_line;

/// The kind of a failed exchange, and why it failed. A name that does not exist is a mistake as long as no request has ever `arrived`.
pub(crate) fn judge(error: &(dyn StdError + 'static), arrived: bool) -> (ErrorKind, String) {
    let mut last = String::new();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(tls) = found.downcast_ref::<rustls::Error>() {
            return judge_tls(tls);
        }
        last = found.to_string();
        // An error of input and output hides the one it was made from from `source`.
        let inner = found
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = inner.map_or_else(
            || found.source(),
            |inner| Some(inner as &(dyn StdError + 'static)),
        );
    }
    let why = one_line(&last, 200);
    let unknown_name = [
        "Name or service not known",
        "No address associated with hostname",
        "nodename nor servname",
    ];
    if why.contains("failed to lookup address")
        && !arrived
        && unknown_name.iter().any(|text| why.contains(text))
    {
        (ErrorKind::Config, format!("the host is not known: {why}"))
    } else if why.contains("invalid HTTP") {
        (
            ErrorKind::Config,
            "the server does not speak plain HTTP: is `tls = false` wrong?".to_owned(),
        )
    } else {
        (ErrorKind::Transient, why)
    }
}

/// TLS that cannot be.
fn judge_tls(error: &rustls::Error) -> (ErrorKind, String) {
    match error {
        rustls::Error::InvalidCertificate(why) => (
            ErrorKind::Config,
            format!(
                "the certificate of the server is not trusted ({}): name the file of the authority that signed it in `tls_ca_file`",
                one_line(&why.to_string(), 150)
            ),
        ),
        rustls::Error::InvalidMessage(_) => (
            ErrorKind::Config,
            "the server does not speak TLS: if it is meant to be plain HTTP, set `tls = false`".to_owned(),
        ),
        other => (
            ErrorKind::Transient,
            format!("TLS failed: {}", one_line(&other.to_string(), 150)),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_connections_are_told_apart() {
        let judge_new = |error: &(dyn StdError + 'static)| judge(error, false);
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let (kind, why) = judge_new(&std::io::Error::other(tls));
        assert!(kind == ErrorKind::Config && why.contains("tls_ca_file"), "{why}");
        let tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let (kind, why) = judge_new(&std::io::Error::other(std::io::Error::other(tls)));
        assert!(kind == ErrorKind::Config && why.contains("tls = false"), "{why}");
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(judge_new(&reset).0, ErrorKind::Transient);
        let name = std::io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(judge_new(&name).0, ErrorKind::Config);
        assert_eq!(judge(&name, true).0, ErrorKind::Transient);
    }
}
