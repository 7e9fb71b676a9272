//! What a counter in the cluster may read, going by what its one writer was told.

/// A counter that one writer alone increments, one increment at a time, and never twice the same.
///
/// An acknowledged increment answers with the counter as it is after it, so each answer tells of all increments
/// before. Let the last answer have been `certain`, and `perhaps` increments have ended since with their outcome
/// unknown. The next answer is then at least `certain + 1`, or an acknowledged increment was lost; and it is at
/// most `perhaps` more, or one was applied twice, or though it was refused. Once that answer is there, what was
/// unknown before is settled: an increment of an earlier leader that is not in the log before this one never is
/// (Raft paper, section 5.4). So however long it goes on, two numbers remember all of it, and the bounds stay
/// as narrow as they were.
///
/// Who increments must give up a request only with its connection to a process that ended; one that might still
/// read it could apply it later.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counter {
    certain: u64,
    perhaps: u64,
    /// Acknowledged increments that are gone, as far as answers tell.
    pub(crate) lost: u64,
    /// Increments that nobody made.
    pub(crate) doubled: u64,
}

impl Counter {
    /// An increment was answered with this number.
    pub(crate) fn acknowledged(&mut self, answer: u64) {
        self.compare(answer, self.certain + 1);
        self.certain = answer;
        self.perhaps = 0;
    }

    /// An increment ended, and nobody knows how.
    pub(crate) const fn unknown(&mut self) {
        self.perhaps += 1;
    }

    /// The counter reads so once all is over.
    pub(crate) fn ended(&mut self, found: u64) {
        self.compare(found, self.certain);
    }

    fn compare(&mut self, found: u64, least: u64) {
        self.lost += least.saturating_sub(found);
        self.doubled += found.saturating_sub(least + self.perhaps);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs what a writer is told, and gives what it finds lost and doubled.
    fn told(run: impl Fn(&mut Counter)) -> (u64, u64) {
        let mut counter = Counter::default();
        run(&mut counter);
        (counter.lost, counter.doubled)
    }

    #[test]
    fn a_lost_acknowledged_write_is_seen_at_the_next_answer_and_at_the_end() {
        let seen = told(|counter| {
            (1..=5).for_each(|answer| counter.acknowledged(answer));
            counter.acknowledged(5);
        });
        assert_eq!(seen, (1, 0));
        let seen = told(|counter| {
            (1..=5).for_each(|answer| counter.acknowledged(answer));
            counter.ended(3);
        });
        assert_eq!(seen, (2, 0));
    }

    #[test]
    fn a_doubled_write_is_seen_at_the_next_answer_and_at_the_end() {
        let seen = told(|counter| {
            counter.acknowledged(1);
            counter.acknowledged(3);
        });
        assert_eq!(seen, (0, 1));
        let seen = told(|counter| {
            counter.acknowledged(1);
            counter.ended(2);
        });
        assert_eq!(seen, (0, 1));
    }

    #[test]
    fn an_unknown_write_may_be_there_once_or_not_and_is_settled_by_the_next_answer() {
        for answer in [2, 3] {
            let seen = told(|counter| {
                counter.acknowledged(1);
                counter.unknown();
                counter.acknowledged(answer);
                counter.acknowledged(answer + 1);
                counter.ended(answer + 1);
            });
            assert_eq!(seen, (0, 0), "{answer}");
        }
        let late = told(|counter| {
            counter.unknown();
            counter.acknowledged(1);
            counter.acknowledged(3);
        });
        assert_eq!(late, (0, 1));
        for (found, seen) in [(0, (1, 0)), (1, (0, 0)), (2, (0, 0)), (3, (0, 1))] {
            let told = told(|counter| {
                counter.acknowledged(1);
                counter.unknown();
                counter.ended(found);
            });
            assert_eq!(told, seen, "{found}");
        }
    }
}
