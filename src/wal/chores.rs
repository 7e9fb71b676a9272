//! What the helper thread does beside preparing segments: it writes the fence of a log that fell idle, and
//! reads sealed segments again.
//!
//! Whoever synced rouses the helper, at most once until it has looked. A busy log costs it one look in each
//! [`WalOptions::fence_after`](super::WalOptions::fence_after); an idle log that is fenced, none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Handle;

/// When to look again whether there is a sealed segment.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The least time from one step to the next, whatever the rate: small segments are not read without end.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// When the chores want to be called again.
pub(super) struct Next {
    /// Without being roused.
    pub(super) at: Option<Instant>,
    /// Whether they look at the log by then early enough for who syncs, who need not rouse them.
    pub(super) is_watching: bool,
}

/// The chores of one log, and what is known of it since the last look.
pub(super) struct Chores {
    handle: Arc<Handle>,
    fence_after: Duration,
    /// How often the log had been synced when it was looked at, and when that was.
    seen: Option<(u64, Instant)>,
    /// How many bytes a second are read again; none if none are, or no more.
    rate: Option<u64>,
    /// When the next part is to be read.
    scrub_due: Option<Instant>,
}

impl Chores {
    pub(super) const fn new(handle: Arc<Handle>, fence_after: Duration, rate: Option<u64>) -> Self {
        Self {
            handle,
            fence_after,
            seen: None,
            rate,
            scrub_due: None,
        }
    }

    /// Does what is due.
    pub(super) fn run(&mut self, now: Instant) -> Next {
        let fence = self.fence(now);
        let scrub = self.scrub(now);
        Next {
            at: fence.into_iter().chain(scrub).min(),
            // The scrub's time may be far off.
            is_watching: fence.is_some(),
        }
    }

    /// Reads the next part of the sealed segments if it is time, and says when it is time for the one after. A
    /// late step is not made up for.
    fn scrub(&mut self, now: Instant) -> Option<Instant> {
        let rate = self.rate?;
        if let Some(due) = self.scrub_due.filter(|&due| due > now) {
            return Some(due);
        }
        let pause = match self.handle.scrub_step() {
            Ok(Some(scrubbed)) => pause(scrubbed.bytes, rate),
            Ok(None) => LOOK_AGAIN,
            Err(_closed) => Duration::MAX,
        };
        self.scrub_due = now.checked_add(pause);
        if self.scrub_due.is_none() {
            self.rate = None;
        }
        self.scrub_due
    }

    /// Writes the fence if it is due, and says when to look again without being roused.
    fn fence(&mut self, now: Instant) -> Option<Instant> {
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
            return self.fence(now);
        }
        // Somebody else is syncing, or has to, and rouses the helper after it.
        None
    }
}

/// How long after a step that read so many bytes the next may begin, at `rate` bytes a second.
fn pause(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).max(LEAST_PAUSE)
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
        let chores = Chores::new(Arc::clone(&wal.handle), SECOND, None);
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
        assert_eq!(chores.fence(start), Some(start + SECOND));
        assert_eq!(chores.fence(start + SECOND / 2), Some(start + SECOND));
        assert_eq!(wal.syncs(), 1, "not yet");
        assert_eq!(chores.fence(start + SECOND), None);
        assert_eq!(wal.syncs(), 2);
        assert!(wal.fence().unwrap().is_none(), "there is one");
        assert_eq!(chores.fence(start + 2 * SECOND), None);
        assert_eq!(wal.syncs(), 2);
    }

    #[test]
    fn a_busy_log_is_left_alone_and_a_log_with_staged_writes_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut chores) = log(&dir);
        let mut now = Instant::now();
        for _ in 0..5 {
            assert_eq!(chores.fence(now), Some(now + SECOND));
            append(&wal);
            now += SECOND;
        }
        assert_eq!(wal.syncs(), 6, "one for each append");
        assert_eq!(chores.fence(now), Some(now + SECOND));
        let staged = wal.append(&[b"staged"]).unwrap();
        assert_eq!(chores.fence(now + SECOND), None);
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
        let mut chores = Chores::new(Arc::clone(&wal.handle), Duration::ZERO, None);
        assert_eq!(chores.fence(Instant::now()), None);
        assert_eq!(wal.syncs(), 2);
        assert_eq!(wal.handle.unfenced(), None);
    }

    #[test]
    fn the_fence_does_not_wait_for_whoever_is_syncing() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, mut chores) = log(&dir);
        let now = Instant::now();
        chores.fence(now);
        assert!(wal.handle.group.try_lead(), "nobody else");
        assert_eq!(chores.fence(now + SECOND), None);
        assert_eq!(wal.syncs(), 1);
        wal.handle.group.finish(Outcome {
            durable: WriteSeq(1),
            error: None,
        });
        chores.fence(now + SECOND);
        assert_eq!(chores.fence(now + 2 * SECOND), None);
        assert_eq!(wal.syncs(), 2);
    }

    #[test]
    fn the_next_step_waits_until_the_rate_allows_for_what_the_one_before_read() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = log(&dir);
        let scrub = |rate| Chores::new(Arc::clone(&wal.handle), Duration::MAX, Some(rate));
        let start = Instant::now();
        assert_eq!(scrub(1).scrub(start), Some(start + LOOK_AGAIN), "nothing");
        for _ in 0..70 {
            let staged = wal.append(&[&[7; 1000]]).unwrap();
            wal.sync(staged).unwrap();
        }
        let mut chores = scrub(16 << 10);
        let path = dir.path().join("0000000000000001.wal");
        let sealed = wal.handle.core.lock().sealed_after(0).unwrap().0;
        let frames = sealed.published() - crate::wal::format::HEADER_BYTES;
        let due = start + pause(frames, 16 << 10);
        assert!(due > start + 3 * SECOND && due < start + 4 * SECOND);
        assert_eq!(chores.scrub(start), Some(due));
        // Before it is time nothing is read, whatever else wakes the helper.
        std::fs::remove_file(path).unwrap();
        assert_eq!(chores.scrub(due - SECOND / 1000), Some(due));
        assert_eq!(wal.handle.rounds.lock().told(), 0);
        // Late by a second, which is not made up for. Nothing was read of what is gone.
        let late = due + SECOND;
        assert_eq!(chores.scrub(late), Some(late + LEAST_PAUSE));
        assert_eq!(wal.handle.rounds.lock().told(), 1);
        assert_eq!(scrub(u64::MAX).scrub(start), Some(start + LEAST_PAUSE));
        wal.close().unwrap();
        assert_eq!(chores.scrub(late + SECOND), None);
    }

    #[test]
    fn a_scrub_that_waits_does_not_keep_who_syncs_from_rousing_the_helper() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, _) = log(&dir);
        let mut chores = Chores::new(Arc::clone(&wal.handle), SECOND / 2, Some(1));
        let start = Instant::now();
        let next = chores.run(start);
        assert_eq!(next.at, Some(start + SECOND / 2), "for the fence");
        assert!(next.is_watching);
        let next = chores.run(start + SECOND / 2);
        assert_eq!(next.at, Some(start + LOOK_AGAIN), "for the scrub");
        assert!(!next.is_watching);
    }
}
