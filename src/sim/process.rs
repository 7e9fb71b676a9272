//! One life of one node: the shipped consensus and log, and what the threads of a node do with them, one
//! step at a time.
//!
//! ```text
//!  mail --> handle --> jobs --> begin_sync ...... end_sync --> mail     a turn of consensus, the log thread
//!             |  `---> outbox --> transmit                              the transport
//!             |`-----> applying --> apply                               the apply thread
//!             `------> transfers --> keep ............ kept --> mail     the snapshot thread
//! ```
//! When each step comes is the world's to say. What a step does is done at once, but what it leads to waits:
//! a sync's bytes are on the disk when it begins, and nobody knows before it ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::birth::{Birth, Found, SNAPSHOTS, Watch, members, open_log};
use super::clients::{Read, Slot};
use super::disk::SimDisk;
use super::mail::{Incoming, Mail};
use super::operator::Order;
use super::trace::{Said, Seats, What};
use super::violation::Violated;
use crate::driver::{
    Carried, Gathering, Handover, Members, Proposals, Proposed, Reads, Replies, RestoreError,
    configs_in, in_parts, memory_of_all, new_entries, read_to_send, restore, rosters, same_write,
    weigh_log,
};
use crate::log::{Log, LogReader};
use crate::raft::event::{Effect, Event, Persist, Refusal, Release, Status};
use crate::raft::message::Message;
use crate::raft::{Boot, Raft};
use crate::state_machine::StateMachine;
use crate::types::{Bytes, Durable, Entry, EntryRange, LogId, LogIndex, NodeId, Staged, Time};

mod apply;
mod members;
mod snapshots;

pub(super) use apply::Applied;
use members::Awaited;
use snapshots::Snapshots;
pub(super) use snapshots::{Cargo, Kept, Told};

/// What a step may find wrong.
pub(super) enum Halt {
    /// The node stops with this error, as it would in life.
    Failed(String),
    /// The world ends.
    Violated(Violated),
}

impl From<String> for Halt {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl From<Violated> for Halt {
    fn from(violated: Violated) -> Self {
        Self::Violated(violated)
    }
}

/// Something for the log, in order.
enum Job {
    Sync(Staged),
    Release(NodeId, Message),
}

/// What the disk has and nobody knows yet.
struct Syncing {
    durable: Option<Durable>,
    promises: Vec<(NodeId, Message)>,
}

/// Which steps are on their way.
#[derive(Default)]
pub(super) struct Due {
    pub(super) handle: bool,
    pub(super) sync: bool,
    pub(super) transmit: bool,
    pub(super) apply: bool,
    pub(super) keep: bool,
    /// When a tick is, and when the next piece of a snapshot is to be asked for.
    pub(super) tick: Option<u64>,
    pub(super) fetch: Option<u64>,
}

pub(super) struct Process<M> {
    node: usize,
    id: NodeId,
    raft: Raft,
    log: Log,
    reader: LogReader,
    pub(super) machine: M,
    pub(super) mail: Mail,
    /// What no step has taken yet.
    pub(super) gathering: Gathering<Slot>,
    jobs: VecDeque<Job>,
    syncing: Option<Syncing>,
    outbox: Vec<(NodeId, Message)>,
    proposals: Proposals<Slot>,
    reads: Reads<Read>,
    members: Members<Awaited>,
    handover: Handover<Order>,
    /// The latest time that it ever was here.
    clock: Time,
    election_timeout: Duration,
    committed: LogIndex,
    applied: LogIndex,
    replies: Replies<Slot>,
    ready: Vec<(LogIndex, Read)>,
    snapshots: Snapshots,
    effects: Vec<Effect>,
    max_append_bytes: usize,
    /// How many bytes are proposed in one step, at least one entry.
    portion: u64,
    pub(super) due: Due,
}

impl<M: StateMachine> Process<M> {
    /// Opens log and snapshots, restores the state machine and begins.
    ///
    /// # Errors
    /// Those of log and snapshots.
    pub(super) fn start(
        disk: &SimDisk,
        birth: &Birth,
        mut machine: M,
    ) -> Result<(Self, Found), RestoreError> {
        let (log, found) = open_log(disk, birth)?;
        let mut recovered = found.clone();
        let (disk, dir) = (Arc::new(disk.clone()), SNAPSHOTS.into());
        let restored = restore(disk, dir, &log, &mut recovered, &mut machine)?;
        let configs = restored.configs(&log, &recovered)?;
        let snapshot = restored.whole.as_ref().map(|whole| whole.meta().last);
        let id = NodeId(birth.node as u64 + 1);
        let boot = Boot {
            id,
            configs: rosters(&configs),
            hard_state: recovered.hard_state,
            before: recovered.before,
            last: recovered.last,
            snapshot,
            runs: recovered.runs,
            written: log.wal().written(),
            seed: birth.seed,
            life: birth.seed,
        };
        let reader = log.reader();
        let mut raft = Raft::new(&birth.config, boot, birth.now);
        weigh_log(&mut raft, &reader);
        let process = Self {
            node: birth.node,
            id,
            committed: raft.pointers().committed,
            raft,
            reader,
            log,
            machine,
            mail: Mail::default(),
            gathering: Gathering::new(),
            jobs: VecDeque::new(),
            syncing: None,
            outbox: Vec::new(),
            proposals: Proposals::new(),
            reads: Reads::new(),
            members: Members::new(configs, &members(birth.members)),
            handover: Handover::new(birth.config.election_timeout),
            clock: birth.now,
            election_timeout: birth.config.election_timeout,
            applied: snapshot.map_or(LogIndex::ZERO, |last| last.index),
            replies: Replies::new(),
            ready: Vec::new(),
            snapshots: Snapshots::new(restored.store, birth),
            effects: Vec::new(),
            max_append_bytes: birth.config.max_append_bytes,
            portion: birth.config.portion_bytes(),
            due: Due::default(),
        };
        let found = Found {
            log: found,
            snapshot: restored.whole,
        };
        Ok((process, found))
    }

