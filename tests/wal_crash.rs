//! Power is cut, or the process killed, at every call to the disk, and what is found afterwards is compared
//! with a model: nothing that was acknowledged is lost, nothing that was not written is found.
//!
//! `CATAMARAN_SEED` replays one seed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use catamaran::sim::{Call, Moment, Op, Rng, SimDisk, Survival};
use catamaran::wal::{Torn, Wal};

mod model;

use model::script::{Done, Script};
use model::{History, Model};

/// How many operations a script has.
const OPERATIONS: u64 = 300;
/// How many random choices of what survives each cut is made with.
const CHOICES: u64 = 8;

/// A script that was run once, with the disk after each of its calls.
struct Recorded {
    seed: u64,
    /// The disk before the first call.
    blank: SimDisk,
    calls: Vec<Call>,
    history: History,
    done: Done,
}

impl Recorded {
    fn run(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let blank = disk.kill();
        disk.record();
        let (wal, _) = model::open(&disk).unwrap();
        let mut script = Script::new(&disk, wal, seed, Model::default());
        script.run(OPERATIONS).unwrap();
        let (history, done) = (script.history, script.done);
        let calls = disk.calls();
        assert_eq!(calls.len() as u64, disk.ops());
        Self {
            seed,
            blank,
            calls,
            history,
            done,
        }
    }

    /// The disk if the `nth` call, counted from 1, is the last that was made, or the first that was not.
    fn disk(&self, nth: usize, moment: Moment) -> &SimDisk {
        let made = match moment {
            Moment::Before => nth - 1,
            Moment::After => nth,
        };
        made.checked_sub(1)
            .map_or(&self.blank, |last| &self.calls[last].after)
    }

    /// Cuts the power at one call in every way, and kills the process there. Returns how many cases that
    /// was.
    fn cut(&self, nth: usize) -> usize {
        let call = &self.calls[nth - 1];
        let before = nth as u64 - 1;
        let allowed = self.history.allowed_at(before, before);
        let mut cases = 0;
        for moment in [Moment::Before, Moment::After] {
            let disk = self.disk(nth, moment);
            let case = format!(
                "CATAMARAN_SEED={}, {moment:?} call {nth} of {} ({:?} {})",
                self.seed,
                self.calls.len(),
                call.op,
                call.path.display()
            );
            let draw = |choice| {
                let mut rng = Rng::new(self.seed << 32 ^ (nth as u64) << 8 ^ moment as u64);
                (0..=choice).fold(0, |_, _| rng.next_u64())
            };
            let random = (0..CHOICES).map(|choice| Survival::Random(draw(choice)));
            let survivals = [Survival::All, Survival::None].into_iter().chain(random);
            for (at, survival) in survivals.enumerate() {
                let case = format!("{case}, {survival:?}");
                let cut = disk.power_cut(survival);
                let found = recover(&cut, allowed, &case);
                cases += 1;
                if at % 4 == nth % 4 {
                    again(&cut, found, draw(at as u64), &case);
                    cases += 1;
                }
            }
            kill(disk, allowed, &case);
            cases += 1;
        }
        cases
    }
}

/// A log that was recovered.
struct Recovered {
    wal: Wal,
    model: Model,
    torn: Option<Torn>,
}

impl Recovered {
    fn script(self, disk: &SimDisk, seed: u64) -> Script<'_> {
        Script::new(disk, self.wal, seed, self.model).after_cut(self.torn)
    }
}

/// Opens what a crash left, and checks that it holds what it may.
fn recover(disk: &SimDisk, allowed: &[Model], case: &str) -> Recovered {
    let seen = model::look(disk);
    let (wal, recovery) = model::open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let model = Model::of(&wal, &recovery);
    assert!(
        allowed.contains(&model),
        "{case}: {}",
        model::explain(&model, allowed)
    );
    match seen {
        Ok(seen) => assert_eq!(
            (seen.first(), seen.last(), seen.state(), seen.torn()),
            (
                recovery.first,
                recovery.last,
                recovery.state.as_deref(),
                recovery.torn.as_ref()
            ),
            "{case}: a look at it says the same"
        ),
        // There may be no directory yet.
        Err(error) => assert!(recovery.created, "{case}: {error}"),
    }
    let torn = recovery.torn;
    Recovered { wal, model, torn }
}

/// Goes on after a recovery, loses power again soon, and recovers again: nothing that the first had cut may
/// come back.
fn again(disk: &SimDisk, found: Recovered, seed: u64, case: &str) {
    let mut rng = Rng::new(seed);
    let moment = [Moment::Before, Moment::After][rng.below(2) as usize];
    disk.crash_at(disk.ops() + 1 + rng.below(25), moment);
    let mut script = found.script(disk, rng.next_u64());
    let _ = script.run(12);
    let case = format!("{case}, then a second crash");
    let cut = disk.power_cut(Survival::Random(rng.next_u64()));
    let found = recover(&cut, script.history.allowed(), &case);
    let mut script = found.script(&cut, rng.next_u64());
    script
        .run(3)
        .and_then(|()| script.close())
        .and_then(|()| script.reopen())
        .unwrap_or_else(|error| panic!("{case}: {error}"));
    let seen = model::look(&cut).unwrap();
    seen.verify(|_| ())
        .unwrap_or_else(|error| panic!("{case}: {error}"));
}

/// What a killed process had written and not synced is durable once the log was opened.
fn kill(disk: &SimDisk, allowed: &[Model], case: &str) {
    let case = format!("{case}, killed");
    let killed = disk.kill();
    let found = recover(&killed, allowed, &case);
    let cut = killed.power_cut(Survival::None);
    recover(&cut, std::slice::from_ref(&found.model), &case);
}

#[test]
fn after_a_power_cut_at_any_call_the_log_is_what_its_writes_made_it_up_to_some_point() {
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let mut total = 0;
    for seed in model::seeds(1..=24) {
        let recorded = Recorded::run(seed);
        let next = AtomicUsize::new(1);
        let work = || {
            let turns = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            turns
                .take_while(|&nth| nth <= recorded.calls.len())
                .map(|nth| recorded.cut(nth))
                .sum::<usize>()
        };
        let cases: usize = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
            joined
                .map(|cases| cases.expect("no cut loses or invents anything"))
                .sum()
        });
        let mut kinds: BTreeMap<Op, usize> = BTreeMap::new();
        for call in &recorded.calls {
            *kinds.entry(call.op).or_default() += 1;
        }
        println!(
            "seed {seed}: {} steps, {} calls {kinds:?}, {:?}: {cases} cuts",
            recorded.history.len(),
            recorded.calls.len(),
            recorded.done
        );
        total += cases;
    }
    println!("{total} cuts: 0 lost, 0 invented");
}
