//! Who takes the turns, under a schedule explorer: however the threads run beside each other, nothing is left undone
//! while all of them sleep. The threads, the mailbox, the log thread and the log are those that ship; in the turn
//! itself there is no consensus, only a log of what was proposed.

use std::time::{Duration, Instant};

use shuttle::thread;

use super::super::*;
use crate::raft::event::{RoleName, Status};
use crate::raft::message::{Body, Message};
use crate::runtime::Alone;
use crate::runtime::mailbox::{Mail, Proposed};
use crate::runtime::outcome::{Budget, Slot, promise};
use crate::runtime::writer::{LogJob, Writer};
use crate::sim::SimDisk;
use crate::sync::{Condvar, explore, now};
use crate::types::{Entry, Membership, Staged, Term};
use crate::wal::{Preparer, Wal, WalOptions};

struct Nothing;

impl StateMachine for Nothing {
    type Reply = ();

    fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
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

/// Writes what is proposed, and answers when it is durable.
struct Writes {
    mailbox: Arc<Mailbox<Nothing, ()>>,
    log: Arc<LogQueue>,
    wal: Wal,
    mail: Mail<Nothing>,
    under_way: Vec<(Staged, Slot<()>)>,
    later: Instant,
    done: Arc<Done>,
}

impl Turn for Writes {
    fn turn(&mut self) -> Result<Left, String> {
        self.mailbox.collect(&mut self.mail);
        let heard = self.mail.incoming.drain(..).count();
        let mut ended = 0;
        if let Some(durable) = self.mail.durable.take() {
            let is_durable = |(staged, _): &mut (Staged, _)| staged.seq() <= durable.seq();
            for (_, slot) in self.under_way.extract_if(.., is_durable) {
                slot.complete(Ok(()));
                ended += 1;
            }
        }
        self.done.add(heard + ended);
        let mut proposed = Vec::new();
        let gathers = !self.under_way.is_empty();
        // One at a time, so that some are left.
        self.mailbox.proposals(gathers, 1, &mut proposed);
        for Proposed { payload, slot } in proposed {
            self.log.make_room(1).map_err(|_| "no log")?;
            let staged = self.wal.append(&[&payload]).map_err(|e| e.to_string())?;
            self.under_way.push((staged, slot));
            self.log
                .send(LogJob::Sync(staged, 1))
                .map_err(|_| "no log")?;
        }
        let gathers = !self.under_way.is_empty();
        Ok(self.mailbox.leave(self.later, gathers))
    }
}

fn message() -> Incoming {
    Incoming {
        from: NodeId(2),
        message: Message {
            term: Term(1),
            body: Body::VoteReply { granted: true },
        },
        entries: Vec::new(),
    }
}

fn scenario() {
    let options = WalOptions::new("/wal").segment_bytes(64 << 10);
    let options = options.disk(Arc::new(SimDisk::new(1)));
    let wal = options.preparer(Preparer::Inline).open().unwrap().0;
    let log = Arc::new(LogQueue::new(2));
    let mailbox = Arc::new(Mailbox::new(1 << 20, Arc::clone(&log)));
    let status = Status {
        role: RoleName::Leader,
        term: Term(1),
        leader: None,
    };
    let progress = Progress::new(status, Membership::default());
    let turns = Arc::new(Turns::new(
        Arc::clone(&mailbox),
        Arc::clone(&log),
        Arc::new(ApplyQueue::new()),
        Arc::new(progress),
    ));
    let done = Arc::new(Done::default());
    let raft = turns.begin(Writes {
        mailbox: Arc::clone(&mailbox),
        log: Arc::clone(&log),
        wal: wal.clone(),
        mail: Mail::default(),
        under_way: Vec::new(),
        later: now() + Duration::from_secs(1_000_000),
        done: Arc::clone(&done),
    });
    let budget = Arc::new(Budget::new(100));
    let writer = Writer {
        queue: log,
        wal,
        transport: Arc::new(Alone),
        budget: Arc::clone(&budget),
    };
    let by_log = Arc::clone(&turns);
    let mut threads = vec![
        thread::spawn(move || raft.run().unwrap()),
        thread::spawn(move || writer.run(|durable| by_log.take_by_log(durable)).unwrap()),
    ];
    let clients = (0..2).map(|_| {
        let (mailbox, budget) = (Arc::clone(&mailbox), Arc::clone(&budget));
        thread::spawn(move || {
            for _ in 0..2 {
                let (slot, proposal) = promise(budget.take(1).unwrap());
                let payload = Vec::from("x").into();
                mailbox.propose(Proposed { payload, slot }).unwrap();
                drop(proposal);
            }
        })
    });
    threads.extend(clients);
    let bring = |last: fn(&Turns<Nothing, Writes>)| {
        let turns = Arc::clone(&turns);
        thread::spawn(move || {
            for _ in 0..2 {
                turns.deliver(message());
                last(&turns);
            }
        })
    };
    threads.extend([bring(|turns| turns.attend()), bring(|turns| turns.rouse())]);
    done.wait(2 * 2 + 2 * 2);
    mailbox.stop("all is done");
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(*done.count.lock(), 8, "nothing is done twice");
}

#[test]
fn whatever_comes_is_done_however_the_threads_run_beside_each_other() {
    explore(2_000, scenario);
}
