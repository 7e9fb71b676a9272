//! Snapshots: the log is compacted, a restarted node begins with its snapshot, and a member that was away for too
//! long fetches one.
//!
//! `cargo run --example snapshots`

use std::io::{self, Read, Write};
use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Entry, Error, Member, Node, NodeId, Options, Proposal, Snapshot, StateMachine};

#[derive(Default)]
struct Counter {
    total: u64,
}

impl StateMachine for Counter {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        let count = |entry: &Entry| {
            self.total += entry.payload.len() as u64;
            self.total
        };
        entries.iter().map(count).collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        let total = self.total;
        Some(move |out: &mut dyn Write| out.write_all(&total.to_le_bytes()))
    }

    fn restore(&mut self, _format: u32, from: &mut dyn Read) -> io::Result<()> {
        let mut total = [0; 8];
        from.read_exact(&mut total)?;
        self.total = u64::from_le_bytes(total);
        Ok(())
    }
}

/// Proposes so many entries to whoever leads, and waits for all of them.
fn count(nodes: &[Node<Counter>], entries: usize) -> Result<u64, Error> {
    loop {
        for node in nodes {
            let proposals = (0..entries).map(|_| node.propose(b"+"));
            let proposals = proposals.collect::<Result<Vec<_>, _>>()?;
            match proposals.into_iter().map(Proposal::wait).next_back() {
                Some(Err(Error::NotLeader { .. })) => {}
                Some(last) => return last,
                None => return Ok(0),
            }
            let _ = node.wait_leader(Duration::from_secs(1));
        }
    }
}

fn show(node: &Node<Counter>) {
    let status = node.status();
    let snapshot = status.snapshot.unwrap_or_default();
    println!(
        "node {}: snapshot up to {snapshot}, log from {} to {}, applied {}",
        status.id, status.first, status.last, status.applied
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("catamaran-snapshots-{}", std::process::id()));
    let net = InMemory::new();
    let member = |id| Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    };
    let members = [member(1), member(2), member(3)];
    let start = |id: u64| {
        let options = Options {
            segment_bytes: 1 << 20,
            max_entry_bytes: 64 << 10,
            snapshot_entries: Some(1_000),
            trailing_entries: 100,
            ..Options::default()
        };
        Node::builder(NodeId(id), dir.join(id.to_string()))
            .bootstrap(members.clone())
            .transport(net.endpoint())
            .options(options)
            .start(Counter::default())
    };

    println!("two of three members run, and count until 4,000 entries are gone from their logs");
    let mut nodes = vec![start(1)?, start(2)?];
    let mut total = 0;
    while nodes.iter().any(|node| node.status().first.0 <= 4_000) {
        total = count(&nodes, 500)?;
    }
    nodes.iter().for_each(show);

    println!("the third joins: the entries that it lacks are gone");
    nodes.push(start(3)?);
    while nodes[2].status().applied.0 < 4_000 {
        std::thread::yield_now();
    }
    show(&nodes[2]);

    println!("all start again, each from its snapshot");
    nodes.clear();
    let nodes = vec![start(1)?, start(2)?, start(3)?];
    let more = count(&nodes, 1)?;
    println!("{total} and one more make {more}");
    assert!(more > total);

    drop(nodes);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
