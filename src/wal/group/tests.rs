//! Who waits for which sync, and what everyone is told. The test's own thread leads by hand, as one whose
//! fdatasync takes as long as the test likes.

#![allow(clippy::unwrap_used)]

use std::io::{Error, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use super::super::{Lead, Preparer, Wal, WalOptions};
use super::*;
use crate::error::Fault;
use crate::sim::{Op, SimDisk};
use crate::types::Staged;

impl Group {
    /// How many have joined the sync under way, beside its leader or captain.
    fn joined(&self) -> usize {
        let state = self.state.lock();
        state.current.as_ref().map_or(0, |sync| sync.aboard - 1)
    }

    /// How many wait for the sync after it, the captain among them.
    fn next(&self) -> usize {
        let next = &self.state.lock().next;
        next.as_ref().map_or(0, |next| next.waiting)
    }
}

type Answer = Result<Role, WalError>;

/// Enters on a thread of its own, and returns when that has joined (or has come back at once).
fn enter<'s>(scope: &'s Scope<'s, '_>, group: &'s Group, seq: u64) -> ScopedJoinHandle<'s, Answer> {
    let before = group.joined() + group.next();
    let thread = scope.spawn(move || group.enter(WriteSeq(seq)));
    until(|| thread.is_finished() || group.joined() + group.next() > before);
    thread
}

fn until(mut happened: impl FnMut() -> bool) {
    while !happened() {
        std::thread::yield_now();
    }
}

/// Wakes everyone when a test fails, so that it ends.
struct Rescue<'a>(&'a Group);

impl Drop for Rescue<'_> {
    fn drop(&mut self) {
        while std::thread::panicking() && self.0.state.lock().current.is_some() {
            self.0.finish(outcome(u64::MAX - 1, None));
        }
    }
}

fn outcome(durable: u64, error: Option<WalError>) -> Outcome {
    let durable = WriteSeq(durable);
    Outcome { durable, error }
}

fn no_space() -> WalError {
    let source = Error::from(ErrorKind::StorageFull);
    WalError::NoSpace(Fault::new("write", Path::new("/wal"), source))
}

fn is_done(answer: Answer, durable: u64) -> bool {
    matches!(answer, Ok(Role::Done(seq)) if seq == WriteSeq(durable))
}

fn lead_by_hand(group: &Group) {
    assert!(matches!(group.enter(WriteSeq(1)), Ok(Role::Lead)));
}

#[test]
fn who_comes_late_with_a_write_that_is_under_way_wakes_with_that_sync() {
    let group = Group::default();
    lead_by_hand(&group);
    group.begin(WriteSeq(5));
    std::thread::scope(|scope| {
        let _rescue = Rescue(&group);
        let late = enter(scope, &group, 5);
        assert_eq!((group.joined(), group.next()), (1, 0));
        group.finish(outcome(5, None));
        assert!(is_done(late.join().unwrap(), 5));
    });
    assert!(is_done(group.enter(WriteSeq(4)), 5));
}

#[test]
fn of_those_who_wrote_too_late_one_leads_and_the_others_wake_with_its_sync() {
    let group = Group::default();
    lead_by_hand(&group);
    group.begin(WriteSeq(5));
    std::thread::scope(|scope| {
        let _rescue = Rescue(&group);
        let captain = enter(scope, &group, 6);
        let member = enter(scope, &group, 7);
        assert_eq!((group.joined(), group.next()), (0, 2));
        group.finish(outcome(5, None));
        assert!(matches!(captain.join().unwrap(), Ok(Role::Lead)));
        // Before the captain has begun, more may join it.
        let more = enter(scope, &group, 8);
        assert_eq!(group.next(), 0);
        group.begin(WriteSeq(8));
        group.finish(outcome(8, None));
        assert!(is_done(member.join().unwrap(), 8));
        assert!(is_done(more.join().unwrap(), 8));
    });
}

#[test]
fn an_error_reaches_those_whose_write_was_part_of_the_try_and_no_others() {
    let group = Group::default();
    lead_by_hand(&group);
    std::thread::scope(|scope| {
        let _rescue = Rescue(&group);
        let early = enter(scope, &group, 3);
        let failed = enter(scope, &group, 5);
        group.begin(WriteSeq(5));
        let captain = enter(scope, &group, 6);
        // The first of two segments was synced.
        group.finish(outcome(3, Some(no_space())));
        assert!(is_done(early.join().unwrap(), 3));
        assert!(matches!(failed.join().unwrap(), Err(WalError::NoSpace(_))));
        assert!(matches!(captain.join().unwrap(), Ok(Role::Lead)));
        group.finish(outcome(6, None));
    });
}

/// A group that waits for so many, for so long.
fn patient(expected: usize, took: Duration) -> Group {
    let group = Group::default();
    group.state.lock().pace = Pace::of(expected, took);
    group
}

