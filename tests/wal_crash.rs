//! Power is cut, or the process killed, at every call to the disk, and what is found afterwards is compared with a model.
//!
//! `CATAMARAN_SEED` replays one seed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic_in_result_fn)]

use std::rc::Rc;
use std::sync::Arc;

use catamaran::sim::{Moment, Rng, SimDisk, Survival};
use catamaran::types::LogIndex;
use catamaran::wal::{Batch, Preparer, Record, Recovery, Wal, WalError, WalOptions};

const DIR: &str = "/wal";

/// What a log holds.
#[derive(Clone, Default, PartialEq, Eq)]
struct Model {
    floor: u64,
    floor_mark: u64,
    /// From index `floor + 1` on: mark and payload.
    entries: Vec<(u64, Rc<[u8]>)>,
    state: Option<Vec<u8>>,
}

impl Model {
    fn last(&self) -> u64 {
        self.floor + self.entries.len() as u64
    }

    fn mark(&self) -> u64 {
        self.entries.last().map_or(self.floor_mark, |entry| entry.0)
    }

    fn summary(&self) -> String {
        format!(
            "entries {}..={}, marks to {}, state {:?}",
            self.floor + 1,
            self.last(),
            self.mark(),
            self.state
        )
    }
}

/// What the log became step by step: a crash may leave any step from the last acknowledged on.
struct History {
    steps: Vec<Model>,
    acknowledged: usize,
}

impl History {
    fn of(model: Model) -> Self {
        Self {
            steps: vec![model],
            acknowledged: 0,
        }
    }

    fn now(&self) -> &Model {
        self.steps.last().unwrap()
    }

    fn step(&mut self, change: impl FnOnce(&mut Model)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.steps.push(next);
    }
}

fn open(disk: &SimDisk) -> Result<(Wal, Recovery), WalError> {
    WalOptions::new(DIR)
        .segment_bytes(64 << 10)
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline)
        .open()
}

/// What the open log says it holds.
fn held(wal: &Wal, recovery: &Recovery) -> Model {
    let reader = wal.reader();
    assert_eq!(
        (recovery.first, recovery.last),
        (reader.first(), reader.last())
    );
    let mut entries = Vec::new();
    for stored in reader.range(reader.first()..=reader.last()) {
        let stored = stored.unwrap();
        assert_eq!(reader.mark(stored.index).unwrap(), stored.mark);
        entries.push((stored.mark, Rc::from(&*stored.payload)));
    }
    Model {
        floor: reader.first().0 - 1,
        floor_mark: reader.floor().1,
        entries,
        state: recovery.state.clone(),
    }
}

fn random_write(wal: &Wal, rng: &mut Rng, history: &mut History) -> Result<(), WalError> {
    let now = history.now();
    let state = rng
        .chance(15)
        .then(|| vec![rng.next_u64() as u8; rng.below(100) as usize]);
    let truncate = rng.chance(15).then(|| {
        let back = rng.below(12).min(now.entries.len() as u64);
        now.last() + 1 - back
    });
    let mut mark = truncate.map_or(now.mark(), |_| now.mark() + 1) + rng.below(2);
    let records: Vec<(u64, Vec<u8>)> = (0..rng.below(5))
        .map(|_| {
            mark += u64::from(rng.chance(20));
            let len = if rng.chance(15) {
                rng.below(9000)
            } else {
                rng.below(300)
            };
            let byte = rng.next_u64() as u8;
            (
                mark,
                (0..len).map(|at| byte.wrapping_add(at as u8)).collect(),
            )
        })
        .collect();
    let batch: Vec<_> = records
        .iter()
        .map(|(mark, payload)| Record {
            mark: *mark,
            tag: 0,
            payload,
        })
        .collect();
    let staged = wal.write(&Batch {
        state: state.as_deref(),
        truncate_from: truncate.map(LogIndex),
        records: &batch,
    })?;
    if let Some(state) = state {
        history.step(|model| model.state = Some(state));
    }
    if let Some(from) = truncate {
        history.step(|model| model.entries.truncate((from - 1 - model.floor) as usize));
    }
    for (mark, payload) in records {
        history.step(|model| model.entries.push((mark, payload.into())));
    }
    assert_eq!(staged.last().0, history.now().last());
    Ok(())
}

fn random_drop(wal: &Wal, rng: &mut Rng, history: &mut History) -> Result<(), WalError> {
    let now = history.now();
    let upto = now.floor + rng.below(now.entries.len() as u64 + 1);
    let staged = wal.drop_prefix(LogIndex(upto))?;
    assert_eq!(staged.last().0, history.now().last());
    history.step(|model| {
        let mut dropped = model.entries.drain(..(upto - model.floor) as usize);
        model.floor_mark = dropped
            .next_back()
            .map_or(model.floor_mark, |entry| entry.0);
        model.floor = upto;
    });
    Ok(())
}

