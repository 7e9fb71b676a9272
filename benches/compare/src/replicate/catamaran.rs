//! This crate's nodes, with their defaults.

use std::path::Path;
use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Entry, Member, Node, NodeId, RoleName, StateMachine};

use super::{Clients, NODES};
use crate::Result;
use crate::turns::{Turn, Worker, threads};

struct Count(u64);

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

struct Cluster<'a> {
    nodes: Vec<Node<Count>>,
    clients: Clients<'a>,
}

pub(super) fn start<'a>(dir: &Path, clients: Clients<'a>) -> Result<Box<dyn Worker + 'a>> {
    let net = InMemory::new();
    let member = |id| Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    };
    let members: Vec<Member> = NODES.map(member).collect();
    let start = |member: &Member| {
        Node::builder(member.id, dir.join(member.id.to_string()))
            .bootstrap(members.clone())
            .transport(net.endpoint())
            .start(Count(0))
    };
    let nodes = members
        .iter()
        .map(start)
        .collect::<std::result::Result<_, _>>()?;
    Ok(Box::new(Cluster { nodes, clients }))
}

impl Cluster<'_> {
    fn leader(&self) -> &Node<Count> {
        loop {
            for node in &self.nodes {
                let known = node.wait_leader(Duration::from_secs(10));
                if known.is_some() && node.status().role == RoleName::Leader {
                    return node;
                }
            }
        }
    }
}

impl Worker for Cluster<'_> {
    fn turn(&mut self) -> Result<Turn> {
        let leader = self.leader();
        threads(self.clients.count, |_| {
            leader.propose(self.clients.entry)?.wait()?;
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
