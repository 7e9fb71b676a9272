//! Durable appends, with the bare device in each round.

use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::engine::{ENGINES, Engine, Setup};
use crate::raw::Raw;
use crate::table::{Rounds, Table, hundredths, short};
use crate::work::{Payload, TURN, Work};
use crate::{Options, Result};

/// A log keeps about so many bytes of entries, as one does whose reader has taken what is older.
const KEEP_BYTES: usize = 64 << 20;
/// How often one of its threads sees to that.
const TRIM_EVERY_BYTES: usize = 16 << 20;

/// What was done in one turn.
struct Turn {
    /// Appends, each of a batch.
    appends: u64,
    time: Duration,
    /// Flushes of the device meanwhile.
    flushes: Option<u64>,
}

/// The bare device, or a log.
enum Who {
    /// One thread that syncs as many bytes at once as a sync of the log could cover at best.
    Device(Raw, Vec<u8>),
    Log(Box<dyn Engine>),
}

/// One of those compared, and its turns at one work.
struct Contender {
    name: &'static str,
    who: Who,
    turns: Vec<Turn>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let device = Device::below(&options.dir)?;
    let mut columns = Vec::new();
    for &work in &options.work {
        eprintln!("{work}");
        let results = measure(options, work, &device)?;
        columns.push(Column { work, results });
    }
    print(&columns, &device.machine(), options.seconds);
    Ok(())
}

/// All turns at one work. The first of each, which fills caches and creates files, does not count.
fn measure(
    options: &Options,
    work: Work,
    device: &Device,
) -> Result<Vec<(&'static str, Vec<Turn>)>> {
    let home = tempfile::tempdir_in(&options.dir)?;
    let payload = Payload::new();
    let entries = payload.entries(work.batch * work.threads, work.entry_bytes);
    let mut contenders = contenders(options, work, home.path(), &entries)?;
    let rounds = options.seconds as usize * 1000 / TURN.as_millis() as usize;
    for round in 0..=rounds {
        let count = contenders.len();
        for nth in 0..count {
            let contender = &mut contenders[(round + nth) % count];
            let flushes = device.flushes();
            let turn = match &mut contender.who {
                Who::Device(raw, block) => write(raw, block),
                Who::Log(log) => append(&**log, work, &entries[..work.batch]),
            };
            let mut turn = turn.map_err(|error| format!("{}: {error}", contender.name))?;
            turn.flushes = device
                .flushes()
                .zip(flushes)
                .map(|(after, before)| after - before);
            if round > 0 {
                contender.turns.push(turn);
            }
        }
    }
    let finish = |contender: Contender| {
        if let Who::Log(log) = contender.who {
            log.close()?;
        }
        Ok((contender.name, contender.turns))
    };
    contenders.into_iter().map(finish).collect()
}

fn contenders(
    options: &Options,
    work: Work,
    home: &Path,
    entries: &[&[u8]],
) -> Result<Vec<Contender>> {
    let raw = Raw::create(&home.join("raw"))?;
    let mut contenders = vec![Contender {
        name: "bare device",
        who: Who::Device(raw, entries.concat()),
        turns: Vec::new(),
    }];
    for &(name, open) in ENGINES.iter().filter(|(name, _)| options.wants(name)) {
        let dir = home.join(name);
        std::fs::create_dir(&dir)?;
        let log = open(&Setup {
            dir: &dir,
            threads: work.threads,
            keep_bytes: KEEP_BYTES as u64,
        })?;
        contenders.push(Contender {
            name,
            who: Who::Log(log),
            turns: Vec::new(),
        });
    }
    Ok(contenders)
}

fn write(raw: &mut Raw, block: &[u8]) -> Result<Turn> {
    let mut appends = 0;
    let start = Instant::now();
    while start.elapsed() < TURN {
        raw.write_and_sync(block)?;
        appends += 1;
    }
    Ok(Turn {
        appends,
        time: start.elapsed(),
        flushes: None,
    })
}

