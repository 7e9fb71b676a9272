//! okaywal: a log whose entries are chunks, recycled by segments once the user has checkpointed them. It has
//! no index: to read an entry its user must have remembered where it is.

use std::io::{ErrorKind, Read as _};
use std::sync::Arc;

use okaywal::{
    Configuration, Entry, EntryId, LogManager, LogPosition, ReadChunkResult, SegmentReader,
    WriteAheadLog,
};
use parking_lot::Mutex;

use super::{Engine, Setup, missing};
use crate::Result;

struct Okaywal {
    wal: WriteAheadLog,
    /// Where the entries are that were there when it was opened.
    positions: Vec<(LogPosition, usize)>,
}

/// Remembers where chunks are, and lets go of each segment when it is full.
#[derive(Clone, Default, Debug)]
struct Manager {
    positions: Arc<Mutex<Vec<(LogPosition, usize)>>>,
}

impl LogManager for Manager {
    fn recover(&mut self, entry: &mut Entry<'_>) -> std::io::Result<()> {
        let mut positions = self.positions.lock();
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            let len = chunk.read_all()?.len();
            if !chunk.check_crc()? {
                return Err(ErrorKind::InvalidData.into());
            }
            positions.push((chunk.log_position(), len));
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _last: EntryId,
        _entries: &mut SegmentReader,
        _wal: &WriteAheadLog,
    ) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let segment_bytes = u32::try_from(setup.keep_bytes)?;
    let manager = Manager::default();
    let wal = Configuration::default_for(setup.dir)
        .preallocate_bytes(segment_bytes)
        .checkpoint_after_bytes(u64::from(segment_bytes / 4 * 3))
        .open(manager.clone())?;
    let positions = std::mem::take(&mut *manager.positions.lock());
    Ok(Box::new(Okaywal { wal, positions }))
}

impl Engine for Okaywal {
    fn append(&self, _thread: usize, entries: &[&[u8]]) -> Result<()> {
        let mut entry = self.wal.begin_entry()?;
        for chunk in entries {
            entry.write_chunk(chunk)?;
        }
        entry.commit()?;
        Ok(())
    }

    /// It does so by itself.
    fn trim(&self, _keep: u64) -> Result<()> {
        Ok(())
    }

    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let place = self.positions.get(usize::try_from(index - 1)?);
        let &(position, len) = place.ok_or_else(|| missing(index))?;
        let mut payload = Vec::with_capacity(len);
        self.wal.read_at(position)?.read_to_end(&mut payload)?;
        sink(&payload);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.wal.shutdown()?)
    }
}
