//! `bench reads`: reads of a cluster in this process.

use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use catamaran::{ClockBound, Error, Node, Options};
use clap::{Args, ValueEnum};

use super::measured::{Measured, TURN};
use super::nodes::{Count, Nodes};
use super::{below, count, seconds, tasks};
use crate::Failure;
use crate::json::Object;
use crate::serve::with_segments;

/// The clocks of one process are one.
const BOUND: ClockBound = ClockBound { drift_ppm: 1_000 };

#[derive(Args)]
pub(crate) struct Reads {
    /// Where to write; a new directory below it is used, and removed
    #[arg(long)]
    dir: PathBuf,
    /// Clients, each waiting for what it reads
    #[arg(long, value_name = "N", default_value = "64", value_parser = count())]
    clients: usize,
    /// How the leader makes sure that what it reads is not of the past
    #[arg(long, value_enum, default_value = "round")]
    by: By,
    /// Has the clients be tasks of one thread, which await what they read
    #[arg(long)]
    tasks: bool,
    /// How long to measure
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds())]
    seconds: u64,
    #[arg(long, value_name = "N", default_value = "67108864")]
    segment_bytes: u64,
    /// Prints one object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    /// A round of heartbeats for all that wait
    Round,
    /// Its lease
    Lease,
    /// Not at all
    Stale,
}

impl Reads {
    pub(crate) fn run(self) -> Result<(), Failure> {
        below(&self.dir, |dir| self.measure(dir))
    }

    fn measure(&self, dir: &Path) -> Result<(), Failure> {
        let options = Options {
            lease_reads: matches!(self.by, By::Lease).then_some(BOUND),
            ..with_segments(self.segment_bytes)
        };
        let nodes = Nodes::start(dir, 3, &options).map_err(Failure::usage)?;
        let node = nodes.leader();
        let first = node.propose(b"entry").map_err(Failure::runtime)?;
        first.wait().map_err(Failure::runtime)?;
        let turn = |measured: &mut Measured| match (self.tasks, self.by) {
            (false, _) => measured.threads(self.clients, |gate| self.client(node, gate)),
            (true, By::Round | By::Lease) => tasks::run(self.clients, TURN, measured, || {
                node.read_later(|count| count.0)
            }),
            (true, By::Stale) => tasks::run(self.clients, TURN, measured, || {
                node.read_stale_later(|count| count.0)
            }),
        };
        turn(&mut Measured::new()?)?;
        let mut measured = Measured::new()?;
        for _ in 0..self.seconds * 1000 / TURN.as_millis() as u64 {
            turn(&mut measured)?;
        }
        self.report(&measured);
        Ok(())
    }

    /// Reads and waits for a turn's time.
    fn client(&self, node: &Node<Count>, gate: &Barrier) -> Result<Measured, Failure> {
        let mut measured = Measured::new()?;
        gate.wait();
        let start = Instant::now();
        let mut begun = start;
        while begun - start < TURN {
            self.read(node).map_err(Failure::runtime)?;
            let end = Instant::now();
            measured.record(end - begun);
            measured.entries += 1;
            begun = end;
        }
        Ok(measured)
    }

    fn read(&self, node: &Node<Count>) -> Result<u64, Error> {
        match self.by {
            By::Round | By::Lease => node.read(|count| count.0),
            By::Stale => node.read_stale(|count| count.0).map(|(count, _)| count),
        }
    }

    fn report(&self, measured: &Measured) {
        let (rate, p50, p99) = (measured.rate(), measured.micros(0.5), measured.micros(0.99));
        if self.json {
            let mut object = Object::new();
            object
                .number("reads_per_s", format!("{rate:.0}"))
                .number("p50_us", format!("{p50:.1}"))
                .number("p99_us", format!("{p99:.1}"));
            println!("{}", object.finish());
            return;
        }
        println!("leader  {rate:>10.0} reads/s  p50 {p50:>7.1} us  p99 {p99:>7.1} us");
    }
}
