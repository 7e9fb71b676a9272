//! A replicated counter on one node, killed and started again: nothing acknowledged is lost.
//!
//! `cargo run --example counter`

use catamaran::{Entry, Node, NodeId, StateMachine};

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("catamaran-counter-{}", std::process::id()));
    for run in 1..=3 {
        let node = Node::builder(NodeId(1), &dir).start(Counter::default())?;
        // Proposals may be in flight together; each is answered once it is on disk and applied.
        let proposals: Vec<_> = (0..100)
            .map(|_| node.propose(b"+"))
            .collect::<Result<_, _>>()?;
        for proposal in proposals {
            proposal.wait()?;
        }
        let total = node.read(|counter| counter.total)?;
        println!("run {run}: the counter stands at {total}");
        assert_eq!(total, run * 100);
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
