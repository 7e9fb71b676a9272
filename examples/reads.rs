//! Every kind of read: linearizable on any node, by lease, and stale.
//!
//! `cargo run --example reads`

use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{ClockBound, Entry, Error, Member, Node, NodeId, Options, StateMachine};

#[derive(Default)]
struct Counter {
    total: usize,
}

impl StateMachine for Counter {
    type Reply = usize;

    fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
        let count = |entry: &Entry| {
            self.total += entry.payload.len();
            self.total
        };
        entries.iter().map(count).collect()
    }
}

/// Asks one node until it answers: while a leader is elected, none does.
fn until_answered<T>(
    node: &Node<Counter>,
    ask: impl Fn(&Node<Counter>) -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match ask(node) {
            Err(Error::NotLeader { .. }) => {
                let _ = node.wait_leader(Duration::from_secs(1));
            }
            answer => return answer,
        }
    }
}

/// Proposes to one node after the other until the leader takes it.
fn count(nodes: &[Node<Counter>], what: &str) -> Result<usize, Error> {
    loop {
        for node in nodes {
            match node.propose(what)?.wait() {
                Err(Error::NotLeader { .. }) => {
                    let _ = node.wait_leader(Duration::from_secs(1));
                }
                answer => return answer,
            }
        }
    }
}

fn run(dir: &std::path::Path, options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let net = InMemory::new();
    let member = |id| Member {
        id: NodeId(id),
        addr: format!("node-{id}"),
        client_addr: String::new(),
    };
    let members = [member(1), member(2), member(3)];
    let mut nodes = Vec::new();
    for member in &members {
        let node = Node::builder(member.id, dir.join(member.id.to_string()))
            .bootstrap(members.clone())
            .options(options.clone())
            .transport(net.endpoint())
            .start(Counter::default())?;
        nodes.push(node);
    }
    let total = count(&nodes, "+++")?;
    for node in &nodes {
        let seen = until_answered(node, |node| node.read(|counter| counter.total))?;
        assert_eq!(seen, total);
        let role = node.status().role;
        println!("node {}, {role:?}, sees {seen}", node.identity().node);
    }

    // One node is cut off. What it has it still shows, if one asks for just that.
    let away = nodes.remove(2);
    net.isolate(away.identity().node);
    let total = count(&nodes, "++")?;
    let (seen, applied) = away.read_stale(|counter| counter.total)?;
    println!("cut off, it sees {seen} of {total}, as of entry {applied}");
    assert!(seen < total);
    match away.read(|counter| counter.total) {
        Ok(_) => return Err("it cannot know that".into()),
        Err(refused) => println!("of what there is now it says: {refused}"),
    }

    net.heal_all();
    let seen = until_answered(&away, |node| node.read(|counter| counter.total))?;
    println!("back again, it sees {seen}");
    assert_eq!(seen, total);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("catamaran-reads-{}", std::process::id()));
    println!("a round of heartbeats for all reads that wait:");
    run(&dir.join("rounds"), &Options::default())?;

    // The leader asks nobody while it has its lease. This holds if no member's clock runs more than a
    // thousandth faster than another's.
    println!("by lease:");
    let drift_ppm = 1_000;
    let options = Options {
        lease_reads: Some(ClockBound { drift_ppm }),
        ..Options::default()
    };
    run(&dir.join("leases"), &options)?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
