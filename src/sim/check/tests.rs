//! Each property, made false by what a node tells.

use super::*;
use crate::raft::event::{NewEntries, Source};
use crate::types::{EntryRange, Payload};

mod rosters;
mod snapshots;

const FIRST: HardState = HardState {
    term: Term(1),
    vote: None,
    commit: LogIndex(1),
};

fn checker() -> Checker {
    Checker::new((3, 3), &entry(1, b"members"), FIRST)
}

const fn entry(term: u64, payload: &[u8]) -> NewEntry<'_> {
    NewEntry {
        term: Term(term),
        kind: EntryKind::Normal,
        payload: Payload::Borrowed(payload),
    }
}

const fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

fn state(term: u64, vote: Option<u64>) -> HardState {
    HardState {
        term: Term(term),
        vote: vote.map(NodeId),
        commit: LogIndex(1),
    }
}

/// A write number `seq` that cuts the log behind `keep` entries and puts `entries` there.
fn write(
    checker: &mut Checker,
    node: usize,
    (seq, hard_state): (u64, HardState),
    keep: u64,
    entries: &[NewEntry<'_>],
) -> Checked {
    let had = checker.nodes[node].staged.len() as u64;
    let prev = term_at(&checker.nodes[node].staged, LogIndex(keep)).unwrap();
    let last = LogIndex(keep + entries.len() as u64);
    let new = entries.last().map(|tail| NewEntries {
        range: EntryRange {
            prev: LogId::new(prev, LogIndex(keep)),
            last: LogId::new(tail.term, last),
        },
        source: Source::Message,
    });
    let persist = Persist {
        seq: WriteSeq(seq),
        hard_state,
        truncate_from: (keep < had).then_some(LogIndex(keep + 1)),
        entries: new,
    };
    checker.wrote(node, &persist, entries)
}

fn is(role: RoleName, term: u64) -> Status {
    Status {
        role,
        term: Term(term),
        leader: None,
    }
}

fn step(checker: &mut Checker, node: usize, role: RoleName, term: u64) -> Checked {
    let shadow = &checker.nodes[node];
    let last = shadow.staged.len() as u64;
    let pointers = Pointers {
        snapshot: None,
        first: LogIndex(1),
        committed: shadow.committed,
        durable: LogIndex(last.min(shadow.durable.len() as u64)),
        last: LogId::new(*shadow.staged.last().unwrap(), LogIndex(last)),
    };
    let counts = checker.roster(node).clone();
    checker.stepped(node, is(role, term), pointers, &counts)
}

/// Node `node` has everybody's vote, and leads.
fn lead(checker: &mut Checker, node: usize, term: u64) -> Checked {
    let hard_state = &mut checker.nodes[node].hard_state;
    (hard_state.term, hard_state.vote) = (Term(term), Some(id_of(node)));
    for other in 0..3 {
        checker
            .votes
            .insert((id_of(other), Term(term)), id_of(node));
    }
    step(checker, node, RoleName::Leader, term)
}

#[track_caller]
fn violates(checked: Checked, property: Property) {
    assert_eq!(checked.unwrap_err().property, property);
}

fn message(term: u64, body: Body) -> Message {
    Message {
        term: Term(term),
        body,
    }
}

#[test]
fn two_leaders_in_a_term_are_told_and_so_is_one_that_restarted() {
    let mut checker = checker();
    lead(&mut checker, 0, 2).unwrap();
    lead(&mut checker, 0, 2).unwrap();
    lead(&mut checker, 1, 3).unwrap();
    violates(lead(&mut checker, 2, 2), Property::ElectionSafety);
    checker.ended(1);
    checker.nodes[1].life += 1;
    violates(lead(&mut checker, 1, 3), Property::ElectionSafety);
}

#[test]
fn a_leader_without_a_quorum_of_durable_votes_is_told() {
    let mut checker = checker();
    lead(&mut checker, 0, 2).unwrap();
    let others = [(id_of(1), Term(3)), (id_of(2), Term(3))];
    checker.votes.insert(others[0], NodeId(1));
    let leads = step(&mut checker, 0, RoleName::Leader, 3);
    violates(leads, Property::ElectionSafety);
    checker.ended(0);
    checker.votes.insert(others[1], NodeId(1));
    step(&mut checker, 0, RoleName::Leader, 3).unwrap();
}

/// Figure 8 of the paper: an entry of an older term that a quorum has can be overwritten yet.
#[test]
fn a_commit_that_an_election_can_undo_is_told() {
    let mut checker = replicated();
    write(&mut checker, 2, (1, state(3, None)), 1, &[entry(3, b"b")]).unwrap();
    checker.durable(2, WriteSeq(1));
    let undone = checker.committed(0, id(2, 2), is(RoleName::Leader, 4));
    violates(undone, Property::LeaderCompleteness);
}

#[test]
fn a_leader_that_forgets_an_entry_is_told() {
    let mut checker = checker();
    write(&mut checker, 0, (1, state(2, None)), 1, &[entry(2, b"a")]).unwrap();
    lead(&mut checker, 0, 2).unwrap();
    let forgets = write(&mut checker, 0, (2, state(2, None)), 1, &[]);
    violates(forgets, Property::LeaderAppendOnly);
}

#[test]
fn logs_that_do_not_match_are_told() {
    let mut checker = checker();
    let two = [entry(2, b"a"), entry(3, b"b")];
    write(&mut checker, 0, (1, state(3, None)), 1, &two).unwrap();
    write(&mut checker, 1, (1, state(3, None)), 1, &two).unwrap();
    let other_bytes = [entry(2, b"a"), entry(3, b"c")];
    let wrong = write(&mut checker, 2, (1, state(3, None)), 1, &other_bytes);
    violates(wrong, Property::LogMatching);
    let mut checker = self::checker();
    write(&mut checker, 0, (1, state(3, None)), 1, &two).unwrap();
    let other_before = [entry(1, b"a"), entry(3, b"b")];
    let wrong = write(&mut checker, 2, (1, state(3, None)), 1, &other_before);
    violates(wrong, Property::LogMatching);
}

/// Entry 2 of term 2, written by the first two nodes.
fn written() -> Checker {
    let mut checker = checker();
    for node in 0..2 {
        let entries = [entry(2, b"a")];
        write(&mut checker, node, (1, state(2, None)), 1, &entries).unwrap();
    }
    checker
}

/// And durable there.
fn replicated() -> Checker {
    let mut checker = written();
    for node in 0..2 {
        checker.durable(node, WriteSeq(1));
    }
    checker
}

#[test]
fn a_commit_that_no_quorum_has_durably_is_told() {
    let leads = is(RoleName::Leader, 2);
    replicated().committed(0, id(2, 2), leads).unwrap();
    let mut checker = written();
    checker.durable(0, WriteSeq(1));
    violates(checker.committed(0, id(2, 2), leads), Property::Quorum);
}

#[test]
fn a_leader_that_lacks_what_was_committed_is_told_whichever_comes_first() {
    let leads = is(RoleName::Leader, 2);
    let mut checker = replicated();
    checker.committed(0, id(2, 2), leads).unwrap();
    violates(lead(&mut checker, 2, 3), Property::LeaderCompleteness);
    let mut checker = replicated();
    lead(&mut checker, 2, 3).unwrap();
    violates(
        checker.committed(0, id(2, 2), leads),
        Property::LeaderCompleteness,
    );
}

#[test]
fn two_entries_at_one_index_are_told_when_they_are_committed_or_applied() {
    let mut checker = replicated();
    checker
        .committed(0, id(2, 2), is(RoleName::Leader, 2))
        .unwrap();
    write(&mut checker, 2, (1, state(3, None)), 1, &[entry(3, b"b")]).unwrap();
    let other = checker.committed(2, id(3, 2), is(RoleName::Follower, 3));
    violates(other, Property::StateMachineSafety);
    let apply = |checker: &mut Checker, id, payload: &'static [u8]| {
        checker.applied(
            0,
            &Entry {
                id,
                kind: EntryKind::Normal,
                payload: payload.into(),
            },
        )
    };
    violates(apply(&mut checker, id(2, 2), b"a"), Property::PointerOrder);
    apply(&mut checker, id(1, 1), b"members").unwrap();
    violates(
        apply(&mut checker, id(2, 2), b"b"),
        Property::StateMachineSafety,
    );
}

