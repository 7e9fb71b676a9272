//! The log's threads under a schedule explorer: which of them goes on is decided at each lock, flag, event and
//! call to the disk, at random or by PCT ("A Randomized Scheduler with Probabilistic Guarantees of Finding
//! Bugs"). The code is that which ships; a thread that waits for ever is found as a deadlock.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};

use crate::sim::{Op, SimDisk, Survival};
use crate::sync::{AtomicBool, AtomicU64, Mutex, explore};
use crate::types::{LogIndex, Payload, Staged, WriteSeq};
use crate::wal::group::{Group, Outcome, Role};
use crate::wal::{Batch, Lead, Preparer, ReadError, Record, Stored, Wal, WalError, WalOptions};

/// A log with a segment to write to and one ahead, whose helper writes the fence as soon as it can.
fn open(disk: &SimDisk, preparer: Preparer) -> Wal {
    let options = WalOptions::new("/wal").segment_bytes(64 << 10);
    let options = options.disk(Arc::new(disk.clone())).preparer(preparer);
    options.fence_after(Duration::ZERO).open().unwrap().0
}

fn below(end: u64) -> u64 {
    thread_rng().gen_range(0..end)
}

/// A write, and what came of it.
struct Written {
    index: LogIndex,
    payload: Vec<u8>,
    /// The disk as a power cut would have left it when the sync returned.
    synced: Result<SimDisk, WalError>,
}

impl Written {
    fn is_on(&self, disk: &SimDisk) -> bool {
        let found = open(disk, Preparer::Inline).reader().get(self.index);
        found.is_ok_and(|stored| *stored.payload == *self.payload)
    }

    fn check(&self) {
        if let Ok(disk) = &self.synced {
            assert!(self.is_on(disk), "entry {} was acknowledged", self.index.0);
        }
    }
}

fn write(wal: &Wal, disk: &SimDisk, payload: Vec<u8>) -> Result<Written, WalError> {
    let staged = wal.append(&[&payload])?;
    let synced = wal.sync(staged).map(|durable| {
        assert!(durable.seq() >= staged.seq());
        disk.power_cut(Survival::None)
    });
    Ok(Written {
        index: staged.last(),
        payload,
        synced,
    })
}

/// Threads that write `each` entries of `len` bytes, and sync each of them; they end with the first that is
/// refused.
fn writers(
    wal: &Wal,
    disk: &SimDisk,
    count: u8,
    each: u8,
    len: usize,
) -> Vec<JoinHandle<Vec<Written>>> {
    let start = |writer| {
        let (wal, disk) = (wal.clone(), disk.clone());
        thread::spawn(move || {
            let payload = |nth: u8| [vec![writer, nth], vec![0; len]].concat();
            let written = (0..each).map_while(|nth| write(&wal, &disk, payload(nth)).ok());
            written.collect()
        })
    };
    (0..count).map(start).collect()
}

fn join<T>(threads: Vec<JoinHandle<Vec<T>>>) -> Vec<T> {
    let ended = threads
        .into_iter()
        .flat_map(|thread| thread.join().unwrap());
    ended.collect()
}

#[test]
fn who_returns_from_sync_has_its_write_on_the_disk() {
    explore(1_500, || {
        let disk = SimDisk::new(1);
        let wal = open(&disk, Preparer::Inline);
        let written = join(writers(&wal, &disk, 4, 2, 0));
        assert_eq!(written.len(), 8);
        for written in written {
            assert!(written.synced.is_ok());
            written.check();
        }
        assert!(wal.syncs() <= 8);
    });
}

#[test]
fn a_failed_sync_fails_all_whose_write_it_held_and_all_who_come_later() {
    explore(1_000, || {
        let disk = SimDisk::new(1);
        let wal = open(&disk, Preparer::Inline);
        let nth = disk.count(Op::Sync) + 1 + below(4);
        let late = below(2) == 1;
        if late {
            disk.fail_late(Op::Sync, nth, ErrorKind::Other);
        } else {
            disk.fail(Op::Sync, nth, ErrorKind::Other);
        }
        let written = join(writers(&wal, &disk, 3, 2, 0));
        let failed = !disk.failed().is_empty();
        let left = disk.power_cut(Survival::None);
        for written in &written {
            written.check();
            match &written.synced {
                Ok(_) => assert!(written.is_on(&left)),
                Err(WalError::Io(_) | WalError::Failed(_)) => {
                    assert!(failed);
                    // It was not synced, and nobody has tried again.
                    assert!(late || !written.is_on(&left));
                }
                Err(error) => panic!("{error}"),
            }
        }
        if failed {
            assert!(written.iter().any(|written| written.synced.is_err()));
            assert!(matches!(wal.append(&[b"x"]), Err(WalError::Failed(_))));
        }
    });
}

