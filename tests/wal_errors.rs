//! An error at each call to the disk in turn, with and without effect: a failed write or sync of the log
//! stops it for good, any other failure refuses what needed the call and nothing else. What is found
//! afterwards is what was durable, or more of what was written.
//!
//! `CATAMARAN_SEED` replays one seed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use catamaran::sim::{Call, Moment, Op, SimDisk, Survival};
use catamaran::types::LogIndex;
use catamaran::wal::{Batch, Preparer, WalError};

mod model;

use model::Model;
use model::script::Script;

const OPERATIONS: u64 = 100;
const OPS: [Op; 7] = [
    Op::Create,
    Op::Write,
    Op::Sync,
    Op::Rename,
    Op::Remove,
    Op::SyncDir,
    Op::Read,
];
/// The system's EIO has no kind of its own.
const KINDS: [ErrorKind; 2] = [ErrorKind::Other, ErrorKind::StorageFull];

/// A call that is to fail.
#[derive(Clone, Copy, Debug)]
struct Fault {
    seed: u64,
    op: Op,
    nth: u64,
    moment: Moment,
    kind: ErrorKind,
}

/// What a failing call came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// Nobody was told; what it was for is done later.
    Silent,
    /// The log could not be opened, and could a moment later.
    NotOpened,
    /// A call was refused, and was not a moment later.
    Refused,
    /// The log stopped.
    Stopped,
}

/// Whether the call was a write or sync of a segment in its place, and not of one being prepared.
fn is_log(op: Op, path: &Path) -> bool {
    matches!(op, Op::Write | Op::Sync)
        && path.extension().is_some_and(|extension| extension == "wal")
}

impl Fault {
    fn run(self) -> Outcome {
        let disk = SimDisk::new(self.seed);
        match self.moment {
            Moment::Before => disk.fail(self.op, self.nth, self.kind),
            Moment::After => disk.fail_late(self.op, self.nth, self.kind),
        }
        let mut outcome = Outcome::Silent;
        let wal = match model::open(&disk) {
            Ok((wal, _)) => wal,
            Err(error) => {
                outcome = Outcome::NotOpened;
                self.check_error(&error, &disk);
                model::open(&disk)
                    .unwrap_or_else(|error| panic!("{self:?}: {error}"))
                    .0
            }
        };
        let mut script = Script::new(&disk, wal, self.seed, Model::default());
        for turn in 0..=OPERATIONS {
            let done = if turn < OPERATIONS {
                script.step()
            } else {
                script.sync()
            };
            let Err(error) = done else {
                // Only what is tried again later may fail without a word.
                continue;
            };
            assert_eq!(
                outcome,
                Outcome::Silent,
                "{self:?}: one fault, one error: {error}"
            );
            self.check_error(&error, &disk);
            outcome = self.judge(&script, &error, &disk);
            if outcome == Outcome::Stopped {
                self.check_stopped(&script, &disk);
                break;
            }
        }
        if outcome != Outcome::Stopped {
            script
                .sync()
                .unwrap_or_else(|error| panic!("{self:?}: {error}"));
        }
        if let [(op, path)] = &disk.failed()[..] {
            assert!(
                outcome != Outcome::Silent || !is_log(*op, path),
                "{self:?}: a failed {op:?} of {} that nobody heard of",
                path.display()
            );
        }
        self.check_left(script, &disk);
        outcome
    }

    /// What the one error that was returned has to mean.
    fn judge(&self, script: &Script<'_>, error: &WalError, disk: &SimDisk) -> Outcome {
        let (op, path) = disk.failed().pop().expect("a call has failed");
        let read_back = matches!(error, WalError::Io(fault) if fault.operation == "read");
        if !script.is_open() {
            Outcome::NotOpened
        } else if is_log(op, &path) || read_back || matches!(error, WalError::Failed(_)) {
            Outcome::Stopped
        } else {
            Outcome::Refused
        }
    }

