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
#[path = "../../../src/bin/catamaran/bench/nodes.rs"]
mod nodes;
mod open;
#[path = "../../../src/bin/catamaran/bench/raw.rs"]
mod raw;
mod replicate;
mod table;
mod turns;
mod work;

use turns::TURN;
use work::Work;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is measured.
#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Durable appends
    Append,
    /// Opening a closed log of a million entries of 128 bytes, and reading it at random
    Open,
    /// Commits on three durable nodes in one process
    Replicate,
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
    /// tN-BYTES: N threads or clients that each wait for an entry of their own; bN-BYTES: one thread, N
    /// entries a sync
    #[arg(long, value_name = "WORK,..", value_delimiter = ',')]
    work: Vec<Work>,
}

impl Options {
    /// Whether one of this name is to be measured.
    fn wants(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let begins = |only: &String| name.starts_with(&only.to_lowercase());
        self.only.is_empty() || self.only.iter().any(begins)
    }

    /// The work that was asked for, or else the usual.
    fn work(&self, usual: &[&str]) -> Result<Vec<Work>> {
        if !self.work.is_empty() {
            return Ok(self.work.clone());
        }
        usual.iter().map(|work| Ok(work.parse()?)).collect()
    }

    fn rounds(&self) -> usize {
        self.seconds as usize * 1000 / TURN.as_millis() as usize
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.what {
        What::Append => append::run(&options),
        What::Open => open::run(&options),
        What::Replicate => replicate::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}
