//! Proposals that wait for a turn, and for those that are expected beside them.
//!
//! While the leader's log is at a write, what comes gathers. When that write is durable, those who proposed it are soon
//! answered, and many propose again: a write that began at once would leave them behind, and from then on two halves
//! would take turns, each at the price of a whole. So it waits for as many as there were before, as the log's own syncs
//! do ([`Pace`]), and no longer than they. Where they need more to come back, since their quorum is far away, they are
//! soon not waited for. Who is alone never waits.

use std::time::Instant;

use super::Proposed;
use crate::driver::Gathering;
use crate::runtime::outcome::Slot;
use crate::sync::now;
use crate::wal::Pace;

pub(super) struct Proposing<R> {
    gathering: Gathering<Slot<R>>,
    pace: Pace,
    /// How many had not been answered when some were taken last.
    callers: usize,
}

impl<R> Proposing<R> {
    pub(super) fn new() -> Self {
        Self {
            gathering: Gathering::new(),
            pace: Pace::default(),
            callers: 0,
        }
    }

    pub(super) fn push(&mut self, proposed: Proposed<R>) {
        self.gathering.push(proposed);
    }

    /// Whether they wait from now on, since a write is under way. `unanswered`: how many have been proposed, here and
    /// taken. Not all who are aboard of the write need be among them when it ends: the others may have made it durable
    /// before.
    pub(super) fn hold(&mut self, gathers: bool, unanswered: usize) {
        let is_over = self.gathering.is_held() && !gathers;
        self.gathering.hold(gathers);
        if is_over {
            self.pace.finish(self.callers.max(unanswered));
        }
    }

    /// Whether there are any that need not wait.
    pub(super) fn is_due(&self) -> bool {
        let is_awaited = || self.pace.patience(self.gathering.len()).is_some();
        self.gathering.is_due() && (self.gathering.is_worth_a_write() || !is_awaited())
    }

    /// Until when those that are here and not due, or come next, wait for others. None: not at all, or for a write.
    pub(super) fn wait_until(&self) -> Option<Instant> {
        let until = self
            .pace
            .waits_until()
            .filter(|_| !self.gathering.is_held())?;
        // It may have come since they were found not to be due: they are to be looked after all the same.
        let is_to_come = || until > now();
        (self.gathering.len() > 0 || is_to_come()).then_some(until)
    }

    /// Takes about so many bytes, at least one proposal, of what is due. `unanswered` as for [`Self::hold`].
    pub(super) fn take(&mut self, unanswered: usize, most: u64, taken: &mut Vec<Proposed<R>>) {
        if !self.is_due() {
            return;
        }
        if self.gathering.is_worth_a_write() {
            self.pace.begin_at_once();
        } else {
            self.pace.begin(self.gathering.len());
        }
        self.callers = unanswered;
        self.gathering.take(most, taken);
    }

    /// All of them, due or not.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Proposed<R>> {
        self.gathering.drain()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::runtime::outcome::{Budget, Holder, promise};

    const MOST: u64 = 1 << 20;
    const HOUR: Duration = Duration::from_secs(3_600);

    impl<R> Proposing<R> {
        /// Waits for so many, for an hour.
        pub(in super::super) fn expect(&mut self, callers: usize) {
            self.pace = Pace::of(callers, HOUR);
        }
    }

    fn push(proposing: &mut Proposing<()>, count: usize, bytes: usize) {
        for _ in 0..count {
            let permit = Arc::new(Budget::new(1)).take(1, Holder::Proposal).unwrap();
            proposing.push(Proposed {
                payload: vec![0; bytes].into(),
                slot: promise(permit).0,
            });
        }
    }

    fn take(proposing: &mut Proposing<()>, unanswered: usize) -> usize {
        let mut taken = Vec::new();
        proposing.take(unanswered, MOST, &mut taken);
        taken.len()
    }

    /// A write is durable of which so many were not answered when it began, and so many when it ends.
    fn durable(proposing: &mut Proposing<()>, began: usize, ends: usize) {
        proposing.hold(false, began);
        push(proposing, 1, 0);
        assert_eq!(take(proposing, began), 1);
        proposing.hold(true, began);
        proposing.hold(false, ends);
    }

    #[test]
    fn proposals_wait_for_as_many_as_there_were_before() {
        let mut proposing = Proposing::new();
        proposing.expect(3);
        assert!(proposing.wait_until().is_some(), "whoever comes first");
        push(&mut proposing, 2, 0);
        assert!(!proposing.is_due());
        assert_eq!(take(&mut proposing, 3), 0);
        push(&mut proposing, 1, 0);
        assert_eq!(take(&mut proposing, 3), 3);
    }

    #[test]
    fn when_the_time_is_over_they_are_due_and_looked_after_though_it_is_past() {
        let mut proposing = Proposing::new();
        proposing.pace = Pace::of(3, Duration::ZERO);
        assert_eq!(proposing.wait_until(), None, "nobody has come");
        push(&mut proposing, 1, 0);
        assert!(proposing.wait_until().is_some());
        assert_eq!(take(&mut proposing, 3), 1);
    }

    #[test]
    fn while_a_write_is_under_way_they_wait_for_that_alone() {
        let mut proposing = Proposing::new();
        proposing.expect(2);
        proposing.hold(true, 2);
        push(&mut proposing, 2, 0);
        assert!(!proposing.is_due());
        assert_eq!(proposing.wait_until(), None);
    }

    #[test]
    fn those_that_are_worth_a_write_of_their_own_wait_for_nobody_and_it_is_no_miss() {
        let mut proposing = Proposing::new();
        proposing.expect(3);
        push(&mut proposing, 1, 64 << 10);
        assert_eq!(take(&mut proposing, 3), 1);
        proposing.hold(true, 3);
        proposing.hold(false, 3);
        assert!(proposing.pace.is_full(3) && !proposing.pace.is_full(2));
    }

    #[test]
    fn whoever_is_not_answered_is_expected_once() {
        let expected = |began, ends| {
            let mut proposing = Proposing::new();
            durable(&mut proposing, began, ends);
            (0..10).find(|&aboard| proposing.pace.is_full(aboard))
        };
        assert_eq!(expected(1, 1), Some(0), "alone");
        assert_eq!(expected(4, 4), Some(4));
        assert_eq!(expected(4, 6), Some(6), "two came too late");
        assert_eq!(expected(4, 2), Some(4), "two were answered by then");
    }
}
