//! Members of a cluster without threads: their cores, logs that lose what was not synced, and a network
//! that does what the test says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use catamaran::config::{ClockBound, Config, Options};
use catamaran::raft::event::{
    Effect, Event, Persist, ReadId, Refusal, Release, RoleName, Source, Status,
};
use catamaran::raft::message::{Body, Message};
use catamaran::raft::{Boot, Raft};
use catamaran::types::{
    Durable, HardState, LogId, LogIndex, NodeId, Roster, Term, TermRun, Time, WriteSeq,
};

/// What a log holds: the term of each entry, and term and vote.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Disk {
    pub(crate) hard_state: HardState,
    /// Of every entry ever, those that were dropped too.
    pub(crate) terms: Vec<Term>,
    /// How many were dropped.
    pub(crate) dropped: usize,
    /// The entries that the newest snapshot has in it. Durable as soon as it is there.
    pub(crate) snapshot: Vec<Term>,
}

fn last_of(terms: &[Term]) -> LogId {
    let term = terms.last().copied().unwrap_or_default();
    LogId::new(term, LogIndex(terms.len() as u64))
}

fn holds(terms: &[Term], id: LogId) -> bool {
    let at = usize::try_from(id.index.prev().0).unwrap();
    terms.get(at) == Some(&id.term)
}

impl Disk {
    /// Writes a batch; `message` is what the step was about that gave it.
    pub(crate) fn write(&mut self, persist: &Persist, message: Option<&Message>) {
        self.hard_state = persist.hard_state;
        if let Some(from) = persist.truncate_from {
            self.terms.truncate(usize::try_from(from.prev().0).unwrap());
        }
        if let Some(new) = &persist.entries {
            assert_eq!(
                new.range.prev.index.0,
                self.terms.len() as u64,
                "a gap in the log"
            );
        }
        append_terms(self, persist, message);
    }

    pub(crate) fn runs(&self) -> Vec<TermRun> {
        let mut runs: Vec<TermRun> = Vec::new();
        for (term, index) in self.terms.iter().zip(1..).skip(self.dropped) {
            if runs.last().is_none_or(|run| run.term != *term) {
                runs.push(TermRun {
                    term: *term,
                    first: LogIndex(index),
                });
            }
        }
        runs
    }

    pub(crate) fn last(&self) -> LogId {
        last_of(&self.terms)
    }

    /// What a restart makes of a log and a snapshot that a crash came between.
    fn follow(&mut self) {
        let last = last_of(&self.snapshot);
        let hard = &mut self.hard_state;
        hard.commit = hard.commit.max(last.index);
        if hard.term < last.term {
            hard.term = last.term;
            hard.vote = None;
        }
        if !self.terms.starts_with(&self.snapshot) {
            self.terms.clone_from(&self.snapshot);
            self.dropped = self.snapshot.len();
        }
    }
}

/// A member: its core, its log as it was written, and as a crash would leave it.
pub(crate) struct Member {
    pub(crate) raft: Raft,
    pub(crate) written: Disk,
    pub(crate) durable: Disk,
    /// Writes that are not durable, with the log after each.
    staged: VecDeque<(WriteSeq, Disk)>,
    /// Messages that wait for a write.
    held: Vec<(WriteSeq, NodeId, Message)>,
    pub(crate) committed: LogIndex,
    pub(crate) ready: Vec<(ReadId, LogIndex)>,
    pub(crate) reads_failed: usize,
    pub(crate) refused: Option<Refusal>,
    /// Transfers that it has given up.
    pub(crate) abandoned: usize,
    /// Whom it is to fetch a snapshot from.
    pub(crate) fetch: Option<NodeId>,
}

pub(crate) fn config() -> Config {
    let options = Options {
        trailing_entries: 3,
        ..Options::default()
    };
    Config::try_from(options).unwrap()
}

/// The same, with leases.
pub(crate) fn leases(drift_ppm: u32) -> Config {
    let options = Options {
        lease_reads: Some(ClockBound { drift_ppm }),
        trailing_entries: 3,
        ..Options::default()
    };
    Config::try_from(options).unwrap()
}

/// Voters 1 to `size`.
pub(crate) fn voters(size: u64) -> Vec<NodeId> {
    (1..=size).map(NodeId).collect()
}

