//! The claims of the Raft paper ("In Search of an Understandable Consensus Algorithm") and of the thesis,
//! one test each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/raft.rs"]
mod support;

use std::collections::BTreeSet;

use catamaran::raft::Raft;
use catamaran::raft::event::{
    Effect, Event, NewEntries, Persist, ReadId, Release, RoleName, Source, Status,
};
use catamaran::raft::message::{AppendOutcome, Body, Message};
use catamaran::types::{
    Durable, EntryKind, EntryRange, HardState, LogId, LogIndex, NodeId, Term, TermRun, Time,
    WriteSeq,
};
use support::{Disk, Net, boot, config, disk};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

fn message(term: u64, body: Body) -> Message {
    Message {
        term: Term(term),
        body,
    }
}

fn received(from: NodeId, term: u64, body: Body) -> Event {
    Event::Received {
        from,
        message: message(term, body),
    }
}

fn now(to: NodeId, term: u64, body: Body) -> Effect {
    Effect::Send {
        to,
        message: message(term, body),
        release: Release::Now,
    }
}

fn after(seq: u64, to: NodeId, term: u64, body: Body) -> Effect {
    Effect::Send {
        to,
        message: message(term, body),
        release: Release::After(WriteSeq(seq)),
    }
}

fn vote(term: u64, index: u64) -> Body {
    Body::Vote {
        last: id(term, index),
    }
}

fn heartbeat(prev: LogId, commit: u64, round: u64) -> Body {
    let range = EntryRange::empty(prev);
    Body::Append {
        range,
        runs: Vec::new(),
        commit: LogIndex(commit),
        round,
    }
}

/// An append of entries that all have the term of `last`.
fn append(prev: LogId, last: LogId, commit: u64) -> Body {
    let runs = vec![TermRun {
        term: last.term,
        first: prev.index.next(),
    }];
    Body::Append {
        range: EntryRange { prev, last },
        runs,
        commit: LogIndex(commit),
        round: 1,
    }
}

fn matched(upto: u64, round: u64) -> Body {
    Body::AppendReply {
        outcome: AppendOutcome::Matched {
            upto: LogIndex(upto),
        },
        round,
    }
}

/// Node 1 of `size`, with a log of these terms.
fn core(size: u64, terms: &[u64]) -> Raft {
    Raft::new(&config(), boot(1, size, &disk(terms), 7), Time::default())
}

fn step(raft: &mut Raft, event: Event) -> Vec<Effect> {
    step_at(raft, Time::default(), event)
}

fn step_at(raft: &mut Raft, now: Time, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    raft.step(now, event, &mut effects);
    effects
}

fn sync(raft: &mut Raft, seq: u64) -> Vec<Effect> {
    step(
        raft,
        Event::Persisted(Durable::for_simulation(WriteSeq(seq))),
    )
}

fn sends(effects: &[Effect]) -> Vec<Effect> {
    let sends = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Send { .. }));
    sends.cloned().collect()
}

fn commits(effects: &[Effect]) -> Vec<LogId> {
    let commit = |effect: &Effect| match effect {
        Effect::Commit { upto } => Some(*upto),
        _ => None,
    };
    effects.iter().filter_map(commit).collect()
}

/// Node 1 of three, elected in term 1 with an empty log, its own writes durable; the no-op is not
/// acknowledged by anyone.
fn leader() -> Raft {
    let mut raft = core(3, &[]);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    step(
        &mut raft,
        received(B, 1, Body::PreVoteReply { granted: true }),
    );
    sync(&mut raft, 1);
    step(&mut raft, received(B, 1, Body::VoteReply { granted: true }));
    assert_eq!(raft.status().role, RoleName::Leader);
    sync(&mut raft, 2);
    raft
}

