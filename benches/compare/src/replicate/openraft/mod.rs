//! openraft with raft-log below it, on tokio. Its clients are tasks, and its messages calls of the other node.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use tokio::runtime::Runtime;

use self::network::Net;
use self::store::{Counter, Store};
use super::{Clients, NODES};
use crate::Result;
use crate::turns::{TURN, Turn, Worker};

mod network;
mod store;

openraft::declare_raft_types!(pub(crate) Types: D = Data, R = ());

type Node = Raft<Types, Counter>;

/// What a client commits.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Data(Arc<[u8]>);

impl fmt::Display for Data {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} bytes", self.0.len())
    }
}

const LEADER: u64 = 1;

struct Cluster<'a> {
    runtime: Runtime,
    nodes: Vec<Node>,
    clients: Clients<'a>,
}

pub(super) fn start<'a>(dir: &Path, clients: Clients<'a>) -> Result<Box<dyn Worker + 'a>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let nodes = runtime.block_on(start_nodes(dir, clients.count))?;
    Ok(Box::new(Cluster {
        runtime,
        nodes,
        clients,
    }))
}

async fn start_nodes(dir: &Path, clients: usize) -> Result<Vec<Node>> {
    let config = Config {
        election_timeout_min: 2000,
        election_timeout_max: 4000,
        heartbeat_interval: 200,
        max_payload_entries: 4096,
        snapshot_policy: SnapshotPolicy::Never,
        ..Config::default()
    };
    let config = Arc::new(config.validate()?);
    let net = Net::default();
    let mut nodes = Vec::new();
    for id in NODES {
        let store = Store::open(&dir.join(id.to_string()), clients)?;
        let node = Node::new(
            id,
            Arc::clone(&config),
            net.clone(),
            store,
            Counter::default(),
        )
        .await?;
        net.join(id, node.clone());
        nodes.push(node);
    }
    let members = NODES.map(|id| (id, BasicNode::default()));
    nodes[0]
        .initialize(members.collect::<std::collections::BTreeMap<_, _>>())
        .await?;
    nodes[0]
        .wait(Some(Duration::from_secs(10)))
        .current_leader(LEADER, "the first leads")
        .await?;
    Ok(nodes)
}

/// Commits for a turn's time.
async fn client(node: Node, data: Data) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(1 << 12);
    let start = Instant::now();
    let mut begun = start;
    while begun - start < TURN {
        // A new buffer each, as if it came from outside.
        node.client_write(Data(Arc::from(&*data.0))).await?;
        let end = Instant::now();
        latencies.push(end - begun);
        begun = end;
    }
    Ok(latencies)
}

impl Worker for Cluster<'_> {
    fn turn(&mut self) -> Result<Turn> {
        let data = Data(Arc::from(self.clients.entry));
        self.runtime.block_on(async {
            let start = Instant::now();
            let spawn = |_| tokio::spawn(client(self.nodes[0].clone(), data.clone()));
            let clients: Vec<_> = (0..self.clients.count).map(spawn).collect();
            let mut latencies = Vec::new();
            for client in clients {
                latencies.extend(client.await??);
            }
            Ok(Turn::new(start.elapsed(), latencies))
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.runtime.block_on(async {
            for node in &self.nodes {
                node.shutdown().await?;
            }
            Ok(())
        })
    }
}
