//! What threads meet at: locks, flags, other threads, the time. The log, the turns of consensus and the simulated disk
//! name them from here.
//!
//! In the crate's own unit tests they are stand-ins, so that a schedule explorer can run the shipped code
//! (`wal/tests/schedules.rs`, `runtime/turns/tests/schedules.rs`): inside an exploration every use of one is a place
//! where the explorer may let another thread go on, and outside of it they are the real ones.

#[cfg(not(test))]
pub(crate) use std::sync::OnceLock;
#[cfg(not(test))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64};
#[cfg(not(test))]
pub(crate) use std::thread;

#[cfg(not(test))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};

#[cfg(not(test))]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
mod explored;
#[cfg(test)]
pub(crate) use explored::{
    AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, OnceLock, explore, now, thread,
};
