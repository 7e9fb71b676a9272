//! How members reach each other: a trait, and two transports that come with the crate.
//!
//! A transport may lose, duplicate, delay and reorder messages; consensus retries for ever. It must not
//! alter one, and must not deliver one from a node that is not who it says.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::driver::in_parts;
use crate::raft::message::Message;
use crate::snapshot::{Ask, Piece};
use crate::types::{Entry, EntryRange, Identity, Member, NodeId};

mod gather;
mod memory;
mod tcp;
mod transfer;
mod wire;

pub use memory::InMemory;
pub use tcp::Tcp;

/// Something that can become a [`Transport`] once the node knows who it is and who the others are.
pub trait Connect: Send + 'static {
    /// Starts to carry messages.
    ///
    /// # Errors
    /// [`TransportError`] if it cannot; a peer that cannot be reached is no error.
    fn connect(self: Box<Self>, context: Context) -> Result<Arc<dyn Transport>, TransportError>;
}

/// A running transport of one node.
pub trait Transport: Send + Sync + 'static {
    /// Sends a message, or drops it if the queue to that peer is full. Never waits for the network.
    ///
    /// The entries of an append are read from [`Context::entries`] at the last moment, in as many
    /// messages as [`Limits::max_append_bytes`] asks for; if the log no longer holds them, it is dropped.
    fn send(&self, to: NodeId, message: Message);

    /// Asks a member for bytes of its snapshot, or drops that if the queue is full; then it will be asked
    /// again.
    fn ask(&self, to: NodeId, ask: Ask);

    /// Answers what a member asked, or drops it likewise. The bytes are read from [`Context::snapshots`] at the
    /// last moment, and go when nothing else waits for that member: consensus does not stand behind them.
    fn answer(&self, to: NodeId, ask: Ask);

    /// The members are these from now on, this node perhaps not among them: new ones can be sent to, who is
    /// missing is forgotten, and who has another address is sought there. What others of the cluster send is
    /// taken in all the same, since they may know of later members. A transport that finds nodes by their
    /// ids alone has nothing to do.
    fn set_members(&self, members: &[Member]) {
        let _ = members;
    }

    /// Stops, and joins every thread it started. Sending after that does nothing.
    fn close(&self);
}

/// What a transport is told when it starts.
pub struct Context {
    /// Who this node is.
    pub identity: Identity,
    /// All members that are known at the start; later see [`Transport::set_members`].
    pub members: Vec<Member>,
    /// Where messages from others go.
    pub inbox: Arc<dyn Inbox>,
    /// Where the bytes of entries come from.
    pub entries: Arc<dyn EntrySource>,
    /// Where the bytes of snapshots come from.
    pub snapshots: Arc<dyn SnapshotSource>,
    /// How large things may get.
    pub limits: Limits,
}

/// What a transport accepts and sends at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest payload of an entry, in bytes.
    pub max_entry_bytes: usize,
    /// About how many payload bytes go into one append; a single larger entry goes alone.
    pub max_append_bytes: usize,
    /// The most entries in one append.
    pub max_append_entries: u64,
}

/// A message from another node, with the entries of an append.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// Who sent it, as the handshake proved.
    pub from: NodeId,
    /// What it says.
    pub message: Message,
    /// The entries that an append names: exactly those of its range, in order, of its runs' terms. The
    /// transport has checked that.
    pub entries: Vec<Entry>,
}

/// Takes messages in. Once one or more were handed over, [`Inbox::attend`] or [`Inbox::rouse`] must be called, or the
/// node does not look at them before its next deadline.
pub trait Inbox: Send + Sync + 'static {
    /// Hands a message to the node, or drops it if the node's queue is full. Never waits.
    fn deliver(&self, incoming: Incoming);

    /// Hands over likewise what another node asks for.
    fn asked(&self, from: NodeId, ask: Ask);

    /// Likewise what was asked for.
    fn answered(&self, from: NodeId, piece: Piece);

    /// Tells that the connection on which `from` spoke has ended and, as far as can be told, `from` itself: a
    /// follower that loses its leader so asks to be elected, and need not wait for the election timeout. Not for a
    /// connection that another one replaces, nor while this node closes. Who cannot tell never calls this. Never
    /// waits.
    fn lost(&self, from: NodeId);

    /// Has the node look at what was handed over, in this thread if no other is at it. That can take as long as a write
    /// to its log, and as long as its disk hangs: for threads of the node's own transport, before they wait for more.
    fn attend(&self);

    /// Likewise, for a thread that brings entries, and behind which nothing waits that must not: a few it makes durable
    /// itself, if the node's log is idle.
    fn attend_to_entries(&self) {
        self.attend();
    }

    /// Has the node look at what was handed over, in a thread of its own. Never waits.
    fn rouse(&self);
}

/// Reads entries for sending.
pub trait EntrySource: Send + Sync + 'static {
    /// The entries of `range` from its start on: at least one, and no more after `max_bytes` of payload
    /// have been reached. None if the log no longer holds `range.last`, or cannot be read.
    ///
    /// By Log Matching, a log that holds `range.last` holds the range that the message was made for.
    fn read(&self, range: EntryRange, max_bytes: usize) -> Option<Vec<Entry>>;
}

/// Reads pieces of snapshots for sending.
pub trait SnapshotSource: Send + Sync + 'static {
    /// What `to` is to be answered. None if there is no snapshot, or it cannot be read.
    fn read(&self, to: NodeId, ask: Ask) -> Option<Piece>;
}

/// Why a transport could not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransportError {
    /// It cannot listen where it should.
    Listen {
        /// Where.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { addr, source } => write!(f, "cannot listen on {addr}: {source}"),
            Self::Thread(source) => write!(f, "cannot start a transport thread: {source}"),
        }
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { source, .. } | Self::Thread(source) => Some(source),
        }
    }
}

/// Gives `emit` a message with its entries, as [`driver::in_parts`](crate::driver::in_parts) cuts it.
fn fill(context: &Context, message: Message, emit: impl FnMut(Message, Vec<Entry>)) {
    let most = context.limits.max_append_bytes;
    in_parts(message, |range| context.entries.read(range, most), emit);
}
