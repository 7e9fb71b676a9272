//! How many bytes the entries take, as far as the caller has told.
//!
//! Consensus sees no bytes, but it must know how many are on their way to a follower. So it keeps running totals at
//! some entries, one for each write, and takes those between for equally large. When they get many, every second
//! one is forgotten: the older an entry is, the less exactly its size is known, and the totals never take more
//! memory than this.

use std::collections::VecDeque;

use crate::types::LogIndex;

/// Totals that are kept at the most.
const MAX_MARKS: usize = 4_096;

/// The total of all entries up to this one.
#[derive(Clone, Copy, Debug)]
struct Mark {
    index: LogIndex,
    total: u64,
}

/// Entries before the first mark and behind the last take nothing.
#[derive(Clone, Debug)]
pub(super) struct Sizes {
    /// Ascending; at least one.
    marks: VecDeque<Mark>,
}

impl Sizes {
    /// Of entries behind this place.
    pub(super) fn new(before: LogIndex) -> Self {
        let index = before;
        Self {
            marks: VecDeque::from([Mark { index, total: 0 }]),
        }
    }

    /// The entries in `(prev, last]` take so many bytes. Entries of which something is known already are passed
    /// over.
    pub(super) fn add(&mut self, prev: LogIndex, last: LogIndex, bytes: u64) {
        let total = self.total(last);
        let known = self.marks.back().map_or(last, |mark| mark.index);
        if prev < known || last <= prev {
            return;
        }
        if prev > known {
            self.marks.push_back(Mark { index: prev, total });
        }
        let total = total.saturating_add(bytes);
        self.marks.push_back(Mark { index: last, total });
        if self.marks.len() > MAX_MARKS {
            let mut number = 0;
            self.marks.retain(|mark| {
                number += 1;
                number % 2 == 1 || mark.index == last
            });
        }
    }

    /// The entries behind `keep` are no more.
    pub(super) fn truncate(&mut self, keep: LogIndex) {
        let total = self.total(keep);
        let kept = self.marks.partition_point(|mark| mark.index <= keep);
        if kept == self.marks.len() {
            return;
        }
        self.marks.truncate(kept);
        if self.marks.back().is_none_or(|mark| mark.index < keep) {
            self.marks.push_back(Mark { index: keep, total });
        }
    }

    /// The entries up to `upto` are no more.
    pub(super) fn compact(&mut self, upto: LogIndex) {
        let total = self.total(upto);
        let gone = self.marks.partition_point(|mark| mark.index <= upto);
        self.marks.drain(..gone);
        self.marks.push_front(Mark { index: upto, total });
    }

    /// What the entries in `(prev, last]` take.
    pub(super) fn between(&self, prev: LogIndex, last: LogIndex) -> u64 {
        self.total(last).saturating_sub(self.total(prev))
    }

    /// The last entry up to `last` with which those behind `prev` take at most `bytes`; `prev` if there is none.
    pub(super) fn fitting(&self, prev: LogIndex, last: LogIndex, bytes: u64) -> LogIndex {
        let most = self.total(prev).saturating_add(bytes);
        let at = self.marks.partition_point(|mark| mark.total <= most);
        let Some(above) = self.marks.get(at) else {
            return last;
        };
        let Some(below) = at.checked_sub(1).and_then(|at| self.marks.get(at)) else {
            return prev;
        };
        let (entries, all) = (above.index.since(below.index), above.total - below.total);
        let within = share(most - below.total, entries, all);
        below.index.plus(within).clamp(prev, last)
    }

    /// The total of all entries up to this one.
    fn total(&self, index: LogIndex) -> u64 {
        let at = self.marks.partition_point(|mark| mark.index <= index);
        let below = at.checked_sub(1).and_then(|at| self.marks.get(at));
        match (below, self.marks.get(at)) {
            (Some(below), Some(above)) => {
                let entries = above.index.since(below.index);
                let bytes = above.total - below.total;
                below.total + share(index.since(below.index), bytes, entries)
            }
            (Some(mark), None) | (None, Some(mark)) => mark.total,
            (None, None) => 0,
        }
    }
}

