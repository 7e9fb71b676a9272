//! Snapshots, as one life of a node has them: frozen by the apply thread, written and fetched by the snapshot
//! thread, and what consensus makes of them.
//!
//! ```text
//!  apply --> frozen --> keep ...... kept --> mail      what was taken, or fetched, is durable
//!  handle --> transfers --'  `---> errands --> transmit
//!         `--> install --> apply                       the state machine is restored
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Birth, Halt, Job, Process, Watch};
use crate::driver::{Carried, Fetcher, Frozen, Schedule, Transfer, config_of, same_write};
use crate::raft::event::Event;
use crate::sim::trace::{Seats, What};
use crate::sim::violation::Property;
use crate::snapshot::{Ask, Piece, SnapshotError, SnapshotStore, Whole};
use crate::state_machine::StateMachine;
use crate::types::{Entry, LogId, LogIndex, NodeId, Staged, Time, WriteSeq};
use crate::wal::WalError;

/// Offers and pieces that wait for the snapshot thread; more are dropped, and come again.
const TRANSFERS: usize = 16;

/// What came in of snapshots since the last look.
#[derive(Default)]
pub(in crate::sim) struct Told {
    taken: Option<LogId>,
    fetched: Option<Arc<Whole>>,
    pub(in crate::sim) asks: Vec<(NodeId, Ask)>,
    pub(in crate::sim) pieces: Vec<(NodeId, Piece)>,
}

impl Told {
    pub(in crate::sim) const fn is_empty(&self) -> bool {
        self.taken.is_none()
            && self.fetched.is_none()
            && self.asks.is_empty()
            && self.pieces.is_empty()
    }
}

/// What crosses the network of snapshots.
#[derive(Clone)]
pub(in crate::sim) enum Cargo {
    Ask(Ask),
    Piece(Piece),
}

/// What the transport has to do.
enum Errand {
    Ask(Ask),
    Answer(Ask),
}

/// What is durable and nobody knows yet.
enum Done {
    Taken(LogId),
    Fetched(Arc<Whole>),
}

/// What came of a step of the snapshot thread.
pub(in crate::sim) enum Kept {
    /// Nothing that takes time.
    Nothing,
    /// Another snapshot is durable, and the store has no older one any more.
    Published(Arc<Whole>),
    /// Something is to be told again.
    Known,
    /// No snapshot came of it.
    Failed(SnapshotError),
}

pub(super) struct Snapshots {
    store: SnapshotStore,
    schedule: Schedule,
    /// One is to be taken though none is due.
    wanted: bool,
    frozen: Option<Frozen>,
    transfers: VecDeque<Transfer>,
    fetcher: Fetcher,
    done: Option<Done>,
    errands: Vec<(NodeId, Errand)>,
    /// What the state machine is to be restored from.
    install: Option<Arc<Whole>>,
    piece_bytes: usize,
    /// The latest that the clock showed. It may jump back, and in life this one does not.
    now: Time,
}

impl Snapshots {
    pub(super) fn new(store: SnapshotStore, birth: &Birth) -> Self {
        Self {
            schedule: Schedule::new(&birth.config, &store),
            fetcher: Fetcher::new(store.clone(), &birth.config),
            store,
            wanted: false,
            frozen: None,
            transfers: VecDeque::new(),
            done: None,
            errands: Vec::new(),
            install: None,
            piece_bytes: birth.piece_bytes,
            now: birth.now,
        }
    }

    pub(super) const fn has_errands(&self) -> bool {
        !self.errands.is_empty()
    }

    pub(super) const fn is_to_install(&self) -> bool {
        self.install.is_some()
    }

    /// As far as a batch behind `applied` goes.
    pub(super) fn limit(&self, applied: LogIndex) -> LogIndex {
        self.schedule.limit(applied)
    }

    pub(super) fn offer(&mut self, from: NodeId, last: LogId) {
        self.pass_on(Transfer::Offer { from, last });
    }

