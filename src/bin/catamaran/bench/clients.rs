//! Clients of a cluster, in its process or over TCP: each begins commits, and waits for them in their order.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use catamaran::{Bytes, Node, Options, Proposal};

use super::many::Many;
use super::measured::Measured;
use super::nodes::{Count, ELECTION_TIMEOUT, Nodes, PATIENCE};
use super::tasks;
use crate::Failure;
use crate::client::{Answer, Connection};
use crate::cluster::Cluster;

/// What is measured.
pub(super) trait Target: Sync {
    fn client<'a>(&'a self, entry: &'a [u8]) -> Result<Box<dyn Client + 'a>, Failure>;

    /// A turn of clients that each begin commits for so long, some at once, and wait for all of them.
    fn commit(&self, work: &Work<'_>, measured: &mut Measured) -> Result<(), Failure>;

    /// The processes that the nodes are in.
    fn pids(&self) -> Vec<u32>;
}

/// What clients do in a turn.
pub(super) struct Work<'a> {
    pub(super) clients: usize,
    pub(super) entry: &'a [u8],
    /// Commits that each has under way.
    pub(super) inflight: usize,
    pub(super) time: Duration,
    pub(super) run: Run,
}

/// What clients in this process are.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// Threads, which the kernel wakes.
    Threads,
    /// Tasks of one thread.
    Tasks,
}

/// One client. It is told when the leader is lost: what is measured then is no longer one cluster's work.
pub(super) trait Client {
    fn begin(&mut self) -> Result<(), Failure>;
    /// Waits for the commit that was begun first.
    fn finish(&mut self) -> Result<(), Failure>;
}

/// One client's turn on a thread of its own.
fn commit(client: &mut dyn Client, work: &Work<'_>) -> Result<Measured, Failure> {
    let mut begun_at = VecDeque::with_capacity(work.inflight);
    let mut measured = Measured::new()?;
    let start = Instant::now();
    loop {
        let now = Instant::now();
        if now - start < work.time {
            client.begin()?;
            begun_at.push_back(now);
            if begun_at.len() < work.inflight {
                continue;
            }
        }
        let Some(begun) = begun_at.pop_front() else {
            return Ok(measured);
        };
        client.finish()?;
        measured.record(begun.elapsed());
        measured.entries += 1;
    }
}

impl Target for Nodes {
    fn client<'a>(&'a self, entry: &'a [u8]) -> Result<Box<dyn Client + 'a>, Failure> {
        Ok(Box::new(InProcess {
            leader: self.leader(),
            entry,
            begun: VecDeque::new(),
        }))
    }

    fn commit(&self, work: &Work<'_>, measured: &mut Measured) -> Result<(), Failure> {
        if let Run::Tasks = work.run {
            let leader = self.leader();
            // So many that each waits for one.
            let tasks = work.clients * work.inflight;
            return tasks::run(tasks, work.time, measured, || {
                leader.propose(Bytes::from(work.entry))
            });
        }
        measured.threads(work.clients, |gate| {
            let client = self.client(work.entry);
            gate.wait();
            commit(&mut *client?, work)
        })
    }

    fn pids(&self) -> Vec<u32> {
        vec![std::process::id()]
    }
}

struct InProcess<'a> {
    leader: &'a Node<Count>,
    entry: &'a [u8],
    begun: VecDeque<Proposal<u64>>,
}

impl Client for InProcess<'_> {
    fn begin(&mut self) -> Result<(), Failure> {
        let proposal = self.leader.propose(Bytes::from(self.entry));
        self.begun.push_back(proposal.map_err(Failure::runtime)?);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match self.begun.pop_front() {
            Some(proposal) => proposal.wait().map(drop).map_err(Failure::runtime),
            None => Ok(()),
        }
    }
}

/// `serve` processes, asked to append to their log over RESP.
pub(super) struct Processes {
    cluster: Cluster,
    leader: usize,
}

impl Processes {
    pub(super) fn start(
        dir: &Path,
        nodes: usize,
        segment_bytes: u64,
        more: &[&str],
    ) -> Result<Self, Failure> {
        let start = || {
            let exe = std::env::current_exe()?;
            let timeout = ELECTION_TIMEOUT.as_millis().to_string();
            let heartbeat = Options::default().heartbeat_interval.as_millis();
            let heartbeat = heartbeat.to_string();
            let election = ["--election-timeout-ms", &timeout];
            let beat = ["--heartbeat-ms", &heartbeat];
            let cluster = Cluster::new(exe, dir, nodes, segment_bytes)?;
            let mut cluster = cluster.with(more).with(&election).with(&beat);
            (1..=nodes).try_for_each(|id| cluster.start(id))?;
            let leader = cluster.wait_leader()?;
            Ok(Self { cluster, leader })
        };
        start().map_err(|error: std::io::Error| Failure::runtime(error))
    }

    fn addr(&self) -> SocketAddr {
        self.cluster.addrs()[self.leader - 1]
    }
}

impl Target for Processes {
    fn client<'a>(&'a self, entry: &'a [u8]) -> Result<Box<dyn Client + 'a>, Failure> {
        let connection = Connection::open_patiently(self.addr(), PATIENCE);
        let connection = connection.map_err(Failure::runtime)?;
        Ok(Box::new(OverTcp { connection, entry }))
    }

    fn commit(&self, work: &Work<'_>, measured: &mut Measured) -> Result<(), Failure> {
        Many::connect(self.addr(), work.clients)
            .and_then(|clients| clients.commit(work, measured))
            .map_err(Failure::runtime)
    }

    fn pids(&self) -> Vec<u32> {
        self.cluster.pids().map(|(_, pid)| pid).collect()
    }
}

struct OverTcp<'a> {
    connection: Connection,
    entry: &'a [u8],
}

impl Client for OverTcp<'_> {
    fn begin(&mut self) -> Result<(), Failure> {
        let request = [b"LOGAPPEND", self.entry];
        self.connection.send(&request).map_err(Failure::runtime)
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match self.connection.receive().map_err(Failure::runtime)? {
            Answer::Value(_) => Ok(()),
            other => Err(Failure::runtime(format!(
                "LOGAPPEND was answered with {other:?}"
            ))),
        }
    }
}
