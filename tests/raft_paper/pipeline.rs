//! Flow to one follower: limits, and answers that come late, twice or out of order.

use super::*;
use catamaran::config::Options;

/// The appends to `B` among these effects, as (prev, last).
fn to_b(effects: &[Effect]) -> Vec<(u64, u64)> {
    let ends = |effect: &Effect| match effect {
        Effect::Send { to: B, message, .. } => match &message.body {
            Body::Append { range, .. } => Some((range.prev.index.0, range.last.index.0)),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(ends).collect()
}

fn rejected(prev: u64, hint: LogId) -> Body {
    let outcome = AppendOutcome::Rejected {
        prev: LogIndex(prev),
        hint,
    };
    Body::AppendReply { outcome, round: 0 }
}

/// Node 1 of three, which leads in term 1 with these limits on appends; its no-op is not acknowledged.
fn leader_with(max_append_entries: u64, max_inflight_appends: usize) -> Raft {
    let options = Options {
        max_append_entries,
        max_inflight_appends,
        ..Options::default()
    };
    leader_of(&Config::try_from(options).unwrap())
}

#[test]
fn an_append_names_no_more_entries_than_the_limit() {
    let mut raft = leader_with(10, 4);
    step(&mut raft, received(B, 1, matched(1, 0)));
    let sent = step(&mut raft, Event::Propose { count: 35 });
    assert_eq!(to_b(&sent), [(1, 11), (11, 21), (21, 31), (31, 36)]);
    let range = EntryRange {
        prev: id(1, 31),
        last: id(1, 36),
    };
    let runs = vec![TermRun {
        term: Term(1),
        first: LogIndex(32),
    }];
    let last = Body::Append {
        range,
        runs,
        commit: LogIndex(1),
        round: 0,
    };
    assert!(sends(&sent).contains(&now(B, 1, last)), "{sent:?}");
}

/// One answer to several appends makes room for as many.
#[test]
fn an_answer_covers_every_append_before_it() {
    let mut raft = leader_with(1, 4);
    step(&mut raft, received(B, 1, matched(1, 0)));
    let sent = step(&mut raft, Event::Propose { count: 20 });
    assert_eq!(to_b(&sent).len(), 4);
    let sent = step(&mut raft, received(B, 1, matched(5, 0)));
    assert_eq!(to_b(&sent), [(5, 6), (6, 7), (7, 8), (8, 9)]);
}

/// Until it is known where the logs agree, one append is on its way, and heartbeats ask again.
#[test]
fn a_follower_is_probed_with_one_append_at_a_time() {
    let mut raft = leader_with(10, 4);
    let sent = step(&mut raft, Event::Propose { count: 5 });
    assert_eq!(to_b(&sent), [], "the no-op has not been answered");
    let deadline = raft.deadline();
    let beat = step_at(&mut raft, deadline, Event::Tick);
    assert_eq!(to_b(&beat), [(0, 0)]);
    let sent = step_at(&mut raft, deadline, received(B, 1, matched(0, 0)));
    assert_eq!(to_b(&sent), [(0, 6)], "the heartbeat found the place");
}

/// An acknowledgement that was overtaken by a later one takes nothing back.
#[test]
fn a_late_acknowledgement_takes_nothing_back() {
    let mut raft = leader();
    step(&mut raft, received(B, 1, matched(1, 0)));
    step(&mut raft, Event::Propose { count: 4 });
    step(&mut raft, received(B, 1, matched(5, 0)));
    step(&mut raft, received(B, 1, matched(3, 0)));
    assert_eq!(commits(&sync(&mut raft, 3)), [id(1, 5)]);
}

/// Nor does an answer to an earlier round take back the one to a later.
#[test]
fn a_late_answer_to_a_round_takes_no_confirmation_back() {
    let mut net = Net::empty(5);
    net.elect(1);
    let raft = &mut net.at_mut(1).raft;
    step(raft, Event::Read { read: ReadId(1) });
    for (from, round) in [(B, 1), (B, 0)] {
        assert_eq!(step(raft, received(from, 1, matched(1, round))), []);
    }
    let ready = Effect::ReadReady {
        upto: ReadId(1),
        index: LogIndex(1),
    };
    let answered = step(raft, received(C, 1, matched(1, 1)));
    assert_eq!(answered, [ready]);
    let more = step(raft, received(NodeId(4), 1, matched(1, 1)));
    assert_eq!(more, [], "it was answered");
}

/// A refusal is heard once; late ones, and those of what was matched since, do not send the leader back.
#[test]
fn a_late_refusal_does_not_send_the_leader_back() {
    let mut raft = leader_with(1, 4);
    step(&mut raft, received(B, 1, matched(1, 0)));
    step(&mut raft, Event::Propose { count: 4 });
    // The append of entry 2 was lost; all behind it are refused.
    let probe = step(&mut raft, received(B, 1, rejected(2, id(1, 1))));
    assert_eq!(to_b(&probe), [(1, 2)]);
    for prev in [2, 3, 4] {
        let late = step(&mut raft, received(B, 1, rejected(prev, id(1, 1))));
        assert_eq!(late, [], "of the one behind {prev}");
    }
    let sent = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(to_b(&sent), [(2, 3), (3, 4), (4, 5)]);
    for prev in [1, 2] {
        let late = step(&mut raft, received(B, 1, rejected(prev, id(1, 1))));
        assert_eq!(late, [], "of {prev}");
    }
    // One that was overtaken by a later one, while the leader asks where that one told it to.
    let probe = step(&mut raft, received(B, 1, rejected(4, id(1, 3))));
    assert_eq!(to_b(&probe), [(3, 4)]);
    let late = step(&mut raft, received(B, 1, rejected(2, id(1, 1))));
    assert_eq!(late, []);
    // Whatever the hint, what was refused is not asked again.
    let probe = step(&mut raft, received(B, 1, rejected(3, id(1, 3))));
    assert_eq!(to_b(&probe), [(2, 3)]);
    // Entries sent before the refusal may arrive all the same, out of order.
    let mut raft = leader_with(1, 1);
    step(&mut raft, received(B, 1, matched(1, 0)));
    step(&mut raft, Event::Propose { count: 9 });
    for upto in 2..=5 {
        step(&mut raft, received(B, 1, matched(upto, 0)));
    }
    let late = step(&mut raft, received(B, 1, rejected(8, id(1, 5))));
    assert_eq!(late, [], "of what was not sent");
    let probe = step(&mut raft, received(B, 1, rejected(6, id(1, 5))));
    assert_eq!(to_b(&probe), [(5, 6)]);
    step(&mut raft, received(B, 1, matched(5, 0)));
    let sent = step(&mut raft, received(B, 1, matched(8, 0)));
    assert_eq!(to_b(&sent), [(8, 9)]);
}

/// A follower that lost what it acknowledged, or lies, is asked again with the next heartbeat, not at once
/// and for ever.
#[test]
fn a_follower_that_lost_what_it_acknowledged_is_not_asked_without_end() {
    let mut raft = leader();
    step(&mut raft, received(B, 1, matched(1, 0)));
    step(&mut raft, Event::Propose { count: 4 });
    step(&mut raft, received(B, 1, matched(5, 0)));
    step(&mut raft, Event::Propose { count: 1 });
    // It began again with an empty disk.
    let mut asked = 0;
    for prev in [6, 5, 5, 5, 5] {
        let effects = step(&mut raft, received(B, 1, rejected(prev, LogId::ORIGIN)));
        asked += to_b(&effects).len();
    }
    assert!(asked <= 1, "asked {asked} times");
    let deadline = raft.deadline();
    let beat = step_at(&mut raft, deadline, Event::Tick);
    assert_eq!(to_b(&beat), [(5, 5)], "as long as it refuses");
}

/// A heartbeat that asks whether the entries on their way came is answered behind them. So that a leader is heard
/// however long they take, another asks at a place that the follower has confirmed, and may overtake them.
#[test]
fn a_heartbeat_may_overtake_the_entries_that_are_on_their_way() {
    let mut raft = leader_with(10, 4);
    step(&mut raft, received(B, 1, matched(1, 0)));
    let sent = step(&mut raft, Event::Propose { count: 5 });
    assert_eq!(to_b(&sent), [(1, 6)]);
    let deadline = raft.deadline();
    let beat = step_at(&mut raft, deadline, Event::Tick);
    assert_eq!(to_b(&beat), [(6, 6)]);
    let deadline = raft.deadline();
    let beat = step_at(&mut raft, deadline, Event::Tick);
    assert_eq!(to_b(&beat), [(1, 1), (6, 6)], "it has not answered");
    let sent = step_at(&mut raft, deadline, received(B, 1, matched(1, 2)));
    assert_eq!(to_b(&sent), [], "nothing was lost that is known of");
    let lost = rejected(6, id(1, 1));
    let sent = step_at(&mut raft, deadline, received(B, 1, lost));
    assert_eq!(to_b(&sent), [(1, 6)]);
}
