//! One SFTP session on an SSH channel: many requests in flight at once, each answered to whoever asked.
//!
//! A task writes what is queued, another reads and hands out replies. It does not know what the requests are for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::connect::Farewell;
use crate::error::Fault;
use crate::protocol::{self, MAX_PACKET_BYTES, Reply, Request, Status, status};

/// Packets that wait to be written; who has more waits.
const QUEUED_PACKETS: usize = 8;
/// Queued packets are joined up to this size: packets that are a little larger than SSH's own would otherwise be sent in two parts.
const JOINED_BYTES: usize = 128 << 10;
/// A request of the draft moves this much on any server.
const DRAFT_BYTES: u32 = 32 << 10;
const MOST_READ_BYTES: u32 = 255 << 10;

/// What the server can do beyond the draft.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "independent abilities, each named")]
pub(crate) struct Abilities {
    pub(crate) posix_rename: bool,
    pub(crate) hard_link: bool,
    pub(crate) fsync: bool,
    pub(crate) space: bool,
}

impl Abilities {
    /// Whether what it stores are files of its operating system, which several may write at once: others, which pass on to other
    /// storages what they are given in one go, cannot sync.
    pub(crate) fn shows_files(self) -> bool {
        self.fsync && self.hard_link
    }
}

/// The most bytes of one request, and how long the server took to tell.
#[derive(Debug)]
struct Limits {
    read: AtomicU32,
    write: AtomicU32,
    round_trip: OnceLock<Duration>,
}

impl Limits {
    /// What every server takes.
    const fn of_the_draft() -> Self {
        Self {
            read: AtomicU32::new(DRAFT_BYTES),
            write: AtomicU32::new(DRAFT_BYTES),
            round_trip: OnceLock::new(),
        }
    }

    /// Reads as large as the server allows; larger writes were measured to be slower.
    fn learn(&self, mut told: Bytes) {
        let mut limit = || told.try_get_u64().unwrap_or(0);
        let (_packet, read, write) = (limit(), limit(), limit());
        let within = |told: u64, ours: u32| u32::try_from(told).unwrap_or(ours).min(ours);
        if read > 0 {
            self.read.store(within(read, MOST_READ_BYTES), Ordering::Relaxed);
        }
        if write > 0 {
            self.write.store(within(write, DRAFT_BYTES), Ordering::Relaxed);
        }
    }
}

/// An open session. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    outgoing: mpsc::Sender<Bytes>,
    waiting: Arc<Waiting>,
    next_id: AtomicU32,
    pub(crate) abilities: Abilities,
    limits: Arc<Limits>,
    /// Whether files were to be removed without anybody waiting for that.
    owes_removals: AtomicBool,
}

/// Who waits for which reply; once the session has ended, why.
#[derive(Debug)]
struct Waiting {
    replies: Mutex<Result<HashMap<u32, oneshot::Sender<Reply>>, String>>,
    over: watch::Sender<bool>,
}

