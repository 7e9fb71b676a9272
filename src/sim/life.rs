//! What the processes do when their time comes, and what comes of it.

use super::birth::Birth;
use super::mail::Incoming;
use super::process::{Applied, Halt, Process};
use super::trace::{Said, What};
use super::violation::{Property, Violated};
use super::workload::Workload;
use super::world::{Event, Node, Reply, World, id_of, index, index_of};
use crate::driver::RestoreError;
use crate::log::LogError;
use crate::snapshot::SnapshotError;
use crate::types::{Bytes, Entry};
use crate::wal::WalError;

/// How long a thread takes to get to its work, in microseconds at most.
const WAKE: u64 = 30;
/// How long a sync takes at least, and at most so much more.
const SYNC: (u64, u64) = (60, 900);
/// How long applying takes at most.
const APPLY: u64 = 150;

impl<W: Workload> World<'_, W> {
    pub(super) fn handle(&mut self, node: usize, life: u64) -> Result<(), Violated> {
        let time = self.nodes[node].clock.at(self.now);
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        process.due.handle = false;
        let handled = process.handle(time, &mut self.watch);
        self.go_on(node, handled)
    }

    pub(super) fn tick(&mut self, node: usize, life: u64) -> Result<(), Violated> {
        let (now, clock) = (self.now, self.nodes[node].clock);
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        if process.due.tick.is_some_and(|due| due > now) {
            // Another one took its place.
            return Ok(());
        }
        process.due.tick = None;
        if clock.at(now) >= process.deadline() {
            return self.handle(node, life);
        }
        self.see_to(node);
        Ok(())
    }

    pub(super) fn begin_sync(&mut self, node: usize, life: u64) -> Result<(), Violated> {
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        process.due.sync = false;
        if let Some(doom) = self.nodes[node].doomed.take() {
            self.die_in(node, &doom, |process, _| drop(process.begin_sync()));
            return Ok(());
        }
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        if let Err(reason) = process.begin_sync() {
            return self.fail(node, &reason);
        }
        let wait = self.sync_time(node);
        self.schedule(wait, Event::EndSync(node, life));
        Ok(())
    }

    /// How long a sync takes now.
    pub(super) fn sync_time(&mut self, node: usize) -> u64 {
        let is_slow = self.nodes[node].slow_until > self.now;
        let slowness = if is_slow {
            self.nodes[node].slowness
        } else {
            1
        };
        let wait = (SYNC.0 + self.rng.below(SYNC.1)) * slowness;
        wait.min(self.timeout())
    }

    pub(super) fn end_sync(&mut self, node: usize, life: u64) -> Result<(), Violated> {
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        let ended = process.end_sync(&mut self.watch);
        if self.rng.chance(10) {
            let wait = self.rng.below(self.timeout());
            self.schedule(wait, Event::Rest(node, life));
        }
        self.go_on(node, ended)
    }

    pub(super) fn rest(&mut self, node: usize, life: u64) {
        if let Some(process) = alive(&mut self.nodes, node, life) {
            process.rest();
        }
    }

    pub(super) fn transmit(&mut self, node: usize, life: u64) {
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return;
        };
        process.due.transmit = false;
        let (network, trace, now) = (&mut self.network, &mut self.watch.trace, self.now);
        let from = id_of(node);
        let mut sent = Vec::new();
        process.transmit(|to, message, entries| {
            let said = Said::of(&message);
            let to = index_of(to);
            let arrivals = network.send(now, node, to);
            let what = match arrivals {
                [None, _] => What::Lost(id_of(to), said),
                _ => What::Sent(id_of(to), said),
            };
            trace.add(Some(from), what);
            let incoming = Incoming {
                from,
                message,
                entries: entries.into_iter().map(carried).collect(),
            };
            for at in arrivals.into_iter().flatten() {
                sent.push((at, to, Box::new(incoming.clone())));
            }
        });
        for (at, to, incoming) in sent {
            self.schedule_at(at, Event::Deliver(to, incoming));
        }
        self.transmit_cargo(node);
    }

    pub(super) fn apply(&mut self, node: usize, life: u64) -> Result<(), Violated> {
        let limits = (1 + index(self.rng.below(40)), 1 << 20);
        let Some(process) = alive(&mut self.nodes, node, life) else {
            return Ok(());
        };
        process.due.apply = false;
        let applied = match process.apply(limits, &mut self.watch) {
            Ok(applied) => applied,
            Err(halt) => return self.go_on(node, Err(halt)),
        };
        let looked = self.workload.inspect(&process.machine);
        looked
            .map_err(|what| Property::Workload.violated(format!("node {}: {what}", id_of(node))))?;
        for applied in applied {
            self.compare(node, applied)?;
        }
        self.compare_state(node)?;
        self.see_to(node);
        Ok(())
    }

    /// Holds a reply against that of the first node that gave one.
    fn compare(&mut self, node: usize, applied: Applied<Reply<W>>) -> Result<(), Violated> {
        let Applied {
            number,
            entry,
            reply,
        } = applied;
        let at = entry.id.index;
        self.clients.found(number, &entry.payload, at)?;
        self.reference.apply(&self.workload, &entry);
        let place = index(at.0);
        if self.replies.len() <= place {
            self.replies.resize_with(place + 1, || None);
        }
        match &self.replies[place] {
            Some(first) if *first != reply => Err(Property::SameReplies.violated(format!(
                "node {} replies {reply:?} to entry {at}, where another node, or its own earlier life, \
                 replied {first:?}",
                id_of(node)
            ))),
            Some(_) => Ok(()),
            None => {
                self.replies[place] = Some(reply);
                Ok(())
            }
        }
    }

    /// After a step of a process: it stops, or goes on.
    fn go_on(&mut self, node: usize, ended: Result<(), Halt>) -> Result<(), Violated> {
        match ended {
            Ok(()) => {
                self.see_to(node);
                Ok(())
            }
            Err(Halt::Failed(reason)) => self.fail(node, &reason),
            Err(Halt::Violated(violated)) => Err(violated),
        }
    }

    /// Schedules what a node has to do.
    pub(super) fn see_to(&mut self, node: usize) {
        let (now, life, clock) = (self.now, self.nodes[node].life, self.nodes[node].clock);
        let Some(process) = &mut self.nodes[node].process else {
            return;
        };
        let mut soon = Vec::new();
        if !process.due.handle && process.wants_handle() {
            process.due.handle = true;
            soon.push((WAKE, Event::Handle(node, life)));
        }
        if !process.due.sync && process.wants_sync() {
            process.due.sync = true;
            soon.push((WAKE, Event::BeginSync(node, life)));
        }
        if !process.due.transmit && process.wants_transmit() {
            process.due.transmit = true;
            soon.push((WAKE, Event::Transmit(node, life)));
        }
        if !process.due.apply && process.wants_apply() {
            process.due.apply = true;
            soon.push((APPLY, Event::Apply(node, life)));
        }
        if !process.due.keep && process.wants_keep() {
            process.due.keep = true;
            soon.push((WAKE, Event::Keep(node, life)));
        }
        let fetch = process.fetch_due().map(|due| clock.reaches(now, due));
        if let Some(fetch) = fetch
            && process.due.fetch.is_none_or(|due| due > fetch || due < now)
        {
            process.due.fetch = Some(fetch);
            soon.push((WAKE + fetch - now, Event::Keep(node, life)));
        }
        // Never at this very moment, so that time goes on.
        let tick = clock.reaches(now, process.deadline()).max(now + 1);
        if process.due.tick.is_none_or(|due| due > tick || due < now) {
            process.due.tick = Some(tick);
            self.schedule_at(tick, Event::Tick(node, life));
        }
        for (most, event) in soon {
            let wait = 1 + self.rng.below(most);
            self.schedule(wait, event);
        }
    }

    pub(super) fn birth(&mut self, node: usize) -> Birth {
        Birth {
            node,
            members: self.scenario.nodes,
            now: self.nodes[node].clock.at(self.now),
            seed: self.rng.next_u64(),
            config: self.config.clone(),
            piece_bytes: self.scenario.piece_bytes,
        }
    }

    pub(super) fn start(&mut self, node: usize, life: u64) -> Result<(), Violated> {
        let at = &self.nodes[node];
        if at.process.is_some() || at.life != life || at.is_out {
            return Ok(());
        }
        let (disk, damaged, excused) = (at.disk.clone(), at.is_damaged, at.is_excused);
        let machine = self.workload.machine();
        let started = Process::start(&disk, &self.birth(node), machine);
        match started {
            Ok((process, found)) => {
                self.watch.checker.started(node, life, &found.log)?;
                let up = What::Up(found.log.last, found.log.hard_state.term);
                self.watch.trace.add(Some(id_of(node)), up);
                self.nodes[node].process = Some(process);
                self.began_with(node, found.snapshot.as_deref())?;
                self.see_to(node);
                Ok(())
            }
            Err(error) if excused && is_passing(&error) => {
                let wait = 1 + self.draw(self.timeout());
                self.schedule(wait, Event::Start(node, life));
                Ok(())
            }
            Err(_) if damaged => {
                self.nodes[node].is_out = true;
                let why = What::Down("its log is damaged");
                self.watch.trace.add(Some(id_of(node)), why);
                Ok(())
            }
            Err(error) => Err(Property::Recovery.violated(format!(
                "node {} is refused its log and snapshots, which nobody damaged: {}",
                id_of(node),
                words(&error)
            ))),
        }
    }
}

fn words(error: &RestoreError) -> String {
    match error {
        RestoreError::Snapshot(error) => error.to_string(),
        RestoreError::Log(error) => error.to_string(),
        RestoreError::Missing { first, .. } => {
            format!("the log begins with entry {first}, and no snapshot has what was before")
        }
        RestoreError::Configuration => "no configuration can be read".to_owned(),
    }
}

/// An entry as the network has it: its bytes are no part of the sender's log any more.
fn carried(mut entry: Entry) -> Entry {
    entry.payload = Bytes::from(&*entry.payload);
    entry
}

/// The process of this life, if it lives.
pub(super) fn alive<M>(nodes: &mut [Node<M>], node: usize, life: u64) -> Option<&mut Process<M>> {
    let node = &mut nodes[node];
    node.process.as_mut().filter(|_| node.life == life)
}

/// Whether opening log and snapshots again may fare better.
const fn is_passing(error: &RestoreError) -> bool {
    matches!(
        error,
        RestoreError::Log(LogError::Wal(
            WalError::Io(_) | WalError::NoSpace(_) | WalError::Failed(_)
        )) | RestoreError::Snapshot(SnapshotError::Io(_))
    )
}
