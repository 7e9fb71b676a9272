//! This crate's log, with its defaults.

use catamaran::WalOptions;
use catamaran::types::LogIndex;
use catamaran::wal::{Wal, WalReader};

use super::{Engine, Setup};
use crate::Result;

struct Catamaran {
    wal: Wal,
    reader: WalReader,
}

pub(super) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let (wal, _) = WalOptions::new(setup.dir).open()?;
    let reader = wal.reader();
    Ok(Box::new(Catamaran { wal, reader }))
}

impl Engine for Catamaran {
    fn append(&self, _thread: usize, entries: &[&[u8]]) -> Result<()> {
        let staged = self.wal.append(entries)?;
        self.wal.sync(staged)?;
        Ok(())
    }

    fn trim(&self, keep: u64) -> Result<()> {
        if let Some(upto) = self.reader.last().0.checked_sub(keep) {
            // The next append makes it durable.
            let _ = self.wal.drop_prefix(LogIndex(upto))?;
        }
        Ok(())
    }

    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        sink(&self.reader.get(LogIndex(index))?.payload);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.wal.close()?)
    }
}
