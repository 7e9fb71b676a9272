//! Handing leadership over: thesis, section 3.10.

use super::*;

/// `leader()`, whose no-op both others have.
fn settled() -> Raft {
    let mut raft = leader();
    for from in [B, C] {
        step(&mut raft, received(from, 1, matched(1, 0)));
    }
    assert_eq!(raft.pointers().committed, LogIndex(1));
    raft
}

fn transfer(to: impl Into<Option<NodeId>>) -> Event {
    Event::Transfer { to: to.into() }
}

fn refused(refusal: Refusal) -> [Effect; 1] {
    [Effect::Refused(refusal)]
}

/// "The target server's log is made to match", then "the prior leader sends a TimeoutNow request to the
/// target server", and until the end it "stops accepting new client requests".
#[test]
fn the_target_gets_the_whole_log_and_then_the_word_while_proposals_are_refused() {
    let mut raft = settled();
    assert_eq!(step(&mut raft, transfer(B)), [now(B, 1, Body::TimeoutNow)]);
    // One that lacks an entry is not told yet, nor before all that was proposed is committed.
    let mut raft = settled();
    step(&mut raft, Event::Propose { count: 1 });
    assert_eq!(step(&mut raft, transfer(B)), []);
    let to = Refusal::Transferring { to: B };
    assert_eq!(step(&mut raft, Event::Propose { count: 1 }), refused(to));
    assert_eq!(step(&mut raft, transfer(C)), refused(to), "one at a time");
    let matched_by_b = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(matched_by_b, [], "it is on one durable disk");
    let committed = sync(&mut raft, 3);
    assert_eq!(commits(&committed), [id(1, 2)]);
    assert_eq!(sends(&committed), [now(B, 1, Body::TimeoutNow)]);
    // Or it is the other that has it first.
    let mut raft = settled();
    step(&mut raft, Event::Propose { count: 1 });
    step(&mut raft, transfer(B));
    sync(&mut raft, 3);
    let others = step(&mut raft, received(C, 1, matched(2, 0)));
    assert_eq!(commits(&others), [id(1, 2)]);
    assert_eq!(sends(&others), [], "B lacks it");
    let told = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(told, [now(B, 1, Body::TimeoutNow)]);
}

/// "This request has the same effect as the target server's election timer firing: the target server starts
/// a new election." The others vote for it although they hear from the leader, and no time passes.
#[test]
fn leadership_goes_over_without_a_timeout() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.propose(1, 2);
    let before = net.now;
    net.step(A, transfer(C));
    net.settle();
    assert_eq!((net.now, net.leaders()), (before, vec![3]));
    assert_eq!(net.at(3).status().term, Term(2));
    assert_eq!(net.at(1).status().leader, Some(C));
    assert_eq!(net.at(1).committed, LogIndex(3), "all it had taken");
    let asked = net.seen.iter().map(|(_, _, message)| &message.body);
    let votes = |body: &&Body| matches!(body, Body::HandoverVote { .. });
    assert_eq!(asked.filter(votes).count(), 2);
    net.propose(3, 1);
    net.settle();
    assert_eq!(net.terms(1), [1, 1, 1, 2, 2]);
}

/// "If leadership transfer does not complete after about an election timeout, the prior leader aborts the
/// transfer and resumes accepting client requests."
#[test]
fn a_transfer_that_comes_to_nothing_is_given_up_after_an_election_timeout() {
    let mut net = Net::empty(3);
    net.elect(1);
    let before = net.at(1).status();
    net.isolate(2);
    net.step(A, transfer(B));
    net.run_for(config().election_timeout - std::time::Duration::from_micros(1));
    net.propose(1, 1);
    let to = Refusal::Transferring { to: B };
    assert_eq!(net.at_mut(1).refused.take(), Some(to));
    assert_eq!(net.at(1).abandoned, 0);
    net.run_for(std::time::Duration::from_micros(1));
    assert_eq!(net.at(1).abandoned, 1);
    net.propose(1, 1);
    net.settle();
    assert_eq!(net.at(1).refused, None);
    assert_eq!(net.at(1).committed, LogIndex(2));
    net.run_for(config().election_timeout * 10);
    assert_eq!(net.at(1).status(), before);
    assert_eq!(net.at(1).abandoned, 1);
    // Once given up, another may begin.
    net.step(A, transfer(C));
    net.settle();
    assert_eq!(net.leaders(), [3]);
}

