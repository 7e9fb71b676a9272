//! `serve --snapshot-every`: a process that is killed starts again from its snapshot.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/served.rs"]
mod served;

use std::time::Instant;

use served::client::{Answer, Connection};
use served::cluster::Cluster;
use served::{EXE, PATIENCE};

fn ask(connection: &mut Connection, command: &str) -> Answer {
    let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    connection.ask(&words).unwrap()
}

fn value(text: impl ToString) -> Answer {
    Answer::Value(text.to_string().into_bytes())
}

/// One number of INFO's raft section.
fn info(connection: &mut Connection, key: &str) -> u64 {
    let Answer::Value(text) = ask(connection, "INFO raft") else {
        panic!("no INFO");
    };
    let text = String::from_utf8(text).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}"))
        .parse()
        .unwrap()
}

/// Two entries: one for a key, one for the log.
fn write(connection: &mut Connection, written: &mut u64) {
    let set = format!("SET key-{written} {written}");
    assert_eq!(ask(connection, &set), value("OK"));
    *written += 1;
    let appended = ask(connection, &format!("LOGAPPEND record-{written}"));
    assert_eq!(appended, value(*written));
}

#[test]
fn a_killed_process_starts_again_from_its_snapshot_with_all_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::new(EXE.into(), dir.path(), 1, 1 << 20).unwrap();
    let mut cluster = cluster.with(&["--snapshot-every", "50"]);
    let mut written = 0;
    for _ in 0..3 {
        cluster.start(1).unwrap();
        cluster.wait_leader().unwrap();
        let mut connection = served::connect(cluster.addrs()[0]);
        for number in 0..written {
            let found = ask(&mut connection, &format!("GET key-{number}"));
            assert_eq!(found, value(number));
        }
        assert_eq!(ask(&mut connection, "LOGLEN"), value(written));
        for _ in 0..100 {
            write(&mut connection, &mut written);
        }
        // A snapshot that is due while the one before is still being written is left out, so that a busy machine
        // may want more entries.
        let deadline = Instant::now() + PATIENCE;
        while info(&mut connection, "first_index") < 2 * written - 100 {
            assert!(Instant::now() < deadline, "the log was not compacted");
            write(&mut connection, &mut written);
        }
        let first = info(&mut connection, "first_index");
        let snapshot = info(&mut connection, "snapshot_index");
        assert!(
            snapshot >= first + 24,
            "{first} without what slow followers may need"
        );
        cluster.kill(1).unwrap();
    }
    cluster.start(1).unwrap();
    cluster.wait_leader().unwrap();
    let mut connection = served::connect(cluster.addrs()[0]);
    assert_eq!(ask(&mut connection, "GET key-0"), value(0));
    assert_eq!(ask(&mut connection, "LOGGET 1"), value("record-1"));
    assert_eq!(ask(&mut connection, "LOGLEN"), value(written));
}
