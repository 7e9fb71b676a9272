//! A deterministic world to run a cluster in, and to break it in. Feature `sim`.
//!
//! [`run`] takes a [`Scenario`], a seed and a [`Workload`], and runs a cluster of the shipped consensus and
//! log in one thread: the disks, the network and the clocks are simulated, all that is random comes from the
//! seed, and so the same seed gives the same [`Outcome`], always. What goes wrong, and how often, is in
//! [`Faults`], as is how often somebody asks for other members or another leader; what must hold all the same is
//! in [`Property`]. A failure names its step and tells the last
//! ones before it, and [`shrink`] leaves out faults for as long as it stands.
//!
//! Bring your own state machine:
//!
//! ```
//! use catamaran::sim::{self, Rng, Scenario, Workload};
//! use catamaran::{Entry, StateMachine};
//!
//! #[derive(Default)]
//! struct Counter {
//!     total: usize,
//! }
//!
//! impl StateMachine for Counter {
//!     type Reply = usize;
//!
//!     fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
//!         let count = |entry: &Entry| {
//!             self.total += entry.payload.len();
//!             self.total
//!         };
//!         entries.iter().map(count).collect()
//!     }
//! }
//!
//! struct Counting;
//!
//! impl Workload for Counting {
//!     type Machine = Counter;
//!
//!     fn machine(&self) -> Counter {
//!         Counter::default()
//!     }
//!
//!     fn proposal(&mut self, rng: &mut Rng) -> Vec<u8> {
//!         vec![b'+'; 1 + rng.below(3) as usize]
//!     }
//! }
//!
//! # fn main() -> Result<(), catamaran::error::OptionError> {
//! for seed in 0..5 {
//!     let outcome = sim::run(&Scenario::drawn(seed, 1_000), seed, Counting)?;
//!     assert_eq!(outcome.violation, None);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A machine that has [snapshots](StateMachine::freeze) has them here too: they are taken, sent and restored among
//! all that fails, and [`Workload::digest`] holds what comes of it against what the entries lead to.
//!
//! [`SimDisk`] is of use alone: a disk in memory that is told how to fail.

use std::collections::BTreeSet;
use std::time::Duration;

mod birth;
mod check;
mod clients;
mod clock;
mod disk;
mod faults;
mod inject;
mod life;
mod mail;
mod network;
mod operator;
mod process;
mod rng;
mod shrink;
mod snapshots;
mod trace;
mod violation;
mod workload;
mod world;

pub use clients::Tally;
pub use disk::{Call, Moment, Op, SimDisk, Survival};
pub use faults::{Faults, Kind};
pub use rng::Rng;
pub use shrink::{Shrunk, shrink};
pub use violation::{Property, Violation};
pub use workload::{Chain, Chains, Workload};

use crate::config::{ClockBound, Options};
use crate::error::OptionError;
#[cfg(doc)]
use crate::state_machine::StateMachine;
use world::World;

/// What a run is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// How many members the cluster begins with; at least 1.
    pub nodes: usize,
    /// How many nodes there are besides, with empty disks, that may join; with the members at most 9.
    pub spares: usize,
    /// After how many events faults end. The run goes on until every node has applied everything.
    pub steps: u64,
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// The options of every node. [`Options::seed`] is not used, and nothing is refused as too much.
    pub options: Options,
    /// How many bytes of a snapshot file a node gives another at once, at most; at least 1.
    pub piece_bytes: usize,
    /// The mean time from one request of the clients to the next, in microseconds.
    pub pause: u64,
    /// Faults that are left out, by the numbers they have in a trace.
    pub without: BTreeSet<u64>,
}

impl Scenario {
    /// Three members, two nodes that may join, every fault, and times in which much happens in few steps: an
    /// election timeout of 50 ms.
    #[must_use]
    pub fn new(steps: u64) -> Self {
        let options = Options {
            election_timeout: Duration::from_millis(50),
            heartbeat_interval: Duration::from_millis(10),
            segment_bytes: 64 << 10,
            max_entry_bytes: 16 << 10,
            snapshot_entries: Some(100),
            trailing_entries: 20,
            ..Options::default()
        };
        Self {
            nodes: 3,
            spares: 2,
            steps,
            faults: Faults::default(),
            options,
            piece_bytes: 100,
            pause: 4_000,
            without: BTreeSet::new(),
        }
    }

