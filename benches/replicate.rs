//! Commits on three durable nodes in one process, clients waiting each for its own or one with many under way, with
//! the bare device beside them: one positional write of an entry's bytes and one fdatasync.
//!
//! `cargo bench --bench replicate`; the directory is `CATAMARAN_BENCH_DIR`, or the system's for temporary
//! files, which must be on a real disk.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "support/clients.rs"]
mod clients;
#[allow(dead_code, reason = "shared with other benchmarks")]
#[path = "../src/bin/catamaran/bench/nodes.rs"]
mod nodes;
#[path = "support/raw.rs"]
mod raw;

use std::collections::VecDeque;
use std::time::Duration;

use catamaran::{Node, Options};
use clients::share;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nodes::{Count, Nodes};
use raw::{Raw, bench_dir};

/// Clients, how many commits each has under way, and how long an entry is.
const ROWS: [(u64, usize, usize); 6] = [
    (1, 1, 128),
    (16, 1, 128),
    (64, 1, 128),
    (256, 1, 128),
    (256, 1, 1_024),
    (1, 1_024, 128),
];

fn replicate(criterion: &mut Criterion) {
    let dir = bench_dir();
    let mut raw = Raw::create(&dir.path().join("raw")).expect("a new file");
    let nodes = Nodes::start(dir.path(), 3, &Options::default()).expect("a cluster");
    for (clients, inflight, bytes) in ROWS {
        let name = format!("replicate/{clients}_clients_x{inflight}_in_flight_x{bytes}");
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(5));
        let entry = vec![7; bytes];
        group.bench_function("raw_fdatasync", |bench| {
            bench.iter(|| raw.write_and_sync(&entry).expect("a write"))
        });
        group.bench_function("catamaran", |bench| {
            bench.iter_custom(|commits| {
                share(clients, commits, |own| {
                    commit(nodes.leader(), &entry, inflight, own);
                })
            });
        });
        group.finish();
    }
}

/// Begins so many commits, some at once, and waits for all of them.
fn commit(leader: &Node<Count>, entry: &[u8], inflight: usize, commits: u64) {
    let mut begun = VecDeque::with_capacity(inflight);
    for _ in 0..commits {
        begun.push_back(leader.propose(entry).expect("room"));
        if begun.len() == inflight {
            let first = begun.pop_front().expect("one under way");
            first.wait().expect("a commit");
        }
    }
    for proposal in begun {
        proposal.wait().expect("a commit");
    }
}

criterion_group!(benches, replicate);
criterion_main!(benches);
