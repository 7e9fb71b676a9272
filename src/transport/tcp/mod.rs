//! Members over TCP: two connections per direction, so that who sends also reconnects, and that words do not stand
//! behind entries.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use super::wire::{self, LaneKind, Refusal};
use super::{Connect, Context, Transport, TransportError};
use crate::codec::Malformed;
use crate::raft::message::Message;
use crate::snapshot::Ask;
use crate::types::{Member, NodeId};

mod frames;
mod lane;
mod lanes;
mod lost;
mod peers;
mod receive;
mod send;

use peers::Peers;

/// Messages that may wait for one peer. Full: dropped, and Raft retries.
const QUEUE: usize = 1_024;
/// Pieces of snapshots that may wait for one peer, which asks for one after the other.
const ANSWERS: usize = 2;
/// How long a peer may take to say who it is, and to answer.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// How long to wait before accepting a connection again, or waking the acceptor, if that failed for want of a file.
const RETRY: Duration = Duration::from_millis(10);
/// How many refusals are remembered, so that each is logged once.
const MAX_REMEMBERED: usize = 256;

/// A bound listener, to be given to a node as its transport.
#[derive(Debug)]
pub struct Tcp {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Tcp {
    /// Listens on `addr`, `HOST:PORT`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`TransportError::Listen`] if that is no address, or is taken.
    pub fn bind(addr: &str) -> Result<Self, TransportError> {
        let failed = |source| TransportError::Listen {
            addr: addr.to_owned(),
            source,
        };
        let listener = TcpListener::bind(addr).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Connect for Tcp {
    fn connect(self: Box<Self>, context: Context) -> Result<Arc<dyn Transport>, TransportError> {
        Ok(Arc::new(self.start(context)?))
    }
}

impl Tcp {
    fn start(self, context: Context) -> Result<TcpTransport, TransportError> {
        let me = context.identity.node;
        let members = context.members.clone();
        let shared = Arc::new(Shared::new(context));
        // Dropping it, on an error below, ends what was started.
        let running = Running {
            addr: self.addr,
            shared: Arc::clone(&shared),
        };
        let listener = self.listener;
        let accepting = Arc::clone(&shared);
        let accept = move || receive::accept(&listener, &accepting);
        shared
            .peers
            .spawn(format!("catamaran-accept-{me}"), accept)?;
        shared.set_members(&members)?;
        Ok(TcpTransport { running })
    }
}

/// What goes to a peer at once.
enum Parcel {
    Message(Message),
    Ask(Ask),
}

struct TcpTransport {
    running: Running,
}

impl Transport for TcpTransport {
    fn send(&self, to: NodeId, message: Message) {
        self.running.shared.send(to, Parcel::Message(message));
    }

    fn ask(&self, to: NodeId, ask: Ask) {
        self.running.shared.send(to, Parcel::Ask(ask));
    }

    fn answer(&self, to: NodeId, ask: Ask) {
        if let Some(lanes) = self.running.shared.peers.lanes(to) {
            lanes.answer(ask);
        }
    }

    fn set_members(&self, members: &[Member]) {
        if let Err(error) = self.running.shared.set_members(members) {
            crate::trace::warn!(%error, "a new member is not sent to");
        }
    }

    fn close(&self) {
        self.running.close();
    }
}

/// The threads of a transport.
struct Running {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Running {
    /// Ends every thread and joins it. A second call does nothing.
    fn close(&self) {
        // Before the senders wake, so that they know why.
        self.shared.closing.store(true, Ordering::SeqCst);
        let Some(threads) = self.shared.peers.end() else {
            return;
        };
        self.shared.shut_all();
        // The acceptor looks at `closing` after each connection, so one more wakes it. For that a file may be wanting
        // until some of those that are open have been closed.
        let wake = || TcpStream::connect_timeout(&reachable(self.addr), HANDSHAKE);
        while wake().is_err() && threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(RETRY);
        }
        for thread in threads {
            let _ = thread.join();
        }
        // Nobody accepts any more, but one more may have been let in before the sign was seen.
        self.shared.shut_all();
        let readers = std::mem::take(&mut *self.shared.readers.lock());
        for reader in readers {
            let _ = reader.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

/// What came in over a connection is not what members say.
fn invalid(error: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// An address under which this machine reaches its own listener.
const fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// What all threads of a transport see.
struct Shared {
    context: Context,
    closing: AtomicBool,
    /// Open sockets, to be shut at the end.
    open: Mutex<BTreeMap<u64, TcpStream>>,
    peers: Peers,
    next_socket: AtomicU64,
    readers: Mutex<Vec<JoinHandle<()>>>,
    /// The incarnation that each member had when it was first heard of.
    incarnations: Mutex<BTreeMap<NodeId, u64>>,
    /// The connections on which each node speaks; a newer one takes the place of the one before.
    speaking: Mutex<BTreeMap<(NodeId, LaneKind), u64>>,
    logged: Mutex<BTreeSet<(NodeId, Refusal)>>,
}

impl Shared {
    fn new(context: Context) -> Self {
        Self {
            context,
            closing: AtomicBool::new(false),
            open: Mutex::default(),
            peers: Peers::new(),
            next_socket: AtomicU64::new(0),
            readers: Mutex::default(),
            incarnations: Mutex::default(),
            speaking: Mutex::default(),
            logged: Mutex::default(),
        }
    }

    fn send(&self, to: NodeId, parcel: Parcel) {
        if let Some(lanes) = self.peers.lanes(to) {
            lanes.send(parcel, &self.context);
        }
    }

    /// Where the members reach this node, as far as it knows.
    fn own_addr(&self) -> String {
        let me = self.peers.member(self.context.identity.node);
        me.map_or_else(String::new, |me| me.addr)
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Remembers an open socket for [`Shared::shut_all`], until the guard is dropped.
    fn track(self: &Arc<Self>, stream: &TcpStream) -> io::Result<Tracked> {
        let number = self.next_socket.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(number, stream.try_clone()?);
        let tracked = Tracked {
            shared: Arc::clone(self),
            number,
        };
        // Whoever set the sign before the insertion did not shut this one.
        if self.is_closing() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(tracked)
    }

    fn shut(&self, number: u64) {
        if let Some(stream) = self.open.lock().get(&number) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn shut_all(&self) {
        for stream in self.open.lock().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Whether this is the directory that the member had before. Of others nothing is remembered.
    fn know(&self, node: NodeId, incarnation: u64) -> Result<(), Refusal> {
        if !self.peers.is_member(node) {
            return Ok(());
        }
        let known = *self.incarnations.lock().entry(node).or_insert(incarnation);
        if known == incarnation {
            Ok(())
        } else {
            Err(Refusal::Incarnation)
        }
    }

    /// Whether a refusal is said for the first time.
    fn is_new(&self, node: NodeId, refusal: Refusal) -> bool {
        let mut logged = self.logged.lock();
        logged.len() < MAX_REMEMBERED && logged.insert((node, refusal))
    }
}

struct Tracked {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.shared.open.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests;
