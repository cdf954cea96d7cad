//! SFTP version 3 on the wire: requests to bytes, bytes to replies. It knows no connection.
//!
//! Handles and names are bytes, not text, and a status is a number: servers use values that are neither UTF-8 nor
//! in the draft, and none of them may end a connection.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Largest packet we accept. Servers send less than 300 KiB; more is a broken stream.
pub(crate) const MAX_PACKET_BYTES: usize = 4 << 20;

/// The version of the protocol that every server speaks.
const VERSION: u32 = 3;

/// Flags of [`Request::Open`].
pub(crate) mod open_flags {
    pub(crate) const READ: u32 = 0x01;
    pub(crate) const WRITE: u32 = 0x02;
    pub(crate) const CREATE: u32 = 0x08;
    pub(crate) const EXCLUSIVE: u32 = 0x20;
}

/// Codes of [`Status`]; those from 10 on are of later versions, but some servers send them.
pub(crate) mod status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const END: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const BAD_MESSAGE: u32 = 5;
    pub(crate) const NO_CONNECTION: u32 = 6;
    pub(crate) const CONNECTION_LOST: u32 = 7;
    pub(crate) const UNSUPPORTED: u32 = 8;
    pub(crate) const NO_SUCH_PATH: u32 = 10;
    pub(crate) const ALREADY_EXISTS: u32 = 11;
    pub(crate) const WRITE_PROTECT: u32 = 12;
    pub(crate) const NO_SPACE: u32 = 14;
    pub(crate) const QUOTA_EXCEEDED: u32 = 15;
}

/// What we ask of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request<'a> {
    Open {
        path: &'a str,
        flags: u32,
        mode: u32,
    },
    Close {
        handle: &'a [u8],
    },
    Read {
        handle: &'a [u8],
        offset: u64,
        length: u32,
    },
    Write {
        handle: &'a [u8],
        offset: u64,
        data: &'a [u8],
    },
    StatLink {
        path: &'a str,
    },
    Stat {
        path: &'a str,
    },
    StatHandle {
        handle: &'a [u8],
    },
    OpenFolder {
        path: &'a str,
    },
    ReadFolder {
        handle: &'a [u8],
    },
    Remove {
        path: &'a str,
    },
    MakeFolder {
        path: &'a str,
        mode: u32,
    },
    RealPath {
        path: &'a str,
    },
    Rename {
        from: &'a str,
        to: &'a str,
    },
    Extended {
        name: &'a str,
        fields: &'a [&'a [u8]],
    },
}

/// What a server says.
#[derive(Debug)]
pub(crate) enum Reply {
    Status(Status),
    Handle(Bytes),
    Data(Bytes),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Bytes),
}

/// The outcome of a request, in the server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) code: u32,
    pub(crate) message: String,
}

/// An entry of a folder.
#[derive(Debug)]
pub(crate) struct Name {
    pub(crate) name: Bytes,
    pub(crate) attributes: Attributes,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) size: Option<u64>,
    pub(crate) mode: Option<u32>,
    /// In seconds of the server's clock, which wraps in 2106.
    pub(crate) modified: Option<u32>,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    Special,
    /// The server did not tell.
    Unknown,
}

impl Attributes {
    pub(crate) fn kind(&self) -> Kind {
        match self.mode.map(|mode| mode & 0o170_000) {
            Some(0o100_000) => Kind::File,
            Some(0o040_000) => Kind::Folder,
            Some(0o120_000) => Kind::Link,
            Some(0) | None => Kind::Unknown,
            Some(_) => Kind::Special,
        }
    }
}

/// The bytes are not what the protocol allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<bytes::TryGetError> for Malformed {
    fn from(_: bytes::TryGetError) -> Self {
        Self
    }
}

/// The packet that begins a session.
pub(crate) fn hello() -> Bytes {
    let mut packet = BytesMut::with_capacity(9);
    packet.put_u32(5);
    packet.put_u8(1);
    packet.put_u32(VERSION);
    packet.freeze()
}

/// The server's answer to [`hello`]: the extensions it knows, with their versions.
pub(crate) fn decode_hello(mut packet: Bytes) -> Result<Vec<(Bytes, Bytes)>, Malformed> {
    if packet.try_get_u8()? != 2 || packet.try_get_u32()? < VERSION {
        return Err(Malformed);
    }
    let mut extensions = Vec::new();
    while packet.has_remaining() {
        extensions.push((take_bytes(&mut packet)?, take_bytes(&mut packet)?));
    }
    Ok(extensions)
}

