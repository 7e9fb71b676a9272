//! Nodes with their threads, logs and transports, as an embedder sees them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/cluster.rs"]
mod cluster;

use std::sync::mpsc;
use std::time::Duration;

use catamaran::{Entry, EntryKind, Error, Member, Node, NodeId, Options, RoleName, StateMachine};
use cluster::{Cluster, Journal, PATIENCE, small, steady};

fn alone(dir: &std::path::Path) -> Node<Journal> {
    Node::builder(NodeId(1), dir)
        .options(small())
        .start(Journal::default())
        .unwrap()
}

#[test]
fn a_node_alone_commits_and_finds_everything_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = alone(dir.path());
    for number in 1..=100 {
        let reply = node.propose(format!("line {number}")).unwrap().wait();
        assert_eq!(reply, Ok(number));
    }
    node.shutdown().unwrap();
    drop(node);
    let node = alone(dir.path());
    let lines = node.read(|journal| journal.lines.clone()).unwrap();
    let expected: Vec<_> = (1..=100)
        .map(|number| format!("line {number}").into_bytes())
        .collect();
    assert_eq!(
        lines.iter().map(|line| line.to_vec()).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn term_and_vote_go_on_from_where_they_were_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = alone(dir.path());
    node.propose("x").unwrap().wait().unwrap();
    let before = node.status().term;
    drop(node);
    let node = alone(dir.path());
    node.propose("y").unwrap().wait().unwrap();
    assert!(
        node.status().term > before,
        "a new leadership in an old term"
    );
}

#[test]
fn three_nodes_commit_the_same_log() {
    let cluster = Cluster::start(3, small());
    for number in 1..=200 {
        cluster.write(&format!("{number}"));
    }
    let logs: Vec<_> = (1..=3)
        .map(|id| cluster.committed_until(NodeId(id), "200"))
        .collect();
    assert_eq!(logs[0].len(), 200);
    assert_eq!(logs[0], logs[1]);
    assert_eq!(logs[0], logs[2]);
}

#[test]
fn a_follower_sends_proposals_to_the_leader() {
    let cluster = Cluster::start(3, steady());
    let leader = cluster.write("first");
    for node in cluster
        .running()
        .filter(|node| node.identity().node != leader)
    {
        assert_eq!(
            node.wait_leader(PATIENCE).map(|member| member.id),
            Some(leader)
        );
        let refused = node.propose("x").unwrap().wait().unwrap_err();
        let Error::NotLeader {
            leader: Some(Member {
                id, client_addr, ..
            }),
        } = refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!((id, client_addr), (leader, format!("client-{leader}")));
    }
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_its_write_is_not_acknowledged() {
    let mut cluster = Cluster::start(3, steady());
    let old = cluster.write("before");
    cluster.net.isolate(old);
    let lost = cluster.node(old).propose("lost").unwrap();
    let stale = cluster
        .node(old)
        .read_later(|journal| journal.lines.len())
        .unwrap();
    let cut_off = cluster.nodes[usize::try_from(old.0).unwrap() - 1].take();
    let new = cluster.write("after");
    assert_ne!(new, old);
    // It hears no quorum, and tells its clients so although nobody tells it of the new leader.
    let ended = lost.wait().unwrap_err();
    assert!(
        matches!(ended, Error::OutcomeUnknown | Error::NotLeader { .. }),
        "{ended:?}"
    );
    assert!(
        matches!(stale.wait(), Err(Error::NotLeader { .. })),
        "a read that no quorum confirmed was answered"
    );
    let refused = cut_off.as_ref().unwrap().propose("late").unwrap().wait();
    assert_eq!(refused, Err(Error::NotLeader { leader: None }));
    cluster.net.heal_all();
    cluster.nodes[usize::try_from(old.0).unwrap() - 1] = cut_off;
    cluster.write("last");
    let log = cluster.committed_until(old, "last");
    assert!(!log.contains(&"lost".into()), "{log:?}");
    assert_eq!(log, cluster.committed_until(new, "last"));
}

#[test]
fn a_cluster_stopped_and_started_again_has_every_acknowledged_write() {
    let mut cluster = Cluster::start(3, small());
    for round in 0..3 {
        cluster.write(&format!("round {round}"));
        for id in 1..=3 {
            cluster.stop(NodeId(id));
        }
        for id in 1..=3 {
            cluster.restart(NodeId(id));
        }
    }
    cluster.write("end");
    for id in 1..=3 {
        let log = cluster.committed_until(NodeId(id), "end");
        assert_eq!(
            log,
            ["round 0", "round 1", "round 2", "end"].map(Into::into)
        );
    }
}

#[test]
fn a_node_that_was_away_catches_up_with_what_it_missed() {
    let mut cluster = Cluster::start(3, small());
    let leader = cluster.write("first");
    let away = NodeId(leader.0 % 3 + 1);
    cluster.stop(away);
    let payload = "x".repeat(50_000);
    for number in 0..100 {
        cluster.write(&format!("{number} {payload}"));
    }
    cluster.restart(away);
    cluster.write("last");
    assert_eq!(cluster.committed_until(away, "last").len(), 102);
}

#[test]
fn a_read_sees_every_write_acknowledged_before_it() {
    let cluster = Cluster::start(3, small());
    for number in 1..=100usize {
        cluster.write("x");
        cluster.ask(|node| {
            let seen = node.read(|journal| journal.lines.len())?;
            assert!(seen >= number, "{seen} of {number}");
            Ok(seen)
        });
    }
}

#[test]
fn what_is_over_a_limit_is_refused_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        max_entry_bytes: 40_000,
        memory_bytes: 64 << 10,
        ..small()
    };
    let node = Node::builder(NodeId(1), dir.path())
        .options(options)
        .start(Journal::default());
    let node = node.unwrap();
    let refused = node.propose(vec![0; 40_001]).map(drop).unwrap_err();
    assert_eq!(
        refused,
        Error::TooLarge {
            bytes: 40_001,
            limit: 40_000
        }
    );
    // A read holds the apply thread, and with it half of the memory is taken, which is all there is for both.
    let (release, held) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let first = node.read_later(move |_| {
        entered.send(()).unwrap();
        held.recv().unwrap();
    });
    inside.recv().unwrap();
    let second = node.propose(vec![0; (32 << 10) - 2 * 256]).unwrap();
    assert_eq!(node.propose("").map(drop).unwrap_err(), Error::Overloaded);
    release.send(()).unwrap();
    first.unwrap().wait().unwrap();
    assert_eq!(second.wait(), Ok(1));
}

