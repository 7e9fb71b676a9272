//! openraft with raft-log below it, on tokio. Its clients are tasks, and its messages calls of the other node.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::{BasicNode, Config, Raft, SnapshotPolicy};
use tokio::runtime::Runtime;

use self::network::Net;
use self::store::{Counter, Store};
use super::{Clients, NODES};
use crate::Result;
use crate::turns::{Turn, Worker, runtime, tasks};

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
    let runtime = runtime()?;
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

impl Worker for Cluster<'_> {
    fn turn(&mut self) -> Result<Turn> {
        let (node, entry) = (self.nodes[0].clone(), Data(Arc::from(self.clients.entry)));
        tasks(&self.runtime, self.clients.count, move || {
            let node = node.clone();
            // A new buffer each, as if it came from outside.
            let data = Data(Arc::from(&*entry.0));
            async move {
                node.client_write(data).await?;
                Ok(())
            }
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
