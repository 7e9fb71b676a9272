//! What a stopped node's disk holds, replayed into a store of its own.

use std::io;
use std::path::Path;

use catamaran::log::open_read_only;
use catamaran::types::LogIndex;
use catamaran::{Entry, EntryKind};

use crate::kv::Kv;
use crate::load::{Written, entry};
use crate::resp::Reply;

/// One node's log and what it makes of the store.
pub(crate) struct Replayed {
    pub(crate) entries: Vec<Entry>,
    store: Kv,
}

/// Reads all of a node's log from its directory.
pub(crate) fn replay(dir: &Path) -> io::Result<Replayed> {
    let log = open_read_only(dir).map_err(io::Error::other)?;
    let entries = log.entries(LogIndex::ZERO, LogIndex(u64::MAX));
    let entries = entries
        .collect::<Result<Vec<Entry>, _>>()
        .map_err(io::Error::other)?;
    let mut store = Kv::default();
    for entry in entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Normal)
    {
        store.apply_one(&entry.payload);
    }
    Ok(Replayed { entries, store })
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
