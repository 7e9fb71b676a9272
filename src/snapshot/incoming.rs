//! A snapshot that comes in from another member, piece by piece.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::SnapshotError;
use super::reader::{SnapshotId, Whole};
use super::store::SnapshotStore;
use crate::error::Fault;
use crate::types::Bytes;
use crate::vfs::DiskFile;

/// The most bytes of a snapshot file that go over the network at once.
pub const MAX_PIECE_BYTES: usize = 128 << 10;

/// Asks for the next bytes of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Which snapshot, and how many of its bytes are there already. Without it, or if the member that is asked
    /// has no such snapshot, the answer is the begin of its newest.
    pub have: Option<(SnapshotId, u64)>,
}

/// Some bytes of a snapshot file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// Where in its file.
    pub offset: u64,
    /// At most [`MAX_PIECE_BYTES`].
    pub bytes: Bytes,
}

/// The part of a snapshot that has come in. Dropped before [`IncomingSnapshot::publish`], it leaves nothing behind.
pub struct IncomingSnapshot {
    store: SnapshotStore,
    id: SnapshotId,
    file: Arc<dyn DiskFile>,
    /// None once it has another name.
    temporary: Option<PathBuf>,
    have: u64,
}

impl IncomingSnapshot {
    pub(super) fn new(store: SnapshotStore, id: SnapshotId) -> Result<Self, SnapshotError> {
        let path = store.incoming_path();
        let file = store.create(&path)?;
        Ok(Self {
            store,
            id,
            file,
            temporary: Some(path),
            have: 0,
        })
    }

    /// Which snapshot it is a part of.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        self.id
    }

    /// How many bytes have come in.
    #[must_use]
    pub const fn have(&self) -> u64 {
        self.have
    }

    /// Whether all have.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.have == self.id.bytes
    }

    /// Adds a piece, if it is the one that comes next. Says whether it was.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the piece may be there in part, and can be added again.
    pub fn add(&mut self, piece: &Piece) -> Result<bool, SnapshotError> {
        let len = piece.bytes.len() as u64;
        let fits = len > 0 && len <= self.id.bytes - self.have;
        if piece.id != self.id || piece.offset != self.have || !fits {
            return Ok(false);
        }
        let path = self.temporary.clone().unwrap_or_default();
        let written = self.file.write_at(self.have, &piece.bytes);
        written.map_err(Fault::at("write", &path))?;
        self.have += len;
        Ok(true)
    }

    /// Makes what has come in durable, reads it through, and has it take the place of older ones, as
    /// [`SnapshotWriter::publish`](super::SnapshotWriter::publish) does.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if it is not the snapshot that it should be; [`SnapshotError::Foreign`],
    /// [`SnapshotError::NewerFormat`] and the like; [`SnapshotError::Io`]. The store is as it was then.
    pub fn publish(mut self) -> Result<Arc<Whole>, SnapshotError> {
        let path = self.temporary.clone().unwrap_or_default();
        self.file.sync_data().map_err(Fault::at("sync", &path))?;
        let whole = self.store.publish(&path, self.id.last, Some(self.id))?;
        self.temporary = None;
        Ok(whole)
    }
}

impl Drop for IncomingSnapshot {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            self.store.forget(path);
        }
    }
}