#[test]
fn pointers_out_of_order_are_told() {
    let mut checker = checker();
    let pointers = Pointers {
        snapshot: None,
        first: LogIndex(1),
        committed: LogIndex(1),
        durable: LogIndex(1),
        last: id(1, 1),
    };
    let follows = is(RoleName::Follower, 1);
    let roster = Roster::of_voters((0..3).map(id_of));
    checker.stepped(0, follows, pointers, &roster).unwrap();
    for wrong in [
        Pointers {
            committed: LogIndex(2),
            ..pointers
        },
        Pointers {
            durable: LogIndex(2),
            last: id(1, 2),
            ..pointers
        },
        Pointers {
            first: LogIndex(3),
            ..pointers
        },
    ] {
        let stepped = checker.stepped(0, follows, wrong, &roster);
        violates(stepped, Property::PointerOrder);
    }
}

#[test]
fn a_promise_that_is_not_durable_is_told() {
    let mut checker = checker();
    let vote = message(2, Body::VoteReply { granted: true });
    let matched = |upto| Body::AppendReply {
        outcome: AppendOutcome::Matched {
            upto: LogIndex(upto),
        },
        round: 1,
    };
    write(
        &mut checker,
        0,
        (1, state(2, Some(3))),
        1,
        &[entry(2, b"a")],
    )
    .unwrap();
    violates(checker.leaving(0, NodeId(3), &vote), Property::Promise);
    checker.durable(0, WriteSeq(1));
    checker.leaving(0, NodeId(3), &vote).unwrap();
    violates(checker.leaving(0, NodeId(2), &vote), Property::Promise);
    let matches = |checker: &mut Checker, upto| {
        let message = message(2, matched(upto));
        checker.leaving(0, NodeId(3), &message)
    };
    matches(&mut checker, 2).unwrap();
    violates(matches(&mut checker, 3), Property::Promise);
    // The leader it says this to has another entry there.
    write(&mut checker, 2, (1, state(2, None)), 1, &[entry(1, b"b")]).unwrap();
    lead(&mut checker, 2, 2).unwrap();
    violates(matches(&mut checker, 2), Property::Promise);
}

