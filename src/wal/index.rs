//! Where each entry stands: the live log as one view over its segments.
//!
//! Later segments win: each says the lowest index it writes or truncates, and from there on the segments
//! before it hold nothing any more. So the spans below are in order and never overlap:
//!
//! ```text
//! floor            last of A   last of B               last
//!   |  span of A       |  span of B |   span of C        |
//!   +------------------+------------+--------------------+
//! ```
//! Architecture invariant: no I/O here, and no lock; `Core` holds the one lock around it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::error::{ReadError, WalError};
use super::footer::{Footer, Run};
use super::format::{Head, StartInfo};
use super::room::Room;
use crate::sync::{AtomicBool, AtomicU64};
use crate::types::LogIndex;
use crate::vfs::DiskFile;

/// One segment file.
pub(super) struct Segment {
    pub(super) sequence: u64,
    pub(super) id: u64,
    pub(super) size: u64,
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Set before the first byte is written or read.
    pub(super) file: OnceLock<Arc<dyn DiskFile>>,
    /// Frames below this are in the file, frozen; those above are still in memory.
    published: AtomicU64,
    /// Whether the footer's table of offsets was compared with its checksum.
    pub(super) table_checked: AtomicBool,
}

impl Segment {
    pub(super) fn new(sequence: u64, id: u64, size: u64, path: PathBuf) -> Self {
        Self {
            sequence,
            id,
            size,
            name: super::format::segment_name(sequence),
            path,
            file: OnceLock::new(),
            published: AtomicU64::new(0),
            table_checked: AtomicBool::new(false),
        }
    }

    /// Lets readers go to the file for what is below `end`.
    pub(super) fn publish(&self, end: u64) {
        self.published.store(end, Ordering::Release);
    }

    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }
}

/// The offsets of a span's entries.
#[derive(Clone)]
enum Table {
    Growing(Vec<u32>),
    /// In the segment's footer, from this place of the file on: a sealed entry takes no memory.
    Sealed(u64),
}

/// The entries `lo..=hi` of one segment.
pub(super) struct Span {
    pub(super) segment: Arc<Segment>,
    /// The index of the table's first offset.
    base: LogIndex,
    lo: LogIndex,
    hi: LogIndex,
    table: Table,
}

/// Entries that follow each other in one segment, as the log had them at one moment.
pub(super) struct Stretch {
    pub(super) segment: Arc<Segment>,
    /// The index of the first.
    pub(super) first: LogIndex,
    pub(super) offsets: Offsets,
}

/// Where the entries of a stretch stand, at least one.
pub(super) enum Offsets {
    Copied(Vec<u32>),
    /// So many, in the segment's footer, from this place of the file on.
    InFile(u64, usize),
}

impl Span {
    /// The offsets of `index` and of at most `most` entries in all. None if it has none.
    fn offsets(&self, index: LogIndex, most: usize) -> Option<Offsets> {
        let at = usize::try_from(index.0.checked_sub(self.base.0)?).ok()?;
        let left = usize::try_from(self.hi.next().0.checked_sub(index.0)?).ok()?;
        let count = left.min(most);
        match &self.table {
            Table::Growing(offsets) => {
                let offsets = offsets.get(at..)?.get(..count)?;
                Some(Offsets::Copied(offsets.to_vec()))
            }
            Table::Sealed(table) => Some(Offsets::InFile(table + at as u64 * 4, count)),
        }
        .filter(|_| count > 0)
    }

    /// Whether its table is that of a footer.
    pub(super) const fn is_sealed(&self) -> bool {
        matches!(self.table, Table::Sealed(_))
    }

    /// The last entry that stands below `offset` of this segment; the one before its first if none does.
    /// Where the offsets are in a footer, all of it does.
    pub(super) fn last_below(&self, offset: u64) -> LogIndex {
        match &self.table {
            Table::Sealed(_) => self.hi,
            Table::Growing(offsets) => {
                let count = offsets.partition_point(|&at| u64::from(at) < offset);
                LogIndex(self.base.prev().0 + count as u64).clamp(self.lo.prev(), self.hi)
            }
        }
    }

