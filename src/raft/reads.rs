//! Reads (thesis, section 6.4).
//!
//! A leader notes its commit index, and tells it once a quorum has replied to a round that began after, or at once if
//! it has a [lease](super::lease). A follower asks its leader for that index, and tells it once it has committed as
//! far itself. Both share: of the reads of a node one batch is under way, and those that come meanwhile are the next.
//!
//! A follower's ask has a number that no other has, of this life or of an earlier one, so that whatever the network
//! does an answer is taken for no other ask than its own. It is asked again after a heartbeat interval, by the same
//! number: all reads that it is for came before it was first asked, so any answer will do. A batch that is not
//! ready after an election timeout fails, and with it those that wait for it: the leader is lost, or cannot tell,
//! or this node is too far behind.

use std::collections::BTreeMap;

use super::event::{Effect, ReadId};
use super::follower::Follower;
use super::message::Body;
use super::{Raft, Role};
use crate::types::{LogIndex, NodeId, Time};

/// Who waits for the leader to know what to see: the last of its own reads, and followers by the numbers of their
/// asks.
#[derive(Clone, Debug, Default)]
struct Waiting {
    own: Option<ReadId>,
    asks: BTreeMap<NodeId, u64>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.own.is_none() && self.asks.is_empty()
    }
}

/// Reads at a leader.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    /// Those whose round is under way, what they must see, and the round.
    asked: Option<(Waiting, LogIndex, u64)>,
    /// Those that came since.
    waiting: Waiting,
}

/// Reads at a follower.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asks {
    asked: Option<Ask>,
    /// Reads that came since, up to this one.
    waiting: Option<ReadId>,
}

/// What the leader is asked for.
#[derive(Clone, Copy, Debug)]
struct Ask {
    number: u64,
    /// The last of the reads that it is for.
    upto: ReadId,
    /// What they must see, once the leader has said so.
    index: Option<LogIndex>,
    again_at: Time,
    /// When they fail.
    until: Time,
}

impl Asks {
    /// When there is something to do at the latest.
    pub(super) fn deadline(&self) -> Option<Time> {
        let ask = self.asked?;
        Some(match ask.index {
            None => ask.until.min(ask.again_at),
            Some(_) => ask.until,
        })
    }
}

impl Raft {
    /// A client asks what a read must see.
    pub(super) fn handle_read(&mut self, read: ReadId) {
        match &mut self.role {
            Role::Leader(leader) => {
                let own = &mut leader.reads.waiting.own;
                *own = (*own).max(Some(read));
                self.answer_reads();
            }
            Role::Follower(Follower {
                leader: Some(_),
                reads,
                ..
            }) => {
                reads.waiting = reads.waiting.max(Some(read));
                self.ask();
            }
            _ => self.effects.push(Effect::ReadFailed { leader: None }),
        }
    }

