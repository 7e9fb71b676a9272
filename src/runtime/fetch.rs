//! Fetching a snapshot: asked for piece by piece, so that no more is under way than one, and whoever has the same
//! snapshot can go on where another left off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::snapshot::{Ask, IncomingSnapshot, Piece, SnapshotError, SnapshotStore, Whole};
use crate::transport::Transport;
use crate::types::{LogId, NodeId};

/// How long an answer may take before the same is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// What the raft thread hears of snapshots of others.
pub(super) enum Transfer {
    /// A leader has not the entries that are needed here, and offers its snapshot. Comes with each heartbeat,
    /// and nothing is asked for without.
    Offer { from: NodeId, last: LogId },
    /// Some bytes came in.
    Piece { from: NodeId, piece: Piece },
}

/// What is being fetched, and from whom.
pub(super) struct Fetcher {
    store: SnapshotStore,
    transport: Arc<dyn Transport>,
    /// At most so many bytes a second.
    rate: u64,
    from: Option<NodeId>,
    /// When it was offered last.
    offered: Option<Instant>,
    incoming: Option<IncomingSnapshot>,
    /// When the answer that is awaited was asked for.
    asked: Option<Instant>,
    /// Nothing is asked before, for the rate's sake.
    next: Option<Instant>,
}

impl Fetcher {
    pub(super) const fn new(
        store: SnapshotStore,
        transport: Arc<dyn Transport>,
        rate: u64,
    ) -> Self {
        Self {
            store,
            transport,
            rate,
            from: None,
            offered: None,
            incoming: None,
            asked: None,
            next: None,
        }
    }

