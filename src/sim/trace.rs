//! What happened: a hash of all of it, and the last of it to read.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::faults::Kind;
use crate::raft::event::{RoleName, Status};
use crate::raft::message::{AppendOutcome, Body, Message};
use crate::types::{LogId, LogIndex, MemberRole, NodeId, Roster, Term, WriteSeq};

/// How many lines of the past are kept.
const KEPT: usize = 120;

/// Something that happened.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) enum What {
    Arrived(NodeId, Said),
    Lost(NodeId, Said),
    Sent(NodeId, Said),
    Proposed(u64),
    Gathers(u64),
    Asked(u64),
    Truncated(LogIndex),
    Wrote(WriteSeq, LogId),
    Durable(WriteSeq),
    Committed(LogId),
    Applied(LogIndex),
    Became(u8, Term, Option<NodeId>),
    Acknowledged(u64, LogIndex),
    Refused(u64),
    Unknown(u64),
    Saw(u64, LogIndex),
    Unread(u64),
    Fault(u64, Kind),
    Down(&'static str),
    Up(LogId, Term),
    Members(Seats),
    Ordered(u64),
    Carried(u64),
    Spurned(u64),
    Adrift(u64),
    Stopped,
    Calm,
    Froze(LogId),
    Took(LogId),
    Unkept,
    Compacted(LogIndex),
    Installed(LogId),
    Restored(LogId),
    AskedFor(NodeId, u64),
    Piece(NodeId, LogId, u64),
    LostCargo(NodeId),
    LostNode(NodeId),
}

/// Who the members are, a bit for each node.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Seats {
    voters: u16,
    outgoing: u16,
    learners: u16,
    joiners: u16,
}

impl Seats {
    pub(super) fn of(roster: &Roster) -> Self {
        let bits = |ids: &mut dyn Iterator<Item = NodeId>| ids.fold(0, |set, id| set | 1 << id.0);
        let all = roster.ids();
        let of = |role| {
            let mut ids = all.iter().copied();
            bits(&mut ids.by_ref().filter(|id| roster.role(*id) == Some(role)))
        };
        Self {
            voters: of(MemberRole::Voter),
            outgoing: bits(&mut roster.outgoing().iter().copied()),
            learners: of(MemberRole::Learner),
            joiners: of(MemberRole::Joiner),
        }
    }
}

impl fmt::Display for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("voters", self.voters),
            ("leaving", self.outgoing),
            ("learners", self.learners),
            ("joiners", self.joiners),
        ];
        for (name, set) in all {
            if set != 0 {
                let ids: Vec<u32> = (0..16).filter(|bit| set >> bit & 1 == 1).collect();
                write!(f, " {name} {ids:?}")?;
            }
        }
        Ok(())
    }
}

/// A message, as far as it fits in a line.
#[derive(Clone, Copy, Hash, Debug)]
pub(super) struct Said {
    term: Term,
    what: &'static str,
    from: LogId,
    upto: LogId,
    commit: LogIndex,
}

