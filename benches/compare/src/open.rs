//! Opening a closed log, and reading it at random.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::engine::{ENGINES, Engine, Open, Setup};
use crate::table::{Rounds, Table, hundredths, short};
use crate::turns::TURN;
use crate::work::{Payload, Random};
use crate::{Options, Result};

const ENTRIES: u64 = 1_000_000;
const ENTRY_BYTES: usize = 128;
/// Entries a sync while it is filled.
const BATCH: usize = 100;
/// So much that nothing is ever dropped.
const KEEP_BYTES: u64 = 512 << 20;

/// What was seen after one opening.
struct Round {
    open: Duration,
    reads_per_s: f64,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let device = Device::below(&options.dir)?;
    let home = tempfile::tempdir_in(&options.dir)?;
    let payload = Payload::new();
    let entries = payload.entries(BATCH, ENTRY_BYTES);
    let engines: Vec<_> = ENGINES
        .iter()
        .filter(|(name, _)| options.wants(name))
        .collect();
    for (name, open) in &engines {
        eprintln!("filling {name}");
        let filled = fill(*open, &home.path().join(name), &entries);
        filled.map_err(|error| format!("{name}: {error}"))?;
    }
    let mut results: Vec<Vec<Round>> = engines.iter().map(|_| Vec::new()).collect();
    let rounds = options.rounds();
    for round in 0..rounds {
        for nth in 0..engines.len() {
            let nth = (round + nth) % engines.len();
            let (name, open) = engines[nth];
            let round = measure(*open, &home.path().join(name), &entries);
            results[nth].push(round.map_err(|error| format!("{name}: {error}"))?);
        }
    }
    let title = format!(
        "A log of {ENTRIES} entries of {ENTRY_BYTES} B, closed and opened again, its files in memory; {}; \
         medians of {rounds} rounds (lowest-highest)",
        device.machine()
    );
    print(engines.iter().map(|(name, _)| *name).zip(&results), &title);
    Ok(())
}

fn setup(dir: &Path) -> Setup<'_> {
    Setup {
        dir,
        threads: 1,
        keep_bytes: KEEP_BYTES,
    }
}

fn fill(open: Open, dir: &Path, entries: &[&[u8]]) -> Result<()> {
    std::fs::create_dir(dir)?;
    let log = open(&setup(dir))?;
    for _ in 0..ENTRIES / BATCH as u64 {
        log.append(0, entries)?;
    }
    log.close()
}

fn measure(open: Open, dir: &Path, entries: &[&[u8]]) -> Result<Round> {
    let start = Instant::now();
    let log = open(&setup(dir))?;
    let open = start.elapsed();
    check(&*log, entries)?;
    let mut random = Random(7);
    let (mut reads, start) = (0_u32, Instant::now());
    while start.elapsed() < TURN {
        // The clock is read seldom beside so many reads.
        for _ in 0..100 {
            log.read(random.next() % ENTRIES + 1, &mut |entry| {
                black_box(entry[0]);
            })?;
        }
        reads += 100;
    }
    let reads_per_s = f64::from(reads) / start.elapsed().as_secs_f64();
    log.close()?;
    Ok(Round { open, reads_per_s })
}

/// The first, the last and some between are what was written.
fn check(log: &dyn Engine, entries: &[&[u8]]) -> Result<()> {
    for index in (1..=ENTRIES).step_by(99_991).chain([ENTRIES]) {
        let expected = entries[(index as usize - 1) % BATCH];
        let mut same = false;
        log.read(index, &mut |entry| same = entry == expected)?;
        if !same {
            return Err(format!("entry {index} is not what was written").into());
        }
    }
    Ok(())
}

fn print<'a>(results: impl Iterator<Item = (&'a str, &'a Vec<Round>)>, title: &str) {
    let mut table = Table::new("log", ["opening, ms", "random reads/s, one thread"]);
    for (name, rounds) in results {
        let open = Rounds::new(rounds.iter().map(|round| round.open.as_secs_f64() * 1e3));
        let reads = Rounds::new(rounds.iter().map(|round| round.reads_per_s));
        let cells = [(open, hundredths as fn(f64) -> String), (reads, short)];
        table.row(
            name,
            cells.into_iter().map(|(figures, show)| {
                figures.map_or_else(String::new, |f| {
                    format!("{} ({})", show(f.median()), f.spread(show))
                })
            }),
        );
    }
    table.print(title);
}