    /// The error is the disk's, and says whether there is no room.
    fn check_error(&self, error: &WalError, disk: &SimDisk) {
        let (op, path) = disk.failed().pop().expect("a call has failed");
        let full = self.kind == ErrorKind::StorageFull;
        match error {
            WalError::NoSpace(fault) => {
                assert!(full && !is_log(op, &path), "{self:?}: {error}");
                assert_eq!(fault.source.kind(), self.kind, "{self:?}");
            }
            WalError::Io(fault) => {
                assert_eq!(fault.source.kind(), self.kind, "{self:?}: {error}");
            }
            WalError::Failed(fault) => {
                assert!(!full && !is_log(op, &path), "{self:?}: {error}");
                assert_eq!(fault.source.kind(), self.kind, "{self:?}: {error}");
            }
            other => panic!("{self:?}: {other}"),
        }
    }

    /// A log that has stopped refuses everything, touches the disk no more, and still reads.
    fn check_stopped(&self, script: &Script<'_>, disk: &SimDisk) {
        let (ops, wal) = (disk.ops(), script.wal());
        for _ in 0..2 {
            let results = [
                wal.append(&[b"more"]).map(drop),
                wal.write(&Batch::default()).map(drop),
                wal.drop_prefix(LogIndex(1)).map(drop),
                wal.fence().map(drop),
                wal.clone().close(),
            ];
            for result in results {
                assert!(
                    matches!(result, Err(WalError::Failed(_))),
                    "{self:?}: {result:?}"
                );
            }
        }
        assert_eq!(disk.ops(), ops, "{self:?}: nothing more is tried");
        let now = script.history.now();
        let reader = wal.reader();
        assert_eq!(reader.last().0, now.last(), "{self:?}");
        for (index, entry) in (now.floor + 1..).zip(&now.entries) {
            let stored = reader
                .get(LogIndex(index))
                .unwrap_or_else(|error| panic!("{self:?}: {error}"));
            assert_eq!(&*stored.payload, &*entry.payload, "{self:?}");
        }
    }

    /// What is found when the process has ended, or power goes as well.
    fn check_left(&self, mut script: Script<'_>, disk: &SimDisk) {
        script.abandon();
        let allowed = script.history.allowed();
        let random = [1, 2, 3].map(Survival::Random);
        let cuts = [Survival::All, Survival::None].into_iter().chain(random);
        let cuts = cuts.map(|survival| (Some(survival), disk.power_cut(survival)));
        for (cut, disk) in std::iter::once((None, disk.kill())).chain(cuts) {
            let (wal, recovery) =
                model::open(&disk).unwrap_or_else(|error| panic!("{self:?}, {cut:?}: {error}"));
            let found = Model::of(&wal, &recovery);
            assert!(
                allowed.contains(&found),
                "{self:?}, {cut:?}: {}",
                model::explain(&found, allowed)
            );
            let mut script = Script::new(&disk, wal, self.nth, found).after_cut(recovery.torn);
            let went_on = script
                .run(5)
                .and_then(|()| script.close())
                .and_then(|()| script.reopen());
            went_on.unwrap_or_else(|error| panic!("{self:?}, {cut:?}: {error}"));
        }
    }
}

/// How many calls of each kind the script of a seed makes.
fn counts(seed: u64) -> BTreeMap<Op, u64> {
    let disk = SimDisk::new(seed);
    let (wal, _) = model::open(&disk).unwrap();
    let mut script = Script::new(&disk, wal, seed, Model::default());
    script.run(OPERATIONS).unwrap();
    OPS.map(|op| (op, disk.count(op))).into()
}

