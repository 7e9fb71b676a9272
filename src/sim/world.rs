//! The world: nodes, disks, clocks and a network, one event after another.

use std::any::Any;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::birth::{Watch, bootstrap, watch};
use super::clients::{Clients, Word};
use super::clock::Clock;
use super::disk::SimDisk;
use super::faults::{Planned, Timeline};
use super::inject::Flapping;
use super::mail::Incoming;
use super::network::Network;
use super::operator::Operator;
use super::process::{Cargo, Process};
use super::snapshots::{Plight, Reference};
use super::trace::What;
use super::violation::{Property, Violated, Violation};
use super::{Outcome, Rng, Scenario, Workload};
use crate::config::Config;
use crate::error::OptionError;
use crate::raft::event::RoleName;
use crate::state_machine::StateMachine;
use crate::types::{LogIndex, NodeId, Term, Time};

/// What the reply to a workload's proposal is.
pub(super) type Reply<W> = <<W as Workload>::Machine as StateMachine>::Reply;

/// Proposals and reads that are open at most, so that a cluster without a leader is not swamped.
const MAX_OPEN: u64 = 400;
/// Within how many election timeouts a cluster that nothing disturbs any more must acknowledge something new.
/// Before that a new leader may have to send what was left uncommitted, in some scenarios one entry at a time.
const LEADER_TIMEOUTS: u64 = 40;
/// Within how many all that is open must have ended, and every node have caught up.
const CALM_TIMEOUTS: u64 = 60;
/// What it takes at most to bring one append to a member and hear that it is on its disk, in microseconds. A
/// member with an empty disk, which a quorum may need, lacks many, in some scenarios of one entry each.
const ROUND_TRIP: u64 = 2_000;

/// One node: its disk and clock, and the process that runs on them, if one does.
pub(super) struct Node<M> {
    pub(super) disk: SimDisk,
    pub(super) clock: Clock,
    pub(super) process: Option<Process<M>>,
    /// Counts its lives: what was to happen in one does not happen in the next.
    pub(super) life: u64,
    pub(super) hung_until: u64,
    pub(super) disk_hung_until: u64,
    pub(super) slow_until: u64,
    /// How much slower the disk is while it is slow.
    pub(super) slowness: u64,
    pub(super) is_full: bool,
    /// Its disk failed, or was told to: its process may stop with an error.
    pub(super) is_excused: bool,
    /// A bit of its log was turned.
    pub(super) is_damaged: bool,
    /// It found out, and does not come back.
    pub(super) is_out: bool,
    /// How the process ends in the middle of its next sync.
    pub(super) doomed: Option<super::inject::Doom>,
    /// When another node last lost its connection with it, and it was well.
    pub(super) broken: Option<u64>,
    /// What happens to the next snapshot that it writes or fetches.
    pub(super) plight: Option<Plight>,
}

/// Something to come.
pub(super) enum Event {
    Client,
    Handle(usize, u64),
    Tick(usize, u64),
    BeginSync(usize, u64),
    EndSync(usize, u64),
    Transmit(usize, u64),
    Apply(usize, u64),
    Rest(usize, u64),
    Keep(usize, u64),
    Kept(usize, u64),
    Deliver(usize, Box<Incoming>),
    Lost(usize, NodeId),
    Carry(usize, NodeId, Cargo),
    Start(usize, u64),
    Fault(Planned),
    Heal(Vec<(usize, usize)>),
    Flap(Box<Flapping>),
    Room(usize),
}

struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The heap gives its greatest: the earliest is that, and of two at one time the one that was scheduled
    /// first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

pub(super) struct World<'a, W: Workload> {
    pub(super) scenario: &'a Scenario,
    pub(super) config: Config,
    seed: u64,
    pub(super) now: u64,
    heap: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node<W::Machine>>,
    pub(super) network: Network,
    pub(super) watch: Watch,
    timeline: Timeline,
    /// The numbers of the faults that happened.
    pub(super) happened: Vec<u64>,
    pub(super) clients: Clients,
    pub(super) operator: Operator,
    pub(super) workload: W,
    pub(super) replies: Vec<Option<Reply<W>>>,
    pub(super) reference: Reference<W>,
    /// Whom clients take for the leader.
    believed: usize,
    /// A bit of some snapshot was turned, and others may have fetched it.
    pub(super) was_flipped: bool,
    /// When the process ended that led, until another leader is elected; and how many were elected before.
    pub(super) leaderless: Option<(u64, u64)>,
    /// How long each such time was.
    failovers: Vec<u64>,
    /// Faults are over: when they ended.
    calm: Option<u64>,
    /// The last committed entry when faults ended, and when the first later one was acknowledged.
    last_disturbed: LogIndex,
    proven: Option<u64>,
}