/// The word may be lost. It is said again with the next heartbeat.
#[test]
fn a_lost_word_is_said_again() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.step(A, transfer(B));
    net.wire.clear();
    net.run_for(config().heartbeat_interval);
    assert_eq!(net.leaders(), [2]);
}

#[test]
fn what_cannot_be_handed_over_is_refused() {
    let mut raft = core(3, &[1]);
    let nobody = Refusal::NotLeader { leader: None };
    assert_eq!(step(&mut raft, transfer(B)), refused(nobody));
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    let other = Refusal::NotLeader { leader: Some(B) };
    assert_eq!(step(&mut raft, transfer(None)), refused(other));
    for to in [A, NodeId(4)] {
        let effects = step(&mut settled(), transfer(to));
        assert_eq!(effects, refused(Refusal::NoSuccessor), "to {to}");
    }
    let mut alone = core(1, &[]);
    step(&mut alone, Event::Tick);
    sync(&mut alone, 1);
    sync(&mut alone, 2);
    assert_eq!(alone.status().role, RoleName::Leader);
    let effects = step(&mut alone, transfer(None));
    assert_eq!(effects, refused(Refusal::NoSuccessor));
}

/// Without a name it goes to who is furthest along, and of these to who answered last.
#[test]
fn the_best_follower_is_chosen() {
    for best in [B, C] {
        let mut raft = settled();
        step(&mut raft, Event::Propose { count: 3 });
        sync(&mut raft, 3);
        step(&mut raft, received(best, 1, matched(4, 0)));
        let told = step(&mut raft, transfer(None));
        assert_eq!(told, [now(best, 1, Body::TimeoutNow)]);
        let mut raft = settled();
        let deadline = raft.deadline();
        step_at(&mut raft, deadline, Event::Tick);
        step(&mut raft, received(best, 1, matched(1, 1)));
        let told = step(&mut raft, transfer(None));
        assert_eq!(told, [now(best, 1, Body::TimeoutNow)]);
    }
}

/// Only the leader hands its leadership over, and only in its own term.
#[test]
fn the_word_of_anyone_but_the_leader_is_not_heeded() {
    let follower = || {
        let mut raft = core(3, &[1]);
        step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
        raft
    };
    for (from, term) in [(C, 1), (B, 0)] {
        let effects = step(&mut follower(), received(from, term, Body::TimeoutNow));
        assert_eq!(effects, [], "from {from} in term {term}");
    }
    let mut raft = follower();
    step(&mut raft, received(B, 2, Body::TimeoutNow));
    assert_eq!(raft.status().role, RoleName::Follower, "of whom?");
    assert_eq!(step(&mut leader(), received(B, 1, Body::TimeoutNow)), []);
    let mut boot = boot(1, 3, &disk(&[1]), 7);
    boot.configs = vec![(LogIndex::ZERO, Roster::of_voters([B, C]))];
    let mut raft = Raft::new(&config(), boot, Time::default());
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    let effects = step(&mut raft, received(B, 1, Body::TimeoutNow));
    assert_eq!(effects, [], "it has no vote");
    let mut raft = follower();
    let effects = step(&mut raft, received(B, 1, Body::TimeoutNow));
    let ask = Body::HandoverVote { last: id(1, 1) };
    let asked = [after(1, B, 2, ask.clone()), after(1, C, 2, ask)];
    assert_eq!(sends(&effects), asked);
}

/// The leader's wish breaks stickiness, and nothing else: one vote a term, for an up-to-date log.
#[test]
fn a_vote_in_the_leaders_name_is_given_like_any_other() {
    let granted = |last, vote: Option<NodeId>| {
        let mut disk = disk(&[1, 1]);
        disk.hard_state.vote = vote;
        let mut raft = Raft::new(&config(), boot(1, 3, &disk, 7), Time::default());
        step(&mut raft, received(B, 1, heartbeat(id(1, 2), 0, 1)));
        let term = if vote.is_some() { 1 } else { 2 };
        let effects = step(&mut raft, received(C, term, Body::HandoverVote { last }));
        let granted = |effect: &Effect| match effect {
            Effect::Send { message, .. } => message.body == Body::VoteReply { granted: true },
            _ => false,
        };
        effects.iter().any(granted)
    };
    assert!(granted(id(1, 2), None));
    assert!(!granted(id(1, 1), None), "its log is shorter");
    assert!(!granted(id(1, 2), Some(B)), "it has voted");
}

