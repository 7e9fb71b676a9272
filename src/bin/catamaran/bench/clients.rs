//! Clients of a cluster, in its process or over TCP: each begins commits, and waits for them in their order.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Bytes, Entry, Member, Node, NodeId, Proposal, StateMachine};

use crate::Failure;
use crate::client::{Answer, Connection};
use crate::cluster::Cluster;
use crate::serve::with_segments;

/// How long a cluster may take to elect its leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured.
pub(super) trait Target: Sync {
    fn client<'a>(&'a self, entry: &'a [u8]) -> Result<Box<dyn Client + 'a>, Failure>;
}

/// One client. It is told when the leader is lost: what is measured then is no longer one cluster's work.
pub(super) trait Client {
    fn begin(&mut self) -> Result<(), Failure>;
    /// Waits for the commit that was begun first.
    fn finish(&mut self) -> Result<(), Failure>;
}

/// Applies nothing, so that only the log is measured.
struct Nothing;

impl StateMachine for Nothing {
    type Reply = ();

    fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
        vec![(); entries.len()]
    }
}

/// Nodes in this process, whose messages go from memory to memory.
pub(super) struct Threads {
    nodes: Vec<Node<Nothing>>,
    leader: usize,
}

impl Threads {
    pub(super) fn start(dir: &Path, nodes: usize, segment_bytes: u64) -> Result<Self, Failure> {
        let options = with_segments(segment_bytes);
        let net = InMemory::new();
        let member = |id| Member {
            id: NodeId(id),
            addr: String::new(),
            client_addr: String::new(),
        };
        let members: Vec<Member> = (1..=nodes as u64).map(member).collect();
        let start = |member: &Member| {
            Node::builder(member.id, dir.join(format!("n{}", member.id)))
                .options(options.clone())
                .bootstrap(members.clone())
                .transport(net.endpoint())
                .start(Nothing)
        };
        let nodes: Result<Vec<_>, _> = members.iter().map(start).collect();
        let nodes = nodes.map_err(Failure::usage)?;
        let known = nodes[0].wait_leader(PATIENCE);
        let known = known.ok_or_else(|| Failure::runtime("no leader was elected in a minute"))?;
        let leads = |node: &Node<Nothing>| node.status().id == known.id;
        let leader = nodes.iter().position(leads).unwrap_or_default();
        Ok(Self { nodes, leader })
    }
}

impl Target for Threads {
    fn client<'a>(&'a self, entry: &'a [u8]) -> Result<Box<dyn Client + 'a>, Failure> {
        Ok(Box::new(InProcess {
            leader: &self.nodes[self.leader],
            entry,
            begun: VecDeque::new(),
        }))
    }
}

struct InProcess<'a> {
    leader: &'a Node<Nothing>,
    entry: &'a [u8],
    begun: VecDeque<Proposal<()>>,
}

impl Client for InProcess<'_> {
    fn begin(&mut self) -> Result<(), Failure> {
        let proposal = self.leader.propose(Bytes::from(self.entry));
        self.begun.push_back(proposal.map_err(Failure::runtime)?);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        match self.begun.pop_front() {
            Some(proposal) => proposal.wait().map_err(Failure::runtime),
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
    pub(super) fn start(dir: &Path, nodes: usize, segment_bytes: u64) -> Result<Self, Failure> {
        let start = || {
            let exe = std::env::current_exe()?;
            let mut cluster = Cluster::new(exe, dir, nodes, segment_bytes)?;
            (1..=nodes).try_for_each(|id| cluster.start(id))?;
            let leader = cluster.wait_leader()?;
            Ok(Self { cluster, leader })
        };
        start().map_err(|error: std::io::Error| Failure::runtime(error))
    }
}

impl Target for Processes {
    fn client<'a>(&'a self, entry: &'a [u8]) -> Result<Box<dyn Client + 'a>, Failure> {
        let addr = self.cluster.addrs()[self.leader - 1];
        let connection = Connection::open(addr).map_err(Failure::runtime)?;
        Ok(Box::new(OverTcp { connection, entry }))
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
