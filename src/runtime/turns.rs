//! Who takes the turns of consensus: whichever of the node's own threads has the news, so that nobody need be woken to
//! hear it. The log thread between two syncs; the apply thread when it has nothing to do and others have answered,
//! since it goes on to apply what that commits, and behind reads, for those that came while they waited for it; a
//! transport's thread that has brought messages; the raft thread when a deadline has come, or when nobody else is there.
//! One at a time: the [`Mailbox`] says whose turn it is.
//!
//! A turn waits for the log thread alone, and that for nobody, so it does not matter to the others who has it. While the
//! log thread has nothing to do, who brings a few entries also syncs them in its place, and answers at once. An apply
//! thread that is at work is counted on by reads alone, which it has to run, and by those until a deadline comes: a state
//! machine may take as long as it likes.
//!
//! A client's thread never takes one: consensus must not wait for a thread that the embedder may have slowed down, and
//! what a turn answers may need a lock that the client holds.

use std::sync::Arc;

use super::apply::ApplyQueue;
use super::consensus::Consensus;
use super::mailbox::{Left, Mailbox};
use super::progress::Progress;
use super::writer::{LogQueue, LogThread, Writer};
use crate::snapshot::{Ask, Piece};
use crate::state_machine::StateMachine;
use crate::sync::Mutex;
use crate::transport::{Inbox, Incoming};
use crate::types::{Durable, NodeId};

/// What is done in a turn: consensus, but for tests of who takes them.
pub(super) trait Turn: Send {
    /// Does all there is to do, and gives the turn back if nothing is left.
    ///
    /// # Errors
    /// What stops the node.
    fn turn(&mut self) -> Result<Left, String>;
}

pub(super) struct Turns<M: StateMachine, T = Consensus<M>> {
    mailbox: Arc<Mailbox<M, M::Reply>>,
    log: Arc<LogQueue>,
    apply: Arc<ApplyQueue<M, M::Reply>>,
    progress: Arc<Progress>,
    /// None before the node has started, and once it has stopped.
    consensus: Mutex<Option<T>>,
    /// Likewise.
    writer: Mutex<Option<Arc<Writer>>>,
}

impl<M: StateMachine, T: Turn> Turns<M, T> {
    pub(super) fn new(
        mailbox: Arc<Mailbox<M, M::Reply>>,
        log: Arc<LogQueue>,
        apply: Arc<ApplyQueue<M, M::Reply>>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            mailbox,
            log,
            apply,
            progress,
            consensus: Mutex::new(None),
            writer: Mutex::new(None),
        }
    }

    /// Begins: turns can be taken from now on, until the raft thread's part is dropped.
    pub(super) fn begin(
        self: &Arc<Self>,
        consensus: T,
        writer: Writer,
    ) -> (RaftThread<M, T>, LogThread) {
        let writer = Arc::new(writer);
        *self.writer.lock() = Some(Arc::clone(&writer));
        *self.consensus.lock() = Some(consensus);
        (RaftThread(Arc::clone(self)), LogThread(writer))
    }

    /// What stops the node unless it is told, before it is dropped, that there is no reason to.
    pub(super) fn end_guard(&self, reason: String) -> EndGuard<M> {
        EndGuard {
            mailbox: Arc::clone(&self.mailbox),
            apply: Arc::clone(&self.apply),
            progress: Arc::clone(&self.progress),
            reason: Some(reason),
        }
    }

    /// The log thread or who stands in for it, between two syncs.
    pub(super) fn take_by_log(&self, durable: Option<Durable>) {
        if let Some(durable) = durable {
            self.mailbox.persisted(durable);
        }
        if self.mailbox.begin() {
            self.log
                .in_turn(|| self.take_or_stop(|| !self.log.has_jobs()));
        }
    }

    /// The apply thread, when it has nothing to do; it goes back to its work as soon as there is some.
    pub(super) fn take_by_apply(&self) {
        if self.mailbox.begin() {
            self.take_or_stop(|| !self.apply.has_work());
        }
    }

    /// Takes the turn, which the caller has, and goes on while there is more to do and `goes_on`.
    fn take(&self, goes_on: impl Fn() -> bool) -> Result<(), String> {
        let mut consensus = self.consensus.lock();
        while let Some(consensus) = &mut *consensus {
            if consensus.turn()? == Left::Nothing {
                return Ok(());
            }
            if !goes_on() {
                break;
            }
        }
        drop(consensus);
        self.mailbox.hand_on();
        Ok(())
    }

    /// A thread that has brought an entry, in place of the log thread; false if that is at work itself.
    fn stand_in(&self) -> bool {
        let Some(writer) = self.writer.lock().clone() else {
            return false;
        };
        let mut end = self.end_guard("a sync panicked".to_owned());
        let stood = writer.stand_in(|durable| self.take_by_log(durable));
        end.reason = stood.as_ref().err().map(ToString::to_string);
        stood.unwrap_or(true)
    }

    /// A turn on a thread that does not end with it: what ends the turn stops the node.
    fn take_or_stop(&self, goes_on: impl Fn() -> bool) {
        let mut end = self.end_guard("consensus panicked".to_owned());
        end.reason = self.take(goes_on).err();
    }
}

