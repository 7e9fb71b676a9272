//! The sender's thread: one for each lane to a peer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::lane::{self, Hold, Lane, Work};
use super::lanes::Lanes;
use super::wire::{self, Hello, LaneKind, Refusal};
use super::{HANDSHAKE, Shared};
use crate::transport::gather::Gathered;
use crate::transport::transfer;
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
    kind: LaneKind,
    lane: Arc<Lane>,
    shared: Arc<Shared>,
    /// The wait before the next try to connect.
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
    pub(super) fn new(member: Member, lanes: &Lanes, kind: LaneKind, shared: Arc<Shared>) -> Self {
        Self {
            member,
            kind,
            lane: lanes.lane(kind),
            shared,
            back_off: Duration::ZERO,
        }
    }

    /// Connects, sends, and connects again, until the transport is closed or the member forgotten.
    pub(super) fn run(mut self) {
        let lane = Arc::clone(&self.lane);
        loop {
            match lane.work() {
                Work::Ended => return,
                Work::Send(hold) => {
                    if let Err(error) = self.send(hold)
                        && !self.shared.is_closing()
                    {
                        let (peer, lane) = (self.member.id.0, self.kind);
                        crate::trace::info!(peer, %lane, %error, "connection lost");
                    }
                }
                Work::Connect => {
                    if !lane.pause(self.back_off) {
                        return;
                    }
                    match self.connect() {
                        Ok(()) => {
                            self.back_off = LEAST_BACK_OFF;
                            let (peer, lane) = (self.member.id.0, self.kind);
                            crate::trace::info!(peer, %lane, "connected");
                        }
                        Err(Failed::Io) => {
                            self.back_off =
                                (self.back_off * 2).clamp(LEAST_BACK_OFF, MOST_BACK_OFF);
                        }
                        Err(Failed::Refused(refusal)) => self.refused(refusal),
                    }
                }
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

    fn connect(&self) -> Result<(), Failed> {
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
    fn introduce(&self, mut stream: TcpStream) -> Result<(), Failed> {
        let tracked = self.shared.track(&stream)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(HANDSHAKE))?;
        stream.set_write_timeout(Some(WRITE))?;
        let hello = Hello {
            lane: self.kind,
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
        self.lane.connected(stream, tracked)?;
        Ok(())
    }

    /// Sends what waits, and what comes meanwhile, and the bytes of a snapshot behind all else.
    fn send(&self, mut hold: Hold<'_>) -> io::Result<()> {
        let sent = self.drain(&mut hold);
        if sent.is_err() {
            hold.lose();
        }
        sent
    }

    fn drain(&self, hold: &mut Hold<'_>) -> io::Result<()> {
        let context = &self.shared.context;
        hold.blocking(true)?;
        loop {
            while let Some(parcel) = hold.next_parcel() {
                let (stream, out) = hold.parts()?;
                lane::put(parcel, context, out, |out| match out.left() {
                    0..GATHER => Ok(()),
                    _ => write_all(out, stream),
                })?;
            }
            let (stream, out) = hold.parts()?;
            write_all(out, stream)?;
            let Some(ask) = hold.next_answer() else {
                break;
            };
            if let Some(piece) = context.snapshots.read(self.member.id, ask) {
                let (stream, out) = hold.parts()?;
                transfer::put_piece(out, &piece);
                write_all(out, stream)?;
            }
        }
        hold.blocking(false)
    }
}

/// Writes all, to a socket that blocks.
fn write_all(out: &mut Gathered, stream: &mut TcpStream) -> io::Result<()> {
    if out.write_to(stream)? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "the peer does not read",
    ))
}
