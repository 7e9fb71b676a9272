//! The logs that are compared, each behind the same few calls.

use std::path::Path;

use crate::Result;

mod catamaran;
mod fjall;
mod lmdb;
mod okaywal;
pub(crate) mod raft_engine;
pub(crate) mod raft_log;
mod redb;

/// A log whose entries are numbered from 1 in the order they were appended.
pub(crate) trait Engine: Send + Sync {
    /// Appends entries and returns when an fsync or fdatasync covers them. `thread` numbers the callers,
    /// from 0.
    fn append(&self, thread: usize, entries: &[&[u8]]) -> Result<()>;

    /// Lets go of all but about the last `keep` entries, as its users do. One caller at a time.
    fn trim(&self, keep: u64) -> Result<()>;

    /// Passes entry `index` to `sink`, without a copy where the engine can. Only after reopening a log that
    /// one thread wrote.
    fn read(&self, index: u64, sink: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Ends what runs in the background.
    fn close(self: Box<Self>) -> Result<()>;
}

/// What an engine is opened for.
pub(crate) struct Setup<'a> {
    /// Its own directory, which exists.
    pub(crate) dir: &'a Path,
    /// How many threads append.
    pub(crate) threads: usize,
    /// About how many bytes of entries it is to keep.
    pub(crate) keep_bytes: u64,
}

pub(crate) type Open = fn(&Setup<'_>) -> Result<Box<dyn Engine>>;

/// All engines, ours last.
pub(crate) const ENGINES: &[(&str, Open)] = &[
    ("raft-engine 0.4", raft_engine::open),
    ("raft-log 0.4", raft_log::open),
    ("okaywal 0.3", okaywal::open),
    ("redb 4", redb::open),
    ("fjall 3", fjall::open),
    ("LMDB (heed)", lmdb::open),
    ("catamaran", catamaran::open),
];

/// The error for an entry that an engine ought to have.
fn missing(index: u64) -> Box<dyn std::error::Error + Send + Sync> {
    format!("entry {index} is missing").into()
}