    /// When [`Fetcher::tick`] has something to do.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
            .filter(|_| self.asked.is_none() && self.from.is_some())
    }

    /// Takes in what came at `now`; gives a snapshot that is complete with it, or was already.
    pub(super) fn take(&mut self, transfer: Transfer, now: Instant) -> Option<Arc<Whole>> {
        let taken = match transfer {
            Transfer::Offer { from, last } => Ok(self.offered(from, last, now)),
            Transfer::Piece { from, piece } => self.add(from, &piece, now),
        };
        taken.unwrap_or_else(|error| {
            // From the start, if it is offered again. The disk may have room by then.
            crate::trace::warn!(%error, "a snapshot that was fetched is given up");
            self.incoming = None;
            self.asked = Some(now);
            None
        })
    }

    fn offered(&mut self, from: NodeId, last: LogId, now: Instant) -> Option<Arc<Whole>> {
        if let Some(newest) = self.store.newest()
            && newest.meta().last.index >= last.index
        {
            return Some(newest);
        }
        self.offered = Some(now);
        let waits = self.asked.is_some_and(|asked| now < asked + RETRY);
        if self.from != Some(from) || (!waits && self.due().is_none()) {
            self.from = Some(from);
            self.ask(now);
        }
        None
    }

    /// Asks for what comes next, now that the rate allows it; but not of who has ceased to offer it, since the log
    /// has what is needed then, or another leads.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.due().is_some_and(|due| due <= now) {
            if self.offered.is_some_and(|offered| now < offered + RETRY) {
                self.ask(now);
            } else {
                self.next = None;
            }
        }
    }

    fn ask(&mut self, now: Instant) {
        let have = self.incoming.as_ref();
        let have = have.map(|incoming| (incoming.id(), incoming.have()));
        if let Some(from) = self.from {
            self.asked = Some(now);
            self.transport.ask(from, Ask { have });
        }
    }

    fn add(
        &mut self,
        from: NodeId,
        piece: &Piece,
        now: Instant,
    ) -> Result<Option<Arc<Whole>>, SnapshotError> {
        let known = self.store.last().map(|last| last.index);
        if self.from != Some(from) || Some(piece.id.last.index) <= known {
            return Ok(None);
        }
        let same = self
            .incoming
            .as_ref()
            .is_some_and(|incoming| incoming.id() == piece.id);
        if !same && piece.offset == 0 {
            // Whoever is asked has another one. What is there of the first is of no use for it.
            self.incoming = None;
            self.incoming = Some(self.store.receive(piece.id)?);
        }
        let Some(incoming) = &mut self.incoming else {
            return Ok(None);
        };
        if !incoming.add(piece)? {
            return Ok(None);
        }
        self.asked = None;
        if incoming.is_complete() {
            self.from = None;
            self.next = None;
            return self
                .incoming
                .take()
                .map(IncomingSnapshot::publish)
                .transpose();
        }
        let nanos = u128::from(piece.bytes.len() as u64) * 1_000_000_000 / u128::from(self.rate);
        let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // From when it was allowed, so that the time that asking takes is not lost.
        let begun = self.next.filter(|&next| now < next + pause).unwrap_or(now);
        self.next = Some(begun + pause);
        self.tick(now);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use parking_lot::Mutex;

    use crate::raft::message::Message;
    use crate::snapshot::{Configuration, MAX_PIECE_BYTES, Meta};
    use crate::types::{ClusterId, LogIndex, Term};
    use crate::vfs::StdDisk;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const ME: NodeId = NodeId(3);
    /// Two pieces a second.
    const RATE: u64 = 2 * MAX_PIECE_BYTES as u64;

    #[derive(Default)]
    struct Asked(Mutex<Vec<(NodeId, Ask)>>);

    impl Transport for Asked {
        fn send(&self, _: NodeId, _: Message) {}

        fn ask(&self, to: NodeId, ask: Ask) {
            self.0.lock().push((to, ask));
        }

        fn answer(&self, _: NodeId, _: Ask) {}

        fn close(&self) {}
    }

    struct Bench {
        _dir: tempfile::TempDir,
        /// A member that has a snapshot, and one that fetches it.
        theirs: SnapshotStore,
        fetcher: Fetcher,
        asked: Arc<Asked>,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = |name: &str| {
                let disk = Arc::new(StdDisk);
                SnapshotStore::open(disk, dir.path().join(name), ClusterId(1))
                    .unwrap()
                    .0
            };
            let (theirs, ours) = (store("theirs"), store("ours"));
            let asked = Arc::new(Asked::default());
            let fetcher = Fetcher::new(ours, Arc::clone(&asked) as Arc<_>, RATE);
            let mut bench = Self {
                _dir: dir,
                theirs,
                fetcher,
                asked,
                now: Instant::now(),
            };
            bench.publish(10);
            bench
        }

        /// They take a snapshot of four pieces.
        fn publish(&mut self, index: u64) {
            let meta = Meta {
                cluster: ClusterId(1),
                last: LogId::new(Term(1), LogIndex(index)),
                configuration: Configuration::default(),
                state_format: 0,
            };
            let mut writer = self.theirs.begin(meta).unwrap();
            writer
                .write_all(&vec![7; 3 * MAX_PIECE_BYTES + 100])
                .unwrap();
            writer.publish().unwrap();
        }

        fn offer(&mut self, from: NodeId) -> Option<Arc<Whole>> {
            let last = self.theirs.last().unwrap();
            self.fetcher.take(Transfer::Offer { from, last }, self.now)
        }

        fn pass(&mut self, millis: u64) {
            self.now += Duration::from_millis(millis);
            self.fetcher.tick(self.now);
        }

        fn asks(&self) -> Vec<(NodeId, Ask)> {
            std::mem::take(&mut *self.asked.0.lock())
        }

        /// The one ask there is now, answered.
        fn answered(&mut self) -> (NodeId, u64, Option<Arc<Whole>>) {
            let [(to, ask)] = self.asks().try_into().unwrap();
            let piece = self.theirs.lend(ME, ask).unwrap().unwrap();
            let offset = piece.offset;
            let whole = self
                .fetcher
                .take(Transfer::Piece { from: to, piece }, self.now);
            (to, offset, whole)
        }
    }

    #[test]
    fn pieces_are_asked_for_one_by_one_at_the_rate_that_was_set() {
        let mut bench = Bench::new();
        assert!(bench.offer(A).is_none());
        for number in 0..3 {
            let (_, offset, whole) = bench.answered();
            assert_eq!(
                (offset, whole.is_none()),
                (number * MAX_PIECE_BYTES as u64, true)
            );
            bench.pass(499);
            assert_eq!(bench.asks(), [], "too soon");
            assert!(bench.offer(A).is_none());
            assert_eq!(bench.asks(), [], "an offer is no reason to hurry");
            bench.pass(1);
        }
        let (_, _, whole) = bench.answered();
        assert_eq!(whole.unwrap().id(), bench.theirs.newest().unwrap().id());
        assert_eq!(bench.fetcher.due(), None);
        assert!(bench.offer(A).is_some(), "it is there");
        assert_eq!(bench.asks(), []);
    }

    #[test]
    fn what_is_not_answered_is_asked_again_as_long_as_it_is_offered() {
        let mut bench = Bench::new();
        bench.offer(A);
        assert_eq!(bench.asks().len(), 1);
        bench.pass(1_999);
        bench.offer(A);
        assert_eq!(bench.asks(), []);
        bench.pass(10_000);
        assert_eq!(bench.asks(), [], "nobody offers it any more");
        bench.offer(A);
        assert_eq!(bench.asks().len(), 1);
    }

    #[test]
    fn a_fetch_rests_when_it_is_no_longer_offered_and_goes_on_when_it_is_again() {
        let mut bench = Bench::new();
        bench.offer(A);
        bench.answered();
        bench.pass(2_000);
        assert_eq!(bench.asks(), []);
        assert_eq!(bench.fetcher.due(), None);
        bench.offer(A);
        assert_eq!(bench.answered().1, MAX_PIECE_BYTES as u64);
    }

    #[test]
    fn another_leader_is_asked_at_once_for_what_is_missing() {
        let mut bench = Bench::new();
        bench.offer(A);
        bench.answered();
        bench.pass(500);
        bench.asks();
        bench.offer(B);
        let (to, offset, _) = bench.answered();
        assert_eq!((to, offset), (B, MAX_PIECE_BYTES as u64));
    }

    #[test]
    fn a_snapshot_goes_on_to_be_lent_though_a_newer_one_is_there() {
        let mut bench = Bench::new();
        let first = bench.theirs.newest().unwrap().id();
        bench.offer(A);
        bench.answered();
        (20..40).for_each(|index| bench.publish(index));
        bench.theirs.release(|to| to == ME);
        for _ in 0..2 {
            bench.pass(500);
            bench.answered();
        }
        bench.pass(500);
        assert_eq!(bench.answered().2.unwrap().id(), first);
    }

    #[test]
    fn a_snapshot_that_nobody_has_any_more_is_begun_anew() {
        let mut bench = Bench::new();
        bench.offer(A);
        bench.answered();
        bench.publish(20);
        bench.theirs.release(|to| to != ME);
        bench.pass(500);
        assert_eq!(bench.answered().1, 0);
        for _ in 0..2 {
            bench.offer(A);
            bench.pass(500);
            bench.answered();
        }
        bench.pass(500);
        let whole = bench.answered().2.unwrap();
        assert_eq!(whole.id(), bench.theirs.newest().unwrap().id());
    }

    #[test]
    fn a_piece_that_comes_twice_out_of_turn_or_unasked_is_passed_over() {
        let mut bench = Bench::new();
        bench.offer(A);
        bench.answered();
        let whole = bench.theirs.newest().unwrap();
        for (from, offset) in [
            (A, 0),
            (A, 2 * MAX_PIECE_BYTES as u64),
            (B, MAX_PIECE_BYTES as u64),
        ] {
            let have = Some((whole.id(), offset));
            let piece = bench.theirs.lend(ME, Ask { have }).unwrap().unwrap();
            bench
                .fetcher
                .take(Transfer::Piece { from, piece }, bench.now);
        }
        bench.pass(500);
        assert_eq!(bench.answered().1, MAX_PIECE_BYTES as u64);
    }
}
