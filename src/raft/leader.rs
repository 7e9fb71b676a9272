//! The leader (Raft paper, sections 5.3 and 5.4; CheckQuorum: thesis, section 6.2; members: 4).

use std::collections::BTreeMap;
use std::time::Duration;

use super::event::{NewEntries, RoleName, Source};
use super::lease::Lease;
use super::message::{AppendOutcome, Body};
use super::progress::{Flow, Progress};
use super::reads::Rounds;
use super::transfer::Transfer;
use super::{Raft, Role};
use crate::types::{EntryKind, EntryRange, LogId, LogIndex, NodeId, TermRun, Time, WriteSeq};

/// What only a leader keeps.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    pub(super) peers: BTreeMap<NodeId, Progress>,
    heartbeat_at: Time,
    /// When to look whether a quorum was heard since the last look, and whether the own disk got on.
    quorum_at: Time,
    /// What the own disk was at when that was looked at last.
    writing: Option<Writing>,
    pub(super) transfer: Option<Transfer>,
    /// Counts rounds of heartbeats.
    pub(super) round: u64,
    pub(super) reads: Rounds,
    pub(super) lease: Lease,
}

/// What a leader's own disk is at.
#[derive(Clone, Copy, Debug)]
struct Writing {
    write: WriteSeq,
    /// When a disk that is only slow has done it.
    until: Time,
}

/// The time that a disk which works takes for so many bytes: one that writes less than 16 MB a second hangs.
const fn time_to_write(bytes: u64) -> Duration {
    Duration::from_micros(bytes / 16)
}

impl Leader {
    fn new(peers: impl Iterator<Item = NodeId>, last: LogIndex) -> Self {
        Self {
            peers: peers.map(|id| (id, Progress::new(last))).collect(),
            heartbeat_at: Time::default(),
            quorum_at: Time::default(),
            writing: None,
            transfer: None,
            round: 0,
            reads: Rounds::default(),
            lease: Lease::default(),
        }
    }

    /// Whether this member has answered the round, or a later one; the leader itself has.
    pub(super) fn has_answered(&self, id: NodeId, round: u64) -> bool {
        let peer = self.peers.get(&id);
        peer.is_none_or(|peer| peer.round >= round)
    }

    /// When it has something to do at the latest.
    pub(super) fn deadline(&self) -> Time {
        let own = self.heartbeat_at.min(self.quorum_at);
        self.transfer
            .map_or(own, |transfer| own.min(transfer.until))
    }

    /// As [`Raft::rewind`]: it is time to look whether a quorum was heard, and none was.
    #[cfg(feature = "sim")]
    pub(super) fn rewind(&mut self) {
        self.heartbeat_at = Time::default();
        self.quorum_at = Time::default();
        self.writing = None;
        self.lease.rewind();
        for peer in self.peers.values_mut() {
            peer.heard = false;
            if let Flow::Snapshot { until, .. } = &mut peer.flow {
                *until = Time::default();
            }
        }
    }
}

impl Raft {
    /// Wins the election: opens the term with an empty entry, since only entries of its own term commit
    /// by counting (section 5.4.2), and tells everyone.
    pub(super) fn become_leader(&mut self) {
        let peers = self.roster().ids().into_iter();
        let peers = peers.filter(|&id| id != self.id);
        let mut leader = Leader::new(peers, self.log.last().index);
        // The entry's append is the first heartbeat.
        leader.heartbeat_at = self.now.after(self.heartbeat_interval);
        leader.quorum_at = self.now.after(self.election_timeout);
        self.role = Role::Leader(leader);
        self.append_own(1, Source::Empty(EntryKind::Noop));
    }

    /// Appends entries of this term to the leader's own log, and sends them while they are written.
    pub(super) fn append_own(&mut self, count: u64, source: Source) {
        let prev = self.log.last();
        let last = LogId::new(self.term, prev.index.plus(count));
        let range = EntryRange { prev, last };
        let run = TermRun {
            term: self.term,
            first: prev.index.next(),
        };
        self.log.append(&[run], last, self.next_seq());
        self.entries = Some(NewEntries { range, source });
        self.replicate_all();
    }

    /// Sends everyone what they lack, as far as the limits allow.
    fn replicate_all(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let peers: Vec<NodeId> = leader.peers.keys().copied().collect();
        for id in peers {
            self.replicate(id);
        }
    }

