//! Durable appends, with the bare device beside them: the same bytes, one positional write and one
//! fdatasync on a zero-filled file.
//!
//! `cargo bench --bench wal_append`; the directory is `CATAMARAN_BENCH_DIR`, or the system's for temporary
//! files, which must be on a real disk.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "support/raw.rs"]
mod raw;

use std::time::{Duration, Instant};

use catamaran::WalOptions;
use catamaran::wal::Wal;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use raw::{Raw, bench_dir};

fn group<'a>(
    criterion: &'a mut Criterion,
    name: &str,
    entries: u64,
    bytes: u64,
) -> BenchmarkGroup<'a, criterion::measurement::WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(entries));
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(5));
    println!("{name}: {entries} entries of {bytes} bytes a sync");
    group
}

/// One thread, `count` entries a sync.
fn batches(criterion: &mut Criterion) {
    for (count, bytes) in [(1, 128), (1, 1024), (100, 128), (100, 1024)] {
        let name = format!("wal_append/{count}x{bytes}");
        let mut group = group(criterion, &name, count as u64, bytes as u64);
        let dir = bench_dir();
        let mut raw = Raw::create(&dir.path().join("raw")).expect("a new file");
        let block = vec![7; count * bytes];
        group.bench_function("raw", |bench| {
            bench.iter(|| raw.write_and_sync(&block).expect("a write"))
        });
        let (wal, _) = WalOptions::new(dir.path().join("wal"))
            .open()
            .expect("a new log");
        let entry = vec![7; bytes];
        let entries = vec![entry.as_slice(); count];
        group.bench_function("catamaran", |bench| {
            bench.iter(|| {
                let staged = wal.append(&entries).expect("an append");
                wal.sync(staged).expect("a sync")
            });
        });
        group.finish();
    }
}

/// Many threads, each waiting for its own entry; raw is one thread that syncs as many at once.
fn threads(criterion: &mut Criterion) {
    for (threads, bytes) in [(16, 128), (16, 1024), (64, 128)] {
        let name = format!("wal_append/{threads}_threads_x{bytes}");
        let mut group = group(criterion, &name, 1, bytes as u64);
        let dir = bench_dir();
        let mut raw = Raw::create(&dir.path().join("raw")).expect("a new file");
        let block = vec![7; threads * bytes];
        group.bench_function("raw", |bench| {
            bench.iter_custom(|entries| {
                let start = Instant::now();
                for _ in 0..entries.div_ceil(threads as u64) {
                    raw.write_and_sync(&block).expect("a write");
                }
                start.elapsed()
            });
        });
        let (wal, _) = WalOptions::new(dir.path().join("wal"))
            .open()
            .expect("a new log");
        group.bench_function("catamaran", |bench| {
            bench.iter_custom(|entries| append_from(&wal, threads, bytes, entries));
        });
        group.finish();
    }
}

fn append_from(wal: &Wal, threads: usize, bytes: usize, entries: u64) -> Duration {
    let each = entries.div_ceil(threads as u64);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let entry = vec![7; bytes];
                for _ in 0..each {
                    let staged = wal.append(&[&entry]).expect("an append");
                    wal.sync(staged).expect("a sync");
                }
            });
        }
    });
    start.elapsed()
}

criterion_group!(benches, batches, threads);
criterion_main!(benches);
