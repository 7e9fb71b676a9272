//! One client's connection: requests in, replies out, in order.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use catamaran::{Error, Node, Proposal};
use mio::event::Event;
use mio::net::TcpStream;

use crate::command::{self, Ask};
use crate::kv::Kv;
use crate::reply::Reply;
use crate::resp::{Next, Parser, Request};
use crate::sessions::Recall;

/// Requests of one client under way at the most; beyond it they are answered before more are read.
const MAX_UNDER_WAY: usize = 4_096;
/// Bytes of replies gathered before they are written.
const MAX_GATHERED: usize = 256 << 10;
/// The room for replies that a client keeps while it asks for nothing.
const KEPT: usize = 64 << 10;

/// What is said of a request that found no room.
pub(crate) const BUSY: &str =
    "BUSY the requests of all clients together hold too much for one so large: try again later";

/// A client's connection. Its thread reads; whoever ends what the client asked for writes the reply at once, if the
/// socket takes it, so that nobody need be woken for it.
pub(crate) struct Session {
    number: usize,
    node: Arc<Node<Kv>>,
    recall: Arc<Recall>,
    /// None once it is closed: nothing of it is held, whoever may yet wake the session.
    connection: Mutex<Option<Connection>>,
}

struct Connection {
    stream: TcpStream,
    parser: Parser,
    /// There may be something to read.
    readable: bool,
    /// The client says no more than what there is to read.
    ended: bool,
    /// All requests that came in whole were looked at.
    parsed: bool,
    /// What waits for the requests under way.
    held: Option<Ask>,
    under_way: VecDeque<UnderWay>,
    out: Vec<u8>,
    /// What of `out` was written.
    written: usize,
    /// The bytes of all requests that were read, and of all replies that the socket took.
    moved: u64,
    /// Nothing more is read.
    closing: bool,
}

enum UnderWay {
    Answered(Reply),
    Asked(Proposal<Reply>),
}

/// What a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waits {
    /// For the client to ask, or for the node to answer.
    ForNews,
    /// For the client to take its replies, or to send the rest of a request that takes room which others could have.
    /// It has taken or sent so many bytes before.
    ForClient { moved: u64 },
    /// For its thread: there is more to read.
    ForThread,
    /// It is closed.
    Closed,
}

/// How far the replies are.
#[derive(PartialEq, Eq)]
enum Replies {
    UnderWay,
    Stuck,
    Sent,
}

impl Session {
    pub(crate) const fn new(
        number: usize,
        node: Arc<Node<Kv>>,
        recall: Arc<Recall>,
        stream: TcpStream,
        parser: Parser,
    ) -> Self {
        let connection = Connection {
            stream,
            parser,
            readable: false,
            ended: false,
            parsed: true,
            held: None,
            under_way: VecDeque::new(),
            out: Vec::new(),
            written: 0,
            moved: 0,
            closing: false,
        };
        Self {
            number,
            node,
            recall,
            connection: Mutex::new(Some(connection)),
        }
    }

    pub(crate) const fn number(&self) -> usize {
        self.number
    }

    /// Reads what came in, as much as `bytes` has room for, and answers what can be. For its thread, which tells what
    /// it has heard of the socket.
    pub(crate) fn go_on(self: &Arc<Self>, event: Option<&Event>, bytes: &mut [u8]) -> Waits {
        let mut open = self.lock();
        let Some(connection) = &mut *open else {
            return Waits::Closed;
        };
        if let Some(event) = event {
            connection.ended |= event.is_read_closed() || event.is_error();
            connection.readable |= event.is_readable() || connection.ended;
        }
        // A client that breaks off is no concern of anybody else.
        let waits = self.serve(connection, bytes).unwrap_or(Waits::Closed);
        if waits == Waits::Closed {
            *open = None;
        }
        waits
    }

    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    /// The bytes of replies that wait to be written.
    #[cfg(test)]
    pub(crate) fn gathered(&self) -> usize {
        self.lock().as_ref().map_or(0, |open| open.out.len())
    }

    /// The bytes of the room for replies.
    #[cfg(test)]
    pub(crate) fn keeps(&self) -> usize {
        let open = self.lock();
        let under_way = |open: &Connection| open.under_way.capacity() * size_of::<UnderWay>();
        open.as_ref()
            .map_or(0, |open| open.out.capacity() + under_way(open))
    }

