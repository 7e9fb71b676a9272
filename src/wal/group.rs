//! Group commit: of all who wait for the disk, one works for all.
//!
//! ```text
//!  enter(seq) -- is durable already ----------> done
//!    |-- nobody leads, nobody to wait for ----> leads
//!    |-- nobody leads, others will come ------> captain of the round that gathers
//!    |-- the sync under way will cover it ----> joins its round    \  sleeps until the round is over,
//!    |-- others wait for the sync after it ---> joins their round  /  and returns with the outcome
//!    `-- nobody does -------------------------> captain of the next round
//!
//!  a round that gathers is led by the last who was waited for, or else by its captain
//!
//!  leads --> begin(goal) --> write, fdatasync --> finish(outcome): 1. wakes the round, all at once
//!            what is written up to the goal                        2. wakes the next one's captain
//!            is covered from here on
//! ```
//! What is staged during one fdatasync is the next one's batch. A caller alone does its I/O itself, at once,
//! with no hop to another thread. That a round is over happens once; so one call to the system wakes all of
//! a round and nobody else, and nobody fights for a lock on waking. Where several call, a sync waits a moment
//! for those who were there before ([`Pace`]); the last of them is awake, and leads with no hop either.
//!
//! Nobody sleeps forever: a round that nobody leads has a captain, who wakes when its turn comes and when the
//! wait for others is over; whoever leads calls `finish`, also when it fails or panics; and who joins a round
//! before its goal is known wrote before the goal is chosen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::error::WalError;
use super::pace::Pace;
use crate::sync::thread::{self, Thread};
use crate::sync::{AtomicU64, Mutex, OnceLock};
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

    fn get(&self) -> Option<&T> {
        self.0.get()
    }

    fn wait(&self) -> &T {
        self.0.wait()
    }
}

/// Those who wait for one sync.
#[derive(Default)]
struct Round {
    over: Event<Outcome>,
    /// Who leads it if nobody else does. None if its leader was there before it.
    captain: Option<Thread>,
}

impl Round {
    /// The caller is its captain.
    fn gather() -> Arc<Self> {
        Arc::new(Self {
            over: Event::default(),
            captain: Some(thread::current()),
        })
    }

    fn rouse_captain(&self) {
        if let Some(captain) = &self.captain {
            captain.unpark();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits for others. Its captain watches.
    Gathers,
    Led,
    /// This is what it will make durable.
    Begun(WriteSeq),
}

/// The sync under way, or about to be.
struct Sync {
    stage: Stage,
    /// How many are aboard, its leader or captain among them.
    aboard: usize,
    /// None while the leader is alone.
    round: Option<Arc<Round>>,
}

impl Sync {
    fn led() -> Self {
        Self {
            stage: Stage::Led,
            aboard: 1,
            round: None,
        }
    }

    fn gathers(round: Arc<Round>, aboard: usize) -> Self {
        Self {
            stage: Stage::Gathers,
            aboard,
            round: Some(round),
        }
    }

    /// Whether it is this round's, and nobody leads it.
    fn waits_for(&self, round: &Arc<Round>) -> bool {
        let of = self.round.as_ref();
        self.stage == Stage::Gathers && of.is_some_and(|of| Arc::ptr_eq(of, round))
    }

    /// Whether it will make write `seq` durable, which has been written.
    fn covers(&self, seq: WriteSeq) -> bool {
        match self.stage {
            Stage::Gathers | Stage::Led => true,
            Stage::Begun(goal) => seq <= goal,
        }
    }
}

/// Those who wait for the sync after the one under way.
struct Next {
    round: Arc<Round>,
    /// How many they are, the captain among them.
    waiting: usize,
}

#[derive(Default)]
struct State {
    /// None if nobody leads and nobody waits.
    current: Option<Sync>,
    next: Option<Next>,
    pace: Pace,
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
        let State {
            current,
            next,
            pace,
        } = &mut *state;
        let Some(sync) = current else {
            if pace.patience(1).is_none() {
                pace.begin_at_once();
                *current = Some(Sync::led());
                return Ok(Role::Lead);
            }
            let round = Round::gather();
            *current = Some(Sync::gathers(Arc::clone(&round), 1));
            drop(state);
            return self.watch(&round, seq);
        };
        let round = if sync.covers(seq) {
            sync.aboard += 1;
            if sync.stage == Stage::Gathers && pace.is_full(sync.aboard) {
                pace.begin(sync.aboard);
                sync.stage = Stage::Led;
                return Ok(Role::Lead);
            }
            Arc::clone(sync.round.get_or_insert_default())
        } else if let Some(next) = next {
            next.waiting += 1;
            Arc::clone(&next.round)
        } else {
            let round = Round::gather();
            *next = Some(Next {
                round: Arc::clone(&round),
                waiting: 1,
            });
            drop(state);
            return self.watch(&round, seq);
        };
        drop(state);
        round.over.wait().of(seq).map(Role::Done)
    }

    /// The captain waits until its round is over, or has to be led.
    fn watch(&self, round: &Arc<Round>, seq: WriteSeq) -> Result<Role, WalError> {
        loop {
            if let Some(outcome) = round.over.get() {
                return outcome.of(seq).map(Role::Done);
            }
            let mut left = None;
            {
                let State { current, pace, .. } = &mut *self.state.lock();
                if let Some(sync) = current.as_mut().filter(|sync| sync.waits_for(round)) {
                    left = pace.patience(sync.aboard);
                    if left.is_none() {
                        pace.begin(sync.aboard);
                        sync.stage = Stage::Led;
                        return Ok(Role::Lead);
                    }
                }
            }
            match left {
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
        }
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
            current.stage = Stage::Begun(goal);
        }
    }

    /// Makes the caller the leader if there is none. It never waits, and no write is waited for.
    pub(super) fn try_lead(&self) -> bool {
        let mut state = self.state.lock();
        let free = state.current.is_none();
        if free {
            state.pace.begin_at_once();
            state.current = Some(Sync::led());
        }
        free
    }

    /// The leader is done.
    pub(super) fn finish(&self, outcome: Outcome) {
        let mut state = self.state.lock();
        self.durable.fetch_max(outcome.durable.0, Ordering::AcqRel);
        let sync = state.current.take();
        let next = state.next.take();
        let aboard = sync.as_ref().map_or(0, |sync| sync.aboard);
        let waiting = next.as_ref().map_or(0, |next| next.waiting);
        state.pace.finish(aboard + waiting);
        let next = next.map(|next| next.round);
        state.current = next.clone().map(|round| Sync::gathers(round, waiting));
        drop(state);
        if let Some(round) = sync.and_then(|sync| sync.round) {
            round.over.set(outcome);
            round.rouse_captain();
        }
        if let Some(next) = next {
            next.rouse_captain();
        }
    }
}

#[cfg(test)]
mod tests;
