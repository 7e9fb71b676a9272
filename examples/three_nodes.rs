//! Three nodes in one process, each with its own log. The leader is stopped; the others go on.
//!
//! `cargo run --example three_nodes`

use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Bytes, Entry, Error, Member, Node, NodeId, StateMachine};

#[derive(Default)]
struct Journal {
    lines: Vec<Bytes>,
}

impl StateMachine for Journal {
    type Reply = usize;

    fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
        let push = |entry: &Entry| {
            self.lines.push(entry.payload.clone());
            self.lines.len()
        };
        entries.iter().map(push).collect()
    }
}

/// Proposes to one node after the other until the leader takes it.
fn write(nodes: &[Node<Journal>], line: &str) -> Result<(NodeId, usize), Error> {
    loop {
        for node in nodes {
            match node.propose(line)?.wait() {
                Ok(number) => return Ok((node.status().id, number)),
                Err(Error::NotLeader { .. }) => {
                    let _ = node.wait_leader(Duration::from_secs(1));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("catamaran-three-{}", std::process::id()));
    let net = InMemory::new();
    let member = |id| Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    };
    let members = [member(1), member(2), member(3)];
    let mut nodes = Vec::new();
    for member in &members {
        let node = Node::builder(member.id, dir.join(member.id.to_string()))
            .bootstrap(members.clone())
            .transport(net.endpoint())
            .start(Journal::default())?;
        nodes.push(node);
    }

    let (leader, number) = write(&nodes, "a line for all")?;
    println!("node {leader} leads and has committed line {number}");

    nodes.retain(|node| node.status().id != leader); // dropped, and so stopped
    let (leader, number) = write(&nodes, "a line for those who are left")?;
    println!("node {leader} leads now and has committed line {number}");
    assert_eq!(number, 2);

    drop(nodes);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
