//! A leader and its quorum: CheckQuorum (thesis, section 6.2) and stickiness (section 4.2.3), and the
//! live-locks that each would bring without the other.

use super::*;
use std::time::Duration;

fn timeout() -> Duration {
    config().election_timeout
}

fn role(net: &Net, id: u64) -> RoleName {
    net.at(id).status().role
}

/// Thesis, section 6.2: "a leader in Raft steps down if an election timeout elapses without a successful
/// round of heartbeats to a majority of its cluster; this allows clients to retry their requests with
/// another server."
#[test]
fn a_leader_that_hears_no_quorum_for_an_election_timeout_steps_down() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(1);
    net.propose(1, 1);
    net.step(A, Event::Read { read: ReadId(1) });
    let before = net.at(1).status();
    net.run_for(timeout() - Duration::from_micros(1));
    assert_eq!(net.at(1).status(), before, "a quorum was heard in this one");
    // Twice the timeout after the last answer at the latest.
    net.run_for(timeout() + Duration::from_micros(1));
    let status = net.at(1).status();
    assert_eq!((status.role, status.leader), (RoleName::Follower, None));
    assert_eq!(status.term, before.term, "nobody has told of a newer one");
    assert_eq!(net.at(1).reads_failed, 1, "the read is not kept for ever");
    net.propose(1, 1);
    let refusal = Refusal::NotLeader { leader: None };
    assert_eq!(net.at(1).refused, Some(refusal));
}

/// A majority is enough, whoever of the others is gone, and the heartbeats of an idle leader suffice.
#[test]
fn a_leader_that_hears_a_quorum_goes_on() {
    for (size, gone) in [(3, vec![3]), (3, vec![2]), (5, vec![2, 4])] {
        let mut net = Net::empty(size);
        net.elect(1);
        for id in gone {
            net.isolate(id);
        }
        let before = net.at(1).status();
        net.run_for(timeout() * 20);
        assert_eq!(net.at(1).status(), before);
    }
    let mut net = Net::empty(5);
    net.elect(1);
    for id in [2, 3, 4] {
        net.isolate(id);
    }
    net.run_for(timeout() * 2);
    assert_eq!(role(&net, 1), RoleName::Follower, "two of five");
}

/// What a follower does by itself is no answer: it may not have heard the leader for long.
#[test]
fn only_answers_to_appends_show_that_a_follower_hears_its_leader() {
    let mut raft = leader();
    let mut at = Time::default();
    let end = raft.deadline().after(timeout() * 3);
    while raft.status().role == RoleName::Leader && at < end {
        at = raft.deadline();
        for (from, term, body) in [
            (B, 2, Body::PreVote { last: id(1, 1) }),
            (B, 2, vote(1, 1)),
            (C, 1, Body::VoteReply { granted: true }),
            (C, 1, Body::PreVoteReply { granted: false }),
            (C, 0, matched(1, 0)),
            (C, 1, matched(1, 999)),
        ] {
            step_at(&mut raft, at, received(from, term, body));
        }
        step_at(&mut raft, at, Event::Tick);
    }
    assert_eq!(raft.status().role, RoleName::Follower);
}

/// A follower's slow disk is not taken for a lost follower: its heartbeats are answered meanwhile.
#[test]
fn a_heartbeat_is_answered_while_the_disk_writes() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.fast_disk = false;
    net.propose(1, 3);
    let before = net.at(1).status();
    net.run_for(timeout() * 10);
    assert_eq!(net.at(1).status(), before);
    assert_eq!(net.at(1).committed, LogIndex(1), "nothing is durable yet");
    net.fast_disk = true;
    for member in [A, B, C] {
        net.sync(member, usize::MAX);
    }
    net.settle();
    assert_eq!(net.at(1).committed, LogIndex(4));
}

