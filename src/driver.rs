//! What drives consensus has to keep and to look up, whatever carries its effects out: the threads of a node
//! in life, one event after another in the simulated world. Both run this, so that the world tests it.
//!
//! Architecture invariant: nothing here waits, reads a clock or starts a thread.

use std::collections::VecDeque;
use std::sync::Arc;

mod fetch;
mod gathering;
mod handover;
mod members;
mod restore;
mod snapshots;

pub(crate) use fetch::{Fetcher, Transfer};
pub(crate) use gathering::{Gathering, Proposed};
pub(crate) use handover::{Handed, Handover};
pub(crate) use members::Members;
pub(crate) use restore::{RestoreError, restore};
pub(crate) use snapshots::{Frozen, Schedule};

use crate::config::memory_of;
use crate::log::{LogReader, NewEntry, decode_membership};
use crate::raft::Raft;
use crate::raft::event::{Persist, ReadId, Source};
use crate::raft::message::{Body, Message};
use crate::snapshot::{Configuration, Meta, Whole};
use crate::types::{
    Bytes, Entry, EntryKind, EntryRange, LogId, LogIndex, Member, Membership, Payload, Roster,
    Staged, TermRun, WriteSeq,
};

/// What a step's event carries that consensus does not see.
pub(crate) enum Carried<'a> {
    Nothing,
    Proposals(&'a [Bytes]),
    /// Entries, and the configurations among them.
    Message(&'a [Entry], &'a [Placed]),
    /// Members as a change of members has them.
    Members(&'a [Member]),
    /// A snapshot that was fetched, with its configuration.
    Snapshot(&'a Arc<Whole>, &'a Placed),
}

/// A configuration and the index of its entry.
pub(crate) type Placed = (LogIndex, Membership);

/// The configuration of a snapshot; none if it cannot be decoded.
pub(crate) fn config_of(meta: &Meta) -> Option<Placed> {
    let Configuration { index, bytes } = &meta.configuration;
    Some((*index, decode_membership(bytes).ok()?))
}

/// The configurations among the entries of a message; none if one cannot be decoded.
pub(crate) fn configs_in(entries: &[Entry]) -> Option<Vec<Placed>> {
    let configs = entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Config);
    configs
        .map(|entry| Some((entry.id.index, decode_membership(&entry.payload).ok()?)))
        .collect()
}

/// What consensus knows of them.
pub(crate) fn rosters(configs: &[Placed]) -> Vec<(LogIndex, Roster)> {
    let rosters = configs.iter().map(|(at, m)| (*at, m.roster().clone()));
    rosters.collect()
}

/// The entries that a write appends, with the bytes that belong to them. A configuration of this node's own is
/// in `config`, encoded.
///
/// # Errors
/// If other bytes came in than consensus takes entries from.
pub(crate) fn new_entries<'a>(
    persist: &Persist,
    carried: &Carried<'a>,
    config: &'a [u8],
) -> Result<Vec<NewEntry<'a>>, String> {
    let Some(new) = &persist.entries else {
        return Ok(Vec::new());
    };
    let term = new.range.last.term;
    let count = usize::try_from(new.range.len()).unwrap_or(usize::MAX);
    let entry = |kind, payload: Payload<'a>| NewEntry {
        term,
        kind,
        payload,
    };
    let entries: Vec<NewEntry<'a>> = match (new.source, carried) {
        (Source::Empty(kind), _) => vec![entry(kind, Payload::Borrowed(&[]))],
        (Source::Config, _) => vec![entry(EntryKind::Config, config.into())],
        (Source::Proposals, Carried::Proposals(payloads)) => payloads
            .iter()
            .map(|payload| entry(EntryKind::Normal, payload.into()))
            .collect(),
        (Source::Message, Carried::Message(entries, _)) => {
            let known = entries.partition_point(|entry| entry.id.index <= new.range.prev.index);
            let new = entries[known..].iter();
            new.map(|Entry { id, kind, payload }| NewEntry {
                term: id.term,
                kind: *kind,
                payload: payload.into(),
            })
            .collect()
        }
        _ => Vec::new(),
    };
    if entries.len() == count {
        return Ok(entries);
    }
    Err(format!(
        "consensus asked for {count} entries where {} came in",
        entries.len()
    ))
}

