//! One request before it is signed: what it asks for, its URL, and a body that tells how it moves.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use http_body::{Body, Frame, SizeHint};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use plakar_plugin_api::Host;

use crate::config::Config;

/// How much of a body is handed to the connection at a time.
const STEP_BYTES: usize = 256 << 10;

const STRICT: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const STRICT_PATH: AsciiSet = STRICT.remove(b'/');

/// What is asked of the server.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The object, with the prefix; `None` for the bucket.
    pub(crate) object: Option<String>,
    query: Vec<(&'static str, String)>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    /// SHA-256 of the body, where it was computed.
    pub(crate) digest: Option<[u8; 32]>,
}

impl Request {
    /// About an object.
    pub(crate) fn object(method: Method, object: &str) -> Self {
        Self {
            object: Some(object.to_owned()),
            ..Self::bucket(method)
        }
    }

    /// About the bucket.
    pub(crate) fn bucket(method: Method) -> Self {
        Self {
            method,
            object: None,
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            digest: None,
        }
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds a header. A value that no header can have is left out; ours are checked when they are read.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((HeaderName::from_static(name), value));
        }
        self
    }

    /// Adds a body, with its SHA-256 where the server shall check it.
    pub(crate) fn body(mut self, body: Bytes, hashed: bool) -> Self {
        self.digest = hashed.then(|| sha256(&body));
        self.body = body;
        self
    }

    /// The URL for a bucket in `region`.
    pub(crate) fn url(&self, config: &Config, region: &str) -> String {
        let scheme = if config.tls { "https" } else { "http" };
        let place = &config.location;
        let host = place.server.host(Some(region));
        let object = self.object.as_deref().unwrap_or_default();
        let object = utf8_percent_encode(object, &STRICT_PATH);
        let mut url = if config.virtual_hosted {
            format!("{scheme}://{}.{host}/{object}", place.bucket)
        } else {
            let slash = if self.object.is_some() { "/" } else { "" };
            format!("{scheme}://{host}/{}{slash}{object}", place.bucket)
        };
        for (index, (name, value)) in self.query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, &STRICT));
        }
        url
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap_or_default()
}

/// The call that a request is part of: whom to tell, and when something moved last.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    host: Host,
    begun: Instant,
    last_milliseconds: Arc<AtomicU64>,
    /// How many of its requests the host holds back at the moment.
    held_back: Arc<AtomicUsize>,
    /// How many of its requests must come to their end although the host wants no more.
    must_end: Arc<AtomicUsize>,
}

impl Call {
    pub(crate) fn new(host: Host) -> Self {
        Self {
            host,
            begun: Instant::now(),
            last_milliseconds: Arc::default(),
            held_back: Arc::default(),
            must_end: Arc::default(),
        }
    }

    /// Runs `work` to its end although the host may meanwhile want no more: what it leaves behind could not be cleared away.
    pub(crate) async fn go_on_with<T>(&self, work: impl Future<Output = T>) -> T {
        self.must_end.fetch_add(1, Ordering::SeqCst);
        let done = work.await;
        self.must_end.fetch_sub(1, Ordering::SeqCst);
        done
    }

    /// Whether a request is under way that must come to its end.
    pub(crate) fn must_go_on(&self) -> bool {
        self.must_end.load(Ordering::SeqCst) > 0
    }

    /// So many bytes of objects have moved. Where the user limits the rate this takes its time, and that is no silence of the server.
    pub(crate) fn moved(&self, bytes: usize) {
        self.held_back.fetch_add(1, Ordering::SeqCst);
        // Whoever else is served by this thread of the runtime goes to another.
        tokio::task::block_in_place(|| self.host.progress(bytes as u64));
        self.alive();
        self.held_back.fetch_sub(1, Ordering::SeqCst);
    }

    /// Something happened.
    pub(crate) fn alive(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_milliseconds.store(now, Ordering::Relaxed);
    }

    /// How long nothing has happened.
    pub(crate) fn idle(&self) -> Duration {
        if self.held_back.load(Ordering::SeqCst) > 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_milliseconds.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(last)
    }

    pub(crate) fn cancelled(&self) -> bool {
        self.host.cancelled()
    }
}

/// A body of known length that reports what is taken from it.
#[derive(Debug)]
pub(crate) struct Reported {
    rest: Bytes,
    call: Call,
}

impl Reported {
    pub(crate) fn new(bytes: Bytes, call: Call) -> Self {
        Self { rest: bytes, call }
    }
}

impl Body for Reported {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.rest.len().min(STEP_BYTES);
        let step = self.rest.split_to(length);
        self.call.moved(length);
        Poll::Ready(Some(Ok(Frame::data(step))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(location: &str, virtual_hosted: &str, request: &Request) -> String {
        let settings = [("anonymous", "true"), ("virtual_hosted", virtual_hosted)];
        let config = Config::new(location, &settings.into_iter().collect(), &|_| None).unwrap();
        request.url(&config, "eu-west-3")
    }

    #[test]
    fn urls_are_encoded_as_they_are_signed() {
        let request = Request::object(Method::GET, "my things/a+b")
            .query("start-after", "a/ü &")
            .query("uploads", "");
        assert_eq!(
            url("s3://host:9000/bucket", "false", &request),
            "https://host:9000/bucket/my%20things/a%2Bb?start-after=a%2F%C3%BC%20%26&uploads="
        );
        assert_eq!(
            url(
                "s3://s3.amazonaws.com/bucket",
                "true",
                &Request::object(Method::GET, "a/b")
            ),
            "https://bucket.s3.eu-west-3.amazonaws.com/a/b"
        );
    }

    #[test]
    fn a_bucket_has_no_slash_after_it_in_a_path() {
        let request = Request::bucket(Method::PUT);
        assert_eq!(url("s3://host/bucket", "false", &request), "https://host/bucket");
        assert_eq!(url("s3://host/bucket", "true", &request), "https://bucket.host/");
    }
}
