//! Group commit: of all who wait for the disk, one works for all.
//!
//! ```text
//!            nobody leads                 somebody leads
//!  enter ----------------> leads   enter ----------------> waits in the queue
//!                            |                               |
//!                            v  take, write, fdatasync       |
//!                          finish: each waiter that is now covered wakes, once, with the result;
//!                                  the first that is not covered wakes as the leader
//! ```
//! There is no timer: what is staged during one fdatasync is the next one's batch. A caller alone does its
//! I/O itself, with no hop to another thread. Each waiter has its own place to sleep, so that nobody wakes
//! for nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;

use parking_lot::Mutex;

use super::error::WalError;
use crate::types::WriteSeq;

/// What a caller of sync has to do.
pub(super) enum Role {
    /// The write is durable up to here.
    Done(WriteSeq),
    /// Do the I/O, and call [`Group::finish`] with what came of it.
    Lead,
}

enum Signal {
    Role(Role),
    Failed(WalError),
}

/// Where one waiter sleeps.
struct Waiter {
    seq: WriteSeq,
    slot: Arc<Slot>,
}

struct Slot {
    thread: Thread,
    signal: Mutex<Option<Signal>>,
}

impl Slot {
    fn wake(&self, signal: Signal) {
        *self.signal.lock() = Some(signal);
        self.thread.unpark();
    }

    fn wait(&self) -> Signal {
        loop {
            if let Some(signal) = self.signal.lock().take() {
                return signal;
            }
            std::thread::park();
        }
    }
}

thread_local! {
    /// A thread waits for one write at a time, so one slot does for all of its life.
    static SLOT: Arc<Slot> = Arc::new(Slot {
        thread: std::thread::current(),
        signal: Mutex::new(None),
    });
}

#[derive(Default)]
struct State {
    leading: bool,
    durable: WriteSeq,
    waiters: VecDeque<Waiter>,
}

/// The callers of sync of one log.
#[derive(Default)]
pub(super) struct Group {
    state: Mutex<State>,
}

impl Group {
    /// Waits until write `seq` is durable or has to be made so by the caller.
    pub(super) fn enter(&self, seq: WriteSeq) -> Result<Role, WalError> {
        let mut state = self.state.lock();
        if seq <= state.durable {
            return Ok(Role::Done(state.durable));
        }
        if !state.leading {
            state.leading = true;
            return Ok(Role::Lead);
        }
        let slot = SLOT.with(Arc::clone);
        state.waiters.push_back(Waiter {
            seq,
            slot: Arc::clone(&slot),
        });
        drop(state);
        match slot.wait() {
            Signal::Role(role) => Ok(role),
            Signal::Failed(error) => Err(error),
        }
    }

    /// The leader is done, and everything up to `durable` is.
    ///
    /// After an error everyone else who waits gets it too: their writes were part of the same try.
    pub(super) fn finish(&self, durable: WriteSeq, error: Option<&WalError>) {
        let mut state = self.state.lock();
        state.durable = durable.max(state.durable);
        let durable = state.durable;
        let mut covered = VecDeque::new();
        let mut uncovered = VecDeque::new();
        for waiter in state.waiters.drain(..) {
            if waiter.seq <= durable {
                covered.push_back(waiter);
            } else {
                uncovered.push_back(waiter);
            }
        }
        let mut failed = VecDeque::new();
        let mut next = None;
        if error.is_some() {
            failed = uncovered;
        } else {
            next = uncovered.pop_front();
            state.waiters = uncovered;
        }
        state.leading = next.is_some();
        drop(state);
        if let Some(next) = next {
            next.slot.wake(Signal::Role(Role::Lead));
        }
        for waiter in covered {
            waiter.slot.wake(Signal::Role(Role::Done(durable)));
        }
        if let Some(error) = error {
            for waiter in failed {
                waiter.slot.wake(Signal::Failed(error.clone()));
            }
        }
    }
}