/// What a write's entries take of a node's memory.
pub(crate) fn memory_of_all(entries: &[NewEntry<'_>]) -> u64 {
    let each = entries.iter().map(|entry| memory_of(entry.payload.len()));
    each.sum()
}

/// Tells consensus how large the entries are that the log had when it was opened.
pub(crate) fn weigh_log(raft: &mut Raft, reader: &LogReader) {
    let mut prev = reader.before().index;
    for (last, bytes) in reader.sizes() {
        let beside = last.since(prev).saturating_mul(memory_of(0));
        raft.weigh(prev, last, bytes.saturating_add(beside));
        prev = last;
    }
}

/// Holds the log's number of a write against the one that consensus gave it: durability goes by it.
///
/// # Errors
/// If they differ.
pub(crate) fn same_write(core: WriteSeq, staged: Staged) -> Result<(), String> {
    let log = staged.seq();
    if log == core {
        return Ok(());
    }
    Err(format!(
        "write {core} of consensus became write {log} of the log"
    ))
}

/// What a leader's own proposals are answered with, by their entries' ids, until the entries are committed.
pub(crate) struct Proposals<S> {
    slots: VecDeque<(LogId, S)>,
}

impl<S> Proposals<S> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: VecDeque::new(),
        }
    }

    /// Remembers the slots of the log's newest entries, of which this is the last.
    pub(crate) fn keep(&mut self, last: LogId, slots: Vec<S>) {
        let before = last.index.0 - slots.len() as u64;
        let ids = (before + 1..).map(|index| LogId::new(last.term, LogIndex(index)));
        self.slots.extend(ids.zip(slots));
    }

    /// The slots of entries up to `upto`, which are committed now.
    pub(crate) fn committed(&mut self, upto: LogIndex) -> impl Iterator<Item = (LogId, S)> {
        let count = self.slots.partition_point(|(id, _)| id.index <= upto);
        self.slots.drain(..count)
    }

    /// All of them: who no longer leads cannot know what becomes of its entries, since another leader may
    /// keep them or not.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = S> {
        self.slots.drain(..).map(|(_, slot)| slot)
    }
}

/// What proposals are answered with once their entries are applied, in the order of the entries.
pub(crate) struct Replies<S> {
    slots: VecDeque<(LogId, S)>,
}

impl<S> Replies<S> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: VecDeque::new(),
        }
    }

    pub(crate) fn extend(&mut self, slots: impl IntoIterator<Item = (LogId, S)>) {
        self.slots.extend(slots);
    }

    /// Takes over what `other` holds.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.slots.append(&mut other.slots);
    }

    /// The slot of this entry. One whose place another entry took is dropped, and so ends unknown.
    pub(crate) fn take(&mut self, entry: LogId) -> Option<S> {
        let mut taken = None;
        while self
            .slots
            .front()
            .is_some_and(|(id, _)| id.index <= entry.index)
        {
            taken = self.slots.pop_front();
        }
        taken.filter(|(id, _)| *id == entry).map(|(_, slot)| slot)
    }
}

/// Reads that wait to be told what they must see.
pub(crate) struct Reads<J> {
    waiting: VecDeque<(ReadId, J)>,
    last: ReadId,
}

impl<J> Reads<J> {
    pub(crate) const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            last: ReadId(0),
        }
    }

    /// Adds a read, and gives it its name.
    pub(crate) fn ask(&mut self, job: J) -> ReadId {
        self.last = ReadId(self.last.0 + 1);
        self.waiting.push_back((self.last, job));
        self.last
    }

    /// Those up to `upto`, which know now what they must see.
    pub(crate) fn ready(&mut self, upto: ReadId) -> impl Iterator<Item = J> {
        let ready = self.waiting.partition_point(|(read, _)| *read <= upto);
        self.waiting.drain(..ready).map(|(_, job)| job)
    }

    /// All of them, which will not know.
    pub(crate) fn fail(&mut self) -> impl Iterator<Item = J> {
        self.waiting.drain(..).map(|(_, job)| job)
    }
}

