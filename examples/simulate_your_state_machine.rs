//! A state machine with a bug that no ordinary test sees, run in the simulated world until the bug shows.
//!
//! `cargo run --features sim --example simulate_your_state_machine`

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};

use catamaran::sim::{self, Rng, Scenario, Workload};
use catamaran::{Entry, Snapshot, StateMachine};

/// How long a worker keeps a job for itself, in ticks of the machine's own clock.
const LEASE: u64 = 20;

/// Hands out jobs to workers. Who does not come back in time loses the job to the next.
#[derive(Default)]
struct Jobs {
    clock: u64,
    leases: BTreeMap<u8, u64>,
    /// Whether the clock counts entries, which are the same everywhere, or calls, which are not.
    counts_entries: bool,
}

impl StateMachine for Jobs {
    /// Whether the worker has the job now.
    type Reply = bool;

    fn apply(&mut self, entries: &[Entry]) -> Vec<bool> {
        if !self.counts_entries {
            // The bug: how many entries come in one call differs from node to node.
            self.clock += 1;
        }
        let take = |entry: &Entry| {
            if self.counts_entries {
                self.clock += 1;
            }
            let job = entry.payload.first().copied().unwrap_or(0);
            let is_free = self.leases.get(&job).is_none_or(|end| *end <= self.clock);
            if is_free {
                self.leases.insert(job, self.clock + LEASE);
            }
            is_free
        };
        entries.iter().map(take).collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        let (clock, leases) = (self.clock, self.leases.clone());
        Some(move |out: &mut dyn Write| {
            out.write_all(&clock.to_le_bytes())?;
            for (job, end) in leases {
                out.write_all(&[job])?;
                out.write_all(&end.to_le_bytes())?;
            }
            Ok(())
        })
    }

    fn restore(&mut self, _: u32, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        let (clock, leases) = bytes
            .split_first_chunk()
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.clock = u64::from_le_bytes(*clock);
        self.leases.clear();
        for [job, end @ ..] in leases.as_chunks::<9>().0 {
            self.leases.insert(*job, u64::from_le_bytes(*end));
        }
        Ok(())
    }
}

/// Workers that ask for one of a few jobs at a time.
#[derive(Clone, Copy)]
struct Workers {
    counts_entries: bool,
}

impl Workload for Workers {
    type Machine = Jobs;

    fn machine(&self) -> Jobs {
        Jobs {
            counts_entries: self.counts_entries,
            ..Jobs::default()
        }
    }

    fn proposal(&mut self, rng: &mut Rng) -> Vec<u8> {
        vec![rng.below(8) as u8]
    }

    /// Has the world look at what is restored from snapshots too, not only at replies.
    fn digest(&self, machine: &Jobs) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        (machine.clock, &machine.leases).hash(&mut hasher);
        Some(hasher.finish())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let buggy = Workers {
        counts_entries: false,
    };
    let mut found = None;
    for seed in 0..100 {
        let scenario = Scenario::drawn(seed, 1_000);
        if let Some(shrunk) = sim::shrink(&scenario, seed, || buggy)? {
            found = Some((seed, shrunk));
            break;
        }
    }
    let (seed, shrunk) = found.ok_or("the bug was not found")?;
    let violation = shrunk.outcome.violation.ok_or("no violation")?;
    println!("seed {seed}: {violation}");
    println!(
        "beside lost and late messages it takes faults: {}; the last steps before:",
        shrunk.outcome.faults.len()
    );
    for line in violation.trace.iter().rev().take(8).rev() {
        println!("  {line}");
    }

    let mended = Workers {
        counts_entries: true,
    };
    let mut steps = 0;
    for seed in 0..30 {
        let outcome = sim::run(&Scenario::drawn(seed, 1_000), seed, mended)?;
        assert_eq!(outcome.violation, None, "seed {seed}");
        steps += outcome.steps;
    }
    println!("mended: 30 clusters and {steps} steps without a violation");
    Ok(())
}
