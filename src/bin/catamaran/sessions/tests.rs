//! Clients as sockets, served by hand: a turn at a time, at the time that the test says.

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use super::*;
use crate::kv::{When, Write};
use crate::room::SHARE;
use crate::session::BUSY;

/// A reply of more bytes than are gathered before they are written.
const LARGE: usize = 300_000;
/// Far more of them than the sockets hold.
const TIMES: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);
const LIMIT: usize = 1 << 20;
const BUDGET: usize = 4 << 20;

/// The sessions of a node that is alone, and where they are found.
fn sessions(dir: &Path, most: usize) -> (Sessions, SocketAddr) {
    let node = Node::builder(catamaran::NodeId(1), dir)
        .start(Kv::default())
        .unwrap();
    set_large(&node, LARGE);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let sessions = Sessions::new(listener, Arc::new(node), LIMIT, BUDGET, most);
    (sessions.unwrap(), addr)
}

fn set_large(node: &Node<Kv>, bytes: usize) {
    let set = Write::Set {
        key: b"large".to_vec(),
        value: vec![b'x'; bytes],
        when: When::Always,
    };
    node.propose(set.encode()).unwrap().wait().unwrap();
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

impl Sessions {
    /// One turn at the time `now`, whether there is news or not.
    fn turn_at(&mut self, now: Instant) {
        let mut events = Events::with_capacity(16);
        self.recall.wake();
        self.wait(&mut events).unwrap();
        self.turn(&events, now);
    }

    /// Turns at the time `now` until it is so.
    fn until(&mut self, now: Instant, mut is_so: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < PATIENCE, "it never comes to be so");
            self.turn_at(now);
            thread::yield_now();
        }
    }
}

/// All that is there for a client whose connection was closed.
fn rest(mut stream: TcpStream) -> usize {
    let mut bytes = Vec::new();
    // Nothing more comes, whether it was closed in order or not.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "it is open still");
    }
    bytes.len()
}

#[test]
fn a_client_that_takes_nothing_for_thirty_seconds_is_closed_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 2);
    let start = Instant::now();
    let mut other = connect(addr);
    let mut lazy = connect(addr);
    sessions.until(start, |sessions| sessions.open.len() == 2);
    lazy.write_all("GET large\r\n".repeat(TIMES).as_bytes())
        .unwrap();
    sessions.until(start, |sessions| !sessions.stuck.is_empty());
    // The sockets may yet take what they did not at first.
    sessions.turn_at(start);

    let almost = start + STUCK - Duration::from_millis(1);
    sessions.turn_at(almost);
    assert_eq!(sessions.open.len(), 2, "before its time");
    sessions.turn_at(start + STUCK);
    assert_eq!((sessions.open.len(), sessions.stuck.len()), (1, 0));
    assert!(rest(lazy) < TIMES * LARGE);

    other.write_all(b"PING\r\n").unwrap();
    other.shutdown(Shutdown::Write).unwrap();
    let late = start + 2 * STUCK;
    sessions.until(late, |sessions| sessions.open.is_empty());
    let mut reply = String::new();
    other.read_to_string(&mut reply).unwrap();
    assert_eq!(reply, "+PONG\r\n");
}

#[test]
fn a_client_that_takes_its_replies_slowly_is_not_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 1);
    let mut now = Instant::now();
    let mut slow = connect(addr);
    slow.write_all("GET large\r\n".repeat(TIMES).as_bytes())
        .unwrap();
    sessions.until(now, |sessions| !sessions.stuck.is_empty());
    // Several replies, so that the socket tells of the room that they leave.
    let mut bytes = vec![0; TIMES * LARGE / 20];
    for part in 0..20 {
        now += STUCK - Duration::from_millis(1);
        let moved = sessions.stuck.get(&0).map(|stuck| stuck.moved);
        slow.read_exact(&mut bytes).unwrap();
        sessions.until(now, |sessions| {
            let stuck = sessions.stuck.get(&0).map(|stuck| stuck.moved);
            stuck.is_none() || stuck != moved
        });
        assert_eq!(sessions.open.len(), 1, "closed after part {part}");
    }
}

