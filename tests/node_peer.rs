//! What leaves a node and when, against what its disk has.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/held_disk.rs"]
mod held_disk;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/peers.rs"]
mod peers;

use std::sync::Arc;
use std::thread::JoinHandle;

use catamaran::raft::message::Body;
use catamaran::{EntryKind, Error, LogId, LogIndex, Term};
use held_disk::Held;
use peers::{B, C, FIRST, PATIENCE, World, append, matched, patient, start};

#[test]
fn a_vote_leaves_only_after_its_fdatasync() {
    let mut world = start(patient());
    let granted = Body::VoteReply { granted: true };
    let held = world.disk.hold();
    world.peers.say(B, 5, Body::Vote { last: FIRST });
    world.peers.fence();
    world.disk.wait_until_held(1);
    assert!(!world.peers.has_seen(&granted));
    drop(held);
    world.peers.wait_for(&granted);
}

#[test]
fn an_acknowledgement_leaves_only_after_the_fdatasync_of_its_entries() {
    let mut world = start(patient());
    let held = world.disk.hold();
    let (body, entries) = append(FIRST, &[(EntryKind::Normal, "one")], 2, 0);
    world.peers.say_with(B, 2, body, entries);
    world.peers.fence();
    world.disk.wait_until_held(1);
    // The second is queued, write and promise together, behind a sync that does not cover it.
    let prev = LogId::new(Term(2), LogIndex(2));
    let (body, entries) = append(prev, &[(EntryKind::Normal, "two")], 2, 0);
    world.peers.say_with(B, 2, body, entries);
    world.peers.fence();
    assert!(!world.peers.has_seen(&matched(2, 0)));
    world.disk.let_one_through();
    world.disk.wait_until_held(2);
    assert!(!world.peers.has_seen(&matched(3, 0)));
    drop(held);
    world.peers.wait_for(&matched(2, 0));
    world.peers.wait_for(&matched(3, 0));
}

/// An entry, by its index, whose fdatasync is held in the thread that brought it: brought again until the log thread has
/// nothing to do, so that the other stands in for it.
fn brought(world: &mut World) -> (u64, Held, JoinHandle<()>) {
    let mut prev = FIRST;
    for index in 2..10_000 {
        let held = world.disk.hold();
        let (body, entries) = append(prev, &[(EntryKind::Normal, "one")], 2, 0);
        let brings = world.peers.bring(B, 2, body, entries);
        if world.disk.wait_until_held(1) == brings.thread().id() {
            return (index, held, brings);
        }
        drop(held);
        world.peers.wait_for(&matched(index, 0));
        brings.join().unwrap();
        prev = LogId::new(Term(2), LogIndex(index));
    }
    panic!("it is the log thread that syncs whatever is brought");
}

#[test]
fn words_are_answered_while_the_thread_that_brought_an_entry_waits_for_the_disk() {
    let mut world = start(patient());
    let (index, held, brings) = brought(&mut world);
    // Answered by who has the turn meanwhile.
    world.peers.fence();
    assert!(!world.peers.has_seen(&matched(index, 0)));
    drop(held);
    world.peers.wait_for(&matched(index, 0));
    brings.join().unwrap();
}

#[test]
fn an_entry_whose_fdatasync_fails_in_the_thread_that_brought_it_is_never_acknowledged() {
    let mut world = start(patient());
    let (index, held, brings) = brought(&mut world);
    world.disk.fail();
    drop(held);
    brings.join().unwrap();
    // Told when the threads have ended.
    assert!(world.node.committed().from(1_000).next().is_none());
    let reason = world.node.status().stopped.unwrap();
    assert!(world.node.shutdown().is_err(), "{reason}");
    assert!(!world.peers.has_seen(&matched(index, 0)));
}

#[test]
fn a_vote_whose_fdatasync_fails_never_leaves_and_stops_the_node() {
    let mut world = start(patient());
    world.disk.fail();
    world.peers.say(B, 5, Body::Vote { last: FIRST });
    // Told when the threads have ended.
    assert!(world.node.committed().from(1_000).next().is_none());
    let reason = world.node.status().stopped.unwrap();
    assert!(world.node.shutdown().is_err(), "{reason}");
    assert!(!world.peers.has_seen(&Body::VoteReply { granted: true }));
    let refused = world.node.propose("x").map(drop);
    assert_eq!(refused, Err(Error::Stopped { reason }));
}

#[test]
fn a_leader_replicates_while_it_writes_and_commits_without_its_own_disk() {
    let mut world = start(patient());
    let term = world.peers.elect();
    // This one needs its own disk, which then has nothing left to do of the election.
    let first = world.node.propose("first").unwrap();
    world.peers.wait_for_append_of(3);
    world.peers.say(B, term, matched(3, 0));
    assert_eq!(first.wait(), Ok(1));
    let held = world.disk.hold();
    let proposal = world.node.propose("x").unwrap();
    let last = 4;
    world.peers.wait_for_append_of(last);
    world.peers.say(B, term, matched(last, 0));
    world.peers.fence();
    assert!(
        world.node.status().committed < LogIndex(last),
        "counted a copy that is not durable"
    );
    world.peers.say(C, term, matched(last, 0));
    assert_eq!(proposal.wait(), Ok(2));
    drop(held);
}

/// Whatever a message says: the entry that took a proposal's place is not its reply.
#[test]
fn a_proposal_is_answered_by_its_own_entry_alone() {
    let mut world = start(patient());
    let term = world.peers.elect();
    let mut proposal = world.node.propose("mine").unwrap();
    world.peers.wait_for_append_of(3);
    // A later leader's entry replaces it and is committed, all in one message.
    let no_op = LogId::new(Term(term), LogIndex(2));
    let other = [(EntryKind::Normal, "other")];
    let (body, entries) = append(no_op, &other, term + 1, 3);
    world.peers.say_with(B, term + 1, body, entries);
    let end = proposal.wait_for(PATIENCE);
    assert_eq!(end, Some(Err(Error::OutcomeUnknown)));
}

#[test]
fn a_shutdown_joins_every_thread() {
    let mut world = start(patient());
    world.peers.elect();
    world.node.propose("x").map(drop).unwrap();
    world.node.shutdown().unwrap();
    assert_eq!(Arc::strong_count(&world.token), 1, "the apply thread runs");
    // The raft thread and the log thread held the transport.
    let left = world.peers.sent.iter().count();
    assert!(left < 1_000, "all ends of the wire are dropped");
}
