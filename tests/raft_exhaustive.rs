//! All that three cores can do within bounds, breadth first over the shipped `Raft::step`: every order in which
//! messages arrive, or never do, writes become durable, nodes crash and time out; with the five properties of
//! the Raft paper's figure 3 looked at in every state.
//!
//! Time is left out: an election may time out at any moment, and nobody stands by a leader it has heard. That
//! allows more than can happen. A lost connection hastens the one and ends the other, so that it adds nothing; that
//! this is so is looked at in every state of a node. A link holds the last message or the last few, in no order; those before are lost.
//! States that differ in nothing that matters to what comes are one, by a hash of 128 bits. No heartbeats are sent.
//!
//! `cargo test` explores a small world to its end: two terms with an entry each, and a disk that is never slow. With
//! `CATAMARAN_EXHAUSTIVE=1` it is one of three entries and a crash, also to its end: 28 million states, which take some
//! ten minutes and 10 GB of memory. With `CATAMARAN_STATES=n` there are slow disks and leaders that step down
//! besides: far more states than can be looked at, of which the nearest n are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/raft.rs"]
mod support;

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::fmt::{Debug, Write};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Instant;

use catamaran::raft::Raft;
use catamaran::raft::event::{Effect, Event, Release, RoleName};
use catamaran::raft::message::{Body, Message};
use catamaran::types::{Durable, LogIndex, NodeId, Term, Time, WriteSeq};
use support::{Disk, boot, config};

const NODES: u64 = 3;

/// How much may happen.
#[derive(Clone, Copy)]
struct Bounds {
    /// Nobody campaigns for a later term.
    terms: u64,
    /// No log gets longer by a proposal.
    entries: usize,
    /// Whether leaders find that they hear no quorum.
    step_down: bool,
    crashes: u8,
    /// Messages on a link.
    link: usize,
    /// Whether a write may be under way for a while.
    slow: bool,
}

/// A node, as far as it matters to what comes.
#[derive(Clone)]
struct Node {
    raft: Raft,
    durable: Disk,
    /// Writes under way, each with the log after it.
    staged: VecDeque<(WriteSeq, Disk)>,
    /// Messages that wait for a write.
    held: Vec<(WriteSeq, NodeId, Message)>,
    print: u128,
}

/// What was ever true, as far as the properties need it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct History {
    /// Who led each term.
    leaders: Vec<Option<NodeId>>,
    /// The term of each entry that was committed, and the term of who first did.
    committed: Vec<(Term, Term)>,
}

/// A message on its way.
#[derive(Clone)]
struct Sent {
    message: Message,
    print: u128,
}

#[derive(Clone)]
struct State {
    nodes: [Rc<Node>; NODES as usize],
    /// On the links from each node to each, those of one link in the order they were sent.
    wire: Vec<(u8, Rc<Sent>)>,
    crashes: u8,
    history: Rc<History>,
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Action {
    Timeout(usize),
    Propose(usize),
    /// The oldest write of a node becomes durable.
    Sync(usize),
    Crash(usize),
    /// The message of that number arrives.
    Deliver(usize),
}

/// A hash of 128 bits, of which nothing is asked but that it tells states apart.
struct Print(u64, u64);

impl Print {
    const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9)
    }

    fn mix(&mut self, word: u64) {
        let mix = |state: u64, factor: u64| {
            let product = u128::from(state ^ word) * u128::from(factor);
            (product >> 64) as u64 ^ product as u64
        };
        self.0 = mix(self.0, 0xd6e8_feb8_6659_fd93).rotate_left(23) ^ word;
        self.1 = mix(self.1, 0xa076_1d64_78bd_642f).rotate_left(41) ^ word;
    }

    fn debug(&mut self, value: impl Debug, text: &mut String) {
        text.clear();
        write!(text, "{value:?}").unwrap();
        self.write(text.as_bytes());
    }

    fn end(&self) -> u128 {
        u128::from(self.0) << 64 | u128::from(self.1)
    }
}

