//! What the log's helper thread does by itself when the log falls idle.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use catamaran::sim::{Op, SimDisk};
use catamaran::wal::{Preparer, Wal, WalError, WalOptions};

/// When to give up on a thread that should have done something: never reached by a log that works.
const LONG: Duration = Duration::from_secs(60);

fn options(disk: &SimDisk) -> WalOptions {
    WalOptions::new("/wal")
        .segment_bytes(64 << 10)
        .disk(Arc::new(disk.clone()))
        .fence_after(Duration::ZERO)
}

fn segment(sequence: u64) -> PathBuf {
    Path::new("/wal").join(format!("{sequence:016x}.wal"))
}

fn append(wal: &Wal, payload: &[u8]) -> Result<(), WalError> {
    let staged = wal.append(&[payload])?;
    wal.sync(staged).map(drop)
}

/// A disk with a log of one entry, fenced, and all segments prepared, so that later calls are the log's own.
fn prepared() -> SimDisk {
    let disk = SimDisk::new(1);
    let (wal, _) = options(&disk).preparer(Preparer::Inline).open().unwrap();
    append(&wal, b"first").unwrap();
    wal.close().unwrap();
    disk
}

fn flip(disk: &SimDisk, needle: &[u8]) {
    let bytes = disk.peek(&segment(1)).unwrap();
    let at = bytes.windows(needle.len()).position(|part| part == needle);
    let at = at.expect("it is in the file");
    disk.poke(&segment(1), at, &[bytes[at] ^ 0x10]).unwrap();
}

#[test]
fn an_idle_log_fences_its_newest_batch_by_itself() {
    let disk = prepared();
    let (wal, _) = options(&disk).open().unwrap();
    let mut syncs = disk.count(Op::Sync);
    for payload in ["older", "newest"] {
        append(&wal, payload.as_bytes()).unwrap();
        syncs += 2;
        assert!(disk.wait_for(Op::Sync, syncs, LONG), "no fence came");
    }
    // As a crash would leave it: without the fence of a close.
    drop(wal);
    assert_eq!(disk.count(Op::Sync), syncs, "one fence each time");
    flip(&disk, b"newest");
    assert!(matches!(
        options(&disk).open().map(drop),
        Err(WalError::Corruption { .. })
    ));
}

#[test]
fn what_recovery_found_without_a_fence_is_fenced_too() {
    let disk = prepared();
    let (wal, _) = options(&disk).fence_after(Duration::MAX).open().unwrap();
    append(&wal, b"newest").unwrap();
    drop(wal);
    let before = disk.count(Op::Sync);
    let (wal, _) = options(&disk).open().unwrap();
    // One is recovery's.
    assert!(disk.wait_for(Op::Sync, before + 2, LONG), "no fence came");
    drop(wal);
    flip(&disk, b"newest");
    assert!(matches!(
        options(&disk).open().map(drop),
        Err(WalError::Corruption { .. })
    ));
}

#[test]
fn a_log_that_is_never_to_fence_by_itself_leaves_the_newest_batch_to_be_cut() {
    let disk = prepared();
    let (wal, _) = options(&disk).fence_after(Duration::MAX).open().unwrap();
    append(&wal, b"newest").unwrap();
    drop(wal);
    flip(&disk, b"newest");
    let (_wal, recovery) = options(&disk).open().unwrap();
    assert!(recovery.torn.is_some());
}

#[test]
fn an_error_of_the_fence_latches_as_any_other() {
    let disk = prepared();
    let (wal, _) = options(&disk).open().unwrap();
    let before = disk.count(Op::Sync);
    disk.fail(Op::Sync, before + 2, ErrorKind::Other);
    append(&wal, b"newest").unwrap();
    assert!(disk.wait_for(Op::Sync, before + 2, LONG), "no fence came");
    // The helper may not have come back from the call yet; closing waits for whoever syncs.
    assert!(matches!(
        wal.close(),
        Err(WalError::Failed(_) | WalError::Io(_))
    ));
    assert_eq!(disk.count(Op::Sync), before + 2, "no further sync is tried");
    let (wal, recovery) = options(&disk).open().unwrap();
    assert_eq!(recovery.last.0, 2, "what was durable is there");
    wal.close().unwrap();
}

#[test]
fn the_helper_makes_the_segment_itself_that_its_own_fence_needs() {
    let disk = prepared();
    let (wal, _) = options(&disk).fence_after(Duration::MAX).open().unwrap();
    append(&wal, b"newest").unwrap();
    drop(wal);
    // Torn: the log goes on in a fresh segment, which the fence is the first to need; and the helper's first
    // try to make it has failed by then.
    flip(&disk, b"newest");
    disk.fail(Op::Create, disk.count(Op::Create) + 1, ErrorKind::Other);
    for path in disk.paths() {
        if path.extension().is_some_and(|ext| ext == "wal") && path != segment(1) {
            catamaran::vfs::Disk::remove(&disk, &path).unwrap();
        }
    }
    let before = disk.count(Op::Create);
    let (wal, recovery) = options(&disk).open().unwrap();
    assert!(recovery.torn.is_some());
    let syncs = disk.count(Op::Sync);
    assert!(
        disk.wait_for(Op::Create, before + 2, LONG),
        "not tried again"
    );
    // Segment, and two fences: one below it and one in it.
    assert!(disk.wait_for(Op::Sync, syncs + 3, LONG), "no fence came");
    wal.close().unwrap();
}

/// A caller that counts its writes, as consensus does, is not put out by a write of the helper's.
#[test]
fn the_fence_of_an_idle_log_takes_no_write_number() {
    let disk = prepared();
    let (wal, _) = options(&disk).open().unwrap();
    let mut syncs = disk.count(Op::Sync);
    for number in 1..=3 {
        let staged = wal.append(&[b"x"]).unwrap();
        assert_eq!(staged.seq().0, number);
        wal.sync(staged).unwrap();
        syncs += 2;
        assert!(disk.wait_for(Op::Sync, syncs, LONG), "no fence came");
        assert_eq!(wal.written().0, number);
    }
}
