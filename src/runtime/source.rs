//! Entries and snapshots for the transport, read at the last moment.

use crate::driver::read_to_send;
use crate::log::LogReader;
use crate::snapshot::{Ask, MAX_PIECE_BYTES, Piece, SnapshotStore};
use crate::transport::{EntrySource, SnapshotSource};
use crate::types::{Entry, EntryRange, NodeId};

impl SnapshotSource for SnapshotStore {
    fn read(&self, to: NodeId, ask: Ask) -> Option<Piece> {
        self.lend(to, ask, MAX_PIECE_BYTES).unwrap_or_else(|error| {
            crate::trace::warn!(%error, "a snapshot cannot be read for another member");
            None
        })
    }
}

pub(super) struct LogSource(pub(super) LogReader);

impl EntrySource for LogSource {
    fn read(&self, range: EntryRange, max_bytes: usize) -> Option<Vec<Entry>> {
        read_to_send(&self.0, range, max_bytes)
    }
}