    /// Whether reads that come now had better wait: what those before them must see is asked for, and they can only be
    /// the next batch. Advice; nothing depends on it being followed.
    #[must_use]
    pub const fn gathers_reads(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.reads.asked.is_some(),
            Role::Follower(follower) => follower.reads.asked.is_some(),
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    /// A follower asks what its reads must see. Who is not a member is not answered, so that no more wait than
    /// there are members.
    pub(super) fn handle_ask(&mut self, from: NodeId, ask: u64) {
        let is_member = self.is_member(from);
        if let Role::Leader(leader) = &mut self.role
            && is_member
        {
            leader.reads.waiting.asks.insert(from, ask);
            self.answer_reads();
        }
    }

    /// Answers the reads whose round a quorum has confirmed, and starts a round for those that came
    /// since, unless nobody else can lead. Only one is under way, so all that wait share the next.
    ///
    /// No read is answered before an entry of this term is committed: until then the leader may not know
    /// what the one before it committed.
    pub(super) fn answer_reads(&mut self) {
        let (commit, term) = (self.commit, self.term);
        let own_term = self.log.term_at(commit) == Some(term);
        let roster = self.configs.current();
        let alone = roster.is_quorum(|id| id == self.id);
        let leased = self.holds_lease();
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let mut confirmed = None;
        if let Some((_, _, round)) = leader.reads.asked
            && roster.is_quorum(|id| leader.has_answered(id, round))
        {
            confirmed = leader.reads.asked.take();
        }
        let begins = own_term && !leader.reads.waiting.is_empty();
        let mut at_once = None;
        if begins && (alone || leased) {
            at_once = Some(std::mem::take(&mut leader.reads.waiting));
        } else if begins && leader.reads.asked.is_none() {
            let waiting = std::mem::take(&mut leader.reads.waiting);
            leader.reads.asked = Some((waiting, commit, leader.round + 1));
            self.beat();
        }
        if let Some((waiting, index, _)) = confirmed {
            self.tell(waiting, index);
        }
        if let Some(waiting) = at_once {
            // No round has brought them the commit index.
            for &to in waiting.asks.keys() {
                self.beat_to(to);
            }
            self.tell(waiting, commit);
        }
    }

    /// Tells who waited what to see.
    fn tell(&mut self, answered: Waiting, index: LogIndex) {
        if let Some(upto) = answered.own {
            self.effects.push(Effect::ReadReady { upto, index });
        }
        for (to, ask) in answered.asks {
            self.send(to, Body::ReadIndex { ask, index });
        }
    }

    /// Asks the leader for the reads that wait, unless an ask is under way.
    fn ask(&mut self) {
        let again_at = self.now.after(self.heartbeat_interval);
        let until = self.now.after(self.election_timeout);
        let Role::Follower(Follower {
            leader: Some(leader),
            reads,
            ..
        }) = &mut self.role
        else {
            return;
        };
        if reads.asked.is_some() {
            return;
        }
        let Some(upto) = reads.waiting.take() else {
            return;
        };
        let (to, number) = (*leader, self.next_ask);
        self.next_ask = number.wrapping_add(1);
        reads.asked = Some(Ask {
            number,
            upto,
            index: None,
            again_at,
            until,
        });
        self.send(to, Body::AskReadIndex { ask: number });
    }

    /// Asks once more for what was not answered in time, and gives it up in the end.
    pub(super) fn ask_tick(&mut self) {
        let again_at = self.now.after(self.heartbeat_interval);
        let Role::Follower(Follower {
            leader: Some(leader),
            reads: Asks {
                asked: Some(ask), ..
            },
            ..
        }) = &mut self.role
        else {
            return;
        };
        let (to, number) = (*leader, ask.number);
        if self.now >= ask.until {
            self.fail_reads(Some(to));
        } else if ask.index.is_none() && self.now >= ask.again_at {
            ask.again_at = again_at;
            self.send(to, Body::AskReadIndex { ask: number });
        }
    }

    /// The leader says what the reads must see that it was asked for.
    pub(super) fn handle_read_index(&mut self, from: NodeId, number: u64, index: LogIndex) {
        if let Role::Follower(Follower {
            leader: Some(leader),
            reads: Asks {
                asked: Some(ask), ..
            },
            ..
        }) = &mut self.role
            && (*leader, ask.number) == (from, number)
        {
            ask.index.get_or_insert(index);
            self.catch_up_with_reads();
        }
    }

    /// Reads are ready once this follower has committed what they must see; then the next are asked for.
    pub(super) fn catch_up_with_reads(&mut self) {
        let Role::Follower(Follower { reads, .. }) = &mut self.role else {
            return;
        };
        if let Some(Ask {
            upto,
            index: Some(index),
            ..
        }) = reads.asked
            && index <= self.commit
        {
            reads.asked = None;
            self.effects.push(Effect::ReadReady { upto, index });
            self.ask();
        }
    }

    /// The role that the reads came to ends, or no answer will come.
    pub(super) fn fail_reads(&mut self, leader: Option<NodeId>) {
        let failed = match &mut self.role {
            Role::Leader(leader) => {
                let Rounds { asked, waiting } = std::mem::take(&mut leader.reads);
                waiting.own.is_some() || asked.is_some_and(|(asked, ..)| asked.own.is_some())
            }
            Role::Follower(follower) => {
                let Asks { asked, waiting } = std::mem::take(&mut follower.reads);
                asked.is_some() || waiting.is_some()
            }
            Role::PreCandidate(_) | Role::Candidate(_) => false,
        };
        if failed {
            self.effects.push(Effect::ReadFailed { leader });
        }
    }
}