#[test]
fn when_a_leader_goes_without_having_synced_nobody_waits_for_it() {
    explore(1_000, || {
        let disk = SimDisk::new(1);
        let wal = open(&disk, Preparer::Inline);
        let own = wal.clone();
        // What a panic unwinds through.
        let deserter = thread::spawn(move || {
            let Ok(staged) = own.append(&[b"deserted"]) else {
                return false;
            };
            let leads = matches!(own.handle.group.enter(staged.seq()), Ok(Role::Lead));
            if leads {
                drop(Lead::new(&own.handle));
            }
            leads
        });
        let written = join(writers(&wal, &disk, 3, 2, 0));
        let deserted = deserter.join().unwrap();
        for written in &written {
            written.check();
            let failed = matches!(written.synced, Err(WalError::Failed(_)));
            assert!(written.synced.is_ok() || (deserted && failed));
        }
        assert_eq!(wal.append(&[b"x"]).is_err(), deserted);
    });
}

/// Writes until it is on the disk, however often there is no room.
fn write_in_the_end(wal: &Wal, payload: &[u8]) -> Staged {
    let staged = loop {
        match wal.append(&[payload]) {
            Ok(staged) => break staged,
            Err(error) => assert!(matches!(error, WalError::NoSpace(_)), "{error}"),
        }
        thread::yield_now();
    };
    while let Err(error) = wal.sync(staged) {
        assert!(matches!(error, WalError::NoSpace(_)), "{error}");
        thread::yield_now();
    }
    staged
}

#[test]
fn a_full_disk_keeps_nobody_waiting_and_all_is_durable_once_there_is_room() {
    explore(400, || {
        let disk = SimDisk::new(1);
        for nth in 0..=below(3) {
            let nth = disk.count(Op::Create) + 3 + nth;
            disk.fail(Op::Create, nth, ErrorKind::StorageFull);
        }
        let wal = open(&disk, Preparer::Thread);
        let start = |writer: u8| {
            let wal = wal.clone();
            thread::spawn(move || {
                let entry = [writer; 15_000];
                (0..3).map(|_| write_in_the_end(&wal, &entry)).collect()
            })
        };
        let staged: Vec<Staged> = join((0..3).map(start).collect());
        wal.close().unwrap();
        let wal = open(&disk.power_cut(Survival::None), Preparer::Inline);
        assert_eq!(wal.reader().last().0, staged.len() as u64);
    });
}

/// What entry `index` holds since the log was truncated so often.
fn entry(index: LogIndex, truncations: u8) -> Vec<u8> {
    let number = u8::try_from(index.0).unwrap();
    [
        vec![number, truncations],
        vec![number ^ truncations; 15_000],
    ]
    .concat()
}

