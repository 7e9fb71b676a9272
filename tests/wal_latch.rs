//! What a disk that fails does to the log: what stops it for good, what only delays it, what it says at open.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/forward.rs"]
mod forward;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use catamaran::sim::{Op, SimDisk, Survival};
use catamaran::types::LogIndex;
use catamaran::vfs::{Access, Disk, DiskFile};
use catamaran::wal::{
    Preparer, Recovery, Wal, WalError, WalOptions, open_read_only, open_read_only_on,
};

fn open(disk: &SimDisk) -> Result<(Wal, Recovery), WalError> {
    WalOptions::new("/wal")
        .segment_bytes(64 << 10)
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline)
        .open()
}

fn append(wal: &Wal) -> Result<(), WalError> {
    let staged = wal.append(&[&[7; 4000]])?;
    wal.sync(staged).map(drop)
}

fn drop_prefix(wal: &Wal, upto: u64) -> Result<(), WalError> {
    let staged = wal.drop_prefix(LogIndex(upto))?;
    wal.sync(staged).map(drop)
}

fn path(sequence: u64) -> PathBuf {
    Path::new("/wal").join(format!("{sequence:016x}.wal"))
}

/// Fails one call of a kind from now on, the `nth`.
fn fail(disk: &SimDisk, op: Op, nth: u64, kind: ErrorKind) {
    disk.fail(op, disk.count(op) + nth, kind);
}

#[test]
fn after_any_failed_write_sync_rename_or_directory_sync_the_log_stops_and_the_disk_is_left_alone() {
    let mut cases = 0;
    for op in [Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
        // The calls of the log and those that prepare three segments.
        for nth in 1..=match op {
            Op::Write | Op::Sync => 60,
            _ => 3,
        } {
            let case = format!("{op:?} {nth}");
            let disk = SimDisk::new(1);
            let (wal, _) = open(&disk).unwrap();
            fail(&disk, op, nth, ErrorKind::Other);
            let mut durable = 0;
            let error = loop {
                match append(&wal) {
                    Ok(()) => durable += 1,
                    Err(error) => break error,
                }
                assert!(durable < 200, "{case}: no error came");
            };
            assert!(
                matches!(error, WalError::Io(_) | WalError::Failed(_)),
                "{case}: {error}"
            );
            let left = disk.ops();
            assert!(matches!(append(&wal), Err(WalError::Failed(_))), "{case}");
            assert!(matches!(wal.close(), Err(WalError::Failed(_))), "{case}");
            assert_eq!(disk.ops(), left, "{case}: the disk was asked again");
            for survival in [Survival::None, Survival::All, Survival::Random(nth)] {
                let (wal, recovery) = open(&disk.power_cut(survival)).unwrap();
                // The one whose sync failed may be there or not.
                let last = recovery.last.0;
                assert!(
                    last == durable || last == durable + 1,
                    "{case}: {last}, {durable}"
                );
                append(&wal).unwrap();
            }
            cases += 1;
        }
    }
    println!("{cases} cases");
}

#[test]
fn a_log_whose_next_segment_failed_goes_on_as_far_as_the_ready_ones_reach() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    // Segment 2 is ready, and 3 will fail.
    fail(&disk, Op::SyncDir, 1, ErrorKind::Other);
    let syncs = disk.count(Op::SyncDir);
    let mut durable = 0;
    while append(&wal).is_ok() {
        durable += 1;
        // Nothing is removed then, which would ask the directory again.
        if durable == 20 {
            drop_prefix(&wal, 16).unwrap();
        }
    }
    assert_eq!(disk.count(Op::SyncDir), syncs + 1);
    assert!(
        disk.peek(&path(2)).unwrap()[4096..]
            .iter()
            .any(|&byte| byte != 0)
    );
    drop(wal);
    let (_, recovery) = open(&disk.power_cut(Survival::None)).unwrap();
    assert_eq!(recovery.last, LogIndex(durable));
}

