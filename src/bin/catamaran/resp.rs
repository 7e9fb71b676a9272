//! RESP2, the protocol of Redis: requests read as they come in.
//!
//! Nothing a client says is believed: a number of arguments or bytes is checked before room is made for
//! it, and what is too large, or finds no room beside the requests of the other clients, is skipped, not kept.

use std::fmt;

use crate::room::Room;

/// The most arguments of one request.
const MAX_ARGS: usize = 65_536;
/// The longest line: an inline request, or the head of an argument.
const MAX_LINE: usize = 64 << 10;
/// The longest argument that is skipped rather than refused, as in Redis.
const MAX_BULK: usize = 512 << 20;
/// What an argument takes beside its bytes: its place in a list that doubles as it grows, or that of its reply, and
/// the least that an allocator gives.
const ARGUMENT: usize = 80;
/// What a request takes beside its arguments until it is answered, a short answer with it.
const REQUEST: usize = 1 << 10;
/// The room that is kept for what comes.
const KEPT: usize = 64 << 10;

/// One request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// A command's name and its arguments; at least the name.
    Command(Vec<Vec<u8>>),
    /// It was larger than the limit, and was skipped.
    TooLarge,
    /// There was no room for it, and it was skipped.
    Busy,
}

/// What [`Parser::next`] finds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Whole(Request),
    /// More has to come in first.
    NotYet,
    /// Those before it have to be answered first, for the room that they take.
    Later,
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
    /// What is said of a request that is skipped.
    skipped: Option<Request>,
    /// What this request takes, and those that were whole and are not answered.
    room: Room,
    /// What this request takes of it.
    taken: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Before a request.
    Idle,
    /// Before the head of an argument; this many are to come.
    Args(usize),
    /// Within an argument of this many bytes; the count as before it.
    Bulk(usize, usize),
    /// Within one of a request that is skipped, with this many bytes left to skip.
    Skip(usize, usize),
}

/// Whether there is room.
enum Taken {
    Yes,
    /// There may be when the requests before are answered.
    Later,
    No,
}

impl Parser {
    pub(crate) const fn new(limit: usize, room: Room) -> Self {
        Self {
            buffer: Vec::new(),
            read: 0,
            state: State::Idle,
            args: Vec::new(),
            arg: Vec::new(),
            held: 0,
            limit,
            skipped: None,
            room,
            taken: 0,
        }
    }

