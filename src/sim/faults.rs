//! What goes wrong in the world, how often, and when.

use std::fmt;

use super::Rng;

/// How often each thing goes wrong. The first five are chances in a thousand, of a message, and of the word that a
/// process has ended; the others
/// happen so often in ten simulated seconds, all nodes together, on average. The last ones are no faults, but
/// what those who run a cluster ask of it.
///
/// How long a fault lasts, whom it hits and what it leaves is drawn as it comes; half of those that hit one
/// node look for the leader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Faults {
    /// A message is lost.
    pub loss: u32,
    /// A message arrives twice.
    pub duplication: u32,
    /// A message does not wait for those before it.
    pub reordering: u32,
    /// A message takes up to some election timeouts.
    pub delay: u32,
    /// A node is not told that the connection has ended on which it heard another one, whose process did; that a
    /// power cut ends it, nobody is ever told.
    pub untold_ends: u32,
    /// Two groups of nodes do not hear each other.
    pub partitions: u32,
    /// A node hears the others and is not heard, or the other way round.
    pub one_way_cuts: u32,
    /// Two nodes do not hear each other, and all others hear both.
    pub partial_cuts: u32,
    /// A link fails and comes back, again and again.
    pub flaps: u32,
    /// The connection on which a node hears another breaks, and both are well: it is told that it has lost the other
    /// one. No two lose the same node so within an election timeout.
    pub broken_connections: u32,
    /// All connections on which others hear a node break at once, and it is well.
    pub resets: u32,
    /// A process ends, in order, at any moment or in the middle of a sync, and is started again.
    pub crashes: u32,
    /// A node, or every node at once, loses power, at any moment or in the middle of a sync; of what was
    /// not synced each sector and each name may survive.
    pub power_cuts: u32,
    /// A write or sync of the log fails.
    pub sync_errors: u32,
    /// A read of the log fails.
    pub read_errors: u32,
    /// A bit of the log is turned where the log says of itself that it is durable. A node whose log is
    /// damaged does not come back once it found out; never is a majority damaged.
    pub bit_flips: u32,
    /// A disk has no room for a while.
    pub full_disks: u32,
    /// A disk is slow for a while.
    pub slow_disks: u32,
    /// A disk does not answer for a while.
    pub hung_disks: u32,
    /// A process does nothing for a while, and messages wait for it.
    pub hung_nodes: u32,
    /// A clock runs at another rate, from half to double; with lease reads within their bound.
    pub clock_rates: u32,
    /// A clock jumps, ahead or back; with lease reads none does.
    pub clock_jumps: u32,
    /// A leader is asked to hand leadership over.
    pub transfers: u32,
    /// A node that is no voter is to be one: at once, or by itself once it has caught up. It may be new, with an
    /// empty disk, or have been removed before.
    pub additions: u32,
    /// A node is to be a learner, or a learner to be a voter.
    pub learners: u32,
    /// A member is to be removed, also one that leads. Its process goes on.
    pub removals: u32,
    /// Several members are to change at once.
    pub joint_changes: u32,
    /// A node takes a snapshot though none is due.
    pub snapshots: u32,
    /// A process ends, or loses power, in the middle of writing its next snapshot, or one that it fetches.
    pub snapshot_cuts: u32,
    /// A call to the disk fails while the next snapshot is written, or one that is fetched.
    pub snapshot_errors: u32,
    /// A bit of a snapshot is turned, as with [`Faults::bit_flips`]; or of one that is being fetched, which damages
    /// nobody.
    pub snapshot_flips: u32,
}

