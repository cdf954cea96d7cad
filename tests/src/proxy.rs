//! A way to a server of this machine that can be slow, break, or lead nowhere.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// They go through.
    Open,
    /// Nobody listens.
    Closed,
    /// They are accepted and never answered.
    Nowhere,
}

/// Bytes on their way: enough for 1 GB/s at 100 ms.
const PARTS_UNDER_WAY: usize = 2048;
const PART_BYTES: usize = 64 << 10;

/// A proxy on a free port. It ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    delay: Mutex<Duration>,
    way: AtomicU8,
    ended: AtomicBool,
    /// After so many bytes to the server all connections break.
    budget: AtomicU64,
    accepted: AtomicU64,
    dropped: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A way to a port of this machine.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            target,
            delay: Mutex::default(),
            way: AtomicU8::new(Way::Open as u8),
            ended: AtomicBool::new(false),
            budget: AtomicU64::new(u64::MAX),
            accepted: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            streams: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let accepting = thread::spawn(move || accepting.accept(port, Some(listener)));
        Self {
            port,
            shared,
            accepting: Some(accepting),
        }
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How long bytes are under way in each direction: half of a round trip.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    /// What happens to connections from now on. It has happened to the next one when this returns.
    pub fn way(&self, way: Way) {
        self.shared.way.store(way as u8, Ordering::SeqCst);
        let listens = || TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        let begun = Instant::now();
        while listens() == (way == Way::Closed) {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "the proxy does not become {way:?}"
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Breaks all connections there are.
    pub fn drop_all(&self) {
        self.shared.drop_all();
    }

    /// Breaks all connections after so many more bytes to the server; once.
    pub fn drop_after(&self, bytes: u64) {
        self.shared.budget.store(bytes, Ordering::SeqCst);
    }

    /// How often all connections broke.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// How many connections have gone through.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.drop_all();
        if let Some(accepting) = self.accepting.take() {
            let _panicked = accepting.join().is_err();
        }
        self.shared.drop_all();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, port: u16, mut listener: Option<TcpListener>) {
        while !self.ended.load(Ordering::SeqCst) {
            let closed = self.way.load(Ordering::SeqCst) == Way::Closed as u8;
            match &listener {
                Some(_) if closed => listener = None,
                None if !closed => listener = TcpListener::bind(("127.0.0.1", port)).ok(),
                Some(listener) => {
                    listener.set_nonblocking(true).expect("a setting of the listener");
                    if let Ok((stream, _)) = listener.accept() {
                        stream.set_nonblocking(false).expect("a setting of the stream");
                        self.connect(stream);
                        continue;
                    }
                }
                None => {}
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn connect(self: &Arc<Self>, client: TcpStream) {
        let keep = |stream: &TcpStream| {
            let kept = stream.try_clone().expect("a second handle");
            self.streams
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(kept);
        };
        keep(&client);
        if self.way.load(Ordering::SeqCst) == Way::Nowhere as u8 {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.target)) else {
            return end(&client);
        };
        keep(&server);
        self.accepted.fetch_add(1, Ordering::SeqCst);
        for stream in [&client, &server] {
            stream.set_nodelay(true).expect("a setting of the stream");
        }
        let handle = |stream: &TcpStream| stream.try_clone().expect("a second handle");
        self.carry(handle(&client), handle(&server), true);
        self.carry(server, client, false);
    }

    /// Carries bytes one way, each part as late as the delay says.
    fn carry(self: &Arc<Self>, from: TcpStream, to: TcpStream, counted: bool) {
        let (sender, parts) = sync_channel(PARTS_UNDER_WAY);
        let shared = Arc::clone(self);
        thread::spawn(move || shared.read(from, &sender, counted));
        thread::spawn(move || write(to, &parts));
    }

    fn read(&self, mut from: TcpStream, parts: &SyncSender<(Instant, Vec<u8>)>, counted: bool) {
        let mut buffer = vec![0; PART_BYTES];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let delay = *self.delay.lock().unwrap_or_else(PoisonError::into_inner);
            if counted && self.spend(length as u64) {
                self.drop_all();
                return;
            }
            if parts
                .send((Instant::now() + delay, buffer[..length].to_vec()))
                .is_err()
            {
                break;
            }
        }
    }

    /// Whether the budget is used up with this.
    fn spend(&self, bytes: u64) -> bool {
        if self.budget.load(Ordering::SeqCst) == u64::MAX {
            return false;
        }
        let before = self
            .budget
            .fetch_sub(bytes.min(self.budget.load(Ordering::SeqCst)), Ordering::SeqCst);
        let spent = before <= bytes;
        if spent {
            self.budget.store(u64::MAX, Ordering::SeqCst);
        }
        spent
    }

    fn drop_all(&self) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        for stream in self
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            end(&stream);
        }
    }
}

fn write(mut to: TcpStream, parts: &Receiver<(Instant, Vec<u8>)>) {
    for (due, bytes) in parts {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    end(&to);
}

/// The other side may have ended it already.
fn end(stream: &TcpStream) {
    let _ended = stream.shutdown(Shutdown::Both).is_err();
}
