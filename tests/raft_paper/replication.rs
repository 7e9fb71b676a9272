//! Replication: section 5.3.

use super::*;

/// Section 8: "Raft handles this by having each leader commit a blank no-op entry into the log at the start
/// of its term", and section 5.2: it "sends heartbeat messages to all of the other servers to establish its
/// authority".
#[test]
fn a_new_leader_appends_a_no_op_and_sends_it_to_all_at_once() {
    let mut raft = core(3, &[1, 1]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    step(
        &mut raft,
        received(B, 2, Body::PreVoteReply { granted: true }),
    );
    sync(&mut raft, 1);
    let effects = step(&mut raft, received(B, 2, Body::VoteReply { granted: true }));
    let range = EntryRange {
        prev: id(1, 2),
        last: id(2, 3),
    };
    let runs = vec![TermRun {
        term: Term(2),
        first: LogIndex(3),
    }];
    let append = Body::Append {
        range,
        runs,
        commit: LogIndex(0),
        round: 0,
    };
    let hard_state = HardState {
        term: Term(2),
        vote: Some(A),
        commit: LogIndex(0),
    };
    let entries = NewEntries {
        range,
        source: Source::Empty(EntryKind::Noop),
    };
    let persist = Persist {
        seq: WriteSeq(2),
        hard_state,
        truncate_from: None,
        entries: Some(entries),
    };
    let status = Status {
        role: RoleName::Leader,
        term: Term(2),
        leader: Some(A),
    };
    let expected = vec![
        Effect::Persist(persist),
        now(B, 2, append.clone()),
        now(C, 2, append),
        Effect::Status(status),
    ];
    assert_eq!(effects, expected);
}

/// Section 5.2: "Leaders send periodic heartbeats ... to all followers in order to maintain their
/// authority."
#[test]
fn an_idle_leader_sends_heartbeats_at_the_interval() {
    let mut raft = leader();
    let first = raft.deadline();
    assert!(step_at(&mut raft, Time(first.0 - 1), Event::Tick).is_empty());
    let beats = step_at(&mut raft, first, Event::Tick);
    let beat = heartbeat(LogId::ORIGIN, 0, 1);
    assert_eq!(beats, [now(B, 1, beat.clone()), now(C, 1, beat)]);
    assert_eq!(raft.deadline(), first.after(config().heartbeat_interval));
}

/// Section 5.3: the leader "issues AppendEntries RPCs in parallel to each of the other servers"; thesis,
/// section 10.2.1: while it writes to its own disk.
#[test]
fn a_leader_replicates_to_all_at_once_and_before_its_own_write_is_durable() {
    let mut raft = leader();
    for from in [B, C] {
        step(&mut raft, received(from, 1, matched(1, 0)));
    }
    let effects = step(&mut raft, Event::Propose { count: 3 });
    let sent: Vec<_> = sends(&effects);
    let range = EntryRange {
        prev: id(1, 1),
        last: id(1, 4),
    };
    let runs = vec![TermRun {
        term: Term(1),
        first: LogIndex(2),
    }];
    let append = Body::Append {
        range,
        runs,
        commit: LogIndex(1),
        round: 0,
    };
    assert_eq!(sent, [now(B, 1, append.clone()), now(C, 1, append)]);
}

/// Appends follow each other without waiting for the answer (thesis, section 10.2.1), up to a limit.
#[test]
fn appends_are_pipelined_up_to_the_limit() {
    let mut raft = leader();
    step(&mut raft, received(B, 1, matched(1, 0)));
    let most = config().max_inflight_appends;
    let to_b = |effects: &[Effect]| {
        sends(effects)
            .iter()
            .filter(|effect| matches!(effect, Effect::Send { to: B, .. }))
            .count()
    };
    let sent: usize = (0..most + 5)
        .map(|_| to_b(&step(&mut raft, Event::Propose { count: 1 })))
        .sum();
    assert_eq!(sent, most);
    let more = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(
        to_b(&more),
        1,
        "an answer makes room for what waits, in one append"
    );
}

/// Section 5.3: "the leader retries AppendEntries RPCs indefinitely".
#[test]
fn a_leader_retries_for_ever() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(3);
    net.propose(1, 5);
    net.settle();
    for _ in 0..100 {
        net.tick(1);
        net.settle();
    }
    assert!(net.terms(3).len() < 6);
    net.cut.clear();
    net.tick(1);
    net.settle();
    assert_eq!(net.terms(3), net.terms(1));
}

/// A lost append in the middle of a pipeline is found by the next heartbeat and sent again.
#[test]
fn a_lost_append_costs_one_probe_and_not_a_stall() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.propose(1, 1);
    net.wire.retain(|(_, to, _)| *to != B);
    net.settle();
    net.propose(1, 1);
    net.settle();
    assert_eq!(
        net.terms(2),
        net.terms(1),
        "the append behind the lost one was refused, and that told"
    );
}

