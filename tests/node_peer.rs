//! A node whose peers are the test: what leaves it and when, against what its disk has.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/held_disk.rs"]
mod held_disk;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use catamaran::raft::message::{AppendOutcome, Body, Message};
use catamaran::sim::SimDisk;
use catamaran::snapshot::Ask;
use catamaran::transport::{Connect, Context, Inbox, Incoming, Transport, TransportError};
use catamaran::types::{EntryRange, TermRun};
use catamaran::{
    Entry, EntryKind, Error, LogId, LogIndex, Member, Node, NodeId, Options, StateMachine, Term,
};
use held_disk::HeldDisk;

/// Long enough for anything that is going to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
/// The entry that every member begins with.
const FIRST: LogId = LogId::new(Term(1), LogIndex(1));

/// Replies with how many it has applied; lets go of its token when it is dropped.
struct Count {
    applied: usize,
    _token: Arc<()>,
}

impl StateMachine for Count {
    type Reply = usize;

    fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
        let before = self.applied;
        self.applied += entries.len();
        (before + 1..=self.applied).collect()
    }
}

/// The other side of a node's transport: both of its peers.
struct Peers {
    inbox: Arc<dyn Inbox>,
    sent: mpsc::Receiver<(NodeId, Message)>,
    /// All that has left the node, as far as it was looked at.
    seen: Vec<(NodeId, Message)>,
}

struct Wire {
    out: mpsc::Sender<(NodeId, Message)>,
    inbox: mpsc::Sender<Arc<dyn Inbox>>,
}

impl Connect for Wire {
    fn connect(self: Box<Self>, context: Context) -> Result<Arc<dyn Transport>, TransportError> {
        self.inbox.send(context.inbox).unwrap();
        Ok(Arc::new(Out(self.out)))
    }
}

struct Out(mpsc::Sender<(NodeId, Message)>);

impl Transport for Out {
    fn send(&self, to: NodeId, message: Message) {
        let _ = self.0.send((to, message));
    }

    fn ask(&self, _: NodeId, _: Ask) {}

    fn answer(&self, _: NodeId, _: Ask) {}

    fn close(&self) {}
}

impl Peers {
    fn say(&self, from: NodeId, term: u64, body: Body) {
        self.say_with(from, term, body, Vec::new());
    }

    fn say_with(&self, from: NodeId, term: u64, body: Body, entries: Vec<Entry>) {
        let message = Message {
            term: Term(term),
            body,
        };
        self.inbox.deliver(Incoming {
            from,
            message,
            entries,
        });
    }

    /// The next message that leaves the node.
    fn next(&mut self) -> Message {
        let (to, message) = self.sent.recv_timeout(PATIENCE).unwrap();
        self.seen.push((to, message.clone()));
        message
    }

    /// Waits until a message that says so has left.
    fn wait_for(&mut self, body: &Body) {
        while !self.has_seen(body) {
            self.next();
        }
    }

    /// Waits until the raft thread has done with all it was told.
    fn fence(&mut self) {
        let last = LogId::ORIGIN;
        self.say(C, 0, Body::PreVote { last });
        while self.next().body != (Body::PreVoteReply { granted: false }) {}
    }

    /// Waits until an append whose last entry is this one has left.
    fn wait_for_append_of(&mut self, index: u64) {
        loop {
            if let Body::Append { range, .. } = self.next().body
                && range.last.index == LogIndex(index)
                && !range.is_empty()
            {
                return;
            }
        }
    }

    fn has_seen(&mut self, body: &Body) -> bool {
        self.seen.extend(self.sent.try_iter());
        self.seen.iter().any(|(_, message)| message.body == *body)
    }

    /// Hands the node leadership, so that it need not wait for an election timeout, and gives it every vote;
    /// its term once it leads and both have its no-op, which is entry 2.
    fn elect(&mut self) -> u64 {
        let heartbeat = Body::Append {
            range: EntryRange::empty(FIRST),
            runs: Vec::new(),
            commit: LogIndex(0),
            round: 0,
        };
        self.say(B, 2, heartbeat);
        self.say(B, 2, Body::TimeoutNow);
        loop {
            let Message { term, body } = self.next();
            match body {
                Body::HandoverVote { .. } => self.say(B, term.0, Body::VoteReply { granted: true }),
                Body::Append { range, round, .. } => {
                    for from in [B, C] {
                        self.say(from, term.0, matched(range.last.index.0, round));
                    }
                    return term.0;
                }
                _ => {}
            }
        }
    }
}

fn matched(upto: u64, round: u64) -> Body {
    let outcome = AppendOutcome::Matched {
        upto: LogIndex(upto),
    };
    Body::AppendReply { outcome, round }
}

/// An append behind `prev` of these entries, all of the term of `last`.
fn append(
    prev: LogId,
    entries: &[(EntryKind, &str)],
    term: u64,
    commit: u64,
) -> (Body, Vec<Entry>) {
    let entry = |((kind, payload), index): (&(EntryKind, &str), u64)| Entry {
        id: LogId::new(Term(term), LogIndex(index)),
        kind: *kind,
        payload: (*payload).into(),
    };
    let entries: Vec<_> = entries.iter().zip(prev.index.0 + 1..).map(entry).collect();
    let last = entries.last().map_or(prev, |entry| entry.id);
    let runs = vec![TermRun {
        term: Term(term),
        first: prev.index.next(),
    }];
    let body = Body::Append {
        range: EntryRange { prev, last },
        runs,
        commit: LogIndex(commit),
        round: 0,
    };
    (body, entries)
}

