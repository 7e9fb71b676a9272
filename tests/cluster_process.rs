//! Three real processes under load, killed without warning twenty times: nothing acknowledged is lost, and
//! all logs are the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with the command line")]
#[path = "../src/bin/catamaran/load.rs"]
mod load;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/served.rs"]
mod served;

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use load::Load;
use served::client;
use served::cluster::Cluster;
use served::{EXE, PATIENCE};

const ROUNDS: u64 = 20;

/// A seed from the environment, to repeat a run, or a new one.
fn seed() -> u64 {
    let given = std::env::var("CATAMARAN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| u64::from(std::process::id()))
}

fn next(random: &mut u64) -> u64 {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *random >> 33
}

/// The log of a stopped node, a line an entry.
fn dump(dir: &Path) -> String {
    let output = Command::new(EXE)
        .arg("dump")
        .arg(dir)
        .args(["-o", "jsonl"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn twenty_kills_under_load_lose_nothing_and_leave_equal_logs() {
    let seed = seed();
    println!("CATAMARAN_SEED={seed}");
    let mut random = seed;
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(EXE.into(), dir.path(), 3, 1 << 20).unwrap();
    for id in 1..=3 {
        cluster.start(id).unwrap();
    }
    cluster.wait_leader().unwrap();
    let load = Load::start(&cluster.addrs(), 4);
    let mut leaders_killed = 0;
    for round in 0..ROUNDS {
        let leader = cluster.wait_leader().unwrap();
        // Every other victim is the leader, and the rest are drawn from all three.
        let victim = if round % 2 == 0 {
            leader
        } else {
            usize::try_from(next(&mut random) % 3).unwrap() + 1
        };
        leaders_killed += u64::from(victim == leader);
        cluster.kill(victim).unwrap();
        // The two that are left go on without it.
        let next = load.watch(Instant::now());
        next.recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no progress in round {round}, seed {seed}"));
        cluster.start(victim).unwrap();
        let next = load.watch(Instant::now());
        next.recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no progress in round {round}, seed {seed}"));
        assert_eq!(cluster.died(), None, "seed {seed}");
    }
    assert!(
        leaders_killed >= ROUNDS / 2,
        "{leaders_killed} leaders killed"
    );
    let written = load.stop();
    for writer in &written {
        assert_eq!(writer.failed, None, "seed {seed}");
    }
    let last = cluster.wait_equal().unwrap();
    for id in 1..=3 {
        let status = cluster.stop(id).unwrap().unwrap();
        assert!(
            status.success(),
            "node {id} ended with {status}: {}",
            cluster.stderr_tail(id)
        );
    }

    let dumps: Vec<String> = (1..=3).map(|id| dump(&cluster.node_dir(id))).collect();
    // A leader that is stopped hands over, so whoever stopped later may have a new leader's empty entry.
    let ends = usize::try_from(last).unwrap();
    for dump in &dumps {
        assert!(dump.lines().count() >= ends, "seed {seed}");
        for line in dump.lines().skip(ends) {
            assert!(line.contains("\"noop\""), "{line}, seed {seed}");
        }
        let same = dump.lines().take(ends).eq(dumps[0].lines().take(ends));
        assert!(same, "the logs differ, seed {seed}");
    }
    // Each write is in its entry as text, so it can be looked for without knowing how.
    let payloads: HashSet<Vec<u8>> = dumps[0].lines().filter_map(payload).collect();
    let mut acknowledged = 0;
    for writer in &written {
        for &number in &writer.acknowledged {
            let (key, value) = load::entry(writer.writer, number);
            let set = set_entry(&key, &value);
            assert!(
                payloads.contains(&set),
                "{key} was acknowledged and is gone, seed {seed}"
            );
            acknowledged += 1;
        }
    }
    println!(
        "{acknowledged} writes acknowledged, {leaders_killed} of {ROUNDS} kills of a leader, {last} entries"
    );
    assert!(acknowledged > 0);
}

/// Those that are left would wait half a minute for its next word, and do not wait for it.
#[test]
fn the_death_of_a_leader_is_seen_before_its_silence() {
    let timeout = Duration::from_secs(32);
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(EXE.into(), dir.path(), 3, 1 << 20).unwrap();
    // It asks soon, and leads once another is there.
    cluster.start(1).unwrap();
    let millis = timeout.as_millis().to_string();
    let mut cluster = cluster.with(&["--election-timeout-ms", &millis]);
    for id in [2, 3] {
        cluster.start(id).unwrap();
    }
    assert_eq!(cluster.wait_leader().unwrap(), 1);
    let load = Load::start(&cluster.addrs(), 1);
    let told = load.watch(Instant::now()).recv_timeout(PATIENCE);
    told.unwrap();
    for id in [2, 3] {
        cluster.wait_caught_up(id, 1).unwrap();
    }
    cluster.kill(1).unwrap();
    let next = load.watch(Instant::now()).recv_timeout(timeout);
    next.expect("a write before anybody's election timeout");
    load.stop();
}

/// The payload in a line of the dump, which has it in hexadecimal.
fn payload(line: &str) -> Option<Vec<u8>> {
    let (_, rest) = line.split_once("\"payload\":\"")?;
    let (hex, _) = rest.split_once('"')?;
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// `SET key value` as the store encodes it.
fn set_entry(key: &str, value: &str) -> Vec<u8> {
    let mut entry = vec![1];
    for arg in [key, value] {
        entry.extend_from_slice(&u32::try_from(arg.len()).unwrap().to_le_bytes());
        entry.extend_from_slice(arg.as_bytes());
    }
    entry
}
