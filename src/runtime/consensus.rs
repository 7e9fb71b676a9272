//! A turn of consensus: it is fed with what came in, and what it decides is carried out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::apply::{ApplyQueue, ReadJob};
use super::mailbox::{Command, Gathers, Left, Mail, Mailbox, Proposed};
use super::outcome::{Error, Slot};
use super::progress::Progress;
use super::turns::Turn;
use super::writer::{Ended, LogJob, LogQueue};
use crate::driver::{
    Carried, Handed, Handover, Members, Proposals, Reads, Transfer, config_of, configs_in,
    memory_of_all, new_entries, rosters, same_write,
};
use crate::log::Log;
use crate::raft::Raft;
use crate::raft::event::{Effect, Event, Persist, Refusal, Release, RoleName, Status};
use crate::snapshot::{SnapshotStore, Whole};
use crate::state_machine::StateMachine;
use crate::transport::{Incoming, Transport};
use crate::types::{
    Bytes, Change, EntryRange, LogId, LogIndex, Member, Membership, NodeId, Staged, Term, Time,
    WriteSeq,
};
use crate::wal::WalError;

fn ended(_: Ended) -> String {
    "the log thread has ended".to_owned()
}

/// What only the thread that has the turn may touch.
pub(super) struct Consensus<M: StateMachine> {
    pub(super) raft: Raft,
    /// Where [`Time`] counts from.
    pub(super) origin: Instant,
    pub(super) log: Log,
    pub(super) mailbox: Arc<Mailbox<M, M::Reply>>,
    pub(super) writer: Arc<LogQueue>,
    pub(super) apply: Arc<ApplyQueue<M, M::Reply>>,
    pub(super) snapshots: SnapshotStore,
    pub(super) transfers: Sender<Transfer>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) progress: Arc<Progress>,
    pub(super) members: Members<Slot<Membership>>,
    /// How many bytes are proposed in one step, at least one entry.
    pub(super) portion: u64,
    pub(super) proposals: Proposals<Slot<M::Reply>>,
    pub(super) reads: Reads<ReadJob<M>>,
    /// Who waits for leadership to go over to another node.
    pub(super) handover: Handover<Slot<Member>>,
    pub(super) effects: Vec<Effect>,
    pub(super) mail: Mail,
    /// Taken off the mailbox, and not yet proposed; empty between turns.
    pub(super) proposed: Vec<Proposed<M::Reply>>,
    /// Likewise, and not yet asked for.
    pub(super) asked: Vec<ReadJob<M>>,
}

impl<M: StateMachine> Turn for Consensus<M> {
    fn turn(&mut self) -> Result<Left, String> {
        let mut mail = std::mem::take(&mut self.mail);
        self.mailbox.collect(&mut mail);
        self.handle(&mut mail)?;
        self.mail = mail;
        let deadline = self.origin + Duration::from_micros(self.raft.deadline().0);
        let gathers = Gathers {
            proposals: self.raft.gathers(),
            reads: self.raft.gathers_reads(),
        };
        Ok(self.mailbox.leave(deadline, gathers))
    }
}