pub(crate) fn boot(id: u64, size: u64, disk: &Disk, seed: u64) -> Boot {
    Boot {
        id: NodeId(id),
        configs: vec![(LogIndex::ZERO, Roster::of_voters(voters(size)))],
        hard_state: disk.hard_state,
        before: last_of(&disk.terms[..disk.dropped]),
        last: disk.last(),
        snapshot: Some(last_of(&disk.snapshot)).filter(|_| !disk.snapshot.is_empty()),
        runs: disk.runs(),
        written: WriteSeq::ZERO,
        seed,
        life: seed,
    }
}

/// A log of entries of these terms; the node has seen the last of them.
pub(crate) fn disk(terms: &[u64]) -> Disk {
    let term = Term(terms.last().copied().unwrap_or(0));
    let hard_state = HardState {
        term,
        vote: None,
        commit: LogIndex::ZERO,
    };
    Disk {
        hard_state,
        terms: terms.iter().copied().map(Term).collect(),
        ..Disk::default()
    }
}

impl Member {
    pub(crate) fn new(config: &Config, boot: Boot, disk: Disk, now: Time) -> Self {
        Self {
            raft: Raft::new(config, boot, now),
            committed: disk.hard_state.commit,
            written: disk.clone(),
            durable: disk,
            staged: VecDeque::new(),
            held: Vec::new(),
            ready: Vec::new(),
            reads_failed: 0,
            refused: None,
            abandoned: 0,
            fetch: None,
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.raft.status()
    }
}

/// Something that came to pass, for those who tell the story.
#[derive(Clone)]
pub(crate) enum Happened {
    Effect(NodeId, Effect),
    Synced(NodeId, WriteSeq),
    Delivered(NodeId, NodeId, Message),
    Lost(NodeId, NodeId, Message),
}

/// Members and the messages between them.
pub(crate) struct Net {
    config: Config,
    pub(crate) story: Vec<Happened>,
    /// Members whose writes are durable only when the test says so.
    pub(crate) slow: BTreeSet<NodeId>,
    pub(crate) members: BTreeMap<NodeId, Member>,
    pub(crate) wire: VecDeque<(NodeId, NodeId, Message)>,
    pub(crate) now: Time,
    /// Pairs that lose every message, the lower id first.
    pub(crate) cut: BTreeSet<(NodeId, NodeId)>,
    /// Ways, from whom to whom, that lose every message.
    pub(crate) cut_one_way: BTreeSet<(NodeId, NodeId)>,
    /// Whether every write is durable at once.
    pub(crate) fast_disk: bool,
    pub(crate) size: u64,
    pub(crate) seed: u64,
    /// Every configuration that was ever appended, by its entry.
    pub(crate) configs: BTreeMap<LogId, Roster>,
    /// Members that did not begin with the others, and know of nobody.
    pub(crate) joined: BTreeSet<NodeId>,
    /// How many messages were handed over.
    pub(crate) delivered: usize,
    /// Looks at every message handed over.
    pub(crate) seen: Vec<(NodeId, NodeId, Message)>,
}

impl Net {
    pub(crate) fn new(disks: &[Disk], seed: u64) -> Self {
        Self::with(config(), disks, seed)
    }

    pub(crate) fn with(config: Config, disks: &[Disk], seed: u64) -> Self {
        let size = disks.len() as u64;
        let member = |(disk, id): (&Disk, u64)| {
            let boot = boot(id, size, disk, seed.wrapping_mul(31).wrapping_add(id));
            let member = Member::new(&config, boot, disk.clone(), Time::default());
            (NodeId(id), member)
        };
        Self {
            members: disks.iter().zip(1..).map(member).collect(),
            config,
            story: Vec::new(),
            slow: BTreeSet::new(),
            wire: VecDeque::new(),
            now: Time::default(),
            cut: BTreeSet::new(),
            cut_one_way: BTreeSet::new(),
            fast_disk: true,
            size,
            seed,
            configs: BTreeMap::new(),
            joined: BTreeSet::new(),
            delivered: 0,
            seen: Vec::new(),
        }
    }

