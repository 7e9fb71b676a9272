//! A small window for monitoring: `GET /status` and `GET /health`, over plain HTTP/1.1.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use catamaran::Node;

use crate::info;
use crate::json::Object;
use crate::kv::Kv;

/// The longest request head that is read.
const MAX_HEAD: u64 = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(2);

/// Answers one client after the other, for ever.
pub(crate) fn serve(listener: &TcpListener, node: &Node<Kv>) {
    for stream in listener.incoming().flatten() {
        // A client that breaks off is no concern of anybody else.
        let _ = answer(stream, node);
    }
}

fn answer(mut stream: TcpStream, node: &Node<Kv>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut head = BufReader::new((&stream).take(MAX_HEAD));
    let mut request = String::new();
    head.read_line(&mut request)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    let mut words = request.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/status")) => ("200 OK", status(node)),
        (Some("GET"), Some("/health")) => health(node),
        (Some("GET"), _) => (
            "404 Not Found",
            "only /status and /health are here".to_owned(),
        ),
        _ => ("405 Method Not Allowed", "only GET is answered".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn status(node: &Node<Kv>) -> String {
    let mut object = Object::new();
    for (key, value) in info::raft(&node.status()) {
        match value.parse::<u64>() {
            Ok(number) => object.number(key, number),
            Err(_) => object.text(key, &value),
        };
    }
    object.finish()
}

/// Healthy is who runs and knows a leader.
fn health(node: &Node<Kv>) -> (&'static str, String) {
    let status = node.status();
    let healthy = status.stopped.is_none() && status.leader.is_some();
    let mut object = Object::new();
    object.boolean("healthy", healthy);
    (
        if healthy {
            "200 OK"
        } else {
            "503 Service Unavailable"
        },
        object.finish(),
    )
}
