//! Fetching a snapshot: asked for piece by piece, so that no more is under way than one, and whoever has the same
//! snapshot can go on where another left off.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::snapshot::{Ask, IncomingSnapshot, Piece, SnapshotError, SnapshotStore, Whole};
use crate::types::{LogId, NodeId, Time};

/// How many election timeouts an answer may take before the same is asked again. Offers come several times in
/// each.
const RETRY: u32 = 10;

/// What consensus hears of snapshots of others.
pub(crate) enum Transfer {
    /// A leader has not the entries that are needed here, and offers its snapshot. Comes with each heartbeat,
    /// and nothing is asked for without.
    Offer { from: NodeId, last: LogId },
    /// Some bytes came in.
    Piece { from: NodeId, piece: Piece },
}

/// What is being fetched, and from whom.
pub(crate) struct Fetcher {
    store: SnapshotStore,
    /// At most so many bytes a second.
    rate: u64,
    retry: Duration,
    /// To be sent.
    ask: Option<(NodeId, Ask)>,
    from: Option<NodeId>,
    /// When it was offered last.
    offered: Option<Time>,
    incoming: Option<IncomingSnapshot>,
    /// When the answer that is awaited was asked for.
    asked: Option<Time>,
    /// Nothing is asked before, for the rate's sake.
    next: Option<Time>,
}

impl Fetcher {
    pub(crate) fn new(store: SnapshotStore, config: &Config) -> Self {
        Self {
            store,
            rate: config.snapshot_rate,
            retry: config.election_timeout * RETRY,
            ask: None,
            from: None,
            offered: None,
            incoming: None,
            asked: None,
            next: None,
        }
    }

    /// When [`Fetcher::tick`] has something to do.
    pub(crate) fn due(&self) -> Option<Time> {
        self.next
            .filter(|_| self.asked.is_none() && self.from.is_some())
    }

    /// What is to be asked of whom, after each call that may have led to it.
    pub(crate) const fn take_ask(&mut self) -> Option<(NodeId, Ask)> {
        self.ask.take()
    }

    /// Takes in what came at `now`; gives a snapshot that is complete with it, or was already.
    ///
    /// # Errors
    /// Why what has come in is given up. It begins anew if it is offered again; the disk may have room by then.
    pub(crate) fn take(
        &mut self,
        transfer: Transfer,
        now: Time,
    ) -> Result<Option<Arc<Whole>>, SnapshotError> {
        let taken = match transfer {
            Transfer::Offer { from, last } => Ok(self.offered(from, last, now)),
            Transfer::Piece { from, piece } => self.add(from, &piece, now),
        };
        if taken.is_err() {
            self.incoming = None;
            self.asked = Some(now);
        }
        taken
    }

    fn offered(&mut self, from: NodeId, last: LogId, now: Time) -> Option<Arc<Whole>> {
        if let Some(newest) = self.store.newest()
            && newest.meta().last.index >= last.index
        {
            return Some(newest);
        }
        self.offered = Some(now);
        let waits = self
            .asked
            .is_some_and(|asked| now < asked.after(self.retry));
        if self.from != Some(from) || (!waits && self.due().is_none()) {
            self.from = Some(from);
            self.ask(now);
        }
        None
    }

    /// Asks for what comes next, now that the rate allows it; but not of who has ceased to offer it, since the log
    /// has what is needed then, or another leads.
    pub(crate) fn tick(&mut self, now: Time) {
        if self.due().is_some_and(|due| due <= now) {
            if self
                .offered
                .is_some_and(|offered| now < offered.after(self.retry))
            {
                self.ask(now);
            } else {
                self.next = None;
            }
        }
    }

    fn ask(&mut self, now: Time) {
        let have = self.incoming.as_ref();
        let have = have.map(|incoming| (incoming.id(), incoming.have()));
        if let Some(from) = self.from {
            self.asked = Some(now);
            self.ask = Some((from, Ask { have }));
        }
    }

