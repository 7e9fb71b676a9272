//! Who waits for leadership to go over to another node.

use std::time::Duration;

use crate::raft::event::{RoleName, Status};
use crate::types::{NodeId, Time};

/// The one handover that may be under way. It ends with another leader, with this one, or, two election timeouts
/// after it began, unknown: who was deposed meanwhile, or removed, need not hear of a leader ever again.
pub(crate) struct Handover<S> {
    patience: Duration,
    /// Since when, and who waits.
    open: Option<(Time, S)>,
}

/// Where leadership is after a handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Handed {
    /// With another node.
    To(NodeId),
    /// Where it was.
    Kept,
    /// Nobody knows here.
    Unknown,
}

impl<S> Handover<S> {
    pub(crate) const fn new(election_timeout: Duration) -> Self {
        Self {
            patience: election_timeout.saturating_mul(2),
            open: None,
        }
    }

    /// Consensus has begun to hand over.
    pub(crate) fn begin(&mut self, now: Time, slot: S) {
        self.open = Some((now, slot));
    }

    /// Since when one is under way.
    #[cfg(feature = "sim")]
    pub(crate) fn since(&self) -> Option<Time> {
        self.open.as_ref().map(|(since, _)| *since)
    }

    /// Consensus has given it up: this node leads on.
    pub(crate) fn abandoned(&mut self) -> Option<(S, Handed)> {
        self.end(Handed::Kept)
    }

    /// This node's role, term or leader changed.
    pub(crate) fn status(&mut self, status: Status) -> Option<(S, Handed)> {
        self.end(match (status.role, status.leader?) {
            (RoleName::Leader, _) => Handed::Kept,
            (_, leader) => Handed::To(leader),
        })
    }

    /// It is `now`.
    pub(crate) fn overdue(&mut self, now: Time) -> Option<(S, Handed)> {
        let (since, _) = self.open.as_ref()?;
        if now < since.after(self.patience) {
            return None;
        }
        self.end(Handed::Unknown)
    }

    fn end(&mut self, handed: Handed) -> Option<(S, Handed)> {
        self.open.take().map(|(_, slot)| (slot, handed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Term;

    fn open() -> Handover<&'static str> {
        let mut handover = Handover::new(Duration::from_micros(50));
        handover.begin(Time(100), "who waits");
        handover
    }

    const fn is(role: RoleName, leader: Option<NodeId>) -> Status {
        Status {
            role,
            term: Term(2),
            leader,
        }
    }

    #[test]
    fn a_handover_ends_once_it_is_known_who_leads() {
        let (one, two) = (Some(NodeId(1)), Some(NodeId(2)));
        let mut handover = open();
        assert_eq!(handover.status(is(RoleName::Follower, None)), None);
        let to = Some(("who waits", Handed::To(NodeId(2))));
        assert_eq!(handover.status(is(RoleName::Follower, two)), to);
        assert_eq!(handover.status(is(RoleName::Follower, two)), None, "once");
        let kept = Some(("who waits", Handed::Kept));
        assert_eq!(open().status(is(RoleName::Leader, one)), kept);
        assert_eq!(open().abandoned(), kept);
    }

    #[test]
    fn who_hears_of_no_leader_any_more_does_not_wait_for_ever() {
        let mut handover = open();
        assert_eq!(handover.overdue(Time(199)), None);
        let unknown = Some(("who waits", Handed::Unknown));
        assert_eq!(handover.overdue(Time(200)), unknown);
        assert_eq!(handover.overdue(Time(300)), None);
    }
}
