//! What the embedder replicates.

use crate::types::Entry;

/// A deterministic machine that every member feeds with the same entries in the same order, so that all
/// come to the same state (Raft paper, section 2).
///
/// It is owned by one thread, which alone calls it; it needs no lock. After a restart it begins empty and
/// is fed every entry again, from the first.
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
}