/// Section 5.3: "If the follower does not find an entry in its log with the same index and term, then it
/// refuses the new entries."
#[test]
fn a_follower_refuses_entries_that_do_not_follow_its_log() {
    // The hint skips every entry of a term later than that of `prev`: the leader has none of these there.
    let cases: [(&[u64], LogId, LogId); 6] = [
        (&[1, 1], id(2, 3), id(1, 2)),
        (&[1, 1], id(2, 2), id(1, 2)),
        (&[1, 1], id(3, 9), id(1, 2)),
        (&[1, 1, 3, 3, 3], id(2, 5), id(1, 2)),
        (&[1, 1, 3, 3, 3], id(2, 9), id(1, 2)),
        (&[3, 3, 3], id(2, 2), LogId::ORIGIN),
    ];
    for (own, prev, hint) in cases {
        let mut raft = core(3, own);
        let before = raft.pointers();
        let last = LogId::new(Term(4), prev.index.next());
        let effects = step(&mut raft, received(B, 4, append(prev, last, 0)));
        let outcome = AppendOutcome::Rejected {
            prev: prev.index,
            hint,
        };
        let reply = after(1, B, 4, Body::AppendReply { outcome, round: 1 });
        assert_eq!(sends(&effects), [reply], "{own:?}: {prev}");
        assert_eq!(raft.pointers(), before, "{prev}: nothing was appended");
    }
}

/// Section 5.3: "conflicting entries in follower logs will be overwritten with entries from the leader's
/// log" - in one write, and only from where they differ.
#[test]
fn a_follower_truncates_from_the_first_conflict_on() {
    let mut raft = core(3, &[1, 1, 2, 2]);
    let range = EntryRange {
        prev: id(1, 1),
        last: id(3, 4),
    };
    let run = |term, first| TermRun {
        term: Term(term),
        first: LogIndex(first),
    };
    let runs = vec![run(1, 2), run(3, 3)];
    let body = Body::Append {
        range,
        runs,
        commit: LogIndex(0),
        round: 1,
    };
    let effects = step(&mut raft, received(B, 3, body));
    let Effect::Persist(persist) = &effects[0] else {
        panic!("{effects:?}")
    };
    assert_eq!(persist.truncate_from, Some(LogIndex(3)));
    let new = EntryRange {
        prev: id(1, 2),
        last: id(3, 4),
    };
    assert_eq!(
        persist.entries,
        Some(NewEntries {
            range: new,
            source: Source::Message
        })
    );
    assert_eq!(sends(&effects), [after(1, B, 3, matched(4, 1))]);
}

/// Figure 2, AppendEntries, 3: "If an existing entry conflicts" - a late message that is a prefix of what is
/// there does not.
#[test]
fn a_stale_append_does_not_truncate() {
    let mut raft = core(3, &[1, 1, 1, 1]);
    let effects = step(
        &mut raft,
        received(B, 1, append(LogId::ORIGIN, id(1, 2), 0)),
    );
    let status = Status {
        role: RoleName::Follower,
        term: Term(1),
        leader: Some(B),
    };
    assert_eq!(effects, [now(B, 1, matched(2, 1)), Effect::Status(status)]);
    assert_eq!(raft.pointers().last, id(1, 4));
}

/// State Machine Safety: what is committed is never overwritten, whatever a message says.
#[test]
fn a_follower_never_truncates_what_is_committed() {
    let mut raft = core(3, &[1, 1, 1]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 3), 3, 1)));
    for index in [2, 3] {
        let body = append(id(1, index - 1), id(2, index), 0);
        let effects = step(&mut raft, received(C, 2, body));
        assert_eq!(raft.pointers().last, id(1, 3));
        assert!(sends(&effects).is_empty(), "{effects:?}");
    }
}

/// Section 5.3, figure 2: "set commitIndex = min(leaderCommit, index of last new entry)".
#[test]
fn a_follower_commits_only_up_to_what_an_append_has_verified() {
    let mut raft = core(3, &[1, 1, 1, 1]);
    let effects = step(&mut raft, received(B, 2, append(id(1, 1), id(1, 2), 4)));
    assert_eq!(commits(&effects), [id(1, 2)]);
    let effects = step(&mut raft, received(B, 2, heartbeat(id(1, 3), 9, 1)));
    assert_eq!(commits(&effects), [id(1, 3)]);
    // A late message does not take it back.
    let effects = step(&mut raft, received(B, 2, append(id(1, 1), id(1, 2), 4)));
    assert_eq!(commits(&effects), []);
    let effects = step(&mut raft, received(B, 2, heartbeat(id(1, 4), 1, 1)));
    assert_eq!(commits(&effects), []);
    assert_eq!(raft.pointers().committed, LogIndex(3));
}

