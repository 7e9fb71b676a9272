//! Who counts: elections, commits and changes of members, judged by the configurations in the nodes' logs.
//!
//! A configuration counts on a node from its append to its truncation, or until the next. Here that is read off
//! the logs alone, and quorums are counted anew, so that consensus is not judged by its own word.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checked, Checker, Committed, Shadow, id_of, place, term_at};
use crate::log::{NewEntry, decode_membership};
use crate::raft::event::Status;
use crate::raft::message::{Body, Message};
use crate::sim::birth::member;
use crate::sim::violation::Property;
use crate::types::{EntryKind, LogId, LogIndex, Membership, NodeId, Roster, Term};

/// All configurations that there ever were, by their entries, and which of them counts where.
pub(super) struct Rosters {
    known: BTreeMap<LogIndex, Vec<(Term, Roster)>>,
    /// The entry of the one that counted on each node after its last step. It is the one that the next step
    /// goes by.
    counted: Vec<Option<LogId>>,
    /// Where nobody is known to vote.
    nobody: Roster,
}

impl Rosters {
    /// Those of so many nodes, where so many are the members from the first entry on.
    pub(super) fn new(nodes: usize, members: usize, term: Term) -> Self {
        let first = Roster::of_voters((0..members).map(id_of));
        Self {
            known: BTreeMap::from([(LogIndex(1), vec![(term, first)])]),
            counted: vec![None; nodes],
            nobody: Roster::default(),
        }
    }

    /// An entry is somewhere in a log.
    pub(super) fn learn(&mut self, index: LogIndex, entry: &NewEntry<'_>) -> Checked {
        if entry.kind != EntryKind::Config {
            return Ok(());
        }
        let known = self.known.entry(index).or_default();
        if known.iter().any(|(term, _)| *term == entry.term) {
            return Ok(());
        }
        let broken = |what: String| Err(Property::Membership.violated(what));
        let Ok(membership) = decode_membership(&entry.payload) else {
            return broken(format!("the configuration at {index} cannot be read"));
        };
        let changed = membership.members().iter();
        let mut changed = changed.filter(|found| **found != member(found.id));
        if let Some(found) = changed.next() {
            return broken(format!("the configuration at {index} has {found:?}"));
        }
        known.push((entry.term, membership.roster().clone()));
        Ok(())
    }

    /// The last configuration of a log that has these entries.
    fn last(&self, has: impl Fn(LogId) -> bool) -> Option<LogId> {
        self.all(has).next().map(|(id, _)| id)
    }

    /// All configurations of a log that has these entries, the last first.
    fn all(&self, has: impl Fn(LogId) -> bool) -> impl Iterator<Item = (LogId, &Roster)> {
        let known = self.known.iter().rev();
        known.filter_map(move |(&index, list)| {
            let mut found = list.iter().map(|(term, r)| (LogId::new(*term, index), r));
            found.find(|(id, _)| has(*id))
        })
    }

    fn get(&self, id: Option<LogId>) -> &Roster {
        let list = id.and_then(|id| Some((id.term, self.known.get(&id.index)?)));
        let found = list.and_then(|(term, list)| list.iter().find(|(own, _)| *own == term));
        found.map_or(&self.nobody, |(_, roster)| roster)
    }
}

/// Whether those who agree are a majority of the voters, and of those who leave.
pub(in crate::sim) fn is_quorum(roster: &Roster, agrees: impl Fn(NodeId) -> bool) -> bool {
    let majority = |voters: &BTreeSet<NodeId>| {
        let agree = voters.iter().filter(|id| agrees(**id)).count();
        2 * agree > voters.len()
    };
    majority(roster.voters()) && (roster.outgoing().is_empty() || majority(roster.outgoing()))
}

/// Where a node stands among all.
fn place_of(id: NodeId) -> Option<usize> {
    place(LogIndex(id.0)).checked_sub(1)
}

impl Checker {
    /// The configuration that counts on a node now.
    fn counts(&self, node: usize) -> Option<LogId> {
        self.rosters.last(|id| self.nodes[node].has(id))
    }

    /// The same, as it is.
    pub(super) fn roster(&self, node: usize) -> &Roster {
        self.rosters.get(self.counts(node))
    }

    /// The last committed configuration.
    pub(in crate::sim) fn members(&self) -> &Roster {
        let committed = |id| self.is_committed(id);
        self.rosters.get(self.rosters.last(committed))
    }

    /// The last committed configuration up to `index`.
    pub(super) fn config_at(&self, index: LogIndex) -> LogId {
        let before = |id: LogId| id.index <= index && self.is_committed(id);
        self.rosters.last(before).unwrap_or_default()
    }

    /// All configurations that the cluster may have to go by: the last committed one, and those that count on
    /// some node and are not committed.
    pub(in crate::sim) fn in_force(&self) -> Vec<&Roster> {
        let last = self.last_committed();
        let nodes = (0..self.nodes.len()).filter_map(|node| self.counts(node));
        let open = nodes.filter(|id| id.index > last);
        let open = open.map(|id| self.rosters.get(Some(id)));
        std::iter::once(self.members()).chain(open).collect()
    }

