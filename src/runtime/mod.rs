//! The threads of a node, and what they hand each other.
//!
//! Consensus is no thread's own: whichever of the node's threads has the news takes a turn ([`turns`]), so that few
//! need be woken. It is a thing of microseconds beside the sync.
//!
//! ```text
//! client --propose--> [ mailbox ]   waits for the write before, and for those who were aboard of that, so that one
//!                         |         write holds many
//!                         |
//!                         v
//!            a turn of consensus    assigns the index, stages the write, keeps the reply slot
//!            |                |
//!            | Sync, Release  | Send            a turn is taken by
//!            v                v                   LOG   between two syncs, or when it has nothing to do
//!        LOG thread        transport              APPLY for answers, when it has nothing to do
//!          one fdatasync     reads the entries    a thread of the transport that has brought messages
//!          for all           from the log         RAFT  when a deadline has come, or while those are busy
//!            | Durable        |
//!            +---> a turn <---+                a quorum of durable copies commits; on a follower the reply
//!                     | Commit, slots          leaves from LOG
//!                     v
//!                  APPLY thread                applies the batch, answers the client
//!                     | a frozen state
//!                     v
//!                 SNAPSHOT thread              writes it; then the log lets go of what is before
//! ```
//!
//! While LOG has nothing to do, a thread of the transport that has brought a few entries stands in for it: it takes the
//! turn, syncs and acknowledges, and nobody need be woken for a lone client's entry.
//!
//! What holds bytes, and what it means when one is full. The shares are of
//! [`Options::memory_bytes`](crate::config::Options::memory_bytes), and a single one that is larger has room.
//!
//! | where | bound | full |
//! |---|---|---|
//! | proposals and reads, from the call to the answer: in the mailbox, not committed, to APPLY | a half | `Overloaded` |
//! | in the mailbox, commands | 64 | `Overloaded` |
//! | in the mailbox, messages and pieces of snapshots | an eighth; 4,096, and 64 pieces | dropped, they come again |
//! | in a turn, the mail that it looks at | as much again | it looks at that first |
//! | in the mailbox, progress of the log | one value | never |
//! | to LOG, and in its sync: what is written and not durable | a quarter; 4,096 writes and promises | the turn waits for the disk, and with it the thread that has it, be it APPLY; LOG in its own turn goes over it by what that turn writes |
//! | to SNAPSHOT | one frozen state; 16 offers and pieces | the next is due later; dropped, they come again |
//! | in APPLY, a batch | 4 MiB, at least one entry | the rest is read after it |
//! | to a peer: messages, whose entries stay in the log until they are sent | the transport's | dropped, Raft retries |
//! | on the way to a peer, which is *its* memory | an eighth; `max_inflight_appends` | sent when it has acknowledged some |
//!
//! So a follower that takes nothing costs its leader a few numbers. What it lacks is in the log, or, once that was
//! compacted, in the snapshot; both are files.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use crate::config::{Config, memory_of};
use crate::driver::{self, Fetcher, Handover, Members, Placed, Proposals, Reads, Replies};
use crate::log::{Log, LogReader, Recovered};
use crate::raft::event::{RoleName, Status};
use crate::raft::message::Message;
use crate::raft::{Boot, Raft};
use crate::snapshot::{Ask, SnapshotStore};
use crate::state_machine::StateMachine;
use crate::transport::{Connect, Context, Limits, Transport, TransportError};
use crate::types::{Bytes, Change, Identity, LogIndex, Member, Membership, NodeId, Time};

mod apply;
mod consensus;
mod mailbox;
mod outcome;
mod progress;
mod snapshot;
mod source;
mod turns;
mod writer;

use apply::{Applier, ApplyQueue, ReadJob};
use consensus::Consensus;
use mailbox::{Command, Mail, Mailbox, Proposed};
use outcome::{Budget, Holder, Slot, promise};
pub use outcome::{Error, Proposal};
pub(crate) use progress::Progress;
use snapshot::{Schedule, Snapshotter};
use source::LogSource;
use turns::Turns;
use writer::{LogQueue, Taken, Writer};

