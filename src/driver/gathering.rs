//! Proposals on their way to consensus: those that come while the log is at a write wait, and become one write.

use std::collections::VecDeque;

use crate::config::memory_of;
use crate::types::Bytes;

/// Proposals that wait for the write before them no longer wait when they are so many bytes: a larger write costs no
/// less for each of them.
const WORTH_A_WRITE: u64 = 64 << 10;

/// A proposal, and what it is answered with.
pub(crate) struct Proposed<S> {
    pub(crate) payload: Bytes,
    pub(crate) slot: S,
}

impl<S> Proposed<S> {
    /// What it takes of the node's memory.
    fn bytes(&self) -> u64 {
        memory_of(self.payload.len())
    }
}

/// Those that no step has taken yet, in the order in which they came.
pub(crate) struct Gathering<S> {
    proposed: VecDeque<Proposed<S>>,
    bytes: u64,
    /// The log is at the write before.
    holds: bool,
}

impl<S> Gathering<S> {
    pub(crate) const fn new() -> Self {
        Self {
            proposed: VecDeque::new(),
            bytes: 0,
            holds: false,
        }
    }

    pub(crate) fn push(&mut self, proposed: Proposed<S>) {
        self.bytes += proposed.bytes();
        self.proposed.push_back(proposed);
    }

    /// Whether they wait from now on, which is what [`Raft::gathers`](crate::raft::Raft::gathers) says after each
    /// step.
    pub(crate) const fn hold(&mut self, gathers: bool) {
        self.holds = gathers;
    }

    /// Whether they wait.
    pub(crate) const fn is_held(&self) -> bool {
        self.holds
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.proposed.len()
    }

    /// Whether they are so many bytes that more would not make their write cheaper.
    pub(crate) const fn is_worth_a_write(&self) -> bool {
        self.bytes >= WORTH_A_WRITE
    }

    /// Whether there are any that need not wait.
    pub(crate) fn is_due(&self) -> bool {
        !self.proposed.is_empty() && (!self.holds || self.is_worth_a_write())
    }

    /// How many wait.
    #[cfg(feature = "sim")]
    pub(crate) fn waiting(&self) -> u64 {
        if self.is_due() {
            return 0;
        }
        self.proposed.len() as u64
    }

    /// Takes about so many bytes, at least one proposal, of what is due.
    pub(crate) fn take(&mut self, most: u64, taken: &mut Vec<Proposed<S>>) {
        if !self.is_due() {
            return;
        }
        if self.bytes <= most {
            return taken.extend(self.drain());
        }
        let mut bytes = 0;
        while let Some(next) = self.proposed.front() {
            let after = bytes + next.bytes();
            if after > most && bytes > 0 {
                break;
            }
            bytes = after;
            taken.extend(self.proposed.pop_front());
        }
        self.bytes -= bytes;
    }

    /// All of them, due or not.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Proposed<S>> {
        self.bytes = 0;
        self.proposed.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 1 << 20;

    fn push(gathering: &mut Gathering<u64>, numbers: std::ops::Range<u64>) {
        for slot in numbers {
            let payload = Bytes::default();
            gathering.push(Proposed { payload, slot });
        }
    }

    fn taken(gathering: &mut Gathering<u64>, most: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        gathering.take(most, &mut taken);
        taken.into_iter().map(|proposed| proposed.slot).collect()
    }

    #[test]
    fn proposals_wait_for_the_write_before_until_they_are_worth_one() {
        let mut gathering = Gathering::new();
        let many = WORTH_A_WRITE / memory_of(0);
        gathering.hold(true);
        push(&mut gathering, 0..many - 1);
        assert!(!gathering.is_due());
        assert_eq!(taken(&mut gathering, MOST), []);
        push(&mut gathering, many - 1..many);
        assert!(gathering.is_due());
        assert_eq!(taken(&mut gathering, 10 * memory_of(0)).len(), 10);
        assert!(!gathering.is_due(), "the rest is not worth a write");
        gathering.hold(false);
        let rest: Vec<_> = (10..many).collect();
        assert_eq!(taken(&mut gathering, MOST), rest);
        assert!(!gathering.is_due());
    }

    #[test]
    fn as_much_is_taken_at_once_as_a_step_has_room_for_and_one_at_least() {
        let mut gathering = Gathering::new();
        push(&mut gathering, 0..5);
        assert_eq!(taken(&mut gathering, 2 * memory_of(0) + 1), [0, 1]);
        assert_eq!(taken(&mut gathering, 1), [2]);
        assert_eq!(taken(&mut gathering, 2 * memory_of(0)), [3, 4]);
        assert_eq!(taken(&mut gathering, 1), []);
    }

    #[test]
    fn what_is_drained_counts_no_more() {
        let mut gathering = Gathering::new();
        gathering.hold(true);
        push(&mut gathering, 0..WORTH_A_WRITE / memory_of(0));
        assert!(gathering.is_due());
        gathering.drain().for_each(drop);
        push(&mut gathering, 0..1);
        assert!(!gathering.is_due());
    }
}
