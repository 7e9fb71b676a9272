//! The apply thread: feeds committed entries to the state machine and answers clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::outcome::{Error, Slot};
use super::progress::Progress;
use super::snapshot::Schedule;
use crate::driver::{Replies, next_batch};
use crate::log::LogReader;
use crate::snapshot::Whole;
use crate::state_machine::StateMachine;
use crate::sync::{AtomicBool, Condvar, Mutex};
use crate::types::{Entry, EntryKind, LogId, LogIndex};

/// A read to be run on the state machine, with the last entry that it has applied, or told why it cannot be.
pub(super) type ReadJob<S> = Box<dyn FnOnce(Result<(&S, LogIndex), Error>) + Send>;

/// Entries handed to the state machine at once.
const BATCH_ENTRIES: usize = 1_024;
/// Payload bytes handed to the state machine at once, at least one entry.
const BATCH_BYTES: usize = 4 << 20;

/// What a turn of consensus has for the apply thread. It grows by what holds a permit only, so it is as
/// bounded as they are; the commit index is one value.
pub(super) struct ApplyQueue<S, R> {
    queued: Mutex<Work<S, R>>,
    arrived: Condvar,
    /// Reads that know what they must see have come, and the apply thread has not looked at them.
    has_reads: AtomicBool,
}

struct Work<S, R> {
    committed: LogIndex,
    slots: Replies<Slot<R>>,
    reads: Vec<(LogIndex, ReadJob<S>)>,
    /// A snapshot that takes the place of the log up to its last entry.
    install: Option<Arc<Whole>>,
    /// Something has come that the apply thread has not looked at.
    came: bool,
    /// The apply thread has nothing to do.
    waits: bool,
    /// There is a turn to be taken.
    nudged: bool,
    stopped: bool,
}

/// What the apply thread finds to do.
enum Next {
    /// To apply up to here, among other things.
    Apply(LogIndex),
    Turn,
    End,
}

impl<S, R> ApplyQueue<S, R> {
    pub(super) fn new() -> Self {
        let work = Work {
            committed: LogIndex::ZERO,
            slots: Replies::new(),
            reads: Vec::new(),
            install: None,
            came: false,
            waits: false,
            nudged: false,
            stopped: false,
        };
        Self {
            queued: Mutex::new(work),
            arrived: Condvar::new(),
            has_reads: AtomicBool::new(false),
        }
    }

    /// Entries up to `committed` are to be applied, and these slots to be answered, in order of index.
    pub(super) fn commit(
        &self,
        committed: LogIndex,
        slots: impl Iterator<Item = (LogId, Slot<R>)>,
    ) {
        self.put(|queued| {
            queued.committed = committed;
            queued.slots.extend(slots);
        });
    }

    /// These reads are to be run once entries up to `index` are applied.
    pub(super) fn read(&self, index: LogIndex, jobs: impl Iterator<Item = ReadJob<S>>) {
        self.has_reads.store(true, Ordering::Relaxed);
        self.put(|queued| queued.reads.extend(jobs.map(|job| (index, job))));
    }

    /// This read is to be run on what is applied.
    pub(super) fn read_stale(&self, job: ReadJob<S>) {
        self.put(|queued| queued.reads.push((LogIndex::ZERO, job)));
    }

    /// The state machine is to become what this snapshot says, before entries behind it are applied.
    pub(super) fn install(&self, whole: Arc<Whole>) {
        self.put(|queued| queued.install = Some(whole));
    }

    /// Has the apply thread look at what is added. Once it is stopped, that is dropped.
    fn put(&self, add: impl FnOnce(&mut Work<S, R>)) {
        let mut queued = self.queued.lock();
        if queued.stopped {
            return;
        }
        add(&mut queued);
        queued.came = true;
        drop(queued);
        self.arrived.notify_one();
    }

    /// Has the apply thread take a turn, if it waits: it does so before whatever comes meanwhile. False if not.
    pub(super) fn nudge(&self) -> bool {
        let mut queued = self.queued.lock();
        if !queued.waits || queued.stopped {
            return false;
        }
        let wake = !queued.nudged;
        queued.nudged = true;
        drop(queued);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    /// Whether something came that the apply thread is to do.
    pub(super) fn has_work(&self) -> bool {
        self.queued.lock().came
    }

    /// Whether reads wait for the apply thread, other than stale ones. It takes a turn behind them, for those that
    /// came meanwhile.
    pub(super) fn has_reads(&self) -> bool {
        self.has_reads.load(Ordering::Relaxed)
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
    pub(super) queue: Arc<ApplyQueue<M, M::Reply>>,
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
    /// Runs until the queue is stopped, or something fails. `turn` takes the turn of consensus if there is one to be
    /// taken.
    ///
    /// # Errors
    /// What stops the node: an entry that cannot be read, or a state machine that breaks its contract.
    pub(super) fn run(mut self, turn: impl Fn()) -> Result<(), String> {
        loop {
            match self.collect() {
                Next::End => return Ok(()),
                Next::Turn => turn(),
                Next::Apply(committed) => {
                    self.catch_up(committed)?;
                    if self.queue.has_reads.swap(false, Ordering::Relaxed) {
                        turn();
                    }
                }
            }
        }
    }

    fn catch_up(&mut self, committed: LogIndex) -> Result<(), String> {
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
        Ok(())
    }

    /// Waits for something to do. A turn goes first: who has nudged the thread counts on it.
    fn collect(&mut self) -> Next {
        let mut queued = self.queue.queued.lock();
        loop {
            if queued.stopped {
                return Next::End;
            }
            if std::mem::take(&mut queued.nudged) {
                return Next::Turn;
            }
            queued.came = false;
            let installs = queued.install.is_some();
            if installs || queued.committed > self.applied || !queued.reads.is_empty() {
                self.install = queued.install.take();
                self.slots.append(&mut queued.slots);
                self.reads.append(&mut queued.reads);
                return Next::Apply(queued.committed);
            }
            queued.waits = true;
            self.queue.arrived.wait(&mut queued);
            queued.waits = false;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apply_thread_that_is_at_work_or_has_ended_is_not_counted_on_for_a_turn() {
        let queue = ApplyQueue::<(), ()>::new();
        assert!(!queue.nudge(), "it may be at work for long");
        queue.queued.lock().waits = true;
        assert!(queue.nudge());
        assert!(queue.nudge(), "it is about to take the turn");
        queue.stop();
        assert!(!queue.nudge());
    }
}
