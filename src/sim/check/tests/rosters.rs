//! The same, of who counts.

use super::*;
use crate::log::encode_membership;
use crate::sim::birth::member;
use crate::types::{MemberRole, Membership};

/// The configurations that these tests go through, encoded.
fn config(roster: &Roster) -> Vec<u8> {
    let known: Vec<_> = roster.ids().into_iter().map(member).collect();
    encode_membership(&Membership::new(roster.clone(), &known))
}

fn voters(ids: &[u64]) -> Roster {
    Roster::of_voters(ids.iter().map(|&id| NodeId(id)))
}

/// The members are nodes 1 to 3, and node 1 leads term 2. With `own`, it has committed entry 2, of its term.
fn led(own: bool) -> Checker {
    let mut checker = Checker::new((3, 5), &entry(1, b"members"), FIRST);
    for node in 0..2 {
        let own = [entry(2, b"own")];
        write(&mut checker, node, (1, state(2, None)), 1, &own).unwrap();
        checker.durable(node, WriteSeq(1));
    }
    lead(&mut checker, 0, 2).unwrap();
    if own {
        let leads = is(RoleName::Leader, 2);
        checker.committed(0, id(2, 2), leads).unwrap();
    }
    checker
}

/// A node writes a configuration of term 2 behind `keep` entries, as write `seq`, and steps with it.
fn change(checker: &mut Checker, node: usize, (seq, keep): (u64, u64), roster: &Roster) -> Checked {
    let payload = config(roster);
    let config = NewEntry {
        term: Term(2),
        kind: EntryKind::Config,
        payload: (&payload).into(),
    };
    write(checker, node, (seq, state(2, None)), keep, &[config])?;
    checker.durable(node, WriteSeq(seq));
    let leads = checker.nodes[node].leads.is_some();
    let role = [RoleName::Follower, RoleName::Leader][usize::from(leads)];
    step(checker, node, role, 2)
}

#[test]
fn a_change_before_an_entry_of_the_leaders_term_is_committed_is_told() {
    let four = voters(&[1, 2, 3, 4]);
    change(&mut led(true), 0, (2, 2), &four).unwrap();
    let early = change(&mut led(false), 0, (2, 2), &four);
    violates(early, Property::Membership);
}

#[test]
fn two_changes_at_once_are_told() {
    let mut checker = led(true);
    change(&mut checker, 0, (2, 2), &voters(&[1, 2, 3, 4])).unwrap();
    let second = change(&mut checker, 0, (3, 3), &voters(&[1, 2, 3, 4, 5]));
    violates(second, Property::Membership);
}

#[test]
fn a_step_from_which_two_quorums_could_come_is_told() {
    let three = voters(&[1, 2, 3]);
    let five = voters(&[1, 2, 3, 4, 5]);
    let joint = five.clone().leaving(&three);
    for (wrong, right) in [
        (five.clone(), voters(&[1, 2])),
        (five.clone().leaving(&voters(&[1, 2])), joint.clone()),
        (voters(&[]), three.with(NodeId(4), MemberRole::Learner)),
    ] {
        let wrong = change(&mut led(true), 0, (2, 2), &wrong);
        violates(wrong, Property::Membership);
        change(&mut led(true), 0, (2, 2), &right).unwrap();
    }
    // What a joint one leads to is settled.
    let after = |next: &Roster| {
        let mut checker = led(true);
        change(&mut checker, 0, (2, 2), &joint).unwrap();
        for node in [1, 3, 4] {
            let keep = checker.nodes[node].staged.len() as u64;
            if keep < 2 {
                let first = [entry(1, b"members"), entry(2, b"own")];
                write(&mut checker, node, (1, state(2, None)), 0, &first).unwrap();
            }
            change(&mut checker, node, (2, 2), &joint).unwrap();
        }
        checker
            .committed(0, id(2, 3), is(RoleName::Leader, 2))
            .unwrap();
        change(&mut checker, 0, (3, 3), next)
    };
    after(&five).unwrap();
    violates(after(&voters(&[1, 2, 3, 4])), Property::Membership);
}

