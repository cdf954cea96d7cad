//! What is done to the place as a whole: finding out what it promises, preparing it, tidying up.

use std::hash::{BuildHasher as _, Hasher as _};

use bytes::Bytes;
use http::Method;
use plakar_plugin_api::{Error, ErrorKind, Host, Level, Result, check_key};

use crate::client::{Client, MOST_DOCUMENT_BYTES};
use crate::error::Failure;
use crate::listing::objects;
use crate::messages::{LockConfiguration, UploadsPage, listed_key, read};
use crate::request::{Call, Request};
use crate::time::timestamp;
use crate::upload::{abort, with_body};

/// The object that only tries out what the server does. It is no key, so no listing of ours shows it. Its name is always the same, so
/// that credentials that may not delete leave one, not one a run.
const PROBE: &str = ".probe";

/// The host's large objects are named by hashes, of at least so many hexadecimal digits.
const HOST_DIGITS: usize = 32;

/// An upload in parts that was begun so long ago belongs to nobody any more.
const ABANDONED_SECONDS: i64 = 24 * 60 * 60;

/// Most answers about pending uploads that are read.
const MOST_UPLOAD_PAGES: usize = 10;

/// A bucket that is missing is `NotFound`.
pub(crate) async fn check_there(client: &Client, call: &Call) -> Result<()> {
    let place = &client.config.location;
    let found = objects(client, call, &place.prefix, None, None, 1).await;
    found.map(drop).map_err(|failure| about_place(client, failure))
}

