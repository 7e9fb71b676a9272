//! Changes of members (thesis, chapter 4).
//!
//! A configuration is an entry of the log, and counts on a node from the moment it is appended there until it
//! is truncated or another follows. A leader begins no change before the last one is committed, nor before an
//! entry of its own term is (the thesis' algorithm for single changes was unsafe without that). A change of
//! at most one voter is one entry; any other goes through a joint configuration, which the leader follows up
//! with the final one as soon as it is committed, whoever began it.

use super::event::{Effect, Refusal, Source};
use super::message::Body;
use super::progress::{CatchUp, Progress};
use super::{Raft, Role};
use crate::types::{LogIndex, MemberRole, NodeId, Roster};

/// The configurations of a log that may count: the last that is known to be committed, and those behind it.
#[derive(Clone, Debug)]
pub(super) struct Configs {
    /// Ascending, never empty.
    list: Vec<(LogIndex, Roster)>,
}

impl Configs {
    /// Those of a snapshot and a log. Before the first of them nobody is known to vote.
    pub(super) fn new(mut list: Vec<(LogIndex, Roster)>) -> Self {
        list.sort_by_key(|(index, _)| *index);
        list.insert(0, (LogIndex::ZERO, Roster::default()));
        Self { list }
    }

    /// The one that counts.
    pub(super) fn current(&self) -> &Roster {
        &self.list[self.list.len() - 1].1
    }

    /// Which entry it is.
    pub(super) fn index(&self) -> LogIndex {
        self.list[self.list.len() - 1].0
    }

    /// Whether `id` votes in the last committed configuration, or in one behind it.
    pub(super) fn may_vote(&self, id: NodeId) -> bool {
        self.list.iter().any(|(_, roster)| roster.votes(id))
    }

    pub(super) fn append(&mut self, index: LogIndex, roster: Roster) {
        self.list.push((index, roster));
    }

    /// A snapshot, whose last configuration this is, takes the place of the log.
    pub(super) fn reset(&mut self, index: LogIndex, roster: Roster) {
        self.list = vec![(index, roster)];
    }

    /// The entries from `from` on are no more. What is committed never goes.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        let kept = self.list.partition_point(|(index, _)| *index < from);
        self.list.truncate(kept.max(1));
    }

    /// Those before the last committed one will never count again.
    pub(super) fn commit(&mut self, upto: LogIndex) {
        let committed = self.list.partition_point(|(index, _)| *index <= upto);
        self.list.drain(..committed.saturating_sub(1));
    }
}

impl Raft {
    /// The configuration that counts here: the last in the log, committed or not.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        self.configs.current()
    }

    pub(super) fn handle_change(&mut self, to: Roster) {
        if let Err(refusal) = self.change_to(to) {
            self.effects.push(Effect::Refused(refusal));
        }
    }

    /// Begins to change the members, if nothing is in the way.
    fn change_to(&mut self, to: Roster) -> Result<(), Refusal> {
        self.open_leader()?;
        if self.log.term_at(self.commit) != Some(self.term) {
            return Err(Refusal::NotReady);
        }
        let current = self.roster();
        if self.configs.index() > self.commit || current.is_joint() {
            return Err(Refusal::ChangeInProgress);
        }
        let to = to.left();
        if to.voters().is_empty() {
            return Err(Refusal::NoVoters);
        }
        let next = if to.distance(current) > 1 {
            to.leaving(current)
        } else {
            to
        };
        self.append_config(next);
        Ok(())
    }

    /// Appends a configuration, which counts at once.
    fn append_config(&mut self, roster: Roster) {
        let last = self.log.last().index;
        let others = roster.ids().into_iter().filter(|&id| id != self.id);
        let others: Vec<NodeId> = others.collect();
        if let Role::Leader(leader) = &mut self.role {
            leader.peers.retain(|id, _| others.contains(id));
            for id in others {
                let new = || Progress::new(last);
                leader.peers.entry(id).or_insert_with(new);
            }
        }
        self.configs.append(last.next(), roster);
        self.append_own(1, Source::Config);
    }

    /// More is committed: a joint configuration is left, and a leader that is no voter any more goes.
    pub(super) fn follow_up_change(&mut self) {
        let leads = matches!(self.role, Role::Leader(_));
        if !leads || self.configs.index() > self.commit {
            return;
        }
        let current = self.roster();
        if current.is_joint() {
            self.append_config(current.clone().left());
        } else if !current.votes(self.id) {
            self.retire();
        }
    }

    /// A leader that is no voter any more tells the others of the commit, names who may campaign at once, and
    /// steps down (thesis, section 4.2.2).
    fn retire(&mut self) {
        self.beat();
        let last = self.log.last().index;
        if let Role::Leader(leader) = &self.role {
            let voters = self.roster().voters();
            let mut peers = leader.peers.iter();
            let whole = peers.find(|(id, peer)| voters.contains(id) && peer.matched == last);
            if let Some((&to, _)) = whole {
                self.send(to, Body::TimeoutNow);
            }
        }
        self.become_follower(None);
    }

    /// Follows a joiner's rounds: each brings over what there was when it began, and after one that took
    /// less than an election timeout the joiner becomes a voter (thesis, section 4.2.1). If a change is
    /// under way, it waits for a later round.
    pub(super) fn catch_up(&mut self, from: NodeId) {
        if self.roster().role(from) != Some(MemberRole::Joiner) {
            return;
        }
        let (now, last) = (self.now, self.log.last().index);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(peer) = leader.peers.get_mut(&from) else {
            return;
        };
        let before = peer.catch_up;
        if before.is_some_and(|round| peer.matched < round.upto) {
            return;
        }
        peer.catch_up = Some(CatchUp {
            upto: last,
            since: now,
        });
        if before.is_some_and(|round| now.since(round.since) < self.election_timeout) {
            let promoted = self.roster().clone().with(from, MemberRole::Voter);
            let _ = self.change_to(promoted);
        }
    }
}
