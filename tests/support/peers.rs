//! A node whose peers are the test: what leaves it, and what comes in.

use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use catamaran::raft::message::{AppendOutcome, Body, Message};
use catamaran::sim::SimDisk;
use catamaran::snapshot::Ask;
use catamaran::transport::{Connect, Context, Inbox, Incoming, Transport, TransportError};
use catamaran::types::{EntryRange, TermRun};
use catamaran::{
    Entry, EntryKind, LogId, LogIndex, Member, Node, NodeId, Options, StateMachine, Term,
};

use crate::held_disk::{BRINGER, HeldDisk};

/// Long enough for anything that is going to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const A: NodeId = NodeId(1);
pub(crate) const B: NodeId = NodeId(2);
pub(crate) const C: NodeId = NodeId(3);
/// The entry that every member begins with.
pub(crate) const FIRST: LogId = LogId::new(Term(1), LogIndex(1));

/// Replies with how many it has applied; lets go of its token when it is dropped.
pub(crate) struct Count {
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
pub(crate) struct Peers {
    inbox: Arc<dyn Inbox>,
    pub(crate) sent: mpsc::Receiver<(NodeId, Message)>,
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
    pub(crate) fn say(&self, from: NodeId, term: u64, body: Body) {
        self.say_with(from, term, body, Vec::new());
    }

    pub(crate) fn say_with(&self, from: NodeId, term: u64, body: Body, entries: Vec<Entry>) {
        self.deliver(from, term, body, entries);
        self.inbox.rouse();
    }

    /// Says it in a thread that may take the turn for it, and write what it brings.
    pub(crate) fn bring(
        &self,
        from: NodeId,
        term: u64,
        body: Body,
        entries: Vec<Entry>,
    ) -> JoinHandle<()> {
        self.deliver(from, term, body, entries);
        let inbox = Arc::clone(&self.inbox);
        let thread = thread::Builder::new().name(BRINGER.to_owned());
        thread.spawn(move || inbox.attend_to_entries()).unwrap()
    }

    fn deliver(&self, from: NodeId, term: u64, body: Body, entries: Vec<Entry>) {
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
    pub(crate) fn next(&mut self) -> Message {
        let (to, message) = self.sent.recv_timeout(PATIENCE).unwrap();
        self.seen.push((to, message.clone()));
        message
    }

    /// Waits until a message that says so has left.
    pub(crate) fn wait_for(&mut self, body: &Body) {
        if !self.has_seen(body) {
            self.wait_until(|next| next == body);
        }
    }

    /// Waits for the first message from now on that is so. Others, as heartbeats, may come for ever.
    fn wait_until(&mut self, is_so: impl Fn(&Body) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.next().body) {
            assert!(Instant::now() < deadline, "it never left");
        }
    }

    /// B leads this term.
    pub(crate) fn follow(&self, term: u64) {
        let heartbeat = Body::Append {
            range: EntryRange::empty(FIRST),
            runs: Vec::new(),
            commit: LogIndex(0),
            round: 0,
        };
        self.say(B, term, heartbeat);
    }

    /// Waits until the raft thread has done with all it was told.
    pub(crate) fn fence(&mut self) {
        let last = LogId::ORIGIN;
        self.say(C, 0, Body::PreVote { last });
        self.wait_until(|body| *body == Body::PreVoteReply { granted: false });
    }

    /// Waits until an append whose last entry is this one has left.
    pub(crate) fn wait_for_append_of(&mut self, index: u64) {
        self.wait_until(|body| {
            matches!(body, Body::Append { range, .. }
                if range.last.index == LogIndex(index) && !range.is_empty())
        });
    }

    pub(crate) fn has_seen(&mut self, body: &Body) -> bool {
        self.seen.extend(self.sent.try_iter());
        self.seen.iter().any(|(_, message)| message.body == *body)
    }

    /// Hands the node leadership, so that it need not wait for an election timeout, and gives it every vote;
    /// its term once it leads and both have its no-op, which is entry 2.
    pub(crate) fn elect(&mut self) -> u64 {
        self.elect_after(2)
    }

    /// Likewise, when `term` was B's.
    pub(crate) fn elect_after(&mut self, term: u64) -> u64 {
        self.follow(term);
        self.fence();
        self.say(B, term, Body::TimeoutNow);
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

pub(crate) fn matched(upto: u64, round: u64) -> Body {
    let outcome = AppendOutcome::Matched {
        upto: LogIndex(upto),
    };
    Body::AppendReply { outcome, round }
}

/// An append behind `prev` of these entries, all of the term of `last`.
pub(crate) fn append(
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

/// Tries again and again, until it is so.
#[allow(dead_code, reason = "of no use to some tests that share this file")]
pub(crate) fn keep_trying(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never so");
        thread::yield_now();
    }
}

pub(crate) struct World {
    pub(crate) node: Node<Count>,
    pub(crate) peers: Peers,
    pub(crate) disk: HeldDisk,
    pub(crate) token: Arc<()>,
}

/// Stands for no election by itself while a test runs, nor steps down.
pub(crate) fn patient() -> Options {
    Options {
        election_timeout: Duration::from_secs(3_600),
        segment_bytes: 1 << 20,
        max_entry_bytes: 64 << 10,
        ..Options::default()
    }
}

/// Node 1 of three.
pub(crate) fn start(options: Options) -> World {
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
        .options(options)
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
