//! Changes of members as an embedder sees them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/cluster.rs"]
mod cluster;

use std::time::Duration;

use catamaran::node::Builder;
use catamaran::transport::{InMemory, Tcp};
use catamaran::{
    Bytes, Change, EntryKind, Error, Member, MemberRole, Membership, Node, NodeId, Proposal,
};
use cluster::{Journal, PATIENCE, small, steady};
use tempfile::TempDir;

/// Nodes that come and go.
struct World {
    net: InMemory,
    dir: TempDir,
    nodes: Vec<Node<Journal>>,
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        addr: format!("node-{id}"),
        client_addr: String::new(),
    }
}

fn ids(membership: &Membership) -> Vec<u64> {
    membership.roster().voters().iter().map(|id| id.0).collect()
}

impl World {
    fn new() -> Self {
        Self {
            net: InMemory::new(),
            dir: tempfile::tempdir().unwrap(),
            nodes: Vec::new(),
        }
    }

    fn builder(&self, id: u64) -> Builder {
        Node::builder(NodeId(id), self.dir.path().join(id.to_string()))
            .transport(self.net.endpoint())
            .options(steady())
    }

    /// The first of a cluster.
    fn found(&mut self) {
        let node = self.builder(1).bootstrap([member(1)]);
        self.nodes.push(node.start(Journal::default()).unwrap());
    }

    fn join(&mut self, id: u64) {
        let node = self.builder(id).join([member(1)]);
        self.nodes.push(node.start(Journal::default()).unwrap());
    }

    fn node(&self, id: u64) -> &Node<Journal> {
        let named = |node: &&Node<Journal>| node.identity().node == NodeId(id);
        self.nodes.iter().find(named).unwrap()
    }

    /// Asks one node after the other until one does not refuse.
    fn ask<T>(&self, ask: impl Fn(&Node<Journal>) -> Result<Proposal<T>, Error>) -> (NodeId, T) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            for node in &self.nodes {
                match ask(node).unwrap().wait() {
                    Ok(reply) => return (node.identity().node, reply),
                    Err(
                        Error::NotLeader { .. }
                        | Error::Transferring { .. }
                        | Error::NotReady
                        | Error::ChangeInProgress
                        | Error::OutcomeUnknown,
                    ) => {}
                    Err(error) => panic!("{error}"),
                }
                let _ = node.wait_leader(Duration::from_millis(100));
            }
        }
        panic!("no node answered");
    }

    fn write(&self, payload: &'static str) -> NodeId {
        self.ask(|node| node.propose(payload)).0
    }

    /// What a node has committed up to and with `last`, each line once.
    fn lines(&self, id: u64, last: &str) -> Vec<Bytes> {
        let mut lines: Vec<Bytes> = Vec::new();
        let mut entries = self.node(id).committed().from(1);
        while let Some(entry) = entries.next_within(PATIENCE) {
            let entry = entry.unwrap();
            if entry.kind == EntryKind::Normal && lines.last() != Some(&entry.payload) {
                lines.push(entry.payload.clone());
            }
            if *entry.payload == *last.as_bytes() {
                return lines;
            }
        }
        panic!("node {id} never committed {last}");
    }
}

#[test]
fn a_cluster_grows_from_one_node_to_three_and_loses_the_first() {
    let mut world = World::new();
    world.found();
    world.write("alone");
    for id in [2, 3] {
        world.join(id);
        let (_, membership) = world.ask(|node| node.add_voter(member(id)));
        assert!(ids(&membership).contains(&id), "{membership:?}");
    }
    world.write("three");
    // Again: nothing changes, and nobody loses its vote.
    let (_, membership) = world.ask(|node| node.add_voter(member(2)));
    assert_eq!(ids(&membership), [1, 2, 3]);
    let (_, membership) = world.ask(|node| node.remove(NodeId(1)));
    assert_eq!(ids(&membership), [2, 3]);
    world.nodes.remove(0).shutdown().unwrap();
    assert_ne!(world.write("two"), NodeId(1));
    let expected = ["alone", "three", "two"].map(Bytes::from);
    for id in [2, 3] {
        assert_eq!(world.lines(id, "two"), expected);
        assert_eq!(ids(&world.node(id).status().membership), [2, 3]);
    }
}

