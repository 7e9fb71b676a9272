//! Leadership as an embedder sees it: handed over on request, and before a leader goes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/cluster.rs"]
mod cluster;

use std::time::Duration;

use catamaran::{Error, Node, NodeId, Options};
use cluster::{Cluster, Journal, PATIENCE, small};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

/// Three nodes, of which only the first would ever stand for election by itself, and leads.
fn led_by_the_first() -> Cluster {
    let waits = |election_timeout| Options {
        election_timeout,
        ..small()
    };
    let mut cluster = Cluster::start(3, waits(Duration::from_secs(3_600)));
    cluster.options = waits(Duration::from_secs(1));
    cluster.stop(A);
    cluster.restart(A);
    assert_eq!(cluster.write("first"), A);
    cluster
}

#[test]
fn leadership_goes_to_the_node_that_is_named() {
    let cluster = led_by_the_first();
    for (from, to) in [(A, C), (C, B), (B, A)] {
        let transfer = cluster.node(from).transfer_leadership(Some(to)).unwrap();
        assert_eq!(transfer.wait().map(|leader| leader.id), Ok(to));
        assert_eq!(cluster.write("next"), to);
    }
}

#[test]
fn a_leader_that_is_shut_down_hands_leadership_over_first() {
    let mut cluster = led_by_the_first();
    cluster.stop(A);
    // Neither would have stood for election within the hour.
    let leader = cluster.write("second");
    assert_ne!(leader, A);
    cluster.stop(leader);
    cluster.restart(leader);
    assert_ne!(cluster.write("third"), leader);
    let log = cluster.committed_until(leader, "third");
    assert_eq!(log, ["first", "second", "third"].map(Into::into));
}

#[test]
fn a_transfer_to_a_node_that_is_gone_is_abandoned_and_the_leader_goes_on() {
    let cluster = led_by_the_first();
    cluster.net.cut(A, B);
    let mut transfer = cluster.node(A).transfer_leadership(Some(B)).unwrap();
    let mut refusals = 0;
    let ended = loop {
        match cluster.node(A).propose("early").unwrap().wait() {
            Err(Error::Transferring { to: Some(to) }) if to.id == B => refusals += 1,
            // Taken together with the word to hand over, and before it.
            Ok(_) => {}
            other => panic!("{other:?}"),
        }
        if let Some(ended) = transfer.wait_for(Duration::from_millis(1)) {
            break ended;
        }
    };
    assert!(refusals > 0);
    assert_eq!(ended, Err(Error::TransferAbandoned));
    assert_eq!(cluster.write("after"), A);
    let log = cluster.committed_until(C, "after");
    assert_eq!(log[0], "first".into());
}

#[test]
fn a_transfer_that_cannot_be_is_refused_with_the_reason() {
    let cluster = led_by_the_first();
    let asked = |node: &Node<Journal>, to| node.transfer_leadership(to).unwrap().wait();
    let stranger = asked(cluster.node(A), Some(NodeId(9)));
    assert_eq!(stranger, Err(Error::NoSuccessor));
    assert!(cluster.node(B).wait_leader(PATIENCE).is_some());
    let refused = asked(cluster.node(B), None);
    let Err(Error::NotLeader {
        leader: Some(leader),
    }) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(leader.id, A);
    let alone = Cluster::start(1, small());
    assert_eq!(asked(alone.node(A), None), Err(Error::NoSuccessor));
}
