//! `bench wal`: durable appends to the log alone.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use catamaran::types::{LogIndex, Staged};
use catamaran::wal::{self, WalError, WalOptions};
use clap::Args;

use super::measured::{Measured, TURN, in_turns};
use super::raw::Raw;
use super::{below, count, seconds};
use crate::Failure;
use crate::json::Object;

/// The log keeps about so many bytes of entries, as one does whose reader has taken what is older.
const KEEP_BYTES: u64 = 64 << 20;
/// In how large batches the log is filled before.
const FILL_BYTES: usize = 1 << 20;
/// How often the threads see to that.
const DROP_EVERY_BYTES: u64 = 16 << 20;

#[derive(Args)]
pub(crate) struct Wal {
    /// Where to write; a new directory below it is used, and removed
    #[arg(long)]
    dir: PathBuf,
    /// The length of an entry
    #[arg(long, value_name = "N", default_value = "128", value_parser = count())]
    entry_bytes: usize,
    /// Entries an append
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    batch: usize,
    /// Threads, each waiting for what it appended
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    threads: usize,
    /// Appends that a thread has under way
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    inflight: usize,
    /// How long to measure the log, and as long again the device
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds())]
    seconds: u64,
    #[arg(long, value_name = "N", default_value = "67108864")]
    segment_bytes: u64,
    /// Prints one object
    #[arg(long)]
    json: bool,
}

impl Wal {
    pub(crate) fn run(self) -> Result<(), Failure> {
        below(&self.dir, |dir| self.measure(dir))
    }

    fn measure(&self, dir: &std::path::Path) -> Result<(), Failure> {
        let block = self
            .batch
            .checked_mul(self.entry_bytes * self.threads)
            .and_then(|bytes| bytes.checked_mul(self.inflight))
            .filter(|&bytes| bytes <= 32 << 20)
            .ok_or_else(|| {
                Failure::usage(
                    "expected entry-bytes x batch x threads x inflight of at most 32 MiB",
                )
            })?;
        let block = vec![7; block];
        let mut device = Raw::create(&dir.join("raw")).map_err(Failure::runtime)?;
        let (log, _) = WalOptions::new(dir.join("wal"))
            .segment_bytes(self.segment_bytes)
            .max_entry_bytes(self.entry_bytes)
            .open()
            .map_err(Failure::usage)?;
        let entries = (block.len() / self.entry_bytes) as u64;
        let (mut raw, mut ours) = (Measured::new()?, Measured::new()?);
        let appended = AtomicU64::new(self.fill(&log)?);
        self.append(&log, &appended, &mut Measured::new()?)?;
        let warm = log.syncs();
        in_turns(
            self.seconds,
            || raw.device(&mut device, &block, entries),
            || self.append(&log, &appended, &mut ours),
        )?;
        let syncs = log.syncs() - warm;
        log.close().map_err(Failure::runtime)?;
        self.report(&ours, &raw, syncs);
        Ok(())
    }

    /// Appends until the log drops about as much as it takes and its segments are used again, as those of a log
    /// that has run for a while; the device's file is filled beforehand too. Says how many bytes that took.
    fn fill(&self, log: &wal::Wal) -> Result<u64, Failure> {
        let entry = vec![7; self.entry_bytes];
        let batch = vec![entry.as_slice(); FILL_BYTES.div_ceil(self.entry_bytes)];
        let mut filled = 0;
        while filled < 2 * KEEP_BYTES + 2 * self.segment_bytes {
            let staged = log.append(&batch).map_err(Failure::runtime)?;
            log.sync(staged).map_err(Failure::runtime)?;
            self.drop_old(log).map_err(Failure::runtime)?;
            filled += (batch.len() * self.entry_bytes) as u64;
        }
        Ok(filled)
    }

    /// One turn of the log.
    fn append(
        &self,
        log: &wal::Wal,
        appended: &AtomicU64,
        ours: &mut Measured,
    ) -> Result<(), Failure> {
        ours.threads(self.threads, |gate| self.client(log, appended, gate))
    }

    /// Appends and waits for a turn's time.
    fn client(
        &self,
        log: &wal::Wal,
        appended: &AtomicU64,
        gate: &Barrier,
    ) -> Result<Measured, Failure> {
        let mut measured = Measured::new()?;
        let entry = vec![7; self.entry_bytes];
        let entries = vec![entry.as_slice(); self.batch];
        let mut tickets = VecDeque::with_capacity(self.inflight);
        gate.wait();
        let start = Instant::now();
        loop {
            // One look at the clock for both: at 64 in flight each is a few hundredths of an entry's time.
            let begun = Instant::now();
            if begun - start >= TURN {
                break;
            }
            let staged = log.append(&entries).map_err(Failure::runtime)?;
            tickets.push_back((begun, staged));
            if tickets.len() == self.inflight {
                self.wait(log, &mut tickets, &mut measured)?;
            }
            let bytes = (self.entry_bytes * self.batch) as u64;
            let before = appended.fetch_add(bytes, Ordering::Relaxed);
            if before / DROP_EVERY_BYTES != (before + bytes) / DROP_EVERY_BYTES {
                self.drop_old(log).map_err(Failure::runtime)?;
            }
        }
        while !tickets.is_empty() {
            self.wait(log, &mut tickets, &mut measured)?;
        }
        Ok(measured)
    }

    fn wait(
        &self,
        log: &wal::Wal,
        tickets: &mut VecDeque<(Instant, Staged)>,
        measured: &mut Measured,
    ) -> Result<(), Failure> {
        if let Some((begun, staged)) = tickets.pop_front() {
            log.sync(staged).map_err(Failure::runtime)?;
            measured.record(begun.elapsed());
            measured.entries += self.batch as u64;
        }
        Ok(())
    }

    fn drop_old(&self, log: &wal::Wal) -> Result<(), WalError> {
        let keep = KEEP_BYTES / self.entry_bytes as u64;
        let last = log.reader().last().0;
        match last.checked_sub(keep) {
            Some(upto) => log.drop_prefix(LogIndex(upto)).map(drop),
            None => Ok(()),
        }
    }

    fn report(&self, ours: &Measured, raw: &Measured, syncs: u64) {
        let ratio = ours.rate() / raw.rate();
        #[expect(clippy::cast_precision_loss, reason = "a length far below 2^52")]
        let bytes_per_s = ours.rate() * self.entry_bytes as f64;
        if self.json {
            let mut object = Object::new();
            object
                .number("entries_per_s", format!("{:.0}", ours.rate()))
                .number("bytes_per_s", format!("{bytes_per_s:.0}"))
                .number("p50_us", format!("{:.1}", ours.micros(0.5)))
                .number("p99_us", format!("{:.1}", ours.micros(0.99)))
                .number("syncs", syncs)
                .number("raw_entries_per_s", format!("{:.0}", raw.rate()))
                .number("ratio_to_raw", format!("{ratio:.3}"))
                .number("raw_p50_us", format!("{:.1}", raw.micros(0.5)))
                .number("raw_p99_us", format!("{:.1}", raw.micros(0.99)));
            println!("{}", object.finish());
            return;
        }
        println!(
            "log     {:>10.0} entries/s  p50 {:>7.1} us  p99 {:>7.1} us  {syncs} syncs",
            ours.rate(),
            ours.micros(0.5),
            ours.micros(0.99)
        );
        println!(
            "device  {:>10.0} entries/s  p50 {:>7.1} us  p99 {:>7.1} us",
            raw.rate(),
            raw.micros(0.5),
            raw.micros(0.99)
        );
        println!("ratio   {ratio:>10.3}");
    }
}
