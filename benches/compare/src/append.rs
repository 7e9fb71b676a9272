//! Durable appends, with the bare device in each round.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::{ENGINES, Engine, Setup};
use crate::raw::Raw;
use crate::table::{hundredths, short};
use crate::turns::{Bare, Column, Contender, Turn, Worker, print, rate_and_ratio, terms, threads};
use crate::work::{Payload, Work};
use crate::{Options, Result};

/// A log keeps about so many bytes of entries, as one does whose reader has taken what is older.
const KEEP_BYTES: usize = 64 << 20;
/// How often it is seen to that.
const TRIM_EVERY_BYTES: usize = 16 << 20;
/// The bare device's row.
const DEVICE: usize = 0;

const WORK: [&str; 7] = [
    "t1-128",
    "t1-1024",
    "b100-128",
    "b100-1024",
    "t16-128",
    "t16-1024",
    "t64-128",
];

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut columns = Vec::new();
    for work in options.work(&WORK)? {
        eprintln!("{work}");
        columns.push(measure(options, work)?);
    }
    let title = "Durable appends, entries/s (ratio to the bare device in the same round)";
    print(
        &format!("{title}; {}", terms(options)?),
        &columns,
        |column, row| match row {
            DEVICE => Some(short(column.rate(row)?.median())),
            _ => rate_and_ratio(column.rate(row), column.ratio(row, DEVICE)),
        },
    );
    let title = "Lowest to highest round: entries/s of the bare device, ratios of the others";
    print(title, &columns, |column, row| match row {
        DEVICE => Some(column.rate(row)?.spread(short)),
        _ => Some(column.ratio(row, DEVICE)?.spread(hundredths)),
    });
    print(
        "Flushes of the device for each append",
        &columns,
        |column, row| Some(hundredths(column.flushes(row)?.median())),
    );
    Ok(())
}

fn measure(options: &Options, work: Work) -> Result<Column> {
    let home = tempfile::tempdir_in(&options.dir)?;
    let payload = Payload::new();
    let entries = payload.entries(work.batch * work.threads, work.entry_bytes);
    // As many bytes as one sync of a log could cover at best.
    let raw = Raw::create(&home.path().join("raw"))?;
    let bare = Bare {
        raw,
        block: entries.concat(),
    };
    let mut contenders = vec![Contender {
        name: "bare device",
        worker: Box::new(bare),
        entries: entries.len(),
    }];
    for &(name, open) in ENGINES.iter().filter(|(name, _)| options.wants(name)) {
        let dir = home.path().join(name);
        std::fs::create_dir(&dir)?;
        let setup = Setup {
            dir: &dir,
            threads: work.threads,
            keep_bytes: KEEP_BYTES as u64,
        };
        let log = open(&setup).map_err(|error| format!("{name}: {error}"))?;
        let appender = Appender {
            log,
            work,
            entries: &entries[..work.batch],
            appends: AtomicUsize::new(0),
        };
        contenders.push(Contender {
            name,
            worker: Box::new(appender),
            entries: work.batch,
        });
    }
    Column::measure(options, work, contenders)
}

/// A log and what is appended to it.
struct Appender<'a> {
    log: Box<dyn Engine>,
    work: Work,
    entries: &'a [&'a [u8]],
    /// Of the first thread.
    appends: AtomicUsize,
}

impl Worker for Appender<'_> {
    fn turn(&mut self) -> Result<Turn> {
        // All threads append about as much, and the first trims for all.
        let round = self.work.entry_bytes * self.work.batch * self.work.threads;
        let trim_every = TRIM_EVERY_BYTES.div_ceil(round);
        threads(self.work.threads, |thread| {
            self.log.append(thread, self.entries)?;
            if thread == 0
                && self.appends.fetch_add(1, Ordering::Relaxed) % trim_every == trim_every - 1
            {
                self.log.trim((KEEP_BYTES / self.work.entry_bytes) as u64)?;
            }
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.log.close()
    }
}