#[test]
fn a_quorum_of_another_configuration_than_counts_is_told() {
    let leads = is(RoleName::Leader, 2);
    // Of four voters two are no quorum, of three they are.
    let mut checker = led(true);
    change(&mut checker, 0, (2, 2), &voters(&[1, 2, 3, 4])).unwrap();
    change(&mut checker, 1, (2, 2), &voters(&[1, 2, 3, 4])).unwrap();
    violates(checker.committed(0, id(2, 3), leads), Property::Quorum);
    // And a learner is none of them.
    let learner = voters(&[1, 2, 3]).with(NodeId(2), MemberRole::Learner);
    let mut checker = led(true);
    change(&mut checker, 0, (2, 2), &learner).unwrap();
    change(&mut checker, 1, (2, 2), &learner).unwrap();
    violates(checker.committed(0, id(2, 3), leads), Property::Quorum);
    // Nor are those who come enough, while others leave.
    let joint = voters(&[1, 4]).leaving(&voters(&[1, 2, 3]));
    let mut checker = led(true);
    change(&mut checker, 0, (2, 2), &joint).unwrap();
    write(
        &mut checker,
        3,
        (1, state(2, None)),
        0,
        &[entry(1, b"members"), entry(2, b"own")],
    )
    .unwrap();
    change(&mut checker, 3, (2, 2), &joint).unwrap();
    violates(checker.committed(0, id(2, 3), leads), Property::Quorum);
}

#[test]
fn a_configuration_that_does_not_count_as_the_log_has_it_is_told() {
    let mut checker = led(true);
    let four = voters(&[1, 2, 3, 4]);
    change(&mut checker, 1, (2, 2), &four).unwrap();
    // It is truncated.
    write(&mut checker, 1, (3, state(3, None)), 2, &[]).unwrap();
    let pointers = Pointers {
        snapshot: None,
        first: LogIndex(1),
        committed: LogIndex(1),
        durable: LogIndex(2),
        last: id(2, 2),
    };
    let follows = is(RoleName::Follower, 3);
    let kept = checker.stepped(1, follows, pointers, &four);
    violates(kept, Property::Membership);
    let three = voters(&[1, 2, 3]);
    checker.stepped(1, follows, pointers, &three).unwrap();
}

#[test]
fn a_removed_leader_that_leads_on_is_told() {
    let mut checker = led(true);
    let rest = voters(&[2, 3]);
    change(&mut checker, 0, (2, 2), &rest).unwrap();
    change(&mut checker, 1, (2, 2), &rest).unwrap();
    let own = [entry(2, b"own")];
    write(&mut checker, 2, (1, state(2, None)), 1, &own).unwrap();
    change(&mut checker, 2, (2, 2), &rest).unwrap();
    checker
        .committed(0, id(2, 3), is(RoleName::Leader, 2))
        .unwrap();
    let leads = step(&mut checker, 0, RoleName::Leader, 2);
    violates(leads, Property::Membership);
    step(&mut checker, 0, RoleName::Follower, 2).unwrap();
    // Nor does it campaign.
    let campaign = message(3, Body::Vote { last: id(2, 3) });
    violates(checker.says(0, NodeId(2), &campaign), Property::Membership);
    checker.says(1, NodeId(3), &campaign).unwrap();
}

#[test]
fn who_is_told_to_lead_and_lacks_an_entry_or_a_vote_is_told() {
    let now = message(2, Body::TimeoutNow);
    let mut checker = led(true);
    checker.says(0, NodeId(2), &now).unwrap();
    violates(checker.says(0, NodeId(3), &now), Property::Handover);
    let learner = voters(&[1, 3]).with(NodeId(2), MemberRole::Learner);
    change(&mut checker, 0, (2, 2), &learner).unwrap();
    change(&mut checker, 1, (2, 2), &learner).unwrap();
    violates(checker.says(0, NodeId(2), &now), Property::Handover);
    assert!(
        checker.handed_over(0, Term(2), NodeId(1)).is_err(),
        "itself"
    );
    violates(
        checker.handed_over(1, Term(2), NodeId(3)),
        Property::Handover,
    );
    checker.handed_over(1, Term(2), NodeId(1)).unwrap();
}

#[test]
fn a_change_that_does_not_end_as_it_was_asked_for_is_told() {
    let (asked, other) = (voters(&[1, 2]), voters(&[1, 3]));
    let mut checker = led(true);
    change(&mut checker, 0, (2, 2), &asked).unwrap();
    checker.taken(0, &asked).unwrap();
    violates(checker.taken(0, &other), Property::Membership);
    let members = |roster: &Roster| Membership::new(roster.clone(), &[]);
    let early = checker.changed(0, (&asked, &[]), &members(&asked));
    violates(early, Property::Outcome);
    change(&mut checker, 1, (2, 2), &asked).unwrap();
    checker
        .committed(0, id(2, 3), is(RoleName::Leader, 2))
        .unwrap();
    checker.changed(0, (&asked, &[]), &members(&asked)).unwrap();
    let wrong = checker.changed(0, (&other, &[]), &members(&asked));
    violates(wrong, Property::Outcome);
}
