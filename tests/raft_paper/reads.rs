//! Linearizable reads on followers: thesis, section 6.4.

use super::*;
use std::time::Duration;

const D: NodeId = NodeId(4);
const E: NodeId = NodeId(5);

fn read(read: u64) -> Event {
    Event::Read { read: ReadId(read) }
}

fn ready(upto: u64, index: u64) -> Effect {
    Effect::ReadReady {
        upto: ReadId(upto),
        index: LogIndex(index),
    }
}

fn told(ask: u64, index: u64) -> Body {
    let index = LogIndex(index);
    Body::ReadIndex { ask, index }
}

fn ask(ask: u64) -> Body {
    Body::AskReadIndex { ask }
}

/// Node 1 of three, which follows B in term 1 and has committed its one entry. Its first ask has this number.
fn follower() -> Raft {
    let mut raft = core(3, &[1]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 1, 1)));
    raft
}

const FIRST: u64 = 7;

/// "To serve a read-only query, a follower would issue a request to the leader that just asked for a current
/// readIndex": then "the follower would execute steps 4 and 5 on its own state machine". All that wait share it.
#[test]
fn a_follower_asks_once_for_all_reads_that_wait_and_once_for_those_that_came_since() {
    let mut raft = follower();
    assert!(!raft.gathers_reads(), "there is nothing to wait for");
    assert_eq!(step(&mut raft, read(1)), [now(B, 1, ask(FIRST))]);
    assert!(raft.gathers_reads());
    for more in 2..=9 {
        assert_eq!(step(&mut raft, read(more)), [], "one ask is under way");
    }
    let answered = step(&mut raft, received(B, 1, told(FIRST, 1)));
    assert_eq!(answered, [ready(1, 1), now(B, 1, ask(FIRST + 1))]);
    let answered = step(&mut raft, received(B, 1, told(FIRST + 1, 1)));
    assert_eq!(answered, [ready(9, 1)]);
    assert!(!raft.gathers_reads());
    assert_eq!(step(&mut raft, read(10)), [now(B, 1, ask(FIRST + 2))]);
}

/// Step 4: "wait for its state machine to advance at least as far as the readIndex".
#[test]
fn a_follower_answers_once_it_has_committed_what_the_leader_had() {
    let mut raft = follower();
    step(&mut raft, read(1));
    assert_eq!(step(&mut raft, received(B, 1, told(FIRST, 3))), []);
    step(&mut raft, received(B, 1, append(id(1, 1), id(1, 3), 2)));
    let committed = step(&mut raft, received(B, 1, heartbeat(id(1, 3), 3, 1)));
    assert!(committed.contains(&ready(1, 3)), "{committed:?}");
    assert_eq!(commits(&committed), [id(1, 3)]);
}

/// Only what the leader of this term says to this very ask counts, and once.
#[test]
fn an_answer_is_taken_for_no_other_ask_than_its_own() {
    let mut raft = follower();
    step(&mut raft, read(1));
    step(&mut raft, received(B, 1, told(FIRST, 1)));
    step(&mut raft, read(2));
    for (from, term, number) in [
        (B, 1, FIRST),
        (B, 1, FIRST + 2),
        (C, 1, FIRST + 1),
        (B, 0, FIRST + 1),
    ] {
        let ignored = step(&mut raft, received(from, term, told(number, 1)));
        assert_eq!(ignored, [], "{from} in term {term} to {number}");
    }
    let answered = step(&mut raft, received(B, 1, told(FIRST + 1, 1)));
    assert_eq!(answered, [ready(2, 1)]);
    let again = step(&mut raft, received(B, 1, told(FIRST + 1, 1)));
    assert_eq!(again, [], "it came twice");
}

/// A restart forgets what was asked, and what was asked forgets nobody.
#[test]
fn no_answer_to_an_earlier_life_is_taken_for_one_to_this() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.run_for(config().heartbeat_interval);
    net.step(B, read(1));
    let mut late = None;
    while let Some((from, to, message)) = net.wire.pop_front() {
        if matches!(message.body, Body::ReadIndex { .. }) {
            late = Some((from, to, message));
        } else {
            net.deliver((from, to, message));
        }
    }
    net.propose(1, 1);
    net.settle();
    net.crash(B);
    net.run_for(config().heartbeat_interval);
    net.step(B, read(2));
    net.deliver(late.unwrap());
    assert_eq!(net.at(2).ready, [], "what was true before is not now");
    net.settle();
    assert_eq!(net.at(2).ready, [(ReadId(2), LogIndex(2))]);
}

/// A message may be lost. The ask is repeated by its number, so that a slow answer counts still.
#[test]
fn an_ask_that_is_not_answered_is_repeated_and_fails_after_an_election_timeout() {
    let mut raft = follower();
    let timeout = config().election_timeout;
    let interval = config().heartbeat_interval;
    let start = Time::default();
    step(&mut raft, read(1));
    assert_eq!(raft.deadline(), start.after(interval));
    let again = step_at(&mut raft, start.after(interval), Event::Tick);
    assert_eq!(again, [now(B, 1, ask(FIRST))]);
    step_at(&mut raft, start.after(interval), read(2));
    // The leader goes on, so there is no election.
    let later = start.after(timeout).0 - 1;
    step_at(
        &mut raft,
        Time(later),
        received(B, 1, heartbeat(id(1, 1), 1, 1)),
    );
    let again = step_at(&mut raft, Time(later), Event::Tick);
    assert_eq!(again, [now(B, 1, ask(FIRST))]);
    let failed = step_at(&mut raft, Time(later + 1), Event::Tick);
    assert_eq!(failed, [Effect::ReadFailed { leader: Some(B) }], "both");
    let late = step(&mut raft, received(B, 1, told(FIRST, 1)));
    assert_eq!(late, []);
    // And if the answer came, but not what it speaks of.
    let mut raft = follower();
    step(&mut raft, read(1));
    step(&mut raft, received(B, 1, told(FIRST, 2)));
    assert_eq!(raft.deadline(), start.after(timeout), "nothing is asked");
    step_at(
        &mut raft,
        Time(later),
        received(B, 1, heartbeat(id(1, 1), 1, 1)),
    );
    let failed = step_at(&mut raft, Time(later + 1), Event::Tick);
    assert_eq!(failed, [Effect::ReadFailed { leader: Some(B) }]);
}

