//! `bench`: durable throughput and latency, with the bare device measured beside it in turns.

use clap::{Args, Subcommand};

use crate::Failure;

pub(crate) mod raw;
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
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Wal(wal) => wal.run(),
        }
    }
}
