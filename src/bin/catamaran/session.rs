//! One client's connection: requests in, replies out, in order.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use catamaran::{Error, Node, Proposal};

use crate::command::{self, Ask};
use crate::kv::Kv;
use crate::resp::{Parser, Reply, Request};

/// What is read at once.
const READ_BYTES: usize = 64 << 10;
/// Requests of one client under way at the most; beyond it they are answered before more are read.
const MAX_UNDER_WAY: usize = 4_096;
/// Bytes of replies gathered before they are written.
const MAX_GATHERED: usize = 256 << 10;

pub(crate) struct Session {
    node: Arc<Node<Kv>>,
    stream: TcpStream,
    limit: usize,
    under_way: Vec<UnderWay>,
    out: Vec<u8>,
}

enum UnderWay {
    Answered(Reply),
    Write(Proposal<Reply>),
    Read(Proposal<Reply>),
}

/// Whether the connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Close,
}

impl Session {
    /// `limit` is the most bytes of a request.
    pub(crate) const fn new(node: Arc<Node<Kv>>, stream: TcpStream, limit: usize) -> Self {
        Self {
            node,
            stream,
            limit,
            under_way: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Serves the client until it goes, asks to, or breaks the protocol.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut parser = Parser::new(self.limit);
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let read = self.stream.read(&mut bytes)?;
            if read == 0 {
                return Ok(());
            }
            parser.feed(&bytes[..read]);
            // All that came in is under way before the first reply is waited for.
            let next = self.take_all(&mut parser)?;
            self.answer()?;
            self.flush()?;
            if next == Next::Close {
                return Ok(());
            }
        }
    }

    fn take_all(&mut self, parser: &mut Parser) -> io::Result<Next> {
        loop {
            match parser.next() {
                Ok(None) => return Ok(Next::GoOn),
                Ok(Some(Request::TooLarge)) => {
                    let text = format!("ERR the request is over the limit of {} bytes", self.limit);
                    self.under_way.push(UnderWay::Answered(Reply::error(text)));
                }
                Ok(Some(Request::Command(args))) => {
                    if self.submit(args)? == Next::Close {
                        return Ok(Next::Close);
                    }
                }
                Err(error) => {
                    let reply = Reply::error(format!("ERR {error}"));
                    self.under_way.push(UnderWay::Answered(reply));
                    return Ok(Next::Close);
                }
            }
            if self.under_way.len() >= MAX_UNDER_WAY {
                self.answer()?;
            }
        }
    }

    /// Puts one command under way.
    ///
    /// Writes go together and reads go together, but a read waits for the writes before it, and a write
    /// for the reads: each is linearizable by itself, and a client that sends both expects its own order.
    fn submit(&mut self, args: Vec<Vec<u8>>) -> io::Result<Next> {
        let under_way = match command::parse(args) {
            Ask::Answer(reply) => UnderWay::Answered(reply),
            Ask::Status(answer, args) => UnderWay::Answered(answer(&self.node.status(), &args)),
            Ask::Write(write) => {
                if self
                    .under_way
                    .iter()
                    .any(|other| matches!(other, UnderWay::Read(_)))
                {
                    self.answer()?;
                }
                match self.node.propose(write.encode()) {
                    Ok(proposal) => UnderWay::Write(proposal),
                    Err(error) => UnderWay::Answered(failed(&error)),
                }
            }
            // A follower could answer, but its clients go where they can also write.
            Ask::Read(_) if !self.node.leads() => {
                let leader = self.node.status().leader;
                UnderWay::Answered(failed(&Error::NotLeader { leader }))
            }
            Ask::Read(read) => {
                if self
                    .under_way
                    .iter()
                    .any(|other| matches!(other, UnderWay::Write(_)))
                {
                    self.answer()?;
                }
                match self.node.read_later(read) {
                    Ok(proposal) => UnderWay::Read(proposal),
                    Err(error) => UnderWay::Answered(failed(&error)),
                }
            }
            Ask::Quit => {
                self.under_way.push(UnderWay::Answered(Reply::OK));
                return Ok(Next::Close);
            }
        };
        self.under_way.push(under_way);
        Ok(Next::GoOn)
    }

    /// Waits for all that is under way, in order.
    fn answer(&mut self) -> io::Result<()> {
        for under_way in std::mem::take(&mut self.under_way) {
            let reply = match under_way {
                UnderWay::Answered(reply) => reply,
                UnderWay::Write(proposal) | UnderWay::Read(proposal) => {
                    proposal.wait().unwrap_or_else(|error| failed(&error))
                }
            };
            reply.write(&mut self.out);
            if self.out.len() >= MAX_GATHERED {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
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
