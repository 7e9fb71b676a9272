//! Commits on three durable nodes in one process, clients waiting each for its own, with the bare device
//! beside them.
//!
//! `cargo bench --bench replicate`; the directory is `CATAMARAN_BENCH_DIR`, or the system's for temporary
//! files, which must be on a real disk.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

#[allow(dead_code, reason = "shared with other benchmarks")]
#[path = "../src/bin/catamaran/bench/nodes.rs"]
mod nodes;
#[path = "support/raw.rs"]
mod raw;

use std::time::{Duration, Instant};

use catamaran::{Node, Options};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nodes::{Count, Nodes};
use raw::{Raw, bench_dir};

fn replicate(criterion: &mut Criterion) {
    let dir = bench_dir();
    let mut raw = Raw::create(&dir.path().join("raw")).expect("a new file");
    let nodes = Nodes::start(dir.path(), 3, &Options::default()).expect("a cluster");
    let leader = nodes.leader();
    for clients in [1, 16, 64, 256] {
        let mut group = criterion.benchmark_group(format!("replicate/{clients}_clients_x128"));
        group.throughput(Throughput::Elements(1));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(5));
        group.bench_function("raw_fdatasync", |bench| {
            bench.iter(|| raw.write_and_sync(&[7; 128]).expect("a write"))
        });
        group.bench_function("catamaran", |bench| {
            bench.iter_custom(|commits| commit_from(leader, clients, commits));
        });
        group.finish();
    }
}

fn commit_from(leader: &Node<Count>, clients: u64, commits: u64) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                for _ in 0..commits.div_ceil(clients) {
                    leader
                        .propose(&[7; 128])
                        .expect("room")
                        .wait()
                        .expect("a commit");
                }
            });
        }
    });
    start.elapsed()
}

criterion_group!(benches, replicate);
criterion_main!(benches);
