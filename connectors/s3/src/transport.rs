//! Failures of connections, told apart by what lies at the bottom of them; it knows no answers of servers.

use std::error::Error as StdError;

use plakar_plugin_api::ErrorKind;
use rustls::CertificateError;

use crate::error::one_line;

/// The kind of a failed exchange, and why it failed. A name that does not exist is a mistake as long as no request has ever `arrived`.
pub(crate) fn judge(error: &(dyn StdError + 'static), arrived: bool) -> (ErrorKind, String) {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(tls) = found.downcast_ref::<rustls::Error>() {
            return judge_tls(tls);
        }
        cause = beneath(found);
    }
    let why = innermost(error);
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

/// What lies at the bottom of an error, on one line.
pub(crate) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |found| beneath(*found));
    one_line(&causes.last().map_or_else(String::new, ToString::to_string), 200)
}

/// What an error was made from. One of input and output hides that from `source`.
fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    let inner = error
        .downcast_ref::<std::io::Error>()
        .and_then(std::io::Error::get_ref);
    inner.map_or_else(
        || error.source(),
        |inner| Some(inner as &(dyn StdError + 'static)),
    )
}

/// TLS that cannot be.
fn judge_tls(error: &rustls::Error) -> (ErrorKind, String) {
    match error {
        rustls::Error::InvalidCertificate(why) => {
            let advice = match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "renew it, or set the clock of this machine"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "set the clock of this machine"
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "use a host name that it was made for"
                }
                _ => "name the file of the authority that signed it in `tls_ca_file`",
            };
            let why = one_line(&why.to_string(), 200);
            let text = format!("the certificate of the server is not trusted ({why}): {advice}");
            (ErrorKind::Config, text)
        }
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
        for (certificate, advice) in [
            (CertificateError::UnknownIssuer, "tls_ca_file"),
            (CertificateError::Expired, "renew it"),
            (CertificateError::NotValidYet, "set the clock"),
            (CertificateError::NotValidForName, "host name"),
        ] {
            let tls = rustls::Error::InvalidCertificate(certificate);
            let (kind, why) = judge_new(&std::io::Error::other(tls));
            assert!(kind == ErrorKind::Config && why.contains(advice), "{why}");
        }
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
