//! A cluster within this process: real threads, real disks, a network that can be cut.

use std::cell::RefCell;
use std::time::Duration;

use catamaran::transport::InMemory;
use catamaran::{Bytes, Entry, Error, Member, Node, NodeId, Options, Proposal, StateMachine};
use tempfile::TempDir;

/// Long enough for anything that is going to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Keeps every payload, and replies with how many there are.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) lines: Vec<Bytes>,
}

impl StateMachine for Journal {
    type Reply = usize;

    fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
        let push = |entry: &Entry| {
            self.lines.push(entry.payload.clone());
            self.lines.len()
        };
        entries.iter().map(push).collect()
    }
}

pub(crate) fn small() -> Options {
    Options {
        segment_bytes: 1 << 20,
        max_entry_bytes: 64 << 10,
        ..Options::default()
    }
}

/// A busy machine is no reason for another leader.
#[allow(dead_code, reason = "of no use to some tests that share this file")]
pub(crate) fn steady() -> Options {
    Options {
        election_timeout: Duration::from_secs(1),
        ..small()
    }
}

pub(crate) struct Cluster {
    pub(crate) net: InMemory,
    pub(crate) nodes: Vec<Option<Node<Journal>>>,
    members: Vec<Member>,
    dir: TempDir,
    /// What had to be written again, since how it ended was not known, and so may be there twice.
    doubtful: RefCell<Vec<Bytes>>,
    /// For whoever is started next.
    pub(crate) options: Options,
}

impl Cluster {
    pub(crate) fn start(size: u64, options: Options) -> Self {
        let member = |id| Member {
            id: NodeId(id),
            addr: format!("node-{id}"),
            client_addr: format!("client-{id}"),
        };
        let mut cluster = Self {
            net: InMemory::new(),
            nodes: (0..size).map(|_| None).collect(),
            members: (1..=size).map(member).collect(),
            dir: tempfile::tempdir().unwrap(),
            doubtful: RefCell::default(),
            options,
        };
        for id in 1..=size {
            cluster.restart(NodeId(id));
        }
        cluster
    }

    pub(crate) fn dir(&self, id: NodeId) -> std::path::PathBuf {
        self.dir.path().join(id.to_string())
    }

    pub(crate) fn restart(&mut self, id: NodeId) {
        let node = Node::builder(id, self.dir(id))
            .bootstrap(self.members.clone())
            .transport(self.net.endpoint())
            .options(self.options.clone())
            .start(Journal::default())
            .unwrap();
        self.nodes[slot(id)] = Some(node);
    }

    pub(crate) fn stop(&mut self, id: NodeId) {
        self.nodes[slot(id)].take().unwrap().shutdown().unwrap();
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node<Journal> {
        self.nodes[slot(id)].as_ref().unwrap()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Node<Journal>> {
        self.nodes.iter().flatten()
    }

    /// Proposes on whoever leads until it is acknowledged; gives the leader.
    pub(crate) fn write(&self, payload: &str) -> NodeId {
        self.ask(|node| {
            let end = node.propose(payload).and_then(Proposal::wait);
            if end == Err(Error::OutcomeUnknown) {
                self.doubtful.borrow_mut().push(payload.to_owned().into());
            }
            end
        })
    }

    /// Asks one running node after the other, as redirected, until one does not fail.
    pub(crate) fn ask<T>(&self, ask: impl Fn(&Node<Journal>) -> Result<T, Error>) -> NodeId {
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            for node in self.running() {
                match ask(node) {
                    Ok(_) => return node.identity().node,
                    Err(
                        Error::NotLeader { .. }
                        | Error::Transferring { .. }
                        | Error::OutcomeUnknown,
                    ) => {}
                    Err(error) => panic!("{error}"),
                }
                let _ = node.wait_leader(Duration::from_millis(100));
            }
        }
        panic!("no node answered");
    }

    /// The payloads that a node has committed, up to and with `last`; what was written again because nobody knew, once.
    pub(crate) fn committed_until(&self, id: NodeId, last: &str) -> Vec<Bytes> {
        let mut lines: Vec<Bytes> = Vec::new();
        let doubtful = self.doubtful.borrow();
        let mut entries = self.node(id).committed().from(1);
        while let Some(entry) = entries.next_within(PATIENCE) {
            let entry = entry.unwrap();
            let again = lines.last() == Some(&entry.payload) && doubtful.contains(&entry.payload);
            if entry.kind == catamaran::EntryKind::Normal && !again {
                lines.push(entry.payload.clone());
            }
            if *entry.payload == *last.as_bytes() {
                return lines;
            }
        }
        panic!(
            "node {id} never committed {last}: {:?}",
            self.node(id).status()
        );
    }
}

fn slot(id: NodeId) -> usize {
    usize::try_from(id.0).unwrap() - 1
}
