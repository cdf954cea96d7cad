//! HTTP/1.1 as far as the test kit's servers need it: one message after the other on a connection, bodies of known length or in chunks.

use std::io::{self, BufRead, Read, Write};

/// Most bytes of a line of a head.
const MOST_LINE: u64 = 64 << 10;

/// A request or an answer, as it was on the wire.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// `PUT /bucket/key HTTP/1.1`, or `HTTP/1.1 200 OK`.
    pub first: String,
    /// Names as they came, and values.
    pub headers: Vec<(String, String)>,
    /// The body, chunks put together.
    pub body: Vec<u8>,
}

impl Message {
    /// Reads a request. `None` when the connection ended before it.
    pub fn request(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let Some(mut message) = Self::head(stream)? else {
            return Ok(None);
        };
        message.read_body(stream, false)?;
        Ok(Some(message))
    }

    /// Reads the answer to a request of `method`.
    pub fn answer(stream: &mut impl BufRead, method: &str) -> io::Result<Self> {
        let head = Self::head(stream)?;
        let mut message = head.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = message.status();
        if method != "HEAD" && !matches!(status, 100..=199 | 204 | 304) {
            message.read_body(stream, true)?;
        }
        Ok(message)
    }

    fn head(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut message = Self::default();
        loop {
            let mut line = String::new();
            stream.by_ref().take(MOST_LINE).read_line(&mut line)?;
            let text = line.trim_end();
            if line.is_empty() {
                return Ok(None);
            } else if text.is_empty() && !message.first.is_empty() {
                return Ok(Some(message));
            } else if message.first.is_empty() {
                text.clone_into(&mut message.first);
            } else if let Some((name, value)) = text.split_once(':') {
                message.headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }

    fn read_body(&mut self, stream: &mut impl BufRead, to_the_end: bool) -> io::Result<()> {
        if self
            .header("transfer-encoding")
            .is_some_and(|coding| coding.contains("chunked"))
        {
            return self.read_chunks(stream);
        }
        match self.header("content-length").map(str::parse) {
            Some(Ok(length)) => {
                self.body = vec![0; length];
                stream.read_exact(&mut self.body)
            }
            None if to_the_end => stream.read_to_end(&mut self.body).map(drop),
            None => Ok(()),
            Some(Err(error)) => Err(io::Error::other(error)),
        }
    }

    fn read_chunks(&mut self, stream: &mut impl BufRead) -> io::Result<()> {
        loop {
            let mut line = String::new();
            stream.by_ref().take(MOST_LINE).read_line(&mut line)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            stream.by_ref().take(size).read_to_end(&mut self.body)?;
            let mut end = String::new();
            stream.read_line(&mut end)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    /// Writes the message, its body with a length, whatever it came with.
    pub fn write(&self, stream: &mut impl Write, with_body: bool) -> io::Result<()> {
        let mut head = format!("{}\r\n", self.first);
        let chunked = self.header("transfer-encoding").is_some();
        let framing = ["transfer-encoding", "content-length"];
        for (name, value) in &self.headers {
            let drops = chunked && framing.iter().any(|framing| name.eq_ignore_ascii_case(framing));
            if !drops {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        if chunked {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        stream.write_all(head.as_bytes())?;
        stream.write_all(b"\r\n")?;
        if with_body {
            stream.write_all(&self.body)?;
        }
        stream.flush()
    }

    /// The value of a header, whatever its name's case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(one, _)| one.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// What a request wants to do.
    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// Path and query of a request.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.first
            .split(' ')
            .nth(1)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    }
}

/// An answer with a body, and more headers as `Name: value`.
pub fn reply(status: u16, headers: &[&str], body: impl Into<Vec<u8>>) -> Message {
    let body = body.into();
    let mut message = Message {
        first: format!("HTTP/1.1 {status} As-Told"),
        headers: vec![("Content-Length".to_owned(), body.len().to_string())],
        body,
    };
    for header in headers {
        let (name, value) = header.split_once(": ").expect("`Name: value`");
        message.headers.push((name.to_owned(), value.to_owned()));
    }
    message
}

/// A refusal as S3 writes it.
pub fn refusal(status: u16, code: &str, headers: &[&str]) -> Message {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\n<Message>As the test wants it.</Message>\
         <RequestId>TEST-REQUEST</RequestId></Error>"
    );
    reply(status, headers, body)
}
