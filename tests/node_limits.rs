//! What a node holds in memory is bounded: what is over it is refused or dropped, and never queued.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/held_disk.rs"]
mod held_disk;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/peers.rs"]
mod peers;

use std::time::Duration;

use catamaran::raft::message::Body;
use catamaran::{EntryKind, Error, LogId, LogIndex, Node, Options, Proposal, Term};
use peers::{B, C, Count, FIRST, PATIENCE, append, keep_trying, matched, patient, start};

/// What each entry and request is counted with beside its bytes.
const BESIDE: usize = 256;
/// What takes 1 KiB of memory.
const PAYLOAD: [u8; 1024 - BESIDE] = [7; 1024 - BESIDE];

/// A half of it, 32 KiB, is for proposals, a quarter for what waits for the disk.
fn tight() -> Options {
    Options {
        memory_bytes: 64 << 10,
        ..patient()
    }
}

/// Proposes until no more is taken.
fn fill(node: &Node<Count>) -> Vec<Proposal<usize>> {
    let mut taken = Vec::new();
    loop {
        match node.propose(PAYLOAD.as_slice()) {
            Ok(proposal) => taken.push(proposal),
            Err(Error::Overloaded) => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What becomes of one more proposal.
fn end(node: &Node<Count>) -> Result<usize, Error> {
    let mut proposal = node.propose("x").unwrap();
    proposal.wait_for(PATIENCE).expect("it waits")
}

/// What a node says that knows of no leader.
fn nobody() -> Result<usize, Error> {
    Err(Error::NotLeader { leader: None })
}

#[test]
fn a_leader_refuses_what_is_proposed_while_too_much_is_not_committed() {
    let mut world = start(tight());
    let term = world.peers.elect();
    world.peers.fence();
    let mut last = 2;
    for _ in 0..3 {
        let taken = fill(&world.node);
        assert_eq!(taken.len(), 32);
        last += 32;
        for _ in 0..1_000 {
            let refused = world.node.propose("x").map(drop);
            assert_eq!(refused, Err(Error::Overloaded));
        }
        for mut proposal in taken {
            // Until all of it is in the leader's log, the answer is nonsense.
            keep_trying(|| {
                world.peers.say(C, term, matched(last, 0));
                proposal.wait_for(Duration::from_millis(5)).is_some()
            });
        }
    }
}

#[test]
fn a_proposal_that_is_larger_than_all_that_may_wait_is_taken_alone() {
    let mut world = start(tight());
    let term = world.peers.elect();
    world.peers.fence();
    let large = vec![7; 60 << 10];
    let proposal = world.node.propose(large.clone()).unwrap();
    let beside = world.node.propose("x").map(drop);
    assert_eq!(beside, Err(Error::Overloaded));
    world.peers.wait_for_append_of(3);
    world.peers.say(C, term, matched(3, 0));
    assert_eq!(proposal.wait(), Ok(1));
    let small = world.node.propose("x").unwrap();
    let refused = world.node.propose(large).map(drop);
    assert_eq!(refused, Err(Error::Overloaded), "beside a small one");
    world.peers.wait_for_append_of(4);
    world.peers.say(C, term, matched(4, 0));
    assert_eq!(small.wait(), Ok(2));
}

#[test]
fn a_leader_that_is_deposed_holds_nothing_of_what_it_did_not_commit() {
    let mut world = start(tight());
    let mut term = world.peers.elect();
    world.peers.fence();
    for _ in 0..3 {
        let before = world.node.log().last();
        let taken = fill(&world.node);
        assert_eq!(taken.len(), 32);
        keep_trying(|| world.node.log().last().since(before) == 32);
        world.peers.follow(term + 1);
        for proposal in taken {
            assert_eq!(proposal.wait(), Err(Error::OutcomeUnknown));
        }
        // It leads again, with the entries in its log.
        term = world.peers.elect_after(term + 2);
        world.peers.fence();
    }
    assert_eq!(fill(&world.node).len(), 32);
}

#[test]
fn a_node_that_knows_of_no_leader_refuses_at_once() {
    let mut world = start(patient());
    assert_eq!(end(&world.node), nobody(), "it has just started");
    world.peers.follow(2);
    world.peers.fence();
    let refused = end(&world.node);
    let named = matches!(&refused, Err(Error::NotLeader { leader: Some(b) }) if b.id == B);
    assert!(named, "{refused:?}");
    world.peers.say(B, 2, Body::TimeoutNow);
    world.peers.wait_for(&Body::HandoverVote { last: FIRST });
    assert_eq!(end(&world.node), nobody(), "a candidate");
}

#[test]
fn a_follower_that_has_lost_its_leader_refuses_at_once() {
    let mut world = start(Options {
        election_timeout: Duration::from_millis(50),
        heartbeat_interval: Duration::from_millis(10),
        ..patient()
    });
    world.peers.follow(2);
    world.peers.wait_for(&Body::PreVote { last: FIRST });
    assert_eq!(end(&world.node), nobody());
}

/// Nobody tells it of another leader; it finds out by itself, with proposals on every way that they take.
#[test]
fn every_proposal_to_a_leader_that_hears_no_quorum_ends_once_and_leaves_nothing() {
    let mut world = start(Options {
        // Long enough to propose something first, however busy the machine.
        election_timeout: Duration::from_secs(3),
        ..tight()
    });
    world.peers.elect();
    let node = &world.node;
    let burst = |mut first: Proposal<usize>| {
        let mut all = Vec::new();
        while first.wait_for(Duration::ZERO).is_none() {
            match node.propose("x") {
                Ok(proposal) => all.push(proposal),
                Err(Error::Overloaded) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
        all.into_iter().map(Proposal::wait).collect::<Vec<_>>()
    };
    let ends: Vec<_> = std::thread::scope(|scope| {
        let firsts: Vec<_> = (0..4).map(|_| node.propose("x").unwrap()).collect();
        let clients = firsts.into_iter().map(|first| scope.spawn(|| burst(first)));
        let clients: Vec<_> = clients.collect();
        let ends = clients.into_iter().map(|client| client.join().unwrap());
        ends.flatten().collect()
    });
    let unknown = Err(Error::OutcomeUnknown);
    for end in &ends {
        assert!(*end == unknown || *end == nobody(), "{end:?}");
    }
    assert!(ends.contains(&unknown));
    assert_eq!(end(node), nobody());
    let all = node.propose(vec![7; (32 << 10) - BESIDE]);
    assert_eq!(all.unwrap().wait(), nobody(), "all the room is there again");
}

#[test]
fn a_follower_whose_disk_hangs_takes_in_no_more_than_may_wait_for_it() {
    let mut world = start(tight());
    world.peers.follow(2);
    world.peers.fence();
    let hangs = world.disk.hold();
    let entries = [(EntryKind::Normal, std::str::from_utf8(&PAYLOAD).unwrap())];
    let deliver = |world: &peers::World, index: u64| {
        let prev = match index {
            2 => FIRST,
            _ => LogId::new(Term(2), LogIndex(index - 1)),
        };
        let (body, entries) = append(prev, &entries, 2, 0);
        world.peers.say_with(B, 2, body, entries);
    };
    let last = |world: &peers::World| world.node.log().last().0;
    // A quarter of the memory takes 16.
    let full = 1 + 16;
    let grow = |world: &peers::World, upto: u64| {
        keep_trying(|| {
            let last = last(world);
            if last < upto {
                deliver(world, last + 1);
            }
            last >= upto
        });
    };
    grow(&world, full);
    for _ in 0..2_000 {
        for ahead in 1..=4 {
            deliver(&world, last(&world) + ahead);
        }
        std::thread::yield_now();
    }
    assert_eq!(last(&world), full);
    drop(hangs);
    // And goes on when the disk does.
    world.peers.wait_for(&matched(full, 0));
    grow(&world, full + 100);
}
