//! Who takes the turns, under a schedule explorer: however the threads run beside each other, nothing is left undone
//! while all of them sleep. The threads, the mailbox, the log thread and the log are those that ship; in the turn
//! itself there is no consensus, only a log of what was proposed.

use std::time::{Duration, Instant};

use shuttle::thread;

use super::super::*;
use crate::config::{Config, Options};
use crate::driver::Replies;
use crate::log::{Log, NewEntry};
use crate::raft::event::{RoleName, Status};
use crate::raft::message::{AppendOutcome, Body, Message};
use crate::runtime::Alone;
use crate::runtime::apply::{Applier, ReadJob};
use crate::runtime::mailbox::{Gathers, Mail, Proposed};
use crate::runtime::outcome::{Budget, Holder, Proposal, Slot, promise};
use crate::runtime::snapshot::Schedule;
use crate::runtime::writer::{LogJob, Taken, Writer};
use crate::sim::SimDisk;
use crate::snapshot::SnapshotStore;
use crate::sync::{Condvar, explore, now};
use crate::types::{
    ClusterId, Entry, EntryKind, HardState, LogId, LogIndex, Membership, Staged, Term,
};
use crate::wal::{Preparer, WalOptions};

/// Messages from each of those who bring some.
const MESSAGES: usize = 2;
const BRINGERS: usize = 4;
/// Proposals of each client.
const PROPOSALS: usize = 2;
/// Reads of the one who reads.
const READS: usize = 3;
/// What is proposed by a client that waits for the end of it, and by one that does not.
const AWAITED: &[u8] = b"awaited";
const UNAWAITED: &[u8] = b"unawaited";

/// Counts what it applies.
struct Counts(Arc<Done>);

impl StateMachine for Counts {
    type Reply = ();

    fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
        self.0.add(entries.len());
        vec![(); entries.len()]
    }
}

/// How much has been done.
#[derive(Default)]
struct Done {
    count: Mutex<usize>,
    more: Condvar,
}

impl Done {
    fn add(&self, more: usize) {
        *self.count.lock() += more;
        self.more.notify_all();
    }

    fn wait(&self, all: usize) {
        let mut count = self.count.lock();
        while *count < all {
            self.more.wait(&mut count);
        }
    }
}

/// Written, and not committed. Nobody waits for one without a slot.
type UnderWay = (Staged, LogId, Option<Slot<()>>);

fn is_durable(staged: Staged, durable: Option<Durable>) -> bool {
    durable.is_some_and(|durable| staged.seq() <= durable.seq())
}

/// Writes what is proposed, and commits it once it is durable and a message has come after that, or all have. What is
/// read knows what it must see likewise.
struct Writes {
    mailbox: Arc<Mailbox<Counts, ()>>,
    queue: Arc<LogQueue>,
    apply: Arc<ApplyQueue<Counts, ()>>,
    log: Log,
    mail: Mail,
    under_way: Vec<UnderWay>,
    asked: Vec<ReadJob<Counts>>,
    durable: Option<Durable>,
    heard: usize,
    later: Instant,
    done: Arc<Done>,
}

impl Writes {
    /// Whether the log is at a write.
    fn gathers(&self) -> bool {
        let last = self.under_way.last();
        last.is_some_and(|(staged, ..)| !is_durable(*staged, self.durable))
    }

    fn has_heard_all(&self) -> bool {
        self.heard == MESSAGES * BRINGERS
    }

    fn commit(&mut self) {
        let durable = self.durable;
        let is_durable = |(staged, ..): &mut UnderWay| is_durable(*staged, durable);
        let committed: Vec<_> = self.under_way.extract_if(.., is_durable).collect();
        if let Some((_, last, _)) = committed.last() {
            let upto = last.index;
            let slots = committed
                .into_iter()
                .filter_map(|(_, id, slot)| Some((id, slot?)));
            self.apply.commit(upto, slots);
        }
    }

    fn answer_reads(&mut self) {
        if !self.asked.is_empty() {
            self.apply.read(LogIndex::ZERO, self.asked.drain(..));
        }
    }

