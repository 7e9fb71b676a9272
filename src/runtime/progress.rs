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
    /// The least index that one of them has seen, and waits for more. Taken when they wake, so that who waits on
    /// says so again; who gave up may leave one, which wakes the others once in vain.
    seen: Option<LogIndex>,
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
                seen: None,
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
        self.wake(LogIndex(u64::MAX));
    }

    pub(super) fn applied(&self, index: LogIndex) {
        self.applied.store(index.0, Ordering::Release);
    }

    pub(super) fn committed(&self, index: LogIndex) {
        self.committed.store(index.0, Ordering::Release);
        self.wake(index);
    }

    /// Wakes all if one waits for what `index` is beyond. The lock orders this after the look of whoever is about
    /// to wait.
    fn wake(&self, index: LogIndex) {
        let mut followers = self.followers.lock();
        if followers.seen.is_some_and(|seen| seen < index) {
            followers.seen = None;
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
        self.wait(seen, deadline, || {
            Some(self.committed_index()).filter(|&index| index > seen)
        })
    }

    /// Waits until a leader is known; None when the node has stopped, or at `deadline`.
    pub(crate) fn wait_leader(&self, deadline: Option<Instant>) -> Option<NodeId> {
        self.wait(LogIndex(u64::MAX - 1), deadline, || self.status().leader)
    }

    /// Looks whenever the status changes, or more than `seen` is committed.
    fn wait<T>(
        &self,
        seen: LogIndex,
        deadline: Option<Instant>,
        look: impl Fn() -> Option<T>,
    ) -> Option<T> {
        let mut followers = self.followers.lock();
        loop {
            let found = look();
            if found.is_some() || followers.ended {
                return found;
            }
            let least = followers.seen.map_or(seen, |other| other.min(seen));
            followers.seen = Some(least);
            match deadline {
                None => self.moved.wait(&mut followers),
                Some(deadline) => {
                    if self.moved.wait_until(&mut followers, deadline).timed_out() {
                        return look();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::raft::event::RoleName;
    use crate::types::Term;

    fn progress() -> Progress {
        let status = Status {
            role: RoleName::Follower,
            term: Term(1),
            leader: None,
        };
        Progress::new(status, Membership::default())
    }

    #[test]
    fn nobody_is_woken_for_less_than_is_waited_for() {
        let progress = progress();
        progress.followers.lock().seen = Some(LogIndex(5));
        progress.committed(LogIndex(5));
        assert_eq!(progress.followers.lock().seen, Some(LogIndex(5)));
        progress.committed(LogIndex(6));
        assert_eq!(progress.followers.lock().seen, None);
    }

    #[test]
    fn everyone_who_waits_hears_of_what_comes() {
        let progress = progress();
        thread::scope(|scope| {
            let wait = |seen| progress.wait_committed(LogIndex(seen), None);
            let waits: Vec<_> = (0..4).map(|seen| scope.spawn(move || wait(seen))).collect();
            let leader = scope.spawn(|| progress.wait_leader(None));
            for index in 1..=4 {
                progress.committed(LogIndex(index));
            }
            for (seen, wait) in (0..).zip(waits) {
                assert!(wait.join().unwrap() > Some(LogIndex(seen)));
            }
            let status = Status {
                leader: Some(NodeId(3)),
                ..progress.status()
            };
            progress.set_status(status);
            assert_eq!(leader.join().unwrap(), Some(NodeId(3)));
            let end = scope.spawn(move || wait(u64::MAX - 1));
            progress.end();
            assert_eq!(end.join().unwrap(), None);
        });
    }
}