/// Reads all there is, again and again, and holds it.
fn read(wal: &Wal) -> Vec<Stored> {
    let reader = wal.reader();
    let mut held = Vec::new();
    for _ in 0..3 {
        for read in reader.range(reader.first()..=reader.last()) {
            match read {
                Ok(stored) => held.push(stored),
                Err(ReadError::Compacted { .. } | ReadError::NotYet { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    held
}

/// Appends, truncates and drops over several segments, so that old ones are used again.
fn move_on(wal: &Wal) {
    let mut next = LogIndex(1);
    for truncations in 0..3 {
        let entries: Vec<_> = (0..5).map(|n| entry(next.plus(n), truncations)).collect();
        let record = |payload| Record {
            mark: 0,
            tag: 0,
            payload: Payload::Borrowed(payload),
        };
        let records: Vec<_> = entries
            .iter()
            .map(|entry| record(entry.as_slice()))
            .collect();
        let truncate_from = (truncations > 0).then_some(next);
        let batch = Batch {
            state: None,
            truncate_from,
            records: &records,
        };
        wal.sync(wal.write(&batch).unwrap()).unwrap();
        next = next.plus(3);
        wal.sync(wal.drop_prefix(next.prev()).unwrap()).unwrap();
    }
}

fn beside_readers(preparer: Preparer) {
    let disk = SimDisk::new(1);
    let wal = open(&disk, preparer);
    let own = wal.clone();
    let writer = thread::spawn(move || move_on(&own));
    let own = wal.clone();
    let scrubber = thread::spawn(move || {
        for _ in 0..3 {
            let scrubbed = own.scrub_step().unwrap();
            assert!(scrubbed.is_none_or(|scrubbed| scrubbed.damage.is_none()));
        }
    });
    let start = |_| {
        let wal = wal.clone();
        thread::spawn(move || read(&wal))
    };
    let held = join((0..2).map(start).collect());
    scrubber.join().unwrap();
    writer.join().unwrap();
    for stored in held {
        let truncations = stored.payload[1];
        assert_eq!(*stored.payload, entry(stored.index, truncations));
    }
    wal.close().unwrap();
    let wal = open(&disk.power_cut(Survival::None), Preparer::Inline);
    let left: Vec<_> = read(&wal).into_iter().take(2).collect();
    assert_eq!((wal.reader().first().0, wal.reader().last().0), (10, 11));
    assert_eq!(left.iter().map(|stored| stored.payload[1]).max(), Some(2));
}

#[test]
fn what_a_reader_holds_stays_as_it_is_while_the_log_is_truncated_and_dropped() {
    explore(400, || beside_readers(Preparer::Inline));
    explore(400, || beside_readers(Preparer::Thread));
}

#[test]
fn a_log_that_is_closed_beside_its_writers_has_all_that_was_taken_and_lets_the_directory_go() {
    explore(1_000, || {
        let disk = SimDisk::new(1);
        let wal = open(&disk, Preparer::Thread);
        let writers = writers(&wal, &disk, 3, 2, 0);
        wal.close().unwrap();
        // The others may still be at work.
        let again = open(&disk, Preparer::Inline);
        let more = write(&again, &disk, b"more".to_vec()).unwrap();
        more.check();
        drop(again);
        for written in join(writers) {
            written.check();
            assert!(matches!(written.synced, Ok(_) | Err(WalError::Closed)));
            assert!(
                written.is_on(&disk.power_cut(Survival::None)),
                "it was taken"
            );
        }
        assert!(more.is_on(&disk.power_cut(Survival::None)));
    });
}

#[test]
fn a_log_that_two_close_at_once_writes_nothing_after_it_let_the_directory_go() {
    explore(1_000, || {
        let disk = SimDisk::new(1);
        let wal = open(&disk, Preparer::Inline);
        let writers = writers(&wal, &disk, 2, 1, 0);
        let own = wal.clone();
        // Who comes second finds it closed, and does not wait until it is fenced.
        let other = thread::spawn(move || drop(own.close()));
        drop(wal.close());
        let again = open(&disk, Preparer::Inline);
        let more = write(&again, &disk, b"more".to_vec()).unwrap();
        drop(again);
        other.join().unwrap();
        let written = join(writers);
        let left = disk.power_cut(Survival::None);
        assert!(more.synced.is_ok() && more.is_on(&left));
        for written in written {
            written.check();
            assert!(written.synced.is_err() || written.is_on(&left));
        }
    });
}

#[test]
fn whoever_drops_the_last_handle_ends_the_helper_and_lets_the_directory_go() {
    explore(1_000, || {
        let disk = SimDisk::new(1);
        let wal = open(&disk, Preparer::Thread);
        let writers = writers(&wal, &disk, 3, 1, 0);
        drop(wal);
        for written in join(writers) {
            assert!(written.synced.is_ok());
            written.check();
            assert!(written.is_on(&disk));
        }
    });
}

#[test]
fn a_log_that_falls_idle_writes_its_fence_whoever_synced_last() {
    explore(1_000, || {
        let disk = SimDisk::new(1);
        let wal = open(&disk, Preparer::Thread);
        for written in join(writers(&wal, &disk, 3, 2, 0)) {
            assert!(written.synced.is_ok());
        }
        while wal.handle.unfenced().is_some() {
            thread::yield_now();
        }
        wal.close().unwrap();
    });
}

/// A group whose disk is two numbers.
#[derive(Default)]
struct Model {
    group: Group,
    written: Mutex<u64>,
    durable: AtomicU64,
}

impl Model {
    /// As the log does it.
    fn write_and_sync(&self, leading: &AtomicBool) {
        let seq = {
            let mut written = self.written.lock();
            *written += 1;
            WriteSeq(*written)
        };
        let durable = match self.group.enter(seq).unwrap() {
            Role::Done(durable) => durable,
            Role::Lead => {
                assert!(!leading.swap(true, Ordering::AcqRel), "two lead");
                let goal = {
                    let written = self.written.lock();
                    self.group.begin(WriteSeq(*written));
                    WriteSeq(*written)
                };
                self.durable.store(goal.0, Ordering::Release);
                leading.store(false, Ordering::Release);
                let error = None;
                self.group.finish(Outcome {
                    durable: goal,
                    error,
                });
                goal
            }
        };
        assert!(seq <= durable, "it would be an error");
        assert!(
            seq.0 <= self.durable.load(Ordering::Acquire),
            "not on the disk"
        );
    }
}

fn model() {
    let shared = Arc::new((Model::default(), AtomicBool::new(false)));
    let start = |_| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for _ in 0..3 {
                shared.0.write_and_sync(&shared.1);
            }
        })
    };
    let threads: Vec<_> = (0..4).map(start).collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn of_all_who_sync_one_leads_at_a_time_and_nobody_waits_for_ever() {
    explore(20_000, model);
}