    pub(super) const fn status(&self) -> Status {
        self.raft.status()
    }

    pub(super) fn deadline(&self) -> Time {
        self.raft.deadline()
    }

    pub(super) const fn applied(&self) -> LogIndex {
        self.applied
    }

    pub(super) fn wants_handle(&self) -> bool {
        self.gathering.is_due() || !self.mail.is_empty()
    }

    pub(super) fn wants_sync(&self) -> bool {
        self.syncing.is_none() && !self.jobs.is_empty()
    }

    pub(super) const fn wants_transmit(&self) -> bool {
        !self.outbox.is_empty() || self.snapshots.has_errands()
    }

    pub(super) fn wants_apply(&self) -> bool {
        self.applied < self.committed || !self.ready.is_empty() || self.snapshots.is_to_install()
    }

    /// Does with the mail what a turn of consensus does, and ticks if it is time.
    ///
    /// # Errors
    /// What stops the node, or is violated.
    pub(super) fn handle(&mut self, now: Time, watch: &mut Watch) -> Result<(), Halt> {
        let mail = std::mem::take(&mut self.mail);
        self.clock = self.clock.max(now);
        if let Some(durable) = mail.durable {
            self.step(now, Event::Persisted(durable), &Carried::Nothing, watch)?;
        }
        self.hear(now, mail.snapshots, watch)?;
        for Incoming {
            from,
            message,
            entries,
        } in mail.incoming
        {
            let what = What::Arrived(from, Said::of(&message));
            watch.trace.add(Some(self.id), what);
            let placed = configs_in(&entries)
                .ok_or_else(|| "a configuration that cannot be read".to_owned())?;
            let event = Event::Received {
                from,
                message,
                configs: rosters(&placed),
            };
            self.step(now, event, &Carried::Message(&entries, &placed), watch)?;
        }
        for from in mail.lost {
            watch.trace.add(Some(self.id), What::LostNode(from));
            self.step(now, Event::Lost { from }, &Carried::Nothing, watch)?;
        }
        self.propose(now, watch)?;
        let asked = mail
            .reads
            .into_iter()
            .map(|read| self.reads.ask(read))
            .last();
        if let Some(read) = asked {
            self.step(now, Event::Read { read }, &Carried::Nothing, watch)?;
        }
        for transfer in mail.transfers {
            self.hand_over(now, transfer, watch)?;
        }
        for change in mail.changes {
            self.change(now, change, watch)?;
        }
        if now >= self.raft.deadline() {
            self.step(now, Event::Tick, &Carried::Nothing, watch)?;
        }
        let ended = self.handover.overdue(self.clock);
        self.handed(ended, watch)?;
        self.gathers(watch);
        self.gives_up()
    }

