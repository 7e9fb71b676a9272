//! What the embedder replicates.

use std::io::{self, Read, Write};

use crate::types::Entry;

/// A deterministic machine that every member feeds with the same entries in the same order, so that all
/// come to the same state (Raft paper, section 2).
///
/// It is owned by one thread, which alone calls it; it needs no lock. After a restart it begins empty, is
/// restored from the newest snapshot if there is one, and is fed every entry after that again.
///
/// ```
/// use std::io::{self, Read, Write};
///
/// use catamaran::{Entry, Snapshot, StateMachine};
///
/// #[derive(Default)]
/// struct Counter {
///     total: u64,
/// }
///
/// impl StateMachine for Counter {
///     type Reply = u64;
///
///     fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
///         let count = |entry: &Entry| {
///             self.total += entry.payload.len() as u64;
///             self.total
///         };
///         entries.iter().map(count).collect()
///     }
///
///     fn freeze(&self) -> Option<impl Snapshot> {
///         let total = self.total;
///         Some(move |out: &mut dyn Write| out.write_all(&total.to_le_bytes()))
///     }
///
///     fn restore(&mut self, _: u32, from: &mut dyn Read) -> io::Result<()> {
///         let mut total = [0; 8];
///         from.read_exact(&mut total)?;
///         self.total = u64::from_le_bytes(total);
///         Ok(())
///     }
/// }
/// ```
pub trait StateMachine: Send + 'static {
    /// What a proposal is answered with.
    type Reply: Send + 'static;

    /// Applies committed entries, in order, and gives one reply for each, in order.
    ///
    /// Only entries that clients proposed arrive here. Replies reach the client on the node that took the
    /// proposal and are dropped elsewhere. The outcome must follow from the state and the entry alone: no
    /// clock, no random number, no iteration order that differs between processes. A wrong number of
    /// replies, or a panic, stops the node.
    fn apply(&mut self, entries: &[Entry]) -> Vec<Self::Reply>;

    /// The state as it is now, to be written by another thread while more entries are applied here (thesis,
    /// section 5.1). Called when a snapshot is due by
    /// [`Options::snapshot_entries`](crate::Options::snapshot_entries) or
    /// [`Options::snapshot_bytes`](crate::Options::snapshot_bytes); nothing is applied meanwhile, so it should
    /// copy little, or share.
    ///
    /// None says that it is not to be taken now. A machine that never has one keeps the whole log, and is
    /// fed all of it after each restart: that is what this does by default.
    fn freeze(&self) -> Option<impl Snapshot> {
        None::<Never>
    }

    /// Replaces the whole state by the one that a [`Snapshot`] wrote, on this member or another, with this
    /// number as its [`Snapshot::format`]. The bytes are those that were written: their checksums are right, or
    /// reading fails.
    ///
    /// # Errors
    /// Whatever keeps the state from being read. The node does not start then, or stops: what the machine
    /// holds after an error is used for nothing.
    fn restore(&mut self, format: u32, from: &mut dyn Read) -> io::Result<()> {
        let _ = (format, from);
        let what = "this state machine does not restore snapshots";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }
}

/// A state that no longer changes.
///
/// Every `FnOnce(&mut dyn Write) -> io::Result<()>` that may be sent to another thread is one, of format 0.
pub trait Snapshot: Send + 'static {
    /// The number of the format that the state is written in, for the machine that will restore it.
    fn format(&self) -> u32 {
        0
    }

    /// Writes the state, in pieces of any size. What equal states write should be equal on all members, byte
    /// for byte: then a member that fetches a snapshot from one can go on with another.
    ///
    /// # Errors
    /// Those of `out`, or of what the state is read from. The snapshot is not taken then, and the node goes on.
    /// A panic stops it.
    fn write_to(self, out: &mut dyn Write) -> io::Result<()>;
}

impl<F> Snapshot for F
where
    F: FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
{
    fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        self(out)
    }
}

/// The snapshot of a machine that takes none.
enum Never {}

impl Snapshot for Never {
    fn write_to(self, _: &mut dyn Write) -> io::Result<()> {
        match self {}
    }
}
