//! The turns in which all do their work, and what came of them.

use std::future::Future;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::device::Device;
use crate::raw::Raw;
use crate::table::{Rounds, Table, hundredths, short};
use crate::work::Work;
use crate::{Options, Result};

/// How long one works before it is the next one's turn.
pub(crate) const TURN: Duration = Duration::from_millis(500);

/// What one does in its turns.
pub(crate) trait Worker {
    fn turn(&mut self) -> Result<Turn>;

    /// Ends what runs in the background.
    fn close(self: Box<Self>) -> Result<()>;
}

/// What was done in one turn.
#[derive(Default)]
pub(crate) struct Turn {
    /// How long each operation took, in the end in order.
    latencies: Vec<Duration>,
    time: Duration,
    /// Flushes of the device meanwhile.
    flushes: Option<u64>,
}

/// Threads that do something over and over, for a turn's time. They pass their number to it, from 0.
pub(crate) fn threads(count: usize, operate: impl Fn(usize) -> Result<()> + Sync) -> Result<Turn> {
    let gate = Barrier::new(count + 1);
    let client = |thread| {
        let mut latencies = Vec::with_capacity(1 << 12);
        gate.wait();
        let start = Instant::now();
        let mut begun = start;
        while begun - start < TURN {
            operate(thread)?;
            let end = Instant::now();
            latencies.push(end - begun);
            begun = end;
        }
        Ok(latencies)
    };
    std::thread::scope(|scope| {
        let client = &client;
        let clients: Vec<_> = (0..count)
            .map(|thread| scope.spawn(move || client(thread)))
            .collect();
        gate.wait();
        let start = Instant::now();
        let done: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        let time = start.elapsed();
        let done = done
            .into_iter()
            .map(|done| done.map_err(|_| "a thread panicked")?);
        Ok(Turn::new(
            time,
            done.collect::<Result<Vec<Vec<Duration>>>>()?.concat(),
        ))
    })
}

/// Tasks of a runtime that do something over and over, for a turn's time. They wake each other without the kernel.
pub(crate) fn tasks<F>(
    runtime: &Runtime,
    count: usize,
    operate: impl Fn() -> F + Clone + Send + 'static,
) -> Result<Turn>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    runtime.block_on(async {
        let start = Instant::now();
        let clients: Vec<_> = (0..count)
            .map(|_| tokio::spawn(client(operate.clone())))
            .collect();
        let mut latencies = Vec::new();
        for client in clients {
            latencies.extend(client.await??);
        }
        Ok(Turn::new(start.elapsed(), latencies))
    })
}

async fn client<F>(operate: impl Fn() -> F) -> Result<Vec<Duration>>
where
    F: Future<Output = Result<()>>,
{
    let mut latencies = Vec::with_capacity(1 << 12);
    let start = Instant::now();
    let mut begun = start;
    while begun - start < TURN {
        operate().await?;
        let end = Instant::now();
        latencies.push(end - begun);
        begun = end;
    }
    Ok(latencies)
}

/// A runtime for tasks, as its users have it: a thread a core.
pub(crate) fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.enable_all().build()?)
}

impl Turn {
    pub(crate) fn new(time: Duration, latencies: Vec<Duration>) -> Self {
        Self {
            latencies,
            time,
            flushes: None,
        }
    }
}

/// The bare device: one thread, one positional write and one fdatasync of `block` an operation.
pub(crate) struct Bare {
    pub(crate) raw: Raw,
    pub(crate) block: Vec<u8>,
}

