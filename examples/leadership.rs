//! Leadership: handed over on request, given up by a leader that nobody hears, not taken from one that is heard, and
//! handed over by a leader that shuts down.
//!
//! `cargo run --example leadership`

use std::time::Duration;

use catamaran::raft::event::RoleName;
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

/// Proposes to one node after the other until the leader takes it. The leader, and the count.
fn count<'a>(nodes: &[&'a Node<Counter>]) -> Result<(&'a Node<Counter>, usize), Error> {
    loop {
        for node in nodes {
            match node.propose("+")?.wait() {
                Ok(total) => return Ok((node, total)),
                Err(Error::NotLeader { .. }) => {
                    let _ = node.wait_leader(Duration::from_secs(1));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn id(node: &Node<Counter>) -> NodeId {
    node.status().id
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("catamaran-leadership-{}", std::process::id()));
    let net = InMemory::new();
    let members = [1, 2, 3].map(|id| Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    });
    let start = |member: &Member| {
        Node::builder(member.id, dir.join(member.id.to_string()))
            .bootstrap(members.clone())
            .transport(net.endpoint())
            .start(Counter::default())
    };
    let nodes = [
        start(&members[0])?,
        start(&members[1])?,
        start(&members[2])?,
    ];
    let nodes: Vec<_> = nodes.iter().collect();

    // On request: to one that is named, or to whose log is furthest along.
    let (first, _) = count(&nodes)?;
    let other = nodes.iter().find(|node| id(node) != id(first));
    let wanted = other.map(|node| id(node));
    let leader = first.transfer_leadership(wanted)?.wait()?;
    println!("node {} hands over to node {}", id(first), leader.id);
    assert_eq!(Some(leader.id), wanted);
    let (second, _) = count(&nodes)?;
    let leader = second.transfer_leadership(None)?.wait()?;
    println!("node {} hands over to node {}", id(second), leader.id);

    // A leader that no quorum answers steps down, and tells its clients; the others elect one of them.
    let (cut_off, _) = count(&nodes)?;
    net.isolate(id(cut_off));
    let lost = cut_off.propose("+")?;
    match lost.wait() {
        Err(Error::OutcomeUnknown) => println!("node {} is cut off and steps down", id(cut_off)),
        other => panic!("nobody can have acknowledged it: {other:?}"),
    }
    assert_ne!(cut_off.status().role, RoleName::Leader);
    let rest: Vec<_> = nodes
        .iter()
        .filter(|node| id(node) != id(cut_off))
        .copied()
        .collect();
    let (leader, total) = count(&rest)?;
    println!(
        "node {} leads those who are left and counts {total}",
        id(leader)
    );

    // Back again it asks before it moves to a newer term, and follows the leader that the others hear.
    let term = leader.status().term;
    net.heal_all();
    while cut_off.status().leader.map(|leader| leader.id) != Some(id(leader)) {
        let _ = cut_off.wait_leader(Duration::from_secs(1));
    }
    assert_eq!(
        (leader.status().role, leader.status().term),
        (RoleName::Leader, term)
    );
    println!(
        "node {} follows node {}, still in term {term}",
        id(cut_off),
        id(leader)
    );

    // In good order: nobody waits for an election timeout.
    leader.shutdown()?;
    let rest: Vec<_> = nodes
        .iter()
        .filter(|node| id(node) != id(leader))
        .copied()
        .collect();
    let (next, total) = count(&rest)?;
    println!(
        "node {} shut down, node {} leads and counts {total}",
        id(leader),
        id(next)
    );
    assert_eq!(total, 5);

    drop(nodes);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
