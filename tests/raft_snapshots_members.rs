//! Snapshots and the members of a cluster, as consensus sees them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/raft.rs"]
mod support;

use std::time::Duration;

use catamaran::raft::event::{Effect, Event};
use catamaran::raft::message::{Body, Message};
use catamaran::raft::{Boot, Raft};
use catamaran::types::{
    EntryRange, HardState, LogId, LogIndex, MemberRole, NodeId, Roster, Term, TermRun, Time,
    WriteSeq,
};
use support::{Net, config, disk, voters};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const D: NodeId = NodeId(4);

fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

fn of(ids: &[u64]) -> Roster {
    Roster::of_voters(ids.iter().copied().map(NodeId))
}

/// A follower C of B in term 2, with as many entries of term 1, one of them committed, and these configurations.
fn follower(last: usize, configs: &[(u64, &[u64])]) -> Raft {
    let disk = disk(&vec![1; last]);
    let placed = |(at, ids): &(u64, &[u64])| (LogIndex(*at), of(ids));
    let mut all = vec![(LogIndex::ZERO, Roster::of_voters(voters(3)))];
    all.extend(configs.iter().map(placed));
    let boot = Boot {
        id: C,
        configs: all,
        hard_state: HardState {
            term: Term(2),
            vote: None,
            commit: LogIndex(1),
        },
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

fn fetched(last: LogId, (at, ids): (u64, &[u64])) -> Event {
    let config = (LogIndex(at), of(ids));
    Event::Fetched { last, config }
}

/// B appends one entry of its term, perhaps a configuration.
fn append(raft: &mut Raft, prev: LogId, term: u64, config: Option<&[u64]>) {
    let last = LogId::new(Term(term), prev.index.next());
    let run = TermRun {
        term: last.term,
        first: last.index,
    };
    let body = Body::Append {
        range: EntryRange { prev, last },
        runs: vec![run],
        commit: LogIndex::ZERO,
        round: 1,
    };
    let message = Message {
        term: last.term,
        body,
    };
    let configs = config.map(|ids| (last.index, of(ids))).into_iter();
    let event = Event::Received {
        from: B,
        message,
        configs: configs.collect(),
    };
    step(raft, event);
    assert_eq!(raft.pointers().last, last);
}

#[test]
fn a_snapshot_in_place_of_the_log_brings_its_configuration_and_ends_those_that_were_appended() {
    let mut raft = follower(10, &[(4, &[1, 2, 3, 4]), (8, &[1, 2, 3, 4, 5])]);
    assert_eq!(*raft.roster(), of(&[1, 2, 3, 4, 5]));
    let effects = step(&mut raft, fetched(id(2, 30), (25, &[2, 3, 9])));
    let installs = |effect: &Effect| matches!(effect, Effect::Install { .. });
    assert!(effects.iter().any(installs), "{effects:?}");
    assert_eq!(*raft.roster(), of(&[2, 3, 9]));
    // What is appended behind it counts, and when it is truncated the snapshot's counts again.
    append(&mut raft, id(2, 30), 3, Some(&[2, 3]));
    assert_eq!(*raft.roster(), of(&[2, 3]));
    append(&mut raft, id(2, 30), 4, None);
    assert_eq!(*raft.roster(), of(&[2, 3, 9]));
}

#[test]
fn a_log_that_goes_through_the_snapshot_keeps_the_configurations_behind_it() {
    let mut raft = follower(10, &[(4, &[1, 2, 3, 4]), (8, &[1, 2, 3, 4, 5])]);
    step(&mut raft, fetched(id(1, 6), (4, &[1, 2, 3, 4])));
    assert_eq!(raft.pointers().committed, LogIndex(6));
    assert_eq!(*raft.roster(), of(&[1, 2, 3, 4, 5]));
    append(&mut raft, id(1, 7), 3, None);
    assert_eq!(*raft.roster(), of(&[1, 2, 3, 4]));
}

/// A leads B and C, and the log lost most of `last` entries to a snapshot.
fn compacted(last: u64) -> Net {
    let mut net = Net::empty(3);
    net.elect(1);
    net.propose(1, last - 1);
    net.settle();
    net.snapshot(A);
    assert!(net.at(1).raft.pointers().first.0 > last / 2);
    net
}

fn offers_to(net: &Net, member: NodeId) -> usize {
    let offer = |message: &Message| matches!(message.body, Body::Snapshot { .. });
    let seen = net.seen.iter();
    seen.filter(|(_, to, message)| *to == member && offer(message))
        .count()
}

/// The entry that added it is in the snapshot as well, or is not.
#[test]
fn a_joiner_that_is_far_behind_fetches_a_snapshot_and_becomes_a_voter() {
    for inside in [false, true] {
        let mut net = compacted(30);
        net.join(4);
        net.change(1, &of(&[1, 2, 3]).with(D, MemberRole::Joiner));
        net.settle();
        if inside {
            net.propose(1, 20);
            net.settle();
            net.snapshot(A);
            assert!(net.at(1).raft.pointers().first > LogIndex(31));
        }
        net.run_for(Duration::from_secs(1));
        assert!(offers_to(&net, D) > 0, "{inside}");
        assert_eq!(
            net.at(1).raft.roster().role(D),
            Some(MemberRole::Joiner),
            "{inside}: it has nothing yet"
        );
        net.fetch(D);
        let known = net.at(4).raft.roster().role(D);
        assert_eq!(known.is_some(), inside, "{known:?}");
        net.run_for(Duration::from_secs(5));
        net.propose(1, 1);
        net.run_for(Duration::from_secs(1));
        for member in 1..=4 {
            assert_eq!(*net.at(member).raft.roster(), of(&[1, 2, 3, 4]), "{inside}");
            assert_eq!(net.at(member).committed, net.at(1).committed, "{inside}");
        }
        net.check_rosters();
        // And it knows that after a restart, though its log has no entry that says so.
        net.snapshot(D);
        net.crash(D);
        assert_eq!(*net.at(4).raft.roster(), of(&[1, 2, 3, 4]), "{inside}");
    }
}

#[test]
fn a_learner_that_is_far_behind_fetches_a_snapshot_and_stays_a_learner() {
    let mut net = compacted(30);
    net.join(4);
    let wanted = of(&[1, 2, 3]).with(D, MemberRole::Learner);
    net.change(1, &wanted);
    net.run_for(Duration::from_secs(1));
    net.fetch(D);
    net.run_for(Duration::from_secs(5));
    assert_eq!(net.at(4).committed, net.at(1).committed);
    assert_eq!(*net.at(4).raft.roster(), wanted);
}

/// Once it is no member, it is offered nothing, and the leader keeps nothing for it.
#[test]
fn a_member_that_is_removed_fetches_no_more() {
    let mut net = compacted(30);
    net.join(4);
    net.change(1, &of(&[1, 2, 3]).with(D, MemberRole::Learner));
    net.run_for(Duration::from_secs(1));
    net.step(
        A,
        Event::Asked {
            from: D,
            lent: None,
        },
    );
    assert!(net.at(1).raft.is_fetching(D));
    net.change(1, &of(&[1, 2, 3]));
    net.settle();
    assert!(!net.at(1).raft.is_fetching(D));
    net.seen.clear();
    net.run_for(Duration::from_secs(1));
    assert_eq!(offers_to(&net, D), 0);
    net.propose(1, 20);
    net.settle();
    net.snapshot(A);
    assert!(net.at(1).raft.pointers().first > LogIndex(40));
}
