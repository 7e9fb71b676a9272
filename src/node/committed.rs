//! Following the committed log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::log::{LogError, LogReader};
use crate::runtime::Progress;
use crate::types::{Entry, LogIndex};

/// The committed entries of a node, those to come included. Made by
/// [`Node::committed`](crate::Node::committed); outlives neither a stop of the node nor needs it kept.
#[derive(Clone)]
pub struct Committed {
    reader: LogReader,
    progress: Arc<Progress>,
}

impl Committed {
    pub(super) const fn new(reader: LogReader, progress: Arc<Progress>) -> Self {
        Self { reader, progress }
    }

    /// Up to where entries are known to be committed.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.progress.committed_index()
    }

    /// Every committed entry from `index` on, in order. At the end of what is committed the iterator
    /// waits for more; it ends when the node stops. An entry that the log has let go of, since a snapshot has
    /// it, is an error ([`ReadError::Compacted`](crate::wal::ReadError::Compacted)).
    #[must_use]
    pub fn from(&self, index: u64) -> CommittedFrom {
        CommittedFrom {
            committed: self.clone(),
            next: LogIndex(index.max(1)),
            known: LogIndex::ZERO,
        }
    }
}

/// Iterates over committed entries and waits for more; made by [`Committed::from`].
pub struct CommittedFrom {
    committed: Committed,
    next: LogIndex,
    known: LogIndex,
}

impl CommittedFrom {
    /// The next entry, if there is one within `limit`.
    pub fn next_within(&mut self, limit: Duration) -> Option<Result<Entry, LogError>> {
        self.next_before(Instant::now().checked_add(limit))
    }

    fn next_before(&mut self, deadline: Option<Instant>) -> Option<Result<Entry, LogError>> {
        if self.next > self.known {
            self.known = self
                .committed
                .progress
                .wait_committed(self.next.prev(), deadline)?;
        }
        let entry = self.committed.reader.get(self.next);
        if entry.is_ok() {
            self.next = self.next.next();
        }
        Some(entry)
    }
}

impl Iterator for CommittedFrom {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_before(None)
    }
}