    fn write(&mut self, payload: &[u8], slot: Slot<()>) -> Result<(), String> {
        self.queue.make_room(1).map_err(|_| "no log")?;
        let entry = NewEntry {
            term: Term(1),
            kind: EntryKind::Normal,
            payload: payload.into(),
        };
        let staged = self.log.stage(HardState::default(), None, &[entry]);
        let staged = staged.map_err(|error| error.to_string())?;
        let id = LogId::new(Term(1), self.log.reader().last());
        let slot = (payload != UNAWAITED).then_some(slot);
        self.under_way.push((staged, id, slot));
        let sent = self.queue.send(LogJob::Sync(staged, 1));
        sent.map_err(|_| "no log".to_owned())
    }
}

impl Turn for Writes {
    fn turn(&mut self) -> Result<Left, String> {
        self.mailbox.collect(&mut self.mail);
        let heard = self.mail.incoming.drain(..).count();
        self.heard += heard;
        self.done.add(heard);
        self.durable = self.durable.max(self.mail.durable.take());
        if heard > 0 || self.has_heard_all() {
            self.commit();
            self.answer_reads();
        }
        let mut proposed = Vec::new();
        // One at a time, so that some are left.
        self.mailbox.proposals(self.gathers(), 1, &mut proposed);
        for Proposed { payload, slot } in proposed {
            self.write(&payload, slot)?;
        }
        if self.asked.is_empty() && !self.apply.has_reads() {
            self.mailbox.reads(&mut self.asked);
            if self.has_heard_all() {
                self.answer_reads();
            }
        }
        let gathers = Gathers {
            proposals: self.gathers(),
            reads: !self.asked.is_empty(),
        };
        Ok(self.mailbox.leave(self.later, gathers))
    }
}

/// An answer, or not.
fn message(body: Body) -> Incoming {
    Incoming {
        from: NodeId(2),
        message: Message {
            term: Term(1),
            body,
        },
        entries: Vec::new(),
    }
}

fn answer() -> Incoming {
    let upto = LogIndex(1);
    message(Body::AppendReply {
        outcome: AppendOutcome::Matched { upto },
        round: 0,
    })
}

fn word() -> Incoming {
    message(Body::VoteReply { granted: true })
}

/// What its bringer may write in place of the log thread.
fn entries() -> Incoming {
    let id = LogId::new(Term(1), LogIndex(1));
    let entry = Entry {
        id,
        kind: EntryKind::Normal,
        payload: b"brought"[..].into(),
    };
    Incoming {
        entries: vec![entry],
        ..word()
    }
}

/// A node's own parts, with [`Writes`] for consensus.
struct Parts {
    turns: Arc<Turns<Counts, Writes>>,
    raft: RaftThread<Counts, Writes>,
    log: LogThread,
    applier: Applier<Counts>,
}

fn parts(
    mailbox: &Arc<Mailbox<Counts, ()>>,
    budget: Arc<Budget>,
    queue: Arc<LogQueue>,
    apply: Arc<ApplyQueue<Counts, ()>>,
    done: &Arc<Done>,
) -> Parts {
    let options = WalOptions::new("/wal").segment_bytes(64 << 10);
    let options = options.disk(Arc::new(SimDisk::new(1)));
    let log = Log::open(options.preparer(Preparer::Inline)).unwrap().0;
    let (reader, wal) = (log.reader(), log.wal().clone());
    let status = Status {
        role: RoleName::Leader,
        term: Term(1),
        leader: None,
    };
    let progress = Arc::new(Progress::new(status, Membership::default()));
    let turns = Arc::new(Turns::new(
        Arc::clone(mailbox),
        Arc::clone(&queue),
        Arc::clone(&apply),
        Arc::clone(&progress),
    ));
    let writer = Writer {
        queue: Arc::clone(&queue),
        wal,
        transport: Arc::new(Alone),
        budget,
        taken: Mutex::new(Taken::default()),
    };
    let consensus = Writes {
        mailbox: Arc::clone(mailbox),
        queue,
        apply: Arc::clone(&apply),
        log,
        mail: Mail::default(),
        under_way: Vec::new(),
        asked: Vec::new(),
        durable: None,
        heard: 0,
        later: now() + Duration::from_secs(1_000_000),
        done: Arc::clone(done),
    };
    let (raft, log) = turns.begin(consensus, writer);
    let disk = Arc::new(SimDisk::new(1));
    let store = SnapshotStore::open(disk, "/snapshots", ClusterId(1)).unwrap();
    let config = Config::try_from(Options::default()).unwrap();
    let applier = Applier {
        machine: Counts(Arc::clone(done)),
        queue: apply,
        reader,
        progress,
        applied: LogIndex::ZERO,
        snapshots: Schedule::new(&config, &store.0).0,
        install: None,
        slots: Replies::new(),
        reads: Vec::new(),
    };
    Parts {
        turns,
        raft,
        log,
        applier,
    }
}

