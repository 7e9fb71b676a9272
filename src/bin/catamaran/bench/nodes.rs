//! Nodes in one process, whose messages go from memory to memory.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Entry, Member, Node, NodeId, Options, StateMachine};

/// How long a cluster may take to elect its leader.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What is measured ends with its leader, and a busy machine is no reason for another.
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts what it applies and does no more, so that only what is below it is measured.
#[derive(Default)]
pub(crate) struct Count(pub(crate) u64);

impl StateMachine for Count {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        let count = |_: &Entry| {
            self.0 += 1;
            self.0
        };
        entries.iter().map(count).collect()
    }
}

/// A running cluster.
pub(crate) struct Nodes {
    nodes: Vec<Node<Count>>,
    leader: usize,
}

impl Nodes {
    /// Starts so many nodes with directories below this one, and waits until they have a leader.
    ///
    /// # Errors
    /// If one cannot be started, or none is elected.
    pub(crate) fn start(
        dir: &Path,
        count: usize,
        options: &Options,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let net = InMemory::new();
        let members: Vec<Member> = (1..=count as u64).map(|id| member(id, "")).collect();
        let start = |member: &Member| {
            Node::builder(member.id, dir.join(format!("n{}", member.id)))
                .options(Options {
                    election_timeout: ELECTION_TIMEOUT,
                    ..options.clone()
                })
                .bootstrap(members.clone())
                .transport(net.endpoint())
                .start(Count::default())
        };
        let nodes = members.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        let leader = leader(&nodes)?;
        Ok(Self { nodes, leader })
    }

    pub(crate) fn leader(&self) -> &Node<Count> {
        &self.nodes[self.leader]
    }

    /// One that does not lead, if there is one.
    #[allow(dead_code, reason = "asked by a benchmark that shares this file")]
    pub(crate) fn follower(&self) -> Option<&Node<Count>> {
        let mut nodes = (0..).zip(&self.nodes);
        nodes.find_map(|(at, node)| (at != self.leader).then_some(node))
    }
}

/// A member that is found at `addr`.
pub(crate) fn member(id: u64, addr: &str) -> Member {
    Member {
        id: NodeId(id),
        addr: addr.to_owned(),
        client_addr: String::new(),
    }
}

/// Waits until all know the same leader, and says which of them it is.
///
/// # Errors
/// If they do not in a minute.
pub(crate) fn leader(nodes: &[Node<Count>]) -> Result<usize, &'static str> {
    let mut leads = Err("no leader was elected in a minute");
    for node in nodes {
        let known = node
            .wait_leader(PATIENCE)
            .ok_or("no leader was elected in a minute")?;
        let at = nodes.iter().position(|node| node.status().id == known.id);
        leads = at.ok_or("the leader is no member");
    }
    leads
}
