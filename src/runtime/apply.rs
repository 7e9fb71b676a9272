//! The apply thread: feeds committed entries to the state machine and answers clients.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::outcome::{Error, Slot};
use super::progress::Progress;
use super::snapshot::Schedule;
use crate::driver::{Replies, next_batch};
use crate::log::LogReader;
use crate::snapshot::Whole;
use crate::state_machine::StateMachine;
use crate::types::{Entry, EntryKind, LogId, LogIndex};

/// A read to be run on the state machine, with the last entry that it has applied, or told why it cannot be.
pub(super) type ReadJob<S> = Box<dyn FnOnce(Result<(&S, LogIndex), Error>) + Send>;

/// Entries handed to the state machine at once.
const BATCH_ENTRIES: usize = 1_024;
/// Payload bytes handed to the state machine at once, at least one entry.
const BATCH_BYTES: usize = 4 << 20;

/// What a turn of consensus has for the apply thread. It grows by what holds a permit only, so it is as
/// bounded as they are; the commit index is one value.
pub(super) struct ApplyQueue<M: StateMachine> {
    queued: Mutex<Work<M>>,
    arrived: Condvar,
}

struct Work<M: StateMachine> {
    committed: LogIndex,
    slots: Replies<Slot<M::Reply>>,
    reads: Vec<(LogIndex, ReadJob<M>)>,
    /// A snapshot that takes the place of the log up to its last entry.
    install: Option<Arc<Whole>>,
    stopped: bool,
}

impl<M: StateMachine> ApplyQueue<M> {
    pub(super) fn new() -> Self {
        let work = Work {
            committed: LogIndex::ZERO,
            slots: Replies::new(),
            reads: Vec::new(),
            install: None,
            stopped: false,
        };
        Self {
            queued: Mutex::new(work),
            arrived: Condvar::new(),
        }
    }

    /// Entries up to `committed` are to be applied, and these slots to be answered, in order of index.
    pub(super) fn commit(
        &self,
        committed: LogIndex,
        slots: impl Iterator<Item = (LogId, Slot<M::Reply>)>,
    ) {
        let mut queued = self.queued.lock();
        if queued.stopped {
            return;
        }
        queued.committed = committed;
        queued.slots.extend(slots);
        drop(queued);
        self.arrived.notify_one();
    }

    /// These reads are to be run once entries up to `index` are applied.
    pub(super) fn read(&self, index: LogIndex, jobs: impl Iterator<Item = ReadJob<M>>) {
        let mut queued = self.queued.lock();
        if queued.stopped {
            return;
        }
        queued.reads.extend(jobs.map(|job| (index, job)));
        drop(queued);
        self.arrived.notify_one();
    }

    /// The state machine is to become what this snapshot says, before entries behind it are applied.
    pub(super) fn install(&self, whole: Arc<Whole>) {
        self.queued.lock().install = Some(whole);
        self.arrived.notify_one();
    }

    fn is_to_install(&self) -> bool {
        self.queued.lock().install.is_some()
    }

    fn is_stopped(&self) -> bool {
        self.queued.lock().stopped
    }

    /// Stops the apply thread. Nobody takes from the queue after this, and nobody puts in: what it held,
    /// and what comes yet, is dropped, which tells those who wait.
    pub(super) fn stop(&self) {
        let mut queued = self.queued.lock();
        queued.stopped = true;
        let slots = std::mem::replace(&mut queued.slots, Replies::new());
        let reads = std::mem::take(&mut queued.reads);
        drop(queued);
        self.arrived.notify_one();
        drop((slots, reads));
    }
}

/// The apply thread's own state.
pub(super) struct Applier<M: StateMachine> {
    pub(super) machine: M,
    pub(super) queue: Arc<ApplyQueue<M>>,
    pub(super) reader: LogReader,
    pub(super) progress: Arc<Progress>,
    pub(super) applied: LogIndex,
    pub(super) snapshots: Schedule,
    /// Taken off the queue, and not yet restored from.
    pub(super) install: Option<Arc<Whole>>,
    /// Taken off the queue, and not yet answered.
    pub(super) slots: Replies<Slot<M::Reply>>,
    pub(super) reads: Vec<(LogIndex, ReadJob<M>)>,
}

