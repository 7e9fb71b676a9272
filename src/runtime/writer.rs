//! The log thread: makes writes durable, and lets go of the messages that promise them.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::raft::message::Message;
use crate::transport::Transport;
use crate::types::{Durable, NodeId, Staged};
use crate::wal::{Wal, WalError};

/// Writes and promises that may wait for one fsync. Full: the raft thread waits for the disk.
const QUEUE: usize = 4_096;

/// Something for the log thread, in order.
pub(super) enum LogJob {
    /// Make this write durable.
    Sync(Staged),
    /// Send this once every write before it is durable.
    Release(NodeId, Message),
}

/// The queue to the log thread.
pub(super) fn queue() -> (Sender<LogJob>, Receiver<LogJob>) {
    bounded(QUEUE)
}

/// The log thread's own state.
pub(super) struct Writer {
    pub(super) jobs: Receiver<LogJob>,
    pub(super) wal: Wal,
    pub(super) transport: Arc<dyn Transport>,
}

impl Writer {
    /// Runs until the queue's other end is dropped, or the log fails; tells `persisted` of each fsync.
    ///
    /// # Errors
    /// The log's; it has latched.
    pub(super) fn run(self, persisted: impl Fn(Durable)) -> Result<(), WalError> {
        let mut promises = Vec::new();
        while let Ok(first) = self.jobs.recv() {
            let mut newest = None;
            for job in std::iter::once(first).chain(self.jobs.try_iter().take(QUEUE)) {
                match job {
                    LogJob::Sync(staged) => newest = Some(staged),
                    LogJob::Release(to, message) => promises.push((to, message)),
                }
            }
            // A promise stands behind the write it waits for, so that write is in this batch or an
            // earlier one; each batch ends durable.
            let durable = newest.map(|staged| self.wal.sync(staged)).transpose()?;
            for (to, message) in promises.drain(..) {
                self.transport.send(to, message);
            }
            if let Some(durable) = durable {
                persisted(durable);
            }
        }
        Ok(())
    }
}
