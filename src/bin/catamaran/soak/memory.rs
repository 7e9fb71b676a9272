//! How much memory processes hold, and whether it grows.

use std::time::Duration;

/// From which age on the slope is taken: before, buffers and tables grow to their size, and each thread comes to do
/// at least once what any of them may.
const WARM_UP: Duration = Duration::from_secs(300);

/// The resident anonymous memory of each process over its life. The log's memory maps are not in it: those pages
/// are the file's, and the system's to take back.
#[derive(Default)]
pub(crate) struct Memory {
    lives: Vec<Life>,
}

/// One process.
struct Life {
    pid: u32,
    /// When it was seen first.
    since: Duration,
    /// KiB, and when.
    samples: Vec<(Duration, u64)>,
}

impl Memory {
    /// Looks at a process, at this time of the run.
    pub(crate) fn sample(&mut self, at: Duration, pid: u32) {
        // It may have been killed just now.
        if let Some(kib) = anonymous_kib(pid) {
            self.add(at, pid, kib);
        }
    }

    fn add(&mut self, at: Duration, pid: u32, kib: u64) {
        let known = self.lives.iter_mut().rev().find(|life| life.pid == pid);
        match known {
            Some(life) => life.samples.push((at, kib)),
            None => self.lives.push(Life {
                pid,
                since: at,
                samples: vec![(at, kib)],
            }),
        }
    }

    /// The most that any process held.
    pub(crate) fn max_kib(&self) -> u64 {
        let all = self.lives.iter().flat_map(|life| &life.samples);
        all.map(|(_, kib)| *kib).max().unwrap_or(0)
    }

    /// What one process held over the run.
    pub(crate) fn of(&self, pid: u32) -> Trend {
        let life = self.lives.iter().find(|life| life.pid == pid);
        Trend::of(life.map_or(&[], |life| &life.samples))
    }

    /// What those that were started during the run held at this age, each once: whether who starts later has more
    /// to hold.
    pub(crate) fn at_age(&self, age: Duration) -> Trend {
        let started = self.lives.iter().filter(|life| life.since > age);
        let at = |life: &Life| {
            let old = |sample: &&(Duration, u64)| sample.0 >= life.since + age;
            life.samples.iter().find(old).copied()
        };
        Trend::of(&started.filter_map(at).collect::<Vec<_>>())
    }
}

/// Where a series of samples goes.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Trend {
    /// From when on it counts as warm: five minutes behind the first sample, or in the middle of a short series.
    pub(crate) warm: Duration,
    /// Of the straight line that lies nearest (least squares) to the samples since then.
    pub(crate) kib_per_min: f64,
    /// The mean of those samples, and the most of them.
    pub(crate) mean_kib: f64,
    pub(crate) most_kib: u64,
    /// The newest.
    pub(crate) last_kib: u64,
}

impl Trend {
    fn of(samples: &[(Duration, u64)]) -> Self {
        let (Some((first, _)), Some((last, last_kib))) = (samples.first(), samples.last()) else {
            return Self::default();
        };
        let warm = *first + WARM_UP.min((*last - *first) / 2);
        let since = samples.iter().filter(|(at, _)| *at >= warm);
        let most_kib = since.clone().map(|(_, kib)| *kib).max().unwrap_or(0);
        let points: Vec<(f64, f64)> = since
            .map(|(at, kib)| (at.as_secs_f64() / 60.0, *kib as f64))
            .collect();
        let mean =
            |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / points.len() as f64;
        let (x, y) = (mean(|point| point.0), mean(|point| point.1));
        let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
        let both: f64 = points
            .iter()
            .map(|point| (point.0 - x) * (point.1 - y))
            .sum();
        Self {
            warm,
            kib_per_min: if along > 0.0 { both / along } else { 0.0 },
            mean_kib: y,
            most_kib,
            last_kib: *last_kib,
        }
    }
}

/// `RssAnon` of a process; none if it has ended.
fn anonymous_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn second(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    #[test]
    fn growth_is_told_in_kib_a_minute_and_what_is_held_before_it_is_warm_is_left_out() {
        let mut memory = Memory::default();
        for at in 10..1_000 {
            memory.add(second(at), 1, if at < 310 { 9_000 } else { 5_000 + at });
            memory.add(second(at), 2, 7_000);
        }
        let grows = memory.of(1);
        assert!((grows.kib_per_min - 60.0).abs() < 1e-6, "{grows:?}");
        assert_eq!((grows.warm, grows.most_kib), (second(310), 5_999));
        let flat = Trend {
            warm: second(310),
            kib_per_min: 0.0,
            mean_kib: 7_000.0,
            most_kib: 7_000,
            last_kib: 7_000,
        };
        assert_eq!(memory.of(2), flat);
        assert_eq!(memory.max_kib(), 9_000);
        assert_eq!(memory.of(3), Trend::default());
    }

    #[test]
    fn of_a_short_run_the_second_half_is_taken_for_warm() {
        let mut memory = Memory::default();
        for at in 0..=100 {
            memory.add(second(at), 1, if at < 50 { 100 * at } else { 5_000 });
        }
        let trend = memory.of(1);
        assert_eq!((trend.warm, trend.kib_per_min), (second(50), 0.0));
    }

    #[test]
    fn processes_are_compared_at_the_same_age() {
        let mut memory = Memory::default();
        for process in 0..10 {
            // Each grows quickly, and begins where the one before it began, and 50 KiB above.
            for age in 0..60 {
                let kib = 1_000 + 50 * u64::from(process) + 100 * age;
                memory.add(second(60 * u64::from(process) + age), process, kib);
            }
        }
        let grows = memory.at_age(second(10)).kib_per_min;
        assert!((grows - 50.0).abs() < 1e-6, "{grows}");
    }

    #[test]
    fn this_process_holds_something() {
        assert!(anonymous_kib(std::process::id()).is_some_and(|kib| kib > 0));
        assert_eq!(anonymous_kib(u32::MAX), None);
    }
}