fn append(log: &dyn Engine, work: Work, entries: &[&[u8]]) -> Result<Turn> {
    let gate = Barrier::new(work.threads + 1);
    let (time, appends) = std::thread::scope(|scope| {
        let client = |thread| {
            let gate = &gate;
            scope.spawn(move || client(log, work, thread, entries, gate))
        };
        let clients: Vec<_> = (0..work.threads).map(client).collect();
        gate.wait();
        let start = Instant::now();
        let appends: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        (start.elapsed(), appends)
    });
    let mut turn = Turn {
        appends: 0,
        time,
        flushes: None,
    };
    for appends in appends {
        turn.appends += appends.map_err(|_| "a thread panicked")??;
    }
    Ok(turn)
}

/// Appends and waits for a turn's time.
fn client(
    log: &dyn Engine,
    work: Work,
    thread: usize,
    entries: &[&[u8]],
    gate: &Barrier,
) -> Result<u64> {
    // All threads append about as much, and the first trims for all.
    let trim_every = TRIM_EVERY_BYTES / (work.entry_bytes * work.batch * work.threads);
    let mut appends = 0;
    gate.wait();
    let start = Instant::now();
    while start.elapsed() < TURN {
        log.append(thread, entries)?;
        appends += 1;
        if thread == 0 && appends % trim_every as u64 == 0 {
            log.trim((KEEP_BYTES / work.entry_bytes) as u64)?;
        }
    }
    Ok(appends)
}

/// One work, and who did it how fast; the bare device comes first.
struct Column {
    work: Work,
    results: Vec<(&'static str, Vec<Turn>)>,
}

impl Column {
    /// Entries/s of each round.
    fn rates(&self, row: usize) -> impl Iterator<Item = f64> {
        let Work { threads, batch, .. } = self.work;
        let entries = if row == 0 { threads * batch } else { batch } as f64;
        let rate = move |turn: &Turn| turn.appends as f64 * entries / turn.time.as_secs_f64();
        self.results[row].1.iter().map(rate)
    }

    fn ratios(&self, row: usize) -> Option<Rounds> {
        Rounds::new(
            self.rates(row)
                .zip(self.rates(0))
                .map(|(log, device)| log / device),
        )
    }

    fn rate(&self, row: usize) -> Option<String> {
        let rate = short(Rounds::new(self.rates(row))?.median());
        match row {
            0 => Some(rate),
            _ => Some(format!(
                "{rate} ({})",
                hundredths(self.ratios(row)?.median())
            )),
        }
    }

    fn spread(&self, row: usize) -> Option<String> {
        match row {
            0 => Some(Rounds::new(self.rates(0))?.spread(short)),
            _ => Some(self.ratios(row)?.spread(hundredths)),
        }
    }

    fn flushes(&self, row: usize) -> Option<String> {
        let each = |turn: &Turn| Some(turn.flushes? as f64 / turn.appends as f64);
        let each: Option<Vec<f64>> = self.results[row].1.iter().map(each).collect();
        Some(hundredths(Rounds::new(each?)?.median()))
    }
}

fn print(columns: &[Column], machine: &str, seconds: u32) {
    let table = |cell: fn(&Column, usize) -> Option<String>, title: &str| {
        let mut table = Table::new("log", columns.iter().map(|column| column.work));
        let names = columns.first().map_or(&[][..], |column| &column.results);
        for (row, (name, _)) in names.iter().enumerate() {
            let cells = columns.iter().map(|column| cell(column, row));
            table.row(
                name,
                cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned())),
            );
        }
        table.print(title);
    };
    let rates = format!(
        "Durable appends, entries/s (ratio to the bare device in the same round); {machine}; medians over \
         {seconds} s each, in turns of {} s",
        TURN.as_secs_f32()
    );
    table(Column::rate, &rates);
    table(
        Column::spread,
        "Lowest to highest round: entries/s of the bare device, ratios of the others",
    );
    table(Column::flushes, "Flushes of the device for each append");
}
