//! What a quorum is: a majority of the voters, and while a configuration is joint also one of those who voted
//! before (thesis, section 4.3).
//!
//! All of consensus asks here and counts nowhere else.

use std::collections::BTreeSet;

use crate::types::{NodeId, Roster};

impl Roster {
    /// Whether those who agree are a quorum. Where nobody votes nothing is ever decided.
    pub(super) fn is_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        let majority = |voters: &BTreeSet<NodeId>| {
            voters.iter().filter(|&&id| agrees(id)).count() > voters.len() / 2
        };
        majority(self.voters()) && (!self.is_joint() || majority(self.outgoing()))
    }

    /// The highest value that a quorum has reached, where each has reached all up to its own; none if nobody
    /// votes.
    pub(super) fn agreed<T: Ord + Copy>(&self, reached: impl Fn(NodeId) -> T) -> Option<T> {
        let of_majority = |voters: &BTreeSet<NodeId>| {
            let mut values: Vec<T> = voters.iter().map(|&id| reached(id)).collect();
            values.sort_unstable();
            // So many are below it that a majority is not.
            let below = values.len().checked_sub(1)? / 2;
            values.get(below).copied()
        };
        let incoming = of_majority(self.voters())?;
        let outgoing = of_majority(self.outgoing());
        Some(outgoing.map_or(incoming, |outgoing| incoming.min(outgoing)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: u32 = 5;

    /// The nodes whose bit is set.
    fn set(bits: u32) -> BTreeSet<NodeId> {
        let ids = (0..NODES).filter(|bit| bits & (1 << bit) != 0);
        ids.map(|bit| NodeId(u64::from(bit))).collect()
    }

    fn has(bits: u32) -> impl Fn(NodeId) -> bool {
        move |id| bits & (1 << id.0) != 0
    }

    fn all() -> std::ops::Range<u32> {
        0..1 << NODES
    }

    fn joint(voters: u32, outgoing: u32) -> Roster {
        Roster::of_voters(set(voters)).leaving(&Roster::of_voters(set(outgoing)))
    }

    /// All pairs of voters before and after, nobody before meaning that it is not joint, with every set of
    /// nodes that may agree.
    #[test]
    fn a_quorum_is_a_majority_of_the_voters_and_of_those_who_leave() {
        for voters in all() {
            for outgoing in all() {
                let roster = joint(voters, outgoing);
                for agree in all() {
                    let of = |voters: u32| {
                        let yes = (voters & agree).count_ones();
                        2 * yes > voters.count_ones()
                    };
                    let expected = of(voters) && (outgoing == 0 || of(outgoing));
                    assert_eq!(
                        roster.is_quorum(has(agree)),
                        expected,
                        "{voters:05b} {outgoing:05b}: {agree:05b}"
                    );
                }
            }
        }
    }

    /// What is agreed is what the definition says: the highest value that a quorum is at or beyond.
    #[test]
    fn what_is_agreed_is_the_highest_value_that_a_quorum_has_reached() {
        let values = 3_u32;
        for voters in all() {
            for outgoing in all() {
                let roster = joint(voters, outgoing);
                for case in 0..values.pow(NODES) {
                    let reached = |id: NodeId| case / values.pow(id.0 as u32) % values;
                    let is = |value| roster.is_quorum(|id| reached(id) >= value);
                    let expected = (0..values).rev().find(|value| is(*value));
                    assert_eq!(
                        roster.agreed(reached),
                        expected,
                        "{voters:05b} {outgoing:05b}: {case}"
                    );
                }
            }
        }
    }

    /// Of every two configurations that may follow each other, any quorum of the one meets any of the other;
    /// so no two leaders of a term, and no two entries of an index (thesis, sections 4.1 and 4.3).
    #[test]
    fn quorums_of_configurations_that_follow_each_other_always_meet() {
        let apart = |one: &Roster, other: &Roster| {
            all().find(|&agree| one.is_quorum(has(agree)) && other.is_quorum(has(!agree)))
        };
        for voters in all() {
            for outgoing in all() {
                let (before, after) = (
                    Roster::of_voters(set(outgoing)),
                    Roster::of_voters(set(voters)),
                );
                let between = after.clone().leaving(&before);
                for (one, other) in [
                    (&before, &between),
                    (&between, &between),
                    (&between, &after),
                ] {
                    assert_eq!(apart(one, other), None, "{outgoing:05b} to {voters:05b}");
                }
                if before.distance(&after) <= 1 {
                    assert_eq!(apart(&before, &after), None, "a single change");
                }
            }
        }
        // And two changes at once without the step between would not do.
        let (before, after) = (
            Roster::of_voters(set(0b00111)),
            Roster::of_voters(set(0b11111)),
        );
        assert!(apart(&before, &after).is_some());
    }

    #[test]
    fn where_nobody_votes_nothing_is_decided() {
        let nobody = Roster::default();
        assert!(!nobody.is_quorum(|_| true));
        assert_eq!(nobody.agreed(|_| 7), None);
    }
}
