//! The configurations of the log, with the addresses that consensus does not know, and who waits for a change.

use super::{Carried, Placed};
use crate::log::encode_membership;
use crate::raft::event::{NewEntries, Persist, Source};
use crate::types::{Change, LogIndex, Member, MemberRole, Membership, NodeId, Roster};

/// As consensus keeps them: the last that is known to be committed, and those behind it.
pub(crate) struct Members<S> {
    /// Ascending.
    list: Vec<Placed>,
    /// What is known while no configuration is.
    contacts: Membership,
    waiting: Vec<Waiting<S>>,
}

/// Who waits for a change.
struct Waiting<S> {
    /// The entry that began it.
    index: LogIndex,
    /// Who has to become a voter.
    joiners: Vec<NodeId>,
    slot: S,
}

/// What a write changes about the configurations.
#[derive(Default)]
pub(crate) struct Noted {
    /// Whether it changes anything.
    pub(crate) moved: bool,
    /// The one of this node's own that it holds, encoded; empty if it holds none.
    pub(crate) config: Vec<u8>,
}

impl<S> Members<S> {
    pub(crate) fn new(list: Vec<Placed>, contacts: &[Member]) -> Self {
        Self {
            list,
            contacts: Membership::of_voters(contacts.to_vec()),
            waiting: Vec::new(),
        }
    }

    /// The last configuration, committed or not; none in a new node that nobody has spoken to.
    pub(crate) fn current(&self) -> Option<&Membership> {
        self.list.last().map(|(_, membership)| membership)
    }

    /// What these changes would make of it.
    pub(crate) fn changed(&self, changes: &[Change]) -> Membership {
        let current = self.current().cloned().unwrap_or_default();
        current.changed(changes)
    }

    /// What is known of a node.
    pub(crate) fn find(&self, id: NodeId) -> Option<Member> {
        let configs = self.list.iter().rev().map(|(_, membership)| membership);
        let mut known = configs.chain(std::iter::once(&self.contacts));
        known.find_map(|membership| membership.member(id)).cloned()
    }

    /// All that there may be something to say to, each where it was last known to be.
    pub(crate) fn reachable(&self) -> Vec<Member> {
        let mut all: Vec<Member> = Vec::new();
        let configs = self.list.iter().rev().map(|(_, membership)| membership);
        for membership in configs.chain(std::iter::once(&self.contacts)) {
            for member in membership.members() {
                if all.iter().all(|known| known.id != member.id) {
                    all.push(member.clone());
                }
            }
        }
        all
    }

    /// Whether the last configuration has this node in it.
    pub(crate) fn has(&self, id: NodeId) -> bool {
        let member = |membership: &Membership| membership.member(id).is_some();
        self.current().is_some_and(member)
    }

    /// Takes note of what is about to be written: of configurations that are truncated, and of those that come,
    /// which count from now on. `roster` is the one that consensus goes by since the step that asked for it.
    pub(crate) fn note(
        &mut self,
        persist: &Persist,
        carried: &Carried<'_>,
        roster: &Roster,
    ) -> Noted {
        let mut noted = Noted::default();
        if let Some(from) = persist.truncate_from {
            noted.moved = self.truncate(from);
        }
        let Some(new) = &persist.entries else {
            return noted;
        };
        let placed = self.configs_of(new, carried, roster);
        noted.moved |= !placed.is_empty();
        if new.source == Source::Config {
            let own = placed.first();
            noted.config = own.map_or_else(Vec::new, |(_, own)| encode_membership(own));
        }
        self.list.extend(placed);
        noted
    }

    /// The configurations among new entries.
    fn configs_of(&self, new: &NewEntries, carried: &Carried<'_>, roster: &Roster) -> Vec<Placed> {
        match (new.source, carried) {
            (Source::Message, Carried::Message(_, placed)) => {
                let known = placed.partition_point(|(at, _)| *at <= new.range.prev.index);
                placed[known..].to_vec()
            }
            (Source::Config, _) => {
                let mut known = self.reachable();
                if let Carried::Members(members) = carried {
                    known.extend_from_slice(members);
                }
                let own = Membership::new(roster.clone(), &known);
                vec![(new.range.last.index, own)]
            }
            _ => Vec::new(),
        }
    }

    /// The entries from `from` on are no more. Says whether there was a configuration among them.
    fn truncate(&mut self, from: LogIndex) -> bool {
        let kept = self.list.partition_point(|(index, _)| *index < from);
        let reverts = kept < self.list.len();
        self.list.truncate(kept);
        reverts
    }

    /// A snapshot, whose last configuration this is, takes the place of the log. Gives who waited for a change
    /// that was there: they cannot know what came of it.
    pub(crate) fn reset(
        &mut self,
        index: LogIndex,
        membership: Membership,
    ) -> impl Iterator<Item = S> {
        self.list = vec![(index, membership)];
        self.lose()
    }

    /// Forgets what will not count again, and gives `over` who waited for what is committed now, with what the
    /// members are then. Says whether anything was forgotten.
    pub(crate) fn commit(&mut self, upto: LogIndex, mut over: impl FnMut(S, &Membership)) -> bool {
        let committed = self.list.partition_point(|(index, _)| *index <= upto);
        let before = committed.saturating_sub(1);
        self.list.drain(..before);
        if committed > 0 {
            let (index, membership) = &self.list[0];
            for waiting in self
                .waiting
                .extract_if(.., |w| w.is_over(*index, membership))
            {
                over(waiting.slot, membership);
            }
        }
        before > 0
    }

    /// Somebody waits for these changes, which the entry at `index` began.
    pub(crate) fn wait(&mut self, index: LogIndex, changes: &[Change], slot: S) {
        let joiner = |change: &Change| match change {
            Change::Set(member, MemberRole::Joiner) => Some(member.id),
            _ => None,
        };
        self.waiting.push(Waiting {
            index,
            joiners: changes.iter().filter_map(joiner).collect(),
            slot,
        });
    }

    /// All that wait, when this node no longer leads: what becomes of the changes, others decide.
    pub(crate) fn lose(&mut self) -> impl Iterator<Item = S> {
        self.waiting.drain(..).map(|waiting| waiting.slot)
    }
}

impl<S> Waiting<S> {
    /// Whether the change has ended with the configuration at `index`, which is committed.
    fn is_over(&self, index: LogIndex, membership: &Membership) -> bool {
        let roster = membership.roster();
        let joining = |id: &NodeId| roster.role(*id) == Some(MemberRole::Joiner);
        index >= self.index && !roster.is_joint() && !self.joiners.iter().any(joining)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[u64]) -> Membership {
        Membership::of_voters(ids.iter().map(|&id| Member {
            id: NodeId(id),
            addr: format!("node-{id}"),
            client_addr: String::new(),
        }))
    }

    #[test]
    fn a_snapshot_leaves_no_configuration_but_its_own_and_ends_the_wait_for_a_change() {
        let list = vec![
            (LogIndex(1), members(&[1, 2])),
            (LogIndex(8), members(&[1, 2, 3])),
        ];
        let mut all = Members::new(list, &[]);
        all.wait(LogIndex(8), &[], "who waits");
        let lost: Vec<_> = all.reset(LogIndex(20), members(&[1, 4])).collect();
        assert_eq!(lost, ["who waits"]);
        assert_eq!(all.current(), Some(&members(&[1, 4])));
        assert_eq!(all.reachable(), members(&[1, 4]).members());
        assert!(all.has(NodeId(4)) && !all.has(NodeId(3)));
        assert!(!all.truncate(LogIndex(21)), "it is committed");
    }
}
