//! Reading a Raft log by index.

use std::fmt;
use std::ops::{Bound, RangeBounds};

use crate::codec::Malformed;
use crate::types::{Entry, EntryKind, LogId, LogIndex, Term, TermRun};
use crate::wal::{self, ReadError, Stored, WalError, WalReader};

/// Reads the entries of a log, committed or not. Cheap to clone, and never in the writer's way.
#[derive(Clone)]
pub struct LogReader {
    wal: WalReader,
}

impl LogReader {
    pub(super) const fn new(wal: WalReader) -> Self {
        Self { wal }
    }

    /// The first index that can be read; one past [`LogReader::last`] if the log is empty.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.wal.first()
    }

    /// The last index that can be read.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.wal.last()
    }

    /// The entry before the first: the last that was dropped, or [`LogId::ORIGIN`].
    #[must_use]
    pub fn before(&self) -> LogId {
        let (index, mark) = self.wal.floor();
        LogId::new(Term(mark), index)
    }

    /// The last entry's term and index; [`LogReader::before`] if there is none.
    ///
    /// # Errors
    /// Those of [`LogReader::get`].
    pub fn last_id(&self) -> Result<LogId, LogError> {
        let (before, last) = (self.before(), self.last());
        if last == before.index {
            return Ok(before);
        }
        Ok(LogId::new(self.term(last)?, last))
    }

    /// The term of the entry at `index`.
    ///
    /// # Errors
    /// Those of [`LogReader::get`].
    pub fn term(&self, index: LogIndex) -> Result<Term, LogError> {
        Ok(Term(self.wal.mark(index)?))
    }

    /// Whether the log has exactly this entry now, or begins behind it.
    #[must_use]
    pub fn holds(&self, id: LogId) -> bool {
        id == self.before() || self.term(id.index).is_ok_and(|term| term == id.term)
    }

    /// The entry at `index`.
    ///
    /// # Errors
    /// [`LogError::Read`] when it is not in the log, or cannot be read; [`LogError::Kind`] if a newer
    /// version wrote it.
    pub fn get(&self, index: LogIndex) -> Result<Entry, LogError> {
        entry(self.wal.get(index)?)
    }

    /// The entries of a range of indices, in order. An open start is the log's first entry, an open end
    /// the last at this moment. Stops after the first error.
    #[must_use]
    pub fn range(&self, range: impl RangeBounds<u64>) -> Entries {
        let next = match range.start_bound() {
            Bound::Included(&start) => LogIndex(start),
            Bound::Excluded(&start) => LogIndex(start.saturating_add(1)),
            Bound::Unbounded => self.first(),
        };
        let last = match range.end_bound() {
            Bound::Included(&end) => LogIndex(end),
            Bound::Excluded(&end) => LogIndex(end).prev(),
            Bound::Unbounded => self.last(),
        };
        Entries {
            stored: self.wal.range(next..=last),
            ended: false,
        }
    }

    /// About how many bytes the entries take: of some of them, ascending, and the last among these, the bytes from
    /// the one before up to it.
    #[must_use]
    pub fn sizes(&self) -> Vec<(LogIndex, u64)> {
        self.wal.sizes()
    }

    /// The terms of all entries, as runs.
    #[must_use]
    pub fn runs(&self) -> Vec<TermRun> {
        let runs = self.wal.runs().into_iter();
        runs.map(|(mark, first)| TermRun {
            term: Term(mark),
            first,
        })
        .collect()
    }
}

pub(super) fn entry(stored: Stored) -> Result<Entry, LogError> {
    let kind = EntryKind::from_u8(stored.tag).ok_or(LogError::Kind {
        index: stored.index,
        number: stored.tag,
    })?;
    let id = LogId::new(Term(stored.mark), stored.index);
    Ok(Entry {
        id,
        kind,
        payload: stored.payload,
    })
}

/// Iterates over entries; made by [`LogReader::range`].
pub struct Entries {
    stored: wal::Entries,
    /// Whether an error was yielded.
    ended: bool,
}

impl Iterator for Entries {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.stored.next()?.map_err(LogError::from).and_then(entry);
        self.ended = entry.is_err();
        Some(entry)
    }
}

/// Why the log cannot be opened, or an entry not be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LogError {
    /// The write-ahead log failed.
    Wal(WalError),
    /// The entry cannot be read.
    Read(ReadError),
    /// Term and vote cannot be decoded, though their checksum is right: a newer version wrote them.
    HardState(Malformed),
    /// An entry of a kind that this version does not know.
    Kind {
        /// Which entry.
        index: LogIndex,
        /// Its kind.
        number: u8,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wal(error) => error.fmt(f),
            Self::Read(error) => error.fmt(f),
            Self::HardState(error) => {
                write!(
                    f,
                    "{error} of the recorded term and vote; a newer version may read it"
                )
            }
            Self::Kind { index, number } => write!(
                f,
                "entry {index} is of kind {number}, which this version does not know; a newer may"
            ),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Wal(error) => Some(error),
            Self::Read(error) => Some(error),
            Self::HardState(error) => Some(error),
            Self::Kind { .. } => None,
        }
    }
}

impl From<WalError> for LogError {
    fn from(error: WalError) -> Self {
        Self::Wal(error)
    }
}

impl From<ReadError> for LogError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}
