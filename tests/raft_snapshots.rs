//! What consensus does about snapshots: the Raft paper's section 7 and figure 13, the thesis's chapter 5, and the
//! loops that others fell into.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/raft.rs"]
mod support;

use std::time::Duration;

use catamaran::raft::event::{Effect, Event, ReadId, Release, RoleName};
use catamaran::raft::message::{AppendOutcome, Body, Message};
use catamaran::raft::{Boot, Raft};
use catamaran::types::{
    EntryRange, HardState, LogId, LogIndex, NodeId, Roster, Term, TermRun, Time, WriteSeq,
};
use support::{Disk, Net, config, disk, voters};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
/// What the configuration of these tests keeps before a snapshot.
const TRAILING: u64 = 3;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

/// A leads B and has committed `last` entries with it; both have a snapshot of all. C was away.
fn behind(last: u64) -> Net {
    let mut net = Net::empty(3);
    net.isolate(3);
    net.elect(1);
    net.propose(1, last - 1);
    net.settle();
    assert_eq!(net.at(1).committed, LogIndex(last));
    net.snapshot(A);
    net.tick(1);
    net.settle();
    net.snapshot(B);
    net.cut.clear();
    net.seen.clear();
    net
}

/// What A was heard to say to C.
fn said(net: &Net) -> Vec<&Body> {
    let seen = net.seen.iter();
    seen.filter(|(from, to, _)| (*from, *to) == (A, C))
        .map(|(_, _, message)| &message.body)
        .collect()
}

fn offers(net: &Net) -> usize {
    let said = said(net);
    said.iter()
        .filter(|body| matches!(body, Body::Snapshot { .. }))
        .count()
}

#[test]
fn the_log_lets_go_of_what_the_snapshot_has_but_for_the_trailing_entries() {
    let net = behind(20);
    for member in [net.at(1), net.at(2)] {
        let pointers = member.raft.pointers();
        assert_eq!(pointers.first, LogIndex(20 - TRAILING + 1));
        assert_eq!(pointers.snapshot, Some(id(1, 20)));
    }
}

#[test]
fn a_follower_within_the_trailing_entries_is_sent_them_and_no_snapshot() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.propose(1, 16);
    net.settle();
    net.isolate(3);
    net.propose(1, TRAILING);
    net.settle();
    net.snapshot(A);
    assert_eq!(net.at(1).raft.pointers().first, LogIndex(18));
    net.cut.clear();
    net.tick(1);
    net.settle();
    assert_eq!(net.terms(3).len(), 20);
    assert_eq!(offers(&net), 0);
}

#[test]
fn a_follower_that_needs_what_is_gone_fetches_the_snapshot_and_is_then_sent_entries() {
    let mut net = behind(20);
    net.tick(1);
    net.settle();
    assert!(offers(&net) > 0);
    assert_eq!(net.terms(3).len(), 0, "it had nothing");
    assert_eq!(net.at(3).fetch, Some(A));
    net.fetch(C);
    net.settle();
    let pointers = net.at(3).raft.pointers();
    assert_eq!(
        (pointers.first, pointers.committed),
        (LogIndex(21), LogIndex(20))
    );
    net.seen.clear();
    net.propose(1, 5);
    net.settle();
    net.tick(1);
    net.settle();
    assert_eq!(net.at(3).committed, LogIndex(25));
    assert_eq!(offers(&net), 0, "offered what it has already");
}

/// The entry before the first of the log is known by its term, though it is gone: the leader asks there.
#[test]
fn a_leader_whose_log_begins_behind_its_snapshot_sends_entries_from_there() {
    let mut net = behind(20);
    // As if nothing trailed.
    net.at_mut(1).written.dropped = 20;
    net.at_mut(1).durable.dropped = 20;
    net.crash(A);
    net.elect(1);
    net.tick(1);
    net.settle();
    net.fetch(C);
    net.settle();
    net.seen.clear();
    net.propose(1, 5);
    net.settle();
    net.tick(1);
    net.settle();
    let last = net.at(1).raft.pointers().last;
    for member in [1, 2, 3] {
        assert_eq!(net.at(member).committed, last.index, "node {member}");
    }
    assert_eq!(offers(&net), 0);
}