    /// Sends one follower what it lacks, as far as the limits allow.
    fn replicate(&mut self, to: NodeId) {
        let last = self.log.last().index;
        let before = self.log.before().index;
        let (max_inflight, max_entries) = (self.max_inflight, self.max_entries);
        let max_bytes = self.max_inflight_bytes;
        loop {
            let Role::Leader(leader) = &mut self.role else {
                return;
            };
            let Some(peer) = leader.peers.get_mut(&to) else {
                return;
            };
            let prev = peer.next.prev();
            if prev < before {
                if !matches!(peer.flow, Flow::Snapshot { .. }) {
                    self.offers_snapshot(to);
                }
                return;
            }
            let upto = prev.plus(max_entries).min(last);
            if upto == prev {
                return;
            }
            // What was sent and not acknowledged is counted anew each time: so nothing is left of it when an
            // append is refused or lost, or another leads.
            let sizes = self.log.sizes();
            let inflight = match &peer.flow {
                Flow::Replicate { .. } => sizes.between(peer.matched, prev),
                Flow::Probe { .. } | Flow::Snapshot { .. } => 0,
            };
            let room = max_bytes.saturating_sub(inflight);
            if room == 0 {
                return;
            }
            let upto = match sizes.fitting(prev, upto, room) {
                // A larger one goes alone.
                none if none == prev && inflight == 0 => prev.next(),
                fitting => fitting,
            };
            if upto == prev {
                return;
            }
            match &mut peer.flow {
                Flow::Probe { sent: true } => return,
                Flow::Probe { sent } => *sent = true,
                Flow::Replicate { inflight } if inflight.len() >= max_inflight => return,
                Flow::Replicate { inflight } => {
                    inflight.push_back(upto);
                    peer.next = upto.next();
                }
                Flow::Snapshot { .. } => return,
            }
            let round = leader.round;
            self.send_append(to, prev, upto, round);
        }
    }

    /// A heartbeat to everyone: an append without entries.
    pub(super) fn beat(&mut self) {
        let interval = self.heartbeat_interval;
        let heartbeat_at = self.now.after(interval);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        leader.heartbeat_at = heartbeat_at;
        leader.round += 1;
        let peers: Vec<NodeId> = leader.peers.keys().copied().collect();
        self.look_at_round();
        for to in peers {
            self.beat_to(to);
        }
    }

    /// A heartbeat of the last round, at the place where the next entries go, so that a follower which lost
    /// something says so. If entries are on their way it is answered only behind them. So who has not answered the
    /// round before is sent another first, at the place up to where it has them: that one may overtake.
    pub(super) fn beat_to(&mut self, to: NodeId) {
        if self.offers_snapshot(to) {
            return;
        }
        let before = self.log.before().index;
        if let Role::Leader(leader) = &self.role
            && let Some(peer) = leader.peers.get(&to)
        {
            let (prev, round) = (peer.next.prev(), leader.round);
            let matched = peer.matched;
            let silent = peer.round.saturating_add(1) < round;
            let flows = matches!(peer.flow, Flow::Replicate { .. });
            if silent && flows && matched < prev && matched >= before {
                self.send_append(to, matched, matched, round);
            }
            self.send_append(to, prev, prev, round);
        }
    }

    fn send_append(&mut self, to: NodeId, prev: LogIndex, last: LogIndex, round: u64) {
        let id = |index| Some(LogId::new(self.log.term_at(index)?, index));
        let (Some(prev), Some(last)) = (id(prev), id(last)) else {
            debug_assert!(false, "an append beyond the log");
            return;
        };
        let range = EntryRange { prev, last };
        let runs = self.log.runs_in(range);
        let body = Body::Append {
            range,
            runs,
            commit: self.commit,
            round,
        };
        self.send(to, body);
    }

    pub(super) fn lead_tick(&mut self) {
        self.give_up_transfer();
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let heartbeat_at = leader.heartbeat_at;
        if self.now >= leader.quorum_at {
            if !self.hears_quorum() {
                return self.become_follower(None);
            }
            self.look_at_disk();
        }
        if self.now >= heartbeat_at {
            self.beat();
        }
    }