#[test]
fn the_members_are_known_after_a_restart() {
    let mut world = World::new();
    world.found();
    for id in [2, 3] {
        world.join(id);
        world.ask(|node| node.add_voter(member(id)));
    }
    let learner = |node: &Node<Journal>| node.add_learner(member(4));
    world.ask(learner);
    world.write("before");
    for id in [1, 2, 3] {
        world.lines(id, "before");
    }
    world.nodes.clear();
    world.found();
    assert_eq!(ids(&world.node(1).status().membership), [1, 2, 3]);
    assert_eq!(world.node(1).status().membership.members().len(), 4);
    let alone = world.node(1).wait_leader(Duration::ZERO);
    assert_eq!(alone, None, "it is not its own quorum any more");
    world.join(2);
    world.join(3);
    world.write("after");
    assert_eq!(
        world.lines(3, "after"),
        ["before", "after"].map(Bytes::from)
    );
}

#[test]
fn a_learner_follows_the_log_and_is_promoted_by_hand() {
    let mut world = World::new();
    world.found();
    world.join(2);
    let (_, membership) = world.ask(|node| node.add_learner(member(2)));
    assert_eq!(
        membership.roster().role(NodeId(2)),
        Some(MemberRole::Learner)
    );
    world.write("one");
    assert_eq!(world.lines(2, "one"), ["one"].map(Bytes::from));
    let (_, membership) = world.ask(|node| node.promote(NodeId(2)));
    assert_eq!(ids(&membership), [1, 2]);
    // Back again, in one go with a newcomer.
    world.join(3);
    let changes = [
        Change::Set(member(2), MemberRole::Learner),
        Change::Set(member(3), MemberRole::Voter),
    ];
    let (_, membership) = world.ask(|node| node.change_membership(changes.clone()));
    assert_eq!(ids(&membership), [1, 3]);
    assert!(!membership.roster().is_joint());
}

#[test]
fn a_change_that_cannot_be_is_refused_with_the_reason() {
    let mut world = World::new();
    world.found();
    let node = world.node(1);
    assert_eq!(
        node.promote(NodeId(9)).map(drop),
        Err(Error::NotAMember { id: NodeId(9) })
    );
    world.write("one");
    let last = node.remove(NodeId(1)).unwrap().wait();
    assert_eq!(last, Err(Error::NoVoters));
    // Nobody is there to commit it, so it stays under way.
    let mut waits = node
        .change_membership([Change::Set(member(2), MemberRole::Voter)])
        .unwrap();
    let busy = node.add_learner(member(3)).unwrap().wait();
    assert_eq!(busy, Err(Error::ChangeInProgress));
    assert_eq!(waits.wait_for(Duration::ZERO), None);
    // And has no end that is known, as the leader hears no quorum.
    assert_eq!(waits.wait_for(PATIENCE), Some(Err(Error::OutcomeUnknown)));
    let refused = node.add_learner(member(3)).unwrap().wait();
    assert!(
        matches!(refused, Err(Error::NotLeader { .. })),
        "{refused:?}"
    );
}

/// Each knows of the others only what it is told: by its contacts, the log, and who speaks to it.
#[test]
fn members_find_each_other_over_tcp_although_all_of_the_first_ones_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let tcp: Vec<Tcp> = (0..4).map(|_| Tcp::bind("127.0.0.1:0").unwrap()).collect();
    let addrs: Vec<String> = tcp.iter().map(|tcp| tcp.local_addr().to_string()).collect();
    let member = |id: u64| Member {
        id: NodeId(id),
        addr: addrs[usize::try_from(id).unwrap() - 1].clone(),
        client_addr: String::new(),
    };
    let mut world = World::new();
    let cluster = catamaran::ClusterId(77);
    for (tcp, id) in tcp.into_iter().zip(1..) {
        let builder = Node::builder(NodeId(id), dir.path().join(id.to_string()))
            .cluster(cluster)
            .transport(tcp)
            .options(small());
        let builder = match id {
            1 => builder.bootstrap([member(1)]),
            // The last knows only who will be gone by then.
            _ => builder.join([member(1)]),
        };
        world.nodes.push(builder.start(Journal::default()).unwrap());
    }
    world.write("one");
    for id in [2, 3] {
        world.ask(|node| node.add_voter(member(id)));
    }
    world.ask(|node| node.remove(NodeId(1)));
    world.nodes.remove(0).shutdown().unwrap();
    let (_, membership) = world.ask(|node| node.add_voter(member(4)));
    assert_eq!(ids(&membership), [2, 3, 4]);
    world.write("two");
    assert_eq!(world.lines(4, "two"), ["one", "two"].map(Bytes::from));
}
