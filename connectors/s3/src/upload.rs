//! Storing an object: in one request, or in parts when it is large.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use futures_util::stream;
use http::{Method, StatusCode};
use plakar_plugin_api::{Error, ErrorKind, Result};

use crate::client::{Client, MOST_DOCUMENT_BYTES};
use crate::config::Storing;
use crate::download::stat;
use crate::error::{Failure, Refusal};
use crate::messages::{Part, StartedUpload, completion, read};
use crate::request::{Call, Request};
use crate::time::time_in;

/// How many parts of one object are on their way at the same time.
const PARTS_AT_ONCE: usize = 4;

/// No object has more parts.
const MOST_PARTS: u64 = 10_000;

/// An object on its way into the storage.
#[derive(Debug)]
pub(crate) struct Upload<'a> {
    pub(crate) client: &'a Client,
    pub(crate) key: &'a str,
    pub(crate) bytes: &'a [u8],
    /// Whether an object that exists stays as it is.
    pub(crate) create: bool,
    /// Whether the server can be trusted with that.
    pub(crate) exclusive: bool,
    /// The server's name of an upload in parts, once it was begun: what is to be ended when the upload fails.
    pub(crate) begun: OnceLock<String>,
}

impl Upload<'_> {
    pub(crate) fn is_in_parts(&self) -> bool {
        self.bytes.len() as u64 > self.client.config.storing.multipart_threshold_bytes
    }

    /// Stores the object. What fails leaves at most an upload that was `begun`.
    pub(crate) async fn run(&self, call: &Call) -> Result<()> {
        let what = format!("write {}", self.client.config.location.display(self.key));
        // Many bytes are not sent only to be refused; and where the server would replace, this look is all there is.
        if self.create && (!self.exclusive || self.is_in_parts()) {
            match stat(self.client, call, self.key).await {
                Ok(_) => {
                    return Err(Error::new(
                        ErrorKind::AlreadyExists,
                        format!("cannot {what}: it exists"),
                    ));
                }
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let outcome = if self.is_in_parts() {
            self.put_parts(call).await
        } else {
            self.put_whole(call).await
        };
        outcome.map_err(|failure| failure.about(&what))
    }

    async fn put_whole(&self, call: &Call) -> std::result::Result<(), Failure> {
        let storing = &self.client.config.storing;
        let request = Request::object(Method::PUT, &self.object());
        let request = with_body(kept_as(request, storing), self.bytes, storing);
        let response = self.client.send(call, &self.guarded(request)).await?;
        response.document(MOST_DOCUMENT_BYTES).await.map(drop)
    }

    async fn put_parts(&self, call: &Call) -> std::result::Result<(), Failure> {
        // An upload of which the name has not arrived could not be ended.
        let upload = call.go_on_with(self.begin(call)).await?;
        let upload = self.begun.get_or_init(|| upload);
        let part_bytes = part_bytes(self.bytes.len(), self.client.config.storing.part_bytes);
        let parts = self.bytes.chunks(part_bytes).zip(1..);
        let parts: Vec<Part> = stream::iter(parts)
            .map(|(bytes, number)| self.put_part(call, upload, number, bytes))
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        self.complete(call, upload, &parts).await
    }

    async fn begin(&self, call: &Call) -> std::result::Result<String, Failure> {
        let storing = &self.client.config.storing;
        let mut request = kept_as(
            Request::object(Method::POST, &self.object()).query("uploads", ""),
            storing,
        );
        if storing.lock.is_some() {
            request = request.header("x-amz-checksum-algorithm", "SHA256");
        }
        let bytes = self
            .client
            .send(call, &request)
            .await?
            .document(MOST_DOCUMENT_BYTES)
            .await?;
        let begun: StartedUpload = read(&bytes).map_err(|why| senseless(&why))?;
        Ok(begun.upload_id)
    }

    async fn put_part(
        &self,
        call: &Call,
        upload: &str,
        number: usize,
        bytes: &[u8],
    ) -> std::result::Result<Part, Failure> {
        let storing = &self.client.config.storing;
        let request = Request::object(Method::PUT, &self.object())
            .query("partNumber", number.to_string())
            .query("uploadId", upload);
        let request = with_body(request, bytes, storing);
        let sha256 = request.digest.filter(|_| storing.lock.is_some());
        let response = self.client.send(call, &request).await?;
        let etag = response.header("etag").map(str::to_owned);
        response.document(MOST_DOCUMENT_BYTES).await?;
        Ok(Part {
            number,
            etag: etag.ok_or_else(|| senseless("a part has no ETag"))?,
            sha256: sha256.map(|sum| BASE64.encode(sum)),
        })
    }

    async fn complete(&self, call: &Call, upload: &str, parts: &[Part]) -> std::result::Result<(), Failure> {
        let request = Request::object(Method::POST, &self.object())
            .query("uploadId", upload)
            .header("content-type", "application/xml")
            .body(Bytes::from(completion(parts)), true);
        let response = self.client.send(call, &self.guarded(request)).await?;
        let headers = response.headers().clone();
        let body = response.document(MOST_DOCUMENT_BYTES).await?;
        // The server begins its answer before it knows how it ends.
        let refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &headers, &body);
        if refusal.code.is_empty() {
            Ok(())
        } else {
            Err(Failure::Refused(Box::new(refusal)))
        }
    }

    /// Ends an upload that was begun and failed, so that its parts cost nothing.
    pub(crate) async fn abort(&self, call: &Call) -> Result<()> {
        let Some(upload) = self.begun.get() else {
            return Ok(());
        };
        let outcome = abort(self.client, call, &self.object(), upload).await;
        outcome.map_err(|failure| failure.about(&format!("end the upload of {}", self.key)))
    }

    /// Lets the server refuse to replace.
    fn guarded(&self, request: Request) -> Request {
        if self.create && self.exclusive {
            request.header("if-none-match", "*")
        } else {
            request
        }
    }

    fn object(&self) -> String {
        self.client.config.location.object(self.key)
    }
}