/// Figure 13: an entry of another term at the snapshot's last index, and all behind it, were never committed.
/// Kept, they would refuse every append, and the snapshot would be fetched for ever.
#[test]
fn a_log_that_conflicts_with_the_snapshot_goes_as_a_whole() {
    let committed = vec![1; 20];
    let mut astray = committed[..10].to_vec();
    astray.extend([2; 30]);
    // The two know of the term in which the third went astray.
    let mut aware = disk(&committed);
    aware.hard_state.term = Term(2);
    let mut net = Net::new(&[aware.clone(), aware, disk(&astray)], 1);
    net.isolate(3);
    net.elect(1);
    net.propose(1, 5);
    net.settle();
    net.snapshot(A);
    let snapshot = net.at(1).raft.pointers().snapshot.unwrap();
    assert!(snapshot.index.0 < 40, "{snapshot} is within the other log");
    net.cut.clear();
    for _ in 0..3 {
        net.tick(1);
        net.settle();
        net.fetch(C);
        net.settle();
    }
    assert_eq!(net.terms(3), net.terms(1));
    net.seen.clear();
    net.propose(1, 1);
    net.settle();
    assert_eq!(offers(&net), 0);
    assert_eq!(net.terms(3), net.terms(1));
}

/// Figure 13: what follows the snapshot is kept if the log goes through its last entry.
#[test]
fn a_log_that_goes_through_the_snapshot_is_kept() {
    let mut raft = follower(&[1; 10], 2);
    let effects = step(&mut raft, fetched(id(1, 6)));
    assert_eq!(raft.pointers().last, id(1, 10));
    assert_eq!(
        raft.pointers().first,
        LogIndex(1),
        "what is not applied may not go"
    );
    let installs = effects
        .iter()
        .any(|effect| matches!(effect, Effect::Install { .. }));
    assert!(!installs, "{effects:?}");
    let commit = Effect::Commit { upto: id(1, 6) };
    assert!(
        effects.contains(&commit),
        "a snapshot has only what is committed: {effects:?}"
    );
}

#[test]
fn a_fetched_snapshot_behind_what_is_committed_changes_nothing() {
    let mut raft = follower(&[1; 10], 8);
    assert_eq!(step(&mut raft, fetched(id(1, 6))), []);
    let pointers = raft.pointers();
    assert_eq!(
        (pointers.first, pointers.committed),
        (LogIndex(1), LogIndex(8))
    );
}

#[test]
fn a_snapshot_is_installed_by_one_write_and_told_to_the_leader() {
    let mut raft = follower(&[1; 10], 2);
    hear(
        &mut raft,
        3,
        Body::Snapshot {
            last: id(2, 30),
            round: 1,
        },
    );
    let effects = step(&mut raft, fetched(id(2, 30)));
    let seq = WriteSeq(2);
    let body = Body::AppendReply {
        outcome: AppendOutcome::Matched { upto: LogIndex(30) },
        round: 0,
    };
    let reply = Effect::Send {
        to: B,
        message: Message {
            term: Term(3),
            body,
        },
        // The first write, of its term, is not durable.
        release: Release::After(WriteSeq(1)),
    };
    let commit = Effect::Commit { upto: id(2, 30) };
    assert_eq!(
        effects,
        [
            Effect::Install {
                seq,
                last: id(2, 30)
            },
            reply,
            commit
        ]
    );
    let pointers = raft.pointers();
    assert_eq!((pointers.first, pointers.last), (LogIndex(31), id(2, 30)));
    assert_eq!(pointers.durable, LogIndex(30));
}

/// A follower C of B, with these entries, durable, and so many committed.
fn follower(terms: &[u64], commit: u64) -> Raft {
    let disk = disk(terms);
    let term = Term(2);
    let hard_state = HardState {
        term,
        vote: None,
        commit: LogIndex(commit),
    };
    let boot = Boot {
        id: C,
        configs: vec![(LogIndex::ZERO, Roster::of_voters(voters(3)))],
        hard_state,
        before: LogId::ORIGIN,
        last: disk.last(),
        snapshot: None,
        runs: disk.runs(),
        written: WriteSeq::ZERO,
        seed: 1,
        life: 1,
    };
    Raft::new(&config(), boot, Time::default())
}

fn step(raft: &mut Raft, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    raft.step(Time::default(), event, &mut effects);
    effects
}

/// A snapshot with the first members.
fn fetched(last: LogId) -> Event {
    let config = (LogIndex::ZERO, Roster::of_voters(voters(3)));
    Event::Fetched { last, config }
}

/// B says something in a term.
fn hear(raft: &mut Raft, term: u64, body: Body) -> Vec<Effect> {
    hear_configs(raft, term, body, Vec::new())
}

fn hear_configs(
    raft: &mut Raft,
    term: u64,
    body: Body,
    configs: Vec<(LogIndex, Roster)>,
) -> Vec<Effect> {
    let message = Message {
        term: Term(term),
        body,
    };
    let event = Event::Received {
        from: B,
        message,
        configs,
    };
    step(raft, event)
}