    fn next(
        &mut self,
        now: Time,
        state_first: bool,
    ) -> Result<Option<(Done, Arc<Whole>)>, SnapshotError> {
        if self.fetcher.due().is_some_and(|due| due <= now) {
            self.fetcher.tick(now);
            return Ok(None);
        }
        let is_state = state_first || self.transfers.is_empty();
        if let Some(frozen) = self.frozen.take_if(|_| is_state) {
            let published = frozen.publish(&self.store, || false)?;
            return Ok(published.map(|whole| (Done::Taken(whole.meta().last), whole)));
        }
        let Some(transfer) = self.transfers.pop_front() else {
            return Ok(None);
        };
        let fetched = self.fetcher.take(transfer, now)?;
        Ok(fetched.map(|whole| (Done::Fetched(Arc::clone(&whole)), whole)))
    }

    fn pass_on(&mut self, transfer: Transfer) {
        if self.transfers.len() < TRANSFERS {
            self.transfers.push_back(transfer);
        }
    }
}

impl<M: StateMachine> Process<M> {
    /// A snapshot is to be taken as soon as it can be.
    pub(in crate::sim) const fn want_snapshot(&mut self) {
        self.snapshots.wanted = true;
    }

    pub(in crate::sim) fn wants_keep(&self) -> bool {
        let snapshots = &self.snapshots;
        let waits = snapshots.frozen.is_some() || !snapshots.transfers.is_empty();
        snapshots.done.is_none() && waits
    }

    /// When the fetcher has something to do.
    pub(in crate::sim) fn fetch_due(&self) -> Option<Time> {
        let due = self.snapshots.fetcher.due();
        due.filter(|_| self.snapshots.done.is_none())
    }

    /// What consensus has to know of snapshots.
    pub(super) fn hear(&mut self, now: Time, told: Told, watch: &mut Watch) -> Result<(), Halt> {
        if let Some(last) = told.taken {
            self.step(now, Event::Snapshot { last }, &Carried::Nothing, watch)?;
            let raft = &self.raft;
            self.snapshots
                .store
                .release(|member| raft.is_fetching(member));
        }
        if let Some(whole) = told.fetched {
            let last = whole.meta().last;
            let placed = config_of(whole.meta())
                .ok_or_else(|| "a fetched snapshot does not say who the members are".to_owned())?;
            let config = (placed.0, placed.1.roster().clone());
            let event = Event::Fetched { last, config };
            self.step(now, event, &Carried::Snapshot(&whole, &placed), watch)?;
        }
        for (from, ask) in told.asks {
            let lent = self.snapshots.store.lends(from, ask);
            self.step(now, Event::Asked { from, lent }, &Carried::Nothing, watch)?;
            // Who was removed meanwhile fetches in vain.
            if self.members.has(from) {
                self.snapshots.errands.push((from, Errand::Answer(ask)));
            }
        }
        for (from, piece) in told.pieces {
            self.snapshots.pass_on(Transfer::Piece { from, piece });
        }
        Ok(())
    }

    pub(super) fn compact(
        &mut self,
        seq: WriteSeq,
        upto: LogIndex,
        watch: &mut Watch,
    ) -> Result<(), Halt> {
        watch.trace.add(Some(self.id), What::Compacted(upto));
        watch.checker.dropped(self.node, seq, upto)?;
        let staged = self.log.wal().drop_prefix(upto);
        self.stage(seq, staged)
    }

    /// The log becomes empty behind `last`, and all that is before comes from the snapshot.
    pub(super) fn install(
        &mut self,
        seq: WriteSeq,
        last: LogId,
        carried: &Carried<'_>,
        watch: &mut Watch,
    ) -> Result<(), Halt> {
        let Carried::Snapshot(whole, (index, membership)) = carried else {
            let what = "consensus installs a snapshot where none came in";
            return Err(what.to_owned().into());
        };
        watch.trace.add(Some(self.id), What::Installed(last));
        watch.checker.installed(self.node, seq, last)?;
        self.snapshots.install = Some(Arc::clone(whole));
        let staged = self.log.restart(last);
        self.stage(seq, staged)?;
        drop(self.members.reset(*index, membership.clone()));
        let members = Seats::of(self.raft.roster());
        watch.trace.add(Some(self.id), What::Members(members));
        Ok(())
    }

