//! Clients that increment counters as fast as the cluster lets them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::counter::Counter;
use crate::client::{Answer, Connection, Route, encode};
use crate::load::Shared;

/// Counters of a client. It has one request for each under way.
const COUNTERS: usize = 32;
/// How long a request may take: much longer than a cluster is without a leader.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a refusal may begin with: the request was not taken, or, for the last, nobody knows.
const ALLOWED: [&str; 4] = ["MOVED", "CLUSTERDOWN", "BUSY", UNKNOWN];
const UNKNOWN: &str = "UNKNOWN";

/// The key of a client's counter.
pub(super) fn key(client: usize, counter: usize) -> String {
    format!("soak:{client}:{counter}")
}

/// How often each node was about to be killed, or was up again: odd while it is down.
pub(super) struct Lives(Vec<AtomicU64>);

impl Lives {
    pub(super) fn new(nodes: usize) -> Self {
        Self((0..nodes).map(|_| AtomicU64::new(0)).collect())
    }

    /// Node `id`, counted from 1, goes down from now on, or is up again.
    pub(super) fn turn(&self, id: usize) {
        self.0[id - 1].fetch_add(1, Ordering::SeqCst);
    }

    fn of(&self, at: usize) -> u64 {
        self.0[at].load(Ordering::SeqCst)
    }

    /// Whether a node that was in this life may break its connections off.
    fn excuses(&self, at: usize, life: u64) -> bool {
        !life.is_multiple_of(2) || self.of(at) != life
    }
}

/// What clients were told.
#[derive(Default)]
pub(super) struct Told {
    /// The counters of each client.
    pub(super) counters: Vec<Vec<Counter>>,
    /// Writes that ended with their outcome unknown.
    pub(super) unknown: u64,
    /// Error replies and lost connections by their kind.
    pub(super) errors: BTreeMap<String, u64>,
    /// How many of them should not have been, and the first.
    pub(super) unexpected: u64,
    pub(super) first_unexpected: Option<String>,
}

impl Told {
    fn error(&mut self, kind: &str, text: &str, allowed: bool) {
        *self.errors.entry(kind.to_owned()).or_default() += 1;
        if !allowed {
            self.unexpected += 1;
            self.first_unexpected.get_or_insert_with(|| text.to_owned());
        }
    }

    fn add(&mut self, other: Self) {
        self.counters.extend(other.counters);
        self.unknown += other.unknown;
        for (kind, count) in other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        self.unexpected += other.unexpected;
        self.first_unexpected = self.first_unexpected.take().or(other.first_unexpected);
    }
}

/// Running clients.
pub(super) struct Writers {
    pub(super) shared: Arc<Shared>,
    threads: Vec<JoinHandle<Told>>,
}

impl Writers {
    pub(super) fn start(addrs: &[SocketAddr], clients: usize, lives: &Arc<Lives>) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..clients).map(|client| {
            let shared = Arc::clone(&shared);
            let writer = Writer::new(client, addrs.to_vec(), Arc::clone(lives));
            std::thread::spawn(move || writer.run(&shared))
        });
        Self {
            threads: threads.collect(),
            shared,
        }
    }

    /// Ends all clients.
    pub(super) fn stop(self) -> io::Result<Told> {
        self.shared.end();
        let mut told = Told::default();
        for thread in self.threads {
            let one = thread.join();
            told.add(one.map_err(|_| io::Error::other("a client panicked"))?);
        }
        Ok(told)
    }
}

struct Writer {
    route: Route,
    lives: Arc<Lives>,
    connection: Option<(Connection, u64)>,
    /// An increment of each counter.
    requests: Vec<u8>,
    counters: Vec<Counter>,
    told: Told,
}

impl Writer {
    fn new(client: usize, addrs: Vec<SocketAddr>, lives: Arc<Lives>) -> Self {
        let mut requests = Vec::new();
        for counter in 0..COUNTERS {
            encode(&[b"INCR", key(client, counter).as_bytes()], &mut requests);
        }
        Self {
            route: Route::new(addrs, client),
            lives,
            connection: None,
            requests,
            counters: vec![Counter::default(); COUNTERS],
            told: Told::default(),
        }
    }

    fn run(mut self, shared: &Shared) -> Told {
        while !shared.is_over() {
            let begun = Instant::now();
            let acknowledged = self.round();
            if acknowledged > 0 {
                shared.tell(begun, acknowledged);
            }
        }
        self.told.counters = vec![self.counters];
        self.told
    }

    /// Increments each counter once, and tells how many of that were acknowledged.
    fn round(&mut self) -> u64 {
        let Some((mut connection, life)) = self.connect() else {
            return 0;
        };
        if let Err(error) = connection.send_encoded(&self.requests) {
            self.cut(life, 0, &error);
            return 0;
        }
        let mut acknowledged = 0;
        let mut refused = None;
        for counter in 0..COUNTERS {
            match connection.receive() {
                Ok(Answer::Error(text)) => {
                    self.refused(counter, &text);
                    refused = Some(text);
                }
                Ok(answer) => acknowledged += u64::from(self.answered(counter, &answer)),
                Err(error) => {
                    self.cut(life, counter, &error);
                    return acknowledged;
                }
            }
        }
        match refused {
            Some(text) => self.route.redirect(&text),
            None => self.connection = Some((connection, life)),
        }
        acknowledged
    }

    fn connect(&mut self) -> Option<(Connection, u64)> {
        if let Some(connection) = self.connection.take() {
            return Some(connection);
        }
        let life = self.lives.of(self.route.at());
        match Connection::open_patiently(self.route.addr(), PATIENCE) {
            Ok(connection) => Some((connection, life)),
            Err(error) => {
                let allowed = self.lives.excuses(self.route.at(), life);
                self.told.error("connect", &error.to_string(), allowed);
                self.route.redirect("");
                None
            }
        }
    }

    /// The connection is lost, with the requests from this counter on.
    fn cut(&mut self, life: u64, from: usize, error: &io::Error) {
        let allowed = self.lives.excuses(self.route.at(), life);
        self.told.error("cut", &error.to_string(), allowed);
        for counter in &mut self.counters[from..] {
            counter.unknown();
            self.told.unknown += 1;
        }
        self.route.next();
    }

    fn refused(&mut self, counter: usize, text: &str) {
        let kind = text.split(' ').next().unwrap_or_default();
        self.told.error(kind, text, ALLOWED.contains(&kind));
        if kind == UNKNOWN {
            self.counters[counter].unknown();
            self.told.unknown += 1;
        }
    }

    /// Whether the answer is a number.
    fn answered(&mut self, counter: usize, answer: &Answer) -> bool {
        let number = match answer {
            Answer::Value(bytes) => std::str::from_utf8(bytes).ok().and_then(|n| n.parse().ok()),
            _ => None,
        };
        match number {
            Some(number) => self.counters[counter].acknowledged(number),
            None => {
                let text = format!("INCR was answered with {answer:?}");
                self.told.error("answer", &text, false);
            }
        }
        number.is_some()
    }
}
