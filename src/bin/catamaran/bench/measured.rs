//! What is measured of one side, and for how long before it is the other's turn.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::raw::Raw;
use crate::Failure;

pub(super) const TURN: Duration = Duration::from_millis(500);

/// One side's figures, over all its turns.
pub(super) struct Measured {
    pub(super) entries: u64,
    pub(super) time: Duration,
    latency: Histogram<u64>,
}

impl Measured {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {
            entries: 0,
            time: Duration::ZERO,
            // Nanoseconds, up to an hour.
            latency: Histogram::new_with_max(3_600_000_000_000, 3).map_err(Failure::runtime)?,
        })
    }

    pub(super) fn record(&mut self, latency: Duration) {
        self.latency
            .saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(super) fn rate(&self) -> f64 {
        self.entries as f64 / self.time.as_secs_f64()
    }

    /// So many of something for each entry.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(super) fn per_entry(&self, count: u64) -> f64 {
        count as f64 / self.entries as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds far below 2^52")]
    pub(super) fn micros(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// A turn of the bare device. Each write of the block counts for so many entries.
    pub(super) fn device(
        &mut self,
        device: &mut Raw,
        block: &[u8],
        entries: u64,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            let begun = Instant::now();
            if begun - start >= TURN {
                break;
            }
            device.write_and_sync(block).map_err(Failure::runtime)?;
            self.record(begun.elapsed());
            self.entries += entries;
        }
        self.time += start.elapsed();
        Ok(())
    }

    /// A turn of threads that begin together, each of which says what it did.
    pub(super) fn threads(
        &mut self,
        count: usize,
        thread: impl Fn(&Barrier) -> Result<Self, Failure> + Sync,
    ) -> Result<(), Failure> {
        let gate = Barrier::new(count + 1);
        let (time, threads) = std::thread::scope(|scope| {
            let threads = (0..count).map(|_| scope.spawn(|| thread(&gate)));
            let threads: Vec<_> = threads.collect();
            gate.wait();
            let start = Instant::now();
            let threads: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            (start.elapsed(), threads)
        });
        self.time += time;
        for thread in threads {
            let done = thread.map_err(|_| Failure::runtime("a thread panicked"))??;
            self.entries += done.entries;
            self.latency.add(&done.latency).map_err(Failure::runtime)?;
        }
        Ok(())
    }
}

/// Measures both for so long, in turns. Which is first changes, so that neither always follows the other.
pub(super) fn in_turns(
    seconds: u64,
    mut device: impl FnMut() -> Result<(), Failure>,
    mut ours: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    for turn in 0..seconds * 1000 / TURN.as_millis() as u64 {
        if turn % 2 == 0 {
            device()?;
        }
        ours()?;
        if turn % 2 == 1 {
            device()?;
        }
    }
    Ok(())
}
