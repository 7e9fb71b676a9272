//! Where the raft thread finds its work: one lock, emptied whole.
//!
//! What queued while the last step ran is the next step, so batching needs no timer. Every part is
//! bounded: proposals, reads and commands by the permit that each holds, messages and pieces of snapshots by number
//! and bytes (full: they are dropped, and Raft retries), the log's progress by being one value.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::apply::ReadJob;
use super::outcome::{Error, Slot};
use crate::config::memory_of;
use crate::snapshot::{Ask, Piece, Whole};
use crate::transport::{Inbox, Incoming};
use crate::types::{Bytes, Change, Durable, LogId, Member, Membership, NodeId};

/// Messages that may wait; beyond it they are dropped.
const MAX_INCOMING: usize = 4_096;
/// Asks and pieces of snapshots that may wait, of each; beyond it they are dropped. Every member has one under
/// way.
const MAX_TRANSFERS: usize = 64;

/// A proposal on its way to the raft thread.
pub(super) struct Proposed<R> {
    pub(super) payload: Bytes,
    pub(super) slot: Slot<R>,
}

impl<R> Proposed<R> {
    /// What it takes of the node's memory.
    pub(super) fn bytes(&self) -> u64 {
        memory_of(self.payload.len())
    }
}

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

/// All that came in since the last look.
pub(super) struct Mail<S, R> {
    pub(super) durable: Option<Durable>,
    /// The last entry in the newest snapshot of this node's own state.
    pub(super) snapshot: Option<LogId>,
    /// The newest snapshot that was fetched.
    pub(super) fetched: Option<Arc<Whole>>,
    pub(super) asks: Vec<(NodeId, Ask)>,
    pub(super) pieces: Vec<(NodeId, Piece)>,
    pub(super) incoming: Vec<Incoming>,
    pub(super) proposals: Vec<Proposed<R>>,
    pub(super) reads: Vec<ReadJob<S>>,
    pub(super) commands: Vec<Command>,
    /// What the messages and pieces take of the node's memory.
    incoming_bytes: u64,
}

impl<S, R> Default for Mail<S, R> {
    fn default() -> Self {
        Self {
            durable: None,
            snapshot: None,
            fetched: None,
            asks: Vec::new(),
            pieces: Vec::new(),
            incoming: Vec::new(),
            proposals: Vec::new(),
            reads: Vec::new(),
            commands: Vec::new(),
            incoming_bytes: 0,
        }
    }
}

impl<S, R> Mail<S, R> {
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

    fn is_empty(&self) -> bool {
        self.durable.is_none()
            && self.snapshot.is_none()
            && self.fetched.is_none()
            && self.asks.is_empty()
            && self.pieces.is_empty()
            && self.incoming.is_empty()
            && self.proposals.is_empty()
            && self.reads.is_empty()
            && self.commands.is_empty()
    }
}

pub(super) struct Mailbox<S, R> {
    queued: Mutex<Queued<S, R>>,
    arrived: Condvar,
    /// Of messages and pieces that wait; beyond it they are dropped, but one always has room.
    max_incoming_bytes: u64,
}

struct Queued<S, R> {
    mail: Mail<S, R>,
    /// Set once; nothing is taken after it.
    stopped: Option<Arc<str>>,
}

impl<S, R> Mailbox<S, R> {
    pub(super) fn new(max_incoming_bytes: u64) -> Self {
        let queued = Queued {
            mail: Mail::default(),
            stopped: None,
        };
        Self {
            queued: Mutex::new(queued),
            arrived: Condvar::new(),
            max_incoming_bytes,
        }
    }

    /// Waits for mail until `deadline` and swaps it into `mail`, which must have been emptied.
    ///
    /// # Errors
    /// The reason, once the mailbox is stopped. What was queued is dropped.
    pub(super) fn collect(&self, deadline: Instant, mail: &mut Mail<S, R>) -> Result<(), Arc<str>> {
        debug_assert!(mail.is_empty(), "mail that was not read");
        mail.incoming_bytes = 0;
        let mut queued = self.queued.lock();
        loop {
            if let Some(reason) = &queued.stopped {
                return Err(Arc::clone(reason));
            }
            if !queued.mail.is_empty() {
                std::mem::swap(&mut queued.mail, mail);
                return Ok(());
            }
            if self.arrived.wait_until(&mut queued, deadline).timed_out() {
                return queued.stopped.clone().map_or(Ok(()), Err);
            }
        }
    }

