//! Linearizable reads on three durable nodes in one process, by a round of heartbeats that all share who wait, on
//! the leader and on a follower, and by lease; and stale ones beside them.
//!
//! `cargo bench --bench read_index`; the directory is `CATAMARAN_BENCH_DIR`, or the system's for temporary
//! files.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "support/clients.rs"]
mod clients;
#[path = "../src/bin/catamaran/bench/nodes.rs"]
mod nodes;
#[allow(dead_code, unused_imports, reason = "shared with other benchmarks")]
#[path = "support/raw.rs"]
mod raw;

use std::path::Path;
use std::time::Duration;

use catamaran::{ClockBound, Error, Options};
use clients::share;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nodes::Nodes;
use raw::bench_dir;

/// Three nodes with an entry.
fn start(dir: &Path, lease_reads: Option<ClockBound>) -> Nodes {
    let options = Options {
        lease_reads,
        ..Options::default()
    };
    let nodes = Nodes::start(dir, 3, &options).expect("a cluster");
    let entry = nodes.leader().propose(b"entry").expect("room");
    entry.wait().expect("a commit");
    nodes
}

/// So many reads from so many threads, each waiting for its own.
fn read_from(clients: u64, reads: u64, read: impl Fn() -> Result<u64, Error> + Sync) -> Duration {
    share(clients, reads, |own| {
        for _ in 0..own {
            assert_eq!(read().expect("a read"), 1);
        }
    })
}

fn read_index(criterion: &mut Criterion) {
    let dir = bench_dir();
    let rounds = start(&dir.path().join("rounds"), None);
    let bound = ClockBound { drift_ppm: 1_000 };
    let leases = start(&dir.path().join("leases"), Some(bound));
    let follower = rounds.follower().expect("three nodes");
    for clients in [1, 64] {
        let mut group = criterion.benchmark_group(format!("read_index/{clients}_clients"));
        group.throughput(Throughput::Elements(1));
        group.sample_size(20);
        let on = [
            ("on_the_leader", rounds.leader()),
            ("on_a_follower", follower),
            ("by_lease", leases.leader()),
        ];
        for (name, node) in on {
            group.bench_function(name, |bench| {
                bench.iter_custom(|reads| read_from(clients, reads, || node.read(|count| count.0)));
            });
        }
        group.bench_function("stale", |bench| {
            bench.iter_custom(|reads| {
                let stale = || {
                    rounds
                        .leader()
                        .read_stale(|count| count.0)
                        .map(|(count, _)| count)
                };
                read_from(clients, reads, stale)
            });
        });
        group.finish();
    }
}

criterion_group!(benches, read_index);
criterion_main!(benches);
