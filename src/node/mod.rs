//! A node: what an embedder holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::log::LogReader;
use crate::raft::event::RoleName;
use crate::runtime::Runtime;
use crate::state_machine::StateMachine;
use crate::types::{
    Bytes, Change, Identity, LogIndex, Member, MemberRole, Membership, NodeId, Term,
};
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
    /// The last entry in its newest snapshot, if it has one.
    pub snapshot: Option<LogIndex>,
    /// The first index in its log. What is before it is in the snapshot.
    pub first: LogIndex,
    /// The last index in its log.
    pub last: LogIndex,
    /// Up to where it knows entries to be committed.
    pub committed: LogIndex,
    /// Up to where its state machine has applied them.
    pub applied: LogIndex,
    /// The members of the cluster and who of them votes, as the last configuration in its log has them,
    /// committed or not. Nobody in a node that has yet to [join](Builder::join).
    pub membership: Membership,
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

    /// Runs `read` on this node's state machine, linearizably: it sees every proposal that was acknowledged
    /// anywhere before this call, and all that any such read has seen (ReadIndex; thesis, section 6.4). See
    /// [`Options::lease_reads`](crate::Options::lease_reads) for a faster way that rests on clocks, and
    /// [`Node::read_stale`] for one that may see the past.
    ///
    /// On any node. A follower asks its leader what the read must see, and applies that much first; one that
    /// cannot have its answer, or catch up, within an election timeout points to the leader.
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
    /// At once [`Error::Overloaded`] or [`Error::Stopped`]; later [`Error::NotLeader`] if no leader said in time
    /// what there is to see, [`Error::OutcomeUnknown`] or [`Error::Stopped`]. The read did not run then.
    pub fn read_later<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<Proposal<R>, Error> {
        self.runtime.read(read)
    }

    /// Runs `read` on this node's state machine as it stands, and tells the last entry that it had applied. It asks
    /// nobody and waits for nothing but the batch that is being applied, on any node, with a leader or without.
    ///
    /// What it sees was true once and may be long past: a node that is cut off goes on answering. On one node
    /// later reads see no less, unless it was restarted between; of two nodes one may be behind the other.
    ///
    /// # Errors
    /// As [`Node::read_stale_later`].
    pub fn read_stale<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<(R, LogIndex), Error> {
        self.read_stale_later(read)?.wait()
    }

    /// As [`Node::read_stale`], and gives something to wait on at once.
    ///
    /// # Errors
    /// At once [`Error::Overloaded`] or [`Error::Stopped`]; later [`Error::OutcomeUnknown`] if the node stops.
    pub fn read_stale_later<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<Proposal<(R, LogIndex)>, Error> {
        self.runtime.read_stale(read)
    }

    /// Where this node is now. Asks no thread, and answers even when it has stopped.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let status = self.runtime.status();
        let progress = self.runtime.progress();
        let membership = progress.membership();
        let leader = status.leader.map(|id| member(&membership, id));
        // Read from the last to the first pointer, so that none is seen beyond the one above it.
        let applied = progress.applied_index();
        let committed = progress.committed_index();
        NodeStatus {
            id: self.identity.node,
            role: status.role,
            term: status.term,
            leader,
            // The log lets go only of what a snapshot has, so its begin is looked at first.
            first: self.runtime.reader().first(),
            snapshot: self.runtime.snapshots().last().map(|last| last.index),
            last: self.runtime.last(),
            committed,
            applied,
            membership,
            stopped: self.runtime.stopped(),
        }
    }

    /// Whether this node leads, as far as it knows: by now another may have been elected.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.runtime.status().role == RoleName::Leader
    }

    /// Waits until this node knows a leader, itself perhaps; None if that takes longer than `limit`, or
    /// the node stops.
    #[must_use]
    pub fn wait_leader(&self, limit: Duration) -> Option<Member> {
        let deadline = Instant::now().checked_add(limit);
        let progress = self.runtime.progress();
        let leader = progress.wait_leader(deadline)?;
        Some(member(&progress.membership(), leader))
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
    /// [`Error::TransferAbandoned`]; [`Error::OutcomeUnknown`] if the node stops, or leads no longer and
    /// hears of no other leader within two election timeouts, as when it is removed meanwhile.
    pub fn transfer_leadership(&self, to: Option<NodeId>) -> Result<Proposal<Member>, Error> {
        self.runtime.transfer(to)
    }

    /// Changes the members (thesis, chapter 4), all of these at once. Leader only, and one change at a time.
    ///
    /// The new configuration counts on each node from the moment its log has it. If the voters change by more
    /// than one, a joint one comes first, in which nothing is decided without a majority of the old voters
    /// and one of the new; the leader leaves it by itself, and so does any later leader.
    ///
    /// The reply, the configuration in force, comes once that is committed and not joint, and once every
    /// [`MemberRole::Joiner`] among the changes has become a voter or is no member any more. A leader that
    /// is no voter then names a successor and steps down.
    ///
    /// A new node should be a joiner or a learner first: as a voter with an empty log it counts towards
    /// quorums that it cannot yet be part of.
    ///
    /// # Errors
    /// At once [`Error::Overloaded`] or [`Error::Stopped`]. Later [`Error::NotLeader`],
    /// [`Error::Transferring`], [`Error::NotReady`], [`Error::ChangeInProgress`] or [`Error::NoVoters`]:
    /// nothing was changed. [`Error::OutcomeUnknown`] if the lead was lost meanwhile: look at
    /// [`NodeStatus::membership`] of the new leader.
    pub fn change_membership(
        &self,
        changes: impl Into<Vec<Change>>,
    ) -> Result<Proposal<Membership>, Error> {
        self.runtime.change(changes.into())
    }

    /// Adds a member that gets every entry and has no vote (thesis, section 4.2.1), or takes a voter's vote.
    /// Waits until that is committed, not until it has caught up.
    ///
    /// # Errors
    /// As [`Node::change_membership`].
    pub fn add_learner(&self, member: Member) -> Result<Proposal<Membership>, Error> {
        self.change_membership([Change::Set(member, MemberRole::Learner)])
    }

    /// Adds a member without a vote, which gets one by itself once it has caught up: when what was new in the
    /// log took it less than an election timeout (thesis, section 4.2.1). Waits until it votes, however long
    /// that takes. It goes on without this call, and after a change of leader.
    ///
    /// # Errors
    /// As [`Node::change_membership`].
    pub fn add_voter(&self, member: Member) -> Result<Proposal<Membership>, Error> {
        self.change_membership([Change::Set(member, MemberRole::Joiner)])
    }

    /// Gives a learner its vote, caught up or not. Waits until that is committed.
    ///
    /// # Errors
    /// At once [`Error::NotAMember`]; else as [`Node::change_membership`].
    pub fn promote(&self, id: NodeId) -> Result<Proposal<Membership>, Error> {
        let membership = self.runtime.progress().membership();
        let member = membership.member(id).cloned();
        let member = member.ok_or(Error::NotAMember { id })?;
        self.change_membership([Change::Set(member, MemberRole::Voter)])
    }

    /// Removes a member, this node itself perhaps (thesis, section 4.2.2). Waits until that is committed;
    /// then the other may be shut down.
    ///
    /// # Errors
    /// As [`Node::change_membership`].
    pub fn remove(&self, id: NodeId) -> Result<Proposal<Membership>, Error> {
        self.change_membership([Change::Remove(id)])
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

/// What is known of a node: at least its name.
fn member(membership: &Membership, id: NodeId) -> Member {
    let bare = || Member {
        id,
        addr: String::new(),
        client_addr: String::new(),
    };
    membership.member(id).cloned().unwrap_or_else(bare)
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