impl<'a, W: Workload> World<'a, W> {
    /// # Errors
    /// An option out of its bounds.
    pub(super) fn new(scenario: &'a Scenario, seed: u64, workload: W) -> Result<Self, OptionError> {
        let config = Config::try_from(scenario.options.clone())?;
        let mut rng = Rng::new(seed);
        let count = scenario.nodes + scenario.spares;
        let timeout = timeout_of(&config);
        let network = Network::new(count, rng.next_u64(), scenario.faults, 4 * timeout);
        let timeline = Timeline::new(&scenario.faults, rng.next_u64());
        let node = |_| Node {
            disk: SimDisk::new(rng.next_u64()),
            clock: Clock::new(1_000_000 + rng.below(1_000_000)),
            process: None,
            life: 0,
            hung_until: 0,
            disk_hung_until: 0,
            slow_until: 0,
            slowness: 1,
            is_full: false,
            is_excused: false,
            is_damaged: false,
            is_out: false,
            doomed: None,
            broken: None,
            plight: None,
        };
        let nodes = (0..count).map(node).collect();
        Ok(Self {
            scenario,
            config,
            seed,
            now: 0,
            heap: BinaryHeap::new(),
            scheduled: 0,
            rng,
            nodes,
            network,
            watch: watch(scenario.nodes, count),
            timeline,
            happened: Vec::new(),
            clients: Clients::default(),
            operator: Operator::default(),
            reference: Reference::new(&workload),
            workload,
            replies: Vec::new(),
            believed: 0,
            was_flipped: false,
            leaderless: None,
            failovers: Vec::new(),
            calm: None,
            last_disturbed: LogIndex::ZERO,
            proven: None,
        })
    }

    /// The least election timeout, in microseconds.
    pub(super) fn timeout(&self) -> u64 {
        timeout_of(&self.config)
    }

    /// Runs until the steps are done, and on without faults until all is well; or until something is not.
    pub(super) fn run(mut self) -> Outcome {
        // A panic is told like any other violation, and its seed with it.
        let lived = catch_unwind(AssertUnwindSafe(|| self.live()));
        let violated = match lived {
            Ok(lived) => lived.err(),
            Err(panic) => Some(Property::Panic.violated(text_of(&*panic))),
        };
        let (checker, trace) = (&self.watch.checker, &self.watch.trace);
        Outcome {
            seed: self.seed,
            steps: trace.step,
            trace_hash: trace.hash(),
            faults: self.happened,
            tally: self.clients.tally(),
            elections: checker.elections(),
            committed: checker.last_committed().0,
            gathered: self.watch.gathered,
            changes: self.operator.changes,
            handovers: self.operator.handovers,
            snapshots: checker.snapshots().0,
            installs: checker.snapshots().1,
            failovers: self.failovers,
            recovery: self.proven.zip(self.calm).map(|(then, since)| then - since),
            violation: violated.map(|Violated { property, what }| Violation {
                step: trace.step,
                property,
                what,
                trace: trace.last_lines(),
            }),
        }
    }

    fn live(&mut self) -> Result<(), Violated> {
        for node in 0..self.scenario.nodes {
            let birth = self.birth(node);
            let made = bootstrap(&self.nodes[node].disk, &birth);
            made.map_err(|error| Property::Recovery.violated(error.to_string()))?;
            self.schedule(0, Event::Start(node, 0));
        }
        self.schedule(0, Event::Client);
        self.plan_fault();
        while self.watch.trace.step < self.scenario.steps {
            self.next()?;
        }
        self.quiet()?;
        if self.is_hopeless() {
            return Ok(());
        }
        let appends = self.watch.checker.lag() / self.config.max_append_entries;
        let since = self.now + appends * ROUND_TRIP;
        while !self.is_well() {
            self.next()?;
            let timeouts = self.now.saturating_sub(since) / self.timeout();
            if timeouts >= CALM_TIMEOUTS || (timeouts >= LEADER_TIMEOUTS && self.proven.is_none()) {
                // One whose log is damaged may just have caught up, and have become a voter since.
                if self.is_hopeless() {
                    return Ok(());
                }
                return Err(Property::Progress.violated(self.complaint(timeouts)));
            }
        }
        self.clients.finish(self.watch.checker.last_committed())?;
        Ok(())
    }

    pub(super) fn schedule(&mut self, wait: u64, event: Event) {
        self.schedule_at(self.now + wait, event);
    }

