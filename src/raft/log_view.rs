//! What consensus knows of the log: the terms of its entries, and which of them are durable.

use std::collections::VecDeque;

use super::sizes::Sizes;
use crate::types::{EntryRange, LogId, LogIndex, Term, TermRun, WriteSeq};

/// The log without its bytes.
#[derive(Clone, Debug)]
pub(super) struct LogView {
    /// The entry before the first.
    before: LogId,
    last: LogId,
    /// Ascending; the first begins behind `before`, each ends where the next begins.
    runs: Vec<TermRun>,
    /// Every entry up to here is durable as it stands.
    durable: LogIndex,
    /// Writes under way, oldest first, and the last of the entries that each still holds. Their entries
    /// follow each other without a gap, beginning behind `durable`.
    staged: VecDeque<(WriteSeq, LogIndex)>,
    sizes: Sizes,
}

impl LogView {
    /// A log that is durable throughout.
    pub(super) fn new(before: LogId, last: LogId, runs: Vec<TermRun>) -> Self {
        let last = if last.index <= before.index {
            before
        } else {
            last
        };
        Self {
            before,
            last,
            runs,
            durable: last.index,
            staged: VecDeque::new(),
            sizes: Sizes::new(before.index),
        }
    }

    pub(super) const fn first(&self) -> LogIndex {
        self.before.index.next()
    }

    /// The entry before the first: the last that was dropped.
    pub(super) const fn before(&self) -> LogId {
        self.before
    }

    pub(super) const fn last(&self) -> LogId {
        self.last
    }

    pub(super) const fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(super) const fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// The entries in `(prev, last]`, which the log has, take so many bytes.
    pub(super) fn weigh(&mut self, prev: LogIndex, last: LogIndex, bytes: u64) {
        self.sizes.add(prev, last.min(self.last.index), bytes);
    }