impl Waiting {
    fn new() -> Self {
        Self {
            replies: Mutex::new(Ok(HashMap::new())),
            over: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Result<HashMap<u32, oneshot::Sender<Reply>>, String>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Fault {
        Fault::Lost(self.lock().as_ref().err().cloned().unwrap_or_default())
    }

    /// Ends the session for all who wait. The first reason stays.
    fn end(&self, why: impl Into<String>) {
        let mut waiting = self.lock();
        if waiting.is_ok() {
            *waiting = Err(why.into());
        }
        drop(waiting);
        self.over.send_replace(true);
    }

    /// Returns when the session has ended.
    async fn ended(&self) {
        // The sender is our own, so it is never gone.
        let _gone = self.over.subscribe().wait_for(|over| *over).await.is_err();
    }
}

/// A reply that is under way.
#[derive(Debug)]
pub(crate) struct Pending {
    reply: oneshot::Receiver<Reply>,
    waiting: Arc<Waiting>,
}

impl Pending {
    pub(crate) async fn reply(self) -> Result<Reply, Fault> {
        match self.reply.await {
            Ok(Reply::Status(status)) if status.code != status::OK => Err(Fault::Refused(status)),
            Ok(reply) => Ok(reply),
            Err(_gone) => Err(self.waiting.fault()),
        }
    }

    /// For requests that answer with success and nothing else.
    pub(crate) async fn done(self) -> Result<(), Fault> {
        match self.reply().await? {
            Reply::Status(_) => Ok(()),
            _ => Err(UNEXPECTED),
        }
    }
}

pub(crate) const UNEXPECTED: Fault = Fault::Nonsense("an answer of another kind was due");

impl Session {
    /// Starts the subsystem on a fresh channel and asks the server what it can do.
    pub(crate) async fn start(mut channel: Channel<Msg>, farewell: Farewell) -> Result<Self, Fault> {
        let lost = |error: russh::Error| Fault::Lost(error.to_string());
        channel.request_subsystem(true, "sftp").await.map_err(lost)?;
        loop {
            match channel.wait().await {
                Some(ChannelMsg::Success) => break,
                Some(ChannelMsg::Failure) => {
                    let message = "the server does not offer SFTP".to_owned();
                    return Err(Fault::Refused(Status {
                        code: status::UNSUPPORTED,
                        message,
                    }));
                }
                Some(ChannelMsg::WindowAdjusted { .. }) => {}
                _ => return Err(Fault::Lost(farewell.why("the server closed the channel"))),
            }
        }
        let (read_half, write_half) = channel.split();
        let mut incoming = Incoming::new(read_half, farewell);
        write_half.data_bytes(protocol::hello()).await.map_err(lost)?;
        let greeting = incoming.packet().await.map_err(|fault| match fault {
            Fault::Lost(why) => Fault::Lost(format!("{why} before SFTP began: may this user use it?")),
            _ => Fault::Nonsense("it does not begin as SFTP does: does the login shell print something?"),
        })?;
        let extensions = protocol::decode_hello(greeting)?;
        let has = |wanted: &str| extensions.iter().any(|(name, _)| name == wanted.as_bytes());
        let (outgoing, queue) = mpsc::channel(QUEUED_PACKETS);
        let waiting = Arc::new(Waiting::new());
        tokio::spawn(write_queue(queue, write_half, Arc::clone(&waiting)));
        tokio::spawn(hand_out(incoming, Arc::clone(&waiting), outgoing.downgrade()));
        let session = Self {
            outgoing,
            waiting,
            next_id: AtomicU32::new(1),
            abilities: Abilities {
                posix_rename: has("posix-rename@openssh.com"),
                hard_link: has("hardlink@openssh.com"),
                fsync: has("fsync@openssh.com"),
                space: has("statvfs@openssh.com"),
            },
            limits: Arc::new(Limits::of_the_draft()),
            owes_removals: AtomicBool::new(false),
        };
        if has("limits@openssh.com") {
            session.ask_for_limits().await?;
        }
        Ok(session)
    }

    /// They are in force when the answer is there; nobody waits for it.
    async fn ask_for_limits(&self) -> Result<(), Fault> {
        let request = Request::Extended {
            name: "limits@openssh.com",
            fields: &[],
        };
        let (pending, limits) = (self.send(request).await?, Arc::clone(&self.limits));
        let asked = Instant::now();
        tokio::spawn(async move {
            if let Ok(Reply::Extended(told)) = pending.reply().await {
                let _set_once = limits.round_trip.set(asked.elapsed());
                limits.learn(told);
            }
        });
        Ok(())
    }

    /// How long the server took to answer a request that is no work, if it was asked one.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.limits.round_trip.get().copied()
    }

    /// The most that one request may read.
    pub(crate) fn read_bytes(&self) -> usize {
        self.limits.read.load(Ordering::Relaxed).max(1) as usize
    }

    /// The most that one request may write.
    pub(crate) fn write_bytes(&self) -> usize {
        self.limits.write.load(Ordering::Relaxed).max(1) as usize
    }

    pub(crate) fn is_over(&self) -> bool {
        self.outgoing.is_closed() || self.waiting.lock().is_err()
    }

    /// Queues a request; who wants its reply waits for what is returned.
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Pending, Fault> {
        let (packet, pending) = self.prepare(request)?;
        match self.outgoing.send(packet).await {
            Ok(()) => Ok(pending),
            Err(_closed) => Err(self.waiting.fault()),
        }
    }

    pub(crate) async fn request(&self, request: Request<'_>) -> Result<Reply, Fault> {
        self.send(request).await?.reply().await
    }

    /// Queues a request whose outcome matters to nobody, without waiting.
    pub(crate) fn send_unheard(&self, request: Request<'_>) {
        if matches!(request, Request::Remove { .. }) {
            self.owes_removals.store(true, Ordering::Relaxed);
        }
        if let Ok((packet, _unheard)) = self.prepare(request)
            && let Err(mpsc::error::TrySendError::Full(packet)) = self.outgoing.try_send(packet)
        {
            let outgoing = self.outgoing.clone();
            tokio::spawn(async move { outgoing.send(packet).await });
        }
    }

    /// Whether files may be left when the connection ends at once.
    pub(crate) fn owes_removals(&self) -> bool {
        self.owes_removals.load(Ordering::Relaxed)
    }

    fn prepare(&self, request: Request<'_>) -> Result<(Bytes, Pending), Fault> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        match self.waiting.lock().as_mut() {
            Ok(waiting) => waiting.insert(id, sender),
            Err(why) => return Err(Fault::Lost(why.clone())),
        };
        let waiting = Arc::clone(&self.waiting);
        Ok((request.encode(id), Pending { reply, waiting }))
    }
}

