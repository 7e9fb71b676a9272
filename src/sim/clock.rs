//! A node's clock, which may run fast or slow, and jump.

use crate::types::Time;

/// Parts in a million: a clock at this rate runs as the world does.
pub(super) const TRUE_RATE: u64 = 1_000_000;

/// What a node takes for the time, as a straight line over the world's time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// A moment of the world, and what the clock showed then.
    anchor: (u64, u64),
    /// How much it advances in a million microseconds.
    rate: u64,
    /// The latest it showed before it jumped back.
    highest: u64,
}

impl Clock {
    pub(super) const fn new(shows: u64) -> Self {
        Self {
            anchor: (0, shows),
            rate: TRUE_RATE,
            highest: shows,
        }
    }

    /// What the clock shows at this moment of the world.
    pub(super) const fn at(&self, now: u64) -> Time {
        let (then, shown) = self.anchor;
        Time(shown + (now - then) * self.rate / TRUE_RATE)
    }

    /// The first moment of the world, not before `now`, at which the clock shows at least `time`.
    pub(super) fn reaches(&self, now: u64, time: Time) -> u64 {
        let (then, shown) = self.anchor;
        let ahead = time.0.saturating_sub(shown);
        let wait = ahead.saturating_mul(TRUE_RATE).div_ceil(self.rate);
        then.saturating_add(wait).max(now)
    }

    /// Runs at another rate from now on.
    pub(super) const fn run_at(&mut self, now: u64, rate: u64) {
        self.anchor = (now, self.at(now).0);
        self.rate = rate;
    }

    /// Shows another time from now on.
    pub(super) fn jump(&mut self, now: u64, by: i64) {
        let shown = self.at(now).0;
        self.highest = self.highest.max(shown);
        self.anchor = (now, shown.saturating_add_signed(by));
    }

    /// Is right again: it runs as the world does, and has made up for its jumps back.
    pub(super) fn mend(&mut self, now: u64) {
        self.anchor = (now, self.highest.max(self.at(now).0));
        self.rate = TRUE_RATE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_never_asked_too_early_whatever_its_rate() {
        for rate in [1, 333_333, TRUE_RATE, 1_999_999] {
            let mut clock = Clock::new(7_000);
            clock.run_at(1_000, rate);
            for wanted in [0, 8_000, 8_001, 12_345] {
                let reached = clock.reaches(1_000, Time(wanted));
                assert!(clock.at(reached) >= Time(wanted), "{rate} {wanted}");
                assert!(reached == 1_000 || clock.at(reached - 1) < Time(wanted));
            }
        }
    }

    #[test]
    fn a_clock_that_is_mended_is_behind_nothing_that_it_showed() {
        let mut clock = Clock::new(5_000);
        clock.run_at(0, TRUE_RATE / 2);
        clock.jump(2_000, -3_000);
        assert_eq!(clock.at(2_000), Time(3_000));
        clock.mend(2_000);
        assert_eq!(clock.at(2_001), Time(6_001));
    }

    #[test]
    fn a_clock_jumps_both_ways() {
        let mut clock = Clock::new(5_000);
        clock.jump(100, -2_000);
        assert_eq!(clock.at(200), Time(3_200));
        clock.jump(200, 1_000);
        assert_eq!(clock.at(200), Time(4_200));
    }
}