    /// What is proposed from now on waits, or what waited is due.
    fn gathers(&mut self, watch: &mut Watch) {
        self.gathering.hold(self.raft.gathers());
        let waiting = self.gathering.waiting();
        if waiting > 0 {
            watch.gathered += 1;
            watch.trace.add(Some(self.id), What::Gathers(waiting));
        }
    }

    /// Proposes as much as one write has room for, unless more is to gather first.
    fn propose(&mut self, now: Time, watch: &mut Watch) -> Result<(), Halt> {
        let mut proposed = Vec::new();
        self.gathering.hold(self.raft.gathers());
        self.gathering.take(self.portion, &mut proposed);
        if proposed.is_empty() {
            return Ok(());
        }
        let (payloads, slots): (Vec<Bytes>, Vec<Slot>) = proposed
            .into_iter()
            .map(|Proposed { payload, slot }| (payload, slot))
            .unzip();
        for slot in &slots {
            watch
                .trace
                .add(Some(self.id), What::Proposed(slot.number()));
        }
        let event = Event::Propose {
            count: payloads.len() as u64,
        };
        match self.step(now, event, &Carried::Proposals(&payloads), watch)? {
            Some(refusal) => {
                for slot in slots {
                    slot.refused(whom_to_ask(refusal));
                }
            }
            None => self.proposals.keep(self.raft.pointers().last, slots),
        }
        Ok(())
    }

    /// Takes a step; tells why what the event asked for was not taken, if it was not.
    fn step(
        &mut self,
        now: Time,
        event: Event,
        carried: &Carried<'_>,
        watch: &mut Watch,
    ) -> Result<Option<Refusal>, Halt> {
        let mut refused = None;
        let mut effects = std::mem::take(&mut self.effects);
        self.raft.step(now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Refused(refusal) => refused = Some(refusal),
                other => self.carry_out(other, carried, watch)?,
            }
        }
        self.effects = effects;
        self.stepped(watch)?;
        Ok(refused)
    }

    fn stepped(&self, watch: &mut Watch) -> Result<(), Halt> {
        #[cfg(not(debug_assertions))]
        self.raft.check();
        let (status, pointers) = (self.raft.status(), self.raft.pointers());
        let roster = self.raft.roster();
        let checked = watch.checker.stepped(self.node, status, pointers, roster);
        checked?;
        self.knows_members()
    }

    fn carry_out(
        &mut self,
        effect: Effect,
        carried: &Carried<'_>,
        watch: &mut Watch,
    ) -> Result<(), Halt> {
        match effect {
            Effect::Persist(persist) => self.persist(&persist, carried, watch)?,
            Effect::Send {
                to,
                message,
                release: Release::Now,
            } => {
                watch.checker.says(self.node, to, &message)?;
                self.send(to, message, watch)?;
            }
            Effect::Send {
                to,
                message,
                release: Release::After(_),
            } => {
                watch.checker.says(self.node, to, &message)?;
                self.jobs.push_back(Job::Release(to, message));
            }
            Effect::Commit { upto } => {
                watch.trace.add(Some(self.id), What::Committed(upto));
                let status = self.raft.status();
                watch.checker.committed(self.node, upto, status)?;
                self.committed = upto.index;
                self.commit_members(upto.index, watch)?;
                self.replies.extend(self.proposals.committed(upto.index));
            }
            // Seen to by who asked.
            Effect::Refused(_) => {}
            Effect::TransferAbandoned => {
                let ended = self.handover.abandoned();
                self.handed(ended, watch)?;
            }
            Effect::ReadReady { upto, index } => {
                let ready = self.reads.ready(upto);
                self.ready.extend(ready.map(|read| (index, read)));
            }
            Effect::ReadFailed { .. } => drop(self.reads.fail().collect::<Vec<_>>()),
            Effect::Compact { seq, upto } => self.compact(seq, upto, watch)?,
            Effect::Install { seq, last } => self.install(seq, last, carried, watch)?,
            Effect::Fetch { from, last } => self.snapshots.offer(from, last),
            Effect::Status(status) => {
                watch.trace.add(Some(self.id), What::became(status));
                self.lead_or_follow(status, watch)?;
            }
        }
        Ok(())
    }

