//! RESP2, the protocol of Redis: requests read as they come in, replies written.
//!
//! Nothing a client says is believed: a number of arguments or bytes is checked before room is made for
//! it, and what is too large is skipped, not kept.

use std::fmt;
use std::sync::Arc;

/// The most arguments of one request.
const MAX_ARGS: usize = 65_536;
/// The longest line: an inline request, or the head of an argument.
const MAX_LINE: usize = 64 << 10;
/// The longest argument that is skipped rather than refused, as in Redis.
const MAX_BULK: usize = 512 << 20;
/// The most bytes of a value that are written at once.
const PIECE: usize = 256 << 10;
/// The room that is kept for what comes.
const KEPT: usize = 64 << 10;

/// One request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// A command's name and its arguments; at least the name.
    Command(Vec<Vec<u8>>),
    /// It was larger than the limit, and was skipped.
    TooLarge,
}

/// The client does not speak the protocol; its connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ProtocolError(pub(crate) &'static str);

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Protocol error: {}", self.0)
    }
}

/// Takes bytes in as they come, and gives requests.
pub(crate) struct Parser {
    buffer: Vec<u8>,
    /// What of the buffer was read.
    read: usize,
    state: State,
    args: Vec<Vec<u8>>,
    /// What has come of the next one, and of the line's end behind it.
    arg: Vec<u8>,
    /// Bytes of the arguments so far.
    held: usize,
    /// The most bytes that the arguments of a request may have together.
    limit: usize,
    too_large: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before a request.
    Idle,
    /// Before the head of an argument; this many are to come.
    Args(usize),
    /// Within an argument of this many bytes; the count as before it.
    Bulk(usize, usize),
    /// Within one that is too large, with this many bytes left to skip.
    Skip(usize, usize),
}