/// The next committed entries to apply, at least one, at most `max_entries` and about `max_bytes`.
///
/// # Errors
/// If they cannot be read, or the log ends before what is committed.
pub(crate) fn next_batch(
    reader: &LogReader,
    applied: LogIndex,
    committed: LogIndex,
    (max_entries, max_bytes): (usize, usize),
) -> Result<Vec<Entry>, String> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for entry in reader.range(applied.next().0..=committed.0) {
        let entry = entry.map_err(|error| format!("cannot read a committed entry: {error}"))?;
        bytes += entry.payload.len();
        batch.push(entry);
        if batch.len() == max_entries || bytes >= max_bytes {
            break;
        }
    }
    if batch.is_empty() {
        return Err("the log ends before what is committed".to_owned());
    }
    Ok(batch)
}

/// The entries of `range` from its start on, to be sent: at least one, and no more after `max_bytes`. None
/// if the log no longer holds the last of the range, or cannot be read.
pub(crate) fn read_to_send(
    reader: &LogReader,
    range: EntryRange,
    max_bytes: usize,
) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    for entry in reader.range(range.prev.index.next().0..=range.last.index.0) {
        let entry = entry.ok()?;
        bytes += entry.payload.len();
        entries.push(entry);
        if bytes >= max_bytes {
            break;
        }
    }
    // Looked at after the entries: a suffix is cut from the end, so while `last` stands, all that was read
    // before it stood too.
    (!entries.is_empty() && reader.holds(range.last)).then_some(entries)
}

/// Gives `emit` a message with its entries, which `read` gives from a range's start on: an append in as
/// many parts as that takes, each standing behind the one before. If the log no longer holds the entries,
/// the rest is dropped, and the leader's consensus finds out.
pub(crate) fn in_parts(
    message: Message,
    mut read: impl FnMut(EntryRange) -> Option<Vec<Entry>>,
    mut emit: impl FnMut(Message, Vec<Entry>),
) {
    let Message { term, body } = message;
    let (mut range, commit, round) = match body {
        Body::Append {
            range,
            commit,
            round,
            ..
        } if !range.is_empty() => (range, commit, round),
        body => return emit(Message { term, body }, Vec::new()),
    };
    while !range.is_empty() {
        let Some(entries) = read(range) else {
            return;
        };
        let Some(last) = entries.last().map(|entry| entry.id) else {
            return;
        };
        let part = EntryRange {
            prev: range.prev,
            last,
        };
        let body = Body::Append {
            range: part,
            runs: runs_of(&entries),
            commit,
            round,
        };
        emit(Message { term, body }, entries);
        range.prev = last;
    }
}

/// The runs of terms in consecutive entries.
pub(crate) fn runs_of(entries: &[Entry]) -> Vec<TermRun> {
    let chunks = entries.chunk_by(|a, b| a.id.term == b.id.term);
    chunks
        .map(|chunk| TermRun {
            term: chunk[0].id.term,
            first: chunk[0].id.index,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::event::NewEntries;
    use crate::types::{HardState, Term};

    #[test]
    fn the_bytes_of_a_proposal_and_of_a_message_come_into_the_log_as_they_are() {
        let payload = Bytes::from(vec![7; 100]);
        let id = |index| LogId::new(Term(1), LogIndex(index));
        let persist = |source| Persist {
            seq: WriteSeq(1),
            hard_state: HardState::default(),
            truncate_from: None,
            entries: Some(NewEntries {
                range: EntryRange {
                    prev: id(1),
                    last: id(2),
                },
                source,
            }),
        };
        let message = [Entry {
            id: id(2),
            kind: EntryKind::Normal,
            payload: payload.clone(),
        }];
        let payloads = [payload];
        let carried = [
            (Source::Proposals, Carried::Proposals(&payloads)),
            (Source::Message, Carried::Message(&message, &[])),
        ];
        for (source, carried) in carried {
            let new = new_entries(&persist(source), &carried, &[]).unwrap();
            let Payload::Shared(bytes) = new[0].payload else {
                panic!("it is to be copied");
            };
            assert!(std::ptr::eq(bytes.as_ptr(), payloads[0].as_ptr()));
        }
    }
}
