//! What must hold, and what it is like when it does not.

use std::fmt;

/// Something that must hold in every run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Property {
    /// At most one leader is elected in a term (Raft paper, figure 3).
    ElectionSafety,
    /// A leader never forgets or overwrites an entry of its log (figure 3).
    LeaderAppendOnly,
    /// Logs that share an entry's term and index are the same up to there (figure 3).
    LogMatching,
    /// What is committed in a term is in the logs of all leaders of later ones (figure 3).
    LeaderCompleteness,
    /// No two nodes commit or apply different entries at one index (figure 3).
    StateMachineSafety,
    /// A node's pointers stand in the order that [`Raft`](crate::raft::Raft) draws.
    PointerOrder,
    /// A node's term never goes down and its vote in a term never changes, over any crash.
    TermAndVote,
    /// What a message promises is durable before it leaves.
    Promise,
    /// A leader commits what is durable on a quorum.
    Quorum,
    /// Members change one step at a time, and only under a leader that has committed an entry of its term; the
    /// last configuration of a log counts, whether it is committed or not; who has no vote does not campaign, and
    /// who is removed does not lead on (Ongaro's thesis, chapter 4).
    Membership,
    /// Leadership is handed to a voter that has the leader's whole log, nothing is proposed meanwhile, and it is
    /// done or given up within an election timeout (thesis, section 3.10).
    Handover,
    /// A log that is opened again is what some prefix of its writes made it, at least the durable ones.
    Recovery,
    /// A snapshot ends with a committed entry, and has the members as of then. It is never older than the one before,
    /// and takes the place of no log and no state that is as new.
    Snapshot,
    /// A log drops only what was applied and is in a durable snapshot.
    Compaction,
    /// Every proposal and every change of members ends exactly once, as applied, refused or unknown, and as it
    /// says.
    Outcome,
    /// Reads are linearizable.
    Linearizability,
    /// Once nothing fails any more, there is a leader, and what is proposed is applied on every node.
    Progress,
    /// All members give the same reply to the same entry.
    SameReplies,
    /// A state is what its entries lead to when they are applied one by one, whatever snapshots it came from. Looked
    /// at if the workload has a [`digest`](super::Workload::digest).
    SameState,
    /// What the embedder's [`Workload`](super::Workload) says.
    Workload,
    /// Nothing panics.
    Panic,
}

impl Property {
    /// A short name, as `simulate --json` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ElectionSafety => "election-safety",
            Self::LeaderAppendOnly => "leader-append-only",
            Self::LogMatching => "log-matching",
            Self::LeaderCompleteness => "leader-completeness",
            Self::StateMachineSafety => "state-machine-safety",
            Self::PointerOrder => "pointer-order",
            Self::TermAndVote => "term-and-vote",
            Self::Promise => "promise",
            Self::Quorum => "quorum",
            Self::Membership => "membership",
            Self::Handover => "handover",
            Self::Recovery => "recovery",
            Self::Snapshot => "snapshot",
            Self::Compaction => "compaction",
            Self::Outcome => "outcome",
            Self::Linearizability => "linearizability",
            Self::Progress => "progress",
            Self::SameReplies => "same-replies",
            Self::SameState => "same-state",
            Self::Workload => "workload",
            Self::Panic => "panic",
        }
    }

    pub(super) fn violated(self, what: impl Into<String>) -> Violated {
        Violated {
            property: self,
            what: what.into(),
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A property that does not hold, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Violated {
    pub(super) property: Property,
    pub(super) what: String,
}

/// What a run found wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The step at which it showed, counted from 1.
    pub step: u64,
    /// What does not hold.
    pub property: Property,
    /// How, in words.
    pub what: String,
    /// The last steps before, one line each: the step, the time, the node, what it did.
    pub trace: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at step {}: {}", self.property, self.step, self.what)
    }
}
