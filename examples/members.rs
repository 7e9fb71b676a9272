//! A cluster that grows from one node to three and then loses the first, all while it takes writes.
//!
//! `cargo run --example members`

use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Entry, Error, Member, Node, NodeId, StateMachine};

#[derive(Default)]
struct Counter {
    total: usize,
}

impl StateMachine for Counter {
    type Reply = usize;

    fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
        let count = |_: &Entry| {
            self.total += 1;
            self.total
        };
        entries.iter().map(count).collect()
    }
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    }
}

/// Proposes to one node after the other until the leader takes it.
fn count(nodes: &[Node<Counter>]) -> Result<(NodeId, usize), Error> {
    loop {
        for node in nodes {
            match node.propose(b"+")?.wait() {
                Ok(total) => return Ok((node.status().id, total)),
                Err(Error::NotLeader { .. }) => {
                    let _ = node.wait_leader(Duration::from_secs(1));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("catamaran-members-{}", std::process::id()));
    let net = InMemory::new();
    let build =
        |id: u64| Node::builder(NodeId(id), dir.join(id.to_string())).transport(net.endpoint());
    let first = build(1).bootstrap([member(1)]).start(Counter::default())?;
    let mut nodes = vec![first];
    println!("node 1 is alone and counts {}", count(&nodes)?.1);

    for id in [2, 3] {
        // It has no log and no say, and waits to hear from the cluster.
        nodes.push(build(id).join([member(1)]).start(Counter::default())?);
        // Returns once it has caught up and votes.
        let membership = nodes[0].add_voter(member(id))?.wait()?;
        let voters = membership.roster().voters().len();
        println!(
            "with node {id} there are {voters} voters, which count {}",
            count(&nodes)?.1
        );
    }

    // The leader removes itself: it hands over to one of the others once that is committed.
    let membership = nodes[0].remove(NodeId(1))?.wait()?;
    assert_eq!(membership.members(), [member(2), member(3)]);
    nodes.remove(0).shutdown()?;
    let (leader, total) = count(&nodes)?;
    println!("node {leader} leads the two that are left, which count {total}");
    assert_eq!(total, 4);

    drop(nodes);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
