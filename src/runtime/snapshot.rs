//! Snapshots of the state machine: frozen on the apply thread, written by the snapshot thread while applying goes
//! on (thesis, section 5.1). The same thread takes in those of other members.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select};

use super::fetch::{Fetcher, Transfer};
use crate::config::Config;
use crate::snapshot::{Configuration, Meta, SnapshotError, SnapshotStore, SnapshotWriter, Whole};
use crate::state_machine::{Snapshot, StateMachine};
use crate::types::{ClusterId, Entry, EntryKind, LogId, LogIndex};

type WriteTo = dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send;

/// A frozen state, to be written.
pub(super) struct Frozen {
    meta: Meta,
    write: Box<WriteTo>,
    busy: Busy,
}

/// Set as long as there is a frozen state: only one at a time takes memory.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Says when the apply thread freezes its state.
pub(super) struct Schedule {
    every_entries: Option<u64>,
    every_bytes: Option<u64>,
    cluster: ClusterId,
    /// The last entry in the state that was frozen last.
    frozen: LogIndex,
    /// Payload bytes applied since.
    bytes: u64,
    configuration: Configuration,
    busy: Arc<AtomicBool>,
    jobs: Sender<Frozen>,
}

impl Schedule {
    /// What is due after the store's newest snapshot, and where the snapshot thread finds it.
    pub(super) fn new(config: &Config, store: &SnapshotStore) -> (Self, Receiver<Frozen>) {
        let (jobs, frozen) = bounded(1);
        let mut schedule = Self {
            every_entries: config.snapshot_entries,
            every_bytes: config.snapshot_bytes,
            cluster: store.cluster(),
            frozen: LogIndex::ZERO,
            bytes: 0,
            configuration: Configuration::default(),
            busy: Arc::new(AtomicBool::new(false)),
            jobs,
        };
        if let Some(whole) = store.newest() {
            schedule.restored(whole.meta());
        }
        (schedule, frozen)
    }

    /// The state is that of a snapshot now.
    pub(super) fn restored(&mut self, meta: &Meta) {
        self.frozen = meta.last.index;
        self.bytes = 0;
        self.configuration.clone_from(&meta.configuration);
    }

    /// How far a batch behind `applied` may go, so that all members freeze after the same entries.
    pub(super) fn limit(&self, applied: LogIndex) -> LogIndex {
        let every = self.every_entries.unwrap_or(u64::MAX);
        LogIndex((applied.0 / every).saturating_add(1).saturating_mul(every))
    }

    /// Takes note of what was applied.
    pub(super) fn applied(&mut self, batch: &[Entry]) {
        for entry in batch {
            self.bytes += entry.payload.len() as u64;
            if entry.kind == EntryKind::Config {
                self.configuration = Configuration {
                    index: entry.id.index,
                    bytes: entry.payload.to_vec(),
                };
            }
        }
    }

    /// Whether the state behind `applied` is to be frozen.
    pub(super) fn is_due(&self, applied: LogIndex) -> bool {
        let by_entries = self
            .every_entries
            .is_some_and(|every| applied.0 / every > self.frozen.0 / every);
        let by_bytes = self.every_bytes.is_some_and(|every| self.bytes >= every);
        (by_entries || by_bytes) && !self.busy.load(Ordering::Acquire)
    }

    /// Freezes the state of a machine whose last entry is `last`, and hands it to the snapshot thread.
    pub(super) fn freeze<M: StateMachine>(&mut self, machine: &M, last: LogId) {
        self.frozen = last.index;
        self.bytes = 0;
        let Some(snapshot) = machine.freeze() else {
            return;
        };
        self.busy.store(true, Ordering::Release);
        let meta = Meta {
            cluster: self.cluster,
            last,
            configuration: self.configuration.clone(),
            state_format: snapshot.format(),
        };
        // There is room, since there was none of them. If the snapshot thread has ended, so does the node.
        let _ = self.jobs.try_send(Frozen {
            meta,
            write: Box::new(move |out| snapshot.write_to(out)),
            busy: Busy(Arc::clone(&self.busy)),
        });
    }
}

/// The snapshot thread's own state.
pub(super) struct Snapshotter<S> {
    pub(super) store: SnapshotStore,
    pub(super) jobs: Receiver<Frozen>,
    pub(super) transfers: Receiver<Transfer>,
    pub(super) fetcher: Fetcher,
    /// Whether the node has stopped, or failed. Nothing is published then any more.
    pub(super) stopped: S,
}

impl<S: Fn() -> bool> Snapshotter<S> {
    /// Runs until the other end of one of its queues is dropped; tells `taken` and `fetched` of each snapshot
    /// that is durable.
    pub(super) fn run(mut self, taken: impl Fn(LogId), fetched: impl Fn(Arc<Whole>)) {
        loop {
            let due = self.fetcher.due().map_or_else(never, at);
            select! {
                recv(self.jobs) -> frozen => {
                    let Ok(frozen) = frozen else { return };
                    self.write(frozen, &taken);
                }
                recv(self.transfers) -> transfer => {
                    let Ok(transfer) = transfer else { return };
                    let whole = self.fetcher.take(transfer, Instant::now());
                    whole.into_iter().for_each(&fetched);
                }
                recv(due) -> now => self.fetcher.tick(now.unwrap_or_else(|_| Instant::now())),
            }
        }
    }

    fn write(&self, Frozen { meta, write, busy }: Frozen, taken: impl Fn(LogId)) {
        let last = meta.last;
        if self
            .store
            .last()
            .is_some_and(|newest| newest.index >= last.index)
        {
            return;
        }
        let written = self.take(meta, write);
        // Before anybody hears of it, who may then rely on the next one being taken when it is due.
        drop(busy);
        match written {
            Ok(whole) => {
                let bytes = whole.id().bytes;
                crate::trace::info!(%last, bytes, "a snapshot was taken");
                taken(last);
            }
            // Nothing rests on it: the log is kept, and the next one is due in time.
            Err(error) if !(self.stopped)() => {
                crate::trace::warn!(%last, %error, "no snapshot could be taken");
            }
            Err(_) => {}
        }
    }

    fn take(
        &self,
        meta: Meta,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Arc<Whole>, SnapshotError> {
        let mut out = Guarded {
            writer: self.store.begin(meta)?,
            stopped: &self.stopped,
        };
        let written = write(&mut out).and_then(|()| out.check());
        match written {
            Ok(()) => out.writer.publish(),
            Err(error) => Err(out.writer.give_up(error)),
        }
    }
}

/// Fails once the node has stopped.
struct Guarded<'a, S> {
    writer: SnapshotWriter,
    stopped: &'a S,
}

impl<S: Fn() -> bool> Guarded<'_, S> {
    fn check(&self) -> io::Result<()> {
        if (self.stopped)() {
            return Err(io::Error::other("the node has stopped"));
        }
        Ok(())
    }
}

impl<S: Fn() -> bool> Write for Guarded<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
