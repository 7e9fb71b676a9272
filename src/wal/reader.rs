//! Reading a log, beside whoever writes it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;

use super::core::{Core, Found};
use super::error::{ReadError, WalError};
use super::format::{self, HEAD_BYTES, Head, Kind};
use super::index::Segment;
use crate::error::Fault;
use crate::types::{Bytes, LogIndex};

/// One entry as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stored {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// Its mark.
    pub mark: u64,
    /// Its tag.
    pub tag: u8,
    /// Its bytes: a slice of the mapped segment, or a copy if they are not in the file yet.
    pub payload: Bytes,
}

impl Stored {
    pub(super) const fn new(head: Head, payload: Bytes) -> Self {
        Self {
            index: head.index,
            mark: head.mark,
            tag: head.tag,
            payload,
        }
    }
}

/// Reads the log. Sees what was written as soon as the write returns, durable or not.
///
/// Bytes that it gave stay valid for as long as they are held, even when the entry is truncated, its
/// segment removed or the log closed. They are slices of a memory map of the segment's file: a stranger who
/// shortens that file under a running log makes the system end the process (SIGBUS), as with every map.
#[derive(Clone)]
pub struct WalReader {
    core: Arc<Mutex<Core>>,
}

impl WalReader {
    pub(super) const fn new(core: Arc<Mutex<Core>>) -> Self {
        Self { core }
    }

    /// The first entry that was not dropped; one past [`WalReader::last`] if there is none.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.core.lock().index.first()
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.core.lock().index.last
    }

    /// The place before the first entry, and the mark of the entry that was there; (0, 0) in a log that
    /// never dropped any. The mark of a place past the then last entry is not known: it is the last one's.
    #[must_use]
    pub fn floor(&self) -> (LogIndex, u64) {
        let core = self.core.lock();
        (core.index.floor, core.index.floor_mark)
    }

    /// One entry; its checksum is checked.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] and [`ReadError::NotYet`] outside of the log;
    /// [`WalError::Corruption`] if its bytes are not what was written; [`WalError::Io`].
    pub fn get(&self, index: LogIndex) -> Result<Stored, ReadError> {
        let found = self.core.lock().find(index)?;
        match found {
            Found::Memory(stored) => Ok(stored),
            Found::File(segment, offset) => Ok(read_record(&segment, offset, index)?),
        }
    }

    /// The mark of one entry, from memory.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] and [`ReadError::NotYet`] outside of the log.
    pub fn mark(&self, index: LogIndex) -> Result<u64, ReadError> {
        self.core.lock().index.mark(index)
    }

    /// The stretches of equal marks, each as its mark and first index, ascending. Together they are the
    /// whole log.
    #[must_use]
    pub fn runs(&self) -> Vec<(u64, LogIndex)> {
        let core = self.core.lock();
        core.index
            .runs()
            .iter()
            .map(|run| (run.mark, run.first))
            .collect()
    }

    /// The entries of a range, in order. Each is looked up when its turn comes; the first that fails ends
    /// it.
    pub fn range(
        &self,
        range: RangeInclusive<LogIndex>,
    ) -> impl Iterator<Item = Result<Stored, ReadError>> + use<> {
        let reader = self.clone();
        let mut next = Some(*range.start()).filter(|first| first <= range.end());
        std::iter::from_fn(move || {
            let index = next?;
            let stored = reader.get(index);
            next = Some(index.next()).filter(|_| stored.is_ok() && index < *range.end());
            Some(stored)
        })
    }
}

/// Reads the record of `index` that stands at `offset` of a segment's file.
pub(super) fn read_record(
    segment: &Segment,
    offset: u64,
    index: LogIndex,
) -> Result<Stored, WalError> {
    let damaged = |what| WalError::Corruption {
        segment: segment.name.clone(),
        offset,
        index: Some(index),
        what,
    };
    let file = segment
        .file
        .get()
        .ok_or_else(|| damaged("the segment is not open"))?;
    let view = |at: u64, len: usize| {
        if at
            .checked_add(len as u64)
            .is_none_or(|end| end > segment.size)
        {
            return Err(damaged("an entry past the segment's end"));
        }
        let bytes = file.view(at, len);
        Ok(bytes.map_err(Fault::at("read", &segment.path))?)
    };
    let head = view(offset, HEAD_BYTES)?;
    let read = format::read_head(&head, segment.id, offset)
        .filter(|read| read.head.kind == Kind::Record && read.head.index == index)
        .ok_or_else(|| damaged("the head of the entry does not match its checksum or place"))?;
    let payload = view(offset + HEAD_BYTES as u64, read.len)?;
    if !read.matches(&payload) {
        return Err(damaged("the entry does not match its checksum"));
    }
    Ok(Stored::new(read.head, payload))
}
