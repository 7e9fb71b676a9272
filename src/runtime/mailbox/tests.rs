use super::*;
use crate::raft::message::Message;
use crate::runtime::outcome::{Budget, Holder, Proposal, promise};
use crate::types::{Bytes, Entry, EntryKind, LogIndex, Term};
use parking_lot::const_mutex;
use std::thread;
use std::time::Duration;

type Numbers = Mailbox<(), u32>;

const MOST: u64 = 1 << 20;
const PROPOSALS: Gathers = Gathers {
    proposals: true,
    reads: false,
};
const READS: Gathers = Gathers {
    proposals: false,
    reads: true,
};

fn incoming(payload: Option<&Bytes>) -> Incoming {
    let entry = |payload: &Bytes| Entry {
        id: LogId::ORIGIN,
        kind: EntryKind::Normal,
        payload: payload.clone(),
    };
    Incoming {
        from: NodeId(2),
        message: Message {
            term: Term(1),
            body: Body::VoteReply { granted: true },
        },
        entries: payload.map(entry).into_iter().collect(),
    }
}

/// How many messages are taken out at once.
fn collected(mailbox: &Numbers) -> usize {
    let mut mail = Mail::default();
    mailbox.collect(&mut mail);
    mail.incoming.len()
}

fn mailbox() -> Numbers {
    Numbers::new(
        MOST,
        Arc::new(Budget::new(MOST)),
        Arc::new(LogQueue::new(MOST)),
        Arc::new(ApplyQueue::new()),
    )
}

/// Takes proposals; tells how many.
fn taken(mailbox: &Numbers, gathers: bool, most: u64) -> usize {
    let mut taken = Vec::new();
    mailbox.proposals(gathers, most, &mut taken);
    taken.len()
}

fn propose(mailbox: &Numbers) {
    mailbox.propose(proposed().0).unwrap();
}

fn proposed() -> (Proposed<u32>, Proposal<u32>) {
    let permit = Arc::new(Budget::new(1)).take(1, Holder::Proposal).unwrap();
    let (slot, proposal) = promise(permit);
    let payload = Bytes::default();
    (Proposed { payload, slot }, proposal)
}

#[test]
fn messages_beyond_the_number_that_may_wait_are_dropped() {
    let mailbox = mailbox();
    for _ in 0..2 {
        for _ in 0..MAX_INCOMING + 10 {
            mailbox.deliver(incoming(None));
        }
        assert_eq!(collected(&mailbox), MAX_INCOMING);
    }
}

#[test]
fn messages_beyond_the_bytes_that_may_wait_are_dropped_but_for_one_alone() {
    let payload = Bytes::from(vec![0; MOST as usize / 2 - 256]);
    let large = Bytes::from(vec![0; MOST as usize]);
    let mailbox = mailbox();
    let mut mail = Mail::default();
    for _ in 0..3 {
        for _ in 0..5 {
            mailbox.deliver(incoming(Some(&payload)));
        }
        mailbox.collect(&mut mail);
        assert_eq!(mail.incoming.len(), 2);
        mail.incoming.clear();
        for _ in 0..2 {
            mailbox.deliver(incoming(Some(&large)));
        }
        mailbox.collect(&mut mail);
        assert_eq!(mail.incoming.len(), 1);
        mail.incoming.clear();
    }
}

#[test]
fn a_connection_that_ends_is_told_once_and_behind_the_messages_that_came_on_it() {
    let mailbox = mailbox();
    let lost = || {
        let mut mail = Mail::default();
        mailbox.collect(&mut mail);
        mail.lost
    };
    for from in [2, 2, 3, 2] {
        mailbox.lost(NodeId(from));
    }
    assert_eq!(lost(), [NodeId(2), NodeId(3)]);
    // Who speaks again was not lost; what it said before it was says nothing.
    mailbox.lost(NodeId(2));
    mailbox.deliver(incoming(None));
    assert_eq!(lost(), []);
    mailbox.deliver(incoming(None));
    mailbox.lost(NodeId(2));
    assert_eq!(lost(), [NodeId(2)]);
    (0..2 * MAX_LOST as u64).for_each(|from| mailbox.lost(NodeId(from)));
    assert_eq!(lost().len(), MAX_LOST);
}

#[test]
fn what_queued_when_the_mailbox_stops_was_not_taken() {
    let mailbox = mailbox();
    let (first, waits) = proposed();
    mailbox.propose(first).unwrap();
    let told = Arc::new(const_mutex(None));
    let tell = Arc::clone(&told);
    let read = move |result: Result<(&(), LogIndex), Error>| *tell.lock() = result.err();
    mailbox.read(Box::new(read)).unwrap();
    mailbox.stop("the first reason");
    mailbox.stop("another");
    let reason = Arc::from("the first reason");
    let stopped = Error::Stopped { reason };
    assert_eq!(waits.wait(), Err(stopped.clone()));
    assert_eq!(told.lock().take(), Some(stopped));
    let (late, _) = proposed();
    assert_eq!(&*mailbox.propose(late).unwrap_err(), "the first reason");
    assert!(!mailbox.begin(), "no turn is taken any more");
    assert!(mailbox.wait().is_err());
}

