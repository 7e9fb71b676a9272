//! The sender's thread: one for each peer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, select};

use super::wire::{self, Hello, Refusal};
use super::{HANDSHAKE, Parcel, Shared, Tracked};
use crate::snapshot::Ask;
use crate::transport::{fill, transfer};
use crate::types::Member;

/// The first wait before another try, doubled with each failure.
const LEAST_BACK_OFF: Duration = Duration::from_millis(10);
/// The longest. A member that comes back should be heard within a heartbeat or two, and ten attempts a
/// second to reach one that is gone cost nothing.
const MOST_BACK_OFF: Duration = Duration::from_millis(100);
/// The wait after a refusal, which only a change of configuration can mend.
const REFUSED_BACK_OFF: Duration = Duration::from_secs(1);
/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_millis(500);
/// How long a peer may refuse to read.
const WRITE: Duration = Duration::from_secs(2);
/// Bytes gathered before they are written although more messages wait.
const GATHER: usize = 256 << 10;

pub(super) struct Peer {
    member: Member,
    parcels: Receiver<Parcel>,
    /// Asks of this peer to be answered.
    answers: Receiver<Ask>,
    /// Disconnected when the transport closes.
    stopped: Receiver<()>,
    shared: Arc<Shared>,
    back_off: Duration,
}

enum Failed {
    /// It is not there, or the network is not; it will be tried again.
    Io,
    Refused(Refusal),
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Peer {
    pub(super) fn new(
        member: Member,
        (parcels, answers): (Receiver<Parcel>, Receiver<Ask>),
        stopped: Receiver<()>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            member,
            parcels,
            answers,
            stopped,
            shared,
            back_off: LEAST_BACK_OFF,
        }
    }

    /// Connects, sends, and connects again, until the transport is closed or the member forgotten.
    pub(super) fn run(mut self) {
        let mut buffer = Vec::new();
        while !self.shared.is_closing() && self.forget_queued() {
            match self.connect() {
                Ok((mut stream, _tracked)) => {
                    self.back_off = LEAST_BACK_OFF;
                    crate::trace::info!(peer = self.member.id.0, "connected");
                    if !self.forget_queued() {
                        return;
                    }
                    let Err(error) = self.send(&mut stream, &mut buffer) else {
                        return;
                    };
                    if self.shared.is_closing() {
                        return;
                    }
                    crate::trace::info!(peer = self.member.id.0, %error, "connection lost");
                }
                Err(Failed::Io) => {}
                Err(Failed::Refused(refusal)) => self.refused(refusal),
            }
            if !self.wait() {
                return;
            }
        }
    }

    fn refused(&mut self, refusal: Refusal) {
        self.back_off = REFUSED_BACK_OFF;
        if self.shared.is_new(self.member.id, refusal) {
            let (peer, addr) = (self.member.id.0, &self.member.addr);
            crate::trace::warn!(peer, addr, reason = %refusal, "refused by or refusing a peer");
        }
    }

    /// What waited while there was no connection is old, and Raft has better by now. False if no more will
    /// come: the member was forgotten.
    fn forget_queued(&self) -> bool {
        while self.answers.try_recv().is_ok() {}
        loop {
            match self.parcels.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits before the next try; false when the transport closes.
    fn wait(&mut self) -> bool {
        let ended = self.stopped.recv_timeout(self.back_off);
        self.back_off = (self.back_off * 2).clamp(LEAST_BACK_OFF, MOST_BACK_OFF);
        ended == Err(RecvTimeoutError::Timeout)
    }

    fn connect(&self) -> Result<(TcpStream, Tracked), Failed> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for addr in self.member.addr.to_socket_addrs()? {
            match TcpStream::connect_timeout(&addr, CONNECT) {
                Ok(stream) => return self.introduce(stream),
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// Says who this is, and hears whether it is welcome.
    fn introduce(&self, mut stream: TcpStream) -> Result<(TcpStream, Tracked), Failed> {
        let tracked = self.shared.track(&stream)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE))?;
        stream.set_write_timeout(Some(WRITE))?;
        let hello = Hello {
            from: self.shared.context.identity,
            to: self.member.id,
            addr: self.shared.own_addr(),
        };
        stream.write_all(&hello.encode())?;
        let mut answer = [0; wire::ANSWER_BYTES];
        stream.read_exact(&mut answer)?;
        let incarnation = wire::decode_answer(&answer).map_err(Failed::Refused)?;
        self.shared
            .know(self.member.id, incarnation)
            .map_err(Failed::Refused)?;
        Ok((stream, tracked))
    }

    /// Sends what is queued, together what queued while the last write ran, and the bytes of a snapshot behind
    /// all else. Ends with an error, or when the transport closes.
    fn send(&self, stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let (first, ask) = select! {
                recv(self.parcels) -> parcel => (Some(parcel), None),
                recv(self.answers) -> ask => (None, Some(ask)),
                recv(self.stopped) -> _ => return Ok(()),
            };
            // The member was forgotten; what was said to it before still goes.
            let forgotten = matches!(first, Some(Err(_))) || matches!(ask, Some(Err(_)));
            let first = first.and_then(Result::ok);
            buffer.clear();
            for parcel in first.into_iter().chain(self.parcels.try_iter()) {
                self.put(parcel, buffer, stream)?;
            }
            stream.write_all(buffer)?;
            if forgotten {
                return Ok(());
            }
            let ask = ask.and_then(Result::ok);
            let snapshots = &self.shared.context.snapshots;
            if let Some(piece) = ask.and_then(|ask| snapshots.read(self.member.id, ask)) {
                buffer.clear();
                transfer::put_piece(buffer, &piece);
                stream.write_all(buffer)?;
            }
        }
    }

    /// Adds a message to the buffer, and writes the buffer when much has gathered.
    fn put(&self, parcel: Parcel, buffer: &mut Vec<u8>, stream: &mut TcpStream) -> io::Result<()> {
        let message = match parcel {
            Parcel::Message(message) => message,
            Parcel::Ask(ask) => {
                transfer::put_ask(buffer, ask);
                return Ok(());
            }
        };
        let mut written = Ok(());
        fill(&self.shared.context, message, |message, entries| {
            wire::put_frame(buffer, &message, &entries);
            if buffer.len() >= GATHER && written.is_ok() {
                written = stream.write_all(buffer);
                buffer.clear();
            }
        });
        written
    }
}
