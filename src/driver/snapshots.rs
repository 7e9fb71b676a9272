//! When a snapshot of the state machine is due, what it is of, and how it comes to be a file (thesis, section 5.1).

use std::io::{self, Write};
use std::sync::Arc;

use crate::config::Config;
use crate::snapshot::{Configuration, Meta, SnapshotError, SnapshotStore, SnapshotWriter, Whole};
use crate::state_machine::{Snapshot, StateMachine};
use crate::types::{ClusterId, Entry, EntryKind, LogId, LogIndex};

type WriteTo = dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send;

/// Says when the state of a machine is frozen, and what it is of then.
pub(crate) struct Schedule {
    every_entries: Option<u64>,
    every_bytes: Option<u64>,
    cluster: ClusterId,
    /// The last entry in the state that was frozen last.
    frozen: LogIndex,
    /// Payload bytes applied since.
    bytes: u64,
    configuration: Configuration,
}

impl Schedule {
    /// What is due after the store's newest snapshot.
    pub(crate) fn new(config: &Config, store: &SnapshotStore) -> Self {
        let mut schedule = Self {
            every_entries: config.snapshot_entries,
            every_bytes: config.snapshot_bytes,
            cluster: store.cluster(),
            frozen: LogIndex::ZERO,
            bytes: 0,
            configuration: Configuration::default(),
        };
        if let Some(whole) = store.newest() {
            schedule.restored(whole.meta());
        }
        schedule
    }

    /// The state is that of a snapshot now.
    pub(crate) fn restored(&mut self, meta: &Meta) {
        self.frozen = meta.last.index;
        self.bytes = 0;
        self.configuration.clone_from(&meta.configuration);
    }

    /// How far a batch behind `applied` may go, so that all members freeze after the same entries.
    pub(crate) fn limit(&self, applied: LogIndex) -> LogIndex {
        let every = self.every_entries.unwrap_or(u64::MAX);
        LogIndex((applied.0 / every).saturating_add(1).saturating_mul(every))
    }

    /// Takes note of what was applied.
    pub(crate) fn applied(&mut self, batch: &[Entry]) {
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
    pub(crate) fn is_due(&self, applied: LogIndex) -> bool {
        let by_entries = self
            .every_entries
            .is_some_and(|every| applied.0 / every > self.frozen.0 / every);
        let by_bytes = self.every_bytes.is_some_and(|every| self.bytes >= every);
        by_entries || by_bytes
    }

    /// Freezes the state of a machine whose last entry is `last`. None if it has none to give now.
    pub(crate) fn freeze(&mut self, machine: &impl StateMachine, last: LogId) -> Option<Frozen> {
        self.frozen = last.index;
        self.bytes = 0;
        let snapshot = machine.freeze()?;
        let meta = Meta {
            cluster: self.cluster,
            last,
            configuration: self.configuration.clone(),
            state_format: snapshot.format(),
        };
        Some(Frozen {
            meta,
            write: Box::new(move |out| snapshot.write_to(out)),
        })
    }
}

/// A frozen state, to be written.
pub(crate) struct Frozen {
    meta: Meta,
    write: Box<WriteTo>,
}

impl Frozen {
    /// The last entry that it has in it.
    pub(crate) const fn last(&self) -> LogId {
        self.meta.last
    }

    /// Makes it a durable snapshot, unless the store has one that is newer, or `stopped` says that none is wanted
    /// any more.
    ///
    /// # Errors
    /// Those of the disk and of the state machine. Nothing rests on it: the log is kept.
    pub(crate) fn publish(
        self,
        store: &SnapshotStore,
        stopped: impl Fn() -> bool,
    ) -> Result<Option<Arc<Whole>>, SnapshotError> {
        let newest = store.last().map(|last| last.index);
        if newest >= Some(self.meta.last.index) {
            return Ok(None);
        }
        let mut out = Guarded {
            writer: store.begin(self.meta)?,
            stopped,
        };
        let written = (self.write)(&mut out).and_then(|()| out.check());
        match written {
            Ok(()) => out.writer.publish().map(Some),
            Err(error) => Err(out.writer.give_up(error)),
        }
    }
}

/// Fails once the node has stopped.
struct Guarded<S> {
    writer: SnapshotWriter,
    stopped: S,
}

impl<S: Fn() -> bool> Guarded<S> {
    fn check(&self) -> io::Result<()> {
        if (self.stopped)() {
            return Err(io::Error::other("the node has stopped"));
        }
        Ok(())
    }
}

impl<S: Fn() -> bool> Write for Guarded<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
