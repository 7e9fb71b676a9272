//! Where a node is, for everyone to look at without asking a thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::raft::event::Status;
use crate::types::{LogIndex, Membership, NodeId};

pub(crate) struct Progress {
    status: Mutex<Status>,
    membership: Mutex<Membership>,
    committed: AtomicU64,
    applied: AtomicU64,
    /// Those who wait for an index to be committed or a leader to be known; they also hear of the end.
    followers: Mutex<Followers>,
    moved: Condvar,
}

struct Followers {
    waiting: usize,
    ended: bool,
}

impl Progress {
    pub(super) const fn new(status: Status, membership: Membership) -> Self {
        Self {
            status: Mutex::new(status),
            membership: Mutex::new(membership),
            committed: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            followers: Mutex::new(Followers {
                waiting: 0,
                ended: false,
            }),
            moved: Condvar::new(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        *self.status.lock()
    }

    /// The last configuration in the log, committed or not.
    pub(crate) fn membership(&self) -> Membership {
        self.membership.lock().clone()
    }

    pub(super) fn set_membership(&self, membership: Membership) {
        *self.membership.lock() = membership;
    }

    pub(crate) fn committed_index(&self) -> LogIndex {
        LogIndex(self.committed.load(Ordering::Acquire))
    }

    pub(crate) fn applied_index(&self) -> LogIndex {
        LogIndex(self.applied.load(Ordering::Acquire))
    }

    pub(super) fn set_status(&self, status: Status) {
        *self.status.lock() = status;
        self.wake();
    }

    pub(super) fn applied(&self, index: LogIndex) {
        self.applied.store(index.0, Ordering::Release);
    }

    pub(super) fn committed(&self, index: LogIndex) {
        self.committed.store(index.0, Ordering::Release);
        self.wake();
    }

    /// The lock orders this after the look of whoever is about to wait.
    fn wake(&self) {
        if self.followers.lock().waiting > 0 {
            self.moved.notify_all();
        }
    }

    /// No more will be committed here.
    pub(super) fn end(&self) {
        self.followers.lock().ended = true;
        self.moved.notify_all();
    }

    /// Waits until an index after `seen` is committed; None when the node has stopped, or at `deadline`.
    pub(crate) fn wait_committed(
        &self,
        seen: LogIndex,
        deadline: Option<Instant>,
    ) -> Option<LogIndex> {
        self.wait(deadline, || {
            Some(self.committed_index()).filter(|&index| index > seen)
        })
    }

    /// Waits until a leader is known; None when the node has stopped, or at `deadline`.
    pub(crate) fn wait_leader(&self, deadline: Option<Instant>) -> Option<NodeId> {
        self.wait(deadline, || self.status().leader)
    }

    fn wait<T>(&self, deadline: Option<Instant>, look: impl Fn() -> Option<T>) -> Option<T> {
        let mut followers = self.followers.lock();
        followers.waiting += 1;
        let found = loop {
            let found = look();
            if found.is_some() || followers.ended {
                break found;
            }
            match deadline {
                None => self.moved.wait(&mut followers),
                Some(deadline) => {
                    if self.moved.wait_until(&mut followers, deadline).timed_out() {
                        break look();
                    }
                }
            }
        };
        followers.waiting -= 1;
        found
    }
}
