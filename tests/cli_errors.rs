//! Bad input at the command line and over the wire: told what is wrong, and nobody else is hurt.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/served.rs"]
mod served;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use served::client::{Answer, Client, Outcome};
use served::cluster::Cluster;
use served::{EXE, PATIENCE, alone};

fn run(args: &[&str]) -> Output {
    Command::new(EXE).args(args).output().unwrap()
}

/// Status 2 and one line on stderr that has every one of `words`.
fn refused(output: &Output, words: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = stderr
        .lines()
        .filter(|line| line.starts_with("catamaran: "))
        .collect();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(said.len(), 1, "{stderr}");
    for word in words {
        assert!(said[0].contains(word), "no {word:?} in {stderr}");
    }
}

fn serve(dir: &Path, peers: &str) -> Output {
    run(&[
        "serve",
        "--id",
        "1",
        "--dir",
        dir.to_str().unwrap(),
        "--peers",
        peers,
        "--segment-bytes",
        "1048576",
    ])
}

#[test]
fn a_malformed_command_line_is_told_what_was_expected() {
    let peers = "--peers=1=a:1@b:2";
    let table: &[(&[&str], &[&str])] = &[
        (&[], &["subcommand"]),
        (&["sail"], &["sail"]),
        (&["serve"], &["--id", "--dir", "--peers"]),
        (&["serve", "--id", "x", "--dir", "d", peers], &["x", "--id"]),
        (
            &["serve", "--id", "1", "--dir", "d", "--peers", "nonsense"],
            &["expected ID=RAFT_HOST:PORT@RESP_HOST:PORT"],
        ),
        (
            &["serve", "--id", "2", "--dir", "d", peers],
            &["--id 2 is not among --peers"],
        ),
        (
            &["serve", "--id", "1", "--dir", "d", peers, "--frobnicate"],
            &["--frobnicate"],
        ),
        (&["demo", "--nodes", "2"], &["odd number"]),
        (&["demo", "--seconds", "0"], &["--seconds", "1..=86400"]),
        (&["soak", "--minutes", "0"], &["--minutes", "0.01 to 10000"]),
        (
            &["soak", "--kill-every", "2"],
            &["--kill-every", "3..=3600"],
        ),
        (&["simulate"], &["--seeds"]),
        (&["simulate", "--seeds", "7..7"], &["7..7", "A..B"]),
        (&["dump"], &["<DIR>"]),
        (&["dump", "d", "-o", "xml"], &["xml", "table", "jsonl"]),
    ];
    for (args, words) in table {
        refused(&run(args), words);
    }
}

#[test]
fn an_option_out_of_bounds_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let peers = "1=127.0.0.1:0@127.0.0.1:0";
    let dir = dir.path().to_str().unwrap();
    let output = run(&[
        "serve",
        "--id",
        "1",
        "--dir",
        dir,
        "--peers",
        peers,
        "--segment-bytes",
        "1000",
    ]);
    refused(&output, &["segment_bytes", "1000", "64 KiB"]);
    let output = run(&[
        "serve",
        "--id",
        "1",
        "--dir",
        dir,
        "--peers",
        peers,
        "--heartbeat-ms",
        "500",
    ]);
    refused(&output, &["heartbeat_interval", "500ms"]);
}

#[test]
fn a_directory_that_is_locked_foreign_or_no_log_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, _) = alone(dir.path());
    let node = cluster.node_dir(1);
    let name = node.to_str().unwrap().to_owned();
    // The list of members is other than the running node's, but the lock comes first.
    refused(&serve(&node, "1=127.0.0.1:0@127.0.0.1:0"), &[&name, "LOCK"]);
    cluster.stop(1).unwrap();
    refused(
        &serve(&node, "1=127.0.0.1:0@127.0.0.1:0"),
        &[&name, "cluster"],
    );

    let segment = std::fs::read_dir(node.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let segment = segment
        .filter(|path| path.extension().is_some_and(|e| e == "wal"))
        .min()
        .unwrap();
    let whole = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, vec![b'x'; whole.len()]).unwrap();
    refused(
        &serve(&node, "1=127.0.0.1:0@127.0.0.1:0"),
        &[segment.to_str().unwrap()],
    );

    let file = dir.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    refused(
        &serve(&file, "1=127.0.0.1:0@127.0.0.1:0"),
        &[file.to_str().unwrap()],
    );
}

#[test]
fn malformed_requests_close_their_own_connection_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, addr) = alone(dir.path());
    let mut healthy = served::connect(addr);
    assert_eq!(
        healthy.ask(&[b"SET", b"k", b"v"]).unwrap(),
        Answer::Value(b"OK".to_vec())
    );
    let malformed: &[&[u8]] = &[
        b"*1\r\n$-5\r\n",
        b"*99999999\r\n",
        b"*2\r\n$3\r\nGETxx",
        b"*1\r\nGET\r\n",
        &[0xff; 70_000],
    ];
    for bytes in malformed {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may have closed it before all of this was sent.
        let _ = stream.write_all(bytes);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let reply = String::from_utf8_lossy(&reply);
        assert!(
            reply.is_empty() || reply.starts_with("-ERR Protocol error"),
            "{reply}"
        );
        assert_eq!(
            healthy.ask(&[b"GET", b"k"]).unwrap(),
            Answer::Value(b"v".to_vec())
        );
    }
    assert_eq!(cluster.died(), None);
}