    /// The first and last entry that live in this segment; none if nothing does.
    pub(super) fn live(&self, floor: LogIndex) -> Option<(LogIndex, LogIndex)> {
        let lo = self.lo.max(floor.next());
        (lo <= self.hi).then_some((lo, self.hi))
    }
}

/// The live log.
#[derive(Default)]
pub(super) struct Index {
    pub(super) spans: Vec<Span>,
    runs: Vec<Run>,
    pub(super) floor: LogIndex,
    pub(super) floor_mark: u64,
    pub(super) last: LogIndex,
    pub(super) last_mark: u64,
    /// Of tables that stand in a footer now.
    room: Room<u32>,
}

impl Index {
    /// What is known of a log whose first segments are gone: they ended with entry `last` and its mark.
    pub(super) fn after(floor: LogIndex, floor_mark: u64, last: (LogIndex, u64)) -> Self {
        Self {
            floor,
            floor_mark,
            last: last.0,
            last_mark: last.1,
            ..Self::default()
        }
    }

    pub(super) const fn first(&self) -> LogIndex {
        self.floor.next()
    }

    /// A segment begins to be written; nothing is in it yet.
    pub(super) fn begin(&mut self, segment: Arc<Segment>) {
        self.spans.push(Span {
            segment,
            base: self.last.next(),
            lo: self.last.next(),
            hi: self.last,
            table: Table::Growing(self.room.take()),
        });
    }

    /// The next entry stands at `offset` of the last segment.
    #[inline]
    pub(super) fn push(&mut self, mark: u64, offset: u32) {
        self.last = self.last.next();
        self.last_mark = mark;
        if self.runs.last().is_none_or(|run| run.mark != mark) {
            let first = self.last;
            self.runs.push(Run { mark, first });
        }
        if let Some(Span {
            table: Table::Growing(offsets),
            hi,
            ..
        }) = self.spans.last_mut()
        {
            offsets.push(offset);
            *hi = self.last;
        }
    }

    /// Entries from `from` on are no more, by a record in the last segment; `mark` is that of the entry
    /// before, which may have gone with the segments before.
    pub(super) fn truncate(&mut self, from: LogIndex, mark: u64) {
        if let Some(span) = self.spans.last_mut()
            && let Table::Growing(offsets) = &mut span.table
        {
            if from < span.base {
                offsets.clear();
                span.base = from;
                span.lo = from;
            } else {
                offsets.truncate(usize::try_from(from.since(span.base)).unwrap_or(usize::MAX));
            }
            span.hi = from.prev();
        }
        self.supersede(from);
        self.last_mark = mark;
    }

    /// What the spans before the last and the runs lose when a later segment holds everything from `from`.
    fn supersede(&mut self, from: LogIndex) {
        for span in self.spans.iter_mut().rev() {
            if span.hi >= from {
                span.hi = from.prev();
            }
            span.lo = span.lo.min(from);
        }
        while self.runs.last().is_some_and(|run| run.first >= from) {
            self.runs.pop();
        }
        self.last = from.prev();
        self.last_mark = self.runs.last().map_or(self.floor_mark, |run| run.mark);
    }

    /// Whether a Start frame says of the log before it what is known of that.
    pub(super) fn stands_at(&self, head: &Head, start: &StartInfo) -> bool {
        let says = (head.index, head.mark, start.floor, start.floor_mark);
        says == (self.last, self.last_mark, self.floor, self.floor_mark)
    }