/// Ends an upload in parts. One that is gone is not an error.
pub(crate) async fn abort(
    client: &Client,
    call: &Call,
    object: &str,
    upload: &str,
) -> std::result::Result<(), Failure> {
    let request = Request::object(Method::DELETE, object).query("uploadId", upload);
    match client.send(call, &request).await {
        Err(failure) if failure.status() == Some(404) => Ok(()),
        Err(failure) => Err(failure),
        Ok(response) => response.document(MOST_DOCUMENT_BYTES).await.map(drop),
    }
}

/// Adds how and for how long the object is to be kept.
fn kept_as(mut request: Request, storing: &Storing) -> Request {
    if let Some(class) = &storing.storage_class {
        request = request.header("x-amz-storage-class", class);
    }
    if let Some(lock) = &storing.lock {
        request = request
            .header("x-amz-object-lock-mode", &lock.mode)
            .header("x-amz-object-lock-retain-until-date", &time_in(lock.days));
    }
    request
}

/// Adds the body. Its SHA-256 is in the signature, so the server refuses what arrives damaged; a bucket with a lock wants it in a
/// header of its own.
pub(crate) fn with_body(request: Request, bytes: &[u8], storing: &Storing) -> Request {
    let hashed = storing.hashed || storing.lock.is_some();
    let request = request.body(Bytes::copy_from_slice(bytes), hashed);
    match request.digest.filter(|_| storing.lock.is_some()) {
        Some(sum) => request.header("x-amz-checksum-sha256", &BASE64.encode(sum)),
        None => request,
    }
}

/// The wanted size of parts, or what it takes to need no more parts than there may be.
fn part_bytes(object_bytes: usize, wanted: u64) -> usize {
    let least = (object_bytes as u64).div_ceil(MOST_PARTS);
    usize::try_from(wanted.max(least)).unwrap_or(usize::MAX)
}

fn senseless(why: &str) -> Failure {
    Failure::Broken(ErrorKind::Other, format!("the answer makes no sense: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_too_many_parts() {
        let mib = 1_u64 << 20;
        assert_eq!(part_bytes(40 << 20, 16 * mib), 16 << 20);
        let huge = 1_usize << 40;
        assert!(huge.div_ceil(part_bytes(huge, 5 * mib)) <= 10_000);
    }
}
