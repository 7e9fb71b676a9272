//! `bench`, as programs read it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::Command;

/// The numbers of the one object that a benchmark prints, by their keys.
fn bench(dir: &Path, args: &[&str]) -> Vec<(String, f64)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catamaran"));
    command.arg("bench").args(args).arg("--dir").arg(dir);
    command.args(["--segment-bytes", "1048576", "--json"]);
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let left = std::fs::read_dir(dir).unwrap().count();
    assert_eq!(left, 0, "files that were left");
    let printed = String::from_utf8(output.stdout).unwrap();
    let object = printed
        .strip_suffix("}\n")
        .and_then(|text| text.strip_prefix('{'));
    let pairs = object.unwrap().split(',').map(|pair| {
        let (key, number) = pair.split_once(':').unwrap();
        (key.trim_matches('"').to_owned(), number.parse().unwrap())
    });
    pairs.collect()
}

fn assert_measured(figures: &[(String, f64)], keys: &[&str]) {
    let measured = |key| {
        figures
            .iter()
            .any(|(of, number)| of == key && *number > 0.0)
    };
    for key in keys {
        assert!(measured(key), "no {key} in {figures:?}");
    }
}

#[test]
fn the_log_is_measured_beside_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let figures = bench(
        dir.path(),
        &[
            "wal",
            "--threads",
            "2",
            "--entry-bytes",
            "100",
            "--seconds",
            "1",
        ],
    );
    let keys = [
        "entries_per_s",
        "bytes_per_s",
        "p50_us",
        "p99_us",
        "syncs",
        "raw_entries_per_s",
        "ratio_to_raw",
    ];
    assert_measured(&figures, &keys);
}

#[test]
fn a_cluster_is_measured_beside_the_device_in_one_process_and_in_three() {
    let dir = tempfile::tempdir().unwrap();
    let keys = [
        "commits_per_s",
        "p50_us",
        "p99_us",
        "raw_fdatasync_p50_us",
        "voluntary_switches_per_commit",
    ];
    let cluster = [
        "replicate",
        "--nodes",
        "3",
        "--clients",
        "2",
        "--entry-bytes",
        "100",
        "--seconds",
        "1",
    ];
    let tcp = [&cluster[..], &["--tcp", "--inflight", "8"]].concat();
    let tasks = [&cluster[..], &["--tasks"]].concat();
    for args in [&cluster[..], &tasks, &tcp] {
        let figures = bench(dir.path(), args);
        assert_measured(&figures, &keys);
        // A machine with nothing else to do may take no processor from anybody.
        let taken = |(key, number): &(String, f64)| {
            key == "involuntary_switches_per_commit" && *number >= 0.0
        };
        assert!(figures.iter().any(taken), "{figures:?}");
    }
}

#[test]
fn a_member_that_catches_up_is_measured_beside_a_bare_copy() {
    let dir = tempfile::tempdir().unwrap();
    let few = ["catch-up", "--bytes", "3000000", "--entry-bytes", "1000"];
    let keys = [
        "bytes_per_s",
        "raw_bytes_per_s",
        "ratio_to_raw",
        "raw_prepared_bytes_per_s",
        "ratio_to_raw_prepared",
    ];
    assert_measured(&bench(dir.path(), &few), &keys);
}

#[test]
fn small_commits_are_measured_with_large_ones_beside_them_and_without() {
    let dir = tempfile::tempdir().unwrap();
    let keys = [
        "p50_us",
        "p99_us",
        "max_us",
        "p99_to_p50",
        "alone_p50_us",
        "alone_p99_us",
        "alone_max_us",
        "p99_to_alone_p50",
        "commits_per_s",
        "alone_commits_per_s",
        "large_per_s",
        "large_p50_us",
    ];
    let large = ["large", "--clients", "2", "--large-bytes", "200000"];
    let large = [&large[..], &["--seconds", "1"]].concat();
    assert_measured(&bench(dir.path(), &large), &keys);
    let tcp = [&large[..], &["--tcp", "--every-ms", "100"]].concat();
    assert_measured(&bench(dir.path(), &tcp), &keys);
}

#[test]
fn reads_are_measured_by_each_way() {
    let dir = tempfile::tempdir().unwrap();
    for by in ["round", "lease", "stale"] {
        let threads = ["reads", "--clients", "2", "--seconds", "1", "--by", by];
        let tasks = [&threads[..], &["--tasks"]].concat();
        for reads in [&threads[..], &tasks] {
            let figures = bench(dir.path(), reads);
            assert_measured(&figures, &["reads_per_s", "p50_us", "p99_us"]);
        }
    }
}

#[test]
fn the_time_from_a_leaders_death_to_the_next_write_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["failover", "--kills", "2", "--election-timeout-ms", "500"];
    let figures = bench(dir.path(), &args);
    let keys = [
        "kills",
        "failover_ms_p50",
        "failover_ms_p90",
        "failover_ms_max",
        "failover_ms_min",
        "terms",
        "acknowledged",
    ];
    assert_measured(&figures, &keys);
    let kills = figures.iter().find(|(key, _)| key == "kills");
    assert!(kills.is_some_and(|(_, kills)| *kills >= 2.0));
}