    /// Entries up to `floor` may go. Past the last entry, the log goes on behind `floor`.
    pub(super) fn drop_prefix(&mut self, floor: LogIndex, mark: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        self.floor_mark = mark;
        if floor > self.last {
            self.last = floor;
            self.last_mark = mark;
            self.runs.clear();
            if let Some(span) = self.spans.last_mut() {
                span.base = floor.next();
                span.lo = floor.next();
                span.hi = floor;
                span.table = Table::Growing(Vec::new());
            }
        }
        let dead = self.runs.partition_point(|run| run.first <= floor.next());
        if let Some(keep) = dead.checked_sub(1) {
            self.runs.drain(..keep);
            self.runs[0].first = floor.next();
            if floor >= self.last {
                self.runs.clear();
            }
        }
    }

    /// Adds a sealed segment after the ones before, as its footer tells it. False if they do not fit.
    pub(super) fn push_sealed(&mut self, segment: Arc<Segment>, footer: &Footer) -> bool {
        let gap = footer.lo > self.last.next() && footer.floor < footer.lo.prev();
        if gap
            || footer.lo == LogIndex::ZERO
            || footer.floor < self.floor
            || footer.floor > footer.last
            || !footer.has_sound_runs()
        {
            return false;
        }
        self.supersede(footer.lo);
        self.runs
            .extend(footer.runs.iter().filter(|run| run.first >= footer.lo));
        self.runs.dedup_by_key(|run| run.mark);
        let table = footer.table_at(segment.size);
        self.spans.push(Span {
            segment,
            base: footer.lo,
            lo: footer.lo,
            hi: footer.last,
            table: Table::Sealed(table),
        });
        self.last = footer.last;
        self.last_mark = footer.last_mark;
        self.drop_prefix(footer.floor, footer.floor_mark);
        true
    }

    /// A segment was sealed, and its table can be read from its footer, from `table` on.
    pub(super) fn table_on_disk(&mut self, sequence: u64, table: u64) {
        let span = self
            .spans
            .iter_mut()
            .rev()
            .find(|span| span.segment.sequence == sequence);
        let Some(span) = span else { return };
        let before = std::mem::replace(&mut span.table, Table::Sealed(table));
        if let Table::Growing(offsets) = before {
            self.room.keep_fitting(offsets);
        }
    }

    /// The footer of the last segment, whose frames end at `end`, and its table.
    pub(super) fn footer(&self, end: u64, state: Option<Vec<u8>>) -> (Footer, &[u32]) {
        let (lo, offsets) = match self.spans.last() {
            Some(Span {
                base,
                table: Table::Growing(offsets),
                ..
            }) => (*base, offsets.as_slice()),
            _ => (self.last.next(), &[][..]),
        };
        let footer = Footer {
            end,
            lo,
            last: self.last,
            last_mark: self.last_mark,
            floor: self.floor,
            floor_mark: self.floor_mark,
            state,
            runs: self.runs_from(lo),
            count: offsets.len(),
        };
        (footer, offsets)
    }

    /// How much the footer of the last segment would hold: offsets and, at most, runs.
    pub(super) fn footer_counts(&self) -> (usize, usize) {
        match self.spans.last() {
            Some(Span {
                base,
                table: Table::Growing(offsets),
                ..
            }) => {
                let before = self.runs.partition_point(|run| run.first <= *base);
                (offsets.len(), self.runs.len() - before + 1)
            }
            _ => (0, 0),
        }
    }

    /// The runs of the live entries from `lo` on.
    fn runs_from(&self, lo: LogIndex) -> Vec<Run> {
        let lo = lo.max(self.first());
        if lo > self.last {
            return Vec::new();
        }
        let at = self.runs.partition_point(|run| run.first <= lo);
        let mut runs = self.runs[at.saturating_sub(1)..].to_vec();
        if let Some(run) = runs.first_mut() {
            run.first = run.first.max(lo);
        }
        runs
    }

    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    fn live(&self, index: LogIndex) -> Result<(), ReadError> {
        if index <= self.floor {
            return Err(ReadError::Compacted {
                first: self.first(),
            });
        }
        if index > self.last {
            return Err(ReadError::NotYet { last: self.last });
        }
        Ok(())
    }