impl Request<'_> {
    /// The packet, its length in front.
    pub(crate) fn encode(&self, id: u32) -> Bytes {
        let body = self.body_bytes();
        let mut packet = BytesMut::with_capacity(9 + body);
        packet.put_u32(u32::try_from(5 + body).unwrap_or(u32::MAX));
        packet.put_u8(self.number());
        packet.put_u32(id);
        self.put_body(&mut packet);
        packet.freeze()
    }

    fn number(&self) -> u8 {
        match self {
            Self::Open { .. } => 3,
            Self::Close { .. } => 4,
            Self::Read { .. } => 5,
            Self::Write { .. } => 6,
            Self::StatLink { .. } => 7,
            Self::StatHandle { .. } => 8,
            Self::OpenFolder { .. } => 11,
            Self::ReadFolder { .. } => 12,
            Self::Remove { .. } => 13,
            Self::MakeFolder { .. } => 14,
            Self::RealPath { .. } => 16,
            Self::Stat { .. } => 17,
            Self::Rename { .. } => 18,
            Self::Extended { .. } => 200,
        }
    }

    fn body_bytes(&self) -> usize {
        match self {
            Self::Open { path, .. } => 4 + path.len() + 12,
            Self::Close { handle } | Self::StatHandle { handle } | Self::ReadFolder { handle } => {
                4 + handle.len()
            }
            Self::Read { handle, .. } => 4 + handle.len() + 12,
            Self::Write { handle, data, .. } => 4 + handle.len() + 8 + 4 + data.len(),
            Self::StatLink { path }
            | Self::Stat { path }
            | Self::OpenFolder { path }
            | Self::Remove { path }
            | Self::RealPath { path } => 4 + path.len(),
            Self::MakeFolder { path, .. } => 4 + path.len() + 8,
            Self::Rename { from, to } => 8 + from.len() + to.len(),
            Self::Extended { name, fields } => {
                4 + name.len() + fields.iter().map(|field| 4 + field.len()).sum::<usize>()
            }
        }
    }

    fn put_body(&self, packet: &mut BytesMut) {
        match *self {
            Self::Open { path, flags, mode } => {
                put_bytes(packet, path.as_bytes());
                packet.put_u32(flags);
                put_mode(packet, mode);
            }
            Self::Close { handle } | Self::StatHandle { handle } | Self::ReadFolder { handle } => {
                put_bytes(packet, handle);
            }
            Self::Read {
                handle,
                offset,
                length,
            } => {
                put_bytes(packet, handle);
                packet.put_u64(offset);
                packet.put_u32(length);
            }
            Self::Write { handle, offset, data } => {
                put_bytes(packet, handle);
                packet.put_u64(offset);
                put_bytes(packet, data);
            }
            Self::StatLink { path }
            | Self::Stat { path }
            | Self::OpenFolder { path }
            | Self::Remove { path }
            | Self::RealPath { path } => put_bytes(packet, path.as_bytes()),
            Self::MakeFolder { path, mode } => {
                put_bytes(packet, path.as_bytes());
                put_mode(packet, mode);
            }
            Self::Rename { from, to } => {
                put_bytes(packet, from.as_bytes());
                put_bytes(packet, to.as_bytes());
            }
            Self::Extended { name, fields } => {
                put_bytes(packet, name.as_bytes());
                for field in fields {
                    put_bytes(packet, field);
                }
            }
        }
    }
}

/// Attributes that hold permissions and nothing else.
fn put_mode(packet: &mut BytesMut, mode: u32) {
    packet.put_u32(HAS_MODE);
    packet.put_u32(mode);
}

fn put_bytes(packet: &mut BytesMut, bytes: &[u8]) {
    packet.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    packet.put_slice(bytes);
}

/// A packet without its length: the request it answers, and the answer.
pub(crate) fn decode(mut packet: Bytes) -> Result<(u32, Reply), Malformed> {
    let number = packet.try_get_u8()?;
    let id = packet.try_get_u32()?;
    let reply = match number {
        101 => Reply::Status(take_status(&mut packet)?),
        102 => Reply::Handle(take_bytes(&mut packet)?),
        103 => Reply::Data(take_bytes(&mut packet)?),
        104 => Reply::Names(take_names(&mut packet)?),
        105 => Reply::Attributes(take_attributes(&mut packet)?),
        201 => Reply::Extended(packet),
        _ => return Err(Malformed),
    };
    Ok((id, reply))
}

/// Old servers leave the message out.
fn take_status(packet: &mut Bytes) -> Result<Status, Malformed> {
    let code = packet.try_get_u32()?;
    let message = take_bytes(packet).unwrap_or_default();
    Ok(Status {
        code,
        message: String::from_utf8_lossy(&message).into_owned(),
    })
}

fn take_names(packet: &mut Bytes) -> Result<Vec<Name>, Malformed> {
    let count = packet.try_get_u32()? as usize;
    let mut names = Vec::with_capacity(count.min(packet.remaining() / 12));
    for _ in 0..count {
        let name = take_bytes(packet)?;
        let _long_form = take_bytes(packet)?;
        let attributes = take_attributes(packet)?;
        names.push(Name { name, attributes });
    }
    Ok(names)
}

