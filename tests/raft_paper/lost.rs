//! Connections that end: what a follower makes of losing its leader's. Section 5.2 and PreVote (thesis, section 9.6),
//! stickiness (4.2.3) and leases (6.4.1).

use super::*;
use std::time::Duration;

const MICROSECOND: Duration = Duration::from_micros(1);

fn timeout() -> Duration {
    config().election_timeout
}

/// What "soon" is at most.
fn soon() -> Duration {
    timeout() / 8
}

fn lost(from: NodeId) -> Event {
    Event::Lost { from }
}

/// Three members, of which the first leads and has just been heard.
fn led() -> Net {
    let mut net = Net::empty(3);
    net.elect(1);
    net.run_for(config().heartbeat_interval);
    net
}

/// Node 1, which has just heard from B.
fn follower(seed: u64) -> Raft {
    let mut raft = Raft::new(&config(), boot(1, 3, &disk(&[1]), seed), Time::default());
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    raft
}

/// Whether an effect is a PreVote to somebody.
fn asks(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| {
        matches!(effect, Effect::Send { message, .. } if matches!(message.body, Body::PreVote { .. }))
    })
}

/// Section 5.2 has it wait for a timeout, because silence is all that it knows.
#[test]
fn who_loses_its_leader_asks_soon_whether_it_would_be_elected() {
    let mut waits = BTreeSet::new();
    for seed in 0..200 {
        let mut raft = follower(seed);
        let status = raft.status();
        assert_eq!(step(&mut raft, lost(B)), [], "no word before its time");
        assert_eq!(raft.status(), status);
        let due = raft.deadline();
        assert!(due < Time::default().after(soon()), "{due:?}");
        waits.insert(due);
        assert!(asks(&step_at(&mut raft, due, Event::Tick)));
        assert_eq!(raft.status().term, Term(1), "nobody is unseated by that");
    }
    assert!(waits.len() > 190, "two would ask at once");
    let halves = waits
        .iter()
        .filter(|due| due.0 * 2 < soon().as_micros() as u64);
    assert!((50..150).contains(&halves.count()));
}

/// What is lost is the claim on who lost it: it is free to vote for another.
#[test]
fn who_has_lost_its_leader_votes_for_another_and_who_has_not_does_not() {
    for gone in [true, false] {
        let mut raft = follower(7);
        if gone {
            step(&mut raft, lost(B));
        }
        let term = if gone { 2 } else { 1 };
        let asked = step(&mut raft, received(C, 2, Body::PreVote { last: id(1, 1) }));
        let reply = Body::PreVoteReply { granted: gone };
        assert_eq!(asked, [now(C, term, reply)]);
        step(&mut raft, received(C, 2, vote(1, 1)));
        assert_eq!(raft.status().term, Term(term));
    }
}

#[test]
fn only_the_loss_of_its_leader_makes_a_follower_ask_and_nobody_else_is_moved_by_any() {
    let mut raft = follower(7);
    let before = raft.deadline();
    assert_eq!(step(&mut raft, lost(C)), []);
    assert_eq!(raft.deadline(), before);
    // Of a term without a leader yet.
    let refused = Body::VoteReply { granted: false };
    step(&mut raft, received(C, 2, refused));
    let before = raft.deadline();
    assert_eq!(step(&mut raft, lost(B)), []);
    assert_eq!(raft.deadline(), before);
    // Who asks already, and who campaigns.
    let mut raft = core(3, &[1]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    let asking = raft.deadline();
    assert_eq!(step_at(&mut raft, deadline, lost(B)), []);
    assert_eq!(raft.deadline(), asking);
    let granted = Body::PreVoteReply { granted: true };
    step(&mut raft, received(C, 2, granted));
    assert_eq!(raft.status().role, RoleName::Candidate);
    let campaigning = raft.deadline();
    assert_eq!(step_at(&mut raft, deadline, lost(B)), []);
    assert_eq!(raft.deadline(), campaigning);
    // A leader looks for its quorum as before.
    let mut raft = leader();
    let before = raft.deadline();
    assert_eq!(step(&mut raft, lost(B)), []);
    assert_eq!(
        (raft.status().role, raft.deadline()),
        (RoleName::Leader, before)
    );
}

/// Thesis, section 9.6: a quorum that hears the leader refuses, so that nothing comes of a connection that broke.
#[test]
fn a_leader_that_one_follower_has_lost_leads_on() {
    let mut net = led();
    let before = net.at(1).status();
    for _ in 0..50 {
        net.step(B, lost(A));
        // The leader speaks to it no more until the next heartbeat but one.
        net.cut_one_way.insert((A, B));
        net.run_for(config().heartbeat_interval + soon());
        assert_eq!(net.at(2).status().role, RoleName::PreCandidate);
        net.cut_one_way.clear();
        net.run_for(config().heartbeat_interval);
        assert_eq!(net.at(2).status().leader, Some(A));
    }
    assert_eq!(net.at(1).status(), before);
}

/// The leader's next word makes all be as it was.
#[test]
fn who_hears_from_its_leader_again_stands_by_it_and_waits_as_long_as_ever() {
    let mut raft = follower(7);
    step(&mut raft, lost(B));
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 2)));
    assert!(raft.deadline() >= Time::default().after(timeout()));
    let asked = step(&mut raft, received(C, 2, Body::PreVote { last: id(1, 1) }));
    let refused = Body::PreVoteReply { granted: false };
    assert_eq!(asked, [now(C, 1, refused)]);
    // Also if it has begun to ask: each wait is a whole one then.
    let mut raft = follower(7);
    step(&mut raft, lost(B));
    let due = raft.deadline();
    step_at(&mut raft, due, Event::Tick);
    step_at(&mut raft, due, received(B, 1, heartbeat(id(1, 1), 0, 2)));
    for _ in 0..5 {
        let due = raft.deadline();
        assert!(asks(&step_at(&mut raft, due, Event::Tick)));
        assert!(raft.deadline() >= due.after(timeout()));
    }
}