/// The raft thread's own. However that ends, consensus is dropped, with what waits in it, and the log thread ends after
/// it.
pub(super) struct RaftThread<M: StateMachine, T: Turn>(Arc<Turns<M, T>>);

impl<M: StateMachine, T: Turn> RaftThread<M, T> {
    /// Takes turns until the node stops.
    ///
    /// # Errors
    /// What stopped the log.
    pub(super) fn run(self) -> Result<(), String> {
        while self.0.mailbox.wait().is_ok() {
            self.0.take(|| true)?;
        }
        Ok(())
    }
}

impl<M: StateMachine, T: Turn> Drop for RaftThread<M, T> {
    fn drop(&mut self) {
        let consensus = self.0.consensus.lock().take();
        drop(consensus);
        drop(self.0.writer.lock().take());
        self.0.log.close();
    }
}

impl<M: StateMachine, T: Turn + 'static> Inbox for Turns<M, T> {
    fn deliver(&self, incoming: Incoming) {
        self.mailbox.deliver(incoming);
    }

    fn asked(&self, from: NodeId, ask: Ask) {
        self.mailbox.asked(from, ask);
    }

    fn answered(&self, from: NodeId, piece: Piece) {
        self.mailbox.answered(from, piece);
    }

    fn lost(&self, from: NodeId) {
        self.mailbox.lost(from);
    }

    fn attend(&self) {
        if self.mailbox.begin() {
            self.take_or_stop(|| false);
        }
    }

    fn attend_to_entries(&self) {
        if !(self.mailbox.has_few_entries() && self.stand_in()) {
            self.attend();
        }
    }

    fn rouse(&self) {
        self.mailbox.rouse();
    }
}

/// Ends the whole node when one of its threads ends, or a turn of consensus, for whatever reason.
pub(super) struct EndGuard<M: StateMachine> {
    mailbox: Arc<Mailbox<M, M::Reply>>,
    apply: Arc<ApplyQueue<M, M::Reply>>,
    progress: Arc<Progress>,
    pub(super) reason: Option<String>,
}

impl<M: StateMachine> Drop for EndGuard<M> {
    fn drop(&mut self) {
        match &self.reason {
            Some(reason) => {
                crate::trace::warn!(reason, "the node stops");
                self.mailbox.stop(reason);
            }
            // It ended because another thread did, which will say why.
            None if self.mailbox.stopped().is_none() => return,
            None => {}
        }
        self.apply.stop();
        self.progress.end();
    }
}

#[cfg(test)]
mod tests {
    mod schedules;
}
