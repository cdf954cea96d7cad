//! A small S3 server in memory that keeps its promises: create-only puts are atomic, also of uploads in parts. It checks no signature.
//!
//! It is for what the real server of the tests cannot do, and it remembers every request.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http_message::{Message, refusal, reply};

/// What is stored, and how the server behaves.
#[derive(Debug, Default)]
pub struct State {
    /// Objects by name, without the bucket.
    pub objects: BTreeMap<String, Vec<u8>>,
    /// Uploads in parts by id.
    pub uploads: BTreeMap<String, PendingUpload>,
    /// Every request, without its body.
    pub seen: Vec<Message>,
    /// Whether the bucket can lock objects.
    pub locks: bool,
    /// Where listings lag behind: what they show instead of the objects.
    pub stale: Option<BTreeMap<String, Vec<u8>>>,
}

/// Name of the object, time of begin, parts by number.
pub type PendingUpload = (String, String, BTreeMap<usize, Vec<u8>>);

/// A server that listens on a free port of the loopback device.
#[derive(Debug)]
pub struct S3Fake {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Default for S3Fake {
    fn default() -> Self {
        Self::start()
    }
}

impl S3Fake {
    /// Starts it. Its threads end with the process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { port, state }
    }

    /// Where a prefix of its bucket is.
    pub fn location(&self, prefix: &str) -> String {
        format!("s3://127.0.0.1:{}/bucket/{prefix}", self.port)
    }

    /// `HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it holds; hold it briefly.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(client: &TcpStream, state: &Mutex<State>) {
    client.set_nodelay(true).ok();
    let mut reader = BufReader::new(client);
    while let Ok(Some(request)) = Message::request(&mut reader) {
        let answer = answer(
            &request,
            &mut state.lock().unwrap_or_else(PoisonError::into_inner),
        );
        let mut client = client;
        if answer.write(&mut client, request.method() != "HEAD").is_err() {
            return;
        }
    }
}

fn answer(request: &Message, state: &mut State) -> Message {
    state.seen.push(Message {
        body: Vec::new(),
        ..request.clone()
    });
    let (path, query) = request.target().split_once('?').unwrap_or((request.target(), ""));
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect();
    let path = decoded(path);
    let Some(name) = path.strip_prefix("/bucket") else {
        return refusal(404, "NoSuchBucket", &[]);
    };
    let name = name.trim_start_matches('/').to_owned();
    if name.is_empty() {
        return about_bucket(&query, state);
    }
    let upload = query.get("uploadId").cloned();
    match (request.method(), upload) {
        ("POST", None) => begin(name, state),
        ("POST", Some(upload)) => complete(request, &name, &upload, state),
        ("PUT", Some(upload)) => {
            let number = query
                .get("partNumber")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            match state.uploads.get_mut(&upload) {
                Some((_, _, parts)) => drop(parts.insert(number, request.body.clone())),
                None => return refusal(404, "NoSuchUpload", &[]),
            }
            reply(200, &["ETag: \"part\""], "")
        }
        ("DELETE", Some(upload)) => match state.uploads.remove(&upload) {
            Some(_) => reply(204, &[], ""),
            None => refusal(404, "NoSuchUpload", &[]),
        },
        ("PUT", None) if is_refused(request, &name, state) => refusal(412, "PreconditionFailed", &[]),
        ("PUT", None) => {
            state.objects.insert(name, request.body.clone());
            reply(200, &["ETag: \"whole\""], "")
        }
        ("DELETE", None) => {
            state.objects.remove(&name);
            reply(204, &[], "")
        }
        _ => get(request, &name, state),
    }
}

fn is_refused(request: &Message, name: &str, state: &State) -> bool {
    request.header("if-none-match") == Some("*") && state.objects.contains_key(name)
}

fn begin(name: String, state: &mut State) -> Message {
    let upload = format!("upload-{}", state.seen.len());
    let body = format!(
        "<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
    );
    let now = "2999-01-01T00:00:00.000Z".to_owned();
    state.uploads.insert(upload, (name, now, BTreeMap::new()));
    reply(200, &[], body)
}

fn complete(request: &Message, name: &str, upload: &str, state: &mut State) -> Message {
    if is_refused(request, name, state) {
        return refusal(412, "PreconditionFailed", &[]);
    }
    let Some((_, _, parts)) = state.uploads.remove(upload) else {
        return refusal(404, "NoSuchUpload", &[]);
    };
    state
        .objects
        .insert(name.to_owned(), parts.into_values().flatten().collect());
    reply(
        200,
        &[],
        "\n<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>",
    )
}

fn get(request: &Message, name: &str, state: &State) -> Message {
    let Some(bytes) = state.objects.get(name) else {
        return refusal(404, "NoSuchKey", &[]);
    };
    let range = request
        .header("range")
        .and_then(|range| range.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return reply(200, &["ETag: \"whole\""], bytes.clone());
    };
    let (first, last): (usize, usize) = (first.parse().unwrap_or(0), last.parse().unwrap_or(0));
    if first >= bytes.len() {
        return refusal(416, "InvalidRange", &[]);
    }
    let last = last.min(bytes.len() - 1);
    let range = format!("Content-Range: bytes {first}-{last}/{}", bytes.len());
    reply(206, &["ETag: \"whole\"", &range], &bytes[first..=last])
}

fn about_bucket(query: &BTreeMap<String, String>, state: &State) -> Message {
    let text = |name: &str| query.get(name).map_or("", String::as_str);
    if query.contains_key("object-lock") {
        let body = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>";
        return if state.locks {
            reply(200, &[], body)
        } else {
            refusal(404, "ObjectLockConfigurationNotFoundError", &[])
        };
    }
    if query.contains_key("uploads") {
        let uploads = state
            .uploads
            .iter()
            .filter(|(_, (name, ..))| name.starts_with(text("prefix")));
        let uploads = uploads.map(|(id, (name, begun, _))| {
            format!(
                "<Upload><Key>{name}</Key><UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>"
            )
        });
        let body = format!(
            "<ListMultipartUploadsResult>{}</ListMultipartUploadsResult>",
            uploads.collect::<String>()
        );
        return reply(200, &["Date: Tue, 24 Nov 2026 00:00:00 GMT"], body);
    }
    let after = text("start-after").max(text("continuation-token"));
    let most: usize = text("max-keys").parse().unwrap_or(1000);
    let listed = state.stale.as_ref().unwrap_or(&state.objects);
    let names: Vec<_> = listed
        .iter()
        .filter(|(name, _)| name.starts_with(text("prefix")) && name.as_str() > after)
        .take(most + 1)
        .collect();
    let page = &names[..names.len().min(most)];
    let items = page.iter().map(|(name, bytes)| {
        format!(
            "<Contents><Key>{name}</Key><Size>{}</Size></Contents>",
            bytes.len()
        )
    });
    let cut = names.len() > most;
    let next = page.last().filter(|_| cut).map_or_else(String::new, |(name, _)| {
        format!("<NextContinuationToken>{name}</NextContinuationToken>")
    });
    let items = items.collect::<String>();
    let body = format!("<ListBucketResult><IsTruncated>{cut}</IsTruncated>{next}{items}</ListBucketResult>");
    reply(200, &[], body)
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = [rest.clone().next(), rest.clone().nth(1)];
        match (byte, digits) {
            (b'%', [Some(high), Some(low)]) => {
                rest.nth(1);
                let digits = [high, low];
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                bytes.push(u8::from_str_radix(digits, 16).unwrap_or(b'?'));
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
