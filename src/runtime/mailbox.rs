//! What there is to do for consensus, and which thread does it.
//!
//! One lock. What queued while the last turn ran is the next turn, without a timer; only proposals wait for those who
//! were there before them, for about the time of a write ([`proposing`]). Who brings something
//! takes the turn at once if nobody has it and the thread may ([`Mailbox::begin`]); else a thread that waits is woken
//! ([`Mailbox::rouse`]); while somebody has the turn nobody need be woken, since that one looks again before it
//! leaves.
//!
//! Every part is bounded: proposals, reads and commands by the permit that each holds, messages and pieces of
//! snapshots by number and bytes (full: they are dropped, and Raft retries), the log's progress by being one value.

use std::sync::Arc;
use std::time::Instant;

use super::apply::{ApplyQueue, ReadJob};
use super::outcome::{Budget, Error, Slot};
use super::writer::LogQueue;
use crate::config::memory_of;
use crate::driver;
use crate::raft::message::Body;
use crate::snapshot::{Ask, Piece, Whole};
use crate::sync::{Condvar, Mutex, MutexGuard, now};
use crate::transport::Incoming;
use crate::types::{Change, Durable, LogId, Member, Membership, NodeId};

mod proposing;

use proposing::Proposing;

/// Messages that may wait; beyond it they are dropped.
const MAX_INCOMING: usize = 4_096;
/// Asks and pieces of snapshots that may wait, of each; beyond it they are dropped. Every member has one under
/// way.
const MAX_TRANSFERS: usize = 64;
/// Nodes whose connections have ended; beyond it the election timeout has to tell.
const MAX_LOST: usize = 64;

/// So many entries at the most may be synced by the thread that brings them: a lone client's. More come from many
/// clients, and are better read while those before them are written.
const FEW_ENTRIES: usize = 8;
/// Likewise, what they take of the node's memory.
const FEW_BYTES: u64 = 64 << 10;

/// A proposal on its way to consensus.
pub(super) type Proposed<R> = driver::Proposed<Slot<R>>;

/// Something asked of consensus itself, not of the state machine.
pub(super) enum Command {
    /// Hand leadership to another voter, who is the reply.
    Transfer {
        to: Option<NodeId>,
        slot: Slot<Member>,
    },
    /// Change the members; the configuration that this ends in is the reply.
    Change {
        changes: Vec<Change>,
        slot: Slot<Membership>,
    },
}

impl Command {
    fn refuse(self, error: Error) {
        match self {
            Self::Transfer { slot, .. } => slot.complete(Err(error)),
            Self::Change { slot, .. } => slot.complete(Err(error)),
        }
    }
}

/// What waits in the mailbox from now on, since it can be taken together with what comes meanwhile.
#[derive(Clone, Copy, Default)]
pub(super) struct Gathers {
    pub(super) proposals: bool,
    pub(super) reads: bool,
}

/// All that came in since the last look, but for proposals and reads.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) durable: Option<Durable>,
    /// The last entry in the newest snapshot of this node's own state.
    pub(super) snapshot: Option<LogId>,
    /// The newest snapshot that was fetched.
    pub(super) fetched: Option<Arc<Whole>>,
    pub(super) asks: Vec<(NodeId, Ask)>,
    pub(super) pieces: Vec<(NodeId, Piece)>,
    pub(super) incoming: Vec<Incoming>,
    /// Whose connection has ended since its last message, each once.
    pub(super) lost: Vec<NodeId>,
    pub(super) commands: Vec<Command>,
    /// What the messages and pieces take of the node's memory.
    incoming_bytes: u64,
}

impl Mail {
    /// Whether messages of others may take so much more than they do, of `most`. One alone always may; if so, it
    /// is counted.
    fn has_room(&mut self, more: u64, most: u64) -> bool {
        let after = self.incoming_bytes.saturating_add(more);
        let room = self.incoming_bytes == 0 || after <= most;
        if room {
            self.incoming_bytes = after;
        }
        room
    }