/// A fault that comes at a time of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Kind {
    /// See [`Faults::partitions`].
    Partition,
    /// See [`Faults::one_way_cuts`].
    OneWayCut,
    /// See [`Faults::partial_cuts`].
    PartialCut,
    /// See [`Faults::flaps`].
    Flap,
    /// See [`Faults::broken_connections`].
    BrokenConnection,
    /// See [`Faults::resets`].
    Reset,
    /// See [`Faults::crashes`].
    Crash,
    /// See [`Faults::power_cuts`].
    PowerCut,
    /// See [`Faults::sync_errors`].
    SyncError,
    /// See [`Faults::read_errors`].
    ReadError,
    /// See [`Faults::bit_flips`].
    BitFlip,
    /// See [`Faults::full_disks`].
    FullDisk,
    /// See [`Faults::slow_disks`].
    SlowDisk,
    /// See [`Faults::hung_disks`].
    HungDisk,
    /// See [`Faults::hung_nodes`].
    HungNode,
    /// See [`Faults::clock_rates`].
    ClockRate,
    /// See [`Faults::clock_jumps`].
    ClockJump,
    /// See [`Faults::transfers`].
    Transfer,
    /// See [`Faults::additions`].
    Addition,
    /// See [`Faults::learners`].
    Learner,
    /// See [`Faults::removals`].
    Removal,
    /// See [`Faults::joint_changes`].
    JointChange,
    /// See [`Faults::snapshots`].
    Snapshot,
    /// See [`Faults::snapshot_cuts`].
    SnapshotCut,
    /// See [`Faults::snapshot_errors`].
    SnapshotError,
    /// See [`Faults::snapshot_flips`].
    SnapshotFlip,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Partition => "partition",
            Self::OneWayCut => "one-way cut",
            Self::PartialCut => "partial cut",
            Self::Flap => "flapping link",
            Self::BrokenConnection => "broken connection",
            Self::Reset => "reset of all connections",
            Self::Crash => "crash",
            Self::PowerCut => "power cut",
            Self::SyncError => "sync error",
            Self::ReadError => "read error",
            Self::BitFlip => "bit flip",
            Self::FullDisk => "full disk",
            Self::SlowDisk => "slow disk",
            Self::HungDisk => "hung disk",
            Self::HungNode => "hung node",
            Self::ClockRate => "clock rate",
            Self::ClockJump => "clock jump",
            Self::Transfer => "transfer",
            Self::Addition => "addition",
            Self::Learner => "learner",
            Self::Removal => "removal",
            Self::JointChange => "joint change",
            Self::Snapshot => "snapshot",
            Self::SnapshotCut => "cut in a snapshot",
            Self::SnapshotError => "snapshot error",
            Self::SnapshotFlip => "bit flip in a snapshot",
        })
    }
}

impl Default for Faults {
    /// All of them, at rates at which a cluster still gets something done.
    fn default() -> Self {
        Self {
            loss: 10,
            duplication: 10,
            reordering: 50,
            delay: 10,
            untold_ends: 200,
            partitions: 30,
            one_way_cuts: 15,
            partial_cuts: 15,
            flaps: 8,
            broken_connections: 30,
            resets: 10,
            crashes: 50,
            power_cuts: 50,
            sync_errors: 10,
            read_errors: 10,
            bit_flips: 3,
            full_disks: 6,
            slow_disks: 15,
            hung_disks: 15,
            hung_nodes: 20,
            clock_rates: 10,
            clock_jumps: 15,
            transfers: 20,
            additions: 60,
            learners: 30,
            removals: 40,
            joint_changes: 40,
            snapshots: 60,
            snapshot_cuts: 25,
            snapshot_errors: 15,
            snapshot_flips: 4,
        }
    }
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            loss: 0,
            duplication: 0,
            reordering: 0,
            delay: 0,
            untold_ends: 0,
            partitions: 0,
            one_way_cuts: 0,
            partial_cuts: 0,
            flaps: 0,
            broken_connections: 0,
            resets: 0,
            crashes: 0,
            power_cuts: 0,
            sync_errors: 0,
            read_errors: 0,
            bit_flips: 0,
            full_disks: 0,
            slow_disks: 0,
            hung_disks: 0,
            hung_nodes: 0,
            clock_rates: 0,
            clock_jumps: 0,
            transfers: 0,
            additions: 0,
            learners: 0,
            removals: 0,
            joint_changes: 0,
            snapshots: 0,
            snapshot_cuts: 0,
            snapshot_errors: 0,
            snapshot_flips: 0,
        }
    }

    /// A mix of these for one seed: some are left out, others come up to eight times as often. What all
    /// faults together would drown shows where some are missing.
    #[must_use]
    pub fn mixed(&self, rng: &mut Rng) -> Self {
        let mut mix = *self;
        for rate in mix.rates_mut() {
            *rate = match rng.below(16) {
                0..6 => 0,
                6..11 => *rate,
                11..14 => *rate * 2,
                14 => *rate * 4,
                _ => *rate * 8,
            };
        }
        mix
    }

    /// The chances of a message, for one who makes them smaller.
    pub(super) const fn of_messages_mut(&mut self) -> [&mut u32; 4] {
        [
            &mut self.loss,
            &mut self.duplication,
            &mut self.reordering,
            &mut self.delay,
        ]
    }

    const fn rates_mut(&mut self) -> [&mut u32; 31] {
        [
            &mut self.loss,
            &mut self.duplication,
            &mut self.reordering,
            &mut self.delay,
            &mut self.partitions,
            &mut self.one_way_cuts,
            &mut self.partial_cuts,
            &mut self.flaps,
            &mut self.crashes,
            &mut self.power_cuts,
            &mut self.sync_errors,
            &mut self.read_errors,
            &mut self.bit_flips,
            &mut self.full_disks,
            &mut self.slow_disks,
            &mut self.hung_disks,
            &mut self.hung_nodes,
            &mut self.clock_rates,
            &mut self.clock_jumps,
            &mut self.transfers,
            &mut self.additions,
            &mut self.learners,
            &mut self.removals,
            &mut self.joint_changes,
            &mut self.snapshots,
            &mut self.snapshot_cuts,
            &mut self.snapshot_errors,
            &mut self.snapshot_flips,
            &mut self.untold_ends,
            &mut self.broken_connections,
            &mut self.resets,
        ]
    }

    const fn timed(&self) -> [(Kind, u32); 26] {
        [
            (Kind::Partition, self.partitions),
            (Kind::OneWayCut, self.one_way_cuts),
            (Kind::PartialCut, self.partial_cuts),
            (Kind::Flap, self.flaps),
            (Kind::Crash, self.crashes),
            (Kind::PowerCut, self.power_cuts),
            (Kind::SyncError, self.sync_errors),
            (Kind::ReadError, self.read_errors),
            (Kind::BitFlip, self.bit_flips),
            (Kind::FullDisk, self.full_disks),
            (Kind::SlowDisk, self.slow_disks),
            (Kind::HungDisk, self.hung_disks),
            (Kind::HungNode, self.hung_nodes),
            (Kind::ClockRate, self.clock_rates),
            (Kind::ClockJump, self.clock_jumps),
            (Kind::Transfer, self.transfers),
            (Kind::Addition, self.additions),
            (Kind::Learner, self.learners),
            (Kind::Removal, self.removals),
            (Kind::JointChange, self.joint_changes),
            (Kind::Snapshot, self.snapshots),
            (Kind::SnapshotCut, self.snapshot_cuts),
            (Kind::SnapshotError, self.snapshot_errors),
            (Kind::SnapshotFlip, self.snapshot_flips),
            (Kind::BrokenConnection, self.broken_connections),
            (Kind::Reset, self.resets),
        ]
    }
}

