//! Who runs the cluster: asks it to change its members and to hand leadership over, and hears what came of it.

use std::cell::RefCell;
use std::rc::Rc;

use super::Rng;
use super::birth::member;
use super::check::is_quorum;
use super::faults::Kind;
use super::trace::What;
use super::violation::{Property, Violated};
use super::workload::Workload;
use super::world::{World, id_of, index, index_of};
use crate::types::{Change, MemberRole, Membership, NodeId, Roster};

/// What an order asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Task {
    Change,
    Handover,
}

/// What came of an order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Done(u64),
    /// Nothing came of it, or nothing was begun.
    Not(u64),
    Unknown(u64),
}

type Ends = Rc<RefCell<Vec<Told>>>;

/// Something asked of a process. Dropped without an answer, it leaves the outcome unknown, as in life.
pub(super) struct Order {
    number: u64,
    ends: Ends,
    answered: bool,
}

impl Order {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn done(self) {
        let number = self.number;
        self.answer(Told::Done(number));
    }

    pub(super) fn refused(self) {
        let number = self.number;
        self.answer(Told::Not(number));
    }

    fn answer(mut self, told: Told) {
        self.answered = true;
        self.ends.borrow_mut().push(told);
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        if !self.answered {
            self.ends.borrow_mut().push(Told::Unknown(self.number));
        }
    }
}

/// All that was asked.
#[derive(Default)]
pub(super) struct Operator {
    ends: Ends,
    /// What each order was for, and whether it has ended.
    orders: Vec<(Task, bool)>,
    /// Changes that were done.
    pub(super) changes: u64,
    /// Handovers that were.
    pub(super) handovers: u64,
}

impl Operator {
    fn order(&mut self, task: Task) -> Order {
        self.orders.push((task, false));
        Order {
            number: self.orders.len() as u64 - 1,
            ends: Rc::clone(&self.ends),
            answered: false,
        }
    }

    /// What has come to an end since the last look.
    pub(super) fn ends(&self) -> Vec<Told> {
        self.ends.take()
    }

    pub(super) fn hear(&mut self, told: Told) -> Result<(), Violated> {
        let (Told::Done(number) | Told::Not(number) | Told::Unknown(number)) = told;
        let Some((task, ended)) = self.orders.get_mut(index(number)) else {
            return Err(Property::Outcome.violated(format!("order {number} was never given")));
        };
        if std::mem::replace(ended, true) {
            return Err(Property::Outcome.violated(format!("order {number} ends twice")));
        }
        match (told, task) {
            (Told::Done(_), Task::Change) => self.changes += 1,
            (Told::Done(_), Task::Handover) => self.handovers += 1,
            _ => {}
        }
        Ok(())
    }

    fn open(&self, task: Task) -> bool {
        self.orders.contains(&(task, false))
    }
}

