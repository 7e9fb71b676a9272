//! The configurations of the log, with the addresses that consensus does not know, and who waits for a change.

use super::outcome::{Error, Slot};
use crate::driver::Placed;
use crate::types::{LogIndex, Member, MemberRole, Membership, NodeId};

/// As consensus keeps them: the last that is known to be committed, and those behind it.
pub(super) struct Members {
    /// Ascending.
    list: Vec<Placed>,
    /// What is known while no configuration is.
    contacts: Membership,
    waiting: Vec<Waiting>,
}

/// Who waits for a change.
struct Waiting {
    /// The entry that began it.
    index: LogIndex,
    /// Who has to become a voter.
    joiners: Vec<NodeId>,
    slot: Slot<Membership>,
}

impl Members {
    pub(super) fn new(list: Vec<Placed>, contacts: &[Member]) -> Self {
        Self {
            list,
            contacts: Membership::of_voters(contacts.to_vec()),
            waiting: Vec::new(),
        }
    }

    /// The last configuration, committed or not; none in a new node that nobody has spoken to.
    pub(super) fn current(&self) -> Option<&Membership> {
        self.list.last().map(|(_, membership)| membership)
    }

    /// What is known of a node.
    pub(super) fn find(&self, id: NodeId) -> Option<Member> {
        let configs = self.list.iter().rev().map(|(_, membership)| membership);
        let mut known = configs.chain(std::iter::once(&self.contacts));
        known.find_map(|membership| membership.member(id)).cloned()
    }

    /// All that there may be something to say to, each where it was last known to be.
    pub(super) fn reachable(&self) -> Vec<Member> {
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

    pub(super) fn append(&mut self, index: LogIndex, membership: Membership) {
        self.list.push((index, membership));
    }

    /// Whether the last configuration has this node in it.
    pub(super) fn has(&self, id: NodeId) -> bool {
        let member = |membership: &Membership| membership.member(id).is_some();
        self.current().is_some_and(member)
    }

    /// A snapshot, whose last configuration this is, takes the place of the log. Who waits for a change that was
    /// there cannot know what came of it.
    pub(super) fn reset(&mut self, index: LogIndex, membership: Membership) {
        self.list = vec![(index, membership)];
        self.lose();
    }

    /// The entries from `from` on are no more. Says whether there was a configuration among them.
    pub(super) fn truncate(&mut self, from: LogIndex) -> bool {
        let kept = self.list.partition_point(|(index, _)| *index < from);
        let reverts = kept < self.list.len();
        self.list.truncate(kept);
        reverts
    }

    /// Forgets what will not count again, and answers who waited for what is committed now. Says whether
    /// anything was forgotten.
    pub(super) fn commit(&mut self, upto: LogIndex) -> bool {
        let committed = self.list.partition_point(|(index, _)| *index <= upto);
        let before = committed.saturating_sub(1);
        self.list.drain(..before);
        if committed > 0 {
            let (index, membership) = &self.list[0];
            for waiting in self
                .waiting
                .extract_if(.., |w| w.is_over(*index, membership))
            {
                waiting.slot.complete(Ok(membership.clone()));
            }
        }
        before > 0
    }

    pub(super) fn wait(&mut self, index: LogIndex, joiners: Vec<NodeId>, slot: Slot<Membership>) {
        self.waiting.push(Waiting {
            index,
            joiners,
            slot,
        });
    }

    /// This node no longer leads: what becomes of the changes, others decide.
    pub(super) fn lose(&mut self) {
        for waiting in self.waiting.drain(..) {
            waiting.slot.complete(Err(Error::OutcomeUnknown));
        }
    }
}

impl Waiting {
    /// Whether the change has ended with the configuration at `index`, which is committed.
    fn is_over(&self, index: LogIndex, membership: &Membership) -> bool {
        let roster = membership.roster();
        let joining = |id: &NodeId| roster.role(*id) == Some(MemberRole::Joiner);
        index >= self.index && !roster.is_joint() && !self.joiners.iter().any(joining)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::outcome::{Budget, promise};
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
        let (slot, change) = promise(Arc::new(Budget::new(1, 1)).take(0).unwrap());
        all.wait(LogIndex(8), Vec::new(), slot);
        all.reset(LogIndex(20), members(&[1, 4]));
        assert_eq!(all.current(), Some(&members(&[1, 4])));
        assert_eq!(all.reachable(), members(&[1, 4]).members());
        assert!(all.has(NodeId(4)) && !all.has(NodeId(3)));
        assert_eq!(change.wait(), Err(Error::OutcomeUnknown));
        assert!(!all.truncate(LogIndex(21)), "it is committed");
    }
}