impl Said {
    pub(super) const fn of(message: &Message) -> Self {
        let (nothing, none) = (LogId::ORIGIN, LogIndex::ZERO);
        let (what, from, upto, commit) = match &message.body {
            Body::PreVote { last } => ("would you vote, for", nothing, *last, none),
            Body::PreVoteReply { granted: true } => ("would vote", nothing, nothing, none),
            Body::PreVoteReply { granted: false } => ("would not vote", nothing, nothing, none),
            Body::Vote { last } => ("vote, for", nothing, *last, none),
            Body::HandoverVote { last } => ("vote now, for", nothing, *last, none),
            Body::TimeoutNow => ("lead", nothing, nothing, none),
            Body::VoteReply { granted: true } => ("votes", nothing, nothing, none),
            Body::VoteReply { granted: false } => ("does not vote", nothing, nothing, none),
            Body::Append { range, commit, .. } => ("append", range.prev, range.last, *commit),
            Body::AppendReply {
                outcome: AppendOutcome::Matched { upto },
                ..
            } => ("matched", nothing, LogId::new(Term::ZERO, *upto), none),
            Body::AppendReply {
                outcome: AppendOutcome::Rejected { prev, hint },
                ..
            } => ("rejected", LogId::new(Term::ZERO, *prev), *hint, none),
            Body::AskReadIndex { .. } => ("asks what reads must see", nothing, nothing, none),
            Body::ReadIndex { index, .. } => ("reads must see", nothing, nothing, *index),
            Body::Snapshot { last, .. } => ("fetch", nothing, *last, none),
            Body::AppendReply {
                outcome: AppendOutcome::Fetching,
                ..
            } => ("fetches", nothing, nothing, none),
        };
        Self {
            term: message.term,
            what,
            from,
            upto,
            commit,
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[term {}] {}", self.term, self.what)?;
        match self.what {
            "append" => write!(f, " ({}, {}], commit {}", self.from, self.upto, self.commit),
            "matched" => write!(f, " up to {}", self.upto.index),
            "reads must see" => write!(f, " entries up to {}", self.commit),
            "fetch" => write!(f, " a snapshot up to {}", self.upto),
            "rejected" => write!(f, " behind {}, try {}", self.from.index, self.upto),
            "would you vote, for" | "vote, for" | "vote now, for" => {
                write!(f, " a log up to {}", self.upto)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arrived(from, said) => write!(f, "hears from {from}: {said}"),
            Self::Lost(to, said) => write!(f, "says to {to}, and it is lost: {said}"),
            Self::Sent(to, said) => write!(f, "says to {to}: {said}"),
            Self::Proposed(number) => write!(f, "is given proposal {number}"),
            Self::Gathers(count) => write!(f, "lets {count} proposals wait for its write"),
            Self::Asked(number) => write!(f, "is asked for read {number}"),
            Self::Truncated(from) => write!(f, "forgets its entries from {from} on"),
            Self::Wrote(seq, last) => write!(f, "stages write {seq}, up to {last}"),
            Self::Durable(seq) => write!(f, "is durable up to write {seq}"),
            Self::Committed(upto) => write!(f, "has committed up to {upto}"),
            Self::Applied(upto) => write!(f, "has applied up to {upto}"),
            Self::Became(role, term, leader) => {
                write!(f, "is {} in term {term}", role_name(*role))?;
                match leader {
                    Some(leader) => write!(f, ", of leader {leader}"),
                    None => Ok(()),
                }
            }
            Self::Acknowledged(number, index) => {
                write!(f, "acknowledges proposal {number} at {index}")
            }
            Self::Refused(number) => write!(f, "refuses proposal {number}"),
            Self::Unknown(number) => write!(f, "leaves proposal {number} unknown"),
            Self::Saw(number, index) => write!(f, "answers read {number} at {index}"),
            Self::Unread(number) => write!(f, "does not answer read {number}"),
            Self::Fault(number, kind) => write!(f, "*** fault {number}: {kind}"),
            Self::Down(why) => write!(f, "is down: {why}"),
            Self::Up(last, term) => write!(f, "is up in term {term}, with a log up to {last}"),
            Self::Members(seats) => write!(f, "goes by{seats}"),
            Self::Ordered(number) => write!(f, "is given order {number}"),
            Self::Carried(number) => write!(f, "order {number} is carried out"),
            Self::Spurned(number) => write!(f, "order {number} comes to nothing"),
            Self::Adrift(number) => write!(f, "order {number} is left unknown"),
            Self::Stopped => f.write_str("stops with an error"),
            Self::Calm => f.write_str("*** no more faults"),
            Self::Froze(last) => write!(f, "freezes its state as of {last}"),
            Self::Took(last) => write!(f, "has a durable snapshot up to {last}"),
            Self::Unkept => f.write_str("gives a snapshot up"),
            Self::Compacted(upto) => write!(f, "drops its entries up to {upto}"),
            Self::Installed(last) => write!(f, "empties its log, which goes on behind {last}"),
            Self::Restored(last) => write!(f, "restores its state as of {last}"),
            Self::AskedFor(from, offset) => {
                write!(f, "asks {from} for a snapshot from byte {offset} on")
            }
            Self::Piece(to, last, offset) => {
                write!(
                    f,
                    "gives {to} bytes from {offset} on of its snapshot up to {last}"
                )
            }
            Self::LostNode(from) => write!(f, "loses its connection with {from}"),
            Self::LostCargo(to) => write!(f, "says to {to} of a snapshot what is lost"),
        }
    }
}

pub(super) const fn role_number(role: RoleName) -> u8 {
    match role {
        RoleName::Follower => 0,
        RoleName::PreCandidate => 1,
        RoleName::Candidate => 2,
        RoleName::Leader => 3,
    }
}

const fn role_name(number: u8) -> &'static str {
    match number {
        0 => "a follower",
        1 => "a candidate to be",
        2 => "a candidate",
        _ => "the leader",
    }
}

impl What {
    pub(super) const fn became(status: Status) -> Self {
        Self::Became(role_number(status.role), status.term, status.leader)
    }
}

struct Line {
    step: u64,
    now: u64,
    node: Option<NodeId>,
    what: What,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ms, us) = (self.now / 1_000, self.now % 1_000);
        write!(f, "{:>6} {ms:>6}.{us:03} ms  ", self.step)?;
        match (self.node, &self.what) {
            (Some(node), What::Fault(..)) => write!(f, "{}, node {node}", self.what),
            (Some(node), what) => write!(f, "{node} {what}"),
            (None, what) => what.fmt(f),
        }
    }
}

/// All that happened so far.
pub(super) struct Trace {
    hash: Mixer,
    lines: VecDeque<Line>,
    pub(super) step: u64,
    pub(super) now: u64,
}

impl Trace {
    pub(super) fn new() -> Self {
        Self {
            hash: Mixer(0xcbf2_9ce4_8422_2325),
            lines: VecDeque::with_capacity(KEPT),
            step: 0,
            now: 0,
        }
    }

    pub(super) fn add(&mut self, node: Option<NodeId>, what: What) {
        (self.now, node, what).hash(&mut self.hash);
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(Line {
            step: self.step,
            now: self.now,
            node,
            what,
        });
    }

    /// The same for two runs exactly if the same happened in both, as far as that can be told.
    pub(super) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(super) fn last_lines(&self) -> Vec<String> {
        self.lines.iter().map(Line::to_string).collect()
    }
}

/// A hash that is the same in every process.
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let x = self.0 ^ (self.0 >> 32);
        x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (x >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
}
