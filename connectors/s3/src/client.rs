//! Signed requests to one bucket, on a runtime of its own; it knows the region and how to wait, not what objects are.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, Method};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::{HttpRequest, HttpRequestBody};
use plakar_plugin_api::{Error, ErrorKind, Host, Result};
use reqwest::redirect::Policy;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;
use url::Url;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::error::{Failure, Refusal, one_line};
use crate::request::{Call, Reported, Request};
use crate::transport;

/// How often a waiting call looks whether it should go on.
const TICK: Duration = Duration::from_millis(50);

/// How long tidying up after a failure may take.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How much of a refusal is read.
const MOST_ERROR_BYTES: usize = 64 << 10;

/// Most bytes of a document: a page of 1000 objects with the longest names is less.
pub(crate) const MOST_DOCUMENT_BYTES: usize = 16 << 20;

/// Answers of one server about one bucket.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) config: Config,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    http: reqwest::Client,
    region: RwLock<String>,
    /// Set once the server was asked for the region, where nobody had named it.
    asked: OnceCell<()>,
    /// Whether any request was ever answered.
    answered: AtomicBool,
}

/// An answer that fulfils the request; its body is still to be read.
#[derive(Debug)]
pub(crate) struct Response {
    response: reqwest::Response,
    call: Call,
}

impl Client {
    pub(crate) fn new(config: Config) -> Result<Self> {
        install_cryptography();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("plakar-s3")
            .enable_all()
            .build()
            .map_err(|error| Error::new(ErrorKind::Other, format!("cannot start threads: {error}")))?;
        let http = http(&config)?;
        let region = config.region.clone();
        let region = region.unwrap_or_else(|| config.location.server.usual_region().to_owned());
        Ok(Self {
            config,
            runtime: Some(runtime),
            http,
            region: RwLock::new(region),
            asked: OnceCell::new(),
            answered: AtomicBool::new(false),
        })
    }