/// Commands that may wait for their end.
const MAX_COMMANDS: u64 = 64;
/// How long a node that is shut down waits for another to take the lead, at the most.
const HANDOVER: Duration = Duration::from_secs(1);
/// Offers and pieces of snapshots that may wait for the snapshot thread. Full: they are dropped, and come again.
const TRANSFERS: usize = 16;

/// What a node runs on.
pub(crate) struct Parts<M> {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    /// The configurations in the log that may count.
    pub(crate) configs: Vec<Placed>,
    /// Whom a new node expects to hear from.
    pub(crate) contacts: Vec<Member>,
    pub(crate) log: Log,
    pub(crate) recovered: Recovered,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) seed: u64,
    /// See [`Boot::life`].
    pub(crate) life: u64,
    pub(crate) connect: Option<Box<dyn Connect>>,
    /// Restored from the newest snapshot, if there is one.
    pub(crate) machine: M,
}

/// The running threads of one node.
pub(crate) struct Runtime<M: StateMachine> {
    mailbox: Arc<Mailbox<M, M::Reply>>,
    turns: Arc<Turns<M>>,
    apply: Arc<ApplyQueue<M, M::Reply>>,
    progress: Arc<Progress>,
    /// What proposals and reads take until they are answered.
    budget: Arc<Budget>,
    commands: Arc<Budget>,
    handover: Duration,
    reader: LogReader,
    snapshots: SnapshotStore,
    max_entry_bytes: usize,
    running: Mutex<Option<Running>>,
}

struct Running {
    threads: Vec<JoinHandle<()>>,
    transport: Arc<dyn Transport>,
    log: Log,
}

/// The transport of a node that is alone in its cluster.
struct Alone;

impl Transport for Alone {
    fn send(&self, _: NodeId, _: Message) {}

    fn ask(&self, _: NodeId, _: Ask) {}

    fn answer(&self, _: NodeId, _: Ask) {}

    fn close(&self) {}
}