fn scenario() {
    let (queue, apply) = (Arc::new(LogQueue::new(2)), Arc::new(ApplyQueue::new()));
    let budget = Arc::new(Budget::new(100));
    let mailbox = Mailbox::new(
        1 << 20,
        Arc::clone(&budget),
        Arc::clone(&queue),
        Arc::clone(&apply),
    );
    let (mailbox, done) = (Arc::new(mailbox), Arc::new(Done::default()));
    let Parts {
        turns,
        raft,
        log,
        applier,
    } = parts(
        &mailbox,
        Arc::clone(&budget),
        queue,
        Arc::clone(&apply),
        &done,
    );
    let (by_log, by_apply) = (Arc::clone(&turns), Arc::clone(&turns));
    let threads = [
        thread::spawn(move || raft.run().unwrap()),
        thread::spawn(move || log.run(|durable| by_log.take_by_log(durable)).unwrap()),
        thread::spawn(move || applier.run(|| by_apply.take_by_apply()).unwrap()),
    ];
    let clients = [AWAITED, UNAWAITED].map(|payload| {
        let (mailbox, budget) = (Arc::clone(&mailbox), Arc::clone(&budget));
        thread::spawn(move || -> Vec<Proposal<()>> {
            let propose = |_| {
                let (slot, proposal) = promise(budget.take(1, Holder::Proposal).unwrap());
                let payload = Vec::from(payload).into();
                mailbox.propose(Proposed { payload, slot }).unwrap();
                proposal
            };
            (0..PROPOSALS).map(propose).collect()
        })
    });
    let reads = {
        let (mailbox, done) = (Arc::clone(&mailbox), Arc::clone(&done));
        thread::spawn(move || {
            for _ in 0..READS {
                let done = Arc::clone(&done);
                let read: ReadJob<Counts> =
                    Box::new(move |seen| done.add(usize::from(seen.is_ok())));
                mailbox.read(read).unwrap();
            }
        })
    };
    let bring = |message: fn() -> Incoming, last: fn(&Turns<Counts, Writes>)| {
        let turns = Arc::clone(&turns);
        thread::spawn(move || {
            for _ in 0..MESSAGES {
                turns.deliver(message());
                last(&turns);
            }
        })
    };
    let bringers = [
        bring(word, |turns| turns.attend()),
        bring(word, |turns| turns.rouse()),
        bring(entries, |turns| turns.attend_to_entries()),
        bring(answer, |turns| turns.rouse()),
    ];
    let all = clients.len() * PROPOSALS + bringers.len() * MESSAGES + READS;
    done.wait(all);
    mailbox.stop("all is done");
    apply.stop();
    for thread in bringers.into_iter().chain(threads).chain([reads]) {
        thread.join().unwrap();
    }
    let [awaited, unawaited] = clients.map(|thread| thread.join().unwrap());
    for mut proposal in awaited {
        assert_eq!(proposal.wait_for(Duration::ZERO), Some(Ok(())));
    }
    drop(unawaited);
    assert_eq!(*done.count.lock(), all, "nothing is done twice");
}

#[test]
fn whatever_comes_is_done_however_the_threads_run_beside_each_other() {
    explore(2_000, scenario);
}