/// Makes the bucket where it is missing, and refuses a place that holds anything.
pub(crate) async fn prepare(client: &Client, call: &Call, host: &Host) -> Result<()> {
    let place = &client.config.location;
    let found = match objects(client, call, &place.prefix, None, None, 100).await {
        Err(failure) if failure.code() == "NoSuchBucket" => {
            create(client, call).await?;
            match objects(client, call, &place.prefix, None, None, 100).await {
                Err(failure) if failure.code() == "NoSuchBucket" => {
                    let why = "the bucket was created, and is not there yet".to_owned();
                    Err(Failure::Broken(ErrorKind::Transient, why))
                }
                outcome => outcome,
            }
        }
        outcome => outcome,
    };
    let found = found.map_err(|failure| about_place(client, failure))?;
    let foreign = found.contents.iter().find_map(|object| {
        let key = listed_key(&object.key, found.encoding_type.as_deref())?;
        (!is_vacant(key.strip_prefix(&place.prefix)?)).then_some(key)
    });
    if foreign.is_some() {
        let text = format!("{} is not empty", place.display(""));
        return Err(Error::new(ErrorKind::AlreadyExists, text));
    }
    check_lock(client, call, host).await?;
    if !is_consistent(client, call).await? {
        let text = format!(
            "{} does not show at once what was stored, so it cannot hold a repository",
            place.display("")
        );
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    end_abandoned_uploads(client, call, host).await;
    Ok(())
}

/// Whether an object means nothing: the name of the folder itself, as consoles make it, or what a killed probe left.
fn is_vacant(key: &str) -> bool {
    let is_random = |digits: &str| digits.len() == 16 && is_hexadecimal(digits);
    let is_probe = |rest: &str| rest.is_empty() || rest.strip_prefix('-').is_some_and(is_random);
    key.is_empty() || key.strip_prefix(PROBE).is_some_and(is_probe)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

async fn create(client: &Client, call: &Call) -> Result<()> {
    let config = &client.config;
    let bucket = &config.location.bucket;
    if !config.create_bucket {
        let text = format!("the bucket `{bucket}` does not exist, and `create_bucket` is false");
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    let mut request = Request::bucket(Method::PUT);
    let region = client.region();
    if config.location.server.is_aws() && region != "us-east-1" {
        let body = format!(
            "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        );
        request = request.body(Bytes::from(body), true);
    }
    if config.storing.lock.is_some() {
        request = request.header("x-amz-bucket-object-lock-enabled", "true");
    }
    let failure = match client.send(call, &request).await {
        Ok(response) => match response.document(MOST_DOCUMENT_BYTES).await {
            Ok(_) => return Ok(()),
            Err(failure) => failure,
        },
        Err(failure) => failure,
    };
    match failure.code() {
        "BucketAlreadyOwnedByYou" => return Ok(()), // someone else of us was faster
        "BucketAlreadyExists" => {
            let text = format!("the bucket `{bucket}` belongs to someone else: choose another name");
            return Err(Error::new(ErrorKind::Permission, text));
        }
        _ => {}
    }
    Err(failure.about(&format!("create the bucket `{bucket}`, which does not exist")))
}

/// Whether the server leaves an object that exists as it is when it is asked to: tried out on an object that is removed again.
pub(crate) async fn is_exclusive(client: &Client, call: &Call) -> Result<bool> {
    if client.config.location.server.is_aws() {
        return Ok(true); // known, so nothing need be written
    }
    let object = client.config.location.object(PROBE);
    let outcome = try_twice(client, call, &object).await;
    let removal = client.send(call, &Request::object(Method::DELETE, &object)).await;
    match outcome {
        Ok(refused) => removal.map(|_| refused).or(Ok(refused)),
        // Who may not write learns that when writing; servers that do not know the condition say so.
        Err(Failure::Refused(refusal)) if matches!(refusal.status.as_u16(), 400 | 403 | 405 | 501) => {
            Ok(false)
        }
        Err(failure) => Err(about_place(client, failure)),
    }
}

async fn try_twice(client: &Client, call: &Call, object: &str) -> std::result::Result<bool, Failure> {
    for body in ["one", "two"] {
        let request = Request::object(Method::PUT, object).header("if-none-match", "*");
        let request = with_body(request, body.as_bytes(), &client.config.storing);
        match client.send(call, &request).await {
            Ok(response) => response.document(MOST_DOCUMENT_BYTES).await.map(drop)?,
            Err(failure) if matches!(failure.status(), Some(409 | 412)) => return Ok(true),
            Err(failure) => return Err(failure),
        }
    }
    Ok(false)
}

/// Whether the server shows an object as soon as it is stored: by itself, and in a listing that was asked for before.
pub(crate) async fn is_consistent(client: &Client, call: &Call) -> Result<bool> {
    if client.config.location.server.is_aws() {
        return Ok(true); // known, so nothing need be written
    }
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    let object = client.config.location.object(&format!("{PROBE}-{random:016x}"));
    let outcome = try_to_see(client, call, &object).await;
    let removal = client.send(call, &Request::object(Method::DELETE, &object)).await;
    match outcome {
        Ok(seen) => removal.map(|_| seen).or(Ok(seen)),
        Err(failure) => Err(about_place(client, failure)),
    }
}

async fn try_to_see(client: &Client, call: &Call, object: &str) -> std::result::Result<bool, Failure> {
    let is_listed = async || {
        let found = objects(client, call, object, None, None, 1).await?;
        let encoding = found.encoding_type.as_deref();
        let mut names = found.contents.iter().map(|one| listed_key(&one.key, encoding));
        Ok::<bool, Failure>(names.any(|name| name.as_deref() == Some(object)))
    };
    is_listed().await?; // whoever keeps listings for a while keeps this one
    let put = with_body(
        Request::object(Method::PUT, object),
        b"probe",
        &client.config.storing,
    );
    let stored = client.send(call, &put).await?;
    stored.document(MOST_DOCUMENT_BYTES).await?;
    match client.send(call, &Request::object(Method::HEAD, object)).await {
        Err(failure) if failure.status() == Some(404) => Ok(false),
        Err(failure) => Err(failure),
        Ok(_) => is_listed().await,
    }
}

/// Where objects are to be locked, the bucket must be able to: a server that cannot would take the wish and forget it.
pub(crate) async fn check_lock(client: &Client, call: &Call, host: &Host) -> Result<()> {
    if client.config.storing.lock.is_none() {
        return Ok(());
    }
    let request = Request::bucket(Method::GET).query("object-lock", "");
    let document = match client.send(call, &request).await {
        Ok(response) => response.document(MOST_DOCUMENT_BYTES).await,
        Err(failure) => Err(failure),
    };
    match document {
        Ok(bytes)
            if read::<LockConfiguration>(&bytes)
                .unwrap_or_default()
                .object_lock_enabled
                == "Enabled" =>
        {
            Ok(())
        }
        Err(failure) if failure.status() == Some(403) => {
            host.log(
                Level::Warn,
                "bucket",
                "these credentials may not see whether the bucket can lock objects",
            );
            Ok(())
        }
        Err(failure @ Failure::Broken(..)) => Err(about_place(client, failure)),
        Err(failure) if matches!(failure.status(), Some(408 | 429 | 500 | 502..=599)) => {
            Err(about_place(client, failure))
        }
        _ => Err(Error::new(
            ErrorKind::Config,
            format!(
                "the bucket `{}` cannot lock objects: create it with object lock, or remove `object_lock_mode`",
                client.config.location.bucket
            ),
        )),
    }
}

/// Ends uploads below our prefix that killed processes left more than a day ago. What cannot be listed or ended stays.
pub(crate) async fn end_abandoned_uploads(client: &Client, call: &Call, host: &Host) {
    if let Err(failure) = try_to_end_uploads(client, call).await {
        let error = failure.about("end abandoned uploads");
        host.log(Level::Debug, "bucket", &error.message);
    }
}

async fn try_to_end_uploads(client: &Client, call: &Call) -> std::result::Result<(), Failure> {
    let prefix = &client.config.location.prefix;
    let mut after: Option<(String, String)> = None;
    for _ in 0..MOST_UPLOAD_PAGES {
        let mut request = Request::bucket(Method::GET)
            .query("encoding-type", "url")
            .query("prefix", prefix.as_str())
            .query("uploads", "");
        if let Some((key, upload)) = after {
            request = request.query("key-marker", key).query("upload-id-marker", upload);
        }
        let response = client.send(call, &request).await?;
        // The server's clock: ours may be days ahead, and then none of its uploads would be safe.
        let Some(now) = response.header("date").and_then(timestamp) else {
            return Ok(());
        };
        let page: UploadsPage = read(&response.document(MOST_DOCUMENT_BYTES).await?)
            .map_err(|why| Failure::Broken(ErrorKind::Other, why))?;
        let decoded = |key: &str| listed_key(key, page.encoding_type.as_deref());
        for upload in &page.uploads {
            let begun = timestamp(&upload.initiated);
            let old = begun.is_some_and(|begun| now.as_second() - begun.as_second() > ABANDONED_SECONDS);
            let Some(object) = decoded(&upload.key).filter(|_| old) else {
                continue;
            };
            let key = object.strip_prefix(prefix.as_str());
            if key.is_some_and(is_of_the_host) {
                abort(client, call, &object, &upload.upload_id).await?;
            }
        }
        let marker = page.next_key_marker.as_deref().and_then(decoded);
        after = marker
            .zip(page.next_upload_id_marker)
            .filter(|_| page.is_truncated);
        if after.is_none() {
            break;
        }
    }
    Ok(())
}

/// Whether the host would store an object of this name in parts. Other programs may have uploads of their own below our prefix, and
/// those may take days.
fn is_of_the_host(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or_default();
    check_key(key).is_ok() && name.len() >= HOST_DIGITS && is_hexadecimal(name)
}

/// The error about the place, which names the bucket when that is missing.
fn about_place(client: &Client, failure: Failure) -> Error {
    let place = &client.config.location;
    if failure.code() == "NoSuchBucket" {
        let text = format!(
            "the bucket `{}` does not exist ({})",
            place.bucket,
            place.display("")
        );
        return Error::new(ErrorKind::NotFound, text);
    }
    failure.about(&format!("use {}", place.display("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_traces_of_ourselves_and_folders_mean_nothing() {
        assert!(is_vacant("") && is_vacant(".probe") && is_vacant(".probe-0123456789abcdef"));
        for key in [
            "config",
            ".probe-",
            ".probes",
            ".probe-0123456789abcdef/x",
            ".probe-0123456789abcdeg",
        ] {
            assert!(!is_vacant(key), "{key}");
        }
    }

    #[test]
    fn uploads_of_other_programs_are_not_taken_for_the_hosts() {
        let digits = "0123456789abcdef".repeat(4);
        assert!(is_of_the_host(&format!("packs/01/{digits}")));
        for key in [
            "video.mp4",
            "dump",
            "packs/ab",
            "Photos/0123456789abcdef0123456789abcdef",
            &digits.to_uppercase(),
            &format!("{digits}.tar"),
        ] {
            assert!(!is_of_the_host(key), "{key}");
        }
    }
}
