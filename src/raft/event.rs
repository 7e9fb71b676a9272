//! What goes into a step of consensus, and what comes out of it.

use crate::raft::message::Message;
use crate::types::{
    Durable, EntryKind, EntryRange, HardState, LogId, LogIndex, NodeId, Roster, Term, WriteSeq,
};

/// Something that happened, for [`Raft::step`](crate::raft::Raft::step).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The deadline may have passed.
    Tick,
    /// A message came in. Its entries' bytes stay with the caller.
    Received {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
        /// The configurations among the entries of an append, by their indices.
        configs: Vec<(LogIndex, Roster)>,
    },
    /// The connection on which another node spoke has ended, and so has that node, as far as its transport can tell.
    /// It may be wrong or come late, and need not come at all: then the election timeout tells of it.
    Lost {
        /// Who spoke.
        from: NodeId,
    },
    /// Clients propose `count` entries. On a leader they take the next indices, in order; elsewhere
    /// nothing happens but [`Effect::Refused`], as while a leader hands over.
    Propose {
        /// How many; at least 1.
        count: u64,
    },
    /// A client asks up to where a read must see, of a leader or of who follows one (thesis, section 6.4).
    /// Answered by [`Effect::ReadReady`] or [`Effect::ReadFailed`].
    Read {
        /// Named by the caller; each higher than the one before.
        read: ReadId,
    },
    /// This node is to hand leadership to another voter (thesis, section 3.10): the one named, or the one
    /// whose log is furthest along. Answered by [`Effect::Refused`] or [`Effect::TransferAbandoned`], unless
    /// it succeeds: then another leader shows in [`Effect::Status`].
    Transfer {
        /// To whom.
        to: Option<NodeId>,
    },
    /// The members are to be these (thesis, chapter 4). Answered by [`Effect::Refused`], or by one entry of
    /// [`Source::Config`]; if that is joint, a second one follows once it is committed.
    Change {
        /// The configuration to come to, which is not joint.
        to: Roster,
    },
    /// The log is durable up to this write.
    Persisted(Durable),
    /// A snapshot of this node's own state machine is durable. The log may let go of what it has in it.
    Snapshot {
        /// The last entry that it has in it.
        last: LogId,
    },
    /// A snapshot that this node fetched from another is durable. It counts from now on, also after a crash.
    Fetched {
        /// The last entry that it has in it.
        last: LogId,
        /// The last configuration that it has in it, and the index of its entry.
        config: (LogIndex, Roster),
    },
    /// A follower asks for bytes of a snapshot.
    Asked {
        /// Who.
        from: NodeId,
        /// The last entry of the snapshot that it is given bytes of, and from which byte on. None is the begin of the
        /// newest.
        lent: Option<(LogId, u64)>,
    },
}

/// Names a read that waits for its index. The caller counts up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub u64);

/// What the caller has to do, in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Write this to the log as one batch. The first write has number 1, each next one more.
    Persist(Persist),
    /// Send a message.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
        /// When it may leave.
        release: Release,
    },
    /// Entries up to here are committed: apply them in order. Never goes down.
    Commit {
        /// The last committed entry.
        upto: LogId,
    },
    /// What this step's event asked for was not taken, and nothing was done.
    Refused(Refusal),
    /// Within an election timeout leadership did not go over to the other voter: this node goes on leading,
    /// and takes proposals again.
    TransferAbandoned,
    /// Reads up to this one may be answered once entries up to `index` are applied. They are committed here by
    /// the end of the step.
    ReadReady {
        /// The last read that is ready.
        upto: ReadId,
        /// What it must see.
        index: LogIndex,
    },
    /// Every read not yet ready has failed: there is no leader to ask, or none any more, or it did not answer
    /// within an election timeout, or this node has not caught up within that.
    ReadFailed {
        /// Who leads, if this node follows it still.
        leader: Option<NodeId>,
    },
    /// Drop the log's entries up to here: a snapshot has them in it. A write of its own, with a number.
    Compact {
        /// The number of this write.
        seq: WriteSeq,
        /// The last entry to be dropped.
        upto: LogIndex,
    },
    /// Forget the whole log, which goes on behind `last`, and restore the state machine from the snapshot that
    /// ends there. A write of its own, with a number; the snapshot is durable already.
    Install {
        /// The number of this write.
        seq: WriteSeq,
        /// The last entry that the snapshot has in it.
        last: LogId,
    },
    /// Fetch a snapshot: the one that ends with `last`, or a newer one. Said with each heartbeat, until
    /// [`Event::Fetched`] tells that it is there.
    Fetch {
        /// The leader, who has it.
        from: NodeId,
        /// The last entry that it has in it.
        last: LogId,
    },
    /// This node's role, term or known leader changed.
    Status(Status),
}

/// Why something asked of consensus was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// This node does not lead.
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// It is handing leadership over. That ends within an election timeout.
    Transferring {
        /// To whom.
        to: NodeId,
    },
    /// There is no other voter to hand leadership to, or the one named is none.
    NoSuccessor,
    /// It leads, and no entry of its term is committed yet: it may not know what was decided before it. The
    /// first one is under way.
    NotReady,
    /// Another change of members is under way.
    ChangeInProgress,
    /// The change would leave nobody to vote.
    NoVoters,
}

/// When a message may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// At once: it promises nothing about the disk.
    Now,
    /// Once this write is durable: it promises what the write holds.
    After(WriteSeq),
}

/// One batch for the log. Its parts are written in the order of the fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persist {
    /// The number of this write.
    pub seq: WriteSeq,
    /// Term, vote and commit as of this write.
    pub hard_state: HardState,
    /// Forget every entry from this index on: they conflict with the leader's.
    pub truncate_from: Option<LogIndex>,
    /// The entries to append.
    pub entries: Option<NewEntries>,
}

/// Entries to append, and where their bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewEntries {
    /// Which.
    pub range: EntryRange,
    /// Where their bytes are.
    pub source: Source,
}

/// Where the bytes of new entries are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Those of the proposals in this step's [`Event::Propose`].
    Proposals,
    /// Those that came with this step's message, whose first entry is number `range.prev.index + 1` of
    /// the *message*; entries the log has already are skipped.
    Message,
    /// One entry of this kind, with no bytes.
    Empty(EntryKind),
    /// One entry that holds the configuration which [`Raft::roster`](crate::raft::Raft::roster) tells after
    /// this step, with the addresses of its members.
    Config,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// What this node is.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
}

/// The roles of the paper's figure 4, and the step before candidacy that PreVote adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleName {
    /// Follows the leader, or waits for one.
    Follower,
    /// Asks whether it would be elected.
    PreCandidate,
    /// Asks to be elected.
    Candidate,
    /// Leads.
    Leader,
}
