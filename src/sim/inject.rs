//! Carrying faults out.

use std::path::Path;
use std::sync::Arc;

use super::Rng;
use super::birth::{DIR, Watch};
use super::clock::TRUE_RATE;
use super::disk::{Moment, Op, SimDisk, Survival};
use super::faults::{Kind, Planned};
use super::process::Process;
use super::trace::What;
use super::violation::{Property, Violated};
use super::workload::Workload;
use super::world::{Event, World, id_of, index};
use crate::wal::open_read_only_on;

type Links = Vec<(usize, usize)>;

/// What an end leaves of what was not synced.
#[derive(Clone, Copy)]
pub(super) enum Left {
    /// All: only the process ended.
    All,
    /// What a power cut leaves.
    Cut(Survival),
}

/// How a process ends in the middle of its next sync.
pub(super) struct Doom {
    /// At which of the sync's calls to the disk.
    call: u64,
    moment: Moment,
    left: Left,
    why: &'static str,
    /// How long the node stays down.
    pause: u64,
}

impl Doom {
    /// At one of so many calls.
    pub(super) fn drawn(
        calls: u64,
        rng: &mut Rng,
        left: Left,
        why: &'static str,
        pause: u64,
    ) -> Self {
        let call = 1 + rng.below(calls);
        let moment = if rng.chance(50) {
            Moment::Before
        } else {
            Moment::After
        };
        Self {
            call,
            moment,
            left,
            why,
            pause,
        }
    }
}

/// A link that fails and comes back.
pub(super) struct Flapping {
    links: Links,
    period: u64,
    /// How often it changes yet. It is cut while that is odd.
    left: u64,
}