impl Hasher for Print {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.mix(u64::from_le_bytes(last));
        self.mix(bytes.len() as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn print_of(value: impl Debug) -> u128 {
    thread_local! {
        static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
    }
    TEXT.with_borrow_mut(|text| {
        let mut print = Print::new();
        print.debug(value, text);
        print.end()
    })
}

fn number(id: NodeId) -> usize {
    usize::try_from(id.0 - 1).unwrap()
}

fn id(number: usize) -> NodeId {
    NodeId(number as u64 + 1)
}

#[allow(clippy::cast_possible_truncation)]
const fn link(from: usize, to: usize) -> u8 {
    (from * NODES as usize + to) as u8
}

fn ends(link: u8) -> (usize, usize) {
    let link = usize::from(link);
    (link / NODES as usize, link % NODES as usize)
}

impl Node {
    fn new(number: usize, disk: Disk) -> Self {
        let boot = boot(id(number).0, NODES, &disk, 1);
        let mut node = Self {
            raft: Raft::new(&config(), boot, Time::default()),
            durable: disk,
            staged: VecDeque::new(),
            held: Vec::new(),
            print: 0,
        };
        node.settle();
        node
    }

    fn written(&self) -> &Disk {
        self.staged.back().map_or(&self.durable, |(_, disk)| disk)
    }

    /// Leaves out what makes no difference to what comes: the time, and how many writes there were.
    fn settle(&mut self) {
        let base = self.raft.rewind();
        let count = |seq: &mut WriteSeq| *seq = WriteSeq(seq.0 - base.0);
        self.staged.iter_mut().for_each(|(seq, _)| count(seq));
        self.held.iter_mut().for_each(|(seq, ..)| count(seq));
        let mut print = Print::new();
        print_of(&self.raft).hash(&mut print);
        self.durable.hash(&mut print);
        self.staged.hash(&mut print);
        print_of(&self.held).hash(&mut print);
        self.print = print.end();
    }
}

impl State {
    fn start() -> Self {
        let node = |number| Rc::new(Node::new(number, Disk::default()));
        Self {
            nodes: [node(0), node(1), node(2)],
            wire: Vec::new(),
            crashes: 0,
            history: Rc::default(),
        }
    }

    fn print(&self) -> u128 {
        let mut print = Print::new();
        for node in &self.nodes {
            node.print.hash(&mut print);
        }
        for (link, sent) in &self.wire {
            (link, sent.print).hash(&mut print);
        }
        self.crashes.hash(&mut print);
        self.history.hash(&mut print);
        print.end()
    }

    fn actions(&self, bounds: &Bounds) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let status = node.raft.status();
            let leads = status.role == RoleName::Leader;
            let may_time_out = if leads {
                bounds.step_down
            } else {
                status.term.0 < bounds.terms
            };
            if may_time_out {
                actions.push(Action::Timeout(number));
            }
            if leads && node.written().terms.len() < bounds.entries {
                actions.push(Action::Propose(number));
            }
            if !node.staged.is_empty() {
                actions.push(Action::Sync(number));
            }
            if self.crashes < bounds.crashes {
                actions.push(Action::Crash(number));
            }
        }
        actions.extend((0..self.wire.len()).map(Action::Deliver));
        actions
    }

    /// The state after an action, or what is wrong with it.
    fn after(&self, action: Action, bounds: &Bounds) -> Result<Self, String> {
        let mut next = self.clone();
        let number = match action {
            Action::Timeout(number) => {
                next.step(number, Event::Tick, bounds);
                number
            }
            Action::Propose(number) => {
                next.step(number, Event::Propose { count: 1 }, bounds);
                number
            }
            Action::Sync(number) => {
                next.sync(number, bounds);
                number
            }
            Action::Crash(number) => {
                next.crashes += 1;
                let disk = next.nodes[number].durable.clone();
                next.nodes[number] = Rc::new(Node::new(number, disk));
                number
            }
            Action::Deliver(at) => {
                let (link, sent) = next.wire.remove(at);
                let message = Rc::unwrap_or_clone(sent).message;
                let (from, to) = ends(link);
                let from = id(from);
                next.step(
                    to,
                    Event::Received {
                        from,
                        message,
                        configs: Vec::new(),
                    },
                    bounds,
                );
                to
            }
        };
        while !bounds.slow && !next.nodes[number].staged.is_empty() {
            next.sync(number, bounds);
        }
        next.forget_stale(number);
        next.check(&self.nodes[number], number)?;
        Ok(next)
    }