    pub(crate) fn empty(size: usize) -> Self {
        Self::new(&vec![Disk::default(); size], 1)
    }

    pub(crate) fn at(&self, id: u64) -> &Member {
        &self.members[&NodeId(id)]
    }

    pub(crate) fn at_mut(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&NodeId(id)).unwrap()
    }

    /// A node that is not among the first members.
    pub(crate) fn join(&mut self, id: u64) {
        self.joined.insert(NodeId(id));
        self.start(NodeId(id), Disk::default());
    }

    /// Starts a member with what its disk has.
    fn start(&mut self, id: NodeId, disk: Disk) {
        self.seed = self.seed.wrapping_add(1);
        let seed = self.seed.wrapping_mul(31).wrapping_add(id.0);
        let mut boot = boot(id.0, self.size, &disk, seed);
        boot.configs = self.configs_on(id, &disk);
        let member = Member::new(&self.config, boot, disk, self.now);
        self.members.insert(id, member);
    }

    /// The last configuration among these entries, which a snapshot of them has in it.
    fn config_of(&self, snapshot: &[Term]) -> (LogIndex, Roster) {
        let within = self.configs.iter().filter(|(id, _)| holds(snapshot, **id));
        let last = within.max_by_key(|(id, _)| id.index);
        last.map_or_else(
            || (LogIndex::ZERO, Roster::of_voters(voters(self.size))),
            |(id, roster)| (id.index, roster.clone()),
        )
    }

    /// The configurations that a disk has: the snapshot's, and those of the log behind it.
    fn configs_on(&self, id: NodeId, disk: &Disk) -> Vec<(LogIndex, Roster)> {
        let mut configs = Vec::new();
        if !disk.snapshot.is_empty() || !self.joined.contains(&id) {
            configs.push(self.config_of(&disk.snapshot));
        }
        let before = configs.first().map_or(LogIndex::ZERO, |(at, _)| *at);
        let held = self.configs.iter().filter(|(id, _)| {
            id.index > before && id.index.0 > disk.dropped as u64 && holds(&disk.terms, **id)
        });
        configs.extend(held.map(|(id, roster)| (id.index, roster.clone())));
        configs.sort_by_key(|(at, _)| *at);
        configs
    }

    /// Every core must know the configuration that its snapshot and its log say.
    pub(crate) fn check_rosters(&self) {
        for (id, member) in &self.members {
            let configs = self.configs_on(*id, &member.written);
            let last = configs.last().map(|(_, roster)| roster.clone());
            assert_eq!(
                *member.raft.roster(),
                last.unwrap_or_default(),
                "node {id} has other members than its log says"
            );
        }
    }

    /// The configurations among the entries of an append.
    fn configs_in(&self, message: &Message) -> Vec<(LogIndex, Roster)> {
        let Body::Append { range, runs, .. } = &message.body else {
            return Vec::new();
        };
        let term_of = |index: LogIndex| {
            let before = runs.partition_point(|run| run.first <= index);
            before.checked_sub(1).map(|at| runs[at].term)
        };
        let within = |id: &LogId| {
            let inside = id.index > range.prev.index && id.index <= range.last.index;
            inside && term_of(id.index) == Some(id.term)
        };
        let configs = self.configs.iter().filter(|(id, _)| within(id));
        configs
            .map(|(id, roster)| (id.index, roster.clone()))
            .collect()
    }

