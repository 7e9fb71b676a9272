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
use crate::resp::{Parser, Reply, Request};
use crate::sessions::Recall;

/// Requests of one client under way at the most; beyond it they are answered before more are read.
const MAX_UNDER_WAY: usize = 4_096;
/// Bytes of replies gathered before they are written.
const MAX_GATHERED: usize = 256 << 10;
/// The room for replies that a client keeps while it asks for nothing.
const KEPT: usize = 64 << 10;

/// A client's connection. Its thread reads; whoever ends what the client asked for writes the reply at once, if the
/// socket takes it, so that nobody need be woken for it.
pub(crate) struct Session {
    number: usize,
    node: Arc<Node<Kv>>,
    recall: Arc<Recall>,
    connection: Mutex<Connection>,
}

struct Connection {
    /// None once it is closed.
    stream: Option<TcpStream>,
    /// The most bytes of a request.
    limit: usize,
    parser: Parser,
    /// There may be something to read.
    readable: bool,
    /// The client says no more than what there is to read.
    ended: bool,
    /// All requests that were read whole were looked at.
    parsed: bool,
    /// What waits for the requests under way.
    held: Option<Ask>,
    under_way: VecDeque<UnderWay>,
    out: Vec<u8>,
    /// What of `out` was written.
    written: usize,
    /// The bytes of all replies that the socket took.
    taken: u64,
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
    /// For the client to take its replies, of which it has taken so many bytes.
    ForRoom { taken: u64 },
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
    /// `limit` is the most bytes of a request.
    pub(crate) fn new(
        number: usize,
        node: Arc<Node<Kv>>,
        recall: Arc<Recall>,
        stream: TcpStream,
        limit: usize,
    ) -> Self {
        let connection = Connection {
            stream: Some(stream),
            limit,
            parser: Parser::new(limit),
            readable: false,
            ended: false,
            parsed: true,
            held: None,
            under_way: VecDeque::new(),
            out: Vec::new(),
            written: 0,
            taken: 0,
            closing: false,
        };
        Self {
            number,
            node,
            recall,
            connection: Mutex::new(connection),
        }
    }

    pub(crate) const fn number(&self) -> usize {
        self.number
    }

    /// Reads what came in, as much as `bytes` has room for, and answers what can be. For its thread, which tells what
    /// it has heard of the socket.
    pub(crate) fn go_on(self: &Arc<Self>, event: Option<&Event>, bytes: &mut [u8]) -> Waits {
        let mut connection = self.lock();
        if let Some(event) = event {
            connection.ended |= event.is_read_closed() || event.is_error();
            connection.readable |= event.is_readable() || connection.ended;
        }
        // A client that breaks off is no concern of anybody else.
        let waits = self.serve(&mut connection, bytes).unwrap_or(Waits::Closed);
        if waits == Waits::Closed {
            connection.close();
        }
        waits
    }

    pub(crate) fn close(&self) {
        self.lock().close();
    }

    /// The bytes of replies that wait to be written.
    #[cfg(test)]
    pub(crate) fn gathered(&self) -> usize {
        self.lock().out.len()
    }

    fn serve(self: &Arc<Self>, connection: &mut Connection, bytes: &mut [u8]) -> io::Result<Waits> {
        let waker = Waker::from(Arc::clone(self));
        let mut has_read = false;
        loop {
            match connection.answer(&waker)? {
                Replies::UnderWay => return Ok(Waits::ForNews),
                Replies::Stuck => {
                    let taken = connection.taken;
                    return Ok(Waits::ForRoom { taken });
                }
                Replies::Sent if connection.closing => return Ok(Waits::Closed),
                Replies::Sent => {}
            }
            if connection.has_requests() {
                // All that came in is under way before the first reply is waited for.
                connection.take_all(&self.node);
            } else if !connection.readable {
                return Ok(Waits::ForNews);
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

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Session {
    /// What the client waits for first has ended.
    fn wake(self: Arc<Self>) {
        let mut connection = self.lock();
        let waker = Waker::from(Arc::clone(&self));
        let rests = match connection.answer(&waker) {
            Ok(Replies::UnderWay) => true,
            Ok(Replies::Sent) => connection.rests(),
            Ok(Replies::Stuck) => false,
            Err(_) => {
                connection.close();
                false
            }
        };
        drop(connection);
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
        Ok(if self.flush()? {
            Replies::Sent
        } else {
            Replies::Stuck
        })
    }

    /// Writes what the socket takes; whether that was all.
    fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            let Some(stream) = &mut self.stream else {
                return Err(ErrorKind::NotConnected.into());
            };
            match stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.written += written;
                    self.taken += written as u64;
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
            let Some(stream) = &mut self.stream else {
                return Ok(false);
            };
            match stream.read(bytes) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    // Less than there was room for is all there is: more will be told of (epoll(7), question 9). The
                    // end may have been told of already.
                    self.readable = read == bytes.len() || self.ended;
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

    /// Whether there is nothing for its thread to do before the client asks again.
    const fn rests(&self) -> bool {
        !self.closing && !self.readable && !self.has_requests()
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

    /// The next request that came in whole.
    fn next(&mut self) -> Option<Ask> {
        Some(match self.parser.next() {
            Ok(None) => {
                self.parsed = true;
                return None;
            }
            Ok(Some(Request::Command(args))) => command::parse(args),
            Ok(Some(Request::TooLarge)) => {
                let text = format!("ERR the request is over the limit of {} bytes", self.limit);
                Ask::Answer(Reply::error(text))
            }
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

    fn close(&mut self) {
        self.stream = None;
        self.under_way.clear();
        self.held = None;
        self.closing = true;
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
