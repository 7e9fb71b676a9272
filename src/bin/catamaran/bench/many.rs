//! Clients over TCP on one thread, so that what is measured is the cluster and not the waking of its clients.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::clients::Work;
use super::measured::Measured;
use super::nodes::PATIENCE;
use crate::client::encode;

/// What is read at once.
const READ_BYTES: usize = 64 << 10;

/// Clients that are connected, and have asked nothing yet.
pub(super) struct Many {
    poll: Poll,
    clients: Vec<Client>,
}

struct Client {
    stream: TcpStream,
    /// When those were asked that were not answered.
    begun: VecDeque<Instant>,
    out: Vec<u8>,
    /// What came of a reply that is not whole.
    reply: Vec<u8>,
}

impl Many {
    pub(super) fn connect(addr: SocketAddr, clients: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let connect = |number| {
            let stream = std::net::TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut stream, Token(number), interest)?;
            Ok(Client {
                stream,
                begun: VecDeque::new(),
                out: Vec::new(),
                reply: Vec::new(),
            })
        };
        let clients = (0..clients).map(connect).collect::<io::Result<_>>()?;
        Ok(Self { poll, clients })
    }

    /// One turn of all.
    pub(super) fn commit(mut self, work: &Work<'_>, measured: &mut Measured) -> io::Result<()> {
        let mut request = Vec::new();
        encode(&[b"LOGAPPEND", work.entry], &mut request);
        let mut events = Events::with_capacity(self.clients.len());
        let mut bytes = vec![0; READ_BYTES];
        let start = Instant::now();
        for client in &mut self.clients {
            for _ in 0..work.inflight {
                client.ask(&request);
            }
            client.flush()?;
        }
        let mut busy = self.clients.len();
        while busy > 0 {
            match self.poll.poll(&mut events, Some(PATIENCE)) {
                // The process was halted, and goes on.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            if events.is_empty() {
                return Err(ErrorKind::TimedOut.into());
            }
            for event in &events {
                let client = &mut self.clients[event.token().0];
                if client.begun.is_empty() {
                    continue;
                }
                let answered = client.read(&mut bytes, measured)?;
                if start.elapsed() < work.time {
                    (0..answered).for_each(|_| client.ask(&request));
                }
                client.flush()?;
                busy -= usize::from(client.begun.is_empty());
            }
        }
        measured.time += start.elapsed();
        Ok(())
    }
}

impl Client {
    fn ask(&mut self, request: &[u8]) {
        self.begun.push_back(Instant::now());
        self.out.extend_from_slice(request);
    }

    /// Writes what the socket takes. An event will tell when it takes more.
    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.out.len() {
            match self.stream.write(&self.out[written..]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.drain(..written);
        Ok(())
    }

    /// Reads all that has come; how many replies that was.
    fn read(&mut self, bytes: &mut [u8], measured: &mut Measured) -> io::Result<usize> {
        let mut answered = 0;
        loop {
            let read = match self.stream.read(bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answered),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for part in bytes[..read].split_inclusive(|byte| *byte == b'\n') {
                self.reply.extend_from_slice(part);
                if part.ends_with(b"\n") {
                    self.answer(measured)?;
                    answered += 1;
                }
            }
            if read < bytes.len() {
                return Ok(answered);
            }
        }
    }

    /// Looks at a whole reply, which must be an index.
    fn answer(&mut self, measured: &mut Measured) -> io::Result<()> {
        let begun = self.begun.pop_front();
        let (true, Some(begun)) = (self.reply.starts_with(b":"), begun) else {
            let text = self.reply.escape_ascii();
            return Err(io::Error::other(format!(
                "LOGAPPEND was answered with {text}"
            )));
        };
        measured.record(begun.elapsed());
        measured.entries += 1;
        self.reply.clear();
        Ok(())
    }
}