    /// The term of the entry at `index`, or of the place before the first.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.before.index {
            return Some(self.before.term);
        }
        if index < self.before.index || index > self.last.index {
            return None;
        }
        let run = self
            .runs
            .partition_point(|run| run.first <= index)
            .checked_sub(1)?;
        Some(self.runs[run].term)
    }

    /// Whether the log holds exactly this entry, or begins behind it.
    pub(super) fn holds(&self, id: LogId) -> bool {
        self.term_at(id.index) == Some(id.term)
    }

    /// The last entry at or below `limit.index` whose term is at most `limit.term`: two logs, one of
    /// which has `limit` or ends there, cannot agree beyond it (Raft paper, section 5.3).
    pub(super) fn last_agreeing(&self, limit: LogId) -> LogId {
        let mut index = limit.index.min(self.last.index);
        loop {
            match self.term_at(index) {
                None => return self.before,
                Some(term) if term <= limit.term || index == self.before.index => {
                    return LogId::new(term, index);
                }
                // Skip what is left of this run: all of it has the same term.
                Some(_) => {
                    let run = self.runs.partition_point(|run| run.first <= index);
                    index = run
                        .checked_sub(1)
                        .map_or(index, |run| self.runs[run].first)
                        .prev();
                }
            }
        }
    }

    /// The first of these entries that the log has not, or has with another term. None if it has all.
    pub(super) fn first_missing(&self, runs: &[TermRun], last: LogIndex) -> Option<LogIndex> {
        for (number, run) in runs.iter().enumerate() {
            let end = runs.get(number + 1).map_or(last, |next| next.first.prev());
            let mut index = run.first;
            while index <= end {
                if self.term_at(index) != Some(run.term) {
                    return Some(index);
                }
                // As far as our own run goes, the terms are the same.
                let next = self.runs.partition_point(|own| own.first <= index);
                let own_end = self
                    .runs
                    .get(next)
                    .map_or(self.last.index, |own| own.first.prev());
                index = own_end.next();
            }
        }
        None
    }

    /// The runs of the entries in `range`.
    pub(super) fn runs_in(&self, range: EntryRange) -> Vec<TermRun> {
        if range.is_empty() {
            return Vec::new();
        }
        let first = range.prev.index.next();
        let from = self
            .runs
            .partition_point(|run| run.first <= first)
            .saturating_sub(1);
        let within = self.runs[from..]
            .iter()
            .take_while(|run| run.first <= range.last.index);
        within
            .map(|run| TermRun {
                term: run.term,
                first: run.first.max(first),
            })
            .collect()
    }

    /// Forgets the entries from `from` on. What writes under way held of them no longer counts.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        debug_assert!(
            from > self.before.index && from <= self.last.index,
            "nothing to truncate"
        );
        let keep = from.prev();
        let term = self.term_at(keep).unwrap_or(self.before.term);
        self.last = LogId::new(term, keep);
        self.runs.retain(|run| run.first <= keep);
        self.durable = self.durable.min(keep);
        self.sizes.truncate(keep);
        for (_, last) in &mut self.staged {
            *last = keep.min(*last);
        }
    }

    /// Forgets the entries up to `upto`, which a durable snapshot has in it.
    pub(super) fn compact(&mut self, upto: LogIndex) {
        let Some(term) = self.term_at(upto) else {
            debug_assert!(false, "nothing to compact");
            return;
        };
        self.before = LogId::new(term, upto);
        self.durable = self.durable.max(upto);
        self.sizes.compact(upto);
        let first = upto.next();
        let begun = self.runs.partition_point(|run| run.first <= first);
        self.runs.drain(..begun.saturating_sub(1));
        if upto == self.last.index {
            self.runs.clear();
        } else if let Some(run) = self.runs.first_mut() {
            run.first = first;
        }
    }

    /// Forgets every entry: the log goes on behind `last`, up to which a durable snapshot has everything.
    pub(super) fn reset(&mut self, last: LogId) {
        self.before = last;
        self.last = last;
        self.runs.clear();
        self.durable = last.index;
        self.sizes = Sizes::new(last.index);
        for (_, staged) in &mut self.staged {
            *staged = last.index.min(*staged);
        }
    }

    /// Adds entries behind the last, to be durable with write `seq`. Terms only go up, so of `runs` those
    /// are new that are later than the last; the others are of entries that the log has.
    pub(super) fn append(&mut self, runs: &[TermRun], last: LogId, seq: WriteSeq) {
        let known = self.runs.last().map(|own| own.term);
        let new = runs.iter().filter(|run| Some(run.term) > known);
        self.runs.extend(new);
        self.last = last;
        self.staged.push_back((seq, last.index));
    }

    /// Every write up to `seq` is durable.
    pub(super) fn persisted(&mut self, seq: WriteSeq) {
        while let Some(&(staged, last)) = self.staged.front() {
            if staged > seq {
                break;
            }
            self.durable = self.durable.max(last);
            self.staged.pop_front();
        }
    }

    /// Counts writes from `base` on, which is durable.
    #[cfg(feature = "sim")]
    pub(super) fn rewind(&mut self, base: WriteSeq) {
        for (seq, _) in &mut self.staged {
            seq.0 -= base.0;
        }
    }

    /// The write that makes every entry up to `index` durable; None if they are.
    pub(super) fn write_of(&self, index: LogIndex) -> Option<WriteSeq> {
        if index <= self.durable {
            return None;
        }
        self.staged
            .iter()
            .find(|(_, last)| *last >= index)
            .map(|(seq, _)| *seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(term: u64, first: u64) -> TermRun {
        TermRun {
            term: Term(term),
            first: LogIndex(first),
        }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(Term(term), LogIndex(index))
    }

    /// 1 1 2 2 2 5
    fn view() -> LogView {
        LogView::new(
            LogId::ORIGIN,
            id(5, 6),
            vec![run(1, 1), run(2, 3), run(5, 6)],
        )
    }

    #[test]
    fn terms_are_found_by_index() {
        let terms: Vec<_> = (0..=7)
            .map(|index| view().term_at(LogIndex(index)))
            .collect();
        let expected = [0, 1, 1, 2, 2, 2, 5].map(|term| Some(Term(term)));
        assert_eq!(terms, [&expected[..], &[None]].concat());
    }

    #[test]
    fn a_log_that_ends_before_its_first_entry_is_empty() {
        let view = LogView::new(id(3, 4), LogId::ORIGIN, Vec::new());
        assert_eq!((view.first(), view.last()), (LogIndex(5), id(3, 4)));
        assert_eq!(view.durable(), LogIndex(4));
    }

    #[test]
    fn the_last_agreeing_entry_skips_whole_terms() {
        assert_eq!(view().last_agreeing(id(5, 9)), id(5, 6));
        assert_eq!(view().last_agreeing(id(4, 9)), id(2, 5));
        assert_eq!(view().last_agreeing(id(4, 4)), id(2, 4));
        assert_eq!(view().last_agreeing(id(1, 9)), id(1, 2));
        assert_eq!(view().last_agreeing(id(0, 9)), LogId::ORIGIN);
    }

    #[test]
    fn the_first_missing_entry_is_where_a_term_differs_or_the_log_ends() {
        assert_eq!(
            view().first_missing(&[run(2, 4), run(5, 6)], LogIndex(6)),
            None
        );
        assert_eq!(
            view().first_missing(&[run(2, 4), run(5, 6)], LogIndex(8)),
            Some(LogIndex(7))
        );
        assert_eq!(
            view().first_missing(&[run(2, 4)], LogIndex(7)),
            Some(LogIndex(6))
        );
        assert_eq!(
            view().first_missing(&[run(1, 1), run(3, 2)], LogIndex(2)),
            Some(LogIndex(2))
        );
    }

    #[test]
    fn an_index_that_was_rewritten_is_durable_only_with_its_last_write() {
        let mut view = view();
        view.append(&[run(5, 7)], id(5, 10), WriteSeq(1));
        view.truncate(LogIndex(8));
        view.append(&[run(6, 8)], id(6, 9), WriteSeq(2));
        assert_eq!(view.write_of(LogIndex(7)), Some(WriteSeq(1)));
        assert_eq!(view.write_of(LogIndex(8)), Some(WriteSeq(2)));
        view.persisted(WriteSeq(1));
        assert_eq!(view.durable(), LogIndex(7));
        view.persisted(WriteSeq(2));
        assert_eq!(
            (view.durable(), view.write_of(LogIndex(9))),
            (LogIndex(9), None)
        );
    }

    #[test]
    fn what_was_compacted_is_known_by_its_last_entry_alone() {
        let all = (0..=6).map(LogIndex);
        for upto in all.clone().skip(1) {
            let mut compacted = view();
            compacted.compact(upto);
            assert_eq!(
                (compacted.first(), compacted.last()),
                (upto.next(), id(5, 6))
            );
            for index in all.clone() {
                let known = Some(index).filter(|&index| index >= upto);
                let expected = known.and_then(|index| view().term_at(index));
                assert_eq!(compacted.term_at(index), expected, "{index} after {upto}");
            }
            let rest = EntryRange {
                prev: compacted.before(),
                last: id(5, 6),
            };
            assert_eq!(compacted.runs_in(rest), view().runs_in(rest));
            compacted.append(&[run(5, 7), run(6, 8)], id(6, 8), WriteSeq(1));
            let terms = [7, 8].map(|index| compacted.term_at(LogIndex(index)));
            assert_eq!(terms, [Some(Term(5)), Some(Term(6))], "after {upto}");
        }
    }

    #[test]
    fn a_reset_log_goes_on_behind_its_snapshot_and_waits_for_no_older_write() {
        let mut view = view();
        view.append(&[run(5, 7)], id(5, 9), WriteSeq(1));
        view.reset(id(6, 8));
        assert_eq!((view.before(), view.last()), (id(6, 8), id(6, 8)));
        assert_eq!(
            (view.durable(), view.write_of(LogIndex(8))),
            (LogIndex(8), None)
        );
        view.append(&[run(7, 9)], id(7, 9), WriteSeq(3));
        assert_eq!(view.write_of(LogIndex(9)), Some(WriteSeq(3)));
        view.persisted(WriteSeq(1));
        assert_eq!(
            view.durable(),
            LogIndex(8),
            "the first write was of another entry 9"
        );
        view.persisted(WriteSeq(3));
        assert_eq!(view.durable(), LogIndex(9));
    }

    #[test]
    fn a_truncation_takes_durability_back() {
        let mut view = view();
        view.truncate(LogIndex(3));
        assert_eq!((view.durable(), view.last()), (LogIndex(2), id(1, 2)));
        view.append(&[run(7, 3)], id(7, 3), WriteSeq(1));
        assert_eq!(
            view.runs_in(EntryRange {
                prev: id(1, 1),
                last: id(7, 3)
            }),
            [run(1, 2), run(7, 3)]
        );
    }
}