#[test]
fn an_error_at_any_call_stops_the_log_or_is_made_good_and_loses_nothing() {
    let mut faults = Vec::new();
    for seed in model::seeds(1..=8) {
        for (op, count) in counts(seed) {
            for nth in 1..=count {
                for kind in KINDS {
                    let moments = if op == Op::Read {
                        &[Moment::Before][..]
                    } else {
                        &[Moment::Before, Moment::After]
                    };
                    faults.extend(moments.iter().map(|&moment| Fault {
                        seed,
                        op,
                        nth,
                        moment,
                        kind,
                    }));
                }
            }
        }
    }
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<BTreeMap<(Op, Outcome), usize>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = fault.run();
                    *outcomes
                        .lock()
                        .unwrap()
                        .entry((fault.op, outcome))
                        .or_default() += 1;
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    println!("{} failing calls: {outcomes:?}", faults.len());
    assert!(outcomes.contains_key(&(Op::Sync, Outcome::Stopped)));
    assert!(outcomes.contains_key(&(Op::Read, Outcome::NotOpened)));
}

/// Threads append and sync beside each other, and one sync of the disk fails. Returns whether that stopped
/// the log, or nothing if there were not so many syncs.
fn stop_under_threads(nth: u64) -> Option<bool> {
    const THREADS: u8 = 4;
    const TURNS: u8 = 60;
    let disk = SimDisk::new(nth);
    let (wal, _) = model::options(&disk)
        .preparer(Preparer::Thread)
        .open()
        .unwrap();
    disk.record();
    disk.fail(Op::Sync, disk.count(Op::Sync) + nth, ErrorKind::Other);
    let acknowledged: Mutex<Vec<(LogIndex, Vec<u8>)>> = Mutex::default();
    let told = AtomicUsize::new(0);
    let work = |thread: u8| {
        for turn in 0..TURNS {
            let bytes = [thread, turn].repeat(3000);
            let synced = wal
                .append(&[&bytes])
                .and_then(|staged| wal.sync(staged).map(|_| staged.last()));
            match synced {
                Ok(index) => acknowledged.lock().unwrap().push((index, bytes)),
                Err(WalError::Io(_) | WalError::Failed(_)) => {
                    told.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(other) => panic!("sync {nth}: {other}"),
            }
        }
    };
    thread::scope(|scope| {
        let work = &work;
        for thread in 0..THREADS {
            scope.spawn(move || work(thread));
        }
    });
    drop(wal);
    let told = told.into_inner();
    let failed = disk.failed();
    let (op, path) = failed.first()?;
    let stopped = is_log(*op, path);
    if stopped {
        let calls = disk.calls();
        let last = calls
            .iter()
            .rfind(|call| is_log(call.op, &call.path))
            .unwrap();
        assert_eq!(
            (last.op, &last.path),
            (*op, path),
            "sync {nth}: a further call on the log"
        );
        assert!(told > 0, "sync {nth}: nobody was told");
    } else {
        // Those are told who need the segment that will not come.
        let calls = disk.calls();
        let prepares = |call: &&Call| call.op == Op::Sync && !is_log(call.op, &call.path);
        let last = calls.iter().rfind(prepares).unwrap();
        assert_eq!(last.path, *path, "sync {nth}: another segment was tried");
    }
    for survival in [Survival::None, Survival::Random(nth), Survival::All] {
        let (wal, _) = model::open(&disk.power_cut(survival)).unwrap();
        for (index, bytes) in acknowledged.lock().unwrap().iter() {
            let stored = wal.reader().get(*index).unwrap();
            assert_eq!(
                &*stored.payload, bytes,
                "sync {nth}, {survival:?}: entry {index}"
            );
        }
    }
    Some(stopped)
}

#[test]
fn whichever_sync_fails_under_many_threads_nothing_is_acknowledged_after_it_and_nothing_before_it_lost()
 {
    let outcomes: Vec<_> = (1..=60).map_while(stop_under_threads).collect();
    let stopped = outcomes.iter().filter(|stopped| **stopped).count();
    println!("{} failing syncs, {stopped} of the log", outcomes.len());
    assert!(stopped > 0 && stopped < outcomes.len());
}
