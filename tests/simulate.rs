//! Clusters in the simulated world, and the world itself: what it finds, and that it repeats itself.
//!
//! `CATAMARAN_SEED=n cargo test --test simulate` runs one cluster and shows what it violates.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::{self, Read, Write};

use catamaran::sim::{
    Chain, Chains, Faults, Outcome, Property, Rng, Scenario, Workload, run, shrink,
};
use catamaran::{ClockBound, Entry, Snapshot, StateMachine};

const SEEDS: u64 = 400;
const STEPS: u64 = 4_000;

fn simulate(seed: u64, steps: u64) -> Outcome {
    run(&Scenario::drawn(seed, steps), seed, Chains).unwrap()
}

fn one_seed() -> Option<u64> {
    let seed = std::env::var("CATAMARAN_SEED").ok()?;
    Some(seed.parse().unwrap())
}

#[test]
fn clusters_keep_every_promise_whatever_fails() {
    let seeds = one_seed().map_or(0..SEEDS, |seed| seed..seed + 1);
    let (mut elections, mut faults, mut unknown, mut refused, mut reads) = (0, 0, 0, 0, 0);
    let (mut changes, mut handovers) = (0, 0);
    let (mut snapshots, mut installs, mut gathered) = (0, 0, 0);
    for seed in seeds {
        let outcome = simulate(seed, STEPS);
        if let Some(violation) = &outcome.violation {
            let trace = violation.trace.join("\n");
            panic!("{trace}\nCATAMARAN_SEED={seed}: {violation}");
        }
        assert!(
            outcome.tally.acknowledged > 0,
            "seed {seed} got nothing done"
        );
        elections += outcome.elections;
        changes += outcome.changes;
        handovers += outcome.handovers;
        faults += outcome.faults.len() as u64;
        unknown += outcome.tally.unknown;
        refused += outcome.tally.refused;
        reads += outcome.tally.reads;
        snapshots += outcome.snapshots;
        installs += outcome.installs;
        gathered += outcome.gathered;
    }
    if one_seed().is_none() {
        // A world where little fails proves little.
        assert!(elections > 3 * SEEDS, "{elections} elections");
        assert!(faults > 10 * SEEDS, "{faults} faults");
        assert!(changes > SEEDS, "{changes} changes of members");
        assert!(handovers > SEEDS / 4, "{handovers} handovers");
        assert!(unknown > SEEDS && refused > SEEDS && reads > 10 * SEEDS);
        assert!(snapshots > 10 * SEEDS && installs > SEEDS / 4);
        assert!(gathered > 10 * SEEDS, "{gathered} times proposals waited");
    }
}

/// Where leases are, a leader is cut off, or loses its followers to another, as often as can be.
fn of_leases(seed: u64) -> Scenario {
    let mut scenario = Scenario::drawn(seed, STEPS);
    scenario.nodes = 3;
    scenario.steps = 8_000;
    scenario.pause = 1_500;
    scenario.options.lease_reads = Some(ClockBound { drift_ppm: 500_000 });
    scenario.faults = Faults {
        delay: 30,
        partitions: 40,
        one_way_cuts: 60,
        partial_cuts: 30,
        broken_connections: 60,
        resets: 40,
        crashes: 60,
        hung_nodes: 20,
        clock_rates: 50,
        transfers: 100,
        ..Faults::none()
    };
    scenario
}

#[test]
fn no_lease_reads_the_past_while_leaders_come_and_go() {
    let count = 250;
    let seeds = one_seed().map_or(0..count, |seed| seed..seed + 1);
    let mut reads = 0;
    for seed in seeds {
        let outcome = run(&of_leases(seed), seed, Chains).unwrap();
        if let Some(violation) = &outcome.violation {
            let trace = violation.trace.join("\n");
            panic!("{trace}\nCATAMARAN_SEED={seed}: {violation}");
        }
        reads += outcome.tally.reads;
    }
    assert!(one_seed().is_some() || reads > 20 * count, "{reads} reads");
}

#[test]
fn a_seed_gives_the_same_run_always_and_another_seed_another() {
    let seeds = 1_000..1_020;
    let first: Vec<_> = seeds.clone().map(|seed| simulate(seed, STEPS)).collect();
    let mut again: Vec<_> = seeds.rev().map(|seed| simulate(seed, STEPS)).collect();
    again.reverse();
    assert_eq!(first, again);
    let mut hashes: Vec<_> = first.iter().map(|outcome| outcome.trace_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), first.len());
}

