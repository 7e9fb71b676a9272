//! `bench`: durable throughput and latency, with the bare device measured beside it in turns.

use std::path::Path;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};

use crate::Failure;

mod catch_up;
mod clients;
mod copy;
mod failover;
mod large;
mod many;
mod measured;
pub(crate) mod nodes;
pub(crate) mod raw;
mod reads;
mod replicate;
mod switches;
mod tasks;
mod wal;

#[derive(Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Appends to a log that is in use: old entries are dropped as new ones come
    Wal(wal::Wal),
    /// Gives a member that was away what it lacks, beside a bare copy of as many bytes
    CatchUp(catch_up::CatchUp),
    /// Small commits, with large ones beside them and without
    Large(large::Large),
    /// Linearizable reads of a cluster in this process, and stale ones
    Reads(reads::Reads),
    /// Commits on a cluster, each node with its own directory
    Replicate(replicate::Replicate),
    /// Kills the leader again and again
    Failover(failover::Failover),
}

/// An option that is a count.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1 << 20)
}

/// For how many seconds.
fn seconds() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=3600)
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Wal(wal) => wal.run(),
            What::CatchUp(catch_up) => catch_up.run(),
            What::Large(large) => large.run(),
            What::Reads(reads) => reads.run(),
            What::Replicate(replicate) => replicate.run(),
            What::Failover(failover) => failover.run(),
        }
    }
}

/// Measures in a new directory below `dir`, which is removed then.
fn below(dir: &Path, measure: impl FnOnce(&Path) -> Result<(), Failure>) -> Result<(), Failure> {
    let dir = dir.join(format!("catamaran-bench-{}", std::process::id()));
    let failed = |error| format!("{}: {error}", dir.display());
    std::fs::create_dir_all(&dir).map_err(|error| Failure::usage(failed(error)))?;
    let done = measure(&dir);
    let removed = std::fs::remove_dir_all(&dir);
    done.and_then(|()| removed.map_err(|error| Failure::runtime(failed(error))))
}
