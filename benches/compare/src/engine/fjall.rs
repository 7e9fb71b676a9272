//! fjall: an LSM tree behind a journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::compaction::Fifo;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Engine, Setup, missing};
use crate::Result;

struct Fjall {
    database: Database,
    log: Keyspace,
    next: AtomicU64,
}

pub(super) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let database = Database::builder(setup.dir).open()?;
    let keep_bytes = setup.keep_bytes;
    // Whole tables of the oldest keys go, with no tombstone for each key.
    let options = move || {
        KeyspaceCreateOptions::default().compaction_strategy(Arc::new(Fifo::new(keep_bytes, None)))
    };
    let log = database.keyspace("log", options)?;
    let last = log.last_key_value().map(|last| last.key()).transpose()?;
    let last = last.map_or(Ok([0; 8]), |key| <[u8; 8]>::try_from(&*key))?;
    Ok(Box::new(Fjall {
        database,
        log,
        next: AtomicU64::new(u64::from_be_bytes(last) + 1),
    }))
}

impl Engine for Fjall {
    fn append(&self, _thread: usize, entries: &[&[u8]]) -> Result<()> {
        let next = self.next.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let mut batch = self.database.batch();
        for (index, entry) in (next..).zip(entries) {
            batch.insert(&self.log, index.to_be_bytes(), *entry);
        }
        batch.commit()?;
        Ok(self.database.persist(PersistMode::SyncAll)?)
    }

    /// It does so by itself.
    fn trim(&self, _keep: u64) -> Result<()> {
        Ok(())
    }

    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        sink(
            &self
                .log
                .get(index.to_be_bytes())?
                .ok_or_else(|| missing(index))?,
        );
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