#[test]
fn a_cluster_that_nothing_disturbs_elects_once_and_answers_everything() {
    let mut scenario = Scenario::new(3_000);
    scenario.faults = Faults::none();
    for seed in 0..10 {
        let outcome = run(&scenario, seed, Chains).unwrap();
        assert_eq!(outcome.violation, None);
        assert_eq!((outcome.elections, outcome.tally.unknown), (1, 0));
        assert!(outcome.tally.acknowledged > 50);
    }
}

/// Runs worlds where only these things go wrong, and in which nothing may be violated.
fn worlds(faults: Faults, seeds: u64) -> impl Iterator<Item = Outcome> {
    let mut scenario = Scenario::new(STEPS);
    scenario.faults = faults;
    (0..seeds).map(move |seed| {
        // Where three vote, one that has lost its leader needs only one other.
        scenario.nodes = if seed % 2 == 0 { 3 } else { 5 };
        let outcome = run(&scenario, seed, Chains).unwrap();
        assert_eq!(outcome.violation, None, "seed {seed}");
        outcome
    })
}

#[test]
fn connections_that_break_one_by_one_unseat_no_leader_that_is_well() {
    let faults = Faults {
        broken_connections: 3_000,
        ..Faults::none()
    };
    let mut broken = 0;
    for outcome in worlds(faults, 40) {
        assert_eq!(outcome.elections, 1, "seed {}", outcome.seed);
        assert_eq!(outcome.tally.unknown, 0, "seed {}", outcome.seed);
        broken += outcome.faults.len();
    }
    assert!(broken > 5_000, "{broken}");
}

#[test]
fn a_leader_whose_connections_all_break_at_once_is_followed_by_one_at_most() {
    let faults = Faults {
        resets: 100,
        ..Faults::none()
    };
    let mut unseated = 0;
    for outcome in worlds(faults, 40) {
        let resets = outcome.faults.len() as u64;
        assert!(outcome.elections <= 1 + resets, "seed {}", outcome.seed);
        unseated += outcome.elections - 1;
    }
    assert!(unseated > 40, "{unseated}");
}

#[test]
fn the_end_of_a_leaders_process_is_answered_much_sooner_than_its_silence() {
    let median = |untold_ends| {
        let faults = Faults {
            crashes: 100,
            untold_ends,
            ..Faults::none()
        };
        let all = worlds(faults, 100).flat_map(|outcome| outcome.failovers);
        let mut all: Vec<u64> = all.collect();
        all.sort_unstable();
        let (count, median, most) = (all.len(), all[all.len() / 2], all[all.len() - 1]);
        println!("untold {untold_ends}: {count} leaders ended, {median} us, at most {most}");
        assert!(count > 100);
        median
    };
    let (told, silent) = (median(0), median(1_000));
    assert!(told * 4 < silent, "{told} {silent}");
}

/// Counts calls where it should count entries.
struct Calls {
    count: u64,
}

impl StateMachine for Calls {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        self.count += 1;
        vec![self.count; entries.len()]
    }
}

struct CountsCalls;

impl Workload for CountsCalls {
    type Machine = Calls;

    fn machine(&self) -> Calls {
        Calls { count: 0 }
    }

    fn proposal(&mut self, _: &mut Rng) -> Vec<u8> {
        Vec::new()
    }
}

#[test]
fn a_state_machine_whose_replies_differ_is_found_and_its_failure_made_small() {
    let scenario = Scenario::new(2_000);
    for seed in 1..=8 {
        let outcome = run(&scenario, seed, CountsCalls).unwrap();
        let violation = outcome.violation.unwrap();
        assert_eq!(violation.property, Property::SameReplies, "seed {seed}");
        let shrunk = shrink(&scenario, seed, || CountsCalls).unwrap().unwrap();
        let small = shrunk.outcome.violation.unwrap();
        assert_eq!(small.property, Property::SameReplies, "seed {seed}");
        let left = shrunk.outcome.faults;
        assert!(left.is_empty(), "seed {seed}: it takes no fault at all");
        assert!(!small.trace.is_empty());
        let again = run(&shrunk.scenario, seed, CountsCalls).unwrap();
        let what = format!("seed {seed}: what is found can be had again");
        assert_eq!(again.violation.unwrap(), small, "{what}");
    }
}

