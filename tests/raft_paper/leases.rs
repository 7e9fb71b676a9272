//! Reads by lease: thesis, section 6.4.1.

use super::*;
use std::time::Duration;

const D: NodeId = NodeId(4);
const E: NodeId = NodeId(5);
const MICROSECOND: Duration = Duration::from_micros(1);

fn timeout() -> Duration {
    config().election_timeout
}

/// Three members, of which the first leads.
fn led(config: Config) -> Net {
    let mut net = Net::with(config, &vec![Disk::default(); 3], 1);
    net.elect(1);
    net.propose(1, 1);
    net.settle();
    net
}

/// Asks the first member for a read. True if it is answered at once, false if it takes a round.
fn answers_at_once(net: &mut Net) -> bool {
    assert!(net.wire.is_empty());
    let before = net.at(1).ready.len();
    let read = ReadId(before as u64 + 1);
    net.step(A, Event::Read { read });
    let at_once = net.at(1).ready.len() > before;
    assert_eq!(at_once, net.wire.is_empty(), "a round or none");
    at_once
}

/// "The leader's lease is valid from when it sent the round": what it took until the answer is part of it.
#[test]
fn a_lease_lasts_an_election_timeout_from_when_the_round_was_sent() {
    // Less two ticks of the clocks.
    let whole = timeout() - 2 * MICROSECOND;
    let half = (timeout() - MICROSECOND) / 2 - MICROSECOND;
    for (drift_ppm, lasts) in [(0, whole), (1_000_000, half)] {
        let mut net = led(leases(drift_ppm));
        assert!(!answers_at_once(&mut net), "no round was answered yet");
        let sent = net.now;
        net.now = sent.after(timeout() / 3);
        net.settle();
        assert_eq!(net.at(1).ready.len(), 1);
        assert!(answers_at_once(&mut net));
        net.now = sent.after(lasts - MICROSECOND);
        assert!(answers_at_once(&mut net));
        net.now = sent.after(lasts);
        assert!(!answers_at_once(&mut net), "it is over");
        net.settle();
        assert!(answers_at_once(&mut net), "the round has begun another");
    }
}

/// Heartbeats are rounds, so an idle leader keeps its lease.
#[test]
fn heartbeats_keep_a_lease_as_long_as_a_quorum_answers() {
    let mut net = led(leases(10_000));
    for _ in 0..50 {
        net.run_for(config().heartbeat_interval);
        assert!(answers_at_once(&mut net));
    }
    net.isolate(3);
    net.run_for(timeout());
    assert!(answers_at_once(&mut net), "two of three");
    net.isolate(2);
    net.run_for(timeout() - MICROSECOND);
    assert!(!answers_at_once(&mut net));
}

#[test]
fn without_the_option_every_read_takes_a_round() {
    let mut net = led(config());
    for _ in 0..5 {
        assert!(!answers_at_once(&mut net));
        net.run_for(config().heartbeat_interval);
    }
}

/// A follower's ask is a read like any other, and the answer brings the commit index with it.
#[test]
fn a_follower_is_answered_by_lease_and_need_not_wait_for_a_heartbeat() {
    let mut net = led(leases(0));
    net.run_for(config().heartbeat_interval);
    net.propose(1, 1);
    net.settle();
    assert!(net.at(2).committed < net.at(1).committed);
    net.seen.clear();
    net.step(B, Event::Read { read: ReadId(1) });
    net.settle();
    assert_eq!(net.at(2).ready, [(ReadId(1), net.at(1).committed)]);
    assert!(!net.seen.iter().any(|(_, to, _)| *to == C), "no round");
}

/// Step 1 of section 6.4 stands: what the one before it committed it may not know.
#[test]
fn a_lease_is_of_no_use_before_an_entry_of_the_term_is_committed() {
    let mut net = led(leases(0));
    net.now = net.now.after(timeout());
    net.tick(2);
    while net.at(2).status().role != RoleName::Leader {
        let message = net.wire.pop_front().unwrap();
        net.deliver(message);
    }
    net.slow.extend([A, C]);
    net.settle();
    net.tick(2);
    net.settle();
    let read = ReadId(1);
    net.step(B, Event::Read { read });
    net.settle();
    assert_eq!(net.at(2).ready, []);
    net.slow.clear();
    net.sync(C, usize::MAX);
    net.settle();
    assert_eq!(net.at(2).ready, [(read, LogIndex(3))]);
}

