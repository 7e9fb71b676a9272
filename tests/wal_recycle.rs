//! Segments in which nothing lives become new ones, and what they held never comes back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use catamaran::sim::{Op, SimDisk, Survival};
use catamaran::types::{Bytes, LogIndex, Payload};
use catamaran::vfs::{Disk, StdDisk};
use catamaran::wal::{
    Batch, Preparer, Record, Recovery, Stage, Wal, WalError, WalOptions, WalReader,
    open_read_only_on,
};

/// So many entries fill more than a segment of 64 KiB.
const SEGMENT: u64 = 70;

fn open(disk: Arc<dyn Disk>, dir: &Path) -> (Wal, Recovery) {
    WalOptions::new(dir)
        .segment_bytes(64 << 10)
        .disk(disk)
        .preparer(Preparer::Inline)
        .open()
        .unwrap()
}

fn open_sim(disk: &SimDisk) -> (Wal, Recovery) {
    open(Arc::new(disk.clone()), Path::new("/wal"))
}

fn payload(index: u64) -> Vec<u8> {
    let mut bytes = vec![index as u8; 1000];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes
}

fn append(wal: &Wal, count: u64) {
    let next = wal.reader().last().0 + 1;
    for index in next..next + count {
        let staged = wal.append(&[&payload(index)]).unwrap();
        wal.sync(staged).unwrap();
    }
}

/// Fills segments one after another, and always lets all but the last few entries go.
fn turn_over(wal: &Wal, segments: u64) {
    for _ in 0..2 * segments {
        append(wal, SEGMENT / 2);
        let staged = wal
            .drop_prefix(LogIndex(wal.reader().last().0 - 5))
            .unwrap();
        wal.sync(staged).unwrap();
    }
}

fn assert_holds(reader: &WalReader, last: u64) {
    assert_eq!(reader.last(), LogIndex(last));
    for index in reader.first().0..=last {
        assert_eq!(
            &*reader.get(LogIndex(index)).unwrap().payload,
            payload(index)
        );
    }
}

#[test]
fn a_log_whose_old_entries_go_asks_for_no_more_files() {
    let disk = SimDisk::new(1);
    let (wal, _) = open_sim(&disk);
    turn_over(&wal, 4);
    let (files, created) = (disk.paths().len(), disk.count(Op::Create));
    turn_over(&wal, 20);
    assert_eq!(disk.count(Op::Create), created, "no file was made");
    assert!(disk.paths().len() <= files + 1, "and none is left over");
    assert_holds(&wal.reader(), 24 * SEGMENT);
}

#[test]
fn a_log_goes_on_in_a_recycled_segment_after_it_was_closed_as_in_any_other() {
    let disk = SimDisk::new(1);
    let (wal, _) = open_sim(&disk);
    turn_over(&wal, 8);
    append(&wal, 3);
    wal.close().unwrap();
    let active = |disk: &SimDisk| {
        let log = open_read_only_on(Arc::new(disk.clone()), "/wal").unwrap();
        log.verify(|_| ()).unwrap();
        let segments = log.segments();
        let active = segments
            .iter()
            .find(|segment| segment.stage == Stage::Active);
        active.unwrap().sequence
    };
    let before = active(&disk);
    let (wal, recovery) = open_sim(&disk);
    assert_eq!(recovery.torn, None, "old frames are not torn ones");
    append(&wal, 1);
    assert_holds(&wal.reader(), 8 * SEGMENT + 4);
    drop(wal);
    assert_eq!(active(&disk), before);
}

/// The head of zeros that ends the log is written behind one that is written from where it is, too.
#[test]
fn the_log_ends_cleanly_behind_a_large_payload_in_a_recycled_segment() {
    for len in 5_000..5_008 {
        let disk = SimDisk::new(1);
        let (wal, _) = open_sim(&disk);
        turn_over(&wal, 8);
        append(&wal, 3);
        let large = Bytes::from(vec![7; len]);
        let record = Record {
            mark: 0,
            tag: 0,
            payload: Payload::Shared(&large),
        };
        let batch = Batch {
            records: &[record],
            ..Batch::default()
        };
        let staged = wal.write(&batch).unwrap();
        wal.sync(staged).unwrap();
        let (wal, recovery) = open_sim(&disk.kill());
        assert_eq!(
            recovery.torn, None,
            "{len} bytes: old frames are not torn ones"
        );
        assert_eq!(wal.reader().get(recovery.last).unwrap().payload, large);
    }
}