#[test]
fn a_term_or_vote_that_is_taken_back_is_told() {
    let mut checker = checker();
    let vote = |term| message(term, Body::VoteReply { granted: true });
    write(&mut checker, 0, (1, state(2, Some(3))), 1, &[]).unwrap();
    checker.durable(0, WriteSeq(1));
    checker.leaving(0, NodeId(3), &vote(2)).unwrap();
    let mut again = state(2, Some(2));
    checker.nodes[0].hard_state = again;
    violates(
        checker.leaving(0, NodeId(2), &vote(2)),
        Property::TermAndVote,
    );
    again.term = Term(3);
    checker.nodes[0].hard_state = again;
    checker.leaving(0, NodeId(2), &vote(3)).unwrap();
    violates(
        checker.leaving(0, NodeId(3), &vote(2)),
        Property::TermAndVote,
    );
}

fn found(hard_state: HardState, terms: &[u64]) -> Recovered {
    let mut runs: Vec<TermRun> = Vec::new();
    for (index, term) in (1..).zip(terms) {
        if runs.last().is_none_or(|run| run.term.0 < *term) {
            runs.push(TermRun {
                term: Term(*term),
                first: LogIndex(index),
            });
        }
    }
    Recovered {
        identity: crate::types::Identity {
            cluster: crate::types::ClusterId(1),
            node: NodeId(1),
            incarnation: 1,
        },
        hard_state,
        before: LogId::ORIGIN,
        last: id(*terms.last().unwrap(), terms.len() as u64),
        runs,
        configs: Vec::new(),
        torn: None,
    }
}

#[test]
fn a_log_is_found_as_some_prefix_of_its_writes_made_it() {
    let (first, second, third) = (state(2, None), state(3, None), state(4, None));
    let recovers = |hard_state, terms: &[u64]| {
        let mut checker = checker();
        let two = [entry(2, b"a"), entry(2, b"b")];
        write(&mut checker, 0, (1, first), 1, &two).unwrap();
        checker.durable(0, WriteSeq(1));
        let other = [entry(3, b"c"), entry(3, b"d")];
        write(&mut checker, 0, (2, second), 2, &other).unwrap();
        write(&mut checker, 0, (3, third), 4, &[entry(4, b"e")]).unwrap();
        checker.started(0, 1, &found(hard_state, terms))
    };
    // Durable, then the next write part by part, and the one after.
    recovers(first, &[1, 2, 2]).unwrap();
    recovers(second, &[1, 2, 2]).unwrap();
    recovers(second, &[1, 2]).unwrap();
    recovers(second, &[1, 2, 3]).unwrap();
    recovers(second, &[1, 2, 3, 3]).unwrap();
    recovers(third, &[1, 2, 3, 3]).unwrap();
    recovers(third, &[1, 2, 3, 3, 4]).unwrap();
    for (hard_state, terms) in [
        (FIRST, &[1, 2, 2][..]),
        (first, &[1, 2]),
        (first, &[1, 2, 3]),
        (second, &[1, 2, 2, 3]),
        (second, &[1, 2, 3, 3, 4]),
        (third, &[1, 2, 3]),
        (third, &[1, 2, 2]),
    ] {
        violates(recovers(hard_state, terms), Property::Recovery);
    }
}