impl<M: StateMachine> Runtime<M> {
    /// Starts the transport, then the threads.
    ///
    /// # Errors
    /// [`TransportError`] if one of them cannot be started; nothing is left running.
    pub(crate) fn start(parts: Parts<M>) -> Result<Self, TransportError> {
        let Parts {
            config,
            identity,
            configs,
            contacts,
            log,
            recovered,
            snapshots,
            seed,
            life,
            connect,
            machine,
        } = parts;
        let reader = log.reader();
        let rosters = driver::rosters(&configs);
        let members = Members::new(configs, &contacts);
        let membership = members.current().cloned().unwrap_or_default();
        let queue = Arc::new(LogQueue::new(config.backlog_bytes()));
        let apply = Arc::new(ApplyQueue::new());
        let budget = Arc::new(Budget::new(config.request_bytes()));
        let mailbox = Arc::new(Mailbox::new(
            config.incoming_bytes(),
            Arc::clone(&budget),
            Arc::clone(&queue),
            Arc::clone(&apply),
        ));
        let boot = Boot {
            id: identity.node,
            configs: rosters,
            hard_state: recovered.hard_state,
            before: recovered.before,
            last: recovered.last,
            snapshot: snapshots.last(),
            runs: recovered.runs,
            written: log.wal().written(),
            seed,
            life,
        };
        let mut raft = Raft::new(&config, boot, Time::default());
        driver::weigh_log(&mut raft, &reader);
        let progress = Arc::new(Progress::new(raft.status(), membership));
        let applied = snapshots.last().map_or(LogIndex::ZERO, |last| last.index);
        progress.committed(applied);
        progress.applied(applied);
        let (schedule, frozen) = Schedule::new(&config, &snapshots);
        let turns = Arc::new(Turns::new(
            Arc::clone(&mailbox),
            Arc::clone(&queue),
            Arc::clone(&apply),
            Arc::clone(&progress),
        ));
        let transport: Arc<dyn Transport> = match connect {
            None => Arc::new(Alone),
            Some(connect) => connect.connect(Context {
                identity,
                members: members.reachable(),
                inbox: Arc::clone(&turns) as Arc<_>,
                entries: Arc::new(LogSource(reader.clone())),
                snapshots: Arc::new(snapshots.clone()),
                limits: Limits {
                    max_entry_bytes: config.max_entry_bytes,
                    max_append_bytes: config.max_append_bytes,
                    max_append_entries: config.max_append_entries,
                },
            })?,
        };
        let runtime = Self {
            mailbox: Arc::clone(&mailbox),
            turns: Arc::clone(&turns),
            apply: Arc::clone(&apply),
            progress: Arc::clone(&progress),
            budget,
            commands: Arc::new(Budget::new(MAX_COMMANDS)),
            // Given up after one timeout; the other half is for the other's election.
            handover: HANDOVER.min(config.election_timeout * 2),
            reader: reader.clone(),
            snapshots: snapshots.clone(),
            max_entry_bytes: config.max_entry_bytes,
            running: Mutex::new(Some(Running {
                threads: Vec::new(),
                transport: Arc::clone(&transport),
                log: log.clone(),
            })),
        };
        let origin = Instant::now();
        let fetcher = Fetcher::new(snapshots.clone(), &config);
        let (offers, transfers) = bounded(TRANSFERS);
        let writer = Writer {
            queue: Arc::clone(&queue),
            wal: log.wal().clone(),
            transport: Arc::clone(&transport),
            budget: Arc::clone(&runtime.budget),
            taken: crate::sync::Mutex::new(Taken::default()),
        };
        let applier = Applier {
            machine,
            queue: Arc::clone(&apply),
            reader,
            progress: Arc::clone(&progress),
            applied,
            snapshots: schedule,
            install: None,
            slots: Replies::new(),
            reads: Vec::new(),
        };
        let mut consensus = Consensus {
            raft,
            origin,
            log,
            mailbox: Arc::clone(&mailbox),
            writer: queue,
            apply,
            snapshots: snapshots.clone(),
            transfers: offers,
            transport: Arc::clone(&transport),
            progress,
            members,
            portion: config.portion_bytes(),
            proposals: Proposals::new(),
            reads: Reads::new(),
            handover: Handover::new(config.election_timeout),
            effects: Vec::new(),
            mail: Mail::default(),
            proposed: Vec::new(),
            asked: Vec::new(),
        };
        let stopped = Arc::clone(&mailbox);
        let snapshotter = Snapshotter {
            store: snapshots,
            transport,
            jobs: frozen,
            transfers,
            fetcher,
            origin,
            stopped: move || stopped.stopped().is_some(),
        };
        let durable = Arc::clone(&mailbox);
        runtime.spawn("snapshot", move || {
            snapshotter.run(
                |last| durable.snapshot(last),
                |whole| durable.fetched(whole),
            );
            Ok(())
        })?;
        consensus.begin();
        let (raft, log) = turns.begin(consensus, writer);
        let by_apply = Arc::clone(&turns);
        runtime.spawn("log", move || {
            log.run(|durable| turns.take_by_log(durable))
                .map_err(|error| error.to_string())
        })?;
        runtime.spawn("apply", move || applier.run(|| by_apply.take_by_apply()))?;
        runtime.spawn("raft", move || raft.run())?;
        Ok(runtime)
    }

    /// Starts a thread whose failure, be it an error or a panic, stops the node. When it cannot be
    /// started, dropping the runtime ends the others.
    fn spawn(
        &self,
        name: &'static str,
        run: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), TransportError> {
        let end = self.turns.end_guard(format!("its {name} thread panicked"));
        let thread = thread::Builder::new()
            .name(format!("catamaran-{name}"))
            .spawn(move || {
                // The whole guard moves here, not only the field that is set.
                let mut end = end;
                end.reason = run().err();
            });
        match thread {
            Ok(thread) => {
                if let Some(running) = self.running.lock().as_mut() {
                    running.threads.push(thread);
                }
                Ok(())
            }
            Err(source) => Err(TransportError::Thread(source)),
        }
    }

