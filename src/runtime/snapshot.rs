//! Snapshots of the state machine: frozen on the apply thread, written by the snapshot thread while applying goes
//! on (thesis, section 5.1). The same thread takes in those of other members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select};

use crate::config::Config;
use crate::driver::{self, Fetcher, Frozen, Transfer};
use crate::snapshot::{SnapshotStore, Whole};
use crate::state_machine::StateMachine;
use crate::transport::Transport;
use crate::types::{Entry, LogId, LogIndex, Time};

/// Set as long as there is a frozen state: only one at a time takes memory.
pub(super) struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Says when the apply thread freezes its state, and hands that to the snapshot thread.
pub(super) struct Schedule {
    schedule: driver::Schedule,
    busy: Arc<AtomicBool>,
    jobs: Sender<(Frozen, Busy)>,
}

impl Schedule {
    /// What is due after the store's newest snapshot, and where the snapshot thread finds it.
    pub(super) fn new(config: &Config, store: &SnapshotStore) -> (Self, Receiver<(Frozen, Busy)>) {
        let (jobs, frozen) = bounded(1);
        let schedule = Self {
            schedule: driver::Schedule::new(config, store),
            busy: Arc::new(AtomicBool::new(false)),
            jobs,
        };
        (schedule, frozen)
    }

    /// The state is that of a snapshot now.
    pub(super) fn restored(&mut self, whole: &Whole) {
        self.schedule.restored(whole.meta());
    }

    /// How far a batch behind `applied` may go.
    pub(super) fn limit(&self, applied: LogIndex) -> LogIndex {
        self.schedule.limit(applied)
    }

    /// Takes note of what was applied.
    pub(super) fn applied(&mut self, batch: &[Entry]) {
        self.schedule.applied(batch);
    }

    /// Whether the state behind `applied` is to be frozen.
    pub(super) fn is_due(&self, applied: LogIndex) -> bool {
        self.schedule.is_due(applied) && !self.busy.load(Ordering::Acquire)
    }

    /// Freezes the state of a machine whose last entry is `last`, and hands it to the snapshot thread.
    pub(super) fn freeze<M: StateMachine>(&mut self, machine: &M, last: LogId) {
        if let Some(frozen) = self.schedule.freeze(machine, last) {
            self.busy.store(true, Ordering::Release);
            // There is room, since there was none of them. If the snapshot thread has ended, so does the node.
            let _ = self.jobs.try_send((frozen, Busy(Arc::clone(&self.busy))));
        }
    }
}

/// The snapshot thread's own state.
pub(super) struct Snapshotter<S> {
    pub(super) store: SnapshotStore,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) jobs: Receiver<(Frozen, Busy)>,
    pub(super) transfers: Receiver<Transfer>,
    pub(super) fetcher: Fetcher,
    /// Where [`Time`] counts from.
    pub(super) origin: Instant,
    /// Whether the node has stopped, or failed. Nothing is published then any more.
    pub(super) stopped: S,
}

impl<S: Fn() -> bool> Snapshotter<S> {
    /// Runs until the other end of one of its queues is dropped; tells `taken` and `fetched` of each snapshot
    /// that is durable.
    pub(super) fn run(mut self, taken: impl Fn(LogId), fetched: impl Fn(Arc<Whole>)) {
        loop {
            let due = self.fetcher.due();
            let due = due.map(|due| self.origin + Duration::from_micros(due.0));
            select! {
                recv(self.jobs) -> job => {
                    let Ok((frozen, busy)) = job else { return };
                    self.write(frozen, busy, &taken);
                }
                recv(self.transfers) -> transfer => {
                    let Ok(transfer) = transfer else { return };
                    self.take(transfer).into_iter().for_each(&fetched);
                }
                recv(due.map_or_else(never, at)) -> _ => self.fetcher.tick(self.now()),
            }
            if let Some((to, ask)) = self.fetcher.take_ask() {
                self.transport.ask(to, ask);
            }
        }
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn take(&mut self, transfer: Transfer) -> Option<Arc<Whole>> {
        let taken = self.fetcher.take(transfer, self.now());
        taken.unwrap_or_else(|error| {
            crate::trace::warn!(%error, "a snapshot that was fetched is given up");
            None
        })
    }

    fn write(&self, frozen: Frozen, busy: Busy, taken: impl Fn(LogId)) {
        let last = frozen.last();
        let written = frozen.publish(&self.store, &self.stopped);
        // Before anybody hears of it, who may then rely on the next one being taken when it is due.
        drop(busy);
        match written {
            Ok(Some(whole)) => {
                let bytes = whole.id().bytes;
                crate::trace::info!(%last, bytes, "a snapshot was taken");
                taken(last);
            }
            Ok(None) => {}
            // Nothing rests on it: the log is kept, and the next one is due in time.
            Err(error) if !(self.stopped)() => {
                crate::trace::warn!(%last, %error, "no snapshot could be taken");
            }
            Err(_) => {}
        }
    }
}
