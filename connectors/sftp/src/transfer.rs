//! The bytes of open files: many requests in flight at once, so that distance costs little.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::error::Fault;
use crate::protocol::{Attributes, Reply, Request, status};
use crate::remote::attributes;
use crate::session::{Pending, Session, UNEXPECTED};

/// Requests of one call and session in flight: 2 MiB of writes, up to 16 MiB of reads.
const IN_FLIGHT: usize = 64;

/// A file open for writing, on one or more sessions at once: a server takes some 2 MiB of a session before it answers.
pub(crate) struct Writing<'a> {
    bytes: &'a [u8],
    piece: usize,
    /// Pieces that were taken by a session.
    taken: AtomicUsize,
    /// Tells who waits that there is nothing left to take.
    over: Notify,
    sync: bool,
}

impl<'a> Writing<'a> {
    /// Writes all bytes from the start of a file, in pieces. With `sync` the server is asked to make them durable.
    pub(crate) fn new(bytes: &'a [u8], piece: usize, sync: bool) -> Self {
        Self {
            bytes,
            piece,
            taken: AtomicUsize::new(0),
            over: Notify::new(),
            sync,
        }
    }

    fn next_piece(&self) -> Option<(u64, &'a [u8])> {
        let start = self
            .taken
            .fetch_add(1, Ordering::Relaxed)
            .saturating_mul(self.piece);
        let Some(rest) = self.bytes.get(start..).filter(|rest| !rest.is_empty()) else {
            self.over.notify_waiters();
            return None;
        };
        Some((start as u64, rest.get(..self.piece).unwrap_or(rest)))
    }

    /// Whether there is nothing left to take.
    pub(crate) fn is_all_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed).saturating_mul(self.piece) >= self.bytes.len()
    }

    /// What is `coming`, if it comes while there is still something to take.
    pub(crate) async fn in_time<T>(&self, coming: impl Future<Output = T>) -> Option<T> {
        let over = self.over.notified();
        if self.is_all_taken() {
            return None;
        }
        tokio::select! {
            biased;
            () = over => None,
            came = coming => Some(came),
        }
    }

    /// Writes what other sessions leave to this one. `moved` hears of every piece that the server has confirmed. Gives what the server
    /// then says of the file.
    ///
    /// The draft demands that requests of one file are done in their order (draft-ietf-secsh-filexfer-02, 4.1), and servers that know
    /// how to sync do so: those are asked for the last things beside the last pieces. Others, such as those made with Go's
    /// `pkg/sftp`, look at a file while pieces are still being written.
    pub(crate) async fn write(
        &self,
        session: &Session,
        handle: &[u8],
        moved: impl Fn(u64),
    ) -> Result<Attributes, Fault> {
        let mut pending: VecDeque<(u64, Pending)> = VecDeque::with_capacity(IN_FLIGHT);
        while let Some((offset, data)) = self.next_piece() {
            if pending.len() == IN_FLIGHT
                && let Some((length, written)) = pending.pop_front()
            {
                written.done().await?;
                moved(length);
            }
            let asked = session.send(Request::Write { handle, offset, data }).await?;
            pending.push_back((data.len() as u64, asked));
        }
        let mut early = None;
        if session.abilities.fsync {
            early = Some(self.ask_for_the_end(session, handle).await?);
        }
        for (length, written) in pending {
            written.done().await?;
            moved(length);
        }
        let (syncing, looking) = match early {
            Some(asked) => asked,
            None => self.ask_for_the_end(session, handle).await?,
        };
        if let Some(syncing) = syncing {
            syncing.done().await?;
        }
        attributes(looking).await
    }

    /// Asks for a sync, if one is wanted, and for the attributes.
    async fn ask_for_the_end(
        &self,
        session: &Session,
        handle: &[u8],
    ) -> Result<(Option<Pending>, Pending), Fault> {
        let mut syncing = None;
        if self.sync {
            syncing = Some(session.begin_to_sync(handle).await?);
        }
        let looking = session.send(Request::StatHandle { handle }).await?;
        Ok((syncing, looking))
    }
}

/// A part of the buffer that is under way.
struct Part {
    start: usize,
    length: usize,
    pending: Pending,
}

/// Fills the buffer from `offset` on, and gives how much there was before the file's end.
pub(crate) async fn read_into(
    session: &Session,
    handle: &[u8],
    offset: u64,
    buffer: &mut [u8],
    moved: impl Fn(u64),
) -> Result<usize, Fault> {
    // No file is so long, and servers take such an offset for a mistake.
    let room = (i64::MAX as u64).saturating_sub(offset);
    let wanted = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    let buffer = buffer.get_mut(..wanted).unwrap_or_default();
    let most = session.read_bytes();
    // Where the file ends before what is wanted does, this tells a round trip earlier.
    let mut looking = Some(session.send(Request::StatHandle { handle }).await?);
    let ask = async |start: usize, length: usize| {
        let length = length.min(most);
        let request = Request::Read {
            handle,
            offset: offset.saturating_add(start as u64),
            length: u32::try_from(length).unwrap_or(u32::MAX),
        };
        session.send(request).await.map(|pending| Part {
            start,
            length,
            pending,
        })
    };
    let mut parts: VecDeque<Part> = VecDeque::with_capacity(IN_FLIGHT);
    let mut asked = 0;
    loop {
        while parts.len() < IN_FLIGHT && asked < buffer.len() {
            let part = ask(asked, buffer.len() - asked).await?;
            asked += part.length;
            parts.push_back(part);
        }
        let Some(part) = parts.pop_front() else {
            return Ok(buffer.len());
        };
        let data = match part.pending.reply().await {
            Ok(Reply::Data(data)) if data.len() > part.length => return Err(UNEXPECTED),
            Ok(Reply::Data(data)) => data,
            Ok(_) => return Err(UNEXPECTED),
            Err(fault) if fault.code() == Some(status::END) => return Ok(part.start),
            Err(fault) => return Err(fault),
        };
        if data.is_empty() {
            return Ok(part.start);
        }
        let end = part.start + data.len();
        if let Some(place) = buffer.get_mut(part.start..end) {
            place.copy_from_slice(&data);
        }
        moved(data.len() as u64);
        if data.len() < part.length {
            if let Some(looking) = looking.take()
                && let Ok(found) = attributes(looking).await
                && found.size.is_some_and(|size| size <= offset + end as u64)
            {
                return Ok(end);
            }
            // A server may give less than was asked for, not only at the end: the rest comes first.
            parts.push_front(ask(end, part.length - data.len()).await?);
        }
    }
}
