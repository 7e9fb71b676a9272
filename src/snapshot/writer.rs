//! Writing a snapshot: under a temporary name, chunk by chunk, until it is whole and durable.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::SnapshotError;
use super::format::{self, CHUNK_HEAD_BYTES, MAX_CHUNK_BYTES, Meta, Tally};
use super::reader::Whole;
use super::store::SnapshotStore;
use crate::error::Fault;
use crate::vfs::DiskFile;

/// Takes in the bytes of a state, and holds no more of them than one chunk. Dropped before
/// [`SnapshotWriter::publish`], it leaves nothing behind.
pub struct SnapshotWriter {
    store: SnapshotStore,
    meta: Meta,
    file: Arc<dyn DiskFile>,
    /// The temporary name; None once it has another.
    temporary: Option<PathBuf>,
    /// Where the chunk goes.
    offset: u64,
    /// Room for a head, then the bytes of the next chunk.
    chunk: Vec<u8>,
    tally: Tally,
    /// The first failure, which [`io::Write`] can only tell in part.
    failed: Option<Fault>,
}

impl SnapshotWriter {
    pub(super) fn new(store: SnapshotStore, meta: Meta) -> Result<Self, SnapshotError> {
        let Some((header, seed)) = meta.encode() else {
            let bytes = meta.configuration.bytes.len();
            return Err(SnapshotError::ConfigurationTooLong { bytes });
        };
        let path = store.temporary_path(meta.last);
        let file = store.create(&path)?;
        let mut writer = Self {
            store,
            meta,
            file,
            temporary: Some(path),
            offset: 0,
            chunk: vec![0; CHUNK_HEAD_BYTES],
            tally: Tally::new(seed),
            failed: None,
        };
        writer.append(&header)?;
        Ok(writer)
    }

    /// Ends the snapshot: writes what is left, makes it durable, gives it its name, makes that durable, and
    /// only then lets older ones go.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; the store is as it was then.
    pub fn publish(mut self) -> Result<Arc<Whole>, SnapshotError> {
        if let Some(fault) = self.failed.take() {
            return Err(fault.into());
        }
        if self.chunk.len() > CHUNK_HEAD_BYTES {
            self.end_chunk()?;
        }
        let footer = self.tally.footer();
        self.append(&footer)?;
        let path = self.path();
        self.file.sync_data().map_err(Fault::at("sync", &path))?;
        let whole = self.store.publish(&path, self.meta.last, None)?;
        self.temporary = None;
        Ok(whole)
    }

    /// Gives the snapshot up over `error`, and says what that came from: the disk, or else the state machine.
    #[must_use]
    pub fn give_up(mut self, error: io::Error) -> SnapshotError {
        match self.failed.take() {
            Some(fault) => SnapshotError::Io(fault),
            None => SnapshotError::State(Arc::new(error)),
        }
    }

    fn path(&self) -> PathBuf {
        self.temporary.clone().unwrap_or_default()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let written = self.file.write_at(self.offset, bytes);
        written.map_err(|error| Fault::new("write", &self.path(), error))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn end_chunk(&mut self) -> Result<(), Fault> {
        let mut chunk = std::mem::take(&mut self.chunk);
        let crc = format::fill_chunk_head(&mut chunk, &self.tally);
        self.tally.count(&chunk[CHUNK_HEAD_BYTES..], crc);
        let written = self.append(&chunk);
        chunk.truncate(CHUNK_HEAD_BYTES);
        self.chunk = chunk;
        written
    }
}

impl io::Write for SnapshotWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(fault) = &self.failed {
            return Err(fault.source.kind().into());
        }
        let room = CHUNK_HEAD_BYTES + MAX_CHUNK_BYTES - self.chunk.len();
        let taken = bytes.len().min(room);
        self.chunk.extend_from_slice(&bytes[..taken]);
        if taken == room
            && let Err(fault) = self.end_chunk()
        {
            let kind = fault.source.kind();
            self.failed = Some(fault);
            return Err(kind.into());
        }
        Ok(taken)
    }

    /// Does nothing: what is not published is nothing.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            self.store.forget(path);
        }
    }
}
