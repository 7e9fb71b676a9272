//! Elections: section 5.2, 5.4.1 and PreVote.

use super::*;

/// Section 5.2: "If a follower receives no communication over a period of time called the election timeout,
/// then it assumes there is no viable leader". With PreVote it asks first.
#[test]
fn a_follower_that_hears_nothing_asks_whether_it_would_be_elected() {
    let mut raft = core(3, &[1]);
    let deadline = raft.deadline();
    assert!(
        step_at(&mut raft, Time(deadline.0 - 1), Event::Tick).is_empty(),
        "too early"
    );
    let asked = step_at(&mut raft, deadline, Event::Tick);
    let pre_vote = Body::PreVote { last: id(1, 1) };
    let status = Status {
        role: RoleName::PreCandidate,
        term: Term(1),
        leader: None,
    };
    let expected = vec![
        now(B, 2, pre_vote.clone()),
        now(C, 2, pre_vote),
        Effect::Status(status),
    ];
    assert_eq!(asked, expected);
    assert_eq!(
        raft.status().term,
        Term(1),
        "PreVote does not move to a new term"
    );
    // It no longer sends clients to the leader that it has given up.
    let mut raft = core(3, &[1]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    let refused = step(&mut raft, Event::Propose { count: 1 });
    assert_eq!(
        refused,
        [Effect::Refused(Refusal::NotLeader { leader: None })]
    );
}

/// Section 5.2: "It then votes for itself and issues RequestVote RPCs in parallel to each of the other
/// servers".
#[test]
fn a_candidate_votes_for_itself_and_asks_all_others_once_its_vote_is_durable() {
    let mut raft = core(3, &[1]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    let effects = step(
        &mut raft,
        received(C, 2, Body::PreVoteReply { granted: true }),
    );
    let hard_state = HardState {
        term: Term(2),
        vote: Some(A),
        commit: LogIndex(0),
    };
    let persist = Persist {
        seq: WriteSeq(1),
        hard_state,
        truncate_from: None,
        entries: None,
    };
    let status = Status {
        role: RoleName::Candidate,
        term: Term(2),
        leader: None,
    };
    let expected = vec![
        Effect::Persist(persist),
        after(1, B, 2, vote(1, 1)),
        after(1, C, 2, vote(1, 1)),
        Effect::Status(status),
    ];
    assert_eq!(effects, expected);
    // The wait for votes begins with the campaign, however late the promises came.
    let mut raft = core(3, &[1]);
    step_at(&mut raft, deadline, Event::Tick);
    let late = Time(raft.deadline().0 - 1);
    let granted = Body::PreVoteReply { granted: true };
    step_at(&mut raft, late, received(C, 2, granted));
    assert!(raft.deadline() >= late.after(config().election_timeout));
}

/// Section 5.2: "Each server will vote for at most one candidate in a given term, on a
/// first-come-first-served basis".
#[test]
fn a_server_votes_once_a_term_for_who_asks_first() {
    let mut raft = core(3, &[]);
    let first = step(&mut raft, received(B, 5, vote(0, 0)));
    assert_eq!(
        sends(&first),
        [after(1, B, 5, Body::VoteReply { granted: true })]
    );
    sync(&mut raft, 1);
    let second = step(&mut raft, received(C, 5, vote(9, 9)));
    assert_eq!(second, [now(C, 5, Body::VoteReply { granted: false })]);
    let again = step(&mut raft, received(B, 5, vote(0, 0)));
    assert_eq!(again, [now(B, 5, Body::VoteReply { granted: true })]);
    let next_term = step(&mut raft, received(C, 6, vote(0, 0)));
    assert_eq!(
        sends(&next_term),
        [after(2, C, 6, Body::VoteReply { granted: true })]
    );
}

/// Figure 2: currentTerm and votedFor are "updated on stable storage before responding to RPCs".
#[test]
fn a_vote_leaves_only_after_it_is_durable_and_is_remembered_over_a_restart() {
    let mut raft = core(3, &[]);
    let effects = step(&mut raft, received(B, 5, vote(0, 0)));
    let hard_state = HardState {
        term: Term(5),
        vote: Some(B),
        commit: LogIndex(0),
    };
    let persist = Persist {
        seq: WriteSeq(1),
        hard_state,
        truncate_from: None,
        entries: None,
    };
    assert_eq!(effects[0], Effect::Persist(persist));
    assert_eq!(
        effects[1],
        after(1, B, 5, Body::VoteReply { granted: true })
    );
    let remembered = Disk {
        hard_state,
        ..Disk::default()
    };
    let mut restarted = Raft::new(&config(), boot(1, 3, &remembered, 7), Time::default());
    let other = step(&mut restarted, received(C, 5, vote(9, 9)));
    assert_eq!(other, [now(C, 5, Body::VoteReply { granted: false })]);
    let same = step(&mut restarted, received(B, 5, vote(0, 0)));
    assert_eq!(same, [now(B, 5, Body::VoteReply { granted: true })]);
    // Nor does the term's own write, done long before, stand for the vote's.
    let mut raft = core(3, &[]);
    step(
        &mut raft,
        received(C, 5, Body::VoteReply { granted: false }),
    );
    sync(&mut raft, 1);
    let voted = step(&mut raft, received(B, 5, vote(0, 0)));
    let persist = Persist {
        seq: WriteSeq(2),
        hard_state,
        truncate_from: None,
        entries: None,
    };
    let reply = after(2, B, 5, Body::VoteReply { granted: true });
    assert_eq!(voted, [Effect::Persist(persist), reply]);
}

/// Section 5.4.1: "If the logs have last entries with different terms, then the log with the later term is
/// more up-to-date. If the logs end with the same term, then whichever log is longer is more up-to-date."
#[test]
fn a_vote_is_given_only_for_a_log_at_least_as_up_to_date() {
    let own = [1, 1, 3, 3];
    for (last, granted) in [
        (id(3, 4), true),
        (id(3, 5), true),
        (id(4, 1), true),
        (id(3, 3), false),
        (id(2, 9), false),
        (id(0, 0), false),
    ] {
        let mut raft = core(3, &own);
        let effects = step(&mut raft, received(B, 5, Body::Vote { last }));
        let reply = after(1, B, 5, Body::VoteReply { granted });
        assert_eq!(sends(&effects), [reply], "{last}");
        let effects = step(&mut core(3, &own), received(B, 5, Body::PreVote { last }));
        let term = if granted { 5 } else { 3 };
        assert_eq!(
            effects,
            [now(B, term, Body::PreVoteReply { granted })],
            "{last}"
        );
    }
}

/// Section 5.2: "A candidate wins an election if it receives votes from a majority".
#[test]
fn a_candidate_leads_only_with_the_votes_of_a_majority() {
    let mut net = Net::empty(5);
    net.isolate(4);
    net.isolate(5);
    net.elect(1);
    let mut net = Net::empty(5);
    net.isolate(4);
    net.isolate(5);
    net.isolate(3);
    for _ in 0..10 {
        net.tick(1);
        net.settle();
        assert_ne!(
            net.at(1).status().role,
            RoleName::Leader,
            "elected by two of five"
        );
    }
    // Even if everyone had promised to vote.
    let mut raft = core(5, &[]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    for from in [B, C] {
        let granted = Body::PreVoteReply { granted: true };
        step(&mut raft, received(from, 1, granted));
    }
    sync(&mut raft, 1);
    for (from, granted) in [(B, true), (B, true), (C, false), (NodeId(4), false)] {
        step(&mut raft, received(from, 1, Body::VoteReply { granted }));
        assert_eq!(raft.status().role, RoleName::Candidate, "two of five");
    }
    let granted = Body::VoteReply { granted: true };
    step(&mut raft, received(NodeId(5), 1, granted));
    assert_eq!(raft.status().role, RoleName::Leader);
}

/// The leader counts its own vote only when it is durable (figure 2; thesis, section 3.8).
#[test]
fn a_candidate_counts_its_own_vote_only_once_it_is_durable() {
    let mut raft = core(3, &[]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    step(
        &mut raft,
        received(B, 1, Body::PreVoteReply { granted: true }),
    );
    step(&mut raft, received(B, 1, Body::VoteReply { granted: true }));
    assert_eq!(raft.status().role, RoleName::Candidate);
    sync(&mut raft, 1);
    assert_eq!(raft.status().role, RoleName::Leader);
}

/// The write of entries it took as a follower is older than its vote, and says nothing of it.
#[test]
fn an_earlier_write_does_not_make_a_candidates_own_vote_durable() {
    let mut raft = core(3, &[]);
    step(&mut raft, received(C, 1, append(id(0, 0), id(1, 1), 0)));
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    step(
        &mut raft,
        received(B, 2, Body::PreVoteReply { granted: true }),
    );
    step(&mut raft, received(B, 2, Body::VoteReply { granted: true }));
    sync(&mut raft, 1);
    assert_eq!(raft.status().role, RoleName::Candidate);
    sync(&mut raft, 2);
    assert_eq!(raft.status().role, RoleName::Leader);
}

/// Section 5.2, Election Safety: "at most one leader can be elected in a given term".
#[test]
fn two_candidates_of_one_term_do_not_both_lead() {
    let mut net = Net::empty(3);
    net.tick(1);
    net.tick(2);
    net.settle();
    let leads = |id: u64| net.at(id).status().role == RoleName::Leader;
    let terms: Vec<_> = (1..=3)
        .filter(|id| leads(*id))
        .map(|id| net.at(id).status().term)
        .collect();
    let distinct: BTreeSet<_> = terms.iter().collect();
    assert_eq!(terms.len(), distinct.len(), "{terms:?}");
}

/// Section 5.2: "If the leader's term is at least as large as the candidate's current term, then the
/// candidate recognizes the leader as legitimate and returns to follower state."
#[test]
fn a_candidate_yields_to_a_leader_of_its_term_or_newer() {
    for term in [1, 2] {
        let mut raft = core(3, &[]);
        let deadline = raft.deadline();
        step_at(&mut raft, deadline, Event::Tick);
        step(
            &mut raft,
            received(B, 1, Body::PreVoteReply { granted: true }),
        );
        assert_eq!(raft.status().role, RoleName::Candidate);
        step(&mut raft, received(C, term, heartbeat(LogId::ORIGIN, 0, 1)));
        let follows = Status {
            role: RoleName::Follower,
            term: Term(term),
            leader: Some(C),
        };
        assert_eq!(raft.status(), follows);
    }
}

/// Section 5.2: "If the term in the RPC is smaller than the candidate's current term, then the candidate
/// rejects the RPC and continues in candidate state."
#[test]
fn a_candidate_refuses_an_older_leader() {
    let mut raft = core(3, &[1, 1]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    step(
        &mut raft,
        received(B, 2, Body::PreVoteReply { granted: true }),
    );
    sync(&mut raft, 1);
    let effects = step(&mut raft, received(C, 1, append(id(1, 2), id(1, 3), 3)));
    let hint = id(1, 2);
    let outcome = AppendOutcome::Rejected {
        prev: LogIndex(2),
        hint,
    };
    assert_eq!(
        effects,
        [now(C, 2, Body::AppendReply { outcome, round: 0 })]
    );
    assert_eq!(raft.status().role, RoleName::Candidate);
}

/// Section 5.2: "Raft uses randomized election timeouts to ensure that split votes are rare and that they
/// are resolved quickly."
#[test]
fn a_split_vote_ends_in_a_later_term_by_new_timeouts() {
    let mut net = Net::empty(4);
    // 1 and 2 campaign in the same term, each with one vote beside its own.
    net.cut
        .extend([(A, B), (A, NodeId(4)), (B, C), (C, NodeId(4))]);
    // At the same moment, so that only the draw can part them.
    net.now = net.now.after(config().election_timeout * 2);
    for (candidate, follower) in [(1, C), (2, NodeId(4))] {
        let candidate = NodeId(candidate);
        net.step(candidate, Event::Tick);
        net.wire.clear();
        // Each is told by two that it would be elected, while votes reach one only.
        for other in [follower, NodeId(3 + 4 - follower.0)] {
            let granted = Body::PreVoteReply { granted: true };
            net.step(candidate, received(other, 1, granted));
        }
    }
    net.settle();
    assert_eq!(
        (net.at(1).status().term, net.at(2).status().term),
        (Term(1), Term(1))
    );
    assert!(
        (1..=4).all(|id| net.at(id).status().role != RoleName::Leader),
        "no majority, no leader"
    );
    let (first, second) = (net.at(1).raft.deadline(), net.at(2).raft.deadline());
    assert_ne!(first, second, "both would try again at once");
    net.cut.clear();
    let earlier = if first < second { 1 } else { 2 };
    net.tick(earlier);
    net.settle();
    let status = net.at(earlier).status();
    assert_eq!((status.role, status.term), (RoleName::Leader, Term(2)));
}

/// Section 5.2: election timeouts "are chosen randomly from a fixed interval"; here [T, 2T).
#[test]
fn election_timeouts_are_spread_over_the_interval_and_differ_between_seeds() {
    let least = config().election_timeout;
    let timeout = |seed| {
        let raft = Raft::new(&config(), boot(1, 3, &Disk::default(), seed), Time(5));
        raft.deadline().since(Time(5))
    };
    let timeouts: Vec<_> = (0..1_000).map(timeout).collect();
    assert!(
        timeouts
            .iter()
            .all(|timeout| (least..least * 2).contains(timeout))
    );
    let quarters: BTreeSet<_> = timeouts
        .iter()
        .map(|timeout| (*timeout - least).as_micros() * 4 / least.as_micros())
        .collect();
    assert_eq!(quarters.len(), 4, "a part of the interval is never drawn");
    assert!(timeouts.iter().collect::<BTreeSet<_>>().len() > 900);
    // Each wait of one server is a new draw.
    let mut raft = core(3, &[]);
    let mut wait = || {
        let before = raft.deadline();
        step_at(&mut raft, before, Event::Tick);
        raft.deadline().since(before)
    };
    let waits: BTreeSet<_> = (0..100).map(|_| wait()).collect();
    assert!(waits.len() > 90, "{} different waits", waits.len());
}

/// Section 5.2: "A server remains in follower state as long as it receives valid RPCs from a leader or
/// candidate." Only these make it wait anew: a leader of its term, and who gets its vote.
#[test]
fn a_follower_waits_anew_only_for_its_leader_and_for_whom_it_votes() {
    let timeout = config().election_timeout;
    let waits_anew_after = |span, from, term, body: Body| {
        let mut raft = core(3, &[1, 2]);
        step(&mut raft, received(B, 2, heartbeat(id(2, 2), 0, 1)));
        let before = raft.deadline();
        let later = Time::default().after(span);
        step_at(&mut raft, later, received(from, term, body));
        raft.deadline() != before
    };
    assert!(waits_anew_after(timeout, C, 3, vote(2, 2)));
    let refused = vote(2, 1);
    assert!(!waits_anew_after(timeout, C, 3, refused), "no vote for it");
    let waits_anew = |from, term, body| waits_anew_after(timeout / 2, from, term, body);
    assert!(waits_anew(B, 2, heartbeat(id(2, 2), 0, 2)));
    assert!(waits_anew(B, 2, append(id(2, 2), id(2, 3), 0)));
    assert!(
        waits_anew(B, 2, heartbeat(id(2, 9), 0, 2)),
        "an append that does not match is from the leader all the same"
    );
    assert!(waits_anew(C, 3, heartbeat(id(2, 2), 0, 1)));
    assert!(!waits_anew(C, 1, heartbeat(id(1, 1), 0, 1)), "stale");
    assert!(!waits_anew(C, 3, vote(2, 2)), "while it hears its leader");
    assert!(!waits_anew(C, 3, Body::PreVote { last: id(2, 2) }));
    // As long as the leader speaks, nobody else stands for election.
    let mut net = Net::empty(3);
    net.elect(1);
    for _ in 0..100 {
        net.tick(1);
        net.settle();
        net.step(B, Event::Tick);
        net.step(C, Event::Tick);
    }
    assert_eq!(net.at(1).status().term, Term(1));
    assert_eq!(net.at(2).status().leader, Some(A));
    assert_eq!(net.at(3).status().leader, Some(A));
}

/// Thesis, section 9.6: a candidate moves to a new term only when a majority "would be willing" to vote for
/// it.
#[test]
fn a_server_campaigns_only_when_a_majority_has_promised_to_vote() {
    let mut raft = core(5, &[1]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    for (from, granted) in [(B, true), (B, true), (C, false), (NodeId(4), false)] {
        let term = if granted { 2 } else { 1 };
        let promise = Body::PreVoteReply { granted };
        step(&mut raft, received(from, term, promise));
        let status = raft.status();
        let waits = (RoleName::PreCandidate, Term(1));
        assert_eq!((status.role, status.term), waits, "two of five");
    }
    let granted = Body::PreVoteReply { granted: true };
    step(&mut raft, received(NodeId(5), 2, granted));
    let status = raft.status();
    assert_eq!((status.role, status.term), (RoleName::Candidate, Term(2)));
}

/// Thesis, section 9.6: a server that was cut off "cannot increase its term" and so does not disturb.
#[test]
fn pre_vote_keeps_a_returning_server_from_unseating_the_leader() {
    let mut net = Net::empty(3);
    net.elect(1);
    let before = net.at(1).status();
    net.isolate(3);
    for _ in 0..20 {
        net.tick(3);
        net.settle();
    }
    assert_eq!(
        net.at(3).status().term,
        before.term,
        "it campaigned without a quorum"
    );
    net.tick(1);
    net.settle();
    net.cut.clear();
    net.step(C, Event::Tick);
    net.settle();
    net.tick(1);
    net.settle();
    assert_eq!(net.at(1).status(), before);
    assert_eq!(net.at(3).status().leader, Some(A));
}

/// Thesis, section 9.6: servers refuse while they hear from a leader.
#[test]
fn pre_vote_is_refused_by_who_hears_from_a_leader_and_changes_nothing() {
    let mut raft = core(3, &[1]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    let status = raft.status();
    let deadline = raft.deadline();
    let asked = received(C, 2, Body::PreVote { last: id(1, 1) });
    let refused = step(&mut raft, asked.clone());
    assert_eq!(refused, [now(C, 1, Body::PreVoteReply { granted: false })]);
    let late = Time::default().after(config().election_timeout);
    let granted = step_at(&mut raft, late, asked);
    assert_eq!(granted, [now(C, 2, Body::PreVoteReply { granted: true })]);
    assert_eq!((raft.status(), raft.deadline()), (status, deadline));
    // A leader hears from itself.
    let asked = received(C, 2, Body::PreVote { last: id(9, 9) });
    let refused = step(&mut leader(), asked);
    assert_eq!(refused, [now(C, 1, Body::PreVoteReply { granted: false })]);
    // A newer term has no leader yet: nobody is to be waited for.
    let mut raft = core(3, &[1]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    step(
        &mut raft,
        received(B, 2, Body::VoteReply { granted: false }),
    );
    let asked = received(C, 3, Body::PreVote { last: id(1, 1) });
    let granted = step(&mut raft, asked);
    assert_eq!(granted, [now(C, 3, Body::PreVoteReply { granted: true })]);
}

/// Who has voted helps whom it voted for: promises that come in late do not make it campaign.
#[test]
fn a_server_that_has_just_voted_does_not_campaign() {
    let mut raft = core(3, &[1]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    step(&mut raft, received(B, 1, vote(1, 1)));
    assert_eq!(raft.status().role, RoleName::Follower);
    assert!(raft.deadline() >= deadline.after(config().election_timeout));
    let late = Body::PreVoteReply { granted: true };
    assert_eq!(step(&mut raft, received(C, 2, late)), []);
}

/// A cluster of one: its own vote and its own disk are the quorum.
#[test]
fn a_single_voter_elects_itself_and_commits_when_its_write_is_durable() {
    let mut raft = core(1, &[]);
    assert_eq!(raft.deadline(), Time::default(), "nobody to wait for");
    step(&mut raft, Event::Tick);
    let elected = sync(&mut raft, 1);
    assert_eq!(raft.status().role, RoleName::Leader);
    assert_eq!(commits(&elected), []);
    assert_eq!(commits(&sync(&mut raft, 2)), [id(1, 1)]);
    let proposed = step(&mut raft, Event::Propose { count: 2 });
    assert_eq!(commits(&proposed), []);
    assert_eq!(commits(&sync(&mut raft, 3)), [id(1, 3)]);
}