/// `part` of `whole`, of `of`; `part` is at most `whole`, and `whole` not 0.
fn share(part: u64, of: u64, whole: u64) -> u64 {
    let share = u128::from(part) * u128::from(of) / u128::from(whole);
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> LogIndex {
        LogIndex(index)
    }

    /// Behind entry 10: five of 100 bytes, one of 1,000, four of 10.
    fn sizes() -> Sizes {
        let mut sizes = Sizes::new(at(10));
        sizes.add(at(10), at(15), 500);
        sizes.add(at(15), at(16), 1_000);
        sizes.add(at(16), at(20), 40);
        sizes
    }

    #[test]
    fn sizes_add_up_over_writes_and_within_them() {
        let sizes = sizes();
        let expected = [(10, 20, 1_540), (10, 12, 200), (14, 17, 1_110), (17, 17, 0)];
        for (prev, last, bytes) in expected {
            assert_eq!(sizes.between(at(prev), at(last)), bytes, "({prev}, {last}]");
        }
        assert_eq!(sizes.between(at(0), at(11)), 100, "what is gone");
        assert_eq!(sizes.between(at(19), at(99)), 10, "what is unknown");
    }

    #[test]
    fn what_fits_ends_with_the_last_entry_that_is_within() {
        let sizes = sizes();
        let fits = |prev, last, bytes| sizes.fitting(at(prev), at(last), bytes).0;
        assert_eq!(fits(10, 20, 99), 10);
        assert_eq!(fits(10, 20, 100), 11);
        assert_eq!(fits(10, 20, 1_499), 15);
        assert_eq!(fits(10, 20, 1_500), 16);
        assert_eq!(fits(15, 20, 999), 15, "a large one");
        assert_eq!(fits(16, 20, 25), 18);
        assert_eq!(fits(16, 17, 1_000), 17, "no more than were asked for");
        assert_eq!(fits(18, 30, 20), 30, "those behind are unknown");
    }

    #[test]
    fn a_truncation_takes_the_sizes_of_what_it_cuts() {
        let mut sizes = sizes();
        sizes.truncate(at(13));
        assert_eq!(sizes.between(at(10), at(20)), 300);
        sizes.add(at(13), at(14), 7);
        assert_eq!(sizes.between(at(12), at(14)), 107);
        sizes.truncate(at(14));
        assert_eq!(sizes.between(at(10), at(14)), 307, "nothing was cut");
    }

    #[test]
    fn a_compaction_leaves_the_sizes_of_what_it_keeps() {
        for upto in 10..=25 {
            let mut compacted = sizes();
            compacted.compact(at(upto));
            for prev in upto..=25 {
                let (of_all, of_rest) = (sizes(), &compacted);
                let expected = of_all.between(at(prev), at(25));
                assert_eq!(of_rest.between(at(prev), at(25)), expected, "from {prev}");
            }
        }
    }

    #[test]
    fn an_entry_of_unknown_size_counts_nothing_and_one_is_counted_once() {
        let mut sizes = sizes();
        sizes.add(at(25), at(26), 50);
        assert_eq!(sizes.between(at(20), at(25)), 0);
        sizes.add(at(10), at(26), 1_000_000);
        sizes.add(at(26), at(26), 1_000_000);
        assert_eq!(sizes.between(at(10), at(26)), 1_590);
    }

    #[test]
    fn many_writes_take_no_more_memory_and_their_sum_stays_exact() {
        let mut sizes = Sizes::new(at(0));
        for index in 0..100_000 {
            sizes.add(at(index), at(index + 1), 1 + index % 7);
            assert!(sizes.marks.len() <= MAX_MARKS);
        }
        let all: u64 = (0..100_000).map(|index| 1 + index % 7).sum();
        assert_eq!(sizes.between(at(0), at(100_000)), all);
        let last: u64 = (99_000..100_000).map(|index| 1 + index % 7).sum();
        assert_eq!(sizes.between(at(99_000), at(100_000)), last);
    }
}