    fn step(&mut self, number: usize, event: Event, bounds: &Bounds) {
        let message = match &event {
            Event::Received { message, .. } => Some(message.clone()),
            _ => None,
        };
        let node = Rc::make_mut(&mut self.nodes[number]);
        let mut effects = Vec::new();
        node.raft.step(Time::default(), event, &mut effects);
        let mut sent = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist(persist) => {
                    let mut disk = node.written().clone();
                    disk.write(&persist, message.as_ref());
                    node.staged.push_back((persist.seq, disk));
                }
                Effect::Send {
                    to,
                    message,
                    release: Release::Now,
                    ..
                } => sent.push((to, message)),
                Effect::Send {
                    to,
                    message,
                    release: Release::After(seq),
                    ..
                } => node.held.push((seq, to, message)),
                _ => {}
            }
        }
        node.settle();
        for (to, message) in sent {
            self.send(number, to, message, bounds);
        }
    }

    fn sync(&mut self, number: usize, bounds: &Bounds) {
        let node = Rc::make_mut(&mut self.nodes[number]);
        let (seq, disk) = node.staged.pop_front().unwrap();
        node.durable = disk;
        let held = std::mem::take(&mut node.held);
        let (free, held): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(after, ..)| *after <= seq);
        node.held = held;
        for (_, to, message) in free {
            self.send(number, to, message, bounds);
        }
        let durable = Durable::for_simulation(seq);
        self.step(number, Event::Persisted(durable), bounds);
    }

    /// Leaves out answers that can have no effect on a node any more, whatever happens to it: of a term before
    /// its own, or to a campaign or leader that it was in its term and cannot be again. They are judged by
    /// what is on its disk, since a crash may take the rest back.
    fn forget_stale(&mut self, number: usize) {
        let node = &self.nodes[number];
        let (role, term) = (node.raft.status().role, node.durable.hard_state.term);
        let is_stale = |sent: &Sent| {
            let Message { term: of, body, .. } = &sent.message;
            let over = |by: RoleName| *of < term || (*of == term && role != by);
            match body {
                Body::VoteReply { .. } => over(RoleName::Candidate),
                Body::AppendReply { .. } => over(RoleName::Leader),
                Body::PreVoteReply { .. } => *of < term,
                _ => false,
            }
        };
        self.wire
            .retain(|(link, sent)| ends(*link).1 != number || !is_stale(sent));
    }

    fn send(&mut self, from: usize, to: NodeId, message: Message, bounds: &Bounds) {
        let print = print_of(&message);
        let on = link(from, number(to));
        // Whoever gets one twice may as well get it later.
        self.wire
            .retain(|(link, sent)| *link != on || sent.print != print);
        let begin = self.wire.partition_point(|(link, _)| *link < on);
        let end = self.wire.partition_point(|(link, _)| *link <= on);
        self.wire
            .insert(end, (on, Rc::new(Sent { message, print })));
        if end - begin == bounds.link {
            self.wire.remove(begin);
        }
    }

    /// Figure 3, where node `number` was `before`.
    fn check(&mut self, before: &Node, number: usize) -> Result<(), String> {
        let node = Rc::clone(&self.nodes[number]);
        let (status, was) = (node.raft.status(), before.raft.status());
        let terms = &node.written().terms;
        if node.durable.hard_state.term < before.durable.hard_state.term {
            return Err("a term went back".into());
        }
        if status.role == RoleName::Leader {
            if (was.role, was.term) == (status.role, status.term) {
                if !terms.starts_with(&before.written().terms) {
                    return Err("Leader Append-Only".into());
                }
            } else {
                self.elected(id(number), status.term, terms)?;
            }
        }
        let committed = node.raft.pointers().committed;
        self.committed(committed, status.term, terms)?;
        for other in &self.nodes {
            let other = &other.written().terms;
            let agreeing = terms.iter().zip(other).rposition(|(a, b)| a == b);
            if agreeing.is_some_and(|at| terms[..at] != other[..at]) {
                return Err("Log Matching".into());
            }
        }
        Ok(())
    }

    fn elected(&mut self, id: NodeId, term: Term, terms: &[Term]) -> Result<(), String> {
        let history = Rc::make_mut(&mut self.history);
        let at = usize::try_from(term.0).unwrap();
        history
            .leaders
            .resize(history.leaders.len().max(at + 1), None);
        if *history.leaders[at].get_or_insert(id) != id {
            return Err(format!("Election Safety: two leaders in term {}", term.0));
        }
        for (index, (entry, by)) in history.committed.iter().enumerate() {
            if *by < term && terms.get(index) != Some(entry) {
                let index = index + 1;
                return Err(format!("Leader Completeness: without entry {index}"));
            }
        }
        Ok(())
    }

    fn committed(&mut self, upto: LogIndex, by: Term, terms: &[Term]) -> Result<(), String> {
        let known = self.history.committed.len();
        for (index, entry) in terms[..usize::try_from(upto.0).unwrap()].iter().enumerate() {
            match self.history.committed.get(index) {
                Some((committed, _)) if committed == entry => {}
                Some(_) => return Err(format!("State Machine Safety: entry {}", index + 1)),
                None => Rc::make_mut(&mut self.history).committed.push((*entry, by)),
            }
        }
        if self.history.committed.len() > known {
            self.is_held_by_a_quorum()?;
        }
        Ok(())
    }

    /// What is committed is on disk on a quorum, and so are those of its entries that it covers.
    fn is_held_by_a_quorum(&self) -> Result<(), String> {
        let committed = self.history.committed.iter().map(|(term, _)| *term);
        let committed: Vec<_> = committed.collect();
        let holds = |node: &&Rc<Node>| node.durable.terms.starts_with(&committed);
        match self.nodes.iter().filter(holds).count() {
            0 | 1 => Err("committed without a quorum of disks".into()),
            _ => Ok(()),
        }
    }
}

