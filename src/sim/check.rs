//! What holds after each step: the five properties of the paper's figure 3, the order of the pointers, and
//! that no term, vote or durable entry is ever taken back.
//!
//! Each look costs as much as the step changed, not as much as there is. That all logs match comes of this: an
//! entry's term and index always stand for the same bytes and the same entry before it, at every append. That
//! a leader has all that is committed follows then from its having the last such entry.

use std::collections::{BTreeMap, VecDeque};

use super::violation::{Property, Violated};
use crate::log::{NewEntry, Recovered};
use crate::raft::Pointers;
use crate::raft::event::{Persist, RoleName, Status};
use crate::raft::message::{AppendOutcome, Body, Message};
use crate::types::{
    Entry, EntryKind, HardState, LogId, LogIndex, NodeId, Roster, Term, TermRun, WriteSeq,
};

mod rosters;

use rosters::Rosters;
pub(super) use rosters::is_quorum;

mod snapshots;

type Checked = Result<(), Violated>;

/// A write on its way to the disk.
struct Write {
    seq: WriteSeq,
    hard_state: HardState,
    truncate_from: Option<LogIndex>,
    /// The terms of its entries.
    terms: Vec<Term>,
    /// What a snapshot takes the place of. Such a write has nothing else.
    replaced: Option<Replaced>,
}

/// What of a log goes, since a snapshot has it.
#[derive(Clone, Copy)]
enum Replaced {
    /// The entries up to here.
    Prefix(LogIndex),
    /// Everything; the log goes on behind this entry.
    All(LogId),
}

/// What a node has, as far as it has told.
#[derive(Default)]
struct Shadow {
    /// The terms of its entries, the first of index 1, and of those that are durable. Those that it dropped are
    /// among them: they are committed, and its snapshot has them.
    staged: Vec<Term>,
    durable: Vec<Term>,
    /// The last that it dropped, and the last that it dropped durably.
    before: LogIndex,
    dropped: LogIndex,
    /// The last entry of its newest durable snapshot.
    snapshot: LogId,
    /// How many snapshots took the place of its log since faults ended and since it was sent an entry.
    installs: u64,
    hard_state: HardState,
    writes: VecDeque<Write>,
    committed: LogIndex,
    applied: LogIndex,
    /// The term that it leads.
    leads: Option<Term>,
    life: u64,
    /// The highest term that it spoke of.
    said: Term,
}

impl Shadow {
    fn has(&self, id: LogId) -> bool {
        term_at(&self.staged, id.index) == Some(id.term)
    }

    /// Term and vote as a start would find them. It has entered the term of its snapshot, if not a later one.
    fn promised(&self) -> (Term, Option<NodeId>) {
        let HardState { term, vote, .. } = self.hard_state;
        if term < self.snapshot.term {
            return (self.snapshot.term, None);
        }
        (term, vote)
    }
}

fn place(index: LogIndex) -> usize {
    usize::try_from(index.0).unwrap_or(usize::MAX)
}

/// Of index 0, which all logs share, it is 0.
fn term_at(terms: &[Term], index: LogIndex) -> Option<Term> {
    match place(index) {
        0 => Some(Term::ZERO),
        place => terms.get(place - 1).copied(),
    }
}

/// What is known of the one entry of its term at its index.
struct Known {
    term: Term,
    before: Term,
    digest: u64,
}

struct Committed {
    term: Term,
    /// The term of the leader that committed it. Never lower than that of the entry before.
    by: Term,
}

/// All that was ever true of the cluster.
pub(super) struct Checker {
    nodes: Vec<Shadow>,
    /// By index; few terms ever fight for one.
    entries: Vec<Vec<Known>>,
    committed: Vec<Committed>,
    /// How many snapshots were made durable, and how many took the place of a log.
    snapshots: u64,
    installs: u64,
    /// Faults have ended.
    is_calm: bool,
    leaders: BTreeMap<Term, (NodeId, u64)>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    elections: u64,
    rosters: Rosters,
}

