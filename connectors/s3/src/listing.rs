//! Listings in byte order of keys, a page of the server at a time; what others keep beside us is passed over.

use http::Method;
use plakar_plugin_api::{ErrorKind, ListPage, ObjectInfo, Result, check_key};

use crate::client::{Client, MOST_DOCUMENT_BYTES};
use crate::error::Failure;
use crate::messages::{ObjectsPage, listed_key, read};
use crate::request::{Call, Request};

/// Most objects that a server gives in one answer.
const MOST_PER_PAGE: usize = 1000;

/// Lists as [`Connector::list`](plakar_plugin_api::Connector::list) says.
pub(crate) async fn list(
    client: &Client,
    call: &Call,
    prefix: &str,
    start_after: &str,
    limit: usize,
) -> Result<ListPage> {
    let place = &client.config.location;
    let wanted = place.object(prefix);
    let about = |failure: Failure| failure.about(&format!("list {}", place.display(prefix)));
    let mut page = ListPage::default();
    let mut token = None;
    loop {
        let missing = (limit - page.objects.len()).clamp(1, MOST_PER_PAGE);
        let after = Some(start_after).filter(|after| !after.is_empty() && token.is_none());
        let found = objects(
            client,
            call,
            &wanted,
            after.map(|after| place.object(after)),
            token.clone(),
            missing,
        );
        let found = found.await.map_err(about)?;
        for object in found.contents {
            let key = listed_key(&object.key, found.encoding_type.as_deref());
            let key = key.as_deref().and_then(|key| key.strip_prefix(&place.prefix));
            let Some(key) =
                key.filter(|key| key.starts_with(prefix) && *key > start_after && check_key(key).is_ok())
            else {
                continue;
            };
            // What comes out of order would be taken for missing, and going on from it would miss more.
            if page.objects.last().is_some_and(|last| *last.key >= *key) {
                let why = "the server does not list objects in the order of their names";
                return Err(about(unusable(why)));
            }
            if page.objects.len() == limit {
                page.more = true;
                return Ok(page);
            }
            page.objects.push(ObjectInfo {
                key: key.to_owned(),
                size_bytes: object.size,
            });
        }
        let next = found.next_continuation_token.filter(|_| found.is_truncated);
        if next.is_none() {
            return Ok(page);
        }
        if next == token {
            return Err(about(unusable("the listing goes in circles")));
        }
        token = next;
        if page.objects.len() == limit && limit > 0 {
            page.more = true;
            return Ok(page);
        }
    }
}

fn unusable(why: &str) -> Failure {
    Failure::Broken(ErrorKind::Unsupported, format!("{why}, so it cannot be used"))
}

/// One answer of the server: objects whose full name starts with `prefix`.
pub(crate) async fn objects(
    client: &Client,
    call: &Call,
    prefix: &str,
    start_after: Option<String>,
    token: Option<String>,
    limit: usize,
) -> std::result::Result<ObjectsPage, Failure> {
    let mut request = Request::bucket(Method::GET)
        .query("encoding-type", "url")
        .query("list-type", "2")
        .query("max-keys", limit.to_string())
        .query("prefix", prefix);
    if let Some(after) = start_after {
        request = request.query("start-after", after);
    }
    if let Some(token) = token {
        request = request.query("continuation-token", token);
    }
    let bytes = client
        .send(call, &request)
        .await?
        .document(MOST_DOCUMENT_BYTES)
        .await?;
    let page: ObjectsPage = read(&bytes)
        .map_err(|why| Failure::Broken(ErrorKind::Other, format!("the answer makes no sense: {why}")))?;
    if page.is_truncated && page.next_continuation_token.is_none() {
        let why = "the listing is cut off, and the server does not say how to go on".to_owned();
        return Err(Failure::Broken(ErrorKind::Other, why));
    }
    Ok(page)
}
