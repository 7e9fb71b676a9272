//! What cannot be true is ignored: messages come over a network, from whoever can reach it.

use super::*;

/// Nobody's answer counts but a member's. What a stranger asks is another matter: see `members.rs`.
#[test]
fn an_answer_of_a_stranger_or_a_message_in_its_own_name_is_ignored() {
    let answers = [
        matched(1, 0),
        Body::PreVoteReply { granted: false },
        Body::VoteReply { granted: true },
    ];
    let questions = [
        vote(9, 9),
        heartbeat(id(1, 1), 1, 1),
        Body::PreVote { last: id(9, 9) },
        Body::HandoverVote { last: id(9, 9) },
    ];
    let of_a_stranger = answers.iter().map(|body| (NodeId(4), body));
    let own = answers.iter().chain(&questions).map(|body| (A, body));
    for (from, body) in of_a_stranger.chain(own) {
        let effects = step(&mut core(3, &[1]), received(from, 9, body.clone()));
        assert_eq!(effects, [], "{from}: {body:?}");
    }
    for from in [A, NodeId(4)] {
        let mut raft = leader();
        let effects = step(&mut raft, received(from, 1, matched(1, 0)));
        assert_eq!(commits(&effects), [], "a copy of {from} was counted");
    }
}

/// An append whose range and runs do not fit each other is not answered and changes nothing.
#[test]
fn an_append_that_contradicts_itself_is_ignored() {
    let run = |(term, first)| TermRun {
        term: Term(term),
        first: LogIndex(first),
    };
    type Case = (&'static str, LogId, LogId, &'static [(u64, u64)]);
    // Own log: 1 1 2 2. Each comes from the leader of term 3.
    let cases: [Case; 12] = [
        ("entries of a term to come", id(2, 4), id(4, 5), &[(4, 5)]),
        ("it ends before it begins", id(2, 4), id(2, 3), &[(2, 5)]),
        ("empty, with two ends", id(2, 4), id(3, 5), &[]),
        ("empty, with two terms", id(2, 4), id(3, 4), &[]),
        ("runs of no entries", id(2, 4), id(2, 4), &[(2, 5)]),
        ("a gap at the head", id(2, 4), id(3, 6), &[(3, 6)]),
        ("a head before it begins", id(2, 4), id(3, 5), &[(3, 4)]),
        ("a head older than prev", id(2, 4), id(1, 5), &[(1, 5)]),
        ("a tail of another term", id(2, 4), id(3, 5), &[(2, 5)]),
        (
            "a tail beyond the end",
            id(2, 4),
            id(3, 5),
            &[(2, 5), (3, 6)],
        ),
        ("runs out of order", id(1, 2), id(3, 6), &[(2, 3), (3, 3)]),
        ("terms that go down", id(1, 2), id(2, 6), &[(3, 3), (2, 5)]),
    ];
    for (name, prev, last, runs) in cases {
        let mut raft = core(3, &[1, 1, 2, 2]);
        let body = Body::Append {
            range: EntryRange { prev, last },
            runs: runs.iter().copied().map(run).collect(),
            commit: LogIndex(0),
            round: 1,
        };
        assert_eq!(step(&mut raft, received(B, 3, body)), [], "{name}");
        assert_eq!(raft.pointers().last, id(2, 4), "{name}");
    }
}

/// Numbers no cluster reaches are refused, so that counting on never overflows.
#[test]
fn a_term_or_index_beyond_all_counting_is_ignored() {
    let far = u64::MAX >> 1;
    let mut raft = core(3, &[1]);
    for body in [vote(9, 9), heartbeat(id(1, 1), 0, 1), matched(1, 0)] {
        assert_eq!(step(&mut raft, received(B, far + 1, body)), []);
    }
    let last = id(1, far + 1);
    let body = append(id(1, 1), last, 0);
    assert_eq!(step(&mut raft, received(B, 1, body)), []);
    // Who is at the last term there is does not campaign for another.
    let mut last_term = disk(&[1]);
    last_term.hard_state.term = Term(far);
    let mut raft = Raft::new(&config(), boot(1, 3, &last_term, 7), Time::default());
    let deadline = raft.deadline();
    assert_eq!(step_at(&mut raft, deadline, Event::Tick), []);
    assert!(raft.deadline() > deadline, "it waits on");
}

/// "At most one leader can be elected in a given term" (Election Safety): who claims to be a second one
/// is not followed.
#[test]
fn a_second_leader_of_a_term_is_not_followed() {
    let mut raft = core(3, &[1, 1]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 2), 0, 1)));
    let body = append(id(1, 1), id(1, 3), 2);
    assert_eq!(step(&mut raft, received(C, 1, body)), []);
    assert_eq!(raft.status().leader, Some(B));
}

/// A follower cannot have what the leader has not, nor answer a round that did not begin.
#[test]
fn an_answer_to_what_was_never_sent_counts_for_nothing() {
    let mut raft = leader();
    let effects = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(effects, [], "more than there is");
    step(&mut raft, received(B, 1, matched(1, 0)));
    let effects = step(&mut raft, received(B, 1, matched(1, 9)));
    assert_eq!(effects, [], "a round to come");
    let asked = step(&mut raft, Event::Read { read: ReadId(1) });
    assert_eq!(sends(&asked), asked, "the read waits for its round");
    let other = step(&mut raft, received(C, 1, matched(1, 0)));
    assert_eq!(other, [], "B was not asked yet when it answered");
    let outcome = AppendOutcome::Rejected {
        prev: LogIndex(u64::MAX),
        hint: LogId::ORIGIN,
    };
    let refusal = Body::AppendReply { outcome, round: 0 };
    assert_eq!(step(&mut leader(), received(B, 1, refusal)), []);
}

/// Who is not among the voters never stands for election.
#[test]
fn who_has_no_vote_does_not_campaign() {
    let mut boot = boot(1, 3, &disk(&[1]), 7);
    boot.configs = vec![(LogIndex::ZERO, Roster::of_voters([B, C]))];
    let mut raft = Raft::new(&config(), boot, Time::default());
    let deadline = raft.deadline();
    assert_eq!(step_at(&mut raft, deadline, Event::Tick), []);
}

/// A clock that goes back makes timers fire later, and never earlier.
#[test]
fn time_does_not_go_back() {
    let mut raft = core(3, &[1]);
    let later = Time(1_000_000_000);
    step_at(&mut raft, later, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 2)));
    assert!(raft.deadline() >= later.after(config().election_timeout));
}

/// Nothing to propose is nothing to write; a leader stays as it is.
#[test]
fn a_proposal_of_no_entries_does_nothing() {
    assert_eq!(step(&mut leader(), Event::Propose { count: 0 }), []);
}