    pub(super) fn mark(&self, index: LogIndex) -> Result<u64, ReadError> {
        self.live(index)?;
        let at = self.runs.partition_point(|run| run.first <= index);
        Ok(at
            .checked_sub(1)
            .map_or(self.floor_mark, |at| self.runs[at].mark))
    }

    /// Where an entry stands, and those behind it in the same segment, at most `most` in all.
    pub(super) fn locate(&self, index: LogIndex, most: usize) -> Result<Stretch, ReadError> {
        self.live(index)?;
        let at = self.spans.partition_point(|span| span.lo <= index);
        let span = at.checked_sub(1).map(|at| &self.spans[at]);
        match span.map(|span| (span, span.offsets(index, most))) {
            Some((span, Some(offsets))) => Ok(Stretch {
                segment: Arc::clone(&span.segment),
                first: index,
                offsets,
            }),
            found => Err(ReadError::Wal(WalError::Corruption {
                segment: found.map_or_else(String::new, |(span, _)| span.segment.name.clone()),
                offset: 0,
                index: Some(index),
                what: "no segment holds the entry",
            })),
        }
    }

    /// How many of the oldest segments hold nothing that lives.
    pub(super) fn dead_front(&self) -> usize {
        let sealed = self.spans.len().saturating_sub(1);
        self.spans[..sealed]
            .iter()
            .take_while(|span| span.live(self.floor).is_none())
            .count()
    }

    /// Whether every live entry is in some segment: the oldest spans were not lost.
    pub(super) fn is_covered(&self) -> bool {
        let mut next = self.first();
        for span in &self.spans {
            if let Some((lo, hi)) = span.live(self.floor) {
                if lo != next {
                    return false;
                }
                next = hi.next();
            }
        }
        next == self.last.next() && self.last >= self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u64) -> Arc<Segment> {
        Arc::new(Segment::new(sequence, sequence, 65536, PathBuf::new()))
    }

    /// Where an entry stands: sequence of the segment, and offset.
    fn place(index: &Index, at: u64) -> (u64, u32) {
        let stretch = index.locate(LogIndex(at), 1).unwrap();
        match stretch.offsets {
            Offsets::Copied(offsets) => (stretch.segment.sequence, offsets[0]),
            Offsets::InFile(..) => panic!("none was sealed"),
        }
    }

    #[test]
    fn from_its_lowest_index_on_a_later_segment_supersedes_all_before_it() {
        let mut index = Index::default();
        for sequence in 1..=4 {
            index.begin(segment(sequence));
            for entry in 0..10 {
                index.push(1, sequence as u32 * 1000 + entry);
            }
        }
        index.begin(segment(5));
        index.truncate(LogIndex(15), 1);
        index.push(2, 5000);
        index.begin(segment(6));
        for entry in 0..10 {
            index.push(3, 6000 + entry);
        }
        assert!(index.is_covered());
        assert_eq!(place(&index, 10), (1, 1009));
        assert_eq!(place(&index, 14), (2, 2003));
        assert_eq!(place(&index, 15), (5, 5000));
        for at in 16..=25 {
            assert_eq!(place(&index, at), (6, 6000 + at as u32 - 16));
        }
        let first = |run: &Run| (run.mark, run.first.0);
        let runs: Vec<_> = index.runs().iter().map(first).collect();
        assert_eq!(runs, [(1, 1), (2, 15), (3, 16)]);
    }

    #[test]
    fn a_segment_is_dead_when_what_lives_in_it_was_dropped_or_superseded_and_so_are_all_before_it()
    {
        let mut index = Index::default();
        for sequence in 1..=4 {
            index.begin(segment(sequence));
            for entry in 0..10 {
                index.push(1, entry);
            }
        }
        index.truncate(LogIndex(11), 1);
        assert_eq!(index.dead_front(), 0, "the first still lives");
        index.drop_prefix(LogIndex(9), 1);
        assert_eq!(index.dead_front(), 0);
        index.drop_prefix(LogIndex(10), 1);
        assert_eq!(index.dead_front(), 3, "all but the one that is written");
    }
}
