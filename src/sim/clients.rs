//! The clients: what they asked, how it ended, and whether that can be.
//!
//! A proposal is known by a number in front of its bytes, so that it is found again in the log whatever the
//! nodes believe of it. Reads are linearizable exactly if each sees at least what was acknowledged before it
//! began, and no less than any read that had ended by then: entries are applied one after another, so what
//! a read sees is one index.

use std::cell::RefCell;
use std::rc::Rc;

use super::violation::{Property, Violated};
use crate::driver::Proposed;
use crate::types::{Bytes, LogIndex, NodeId};

/// Bytes of the number in front of a proposal.
pub(super) const NUMBER_BYTES: usize = 8;

/// What a node tells a client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    /// The proposal was applied with this entry.
    Applied(u64, LogIndex),
    /// The proposal was not taken. Who leads, if the node knows.
    Refused(u64, Option<NodeId>),
    /// Nobody knows what becomes of the proposal.
    Unknown(u64),
    /// The read ran when entries up to here were applied.
    Saw(u64, LogIndex),
    /// The read did not run.
    Unread(u64),
}

/// What nodes told clients and the clients have not heard yet.
#[derive(Clone, Default)]
pub(super) struct Words(Rc<RefCell<Vec<Word>>>);

impl Words {
    fn say(&self, word: Word) {
        self.0.borrow_mut().push(word);
    }

    pub(super) fn take(&self) -> Vec<Word> {
        self.0.take()
    }
}

/// Answers one proposal. Dropped without an answer, it leaves the outcome unknown, as in life.
pub(super) struct Slot {
    number: u64,
    words: Words,
    answered: bool,
}

impl Slot {
    pub(super) fn applied(self, index: LogIndex) {
        let number = self.number;
        self.answer(Word::Applied(number, index));
    }

    pub(super) fn refused(self, leader: Option<NodeId>) {
        let number = self.number;
        self.answer(Word::Refused(number, leader));
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    fn answer(mut self, word: Word) {
        self.answered = true;
        self.words.say(word);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.answered {
            self.words.say(Word::Unknown(self.number));
        }
    }
}

/// A read on its way. Dropped without an answer, it was not answered, as in life.
pub(super) struct Read {
    number: u64,
    words: Words,
    answered: bool,
}

impl Read {
    pub(super) fn saw(mut self, applied: LogIndex) {
        self.answered = true;
        self.words.say(Word::Saw(self.number, applied));
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        if !self.answered {
            self.words.say(Word::Unread(self.number));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Applied,
    Refused,
    Unknown,
}

#[derive(Default)]
struct Proposal {
    payload: Bytes,
    ended: Option<Ended>,
    /// Where it stands in what nodes applied.
    found: Option<LogIndex>,
}

/// How many proposals and reads came to what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Tally {
    /// Proposals that were acknowledged.
    pub acknowledged: u64,
    /// Proposals that were refused, and so never applied.
    pub refused: u64,
    /// Proposals of which the client never knew.
    pub unknown: u64,
    /// Of those, how many were applied after all.
    pub unknown_applied: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Reads that were not.
    pub unread: u64,
}

/// All that clients asked.
#[derive(Default)]
pub(super) struct Clients {
    words: Words,
    proposals: Vec<Proposal>,
    /// What each read must see at least.
    reads: Vec<LogIndex>,
    /// Proposals and reads that have not ended.
    open: u64,
    /// The last entry that a client knows to be applied.
    known: LogIndex,
    tally: Tally,
}

impl Clients {
    /// A new proposal: its bytes with its number in front, and what is to answer it.
    pub(super) fn propose(&mut self, payload: Vec<u8>) -> Proposed<Slot> {
        let number = self.proposals.len() as u64;
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.extend_from_slice(&payload);
        self.proposals.push(Proposal {
            payload: payload.into(),
            ..Proposal::default()
        });
        self.open += 1;
        let slot = Slot {
            number,
            words: self.words.clone(),
            answered: false,
        };
        let payload = bytes.into();
        Proposed { payload, slot }
    }

    pub(super) fn read(&mut self) -> Read {
        let number = self.reads.len() as u64;
        self.reads.push(self.known);
        self.open += 1;
        Read {
            number,
            words: self.words.clone(),
            answered: false,
        }
    }

    pub(super) const fn open(&self) -> u64 {
        self.open
    }

    /// What clients hear now.
    pub(super) fn words(&self) -> Vec<Word> {
        self.words.take()
    }