/// However small the requests are, and whatever else comes in meanwhile.
#[test]
fn no_more_is_gathered_than_a_piece_beyond_what_is_written_at_once() {
    const VALUE: usize = 900_000;
    const VALUES: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 1);
    set_large(&sessions.node, VALUE);
    let now = Instant::now();
    let mut lazy = connect(addr);
    let array = format!("MGET{}\r\n", " large".repeat(VALUES));
    let each = "GET large\r\n".repeat(VALUES);
    lazy.write_all((array + &each).as_bytes()).unwrap();
    sessions.until(now, |sessions| !sessions.stuck.is_empty());
    for _ in 0..20 {
        lazy.write_all(b"\r\n").unwrap();
        sessions.turn_at(now);
        let gathered = sessions.open[&0].gathered();
        assert!(gathered < 600_000, "{gathered} bytes");
    }
    lazy.shutdown(Shutdown::Write).unwrap();
    let reads = thread::spawn(move || {
        let mut replies = Vec::new();
        lazy.read_to_end(&mut replies).unwrap();
        replies
    });
    sessions.until(now, |sessions| sessions.open.is_empty());
    let values = format!("${VALUE}\r\n{}\r\n", "x".repeat(VALUE)).repeat(2 * VALUES);
    assert!(reads.join().unwrap() == format!("*{VALUES}\r\n{values}").as_bytes());
}

#[test]
fn a_client_too_many_is_told_so_and_the_next_is_served_when_one_has_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 3);
    let now = Instant::now();
    let mut clients: Vec<_> = (0..3).map(|_| connect(addr)).collect();
    sessions.until(now, |sessions| sessions.open.len() == 3);
    for _ in 0..2 {
        let mut turned_away = connect(addr);
        turned_away.set_nonblocking(true).unwrap();
        sessions.until(now, |_| turned_away.peek(&mut [0]).is_ok());
        turned_away.set_nonblocking(false).unwrap();
        let mut said = String::new();
        turned_away.read_to_string(&mut said).unwrap();
        assert_eq!(said, "-ERR max number of clients reached\r\n");
    }
    assert_eq!(sessions.open.len(), 3);

    drop(clients.pop());
    sessions.until(now, |sessions| sessions.open.len() == 2);
    clients.push(connect(addr));
    sessions.until(now, |sessions| sessions.open.len() == 3);
    let newest = clients.last_mut().unwrap();
    newest.write_all(b"PING\r\n").unwrap();
    newest.shutdown(Shutdown::Write).unwrap();
    sessions.until(now, |sessions| sessions.open.len() == 2);
    let mut said = String::new();
    newest.read_to_string(&mut said).unwrap();
    assert_eq!(said, "+PONG\r\n");
}

/// As large as a value may be.
const VALUE: usize = LIMIT - "SETk".len();

/// The head of a SET of a value of so many bytes, and the first of them.
fn begun(len: usize) -> String {
    format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${len}\r\nx")
}

impl Sessions {
    /// A client that has begun a large request, and holds room for it.
    fn begin(&mut self, now: Instant, addr: SocketAddr) -> TcpStream {
        let mut client = connect(addr);
        client.write_all(begun(VALUE).as_bytes()).unwrap();
        let stuck = self.stuck.len();
        self.until(now, |sessions| sessions.stuck.len() > stuck);
        client
    }

    /// Has a client send this, and turns until it has the answer.
    fn ask(&mut self, now: Instant, client: &mut TcpStream, bytes: &str, answer: &str) {
        let (mut sends, bytes) = (client.try_clone().unwrap(), bytes.to_owned());
        let sends = thread::spawn(move || sends.write_all(bytes.as_bytes()));
        self.until(now, |_| sends.is_finished());
        sends.join().unwrap().unwrap();
        let mut said = vec![0; answer.len()];
        client.set_nonblocking(true).unwrap();
        self.until(now, |_| {
            client.peek(&mut said).is_ok_and(|n| n == said.len())
        });
        client.set_nonblocking(false).unwrap();
        client.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8_lossy(&said), answer);
    }
}

#[test]
fn requests_that_many_have_begun_hold_no_more_than_the_budget_and_small_ones_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 16);
    let now = Instant::now();
    let mut begun_by: Vec<_> = (0..4).map(|_| sessions.begin(now, addr)).collect();
    let left = sessions.budget.left();
    assert!(left < VALUE - SHARE);

    let rest = "x".repeat(VALUE - 1) + "\r\n";
    let large = begun(VALUE) + &rest;
    let busy = format!("-{BUSY}\r\n+PONG\r\n");
    let mut others: Vec<_> = (0..8).map(|_| connect(addr)).collect();
    for other in &mut others {
        sessions.ask(now, other, &(large.clone() + "PING\r\n"), &busy);
    }
    let numbers: String = (1..=500).map(|number| format!(":{number}\r\n")).collect();
    sessions.ask(now, &mut others[0], &"INCR n\r\n".repeat(500), &numbers);
    assert_eq!((sessions.budget.left(), sessions.stuck.len()), (left, 4));

    // One is whole, one goes, and two break the protocol, one of whom would not say anything more.
    sessions.ask(now, &mut begun_by[0], &rest, "+OK\r\n");
    drop(begun_by.remove(1));
    let error = "-ERR Protocol error: an argument does not end where it said\r\n";
    for client in &mut begun_by[1..] {
        sessions.ask(now, client, &"x".repeat(VALUE + 1), error);
    }
    sessions.until(now, |sessions| sessions.open.len() == 9);
    assert_eq!((sessions.budget.left(), sessions.stuck.len()), (BUDGET, 0));
    sessions.ask(now, &mut others[1], &large, "+OK\r\n");
    assert_eq!(sessions.budget.left(), BUDGET);
}