impl Parser {
    pub(crate) const fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            read: 0,
            state: State::Idle,
            args: Vec::new(),
            arg: Vec::new(),
            held: 0,
            limit,
            too_large: false,
        }
    }

    /// Takes in what the client sent.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.buffer.shrink_to(KEPT.max(bytes.len()));
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole request, if there is one.
    pub(crate) fn next(&mut self) -> Result<Option<Request>, ProtocolError> {
        loop {
            match self.state {
                State::Idle => match self.line()? {
                    None => return Ok(None),
                    Some(line) => {
                        if let Some(request) = self.begin(&line)? {
                            return Ok(Some(request));
                        }
                    }
                },
                State::Args(0) => return Ok(Some(self.end())),
                State::Args(left) => match self.line()? {
                    None => return Ok(None),
                    Some(line) => self.argument(&line, left)?,
                },
                State::Bulk(len, left) => {
                    let end = len + 2;
                    self.arg.reserve_exact(end - self.arg.len());
                    let rest = &self.buffer[self.read..];
                    let more = rest.len().min(end - self.arg.len());
                    self.arg.extend_from_slice(&rest[..more]);
                    self.read += more;
                    if self.arg.len() < end {
                        return Ok(None);
                    }
                    if !self.arg.ends_with(b"\r\n") {
                        return Err(ProtocolError("an argument does not end where it said"));
                    }
                    self.arg.truncate(len);
                    self.args.push(std::mem::take(&mut self.arg));
                    self.state = State::Args(left);
                }
                State::Skip(bytes, left) => {
                    let skipped = bytes.min(self.buffer.len() - self.read);
                    self.read += skipped;
                    if skipped < bytes {
                        self.state = State::Skip(bytes - skipped, left);
                        return Ok(None);
                    }
                    self.state = State::Args(left);
                }
            }
        }
    }

    /// Begins a request at its first line. A whole one, if it is inline.
    fn begin(&mut self, line: &[u8]) -> Result<Option<Request>, ProtocolError> {
        let Some(count) = line.strip_prefix(b"*") else {
            let words = line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            let args: Vec<_> = words.map(<[u8]>::to_vec).collect();
            // An empty line asks for nothing.
            return Ok(Some(Request::Command(args))
                .filter(|request| *request != Request::Command(Vec::new())));
        };
        let count = number(count).ok_or(ProtocolError("invalid multibulk length"))?;
        if count > MAX_ARGS as i64 {
            return Err(ProtocolError("invalid multibulk length"));
        }
        // Zero and less ask for nothing.
        if let Ok(count @ 1..) = usize::try_from(count) {
            self.state = State::Args(count);
        }
        Ok(None)
    }

    fn argument(&mut self, line: &[u8], left: usize) -> Result<(), ProtocolError> {
        let Some(len) = line.strip_prefix(b"$") else {
            return Err(ProtocolError("expected '$'"));
        };
        let len = number(len).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|&len| len <= MAX_BULK);
        let len = len.ok_or(ProtocolError("invalid bulk length"))?;
        self.held = self.held.saturating_add(len);
        if self.held > self.limit {
            self.too_large = true;
            self.args.clear();
        }
        self.state = if self.too_large {
            State::Skip(len + 2, left - 1)
        } else {
            State::Bulk(len, left - 1)
        };
        Ok(())
    }

    fn end(&mut self) -> Request {
        self.state = State::Idle;
        self.held = 0;
        let args = std::mem::take(&mut self.args);
        if std::mem::take(&mut self.too_large) {
            Request::TooLarge
        } else {
            Request::Command(args)
        }
    }

    /// The next line without its end; None if it has not come in whole.
    fn line(&mut self) -> Result<Option<Vec<u8>>, ProtocolError> {
        let rest = &self.buffer[self.read..];
        let Some(end) = rest.iter().take(MAX_LINE).position(|&byte| byte == b'\n') else {
            if rest.len() >= MAX_LINE {
                return Err(ProtocolError("too big a line"));
            }
            return Ok(None);
        };
        let line = rest[..end]
            .strip_suffix(b"\r")
            .unwrap_or(&rest[..end])
            .to_vec();
        self.read += end + 1;
        Ok(Some(line))
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A reply, as RESP2 writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// A short text: `OK`.
    Status(&'static str),
    /// Begins with the kind of error in capitals.
    Error(String),
    Int(i64),
    /// Shared with the store: however many replies wait for a client to take them, the value is there once.
    Bulk(Arc<Vec<u8>>),
    /// What follows of a [`Reply::Bulk`] from this byte on.
    Rest(Arc<Vec<u8>>, usize),
    Nil,
    Array(Vec<Self>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Status("OK");

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    pub(crate) fn bulk(bytes: Vec<u8>) -> Self {
        Self::Bulk(Arc::new(bytes))
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::bulk(text.into().into_bytes())
    }

    /// Writes the beginning of a reply, however large that is, and gives what follows.
    pub(crate) fn write(self, out: &mut Vec<u8>) -> Vec<Self> {
        match self {
            Self::Status(text) => line(out, b'+', text),
            // A line's end within would begin another reply.
            Self::Error(text) => line(out, b'-', &text.replace(['\r', '\n'], " ")),
            Self::Int(number) => line(out, b':', &number.to_string()),
            Self::Bulk(bytes) => {
                line(out, b'$', &bytes.len().to_string());
                return Self::Rest(bytes, 0).write(out);
            }
            Self::Rest(bytes, from) => {
                let to = bytes.len().min(from + PIECE);
                out.extend_from_slice(&bytes[from..to]);
                if to < bytes.len() {
                    return vec![Self::Rest(bytes, to)];
                }
                out.extend_from_slice(b"\r\n");
            }
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::Array(replies) => {
                line(out, b'*', &replies.len().to_string());
                return replies;
            }
        }
        Vec::new()
    }
}

fn line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parser: &mut Parser) -> Result<Vec<Request>, ProtocolError> {
        let mut requests = Vec::new();
        while let Some(request) = parser.next()? {
            requests.push(request);
        }
        Ok(requests)
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Request>, ProtocolError> {
        let mut parser = Parser::new(64);
        parser.feed(bytes);
        all(&mut parser)
    }

    fn command(args: &[&str]) -> Request {
        Request::Command(args.iter().map(|arg| arg.as_bytes().to_vec()).collect())
    }

    #[test]
    fn requests_are_the_same_wherever_they_are_split() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\nPING\r\n*0\r\n\r\n*1\r\n$0\r\n\r\n";
        let whole = parse(bytes).unwrap();
        assert_eq!(
            whole,
            [command(&["GET", "k"]), command(&["PING"]), command(&[""])]
        );
        for split in 0..bytes.len() {
            let mut parser = Parser::new(64);
            parser.feed(&bytes[..split]);
            let mut requests = all(&mut parser).unwrap();
            parser.feed(&bytes[split..]);
            requests.extend(all(&mut parser).unwrap());
            assert_eq!(requests, whole, "split at {split}");
        }
    }

    #[test]
    fn a_large_argument_is_put_together_of_what_comes() {
        let value: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let mut bytes = b"*2\r\n$4\r\nECHO\r\n$300000\r\n".to_vec();
        bytes.extend_from_slice(&value);
        bytes.extend_from_slice(b"\r\nPING\r\n");
        let mut parser = Parser::new(1 << 20);
        let mut requests = Vec::new();
        for part in bytes.chunks(65_521) {
            parser.feed(part);
            requests.extend(all(&mut parser).unwrap());
        }
        let echo = Request::Command(vec![b"ECHO".to_vec(), value]);
        assert_eq!(requests, [echo, command(&["PING"])]);
    }

    #[test]
    fn what_is_too_large_is_skipped_and_the_next_request_is_read() {
        let mut bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n".to_vec();
        bytes.extend_from_slice(&[b'x'; 1000]);
        bytes.extend_from_slice(b"\r\nPING\r\n");
        assert_eq!(
            parse(&bytes).unwrap(),
            [Request::TooLarge, command(&["PING"])]
        );
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for bytes in [
            &b"*65537\r\n"[..],
            b"*99999999999999999999\r\n",
            b"*x\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$536870913\r\n",
            b"*1\r\n$99999999999999999999\r\n",
            b"*1\r\nGET\r\n",
            b"*1\r\n$3\r\nGETxx",
        ] {
            assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        assert!(parse(&vec![b'x'; MAX_LINE]).is_err(), "an endless line");
    }

    #[test]
    fn an_error_cannot_smuggle_in_another_reply() {
        let mut out = Vec::new();
        Reply::error("ERR a\r\n+OK").write(&mut out);
        assert_eq!(out, b"-ERR a  +OK\r\n");
    }
}
