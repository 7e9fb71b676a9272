//! Every limit of a node met, and what the caller sees of it.
//!
//! `cargo run --example limits`

use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Entry, Error, Member, Node, NodeId, Options, Proposal, StateMachine};

struct Count(u64);

impl StateMachine for Count {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        let before = self.0;
        self.0 += entries.len() as u64;
        (before + 1..=self.0).collect()
    }
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    }
}

/// Proposes to one node after the other until the leader takes it; gives the leader.
fn count(nodes: &[Node<Count>]) -> Result<&Node<Count>, Error> {
    loop {
        for node in nodes {
            match node.propose(vec![7; 1 << 10]).and_then(Proposal::wait) {
                Ok(_) => return Ok(node),
                Err(Error::NotLeader { .. } | Error::Overloaded | Error::OutcomeUnknown) => {
                    let _ = node.wait_leader(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let net = InMemory::new();
    // 512 KiB of it are for proposals that are not answered, 128 KiB may be on their way to each follower.
    let options = Options {
        memory_bytes: 1 << 20,
        max_entry_bytes: 64 << 10,
        ..Options::default()
    };
    let start = |id| {
        Node::builder(NodeId(id), dir.path().join(id.to_string()))
            .bootstrap([1, 2, 3].map(member))
            .transport(net.endpoint())
            .options(options.clone())
            .start(Count(0))
    };
    let nodes = [start(1)?, start(2)?, start(3)?];
    let leader = count(&nodes)?;

    if let Err(error) = leader.propose(vec![7; 65 << 10]) {
        println!("an entry that is too large: {error}");
    }

    // A follower that hears nothing is no burden: what it lacks is in the log.
    let away = nodes
        .iter()
        .find(|node| node.status().id != leader.status().id);
    let away = away.ok_or("no follower")?;
    net.isolate(away.status().id);
    for _ in 0..1_000 {
        count(&nodes)?;
    }
    let missed = leader.status().committed.0 - away.status().committed.0;
    println!(
        "a follower missed {missed} entries of 1 KiB, of which none was kept in memory for it"
    );
    net.heal_all();
    count(&nodes)?;
    let last = count(&nodes)?.status().committed;
    let seen = away
        .committed()
        .from(last.0)
        .next_within(Duration::from_secs(60));
    println!("it has caught up: {}", seen.is_some());

    // A leader that reaches no quorum takes what it has room for, and refuses the rest at once.
    let leader = count(&nodes)?;
    net.isolate(leader.status().id);
    let mut taken = Vec::new();
    let refusal = loop {
        match leader.propose(vec![7; 1 << 10]) {
            Ok(proposal) => taken.push(proposal),
            Err(error) => break error,
        }
    };
    println!(
        "a leader without a quorum took {} KiB, then: {refusal}",
        taken.len()
    );

    // It steps down soon. What becomes of those, others decide; more it does not take.
    let mut ends: Vec<String> = Vec::new();
    for proposal in taken {
        ends.extend(proposal.wait().err().map(|error| error.to_string()));
    }
    ends.dedup();
    println!("what it took: {}", ends.join(", "));
    if let Err(error) = leader.propose("x").and_then(Proposal::wait) {
        println!("without a leader: {error}");
    }

    net.heal_all();
    count(&nodes)?;
    println!("the cluster goes on, and all the room is there again");
    Ok(())
}