#[test]
fn a_sync_waits_for_those_who_were_there_before_and_the_last_of_them_leads() {
    let group = patient(3, Duration::from_secs(3600));
    std::thread::scope(|scope| {
        let _rescue = Rescue(&group);
        let captain = scope.spawn(|| group.enter(WriteSeq(1)));
        until(|| group.state.lock().current.is_some());
        let member = enter(scope, &group, 2);
        assert_eq!((group.joined(), group.next()), (1, 0));
        assert!(matches!(group.enter(WriteSeq(3)), Ok(Role::Lead)));
        group.begin(WriteSeq(3));
        group.finish(outcome(3, None));
        assert!(is_done(captain.join().unwrap(), 3));
        assert!(is_done(member.join().unwrap(), 3));
    });
}

#[test]
fn if_they_do_not_come_in_time_the_first_who_waited_leads() {
    let group = patient(3, Duration::from_millis(1));
    let first = group.enter(WriteSeq(1));
    assert!(matches!(first, Ok(Role::Lead)));
    group.finish(outcome(1, None));
}

/// A log with a segment to write to and one ahead.
fn open(disk: &SimDisk) -> Result<Wal, WalError> {
    let options = WalOptions::new("/wal").segment_bytes(64 << 10);
    let options = options.disk(Arc::new(disk.clone()));
    options
        .preparer(Preparer::Inline)
        .open()
        .map(|(wal, _)| wal)
}

fn sync<'s>(
    scope: &'s Scope<'s, '_>,
    wal: &Wal,
    staged: Staged,
) -> ScopedJoinHandle<'s, Result<(), WalError>> {
    let group = &wal.handle.group;
    let before = group.joined() + group.next();
    let own = wal.clone();
    let thread = scope.spawn(move || own.sync(staged).map(drop));
    until(|| thread.is_finished() || group.joined() + group.next() > before);
    thread
}

#[test]
fn when_a_leader_panics_its_round_and_the_next_one_fail_and_so_does_the_log() {
    let wal = open(&SimDisk::new(1)).unwrap();
    let first = wal.append(&[b"first"]).unwrap();
    lead_by_hand(&wal.handle.group);
    std::thread::scope(|scope| {
        let _rescue = Rescue(&wal.handle.group);
        let member = sync(scope, &wal, first);
        wal.handle.group.begin(first.seq());
        let captain = sync(scope, &wal, wal.append(&[b"second"]).unwrap());
        let other = sync(scope, &wal, wal.append(&[b"third"]).unwrap());
        assert_eq!((wal.handle.group.joined(), wal.handle.group.next()), (1, 2));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _lead = Lead::new(&wal.handle);
            std::panic::resume_unwind(Box::new("the disk's driver"));
        }));
        assert!(panicked.is_err());
        for waiter in [member, captain, other] {
            assert!(matches!(waiter.join().unwrap(), Err(WalError::Failed(_))));
        }
    });
    assert!(matches!(wal.append(&[b"x"]), Err(WalError::Failed(_))));
}

#[test]
fn a_sync_that_finds_no_segment_fails_its_round_and_the_next_try_makes_all_durable() {
    let disk = SimDisk::new(1);
    let wal = open(&disk).unwrap();
    // The log has two segments; what is staged needs a third, which is refused for a while.
    let payload = [7; 10_000];
    let staged: Vec<_> = (0..18).map(|_| wal.append(&[&payload]).unwrap()).collect();
    lead_by_hand(&wal.handle.group);
    std::thread::scope(|scope| {
        let _rescue = Rescue(&wal.handle.group);
        let early = sync(scope, &wal, staged[0]);
        let late = sync(scope, &wal, staged[17]);
        // It is tried ahead after the first of the two, and then once more because it is needed.
        for nth in 1..=2 {
            let nth = disk.count(Op::Create) + nth;
            disk.fail(Op::Create, nth, ErrorKind::StorageFull);
        }
        let outcome = Lead::new(&wal.handle).run();
        assert!(matches!(outcome.error, Some(WalError::NoSpace(_))));
        assert!(early.join().unwrap().is_ok(), "its segment was there");
        assert!(matches!(late.join().unwrap(), Err(WalError::NoSpace(_))));
    });
    wal.sync(staged[17]).unwrap();
    wal.close().unwrap();
    assert_eq!(open(&disk).unwrap().reader().last().0, 18);
}

#[test]
fn closing_tells_all_who_wait_and_keeps_the_directory_until_the_leader_is_done() {
    let disk = SimDisk::new(1);
    let wal = open(&disk).unwrap();
    let group = &wal.handle.group;
    let staged = wal.append(&[b"one"]).unwrap();
    lead_by_hand(group);
    std::thread::scope(|scope| {
        let _rescue = Rescue(group);
        let waiter = sync(scope, &wal, staged);
        let own = wal.clone();
        // What a close does whose own sync has failed.
        let closing = scope.spawn(move || own.open.let_go());
        until(|| closing.is_finished() || group.joined() == 2);
        assert!(matches!(open(&disk), Err(WalError::Locked { .. })));
        assert!(Lead::new(&wal.handle).run().error.is_none());
        assert!(waiter.join().unwrap().is_ok());
        closing.join().unwrap();
    });
    assert!(matches!(wal.append(&[b"x"]), Err(WalError::Closed)));
    assert_eq!(open(&disk).unwrap().reader().last().0, 1);
}