impl<M: StateMachine> Applier<M> {
    /// Runs until the queue is stopped, or something fails.
    ///
    /// # Errors
    /// What stops the node: an entry that cannot be read, or a state machine that breaks its contract.
    pub(super) fn run(mut self) -> Result<(), String> {
        while let Some(committed) = self.collect() {
            self.install()?;
            // One batch at a time, so that a read need not wait for all that is to be applied.
            if self.applied < committed {
                let limits = (BATCH_ENTRIES, BATCH_BYTES);
                let upto = committed.min(self.snapshots.limit(self.applied));
                match next_batch(&self.reader, self.applied, upto, limits) {
                    // The log went meanwhile, and a snapshot takes its place.
                    Err(_) if self.queue.is_to_install() => {}
                    batch => {
                        let batch = batch?;
                        self.apply(&batch)?;
                        self.freeze(&batch);
                    }
                }
            }
            self.run_reads();
        }
        Ok(())
    }

    /// Waits for work; gives the commit index, or None when stopped.
    fn collect(&mut self) -> Option<LogIndex> {
        let mut queued = self.queue.queued.lock();
        loop {
            if queued.stopped {
                return None;
            }
            let installs = queued.install.is_some();
            if installs || queued.committed > self.applied || !queued.reads.is_empty() {
                self.install = queued.install.take();
                self.slots.append(&mut queued.slots);
                self.reads.append(&mut queued.reads);
                return Some(queued.committed);
            }
            self.queue.arrived.wait(&mut queued);
        }
    }

    /// Becomes what a fetched snapshot says.
    fn install(&mut self) -> Result<(), String> {
        let Some(whole) = self.install.take() else {
            return Ok(());
        };
        let restored = whole.restore(|format, from| self.machine.restore(format, from));
        restored.map_err(|error| format!("cannot restore a snapshot: {error}"))?;
        let last = whole.meta().last;
        drop(self.slots.take(last));
        self.snapshots.restored(&whole);
        self.applied = last.index;
        self.progress.applied(last.index);
        crate::trace::info!(%last, "a snapshot was installed");
        Ok(())
    }

    /// Takes a snapshot if one is due. A machine that failed never gets here, and of a node that stops over a
    /// failure elsewhere none is wanted.
    fn freeze(&mut self, batch: &[Entry]) {
        self.snapshots.applied(batch);
        if let Some(last) = batch.last()
            && self.snapshots.is_due(last.id.index)
            && !self.queue.is_stopped()
        {
            self.snapshots.freeze(&self.machine, last.id);
        }
    }

    fn apply(&mut self, batch: &[Entry]) -> Result<(), String> {
        let Some(last) = batch.last().map(|entry| entry.id) else {
            return Ok(());
        };
        for run in batch.chunk_by(|a, b| a.kind == b.kind) {
            if run[0].kind == EntryKind::Normal {
                self.apply_normal(run)?;
            }
        }
        drop(self.slots.take(last));
        self.applied = last.index;
        self.progress.applied(last.index);
        Ok(())
    }

    fn apply_normal(&mut self, entries: &[Entry]) -> Result<(), String> {
        let replies = self.machine.apply(entries);
        if replies.len() != entries.len() {
            let (replies, entries) = (replies.len(), entries.len());
            return Err(format!(
                "the state machine gave {replies} replies to {entries} entries"
            ));
        }
        for (entry, reply) in entries.iter().zip(replies) {
            if let Some(slot) = self.slots.take(entry.id) {
                slot.complete(Ok(reply));
            }
        }
        Ok(())
    }

    fn run_reads(&mut self) {
        let applied = self.applied;
        for (_, job) in self.reads.extract_if(.., |(index, _)| *index <= applied) {
            job(Ok((&self.machine, applied)));
        }
    }
}