struct World {
    node: Node<Count>,
    peers: Peers,
    disk: HeldDisk,
    token: Arc<()>,
}

/// Node 1 of three. It stands for no election by itself while a test runs, nor steps down.
fn start() -> World {
    let disk = HeldDisk::new(SimDisk::new(1));
    let (out, sent) = mpsc::channel();
    let (inbox, connected) = mpsc::channel();
    let member = |id| Member {
        id: NodeId(id),
        addr: format!("node-{id}"),
        client_addr: String::new(),
    };
    let token = Arc::new(());
    let machine = Count {
        applied: 0,
        _token: Arc::clone(&token),
    };
    let node = Node::builder(A, "/node")
        .bootstrap([1, 2, 3].map(member))
        .transport(Wire { out, inbox })
        .options(Options {
            election_timeout: Duration::from_secs(3_600),
            segment_bytes: 1 << 20,
            max_entry_bytes: 64 << 10,
            ..Options::default()
        })
        .disk(Arc::new(disk.clone()))
        .start(machine)
        .unwrap();
    let peers = Peers {
        inbox: connected.recv().unwrap(),
        sent,
        seen: Vec::new(),
    };
    World {
        node,
        peers,
        disk,
        token,
    }
}

#[test]
fn a_vote_leaves_only_after_its_fdatasync() {
    let mut world = start();
    let granted = Body::VoteReply { granted: true };
    world.disk.hold();
    world.peers.say(B, 5, Body::Vote { last: FIRST });
    world.peers.fence();
    world.disk.wait_until_held(1);
    assert!(!world.peers.has_seen(&granted));
    world.disk.open();
    world.peers.wait_for(&granted);
}

#[test]
fn an_acknowledgement_leaves_only_after_the_fdatasync_of_its_entries() {
    let mut world = start();
    world.disk.hold();
    let (body, entries) = append(FIRST, &[(EntryKind::Normal, "one")], 2, 0);
    world.peers.say_with(B, 2, body, entries);
    world.peers.fence();
    world.disk.wait_until_held(1);
    // The second is queued, write and promise together, behind a sync that does not cover it.
    let prev = LogId::new(Term(2), LogIndex(2));
    let (body, entries) = append(prev, &[(EntryKind::Normal, "two")], 2, 0);
    world.peers.say_with(B, 2, body, entries);
    world.peers.fence();
    assert!(!world.peers.has_seen(&matched(2, 0)));
    world.disk.let_one_through();
    world.disk.wait_until_held(2);
    assert!(!world.peers.has_seen(&matched(3, 0)));
    world.disk.open();
    world.peers.wait_for(&matched(2, 0));
    world.peers.wait_for(&matched(3, 0));
}

#[test]
fn a_vote_whose_fdatasync_fails_never_leaves_and_stops_the_node() {
    let mut world = start();
    world.disk.fail();
    world.peers.say(B, 5, Body::Vote { last: FIRST });
    // Told when the threads have ended.
    assert!(world.node.committed().from(1_000).next().is_none());
    let reason = world.node.status().stopped.unwrap();
    assert!(world.node.shutdown().is_err(), "{reason}");
    assert!(!world.peers.has_seen(&Body::VoteReply { granted: true }));
    let refused = world.node.propose("x").map(drop);
    assert_eq!(refused, Err(Error::Stopped { reason }));
}

#[test]
fn a_leader_replicates_while_it_writes_and_commits_without_its_own_disk() {
    let mut world = start();
    let term = world.peers.elect();
    world.disk.hold();
    let proposal = world.node.propose("x").unwrap();
    let last = 3;
    world.peers.wait_for_append_of(last);
    world.peers.say(B, term, matched(last, 0));
    world.peers.fence();
    assert!(
        world.node.status().committed < LogIndex(last),
        "counted a copy that is not durable"
    );
    world.peers.say(C, term, matched(last, 0));
    assert_eq!(proposal.wait(), Ok(1));
    world.disk.open();
}

/// Whatever a message says: the entry that took a proposal's place is not its reply.
#[test]
fn a_proposal_is_answered_by_its_own_entry_alone() {
    let mut world = start();
    let term = world.peers.elect();
    let mut proposal = world.node.propose("mine").unwrap();
    world.peers.wait_for_append_of(3);
    // A later leader's entry replaces it and is committed, all in one message.
    let no_op = LogId::new(Term(term), LogIndex(2));
    let other = [(EntryKind::Normal, "other")];
    let (body, entries) = append(no_op, &other, term + 1, 3);
    world.peers.say_with(B, term + 1, body, entries);
    let end = proposal.wait_for(PATIENCE);
    assert_eq!(end, Some(Err(Error::OutcomeUnknown)));
}

#[test]
fn a_shutdown_joins_every_thread() {
    let mut world = start();
    world.peers.elect();
    world.node.propose("x").map(drop).unwrap();
    world.node.shutdown().unwrap();
    assert_eq!(Arc::strong_count(&world.token), 1, "the apply thread runs");
    // The raft thread and the log thread held the transport.
    let left = world.peers.sent.iter().count();
    assert!(left < 1_000, "all ends of the wire are dropped");
}