    fn persist(
        &mut self,
        persist: &Persist,
        carried: &Carried<'_>,
        watch: &mut Watch,
    ) -> Result<(), Halt> {
        let noted = self.members.note(persist, carried, self.raft.roster());
        self.takes(persist.entries.map(|new| new.source))?;
        let entries = new_entries(persist, carried, &noted.config)?;
        let (hard_state, from) = (persist.hard_state, persist.truncate_from);
        let staged = self.log.stage(hard_state, from, &entries);
        let staged = staged.map_err(|error| error.to_string())?;
        same_write(persist.seq, staged)?;
        self.jobs.push_back(Job::Sync(staged));
        if let Some(EntryRange { prev, last }) = persist.entries.map(|new| new.range) {
            let bytes = memory_of_all(&entries);
            self.raft.weigh(prev.index, last.index, bytes);
        }
        if let Some(from) = from {
            watch.trace.add(Some(self.id), What::Truncated(from));
        }
        let last = LogId::new(self.raft.pointers().last.term, staged.last());
        let what = What::Wrote(persist.seq, last);
        watch.trace.add(Some(self.id), what);
        watch.checker.wrote(self.node, persist, &entries)?;
        if noted.moved {
            let members = Seats::of(self.raft.roster());
            watch.trace.add(Some(self.id), What::Members(members));
        }
        Ok(())
    }

    fn send(&mut self, to: NodeId, message: Message, watch: &mut Watch) -> Result<(), Halt> {
        watch.checker.leaving(self.node, to, &message)?;
        self.outbox.push((to, message));
        Ok(())
    }

    /// Does what the log thread does with all that queued: one sync for all of it.
    ///
    /// # Errors
    /// The log's; it has latched.
    pub(super) fn begin_sync(&mut self) -> Result<(), String> {
        let (mut newest, mut promises) = (None, Vec::new());
        for job in self.jobs.drain(..) {
            match job {
                Job::Sync(staged) => newest = Some(staged),
                Job::Release(to, message) => promises.push((to, message)),
            }
        }
        let durable = newest.map(|staged| self.log.wal().sync(staged)).transpose();
        let durable = durable.map_err(|error| error.to_string())?;
        self.syncing = Some(Syncing { durable, promises });
        Ok(())
    }

    /// The sync has come to its end: what waited for it leaves, and consensus hears of it.
    ///
    /// # Errors
    /// What is violated.
    pub(super) fn end_sync(&mut self, watch: &mut Watch) -> Result<(), Halt> {
        let Some(Syncing { durable, promises }) = self.syncing.take() else {
            return Ok(());
        };
        if let Some(durable) = durable {
            watch.trace.add(Some(self.id), What::Durable(durable.seq()));
            watch.checker.durable(self.node, durable.seq());
            self.mail.durable = self.mail.durable.max(Some(durable));
        }
        for (to, message) in promises {
            self.send(to, message, watch)?;
        }
        Ok(())
    }

    /// Does what the log's helper does when the log is idle: writes the fence that covers its newest batch.
    pub(super) fn rest(&self) {
        if self.syncing.is_none() && self.jobs.is_empty() {
            self.log.wal().rest();
        }
    }

    /// Gives `emit` all that is to be sent, with its entries as the log has them now.
    pub(super) fn transmit(&mut self, mut emit: impl FnMut(NodeId, Message, Vec<Entry>)) {
        let (reader, most) = (&self.reader, self.max_append_bytes);
        for (to, message) in self.outbox.drain(..) {
            let read = |range| read_to_send(reader, range, most);
            in_parts(message, read, |message, entries| emit(to, message, entries));
        }
    }

    /// Ends with an error: what queued was not taken, and nobody knows what becomes of the rest.
    pub(super) fn refuse_mail(&mut self) {
        for proposed in self.gathering.drain() {
            proposed.slot.refused(None);
        }
        for (_, order) in self.mail.transfers.drain(..) {
            order.refused();
        }
        for (_, order) in self.mail.changes.drain(..) {
            order.refused();
        }
    }

    /// Ends in order.
    pub(super) fn close(mut self) {
        self.refuse_mail();
        // A disk that fails now fails a node that is going anyway.
        let _ = self.log.into_wal().close();
    }
}

/// Whom a client that was refused asks next.
const fn whom_to_ask(refusal: Refusal) -> Option<NodeId> {
    match refusal {
        Refusal::NotLeader { leader } => leader,
        Refusal::Transferring { to } => Some(to),
        Refusal::NoSuccessor
        | Refusal::NotReady
        | Refusal::ChangeInProgress
        | Refusal::NoVoters => None,
    }
}
