//! For whom a sync waits, and how long: the log's for those who call it, a leader's for those who propose.
//!
//! Callers that write again as soon as they are told would fall into two halves, each of which misses the
//! sync that the other began: half the batch, and twice the wait. So a sync waits for as many as were there
//! before it: at two threads that is twice the rate, at sixteen a third more. It waits for about the time of
//! a sync, which is what one who misses it loses, and longer for many, who take their time to wake. If they
//! do not all come, that was a miss, and for some rounds nobody is waited for: for more with each miss, until
//! what waiting costs is a hundredth. Who is alone never waits.

use std::time::{Duration, Instant};

use crate::sync::now;

/// A sync that took longer counts as this long: nobody waits for others for a time that can be felt.
const MAX_TOOK: Duration = Duration::from_millis(1);
/// So many need about the time of a sync to come back, on two cores.
const A_SYNC_BRINGS: u32 = 32;
/// More than so many are not given more time.
const MANY: u32 = 64;
/// A miss costs as much as so many full rounds gain.
const MISS: u32 = 8;
/// Misses count up to here: then they are 2^8 rounds apart.
const MAX_DEBT: u32 = 8 * MISS;

/// What the last syncs taught.
#[derive(Default)]
pub(crate) struct Pace {
    /// A sync begins at once with so many aboard. 0 where nobody is waited for.
    expected: usize,
    /// When the last sync began.
    began: Option<Instant>,
    /// Until when the next one waits.
    until: Option<Instant>,
    /// What misses have cost and full rounds have not yet gained.
    debt: u32,
    /// For how many more rounds nobody is waited for.
    skip: u32,
}

impl Pace {
    /// Waits for so many, for so long.
    #[cfg(test)]
    pub(crate) fn of(expected: usize, time: Duration) -> Self {
        Self {
            expected,
            until: now().checked_add(time),
            ..Self::default()
        }
    }

    /// Nobody more is waited for than the so many who are aboard.
    pub(crate) const fn is_full(&self, aboard: usize) -> bool {
        aboard >= self.expected
    }

    /// For how long a sync with so many aboard still waits. None: it begins.
    pub(crate) fn patience(&self, aboard: usize) -> Option<Duration> {
        if self.is_full(aboard) {
            return None;
        }
        let left = self.until?.checked_duration_since(now())?;
        (!left.is_zero()).then_some(left)
    }

    /// Until when the next sync waits, if it does. That may be past.
    pub(crate) fn waits_until(&self) -> Option<Instant> {
        self.until.filter(|_| self.expected > 0)
    }

    /// A sync begins that has waited for nobody.
    pub(crate) fn begin_at_once(&mut self) {
        self.expected = 0;
        self.begin(1);
    }

    /// A sync begins with so many aboard.
    pub(crate) fn begin(&mut self, aboard: usize) {
        if !self.is_full(aboard) {
            self.debt = (self.debt + MISS).min(MAX_DEBT);
            self.skip = 1 << (self.debt / MISS);
        } else if self.expected > 0 {
            self.debt = self.debt.saturating_sub(1);
        }
        self.began = Some(now());
    }

    /// It is over, and so many callers are known: those who were aboard, and those who came too late.
    pub(crate) fn finish(&mut self, callers: usize) {
        let now = now();
        let took = self.began.map_or(Duration::ZERO, |began| now - began);
        self.until = now.checked_add(patience(took, callers));
        let gathers = callers > 1 && self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        self.expected = if gathers { callers } else { 0 };
    }
}

/// For how long a sync waits for so many, after one that took so long.
fn patience(took: Duration, callers: usize) -> Duration {
    let took = took.min(MAX_TOOK);
    let many = u32::try_from(callers).map_or(MANY, |callers| callers.min(MANY));
    took + took * many / A_SYNC_BRINGS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A round with so many callers, of whom so many come in time. Says for how many it waited.
    fn round(pace: &mut Pace, callers: usize, in_time: usize) -> usize {
        let expected = pace.expected;
        pace.begin(in_time);
        pace.finish(callers);
        expected
    }

    #[test]
    fn a_sync_waits_until_as_many_are_aboard_as_were_there_before() {
        assert_eq!(Pace::default().patience(1), None);
        let pace = Pace::of(4, HOUR);
        assert!(pace.patience(3).is_some());
        assert_eq!(pace.patience(4), None);
        assert_eq!(pace.patience(5), None);
    }

    #[test]
    fn it_waits_no_longer_than_its_patience() {
        let before = Instant::now();
        let mut pace = Pace {
            began: before.checked_sub(HOUR),
            ..Pace::default()
        };
        pace.finish(4);
        let until = pace.until.unwrap();
        let most = patience(MAX_TOOK, 4);
        assert!(until >= before + most && until <= Instant::now() + most);
        pace.until = Some(before);
        assert_eq!(pace.patience(3), None);
    }

    #[test]
    fn patience_is_the_time_of_a_sync_and_more_for_many() {
        let took = Duration::from_micros(96);
        let micros = |callers| patience(took, callers).as_micros();
        assert_eq!((micros(2), micros(32), micros(64)), (102, 192, 288));
        assert_eq!(micros(usize::MAX), 288);
        assert_eq!(patience(HOUR, 32), MAX_TOOK * 2);
    }

    #[test]
    fn who_is_alone_never_waits() {
        let mut pace = Pace::default();
        assert!((0..100).all(|_| round(&mut pace, 1, 1) == 0));
    }

    #[test]
    fn those_who_come_every_other_time_are_soon_not_waited_for() {
        let mut pace = Pace::default();
        // Four call, then the three of them that are always there, and so on.
        let missed = (0..10_000).filter(|number| {
            let callers = 3 + number % 2;
            round(&mut pace, callers, callers) > callers
        });
        let missed = missed.count();
        assert!((8..60).contains(&missed), "{missed} times in 10,000");
    }

    #[test]
    fn it_is_no_miss_if_nobody_has_waited() {
        let mut pace = Pace::of(4, HOUR);
        pace.begin_at_once();
        pace.finish(2);
        assert_eq!((pace.debt, pace.expected), (0, 2));
        pace.begin(1);
        pace.finish(2);
        assert_eq!((pace.debt, pace.expected), (MISS, 0));
    }

    #[test]
    fn those_who_went_for_good_are_waited_for_once() {
        let mut pace = Pace::default();
        round(&mut pace, 16, 16);
        assert_eq!(round(&mut pace, 3, 3), 16);
        let waits: Vec<_> = (0..20).map(|_| round(&mut pace, 3, 3)).collect();
        assert!(waits.iter().all(|&expected| expected == 0 || expected == 3));
        assert_eq!(waits.last(), Some(&3));
    }
}