    pub(crate) const fn limit(&self) -> usize {
        self.limit
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

    /// Gives back the room of all requests that were whole: they are answered.
    pub(crate) fn all_answered(&mut self) {
        self.room.keep(self.taken);
    }

    /// Whether what came in takes room that others could have.
    pub(crate) const fn is_beyond_share(&self) -> bool {
        self.room.is_beyond_share()
    }

    /// The next whole request, if there is one.
    pub(crate) fn next(&mut self) -> Result<Next, ProtocolError> {
        loop {
            let before = self.read;
            let next = match self.state {
                State::Idle => match self.line()? {
                    None => Some(Next::NotYet),
                    Some(line) => self.begin(&line)?,
                },
                State::Args(0) => Some(Next::Whole(self.end())),
                State::Args(left) => match self.line()? {
                    None => Some(Next::NotYet),
                    Some(line) => self.argument(&line, left)?,
                },
                State::Bulk(len, left) => self.bulk(len, left)?,
                State::Skip(bytes, left) => self.skip(bytes, left),
            };
            match next {
                None => {}
                Some(Next::Later) => {
                    self.read = before;
                    return Ok(Next::Later);
                }
                Some(next) => return Ok(next),
            }
        }
    }

    /// Begins a request at its first line. A whole one, if it is inline.
    fn begin(&mut self, line: &[u8]) -> Result<Option<Next>, ProtocolError> {
        let Some(count) = line.strip_prefix(b"*") else {
            return Ok(self.inline(line));
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

    fn inline(&mut self, line: &[u8]) -> Option<Next> {
        let words = || {
            line.split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty())
        };
        let bytes: usize = words().map(|word| word.len() + ARGUMENT).sum();
        // An empty line asks for nothing.
        if bytes == 0 {
            return None;
        }
        Some(match self.take(REQUEST + bytes) {
            Taken::Yes => {
                self.args = words().map(<[u8]>::to_vec).collect();
                Next::Whole(self.end())
            }
            Taken::Later => Next::Later,
            Taken::No => Next::Whole(Request::Busy),
        })
    }

    /// Looks at the head of an argument.
    fn argument(&mut self, line: &[u8], left: usize) -> Result<Option<Next>, ProtocolError> {
        let Some(len) = line.strip_prefix(b"$") else {
            return Err(ProtocolError("expected '$'"));
        };
        let len = number(len).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|&len| len <= MAX_BULK);
        let len = len.ok_or(ProtocolError("invalid bulk length"))?;
        let held = self.held.saturating_add(len);
        if held > self.limit {
            // Also of one for which there was no room: there would be none later.
            self.refuse(Request::TooLarge);
        } else if self.skipped.is_none() {
            let request = if self.taken == 0 { REQUEST } else { 0 };
            match self.take(request + ARGUMENT + len) {
                Taken::Yes => {}
                Taken::Later => return Ok(Some(Next::Later)),
                Taken::No => self.refuse(Request::Busy),
            }
        }
        self.held = held;
        self.state = if self.skipped.is_some() {
            State::Skip(len + 2, left - 1)
        } else {
            State::Bulk(len, left - 1)
        };
        Ok(None)
    }

    /// Takes in what has come of an argument.
    fn bulk(&mut self, len: usize, left: usize) -> Result<Option<Next>, ProtocolError> {
        let end = len + 2;
        self.arg.reserve_exact(end - self.arg.len());
        let rest = &self.buffer[self.read..];
        let more = rest.len().min(end - self.arg.len());
        self.arg.extend_from_slice(&rest[..more]);
        self.read += more;
        if self.arg.len() < end {
            return Ok(Some(Next::NotYet));
        }
        if !self.arg.ends_with(b"\r\n") {
            return Err(ProtocolError("an argument does not end where it said"));
        }
        self.arg.truncate(len);
        self.args.push(std::mem::take(&mut self.arg));
        self.state = State::Args(left);
        Ok(None)
    }

    fn skip(&mut self, bytes: usize, left: usize) -> Option<Next> {
        let skipped = bytes.min(self.buffer.len() - self.read);
        self.read += skipped;
        if skipped < bytes {
            self.state = State::Skip(bytes - skipped, left);
            return Some(Next::NotYet);
        }
        self.state = State::Args(left);
        None
    }

    fn take(&mut self, bytes: usize) -> Taken {
        if self.room.take(bytes) {
            self.taken += bytes;
            Taken::Yes
        } else if self.room.taken() > self.taken {
            Taken::Later
        } else {
            Taken::No
        }
    }

    /// Has this request skipped, lets go of what it holds, and says so at its end.
    fn refuse(&mut self, saying: Request) {
        self.args = Vec::new();
        self.room.keep(self.room.taken() - self.taken);
        self.taken = 0;
        self.skipped = Some(saying);
    }

    fn end(&mut self) -> Request {
        self.state = State::Idle;
        self.held = 0;
        self.taken = 0;
        let args = std::mem::take(&mut self.args);
        self.skipped.take().unwrap_or(Request::Command(args))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::room::{Budget, SHARE};

    /// All that came in whole, each answered before the next is looked at.
    fn all(parser: &mut Parser) -> Result<Vec<Request>, ProtocolError> {
        let mut requests = Vec::new();
        while let Next::Whole(request) = parser.next()? {
            requests.push(request);
            parser.all_answered();
        }
        Ok(requests)
    }

    fn budget(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget::new(bytes))
    }

    /// A client's parser with requests of a MiB at the most.
    fn parser(budget: &Arc<Budget>) -> Parser {
        Parser::new(1 << 20, Room::new(Arc::clone(budget)))
    }

    /// One that has nobody beside it.
    fn alone(limit: usize) -> Parser {
        Parser::new(limit, Room::new(budget(1 << 20)))
    }

    fn parse(bytes: &[u8]) -> Result<Vec<Request>, ProtocolError> {
        let mut parser = alone(64);
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
            let mut parser = alone(64);
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
        let mut parser = alone(1 << 20);
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

    /// An ECHO of so many bytes.
    fn echo(len: usize) -> Vec<u8> {
        let head = format!("*2\r\n$4\r\nECHO\r\n${len}\r\n");
        [head.as_bytes(), &vec![b'x'; len], b"\r\n"].concat()
    }

    #[test]
    fn a_large_request_finds_no_room_beside_another_and_small_ones_do() {
        const LARGE: usize = 500_000;
        let budget = budget(LARGE + LARGE / 2);
        let (mut first, mut second) = (parser(&budget), parser(&budget));
        let large = echo(LARGE);
        first.feed(&large[..100]);
        assert_eq!(first.next(), Ok(Next::NotYet));
        let left = budget.left();
        assert!(left < LARGE - SHARE && first.is_beyond_share());

        second.feed(&[&large, &echo(SHARE / 2)[..], b"PING\r\n"].concat());
        let requests = all(&mut second).unwrap();
        assert_eq!(requests[0], Request::Busy);
        assert!(matches!(requests[1], Request::Command(_)));
        assert_eq!(requests[2..], [command(&["PING"])]);
        assert_eq!(budget.left(), left);

        first.feed(&large[100..]);
        assert!(matches!(first.next(), Ok(Next::Whole(_))));
        assert_eq!(budget.left(), left, "it is not answered yet");
        first.all_answered();
        second.feed(&large);
        assert!(matches!(second.next(), Ok(Next::Whole(_))));
    }

    #[test]
    fn the_room_of_a_request_comes_back_however_it_ends() {
        const ALL: usize = 800_000;
        const LARGE: usize = 500_000;
        let begun = format!("*4\r\n$4\r\nMGET\r\n${LARGE}\r\n");
        let begun = [begun.as_bytes(), &[b'x'; LARGE]].concat();
        for (end, gives, name) in [
            (&b"\r\n$1\r\na\r\n$1\r\nb\r\n"[..], 1, "answered"),
            (b"\r\n$900000\r\n", 0, "too large"),
            (b"\r\n$500000\r\n", 0, "no room for the rest"),
        ] {
            let budget = budget(ALL);
            let mut parser = parser(&budget);
            parser.feed(&begun);
            assert_eq!(all(&mut parser), Ok(vec![]));
            assert!(parser.is_beyond_share());
            parser.feed(end);
            assert_eq!(all(&mut parser).unwrap().len(), gives, "{name}");
            assert_eq!(budget.left(), ALL, "{name}");
        }
        for end in [&b"x"[..], b"xx", b"\r\nx\r\n"] {
            let budget = budget(ALL);
            let mut parser = parser(&budget);
            parser.feed(&[&begun, end].concat());
            let whole = all(&mut parser);
            assert_eq!(whole.is_err(), end.len() > 1);
            assert!(budget.left() < ALL);
            drop(parser);
            assert_eq!(budget.left(), ALL, "gone after {}", end.escape_ascii());
        }
    }

    #[test]
    fn what_can_never_be_taken_is_too_large_also_if_there_is_no_room() {
        let mut parser = parser(&budget(0));
        let mut bytes = b"*3\r\n".to_vec();
        for len in [600_000, 600_000, 3] {
            bytes.extend_from_slice(format!("${len}\r\n").as_bytes());
            bytes.extend_from_slice(&vec![b'x'; len]);
            bytes.extend_from_slice(b"\r\n");
        }
        parser.feed(&bytes);
        assert_eq!(all(&mut parser), Ok(vec![Request::TooLarge]));
    }

    #[test]
    fn an_argument_takes_room_also_if_it_is_empty() {
        let array = format!("*{MAX_ARGS}\r\n{}", "$0\r\n\r\n".repeat(MAX_ARGS));
        let inline = format!("{}\r\n", "x ".repeat(MAX_LINE / 2 - 2));
        for (bytes, args) in [(array, MAX_ARGS), (inline, MAX_LINE / 2 - 2)] {
            let takes = args * size_of::<Vec<u8>>();
            let budget = budget(takes);
            let mut refused = parser(&budget);
            refused.feed(bytes.as_bytes());
            assert_eq!(all(&mut refused), Ok(vec![Request::Busy]));
            assert_eq!(budget.left(), takes);

            let mut taken = alone(1 << 20);
            taken.room = Room::new(Arc::new(Budget::new(10 * takes)));
            taken.feed(bytes.as_bytes());
            let Ok(Next::Whole(Request::Command(all))) = taken.next() else {
                panic!("refused");
            };
            assert_eq!(all.len(), args);
            assert!(taken.room.taken() > 2 * takes);
        }
    }

    #[test]
    fn small_requests_wait_for_those_before_them_and_are_not_refused() {
        const TIMES: usize = 1_000;
        let budget = budget(0);
        let mut parser = parser(&budget);
        // The last is nearly all that a client may hold by right.
        let array = "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n".repeat(TIMES);
        let large = echo(SHARE - REQUEST - 2 * ARGUMENT - 4);
        let inline = "GET k\r\n".repeat(TIMES);
        parser.feed(&[array.as_bytes(), &large, inline.as_bytes()].concat());
        let (mut whole, mut waited) = (0, 0);
        loop {
            match parser.next().unwrap() {
                Next::Whole(Request::Command(_)) => whole += 1,
                Next::Later => {
                    waited += 1;
                    assert_eq!(parser.next(), Ok(Next::Later), "they are not answered");
                    parser.all_answered();
                }
                Next::NotYet => break,
                Next::Whole(refused) => panic!("{refused:?} after {whole}"),
            }
        }
        assert_eq!(whole, 2 * TIMES + 1);
        assert!(waited > 30, "only {waited} times");
    }
}
