//! Snapshots in the world: when they are written, what goes wrong with them, and what they must hold.

use std::io::ErrorKind;
use std::path::Path;

use super::Rng;
use super::birth::SNAPSHOTS;
use super::disk::{Op, Survival};
use super::faults::Kind;
use super::inject::{Doom, Left, turn};
use super::life::alive;
use super::process::{Cargo, Kept};
use super::trace::What;
use super::violation::{Property, Violated};
use super::workload::Workload;
use super::world::{Event, World, id_of, index, index_of};
use crate::snapshot::{SnapshotError, Whole};
use crate::state_machine::StateMachine;
use crate::types::{Entry, LogIndex, NodeId};

/// How many calls to the disk a snapshot takes, about.
const CALLS: u64 = 9;

/// What happens to a snapshot while it is written.
pub(super) enum Plight {
    Doom(Doom),
    /// This call of a kind fails, counted from the first, late if it says so.
    Error(Op, u64, bool),
}

/// The state machine that applies what is committed as it comes, and nothing else.
pub(super) struct Reference<W: Workload> {
    machine: W::Machine,
    /// What the state comes to behind entries, ascending. None if the workload does not tell.
    digests: Option<Vec<(LogIndex, u64)>>,
}

impl<W: Workload> Reference<W> {
    pub(super) fn new(workload: &W) -> Self {
        let machine = workload.machine();
        let empty = workload.digest(&machine);
        let digests = empty.map(|digest| vec![(LogIndex::ZERO, digest)]);
        Self { machine, digests }
    }

    /// Applies the entry, unless it has.
    pub(super) fn apply(&mut self, workload: &W, entry: &Entry) {
        let Some(digests) = &mut self.digests else {
            return;
        };
        let at = entry.id.index;
        if digests.last().is_some_and(|(last, _)| *last < at) {
            self.machine.apply(std::slice::from_ref(entry));
            let digest = workload.digest(&self.machine);
            digests.extend(digest.map(|digest| (at, digest)));
        }
    }

    /// Whether this is the state behind the entry at `index`.
    fn is_state(&self, workload: &W, machine: &W::Machine, at: LogIndex) -> bool {
        let Some(digests) = &self.digests else {
            return true;
        };
        let upto = digests.partition_point(|(index, _)| *index <= at);
        let digest = digests[..upto].last().map(|(_, digest)| *digest);
        workload.digest(machine) == digest
    }
}

