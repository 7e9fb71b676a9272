//! TiKV's raft-engine: protobuf entries of many Raft groups in one log. Its threads share a sync by writing
//! each for a group of its own, as the entries of one group must come in order.

use std::cell::RefCell;
use std::path::Path;

use parking_lot::Mutex;
use raft::eraftpb::Entry;
use raft_engine::{Config, Engine as RaftEngine, LogBatch, MessageExt, ReadableSize};

use super::{Engine, Setup, missing};
use crate::Result;

const FILE_BYTES: u64 = 32 << 20;

thread_local! {
    /// A caller's batch is used again, as its documentation advises.
    static BATCH: RefCell<LogBatch> = RefCell::new(LogBatch::default());
}

/// Entries as raft-rs has them.
#[derive(Clone)]
pub(crate) struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

struct Groups {
    engine: RaftEngine,
    /// The last index of each thread's group.
    last: Vec<Mutex<u64>>,
}

/// What it does best with here, within about `keep_bytes` of entries.
pub(crate) fn config(dir: &Path, keep_bytes: u64) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        target_file_size: ReadableSize(FILE_BYTES),
        purge_threshold: ReadableSize(keep_bytes.max(FILE_BYTES)),
        // The entries are random bytes: to compress them would only cost time.
        batch_compression_threshold: ReadableSize(0),
        // Files written beforehand, to be overwritten.
        prefill_for_recycle: true,
        ..Config::default()
    }
}

pub(super) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let engine = RaftEngine::open(config(setup.dir, setup.keep_bytes))?;
    let last = |thread| Mutex::new(engine.last_index(group(thread)).unwrap_or(0));
    let last = (0..setup.threads).map(last).collect();
    Ok(Box::new(Groups { engine, last }))
}

const fn group(thread: usize) -> u64 {
    thread as u64 + 1
}

impl Engine for Groups {
    fn append(&self, thread: usize, entries: &[&[u8]]) -> Result<()> {
        let mut last = self.last[thread].lock();
        let entry = |(nth, data): (usize, &&[u8])| Entry {
            term: 1,
            index: *last + 1 + nth as u64,
            data: data.to_vec().into(),
            ..Entry::default()
        };
        let entries: Vec<Entry> = entries.iter().enumerate().map(entry).collect();
        BATCH.with_borrow_mut(|batch| {
            batch.add_entries::<Entries>(group(thread), &entries)?;
            self.engine.write(batch, true)
        })?;
        *last += entries.len() as u64;
        Ok(())
    }

    fn trim(&self, keep: u64) -> Result<()> {
        for (thread, last) in self.last.iter().enumerate() {
            let last = *last.lock();
            if let Some(upto) = last.checked_sub(keep / self.last.len() as u64) {
                self.engine.compact_to(group(thread), upto);
            }
        }
        self.engine.purge_expired_files()?;
        Ok(())
    }

    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let entry = self.engine.get_entry::<Entries>(group(0), index)?;
        sink(&entry.ok_or_else(|| missing(index))?.data);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