    pub(crate) fn step(&mut self, id: NodeId, event: Event) {
        let sources = match &event {
            Event::Received { message, .. } => Some(message.clone()),
            _ => None,
        };
        let now = self.now;
        let member = self.members.get_mut(&id).unwrap();
        let mut effects = Vec::new();
        member.raft.step(now, event, &mut effects);
        for effect in effects {
            self.story.push(Happened::Effect(id, effect.clone()));
            match effect {
                Effect::Persist(persist) => {
                    if let Some(new) = persist.entries.filter(|new| new.source == Source::Config) {
                        let roster = member.raft.roster().clone();
                        self.configs.insert(new.range.last, roster);
                    }
                    member.written.write(&persist, sources.as_ref());
                    member
                        .staged
                        .push_back((persist.seq, member.written.clone()));
                }
                Effect::Send {
                    to,
                    message,
                    release: Release::Now,
                } => {
                    if let Body::Append { range, .. } = &message.body {
                        let begin = LogIndex(member.written.dropped as u64);
                        assert!(range.prev.index >= begin, "an append of what is gone");
                    }
                    self.wire.push_back((id, to, message));
                }
                Effect::Send {
                    to,
                    message,
                    release: Release::After(seq),
                } => {
                    member.held.push((seq, to, message));
                }
                Effect::Commit { upto } => {
                    assert!(upto.index > member.committed, "a commit that goes back");
                    member.committed = upto.index;
                }
                Effect::Refused(refusal) => member.refused = Some(refusal),
                Effect::TransferAbandoned => member.abandoned += 1,
                Effect::ReadReady { upto, index } => member.ready.push((upto, index)),
                Effect::ReadFailed { .. } => member.reads_failed += 1,
                Effect::Compact { seq, upto } => {
                    let kept = usize::try_from(upto.0).unwrap();
                    assert!(kept <= member.written.snapshot.len(), "an entry is lost");
                    member.written.dropped = kept;
                    member.staged.push_back((seq, member.written.clone()));
                }
                Effect::Install { seq, last } => {
                    let Disk {
                        terms,
                        dropped,
                        snapshot,
                        ..
                    } = &mut member.written;
                    assert_eq!(last_of(snapshot), last, "another snapshot");
                    terms.clone_from(snapshot);
                    *dropped = snapshot.len();
                    member.staged.push_back((seq, member.written.clone()));
                }
                Effect::Fetch { from, .. } => member.fetch = Some(from),
                Effect::Status(_) => {}
            }
        }
        if self.fast_disk && !self.slow.contains(&id) {
            self.sync(id, usize::MAX);
        }
    }

