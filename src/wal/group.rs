//! Group commit: of all who wait for the disk, one works for all.
//!
//! ```text
//!  enter(seq) -- is durable already ----------> done
//!    |-- nobody leads ------------------------> leads
//!    |-- the sync under way will cover it ----> joins its round    \  sleeps until the round is over,
//!    |-- others wait for the sync after it ---> joins their round  /  and returns with the outcome
//!    `-- nobody does -------------------------> captain of the next round: sleeps until it has to lead
//!
//!  leads --> begin(goal) --> write, fdatasync --> finish(outcome): 1. wakes the round, all at once
//!            what is written up to the goal                        2. wakes the next one's captain
//!            is covered from here on
//! ```
//! There is no timer: what is staged during one fdatasync is the next one's batch. A caller alone does its
//! I/O itself, with no hop to another thread. That a round is over, and that a captain has to lead, happens
//! once each; so one call to the system wakes all of a round and nobody else, and nobody fights for a lock
//! on waking. The captain is woken last: those who woke before it may write again and still join it.
//!
//! Nobody sleeps forever: a next round has a captain, who does not wait for that round but for its turn;
//! whoever leads calls `finish`, also when it fails or panics; and who joins a round before its goal is
//! known wrote before the goal is chosen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::error::WalError;
use crate::types::WriteSeq;

/// What a caller of sync has to do.
pub(super) enum Role {
    /// Nothing: all up to here is durable. That is the caller's write, if there ever was one of its number.
    Done(WriteSeq),
    /// Do the I/O: call [`Group::begin`], and [`Group::finish`] whatever happens.
    Lead,
}

/// How a sync ended.
#[derive(Clone)]
pub(super) struct Outcome {
    /// All up to here is durable.
    pub(super) durable: WriteSeq,
    /// Why what was written after it is not.
    pub(super) error: Option<WalError>,
}

impl Outcome {
    /// What it means for write `seq`.
    pub(super) fn of(&self, seq: WriteSeq) -> Result<WriteSeq, WalError> {
        match &self.error {
            Some(error) if self.durable < seq => Err(error.clone()),
            _ => Ok(self.durable),
        }
    }
}

/// Something that happens once, and wakes all who wait for it.
struct Event<T>(OnceLock<T>);

impl<T> Default for Event<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T> Event<T> {
    fn set(&self, value: T) {
        let first = self.0.set(value).is_ok();
        debug_assert!(first, "it happens once");
    }

    fn wait(&self) -> &T {
        self.0.wait()
    }
}

/// Those who wait for one sync.
#[derive(Default)]
struct Round {
    over: Event<Outcome>,
    /// Its captain has to lead. Only the captain waits for this.
    turn: Event<()>,
}

/// The sync under way.
#[derive(Default)]
struct Sync {
    /// What it will make durable; None until it has begun.
    goal: Option<WriteSeq>,
    /// None while the leader is alone.
    round: Option<Arc<Round>>,
}

#[derive(Default)]
struct State {
    /// None if nobody leads.
    current: Option<Sync>,
    /// Who waits for the sync after it. None without a captain.
    next: Option<Arc<Round>>,
}

/// The callers of sync of one log.
#[derive(Default)]
pub(super) struct Group {
    state: Mutex<State>,
    /// All up to here is durable. Changed under the lock, read without it.
    durable: AtomicU64,
}

impl Group {
    /// Waits until write `seq` is durable or has to be made so by the caller.
    pub(super) fn enter(&self, seq: WriteSeq) -> Result<Role, WalError> {
        let durable = WriteSeq(self.durable.load(Ordering::Acquire));
        if seq <= durable {
            return Ok(Role::Done(durable));
        }
        let mut state = self.state.lock();
        let durable = WriteSeq(self.durable.load(Ordering::Acquire));
        if seq <= durable {
            return Ok(Role::Done(durable));
        }
        let State { current, next } = &mut *state;
        let Some(current) = current else {
            *current = Some(Sync::default());
            return Ok(Role::Lead);
        };
        let round = if current.goal.is_none_or(|goal| seq <= goal) {
            Arc::clone(current.round.get_or_insert_default())
        } else if let Some(next) = next {
            Arc::clone(next)
        } else {
            let round = Arc::clone(next.get_or_insert_default());
            drop(state);
            round.turn.wait();
            return Ok(Role::Lead);
        };
        drop(state);
        round.over.wait().of(seq).map(Role::Done)
    }

    /// Waits until the caller leads, whatever is durable. The leader before it is done then, and nobody but
    /// the caller does I/O.
    pub(super) fn lead(&self) {
        // No write has this number, so it ends only by leading.
        while !matches!(self.enter(WriteSeq(u64::MAX)), Ok(Role::Lead)) {}
    }

    /// The leader begins to make durable everything up to `goal`, which is all that is written: nothing may be
    /// written between the choice of the goal and this call.
    pub(super) fn begin(&self, goal: WriteSeq) {
        if let Some(current) = &mut self.state.lock().current {
            current.goal = Some(goal);
        }
    }

    /// Makes the caller the leader if there is none. It never waits, and no write is waited for.
    pub(super) fn try_lead(&self) -> bool {
        let mut state = self.state.lock();
        let free = state.current.is_none();
        if free {
            state.current = Some(Sync::default());
        }
        free
    }

    /// The leader is done.
    pub(super) fn finish(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        self.durable.fetch_max(outcome.durable.0, Ordering::AcqRel);
        let round = state.current.take().and_then(|sync| sync.round);
        let next = state.next.take();
        state.current = next.clone().map(|next| Sync {
            goal: None,
            round: Some(next),
        });
        drop(state);
        if let Some(round) = round {
            round.over.set(outcome);
        }
        if let Some(next) = next {
            next.turn.set(());
        }
    }
}

#[cfg(test)]
mod tests;