    /// By how many entries the member that is furthest behind is behind what is committed.
    pub(in crate::sim) fn lag(&self) -> u64 {
        let last = self.last_committed().0;
        let rosters = self.in_force().into_iter();
        let members = rosters.flat_map(Roster::ids);
        let shadows = members.filter_map(|id| self.nodes.get(place_of(id)?));
        let lags = shadows.map(|shadow| last.saturating_sub(shadow.committed.0));
        lags.max().unwrap_or(0)
    }

    /// A process begins: its log has a configuration that counts, or none.
    pub(super) fn begins(&mut self, node: usize) {
        self.rosters.counted[node] = self.counts(node);
    }

    /// Nobody has committed this entry before.
    pub(super) fn newly_committed(
        &mut self,
        node: usize,
        entry: LogId,
        upto: LogId,
        status: Status,
    ) -> Checked {
        let id = id_of(node);
        let by = self.committed.last().map_or(Term::ZERO, |last| last.by);
        self.committed.push(Committed {
            term: entry.term,
            by: by.max(status.term),
        });
        if entry.index < upto.index {
            return Ok(());
        }
        let roster = self.rosters.get(self.rosters.counted[node]);
        let has = |id| place_of(id).is_some_and(|at| self.has_durably(at, entry));
        if !is_quorum(roster, has) {
            let copies = (0..self.nodes.len()).map(id_of).filter(|id| has(*id));
            let copies: Vec<u64> = copies.map(|id| id.0).collect();
            return Err(Property::Quorum.violated(format!(
                "node {id} commits {entry} in term {}, which is durable on {copies:?}, and goes by {roster:?}",
                status.term
            )));
        }
        if let Some(rival) = self.rival(entry) {
            return Err(Property::LeaderCompleteness.violated(format!(
                "node {id} commits {entry} in term {}, though node {}, which lacks it, can be elected yet",
                status.term,
                id_of(rival)
            )));
        }
        for (at, shadow) in self.nodes.iter().enumerate() {
            let later = shadow.leads.filter(|&leads| leads > status.term);
            if let Some(leads) = later
                && !shadow.has(entry)
            {
                return Err(Property::LeaderCompleteness.violated(format!(
                    "node {id} commits {entry} in term {}, which node {}, leader of term {leads}, has not",
                    status.term,
                    id_of(at)
                )));
            }
        }
        Ok(())
    }

    /// A node that lacks this entry and whose log is up to date enough for a quorum's votes (section 5.4.1), as
    /// the configuration in that log has it.
    fn rival(&self, entry: LogId) -> Option<usize> {
        let mut rivals = (0..self.nodes.len()).filter(|&rival| !self.has_durably(rival, entry));
        rivals.find(|&rival| {
            let roster = self.rosters.last(|id| self.has_durably(rival, id));
            let last = self.last_durable(rival);
            let votes = |voter: usize| self.last_durable(voter) <= last;
            is_quorum(self.rosters.get(roster), |id| {
                place_of(id).is_some_and(votes)
            })
        })
    }

    pub(super) fn elected(&mut self, node: usize, term: Term) -> Checked {
        let (id, shadow) = (id_of(node), &mut self.nodes[node]);
        shadow.leads = Some(term);
        self.elections += 1;
        let who = (id, shadow.life);
        let first = *self.leaders.entry(term).or_insert(who);
        if first != who {
            return Err(Property::ElectionSafety.violated(format!(
                "node {id} leads term {term}, which node {} was elected in",
                first.0
            )));
        }
        let own = self.nodes[node].hard_state;
        let own = (own.term, own.vote) == (term, Some(id));
        let votes = |voter: NodeId| {
            let voted = self.votes.get(&(voter, term)) == Some(&id);
            if voter == id { own } else { voted }
        };
        let roster = self.rosters.get(self.rosters.counted[node]);
        if !is_quorum(roster, votes) {
            let votes = (0..self.nodes.len()).map(id_of).filter(|id| votes(*id));
            let votes: Vec<u64> = votes.map(|id| id.0).collect();
            return Err(Property::ElectionSafety.violated(format!(
                "node {id} leads term {term} with the durable votes of {votes:?}, and goes by {roster:?}"
            )));
        }
        let before = self.committed.partition_point(|entry| entry.by < term);
        let Some(last) = self.committed[..before].last() else {
            return Ok(());
        };
        let last = LogId::new(last.term, LogIndex(before as u64));
        if self.nodes[node].has(last) {
            return Ok(());
        }
        Err(Property::LeaderCompleteness.violated(format!(
            "node {id} leads term {term}, and lacks {last}, which was committed in an earlier one"
        )))
    }

