//! What the members of a cluster say to each other (Raft paper, figure 2; thesis, section 9.6).

use crate::types::{EntryRange, LogId, LogIndex, Term, TermRun};

/// A message between two members; sender and receiver travel beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's term. For [`Body::PreVote`] and a granted [`Body::PreVoteReply`], the term that the
    /// candidate would campaign in.
    pub term: Term,
    /// What it says.
    pub body: Body,
}

/// What a [`Message`] says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you vote for me? Asked before a campaign, without moving to a new term.
    PreVote {
        /// The end of the candidate's log.
        last: LogId,
    },
    /// The answer to [`Body::PreVote`].
    PreVoteReply {
        /// Whether a vote would be given.
        granted: bool,
    },
    /// Vote for me.
    Vote {
        /// The end of the candidate's log.
        last: LogId,
    },
    /// Vote for me, as the leader wishes: it hands leadership over (thesis, section 3.10). Heard also by who
    /// sticks to that leader.
    HandoverVote {
        /// The end of the candidate's log.
        last: LogId,
    },
    /// The leader to its successor: campaign now, do not wait (thesis, section 3.10).
    TimeoutNow,
    /// The answer to [`Body::Vote`] and [`Body::HandoverVote`].
    VoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Put these entries behind `range.prev`; with an empty range, a heartbeat.
    Append {
        /// Which entries. Their bytes are not part of a message inside consensus.
        range: EntryRange,
        /// The terms of the entries in `range`, in order; the first run begins at `range.prev.index + 1`.
        /// Empty exactly if the range is.
        runs: Vec<TermRun>,
        /// Up to where the leader has committed.
        commit: LogIndex,
        /// Numbers the leader's rounds of heartbeats, so that a reply proves the leader was still
        /// followed after the round began (linearizable reads; thesis, section 6.4).
        round: u64,
    },
    /// The entries that you need are gone from this leader's log: fetch its snapshot (Raft paper, section 7).
    /// Stands in the place of heartbeats until the follower has it.
    Snapshot {
        /// The last entry that the snapshot has in it.
        last: LogId,
        /// As in [`Body::Append`].
        round: u64,
    },
    /// A follower to its leader: up to where must a read see? (Linearizable reads of followers; thesis, section
    /// 6.4.)
    AskReadIndex {
        /// Names the ask. The follower uses no number twice, nor does it after a restart.
        ask: u64,
    },
    /// The answer to [`Body::AskReadIndex`], once the leader knows that it led after it was asked.
    ReadIndex {
        /// The ask that is answered.
        ask: u64,
        /// What every read must see that had come when this was asked for.
        index: LogIndex,
    },
    /// The answer to [`Body::Append`] and [`Body::Snapshot`].
    AppendReply {
        /// What became of it.
        outcome: AppendOutcome,
        /// The round of the append that is answered.
        round: u64,
    },
}

impl Body {
    /// Whether it answers what this node asked.
    pub(super) const fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::PreVoteReply { .. } | Self::VoteReply { .. } | Self::AppendReply { .. }
        )
    }
}

/// What a follower did with an append, or with the offer of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppendOutcome {
    /// The follower's durable log agrees with the leader's up to here.
    Matched {
        /// The last index of the append; for a heartbeat the index before it, or the last that is durable
        /// if that is less.
        upto: LogIndex,
    },
    /// The follower has no entry (index, term) = `prev`.
    Rejected {
        /// The index of the `prev` that did not match, by which the leader knows stale rejections.
        prev: LogIndex,
        /// The follower's last entry at or below `prev.index` with a term at most `prev.term`: the logs
        /// cannot agree beyond it. Backs up over a whole term at a time (Raft paper, section 5.3).
        hint: LogId,
    },
    /// The follower has not what the snapshot has in it, and fetches it.
    Fetching,
}
