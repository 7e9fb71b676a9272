//! Runs a scenario under many schedules.
//!
//! `CATAMARAN_SEED` chooses other schedules, `CATAMARAN_SCHEDULES=n` n times as many. A failure prints which
//! schedule it was and the schedule itself: `CATAMARAN_SCHEDULE=... cargo test --lib NAME` runs only that one.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::explored;

/// How many threads switch places in a schedule of PCT, at most.
const PCT_DEPTH: usize = 4;

/// Runs a scenario under so many random schedules, and as many of PCT.
pub(crate) fn explore(schedules: usize, scenario: fn()) {
    if let Ok(schedule) = env::var("CATAMARAN_SCHEDULE") {
        run(
            ReplayScheduler::new_from_encoded(&schedule),
            "replayed",
            scenario,
        );
        return;
    }
    let number = |name| {
        let parse = |text: String| {
            text.parse()
                .map_err(|error| format!("{name}={text}: {error}"))
        };
        env::var(name).map_or(1, |text| {
            parse(text).unwrap_or_else(|error| panic!("{error}"))
        })
    };
    let (seed, times) = (number("CATAMARAN_SEED"), number("CATAMARAN_SCHEDULES"));
    let schedules = schedules * usize::try_from(times).unwrap_or(usize::MAX);
    println!("CATAMARAN_SEED={seed}");
    run(
        RandomScheduler::new_from_seed(seed, schedules),
        "random",
        scenario,
    );
    run(
        PctScheduler::new_from_seed(seed, PCT_DEPTH, schedules),
        "PCT",
        scenario,
    );
}

fn run(scheduler: impl Scheduler + 'static, kind: &'static str, scenario: fn()) {
    struct Tell(Arc<AtomicUsize>, &'static str);
    impl Drop for Tell {
        fn drop(&mut self) {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or_default();
            let failed = std::thread::panicking();
            let what = if failed {
                "failed at schedule"
            } else {
                "schedules:"
            };
            println!(
                "{name}: {} {what} {}",
                self.1,
                self.0.load(Ordering::Relaxed)
            );
        }
    }
    let mut config = Config::new();
    config.stack_size = 1 << 19;
    config.max_steps = MaxSteps::FailAfter(100_000);
    config.silence_warnings = true;
    let count = Arc::new(AtomicUsize::new(0));
    let _tell = Tell(Arc::clone(&count), kind);
    explored(|| {
        Runner::new(scheduler, config).run(move || {
            count.fetch_add(1, Ordering::Relaxed);
            scenario();
        })
    });
}
