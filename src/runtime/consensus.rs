//! The raft thread: feeds consensus with what comes in, and carries out what it decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::apply::{ApplyQueue, ReadJob};
use super::mailbox::{Command, Mail, Mailbox, Proposed};
use super::outcome::{Error, Slot};
use super::progress::Progress;
use super::writer::LogJob;
use crate::driver::{Payloads, Proposals, Reads, new_entries, same_write};
use crate::log::Log;
use crate::raft::Raft;
use crate::raft::event::{Effect, Event, Persist, Refusal, Release, RoleName, Source, Status};
use crate::state_machine::StateMachine;
use crate::transport::{Incoming, Transport};
use crate::types::{Bytes, LogIndex, Member, NodeId, Term, Time};

/// The raft thread's own state.
pub(super) struct Consensus<M: StateMachine> {
    pub(super) raft: Raft,
    /// Where [`Time`] counts from.
    pub(super) origin: Instant,
    pub(super) log: Log,
    pub(super) mailbox: Arc<Mailbox<M, M::Reply>>,
    pub(super) writer: Sender<LogJob>,
    pub(super) apply: Arc<ApplyQueue<M>>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) progress: Arc<Progress>,
    pub(super) members: Vec<Member>,
    pub(super) proposals: Proposals<Slot<M::Reply>>,
    pub(super) reads: Reads<ReadJob<M>>,
    /// Who waits for leadership to go over to another node.
    pub(super) transfer: Option<Slot<Member>>,
    pub(super) effects: Vec<Effect>,
}

impl<M: StateMachine> Consensus<M> {
    /// Runs until the mailbox is stopped or the log fails.
    ///
    /// # Errors
    /// What stopped the log.
    pub(super) fn run(mut self) -> Result<(), String> {
        let mut mail = Mail::default();
        // What was known to be committed before a restart can be applied at once.
        self.commit(self.raft.pointers().committed);
        loop {
            let deadline = self.origin + Duration::from_micros(self.raft.deadline().0);
            if self.mailbox.collect(deadline, &mut mail).is_err() {
                return Ok(());
            }
            self.handle(&mut mail)?;
        }
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn handle(&mut self, mail: &mut Mail<M, M::Reply>) -> Result<(), String> {
        if let Some(durable) = mail.durable.take() {
            self.step(Event::Persisted(durable), &Payloads::None)?;
        }
        for Incoming {
            from,
            message,
            entries,
        } in mail.incoming.drain(..)
        {
            self.step(
                Event::Received { from, message },
                &Payloads::Message(&entries),
            )?;
        }
        if !mail.proposals.is_empty() {
            self.propose(&mut mail.proposals)?;
        }
        let asked = mail.reads.drain(..).map(|job| self.reads.ask(job)).last();
        if let Some(read) = asked {
            self.step(Event::Read { read }, &Payloads::None)?;
        }
        for command in mail.commands.drain(..) {
            self.command(command)?;
        }
        if self.now() >= self.raft.deadline() {
            self.step(Event::Tick, &Payloads::None)?;
        }
        Ok(())
    }

    /// Proposes all of them in one step. Their slots are kept once the entries are in the log.
    fn propose(&mut self, proposals: &mut Vec<Proposed<M::Reply>>) -> Result<(), String> {
        let (payloads, mut slots): (Vec<Bytes>, Vec<Slot<M::Reply>>) = proposals
            .drain(..)
            .map(|proposed| (proposed.payload, proposed.slot))
            .unzip();
        let event = Event::Propose {
            count: payloads.len() as u64,
        };
        let now = self.now();
        let mut effects = std::mem::take(&mut self.effects);
        self.raft.step(now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Persist(persist) => {
                    let taken = persist
                        .entries
                        .filter(|new| new.source == Source::Proposals);
                    self.persist(&persist, &Payloads::Proposals(&payloads))?;
                    if let Some(new) = taken {
                        self.proposals.keep(&new, std::mem::take(&mut slots));
                    }
                }
                Effect::Refused(refusal) => {
                    let refused = self.refused(refusal);
                    for slot in slots.drain(..) {
                        slot.complete(Err(refused.clone()));
                    }
                }
                other => self.carry_out(other, &Payloads::None)?,
            }
        }
        self.effects = effects;
        Ok(())
    }

    fn command(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Transfer { to, slot } => {
                match self.step(Event::Transfer { to }, &Payloads::None)? {
                    Some(refusal) => slot.complete(Err(self.refused(refusal))),
                    None => self.transfer = Some(slot),
                }
            }
        }
        Ok(())
    }

    /// Takes a step; tells why what the event asked for was not taken, if it was not.
    fn step(&mut self, event: Event, payloads: &Payloads<'_>) -> Result<Option<Refusal>, String> {
        let now = self.now();
        let mut refused = None;
        let mut effects = std::mem::take(&mut self.effects);
        self.raft.step(now, event, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Refused(refusal) => refused = Some(refusal),
                other => self.carry_out(other, payloads)?,
            }
        }
        self.effects = effects;
        Ok(refused)
    }

    fn carry_out(&mut self, effect: Effect, payloads: &Payloads<'_>) -> Result<(), String> {
        match effect {
            Effect::Persist(persist) => self.persist(&persist, payloads)?,
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
                if let Some(slot) = self.transfer.take() {
                    slot.complete(Err(Error::TransferAbandoned));
                }
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
            Effect::Status(status) => self.status(status),
        }
        Ok(())
    }

    fn persist(&mut self, persist: &Persist, payloads: &Payloads<'_>) -> Result<(), String> {
        let entries = new_entries(persist, payloads)?;
        let staged = self
            .log
            .stage(persist.hard_state, persist.truncate_from, &entries);
        let staged = staged.map_err(|error| error.to_string())?;
        same_write(persist, staged)?;
        self.queue(LogJob::Sync(staged))
    }

    fn queue(&self, job: LogJob) -> Result<(), String> {
        self.writer
            .send(job)
            .map_err(|_| "the log thread has ended".to_owned())
    }

    fn commit(&mut self, index: LogIndex) {
        // Told first, so that nobody sees more applied than committed.
        self.progress.committed(index);
        self.apply.commit(index, self.proposals.committed(index));
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
        }
        if let Some(leader) = status.leader
            && let Some(slot) = self.transfer.take()
        {
            let other = self.member(leader).filter(|_| role != RoleName::Leader);
            slot.complete(other.ok_or(Error::TransferAbandoned));
        }
    }

    fn member(&self, id: NodeId) -> Option<Member> {
        self.members.iter().find(|member| member.id == id).cloned()
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::NotLeader { leader } => self.not_leader(leader),
            Refusal::Transferring { to } => Error::Transferring {
                to: self.member(to),
            },
            Refusal::NoSuccessor => Error::NoSuccessor,
        }
    }

    fn not_leader(&self, leader: Option<NodeId>) -> Error {
        Error::NotLeader {
            leader: leader.and_then(|id| self.member(id)),
        }
    }
}