    /// Whether a leader is told how far another has come, by which something may be committed.
    fn is_answered(&self) -> bool {
        let first = self.incoming.first();
        first.is_some_and(|first| matches!(first.message.body, Body::AppendReply { .. }))
    }

    fn is_empty(&self) -> bool {
        self.durable.is_none()
            && self.snapshot.is_none()
            && self.fetched.is_none()
            && self.asks.is_empty()
            && self.pieces.is_empty()
            && self.incoming.is_empty()
            && self.lost.is_empty()
            && self.commands.is_empty()
    }
}

pub(super) struct Mailbox<S, R> {
    queued: Mutex<Queued<S, R>>,
    /// Where the raft thread waits.
    due: Condvar,
    /// What clients have under way.
    budget: Arc<Budget>,
    /// Whose thread is the better one to wake while it has nothing to sync: it goes on to sync what the turn writes.
    log: Arc<LogQueue>,
    /// Whose thread is the better one to wake for answers, while it has nothing to do: it goes on to apply what the
    /// turn commits.
    apply: Arc<ApplyQueue<S, R>>,
    /// Of messages and pieces that wait; beyond it they are dropped, but one always has room.
    max_incoming_bytes: u64,
}

struct Queued<S, R> {
    mail: Mail,
    proposals: Proposing<R>,
    reads: Vec<ReadJob<S>>,
    /// They are no reason for a turn.
    reads_wait: bool,
    /// A thread has the turn.
    taken: bool,
    /// When there is something to do although nothing has come in.
    deadline: Instant,
    raft: Sleep,
    /// Set once; nothing is taken after it.
    stopped: Option<Arc<str>>,
}

/// How the raft thread sleeps.
#[derive(Clone, Copy)]
enum Sleep {
    Awake,
    Until(Instant),
    UntilTold,
}

/// What is to do when a turn ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    Nothing,
    /// The caller still has the turn.
    More,
}

impl<S, R> Queued<S, R> {
    fn has_work(&self, apply: &ApplyQueue<S, R>) -> bool {
        let reads_wait = self.reads_wait || apply.has_reads();
        let reads_are_due = !self.reads.is_empty() && !reads_wait;
        reads_are_due || self.proposals.is_due() || !self.mail.is_empty()
    }

    fn running(&self) -> Result<(), Arc<str>> {
        self.stopped.clone().map_or(Ok(()), Err)
    }
}

impl<S, R> Mailbox<S, R> {
    pub(super) fn new(
        max_incoming_bytes: u64,
        budget: Arc<Budget>,
        log: Arc<LogQueue>,
        apply: Arc<ApplyQueue<S, R>>,
    ) -> Self {
        let queued = Queued {
            mail: Mail::default(),
            proposals: Proposing::new(),
            reads: Vec::new(),
            reads_wait: false,
            taken: false,
            deadline: now(),
            raft: Sleep::Awake,
            stopped: None,
        };
        Self {
            queued: Mutex::new(queued),
            due: Condvar::new(),
            budget,
            log,
            apply,
            max_incoming_bytes,
        }
    }

    /// Waits until something has come in or the deadline has passed, and nobody has the turn; then the caller has it.
    /// For the raft thread.
    ///
    /// # Errors
    /// The reason, once the mailbox is stopped.
    pub(super) fn wait(&self) -> Result<(), Arc<str>> {
        let mut queued = self.queued.lock();
        loop {
            queued.running()?;
            let deadline = queued.deadline;
            let overdue = deadline <= now();
            if !queued.taken && (overdue || queued.has_work(&self.apply)) {
                queued.taken = true;
                return Ok(());
            }
            if overdue {
                // Who has the turn sees to it, and tells the next deadline when it leaves.
                queued.raft = Sleep::UntilTold;
                self.due.wait(&mut queued);
            } else {
                queued.raft = Sleep::Until(deadline);
                self.due.wait_until(&mut queued, deadline);
            }
            queued.raft = Sleep::Awake;
        }
    }