    /// Adds to the mail, or gives the reason if the mailbox is stopped.
    fn put(&self, add: impl FnOnce(&mut Mail<S, R>)) -> Result<(), Arc<str>> {
        let mut queued = self.queued.lock();
        if let Some(reason) = &queued.stopped {
            return Err(Arc::clone(reason));
        }
        let wake = queued.mail.is_empty();
        add(&mut queued.mail);
        drop(queued);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    pub(super) fn propose(&self, proposed: Proposed<R>) -> Result<(), Arc<str>> {
        self.put(|mail| mail.proposals.push(proposed))
    }

    pub(super) fn read(&self, job: ReadJob<S>) -> Result<(), Arc<str>> {
        self.put(|mail| mail.reads.push(job))
    }

    pub(super) fn command(&self, command: Command) -> Result<(), Arc<str>> {
        self.put(|mail| mail.commands.push(command))
    }

    /// The log is durable up to here.
    pub(super) fn persisted(&self, durable: Durable) {
        // A stopped node needs no more progress.
        let _ = self.put(|mail| mail.durable = mail.durable.max(Some(durable)));
    }

    /// A snapshot of another member is durable here.
    pub(super) fn fetched(&self, whole: Arc<Whole>) {
        let _ = self.put(|mail| mail.fetched = Some(whole));
    }

    /// A snapshot of this node's own state that ends with `last` is durable.
    pub(super) fn snapshot(&self, last: LogId) {
        let _ = self.put(|mail| mail.snapshot = Some(last));
    }

    /// Stops the raft thread for `reason`; the first reason stands. Nothing that queued was taken.
    pub(super) fn stop(&self, reason: &str) {
        let mut queued = self.queued.lock();
        let reason = Arc::clone(queued.stopped.get_or_insert_with(|| reason.into()));
        let mail = std::mem::take(&mut queued.mail);
        drop(queued);
        self.arrived.notify_one();
        let stopped = Error::Stopped { reason };
        for proposed in mail.proposals {
            proposed.slot.complete(Err(stopped.clone()));
        }
        for job in mail.reads {
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

impl<S: Send + 'static, R: Send + 'static> Inbox for Mailbox<S, R> {
    fn deliver(&self, incoming: Incoming) {
        let entries = incoming.entries.iter();
        let bytes: u64 = entries.map(|entry| memory_of(entry.payload.len())).sum();
        let bytes = bytes.max(memory_of(0));
        let most = self.max_incoming_bytes;
        // A message to a stopped node is lost like one to a dead node.
        let _ = self.put(|mail| {
            if mail.incoming.len() < MAX_INCOMING && mail.has_room(bytes, most) {
                mail.incoming.push(incoming);
            }
        });
    }

    fn asked(&self, from: NodeId, ask: Ask) {
        let _ = self.put(|mail| {
            if mail.asks.len() < MAX_TRANSFERS {
                mail.asks.push((from, ask));
            }
        });
    }

    fn answered(&self, from: NodeId, piece: Piece) {
        let (bytes, most) = (memory_of(piece.bytes.len()), self.max_incoming_bytes);
        let _ = self.put(|mail| {
            if mail.pieces.len() < MAX_TRANSFERS && mail.has_room(bytes, most) {
                mail.pieces.push((from, piece));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::message::{Body, Message};
    use crate::runtime::outcome::{Budget, Proposal, promise};
    use crate::types::{Entry, EntryKind, LogIndex, Term};
    use parking_lot::const_mutex;

    type Numbers = Mailbox<(), u32>;

    const MOST: u64 = 1 << 20;

    fn incoming(payload: Option<&Bytes>) -> Incoming {
        let entry = |payload: &Bytes| Entry {
            id: LogId::ORIGIN,
            kind: EntryKind::Normal,
            payload: payload.clone(),
        };
        Incoming {
            from: NodeId(2),
            message: Message {
                term: Term(1),
                body: Body::VoteReply { granted: true },
            },
            entries: payload.map(entry).into_iter().collect(),
        }
    }

    /// How many messages are taken out at once.
    fn collected(mailbox: &Numbers) -> usize {
        let mut mail = Mail::default();
        mailbox.collect(Instant::now(), &mut mail).unwrap();
        mail.incoming.len()
    }

    fn proposed() -> (Proposed<u32>, Proposal<u32>) {
        let permit = Arc::new(Budget::new(1)).take(1).unwrap();
        let (slot, proposal) = promise(permit);
        let payload = Bytes::default();
        (Proposed { payload, slot }, proposal)
    }

    #[test]
    fn messages_beyond_the_number_that_may_wait_are_dropped() {
        let mailbox = Numbers::new(MOST);
        for _ in 0..2 {
            for _ in 0..MAX_INCOMING + 10 {
                mailbox.deliver(incoming(None));
            }
            assert_eq!(collected(&mailbox), MAX_INCOMING);
        }
    }

    #[test]
    fn messages_beyond_the_bytes_that_may_wait_are_dropped_but_for_one_alone() {
        let payload = Bytes::from(vec![0; MOST as usize / 2 - 256]);
        let large = Bytes::from(vec![0; MOST as usize]);
        let mailbox = Numbers::new(MOST);
        let mut mail = Mail::default();
        for _ in 0..3 {
            for _ in 0..5 {
                mailbox.deliver(incoming(Some(&payload)));
            }
            mailbox.collect(Instant::now(), &mut mail).unwrap();
            assert_eq!(mail.incoming.len(), 2);
            mail.incoming.clear();
            for _ in 0..2 {
                mailbox.deliver(incoming(Some(&large)));
            }
            mailbox.collect(Instant::now(), &mut mail).unwrap();
            assert_eq!(mail.incoming.len(), 1);
            mail.incoming.clear();
        }
    }

    #[test]
    fn what_queued_when_the_mailbox_stops_was_not_taken() {
        let mailbox = Numbers::new(MOST);
        let (first, waits) = proposed();
        mailbox.propose(first).unwrap();
        let told = Arc::new(const_mutex(None));
        let tell = Arc::clone(&told);
        let read = move |result: Result<(&(), LogIndex), Error>| *tell.lock() = result.err();
        mailbox.read(Box::new(read)).unwrap();
        mailbox.stop("the first reason");
        mailbox.stop("another");
        let reason = Arc::from("the first reason");
        let stopped = Error::Stopped { reason };
        assert_eq!(waits.wait(), Err(stopped.clone()));
        assert_eq!(told.lock().take(), Some(stopped));
        let (late, _) = proposed();
        assert_eq!(&*mailbox.propose(late).unwrap_err(), "the first reason");
        let mut mail = Mail::default();
        assert!(mailbox.collect(Instant::now(), &mut mail).is_err());
    }
}
