//! What is measured of one side, and for how long before it is the other's turn.

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

    #[expect(clippy::cast_precision_loss, reason = "nanoseconds far below 2^52")]
    pub(super) fn micros(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Takes in what one thread did in the time that all had.
    pub(super) fn add(&mut self, thread: &Self) -> Result<(), Failure> {
        self.entries += thread.entries;
        self.latency.add(&thread.latency).map_err(Failure::runtime)
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
}