    fn add(
        &mut self,
        from: NodeId,
        piece: &Piece,
        now: Time,
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
        let begun = self.next.filter(|&next| now < next.after(pause));
        self.next = Some(begun.unwrap_or(now).after(pause));
        self.tick(now);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    use crate::config::Options;
    use crate::snapshot::{Configuration, MAX_PIECE_BYTES, Meta};
    use crate::types::{ClusterId, LogIndex, Term};
    use crate::vfs::StdDisk;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const ME: NodeId = NodeId(3);
    /// Two pieces a second.
    const RATE: u64 = 2 * MAX_PIECE_BYTES as u64;

    struct Bench {
        _dir: tempfile::TempDir,
        /// A member that has a snapshot, and one that fetches it.
        theirs: SnapshotStore,
        fetcher: Fetcher,
        asked: Vec<(NodeId, Ask)>,
        now: Time,
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
            let options = Options {
                snapshot_rate: RATE,
                ..Options::default()
            };
            let fetcher = Fetcher::new(ours, &Config::try_from(options).unwrap());
            let bench = Self {
                _dir: dir,
                theirs,
                fetcher,
                asked: Vec::new(),
                now: Time(1_000_000),
            };
            bench.publish(10);
            bench
        }

        /// They take a snapshot of four pieces.
        fn publish(&self, index: u64) {
            Self::publish_in(&self.theirs, index);
        }

        fn publish_in(store: &SnapshotStore, index: u64) {
            let meta = Meta {
                cluster: ClusterId(1),
                last: LogId::new(Term(1), LogIndex(index)),
                configuration: Configuration::default(),
                state_format: 0,
            };
            let mut writer = store.begin(meta).unwrap();
            writer
                .write_all(&vec![7; 3 * MAX_PIECE_BYTES + 100])
                .unwrap();
            writer.publish().unwrap();
        }

        fn offer(&mut self, from: NodeId) -> Option<Arc<Whole>> {
            let last = self.theirs.last().unwrap();
            self.take(Transfer::Offer { from, last })
        }

        fn take(&mut self, transfer: Transfer) -> Option<Arc<Whole>> {
            let whole = self.fetcher.take(transfer, self.now).unwrap();
            self.asked.extend(self.fetcher.take_ask());
            whole
        }

        fn pass(&mut self, millis: u64) {
            self.now = self.now.after(Duration::from_millis(millis));
            self.fetcher.tick(self.now);
            self.asked.extend(self.fetcher.take_ask());
        }

        fn asks(&mut self) -> Vec<(NodeId, Ask)> {
            std::mem::take(&mut self.asked)
        }

        /// The one ask there is now, answered.
        fn answered(&mut self) -> (NodeId, u64, Option<Arc<Whole>>) {
            let [(to, ask)] = self.asks().try_into().unwrap();
            let piece = self.theirs.lend(ME, ask, MAX_PIECE_BYTES).unwrap().unwrap();
            let offset = piece.offset;
            let whole = self.take(Transfer::Piece { from: to, piece });
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

    /// Consensus keeps the log behind what is given, not behind what the member has a part of.
    #[test]
    fn who_asks_for_the_rest_of_a_snapshot_of_another_is_given_the_newest_and_it_is_told_so() {
        let mut bench = Bench::new();
        bench.offer(A);
        bench.answered();
        bench.publish(20);
        bench.theirs.release(|to| to != ME);
        bench.pass(500);
        let [(_, ask)] = bench.asks().try_into().unwrap();
        assert_eq!(ask.have.unwrap().0.last.index, LogIndex(10));
        let newest = bench.theirs.last().unwrap();
        assert_eq!(bench.theirs.lends(ME, ask), Some((newest, 0)));
        let piece = bench
            .theirs
            .lend(ME, ask, MAX_PIECE_BYTES)
            .unwrap()
            .unwrap();
        assert_eq!((piece.id.last, piece.offset), (newest, 0));
    }

    #[test]
    fn a_piece_of_another_snapshot_is_passed_over_though_it_would_fit() {
        let mut bench = Bench::new();
        bench.offer(A);
        bench.answered();
        bench.publish(20);
        let have = Some((bench.theirs.newest().unwrap().id(), MAX_PIECE_BYTES as u64));
        let piece = bench.theirs.lend(B, Ask { have }, MAX_PIECE_BYTES);
        let piece = piece.unwrap().unwrap();
        bench.take(Transfer::Piece { from: A, piece });
        bench.pass(500);
        assert_eq!(bench.answered().1, MAX_PIECE_BYTES as u64);
    }

    #[test]
    fn a_snapshot_that_is_older_than_one_taken_meanwhile_is_not_fetched() {
        let mut bench = Bench::new();
        bench.offer(A);
        let [(_, ask)] = bench.asks().try_into().unwrap();
        let piece = bench.theirs.lend(ME, ask, MAX_PIECE_BYTES);
        let piece = piece.unwrap().unwrap();
        Bench::publish_in(&bench.fetcher.store, 15);
        bench.take(Transfer::Piece { from: A, piece });
        assert!(bench.fetcher.incoming.is_none());
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
            let piece = bench
                .theirs
                .lend(ME, Ask { have }, MAX_PIECE_BYTES)
                .unwrap()
                .unwrap();
            bench.take(Transfer::Piece { from, piece });
        }
        bench.pass(500);
        assert_eq!(bench.answered().1, MAX_PIECE_BYTES as u64);
    }
}