#[test]
fn a_segment_whose_file_cannot_be_created_is_tried_again() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    for nth in 1..=4 {
        fail(&disk, Op::Create, nth, ErrorKind::Other);
    }
    let (mut durable, mut refused) = (0, 0);
    while durable < 60 {
        match append(&wal) {
            Ok(()) => durable += 1,
            Err(WalError::Io(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(refused < 10, "it never went on");
    }
    assert!(refused > 0);
    wal.close().unwrap();
    assert!(open(&disk).unwrap().1.last >= LogIndex(60));
}

#[test]
fn of_dead_segments_none_goes_before_an_older_one_that_could_not_go() {
    // Without room among the ready ones they are removed, else made into new ones.
    for (op, spoiled) in [
        (Op::Rename, 0),
        (Op::Remove, 0),
        (Op::Remove, 1),
        (Op::SyncDir, 0),
    ] {
        let case = format!("{op:?}");
        let disk = SimDisk::new(1);
        let (wal, _) = open(&disk).unwrap();
        for _ in 0..100 {
            append(&wal).unwrap();
        }
        fail(&disk, op, 1 + spoiled, ErrorKind::Other);
        // One segment after another dies.
        for upto in [20, 40, 60, 80, 90] {
            drop_prefix(&wal, upto).unwrap();
        }
        drop(wal);
        let (wal, recovery) = open(&disk).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(
            (recovery.first, recovery.last),
            (LogIndex(91), LogIndex(100)),
            "{case}"
        );
        append(&wal).unwrap();
    }
}

#[test]
fn at_open_a_missing_directory_a_read_only_disk_and_missing_rights_each_say_what_to_do() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    append(&wal).unwrap();
    wal.close().unwrap();
    let kinds = [ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied];
    for (kind, op) in kinds
        .into_iter()
        .flat_map(|kind| [(kind, Op::Read), (kind, Op::Sync), (kind, Op::SyncDir)])
    {
        for nth in 1..=4 {
            let disk = disk.power_cut(Survival::All);
            fail(&disk, op, nth, kind);
            let Err(error) = open(&disk).map(drop) else {
                assert!(nth > 1, "{op:?}: there is such a call");
                continue;
            };
            let fault = match (&error, kind) {
                (WalError::ReadOnly(fault), ErrorKind::ReadOnlyFilesystem)
                | (WalError::Denied(fault), ErrorKind::PermissionDenied) => fault,
                other => panic!("{op:?} {nth}: {other:?}"),
            };
            assert!(fault.path.starts_with("/wal"), "{error}");
            assert!(error.to_string().contains("/wal"), "{error}");
            assert!(error.source().is_some());
        }
    }
    let disk = SimDisk::new(1);
    fail(&disk, Op::Create, 1, ErrorKind::ReadOnlyFilesystem);
    assert!(matches!(open(&disk).map(drop), Err(WalError::ReadOnly(_))));
    let nowhere = open_read_only_on(Arc::new(SimDisk::new(1)), "/wal").map(drop);
    assert!(
        matches!(nowhere, Err(WalError::NoDirectory(fault)) if fault.path == Path::new("/wal"))
    );
    // Likewise on a real disk.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    for path in [file.join("below"), dir.path().join("missing")] {
        let error = open_read_only(&path).map(drop);
        assert!(matches!(error, Err(WalError::NoDirectory(_))), "{error:?}");
    }
    let error = WalOptions::new(file.join("below")).open().map(drop);
    assert!(matches!(error, Err(WalError::NoDirectory(_))), "{error:?}");
}

/// A disk on which the log's helper thread panics when it makes a file, from some time on.
struct Trap {
    disk: SimDisk,
    armed: AtomicBool,
}

impl Disk for Trap {
    forward!(create_dir_all list rename remove sync_dir lock entropy);
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let helper = thread::current().name() == Some("catamaran-wal");
        assert!(
            !(helper && self.armed.load(Ordering::Relaxed)),
            "as the test wants"
        );
        self.disk.create(path)
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, access)
    }
}

#[test]
fn if_the_helper_thread_panics_the_log_uses_up_what_is_prepared_and_then_fails() {
    let trap = Arc::new(Trap {
        disk: SimDisk::new(1),
        armed: AtomicBool::new(false),
    });
    let options = WalOptions::new("/wal").segment_bytes(64 << 10);
    let (wal, _) = options.disk(Arc::clone(&trap) as _).open().unwrap();
    trap.armed.store(true, Ordering::Relaxed);
    let mut durable = 0;
    let error = loop {
        match append(&wal) {
            Ok(()) => durable += 1,
            Err(error) => break error,
        }
        assert!(durable < 200, "no error came");
    };
    assert!(error.to_string().contains("panicked"), "{error}");
    assert!(matches!(append(&wal), Err(WalError::Failed(_))));
    assert!(wal.close().is_err());
    let (_, recovery) = open(&trap.disk).unwrap();
    assert_eq!(recovery.last, LogIndex(durable));
}