    fn serve(self: &Arc<Self>, connection: &mut Connection, bytes: &mut [u8]) -> io::Result<Waits> {
        let waker = Waker::from(Arc::clone(self));
        let mut has_read = false;
        loop {
            match connection.answer(&waker)? {
                Replies::UnderWay => return Ok(Waits::ForNews),
                Replies::Stuck => return Ok(connection.for_client()),
                Replies::Sent if connection.closing => return Ok(Waits::Closed),
                Replies::Sent => {}
            }
            if connection.has_requests() {
                // All that came in is under way before the first reply is waited for.
                connection.take_all(&self.node);
            } else if !connection.readable {
                return Ok(if connection.parser.is_beyond_share() {
                    connection.for_client()
                } else {
                    Waits::ForNews
                });
            } else if has_read {
                return Ok(Waits::ForThread);
            } else {
                has_read = true;
                if !connection.read(bytes)? {
                    return Ok(Waits::Closed);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Session {
    /// What the client waits for first has ended.
    fn wake(self: Arc<Self>) {
        let mut open = self.lock();
        let Some(connection) = &mut *open else {
            return;
        };
        let waker = Waker::from(Arc::clone(&self));
        let rests = match connection.answer(&waker) {
            Ok(Replies::UnderWay) => true,
            Ok(Replies::Sent) => connection.rests(),
            Ok(Replies::Stuck) => false,
            Err(_) => {
                *open = None;
                false
            }
        };
        drop(open);
        if !rests {
            self.recall.session(&self);
        }
    }
}

impl Connection {
    /// Writes replies in the order of the requests, as far as they are known.
    fn answer(&mut self, waker: &Waker) -> io::Result<Replies> {
        let mut context = Context::from_waker(waker);
        loop {
            // Before more is added to it, since this is also asked while the client takes nothing.
            if self.out.len() >= MAX_GATHERED && !self.flush()? {
                return Ok(Replies::Stuck);
            }
            let Some(first) = self.under_way.front_mut() else {
                break;
            };
            let reply = match first {
                UnderWay::Answered(reply) => std::mem::replace(reply, Reply::Nil),
                UnderWay::Asked(proposal) => match Pin::new(proposal).poll(&mut context) {
                    Poll::Pending => return Ok(Replies::UnderWay),
                    Poll::Ready(reply) => reply.unwrap_or_else(|error| failed(&error)),
                },
            };
            self.under_way.pop_front();
            for next in reply.write(&mut self.out).into_iter().rev() {
                self.under_way.push_front(UnderWay::Answered(next));
            }
        }
        if !self.flush()? {
            return Ok(Replies::Stuck);
        }
        self.under_way.shrink_to(KEPT / size_of::<UnderWay>());
        // One that is held was whole, too.
        if self.held.is_none() {
            self.parser.all_answered();
        }
        Ok(Replies::Sent)
    }

    /// Writes what the socket takes; whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += written;
                    self.moved += written as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.out.shrink_to(KEPT);
        self.written = 0;
        Ok(true)
    }

    /// Reads once what has come, if anything has; false at the end.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<bool> {
        loop {
            match self.stream.read(bytes) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    // Less than there was room for is all there is: more will be told of (epoll(7), question 9). The
                    // end may have been told of already.
                    self.readable = read == bytes.len() || self.ended;
                    self.moved += read as u64;
                    self.parser.feed(&bytes[..read]);
                    self.parsed = false;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    const fn has_requests(&self) -> bool {
        self.held.is_some() || !self.parsed
    }

    /// Whether there is nothing for its thread to do, or to watch, before the client sends more.
    const fn rests(&self) -> bool {
        !self.closing && !self.readable && !self.has_requests() && !self.parser.is_beyond_share()
    }

    const fn for_client(&self) -> Waits {
        Waits::ForClient { moved: self.moved }
    }

    /// Puts under way what can be; the rest waits until that is answered. For when nothing is.
    ///
    /// Writes go together and reads go together, but a read waits for the writes before it, and a write
    /// for the reads: each is linearizable by itself, and a client that sends both expects its own order.
    fn take_all(&mut self, node: &Node<Kv>) {
        let (mut reads, mut writes) = (false, false);
        while self.under_way.len() < MAX_UNDER_WAY && !self.closing {
            let Some(ask) = self.held.take().or_else(|| self.next()) else {
                return;
            };
            reads |= matches!(ask, Ask::Read(_));
            writes |= matches!(ask, Ask::Write(_));
            if reads && writes {
                self.held = Some(ask);
                return;
            }
            self.submit(node, ask);
        }
    }

    /// The next request that came in whole, if there is room for it.
    fn next(&mut self) -> Option<Ask> {
        Some(match self.parser.next() {
            Ok(Next::NotYet) => {
                self.parsed = true;
                return None;
            }
            Ok(Next::Later) => return None,
            Ok(Next::Whole(Request::Command(args))) => command::parse(args),
            Ok(Next::Whole(Request::TooLarge)) => {
                let limit = self.parser.limit();
                let text = format!("ERR the request is over the limit of {limit} bytes");
                Ask::Answer(Reply::error(text))
            }
            Ok(Next::Whole(Request::Busy)) => Ask::Answer(Reply::error(BUSY)),
            Err(error) => {
                self.closing = true;
                Ask::Answer(Reply::error(format!("ERR {error}")))
            }
        })
    }

    fn submit(&mut self, node: &Node<Kv>, ask: Ask) {
        let begun = match ask {
            Ask::Answer(reply) => Ok(UnderWay::Answered(reply)),
            Ask::Status(answer, args) => Ok(UnderWay::Answered(answer(&node.status(), &args))),
            Ask::Write(write) => node.propose(write.encode()).map(UnderWay::Asked),
            // A follower could answer, but its clients go where they can also write.
            Ask::Read(_) if !node.leads() => Err(Error::NotLeader {
                leader: node.status().leader,
            }),
            Ask::Read(read) => node.read_later(read).map(UnderWay::Asked),
            Ask::Quit => {
                self.closing = true;
                Ok(UnderWay::Answered(Reply::OK))
            }
        };
        let begun = begun.unwrap_or_else(|error| UnderWay::Answered(failed(&error)));
        self.under_way.push_back(begun);
    }
}

/// An error in the words that clients of Redis understand.
fn failed(error: &Error) -> Reply {
    Reply::error(match error {
        Error::NotLeader {
            leader: Some(leader),
        } => format!("MOVED 0 {}", leader.client_addr),
        Error::NotLeader { leader: None } => "CLUSTERDOWN no leader is known".to_owned(),
        Error::Transferring { .. } => format!("CLUSTERDOWN {error}"),
        Error::Overloaded => format!("BUSY {error}"),
        Error::OutcomeUnknown => format!("UNKNOWN {error}"),
        other => format!("ERR {other}"),
    })
}
