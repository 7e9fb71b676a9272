//! Elections (Raft paper, section 5.2 and 5.4.1; PreVote: thesis, section 9.6; stickiness: 4.2.3).
//!
//! The paper's follower takes silence for the death of its leader, and so must be silent itself for an election
//! timeout. But a process that dies closes its connections, and that is heard at once. Who is told asks around after
//! a small part of the timeout, and since PreVote unseats nobody it may be wrong: it is not elected while a quorum
//! hears the leader. What is lost is the leader's claim on this node alone, and the leader's next word restores it.
//! A promise that a [lease](super::lease) rests on goes by the clock, and stands.

use std::collections::BTreeSet;
use std::time::Duration;

use super::message::Body;
use super::{Raft, Role};
use crate::types::{LogId, NodeId, Term, Time};

/// How many times who has lost its leader asks soon, the first one too: a voter may hear of the loss a little later,
/// and votes may be split.
const SOON: u8 = 4;
/// What part of the election timeout soon is: long beside a round trip and two writes to the disk, so that two who
/// lost the same leader seldom campaign at once, and short beside the rest of a failover.
const SOON_PART: u32 = 8;

/// Who has said yes to a candidate.
#[derive(Clone, Debug, Default)]
pub(super) struct Ballot {
    granted: BTreeSet<NodeId>,
}

impl Raft {
    /// Draws a new moment at which to stop waiting for a leader, so that split votes end.
    pub(super) fn wait_for_election(&mut self) {
        self.asks_soon = 0;
        self.election_at = self.now.after(self.rng.timeout(self.election_timeout));
    }

    /// Likewise for answers to what it asks the others now: shorter after a loss, for a few times.
    fn wait_for_answers(&mut self) {
        match self.asks_soon.checked_sub(1) {
            Some(left) => {
                self.asks_soon = left;
                let wait = self.rng.timeout(self.soon());
                self.election_at = self.kept_promises().after(wait);
            }
            None => self.wait_for_election(),
        }
    }

    fn soon(&self) -> Duration {
        self.election_timeout / SOON_PART
    }

    /// The first moment, now or later, at which it may ask.
    fn kept_promises(&self) -> Time {
        self.now.max(self.promised_until)
    }

    /// The connection on which `from` spoke is lost. If that is its leader, it waits no longer than it takes to let
    /// another one ask first, nor less than it has promised.
    pub(super) fn handle_lost(&mut self, from: NodeId) {
        let Role::Follower(follower) = &mut self.role else {
            return;
        };
        if follower.leader != Some(from) {
            return;
        }
        follower.heard = None;
        self.asks_soon = SOON - 1;
        let soon = self.soon();
        let wait = self.rng.timeout(soon) - soon;
        self.election_at = self.election_at.min(self.kept_promises().after(wait));
    }

    /// No leader was heard of, or no election was won, in time.
    pub(super) fn election_tick(&mut self) {
        debug_assert!(!self.has_promised(), "a promise is broken");
        self.wait_for_answers();
        self.fail_reads(None);
        if !self.may_campaign() {
            return;
        }
        let mut ballot = Ballot::default();
        ballot.granted.insert(self.id);
        self.role = Role::PreCandidate(ballot);
        let last = self.log.last();
        for to in self.other_voters() {
            self.send_in(to, self.term.next(), Body::PreVote { last });
        }
        self.count_pre_votes();
    }

    fn other_voters(&self) -> Vec<NodeId> {
        let roster = self.roster();
        let voters = roster.ids().into_iter().filter(|&id| roster.votes(id));
        voters.filter(|&id| id != self.id).collect()
    }

    /// Who is removed by a configuration that is not committed campaigns still: it may be the only one whose
    /// log is long enough (thesis, section 4.2.2). Its own vote does not count then.
    pub(super) fn may_campaign(&self) -> bool {
        self.configs.may_vote(self.id) && self.term < super::MAX_TERM
    }

    /// Would this node vote for `from` in `term`? Changes nothing here.
    pub(super) fn handle_pre_vote(&mut self, from: NodeId, term: Term, last: LogId) {
        let sticks = self.has_promised() || self.follows_a_live_leader();
        let granted = term > self.term && last >= self.log.last() && !sticks;
        // A yes is for the term of the campaign, a no tells of this node's.
        let term = if granted { term } else { self.term };
        self.send_in(from, term, Body::PreVoteReply { granted });
    }

    /// Whether it leads, or has heard from its leader within the least election timeout and not lost it since.
    pub(super) fn follows_a_live_leader(&self) -> bool {
        match &self.role {
            Role::Leader(_) => true,
            Role::Follower(follower) => follower
                .heard
                .is_some_and(|heard| self.now < heard.after(self.election_timeout)),
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    pub(super) fn handle_pre_vote_reply(&mut self, from: NodeId, term: Term, granted: bool) {
        if !granted {
            self.enter(term);
        }
        let campaign = self.term.next();
        let Role::PreCandidate(ballot) = &mut self.role else {
            return;
        };
        if granted && term == campaign {
            ballot.granted.insert(from);
            self.count_pre_votes();
        }
    }

    fn count_pre_votes(&mut self) {
        if let Role::PreCandidate(ballot) = &self.role
            && self.roster().is_quorum(|id| ballot.granted.contains(&id))
        {
            let last = self.log.last();
            self.campaign(Body::Vote { last });
        }
    }

    /// Moves to the next term, and asks everyone there for its vote. Its own counts once it is durable.
    pub(super) fn campaign(&mut self, ask: Body) {
        self.fail_reads(None);
        self.term = self.term.next();
        self.vote = Some(self.id);
        self.hard_state_changed = true;
        self.role = Role::Candidate(Ballot::default());
        self.wait_for_answers();
        for to in self.other_voters() {
            self.send(to, ask.clone());
        }
    }

    /// Votes once a term, for who asks first, if its log is at least as up to date as this one.
    pub(super) fn handle_vote(&mut self, from: NodeId, term: Term, last: LogId) {
        // Candidates and leaders have voted for themselves.
        let free = self.vote.is_none_or(|vote| vote == from);
        let granted = term == self.term && free && last >= self.log.last();
        if granted {
            if self.vote.is_none() {
                self.vote = Some(from);
                self.hard_state_changed = true;
            }
            if matches!(self.role, Role::PreCandidate(_)) {
                self.become_follower(None);
            }
            self.wait_for_election();
        }
        self.send(from, Body::VoteReply { granted });
    }

    pub(super) fn handle_vote_reply(&mut self, from: NodeId, granted: bool) {
        let Role::Candidate(ballot) = &mut self.role else {
            return;
        };
        if granted {
            ballot.granted.insert(from);
            self.count_votes();
        }
    }

    /// Counts the candidate's vote for itself, if the disk has it.
    pub(super) fn count_own_vote(&mut self) {
        if self.hard_state_seq > self.persisted {
            return;
        }
        let id = self.id;
        let Role::Candidate(ballot) = &mut self.role else {
            return;
        };
        ballot.granted.insert(id);
        self.count_votes();
    }

    fn count_votes(&mut self) {
        if let Role::Candidate(ballot) = &self.role
            && self.roster().is_quorum(|id| ballot.granted.contains(&id))
        {
            self.become_leader();
        }
    }
}
