//! What went wrong, told apart, as the host acts on it: above all the refusals of servers.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use plakar_plugin_api::{Error, ErrorKind};

use crate::config::is_name;
use crate::messages::{ErrorDocument, read};
use crate::time::{duration, retry_after, timestamp};
use crate::transport;

/// Why a request brought nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server said no.
    Refused(Box<Refusal>),
    /// There was no answer, or none that makes sense. The text says why, not what was tried.
    Broken(ErrorKind, String),
}

/// The server's answer to a request that it does not fulfil.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// The protocol's word for it; empty where there was no document.
    pub(crate) code: String,
    message: String,
    request_id: String,
    /// The region that the server wants. It goes into a host name, so it is one word.
    pub(crate) region: Option<String>,
    retry_after: Option<Duration>,
    /// How far the clock of this machine is from the server's, in seconds: positive when it is ahead.
    clock_ahead: Option<i64>,
}

impl Refusal {
    /// Understands an answer. `body` may be anything.
    pub(crate) fn new(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let document: ErrorDocument = read(body).unwrap_or_default();
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let now = Timestamp::now();
        let server_time = timestamp(&document.server_time).or_else(|| header("date").and_then(timestamp));
        let region = header("x-amz-bucket-region").unwrap_or(&document.region).trim();
        let request_id = header("x-amz-request-id").unwrap_or(&document.request_id);
        Self {
            status,
            code: one_line(&document.code, 60),
            message: one_line(&document.message, 200),
            request_id: one_line(request_id, 60),
            region: Some(region.to_owned()).filter(|region| is_name(region)),
            retry_after: header("retry-after").and_then(|text| retry_after(text, now)),
            clock_ahead: server_time.map(|time| now.as_second() - time.as_second()),
        }
    }

    /// What the host should take it for, and what to say. `None` says what the server says.
    fn judge(&self) -> (ErrorKind, Option<String>) {
        let say = |kind, text: &str| (kind, Some(text.to_owned()));
        let said = self.message.to_ascii_lowercase();
        match self.code.as_str() {
            "NoSuchBucket" => return say(ErrorKind::NotFound, "the bucket does not exist"),
            "NoSuchKey" => return say(ErrorKind::NotFound, "there is no such object"),
            "NoSuchUpload" => return say(ErrorKind::Transient, "the upload was ended by someone else"),
            "InvalidAccessKeyId" => return say(ErrorKind::Auth, "the server does not know the access key"),
            "SignatureDoesNotMatch" => return say(ErrorKind::Auth, "the secret access key is wrong"),
            "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
                return say(
                    ErrorKind::Auth,
                    "the session token has expired: fetch new credentials",
                );
            }
            "InvalidToken" => return say(ErrorKind::Auth, "the session token is wrong"),
            "RequestTimeTooSkewed" | "RequestExpired" => return (ErrorKind::Config, Some(self.clock())),
            // Garage says it in words only.
            "InvalidRequest" if said.contains("date is too old") => {
                return (ErrorKind::Config, Some(self.clock()));
            }
            "AuthorizationHeaderMalformed" | "PermanentRedirect" => {
                return (ErrorKind::Config, self.elsewhere());
            }
            "BadDigest" | "InvalidDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" => {
                return say(ErrorKind::Transient, "the bytes arrived damaged");
            }
            "EntityTooLarge" => return say(ErrorKind::Unsupported, "the server takes no object so large"),
            "InvalidStorageClass" => return say(ErrorKind::Config, "the setting `storage_class` is wrong"),
            "InvalidObjectState" => {
                return say(
                    ErrorKind::Other,
                    "it was moved to an archive: restore it from there with the tools of the storage",
                );
            }
            "QuotaExceeded" | "XMinioStorageFull" | "XMinioAdminBucketQuotaExceeded" => {
                return say(ErrorKind::NoSpace, "the storage or a quota is full");
            }
            // Garage says it in words only, as its disk says it, whether one node or all it needs are full.
            "InternalError" | "ServiceUnavailable"
                if said.contains("no space left on device") || said.contains("disk quota exceeded") =>
            {
                return say(ErrorKind::NoSpace, "the storage is full");
            }
            "SlowDown"
            | "ServiceUnavailable"
            | "InternalError"
            | "RequestTimeout"
            | "OperationAborted"
            | "ConditionalRequestConflict"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded" => {
                return (ErrorKind::Transient, None);
            }
            "AccessDenied" | "Forbidden" if said.contains("quota") => {
                return say(ErrorKind::NoSpace, "a quota of the bucket is used up");
            }
            // Garage says it in words only.
            "AccessDenied" | "Forbidden" if said.contains("no such key") => {
                return say(ErrorKind::Auth, "the server does not know the access key");
            }
            "AccessDenied" | "Forbidden" if said.contains("invalid signature") => {
                return say(ErrorKind::Auth, "the secret access key is wrong");
            }
            _ => {}
        }
        self.judge_status()
    }

    fn judge_status(&self) -> (ErrorKind, Option<String>) {
        let say = |kind, text: &str| (kind, Some(text.to_owned()));
        match self.status.as_u16() {
            301 | 302 | 307 | 308 => (ErrorKind::Config, self.elsewhere()),
            401 => say(ErrorKind::Auth, "the credentials are refused"),
            403 => say(
                ErrorKind::Permission,
                "access denied: these credentials may not do this here",
            ),
            404 => say(ErrorKind::NotFound, "there is no such object"),
            407 => say(ErrorKind::Config, "the proxy wants credentials"),
            408 | 429 | 500 | 502 | 503 | 504 | 509 => (ErrorKind::Transient, None),
            412 => say(ErrorKind::AlreadyExists, "it exists"),
            413 => say(ErrorKind::Unsupported, "the server takes no object so large"),
            405 | 501 => say(ErrorKind::Unsupported, "the server cannot do this"),
            507 => say(ErrorKind::NoSpace, "the storage is full"),
            _ => (ErrorKind::Other, None),
        }
    }

    fn clock(&self) -> String {
        let Some(ahead) = self.clock_ahead else {
            return "the clock of this machine is wrong: set it".to_owned();
        };
        let side = if ahead < 0 { "behind" } else { "ahead of" };
        format!(
            "the clock of this machine is {} {side} the server's: set it",
            duration(ahead.unsigned_abs())
        )
    }

    fn elsewhere(&self) -> Option<String> {
        let region = self.region.as_ref()?;
        Some(format!(
            "the bucket is in the region {region}: set `region` or use that host"
        ))
    }

    fn into_error(self, what: &str) -> Error {
        let (kind, said) = self.judge();
        let status = self.status;
        let why = said
            .or_else(|| (!self.message.is_empty()).then(|| self.message.clone()))
            .unwrap_or_else(|| format!("the server answers {status}"));
        let mut origin = if self.code.is_empty() {
            status.as_str().to_owned()
        } else {
            format!("{} {}", status.as_str(), self.code)
        };
        if !self.request_id.is_empty() {
            origin = format!("{origin}, request {}", self.request_id);
        }
        let mut error = Error::new(kind, format!("cannot {what}: {why} ({origin})"));
        if kind == ErrorKind::Transient {
            error.retry_after = self.retry_after;
        }
        error
    }
}