/// One fault to come. Which it is, and when, follows from the seed alone, so one can be left out and the
/// others stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Planned {
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) kind: Kind,
    /// Decides all the rest.
    pub(super) draw: u64,
}

/// The faults to come, in order.
pub(super) struct Timeline {
    timed: [(Kind, u32); 26],
    rng: Rng,
    number: u64,
    at: u64,
}

impl Timeline {
    pub(super) const fn new(faults: &Faults, seed: u64) -> Self {
        Self {
            timed: faults.timed(),
            rng: Rng::new(seed),
            number: 0,
            at: 0,
        }
    }
}

impl Iterator for Timeline {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        let all: u64 = self.timed.iter().map(|(_, rate)| u64::from(*rate)).sum();
        if all == 0 {
            return None;
        }
        self.number += 1;
        self.at += 1 + self.rng.below(2 * 10_000_000 / all);
        let mut left = self.rng.below(all);
        let drawn = self.timed.iter().find(|(_, rate)| {
            let hit = left < u64::from(*rate);
            left = left.saturating_sub(u64::from(*rate));
            hit
        });
        let (kind, _) = *drawn?;
        Some(Planned {
            number: self.number,
            at: self.at,
            kind,
            draw: self.rng.next_u64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn each_fault_comes_about_as_often_as_its_rate_says() {
        let faults = Faults::default();
        let mut counts = BTreeMap::new();
        // A thousand seconds.
        let timeline = Timeline::new(&faults, 3);
        for planned in timeline.take_while(|planned| planned.at < 1_000_000_000) {
            *counts.entry(planned.kind).or_insert(0_u32) += 1;
        }
        for (kind, rate) in faults.timed() {
            let (count, wanted) = (counts[&kind], rate * 100);
            assert!(
                count > wanted / 2 && count < wanted * 3 / 2,
                "{kind}: {count} where {wanted} were wanted"
            );
        }
    }

    #[test]
    fn a_mix_leaves_out_some_faults_and_another_mix_others() {
        let mut rng = Rng::new(1);
        let mixes: Vec<_> = (0..20).map(|_| Faults::default().mixed(&mut rng)).collect();
        assert!(mixes.iter().any(|mix| mix.crashes == 0));
        assert!(mixes.iter().any(|mix| mix.crashes > 50));
        assert_eq!(Faults::none().mixed(&mut rng), Faults::none());
    }
}