    pub(crate) fn propose(&self, payload: Bytes) -> Result<Proposal<M::Reply>, Error> {
        let (bytes, limit) = (payload.len(), self.max_entry_bytes);
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let permit = self
            .budget
            .take(memory_of(bytes), Holder::Proposal)
            .ok_or(Error::Overloaded)?;
        let (slot, proposal) = promise(permit);
        let sent = self.mailbox.propose(Proposed { payload, slot });
        sent.map(|()| proposal)
            .map_err(|reason| Error::Stopped { reason })
    }

    pub(crate) fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<Proposal<R>, Error> {
        let (job, proposal) = self.read_job(|machine, _| read(machine))?;
        let sent = self.mailbox.read(job);
        sent.map(|()| proposal)
            .map_err(|reason| Error::Stopped { reason })
    }

    pub(crate) fn read_stale<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M) -> R + Send + 'static,
    ) -> Result<Proposal<(R, LogIndex)>, Error> {
        if let Some(reason) = self.stopped() {
            return Err(Error::Stopped { reason });
        }
        let (job, proposal) = self.read_job(|machine, applied| (read(machine), applied))?;
        self.apply.read_stale(job);
        Ok(proposal)
    }

    fn read_job<R: Send + 'static>(
        &self,
        read: impl FnOnce(&M, LogIndex) -> R + Send + 'static,
    ) -> Result<(ReadJob<M>, Proposal<R>), Error> {
        let permit = self
            .budget
            .take(memory_of(0), Holder::Other)
            .ok_or(Error::Overloaded)?;
        let (slot, proposal) = promise(permit);
        let job = move |seen: Result<(&M, LogIndex), Error>| {
            slot.complete(seen.map(|(machine, applied)| read(machine, applied)));
        };
        Ok((Box::new(job), proposal))
    }

    pub(crate) fn transfer(&self, to: Option<NodeId>) -> Result<Proposal<Member>, Error> {
        self.command(|slot| Command::Transfer { to, slot })
    }

    pub(crate) fn change(&self, changes: Vec<Change>) -> Result<Proposal<Membership>, Error> {
        self.command(|slot| Command::Change { changes, slot })
    }

    fn command<R>(&self, command: impl FnOnce(Slot<R>) -> Command) -> Result<Proposal<R>, Error> {
        let permit = self
            .commands
            .take(1, Holder::Other)
            .ok_or(Error::Overloaded)?;
        let (slot, proposal) = promise(permit);
        let sent = self.mailbox.command(command(slot));
        sent.map(|()| proposal)
            .map_err(|reason| Error::Stopped { reason })
    }

    pub(crate) const fn reader(&self) -> &LogReader {
        &self.reader
    }

    pub(crate) const fn snapshots(&self) -> &SnapshotStore {
        &self.snapshots
    }

    pub(crate) const fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub(crate) fn status(&self) -> Status {
        self.progress.status()
    }

    pub(crate) fn last(&self) -> LogIndex {
        self.reader.last()
    }

    /// Why the node has stopped, if it has.
    pub(crate) fn stopped(&self) -> Option<Arc<str>> {
        self.mailbox.stopped()
    }

    /// Lets another node lead before this one goes, so that the others need not wait for an election
    /// timeout.
    fn hand_over(&self) {
        if self.status().role != RoleName::Leader || thread::panicking() {
            return;
        }
        if let Ok(mut transfer) = self.transfer(None) {
            let _ = transfer.wait_for(self.handover);
        }
    }

    /// Hands leadership over if it leads, stops every thread and joins it, then closes the log. A second
    /// call does nothing.
    ///
    /// # Errors
    /// What the log says to the last sync.
    pub(crate) fn stop(&self) -> Result<(), crate::wal::WalError> {
        let Some(running) = self.running.lock().take() else {
            return Ok(());
        };
        self.hand_over();
        self.mailbox.stop("it was shut down");
        running.transport.close();
        // The raft thread ends at the mailbox's word, and with it the log thread's queue; a thread that
        // calls this from within (a reply dropped on the apply thread, say) cannot wait for itself.
        for thread in running.threads {
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
        running.log.into_wal().close()
    }
}

impl<M: StateMachine> Drop for Runtime<M> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            crate::trace::warn!(%error, "the log could not be closed");
        }
    }
}
