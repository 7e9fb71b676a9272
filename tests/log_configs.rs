//! A log finds its configurations again when it is opened, whatever a crash left of the last writes, and
//! without reading the entries between them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::sync::Arc;

use catamaran::log::{Log, NewEntry, Recovered};
use catamaran::sim::{Moment, Rng, SimDisk, Survival};
use catamaran::types::{HardState, LogIndex};
use catamaran::wal::{Preparer, WalOptions};
use catamaran::{ClusterId, EntryKind, NodeId, Term};

const RUNS: u64 = 300;
const WRITES: usize = 60;

fn open(disk: &SimDisk) -> (Log, Recovered) {
    let options = WalOptions::new("/log")
        .segment_bytes(64 << 10)
        .max_entry_bytes(4 << 10)
        .owner(ClusterId(1), NodeId(1))
        .preparer(Preparer::Inline)
        .disk(Arc::new(disk.clone()));
    Log::open(options).unwrap()
}

/// By reading every entry: the last configuration that is committed, and all behind it.
fn by_reading(log: &Log, commit: LogIndex) -> Vec<LogIndex> {
    let entries = log.reader().range(..).map(Result::unwrap);
    let configs = entries.filter(|entry| entry.kind == EntryKind::Config);
    let mut configs: Vec<_> = configs.map(|entry| entry.id.index).collect();
    let committed = configs.partition_point(|index| *index <= commit);
    configs.drain(..committed.saturating_sub(1));
    configs
}

/// What was found holds all that may count: perhaps one more from before it.
fn check(log: &Log, recovered: &Recovered, seed: u64) {
    let commit = recovered.hard_state.commit.min(recovered.last.index);
    let expected = by_reading(log, commit);
    let found = &recovered.configs;
    assert!(
        found.ends_with(&expected),
        "CATAMARAN_SEED={seed}: {found:?} found, {expected:?} there, {commit} committed"
    );
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut disk = SimDisk::new(seed);
    let (mut log, _) = open(&disk);
    let mut state = HardState {
        term: Term(1),
        ..HardState::default()
    };
    let payload = vec![7; 3_000];
    for _ in 0..WRITES {
        let last = log.reader().last();
        let uncommitted = last.since(state.commit);
        let truncate_from = (uncommitted > 0 && rng.chance(25))
            .then(|| state.commit.plus(1 + rng.below(uncommitted)));
        if truncate_from.is_some() {
            state.term = state.term.next();
        }
        let kinds = (0..rng.below(4)).map(|_| match rng.below(5) {
            0 => EntryKind::Config,
            _ => EntryKind::Normal,
        });
        let kinds: Vec<EntryKind> = kinds.collect();
        let entries = kinds.iter().map(|kind| NewEntry {
            term: state.term,
            kind: *kind,
            payload: (&payload).into(),
        });
        let entries: Vec<_> = entries.collect();
        let end = truncate_from.map_or(last, LogIndex::prev);
        let end = end.plus(entries.len() as u64);
        if rng.chance(30) {
            // What a write brings may be committed with it.
            let more = end.since(state.commit);
            state.commit = state.commit.plus(rng.below(more + 1));
        }
        let crashes = rng.chance(15);
        if crashes {
            let moment = [Moment::Before, Moment::After][usize::from(rng.chance(50))];
            disk.crash_at(disk.ops() + 1 + rng.below(3), moment);
        }
        let staged = log.stage(state, truncate_from, &entries);
        let synced = staged.and_then(|staged| match rng.chance(60) {
            true => log.wal().sync(staged).map(drop),
            false => Ok(()),
        });
        if crashes || synced.is_err() {
            // Some sectors of what was not synced are there, and others not.
            disk = disk.power_cut(Survival::Random(rng.next_u64()));
            let (opened, recovered) = open(&disk);
            check(&opened, &recovered, seed);
            log = opened;
            state = recovered.hard_state;
            state.commit = state.commit.min(recovered.last.index);
        }
    }
    let staged = log.stage(state, None, &[]).unwrap();
    log.wal().sync(staged).unwrap();
    let (log, recovered) = open(&disk.kill());
    let expected = by_reading(&log, state.commit);
    assert_eq!(recovered.configs, expected, "CATAMARAN_SEED={seed}");
}

#[test]
fn configurations_are_found_whatever_a_crash_leaves() {
    let one = std::env::var("CATAMARAN_SEED").ok();
    let seeds = one.map_or(0..RUNS, |seed| {
        let seed = seed.parse().unwrap();
        seed..seed + 1
    });
    for seed in seeds {
        run(seed);
    }
}

/// Nothing of a sealed segment is read but what its footer says, and the configurations themselves.
#[test]
fn finding_the_last_configuration_reads_no_other_entry() {
    let disk = SimDisk::new(1);
    let (log, _) = open(&disk);
    let state = HardState {
        term: Term(1),
        ..HardState::default()
    };
    let payload = vec![7; 3_000];
    let entry = |kind| NewEntry {
        term: Term(1),
        kind,
        payload: (&payload).into(),
    };
    let staged = log.stage(state, None, &[entry(EntryKind::Config)]).unwrap();
    log.wal().sync(staged).unwrap();
    for _ in 0..100 {
        let staged = log.stage(state, None, &[entry(EntryKind::Normal)]).unwrap();
        log.wal().sync(staged).unwrap();
    }
    drop(log);
    let disk = disk.kill();
    // Entry 2 stands in a segment that is sealed: damage of it would be found by who reads it.
    let damaged = disk
        .paths()
        .into_iter()
        .find(|path| path == Path::new("/log/0000000000000001.wal"));
    let path = damaged.unwrap();
    let bytes = disk.peek(&path).unwrap();
    let second = bytes
        .windows(1_000)
        .rposition(|part| part.iter().all(|byte| *byte == 7));
    disk.poke(&path, second.unwrap(), b"damage").unwrap();
    let (log, recovered) = open(&disk);
    assert_eq!(recovered.configs, [LogIndex(1)]);
    let read = log.reader().range(..).find(Result::is_err);
    assert!(read.is_some(), "nothing was damaged");
}