const HAS_SIZE: u32 = 0x01;
const HAS_OWNER: u32 = 0x02;
const HAS_MODE: u32 = 0x04;
const HAS_TIMES: u32 = 0x08;
const HAS_EXTENDED: u32 = 0x8000_0000;

fn take_attributes(packet: &mut Bytes) -> Result<Attributes, Malformed> {
    let flags = packet.try_get_u32()?;
    let mut found = Attributes::default();
    if flags & HAS_SIZE != 0 {
        found.size = Some(packet.try_get_u64()?);
    }
    if flags & HAS_OWNER != 0 {
        packet.try_get_u64()?;
    }
    if flags & HAS_MODE != 0 {
        found.mode = Some(packet.try_get_u32()?);
    }
    if flags & HAS_TIMES != 0 {
        packet.try_get_u32()?;
        found.modified = Some(packet.try_get_u32()?);
    }
    if flags & HAS_EXTENDED != 0 {
        for _ in 0..packet.try_get_u32()? {
            take_bytes(packet)?;
            take_bytes(packet)?;
        }
    }
    Ok(found)
}

fn take_bytes(packet: &mut Bytes) -> Result<Bytes, Malformed> {
    let length = packet.try_get_u32()? as usize;
    if length > packet.remaining() {
        return Err(Malformed);
    }
    Ok(packet.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(parts: &[&[u8]]) -> Bytes {
        parts.concat().into()
    }

    #[test]
    fn a_request_says_its_own_length() {
        let handle = [0, 0, 0, 200];
        let requests = [
            Request::Open {
                path: "/a",
                flags: open_flags::READ,
                mode: 0o600,
            },
            Request::Close { handle: &handle },
            Request::Read {
                handle: &handle,
                offset: 1 << 40,
                length: 7,
            },
            Request::Write {
                handle: &handle,
                offset: 3,
                data: b"bytes",
            },
            Request::StatLink { path: "/a" },
            Request::MakeFolder {
                path: "/a",
                mode: 0o700,
            },
            Request::Rename {
                from: "/a",
                to: "/bc",
            },
            Request::Extended {
                name: "fsync@openssh.com",
                fields: &[&handle],
            },
        ];
        for request in requests {
            let mut encoded = request.encode(77);
            assert_eq!(encoded.get_u32() as usize, encoded.remaining(), "{request:?}");
            assert_eq!(encoded.get_u8(), request.number());
            assert_eq!(encoded.get_u32(), 77);
        }
    }

    #[test]
    fn handles_and_names_need_not_be_text() {
        let (id, reply) = decode(packet(&[&[102], &[0, 0, 0, 9], &[0, 0, 0, 2], &[0x80, 0xff]])).unwrap();
        assert!(matches!((id, reply), (9, Reply::Handle(handle)) if handle.as_ref() == [0x80, 0xff]));
        let entry = packet(&[
            &[104, 0, 0, 0, 1, 0, 0, 0, 1],
            &[0, 0, 0, 1, 0xe9],
            &[0, 0, 0, 0],
            &[0x80, 0, 0, 5],
            &[0, 0, 0, 0, 0, 0, 0, 42],
            &[0, 0, 0x81, 0xa4],
            &[0, 0, 0, 1, 0, 0, 0, 1, b'x', 0, 0, 0, 1, b'y'],
        ]);
        let (_, Reply::Names(names)) = decode(entry).unwrap() else {
            panic!("names")
        };
        assert_eq!(names[0].name.as_ref(), [0xe9]);
        assert_eq!(names[0].attributes.size, Some(42));
        assert_eq!(names[0].attributes.kind(), Kind::File);
    }

    #[test]
    fn a_status_of_another_version_or_without_words_is_a_status() {
        let (_, reply) = decode(packet(&[&[101], &[0, 0, 0, 1], &[0, 0, 0, 14]])).unwrap();
        assert!(
            matches!(reply, Reply::Status(Status { code: status::NO_SPACE, message }) if message.is_empty())
        );
    }

    #[test]
    fn what_is_cut_short_is_malformed_and_allocates_nothing() {
        let whole = packet(&[&[104, 0, 0, 0, 1], &[0xff; 4]]);
        assert_eq!(decode(whole).unwrap_err(), Malformed);
        let whole = packet(&[&[103, 0, 0, 0, 1], &[0, 0, 1, 0], &[1; 255]]);
        for length in 0..whole.len() {
            assert_eq!(decode(whole.slice(..length)).unwrap_err(), Malformed);
        }
    }

    #[test]
    fn extensions_come_with_their_versions() {
        let hello = packet(&[&[2, 0, 0, 0, 3], &[0, 0, 0, 1, b'a', 0, 0, 0, 1, b'1']]);
        assert_eq!(
            decode_hello(hello).unwrap(),
            [(Bytes::from("a"), Bytes::from("1"))]
        );
        assert!(decode_hello(packet(&[&[2, 0, 0, 0, 2]])).is_err());
    }
}