#[test]
fn reads_of_a_follower_end_with_its_leader_or_its_term() {
    let failed = Effect::ReadFailed { leader: None };
    let nobody = step(&mut core(3, &[1]), read(1));
    assert_eq!(nobody, std::slice::from_ref(&failed), "nobody leads");
    let ends = [
        received(B, 1, Body::TimeoutNow),
        received(C, 2, Body::HandoverVote { last: id(1, 1) }),
        received(C, 2, heartbeat(id(1, 1), 1, 1)),
    ];
    for end in ends {
        let mut raft = follower();
        step(&mut raft, read(1));
        let ended = step(&mut raft, end.clone());
        assert!(ended.contains(&failed), "{end:?}: {ended:?}");
        let late = step(&mut raft, received(B, 1, told(FIRST, 1)));
        assert_eq!(late, []);
    }
    let mut raft = follower();
    let deadline = raft.deadline();
    step_at(&mut raft, Time(deadline.0 - 1), read(1));
    let ended = step_at(&mut raft, deadline, Event::Tick);
    assert!(ended.contains(&failed), "it hears no leader: {ended:?}");
}

/// The leader proves for a follower's read what it proves for its own, by the same round.
#[test]
fn a_leader_answers_followers_after_a_round_that_began_after_they_asked() {
    let mut raft = leader();
    let early = step(&mut raft, received(B, 1, ask(5)));
    assert_eq!(early, [], "no entry of its term is committed");
    let committed = step(&mut raft, received(C, 1, matched(1, 0)));
    assert_eq!(sends(&committed).len(), 2, "a round");
    step(&mut raft, received(C, 1, ask(8)));
    step(&mut raft, received(C, 1, ask(9)));
    step(&mut raft, read(1));
    let answered = step(&mut raft, received(C, 1, matched(1, 1)));
    assert!(answered.contains(&now(B, 1, told(5, 1))), "{answered:?}");
    assert_eq!(
        sends(&answered).len(),
        3,
        "and the next round for the others"
    );
    let stale = step(&mut raft, received(B, 1, matched(1, 1)));
    assert_eq!(stale, [], "an answer to the round before");
    let answered = step(&mut raft, received(B, 1, matched(1, 2)));
    assert_eq!(answered, [ready(1, 1), now(C, 1, told(9, 1))]);
    for (from, term) in [(D, 1), (B, 0), (B, 2)] {
        let ignored = step(&mut raft, received(from, term, ask(1)));
        assert_eq!(ignored, [], "{from} in term {term}");
    }
    assert_eq!(
        step(&mut follower(), received(C, 1, ask(1))),
        [],
        "it does not lead"
    );
}

/// A leader that was deposed and does not know it yet answers nobody.
#[test]
fn a_follower_of_a_leader_that_was_deposed_answers_nothing() {
    let mut net = Net::empty(5);
    net.elect(1);
    net.propose(1, 1);
    net.settle();
    for away in [1, 5] {
        for id in 2..=4 {
            net.cut.insert((NodeId(id.min(away)), NodeId(id.max(away))));
        }
    }
    net.step(E, read(1));
    net.settle();
    net.elect(2);
    net.propose(2, 1);
    net.settle();
    net.step(E, read(2));
    net.run_for(config().election_timeout * 3);
    assert_eq!(net.at(5).ready, []);
    assert!(net.at(5).reads_failed > 0, "and tells so");
}

/// Section 4.2.1: a learner has every entry and no vote. It can be read from.
#[test]
fn a_learner_is_read_from_and_who_was_removed_is_not() {
    let mut net = Net::empty(3);
    net.join(4);
    net.elect(1);
    let with = net.at(1).raft.roster().clone().with(D, MemberRole::Learner);
    net.change(1, &with);
    net.run_for(config().election_timeout);
    net.step(D, read(1));
    net.settle();
    let index = net.at(1).committed;
    assert_eq!(net.at(4).ready, [(ReadId(1), index)]);
    let without = net.at(1).raft.roster().clone().without(D);
    net.change(1, &without);
    net.run_for(config().election_timeout);
    net.step(D, read(2));
    net.run_for(config().election_timeout * 2);
    assert_eq!(net.at(4).ready.len(), 1);
    assert_eq!(net.at(4).reads_failed, 1, "it does not wait for ever");
}

/// Whatever becomes of the messages, every read on every node comes to an end.
#[test]
fn a_follower_whose_asks_are_all_lost_goes_on_following() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.run_for(config().heartbeat_interval);
    net.cut_one_way.insert((B, A));
    let before = net.at(2).status();
    net.step(B, read(1));
    net.run_for(config().election_timeout + Duration::from_millis(1));
    assert_eq!((net.at(2).ready.len(), net.at(2).reads_failed), (0, 1));
    assert_eq!(net.at(2).status(), before);
    net.cut_one_way.clear();
    net.step(B, read(2));
    net.settle();
    assert_eq!(net.at(2).ready, [(ReadId(2), LogIndex(1))]);
}