/// Thesis, section 4.2.3: "if a server receives a RequestVote request within the minimum election timeout
/// of hearing from a current leader, it does not update its term or grant its vote."
#[test]
fn who_hears_from_a_leader_gives_no_vote_and_keeps_its_term() {
    let mut raft = core(3, &[1]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    let (status, deadline) = (raft.status(), raft.deadline());
    let asked = || received(C, 9, vote(9, 9));
    let just_before = Time(Time::default().after(timeout()).0 - 1);
    assert_eq!(step_at(&mut raft, just_before, asked()), []);
    assert_eq!((raft.status(), raft.deadline()), (status, deadline));
    let late = Time::default().after(timeout());
    let voted = step_at(&mut raft, late, asked());
    let granted = Body::VoteReply { granted: true };
    assert_eq!(sends(&voted), [after(1, C, 9, granted)]);
    // A leader hears from itself.
    let mut raft = leader();
    let status = raft.status();
    assert_eq!(step(&mut raft, received(C, 9, vote(9, 9))), []);
    assert_eq!(raft.status(), status);
}

/// Whoever claims a newer term by an append or an answer is heard all the same: else a node that is in a
/// newer term, and has no log to be elected with, could never come back.
#[test]
fn a_node_in_a_newer_term_with_a_shorter_log_rejoins() {
    let mut ahead = disk(&[1]);
    ahead.hard_state.term = Term(9);
    let mut net = Net::new(&[disk(&[1, 1]), disk(&[1, 1]), ahead], 1);
    net.isolate(3);
    net.elect(1);
    net.propose(1, 3);
    net.settle();
    assert_eq!(net.at(1).status().term, Term(2));
    // By itself it campaigns in vain, in a term that the others have not heard of.
    net.tick(3);
    net.step(C, received(B, 10, Body::PreVoteReply { granted: true }));
    net.settle();
    assert_eq!(net.at(3).status().term, Term(10));
    net.cut.clear();
    net.run_for(timeout() * 10);
    let [leader] = net.leaders()[..] else {
        panic!("{:?} lead", net.leaders())
    };
    assert_ne!(leader, 3, "it lacks what was committed");
    net.propose(leader, 1);
    net.settle();
    assert_eq!(net.terms(3), net.terms(leader));
    assert_eq!(net.at(3).status().leader, Some(NodeId(leader)));
    let settled = net.at(leader).status();
    net.run_for(timeout() * 20);
    assert_eq!(net.at(leader).status(), settled, "and nothing is unsettled");
}

/// A follower that its leader cannot reach is told by the others that there is one.
#[test]
fn a_partial_partition_keeps_its_leader() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.cut.insert((A, B));
    let before = net.at(1).status();
    net.run_for(timeout() * 20);
    net.propose(1, 2);
    net.run_for(timeout() * 20);
    assert_eq!(net.at(1).status(), before);
    assert_eq!(net.at(1).committed, LogIndex(3));
    net.cut.clear();
    net.run_for(timeout());
    assert_eq!(net.at(1).status(), before, "nor when it ends");
    assert_eq!(net.terms(2), net.terms(1));
}

/// In a chain of three whoever leads at an end stays, as long as the middle hears it.
#[test]
fn a_chain_has_one_leader_and_keeps_it() {
    let mut net = Net::empty(3);
    net.cut.insert((A, C));
    net.run_for(timeout() * 10);
    let [leader] = net.leaders()[..] else {
        panic!("{:?} lead", net.leaders())
    };
    let before = net.at(leader).status();
    net.run_for(timeout() * 50);
    assert_eq!(net.at(leader).status(), before);
}

/// All see node 2 only, which sticks to a leader that has lost its quorum until that one steps down.
#[test]
fn the_only_node_that_sees_a_quorum_comes_to_lead() {
    let mut net = Net::empty(5);
    net.elect(1);
    let ids = [1, 3, 4, 5].map(NodeId);
    for (at, one) in ids.iter().enumerate() {
        net.cut
            .extend(ids[at + 1..].iter().map(|other| (*one, *other)));
    }
    net.run_for(timeout() * 20);
    assert_eq!(net.leaders(), [2]);
    net.propose(2, 1);
    net.settle();
    assert_eq!(net.at(2).committed.0, net.terms(2).len() as u64);
}

/// A leader that is heard and hears nobody would keep its followers for ever, and commit nothing.
#[test]
fn a_leader_that_only_its_followers_hear_is_replaced() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.cut_one_way.extend([(B, A), (C, A)]);
    net.run_for(timeout() * 10);
    let leaders = net.leaders();
    assert!(leaders == [2] || leaders == [3], "{leaders:?}");
}

/// And one that hears and is not heard is not what the others wait for.
#[test]
fn a_leader_that_nobody_hears_is_replaced() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.cut_one_way.extend([(A, B), (A, C)]);
    net.run_for(timeout() * 10);
    let leaders = net.leaders();
    assert!(leaders == [2] || leaders == [3], "{leaders:?}");
    assert_eq!(role(&net, 1), RoleName::Follower);
}

/// It is its own quorum, however long nobody speaks to it.
#[test]
fn a_single_voter_does_not_step_down() {
    let mut net = Net::empty(1);
    net.tick(1);
    assert_eq!(net.at(1).status().role, RoleName::Leader);
    net.run_for(timeout() * 20);
    assert_eq!(net.at(1).status().term, Term(1));
    assert_eq!(net.leaders(), [1]);
}

/// Who has stepped down is a follower like any other, and may lead again, in a later term.
#[test]
fn a_leader_that_stepped_down_can_lead_again() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(2);
    net.isolate(3);
    net.run_for(timeout() * 2);
    assert_eq!(net.leaders(), []);
    net.cut.clear();
    net.elect(1);
    assert_eq!(net.at(1).status().term, Term(2));
    net.propose(1, 1);
    net.settle();
    assert_eq!(net.at(1).committed, LogIndex(3));
}