    pub(super) fn payload(&self, number: u64) -> Bytes {
        let proposal = usize::try_from(number)
            .ok()
            .and_then(|at| self.proposals.get(at));
        proposal
            .map(|proposal| proposal.payload.clone())
            .unwrap_or_default()
    }

    fn proposal(&mut self, number: u64) -> Result<&mut Proposal, Violated> {
        let proposal = usize::try_from(number)
            .ok()
            .and_then(|at| self.proposals.get_mut(at));
        proposal.ok_or_else(|| {
            Property::Outcome.violated(format!("proposal {number} was never made, and is there"))
        })
    }

    /// A node applied this proposal as the entry at `index`.
    pub(super) fn found(
        &mut self,
        number: u64,
        payload: &[u8],
        index: LogIndex,
    ) -> Result<(), Violated> {
        let proposal = self.proposal(number)?;
        let broken = |what: String| Err(Property::Outcome.violated(what));
        if proposal.ended == Some(Ended::Refused) {
            return broken(format!(
                "proposal {number} was refused, and is applied at {index} all the same"
            ));
        }
        match proposal.found {
            Some(before) if before != index => broken(format!(
                "proposal {number} is applied twice: at {before} and at {index}"
            )),
            Some(_) => Ok(()),
            None if *proposal.payload != *payload => broken(format!(
                "proposal {number} is applied at {index} with other bytes than were proposed"
            )),
            None => {
                proposal.found = Some(index);
                Ok(())
            }
        }
    }

    /// A client hears this.
    pub(super) fn hear(&mut self, word: Word) -> Result<(), Violated> {
        self.open = self.open.saturating_sub(1);
        match word {
            Word::Applied(number, index) => self.acknowledged(number, index),
            Word::Refused(number, _) => self.ended(number, Ended::Refused),
            Word::Unknown(number) => self.ended(number, Ended::Unknown),
            Word::Saw(number, index) => self.saw(number, index),
            Word::Unread(_) => {
                self.tally.unread += 1;
                Ok(())
            }
        }
    }

    fn ended(&mut self, number: u64, how: Ended) -> Result<(), Violated> {
        let proposal = self.proposal(number)?;
        let found = proposal.found;
        if let Some(before) = proposal.ended.replace(how) {
            return Err(Property::Outcome
                .violated(format!("proposal {number} ends twice: {before:?}, {how:?}")));
        }
        if let (Ended::Refused, Some(index)) = (how, found) {
            return Err(Property::Outcome.violated(format!(
                "proposal {number} is refused, and was applied at {index}"
            )));
        }
        match how {
            Ended::Applied => self.tally.acknowledged += 1,
            Ended::Refused => self.tally.refused += 1,
            Ended::Unknown => self.tally.unknown += 1,
        }
        Ok(())
    }

    fn acknowledged(&mut self, number: u64, index: LogIndex) -> Result<(), Violated> {
        self.ended(number, Ended::Applied)?;
        self.known = self.known.max(index);
        let found = self.proposal(number)?.found;
        if found == Some(index) {
            return Ok(());
        }
        let found = found.map_or_else(|| "nowhere".to_owned(), |found| format!("at {found}"));
        Err(Property::Outcome.violated(format!(
            "proposal {number} is acknowledged at {index}, and was applied {found}"
        )))
    }

    fn saw(&mut self, number: u64, index: LogIndex) -> Result<(), Violated> {
        self.tally.reads += 1;
        self.known = self.known.max(index);
        let least = usize::try_from(number)
            .ok()
            .and_then(|at| self.reads.get(at));
        match least {
            Some(least) if index >= *least => Ok(()),
            _ => Err(Property::Linearizability.violated(format!(
                "read {number} saw entries up to {index}, though up to {} were known when it began",
                least.copied().unwrap_or_default()
            ))),
        }
    }

    /// The end: everybody was answered, and what was acknowledged is there. `last` is the last entry that
    /// all nodes have applied.
    pub(super) fn finish(&mut self, last: LogIndex) -> Result<Tally, Violated> {
        for (number, proposal) in self.proposals.iter().enumerate() {
            match (proposal.ended, proposal.found) {
                (None, _) => {
                    return Err(Property::Outcome
                        .violated(format!("proposal {number} never came to an end")));
                }
                (Some(Ended::Applied), found) if found.is_none_or(|found| found > last) => {
                    return Err(Property::Outcome
                        .violated(format!("proposal {number} was acknowledged, and is gone")));
                }
                (Some(Ended::Unknown), Some(_)) => self.tally.unknown_applied += 1,
                _ => {}
            }
        }
        Ok(self.tally)
    }

    pub(super) const fn tally(&self) -> Tally {
        self.tally
    }
}