/// Writes queued packets until the session is dropped or ends. A channel that waits for its window does not notice that its
/// connection is gone, so that is watched beside it: whoever waits for room in the queue is let go with the queue.
async fn write_queue(
    mut queue: mpsc::Receiver<Bytes>,
    channel: ChannelWriteHalf<Msg>,
    waiting: Arc<Waiting>,
) {
    let mut ended = std::pin::pin!(waiting.ended());
    while let Some(first) = queue.recv().await {
        let packets = match queue.try_recv() {
            Ok(second) => join(&first, &second, &mut queue),
            Err(_empty) => first,
        };
        let written = tokio::select! {
            written = channel.data_bytes(packets) => written,
            () = &mut ended => break,
        };
        if let Err(error) = written {
            waiting.end(error.to_string());
            break;
        }
    }
    drop(queue);
    // When the channel is gone already, there is nothing to close.
    let _gone = channel.close().await.is_err();
    waiting.end("it was closed");
}

fn join(first: &Bytes, second: &Bytes, queue: &mut mpsc::Receiver<Bytes>) -> Bytes {
    let mut joined = BytesMut::with_capacity(JOINED_BYTES + (64 << 10));
    joined.extend_from_slice(first);
    joined.extend_from_slice(second);
    while joined.len() < JOINED_BYTES
        && let Ok(next) = queue.try_recv()
    {
        joined.extend_from_slice(&next);
    }
    joined.freeze()
}

/// Gives each reply to who waits for it, until the stream ends or breaks.
async fn hand_out(mut incoming: Incoming, waiting: Arc<Waiting>, outgoing: mpsc::WeakSender<Bytes>) {
    loop {
        let next = match incoming.packet().await {
            Ok(packet) => protocol::decode(packet).map_err(Fault::from),
            Err(fault) => Err(fault),
        };
        let (id, reply) = match next {
            Ok(found) => found,
            Err(Fault::Lost(why)) => return waiting.end(why),
            Err(_) => return waiting.end("the server sent a malformed packet"),
        };
        let Some(sender) = waiting
            .lock()
            .as_mut()
            .ok()
            .and_then(|waiting| waiting.remove(&id))
        else {
            continue;
        };
        // Who asked for a file to be opened has been stopped meanwhile: the handle must not stay open.
        if let Err(Reply::Handle(handle)) = sender.send(reply)
            && let Some(outgoing) = outgoing.upgrade()
        {
            let close = Request::Close { handle: &handle }.encode(0);
            tokio::spawn(async move { outgoing.send(close).await });
        }
    }
}

/// The stream of a channel, cut into packets.
struct Incoming {
    channel: ChannelReadHalf,
    buffer: BytesMut,
    farewell: Farewell,
}

impl Incoming {
    fn new(channel: ChannelReadHalf, farewell: Farewell) -> Self {
        Self {
            channel,
            buffer: BytesMut::new(),
            farewell,
        }
    }

    /// The next packet without its length.
    async fn packet(&mut self) -> Result<Bytes, Fault> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MAX_PACKET_BYTES {
                    return Err(Fault::Nonsense("a packet is too long"));
                }
                if self.buffer.len() >= 4 + length {
                    self.buffer.advance(4);
                    return Ok(self.buffer.split_to(length).freeze());
                }
                self.buffer.reserve(4 + length - self.buffer.len());
            }
            match self.channel.wait().await {
                Some(ChannelMsg::Data { data }) => self.buffer.extend_from_slice(&data),
                Some(ChannelMsg::Close) | None => {
                    return Err(Fault::Lost(self.farewell.why("the server ended the session")));
                }
                Some(_) => {}
            }
        }
    }
}