/// "The lease is not valid while leadership is transferred": and as the word may come late, never after.
#[test]
fn who_has_told_another_to_campaign_has_no_lease_any_more() {
    let mut net = led(leases(0));
    net.run_for(config().heartbeat_interval);
    assert!(answers_at_once(&mut net));
    net.step(A, Event::Transfer { to: Some(B) });
    let word = net.wire.pop_front().unwrap();
    assert_eq!(word.2.body, Body::TimeoutNow);
    assert!(!answers_at_once(&mut net));
    while net.at(1).abandoned == 0 {
        net.tick(1);
        while let Some(message) = net.wire.pop_front() {
            if message.2.body != Body::TimeoutNow {
                net.deliver(message);
            }
        }
    }
    // Now it comes after all, and who has heard from the leader gives its vote to the other.
    net.deliver(word);
    net.isolate(1);
    net.settle();
    assert_eq!(net.leaders(), [1, 2]);
    net.propose(2, 1);
    net.settle();
    assert!(!answers_at_once(&mut net), "it would miss an entry");
    net.settle();
    assert!(net.at(1).ready.len() < 3);
}

/// The voter's word holds whatever it hears: in a newer term, where it follows nobody, as in this.
#[test]
fn a_voter_that_heard_from_a_leader_votes_for_nobody_within_the_timeout_in_any_term() {
    let mut net = led(leases(0));
    net.run_for(config().heartbeat_interval);
    let heard = net.now;
    net.step(C, received(B, 2, Body::PreVoteReply { granted: false }));
    assert_eq!(net.at(3).status().term, Term(2));
    net.wire.clear();
    net.now = Time(heard.after(timeout()).0 - 1);
    net.step(C, received(B, 2, vote(1, 2)));
    net.step(C, received(B, 3, vote(1, 2)));
    net.step(C, received(B, 3, Body::PreVote { last: id(1, 2) }));
    let yes = |net: &Net| {
        net.wire.iter().any(|(_, _, message)| {
            let body = &message.body;
            matches!(
                body,
                Body::VoteReply { granted: true } | Body::PreVoteReply { granted: true }
            )
        })
    };
    assert!(!yes(&net));
    assert_eq!(net.at(3).status().term, Term(2));
    net.now = heard.after(timeout());
    net.step(C, received(B, 3, vote(1, 2)));
    assert!(yes(&net));
    // The leader's own wish goes before.
    let mut net = led(leases(0));
    net.step(C, received(B, 2, Body::HandoverVote { last: id(1, 2) }));
    assert!(yes(&net));
}

/// Who starts does not know whom it heard.
#[test]
fn a_member_that_starts_votes_for_nobody_within_the_timeout() {
    for (config, waits) in [(leases(0), true), (config(), false)] {
        let mut net = led(config.clone());
        net.run_for(config.heartbeat_interval);
        net.crash(C);
        let started = net.now;
        net.step(C, received(B, 2, vote(1, 2)));
        let voted = |net: &Net| net.at(3).written.hard_state.vote == Some(B);
        assert_eq!(voted(&net), !waits);
        net.now = started.after(timeout());
        net.step(C, received(B, 2, vote(1, 2)));
        assert!(voted(&net));
        // Nor does it make itself the leader, be it that nobody else votes.
        let alone = Raft::new(&config, boot(1, 1, &disk(&[1]), 7), Time::default());
        assert_eq!(alone.deadline() >= Time::default().after(timeout()), waits);
    }
}

/// Sections 4.1 and 4.3: while the configuration is joint it takes both majorities, and a lease of the old one
/// is none of the new.
#[test]
fn a_lease_is_counted_by_the_configuration_that_counts() {
    let config = leases(0);
    let mut raft = Raft::new(&config, boot(1, 3, &disk(&[]), 7), Time::default());
    let start = raft.deadline();
    step_at(&mut raft, start, Event::Tick);
    step(
        &mut raft,
        received(B, 1, Body::PreVoteReply { granted: true }),
    );
    sync(&mut raft, 1);
    step(&mut raft, received(B, 1, Body::VoteReply { granted: true }));
    sync(&mut raft, 2);
    step(&mut raft, received(B, 1, matched(1, 0)));
    let beat = raft.deadline();
    step_at(&mut raft, beat, Event::Tick);
    step(&mut raft, received(B, 1, matched(1, 1)));
    let mut next = 0;
    let mut at_once = |raft: &mut Raft| {
        next += 1;
        let read = ReadId(next);
        let effects = step(raft, Event::Read { read });
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::ReadReady { .. }))
    };
    assert!(at_once(&mut raft));
    let to = Roster::of_voters([A, D, E]);
    step(&mut raft, Event::Change { to });
    assert!(raft.roster().is_joint());
    assert!(!at_once(&mut raft), "nobody of the new ones was heard");
    step(&mut raft, received(C, 1, matched(1, 2)));
    let confirmed = step(&mut raft, received(D, 1, matched(1, 2)));
    assert!(
        confirmed
            .iter()
            .any(|effect| matches!(effect, Effect::ReadReady { .. }))
    );
    assert!(at_once(&mut raft), "both majorities were");
    // A leader alone asks nobody.
    let mut alone = Raft::new(&config, boot(1, 1, &disk(&[]), 7), Time::default());
    let start = alone.deadline();
    step_at(&mut alone, start, Event::Tick);
    sync(&mut alone, 1);
    sync(&mut alone, 2);
    assert!(at_once(&mut alone));
}