impl Worker for Bare {
    fn turn(&mut self) -> Result<Turn> {
        let (mut latencies, start) = (Vec::with_capacity(1 << 12), Instant::now());
        while start.elapsed() < TURN {
            let begun = Instant::now();
            self.raw.write_and_sync(&self.block)?;
            latencies.push(begun.elapsed());
        }
        Ok(Turn::new(start.elapsed(), latencies))
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// One of those compared.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'static str,
    pub(crate) worker: Box<dyn Worker + 'a>,
    /// Entries an operation.
    pub(crate) entries: usize,
}

/// One work, and who did it how fast, in the order of the contenders.
pub(crate) struct Column {
    work: Work,
    results: Vec<Row>,
}

struct Row {
    name: &'static str,
    entries: usize,
    turns: Vec<Turn>,
}

impl Column {
    /// Lets all have their turns. The first of each, which fills caches and creates files, does not count.
    pub(crate) fn measure(
        options: &Options,
        work: Work,
        mut contenders: Vec<Contender<'_>>,
    ) -> Result<Self> {
        let device = Device::below(&options.dir)?;
        let row = |c: &Contender<'_>| Row {
            name: c.name,
            entries: c.entries,
            turns: Vec::new(),
        };
        let mut results: Vec<Row> = contenders.iter().map(row).collect();
        for round in 0..=options.rounds() {
            let count = contenders.len();
            for nth in 0..count {
                let nth = (round + nth) % count;
                let flushes = device.flushes();
                let turn = contenders[nth].worker.turn();
                let mut turn =
                    turn.map_err(|error| format!("{}: {error}", contenders[nth].name))?;
                turn.flushes = device
                    .flushes()
                    .zip(flushes)
                    .map(|(after, before)| after - before);
                turn.latencies.sort();
                if round > 0 {
                    results[nth].turns.push(turn);
                }
            }
        }
        for contender in contenders {
            contender.worker.close()?;
        }
        Ok(Self { work, results })
    }

    /// Entries/s of each round.
    fn rates(&self, row: usize) -> impl Iterator<Item = f64> {
        let Row { entries, turns, .. } = &self.results[row];
        let count = move |turn: &Turn| turn.latencies.len() * entries;
        turns
            .iter()
            .map(move |turn| count(turn) as f64 / turn.time.as_secs_f64())
    }

    pub(crate) fn rate(&self, row: usize) -> Option<Rounds> {
        Rounds::new(self.rates(row))
    }

    pub(crate) fn name(&self, row: usize) -> &'static str {
        self.results[row].name
    }

    /// The row whose rate is the highest, of those so named.
    pub(crate) fn best(&self, among: impl Fn(&str) -> bool) -> Option<usize> {
        let rows = (0..self.results.len()).filter(|row| among(self.name(*row)));
        let rated = rows.filter_map(|row| Some((row, self.rate(row)?.median())));
        let best = rated.max_by(|(_, one), (_, other)| one.total_cmp(other));
        best.map(|(row, _)| row)
    }

    /// Of the rates, round by round.
    pub(crate) fn ratio(&self, row: usize, to: usize) -> Option<Rounds> {
        Rounds::new(
            self.rates(row)
                .zip(self.rates(to))
                .map(|(one, other)| one / other),
        )
    }

    /// The median latency of each round, in microseconds.
    pub(crate) fn latency(&self, row: usize) -> Option<Rounds> {
        let median = |turn: &Turn| turn.latencies.get(turn.latencies.len() / 2).copied();
        let medians = self.results[row].turns.iter().filter_map(median);
        Rounds::new(medians.map(|latency| latency.as_secs_f64() * 1e6))
    }

    /// Of the device, an operation.
    pub(crate) fn flushes(&self, row: usize) -> Option<Rounds> {
        let each = |turn: &Turn| Some(turn.flushes? as f64 / turn.latencies.len() as f64);
        let each: Option<Vec<f64>> = self.results[row].turns.iter().map(each).collect();
        Rounds::new(each?)
    }
}

/// Prints a table with a column a work and a row a contender.
pub(crate) fn print(
    title: &str,
    columns: &[Column],
    cell: impl Fn(&Column, usize) -> Option<String>,
) {
    let mut table = Table::new("", columns.iter().map(|column| column.work));
    let names = columns.first().map_or(&[][..], |column| &column.results);
    for (row, Row { name, .. }) in names.iter().enumerate() {
        let cells = columns.iter().map(|column| cell(column, row));
        table.row(
            name,
            cells.map(|cell| cell.unwrap_or_else(|| "-".to_owned())),
        );
    }
    table.print(title);
}

/// What the figures of a table are, for its title.
pub(crate) fn terms(options: &Options) -> Result<String> {
    Ok(format!(
        "{}; medians over {} s each, in turns of {} s",
        Device::below(&options.dir)?.machine(),
        options.seconds,
        TURN.as_secs_f32()
    ))
}

/// The median and the ratio's.
pub(crate) fn rate_and_ratio(rate: Option<Rounds>, ratio: Option<Rounds>) -> Option<String> {
    Some(format!(
        "{} ({})",
        short(rate?.median()),
        hundredths(ratio?.median())
    ))
}