    /// Makes the oldest `count` writes of a member durable.
    pub(crate) fn sync(&mut self, id: NodeId, count: usize) {
        let member = self.members.get_mut(&id).unwrap();
        let count = count.min(member.staged.len());
        let Some((seq, disk)) = member.staged.drain(..count).next_back() else {
            return;
        };
        member.durable = disk;
        self.story.push(Happened::Synced(id, seq));
        let held = std::mem::take(&mut member.held);
        let (free, held): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|(after, ..)| *after <= seq);
        member.held = held;
        self.wire
            .extend(free.into_iter().map(|(_, to, message)| (id, to, message)));
        self.step(id, Event::Persisted(Durable::for_simulation(seq)));
    }

    /// Takes a snapshot of what a member has committed.
    pub(crate) fn snapshot(&mut self, id: NodeId) {
        let member = &self.members[&id];
        let committed = usize::try_from(member.committed.0).unwrap();
        let snapshot = member.written.terms[..committed].to_vec();
        if snapshot.len() > member.written.snapshot.len() {
            let last = last_of(&snapshot);
            self.keep(id, snapshot, Event::Snapshot { last });
        }
    }

    /// Gives a member the snapshot that it is to fetch, if there is one.
    pub(crate) fn fetch(&mut self, id: NodeId) {
        let Some(from) = self.at_mut(id.0).fetch.take() else {
            return;
        };
        let snapshot = self.members[&from].written.snapshot.clone();
        let asked = Event::Asked {
            from: id,
            lent: None,
        };
        self.step(from, asked);
        if snapshot.len() > self.members[&id].written.snapshot.len() {
            let last = last_of(&snapshot);
            let config = self.config_of(&snapshot);
            self.keep(id, snapshot, Event::Fetched { last, config });
        }
    }

    /// Gives a member a durable snapshot, and tells it of it.
    pub(crate) fn keep(&mut self, id: NodeId, snapshot: Vec<Term>, event: Event) {
        let member = self.members.get_mut(&id).unwrap();
        let staged = member.staged.iter_mut().map(|(_, disk)| disk);
        for disk in staged.chain([&mut member.written, &mut member.durable]) {
            disk.snapshot.clone_from(&snapshot);
        }
        self.step(id, event);
    }

    /// Lets a member's timer fire.
    pub(crate) fn tick(&mut self, id: u64) {
        self.now = self.now.max(self.at(id).raft.deadline());
        self.step(NodeId(id), Event::Tick);
    }

    fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.cut.contains(&(from.min(to), from.max(to))) || self.cut_one_way.contains(&(from, to))
    }

    /// Lets time pass: timers fire when they are due, and every message arrives at once.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.now.after(span);
        self.settle();
        loop {
            let deadlines = self.members.iter().map(|(id, m)| (m.raft.deadline(), *id));
            let (due, id) = deadlines.min().unwrap();
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            self.step(id, Event::Tick);
            self.settle();
        }
        self.now = end;
    }

    /// Who leads, in ascending order; a leader of the past may believe that it still does.
    pub(crate) fn leaders(&self) -> Vec<u64> {
        let leads = |member: &Member| member.status().role == RoleName::Leader;
        let leaders = self.members.iter().filter(|(_, member)| leads(member));
        leaders.map(|(id, _)| id.0).collect()
    }

    /// Cuts a member off from all others.
    pub(crate) fn isolate(&mut self, id: u64) {
        let id = NodeId(id);
        let others = self.members.keys().filter(|other| **other != id);
        self.cut
            .extend(others.map(|other| (id.min(*other), id.max(*other))));
    }

    /// Hands over one message, unless it is lost on the way.
    pub(crate) fn deliver(&mut self, (from, to, message): (NodeId, NodeId, Message)) {
        if self.is_cut(from, to) {
            self.story.push(Happened::Lost(from, to, message));
        } else {
            self.story
                .push(Happened::Delivered(from, to, message.clone()));
            self.delivered += 1;
            self.seen.push((from, to, message.clone()));
            let configs = self.configs_in(&message);
            let event = Event::Received {
                from,
                message,
                configs,
            };
            self.step(to, event);
        }
    }

    /// Hands over messages until there are none.
    pub(crate) fn settle(&mut self) {
        let end = self.delivered + 100_000;
        while let Some(message) = self.wire.pop_front() {
            self.deliver(message);
            assert!(self.delivered < end, "messages without end");
        }
    }

    /// Makes `id` the leader, and lets it commit what it can.
    pub(crate) fn elect(&mut self, id: u64) {
        // Long enough that nobody stands by an earlier leader.
        self.now = self.now.after(config().election_timeout);
        self.tick(id);
        self.settle();
        assert_eq!(
            self.at(id).status().role,
            RoleName::Leader,
            "node {id} was not elected"
        );
    }

    /// Asks a member to change the members.
    pub(crate) fn change(&mut self, id: u64, to: &Roster) {
        self.step(NodeId(id), Event::Change { to: to.clone() });
    }

    pub(crate) fn propose(&mut self, id: u64, count: u64) {
        self.propose_bytes(id, count, 0);
    }

    /// Entries that take so many bytes together.
    pub(crate) fn propose_bytes(&mut self, id: u64, count: u64, bytes: u64) {
        let prev = self.at(id).raft.pointers().last.index;
        self.step(NodeId(id), Event::Propose { count });
        let raft = &mut self.at_mut(id).raft;
        raft.weigh(prev, raft.pointers().last.index, bytes);
    }

    /// The terms in a member's log.
    pub(crate) fn terms(&self, id: u64) -> Vec<u64> {
        self.at(id)
            .written
            .terms
            .iter()
            .map(|term| term.0)
            .collect()
    }

    /// Restarts a member with what its disk has.
    pub(crate) fn crash(&mut self, id: NodeId) {
        let mut disk = self.members[&id].durable.clone();
        disk.follow();
        self.start(id, disk);
    }
}

/// The terms of new entries: the leader's own, or those the message names.
fn append_terms(disk: &mut Disk, persist: &Persist, message: Option<&Message>) {
    let Some(new) = &persist.entries else { return };
    for index in new.range.prev.index.0 + 1..=new.range.last.index.0 {
        let named = message.and_then(|message| match &message.body {
            Body::Append { runs, .. } => {
                let before = runs.partition_point(|run| run.first.0 <= index);
                before.checked_sub(1).map(|at| runs[at].term)
            }
            _ => None,
        });
        disk.terms.push(named.unwrap_or(persist.hard_state.term));
    }
    assert_eq!(
        disk.last(),
        new.range.last,
        "the entries are not those of the range"
    );
}
