//! Members and clients that stall cost the others no growing memory: what the process holds is looked at while far
//! more than that goes through. Alone in its process, so that it measures nothing else.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/held_disk.rs"]
mod held_disk;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use catamaran::sim::SimDisk;
use catamaran::transport::InMemory;
use catamaran::vfs::{Disk, StdDisk};
use catamaran::{
    Entry, Error, Member, Node, NodeId, Options, Proposal, RoleName, Snapshot, StateMachine,
};
use held_disk::HeldDisk;

/// Of each node.
const MEMORY: u64 = 8 << 20;
const ENTRY: usize = 16 << 10;
/// The node whose disk does.
const HANGS: u64 = 3;
/// What may be held on the way, all three nodes and the client together, with room for the allocator.
const SLACK: u64 = 32 << 20;

/// Counts entries, and keeps none.
#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        let before = self.0;
        self.0 += entries.len() as u64;
        (before + 1..=self.0).collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        let count = self.0;
        Some(move |out: &mut dyn Write| out.write_all(&count.to_le_bytes()))
    }

    fn restore(&mut self, _: u32, from: &mut dyn Read) -> io::Result<()> {
        let mut count = [0; 8];
        from.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}

fn start(id: u64, net: &InMemory, disk: Arc<dyn Disk>, dir: &std::path::Path) -> Node<Count> {
    let member = |id| Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    };
    Node::builder(NodeId(id), dir.join(id.to_string()))
        .bootstrap([1, 2, 3].map(member))
        .transport(net.endpoint())
        .disk(disk)
        .options(Options {
            // The others are faster, so that it does not lead: what it had taken would wait for its disk.
            election_timeout: Duration::from_secs(if id == HANGS { 5 } else { 1 }),
            segment_bytes: 1 << 20,
            max_entry_bytes: 64 << 10,
            memory_bytes: MEMORY,
            snapshot_entries: Some(500),
            trailing_entries: 50,
            ..Options::default()
        })
        .start(Count::default())
        .unwrap()
}

/// Whoever leads.
fn leading(nodes: &[Node<Count>]) -> &Node<Count> {
    loop {
        let leads = |node: &&Node<Count>| node.status().role == RoleName::Leader;
        if let Some(leader) = nodes.iter().find(leads) {
            return leader;
        }
        let _ = nodes[0].wait_leader(Duration::from_millis(50));
    }
}

/// Has so many bytes committed, with a few entries under way at a time.
fn commit(nodes: &[Node<Count>], bytes: usize) {
    let mut under_way = VecDeque::new();
    let mut left = bytes / ENTRY;
    while left > 0 || !under_way.is_empty() {
        if left > 0 && under_way.len() < 32 {
            if let Ok(proposal) = leading(nodes).propose(vec![7; ENTRY]) {
                under_way.push_back(proposal);
                left -= 1;
            }
        } else if let Some(proposal) = under_way.pop_front() {
            // A machine that was halted for a while may have lost the lead.
            left += usize::from(proposal.wait().is_err());
        }
    }
}

/// Proposes far more than a node has memory for; what it took, and how many it refused. None if it has lost the lead
/// meanwhile, as one does that is cut off while the machine is halted.
fn overload(leader: &Node<Count>) -> Option<(Vec<Proposal<u64>>, usize)> {
    let (mut taken, mut refused) = (Vec::new(), 0);
    for _ in 0..10_000 {
        match leader.propose(vec![7; ENTRY]) {
            Ok(proposal) => taken.push(proposal),
            Err(Error::Overloaded) => refused += 1,
            Err(Error::NotLeader { .. }) => return None,
            Err(error) => panic!("{error}"),
        }
    }
    Some((taken, refused))
}

/// Bytes of the process that no file stands behind.
fn held() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() << 10
}

#[test]
fn neither_a_follower_whose_disk_hangs_nor_clients_of_a_leader_that_is_cut_off_make_memory_grow() {
    let dir = tempfile::tempdir().unwrap();
    let net = InMemory::new();
    let held_disk = HeldDisk::new(SimDisk::new(1));
    let disk = |id| -> Arc<dyn Disk> {
        if id == HANGS {
            Arc::new(held_disk.clone())
        } else {
            Arc::new(StdDisk)
        }
    };
    let nodes: Vec<_> = (1..=3)
        .map(|id| start(id, &net, disk(id), dir.path()))
        .collect();
    commit(&nodes, ENTRY);
    let hangs = held_disk.hold();
    commit(&nodes, 16 << 20);
    let early = held();
    let stalled = nodes[2].status().committed;
    commit(&nodes, 96 << 20);
    let late = held();
    assert!(late < early + SLACK, "{early} bytes grew to {late}");
    assert_eq!(
        nodes[2].status().committed,
        stalled,
        "it hangs all the while"
    );
    // What it needs goes from the log meanwhile, so that it is offered a snapshot.
    let has = nodes[2].log().last();
    let goes = (0..10_000).any(|_| {
        commit(&nodes, ENTRY);
        leading(&nodes).log().first() > has
    });
    assert!(goes, "the log keeps what the follower needs");

    let taken = loop {
        let leader = leading(&nodes);
        net.isolate(leader.status().id);
        if let Some((taken, refused)) = overload(leader) {
            let cut_off = held();
            assert!(cut_off < late + SLACK, "{late} bytes grew to {cut_off}");
            assert!(refused > 0, "{} were taken", taken.len());
            break taken;
        }
        net.heal_all();
    };
    for proposal in taken {
        let end = proposal.wait().unwrap_err();
        let ended = matches!(end, Error::OutcomeUnknown | Error::NotLeader { .. });
        assert!(ended, "{end:?}");
    }

    drop(hangs);
    net.heal_all();
    commit(&nodes, ENTRY);
    let last = leading(&nodes).status().committed;
    let caught_up = nodes[2].committed().from(last.0).next().unwrap();
    assert!(caught_up.unwrap().id.index >= last, "the follower goes on");
}
