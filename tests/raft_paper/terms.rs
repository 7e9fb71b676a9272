//! Roles and terms: section 5.1, figure 4.

use super::*;

/// Node 1 of three in `role`, in term 1, with its own writes durable.
fn in_role(role: RoleName) -> Raft {
    let mut raft = match role {
        RoleName::Follower | RoleName::PreCandidate => core(3, &[1]),
        RoleName::Candidate => core(3, &[]),
        RoleName::Leader => leader(),
    };
    if matches!(role, RoleName::PreCandidate | RoleName::Candidate) {
        let deadline = raft.deadline();
        step_at(&mut raft, deadline, Event::Tick);
    }
    if role == RoleName::Candidate {
        let granted = Body::PreVoteReply { granted: true };
        step(&mut raft, received(B, 1, granted));
        sync(&mut raft, 1);
    }
    assert_eq!((raft.status().role, raft.status().term), (role, Term(1)));
    raft
}

const ROLES: [RoleName; 4] = [
    RoleName::Follower,
    RoleName::PreCandidate,
    RoleName::Candidate,
    RoleName::Leader,
];

fn rejected() -> Body {
    let outcome = AppendOutcome::Rejected {
        prev: LogIndex(1),
        hint: LogId::ORIGIN,
    };
    Body::AppendReply { outcome, round: 0 }
}

/// Section 5.2: "When servers start up, they begin as followers."
#[test]
fn a_server_begins_as_a_follower_whatever_it_was_before() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.propose(1, 1);
    net.crash(A);
    let follower = Status {
        role: RoleName::Follower,
        term: Term(1),
        leader: None,
    };
    assert_eq!(net.at(1).status(), follower);
    let mut raft = in_role(RoleName::Follower);
    let effects = step(&mut raft, Event::Propose { count: 1 });
    assert_eq!(
        effects,
        [Effect::Refused(Refusal::NotLeader { leader: None })]
    );
    assert!(raft.deadline() > Time::default(), "it waits for a leader");
}

/// Section 5.1: "if one server's current term is smaller than the other's, then it updates its current term
/// to the larger value. If a candidate or leader discovers that its term is out of date, it immediately
/// reverts to follower state." Whatever the message but for requests of votes to who has a leader, and
/// before anything leaves.
#[test]
fn any_message_of_a_newer_term_makes_a_follower_of_that_term() {
    for role in ROLES {
        for (body, leader) in [
            (vote(9, 9), None),
            (vote(0, 0), None),
            (Body::VoteReply { granted: false }, None),
            (Body::VoteReply { granted: true }, None),
            (heartbeat(LogId::ORIGIN, 0, 1), Some(B)),
            (matched(1, 0), None),
            (rejected(), None),
            (Body::PreVoteReply { granted: false }, None),
        ] {
            if role == RoleName::Leader && matches!(body, Body::Vote { .. }) {
                // Who leads, or hears from who does, gives no vote (thesis, section 4.2.3).
                continue;
            }
            let mut raft = in_role(role);
            let effects = step(&mut raft, received(B, 5, body.clone()));
            let status = Status {
                role: RoleName::Follower,
                term: Term(5),
                leader,
            };
            assert_eq!(raft.status(), status, "{role:?}: {body:?}");
            let Effect::Persist(persist) = &effects[0] else {
                panic!("{role:?}, {body:?}: the term is not written: {effects:?}")
            };
            assert_eq!(persist.hard_state.term, Term(5));
            for effect in sends(&effects) {
                let Effect::Send { release, .. } = effect else {
                    continue;
                };
                assert_eq!(release, Release::After(persist.seq), "{role:?}: {body:?}");
            }
        }
    }
}

/// Section 5.1: "If a server receives a request with a stale term number, it rejects the request", and tells
/// its own.
#[test]
fn a_request_of_an_older_term_is_refused() {
    for role in ROLES {
        let mut raft = in_role(role);
        let status = raft.status();
        let refused = |body| now(B, 1, body);
        let no_vote = step(&mut raft, received(B, 0, vote(9, 9)));
        assert_eq!(no_vote, [refused(Body::VoteReply { granted: false })]);
        let pre_vote = Body::PreVote { last: id(9, 9) };
        let no_promise = step(&mut raft, received(B, 1, pre_vote));
        assert_eq!(no_promise, [refused(Body::PreVoteReply { granted: false })]);
        let no_match = step(&mut raft, received(B, 0, heartbeat(LogId::ORIGIN, 0, 1)));
        let outcome = AppendOutcome::Rejected {
            prev: LogIndex(0),
            hint: LogId::ORIGIN,
        };
        // Round 0, so that it confirms nothing.
        let reply = Body::AppendReply { outcome, round: 0 };
        assert_eq!(no_match, [refused(reply)]);
        assert_eq!(raft.status(), status);
    }
}

/// A late answer to a request of an older term counts for nothing in this one.
#[test]
fn an_answer_of_an_older_term_counts_for_nothing() {
    // A vote given in term 1 does not elect in term 2.
    let mut raft = in_role(RoleName::Candidate);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    let granted = Body::PreVoteReply { granted: true };
    let stale = step(&mut raft, received(C, 1, granted.clone()));
    assert_eq!(stale, [], "a promise for term 1");
    assert_eq!(raft.status().role, RoleName::PreCandidate);
    step(&mut raft, received(C, 2, granted));
    sync(&mut raft, 2);
    step(&mut raft, received(B, 1, Body::VoteReply { granted: true }));
    let status = raft.status();
    assert_eq!((status.role, status.term), (RoleName::Candidate, Term(2)));
    // Nor does an acknowledgement of term 1 commit in term 2.
    step(&mut raft, received(B, 2, Body::VoteReply { granted: true }));
    assert_eq!(raft.status().role, RoleName::Leader);
    sync(&mut raft, 3);
    let stale = step(&mut raft, received(B, 1, matched(1, 0)));
    assert_eq!(stale, []);
    let fresh = step(&mut raft, received(B, 2, matched(1, 0)));
    assert_eq!(commits(&fresh), [id(2, 1)]);
}

/// Figure 3, Election Safety rests on it: who is in a term does not go back, whatever it is told.
#[test]
fn a_term_never_goes_down() {
    let mut raft = core(3, &[]);
    for (term, expected) in [(3, 3), (2, 3), (7, 7), (1, 7)] {
        for body in [rejected(), heartbeat(LogId::ORIGIN, 0, 1), vote(0, 0)] {
            step(&mut raft, received(B, term, body));
            assert_eq!(raft.status().term, Term(expected));
        }
    }
}
