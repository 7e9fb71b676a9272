//! Snapshots, as far as consensus sees them: where they end (Raft paper, section 7; thesis, chapter 5).
//!
//! Bytes of snapshots are the caller's: it takes and fetches them, and tells when one is durable. Of one that it
//! took, the log lets go of what is before, less the entries that followers who are slow may still want. A
//! follower that wants more is offered the snapshot with each heartbeat, until it has it. While it fetches, the
//! leader keeps the log from there on, so that what it has fetched is of use.

use super::event::Effect;
use super::message::{AppendOutcome, Body};
use super::progress::Flow;
use super::{MAX_INDEX, Raft, Role};
use crate::types::{LogId, LogIndex, NodeId, Roster, Term};

/// A follower that fetches, and asks for nothing new for so many election timeouts, no longer keeps the leader from
/// dropping entries. Several times what it waits before it asks for the same again.
const PATIENCE: u32 = 50;

impl Raft {
    /// A snapshot of this member's own state is durable. All that it has in it is applied here, and may go.
    pub(super) fn handle_snapshot(&mut self, last: LogId) {
        if self.is_news(last) && last.index <= self.commit {
            self.snapshot = Some(last);
            self.compact();
        }
    }

    /// A fetched snapshot is durable. If the log goes through `last` it is kept: it says the same, and what is
    /// before may yet have to be applied. Otherwise it goes as a whole, since an entry behind another one than
    /// `last` was never committed (figure 13).
    pub(super) fn handle_fetched(&mut self, last: LogId, (at, roster): (LogIndex, Roster)) {
        // A leader has all that is committed.
        if !self.is_news(last) || matches!(self.role, Role::Leader(_)) {
            return;
        }
        self.snapshot = Some(last);
        if last.index <= self.commit {
            return;
        }
        if !self.log.holds(last) {
            self.log.reset(last);
            self.configs.reset(at, roster);
            self.written = self.written.next();
            let seq = self.written;
            self.effects.push(Effect::Install { seq, last });
        }
        self.set_commit(last.index);
        if let Some(leader) = self.leader() {
            let upto = last.index;
            self.reply(leader, AppendOutcome::Matched { upto }, 0);
        }
    }

    fn is_news(&self, last: LogId) -> bool {
        let known = self.snapshot.is_some_and(|known| known.index >= last.index);
        !known && last.index <= MAX_INDEX && last.term <= self.term
    }

    /// Drops what is before the snapshot and wanted by nobody.
    fn compact(&mut self) {
        let Some(snapshot) = self.snapshot else {
            return;
        };
        let mut upto = LogIndex(snapshot.index.0.saturating_sub(self.trailing));
        if let Role::Leader(leader) = &self.role {
            let peers = leader.peers.values();
            let fetched = peers.filter_map(|peer| peer.fetching(self.now));
            upto = fetched.fold(upto, |upto, last| upto.min(last.index));
        }
        if upto <= self.log.before().index {
            return;
        }
        self.log.compact(upto);
        self.written = self.written.next();
        let seq = self.written;
        self.effects.push(Effect::Compact { seq, upto });
    }

    /// Whether the entries that this follower needs are gone. It is offered a snapshot then: the one that it is
    /// fetching, or else the newest.
    pub(super) fn offers_snapshot(&mut self, to: NodeId) -> bool {
        let (now, before) = (self.now, self.log.before());
        let Role::Leader(leader) = &mut self.role else {
            return false;
        };
        let round = leader.round;
        let (Some(peer), Some(newest)) = (leader.peers.get_mut(&to), self.snapshot) else {
            return false;
        };
        if !matches!(peer.flow, Flow::Snapshot { .. }) {
            if peer.next > before.index {
                return false;
            }
            peer.lacks_what_is_gone();
        }
        let last = peer.fetching(now).unwrap_or(newest);
        self.send(to, Body::Snapshot { last, round });
        true
    }

    /// A follower asks for bytes, and is given those of this snapshot. Who asks for more than before makes progress.
    pub(super) fn handle_asked(&mut self, from: NodeId, lent: Option<(LogId, u64)>) {
        let later = self.now.after(self.election_timeout * PATIENCE);
        let newest = self.snapshot.map(|last| (last, 0));
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&from)
            && let Flow::Snapshot { asked, until } = &mut peer.flow
            && let Some((last, offset)) = lent.or(newest)
            && asked.is_none_or(|(of, at)| of != last || offset > at)
        {
            *asked = Some((last, offset));
            *until = later;
        }
    }

    /// Whether a follower is fetching a snapshot from this leader, and needs it and the entries behind it.
    #[must_use]
    pub fn is_fetching(&self, follower: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else {
            return false;
        };
        let peer = leader.peers.get(&follower);
        peer.is_some_and(|peer| peer.fetching(self.now).is_some())
    }

    /// The leader says that it has not the entries that this node needs, and offers its snapshot.
    pub(super) fn handle_offer(&mut self, from: NodeId, term: Term, last: LogId, round: u64) {
        if term < self.term {
            // Tells an old leader of the newer term.
            let hint = self.log.last_agreeing(last);
            let prev = last.index;
            self.reply(from, AppendOutcome::Rejected { prev, hint }, 0);
            return;
        }
        if last.index > MAX_INDEX || last.term > term || !self.accept_leader(from) {
            return;
        }
        let outcome = if last.index <= self.commit || self.log.holds(last) {
            // What the leader has a snapshot of is committed.
            if last.index > self.commit {
                self.set_commit(last.index);
            }
            AppendOutcome::Matched { upto: last.index }
        } else {
            self.effects.push(Effect::Fetch { from, last });
            AppendOutcome::Fetching
        };
        self.reply(from, outcome, round);
    }
}