#[test]
fn every_proposal_ends_when_the_node_is_shut_down() {
    let mut cluster = Cluster::start(3, small());
    let leader = cluster.write("first");
    cluster.net.isolate(leader);
    let proposals: Vec<_> = (0..10)
        .map(|_| cluster.node(leader).propose("x").unwrap())
        .collect();
    let node = cluster.nodes[usize::try_from(leader.0).unwrap() - 1]
        .take()
        .unwrap();
    node.shutdown().unwrap();
    for proposal in proposals {
        let end = proposal.wait().unwrap_err();
        let ended = matches!(
            end,
            Error::OutcomeUnknown
                | Error::Stopped { .. }
                | Error::NotLeader { .. }
                | Error::Transferring { .. }
        );
        assert!(ended, "{end:?}");
    }
    assert!(matches!(
        node.propose("y").map(drop),
        Err(Error::Stopped { .. })
    ));
    assert!(node.status().stopped.is_some());
}

/// What is committed may still wait to be applied when the node stops.
#[test]
fn what_waits_to_be_applied_ends_when_the_node_is_shut_down() {
    struct Gate {
        entered: mpsc::Sender<()>,
        open: mpsc::Receiver<()>,
    }
    impl StateMachine for Gate {
        type Reply = ();
        fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
            self.entered.send(()).unwrap();
            // Until the test says so, or is over.
            let _ = self.open.recv();
            vec![(); entries.len()]
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (entered, inside) = mpsc::channel();
    let (opened, open) = mpsc::channel();
    let node = Node::builder(NodeId(1), dir.path())
        .options(small())
        .start(Gate { entered, open })
        .unwrap();
    // Dropped before the node, which waits for the batch under way, should the test fail.
    let opened = opened;
    let first = node.propose("x").unwrap();
    inside.recv().unwrap();
    let mut second = node.propose("y").unwrap();
    let mut read = node.read_later(|_| ()).unwrap();
    let mut committed = node.committed().from(1).map(Result::unwrap);
    assert!(committed.any(|entry| *entry.payload == *b"y"));
    std::thread::scope(|scope| {
        let opened = opened;
        let shutdown = scope.spawn(|| node.shutdown().unwrap());
        // The end of the log is told once the threads have been told to stop.
        assert!(node.committed().from(1_000).next().is_none());
        opened.send(()).unwrap();
        shutdown.join().unwrap();
    });
    assert_eq!(first.wait(), Ok(()));
    let unknown = Some(Err(Error::OutcomeUnknown));
    assert_eq!(second.wait_for(Duration::ZERO), unknown);
    assert!(matches!(read.wait_for(Duration::ZERO), Some(Err(_))));
}

#[test]
fn a_state_machine_that_panics_stops_its_node_and_nobody_waits_for_ever() {
    struct Fragile;
    impl StateMachine for Fragile {
        type Reply = ();
        fn apply(&mut self, _: &[Entry]) -> Vec<()> {
            panic!("as the test wants");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let node = Node::builder(NodeId(1), dir.path())
        .options(small())
        .start(Fragile)
        .unwrap();
    assert_eq!(
        node.propose("x").unwrap().wait(),
        Err(Error::OutcomeUnknown)
    );
    // The end is told to those who follow the log, so this does not wait.
    assert!(node.committed().from(1_000).next().is_none());
    let reason = node.status().stopped.unwrap();
    assert!(reason.contains("apply thread panicked"), "{reason}");
}

#[test]
fn a_state_machine_with_a_wrong_number_of_replies_stops_its_node() {
    struct Mute;
    impl StateMachine for Mute {
        type Reply = ();
        fn apply(&mut self, _: &[Entry]) -> Vec<()> {
            Vec::new()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let node = Node::builder(NodeId(1), dir.path())
        .options(small())
        .start(Mute)
        .unwrap();
    assert_eq!(
        node.propose("x").unwrap().wait(),
        Err(Error::OutcomeUnknown)
    );
    assert!(node.committed().from(1_000).next().is_none());
    assert!(
        node.status()
            .stopped
            .unwrap()
            .contains("0 replies to 1 entries")
    );
}

#[test]
fn the_committed_log_can_be_followed_as_it_grows() {
    let dir = tempfile::tempdir().unwrap();
    let node = alone(dir.path());
    let committed = node.committed();
    let follower = std::thread::spawn(move || {
        let normal = |entry: &Entry| entry.kind == EntryKind::Normal;
        let entries = committed.from(1).map(Result::unwrap).filter(normal);
        entries
            .take(50)
            .map(|entry| entry.payload.to_vec())
            .collect::<Vec<_>>()
    });
    for number in 0..50u8 {
        node.propose([number].as_slice()).unwrap().wait().unwrap();
    }
    let followed = follower.join().unwrap();
    assert_eq!(
        followed,
        (0..50u8).map(|number| vec![number]).collect::<Vec<_>>()
    );
}

#[test]
fn a_proposal_can_be_awaited_without_any_runtime() {
    use std::future::Future;
    use std::task::{Context, Poll, Wake, Waker};
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let node = alone(dir.path());
    let mut future = std::pin::pin!(async { node.propose("x").unwrap().await });
    let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let reply = loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(reply) => break reply,
            Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(reply, Ok(1));
}

#[test]
fn a_directory_of_another_cluster_or_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(alone(dir.path()));
    let other = Node::builder(NodeId(2), dir.path())
        .options(small())
        .start(Journal::default());
    let text = other.map(drop).unwrap_err().to_string();
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    let member = |id| Member {
        id: NodeId(id),
        addr: format!("{id}"),
        client_addr: String::new(),
    };
    let other = Node::builder(NodeId(1), dir.path())
        .options(small())
        .bootstrap([member(1), member(2)])
        .start(Journal::default());
    let text = other.map(drop).unwrap_err().to_string();
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
}

#[test]
fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _node = alone(dir.path());
    let second = Node::builder(NodeId(1), dir.path())
        .options(small())
        .start(Journal::default());
    let text = second.map(drop).unwrap_err().to_string();
    assert!(text.contains("LOCK"), "{text}");
}

#[test]
fn a_node_leads_its_term_alone() {
    let cluster = Cluster::start(3, steady());
    let leader = cluster.write("first");
    cluster.committed_until(NodeId(1), "first");
    let leading = |node: &&Node<Journal>| node.status().role == RoleName::Leader;
    let leaders: Vec<_> = cluster
        .running()
        .filter(leading)
        .map(|n| n.identity().node)
        .collect();
    assert_eq!(leaders, [leader]);
}