/// The body of the one reply among the effects.
fn reply(effects: &[Effect]) -> &Body {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Send { message, .. } => Some(&message.body),
        _ => None,
    });
    let [body] = sent.collect::<Vec<_>>().try_into().unwrap();
    body
}

#[test]
fn an_offer_of_what_is_there_is_answered_as_matched_and_nothing_is_fetched() {
    let mut raft = follower(&[1; 10], 2);
    for (last, committed) in [(2, 2), (6, 6), (3, 6)] {
        let effects = hear(
            &mut raft,
            2,
            Body::Snapshot {
                last: id(1, last),
                round: 7,
            },
        );
        let upto = LogIndex(last);
        let expected = Body::AppendReply {
            outcome: AppendOutcome::Matched { upto },
            round: 7,
        };
        assert_eq!(reply(&effects), &expected);
        assert_eq!(raft.pointers().committed, LogIndex(committed));
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Fetch { .. }))
        );
    }
}

#[test]
fn an_offer_keeps_a_follower_from_campaigning_as_a_heartbeat_does() {
    let mut raft = follower(&[1; 10], 2);
    let due = raft.deadline();
    let mut effects = Vec::new();
    let message = Message {
        term: Term(2),
        body: Body::Snapshot {
            last: id(2, 30),
            round: 1,
        },
    };
    let heard = Event::Received {
        from: B,
        message,
        configs: Vec::new(),
    };
    raft.step(due, heard, &mut effects);
    assert!(raft.deadline() >= due.after(config().election_timeout));
    assert_eq!(raft.status().leader, Some(B));
    let fetch = Effect::Fetch {
        from: B,
        last: id(2, 30),
    };
    assert!(effects.contains(&fetch));
    let expected = Body::AppendReply {
        outcome: AppendOutcome::Fetching,
        round: 1,
    };
    assert_eq!(reply(&effects), &expected);
}

#[test]
fn a_deposed_leader_that_offers_a_snapshot_is_told_of_the_newer_term() {
    let mut raft = follower(&[1; 10], 2);
    let effects = hear(
        &mut raft,
        1,
        Body::Snapshot {
            last: id(1, 30),
            round: 1,
        },
    );
    let [Effect::Send { message, .. }] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    assert_eq!(message.term, Term(2));
    assert_eq!(raft.status().leader, None);
}

#[test]
fn an_append_from_before_the_logs_begin_is_answered_with_what_was_dropped() {
    let mut net = behind(20);
    let before = net.at(2).raft.pointers().first.prev();
    let range = EntryRange {
        prev: id(1, 4),
        last: id(1, 19),
    };
    let runs = vec![TermRun {
        term: Term(1),
        first: LogIndex(5),
    }];
    let body = Body::Append {
        range,
        runs,
        commit: LogIndex(19),
        round: 1,
    };
    let message = Message {
        term: Term(1),
        body,
    };
    net.wire.clear();
    let heard = Event::Received {
        from: A,
        message,
        configs: Vec::new(),
    };
    net.step(B, heard);
    let (_, _, message) = net.wire.pop_front().unwrap();
    let expected = Body::AppendReply {
        outcome: AppendOutcome::Matched { upto: before },
        round: 1,
    };
    assert_eq!(message.body, expected);
}

/// Or each snapshot that it has fetched would be behind what the leader still has, and it would fetch for ever.
#[test]
fn a_leader_keeps_the_entries_behind_a_snapshot_as_long_as_a_follower_fetches_it() {
    let mut net = behind(20);
    net.tick(1);
    net.settle();
    for asked in 1..=50 {
        // The follower gets some bytes for each few entries that are written.
        net.now = net.now.after(config().election_timeout);
        let last = id(1, 20);
        net.step(
            A,
            Event::Asked {
                from: C,
                lent: Some((last, asked)),
            },
        );
        net.propose(1, 10);
        net.settle();
        net.snapshot(A);
        assert!(
            net.at(1).raft.pointers().first <= LogIndex(21),
            "what follows is gone"
        );
        net.tick(1);
        net.settle();
    }
    assert_eq!(net.at(1).status().role, RoleName::Leader);
    // It has fetched what it was first offered, and needs no other.
    let snapshot = net.at(1).written.terms[..20].to_vec();
    net.at_mut(3).fetch = None;
    net.keep(C, snapshot, fetched(id(1, 20)));
    net.seen.clear();
    net.settle();
    net.tick(1);
    net.settle();
    assert_eq!(net.at(3).committed, LogIndex(520));
    assert_eq!(offers(&net), 0);
    net.propose(1, 10);
    net.settle();
    net.snapshot(A);
    assert_eq!(
        net.at(1).raft.pointers().first,
        LogIndex(530 - TRAILING + 1)
    );
}