const fn id_of(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

fn digest(kind: EntryKind, payload: &[u8]) -> u64 {
    (kind as u64) << 32 | u64::from(crc32fast::hash(payload))
}

impl Checker {
    /// A cluster of so many members, which have `first` and nothing else, committed from the start; the other
    /// nodes have nothing.
    pub(super) fn new(
        (members, nodes): (usize, usize),
        first: &NewEntry<'_>,
        hard_state: HardState,
    ) -> Self {
        let member = || Shadow {
            staged: vec![first.term],
            durable: vec![first.term],
            hard_state,
            said: hard_state.term,
            committed: hard_state.commit,
            ..Shadow::default()
        };
        let node = |at| {
            if at < members {
                member()
            } else {
                Shadow::default()
            }
        };
        let mut checker = Self {
            nodes: (0..nodes).map(node).collect(),
            entries: vec![vec![Known {
                term: first.term,
                before: Term::ZERO,
                digest: digest(first.kind, &first.payload),
            }]],
            committed: vec![Committed {
                term: first.term,
                by: Term::ZERO,
            }],
            snapshots: 0,
            installs: 0,
            is_calm: false,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            elections: 0,
            rosters: Rosters::new(nodes, members, first.term),
        };
        for node in 0..nodes {
            checker.begins(node);
        }
        checker
    }

    /// The last entry that anybody has committed.
    pub(super) fn last_committed(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    /// How many leaders were elected.
    pub(super) const fn elections(&self) -> u64 {
        self.elections
    }

    /// How many snapshots were made durable, and how many took the place of a log.
    pub(super) const fn snapshots(&self) -> (u64, u64) {
        (self.snapshots, self.installs)
    }

    /// A process begins, with what its log says.
    pub(super) fn started(&mut self, node: usize, life: u64, found: &Recovered) -> Checked {
        let id = id_of(node);
        let terms = self.terms_found(node, found)?;
        let could_be = self.could_be(node, &terms, found);
        let shadow = &mut self.nodes[node];
        if !could_be {
            let (durable, lost) = (shadow.durable.len(), shadow.writes.len());
            return Err(Property::Recovery.violated(format!(
                "node {id} finds a log up to {} and {:?}, where entries up to {durable} and {:?} were \
                 durable, and {lost} writes on their way",
                found.last, found.hard_state, shadow.hard_state
            )));
        }
        if found.hard_state.commit.0 > self.committed.len() as u64 {
            return Err(Property::StateMachineSafety.violated(format!(
                "node {id} finds entry {} committed, which nobody has committed",
                found.hard_state.commit
            )));
        }
        shadow.durable.clone_from(&terms);
        shadow.staged = terms;
        shadow.hard_state = found.hard_state;
        shadow.writes.clear();
        // Of a write that was cut short, the commit index may be there and its entries not.
        shadow.committed = found.hard_state.commit.min(found.last.index);
        (shadow.before, shadow.dropped) = (found.before.index, found.before.index);
        shadow.leads = None;
        shadow.life = life;
        self.begins(node);
        Ok(())
    }

    /// A process is no more.
    pub(super) fn ended(&mut self, node: usize) {
        self.nodes[node].leads = None;
    }

    /// A node stages a write.
    pub(super) fn wrote(
        &mut self,
        node: usize,
        persist: &Persist,
        entries: &[NewEntry<'_>],
    ) -> Checked {
        let (id, shadow) = (id_of(node), &mut self.nodes[node]);
        let hard_state = persist.hard_state;
        if let Some(from) = persist.truncate_from {
            if shadow.leads == Some(hard_state.term) {
                return Err(Property::LeaderAppendOnly.violated(format!(
                    "node {id} leads term {} and forgets its entries from {from} on",
                    hard_state.term
                )));
            }
            if from <= shadow.committed {
                return Err(Property::StateMachineSafety.violated(format!(
                    "node {id} has committed up to {} and forgets entries from {from} on",
                    shadow.committed
                )));
            }
            shadow.staged.truncate(place(from.prev()));
        }
        let prev = persist.entries.map(|new| new.range.prev.index.0);
        if prev.is_some_and(|prev| prev != shadow.staged.len() as u64) {
            return Err(Property::PointerOrder.violated(format!(
                "node {id} appends behind {}, and its log ends at {}",
                prev.unwrap_or_default(),
                shadow.staged.len()
            )));
        }
        if prev.is_some() {
            shadow.installs = 0;
        }
        let mut terms = Vec::with_capacity(entries.len());
        for entry in entries {
            let before = shadow.staged.last().copied().unwrap_or_default();
            shadow.staged.push(entry.term);
            terms.push(entry.term);
            let index = LogIndex(shadow.staged.len() as u64);
            let known = Known {
                term: entry.term,
                before,
                digest: digest(entry.kind, &entry.payload),
            };
            know(&mut self.entries, id, index, known)?;
            self.rosters.learn(index, entry)?;
        }
        shadow.writes.push_back(Write {
            seq: persist.seq,
            hard_state,
            truncate_from: persist.truncate_from,
            terms,
            replaced: None,
        });
        Ok(())
    }

    /// A node's writes up to `seq` are durable.
    pub(super) fn durable(&mut self, node: usize, seq: WriteSeq) {
        loop {
            let shadow = &mut self.nodes[node];
            if shadow.writes.front().is_none_or(|write| write.seq > seq) {
                return;
            }
            let Some(write) = shadow.writes.pop_front() else {
                return;
            };
            shadow.hard_state = write.hard_state;
            if let Some(replaced) = write.replaced {
                self.replaced(node, replaced);
                continue;
            }
            if let Some(from) = write.truncate_from {
                shadow.durable.truncate(place(from.prev()));
            }
            shadow.durable.extend(write.terms);
        }
    }

    /// A message leaves a node.
    pub(super) fn leaving(&mut self, node: usize, to: NodeId, message: &Message) -> Checked {
        let Message { term, body } = message;
        if matches!(body, Body::PreVote { .. } | Body::PreVoteReply { .. }) {
            return Ok(());
        }
        let (id, shadow) = (id_of(node), &mut self.nodes[node]);
        let (durable, vote) = shadow.promised();
        if *term < shadow.said {
            return Err(Property::TermAndVote.violated(format!(
                "node {id} speaks of term {term} after it spoke of term {}",
                shadow.said
            )));
        }
        shadow.said = *term;
        let broken = |what: String| Err(Property::Promise.violated(what));
        if durable < *term {
            return broken(format!(
                "node {id} speaks of term {term}, and durable is term {durable}"
            ));
        }
        let voted = match body {
            Body::Vote { .. } | Body::HandoverVote { .. } => Some(id),
            Body::VoteReply { granted: true } => Some(to),
            _ => None,
        };
        if let Some(voted) = voted {
            if durable == *term && vote != Some(voted) {
                return broken(format!(
                    "node {id} votes for {voted} in term {term}, and durable is {vote:?}"
                ));
            }
            let first = *self.votes.entry((id, *term)).or_insert(voted);
            if first != voted {
                return Err(Property::TermAndVote.violated(format!(
                    "node {id} votes for {voted} in term {term}, and voted for {first} before"
                )));
            }
        }
        // Who moved on to a later term since may have forgotten what its old leader does not need any more.
        if let Body::AppendReply {
            outcome: AppendOutcome::Matched { upto },
            ..
        } = body
            && durable == *term
        {
            return self.matches(node, to, *term, *upto);
        }
        Ok(())
    }

    /// A node tells the leader of its term that it has the leader's entries up to `upto`, durably.
    fn matches(&self, node: usize, to: NodeId, term: Term, upto: LogIndex) -> Checked {
        let id = id_of(node);
        let Some(own) = self.durable_term(node, upto) else {
            return Err(Property::Promise.violated(format!(
                "node {id} says that it has entries up to {upto}, and durable are those up to {}",
                self.last_durable(node)
            )));
        };
        let leader = place(LogIndex(to.0)).checked_sub(1);
        let leader = leader.and_then(|at| self.nodes.get(at));
        let leader = leader.filter(|leader| leader.leads == Some(term));
        match leader.and_then(|leader| term_at(&leader.staged, upto)) {
            Some(theirs) if theirs != own => Err(Property::Promise.violated(format!(
                "node {id} says that it has leader {to}'s entry {upto} of term {theirs}, and has one of \
                 term {own}"
            ))),
            _ => Ok(()),
        }
    }

    /// A node takes entries up to `upto` for committed.
    pub(super) fn committed(&mut self, node: usize, upto: LogId, status: Status) -> Checked {
        let id = id_of(node);
        let from = self.nodes[node].committed;
        if upto.index < from {
            return Err(Property::PointerOrder.violated(format!(
                "the commit index of node {id} goes from {from} back to {}",
                upto.index
            )));
        }
        let mut index = from;
        while index < upto.index {
            index = index.next();
            let shadow = &self.nodes[node];
            let Some(term) = term_at(&shadow.staged, index) else {
                return Err(Property::PointerOrder.violated(format!(
                    "node {id} commits {index}, and its log ends at {}",
                    shadow.staged.len()
                )));
            };
            match self.committed.get(place(index) - 1) {
                Some(first) if first.term != term => {
                    return Err(Property::StateMachineSafety.violated(format!(
                        "node {id} commits {}, where {} was committed",
                        LogId::new(term, index),
                        LogId::new(first.term, index)
                    )));
                }
                Some(_) => {}
                None => self.newly_committed(node, LogId::new(term, index), upto, status)?,
            }
        }
        self.nodes[node].committed = upto.index;
        Ok(())
    }

    /// A node applies an entry.
    pub(super) fn applied(&mut self, node: usize, entry: &Entry) -> Checked {
        let (id, shadow) = (id_of(node), &mut self.nodes[node]);
        let (index, term) = (entry.id.index, entry.id.term);
        if index != shadow.applied.next() || index > shadow.committed {
            return Err(Property::PointerOrder.violated(format!(
                "node {id} applies {index} after {}, and has committed up to {}",
                shadow.applied, shadow.committed
            )));
        }
        shadow.applied = index;
        let known = self.entries.get(place(index) - 1).into_iter().flatten();
        let mut known = known.filter(|known| known.term == term);
        let first = self.committed.get(place(index) - 1);
        let same = first.is_some_and(|first| first.term == term)
            && known.any(|known| known.digest == digest(entry.kind, &entry.payload));
        if same {
            return Ok(());
        }
        Err(Property::StateMachineSafety.violated(format!(
            "node {id} applies another entry at {index} than was committed there, or other bytes"
        )))
    }

    /// A node has done a step of consensus, with all that came of it.
    pub(super) fn stepped(
        &mut self,
        node: usize,
        status: Status,
        pointers: Pointers,
        roster: &Roster,
    ) -> Checked {
        let (id, shadow) = (id_of(node), &self.nodes[node]);
        let Pointers {
            first,
            snapshot,
            committed,
            durable,
            last,
        } = pointers;
        let snapshot = snapshot.map_or(LogIndex::ZERO, |last| last.index);
        let ordered = first.prev() == shadow.before
            && first.prev() <= snapshot
            && snapshot <= committed
            && snapshot <= shadow.snapshot.index
            && shadow.applied <= committed
            && committed <= last.index
            && durable <= last.index
            && durable.0 <= shadow.snapshot.index.0.max(shadow.durable.len() as u64)
            && last.index.0 == shadow.staged.len() as u64
            && committed == shadow.committed;
        if !ordered {
            return Err(Property::PointerOrder.violated(format!(
                "node {id} has applied up to {} and says {pointers:?}; of its log, {} entries are durable",
                shadow.applied,
                shadow.durable.len()
            )));
        }
        if status.role != RoleName::Leader {
            self.nodes[node].leads = None;
        } else if shadow.leads != Some(status.term) {
            self.elected(node, status.term)?;
        }
        self.goes_by(node, roster)
    }
}

/// Holds an entry against what is known of it.
fn know(entries: &mut Vec<Vec<Known>>, id: NodeId, index: LogIndex, new: Known) -> Checked {
    let at = place(index) - 1;
    if entries.len() <= at {
        entries.resize_with(at + 1, Vec::new);
    }
    let Some(known) = entries[at].iter().find(|known| known.term == new.term) else {
        entries[at].push(new);
        return Ok(());
    };
    if (known.before, known.digest) == (new.before, new.digest) {
        return Ok(());
    }
    Err(Property::LogMatching.violated(format!(
        "node {id} has another entry {} than there was before, or another before it",
        LogId::new(new.term, index)
    )))
}

/// Adds the terms of the entries of these runs, up to `last`.
fn terms_of(terms: &mut Vec<Term>, runs: &[TermRun], last: LogIndex) {
    for (at, run) in runs.iter().enumerate() {
        let end = runs.get(at + 1).map_or(last, |next| next.first.prev());
        terms.resize(place(end), run.term);
    }
}

#[cfg(test)]
mod tests;
