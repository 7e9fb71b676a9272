//! Opening and verifying a log, with the same bytes mapped and checked by hand beside it.
//!
//! `cargo bench --bench wal_recover`; the directory is `CATAMARAN_BENCH_DIR`, or the system's for temporary
//! files. It takes 3 GiB there. The files are in the page cache when they are read.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "support/frames.rs"]
mod frames;

use std::path::Path;
use std::time::{Duration, Instant};

use catamaran::WalOptions;
use catamaran::wal::open_read_only;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frames::{log_of, map, segments, walk};

/// Entries and bytes of each. The last is the first but for its ten times as many sealed entries.
const LOGS: [(&str, u64, usize); 3] = [
    ("1M_x128", 1_000_000, 128),
    ("1GiB_x1024", 1 << 20, 1024),
    ("10M_x128", 10_000_000, 128),
];

fn open(criterion: &mut Criterion) {
    for (name, entries, bytes) in LOGS {
        let dir = log_of(entries, bytes);
        let paths = segments(dir.path());
        let tail = paths.last().expect("a segment").clone();
        say_memory(name, dir.path(), paths.len());
        let mut group = criterion.benchmark_group(format!("wal_open/{name}"));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(2));
        group.bench_function("raw_tail", |bench| bench.iter(|| count(&tail)));
        if entries <= 1 << 20 {
            group.bench_function("raw_whole", |bench| {
                bench.iter(|| paths.iter().map(|path| count(path)).sum::<u64>());
            });
        }
        group.bench_function("catamaran", |bench| {
            bench.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let options = WalOptions::new(dir.path());
                    let start = Instant::now();
                    let opened = options.open();
                    spent += start.elapsed();
                    let (wal, recovery) = opened.expect("a log");
                    assert_eq!(recovery.last.0, entries);
                    drop(wal);
                }
                spent
            });
        });
        group.finish();
        if entries <= 1 << 20 {
            verify(criterion, name, dir.path(), entries);
        }
    }
}

fn verify(criterion: &mut Criterion, name: &str, dir: &Path, entries: u64) {
    let paths = segments(dir);
    let mut group = criterion.benchmark_group(format!("wal_verify/{name}"));
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Elements(entries));
    group.bench_function("raw", |bench| {
        bench.iter(|| {
            let counted: u64 = paths.iter().map(|path| count(path)).sum();
            assert_eq!(counted, entries);
        });
    });
    group.bench_function("catamaran", |bench| {
        let log = open_read_only(dir).expect("a log");
        bench.iter(|| log.verify(|_| ()).expect("a clean log"));
    });
    group.finish();
}

/// The records of a segment, each checked.
fn count(path: &Path) -> u64 {
    let mut records = 0;
    walk(&map(path), |_, _| records += 1);
    records
}

/// How much memory an open log takes: of its own, and of the files' pages.
fn say_memory(name: &str, dir: &Path, segments: usize) {
    let before = memory();
    let (wal, _) = WalOptions::new(dir).open().expect("a log");
    let after = memory();
    println!(
        "wal_open/{name}: {segments} segments; opening took {} KiB of RssAnon and {} KiB of RssFile",
        after.0 - before.0,
        after.1 - before.1
    );
    drop(wal);
}

fn memory() -> (i64, i64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number
            .and_then(|number| number.parse().ok())
            .expect("a number of KiB")
    };
    (field("RssAnon:"), field("RssFile:"))
}

criterion_group!(benches, open);
criterion_main!(benches);