#[test]
fn a_client_that_does_not_go_on_with_a_large_request_is_closed_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 4);
    let start = Instant::now();
    let mut idle = connect(addr);
    sessions.ask(start, &mut idle, "PING\r\n", "+PONG\r\n");
    let mut small = connect(addr);
    sessions.ask(start, &mut small, "PING\r\n*1\r\n$4\r\nPI", "+PONG\r\n");
    let silent = sessions.begin(start, addr);
    let mut slow = sessions.begin(start, addr);

    let almost = start + STUCK - Duration::from_millis(1);
    let before = sessions.stuck[&3].moved;
    slow.write_all(b"x").unwrap();
    sessions.until(almost, |sessions| sessions.stuck[&3].moved > before);
    assert_eq!(sessions.open.len(), 4, "before its time");
    sessions.turn_at(start + STUCK);
    assert_eq!((sessions.open.len(), sessions.stuck.len()), (3, 1));
    rest(silent);
    sessions.turn_at(almost + STUCK);
    assert_eq!((sessions.open.len(), sessions.stuck.len()), (2, 0));
    rest(slow);
    assert_eq!(sessions.budget.left(), BUDGET);

    let late = start + 3 * STUCK;
    sessions.turn_at(late);
    sessions.ask(late, &mut idle, "PING\r\n", "+PONG\r\n");
    sessions.ask(late, &mut small, "NG\r\n", "+PONG\r\n");
}

/// Its answer may come from another thread.
#[test]
fn a_large_request_begun_behind_one_under_way_is_watched_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 1);
    let now = Instant::now();
    let mut client = connect(addr);
    for number in 1..=20 {
        let asks = format!("INCR n\r\n{}", begun(VALUE));
        sessions.ask(now, &mut client, &asks, &format!(":{number}\r\n"));
        sessions.until(now, |sessions| sessions.stuck.len() == 1);
        let rest = "x".repeat(VALUE - 1) + "\r\n";
        sessions.ask(now, &mut client, &rest, "+OK\r\n");
        sessions.until(now, |sessions| sessions.stuck.is_empty());
    }
}

#[test]
fn a_request_holds_its_room_until_its_replies_are_taken() {
    const VALUES: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 1);
    let now = Instant::now();
    for takes in [false, true] {
        let mut lazy = connect(addr);
        // It waits for the write before it.
        let asks = format!("INCR n\r\nMGET{}\r\n", " large".repeat(VALUES));
        lazy.write_all(asks.as_bytes()).unwrap();
        sessions.until(now, |sessions| !sessions.stuck.is_empty());
        assert!(sessions.budget.left() < BUDGET - VALUES * 40);
        if takes {
            lazy.shutdown(Shutdown::Write).unwrap();
            let reads = thread::spawn(move || rest(lazy));
            sessions.until(now, |sessions| sessions.open.is_empty());
            assert!(reads.join().unwrap() > VALUES * LARGE);
        } else {
            drop(lazy);
            sessions.until(now, |sessions| sessions.open.is_empty());
        }
        assert_eq!(sessions.budget.left(), BUDGET);
    }
}

#[test]
fn a_client_that_asks_for_nothing_keeps_little() {
    const KEYS: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let (mut sessions, addr) = sessions(dir.path(), 1);
    let now = Instant::now();
    let mut client = connect(addr);
    let asks = format!("MGET{}\r\n", " k".repeat(KEYS));
    let nothing = format!("*{KEYS}\r\n{}", "$-1\r\n".repeat(KEYS));
    sessions.ask(now, &mut client, &asks, &nothing);
    let keeps = sessions.open[&0].keeps();
    assert!(keeps <= 2 * READ_BYTES, "{keeps} bytes");
}
