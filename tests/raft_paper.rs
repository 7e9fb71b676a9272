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

#[path = "raft_paper/clients.rs"]
mod clients;
#[path = "raft_paper/elections.rs"]
mod elections;
#[path = "raft_paper/leases.rs"]
mod leases;
#[path = "raft_paper/limits.rs"]
mod limits;
#[path = "raft_paper/lost.rs"]
mod lost;
#[path = "raft_paper/members.rs"]
mod members;
#[path = "raft_paper/pipeline.rs"]
mod pipeline;
#[path = "raft_paper/quorum.rs"]
mod quorum;
#[path = "raft_paper/reads.rs"]
mod reads;
#[path = "raft_paper/replication.rs"]
mod replication;
#[path = "raft_paper/restart.rs"]
mod restart;
#[path = "raft_paper/safety.rs"]
mod safety;
#[path = "raft_paper/strangers.rs"]
mod strangers;
#[path = "raft_paper/terms.rs"]
mod terms;
#[path = "raft_paper/transfer.rs"]
mod transfer;

use std::collections::BTreeSet;

use catamaran::config::Config;
use catamaran::raft::Raft;
use catamaran::raft::event::{
    Effect, Event, NewEntries, Persist, ReadId, Refusal, Release, RoleName, Source, Status,
};
use catamaran::raft::message::{AppendOutcome, Body, Message};
use catamaran::types::{
    Durable, EntryKind, EntryRange, HardState, LogId, LogIndex, MemberRole, NodeId, Roster, Term,
    TermRun, Time, WriteSeq,
};
use support::{Disk, Net, boot, config, disk, leases};

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
        configs: Vec::new(),
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
    leader_of(&config())
}

/// The same, with these options.
fn leader_of(config: &Config) -> Raft {
    let mut raft = Raft::new(config, boot(1, 3, &disk(&[]), 7), Time::default());
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
