//! How what happened is told. An entry is `index@term`, a write `#number`.

use std::fmt::Write;

use catamaran::raft::event::{Effect, Persist, Refusal, Release, RoleName, Source};
use catamaran::raft::message::{AppendOutcome, Body, Message};
use catamaran::types::{EntryRange, LogId, NodeId, TermRun};

use crate::support::{Happened, Net};

/// All that happened, a line each; what comes of a message stands behind it, indented.
pub(crate) fn story(story: &[Happened]) -> String {
    let mut told = String::new();
    let mut indent = "";
    for happened in story {
        match happened {
            Happened::Delivered(from, to, message) => {
                indent = "  ";
                writeln!(told, "{} -> {}: {}", from.0, to.0, said(message)).unwrap();
            }
            Happened::Lost(from, to, message) => {
                writeln!(told, "{} -> {}: {} (lost)", from.0, to.0, said(message)).unwrap();
            }
            Happened::Synced(id, seq) => {
                writeln!(told, "{indent}{} has #{} on disk", id.0, seq.0).unwrap();
            }
            Happened::Effect(id, effect) => {
                writeln!(told, "{indent}{} {}", id.0, done(effect)).unwrap();
            }
        }
    }
    told
}

/// What a member is, and where its log stands.
pub(crate) fn member(id: u64, net: &Net) -> String {
    let member = net.at(id);
    let (status, pointers) = (member.status(), member.raft.pointers());
    let role = role(status.role, status.leader);
    let vote = member
        .written
        .hard_state
        .vote
        .map_or("nobody".to_owned(), |id| id.0.to_string());
    let terms = terms(
        &member.written.runs(),
        EntryRange {
            prev: LogId::ORIGIN,
            last: pointers.last,
        },
    );
    let (term, durable, committed) = (status.term.0, pointers.durable.0, pointers.committed.0);
    format!(
        "{id}: {role} in term {term}, voted for {vote}; log {terms}, durable {durable}, committed {committed}\n"
    )
}

fn role(role: RoleName, leader: Option<NodeId>) -> String {
    let name = match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    };
    match (role, leader) {
        (RoleName::Follower, Some(leader)) => format!("{name} of {}", leader.0),
        (RoleName::Follower, None) => format!("{name} of nobody"),
        _ => name.to_owned(),
    }
}

fn entry(id: LogId) -> String {
    format!("{}@{}", id.index.0, id.term.0)
}

/// The term of each entry.
fn terms(runs: &[TermRun], range: EntryRange) -> String {
    let term = |index: u64| {
        let before = runs.partition_point(|run| run.first.0 <= index);
        runs[before - 1].term.0.to_string()
    };
    let indices = range.prev.index.0 + 1..=range.last.index.0;
    format!("[{}]", indices.map(term).collect::<Vec<_>>().join(" "))
}

fn written(persist: &Persist) -> String {
    let hard_state = persist.hard_state;
    let vote = hard_state
        .vote
        .map_or("nobody".to_owned(), |id| id.0.to_string());
    let (seq, term, commit) = (persist.seq.0, hard_state.term.0, hard_state.commit.0);
    let mut told = format!("writes #{seq}: term {term}, vote {vote}, commit {commit}");
    if let Some(from) = persist.truncate_from {
        write!(told, ", nothing from {} on", from.0).unwrap();
    }
    if let Some(new) = persist.entries {
        let (first, last) = (new.range.prev.index.next().0, entry(new.range.last));
        let source = match new.source {
            Source::Proposals => "proposed".to_owned(),
            Source::Message => "as sent".to_owned(),
            Source::Empty(kind) => format!("{kind:?}").to_lowercase(),
            Source::Config => "config".to_owned(),
        };
        write!(told, ", entries {first} to {last} ({source})").unwrap();
    }
    told
}

#[allow(unreachable_patterns, reason = "more will be added")]
fn done(effect: &Effect) -> String {
    match effect {
        Effect::Persist(persist) => written(persist),
        Effect::Send {
            to,
            message,
            release: Release::Now,
            ..
        } => {
            format!("to {}: {}", to.0, said(message))
        }
        Effect::Send {
            to,
            message,
            release: Release::After(seq),
            ..
        } => {
            format!("to {} after #{}: {}", to.0, seq.0, said(message))
        }
        Effect::Commit { upto, .. } => format!("commits up to {}", entry(*upto)),
        Effect::Refused(refusal) => format!("refuses: {}", why(*refusal)),
        Effect::ReadReady { upto, index, .. } => {
            format!(
                "can answer reads up to {} once {} is applied",
                upto.0, index.0
            )
        }
        Effect::ReadFailed { .. } => "fails its reads".to_owned(),
        Effect::Status(status) => {
            format!(
                "is {} in term {}",
                role(status.role, status.leader),
                status.term.0
            )
        }
        other => format!("{other:?}"),
    }
}

fn why(refusal: Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader: Some(id) } => format!("{} leads", id.0),
        Refusal::NotLeader { leader: None } => "who leads is not known".to_owned(),
        Refusal::Transferring { to } => format!("it hands over to {}", to.0),
        Refusal::NoSuccessor => "there is nobody to hand over to".to_owned(),
        Refusal::NotReady => "it has committed nothing of its term".to_owned(),
        Refusal::ChangeInProgress => "another change is under way".to_owned(),
        Refusal::NoVoters => "nobody would vote".to_owned(),
    }
}

#[allow(unreachable_patterns, reason = "more will be added")]
fn said(message: &Message) -> String {
    let answer = |granted: &bool| if *granted { "yes" } else { "no" };
    let body = match &message.body {
        Body::PreVote { last, .. } => format!("PreVote, log to {}", entry(*last)),
        Body::PreVoteReply { granted, .. } => format!("PreVoteReply {}", answer(granted)),
        Body::Vote { last, .. } => format!("Vote, log to {}", entry(*last)),
        Body::VoteReply { granted, .. } => format!("VoteReply {}", answer(granted)),
        Body::Append {
            range,
            runs,
            commit,
            round,
            ..
        } => {
            let terms = terms(runs, *range);
            let (prev, commit) = (entry(range.prev), commit.0);
            format!("Append {terms} behind {prev}, commit {commit}, round {round}")
        }
        Body::AppendReply { outcome, round, .. } => match outcome {
            AppendOutcome::Matched { upto, .. } => format!("Matched {}, round {round}", upto.0),
            AppendOutcome::Rejected { prev, hint, .. } => {
                format!(
                    "Rejected behind {}, at most {}, round {round}",
                    prev.0,
                    entry(*hint)
                )
            }
            other => format!("{other:?}, round {round}"),
        },
        other => format!("{other:?}"),
    };
    format!("term {}, {body}", message.term.0)
}