#[test]
fn malformed_bytes_at_the_raft_port_close_their_own_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, addr) = alone(dir.path());
    let raft = cluster.raft_addr(1);
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"CATARAFT\x09\0\0\0",
        b"CATARAFT\x01\0\0\0",
    ] {
        let mut stream = TcpStream::connect(raft).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        // It ends: with an answer that refuses, or without one.
        let _ = stream.read_to_end(&mut answer);
        let mut healthy = served::connect(addr);
        assert_eq!(
            healthy.ask(&[b"PING"]).unwrap(),
            Answer::Value(b"PONG".to_vec())
        );
    }
    assert_eq!(cluster.died(), None);
}

#[test]
fn a_too_large_value_is_refused_with_the_limit_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, addr) = alone(dir.path());
    let mut connection = served::connect(addr);
    // The limit is a quarter of the segment.
    let Answer::Error(text) = connection
        .ask(&[b"SET", b"k", &vec![b'x'; 300_000]])
        .unwrap()
    else {
        panic!("a value over the limit was taken");
    };
    assert!(text.contains("limit"), "{text}");
    assert_eq!(connection.ask(&[b"GET", b"k"]).unwrap(), Answer::Nil);
}

#[test]
fn the_commands_of_redis_and_of_the_log_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, addr) = alone(dir.path());
    let mut connection = served::connect(addr);
    let mut ask = |line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        match connection.ask(&args).unwrap() {
            Answer::Value(bytes) => String::from_utf8(bytes).unwrap(),
            Answer::Nil => "nil".to_owned(),
            Answer::Error(text) => text,
        }
    };
    let table = [
        ("PING", "PONG"),
        ("ECHO hello", "hello"),
        ("GET k", "nil"),
        ("SET k v XX", "nil"),
        ("SET k 5 NX", "OK"),
        ("INCR k", "6"),
        ("INCRBY k 10", "16"),
        ("APPEND k 0", "3"),
        ("CAS k 160 x", "1"),
        ("CAS k 160 y", "0"),
        ("EXISTS k k nope", "2"),
        ("LOGLEN", "0"),
        ("LOGAPPEND first", "1"),
        ("LOGAPPEND second", "2"),
        ("LOGLEN", "2"),
        ("LOGGET 1", "first"),
        ("LOGGET 3", "nil"),
        ("DEL k nope", "1"),
        ("GET k", "nil"),
        ("CLIENT SETNAME me", "OK"),
        ("GET", "ERR wrong number of arguments for 'get' command"),
    ];
    for (line, expected) in table {
        assert_eq!(ask(line), expected, "{line}");
    }
    let info = ask("INFO raft");
    for key in [
        "id:1",
        "role:leader",
        "term:",
        "leader_id:1",
        "first_index:1",
        "last_index:",
        "commit_index:",
        "applied_index:",
    ] {
        assert!(info.contains(key), "{key} in {info}");
    }
}

#[test]
fn a_pipeline_is_answered_in_order_and_a_read_sees_the_write_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, addr) = alone(dir.path());
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut requests = String::new();
    let mut expected = String::new();
    for number in 1..=200 {
        requests.push_str("GET n\r\nINCR n\r\nGET n\r\nPING\r\n");
        let text = number.to_string();
        let before = (number - 1).to_string();
        match number {
            1 => expected.push_str("$-1\r\n"),
            _ => expected.push_str(&format!("${}\r\n{before}\r\n", before.len())),
        }
        expected.push_str(&format!(
            ":{number}\r\n${}\r\n{text}\r\n+PONG\r\n",
            text.len()
        ));
    }
    stream.write_all(requests.as_bytes()).unwrap();
    let mut replies = vec![0; expected.len()];
    stream.read_exact(&mut replies).unwrap();
    assert_eq!(String::from_utf8(replies).unwrap(), expected);
}

#[test]
fn a_follower_redirects_and_a_stopped_server_ends_with_status_0() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::new(EXE.into(), dir.path(), 3, 1 << 20).unwrap();
    // A busy machine is no reason for another leader.
    let mut cluster = cluster.with(&["--election-timeout-ms", "1000"]);
    for id in 1..=3 {
        cluster.start(id).unwrap();
    }
    let mut client = Client::new(cluster.addrs(), 0);
    let wrote = client.write(&[b"SET", b"k", b"v"], Instant::now() + PATIENCE);
    assert_eq!(wrote, Outcome::Acknowledged);
    let leader = cluster.wait_leader().unwrap();
    let addrs = cluster.addrs();
    let follower = leader % 3 + 1;
    let mut connection = served::connect(addrs[follower - 1]);
    let moved = format!("MOVED 0 {}", addrs[leader - 1]);
    assert_eq!(
        connection.ask(&[b"GET", b"k"]).unwrap(),
        Answer::Error(moved.clone())
    );
    assert_eq!(
        connection.ask(&[b"SET", b"k", b"w"]).unwrap(),
        Answer::Error(moved)
    );
    // Two of three gone: the last knows no leader in the end, and says so.
    for id in (1..=3).filter(|id| *id != follower) {
        assert!(cluster.stop(id).unwrap().unwrap().success());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connection.ask(&[b"GET", b"k"]).unwrap() {
            Answer::Error(text) if text.starts_with("CLUSTERDOWN") => break,
            Answer::Error(text) if text.starts_with("MOVED") => {
                assert!(Instant::now() < deadline, "{text}")
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(cluster.stop(follower).unwrap().unwrap().success());
}