#[test]
fn a_follower_that_asks_for_nothing_keeps_nothing_for_long() {
    let mut net = behind(20);
    net.tick(1);
    net.settle();
    let last = id(1, 20);
    for _ in 0..11 {
        net.now = net.now.after(Duration::from_secs(1));
        // The same again is no progress.
        net.step(
            A,
            Event::Asked {
                from: C,
                lent: Some((last, 0)),
            },
        );
        net.tick(1);
        net.settle();
    }
    net.propose(1, 10);
    net.settle();
    net.snapshot(A);
    assert_eq!(net.at(1).raft.pointers().first, LogIndex(30 - TRAILING + 1));
    net.seen.clear();
    net.tick(1);
    net.settle();
    let newest = said(&net)
        .into_iter()
        .any(|body| matches!(body, Body::Snapshot { last, .. } if *last == id(1, 30)));
    assert!(newest, "it is offered one that is of use: {:?}", said(&net));
}

#[test]
fn an_older_answer_does_not_end_the_fetching_of_a_snapshot() {
    let mut net = behind(20);
    net.tick(1);
    net.settle();
    net.fetch(C);
    net.wire.clear();
    let body = Body::AppendReply {
        outcome: AppendOutcome::Matched { upto: LogIndex(4) },
        round: 0,
    };
    let message = Message {
        term: Term(1),
        body,
    };
    let configs = Vec::new();
    net.step(
        A,
        Event::Received {
            from: C,
            message,
            configs,
        },
    );
    assert!(net.wire.is_empty(), "{:?}", net.wire);
    net.tick(1);
    let to_c = net.wire.iter().filter(|(_, to, _)| *to == C);
    for (_, _, message) in to_c {
        assert!(matches!(message.body, Body::Snapshot { .. }), "{message:?}");
    }
}

/// Or it would be offered what it has until the leader's patience with the fetch ends.
#[test]
fn a_follower_that_has_what_it_fetched_and_not_what_follows_is_offered_the_newest() {
    let mut net = behind(20);
    net.tick(1);
    net.settle();
    let lent = Some((id(1, 20), 0));
    net.propose(1, 20);
    net.settle();
    net.snapshot(A);
    assert!(net.at(1).raft.pointers().first > LogIndex(21));
    net.step(A, Event::Asked { from: C, lent });
    net.seen.clear();
    let body = Body::AppendReply {
        outcome: AppendOutcome::Matched { upto: LogIndex(20) },
        round: 0,
    };
    let message = Message {
        term: Term(1),
        body,
    };
    let configs = Vec::new();
    let heard = Event::Received {
        from: C,
        message,
        configs,
    };
    net.step(A, heard);
    net.wire.clear();
    net.tick(1);
    let to_c = net.wire.iter().filter(|(_, to, _)| *to == C);
    let said: Vec<_> = to_c.map(|(_, _, message)| &message.body).collect();
    let [Body::Snapshot { last, .. }] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert_eq!(*last, id(1, 40));
}

/// Reads need a quorum that still follows, not one that has every entry.
#[test]
fn a_follower_that_fetches_confirms_reads() {
    let mut net = behind(20);
    net.isolate(2);
    net.tick(1);
    net.settle();
    assert_eq!(net.at(3).fetch, Some(A));
    net.step(A, Event::Read { read: ReadId(1) });
    net.settle();
    assert_eq!(net.at(1).ready, [(ReadId(1), LogIndex(20))]);
}

#[test]
fn a_leader_does_not_take_over_a_fetched_snapshot() {
    let mut net = behind(20);
    let last = id(1, 100);
    net.step(A, fetched(last));
    let pointers = net.at(1).raft.pointers();
    assert_eq!(
        (pointers.committed, pointers.snapshot),
        (LogIndex(20), Some(id(1, 20)))
    );
}

#[test]
fn a_member_that_starts_with_a_snapshot_knows_that_it_is_committed() {
    let disk = Disk {
        dropped: 4,
        snapshot: vec![Term(1); 6],
        ..disk(&[1; 10])
    };
    let net = Net::new(&[disk.clone(), disk.clone(), disk], 1);
    let pointers = net.at(1).raft.pointers();
    assert_eq!(
        (pointers.first, pointers.committed),
        (LogIndex(5), LogIndex(6))
    );
}
