//! The raft-log that is used with openraft. It syncs on a thread of its own, which answers by a callback.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::RwLock;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog, Types};

use super::{Engine, Setup, missing};
use crate::Result;

const CHUNK_BYTES: usize = 32 << 20;
/// How long it gathers appends for one sync. Alone there is nothing to gather; with company, each append had
/// a sync of its own without, and its default of 1 ms is slower.
pub(crate) const fn gather(threads: usize) -> Duration {
    match threads {
        1 => Duration::ZERO,
        _ => Duration::from_micros(50),
    }
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Bytes;

impl Types for Bytes {
    /// Term and index.
    type LogId = (u64, u64);
    type LogPayload = Vec<u8>;
    type Vote = (u64, u64);
    type Callback = SyncSender<std::io::Result<()>>;
    type UserData = String;

    fn log_index(log_id: &Self::LogId) -> u64 {
        log_id.1
    }

    fn payload_size(payload: &Self::LogPayload) -> u64 {
        payload.len() as u64
    }
}

struct Locked {
    log: RwLock<(RaftLog<Bytes>, u64)>,
}

pub(super) fn open(setup: &Setup<'_>) -> Result<Box<dyn Engine>> {
    let mut config = Config::new(setup.dir.display());
    config.wal.chunk_max_size = Some(CHUNK_BYTES);
    config.wal.flush_batch_wait = Some(gather(setup.threads));
    let log = RaftLog::open(Arc::new(config))?;
    let last = log.log_state().last().map_or(0, |(_, index)| *index);
    Ok(Box::new(Locked {
        log: RwLock::new((log, last)),
    }))
}

impl Engine for Locked {
    fn append(&self, _thread: usize, entries: &[&[u8]]) -> Result<()> {
        let (sender, durable) = sync_channel(1);
        {
            let (log, last) = &mut *self.log.write();
            let ids = *last + 1..;
            *last += entries.len() as u64;
            log.append(
                ids.zip(entries)
                    .map(|(index, entry)| ((1, index), entry.to_vec())),
            )?;
            log.flush(true, Some(sender))?;
        }
        durable.recv()??;
        Ok(())
    }

    fn trim(&self, keep: u64) -> Result<()> {
        let (log, last) = &mut *self.log.write();
        if let Some(upto) = last.checked_sub(keep).filter(|&upto| upto > 0) {
            log.purge((1, upto))?;
            log.flush(true, None)?;
        }
        Ok(())
    }

    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let (log, _) = &*self.log.read();
        let (_, payload) = log
            .read(index, index + 1)
            .next()
            .ok_or_else(|| missing(index))??;
        sink(&payload);
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.log.into_inner().0.wait_worker_idle()?)
    }
}
