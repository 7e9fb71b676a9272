//! Logs of others beside catamaran, on the same work in one run, as Markdown tables on stdout.
//!
//! Each does a short turn of the work, one after the other, round after round, so that what else the machine
//! does falls on all alike; the order turns with the rounds. The figures are medians over the rounds.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

mod append;
mod device;
mod engine;
mod open;
#[path = "../../../src/bin/catamaran/bench/raw.rs"]
mod raw;
mod table;
mod work;

use work::Work;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Durable appends
    Append,
    /// Opening a closed log of a million entries of 128 bytes, and reading it at random
    Open,
}

/// Measures logs on the same work, in turns
#[derive(Parser)]
pub(crate) struct Options {
    #[arg(value_enum, default_value = "append")]
    what: What,
    /// How long each does each work, in turns of half a second
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Where to write, on a real disk; new directories below it are used, and removed
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Those alone whose names begin so
    #[arg(long, value_name = "NAME,..", value_delimiter = ',')]
    only: Vec<String>,
    /// tN-BYTES: N threads that each wait for an entry of their own; bN-BYTES: one thread, N entries a sync
    #[arg(
        long,
        value_name = "WORK,..",
        value_delimiter = ',',
        default_value = "t1-128,t1-1024,b100-128,b100-1024,t16-128,t16-1024,t64-128"
    )]
    work: Vec<Work>,
}

impl Options {
    /// Whether one of this name is to be measured.
    fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.only.is_empty()
            || self
                .only
                .iter()
                .any(|only| name.starts_with(&only.to_lowercase()))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.what {
        What::Append => append::run(&options),
        What::Open => open::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}
