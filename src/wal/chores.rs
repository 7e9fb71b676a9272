//! What the helper thread does beside preparing segments: it writes the fence of a log that fell idle.
//!
//! Whoever synced rouses the helper, at most once until it has looked. A busy log costs it one look in each
//! [`WalOptions::fence_after`](super::WalOptions::fence_after); an idle log that is fenced, none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Handle;

/// The chores of one log, and what is known of it since the last look.
pub(super) struct Chores {
    handle: Arc<Handle>,
    fence_after: Duration,
    /// How often the log had been synced when it was looked at, and when that was.
    seen: Option<(u64, Instant)>,
}

impl Chores {
    pub(super) const fn new(handle: Arc<Handle>, fence_after: Duration) -> Self {
        Self {
            handle,
            fence_after,
            seen: None,
        }
    }

    /// Does what is due, and says when it wants to be called again without being roused.
    pub(super) fn run(&mut self, now: Instant) -> Option<Instant> {
        let Some(syncs) = self.handle.unfenced() else {
            self.seen = None;
            return None;
        };
        let since = match self.seen {
            Some((seen, since)) if seen == syncs => since,
            _ => now,
        };
        self.seen = Some((syncs, since));
        let due = since.checked_add(self.fence_after)?;
        if due > now {
            return Some(due);
        }
        self.seen = None;
        if self.handle.fence_if_idle(syncs) {
            // The first batch of a segment fences what is before the segment, and not itself.
            return self.run(now);
        }
        // Somebody else is syncing, or has to, and rouses the helper after it.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::WriteSeq;
    use crate::wal::group::Outcome;
    use crate::wal::{Preparer, Wal, WalOptions};

    const SECOND: Duration = Duration::from_secs(1);

    /// A log with one entry that no fence covers, and its chores, which nobody does by himself.
    fn log(dir: &tempfile::TempDir) -> (Wal, Chores) {
        let options = WalOptions::new(dir.path()).segment_bytes(64 << 10);
        let (wal, _) = options.preparer(Preparer::Inline).open().unwrap();
        append(&wal);
        let chores = Chores::new(Arc::clone(&wal.handle), SECOND);
        (wal, chores)
    }

    fn append(wal: &Wal) {
        let staged = wal.append(&[b"entry"]).unwrap();
        wal.sync(staged).unwrap();
    }

    #[test]
    fn a_log_that_was_not_synced_for_so_long_is_fenced_and_wants_no_further_look() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut chores) = log(&dir);
        let start = Instant::now();
        assert_eq!(chores.run(start), Some(start + SECOND));
        assert_eq!(chores.run(start + SECOND / 2), Some(start + SECOND));
        assert_eq!(wal.syncs(), 1, "not yet");
        assert_eq!(chores.run(start + SECOND), None);
        assert_eq!(wal.syncs(), 2);
        assert!(wal.fence().unwrap().is_none(), "there is one");
        assert_eq!(chores.run(start + 2 * SECOND), None);
        assert_eq!(wal.syncs(), 2);
    }

    #[test]
    fn a_busy_log_is_left_alone_and_a_log_with_staged_writes_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut chores) = log(&dir);
        let mut now = Instant::now();
        for _ in 0..5 {
            assert_eq!(chores.run(now), Some(now + SECOND));
            append(&wal);
            now += SECOND;
        }
        assert_eq!(wal.syncs(), 6, "one for each append");
        assert_eq!(chores.run(now), Some(now + SECOND));
        let staged = wal.append(&[b"staged"]).unwrap();
        assert_eq!(chores.run(now + SECOND), None);
        assert_eq!(wal.syncs(), 6);
        wal.sync(staged).unwrap();
    }

    #[test]
    fn a_fence_that_opens_a_segment_is_followed_by_one_that_covers_it() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = log(&dir);
        drop(wal);
        let path = dir.path().join("0000000000000001.wal");
        let mut bytes = std::fs::read(&path).unwrap();
        // No fence says that the entry was durable: it is cut, and a fresh segment follows.
        let entry = bytes.windows(5).position(|part| part == b"entry").unwrap();
        bytes[entry] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let options = WalOptions::new(dir.path()).segment_bytes(64 << 10);
        let (wal, recovery) = options.preparer(Preparer::Inline).open().unwrap();
        assert!(recovery.torn.is_some());
        let mut chores = Chores::new(Arc::clone(&wal.handle), Duration::ZERO);
        assert_eq!(chores.run(Instant::now()), None);
        assert_eq!(wal.syncs(), 2);
        assert_eq!(wal.handle.unfenced(), None);
    }

    #[test]
    fn the_fence_does_not_wait_for_whoever_is_syncing() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut chores) = log(&dir);
        let now = Instant::now();
        chores.run(now);
        assert!(wal.handle.group.try_lead(), "nobody else");
        assert_eq!(chores.run(now + SECOND), None);
        assert_eq!(wal.syncs(), 1);
        wal.handle.group.finish(Outcome {
            durable: WriteSeq(1),
            error: None,
        });
        chores.run(now + SECOND);
        assert_eq!(chores.run(now + 2 * SECOND), None);
        assert_eq!(wal.syncs(), 2);
    }
}