#[test]
fn a_file_is_not_written_over_while_somebody_holds_bytes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(Arc::new(StdDisk), dir.path());
    append(&wal, 2 * SEGMENT);
    let held = wal.reader().get(LogIndex(1)).unwrap();
    turn_over(&wal, 10);
    assert!(wal.reader().first() > LogIndex(10 * SEGMENT));
    assert_eq!(&*held.payload, payload(1));
    assert_holds(&wal.reader(), 12 * SEGMENT);
}

#[test]
fn after_a_power_cut_nothing_that_a_recycled_file_held_before_is_read() {
    for lead in 0..24 {
        let disk = SimDisk::new(lead);
        let (wal, _) = open_sim(&disk);
        turn_over(&wal, 6);
        append(&wal, 3 * lead);
        let synced = wal.reader().last().0;
        // Written and not synced: some of its sectors survive, before and behind old ones.
        let lost: Vec<_> = (1..=3).map(|n| payload(synced + n)).collect();
        let lost: Vec<_> = lost.iter().map(Vec::as_slice).collect();
        let staged = wal.append(&lost).unwrap();
        let next = disk.count(Op::Sync) + 1;
        disk.fail(Op::Sync, next, std::io::ErrorKind::Other);
        assert!(matches!(wal.sync(staged), Err(WalError::Io(_))));
        let random = (0..8).map(Survival::Random);
        for survival in random.chain([Survival::All, Survival::None]) {
            let found = disk.power_cut(survival);
            let (wal, recovery) = open_sim(&found);
            let last = recovery.last.0;
            let case = format!("lead {lead}, {survival:?}");
            assert!((synced..=synced + 3).contains(&last), "{case}: {last}");
            append(&wal, SEGMENT);
            assert_holds(&wal.reader(), last + SEGMENT);
            drop(wal);
            let (wal, recovery) = open_sim(&found);
            assert_eq!(recovery.torn, None, "{case}");
            assert_holds(&wal.reader(), last + SEGMENT);
        }
    }
}

/// A disk on which a write of 80 KiB, the last there was, has ended the first segment and filled the second;
/// where in each of the two it began.
fn filled_at_once() -> (SimDisk, [(&'static Path, usize); 2]) {
    let disk = SimDisk::new(1);
    let (wal, _) = open_sim(&disk);
    append(&wal, 50);
    let look = || open_read_only_on(Arc::new(disk.clone()), "/wal").unwrap();
    let used = look().segments()[0].used as usize;
    let staged = wal.append(&[&[7; 16 << 10][..]; 5]).unwrap();
    wal.sync(staged).unwrap();
    drop(wal);
    let stages: Vec<_> = look().segments().iter().map(|seen| seen.stage).collect();
    assert_eq!(stages[..3], [Stage::Sealed, Stage::Sealed, Stage::Active]);
    // Nothing is written to the third before the second is durable.
    lose(&disk, Path::new("/wal/0000000000000003.wal"), 4096..65_536);
    let first = Path::new("/wal/0000000000000001.wal");
    let second = Path::new("/wal/0000000000000002.wal");
    (disk, [(first, used), (second, 4096)])
}

fn lose(disk: &SimDisk, path: &Path, bytes: std::ops::Range<usize>) {
    let zeros = vec![0; bytes.len()];
    disk.poke(path, bytes.start, &zeros).unwrap();
}

#[test]
fn a_footer_that_outlived_its_frames_is_never_taken_for_the_end_of_others() {
    for (lost_in, table_too) in [(0, false), (0, true), (1, false), (1, true)] {
        let (disk, segments) = filled_at_once();
        let (path, from) = segments[lost_in];
        // Of the write to this segment only sectors of the footer reached the disk, and nothing of what was
        // to follow.
        lose(&disk, path, from..65_000);
        for &(path, from) in &segments[lost_in + 1..] {
            lose(&disk, path, from..65_536);
        }
        let case = format!("in segment {}, table lost: {table_too}", lost_in + 1);
        if table_too {
            disk.poke(path, 65_536 - 84, &[0xff; 4]).unwrap();
        }
        let mut last = 50;
        for turn in 0..3 {
            let (wal, recovery) = open_sim(&disk);
            assert_eq!(recovery.torn.is_some(), turn == 0, "{case}");
            assert_eq!(recovery.last.0, last, "{case}");
            append(&wal, 52);
            last += 52;
            assert_holds(&wal.reader(), last);
        }
    }
}
