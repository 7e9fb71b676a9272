//! Handing leadership over (thesis, section 3.10).
//!
//! The leader takes no more proposals, brings one voter's log up to its own, and tells it to campaign at
//! once. That one asks for votes in the leader's name, so that who sticks to the leader gives its vote all
//! the same; so the leader has no lease any more. If it has not come to that within an election timeout, the
//! leader goes on as before; the follower may still win, as any may at any time.

use std::cmp::Reverse;

use super::event::{Effect, Refusal};
use super::leader::Leader;
use super::message::Body;
use super::{Raft, Role};
use crate::types::{NodeId, Term, Time};

/// Leadership on its way to another voter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    to: NodeId,
    /// When it is given up.
    pub(super) until: Time,
}

impl Raft {
    /// Hands leadership to the voter that is named, or to the one whose log is furthest along.
    pub(super) fn handle_transfer(&mut self, to: Option<NodeId>) {
        match self.successor(to) {
            Ok(to) => self.begin_transfer(to),
            Err(refusal) => self.effects.push(Effect::Refused(refusal)),
        }
    }

    pub(super) fn begin_transfer(&mut self, to: NodeId) {
        let until = self.now.after(self.election_timeout);
        if let Role::Leader(leader) = &mut self.role {
            leader.transfer = Some(Transfer { to, until });
        }
        self.hand_over();
    }

    /// This node as a leader that takes what clients ask.
    pub(super) fn open_leader(&self) -> Result<&Leader, Refusal> {
        let leader = self.leader();
        match &self.role {
            Role::Leader(Leader {
                transfer: Some(Transfer { to, .. }),
                ..
            }) => Err(Refusal::Transferring { to: *to }),
            Role::Leader(leader) => Ok(leader),
            _ => Err(Refusal::NotLeader { leader }),
        }
    }

    pub(super) fn successor(&self, to: Option<NodeId>) -> Result<NodeId, Refusal> {
        let peers = self.open_leader()?.peers.iter();
        let voters = peers.filter(|(id, _)| self.roster().voters().contains(id));
        let named = voters.filter(|(id, _)| to.is_none_or(|to| to == **id));
        // Of those equally far, who answered last.
        let best = named.max_by_key(|(id, peer)| (peer.matched, peer.round, Reverse(**id)));
        best.map(|(id, _)| *id).ok_or(Refusal::NoSuccessor)
    }

    /// Tells the successor to campaign once it has the leader's whole log. All of that is committed first,
    /// so that whatever was proposed before is answered here. Said again with each answer of its, since it
    /// may be lost.
    pub(super) fn hand_over(&mut self) {
        let last = self.log.last().index;
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        let Some(Transfer { to, .. }) = leader.transfer else {
            return;
        };
        let has_all = leader.peers.get(&to).is_some_and(|p| p.matched == last);
        if has_all && self.commit == last {
            leader.lease.given_up = true;
            self.send(to, Body::TimeoutNow);
        }
    }

    /// Goes on leading if nothing came of the transfer in time.
    pub(super) fn give_up_transfer(&mut self) {
        let now = self.now;
        if let Role::Leader(leader) = &mut self.role
            && leader
                .transfer
                .is_some_and(|transfer| now >= transfer.until)
        {
            leader.transfer = None;
            self.effects.push(Effect::TransferAbandoned);
        }
    }

    /// The leader wants this node to lead: campaigns as if the election timeout had passed and a majority
    /// had promised its votes.
    pub(super) fn handle_timeout_now(&mut self, from: NodeId, term: Term) {
        let follows =
            matches!(&self.role, Role::Follower(follower) if follower.leader == Some(from));
        if term == self.term && follows && self.may_campaign() {
            let last = self.log.last();
            self.campaign(Body::HandoverVote { last });
        }
    }
}
