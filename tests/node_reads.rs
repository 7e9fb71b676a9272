//! Reads as an embedder sees them: on every node, by lease, and of what may be the past.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/cluster.rs"]
mod cluster;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use catamaran::{ClockBound, Entry, Error, LogIndex, Node, NodeId, Options, StateMachine};
use cluster::{Cluster, Journal, PATIENCE, small};

fn lines(node: &Node<Journal>) -> Result<usize, Error> {
    node.read(|journal| journal.lines.len())
}

/// Reads from this very node until it answers.
fn read_from(node: &Node<Journal>) -> usize {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match lines(node) {
            Ok(seen) => return seen,
            Err(Error::NotLeader { .. }) => drop(node.wait_leader(PATIENCE)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("node {} never answered", node.identity().node);
}

fn with_leases() -> Options {
    let drift_ppm = 10_000;
    Options {
        lease_reads: Some(ClockBound { drift_ppm }),
        ..small()
    }
}

#[test]
fn a_read_on_any_node_sees_every_write_acknowledged_before_it() {
    for options in [small(), with_leases()] {
        let cluster = Cluster::start(3, options);
        for number in 1..=50 {
            cluster.write("x");
            for node in cluster.running() {
                let seen = read_from(node);
                assert!(seen >= number, "{seen} of {number}");
            }
        }
    }
}

#[test]
fn reads_by_lease_go_on_over_restarts_and_changes_of_leader() {
    let mut cluster = Cluster::start(3, with_leases());
    for number in 1..=6 {
        let leader = cluster.write("x");
        cluster.stop(leader);
        for node in cluster.running() {
            let seen = read_from(node);
            assert!(seen >= number, "{seen} of {number}");
        }
        cluster.restart(leader);
        let seen = read_from(cluster.node(leader));
        assert!(seen >= number, "{seen} of {number}");
    }
}

#[test]
fn a_node_that_is_cut_off_answers_stale_reads_alone_and_says_how_far_they_saw() {
    let cluster = Cluster::start(3, small());
    let leader = cluster.write("before");
    let away = NodeId(leader.0 % 3 + 1);
    let before = read_from(cluster.node(away));
    cluster.net.isolate(away);
    let node = cluster.node(away);
    let (seen, applied) = node.read_stale(|journal| journal.lines.len()).unwrap();
    assert_eq!(seen, before);
    assert!(applied >= LogIndex(1) && applied <= node.status().applied);
    let leader = (0..3).map(|_| cluster.write("after")).last().unwrap();
    let after = read_from(cluster.node(leader));
    assert!(after >= before + 3, "{after}");
    let (seen, later) = node.read_stale(|journal| journal.lines.len()).unwrap();
    assert!(seen == before && later >= applied, "nothing reaches it");
    // Nobody tells it what a linearizable read must see, and it says so.
    assert!(matches!(lines(node), Err(Error::NotLeader { .. })));
    cluster.net.heal_all();
    assert_eq!(read_from(node), after);
    let (seen, later) = node.read_stale(|journal| journal.lines.len()).unwrap();
    assert!(seen == after && later > applied);
}

/// Tells of each batch, and waits for a word before it applies it.
struct Gate {
    entered: mpsc::Sender<usize>,
    open: mpsc::Receiver<()>,
    applied: usize,
}

impl StateMachine for Gate {
    type Reply = ();

    fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
        self.entered.send(entries.len()).unwrap();
        // Once nobody speaks any more, all are let through.
        let _ = self.open.recv();
        self.applied += entries.len();
        vec![(); entries.len()]
    }
}

#[test]
fn a_stale_read_waits_for_the_batch_under_way_and_not_for_all_that_is_to_be_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (entered, batches) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let machine = Gate {
        entered,
        open: gate,
        applied: 0,
    };
    let node = Node::builder(NodeId(1), dir.path())
        .options(small())
        .start(machine)
        .unwrap();
    // Dropped before the node, which waits for the batch under way, should the test fail.
    let open = open;
    let _first = node.propose("x").unwrap();
    assert_eq!(batches.recv(), Ok(1));
    let rest: Vec<_> = (0..5_000).map(|_| node.propose("x").unwrap()).collect();
    let last = node.committed().from(1).nth(5_002);
    assert!(last.is_some(), "all of it is committed");
    let stale = node.read_stale_later(|gate| gate.applied).unwrap();
    open.send(()).unwrap();
    open.send(()).unwrap();
    batches.recv().unwrap();
    let (seen, applied) = stale.wait().unwrap();
    assert!(seen < 5_001 && applied < LogIndex(5_003), "{seen}");
    drop(open);
    for proposal in rest {
        proposal.wait().unwrap();
    }
}

#[test]
fn a_node_that_has_stopped_answers_no_reads() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::builder(NodeId(1), dir.path()).options(small());
    let node = node.start(Journal::default()).unwrap();
    node.shutdown().unwrap();
    let stopped = node.read_stale(|journal| journal.lines.len());
    assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
    assert!(matches!(lines(&node), Err(Error::Stopped { .. })));
}

#[test]
fn a_follower_whose_leader_is_gone_says_so() {
    let mut cluster = Cluster::start(3, small());
    let leader = cluster.write("x");
    let left = NodeId(leader.0 % 3 + 1);
    let other = NodeId(6 - leader.0 - left.0);
    cluster.net.isolate(left);
    cluster.stop(other);
    let waiting = cluster.node(left).read_later(|journal| journal.lines.len());
    let mut waiting = waiting.unwrap();
    let end = waiting.wait_for(Duration::MAX).unwrap();
    assert!(matches!(end, Err(Error::NotLeader { .. })), "{end:?}");
}

/// Reads that come meanwhile wait for the one under way, but not to be told so.
#[test]
fn a_follower_whose_leader_is_gone_says_so_behind_a_read_that_hangs_too() {
    let cluster = Cluster::start(3, small());
    let follower = NodeId(cluster.write("x").0 % 3 + 1);
    let node = cluster.node(follower);
    let (_hangs, _open) = loop {
        read_from(node);
        let (entered, enters) = mpsc::channel();
        let (open, gate) = mpsc::channel::<()>();
        let hangs = node.read_later(move |_| {
            entered.send(()).unwrap();
            let _ = gate.recv();
        });
        // Not run if another came to lead.
        if enters.recv().is_ok() {
            break (hangs, open);
        }
    };
    cluster.net.isolate(follower);
    let mut waiting = node.read_later(|journal| journal.lines.len()).unwrap();
    let end = waiting.wait_for(PATIENCE).expect("it is told");
    assert!(matches!(end, Err(Error::NotLeader { .. })), "{end:?}");
}