/// The others may hear of it a little later. After some tries it is for the timeout to tell.
#[test]
fn who_is_refused_after_a_loss_asks_again_soon_but_not_for_ever() {
    let mut raft = follower(7);
    step(&mut raft, lost(B));
    let mut waits = Vec::new();
    for _ in 0..10 {
        let due = raft.deadline();
        assert!(asks(&step_at(&mut raft, due, Event::Tick)));
        let refused = Body::PreVoteReply { granted: false };
        step_at(&mut raft, due, received(C, 1, refused));
        waits.push(raft.deadline().since(due));
    }
    let (short, long) = waits.split_at(3);
    assert!(
        short.iter().all(|wait| (soon()..soon() * 2).contains(wait)),
        "{short:?}"
    );
    assert!(long.iter().all(|wait| *wait >= timeout()), "{long:?}");
}

/// All three hear of it, each in its own time; what is left elects a leader long before the timeout.
#[test]
fn a_leader_that_dies_is_followed_by_another_in_a_part_of_the_timeout() {
    let mut slowest = Duration::ZERO;
    for (seed, late) in (0..100_u32).map(|seed| (seed, soon() * (seed % 4) / 2)) {
        let mut net = Net::new(&vec![Disk::default(); 3], u64::from(seed));
        net.elect(1);
        net.run_for(config().heartbeat_interval);
        net.isolate(1);
        let died = net.now;
        net.step(B, lost(A));
        net.run_for(late);
        net.step(C, lost(A));
        while net.leaders().len() == 1 {
            net.run_for(MICROSECOND * 500);
        }
        slowest = slowest.max(net.now.since(died));
    }
    assert!(slowest < soon() * 4, "{slowest:?}");
}

/// Who was told by nobody waits as it always did, and follows who was.
#[test]
fn a_loss_that_only_one_of_two_hears_of_is_found_by_the_timeout_as_before() {
    let mut net = led();
    net.isolate(1);
    let died = net.now;
    net.step(B, lost(A));
    net.run_for(timeout() - MICROSECOND);
    assert_eq!(net.leaders(), [1], "C has heard from it");
    while net.leaders().len() == 1 {
        net.run_for(MICROSECOND * 500);
    }
    assert!(net.now <= died.after(timeout() * 2));
}

/// Section 5.2: candidates that split the votes try again after new, different waits; here short ones.
#[test]
fn votes_that_are_split_after_a_loss_are_asked_for_again_soon() {
    let mut raft = follower(7);
    step(&mut raft, lost(B));
    let due = raft.deadline();
    step_at(&mut raft, due, Event::Tick);
    let granted = Body::PreVoteReply { granted: true };
    step_at(&mut raft, due, received(C, 2, granted));
    assert_eq!(raft.status().role, RoleName::Candidate);
    let wait = raft.deadline().since(due);
    assert!((soon()..soon() * 2).contains(&wait), "{wait:?}");
    let due = raft.deadline();
    assert!(asks(&step_at(&mut raft, due, Event::Tick)));
}

/// A lease counts on the clock: a connection that breaks gives nobody a vote before it is over.
#[test]
fn a_promise_that_a_lease_rests_on_outlasts_the_connection() {
    let mut net = Net::with(leases(0), &vec![Disk::default(); 3], 1);
    net.elect(1);
    net.run_for(config().heartbeat_interval);
    let heard = net.now;
    net.isolate(1);
    for id in [B, C] {
        net.step(id, lost(A));
        let due = net.at(id.0).raft.deadline();
        let over = heard.after(timeout());
        assert!((over..over.after(soon())).contains(&due), "{due:?}");
    }
    net.now = Time(heard.after(timeout()).0 - 1);
    net.step(C, received(B, 2, Body::PreVote { last: id(1, 1) }));
    net.step(C, received(B, 2, vote(1, 1)));
    let refused = message(1, Body::PreVoteReply { granted: false });
    assert_eq!(net.wire, [(C, B, refused)]);
    net.wire.clear();
    net.run_for(soon() * 4);
    assert_eq!(net.leaders().len(), 2, "sooner than without the word");
    // Also if the leader's wish to be followed comes in between.
    let mut net = Net::with(leases(0), &vec![Disk::default(); 3], 1);
    net.elect(1);
    net.run_for(config().heartbeat_interval);
    net.isolate(1);
    net.isolate(3);
    net.step(B, lost(A));
    net.step(B, received(A, 1, Body::TimeoutNow));
    assert_eq!(net.at(2).status().role, RoleName::Candidate);
    assert!(net.at(2).raft.deadline() >= heard.after(timeout()));
}