fn sync(wal: &Wal, history: &mut History) -> Result<(), WalError> {
    // An empty write is a handle on all before it.
    let staged = wal.write(&Batch::default())?;
    wal.sync(staged)?;
    history.acknowledged = history.steps.len() - 1;
    Ok(())
}

/// Runs `turns` random calls on the log; ends at the first error.
fn work(
    mut wal: Wal,
    disk: &SimDisk,
    rng: &mut Rng,
    turns: u64,
    history: &mut History,
) -> Result<(), WalError> {
    for _ in 0..turns {
        match rng.below(100) {
            0..=62 => random_write(&wal, rng, history)?,
            63..=90 => sync(&wal, history)?,
            91..=96 => random_drop(&wal, rng, history)?,
            _ => {
                let issued = history.steps.len() - 1;
                wal.close()?;
                history.acknowledged = issued;
                let (reopened, recovery) = open(disk)?;
                assert!(
                    held(&reopened, &recovery) == *history.now(),
                    "after a close"
                );
                assert_eq!(recovery.torn, None);
                wal = reopened;
            }
        }
    }
    sync(&wal, history)
}

/// Opens what a crash left, and checks that it is a step that was not passed by an acknowledged one.
fn check_recovered(disk: &SimDisk, history: &History, case: &str) -> (Wal, Model) {
    let (wal, recovery) = open(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let found = held(&wal, &recovery);
    let allowed = &history.steps[history.acknowledged..];
    assert!(
        allowed.contains(&found),
        "{case}: found {}, acknowledged {}, issued {}",
        found.summary(),
        history.steps[history.acknowledged].summary(),
        history.now().summary()
    );
    (wal, found)
}

/// The same calls again, with the power cut at call `nth`.
fn run_until(seed: u64, turns: u64, nth: u64) -> (SimDisk, History) {
    let disk = SimDisk::new(seed);
    disk.crash_at(nth, Moment::Before);
    let mut history = History::of(Model::default());
    if let Ok((wal, _)) = open(&disk) {
        let _ = work(wal, &disk, &mut Rng::new(seed), turns, &mut history);
    }
    (disk, history)
}

fn check_cut(disk: &SimDisk, history: &History, survival: Survival, case: &str) {
    let cut = disk.power_cut(survival);
    let (wal, found) = check_recovered(&cut, history, case);
    let mut history = History::of(found);
    let mut rng = Rng::new(cut.ops() ^ 0x5eed);
    // A second crash, soon after the first, leaves nothing that the first had cut.
    cut.crash_at(cut.ops() + 1 + rng.below(25), Moment::After);
    let _ = work(wal, &cut, &mut rng, 12, &mut history);
    let again = cut.power_cut(Survival::Random(rng.next_u64()));
    let case = format!("{case}, then a second crash");
    let (wal, found) = check_recovered(&again, &history, &case);
    let mut history = History::of(found);
    work(wal, &again, &mut rng, 3, &mut history).unwrap_or_else(|error| panic!("{case}: {error}"));
    let (wal, recovery) = open(&again).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(held(&wal, &recovery) == *history.now(), "{case}, reopened");
}

/// What a killed process had written and not synced is durable once the log was opened.
fn check_kill(disk: &SimDisk, history: &History, case: &str) {
    let case = format!("{case}, killed");
    let killed = disk.kill();
    let (wal, found) = check_recovered(&killed, history, &case);
    let history = History::of(found);
    check_recovered(&killed.power_cut(Survival::None), &history, &case);
    drop(wal);
}

#[test]
fn after_a_power_cut_at_any_call_the_log_is_what_its_writes_made_it_up_to_some_point() {
    let replayed = std::env::var("CATAMARAN_SEED").ok();
    let seeds: Vec<u64> = match &replayed {
        Some(seed) => vec![seed.parse().expect("a number in CATAMARAN_SEED")],
        None => (1..=8).collect(),
    };
    for seed in seeds {
        let turns = 300;
        let (disk, history) = run_until(seed, turns, u64::MAX);
        let (ops, steps) = (disk.ops(), history.steps.len());
        assert_eq!(
            history.acknowledged,
            steps - 1,
            "seed {seed}: the script ends synced"
        );
        let mut cases = 0;
        for nth in 1..=ops {
            let (disk, history) = run_until(seed, turns, nth);
            assert!(disk.is_crashed());
            let random = (0..3).map(|choice| Survival::Random(seed ^ nth << 8 ^ choice));
            for survival in [Survival::All, Survival::None].into_iter().chain(random) {
                let case =
                    format!("CATAMARAN_SEED={seed}, cut at call {nth} of {ops}, {survival:?}");
                check_cut(&disk, &history, survival, &case);
                cases += 1;
            }
            let case = format!("CATAMARAN_SEED={seed}, cut at call {nth} of {ops}");
            check_kill(&disk, &history, &case);
            cases += 1;
        }
        println!("seed {seed}: {steps} steps, {ops} cuts, {cases} cases, each with a second crash");
    }
}
