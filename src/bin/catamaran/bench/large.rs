//! `bench large`: small commits, in turns with large ones beside them and without.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use catamaran::Options;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::clients::{Processes, Run, Target, Work};
use super::measured::{Measured, TURN};
use super::nodes::Nodes;
use super::{below, count, seconds};
use crate::Failure;
use crate::json::Object;
use crate::serve::with_segments;

/// What is around a value in the request to a process and in the entry it makes of that, at the most.
const AROUND_BYTES: usize = 128;

#[derive(Args)]
pub(crate) struct Large {
    /// Where to write; a new directory below it is used, and removed
    #[arg(long)]
    dir: PathBuf,
    /// Clients with small entries, each waiting for what it proposed
    #[arg(long, value_name = "N", default_value = "16", value_parser = count())]
    clients: usize,
    /// The length of a small entry
    #[arg(long, value_name = "N", default_value = "128", value_parser = count())]
    entry_bytes: usize,
    /// The length of a large one
    #[arg(long, value_name = "N", default_value = "16777216", value_parser = RangedU64ValueParser::<usize>::new().range(1..=(63 << 20)))]
    large_bytes: usize,
    /// How long after one large proposal the next is made; at once when the one before is committed, if that takes
    /// longer
    #[arg(long, value_name = "N", default_value = "0", value_parser = RangedU64ValueParser::<u64>::new().range(0..=3_600_000))]
    every_ms: u64,
    /// How long to measure with large entries, and as long again without
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds())]
    seconds: u64,
    #[arg(long, value_name = "N", default_value = "134217728")]
    segment_bytes: u64,
    /// Runs each node as a process of its own, and asks over TCP
    #[arg(long)]
    tcp: bool,
    /// Prints one object
    #[arg(long)]
    json: bool,
}

/// What was measured.
struct Sides {
    /// Small entries with no large ones beside them.
    alone: Measured,
    /// With large ones.
    beside: Measured,
    large: Measured,
}

impl Large {
    pub(crate) fn run(self) -> Result<(), Failure> {
        below(&self.dir, |dir| self.measure(dir))
    }

    fn measure(&self, dir: &Path) -> Result<(), Failure> {
        let target = self.start(dir)?;
        let (small, large) = (vec![7; self.entry_bytes], vec![7; self.large_bytes]);
        let mut sides = Sides {
            alone: Measured::new()?,
            beside: Measured::new()?,
            large: Measured::new()?,
        };
        let every = Duration::from_millis(self.every_ms);
        // So long that each has its large ones.
        let turn = TURN.max(2 * every);
        let work = Work {
            clients: self.clients,
            entry: &small,
            inflight: 1,
            time: turn,
            run: Run::Threads,
        };
        let clients = |measured: &mut Measured| target.commit(&work, measured);
        clients(&mut Measured::new()?)?;
        let turns = u128::from(self.seconds * 1000) / turn.as_millis();
        for _ in 0..turns.max(1) {
            clients(&mut sides.alone)?;
            std::thread::scope(|scope| {
                let paced = scope.spawn(|| pace(&*target, &large, every, turn, &mut sides.large));
                let small = clients(&mut sides.beside);
                let large = paced.join();
                small.and(large.map_err(|_| Failure::runtime("a thread panicked"))?)
            })?;
        }
        self.report(&sides);
        Ok(())
    }

    fn start(&self, dir: &Path) -> Result<Box<dyn Target>, Failure> {
        let max_entry_bytes = self.large_bytes.max(self.entry_bytes) + AROUND_BYTES;
        if self.tcp {
            let most = max_entry_bytes.to_string();
            let more = ["--max-entry-bytes", &most];
            let processes = Processes::start(dir, 3, self.segment_bytes, &more)?;
            return Ok(Box::new(processes));
        }
        let options = Options {
            max_entry_bytes,
            ..with_segments(self.segment_bytes)
        };
        let nodes = Nodes::start(dir, 3, &options).map_err(Failure::usage)?;
        Ok(Box::new(nodes))
    }

    fn report(&self, sides: &Sides) {
        let Sides {
            alone,
            beside,
            large,
        } = sides;
        let us = |measured: &Measured, quantile| format!("{:.1}", measured.micros(quantile));
        let (p99, p50) = (beside.micros(0.99), beside.micros(0.5));
        if self.json {
            let mut object = Object::new();
            object
                .number("p50_us", us(beside, 0.5))
                .number("p99_us", us(beside, 0.99))
                .number("max_us", us(beside, 1.0))
                .number("p99_to_p50", format!("{:.2}", p99 / p50))
                .number("alone_p50_us", us(alone, 0.5))
                .number("alone_p99_us", us(alone, 0.99))
                .number("alone_max_us", us(alone, 1.0))
                .number(
                    "p99_to_alone_p50",
                    format!("{:.2}", p99 / alone.micros(0.5)),
                )
                .number("commits_per_s", format!("{:.0}", beside.rate()))
                .number("alone_commits_per_s", format!("{:.0}", alone.rate()))
                .number("large_per_s", format!("{:.1}", large.rate()))
                .number("large_p50_us", us(large, 0.5));
            println!("{}", object.finish());
            return;
        }
        for (name, side) in [
            ("alone", alone),
            ("beside large ones", beside),
            ("large", large),
        ] {
            println!(
                "{name:<18} {:>8.0} commits/s  p50 {:>9} us  p99 {:>9} us  max {:>9} us",
                side.rate(),
                us(side, 0.5),
                us(side, 0.99),
                us(side, 1.0),
            );
        }
        println!("p99 beside large ones to p50 {:.2}", p99 / p50);
    }
}

/// Commits large entries for so long, the next at the earliest so long after the one before.
fn pace(
    target: &dyn Target,
    entry: &[u8],
    every: Duration,
    time: Duration,
    measured: &mut Measured,
) -> Result<(), Failure> {
    let mut client = target.client(entry)?;
    let start = Instant::now();
    let mut begun = start;
    while begun - start < time {
        client.begin()?;
        client.finish()?;
        measured.record(begun.elapsed());
        measured.entries += 1;
        std::thread::sleep(every.saturating_sub(begun.elapsed()));
        begun = Instant::now();
    }
    measured.time += begun - start;
    Ok(())
}