/// A leader that loses the lead otherwise hands nothing over any more.
#[test]
fn a_transfer_ends_with_the_leadership() {
    let mut raft = settled();
    step(&mut raft, transfer(B));
    step(&mut raft, received(C, 2, heartbeat(id(1, 1), 0, 1)));
    let deadline = raft.deadline();
    let effects = step_at(&mut raft, deadline, Event::Tick);
    assert!(!effects.contains(&Effect::TransferAbandoned), "{effects:?}");
    let other = Refusal::NotLeader { leader: None };
    assert_eq!(step(&mut raft, Event::Propose { count: 1 }), refused(other));
}

/// Lets a leader tick until `end`, each heartbeat answered by B and C, who have all that it has; what else it sent or
/// gave up.
fn answered_until(raft: &mut Raft, end: Time) -> Vec<Effect> {
    let mut told = Vec::new();
    while raft.deadline() < end {
        let at = raft.deadline();
        let mut effects = step_at(raft, at, Event::Tick);
        let rounds: Vec<(NodeId, u64)> = effects.iter().filter_map(heartbeat_round).collect();
        for (from, round) in rounds {
            let last = raft.pointers().last.index.0;
            effects.extend(step_at(raft, at, received(from, 1, matched(last, round))));
        }
        told.extend(effects.into_iter().filter(|effect| match effect {
            Effect::Send { .. } => heartbeat_round(effect).is_none(),
            Effect::TransferAbandoned | Effect::Status(_) => true,
            _ => false,
        }));
    }
    told
}

fn heartbeat_round(effect: &Effect) -> Option<(NodeId, u64)> {
    let Effect::Send { to, message, .. } = effect else {
        return None;
    };
    match message.body {
        Body::Append { round, .. } => Some((*to, round)),
        _ => None,
    }
}

/// Not in the paper, where a leader writes to disk before it answers anybody. A leader that is heard by a quorum, and
/// whose own disk hangs, would lead on for ever while nothing that its clients propose can be waited for.
#[test]
fn a_leader_whose_disk_hangs_for_an_election_timeout_hands_over() {
    let timeout = config().election_timeout;
    let idle = Time::default().after(timeout * 20);
    let mut raft = settled();
    let told = answered_until(&mut raft, idle);
    assert_eq!(told, [], "it has nothing to write");
    // It writes, and gets nowhere.
    step_at(&mut raft, idle, Event::Propose { count: 1 });
    let told = answered_until(&mut raft, idle.after(timeout));
    assert_eq!(sends(&told), [], "it may be slow");
    let told = answered_until(&mut raft, idle.after(timeout * 2));
    // Of two that are equally far it is the first.
    assert_eq!(sends(&told)[0], now(B, 1, Body::TimeoutNow));
    // If nothing comes of it, it leads on, and tries again.
    let told = answered_until(&mut raft, idle.after(timeout * 4));
    assert!(told.contains(&Effect::TransferAbandoned));
    assert!(sends(&told).contains(&now(B, 1, Body::TimeoutNow)));
    assert_eq!(raft.status().role, RoleName::Leader);
}

#[test]
fn a_leader_whose_disk_is_slow_leads_on() {
    let timeout = config().election_timeout;
    let mut raft = settled();
    step(&mut raft, Event::Propose { count: 1 });
    for seq in 3..20 {
        step(&mut raft, Event::Propose { count: 1 });
        let end = raft.deadline().after(timeout);
        assert_eq!(answered_until(&mut raft, end), []);
        // One write an election timeout is all it does, and it is never done.
        let durable = Durable::for_simulation(WriteSeq(seq));
        step_at(&mut raft, end, Event::Persisted(durable));
    }
}

/// A large write takes a disk that works longer than an election timeout.
#[test]
fn a_leader_whose_disk_is_at_a_large_write_leads_on_as_long_as_a_slow_disk_takes() {
    let timeout = config().election_timeout;
    let idle = Time::default().after(timeout * 20);
    let mut raft = settled();
    answered_until(&mut raft, idle);
    let prev = raft.pointers().last.index;
    // What is durable is no reason to wait.
    raft.weigh(LogIndex::ZERO, prev, 1 << 40);
    step_at(&mut raft, idle, Event::Propose { count: 1 });
    // At 16 MB a second ten timeouts.
    let bytes = 16 * timeout.as_micros() as u64 * 10;
    raft.weigh(prev, raft.pointers().last.index, bytes);
    let told = answered_until(&mut raft, idle.after(timeout * 10));
    assert_eq!(sends(&told), []);
    let told = answered_until(&mut raft, idle.after(timeout * 12));
    assert_eq!(sends(&told)[0], now(B, 1, Body::TimeoutNow));
}
