//! Reading entries of an open log, with the same bytes read by hand beside it.
//!
//! `cargo bench --bench wal_read`; the directory is `CATAMARAN_BENCH_DIR`, or the system's for temporary
//! files. The files are in the page cache when they are read.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "support/frames.rs"]
mod frames;

use std::hint::black_box;
use std::time::Duration;

use catamaran::{LogIndex, WalOptions};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frames::{log_of, map, payload, segments, walk};

const LOGS: [(&str, u64, usize); 2] = [("1M_x128", 1_000_000, 128), ("256Ki_x1024", 1 << 18, 1024)];

/// Indices from 1 to `last` in no order, each as likely.
struct Random {
    state: u64,
    last: u64,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (((self.state >> 33) * self.last) >> 31) + 1
    }
}

fn read(criterion: &mut Criterion) {
    for (name, entries, bytes) in LOGS {
        let dir = log_of(entries, bytes);
        let maps: Vec<_> = segments(dir.path()).iter().map(|path| map(path)).collect();
        let mut places: Vec<(u32, u32)> = Vec::new();
        for (at, map) in (0..).zip(&maps) {
            walk(map, |offset, _| {
                places.push((at, u32::try_from(offset).expect("small")))
            });
        }
        let (wal, _) = WalOptions::new(dir.path()).open().expect("a log");
        let reader = wal.reader();
        let random = || Random {
            state: 1,
            last: entries,
        };

        let mut group = criterion.benchmark_group(format!("wal_random/{name}"));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Elements(1));
        group.bench_function("raw", |bench| {
            let mut random = random();
            bench.iter(|| {
                let (at, offset) = places[usize::try_from(random.next()).expect("small") - 1];
                black_box(payload(&maps[at as usize], offset as usize)).len()
            });
        });
        group.bench_function("catamaran", |bench| {
            let mut random = random();
            bench.iter(|| black_box(reader.get(LogIndex(random.next())).expect("an entry")));
        });
        group.finish();

        let mut group = criterion.benchmark_group(format!("wal_sequential/{name}"));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(3));
        group.throughput(Throughput::Elements(entries));
        group.bench_function("raw", |bench| {
            bench.iter(|| {
                for map in &maps {
                    walk(map, |_, payload| {
                        black_box(payload);
                    });
                }
            });
        });
        group.bench_function("catamaran", |bench| {
            bench.iter(|| {
                for stored in reader.range(LogIndex(1)..=LogIndex(entries)) {
                    let stored = stored.expect("an entry");
                    black_box(&*stored.payload);
                }
            });
        });
        group.bench_function("catamaran_in_place", |bench| {
            bench.iter(|| {
                let mut range = reader.range(LogIndex(1)..=LogIndex(entries));
                while let Some(entry) = range.next_in_place() {
                    black_box(entry.expect("an entry").payload);
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, read);
criterion_main!(benches);
