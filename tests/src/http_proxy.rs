//! A proxy in front of an HTTP server that does harm by rule, and counts what passes. It changes no request, so signatures hold.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::http_message::Message;

/// What happens to a request that a rule is about.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It is answered without the server.
    Answer(Box<Message>),
    /// The connection is reset before the server sees it.
    ResetBefore,
    /// The server fulfils it, and the connection is reset before the answer comes.
    ResetAfter,
    /// The server fulfils it, and no answer ever comes.
    Silence,
    /// The server never sees it, and no answer ever comes.
    Nowhere,
    /// The answer ends after so many bytes of its body.
    CutBody(usize),
    /// One bit of its body is another when it reaches the server.
    Damage,
    /// It waits so long, then it passes.
    Delay(Duration),
}

/// Which requests a fault happens to.
#[derive(Debug, Clone)]
pub struct Rule {
    method: String,
    part: String,
    skip: usize,
    times: usize,
    fault: Fault,
}

impl Rule {
    /// For every request of a method (empty: of any) whose path and query contain `part`.
    pub fn new(method: &str, part: &str, fault: Fault) -> Self {
        Self {
            method: method.to_owned(),
            part: part.to_owned(),
            skip: 0,
            times: usize::MAX,
            fault,
        }
    }

    /// Not for the first so many.
    pub fn skip(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Only so many times.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    /// Requests as they came, without their bodies.
    seen: Vec<Message>,
}

/// A proxy that listens on a free port of the loopback device until it is dropped.
#[derive(Debug)]
pub struct HttpProxy {
    port: u16,
    state: Arc<Mutex<State>>,
    closing: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl HttpProxy {
    /// Stands in front of the server at `HOST:PORT`.
    pub fn before(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound port").port();
        let (state, closing) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let (shared, ends, server) = (Arc::clone(&state), Arc::clone(&closing), server.to_owned());
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                let (state, ends, server) = (Arc::clone(&shared), Arc::clone(&ends), server.clone());
                std::thread::spawn(move || serve(stream, &server, &state, &ends));
            }
        };
        Self {
            port,
            state,
            closing,
            listener: Some(std::thread::spawn(accept)),
        }
    }

    /// Where it listens, as `HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Adds a rule. The first that fits is followed.
    pub fn add(&self, rule: Rule) {
        lock(&self.state).rules.push(rule);
    }

    /// Does no more harm, and forgets what was seen.
    pub fn reset(&self) {
        *lock(&self.state) = State::default();
    }

    /// Requests so far, by method.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for request in &lock(&self.state).seen {
            *counts.entry(request.method().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Requests so far, without their bodies.
    pub fn seen(&self) -> Vec<Message> {
        lock(&self.state).seen.clone()
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port))); // wakes the listener
        if let Some(listener) = self.listener.take() {
            listener.join().ok();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one connection. How it ends is the client's business, not ours.
fn serve(client: TcpStream, server: &str, state: &Mutex<State>, closing: &AtomicBool) {
    client.set_nodelay(true).ok();
    let mut upstream = None;
    let mut reader = BufReader::new(client.try_clone().expect("a descriptor"));
    while let Ok(Some(request)) = Message::request(&mut reader) {
        if pass(&client, server, &mut upstream, &request, state, closing).is_err() {
            break;
        }
    }
}

type Upstream = Option<BufReader<TcpStream>>;

fn pass(
    mut client: &TcpStream,
    server: &str,
    upstream: &mut Upstream,
    request: &Message,
    state: &Mutex<State>,
    closing: &AtomicBool,
) -> std::io::Result<()> {
    let fault = note(request, state);
    match &fault {
        Some(Fault::Answer(answer)) => return answer.write(&mut client, request.method() != "HEAD"),
        Some(Fault::ResetBefore) => return reset(client),
        Some(Fault::Nowhere) => return silence(client, closing),
        Some(Fault::Delay(time)) => std::thread::sleep(*time),
        _ => {}
    }
    let damaged = matches!(fault, Some(Fault::Damage)).then(|| damaged(request));
    let answer = forward(server, upstream, damaged.as_ref().unwrap_or(request))?;
    match fault {
        Some(Fault::ResetAfter) => reset(client),
        Some(Fault::Silence) => silence(client, closing),
        Some(Fault::CutBody(bytes)) => {
            answer.write(&mut client, false)?;
            client.write_all(&answer.body[..bytes.min(answer.body.len())])?;
            Err(std::io::ErrorKind::ConnectionAborted.into())
        }
        _ => answer.write(&mut client, request.method() != "HEAD"),
    }
}

/// Remembers a request, and finds what is to happen to it.
fn note(request: &Message, state: &Mutex<State>) -> Option<Fault> {
    let mut state = lock(state);
    state.seen.push(Message {
        body: Vec::new(),
        ..request.clone()
    });
    let fits = |rule: &&mut Rule| {
        rule.times > 0
            && (rule.method.is_empty() || rule.method == request.method())
            && request.target().contains(&rule.part)
    };
    let rule = state.rules.iter_mut().find(fits)?;
    if rule.skip > 0 {
        rule.skip -= 1;
        return None;
    }
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn damaged(request: &Message) -> Message {
    let mut request = request.clone();
    let middle = request.body.len() / 2;
    if let Some(byte) = request.body.get_mut(middle) {
        *byte ^= 1;
    }
    request
}

fn forward(server: &str, upstream: &mut Upstream, request: &Message) -> std::io::Result<Message> {
    if upstream.is_none() {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        *upstream = Some(BufReader::new(stream));
    }
    let stream = upstream.as_mut().expect("just connected");
    request.write(stream.get_mut(), true)?;
    let answer = Message::answer(stream, request.method())?;
    let ends = answer
        .header("connection")
        .is_some_and(|value| value.eq_ignore_ascii_case("close"));
    // Servers may hang up after a refusal, because they have not read all of the request.
    if ends || answer.status() >= 400 || answer.header("content-length").is_none() {
        *upstream = None;
    }
    Ok(answer)
}

/// Says nothing until the client gives up, or the test is over.
fn silence(client: &TcpStream, closing: &AtomicBool) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_millis(100)))?;
    while !closing.load(Ordering::SeqCst) && !matches!(client.peek(&mut [0]), Ok(0)) {}
    reset(client)
}

/// Ends a connection so that the other side meets an error, not an end.
fn reset(client: &TcpStream) -> std::io::Result<()> {
    set_socket_linger(client, Some(Duration::ZERO))?;
    client.shutdown(std::net::Shutdown::Read).ok();
    Err(std::io::ErrorKind::ConnectionReset.into())
}