    /// Waits for `work`, and drops it when the host wants no more of it or nothing has moved for too long.
    pub(crate) fn wait<T>(&self, host: &Host, work: impl AsyncFnOnce(&Call) -> Result<T>) -> Result<T> {
        let call = Call::new(host.for_this_call());
        let runtime = self.runtime.as_ref();
        let runtime = runtime.ok_or_else(|| Error::new(ErrorKind::Other, "the connection is closed"))?;
        if call.cancelled() {
            return Err(stopped());
        }
        runtime.block_on(async {
            let work = std::pin::pin!(work(&call));
            let end = std::pin::pin!(self.end_of_patience(&call));
            match select(work, end).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right((error, _)) => Err(error),
            }
        })
    }

    /// Runs `work` that must be tried although the host wants no more, but not for long.
    pub(crate) fn finish(&self, work: impl AsyncFnOnce(&Call) -> Result<()>) -> Result<()> {
        let call = Call::new(Host::none());
        let Some(runtime) = &self.runtime else {
            return Ok(());
        };
        let outcome = runtime.block_on(async { tokio::time::timeout(LAST_WORDS, work(&call)).await });
        outcome.unwrap_or_else(|elapsed| Err(Error::new(ErrorKind::Timeout, elapsed.to_string())))
    }

    /// The region that requests are signed for.
    pub(crate) fn region(&self) -> String {
        self.region.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn end_of_patience(&self, call: &Call) -> Error {
        let mut waited = Duration::ZERO;
        loop {
            tokio::time::sleep(TICK).await;
            if call.cancelled() {
                if !call.must_go_on() || waited >= LAST_WORDS {
                    return stopped();
                }
                waited += TICK;
            }
            if call.idle() > self.config.idle_timeout {
                let seconds = self.config.idle_timeout.as_secs();
                let place = self.config.location.display("");
                return Error::new(
                    ErrorKind::Timeout,
                    format!("{place} has not moved for {seconds} seconds (`request_timeout_seconds`)"),
                );
            }
        }
    }

    /// Sends a request, a second time where the server says that it is for another region.
    ///
    /// An answer that is no success is a `Failure`.
    pub(crate) async fn send(
        &self,
        call: &Call,
        request: &Request,
    ) -> std::result::Result<Response, Failure> {
        if self.config.region.is_none() {
            self.asked.get_or_try_init(|| self.ask_for_region(call)).await?;
        }
        let failure = match self.send_once(call, request).await {
            Err(failure) => failure,
            success => return success,
        };
        // The answer to HEAD has no body, so it does not say why.
        let silent = request.method == Method::HEAD && matches!(failure.status(), Some(400 | 403));
        let failure = if silent {
            self.ask(call).await.err().unwrap_or(failure)
        } else {
            failure
        };
        if self.learn_region(&failure) {
            self.send_once(call, request).await
        } else {
            Err(failure)
        }
    }

    async fn ask_for_region(&self, call: &Call) -> std::result::Result<(), Failure> {
        match self.ask(call).await {
            Err(failure @ Failure::Broken(..)) => Err(failure),
            Err(failure) => {
                self.learn_region(&failure);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Asks for next to nothing, because a refusal of that says what is wrong, and which region is right.
    async fn ask(&self, call: &Call) -> std::result::Result<(), Failure> {
        let request = Request::bucket(Method::GET)
            .query("list-type", "2")
            .query("max-keys", "1")
            .query("prefix", self.config.location.prefix.as_str());
        let response = self.send_once(call, &request).await?;
        response.document(MOST_DOCUMENT_BYTES).await.map(drop)
    }

    /// Takes over the region that a refusal names. Gives whether it is another one.
    fn learn_region(&self, failure: &Failure) -> bool {
        let Failure::Refused(refusal) = failure else {
            return false;
        };
        let about_region = matches!(refusal.status.as_u16(), 301 | 307 | 400 | 403)
            && !matches!(refusal.code.as_str(), "AccessDenied" | "SignatureDoesNotMatch");
        let Some(region) = refusal.region.as_ref().filter(|_| about_region) else {
            return false;
        };
        let mut known = self.region.write().unwrap_or_else(PoisonError::into_inner);
        let other = *known != *region;
        known.clone_from(region);
        other
    }

    async fn send_once(&self, call: &Call, request: &Request) -> std::result::Result<Response, Failure> {
        let region = self.region();
        let url = request.url(&self.config, &region);
        let unfit = |error: &dyn std::fmt::Display| {
            Failure::Broken(ErrorKind::Config, format!("the URL is wrong: {error}"))
        };
        Url::parse(&url).map_err(|error| unfit(&error))?; // what signs it takes that for granted
        let mut signed = http::Request::builder()
            .method(request.method.clone())
            .uri(url)
            .body(HttpRequestBody::empty())
            .map_err(|error| unfit(&error))?;
        signed.headers_mut().extend(request.headers.iter().cloned());
        self.sign(&mut signed, request, &region).await?;
        let body = Reported::new(request.body.clone(), call.clone());
        let request = signed.map(|_| reqwest::Body::wrap(body));
        let broken = |error| Failure::transport(error, self.answered.load(Ordering::Relaxed));
        let request = reqwest::Request::try_from(request).map_err(broken)?;
        call.alive();
        let response = self.http.execute(request).await.map_err(broken)?;
        call.alive();
        self.answered.store(true, Ordering::Relaxed);
        let (status, headers) = (response.status(), response.headers().clone());
        let response = Response {
            response,
            call: call.clone(),
        };
        if status.is_success() {
            return Ok(response);
        }
        let body = response.document(MOST_ERROR_BYTES).await.unwrap_or_default();
        Err(Failure::Refused(Box::new(Refusal::new(status, &headers, &body))))
    }

    async fn sign(
        &self,
        signed: &mut HttpRequest,
        request: &Request,
        region: &str,
    ) -> std::result::Result<(), Failure> {
        let fetched;
        let credential: &AwsCredential = match &self.config.credentials {
            Credentials::Anonymous => return Ok(()),
            Credentials::Fixed(fixed) => &fixed.0,
            Credentials::Fetched(provider) => {
                fetched = provider
                    .get_credential()
                    .await
                    .map_err(|error| no_credentials(&error, self.answered.load(Ordering::Relaxed)))?;
                &fetched
            }
        };
        let plain = request.digest.is_none() && !request.body.is_empty();
        let digest = request.digest.as_ref().map(<[u8; 32]>::as_slice);
        AwsAuthorizer::new(credential, "s3", region)
            .with_sign_payload(!plain)
            .try_authorize(signed, digest)
            .map_err(|error| Failure::Broken(ErrorKind::Other, format!("cannot sign: {error}")))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background(); // a look-up of a name that hangs must not hold the host
        }
    }
}

impl Response {
    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(crate) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The text of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next bytes of the body.
    pub(crate) async fn chunk(&mut self) -> std::result::Result<Option<Bytes>, Failure> {
        let chunk = self.response.chunk().await;
        self.call.alive();
        chunk.map_err(|error| Failure::transport(error, true))
    }

    /// The whole body, which must not have more than `most` bytes.
    pub(crate) async fn document(mut self, most: usize) -> std::result::Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > most {
                return Err(Failure::Broken(
                    ErrorKind::Other,
                    "the answer is too long".to_owned(),
                ));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// How requests of this place are sent.
fn http(config: &Config) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("plakar/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .http1_only()
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(Duration::from_mins(1));
    let certificates = config.certificates.iter().cloned();
    builder = if config.tls {
        builder.tls_certs_merge(certificates)
    } else {
        builder.tls_certs_only(certificates) // the machine need not have any
    };
    if config.location.server.is_this_machine() {
        builder = builder.no_proxy(); // what a proxy calls `localhost` is another machine
    }
    builder.build().map_err(|error| {
        let why = transport::innermost(&error);
        let text = format!(
            "cannot set up TLS: {why}: install the certificates of the system (`ca-certificates`), or name a file of your own in \
             `tls_ca_file`"
        );
        Error::new(ErrorKind::Config, text)
    })
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "stopped as asked")
}

/// Where there were some before, `once`, whoever gives them out is only away for a while.
fn no_credentials(error: &object_store::Error, once: bool) -> Failure {
    let text = one_line(&error.to_string(), 200);
    if once {
        let why = format!("the credentials have expired, and new ones cannot be fetched: {text}");
        return Failure::Broken(ErrorKind::Transient, why);
    }
    Failure::Broken(
        ErrorKind::Auth,
        format!(
            "no credentials: set access_key_id and secret_access_key, S3_REPOSITORY_USER and S3_REPOSITORY_PASSWORD, or \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (the machine offers none: {text})"
        ),
    )
}

/// What TLS computes with, chosen once for this library, before the first thing is made that may speak TLS.
pub(crate) fn install_cryptography() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // It fails only when there is one already, which serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
}
