//! Clients: section 8.

use super::*;

/// Section 8: "If the client's first choice is not the leader, that server will reject the client's request
/// and supply information about the most recent leader it has heard from".
#[test]
fn clients_are_sent_to_the_leader() {
    let mut raft = core(3, &[1]);
    let refused = step(&mut raft, Event::Propose { count: 1 });
    assert_eq!(
        refused,
        [Effect::Refused(Refusal::NotLeader { leader: None })]
    );
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    let refused = step(&mut raft, Event::Propose { count: 1 });
    assert_eq!(
        refused,
        [Effect::Refused(Refusal::NotLeader { leader: Some(B) })]
    );
}

/// Section 8: a leader "must have the latest information on which entries are committed" before it answers
/// a read.
#[test]
fn a_read_waits_until_an_entry_of_the_leaders_own_term_is_committed() {
    let mut raft = leader();
    let asked = step(&mut raft, Event::Read { read: ReadId(1) });
    assert!(asked.is_empty(), "{asked:?}");
    let committed = step(&mut raft, received(B, 1, matched(1, 0)));
    assert_eq!(commits(&committed), [id(1, 1)]);
    let beats = sends(&committed);
    assert!(
        beats.contains(&now(C, 1, heartbeat(LogId::ORIGIN, 1, 1))),
        "a round begins: {beats:?}"
    );
    let answered = step(&mut raft, received(B, 1, matched(1, 1)));
    assert_eq!(
        answered,
        [Effect::ReadReady {
            upto: ReadId(1),
            index: LogIndex(1)
        }]
    );
}

/// Section 8: "a leader must check whether it has been deposed before processing a read-only request", by
/// "heartbeat messages with a majority of the cluster". One round serves all that wait.
#[test]
fn reads_are_answered_after_a_round_that_began_after_them_and_share_it() {
    let mut raft = leader();
    for from in [B, C] {
        step(&mut raft, received(from, 1, matched(1, 0)));
    }
    assert!(!raft.gathers_reads(), "there is nothing to wait for");
    let first = step(&mut raft, Event::Read { read: ReadId(1) });
    assert_eq!(sends(&first).len(), 2, "a round to both");
    assert!(raft.gathers_reads());
    for read in 2..=9 {
        let more = step(&mut raft, Event::Read { read: ReadId(read) });
        assert!(
            more.is_empty(),
            "read {read} began a round beside the one under way"
        );
    }
    let stale = step(&mut raft, received(B, 1, matched(1, 0)));
    assert!(
        stale.is_empty(),
        "an answer to an earlier round proves nothing"
    );
    let answered = step(&mut raft, received(B, 1, matched(1, 1)));
    let ready = Effect::ReadReady {
        upto: ReadId(1),
        index: LogIndex(1),
    };
    assert_eq!(
        answered[0], ready,
        "only the read that the round began after"
    );
    assert_eq!(
        sends(&answered).len(),
        2,
        "one more round for the other eight"
    );
    let answered = step(&mut raft, received(C, 1, matched(1, 2)));
    assert_eq!(
        answered,
        [Effect::ReadReady {
            upto: ReadId(9),
            index: LogIndex(1)
        }]
    );
    assert!(!raft.gathers_reads());
}

/// A deposed leader must not answer reads.
#[test]
fn the_reads_of_a_deposed_leader_fail() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(1);
    net.step(A, Event::Read { read: ReadId(1) });
    net.settle();
    net.elect(2);
    net.cut.clear();
    net.tick(2);
    net.settle();
    assert_eq!(net.at(1).ready, []);
    assert_eq!(net.at(1).reads_failed, 1);
    // Those too that wait for the no-op.
    let mut raft = leader();
    step(&mut raft, Event::Read { read: ReadId(1) });
    let deposed = step(&mut raft, received(B, 2, heartbeat(LogId::ORIGIN, 0, 1)));
    let failed = Effect::ReadFailed { leader: None };
    assert!(deposed.contains(&failed), "{deposed:?}");
}

/// A leader that is alone hears no answers: its own disk alone moves its reads.
#[test]
fn a_single_voter_answers_reads_as_soon_as_its_no_op_is_committed() {
    let mut raft = core(1, &[]);
    step(&mut raft, Event::Tick);
    sync(&mut raft, 1);
    assert_eq!(step(&mut raft, Event::Read { read: ReadId(1) }), []);
    let ready = |read, index| Effect::ReadReady {
        upto: ReadId(read),
        index: LogIndex(index),
    };
    assert!(sync(&mut raft, 2).contains(&ready(1, 1)));
    let answered = step(&mut raft, Event::Read { read: ReadId(2) });
    assert_eq!(answered, [ready(2, 1)]);
    step(&mut raft, Event::Propose { count: 1 });
    let answered = step(&mut raft, Event::Read { read: ReadId(3) });
    assert_eq!(answered, [ready(3, 1)], "what is not durable is not seen");
}