    /// Hands leadership over if the own disk hangs: it was at a write at a look before, and has made nothing durable
    /// since, though a slow one would have. The cluster would go on without this copy, but no faster than its clients'
    /// patience, since what they propose meanwhile waits for that disk.
    fn look_at_disk(&mut self) {
        let (now, persisted, written) = (self.now, self.persisted, self.written);
        let (durable, last) = (self.log.durable(), self.log.last().index);
        let bytes = self.log.sizes().between(durable, last);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let same = leader.writing.filter(|at| persisted < at.write);
        let hangs = same.is_some_and(|at| now >= at.until);
        leader.writing = same.or_else(|| {
            (persisted < written).then(|| Writing {
                write: persisted.next(),
                until: now.after(time_to_write(bytes)),
            })
        });
        // If nobody can take over, it leads on.
        if hangs && let Ok(to) = self.successor(None) {
            self.begin_transfer(to);
        }
    }

    /// Whether a quorum has answered since the last look; from now on the next counts (CheckQuorum).
    ///
    /// It looks once in an election timeout instead of keeping the time of each answer: a leader whose
    /// process was halted for a while finds the answers that came meanwhile, not only how long ago it was.
    fn hears_quorum(&mut self) -> bool {
        let next = self.now.after(self.election_timeout);
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let heard = |id| leader.peers.get(&id).is_none_or(|peer| peer.heard);
        let heard = self.roster().is_quorum(heard);
        if let Role::Leader(leader) = &mut self.role {
            leader.quorum_at = next;
            for peer in leader.peers.values_mut() {
                peer.heard = false;
            }
        }
        heard
    }

    pub(super) fn handle_append_reply(&mut self, from: NodeId, outcome: AppendOutcome, round: u64) {
        let last = self.log.last().index;
        let before = self.log.before().index;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if round > leader.round {
            return;
        }
        let Some(peer) = leader.peers.get_mut(&from) else {
            return;
        };
        peer.heard = true;
        peer.round = peer.round.max(round);
        match outcome {
            AppendOutcome::Matched { upto } if upto <= last => {
                peer.matched(upto, before);
                self.advance_commit();
                self.catch_up(from);
            }
            AppendOutcome::Rejected { prev, hint } if prev <= last && peer.is_news(prev) => {
                let limit = LogId::new(hint.term, hint.index.min(prev.prev()));
                if limit.index < before && peer.matched < before {
                    peer.next = peer.matched.next();
                } else {
                    peer.rejected(self.log.last_agreeing(limit).index);
                }
            }
            // Late, or nonsense.
            AppendOutcome::Matched { .. }
            | AppendOutcome::Rejected { .. }
            | AppendOutcome::Fetching => {}
        }
        self.replicate(from);
        self.extend_lease();
        self.answer_reads();
        self.hand_over();
    }

    /// Commits what a quorum has on disk, if it is of this term; what is before it commits with it
    /// (section 5.4.2).
    pub(super) fn advance_commit(&mut self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        let own = self.log.durable();
        let copied = |id| leader.peers.get(&id).map_or(own, |peer| peer.matched);
        let Some(agreed) = self.roster().agreed(copied) else {
            return;
        };
        if agreed > self.commit && self.log.term_at(agreed) == Some(self.term) {
            self.set_commit(agreed);
            self.answer_reads();
            self.follow_up_change();
        }
    }

    /// Whether what is proposed now had better wait: a leader's disk is at the write before, and all that comes
    /// meanwhile can be one write. Advice; nothing depends on it being followed.
    #[must_use]
    pub fn gathers(&self) -> bool {
        let writes = self.log.durable() < self.log.last().index;
        writes && matches!(&self.role, Role::Leader(leader) if leader.transfer.is_none())
    }

    pub(super) const fn role_name(&self) -> RoleName {
        match self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    #[cfg(any(debug_assertions, feature = "sim"))]
    pub(super) fn check_progress(&self) {
        let Role::Leader(leader) = &self.role else {
            return;
        };
        assert_eq!(
            self.log.last().term,
            self.term,
            "a leader's last entry is its own"
        );
        for (id, peer) in &leader.peers {
            assert!(peer.matched < peer.next, "{id}: matched < next");
            assert!(
                peer.next <= self.log.last().index.next(),
                "{id}: next is at most last + 1"
            );
        }
    }
}