/// Figure 2: entries are on stable storage before the answer.
#[test]
fn an_acknowledgement_waits_for_the_write_that_holds_the_entries() {
    // It has been in term 1 before, so that no write of the term stands for that of the entries.
    let mut raft = core(3, &[1]);
    let first = step(&mut raft, received(B, 1, append(id(1, 1), id(1, 3), 0)));
    assert_eq!(sends(&first), [after(1, B, 1, matched(3, 1))]);
    // The same again, and a heartbeat behind it: neither may say it earlier, and the heartbeat, which waits
    // for no disk, says what is durable.
    let again = step(&mut raft, received(B, 1, append(id(1, 1), id(1, 3), 0)));
    assert_eq!(again, [after(1, B, 1, matched(3, 1))]);
    let beat = step(&mut raft, received(B, 1, heartbeat(id(1, 3), 0, 5)));
    assert_eq!(beat, [now(B, 1, matched(1, 5))]);
    // What was there before needs no wait.
    let beat = step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 5)));
    assert_eq!(beat, [now(B, 1, matched(1, 5))]);
    sync(&mut raft, 1);
    let beat = step(&mut raft, received(B, 1, heartbeat(id(1, 3), 0, 6)));
    assert_eq!(beat, [now(B, 1, matched(3, 6))]);
}

/// An index that was rewritten while its first write was under way is durable with its last write only.
#[test]
fn an_index_rewritten_in_flight_is_not_acknowledged_by_its_first_write() {
    let mut raft = core(3, &[]);
    step(
        &mut raft,
        received(B, 1, append(LogId::ORIGIN, id(1, 3), 0)),
    );
    let second = step(
        &mut raft,
        received(C, 2, append(LogId::ORIGIN, id(2, 3), 0)),
    );
    assert_eq!(sends(&second), [after(2, C, 2, matched(3, 1))]);
    sync(&mut raft, 1);
    assert_eq!(raft.pointers().durable, LogIndex(0));
    let body = append(LogId::ORIGIN, id(2, 3), 0);
    let again = step(&mut raft, received(C, 2, body));
    assert_eq!(again, [after(2, C, 2, matched(3, 1))]);
    let beat = step(&mut raft, received(C, 2, heartbeat(id(2, 3), 0, 2)));
    assert_eq!(beat, [after(2, C, 2, matched(0, 2))]);
    sync(&mut raft, 2);
    assert_eq!(raft.pointers().durable, LogIndex(3));
}

/// Section 5.3, Leader Append-Only: "A leader never overwrites or deletes entries in its log".
#[test]
fn a_leader_ignores_an_append_of_its_own_term() {
    let mut raft = leader();
    let effects = step(
        &mut raft,
        received(B, 1, append(LogId::ORIGIN, id(1, 1), 1)),
    );
    assert!(effects.is_empty(), "{effects:?}");
    assert_eq!(raft.status().role, RoleName::Leader);
}

/// Figure 7: whatever a follower's log, the leader of term 8 brings it to its own.
#[test]
fn every_follower_of_figure_7_is_brought_to_match_the_leader() {
    let leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [(&str, &[u64]); 6] = [
        ("a", &[1, 1, 1, 4, 4, 5, 5, 6, 6]),
        ("b", &[1, 1, 1, 4]),
        ("c", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6]),
        ("d", &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7]),
        ("e", &[1, 1, 1, 4, 4, 4, 4]),
        ("f", &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]),
    ];
    for (name, follower) in followers {
        // The third votes for the leader, which the one in the figure with the longer log would not.
        let mut lead = disk(&leader);
        lead.hard_state.term = Term(7);
        let mut net = Net::new(&[lead, disk(follower), disk(&[1])], 1);
        net.elect(1);
        net.tick(1);
        net.settle();
        let expected = [&leader[..], &[8]].concat();
        assert_eq!(net.terms(1), expected, "the leader's own log");
        assert_eq!(net.terms(2), expected, "follower {name}");
        assert_eq!(net.at(2).durable.terms.len(), 11, "follower {name}");
        assert_eq!(net.at(1).committed, LogIndex(11), "with follower {name}");
    }
}

/// Section 5.3: "one AppendEntries RPC will be required for each term with conflicting entries, rather than
/// one RPC per entry".
#[test]
fn the_leader_backs_up_a_whole_term_at_a_time() {
    // 100 entries of each of terms 2 and 3 that the leader does not have, and the other way round.
    let terms = |parts: &[(u64, usize)]| -> Vec<u64> {
        parts
            .iter()
            .flat_map(|(term, count)| vec![*term; *count])
            .collect()
    };
    let follower = terms(&[(1, 100), (2, 100), (3, 100)]);
    let lead = terms(&[(1, 100), (4, 100), (5, 100)]);
    let mut net = Net::new(&[disk(&lead), disk(&follower), disk(&lead)], 1);
    net.isolate(2);
    net.elect(1);
    net.cut.clear();
    net.seen.clear();
    net.tick(1);
    net.settle();
    assert_eq!(net.terms(2), net.terms(1));
    let refused = net.seen.iter().filter(|(from, _, message)| {
        let outcome = AppendOutcome::Rejected {
            prev: LogIndex(0),
            hint: LogId::ORIGIN,
        };
        let rejected = Body::AppendReply { outcome, round: 0 };
        let is_reply = std::mem::discriminant(&message.body) == std::mem::discriminant(&rejected);
        *from == B && is_reply && format!("{:?}", message.body).contains("Rejected")
    });
    let refused = refused.count();
    assert!((1..=3).contains(&refused), "{refused} refusals");
}