    fn stage(&mut self, seq: WriteSeq, staged: Result<Staged, WalError>) -> Result<(), Halt> {
        let staged = staged.map_err(|error| error.to_string())?;
        same_write(seq, staged)?;
        self.jobs.push_back(Job::Sync(staged));
        Ok(())
    }

    /// The state machine becomes what an installed snapshot says, if one was. Tells its last entry then.
    pub(super) fn restore(&mut self, watch: &mut Watch) -> Result<Option<LogId>, Halt> {
        let Some(whole) = self.snapshots.install.take() else {
            return Ok(None);
        };
        let restored = whole.restore(|format, from| self.machine.restore(format, from));
        restored.map_err(|error| match error {
            SnapshotError::State(_) => Halt::Violated(Property::Workload.violated(format!(
                "the state machine does not restore a snapshot that is whole: {error}"
            ))),
            error => Halt::Failed(format!("cannot restore a snapshot: {error}")),
        })?;
        let last = whole.meta().last;
        watch.trace.add(Some(self.id), What::Restored(last));
        watch.checker.restored(self.node, last)?;
        drop(self.replies.take(last));
        self.snapshots.schedule.restored(whole.meta());
        self.applied = last.index;
        Ok(Some(last))
    }

    /// After a batch: the state is frozen if it is time, or if somebody wants it.
    pub(super) fn freeze(&mut self, batch: &[Entry], watch: &mut Watch) -> Result<(), Halt> {
        let snapshots = &mut self.snapshots;
        snapshots.schedule.applied(batch);
        let Some(last) = batch.last().map(|entry| entry.id) else {
            return Ok(());
        };
        let is_due = snapshots.wanted || snapshots.schedule.is_due(last.index);
        if is_due && snapshots.frozen.is_none() && snapshots.done.is_none() {
            snapshots.wanted = false;
            snapshots.frozen = snapshots.schedule.freeze(&self.machine, last);
            if let Some(frozen) = &snapshots.frozen {
                let last = frozen.last();
                watch.trace.add(Some(self.id), What::Froze(last));
                watch.checker.froze(self.node, last)?;
            }
        }
        Ok(())
    }

    /// Does the next thing that the snapshot thread has to do: of a state and a transfer that wait, the state if
    /// `state_first`.
    pub(in crate::sim) fn keep(&mut self, now: Time, state_first: bool, watch: &mut Watch) -> Kept {
        let snapshots = &mut self.snapshots;
        snapshots.now = snapshots.now.max(now);
        let now = snapshots.now;
        let known = snapshots.store.last();
        let result = snapshots.next(now, state_first);
        if let Some((to, ask)) = snapshots.fetcher.take_ask() {
            let offset = ask.have.map_or(0, |(_, offset)| offset);
            watch.trace.add(Some(self.id), What::AskedFor(to, offset));
            snapshots.errands.push((to, Errand::Ask(ask)));
        }
        match result {
            Ok(None) => Kept::Nothing,
            Ok(Some((done, whole))) => {
                snapshots.done = Some(done);
                if known == Some(whole.meta().last) {
                    Kept::Known
                } else {
                    Kept::Published(whole)
                }
            }
            Err(error) => Kept::Failed(error),
        }
    }

    /// What is durable is known from now on.
    pub(in crate::sim) fn kept(&mut self) {
        let told = &mut self.mail.snapshots;
        match self.snapshots.done.take() {
            Some(Done::Taken(last)) => told.taken = Some(last),
            Some(Done::Fetched(whole)) => told.fetched = Some(whole),
            None => {}
        }
    }

    /// Gives `emit` what is to be sent of snapshots, with the bytes as they are read now.
    pub(in crate::sim) fn run_errands(&mut self, mut emit: impl FnMut(NodeId, Cargo)) {
        let Snapshots {
            store,
            errands,
            piece_bytes,
            ..
        } = &mut self.snapshots;
        for (to, errand) in errands.drain(..) {
            match errand {
                Errand::Ask(ask) => emit(to, Cargo::Ask(ask)),
                // What cannot be read is not sent, and will be asked for again.
                Errand::Answer(ask) => {
                    if let Ok(Some(piece)) = store.lend(to, ask, *piece_bytes) {
                        emit(to, Cargo::Piece(piece));
                    }
                }
            }
        }
    }
}