    /// After a step: consensus goes by the last configuration of its log, a leader changed no more than it may,
    /// and who is no member any more does not lead.
    pub(super) fn goes_by(&mut self, node: usize, roster: &Roster) -> Checked {
        let counts = self.counts(node);
        let before = std::mem::replace(&mut self.rosters.counted[node], counts);
        let (id, now) = (id_of(node), self.rosters.get(counts));
        let broken = |what: String| Err(Property::Membership.violated(what));
        if now != roster {
            return broken(format!(
                "node {id} goes by {roster:?}, and the last in its log is {now:?}"
            ));
        }
        let Shadow {
            leads, committed, ..
        } = self.nodes[node];
        let (Some(term), Some(counts)) = (leads, counts) else {
            return Ok(());
        };
        if counts.index <= committed && !now.is_joint() && !now.votes(id) {
            return broken(format!(
                "node {id} leads on, though {now:?} is committed at {counts}"
            ));
        }
        if Some(counts) == before {
            return Ok(());
        }
        let last = term_at(&self.nodes[node].staged, committed);
        if last != Some(term) {
            return broken(format!(
                "node {id} changes the members at {counts}, and has committed nothing of term {term} yet"
            ));
        }
        if before.is_some_and(|before| before.index > committed) {
            return broken(format!(
                "node {id} changes the members at {counts}, and the change before is not committed"
            ));
        }
        let was = self.rosters.get(before);
        if !follows(was, now) {
            return broken(format!("node {id} goes from {was:?} to {now:?}"));
        }
        Ok(())
    }

    /// A node decides to send a message: who campaigns may vote, and who is told to is as far as the leader.
    pub(in crate::sim) fn says(&self, node: usize, to: NodeId, message: &Message) -> Checked {
        let (id, shadow) = (id_of(node), &self.nodes[node]);
        match message.body {
            Body::PreVote { .. } | Body::Vote { .. } | Body::HandoverVote { .. } => {
                let mut decided = false;
                let all = self.rosters.all(|id| shadow.has(id));
                let mut open = all.take_while(|(at, _)| {
                    !std::mem::replace(&mut decided, at.index <= shadow.committed)
                });
                if open.any(|(_, roster)| roster.votes(id)) {
                    return Ok(());
                }
                Err(Property::Membership.violated(format!("node {id} campaigns, and has no vote")))
            }
            Body::TimeoutNow => {
                let last = LogIndex(shadow.staged.len() as u64);
                let last = LogId::new(term_at(&shadow.staged, last).unwrap_or_default(), last);
                // Who moved on to a later term may have forgotten what it told this leader, and does not heed it.
                let heeds = |to: usize| self.nodes[to].hard_state.term <= message.term;
                let whole = place_of(to).is_some_and(|to| !heeds(to) || self.has_durably(to, last));
                let roster = self.roster(node);
                if whole && roster.voters().contains(&to) {
                    return Ok(());
                }
                Err(Property::Handover.violated(format!(
                    "node {id} hands over to node {to}, which is no voter of {roster:?} or lacks {last}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// A change has been taken: it is to end with `wanted`.
    pub(in crate::sim) fn taken(&self, node: usize, wanted: &Roster) -> Checked {
        let begun = self.roster(node);
        if begun.clone().left() == *wanted {
            return Ok(());
        }
        Err(Property::Membership.violated(format!(
            "node {} is asked for {wanted:?}, and begins {begun:?}",
            id_of(node)
        )))
    }

    /// A change has ended with `members`. If it had joiners, others may have come between.
    pub(in crate::sim) fn changed(
        &self,
        node: usize,
        (wanted, joiners): (&Roster, &[NodeId]),
        members: &Membership,
    ) -> Checked {
        let shadow = &self.nodes[node];
        let done = members.roster();
        let committed = |id: LogId| id.index <= shadow.committed && shadow.has(id);
        let last = self.rosters.get(self.rosters.last(committed));
        let joined =
            |id: &NodeId| !matches!(done.role(*id), Some(crate::types::MemberRole::Joiner));
        let as_asked = if joiners.is_empty() {
            done == wanted
        } else {
            joiners.iter().all(joined)
        };
        if as_asked && done == last && !done.is_joint() {
            return Ok(());
        }
        Err(Property::Outcome.violated(format!(
            "node {} was asked for {wanted:?} and says that it is done with {done:?}, where {last:?} is \
             committed",
            id_of(node)
        )))
    }

    /// A leader says that another node leads, as it was asked.
    pub(in crate::sim) fn handed_over(&self, node: usize, term: Term, to: NodeId) -> Checked {
        let leads = self.leaders.get(&term).map(|(id, _)| *id);
        if leads == Some(to) && to != id_of(node) {
            return Ok(());
        }
        Err(Property::Handover.violated(format!(
            "node {} says that {to} leads term {term}, and who was elected is {leads:?}",
            id_of(node)
        )))
    }
}

/// Whether a leader may go from one configuration to the other in one step: by one voter, into a joint one, or
/// from a joint one to what it leads to (thesis, chapter 4).
fn follows(was: &Roster, now: &Roster) -> bool {
    let step = if was.is_joint() {
        *now == was.clone().left()
    } else if now.is_joint() {
        now.outgoing() == was.voters()
    } else {
        was.voters().symmetric_difference(now.voters()).count() <= 1
    };
    step && !now.voters().is_empty()
}