    /// A scenario for one seed: 1 to 5 members and up to 3 nodes more, a [mix](Faults::mixed) of the faults,
    /// limits now wide, now narrow, and reads now with leases, now without. Of many seeds, each is meant to be
    /// mean in another way.
    #[must_use]
    pub fn drawn(seed: u64, steps: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5ce7_a210);
        let mut scenario = Self::new(steps);
        scenario.nodes = match rng.below(16) {
            0 => 1,
            1 => 2,
            2..10 => 3,
            10..12 => 4,
            _ => 5,
        };
        scenario.spares = drawn_index(&mut rng);
        scenario.faults = scenario.faults.mixed(&mut rng);
        scenario.pause = [1_000, 3_000, 8_000, 20_000][drawn_index(&mut rng)];
        let options = &mut scenario.options;
        options.max_append_entries = [1, 4, 64, 4_096][drawn_index(&mut rng)];
        options.max_append_bytes = [1 << 10, 4 << 10, 64 << 10, 1 << 20][drawn_index(&mut rng)];
        options.max_inflight_appends = [1, 2, 8, 64][drawn_index(&mut rng)];
        let drift_ppm = 100_000;
        options.lease_reads = rng.chance(40).then_some(ClockBound { drift_ppm });
        options.snapshot_entries = [None, Some(7), Some(40), Some(200)][drawn_index(&mut rng)];
        options.snapshot_bytes = [None, None, Some(4 << 10), Some(64 << 10)][drawn_index(&mut rng)];
        options.trailing_entries = [0, 3, 30, 1_000][drawn_index(&mut rng)];
        options.snapshot_rate = [4 << 10, 64 << 10, 1 << 20, 64 << 20][drawn_index(&mut rng)];
        scenario.piece_bytes = [20, 70, 150, 4 << 10][drawn_index(&mut rng)];
        options.memory_bytes = [64 << 10, 128 << 10, 1 << 20, 512 << 20][drawn_index(&mut rng)];
        scenario
    }
}

fn drawn_index(rng: &mut Rng) -> usize {
    usize::try_from(rng.below(4)).unwrap_or(0)
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The seed it was run from.
    pub seed: u64,
    /// How many events there were.
    pub steps: u64,
    /// A hash of all that happened: the same for two runs if they were the same.
    pub trace_hash: u64,
    /// The numbers of the faults that happened.
    pub faults: Vec<u64>,
    /// What the clients had of it.
    pub tally: Tally,
    /// How many leaders were elected.
    pub elections: u64,
    /// How many entries were committed.
    pub committed: u64,
    /// How many times a leader let proposals wait for the write that its log was at, to make one write of them.
    pub gathered: u64,
    /// How many changes of members were done, as far as who asked knows.
    pub changes: u64,
    /// How many times leadership went over to another node on request.
    pub handovers: u64,
    /// How many snapshots were made durable, taken or fetched.
    pub snapshots: u64,
    /// How many of them took the place of a log.
    pub installs: u64,
    /// How long it took from each end of the process that led until another leader was elected, in simulated
    /// microseconds.
    pub failovers: Vec<u64>,
    /// How long it took after the last fault until something new was acknowledged, in simulated microseconds;
    /// none if the run did not come so far, or could not, because the members whose log was not damaged were no
    /// quorum any more.
    pub recovery: Option<u64>,
    /// What was wrong, if anything was. The run ended there.
    pub violation: Option<Violation>,
}

/// Runs a cluster until `scenario.steps` events have happened, and on without faults until all is well.
///
/// # Errors
/// [`OptionError`] for an option of the scenario that is out of its bounds.
pub fn run<W: Workload>(
    scenario: &Scenario,
    seed: u64,
    workload: W,
) -> Result<Outcome, OptionError> {
    let bounds = (1, 9);
    crate::config::check("nodes", scenario.nodes, bounds, "from 1 to 9")?;
    let most = 9 - scenario.nodes;
    crate::config::check(
        "spares",
        scenario.spares,
        (0, most),
        "at most 9 with the nodes",
    )?;
    crate::config::check(
        "piece_bytes",
        scenario.piece_bytes,
        (1, 128 << 10),
        "from 1 to 128 KiB",
    )?;
    crate::config::check("pause", scenario.pause, (1, u64::MAX >> 8), "at least 1")?;
    Ok(World::new(scenario, seed, workload)?.run())
}