impl<M: StateMachine> Consensus<M> {
    /// Carries out what is known from before a restart: what was committed can be applied at once.
    pub(super) fn begin(&mut self) {
        self.commit(self.raft.pointers().committed);
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn handle(&mut self, mail: &mut Mail) -> Result<(), String> {
        if let Some(durable) = mail.durable.take() {
            self.step(Event::Persisted(durable), &Carried::Nothing)?;
        }
        if let Some(last) = mail.snapshot.take() {
            self.step(Event::Snapshot { last }, &Carried::Nothing)?;
            // There is a newer one now.
            self.release_lent();
        }
        if let Some(whole) = mail.fetched.take() {
            self.fetched(&whole)?;
        }
        for (from, ask) in mail.asks.drain(..) {
            // Not what it has a part of, which may be another leader's.
            let lent = self.snapshots.lends(from, ask);
            self.step(Event::Asked { from, lent }, &Carried::Nothing)?;
            // Who was removed meanwhile fetches in vain.
            if self.members.has(from) {
                self.transport.answer(from, ask);
            }
        }
        for (from, piece) in mail.pieces.drain(..) {
            self.pass_on(Transfer::Piece { from, piece });
        }
        for Incoming {
            from,
            message,
            entries,
        } in mail.incoming.drain(..)
        {
            let Some(placed) = configs_in(&entries) else {
                crate::trace::warn!(from = from.0, "a configuration that cannot be read");
                continue;
            };
            let event = Event::Received {
                from,
                message,
                configs: rosters(&placed),
            };
            self.step(event, &Carried::Message(&entries, &placed))?;
        }
        for from in mail.lost.drain(..) {
            self.step(Event::Lost { from }, &Carried::Nothing)?;
        }
        self.propose()?;
        self.ask()?;
        for command in mail.commands.drain(..) {
            self.command(command)?;
        }
        if self.now() >= self.raft.deadline() {
            self.step(Event::Tick, &Carried::Nothing)?;
        }
        let ended = self.handover.overdue(self.now());
        self.handed(ended);
        Ok(())
    }

    /// Proposes as much as one write has room for, unless more is to gather first. The slots are kept once the entries
    /// are in the log.
    fn propose(&mut self) -> Result<(), String> {
        let mut proposed = std::mem::take(&mut self.proposed);
        self.mailbox
            .proposals(self.raft.gathers(), self.portion, &mut proposed);
        if !proposed.is_empty() {
            let (payloads, slots) = proposed
                .drain(..)
                .map(|Proposed { payload, slot }| (payload, slot))
                .unzip();
            self.propose_all(payloads, slots)?;
        }
        self.proposed = proposed;
        Ok(())
    }

    /// Asks what reads must see, unless more are to gather first. When a deadline has come, those that gather are taken
    /// too: who waits for a state machine that hangs is to hear that the leader is gone.
    fn ask(&mut self) -> Result<(), String> {
        let gathers = self.raft.gathers_reads() || self.apply.has_reads();
        if gathers && self.now() < self.raft.deadline() {
            return Ok(());
        }
        self.mailbox.reads(&mut self.asked);
        let asked = self.asked.drain(..).map(|job| self.reads.ask(job)).last();
        if let Some(read) = asked {
            self.step(Event::Read { read }, &Carried::Nothing)?;
        }
        Ok(())
    }

    fn propose_all(
        &mut self,
        payloads: Vec<Bytes>,
        slots: Vec<Slot<M::Reply>>,
    ) -> Result<(), String> {
        let event = Event::Propose {
            count: payloads.len() as u64,
        };
        match self.step(event, &Carried::Proposals(&payloads))? {
            Some(refusal) => {
                let refused = self.refused(refusal);
                for slot in slots {
                    slot.complete(Err(refused.clone()));
                }
            }
            None => self.proposals.keep(self.raft.pointers().last, slots),
        }
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Transfer { to, slot } => {
                match self.step(Event::Transfer { to }, &Carried::Nothing)? {
                    Some(refusal) => slot.complete(Err(self.refused(refusal))),
                    None => self.handover.begin(self.now(), slot),
                }
            }
            Command::Change { changes, slot } => self.change(&changes, slot)?,
        }
        Ok(())
    }

    fn change(&mut self, changes: &[Change], slot: Slot<Membership>) -> Result<(), String> {
        let wanted = self.members.changed(changes);
        let event = Event::Change {
            to: wanted.roster().clone(),
        };
        match self.step(event, &Carried::Members(wanted.members()))? {
            Some(refusal) => slot.complete(Err(self.refused(refusal))),
            None => {
                let index = self.raft.pointers().last.index;
                self.members.wait(index, changes, slot);
            }
        }
        Ok(())
    }

