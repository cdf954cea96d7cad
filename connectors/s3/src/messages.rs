//! The documents of the protocol that are XML, as values; it knows no requests.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A page of a listing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ObjectsPage {
    pub(crate) is_truncated: bool,
    pub(crate) next_continuation_token: Option<String>,
    pub(crate) encoding_type: Option<String>,
    pub(crate) contents: Vec<ListedObject>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListedObject {
    pub(crate) key: String,
    pub(crate) size: u64,
}

/// A page of uploads that nobody has completed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UploadsPage {
    pub(crate) is_truncated: bool,
    pub(crate) next_key_marker: Option<String>,
    pub(crate) next_upload_id_marker: Option<String>,
    pub(crate) encoding_type: Option<String>,
    #[serde(rename = "Upload")]
    pub(crate) uploads: Vec<PendingUpload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct PendingUpload {
    pub(crate) key: String,
    pub(crate) upload_id: String,
    #[serde(default)]
    pub(crate) initiated: String,
}

/// A new upload in parts.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct StartedUpload {
    pub(crate) upload_id: String,
}

/// Whether a bucket can keep objects from being deleted.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct LockConfiguration {
    pub(crate) object_lock_enabled: String,
}

/// What a server says when it refuses.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ErrorDocument {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) request_id: String,
    pub(crate) region: String,
    pub(crate) server_time: String,
}

/// One part that has arrived.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) number: usize,
    pub(crate) etag: String,
    /// Base64 of its SHA-256, where the upload was begun with one.
    pub(crate) sha256: Option<String>,
}

/// A document, and the name of its outermost element.
pub(crate) trait Document: DeserializeOwned {
    const NAME: &str;
}

impl Document for ObjectsPage {
    const NAME: &str = "ListBucketResult";
}

impl Document for UploadsPage {
    const NAME: &str = "ListMultipartUploadsResult";
}

impl Document for StartedUpload {
    const NAME: &str = "InitiateMultipartUploadResult";
}

impl Document for LockConfiguration {
    const NAME: &str = "ObjectLockConfiguration";
}

impl Document for ErrorDocument {
    const NAME: &str = "Error";
}

/// Reads a document. What it is not is told in one line: any other answer, such as the page of a hotel's network, must not pass
/// for an empty listing.
pub(crate) fn read<T: Document>(bytes: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if outermost(text).as_deref() != Some(T::NAME) {
        return Err(format!("it is no {}", T::NAME));
    }
    quick_xml::de::from_str(text).map_err(|error| error.to_string().replace(['\n', '\r'], " "))
}

/// The name of the first element.
fn outermost(text: &str) -> Option<String> {
    let mut reader = Reader::from_str(text);
    loop {
        match reader.read_event().ok()? {
            Event::Start(element) | Event::Empty(element) => {
                return std::str::from_utf8(element.local_name().as_ref())
                    .ok()
                    .map(str::to_owned);
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// A key as the listing writes it: percent-encoded when it says so. `None` when it is not UTF-8.
pub(crate) fn listed_key(key: &str, encoding: Option<&str>) -> Option<String> {
    if encoding != Some("url") {
        return Some(key.to_owned());
    }
    let spaced = key.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// What completes an upload: its parts in order of numbers.
pub(crate) fn completion(parts: &[Part]) -> String {
    let mut text =
        String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for part in parts {
        let sha256 = part.sha256.as_ref();
        let sha256 = sha256.map_or_else(String::new, |sum| {
            format!("<ChecksumSHA256>{sum}</ChecksumSHA256>")
        });
        // Writing to a String cannot fail.
        write!(
            text,
            "<Part><PartNumber>{}</PartNumber><ETag>{}</ETag>{sha256}</Part>",
            part.number,
            escape(&part.etag)
        )
        .unwrap_or_default();
    }
    text.push_str("</CompleteMultipartUpload>");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read_with_what_is_not_known_left_out() {
        let text = br#"<?xml version="1.0" encoding="UTF-8"?>
            <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>p/</Prefix>
            <IsTruncated>true</IsTruncated><NextContinuationToken>a&amp;b==</NextContinuationToken><EncodingType>url</EncodingType>
            <Contents><Key>p/a%2Bb</Key><LastModified>2026-01-01T00:00:00Z</LastModified><ETag>&quot;x&quot;</ETag><Size>5</Size></Contents>
            <CommonPrefixes><Prefix>p/q/</Prefix></CommonPrefixes>
            <Contents><Key>p/b</Key><Size>0</Size></Contents></ListBucketResult>"#;
        let page: ObjectsPage = read(text).unwrap();
        assert!(page.is_truncated);
        assert_eq!(page.next_continuation_token.as_deref(), Some("a&b=="));
        let found: Vec<_> = page
            .contents
            .iter()
            .map(|object| (object.key.as_str(), object.size))
            .collect();
        assert_eq!(found, [("p/a%2Bb", 5), ("p/b", 0)]);
        assert_eq!(listed_key("p/a%2Bb+c", Some("url")).unwrap(), "p/a+b c");
        assert_eq!(listed_key("p/a%2Bb", None).unwrap(), "p/a%2Bb");
        assert_eq!(listed_key("%ff", Some("url")), None);
        assert!(
            read::<ObjectsPage>(b"<ListBucketResult/>")
                .unwrap()
                .contents
                .is_empty()
        );
    }

    #[test]
    fn documents_that_make_no_sense_are_refused() {
        let nameless = b"<InitiateMultipartUploadResult></InitiateMultipartUploadResult>";
        for bytes in [
            b"".as_slice(),
            b"\xff",
            b"<a",
            b"<InitiateMultipartUploadResult",
            nameless,
        ] {
            assert!(read::<StartedUpload>(bytes).is_err());
        }
        for bytes in [
            b"".as_slice(),
            b"Welcome",
            b"<html><body>Welcome</body></html>",
            b"<Error/>",
        ] {
            assert!(read::<ObjectsPage>(bytes).is_err());
        }
    }

    #[test]
    fn a_completion_names_parts_and_sums() {
        let parts = [
            Part {
                number: 1,
                etag: "\"a<b\"".into(),
                sha256: None,
            },
            Part {
                number: 2,
                etag: "x".into(),
                sha256: Some("c3Vt".into()),
            },
        ];
        let text = completion(&parts);
        assert!(
            text.contains("<PartNumber>1</PartNumber><ETag>&quot;a&lt;b&quot;</ETag></Part>"),
            "{text}"
        );
        assert!(
            text.contains("<ETag>x</ETag><ChecksumSHA256>c3Vt</ChecksumSHA256>"),
            "{text}"
        );
    }
}