    /// Whether one message waits and has entries, but few.
    pub(super) fn has_few_entries(&self) -> bool {
        let queued = self.queued.lock();
        let Mail {
            incoming,
            incoming_bytes,
            ..
        } = &queued.mail;
        let [Incoming { entries, .. }] = incoming.as_slice() else {
            return false;
        };
        (1..=FEW_ENTRIES).contains(&entries.len()) && *incoming_bytes <= FEW_BYTES
    }

    /// Takes the turn if there is something to do and nobody has it.
    pub(super) fn begin(&self) -> bool {
        let mut queued = self.queued.lock();
        let begins = !queued.taken && queued.stopped.is_none() && queued.has_work(&self.apply);
        queued.taken |= begins;
        begins
    }

    /// Swaps all but proposals and reads into `mail`, which must have been emptied. For who has the turn.
    pub(super) fn collect(&self, mail: &mut Mail) {
        debug_assert!(mail.is_empty(), "mail that was not read");
        mail.incoming_bytes = 0;
        std::mem::swap(&mut self.queued.lock().mail, mail);
    }

    /// Takes proposals of about so many bytes, at least one if there is any: none while they gather. For who has the
    /// turn.
    pub(super) fn proposals(&self, gathers: bool, most: u64, taken: &mut Vec<Proposed<R>>) {
        let mut queued = self.queued.lock();
        let unanswered = self.budget.proposals();
        queued.proposals.hold(gathers, unanswered);
        queued.proposals.take(unanswered, most, taken);
    }

    /// Swaps reads into `taken`, which must have been emptied. For who has the turn.
    pub(super) fn reads(&self, taken: &mut Vec<ReadJob<S>>) {
        std::mem::swap(&mut self.queued.lock().reads, taken);
    }

    /// Gives the turn back, unless there is more to do already. There will be at `deadline`; what `gathers` is no reason
    /// for a turn until the next one ends.
    pub(super) fn leave(&self, deadline: Instant, gathers: Gathers) -> Left {
        let mut queued = self.queued.lock();
        queued.deadline = deadline;
        queued
            .proposals
            .hold(gathers.proposals, self.budget.proposals());
        queued.reads_wait = gathers.reads;
        if queued.stopped.is_none() && queued.has_work(&self.apply) {
            return Left::More;
        }
        let until = queued.proposals.wait_until();
        self.give_back(queued);
        if let Some(until) = until {
            self.log.turn_at(until);
        }
        Left::Nothing
    }

    /// Gives the turn back, with what there is to do.
    pub(super) fn hand_on(&self) {
        self.give_back(self.queued.lock());
        self.rouse();
    }

    fn give_back(&self, mut queued: MutexGuard<'_, Queued<S, R>>) {
        queued.taken = false;
        let late = match queued.raft {
            Sleep::Awake => false,
            Sleep::Until(until) => queued.deadline < until,
            Sleep::UntilTold => true,
        };
        drop(queued);
        if late {
            self.due.notify_one();
        }
    }

    /// Has one of the node's threads take the turn, if there is something to do and nobody is at it.
    pub(super) fn rouse(&self) {
        let queued = self.queued.lock();
        let wake = !queued.taken && queued.has_work(&self.apply);
        let is_answered = queued.mail.is_answered();
        drop(queued);
        if wake && !(is_answered && self.apply.nudge()) {
            self.wake();
        }
    }

    fn wake(&self) {
        if !self.log.nudge() {
            self.due.notify_one();
        }
    }

    /// Adds to what there is to do, or gives the reason if the mailbox is stopped.
    fn put(&self, add: impl FnOnce(&mut Queued<S, R>)) -> Result<(), Arc<str>> {
        let mut queued = self.queued.lock();
        queued.running()?;
        add(&mut queued);
        Ok(())
    }

    /// Likewise, and has a thread look at it.
    fn put_and_rouse(&self, add: impl FnOnce(&mut Queued<S, R>)) -> Result<(), Arc<str>> {
        let mut queued = self.queued.lock();
        queued.running()?;
        let woken = queued.has_work(&self.apply);
        add(&mut queued);
        let wake = !queued.taken && !woken && queued.has_work(&self.apply);
        drop(queued);
        if wake {
            self.wake();
        }
        Ok(())
    }

