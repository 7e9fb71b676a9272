//! A small generator for election timeouts (`SplitMix64`): seeded, so that a run can be repeated.

use std::time::Duration;

#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A span drawn evenly from `[least, 2 * least)`, in whole microseconds.
    pub(super) fn timeout(&mut self, least: Duration) -> Duration {
        let width = u64::try_from(least.as_micros()).unwrap_or(u64::MAX).max(1);
        least + Duration::from_micros(self.next() % width)
    }
}
