//! What a stopped node's disk holds, replayed into a store of its own.

use std::io;
use std::path::Path;
use std::sync::Arc;

use catamaran::log::{Inspection, open_read_only};
use catamaran::snapshot::SnapshotStore;
use catamaran::types::LogIndex;
use catamaran::vfs::StdDisk;
use catamaran::{Entry, EntryKind, StateMachine as _};

use crate::kv::Kv;
use crate::load::{Written, entry};
use crate::reply::Reply;

/// One node's log and what it makes of the store.
pub(crate) struct Replayed {
    pub(crate) entries: Vec<Entry>,
    pub(crate) store: Kv,
}

/// Reads the newest snapshot and all of the log from a stopped node's directory.
pub(crate) fn replay(dir: &Path) -> io::Result<Replayed> {
    let log = open_read_only(dir).map_err(io::Error::other)?;
    let mut store = Kv::default();
    let restored = restore(dir, &log, &mut store)?;
    let first = log.wal().first();
    if first.0 > restored.0 + 1 {
        let what = format!("the log begins at {first}, and the newest snapshot ends at {restored}");
        return Err(io::Error::other(what));
    }
    let entries = log.entries(first, LogIndex(u64::MAX));
    let entries = entries
        .collect::<Result<Vec<Entry>, _>>()
        .map_err(io::Error::other)?;
    let after = entries
        .iter()
        .filter(|entry| entry.id.index > restored && entry.kind == EntryKind::Normal);
    for entry in after {
        store.apply_one(&entry.payload);
    }
    Ok(Replayed { entries, store })
}

/// Restores the newest snapshot if there is one, and tells which entry it goes to.
fn restore(dir: &Path, log: &Inspection, store: &mut Kv) -> io::Result<LogIndex> {
    let Some(identity) = log.wal().identity() else {
        return Ok(LogIndex::ZERO);
    };
    let (disk, dir) = (Arc::new(StdDisk), dir.join("snapshots"));
    let (_, found) = SnapshotStore::open(disk, dir, identity.cluster).map_err(io::Error::other)?;
    if let Some((_, error)) = found.damaged.into_iter().next() {
        return Err(io::Error::other(error));
    }
    let Some(newest) = found.newest else {
        return Ok(LogIndex::ZERO);
    };
    let restored = newest.restore(|format, from| store.restore(format, from));
    restored.map_err(io::Error::other)?;
    Ok(newest.meta().last.index)
}

impl Replayed {
    /// How many of the acknowledged writes are there, with the value that was written.
    pub(crate) fn count_found(&self, written: &[Written]) -> u64 {
        let found = |writer: &Written| {
            let is_there = |&&number: &&u64| {
                let (key, value) = entry(writer.writer, number);
                self.store.get(key.as_bytes()) == Reply::text(value)
            };
            writer.acknowledged.iter().filter(is_there).count() as u64
        };
        written.iter().map(found).sum()
    }
}