impl<W: Workload> World<'_, W> {
    /// The snapshot thread of a node does the next thing.
    pub(super) fn keep(&mut self, node: usize, life: u64) -> Result<(), Violated> {
        let now = self.nodes[node].clock.at(self.now);
        let state_first = self.rng.chance(50);
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        (process.due.keep, process.due.fetch) = (false, None);
        if !process.wants_keep() && process.fetch_due().is_none_or(|due| due > now) {
            self.see_to(node);
            return Ok(());
        }
        let error = match self.nodes[node].plight.take() {
            Some(Plight::Doom(doom)) => {
                self.die_in(node, &doom, |process, watch| {
                    drop(process.keep(now, state_first, watch));
                });
                return Ok(());
            }
            Some(Plight::Error(op, nth, late)) => Some((op, nth, late)),
            None => None,
        };
        let disk = &self.nodes[node].disk;
        let failed = disk.failed().len();
        if let Some((op, nth, late)) = error {
            let nth = disk.count(op) + nth;
            if late && op != Op::Read {
                disk.fail_late(op, nth, ErrorKind::Other);
            } else {
                disk.fail(op, nth, ErrorKind::Other);
            }
        }
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        let kept = process.keep(now, state_first, &mut self.watch);
        let at = &mut self.nodes[node];
        if error.is_some() && at.disk.failed().len() == failed {
            // It is yet to come, and may hit the log.
            at.is_excused = true;
        }
        match kept {
            Kept::Published(whole) => self.published(node, &whole)?,
            Kept::Failed(error) => self.unkept(node, &error)?,
            Kept::Known | Kept::Nothing => {
                self.see_to(node);
                if matches!(kept, Kept::Nothing) {
                    return Ok(());
                }
            }
        }
        let wait = self.sync_time(node);
        self.schedule(wait, Event::Kept(node, life));
        Ok(())
    }

    /// What it did has come to its end.
    pub(super) fn kept(&mut self, node: usize, life: u64) {
        if let Some(process) = alive(&mut self.nodes, node, life) {
            process.kept();
            self.see_to(node);
        }
    }

    fn published(&mut self, node: usize, whole: &Whole) -> Result<(), Violated> {
        let meta = whole.meta();
        self.watch
            .trace
            .add(Some(id_of(node)), What::Took(meta.last));
        let checker = &mut self.watch.checker;
        checker.published(node, meta.last, &meta.configuration)?;
        let mut machine = self.workload.machine();
        let restored = whole.restore(|format, from| machine.restore(format, from));
        match restored {
            Ok(()) => self.is_state(node, &machine, meta.last.index),
            Err(SnapshotError::State(error)) => Err(Property::Workload.violated(format!(
                "the state machine does not restore what it wrote: {error}"
            ))),
            // A disk that fails is not what is looked at here.
            Err(_) => Ok(()),
        }
    }

    /// No snapshot came of it. That it was damaged may only be if somebody damaged one.
    fn unkept(&mut self, node: usize, error: &SnapshotError) -> Result<(), Violated> {
        self.watch.trace.add(Some(id_of(node)), What::Unkept);
        match error {
            SnapshotError::Io(_) => Ok(()),
            SnapshotError::Damaged { .. } | SnapshotError::NotASnapshot { .. }
                if self.was_flipped =>
            {
                Ok(())
            }
            error => Err(Property::Snapshot.violated(format!(
                "node {} gives up a snapshot that nobody damaged: {error}",
                id_of(node)
            ))),
        }
    }

    /// Holds a state against what the entries up to `last` lead to.
    fn is_state(&self, node: usize, machine: &W::Machine, last: LogIndex) -> Result<(), Violated> {
        if self.reference.is_state(&self.workload, machine, last) {
            return Ok(());
        }
        Err(Property::SameState.violated(format!(
            "node {} has a state that is not what the entries up to {last} lead to",
            id_of(node)
        )))
    }

    /// Holds a node's state against what its entries lead to.
    pub(super) fn compare_state(&self, node: usize) -> Result<(), Violated> {
        let process = self.nodes[node].process.as_ref();
        process.map_or(Ok(()), |process| {
            self.is_state(node, &process.machine, process.applied())
        })
    }

    /// A process begins with this snapshot.
    pub(super) fn began_with(
        &mut self,
        node: usize,
        whole: Option<&Whole>,
    ) -> Result<(), Violated> {
        let meta = whole.map(Whole::meta);
        if let Some(meta) = meta {
            let what = What::Restored(meta.last);
            self.watch.trace.add(Some(id_of(node)), what);
        }
        let snapshot = meta.map(|meta| (meta.last, &meta.configuration));
        self.watch.checker.began_with(node, snapshot)?;
        self.compare_state(node)
    }

    pub(super) fn transmit_cargo(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else {
            return;
        };
        let (network, trace, now) = (&mut self.network, &mut self.watch.trace, self.now);
        let from = id_of(node);
        let mut sent = Vec::new();
        process.run_errands(|to, cargo| {
            let arrivals = network.send(now, node, index_of(to));
            if let Cargo::Piece(piece) = &cargo {
                let what = What::Piece(to, piece.id.last, piece.offset);
                trace.add(Some(from), what);
            }
            if arrivals[0].is_none() {
                trace.add(Some(from), What::LostCargo(to));
            }
            for at in arrivals.into_iter().flatten() {
                sent.push((at, index_of(to), cargo.clone()));
            }
        });
        for (at, to, cargo) in sent {
            self.schedule_at(at, Event::Carry(to, from, cargo));
        }
    }

    /// Something of a snapshot arrives.
    pub(super) fn carry(&mut self, node: usize, from: NodeId, cargo: Cargo) {
        if let Some(process) = &mut self.nodes[node].process {
            let told = &mut process.mail.snapshots;
            match cargo {
                Cargo::Ask(ask) => told.asks.push((from, ask)),
                Cargo::Piece(piece) => told.pieces.push((from, piece)),
            }
            self.see_to(node);
        }
    }

    pub(super) fn disturb_snapshots(&mut self, node: usize, kind: Kind, rng: &mut Rng) {
        if kind == Kind::SnapshotFlip {
            self.turn_snapshot(node, rng);
            return;
        }
        if kind != Kind::Snapshot {
            self.nodes[node].plight = Some(self.plight(kind, rng));
        }
        // A plight may also wait for a snapshot that is fetched, of which there are fewer.
        if (kind == Kind::Snapshot || rng.chance(50))
            && let Some(process) = &mut self.nodes[node].process
        {
            process.want_snapshot();
        }
    }

    fn plight(&self, kind: Kind, rng: &mut Rng) -> Plight {
        if kind == Kind::SnapshotError {
            let ops = [
                (Op::Create, 1),
                (Op::Write, 3),
                (Op::Sync, 1),
                (Op::Rename, 1),
                (Op::SyncDir, 1),
                (Op::Remove, 1),
                (Op::Read, 6),
            ];
            let (op, most) = ops[index(rng.below(ops.len() as u64))];
            return Plight::Error(op, 1 + rng.below(most), rng.chance(50));
        }
        let pause = self.pause(rng);
        let (left, why) = match rng.below(8) {
            0 => (Left::All, "it crashed in a snapshot"),
            1 => (Left::Cut(Survival::All), "power went off in a snapshot"),
            2..4 => (Left::Cut(Survival::None), "power went off in a snapshot"),
            _ => {
                let survival = Survival::Random(rng.next_u64());
                (Left::Cut(survival), "power went off in a snapshot")
            }
        };
        Plight::Doom(Doom::drawn(CALLS, rng, left, why, pause))
    }

    /// Turns a bit of one of a node's snapshots.
    fn turn_snapshot(&mut self, node: usize, rng: &mut Rng) {
        let disk = &self.nodes[node].disk;
        let mut paths = disk.paths();
        paths.retain(|path| path.parent() == Some(Path::new(SNAPSHOTS)));
        if paths.is_empty() {
            return;
        }
        let path = &paths[index(rng.below(paths.len() as u64))];
        let size = disk.peek(path).map_or(0, |bytes| bytes.len() as u64);
        let offset = index(rng.below(size.max(1)));
        let is_published = path.extension().is_some_and(|end| end == "snap");
        if (is_published && !self.may_damage(node)) || !turn(disk, path, offset, rng) {
            return;
        }
        self.was_flipped = true;
        self.nodes[node].is_damaged |= is_published;
    }
}