    pub(super) fn schedule_at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.heap.push(Scheduled {
            at,
            number: self.scheduled,
            event,
        });
    }

    pub(super) fn draw(&mut self, below: u64) -> u64 {
        self.rng.below(below)
    }

    /// Lets the next thing happen.
    fn next(&mut self) -> Result<(), Violated> {
        let Some(Scheduled { at, event, .. }) = self.heap.pop() else {
            return Err(Property::Progress.violated("nothing is left to happen"));
        };
        self.now = at;
        self.watch.trace.now = at;
        let event = match self.postponed(&event) {
            Some(until) => {
                self.schedule_at(until, event);
                return Ok(());
            }
            None => event,
        };
        self.watch.trace.step += 1;
        self.happen(event)?;
        if let Some((since, before)) = self.leaderless
            && self.watch.checker.elections() > before
        {
            self.failovers.push(self.now - since);
            self.leaderless = None;
        }
        self.hear_orders()?;
        self.hear()
    }

    /// Until when something cannot happen, because who does it is hung.
    fn postponed(&self, event: &Event) -> Option<u64> {
        let until = match *event {
            Event::EndSync(node, _) | Event::Kept(node, _) => {
                let node = &self.nodes[node];
                node.hung_until.max(node.disk_hung_until)
            }
            Event::Handle(node, _)
            | Event::Tick(node, _)
            | Event::BeginSync(node, _)
            | Event::Transmit(node, _)
            | Event::Apply(node, _)
            | Event::Keep(node, _)
            | Event::Rest(node, _) => self.nodes[node].hung_until,
            _ => 0,
        };
        (until > self.now).then_some(until)
    }

    fn happen(&mut self, event: Event) -> Result<(), Violated> {
        match event {
            Event::Client => self.ask(),
            Event::Handle(node, life) => self.handle(node, life)?,
            Event::Tick(node, life) => self.tick(node, life)?,
            Event::BeginSync(node, life) => self.begin_sync(node, life)?,
            Event::EndSync(node, life) => self.end_sync(node, life)?,
            Event::Transmit(node, life) => self.transmit(node, life),
            Event::Apply(node, life) => self.apply(node, life)?,
            Event::Rest(node, life) => self.rest(node, life),
            Event::Keep(node, life) => self.keep(node, life)?,
            Event::Kept(node, life) => self.kept(node, life),
            Event::Carry(node, from, cargo) => self.carry(node, from, cargo),
            Event::Deliver(node, incoming) => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.mail.incoming.push(*incoming);
                    self.see_to(node);
                }
            }
            Event::Lost(node, from) => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.mail.lost.push(from);
                    self.see_to(node);
                }
            }
            Event::Start(node, life) => self.start(node, life)?,
            Event::Fault(planned) => {
                self.plan_fault();
                if self.calm.is_none() && !self.scenario.without.contains(&planned.number) {
                    self.inject(planned)?;
                }
            }
            Event::Heal(links) => self.network.heal(&links),
            Event::Flap(flapping) => self.flap(*flapping),
            Event::Room(node) => {
                self.nodes[node].is_full = false;
                self.nodes[node].disk.make_room();
            }
        }
        Ok(())
    }

    fn plan_fault(&mut self) {
        if self.calm.is_none()
            && let Some(planned) = self.timeline.next()
        {
            self.schedule_at(planned.at.max(self.now), Event::Fault(planned));
        }
    }

    /// Clients ask something of somebody.
    fn ask(&mut self) {
        let wait = 1 + self.rng.below(2 * self.scenario.pause);
        self.schedule(wait, Event::Client);
        if self.proven.is_some() || self.clients.open() >= MAX_OPEN {
            return;
        }
        let reads = self.rng.chance(25);
        // Mostly of whom they take for the leader; some know better, some do not care. Anybody can
        // be read from, and who was deposed and leads on is put to the test.
        let anybody = index(self.rng.below(self.nodes.len() as u64));
        let node = match self.rng.below(10) {
            0..3 if reads => anybody,
            3..6 if reads => self.leaders().min().map_or(anybody, |(_, at)| at),
            0..6 => self.believed,
            6..8 => self.leader().unwrap_or(anybody),
            _ => anybody,
        };
        let Some(process) = &mut self.nodes[node].process else {
            self.believed = anybody;
            return;
        };
        if reads {
            let read = self.clients.read();
            let what = What::Asked(read.number());
            self.watch.trace.add(Some(id_of(node)), what);
            process.mail.reads.push(read);
        } else {
            let most = if self.rng.chance(90) { 4 } else { 30 };
            for _ in 0..1 + self.rng.below(most) {
                let payload = self.workload.proposal(&mut self.rng);
                process.gathering.push(self.clients.propose(payload));
            }
        }
        self.see_to(node);
    }

    /// Clients hear what nodes have told them.
    fn hear(&mut self) -> Result<(), Violated> {
        for word in self.clients.words() {
            let what = match word {
                Word::Applied(number, index) => What::Acknowledged(number, index),
                Word::Refused(number, leader) => {
                    let anybody = self.rng.below(self.nodes.len() as u64);
                    self.believed = leader.map_or(index(anybody), index_of);
                    What::Refused(number)
                }
                Word::Unknown(number) => What::Unknown(number),
                Word::Saw(number, index) => What::Saw(number, index),
                Word::Unread(number) => What::Unread(number),
            };
            self.watch.trace.add(None, what);
            self.clients.hear(word)?;
            if let Word::Applied(number, at) = word {
                if self.calm.is_some() && at > self.last_disturbed {
                    self.proven.get_or_insert(self.now);
                }
                let payload = self.clients.payload(number);
                let reply = self.replies.get(index(at.0)).and_then(Option::as_ref);
                if let Some(reply) = reply {
                    let heard = self.workload.acknowledged(&payload, reply);
                    heard.map_err(|what| Property::Workload.violated(what))?;
                }
            }
        }
        Ok(())
    }

    /// Nothing fails any more, and whoever is not damaged comes back.
    fn quiet(&mut self) -> Result<(), Violated> {
        self.watch.trace.add(None, What::Calm);
        self.calm = Some(self.now);
        self.last_disturbed = self.watch.checker.last_committed();
        self.network.calm();
        self.watch.checker.calm();
        for node in 0..self.nodes.len() {
            let now = self.now;
            let at = &mut self.nodes[node];
            (at.hung_until, at.disk_hung_until, at.slow_until) = (now, now, now);
            (at.is_full, at.doomed, at.plight) = (false, None, None);
            at.disk.make_room();
            at.disk.spare();
            at.clock.mend(now);
            if at.is_damaged {
                // Whether it found out or not, it is not to be counted on.
                at.is_out = true;
                self.end(node, "its log is damaged", super::inject::Left::All);
            }
            let (life, lives) = (self.nodes[node].life, self.nodes[node].process.is_some());
            if !lives {
                self.schedule(0, Event::Start(node, life));
            }
            self.see_to(node);
        }
        self.hear()
    }

    /// Whether something new was acknowledged since faults ended, everything open has ended, and all members
    /// have applied all there is.
    fn is_well(&self) -> bool {
        let last = self.watch.checker.last_committed();
        let members = self.watch.checker.members().ids();
        let members = members.into_iter().map(|id| &self.nodes[index_of(id)]);
        let mut members = members.filter(|node| !node.is_out);
        self.clients.open() == 0
            && self.proven.is_some()
            && self.has_settled()
            && members.all(|node| {
                let applied = node.process.as_ref().map(Process::applied);
                applied == Some(last)
            })
    }

    fn complaint(&self, timeouts: u64) -> String {
        let last = self.watch.checker.last_committed();
        let node = |(at, node): (usize, &Node<W::Machine>)| {
            let id = id_of(at);
            match &node.process {
                None if node.is_out => format!("node {id} is damaged"),
                None => format!("node {id} is down"),
                Some(process) => format!(
                    "node {id} is {} and has applied up to {}",
                    role(process.status().role),
                    process.applied()
                ),
            }
        };
        let nodes: Vec<_> = self.nodes.iter().enumerate().map(node).collect();
        format!(
            "{timeouts} election timeouts after the last fault {} proposals and reads are open, entries \
             up to {last} are committed; {}",
            self.clients.open(),
            nodes.join("; ")
        )
    }

    /// The node that leads the latest term, as far as one does.
    pub(super) fn leader(&self) -> Option<usize> {
        self.leaders().max().map(|(_, at)| at)
    }

    /// All that believe to lead, with their terms.
    fn leaders(&self) -> impl Iterator<Item = (Term, usize)> {
        let status = |node: &Node<W::Machine>| node.process.as_ref().map(Process::status);
        let leads = move |node: &Node<W::Machine>| {
            status(node).filter(|status| status.role == RoleName::Leader)
        };
        let leaders = self.nodes.iter().enumerate();
        leaders.filter_map(move |(at, node)| Some((leads(node)?.term, at)))
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("something that is no text").to_owned()
}

const fn role(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "a follower",
        RoleName::PreCandidate | RoleName::Candidate => "a candidate",
        RoleName::Leader => "the leader",
    }
}

fn timeout_of(config: &Config) -> u64 {
    Time::default().after(config.election_timeout).0
}

pub(super) const fn id_of(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

pub(super) fn index_of(id: NodeId) -> usize {
    index(id.0.saturating_sub(1))
}

pub(super) fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