    /// Takes a step; tells why what the event asked for was not taken, if it was not.
    fn step(&mut self, event: Event, carried: &Carried<'_>) -> Result<Option<Refusal>, String> {
        let now = self.now();
        let mut refused = None;
        let mut effects = std::mem::take(&mut self.effects);
        self.raft.step(now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Refused(refusal) => refused = Some(refusal),
                other => self.carry_out(other, carried)?,
            }
        }
        self.effects = effects;
        Ok(refused)
    }

    fn carry_out(&mut self, effect: Effect, carried: &Carried<'_>) -> Result<(), String> {
        match effect {
            Effect::Persist(persist) => self.persist(&persist, carried)?,
            Effect::Send {
                to,
                message,
                release: Release::Now,
            } => self.transport.send(to, message),
            Effect::Send {
                to,
                message,
                release: Release::After(_),
            } => {
                // The queue keeps its order, so this leaves after every write before it.
                self.queue(LogJob::Release(to, message))?;
            }
            Effect::Commit { upto } => self.commit(upto.index),
            // Seen to by who asked.
            Effect::Refused(_) => {}
            Effect::TransferAbandoned => {
                let ended = self.handover.abandoned();
                self.handed(ended);
            }
            Effect::ReadReady { upto, index } => {
                self.apply.read(index, self.reads.ready(upto));
            }
            Effect::ReadFailed { leader } => {
                let failed = self.not_leader(leader);
                for job in self.reads.fail() {
                    job(Err(failed.clone()));
                }
            }
            Effect::Compact { seq, upto } => {
                let staged = self.log.wal().drop_prefix(upto);
                self.sync(seq, staged, 0)?;
            }
            Effect::Install { seq, last } => self.install(seq, last, carried)?,
            Effect::Fetch { from, last } => self.pass_on(Transfer::Offer { from, last }),
            Effect::Status(status) => self.status(status),
        }
        Ok(())
    }

    /// A snapshot of another member is durable here.
    fn fetched(&mut self, whole: &Arc<Whole>) -> Result<(), String> {
        let meta = whole.meta();
        let placed =
            config_of(meta).ok_or("a fetched snapshot does not say who the members are")?;
        let event = Event::Fetched {
            last: meta.last,
            config: (placed.0, placed.1.roster().clone()),
        };
        self.step(event, &Carried::Snapshot(whole, &placed))?;
        Ok(())
    }

    /// The log becomes empty behind `last`, and all that is before comes from the snapshot.
    fn install(&mut self, seq: WriteSeq, last: LogId, carried: &Carried<'_>) -> Result<(), String> {
        let Carried::Snapshot(whole, (index, membership)) = carried else {
            return Err("consensus installs a snapshot where none came in".to_owned());
        };
        // First, so that who cannot read on knows why.
        self.apply.install(Arc::clone(whole));
        let staged = self.log.restart(last);
        self.sync(seq, staged, 0)?;
        for slot in self.members.reset(*index, membership.clone()) {
            slot.complete(Err(Error::OutcomeUnknown));
        }
        self.show_members();
        Ok(())
    }

    /// Full: it will be offered, or asked for, again.
    fn pass_on(&self, transfer: Transfer) {
        let _ = self.transfers.try_send(transfer);
    }

    fn persist(&mut self, persist: &Persist, carried: &Carried<'_>) -> Result<(), String> {
        let noted = self.members.note(persist, carried, self.raft.roster());
        let entries = new_entries(persist, carried, &noted.config)?;
        let bytes = memory_of_all(&entries);
        self.writer.make_room(bytes).map_err(ended)?;
        let staged = self
            .log
            .stage(persist.hard_state, persist.truncate_from, &entries);
        self.sync(persist.seq, staged, bytes)?;
        if let Some(EntryRange { prev, last }) = persist.entries.map(|new| new.range) {
            self.raft.weigh(prev.index, last.index, bytes);
        }
        if noted.moved {
            self.show_members();
        }
        Ok(())
    }

    /// Has a write made durable, which consensus knows by this number.
    fn sync(
        &self,
        core: WriteSeq,
        staged: Result<Staged, WalError>,
        bytes: u64,
    ) -> Result<(), String> {
        let staged = staged.map_err(|error| error.to_string())?;
        same_write(core, staged)?;
        self.queue(LogJob::Sync(staged, bytes))
    }

    fn release_lent(&self) {
        self.snapshots
            .release(|member| self.raft.is_fetching(member));
    }

    /// Tells the transport and the embedder who the members are, and lends to nobody else.
    fn show_members(&self) {
        self.release_lent();
        self.transport.set_members(&self.members.reachable());
        if let Some(current) = self.members.current() {
            self.progress.set_membership(current.clone());
        }
    }

    fn queue(&self, job: LogJob) -> Result<(), String> {
        self.writer.send(job).map_err(ended)
    }

    fn commit(&mut self, index: LogIndex) {
        // Told first, so that nobody sees more applied than committed.
        self.progress.committed(index);
        self.apply.commit(index, self.proposals.committed(index));
        let answer = |slot: Slot<Membership>, members: &Membership| {
            slot.complete(Ok(members.clone()));
        };
        if self.members.commit(index, answer) {
            self.show_members();
        }
    }

    /// Takes note of a new role, term or leader.
    fn status(&mut self, status: Status) {
        self.progress.set_status(status);
        let (role, Term(term)) = (status.role, status.term);
        let leader = status.leader.map(|id| id.0);
        crate::trace::info!(?role, term, leader, "raft status");
        if role != RoleName::Leader {
            for slot in self.proposals.abandon() {
                slot.complete(Err(Error::OutcomeUnknown));
            }
            for slot in self.members.lose() {
                slot.complete(Err(Error::OutcomeUnknown));
            }
        }
        let ended = self.handover.status(status);
        self.handed(ended);
    }

    /// Answers who waited for leadership to go over.
    fn handed(&self, ended: Option<(Slot<Member>, Handed)>) {
        let Some((slot, handed)) = ended else {
            return;
        };
        slot.complete(match handed {
            Handed::To(leader) => self.members.find(leader).ok_or(Error::OutcomeUnknown),
            Handed::Kept => Err(Error::TransferAbandoned),
            Handed::Unknown => Err(Error::OutcomeUnknown),
        });
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::NotLeader { leader } => self.not_leader(leader),
            Refusal::Transferring { to } => Error::Transferring {
                to: self.members.find(to),
            },
            Refusal::NoSuccessor => Error::NoSuccessor,
            Refusal::NotReady => Error::NotReady,
            Refusal::ChangeInProgress => Error::ChangeInProgress,
            Refusal::NoVoters => Error::NoVoters,
        }
    }

    fn not_leader(&self, leader: Option<NodeId>) -> Error {
        Error::NotLeader {
            leader: leader.and_then(|id| self.members.find(id)),
        }
    }
}
