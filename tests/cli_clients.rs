//! Many clients of one node: what one of them does keeps no other waiting.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/served.rs"]
mod served;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use served::client::{Answer, Connection};
use served::{PATIENCE, alone};

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