impl<W: Workload> World<'_, W> {
    /// Asks a node to hand leadership over: to the one that is named, or to whoever is best.
    pub(super) fn hand_over(&mut self, node: usize, rng: &mut Rng) {
        let to = id_of(index(rng.below(self.nodes.len() as u64)));
        let to = rng.chance(50).then_some(to);
        let Some(process) = &mut self.nodes[node].process else {
            return;
        };
        let order = self.operator.order(Task::Handover);
        let what = What::Ordered(order.number());
        self.watch.trace.add(Some(id_of(node)), what);
        process.mail.transfers.push((to, order));
        self.see_to(node);
    }

    /// Asks for other members: mostly of whoever leads. Whom the change is about, `node` may say.
    pub(super) fn change_members(&mut self, kind: Kind, node: usize, rng: &mut Rng) {
        let any = index(rng.below(self.nodes.len() as u64));
        let asked = match rng.below(10) {
            0 => any,
            _ => self.leader().unwrap_or(any),
        };
        let process = self.nodes[asked].process.as_ref();
        let Some(current) = process.and_then(|process| process.membership()) else {
            return;
        };
        let changes = self.draw_changes(kind, node, current, rng);
        let wanted = current.changed(&changes).roster().clone();
        if changes.is_empty() || !self.can_bear(&wanted, current.roster()) {
            return;
        }
        for change in &changes {
            // It may have to begin with an empty disk, before it is asked for or after.
            if let Change::Set(member, _) = change {
                let pause = rng.below(2 * self.timeout());
                self.start_after(index_of(member.id), pause);
            }
        }
        let order = self.operator.order(Task::Change);
        let what = What::Ordered(order.number());
        self.watch.trace.add(Some(id_of(asked)), what);
        if let Some(process) = &mut self.nodes[asked].process {
            process.mail.changes.push((changes, order));
        }
        self.see_to(asked);
    }

    /// Whether those whose log is not damaged could decide something on the way there and then. Nobody asks for
    /// members that cannot; but that all are to go is asked, and must be refused.
    fn can_bear(&self, wanted: &Roster, current: &Roster) -> bool {
        let joint = wanted.clone().leaving(current);
        wanted.voters().is_empty() || self.can_decide(&joint, None)
    }

    /// Whether those whose log is not damaged are a quorum, also without one more.
    pub(super) fn can_decide(&self, roster: &Roster, without: Option<usize>) -> bool {
        is_quorum(roster, |id| {
            let node = self.nodes.get(index_of(id));
            Some(index_of(id)) != without && node.is_some_and(|node| !node.is_damaged)
        })
    }

    /// Whether so much is damaged where members changed at the same time that nothing can be decided any more.
    pub(super) fn is_hopeless(&self) -> bool {
        let rosters = self.watch.checker.in_force();
        rosters.iter().any(|roster| !self.can_decide(roster, None))
    }

    fn draw_changes(
        &self,
        kind: Kind,
        node: usize,
        current: &Membership,
        rng: &mut Rng,
    ) -> Vec<Change> {
        let roster = current.roster();
        let set = |id, role| Change::Set(member(id), role);
        let all = (0..self.nodes.len()).map(id_of);
        let is = |id: &NodeId, role| roster.role(*id) == Some(role);
        let mut one_of = |ids: Vec<NodeId>| {
            let at = index(rng.below(ids.len().max(1) as u64));
            (ids.get(at).copied(), rng.next_u64())
        };
        match kind {
            Kind::Addition => {
                let (new, draw) = one_of(all.filter(|id| !is(id, MemberRole::Voter)).collect());
                let role = [MemberRole::Voter, MemberRole::Joiner][index(draw % 2)];
                new.map(|id| set(id, role)).into_iter().collect()
            }
            Kind::Learner => {
                let (learner, draw) = one_of(
                    all.clone()
                        .filter(|id| is(id, MemberRole::Learner))
                        .collect(),
                );
                let (new, _) = one_of(all.filter(|id| !is(id, MemberRole::Voter)).collect());
                let change = match (learner, draw % 8) {
                    (_, 0) => Some(set(id_of(node), MemberRole::Learner)),
                    (Some(learner), 1..3) => Some(set(learner, MemberRole::Joiner)),
                    (Some(learner), 3..5) => Some(set(learner, MemberRole::Voter)),
                    _ => new.map(|id| set(id, MemberRole::Learner)),
                };
                change.into_iter().collect()
            }
            Kind::Removal => {
                let (any, _) = one_of(current.members().iter().map(|m| m.id).collect());
                let named = Some(id_of(node)).filter(|id| roster.role(*id).is_some());
                let gone = named.or(any);
                gone.map(Change::Remove).into_iter().collect()
            }
            _ => {
                let mut changes = Vec::new();
                for id in all {
                    let (_, draw) = one_of(Vec::new());
                    let votes = is(&id, MemberRole::Voter);
                    match draw % 8 {
                        0..2 if votes => changes.push(Change::Remove(id)),
                        2 if votes => changes.push(set(id, MemberRole::Learner)),
                        0..3 => changes.push(set(id, MemberRole::Voter)),
                        3 if !votes => changes.push(set(id, MemberRole::Joiner)),
                        _ => {}
                    }
                }
                changes
            }
        }
    }

    /// The operator hears what nodes have told.
    pub(super) fn hear_orders(&mut self) -> Result<(), Violated> {
        for told in self.operator.ends() {
            let what = match told {
                Told::Done(number) => What::Carried(number),
                Told::Not(number) => What::Spurned(number),
                Told::Unknown(number) => What::Adrift(number),
            };
            self.watch.trace.add(None, what);
            self.operator.hear(told)?;
        }
        Ok(())
    }

    /// Whether every order has ended, and the members are what the last one led to: the configuration is not
    /// joint, and nobody is still to become a voter but those who are damaged.
    pub(super) fn has_settled(&self) -> bool {
        let members = self.watch.checker.members();
        let ids = members.ids().into_iter();
        let joiners = ids.filter(|id| members.role(*id) == Some(MemberRole::Joiner));
        let (damaged, joining): (Vec<NodeId>, Vec<NodeId>) =
            joiners.partition(|id| self.nodes[index_of(*id)].is_out);
        joining.is_empty()
            && !members.is_joint()
            && !self.operator.open(Task::Handover)
            && (!damaged.is_empty() || !self.operator.open(Task::Change))
    }
}