#[test]
fn one_thread_has_the_turn_and_hears_of_what_came_meanwhile() {
    let (mailbox, later) = (mailbox(), Instant::now() + Duration::from_secs(3_600));
    assert!(!mailbox.begin(), "there is nothing to do");
    propose(&mailbox);
    assert!(mailbox.begin());
    propose(&mailbox);
    assert!(!mailbox.begin(), "another has it");
    assert_eq!(taken(&mailbox, false, MOST), 2);
    mailbox.deliver(incoming(None));
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::More);
    assert!(!mailbox.begin(), "it has it still");
    assert_eq!(collected(&mailbox), 1);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::Nothing);
    mailbox.deliver(incoming(None));
    assert!(mailbox.begin());
    mailbox.hand_on();
    assert!(mailbox.begin());
}

#[test]
fn a_thread_that_is_woken_for_proposals_which_wait_comes_in_vain() {
    let (mailbox, later) = (mailbox(), Instant::now() + Duration::from_secs(3_600));
    propose(&mailbox);
    assert!(mailbox.begin());
    assert_eq!(taken(&mailbox, true, MOST), 0);
    assert_eq!(mailbox.leave(later, PROPOSALS), Left::Nothing);
    propose(&mailbox);
    assert!(!mailbox.begin());
    mailbox.deliver(incoming(None));
    assert!(mailbox.begin());
    assert_eq!(collected(&mailbox), 1);
    assert_eq!(mailbox.leave(later, PROPOSALS), Left::Nothing);
    mailbox.deliver(incoming(None));
    assert!(mailbox.begin());
    assert_eq!(collected(&mailbox), 1);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::More);
    assert_eq!(taken(&mailbox, false, MOST), 2);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::Nothing);
}

#[test]
fn who_leaves_proposals_that_wait_for_others_has_the_log_thread_look_after_them() {
    let (mailbox, later) = (mailbox(), Instant::now() + Duration::from_secs(3_600));
    mailbox.queued.lock().proposals.expect(2);
    mailbox.deliver(incoming(None));
    assert!(mailbox.begin());
    assert_eq!(collected(&mailbox), 1);
    assert_eq!(mailbox.log.turn_due(), None);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::Nothing);
    let until = mailbox.log.turn_due();
    assert!(until.is_some(), "before anybody has come");
    propose(&mailbox);
    assert!(!mailbox.begin(), "it waits for another");
    propose(&mailbox);
    assert!(mailbox.begin());
    assert_eq!(taken(&mailbox, false, MOST), 2);
}

fn read(mailbox: &Numbers) {
    mailbox.read(Box::new(|_| {})).unwrap();
}

/// Takes reads; tells how many.
fn asked(mailbox: &Numbers) -> usize {
    let mut taken = Vec::new();
    mailbox.reads(&mut taken);
    taken.len()
}

#[test]
fn reads_wait_while_those_before_them_are_asked_for_and_are_no_reason_for_a_turn() {
    let (mailbox, later) = (mailbox(), Instant::now() + Duration::from_secs(3_600));
    read(&mailbox);
    assert!(mailbox.begin());
    assert_eq!(asked(&mailbox), 1);
    read(&mailbox);
    assert_eq!(mailbox.leave(later, READS), Left::Nothing);
    read(&mailbox);
    assert!(!mailbox.begin());
    mailbox.deliver(incoming(None));
    assert!(mailbox.begin());
    assert_eq!(collected(&mailbox), 1);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::More);
    assert_eq!(asked(&mailbox), 2);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::Nothing);
}

#[test]
fn reads_wait_while_the_apply_thread_has_not_come_to_those_before_them() {
    let apply = Arc::new(ApplyQueue::new());
    let mailbox = Numbers::new(
        MOST,
        Arc::new(Budget::new(MOST)),
        Arc::new(LogQueue::new(MOST)),
        Arc::clone(&apply),
    );
    apply.read_stale(Box::new(|_| {}));
    read(&mailbox);
    assert!(mailbox.begin(), "stale ones are none of those");
    assert_eq!(asked(&mailbox), 1);
    let job: ReadJob<()> = Box::new(|_| {});
    apply.read(LogIndex(1), std::iter::once(job));
    read(&mailbox);
    let later = Instant::now() + Duration::from_secs(3_600);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::Nothing);
    assert!(!mailbox.begin());
    mailbox.deliver(incoming(None));
    assert!(mailbox.begin(), "for what does not wait");
}

/// Ends the mailbox when the test is over, so that no thread waits if it fails.
struct Stop<'a>(&'a Numbers);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop("the test is over");
    }
}

#[test]
fn the_raft_thread_hears_of_a_deadline_before_the_one_it_sleeps_until() {
    let (mailbox, now) = (mailbox(), Instant::now());
    propose(&mailbox);
    assert!(mailbox.begin());
    assert_eq!(taken(&mailbox, false, MOST), 1);
    let later = now + Duration::from_secs(3_600);
    assert_eq!(mailbox.leave(later, Gathers::default()), Left::Nothing);
    thread::scope(|scope| {
        let _stop = Stop(&mailbox);
        let raft = scope.spawn(|| mailbox.wait());
        while !matches!(mailbox.queued.lock().raft, Sleep::Until(until) if until == later) {
            thread::yield_now();
        }
        mailbox.deliver(incoming(None));
        assert!(mailbox.begin());
        assert_eq!(collected(&mailbox), 1);
        assert_eq!(mailbox.leave(now, Gathers::default()), Left::Nothing);
        raft.join().unwrap().unwrap();
    });
}
