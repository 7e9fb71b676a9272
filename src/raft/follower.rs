//! The follower (Raft paper, section 5.3).

use super::event::{NewEntries, Source};
use super::message::{AppendOutcome, Body, Message};
use super::reads::Asks;
use super::{Outgoing, Raft, Role};
use crate::types::{EntryRange, LogId, LogIndex, NodeId, Roster, Term, TermRun, Time};

/// What only a follower keeps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Follower {
    pub(super) leader: Option<NodeId>,
    /// When it last heard from that leader, unless it has lost the connection since.
    pub(super) heard: Option<Time>,
    pub(super) reads: Asks,
}

/// The parts of [`Body::Append`].
pub(super) struct Append {
    pub(super) range: EntryRange,
    pub(super) runs: Vec<TermRun>,
    pub(super) commit: LogIndex,
    pub(super) round: u64,
    /// The configurations among the entries.
    pub(super) configs: Vec<(LogIndex, Roster)>,
}

impl Raft {
    /// Follows `leader`, or nobody yet. Only who led must begin to wait: others already do, and a mere
    /// candidate of a newer term must not make them wait longer.
    pub(super) fn become_follower(&mut self, leader: Option<NodeId>) {
        self.fail_reads(None);
        if matches!(self.role, Role::Leader(_)) {
            self.wait_for_election();
        }
        self.role = Role::Follower(Follower {
            leader,
            ..Follower::default()
        });
    }

    pub(super) fn handle_append(&mut self, from: NodeId, term: Term, append: Append) {
        let Append {
            range,
            runs,
            commit,
            round,
            configs,
        } = append;
        if term < self.term {
            // Tells an old leader of the newer term.
            return self.reject(from, range.prev, 0);
        }
        if !self.accept_leader(from) {
            return;
        }
        let before = self.log.before().index;
        if range.prev.index < before {
            // What was dropped here is committed, so the leader has the same.
            self.reply(from, AppendOutcome::Matched { upto: before }, round);
            return;
        }
        if !self.log.holds(range.prev) {
            return self.reject(from, range.prev, round);
        }
        if let Some(missing) = self.log.first_missing(&runs, range.last.index)
            && !self.take(range, &runs, missing, configs)
        {
            return;
        }
        // Only up to what this append has shown to agree.
        let commit = commit.min(range.last.index);
        if commit > self.commit {
            self.set_commit(commit);
        }
        // A heartbeat asks for no write and waits for none, so that the leader does not take a slow disk for
        // a lost follower. What is under way then, its own answer tells.
        let upto = if range.is_empty() {
            range.last.index.min(self.log.durable())
        } else {
            range.last.index
        };
        self.reply(from, AppendOutcome::Matched { upto }, round);
    }

    /// Follows the leader of this term, whatever this node was, unless it leads itself: two leaders in a
    /// term there cannot be, and who says so is not believed.
    pub(super) fn accept_leader(&mut self, from: NodeId) -> bool {
        let reads = match &self.role {
            Role::Leader(_) => return false,
            Role::Follower(follower) if follower.leader.is_some_and(|leader| leader != from) => {
                return false;
            }
            Role::Follower(follower) => follower.reads,
            Role::PreCandidate(_) | Role::Candidate(_) => Asks::default(),
        };
        self.role = Role::Follower(Follower {
            leader: Some(from),
            heard: Some(self.now),
            reads,
        });
        self.promise();
        self.wait_for_election();
        true
    }

    /// Takes the entries from `missing` on. Those of its own from there conflict and go, if there are
    /// any. False if that would undo what is committed, which no leader asks for.
    fn take(
        &mut self,
        range: EntryRange,
        runs: &[TermRun],
        missing: LogIndex,
        configs: Vec<(LogIndex, Roster)>,
    ) -> bool {
        if missing <= self.commit {
            return false;
        }
        if missing <= self.log.last().index {
            self.log.truncate(missing);
            self.configs.truncate(missing);
            self.truncate_from = Some(missing);
        }
        for (index, roster) in configs {
            if index >= missing && index <= range.last.index && index > self.configs.index() {
                self.configs.append(index, roster);
            }
        }
        let prev = self.log.last();
        self.log.append(runs, range.last, self.next_seq());
        let range = EntryRange {
            prev,
            last: range.last,
        };
        self.entries = Some(NewEntries {
            range,
            source: Source::Message,
        });
        true
    }

    /// Answers an append behind an entry that is not here, with the last one that could agree.
    fn reject(&mut self, from: NodeId, prev: LogId, round: u64) {
        let rejected = AppendOutcome::Rejected {
            prev: prev.index,
            hint: self.log.last_agreeing(prev),
        };
        self.reply(from, rejected, round);
    }

    /// Answers an append. That entries match is said once they are durable.
    pub(super) fn reply(&mut self, to: NodeId, outcome: AppendOutcome, round: u64) {
        let needs = match outcome {
            AppendOutcome::Matched { upto } => Some(upto),
            AppendOutcome::Rejected { .. } | AppendOutcome::Fetching => None,
        };
        let message = Message {
            term: self.term,
            body: Body::AppendReply { outcome, round },
        };
        self.outbox.push(Outgoing { to, message, needs });
    }
}

/// Whether an append's range and runs fit each other. They came over a network.
pub(super) fn is_sound(term: Term, range: EntryRange, runs: &[TermRun]) -> bool {
    let (LogId { index: before, .. }, last) = (range.prev, range.last);
    if last.index > super::MAX_INDEX || last.term > term {
        return false;
    }
    let (Some(head), Some(tail)) = (runs.first(), runs.last()) else {
        return range.prev == last;
    };
    before < last.index
        && head.first == before.next()
        && head.term >= range.prev.term
        && tail.term == last.term
        && tail.first <= last.index
        && runs
            .windows(2)
            .all(|pair| pair[0].first < pair[1].first && pair[0].term < pair[1].term)
}
