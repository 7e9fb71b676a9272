//! What consensus itself takes: a commit on three cores whose disks and network take no time.
//!
//! `cargo bench --bench core_step`

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::collections::VecDeque;
use std::hint::black_box;

use catamaran::config::{Config, Options};
use catamaran::raft::event::{Effect, Event};
use catamaran::raft::{Boot, Raft};
use catamaran::types::{Durable, HardState, LogId, LogIndex, NodeId, Roster, Time, WriteSeq};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const NODES: u64 = 3;

/// Cores, and what they have for each other.
struct Cluster {
    cores: Vec<Raft>,
    events: VecDeque<(usize, Event)>,
    effects: Vec<Effect>,
    now: Time,
    steps: u64,
}

fn place(id: NodeId) -> usize {
    usize::try_from(id.0 - 1).expect("few nodes")
}

impl Cluster {
    /// Three cores, of which the first leads.
    fn new() -> Self {
        let config = Config::try_from(Options::default()).expect("defaults");
        let voters = (1..=NODES).map(NodeId);
        let roster = Roster::of_voters(voters.clone());
        let core = |id| {
            let boot = Boot {
                id,
                configs: vec![(LogIndex::ZERO, roster.clone())],
                hard_state: HardState::default(),
                before: LogId::ORIGIN,
                last: LogId::ORIGIN,
                snapshot: None,
                runs: Vec::new(),
                written: WriteSeq::ZERO,
                seed: id.0,
                life: id.0,
            };
            Raft::new(&config, boot, Time::default())
        };
        let mut cluster = Self {
            cores: voters.map(core).collect(),
            events: VecDeque::new(),
            effects: Vec::new(),
            now: Time::default(),
            steps: 0,
        };
        cluster.now = cluster.cores[0].deadline();
        cluster.step(0, Event::Tick);
        cluster.settle();
        assert!(cluster.cores[0].pointers().committed > LogIndex::ZERO);
        cluster
    }

    fn step(&mut self, at: usize, event: Event) {
        self.steps += 1;
        let mut effects = std::mem::take(&mut self.effects);
        self.cores[at].step(self.now, event, &mut effects);
        // A write is durable at once, and what waits for it leaves behind it.
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist(persist) => {
                    let durable = Durable::for_simulation(persist.seq);
                    self.events.push_back((at, Event::Persisted(durable)));
                }
                Effect::Send { to, message, .. } => {
                    let event = Event::Received {
                        from: NodeId(at as u64 + 1),
                        message,
                        configs: Vec::new(),
                    };
                    self.events.push_back((place(to), event));
                }
                other => drop(black_box(other)),
            }
        }
        self.effects = effects;
    }

    fn settle(&mut self) {
        while let Some((at, event)) = self.events.pop_front() {
            self.step(at, event);
        }
    }

    fn commit(&mut self, count: u64) {
        self.step(0, Event::Propose { count });
        self.settle();
        let pointers = self.cores[0].pointers();
        assert_eq!(pointers.committed, pointers.last.index);
    }
}

fn core_step(criterion: &mut Criterion) {
    for count in [1, 64, 1_024] {
        let mut cluster = Cluster::new();
        let before = cluster.steps;
        cluster.commit(count);
        println!(
            "core_step/{count}_entries: {} steps",
            cluster.steps - before
        );
        let mut group = criterion.benchmark_group(format!("core_step/{count}_entries"));
        group.throughput(Throughput::Elements(count));
        group.bench_function("commit", |bench| bench.iter(|| cluster.commit(count)));
        group.finish();
    }
}

criterion_group!(benches, core_step);
criterion_main!(benches);
