//! What the requests of all clients may hold in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The bytes that each client may hold, however many the others do: room for its small requests.
pub(crate) const SHARE: usize = 64 << 10;

/// The bytes that all clients together may hold beyond their shares.
pub(crate) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub(crate) const fn new(bytes: usize) -> Self {
        Self {
            left: AtomicUsize::new(bytes),
        }
    }

    /// What is not taken.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes all of it or nothing.
    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        // Nothing is taken for most requests, and threads that answer others need not hear of it.
        bytes == 0
            || self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
                .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.left.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// The room of one client: its share, and beyond it what the budget has left. Given back when it is dropped.
pub(crate) struct Room {
    budget: Arc<Budget>,
    taken: usize,
}

impl Room {
    pub(crate) const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, taken: 0 }
    }

    /// Takes so many bytes more, or none if there are not as many.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        let Some(taken) = self.taken.checked_add(bytes) else {
            return false;
        };
        let is_there = self.budget.take(beyond(taken) - beyond(self.taken));
        if is_there {
            self.taken = taken;
        }
        is_there
    }

    /// Gives back what is taken beyond so many bytes.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let kept = self.taken.min(bytes);
        self.budget.give_back(beyond(self.taken) - beyond(kept));
        self.taken = kept;
    }

    pub(crate) const fn taken(&self) -> usize {
        self.taken
    }

    /// Whether something of the budget is taken.
    pub(crate) const fn is_beyond_share(&self) -> bool {
        beyond(self.taken) > 0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.keep(0);
    }
}

const fn beyond(taken: usize) -> usize {
    taken.saturating_sub(SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_there_by_right_and_what_is_taken_beyond_it_comes_back() {
        let budget = Arc::new(Budget::new(1_000));
        let mut greedy = Room::new(Arc::clone(&budget));
        assert!(greedy.take(SHARE + 900));
        assert!(greedy.is_beyond_share());
        let mut other = Room::new(Arc::clone(&budget));
        assert!(other.take(SHARE));
        assert!(!other.is_beyond_share());
        assert!(other.take(100));
        assert!(!other.take(1) && !greedy.take(usize::MAX));
        assert_eq!((other.taken(), budget.left()), (SHARE + 100, 0));

        other.keep(SHARE + 40);
        assert_eq!(budget.left(), 60);
        other.keep(10);
        other.keep(20);
        assert_eq!((other.taken(), budget.left()), (10, 100));
        drop(greedy);
        assert_eq!(budget.left(), 1_000);
    }
}
