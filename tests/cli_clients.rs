//! Many clients of one node: what one of them does keeps no other waiting.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/served.rs"]
mod served;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use served::client::{Answer, Connection};
use served::{EXE, PATIENCE, alone};

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn a_client_that_does_not_take_its_replies_keeps_nobody_waiting() {
    const BYTES: usize = 200_000;
    // Far more than the sockets hold.
    const TIMES: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, addr) = alone(dir.path());
    let mut other = Connection::open_patiently(addr, PATIENCE).unwrap();
    let value = vec![b'x'; BYTES];
    let ok = Answer::Value(b"OK".to_vec());
    assert_eq!(other.ask(&[b"SET", b"large", &value]).unwrap(), ok);

    let mut lazy = connect(addr);
    lazy.write_all("GET large\r\n".repeat(TIMES).as_bytes())
        .unwrap();
    // The first reply is there, so the others are under way.
    let mut first = [0; 1];
    lazy.read_exact(&mut first).unwrap();
    for number in 1..=100_u32 {
        let text = number.to_string().into_bytes();
        assert_eq!(other.ask(&[b"INCR", b"n"]).unwrap(), Answer::Value(text));
        assert_eq!(
            other.ask(&[b"GET", b"large"]).unwrap(),
            Answer::Value(value.clone())
        );
    }

    let reply = [format!("${BYTES}\r\n").as_bytes(), &value, b"\r\n"].concat();
    let mut read = vec![0; reply.len()];
    read[0] = first[0];
    lazy.read_exact(&mut read[1..]).unwrap();
    assert!(read == reply, "the first reply");
    for number in 1..TIMES {
        lazy.read_exact(&mut read).unwrap();
        assert!(read == reply, "reply {number}");
    }
}

#[test]
fn all_that_a_client_says_before_it_ends_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, addr) = alone(dir.path());
    for round in 0..50 {
        let mut stream = connect(addr);
        stream.write_all(b"INCR n\r\nINCR n\r\nGET n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).unwrap();
        let (first, second) = (2 * round + 1, (2 * round + 2).to_string());
        let get = format!("${}\r\n{second}\r\n", second.len());
        assert_eq!(replies, format!(":{first}\r\n:{second}\r\n{get}"));
    }
}

#[test]
fn hundreds_of_clients_that_ask_at_once_are_all_answered() {
    const CLIENTS: usize = 200;
    const TIMES: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let (_cluster, addr) = alone(dir.path());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(addr)).collect();
    for _ in 0..TIMES {
        for client in &mut clients {
            client.write_all(b"INCR n\r\n").unwrap();
        }
        for client in &mut clients {
            let mut reply = [0; 1];
            while reply != *b"\n" {
                client.read_exact(&mut reply).unwrap();
            }
        }
    }
    let mut connection = Connection::open_patiently(addr, PATIENCE).unwrap();
    let all = (CLIENTS * TIMES).to_string().into_bytes();
    assert_eq!(connection.ask(&[b"GET", b"n"]).unwrap(), Answer::Value(all));
}

/// A node alone that may have so many files open.
struct Confined(Child);

impl Confined {
    fn start(dir: &Path, files: usize) -> (Self, SocketAddr) {
        let confine = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
        let child = Command::new("sh")
            .args(["-c", &confine, EXE, "serve", "--id", "1"])
            .args(["--peers", "1=127.0.0.1:0@127.0.0.1:0"])
            .args(["--segment-bytes", "1048576", "--dir"])
            .arg(dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut node = Self(child.unwrap());
        let mut ready = String::new();
        let mut says = BufReader::new(node.0.stdout.take().unwrap());
        says.read_line(&mut ready).unwrap();
        let addr = ready.trim().rsplit_once("resp=").unwrap().1;
        (node, addr.parse().unwrap())
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn clients_leave_a_node_half_of_the_files_that_it_may_have_open() {
    const FILES: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let (_node, addr) = Confined::start(dir.path(), FILES);
    let mut first = Connection::open_patiently(addr, PATIENCE).unwrap();
    let ok = Answer::Value(b"OK".to_vec());
    let deadline = Instant::now() + PATIENCE;
    while first.ask(&[b"SET", b"k", b""]).unwrap() != ok {
        assert!(Instant::now() < deadline, "it never leads");
    }
    let mut others: Vec<_> = (1..2 * FILES).map(|_| connect(addr)).collect();
    // The log needs one segment after the other.
    let value = vec![b'x'; 100_000];
    for _ in 0..50 {
        assert_eq!(first.ask(&[b"SET", b"k", &value]).unwrap(), ok);
    }
    for mut turned_away in others.drain(FILES / 2 - 1..) {
        let mut said = String::new();
        turned_away.read_to_string(&mut said).unwrap();
        assert_eq!(said, "-ERR max number of clients reached\r\n");
    }
    for served in &mut others {
        served.write_all(b"PING\r\n").unwrap();
        let mut said = [0; 7];
        served.read_exact(&mut said).unwrap();
        assert_eq!(said, *b"+PONG\r\n");
    }
}