impl Failure {
    /// The error about doing something to something: `what` is `write s3://…`.
    pub(crate) fn about(self, what: &str) -> Error {
        match self {
            Self::Refused(refusal) => refusal.into_error(what),
            Self::Broken(kind, why) => Error::new(kind, format!("cannot {what}: {why}")),
        }
    }

    /// The answer's status, where there was an answer.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status.as_u16()),
            Self::Broken(..) => None,
        }
    }

    /// The answer's code, or nothing.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.code,
            Self::Broken(..) => "",
        }
    }

    /// A failed exchange. A name that does not exist is a mistake as long as no request has ever `arrived`.
    pub(crate) fn transport(error: reqwest::Error, arrived: bool) -> Self {
        let timed_out = error.is_timeout();
        let error = error.without_url();
        let (kind, why) = transport::judge(&error, arrived);
        if timed_out && kind == ErrorKind::Transient {
            return Self::Broken(
                ErrorKind::Timeout,
                "the server does not answer in time".to_owned(),
            );
        }
        Self::Broken(kind, why)
    }
}

/// Foreign text, fit for the middle of a message.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let text = text.split(|char: char| char.is_whitespace() || char.is_control());
    let words: Vec<&str> = text.filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.trim_end_matches('.').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, code: &str, message: &str, headers: &[(&'static str, &str)]) -> Error {
        let body = format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message><Region>garage</Region>\
             <AWSAccessKeyId>AKIA</AWSAccessKeyId><RequestId>R1</RequestId></Error>"
        );
        let headers = headers.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, value.parse().unwrap())
        });
        Refusal::new(
            StatusCode::from_u16(status).unwrap(),
            &headers.collect(),
            body.as_bytes(),
        )
        .into_error("write s3://h/b/k")
    }

    #[test]
    fn refusals_are_told_apart() {
        let cases = [
            (404, "NoSuchKey", "", ErrorKind::NotFound, "no such object"),
            (
                404,
                "NoSuchBucket",
                "",
                ErrorKind::NotFound,
                "the bucket does not exist",
            ),
            (
                403,
                "AccessDenied",
                "Access Denied",
                ErrorKind::Permission,
                "access denied",
            ),
            (
                403,
                "AccessDenied",
                "Forbidden: No such key: GK1",
                ErrorKind::Auth,
                "access key",
            ),
            (
                403,
                "AccessDenied",
                "Invalid signature",
                ErrorKind::Auth,
                "secret",
            ),
            (403, "InvalidAccessKeyId", "", ErrorKind::Auth, "access key"),
            (403, "SignatureDoesNotMatch", "", ErrorKind::Auth, "secret"),
            (400, "ExpiredToken", "", ErrorKind::Auth, "expired"),
            (403, "RequestTimeTooSkewed", "", ErrorKind::Config, "clock"),
            (
                400,
                "InvalidRequest",
                "Bad request: Date is too old",
                ErrorKind::Config,
                "clock",
            ),
            (429, "TooManyRequests", "", ErrorKind::Transient, "429"),
            (500, "InternalError", "oops", ErrorKind::Transient, "oops"),
            (502, "", "", ErrorKind::Transient, "502"),
            (
                503,
                "SlowDown",
                "Reduce your rate.",
                ErrorKind::Transient,
                "Reduce your rate (",
            ),
            (409, "ConditionalRequestConflict", "", ErrorKind::Transient, "409"),
            (507, "", "", ErrorKind::NoSpace, "full"),
            (
                500,
                "InternalError",
                "Internal error: I/O error: No space left on device (os error 28)",
                ErrorKind::NoSpace,
                "full",
            ),
            (
                503,
                "ServiceUnavailable",
                "Internal error: Could not reach quorum of 1. Others returned errors: [\"IO error: No space left on device (os error 28)\"]",
                ErrorKind::NoSpace,
                "full",
            ),
            (
                403,
                "InvalidObjectState",
                "The operation is not valid for the object's storage class",
                ErrorKind::Other,
                "archive",
            ),
            (403, "QuotaExceeded", "", ErrorKind::NoSpace, "full"),
            (400, "BadDigest", "", ErrorKind::Transient, "damaged"),
            (412, "PreconditionFailed", "", ErrorKind::AlreadyExists, "exists"),
            (501, "NotImplemented", "", ErrorKind::Unsupported, "cannot"),
            (
                301,
                "PermanentRedirect",
                "",
                ErrorKind::Config,
                "the region garage",
            ),
            (400, "InvalidRequest", "no\n  lock", ErrorKind::Other, "no lock"),
            (418, "", "", ErrorKind::Other, "418"),
        ];
        for (status, code, message, kind, words) in cases {
            let error = refusal(status, code, message, &[]);
            assert_eq!(error.kind, kind, "{}", error.message);
            assert!(error.message.contains(words), "{}", error.message);
            assert!(
                error.message.starts_with("cannot write s3://h/b/k: "),
                "{}",
                error.message
            );
            assert!(error.message.ends_with("request R1)") && !error.message.contains('\n'));
            assert!(!error.message.contains("AKIA"), "{}", error.message);
        }
    }

    #[test]
    fn an_answer_without_a_document_is_judged_by_its_status() {
        let body = b"<html><body>nginx <b>ate</b> it";
        let error = Refusal::new(StatusCode::FORBIDDEN, &HeaderMap::new(), body).into_error("read x");
        assert_eq!(error.kind, ErrorKind::Permission);
        assert!(!error.message.contains("html"), "{}", error.message);
    }

    #[test]
    fn a_region_that_is_no_word_is_not_taken_over() {
        let region = |text: &str| {
            let body = format!("<Error><Code>PermanentRedirect</Code><Region>{text}</Region></Error>");
            Refusal::new(StatusCode::MOVED_PERMANENTLY, &HeaderMap::new(), body.as_bytes()).region
        };
        assert_eq!(region("eu-west-3").as_deref(), Some("eu-west-3"));
        for text in ["", "evil.example/", "a\nb", "a b", &"x".repeat(65)] {
            assert_eq!(region(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_time_to_wait_is_kept() {
        let wait = |text| refusal(503, "SlowDown", "", &[("retry-after", text)]).retry_after;
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999"), Some(Duration::from_hours(1)));
        assert_eq!(wait("soon"), None);
        let denied = refusal(403, "AccessDenied", "", &[("retry-after", "7")]);
        assert_eq!(denied.retry_after, None);
    }

    #[test]
    fn a_wrong_clock_says_by_how_much() {
        let error = refusal(
            403,
            "RequestTimeTooSkewed",
            "",
            &[("date", "Mon, 01 Jan 2001 00:00:00 GMT")],
        );
        assert!(
            error.message.contains("days ahead of the server's"),
            "{}",
            error.message
        );
        let error = refusal(
            403,
            "RequestTimeTooSkewed",
            "",
            &[("date", "2200-01-01T00:00:00Z")],
        );
        assert!(
            error.message.contains("days behind the server's"),
            "{}",
            error.message
        );
    }
}
