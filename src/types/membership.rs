//! Who belongs to a cluster, and who of them votes (thesis, chapter 4).

use std::collections::BTreeSet;

use super::{Member, NodeId};

/// What a member may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MemberRole {
    /// Has a vote, in elections and on what is committed.
    Voter,
    /// Gets every entry and has no vote, until it is made a voter.
    Learner,
    /// Gets every entry, and becomes a voter by itself once it has caught up (thesis, section 4.2.1). Who is a
    /// voter already stays one.
    Joiner,
}

/// One step of a change of members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// This member is to have this role. It is added, or what was known of it is replaced.
    Set(Member, MemberRole),
    /// This node is to be a member no more.
    Remove(NodeId),
}

/// A configuration without addresses: all that consensus needs to know.
///
/// While the voters change by more than one it is **joint** (thesis, section 4.3): nothing is decided without
/// a majority of `voters` and one of `outgoing`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Roster {
    voters: BTreeSet<NodeId>,
    outgoing: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    joiners: BTreeSet<NodeId>,
}

impl Roster {
    /// These vote, and there is nobody else.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The same with `id` in this role, and in no other.
    #[must_use]
    pub fn with(mut self, id: NodeId, role: MemberRole) -> Self {
        self = self.without(id);
        let set = match role {
            MemberRole::Voter => &mut self.voters,
            MemberRole::Learner => &mut self.learners,
            MemberRole::Joiner => &mut self.joiners,
        };
        set.insert(id);
        self
    }

    /// The same without `id`. If it is joint, `id` goes on voting as one that leaves.
    #[must_use]
    pub fn without(mut self, id: NodeId) -> Self {
        for set in [&mut self.voters, &mut self.learners, &mut self.joiners] {
            set.remove(&id);
        }
        self
    }

    /// On the way from the voters of `before` to this: joint, with those as the outgoing ones.
    #[must_use]
    pub fn leaving(mut self, before: &Self) -> Self {
        self.outgoing.clone_from(&before.voters);
        self
    }

    /// What a joint configuration leads to.
    #[must_use]
    pub fn left(mut self) -> Self {
        self.outgoing.clear();
        self
    }

    /// Those who vote; of a joint configuration, those who will.
    #[must_use]
    pub const fn voters(&self) -> &BTreeSet<NodeId> {
        &self.voters
    }

    /// Those who voted before, while it is joint; else nobody.
    #[must_use]
    pub const fn outgoing(&self) -> &BTreeSet<NodeId> {
        &self.outgoing
    }

    /// Whether it is between two configurations.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` has a vote now.
    #[must_use]
    pub fn votes(&self, id: NodeId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// What `id` is, or will be once a joint configuration has been left; none if nothing.
    #[must_use]
    pub fn role(&self, id: NodeId) -> Option<MemberRole> {
        if self.voters.contains(&id) {
            Some(MemberRole::Voter)
        } else if self.learners.contains(&id) {
            Some(MemberRole::Learner)
        } else if self.joiners.contains(&id) {
            Some(MemberRole::Joiner)
        } else {
            None
        }
    }

    /// Everyone who takes part in any way, in ascending order.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<NodeId> {
        let sets = [&self.voters, &self.outgoing, &self.learners, &self.joiners];
        sets.into_iter().flatten().copied().collect()
    }

    /// By how many voters this differs from `other`.
    #[must_use]
    pub fn distance(&self, other: &Self) -> usize {
        self.voters.symmetric_difference(&other.voters).count()
    }
}

/// A configuration of a cluster: its members, where they are reached, and who votes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// In the order of their ids; exactly those of the roster.
    members: Vec<Member>,
    roster: Roster,
}

impl Membership {
    /// All of these vote. Of several of one id the last counts.
    #[must_use]
    pub fn of_voters(members: impl IntoIterator<Item = Member>) -> Self {
        let members: Vec<Member> = members.into_iter().collect();
        let roster = Roster::of_voters(members.iter().map(|member| member.id));
        Self::new(roster, &members)
    }

    /// This roster, with the addresses of `known`, of which the last of an id counts. Who is not among them
    /// has none.
    #[must_use]
    pub fn new(roster: Roster, known: &[Member]) -> Self {
        let find = |id| known.iter().rev().find(|member| member.id == id).cloned();
        let bare = |id| Member {
            id,
            addr: String::new(),
            client_addr: String::new(),
        };
        let ids = roster.ids();
        Self {
            members: ids
                .into_iter()
                .map(|id| find(id).unwrap_or_else(|| bare(id)))
                .collect(),
            roster,
        }
    }

    /// What these changes, one after the other, make of it.
    #[must_use]
    pub fn changed(&self, changes: &[Change]) -> Self {
        let mut known = self.members.clone();
        let mut roster = self.roster.clone();
        for change in changes {
            match change {
                Change::Set(member, role) => {
                    known.push(member.clone());
                    let votes = roster.role(member.id) == Some(MemberRole::Voter);
                    if !votes || *role != MemberRole::Joiner {
                        roster = roster.with(member.id, *role);
                    }
                }
                Change::Remove(id) => roster = roster.without(*id),
            }
        }
        Self::new(roster, &known)
    }

    /// All members, in the order of their ids. While it is joint, those who leave are among them.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member of this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&id, |member| member.id);
        at.ok().map(|at| &self.members[at])
    }

    /// Who votes.
    #[must_use]
    pub const fn roster(&self) -> &Roster {
        &self.roster
    }
}
