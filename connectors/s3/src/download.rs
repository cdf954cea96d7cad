//! Reading ranges of objects into a buffer, large ones in several requests at a time.

use futures_util::StreamExt as _;
use futures_util::TryStreamExt as _;
use futures_util::stream;
use http::Method;
use plakar_plugin_api::{ErrorKind, ObjectInfo, Result};

use crate::client::{Client, Response};
use crate::error::Failure;
use crate::request::{Call, Request};

/// Larger ranges are read in pieces of this size.
const PIECE_BYTES: usize = 16 << 20;

/// How many pieces of one range are read at the same time.
const PIECES_AT_ONCE: usize = 4;

/// No object is larger, so nothing is read from there on.
pub(crate) const MOST_OBJECT_BYTES: u64 = 5 << 40;

/// What a piece was cut from, so that pieces of two objects are not mixed.
#[derive(Debug)]
struct Read {
    filled: usize,
    etag: Option<String>,
}

/// Name and size of an object.
pub(crate) async fn stat(client: &Client, call: &Call, key: &str) -> Result<ObjectInfo> {
    let request = Request::object(Method::HEAD, &client.config.location.object(key));
    let what = || format!("read {}", client.config.location.display(key));
    let response = client
        .send(call, &request)
        .await
        .map_err(|failure| failure.about(&what()))?;
    let size = response
        .header("content-length")
        .and_then(|text| text.parse().ok());
    let size_bytes = size.ok_or_else(|| {
        let why = "the server does not tell its size".to_owned();
        Failure::Broken(ErrorKind::Other, why).about(&what())
    })?;
    Ok(ObjectInfo {
        key: key.to_owned(),
        size_bytes,
    })
}

/// Reads as [`Connector::get_into`](plakar_plugin_api::Connector::get_into) says.
pub(crate) async fn get_into(
    client: &Client,
    call: &Call,
    key: &str,
    offset: u64,
    buffer: &mut [u8],
) -> Result<usize> {
    if buffer.is_empty() || offset >= MOST_OBJECT_BYTES {
        return stat(client, call, key).await.map(|_| 0);
    }
    let about = |failure: Failure| failure.about(&format!("read {}", client.config.location.display(key)));
    let pieces = buffer.chunks_mut(PIECE_BYTES).enumerate().map(|(index, piece)| {
        let begin = offset + (index * PIECE_BYTES) as u64;
        read_piece(client, call, key, begin, piece)
    });
    let read: Vec<Read> = stream::iter(pieces)
        .buffered(PIECES_AT_ONCE)
        .try_collect()
        .await
        .map_err(about)?;
    let mut etags = read.iter().filter(|one| one.filled > 0).map(|one| &one.etag);
    if let Some(first) = etags.next()
        && etags.any(|other| other != first)
    {
        let why = "it was replaced while it was read".to_owned();
        return Err(about(Failure::Broken(ErrorKind::Transient, why)));
    }
    Ok(read.iter().map(|one| one.filled).sum())
}

async fn read_piece(
    client: &Client,
    call: &Call,
    key: &str,
    offset: u64,
    piece: &mut [u8],
) -> std::result::Result<Read, Failure> {
    let last = offset.saturating_add(piece.len() as u64) - 1;
    let request = Request::object(Method::GET, &client.config.location.object(key))
        .header("range", &format!("bytes={offset}-{last}"));
    let nothing = Read {
        filled: 0,
        etag: None,
    };
    let mut response = match client.send(call, &request).await {
        Err(failure) if failure.status() == Some(416) => return Ok(nothing),
        outcome => outcome?,
    };
    let expected = expected_bytes(&response, offset, piece.len())?;
    let etag = response.header("etag").map(str::to_owned);
    let mut rest = piece.get_mut(..expected).unwrap_or_default();
    while !rest.is_empty() {
        let Some(chunk) = response.chunk().await? else {
            let why = "the answer ended too early".to_owned();
            return Err(Failure::Broken(ErrorKind::Transient, why));
        };
        let (target, after) = rest.split_at_mut(chunk.len().min(rest.len()));
        target.copy_from_slice(chunk.get(..target.len()).unwrap_or_default());
        call.moved(target.len());
        rest = after;
    }
    // The end of the answer must be met for the connection to be used again.
    while response.status() == 206 && response.chunk().await?.is_some() {}
    Ok(Read {
        filled: expected,
        etag,
    })
}

/// How many bytes of a piece the answer must bring.
fn expected_bytes(response: &Response, offset: u64, wanted: usize) -> std::result::Result<usize, Failure> {
    let wrong = |why: &str| Failure::Broken(ErrorKind::Other, why.to_owned());
    let size = if response.status() == 206 {
        let range = response.header("content-range").and_then(content_range);
        let (begin, size) = range.ok_or_else(|| wrong("the server does not tell which bytes it sends"))?;
        if begin != offset {
            return Err(wrong("the server sends other bytes than it was asked for"));
        }
        size
    } else if offset == 0 {
        let length = response
            .header("content-length")
            .and_then(|text| text.parse().ok());
        length.ok_or_else(|| wrong("the server does not tell its size"))?
    } else {
        return Err(Failure::Broken(
            ErrorKind::Unsupported,
            "the server cannot send parts of objects".to_owned(),
        ));
    };
    Ok(usize::try_from(size.saturating_sub(offset)).map_or(wanted, |left| left.min(wanted)))
}

/// First byte and size of the whole, from `bytes 5-9/100`.
fn content_range(text: &str) -> Option<(u64, u64)> {
    let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (begin, _) = range.split_once('-')?;
    Some((begin.trim().parse().ok()?, size.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_answers_are_understood() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 100)));
        for text in ["", "bytes", "bytes */100", "bytes 5-9/*", "items 5-9/100"] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }
}
