//! What a process does when it is asked for other members, or to hand leadership over.

use super::super::birth::Watch;
use super::super::operator::Order;
use super::super::violation::Property;
use super::{Halt, Process};
use crate::driver::{Carried, Handed};
use crate::raft::event::{Event, RoleName, Source, Status};
use crate::state_machine::StateMachine;
use crate::types::{Change, LogIndex, MemberRole, Membership, NodeId, Roster, Time};

/// Who waits for a change, and for what.
pub(super) struct Awaited {
    order: Order,
    wanted: Roster,
    joiners: Vec<NodeId>,
}

impl<M: StateMachine> Process<M> {
    /// The last configuration, committed or not; none if nobody has spoken to this node yet.
    pub(in crate::sim) fn membership(&self) -> Option<&Membership> {
        self.members.current()
    }

    pub(super) fn hand_over(
        &mut self,
        now: Time,
        (to, order): (Option<NodeId>, Order),
        watch: &mut Watch,
    ) -> Result<(), Halt> {
        match self.step(now, Event::Transfer { to }, &Carried::Nothing, watch)? {
            Some(_) => order.refused(),
            None => self.handover.begin(self.clock, order),
        }
        Ok(())
    }

    pub(super) fn change(
        &mut self,
        now: Time,
        (changes, order): (Vec<Change>, Order),
        watch: &mut Watch,
    ) -> Result<(), Halt> {
        let membership = self.members.changed(&changes);
        let wanted = membership.roster().clone();
        let event = Event::Change { to: wanted.clone() };
        let before = self.raft.pointers().last;
        let refused = self.step(now, event, &Carried::Members(membership.members()), watch)?;
        let index = self.raft.pointers().last.index;
        if refused.is_some() {
            if index != before.index {
                let what = "a change was refused, and begun all the same";
                return Err(Property::Outcome.violated(what).into());
            }
            order.refused();
            return Ok(());
        }
        watch.checker.taken(self.node, &wanted)?;
        let joiner = |change: &Change| match change {
            Change::Set(member, MemberRole::Joiner) => Some(member.id),
            _ => None,
        };
        let awaited = Awaited {
            order,
            joiners: changes.iter().filter_map(joiner).collect(),
            wanted,
        };
        self.members.wait(index, &changes, awaited);
        Ok(())
    }

    /// Configurations up to `upto` are committed: answers who waited for that.
    pub(super) fn commit_members(&mut self, upto: LogIndex, watch: &Watch) -> Result<(), Halt> {
        let mut over = Vec::new();
        self.members.commit(upto, |awaited, members| {
            over.push((awaited, members.clone()));
        });
        for (awaited, members) in over {
            let Awaited {
                order,
                wanted,
                joiners,
            } = awaited;
            let asked = (&wanted, &*joiners);
            watch.checker.changed(self.node, asked, &members)?;
            order.done();
        }
        Ok(())
    }

    /// This node's role, term or leader changed: answers who waited for that.
    pub(super) fn lead_or_follow(&mut self, status: Status, watch: &Watch) -> Result<(), Halt> {
        let leads = status.role == RoleName::Leader;
        if !leads {
            drop(self.proposals.abandon().collect::<Vec<_>>());
            drop(self.members.lose().collect::<Vec<_>>());
        }
        let ended = self.handover.status(status);
        self.handed(ended, watch)
    }

    /// Answers who waited for leadership to go over.
    pub(super) fn handed(&self, ended: Option<(Order, Handed)>, watch: &Watch) -> Result<(), Halt> {
        match ended {
            Some((order, Handed::To(leader))) => {
                let term = self.raft.status().term;
                watch.checker.handed_over(self.node, term, leader)?;
                order.done();
            }
            Some((order, Handed::Kept)) => order.refused(),
            // Dropped without an answer.
            Some((_, Handed::Unknown)) | None => {}
        }
        Ok(())
    }

    /// What this node knows of its members beside consensus is of the same ones.
    pub(super) fn knows_members(&self) -> Result<(), Halt> {
        let (known, counts) = (self.membership(), self.raft.roster());
        if known.is_none_or(|known| known.roster() == counts) {
            return Ok(());
        }
        let what = format!("node {} goes by {counts:?}, and knows {known:?}", self.id);
        Err(Property::Membership.violated(what).into())
    }

    /// While a leader hands over it takes no proposals.
    pub(super) fn takes(&self, source: Option<Source>) -> Result<(), Halt> {
        if self.hands_over() && source == Some(Source::Proposals) {
            let what = "takes proposals while it hands leadership over";
            return Err(self.broken(what));
        }
        Ok(())
    }

    /// That ends within an election timeout, or with two if it no longer leads.
    pub(super) fn gives_up(&self) -> Result<(), Halt> {
        let timeouts = if self.hands_over() { 1 } else { 2 };
        let since = self.handover.since();
        let until = since.map(|since| since.after(self.election_timeout * timeouts));
        if until.is_some_and(|until| self.clock > until) {
            return Err(self.broken("neither hands leadership over nor gives it up"));
        }
        Ok(())
    }

    fn hands_over(&self) -> bool {
        self.handover.since().is_some() && self.raft.status().role == RoleName::Leader
    }

    fn broken(&self, what: &str) -> Halt {
        let what = format!("node {} {what}", self.id);
        Property::Handover.violated(what).into()
    }
}