/// Does not believe what it is told.
struct Doubts {
    replies: bool,
}

impl Workload for Doubts {
    type Machine = Chain;

    fn machine(&self) -> Chain {
        Chain::default()
    }

    fn proposal(&mut self, rng: &mut Rng) -> Vec<u8> {
        vec![b'x'; usize::try_from(rng.below(9)).unwrap()]
    }

    fn acknowledged(&mut self, proposal: &[u8], reply: &(u64, u64)) -> Result<(), String> {
        assert!(proposal.iter().all(|byte| *byte == b'x'));
        if self.replies && reply.0 > 20 {
            return Err(format!("reply {}", reply.0));
        }
        Ok(())
    }

    fn inspect(&mut self, _: &Chain) -> Result<(), String> {
        if self.replies {
            return Ok(());
        }
        Err("as it is".to_owned())
    }
}

#[test]
fn what_the_embedder_finds_wrong_ends_the_run() {
    for (replies, what) in [(true, "reply "), (false, ": as it is")] {
        let outcome = run(&Scenario::new(2_000), 3, Doubts { replies }).unwrap();
        let violation = outcome.violation.unwrap();
        assert_eq!(violation.property, Property::Workload);
        assert!(violation.what.contains(what), "{}", violation.what);
        assert!(violation.step < 2_000);
    }
}

struct Panics;

impl StateMachine for Panics {
    type Reply = ();

    fn apply(&mut self, _: &[Entry]) -> Vec<()> {
        panic!("on purpose")
    }
}

impl Workload for Panics {
    type Machine = Self;

    fn machine(&self) -> Self {
        Self
    }

    fn proposal(&mut self, _: &mut Rng) -> Vec<u8> {
        Vec::new()
    }
}

#[test]
fn a_panic_is_told_with_the_steps_before_it() {
    let outcome = run(&Scenario::new(2_000), 3, Panics).unwrap();
    let violation = outcome.violation.unwrap();
    assert_eq!(violation.property, Property::Panic);
    assert_eq!(violation.what, "on purpose");
    assert!(!violation.trace.is_empty());
}

#[test]
fn a_scenario_out_of_its_bounds_is_refused() {
    let mut scenario = Scenario::new(10);
    scenario.nodes = 0;
    assert_eq!(run(&scenario, 1, Chains).unwrap_err().option, "nodes");
    let mut scenario = Scenario::new(10);
    scenario.options.segment_bytes = 1;
    assert!(run(&scenario, 1, Chains).is_err());
}

/// Forgets one thing when it is restored.
#[derive(Default)]
struct Forgetful {
    entries: u64,
    bytes: u64,
}

impl StateMachine for Forgetful {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        let count = |entry: &Entry| {
            self.entries += 1;
            self.bytes += entry.payload.len() as u64;
            self.entries
        };
        entries.iter().map(count).collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        let entries = self.entries;
        Some(move |out: &mut dyn Write| out.write_all(&entries.to_le_bytes()))
    }

    fn restore(&mut self, _: u32, from: &mut dyn Read) -> io::Result<()> {
        let mut entries = [0; 8];
        from.read_exact(&mut entries)?;
        self.entries = u64::from_le_bytes(entries);
        Ok(())
    }
}

struct Forgets;

impl Workload for Forgets {
    type Machine = Forgetful;

    fn machine(&self) -> Forgetful {
        Forgetful::default()
    }

    fn proposal(&mut self, _: &mut Rng) -> Vec<u8> {
        vec![b'x'; 3]
    }

    fn digest(&self, machine: &Forgetful) -> Option<u64> {
        Some(machine.entries << 32 | machine.bytes)
    }
}

#[test]
fn a_state_that_a_snapshot_does_not_bring_back_whole_is_found_though_no_reply_shows_it() {
    let mut scenario = Scenario::new(3_000);
    scenario.faults = Faults::none();
    let violation = run(&scenario, 1, Forgets).unwrap().violation.unwrap();
    assert_eq!(violation.property, Property::SameState, "{violation}");
}
