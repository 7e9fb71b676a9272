//! A node: what an embedder holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::log::LogReader;
use crate::raft::event::RoleName;
use crate::runtime::Runtime;
use crate::state_machine::StateMachine;
use crate::types::{Bytes, Identity, LogIndex, Member, NodeId, Term};
use crate::wal::WalError;

mod builder;
mod committed;

pub use crate::runtime::{Error, Proposal};
pub use builder::{Builder, StartError};
pub use committed::{Committed, CommittedFrom};

/// One member of a cluster, running in this process: its log, its threads and its state machine `M`.
///
/// All methods take `&self`; share it in an [`Arc`]. Dropping it shuts it down as
/// [`Node::shutdown`] does.
pub struct Node<M: StateMachine> {
    runtime: Runtime<M>,
    identity: Identity,
    members: Vec<Member>,
}

/// Where a node is, at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NodeStatus {
    /// This node.
    pub id: NodeId,
    /// Follower, candidate or leader.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<Member>,
    /// The first index in its log.
    pub first: LogIndex,
    /// The last index in its log.
    pub last: LogIndex,
    /// Up to where it knows entries to be committed.
    pub committed: LogIndex,
    /// Up to where its state machine has applied them.
    pub applied: LogIndex,
    /// All members of the cluster.
    pub members: Vec<Member>,
    /// Why it has stopped, if it has.
    pub stopped: Option<Arc<str>>,
}

impl Node<NoMachine> {
    /// Begins to build the node `id`, whose log lives in the directory `dir`.
    #[must_use]
    pub fn builder(id: NodeId, dir: impl Into<std::path::PathBuf>) -> Builder {
        Builder::new(id, dir.into())
    }
}

impl<M: StateMachine> Node<M> {
    /// Proposes an entry. It is in the log of a quorum, on disk, and applied here once
    /// [`Proposal::wait`] gives the reply.
    ///
    /// # Errors
    /// At once [`Error::TooLarge`], [`Error::Overloaded`] or [`Error::Stopped`]; later, through the
    /// proposal, [`Error::NotLeader`], [`Error::Transferring`], [`Error::OutcomeUnknown`] or
    /// [`Error::Stopped`].
    pub fn propose(&self, payload: impl Into<Bytes>) -> Result<Proposal<M::Reply>, Error> {
        self.runtime.propose(payload.into())
    }

    /// Runs `read` on the state machine, linearizably: it sees every proposal that was acknowledged
    /// anywhere before this call (ReadIndex; thesis, section 6.4). Leader only.
    ///
    /// # Errors
    /// As [`Node::read_later`].
    pub fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<R, Error> {
        self.read_later(read)?.wait()
    }

    /// As [`Node::read`], and gives something to wait on at once. `read` runs on the thread that applies
    /// entries; while it runs, nothing is applied.
    ///
    /// # Errors
    /// At once [`Error::Overloaded`] or [`Error::Stopped`]; later [`Error::NotLeader`],
    /// [`Error::OutcomeUnknown`] or [`Error::Stopped`].
    pub fn read_later<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<Proposal<R>, Error> {
        self.runtime.read(read)
    }

    /// Where this node is now. Asks no thread, and answers even when it has stopped.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let status = self.runtime.status();
        let progress = self.runtime.progress();
        let leader = status
            .leader
            .and_then(|id| self.members.iter().find(|m| m.id == id));
        // Read from the last to the first pointer, so that none is seen beyond the one above it.
        let applied = progress.applied_index();
        let committed = progress.committed_index();
        NodeStatus {
            id: self.identity.node,
            role: status.role,
            term: status.term,
            leader: leader.cloned(),
            first: self.runtime.reader().first(),
            last: self.runtime.last(),
            committed,
            applied,
            members: self.members.clone(),
            stopped: self.runtime.stopped(),
        }
    }

    /// Waits until this node knows a leader, itself perhaps; None if that takes longer than `limit`, or
    /// the node stops.
    #[must_use]
    pub fn wait_leader(&self, limit: Duration) -> Option<Member> {
        let deadline = Instant::now().checked_add(limit);
        let leader = self.runtime.progress().wait_leader(deadline)?;
        self.members
            .iter()
            .find(|member| member.id == leader)
            .cloned()
    }

    /// Which cluster, node and directory this is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// The log as it stands on this node. Entries beyond the commit index may still be replaced; to see
    /// only what is final, use [`Node::committed`].
    #[must_use]
    pub fn log(&self) -> LogReader {
        self.runtime.reader().clone()
    }

    /// The committed entries, to be followed as they come.
    #[must_use]
    pub fn committed(&self) -> Committed {
        Committed::new(
            self.runtime.reader().clone(),
            Arc::clone(self.runtime.progress()),
        )
    }

    /// Hands leadership to another voter (thesis, section 3.10): to the one named, or to the one whose log is
    /// furthest along. The reply, the new leader, comes once this node follows it.
    ///
    /// Meanwhile proposals are refused with [`Error::Transferring`]; those taken before are committed first.
    /// If the other has not taken over within an election timeout, this node leads on.
    ///
    /// # Errors
    /// At once [`Error::Overloaded`] or [`Error::Stopped`]; later [`Error::NotLeader`];
    /// [`Error::Transferring`] if it is handing over already; [`Error::NoSuccessor`];
    /// [`Error::TransferAbandoned`]; [`Error::OutcomeUnknown`] if the node stops.
    pub fn transfer_leadership(&self, to: Option<NodeId>) -> Result<Proposal<Member>, Error> {
        self.runtime.transfer(to)
    }

    /// Stops the node, joins its threads and closes its log. A leader hands leadership over first, and waits
    /// for that up to two election timeouts, at most a second. Proposals that were not answered end as
    /// [`Error::OutcomeUnknown`], later ones as [`Error::Stopped`]. A second call does nothing.
    ///
    /// # Errors
    /// The log's, if the last sync failed or one before it did.
    pub fn shutdown(&self) -> Result<(), WalError> {
        self.runtime.stop()
    }
}

/// The state machine of a [`Builder`] that has none yet; no node ever runs it.
#[doc(hidden)]
pub enum NoMachine {}

impl StateMachine for NoMachine {
    type Reply = ();

    fn apply(&mut self, _: &[crate::types::Entry]) -> Vec<()> {
        match *self {}
    }
}
