//! Members whose entries the log has let go of are known from snapshots.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/until.rs"]
mod until;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use catamaran::node::Builder;
use catamaran::transport::{InMemory, Tcp};
use catamaran::{
    ClusterId, Entry, Error, LogIndex, Member, MemberRole, Membership, Node, NodeId, Options,
    Snapshot, StateMachine,
};
use tempfile::TempDir;
use until::{PATIENCE, until};

/// Counts entries.
#[derive(Default)]
struct Counter {
    total: u64,
}

impl StateMachine for Counter {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        let count = |_: &Entry| {
            self.total += 1;
            self.total
        };
        entries.iter().map(count).collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        let total = self.total;
        Some(move |out: &mut dyn Write| out.write_all(&total.to_le_bytes()))
    }

    fn restore(&mut self, _: u32, from: &mut dyn Read) -> io::Result<()> {
        let mut total = [0; 8];
        from.read_exact(&mut total)?;
        self.total = u64::from_le_bytes(total);
        Ok(())
    }
}

struct World {
    net: InMemory,
    dir: TempDir,
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        addr: format!("node-{id}"),
        client_addr: format!("client-{id}"),
    }
}

fn options() -> Options {
    Options {
        // A busy machine is no reason for another leader.
        election_timeout: Duration::from_secs(1),
        segment_bytes: 64 << 10,
        max_entry_bytes: 4 << 10,
        snapshot_entries: Some(100),
        trailing_entries: 10,
        ..Options::default()
    }
}

impl World {
    fn new() -> Self {
        Self {
            net: InMemory::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn builder(&self, id: u64) -> Builder {
        Node::builder(NodeId(id), self.path(id))
            .transport(self.net.endpoint())
            .options(options())
    }

    fn found(&self) -> Node<Counter> {
        let builder = self.builder(1).bootstrap([member(1)]);
        let node = builder.start(Counter::default()).unwrap();
        node.wait_leader(PATIENCE).unwrap();
        // It takes changes once something of its term is committed.
        feed(&node, 1);
        node
    }

    fn join(&self, id: u64) -> Node<Counter> {
        let builder = self.builder(id).join([member(1)]);
        builder.start(Counter::default()).unwrap()
    }
}

/// Proposes so many entries, and waits for all.
fn feed(node: &Node<Counter>, count: usize) {
    let payload = vec![7; 512];
    let proposals: Vec<_> = (0..count)
        .map(|_| node.propose(payload.clone()).unwrap())
        .collect();
    for proposal in proposals {
        proposal.wait().unwrap();
    }
}

/// Writes until the log begins behind `index`.
fn compact(node: &Node<Counter>, index: LogIndex) {
    let deadline = Instant::now() + PATIENCE;
    while node.status().first <= index {
        assert!(Instant::now() < deadline, "{:?}", node.status());
        feed(node, 20);
    }
}

fn role(membership: &Membership, id: u64) -> Option<MemberRole> {
    membership.roster().role(NodeId(id))
}

#[test]
fn members_whose_entries_are_gone_are_known_after_a_restart_and_caught_up() {
    let world = World::new();
    let node = world.found();
    node.add_learner(member(2)).unwrap().wait().unwrap();
    let before = node.status().membership;
    compact(&node, node.status().last);
    node.shutdown().unwrap();

    let node = world.found();
    assert_eq!(node.status().membership, before);
    assert_eq!(before.members(), [member(1), member(2)]);
    assert_eq!(role(&before, 2), Some(MemberRole::Learner));
    // The learner has yet to be heard of. What it fetches says who it is.
    let learner = world.join(2);
    let status = until(&learner, |status| {
        status.committed >= node.status().committed && status.snapshot.is_some()
    });
    assert_eq!(status.membership, before);
    // Members that came after the snapshot are in the log alone.
    node.add_learner(member(3)).unwrap().wait().unwrap();
    let after = node.status().membership;
    until(&learner, |status| status.membership == after);
    learner.shutdown().unwrap();
    node.shutdown().unwrap();
    let node = world.found();
    assert_eq!(node.status().membership, after);
    let learner = world.join(2);
    assert_eq!(learner.status().membership, after);
}

#[test]
fn a_node_that_joins_far_behind_becomes_a_voter_by_a_snapshot() {
    let world = World::new();
    let node = world.found();
    compact(&node, LogIndex(1));
    let joiner = world.join(2);
    let membership = node.add_voter(member(2)).unwrap();
    let membership = membership.wait().unwrap();
    assert_eq!(role(&membership, 2), Some(MemberRole::Voter));
    let status = until(&joiner, |status| status.membership == membership);
    assert!(status.snapshot.is_some(), "{status:?}");
    feed(&node, 10);
    until(&joiner, |status| status.applied >= node.status().committed);
}

/// The file has its name, and the log knows nothing of it.
#[test]
fn a_crash_before_the_log_follows_a_fetched_snapshot_loses_no_member() {
    let world = World::new();
    let node = world.found();
    node.add_learner(member(2)).unwrap().wait().unwrap();
    compact(&node, node.status().last);
    let expected = node.status().membership;
    node.shutdown().unwrap();
    // It was started, and nobody spoke to it.
    world.join(2).shutdown().unwrap();
    let from = world.path(1).join("snapshots");
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = world.path(2).join("snapshots").join(file.file_name());
        std::fs::copy(file.path(), to).unwrap();
    }
    let status = world.join(2).status();
    assert_eq!(status.membership, expected);
    assert_eq!(Some(status.last), status.snapshot);
}

/// Each finds the others by what it fetched.
#[test]
fn a_node_that_fetched_its_members_reaches_them_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let tcp: Vec<Tcp> = (0..3).map(|_| Tcp::bind("127.0.0.1:0").unwrap()).collect();
    let addrs: Vec<String> = tcp.iter().map(|tcp| tcp.local_addr().to_string()).collect();
    let member = |id: u64| Member {
        addr: addrs[usize::try_from(id).unwrap() - 1].clone(),
        ..member(id)
    };
    let mut nodes = Vec::new();
    for (tcp, id) in tcp.into_iter().zip(1..) {
        let builder = Node::builder(NodeId(id), dir.path().join(id.to_string()))
            .cluster(ClusterId(77))
            .transport(tcp)
            .options(options());
        let builder = match id {
            1 => builder.bootstrap([member(1)]),
            _ => builder.join([member(1)]),
        };
        nodes.push(builder.start(Counter::default()).unwrap());
        let first = &nodes[0];
        first.wait_leader(PATIENCE).unwrap();
        if id > 1 {
            first.add_voter(member(id)).unwrap().wait().unwrap();
        }
        compact(first, first.status().last);
    }
    let first = nodes.remove(0);
    let gone = first.remove(NodeId(1)).unwrap().wait().unwrap();
    assert_eq!(role(&gone, 1), None);
    first.shutdown().unwrap();
    let deadline = Instant::now() + PATIENCE;
    let wrote = |node: &Node<Counter>| match node.propose("more").unwrap().wait() {
        Ok(_) => true,
        Err(Error::NotLeader { .. } | Error::OutcomeUnknown) => false,
        Err(error) => panic!("{error}"),
    };
    while !nodes.iter().any(wrote) {
        assert!(Instant::now() < deadline, "{:?}", nodes[0].status());
        let _ = nodes[0].wait_leader(Duration::from_millis(100));
    }
}
