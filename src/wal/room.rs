//! Large pieces of memory that are used again.
//!
//! Whichever thread has something to write would ask for them, and another give them back. An allocator keeps for
//! each thread what that once needed, so what one segment takes would in time be kept many times over.

/// Pieces that are kept at the most: one is filled while another is on its way to the disk, and where one segment
/// ends and the next begins there is one more.
const KEEP: usize = 2;

/// Emptied vectors that have their room still.
pub(super) struct Room<T>(Vec<Vec<T>>);

impl<T> Default for Room<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Room<T> {
    /// An empty vector, with the room of one before it if there is any.
    pub(super) fn take(&mut self) -> Vec<T> {
        self.0.pop().unwrap_or_default()
    }

    /// Keeps the room of a vector that is needed no more.
    pub(super) fn keep(&mut self, mut used: Vec<T>) {
        if self.0.len() < KEEP {
            used.clear();
            self.0.push(used);
        }
    }

    /// Likewise, but no more than twice what was in it: the next of its kind will need about as much.
    pub(super) fn keep_fitting(&mut self, mut used: Vec<T>) {
        used.shrink_to(2 * used.len());
        self.keep(used);
    }
}