/// A connection that is lost changes only what time decides.
fn lose(node: &Node, number: usize) {
    for from in 0..NODES as usize {
        let mut after = node.clone();
        let mut effects = Vec::new();
        let event = Event::Lost { from: id(from) };
        after.raft.step(Time::default(), event, &mut effects);
        after.settle();
        let changes = !effects.is_empty() || after.print != node.print;
        assert!(
            !changes,
            "{number} loses {from}: {effects:?}, {node:?}",
            node = node.raft
        );
    }
}

/// Explores all there is, or the nearest of so many states, or tells the shortest way to what is wrong.
fn explore(bounds: Bounds, limit: usize) {
    let begun = Instant::now();
    let mut seen = HashSet::new();
    let mut ways: Vec<(usize, Action)> = Vec::new();
    let mut queue = VecDeque::from([(State::start(), usize::MAX)]);
    let mut steps = 0_u64;
    let mut lost = HashSet::new();
    seen.insert(State::start().print());
    while let Some((state, way)) = queue.pop_front() {
        for action in state.actions(&bounds) {
            // All are alike in the beginning.
            if way == usize::MAX && !matches!(action, Action::Timeout(0)) {
                continue;
            }
            steps += 1;
            let next = state.after(action, &bounds);
            let next = next.unwrap_or_else(|wrong| panic!("{wrong}\n{}", tell(&ways, way, action)));
            for (number, node) in next.nodes.iter().enumerate() {
                if lost.insert(node.print) {
                    lose(node, number);
                }
            }
            if seen.insert(next.print()) {
                ways.push((way, action));
                queue.push_back((next, ways.len() - 1));
            }
        }
        if seen.len() > limit {
            println!("not to the end");
            break;
        }
    }
    println!(
        "{} states, {steps} steps, {:.1?}",
        seen.len(),
        begun.elapsed()
    );
}

/// How a state was reached.
fn tell(ways: &[(usize, Action)], mut way: usize, last: Action) -> String {
    let mut actions = vec![last];
    while let Some((before, action)) = ways.get(way) {
        actions.push(*action);
        way = *before;
    }
    actions.reverse();
    actions
        .iter()
        .map(|action| format!("{action:?}\n"))
        .collect()
}

#[test]
fn nothing_that_three_nodes_can_do_breaks_what_the_paper_promises() {
    let small = Bounds {
        terms: 2,
        entries: 1,
        step_down: false,
        crashes: 0,
        link: 1,
        slow: false,
    };
    let large = Bounds {
        entries: 3,
        crashes: 1,
        ..small
    };
    let wide = Bounds {
        step_down: true,
        slow: true,
        ..large
    };
    match std::env::var("CATAMARAN_STATES") {
        Ok(states) => explore(wide, states.parse().unwrap()),
        Err(_) if std::env::var_os("CATAMARAN_EXHAUSTIVE").is_some() => explore(large, usize::MAX),
        Err(_) => explore(small, usize::MAX),
    }
}
