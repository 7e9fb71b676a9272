//! The log thread: makes writes durable, and lets go of the messages that promise them.
//!
//! The raft thread waits where more would be written than may wait for the disk. A leader that waits is not heard,
//! so that the others elect one whose disk works; a follower's messages are dropped behind it.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};

use crate::raft::message::Message;
use crate::transport::Transport;
use crate::types::{Durable, NodeId, Staged};
use crate::wal::{Wal, WalError};

/// Writes and promises that may wait for one fsync. Full: the raft thread waits for the disk.
const QUEUE: usize = 4_096;

/// Something for the log thread, in order.
pub(super) enum LogJob {
    /// Make this write durable, which takes so much of the backlog.
    Sync(Staged, u64),
    /// Send this once every write before it is durable.
    Release(NodeId, Message),
}

/// The raft thread's end of the queue to the log thread.
pub(super) struct LogQueue {
    jobs: Sender<LogJob>,
    backlog: Arc<Backlog>,
}

/// The log thread's end.
pub(super) struct LogJobs {
    jobs: Receiver<LogJob>,
    backlog: Arc<Backlog>,
}

/// The bytes that are written and not durable: in memory only.
struct Backlog {
    /// None once nobody makes anything durable any more.
    bytes: Mutex<Option<u64>>,
    less: Condvar,
    most: u64,
}

/// The queue to the log thread, on which writes of so many bytes may wait.
pub(super) fn queue(most: u64) -> (LogQueue, LogJobs) {
    let (sender, receiver) = bounded(QUEUE);
    let backlog = Arc::new(Backlog {
        bytes: Mutex::new(Some(0)),
        less: Condvar::new(),
        most,
    });
    let queue = LogQueue {
        jobs: sender,
        backlog: Arc::clone(&backlog),
    };
    let jobs = LogJobs {
        jobs: receiver,
        backlog,
    };
    (queue, jobs)
}

/// The log thread has ended, and will say why.
#[derive(Debug)]
pub(super) struct Ended;

impl LogQueue {
    /// Waits until a write of so many bytes may wait for the disk too. One alone always may, and one of none.
    pub(super) fn make_room(&self, more: u64) -> Result<(), Ended> {
        let mut bytes = self.backlog.bytes.lock();
        loop {
            let before = bytes.ok_or(Ended)?;
            let after = before.saturating_add(more);
            if before == 0 || more == 0 || after <= self.backlog.most {
                *bytes = Some(after);
                return Ok(());
            }
            self.backlog.less.wait(&mut bytes);
        }
    }

    pub(super) fn send(&self, job: LogJob) -> Result<(), Ended> {
        self.jobs.send(job).map_err(|_| Ended)
    }
}

impl LogJobs {
    fn durable(&self, bytes: u64) {
        if let Some(backlog) = &mut *self.backlog.bytes.lock() {
            *backlog = backlog.saturating_sub(bytes);
        }
        self.backlog.less.notify_one();
    }
}

impl Drop for LogJobs {
    fn drop(&mut self) {
        *self.backlog.bytes.lock() = None;
        self.backlog.less.notify_one();
    }
}

/// The log thread's own state.
pub(super) struct Writer {
    pub(super) jobs: LogJobs,
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
        let jobs = &self.jobs.jobs;
        while let Ok(first) = jobs.recv() {
            let (mut newest, mut bytes) = (None, 0);
            for job in std::iter::once(first).chain(jobs.try_iter().take(QUEUE)) {
                match job {
                    LogJob::Sync(staged, more) => {
                        newest = Some(staged);
                        bytes += more;
                    }
                    LogJob::Release(to, message) => promises.push((to, message)),
                }
            }
            // A promise stands behind the write it waits for, so that write is in this batch or an
            // earlier one; each batch ends durable.
            let durable = newest.map(|staged| self.wal.sync(staged)).transpose()?;
            self.jobs.durable(bytes);
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_write_waits_until_so_much_is_durable_that_it_has_room() {
        let (queue, jobs) = queue(100);
        queue.make_room(60).unwrap();
        queue.make_room(0).unwrap();
        queue.make_room(40).unwrap();
        let (told, tells) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                queue.make_room(50).unwrap();
                told.send(()).unwrap();
                queue.make_room(500).unwrap();
            });
            jobs.durable(40);
            assert!(tells.try_recv().is_err(), "10 too many");
            jobs.durable(60);
            tells.recv().unwrap();
            // Larger than all there is, it goes alone.
            jobs.durable(50);
        });
    }

    #[test]
    fn nobody_waits_for_a_log_thread_that_has_ended() {
        let (queue, jobs) = queue(100);
        queue.make_room(100).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.make_room(1).is_err());
            drop(jobs);
            assert!(waits.join().unwrap());
        });
    }
}
