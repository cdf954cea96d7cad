//! The bytes of open files: many requests in flight at once, so that distance costs little.

use std::collections::VecDeque;

use crate::error::Fault;
use crate::protocol::{Reply, Request, status};
use crate::session::{Pending, Session, UNEXPECTED};

/// Requests of one call in flight: 2 MiB of writes, up to 16 MiB of reads.
const IN_FLIGHT: usize = 64;

/// Writes all bytes from the start of a file. `moved` hears of every part that the server has confirmed.
pub(crate) async fn write_all(
    session: &Session,
    handle: &[u8],
    bytes: &[u8],
    moved: impl Fn(u64),
) -> Result<(), Fault> {
    let mut pending: VecDeque<(u64, Pending)> = VecDeque::with_capacity(IN_FLIGHT);
    let mut offset = 0;
    for data in bytes.chunks(session.abilities.write_bytes.max(1) as usize) {
        if pending.len() == IN_FLIGHT
            && let Some((length, written)) = pending.pop_front()
        {
            written.done().await?;
            moved(length);
        }
        let length = data.len() as u64;
        pending.push_back((
            length,
            session.send(Request::Write { handle, offset, data }).await?,
        ));
        offset += length;
    }
    for (length, written) in pending {
        written.done().await?;
        moved(length);
    }
    Ok(())
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
    let most = session.abilities.read_bytes.max(1) as usize;
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
            // A server may give less than was asked for, not only at the end: the rest comes first.
            parts.push_front(ask(end, part.length - data.len()).await?);
        }
    }
}