    pub(super) fn propose(&self, proposed: Proposed<R>) -> Result<(), Arc<str>> {
        self.put_and_rouse(|queued| queued.proposals.push(proposed))
    }

    pub(super) fn read(&self, job: ReadJob<S>) -> Result<(), Arc<str>> {
        self.put_and_rouse(|queued| queued.reads.push(job))
    }

    pub(super) fn command(&self, command: Command) -> Result<(), Arc<str>> {
        self.put_and_rouse(|queued| queued.mail.commands.push(command))
    }

    /// The log is durable up to here. The log thread looks at that itself.
    pub(super) fn persisted(&self, durable: Durable) {
        // A stopped node needs no more progress.
        let _ = self.put(|queued| queued.mail.durable = queued.mail.durable.max(Some(durable)));
    }

    /// A snapshot of another member is durable here.
    pub(super) fn fetched(&self, whole: Arc<Whole>) {
        let _ = self.put_and_rouse(|queued| queued.mail.fetched = Some(whole));
    }

    /// A snapshot of this node's own state that ends with `last` is durable.
    pub(super) fn snapshot(&self, last: LogId) {
        let _ = self.put_and_rouse(|queued| queued.mail.snapshot = Some(last));
    }

    /// Ends all turns but the one that somebody has, for `reason`; the first reason stands. Nothing that queued was
    /// taken.
    pub(super) fn stop(&self, reason: &str) {
        let mut queued = self.queued.lock();
        let reason = Arc::clone(queued.stopped.get_or_insert_with(|| reason.into()));
        let mail = std::mem::take(&mut queued.mail);
        let proposals: Vec<_> = queued.proposals.drain().collect();
        let reads = std::mem::take(&mut queued.reads);
        drop(queued);
        self.due.notify_one();
        let stopped = Error::Stopped { reason };
        for proposed in proposals {
            proposed.slot.complete(Err(stopped.clone()));
        }
        for job in reads {
            job(Err(stopped.clone()));
        }
        for command in mail.commands {
            command.refuse(stopped.clone());
        }
    }

    /// Why the mailbox was stopped, if it was.
    pub(super) fn stopped(&self) -> Option<Arc<str>> {
        self.queued.lock().stopped.clone()
    }
}

/// What others send. It is looked at once somebody has the turn, for which the caller sees to it.
impl<S, R> Mailbox<S, R> {
    pub(super) fn deliver(&self, incoming: Incoming) {
        let entries = incoming.entries.iter();
        let bytes: u64 = entries.map(|entry| memory_of(entry.payload.len())).sum();
        let bytes = bytes.max(memory_of(0));
        let most = self.max_incoming_bytes;
        // A message to a stopped node is lost like one to a dead node.
        let _ = self.put(|Queued { mail, .. }| {
            mail.lost.retain(|id| *id != incoming.from);
            if mail.incoming.len() < MAX_INCOMING && mail.has_room(bytes, most) {
                mail.incoming.push(incoming);
            }
        });
    }

    pub(super) fn asked(&self, from: NodeId, ask: Ask) {
        let _ = self.put(|Queued { mail, .. }| {
            if mail.asks.len() < MAX_TRANSFERS {
                mail.asks.push((from, ask));
            }
        });
    }

    pub(super) fn answered(&self, from: NodeId, piece: Piece) {
        let (bytes, most) = (memory_of(piece.bytes.len()), self.max_incoming_bytes);
        let _ = self.put(|Queued { mail, .. }| {
            if mail.pieces.len() < MAX_TRANSFERS && mail.has_room(bytes, most) {
                mail.pieces.push((from, piece));
            }
        });
    }

    pub(super) fn lost(&self, from: NodeId) {
        let _ = self.put(|Queued { mail, .. }| {
            if mail.lost.len() < MAX_LOST && !mail.lost.contains(&from) {
                mail.lost.push(from);
            }
        });
    }
}

#[cfg(test)]
mod tests;