// Elections: section 5.2.

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
        terms: Vec::new(),
    };
    let mut restarted = Raft::new(&config(), boot(1, 3, &remembered, 7), Time::default());
    let other = step(&mut restarted, received(C, 5, vote(9, 9)));
    assert_eq!(other, [now(C, 5, Body::VoteReply { granted: false })]);
    let same = step(&mut restarted, received(B, 5, vote(0, 0)));
    assert_eq!(same, [now(B, 5, Body::VoteReply { granted: true })]);
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
    for (candidate, follower) in [(1, C), (2, NodeId(4))] {
        let candidate = NodeId(candidate);
        net.now = net.now.after(config().election_timeout * 2);
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

// Replication: section 5.3.

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
    for (prev, hint) in [
        (id(2, 3), id(1, 2)),
        (id(2, 2), id(1, 2)),
        (id(3, 9), id(1, 2)),
    ] {
        let mut raft = core(3, &[1, 1]);
        let last = LogId::new(Term(3), prev.index.next());
        let effects = step(&mut raft, received(B, 3, append(prev, last, 0)));
        let outcome = AppendOutcome::Rejected {
            prev: prev.index,
            hint,
        };
        let reply = after(1, B, 3, Body::AppendReply { outcome, round: 1 });
        assert_eq!(sends(&effects), [reply], "{prev}");
        assert_eq!(
            raft.pointers().last,
            id(1, 2),
            "{prev}: nothing was appended"
        );
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
    let effects = step(&mut raft, received(C, 2, append(id(1, 1), id(2, 2), 0)));
    assert_eq!(raft.pointers().last, id(1, 3));
    assert!(sends(&effects).is_empty(), "{effects:?}");
}

/// Section 5.3, figure 2: "set commitIndex = min(leaderCommit, index of last new entry)".
#[test]
fn a_follower_commits_only_up_to_what_an_append_has_verified() {
    let mut raft = core(3, &[1, 1, 1, 1]);
    let effects = step(&mut raft, received(B, 2, append(id(1, 1), id(1, 2), 4)));
    assert_eq!(commits(&effects), [id(1, 2)]);
    let effects = step(&mut raft, received(B, 2, heartbeat(id(1, 3), 9, 1)));
    assert_eq!(commits(&effects), [id(1, 3)]);
}

/// Figure 2: entries are on stable storage before the answer.
#[test]
fn an_acknowledgement_waits_for_the_write_that_holds_the_entries() {
    let mut raft = core(3, &[]);
    let first = step(
        &mut raft,
        received(B, 1, append(LogId::ORIGIN, id(1, 2), 0)),
    );
    assert_eq!(sends(&first), [after(1, B, 1, matched(2, 1))]);
    // The same again, and a heartbeat behind it: neither may say it earlier.
    let again = step(
        &mut raft,
        received(B, 1, append(LogId::ORIGIN, id(1, 2), 0)),
    );
    assert_eq!(again, [after(1, B, 1, matched(2, 1))]);
    let beat = step(&mut raft, received(B, 1, heartbeat(id(1, 2), 0, 5)));
    assert_eq!(beat, [after(1, B, 1, matched(2, 5))]);
    sync(&mut raft, 1);
    let beat = step(&mut raft, received(B, 1, heartbeat(id(1, 2), 0, 6)));
    assert_eq!(beat, [now(B, 1, matched(2, 6))]);
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
    let beat = step(&mut raft, received(C, 2, heartbeat(id(2, 3), 0, 2)));
    assert_eq!(beat, [after(2, C, 2, matched(3, 2))]);
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

// Safety: section 5.4.

/// Section 5.4.2: "Raft never commits log entries from previous terms by counting replicas."
#[test]
fn figure_8_an_older_entry_on_a_majority_is_committed_only_with_a_newer_one() {
    // (c): S1 leads in term 4 and has brought its entry of term 2 to S2 and S3; S5 has one of term 3.
    let mut lead = disk(&[1, 2]);
    lead.hard_state.term = Term(3);
    let disks = [lead, disk(&[1]), disk(&[1]), disk(&[1]), disk(&[1, 3])];
    let mut net = Net::new(&disks, 1);
    net.isolate(5);
    net.tick(1);
    // The no-op of term 4 is lost on its way to everyone.
    net.fast_disk = true;
    while let Some((from, to, message)) = net.wire.pop_front() {
        let is_append = matches!(message.body, Body::Append { .. });
        if !is_append {
            net.deliver((from, to, message));
        }
    }
    assert_eq!(net.at(1).status().term, Term(4));
    assert_eq!(net.at(1).status().role, RoleName::Leader);
    // S2 and S3 acknowledge everything up to the entry of term 2.
    for follower in [B, C] {
        net.step(A, received(follower, 4, matched(2, 0)));
    }
    assert_eq!(
        net.at(1).committed,
        LogIndex(0),
        "an entry of term 2 was committed by counting"
    );
    // (e): with the entry of its own term on a majority, both are.
    for follower in [B, C] {
        net.step(A, received(follower, 4, matched(3, 0)));
    }
    assert_eq!(net.at(1).committed, LogIndex(3));

    // (d): had S1 crashed at (c), S5 may lead and overwrite the entry of term 2.
    let holders = [
        disk(&[1, 2]),
        disk(&[1, 2]),
        disk(&[1, 2]),
        disk(&[1]),
        disk(&[1, 3]),
    ];
    let mut net = Net::new(&holders, 1);
    net.at_mut(5).raft = Raft::new(&config(), boot(5, 5, &disk(&[1, 3]), 9), Time::default());
    net.isolate(1);
    net.elect(5);
    net.tick(5);
    net.settle();
    for id in [2, 3, 4] {
        assert_eq!(net.terms(id), [1, 3, 4], "node {id}");
    }
}

/// Thesis, section 10.2.1: the leader's own copy counts once it is durable, and not before.
#[test]
fn a_leader_counts_itself_only_once_its_own_write_is_durable() {
    let mut raft = leader();
    step(&mut raft, received(B, 1, matched(1, 0)));
    step(&mut raft, Event::Propose { count: 1 });
    let acknowledged = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(commits(&acknowledged), [], "one durable copy of two");
    assert_eq!(commits(&sync(&mut raft, 3)), [id(1, 2)]);
    // And it may commit what two others have before it has it itself.
    step(&mut raft, received(C, 1, matched(2, 0)));
    step(&mut raft, Event::Propose { count: 1 });
    step(&mut raft, received(B, 1, matched(3, 0)));
    let acknowledged = step(&mut raft, received(C, 1, matched(3, 0)));
    assert_eq!(commits(&acknowledged), [id(1, 3)]);
    assert_eq!(raft.pointers().durable, LogIndex(2));
}

/// Section 5.1: "If a candidate or leader discovers that its term is out of date, it immediately reverts to
/// follower state."
#[test]
fn a_leader_that_hears_of_a_newer_term_steps_down() {
    let mut raft = leader();
    let outcome = AppendOutcome::Rejected {
        prev: LogIndex(0),
        hint: LogId::ORIGIN,
    };
    step(
        &mut raft,
        received(B, 7, Body::AppendReply { outcome, round: 0 }),
    );
    let status = Status {
        role: RoleName::Follower,
        term: Term(7),
        leader: None,
    };
    assert_eq!(raft.status(), status);
}

/// Section 5.1: "If a server receives a request with a stale term number, it rejects the request" - and an
/// old leader learns of the new term so.
#[test]
fn an_old_leader_is_told_of_the_newer_term() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(1);
    net.propose(1, 3);
    net.settle();
    net.elect(2);
    net.propose(2, 1);
    net.settle();
    net.cut.clear();
    net.tick(1);
    net.settle();
    net.tick(2);
    net.settle();
    assert_eq!(net.at(1).status().leader, Some(B));
    assert_eq!(
        net.terms(1),
        net.terms(2),
        "what it could not commit is gone"
    );
    assert_eq!(net.terms(1), [1, 2, 2]);
}

/// Leader Completeness: who lacks a committed entry is not elected (section 5.4.1).
#[test]
fn a_server_that_lacks_committed_entries_is_not_elected() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(3);
    net.propose(1, 1);
    net.settle();
    assert_eq!(net.at(1).committed, LogIndex(2));
    net.cut.clear();
    net.isolate(1);
    for _ in 0..10 {
        net.now = net.now.after(config().election_timeout);
        net.tick(3);
        net.settle();
        assert_ne!(net.at(3).status().role, RoleName::Leader);
    }
    net.elect(2);
    assert_eq!(net.at(2).committed, LogIndex(3));
}

// Clients: section 8.

/// Section 8: "If the client's first choice is not the leader, that server will reject the client's request
/// and supply information about the most recent leader it has heard from".
#[test]
fn clients_are_sent_to_the_leader() {
    let mut raft = core(3, &[1]);
    let refused = step(&mut raft, Event::Propose { count: 1 });
    assert_eq!(refused, [Effect::Refused { leader: None }]);
    step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    let refused = step(&mut raft, Event::Propose { count: 1 });
    assert_eq!(refused, [Effect::Refused { leader: Some(B) }]);
    let failed = step(&mut raft, Event::Read { read: ReadId(1) });
    assert_eq!(failed, [Effect::ReadFailed { leader: Some(B) }]);
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
    let first = step(&mut raft, Event::Read { read: ReadId(1) });
    assert_eq!(sends(&first).len(), 2, "a round to both");
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
}