impl<W: Workload> World<'_, W> {
    pub(super) fn inject(&mut self, planned: Planned) -> Result<(), Violated> {
        let rng = &mut Rng::new(planned.draw);
        let node = self.pick(rng);
        self.happened.push(planned.number);
        let what = What::Fault(planned.number, planned.kind);
        self.watch.trace.add(Some(id_of(node)), what);
        let span = self.span(rng);
        match planned.kind {
            Kind::Partition | Kind::OneWayCut | Kind::PartialCut => {
                let links = self.links(planned.kind, node, rng);
                self.network.cut(&links);
                self.schedule(span, Event::Heal(links));
            }
            Kind::Flap => {
                let links = self.links(Kind::PartialCut, node, rng);
                let flapping = Flapping {
                    links,
                    period: 1 + self.timeout() / (1 + rng.below(8)),
                    left: 2 * (1 + rng.below(6)),
                };
                self.flap(flapping);
            }
            Kind::BrokenConnection => self.break_connection(node, rng),
            Kind::Reset => self.reset(node, rng),
            Kind::Crash => self.crash(node, rng),
            Kind::PowerCut => self.cut_power(node, rng),
            Kind::SyncError | Kind::ReadError => self.fail_disk(node, planned.kind, rng),
            Kind::BitFlip => self.turn_bit(node, rng),
            Kind::FullDisk => {
                self.nodes[node].is_full = true;
                self.nodes[node].is_excused = true;
                self.nodes[node].disk.fill_up();
                self.schedule(span, Event::Room(node));
            }
            Kind::SlowDisk => {
                self.nodes[node].slow_until = self.now + span;
                self.nodes[node].slowness = 4 + rng.below(60);
            }
            Kind::HungDisk => self.nodes[node].disk_hung_until = self.now + span,
            Kind::HungNode => self.nodes[node].hung_until = self.now + span,
            Kind::Transfer => self.hand_over(node, rng),
            Kind::Addition | Kind::Learner | Kind::Removal | Kind::JointChange => {
                self.change_members(planned.kind, node, rng);
            }
            Kind::Snapshot | Kind::SnapshotCut | Kind::SnapshotError | Kind::SnapshotFlip => {
                self.disturb_snapshots(node, planned.kind, rng);
            }
            Kind::ClockRate => {
                let rate = match self.config.lease_reads {
                    None => 500_000 + rng.below(1_500_000),
                    Some(bound) => TRUE_RATE + rng.below(u64::from(bound.drift_ppm) + 1),
                };
                self.nodes[node].clock.run_at(self.now, rate);
                self.see_to(node);
            }
            // Leases count on it that clocks only drift.
            Kind::ClockJump if self.config.lease_reads.is_some() => {}
            Kind::ClockJump => {
                let by = i64::try_from(self.draw_jump(rng)).unwrap_or(0);
                let by = if rng.chance(70) { by } else { -by / 4 };
                self.nodes[node].clock.jump(self.now, by);
                self.see_to(node);
            }
        }
        Ok(())
    }

    /// A node: the leader as often as not, if there is one.
    fn pick(&self, rng: &mut Rng) -> usize {
        let any = index(rng.below(self.nodes.len() as u64));
        let leader = rng.chance(50).then(|| self.leader()).flatten();
        leader.unwrap_or(any)
    }

    /// How long a fault lasts: mostly about an election timeout, sometimes many.
    fn span(&self, rng: &mut Rng) -> u64 {
        let most = if rng.chance(80) { 3 } else { 12 };
        1 + rng.below(most * self.timeout())
    }

    fn draw_jump(&self, rng: &mut Rng) -> u64 {
        1 + rng.below(4 * self.timeout())
    }

    /// The links that a fault cuts.
    fn links(&self, kind: Kind, node: usize, rng: &mut Rng) -> Links {
        let count = self.nodes.len();
        let others = (0..count).filter(|&other| other != node);
        match kind {
            Kind::Partition => {
                // The node is in the group that the bits name.
                let group = rng.next_u64() & !(1 << node);
                let inside = |at: usize| group >> at & 1 == 1;
                let pairs = (0..count).flat_map(|a| (0..count).map(move |b| (a, b)));
                pairs.filter(|&(a, b)| inside(a) != inside(b)).collect()
            }
            Kind::OneWayCut if rng.chance(50) => others.map(|other| (node, other)).collect(),
            Kind::OneWayCut => others.map(|other| (other, node)).collect(),
            _ => {
                let other = index(rng.below(count as u64));
                if other == node {
                    return Vec::new();
                }
                vec![(node, other), (other, node)]
            }
        }
    }

    pub(super) fn flap(&mut self, mut flapping: Flapping) {
        if flapping.left == 0 {
            return;
        }
        if flapping.left.is_multiple_of(2) {
            self.network.cut(&flapping.links);
        } else {
            self.network.heal(&flapping.links);
        }
        flapping.left -= 1;
        self.schedule(flapping.period, Event::Flap(Box::new(flapping)));
    }

    fn break_connection(&mut self, node: usize, rng: &mut Rng) {
        let (now, timeout) = (self.now, self.timeout());
        let other = index(rng.below(self.nodes.len() as u64));
        let broken = &mut self.nodes[node].broken;
        if other != node && broken.is_none_or(|at| now > at + timeout) {
            *broken = Some(now);
            self.schedule(0, Event::Lost(other, id_of(node)));
        }
    }

    /// Each of the others is told, sooner or later.
    fn reset(&mut self, node: usize, rng: &mut Rng) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let wait = rng.below(self.timeout() / 10);
            self.schedule(wait, Event::Lost(other, id_of(node)));
        }
    }

    /// The process that ran, whose end is to be seen to.
    fn take(&mut self, node: usize) -> Option<Process<W::Machine>> {
        if self.leader() == Some(node) {
            let elections = self.watch.checker.elections();
            self.leaderless = Some((self.now, elections));
        }
        self.nodes[node].process.take()
    }

    fn crash(&mut self, node: usize, rng: &mut Rng) {
        let pause = self.pause(rng);
        match rng.below(4) {
            0 => {
                if let Some(process) = self.take(node) {
                    process.close();
                    self.gone(node, "it was stopped", Left::All);
                    self.start_after(node, pause);
                }
            }
            1 => self.doom(node, rng, Left::All, "it crashed in a sync", pause),
            _ => {
                self.end(node, "it crashed", Left::All);
                self.start_after(node, pause);
            }
        }
    }

    fn cut_power(&mut self, node: usize, rng: &mut Rng) {
        let survival = match rng.below(8) {
            0 => Survival::None,
            1 => Survival::All,
            _ => Survival::Random(rng.next_u64()),
        };
        let left = Left::Cut(survival);
        match rng.below(8) {
            0 => {
                for node in 0..self.nodes.len() {
                    let pause = self.pause(rng);
                    self.end(node, "all power is off", left);
                    self.start_after(node, pause);
                }
            }
            1..5 => {
                let pause = self.pause(rng);
                self.doom(node, rng, left, "power went off in a sync", pause);
            }
            _ => {
                let pause = self.pause(rng);
                self.end(node, "power is off", left);
                self.start_after(node, pause);
            }
        }
    }

    /// How long a node stays down.
    pub(super) fn pause(&self, rng: &mut Rng) -> u64 {
        let most = if rng.chance(85) { 1 } else { 10 };
        1 + rng.below(most * self.timeout())
    }

    fn doom(&mut self, node: usize, rng: &mut Rng, left: Left, why: &'static str, pause: u64) {
        self.nodes[node].doomed = Some(Doom::drawn(4, rng, left, why, pause));
    }

    /// The process ends in the middle of what it does now. If it comes to its end before, nobody hears of that.
    pub(super) fn die_in(
        &mut self,
        node: usize,
        doom: &Doom,
        act: impl FnOnce(&mut Process<W::Machine>, &mut Watch),
    ) {
        let at = &mut self.nodes[node];
        at.disk.crash_at(at.disk.ops() + doom.call, doom.moment);
        if let Some(process) = &mut at.process {
            act(process, &mut self.watch);
        }
        self.end(node, doom.why, doom.left);
        self.start_after(node, doom.pause);
    }

    /// The process ends, if there is one, and the disk is left as it is found next.
    pub(super) fn end(&mut self, node: usize, why: &'static str, left: Left) {
        if self.take(node).is_some() {
            self.gone(node, why, left);
        } else if let Left::Cut(_) = left {
            self.leave(node, left);
        }
    }

    fn gone(&mut self, node: usize, why: &'static str, left: Left) {
        self.leave(node, left);
        self.nodes[node].life += 1;
        self.nodes[node].doomed = None;
        self.nodes[node].plight = None;
        self.nodes[node].hung_until = self.now;
        self.watch.checker.ended(node);
        self.watch.trace.add(Some(id_of(node)), What::Down(why));
        if let Left::All = left {
            for (at, to) in self.network.end(self.now, node) {
                self.schedule_at(at, Event::Lost(to, id_of(node)));
            }
        }
    }

    fn leave(&mut self, node: usize, left: Left) {
        let at = &mut self.nodes[node];
        at.disk = match left {
            Left::All => at.disk.kill(),
            Left::Cut(survival) => at.disk.power_cut(survival),
        };
        at.is_excused = at.is_full;
        if at.is_full {
            at.disk.fill_up();
        }
    }

    pub(super) fn start_after(&mut self, node: usize, pause: u64) {
        let life = self.nodes[node].life;
        self.schedule(pause, Event::Start(node, life));
    }

    /// A node stops with an error of its own: none does so unless its disk failed.
    pub(super) fn fail(&mut self, node: usize, reason: &str) -> Result<(), Violated> {
        self.watch.trace.add(Some(id_of(node)), What::Stopped);
        let at = &mut self.nodes[node];
        if !at.is_excused && !at.is_damaged {
            return Err(Property::Recovery.violated(format!(
                "node {} stops though its disk did not fail: {reason}",
                id_of(node)
            )));
        }
        // Healing is not simulated: who may have found damage stays down.
        at.is_out |= at.is_damaged;
        if let Some(process) = &mut at.process {
            process.refuse_mail();
        }
        self.end(node, "it failed", Left::All);
        let pause = 1 + self.draw(self.timeout());
        self.start_after(node, pause);
        Ok(())
    }

    fn fail_disk(&mut self, node: usize, kind: Kind, rng: &mut Rng) {
        let at = &mut self.nodes[node];
        let op = match kind {
            Kind::ReadError => Op::Read,
            _ if rng.chance(50) => Op::Sync,
            _ => Op::Write,
        };
        let nth = at.disk.count(op) + 1 + rng.below(3);
        let error = std::io::ErrorKind::Other;
        if op == Op::Read || rng.chance(50) {
            at.disk.fail(op, nth, error);
        } else {
            at.disk.fail_late(op, nth, error);
        }
        at.is_excused = true;
    }

    /// Whether one more node may be damaged: whatever configuration comes to count can decide without it.
    pub(super) fn may_damage(&self, node: usize) -> bool {
        let rosters = self.watch.checker.in_force();
        let mut rosters = rosters.iter();
        rosters.all(|roster| self.can_decide(roster, Some(node)))
    }

    /// Turns a bit where the log says of itself that it is durable, unless too many are damaged already.
    fn turn_bit(&mut self, node: usize, rng: &mut Rng) {
        let disk = &self.nodes[node].disk;
        if self.may_damage(node)
            && let Some((path, offset)) = fenced_byte(disk, rng)
            && turn(disk, &path, offset, rng)
        {
            self.nodes[node].is_damaged = true;
        }
    }
}

/// Turns a bit of this byte, if there is one.
pub(super) fn turn(disk: &SimDisk, path: &Path, offset: usize, rng: &mut Rng) -> bool {
    let bytes = disk.peek(path);
    let byte = bytes.and_then(|bytes| bytes.get(offset).copied());
    byte.is_some_and(|byte| {
        let turned = byte ^ (1 << rng.below(8));
        disk.poke(path, offset, &[turned]).is_ok()
    })
}

/// A place in a segment below its fence.
fn fenced_byte(disk: &SimDisk, rng: &mut Rng) -> Option<(std::path::PathBuf, usize)> {
    // A copy of the disk, so that no failure that is planned is used up.
    let log = open_read_only_on(Arc::new(disk.kill()), DIR).ok()?;
    let segments = log.segments();
    let segment = segments.get(index(rng.below(segments.len().max(1) as u64)))?;
    let offset = index(rng.below(segment.fenced.max(1)));
    Some((Path::new(DIR).join(&segment.file), offset))
}
