//! Damage of every kind is refused at open, each by its own name, and nothing is changed by that.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catamaran::sim::{SimDisk, Survival};
use catamaran::types::{ClusterId, LogIndex, NodeId};
use catamaran::vfs::Disk;
use catamaran::wal::{Preparer, Wal, WalError, WalOptions, open_read_only_on};

const SEGMENT: usize = 64 << 10;
const FOOTER_TAIL: usize = 80;

fn options(disk: &SimDisk) -> WalOptions {
    WalOptions::new("/wal")
        .segment_bytes(SEGMENT as u64)
        .owner(ClusterId(1), NodeId(2))
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline)
}

fn append(wal: &Wal, payload: &[u8]) {
    let staged = wal.append(&[payload]).unwrap();
    wal.sync(staged).unwrap();
}

fn name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

fn path(sequence: u64) -> PathBuf {
    Path::new("/wal").join(name(sequence))
}

/// A log with entries 1 to 60 in segments 1 to 5, and a prepared one.
fn log() -> SimDisk {
    let disk = SimDisk::new(1);
    fill(&options(&disk).open().unwrap().0);
    assert_eq!(disk.paths().len(), 6, "segments");
    disk
}

fn fill(wal: &Wal) {
    for index in 1..=60_u8 {
        append(wal, &[index; 4000]);
    }
    let fence = wal.fence().unwrap().unwrap();
    wal.sync(fence).unwrap();
}

fn put(disk: &SimDisk, sequence: u64, bytes: &[u8]) {
    drop(disk.create(&path(sequence)).unwrap());
    disk.poke(&path(sequence), 0, bytes).unwrap();
}

/// Changes a header, and makes its checksum right again.
fn forge(disk: &SimDisk, sequence: u64, at: usize, bytes: &[u8]) {
    let mut header = disk.peek(&path(sequence)).unwrap()[..84].to_vec();
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32fast::hash(&header[..80]);
    header[80..].copy_from_slice(&crc.to_le_bytes());
    disk.poke(&path(sequence), 0, &header).unwrap();
}

fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = disk.paths().into_iter();
    paths
        .map(|path| (path.clone(), disk.peek(&path).unwrap()))
        .collect()
}

/// Why the log is refused, by those who write and those who read, both leaving the disk as it is.
fn refused(disk: &SimDisk) -> WalError {
    let before = (files(disk), disk.ops());
    let error = options(disk).open().map(drop).expect_err("it is damaged");
    let read = open_read_only_on(Arc::new(disk.clone()), "/wal").map(drop);
    let read = read.expect_err("it is damaged");
    assert_eq!(format!("{error}"), format!("{read}"));
    assert!(
        (files(disk), disk.ops()) == before,
        "{error}: something was changed"
    );
    println!("{error}");
    error
}

/// Asserts that the log is refused for damage at a place.
fn assert_damaged(disk: &SimDisk, (sequence, at): (u64, usize), expected: &str) {
    match refused(disk) {
        WalError::Corruption {
            segment,
            offset,
            what,
            ..
        } => assert_eq!(
            (segment, offset, what),
            (name(sequence), at as u64, expected)
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_segment_is_named() {
    for missing in [2, 3] {
        let disk = log();
        disk.remove(&path(missing)).unwrap();
        let error = refused(&disk);
        assert!(matches!(error, WalError::MissingSegment { segment } if segment == name(missing)));
    }
    // All but a prepared one.
    let disk = log();
    for missing in 1..=5 {
        disk.remove(&path(missing)).unwrap();
    }
    let error = refused(&disk);
    assert!(matches!(error, WalError::MissingSegment { segment } if segment == name(5)));
}

#[test]
fn missing_first_segments_are_named_with_the_entry_that_should_be_there() {
    let disk = log();
    for missing in 1..=2 {
        disk.remove(&path(missing)).unwrap();
        match refused(&disk) {
            WalError::MissingFirst { segment, first } => {
                assert_eq!((segment, first), (name(missing + 1), LogIndex(1)));
            }
            other => panic!("{other:?}"),
        }
    }
    // What was dropped is not missed.
    let disk = SimDisk::new(1);
    let (wal, _) = options(&disk).open().unwrap();
    fill(&wal);
    let staged = wal.drop_prefix(LogIndex(20)).unwrap();
    wal.sync(staged).unwrap();
    wal.close().unwrap();
    assert!(disk.peek(&path(1)).is_none());
    let first = options(&disk).open().unwrap().1.first;
    assert_eq!(first, LogIndex(21));
    disk.remove(&path(2)).unwrap();
    match refused(&disk) {
        WalError::MissingFirst { segment, first } => {
            assert_eq!((segment, first), (name(3), LogIndex(21)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn segments_that_exchanged_their_names_are_told() {
    let disk = log();
    let (two, three) = (disk.peek(&path(2)).unwrap(), disk.peek(&path(3)).unwrap());
    put(&disk, 2, &three);
    put(&disk, 3, &two);
    match refused(&disk) {
        WalError::Misplaced { segment, named } => {
            assert_eq!((segment, named), (name(2), name(3)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_under_another_name_is_told_from_the_segment_it_was_made_of() {
    // Over a segment before or after it, and under a name of its own, next to the others or far.
    for (original, copy) in [(3, 2), (2, 3), (2, 6), (2, 7), (2, 9)] {
        let disk = log();
        let bytes = disk.peek(&path(original)).unwrap();
        put(&disk, copy, &bytes);
        match refused(&disk) {
            WalError::DuplicateSegment { segments } => {
                assert_eq!(segments, [name(original), name(copy)]);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_segment_of_another_log_is_told_from_a_log_of_another_owner() {
    let foreign = SimDisk::new(7);
    let (wal, _) = options(&foreign)
        .owner(ClusterId(1), NodeId(3))
        .open()
        .unwrap();
    fill(&wal);
    drop(wal);
    let other_life = SimDisk::new(8);
    fill(&options(&other_life).open().unwrap().0);
    for stranger in [&foreign, &other_life] {
        // The first one too: it is not the others that are the strangers.
        for sequence in [1, 3] {
            let disk = log();
            let identity = options(&disk).open().unwrap().0.identity();
            put(&disk, sequence, &stranger.peek(&path(sequence)).unwrap());
            match refused(&disk) {
                WalError::ForeignSegment {
                    path: found_at,
                    expected,
                    found,
                } => {
                    assert_eq!((found_at, expected), (path(sequence), identity));
                    assert_ne!(found, identity);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    match options(&foreign).open().map(drop) {
        Err(WalError::Foreign {
            expected, found, ..
        }) => {
            assert_eq!(expected, (ClusterId(1), NodeId(2)));
            assert_eq!(found.node, NodeId(3));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_segment_of_another_time_of_the_same_log_is_told() {
    let disk = SimDisk::new(1);
    let (wal, _) = options(&disk).open().unwrap();
    append(&wal, b"common");
    wal.close().unwrap();
    let copy = disk.power_cut(Survival::All);
    // What is drawn at each open differs then.
    drop(options(&copy).open().unwrap());
    fill(&options(&copy).open().unwrap().0);
    fill(&options(&disk).open().unwrap().0);
    put(&disk, 3, &copy.peek(&path(3)).unwrap());
    match refused(&disk) {
        WalError::Unlinked { segment, previous } => {
            assert_eq!((segment, previous), (name(4), name(3)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn zeros_over_a_part_of_a_sealed_segment_are_told_from_other_damage() {
    let zeroed = |sequence, at, len: usize| {
        let disk = log();
        disk.poke(&path(sequence), at, &vec![0; len]).unwrap();
        disk
    };
    let garbled = |sequence, at| {
        let disk = log();
        disk.poke(&path(sequence), at, b"garbled!").unwrap();
        disk
    };
    for sequence in [1, 2, 3] {
        let header = (sequence, 0);
        assert_damaged(
            &zeroed(sequence, 0, 4096),
            header,
            "zeros where the header was",
        );
        let start = (sequence, 4096);
        let disk = zeroed(sequence, 4096, 512);
        assert_damaged(&disk, start, "zeros where the segment's first frame was");
        let disk = garbled(sequence, 4096);
        assert_damaged(&disk, start, "the segment's first frame is damaged");
        let tail = SEGMENT - FOOTER_TAIL;
        let footer = (sequence, tail);
        let disk = zeroed(sequence, SEGMENT - 512, 512);
        assert_damaged(&disk, footer, "zeros where the segment's footer was");
        for at in [tail, tail + 40] {
            let what = "the end of the segment's footer does not match its checksum";
            assert_damaged(&garbled(sequence, at), footer, what);
        }
        // Ahead of the places of 14 entries stands the one run of equal marks.
        let summary = (sequence, tail - 56 - 16);
        let what = "the segment's footer does not match its checksum";
        assert_damaged(&garbled(sequence, summary.1), summary, what);
    }
    // Frames of sealed segments are not read at open: whoever reads them is told.
    let disk = zeroed(2, 8192, 512);
    let inspection = open_read_only_on(Arc::new(disk), "/wal").unwrap();
    match inspection.verify(|_| ()) {
        Err(WalError::Corruption { segment, .. }) => assert_eq!(segment, name(2)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn zeros_over_the_only_segment_that_is_left_are_not_taken_for_a_missing_one() {
    let disk = SimDisk::new(1);
    let (wal, _) = options(&disk).open().unwrap();
    fill(&wal);
    let staged = wal.drop_prefix(LogIndex(60)).unwrap();
    wal.sync(staged).unwrap();
    append(&wal, b"live");
    wal.close().unwrap();
    assert!(disk.peek(&path(4)).is_none() && disk.peek(&path(5)).is_some());
    disk.poke(&path(5), 4096, &[0; 512]).unwrap();
    let what = "zeros where the segment's first frame was";
    assert_damaged(&disk, (5, 4096), what);
}

#[test]
fn bytes_at_the_head_of_a_segment_behind_one_that_was_not_begun_are_named_there() {
    let disk = SimDisk::new(1);
    drop(options(&disk).open().unwrap());
    assert_eq!(disk.paths(), [path(1), path(2)]);
    disk.poke(&path(2), 4100, &[1]).unwrap();
    assert_damaged(&disk, (2, 4096), "the segment's first frame is damaged");

    // Where a good Start frame stands behind, there was one here.
    let disk = log();
    disk.poke(&path(4), 4096, &[0; 512]).unwrap();
    let what = "zeros where the segment's first frame was";
    assert_damaged(&disk, (4, 4096), what);
    disk.poke(&path(6), 4100, &[1]).unwrap();
    assert_damaged(&disk, (4, 4096), what);
}

#[test]
fn a_damaged_start_is_told_even_where_the_footer_before_it_is_gone() {
    let disk = log();
    let (wal, _) = options(&disk).open().unwrap();
    fill(&wal);
    drop(wal);
    assert!(disk.peek(&path(6)).unwrap()[4096] != 0, "in use");
    for sequence in 7.. {
        if disk.peek(&path(sequence)).is_none() {
            break;
        }
        disk.remove(&path(sequence)).unwrap();
    }
    // The fifth looks as if it were written on.
    let bytes = disk.peek(&path(5)).unwrap();
    let footer = bytes[..SEGMENT - FOOTER_TAIL]
        .windows(FOOTER_TAIL)
        .rposition(|w| w == [0; 80]);
    let from = footer.unwrap();
    disk.poke(&path(5), from, &vec![0; SEGMENT - from]).unwrap();
    disk.poke(&path(6), 4096, &[0xff; 4]).unwrap();
    let what = "the segment's first frame is damaged";
    assert_damaged(&disk, (6, 4096), what);
}

#[test]
fn a_byte_at_the_head_of_a_prepared_segment_is_written_over() {
    let disk = log();
    disk.poke(&path(6), 4100, &[1]).unwrap();
    let (wal, recovery) = options(&disk).open().unwrap();
    assert_eq!((recovery.last, recovery.torn), (LogIndex(60), None));
    fill(&wal);
    drop(wal);
    let (_, recovery) = options(&disk).open().unwrap();
    assert_eq!((recovery.last, recovery.torn), (LogIndex(120), None));
}

#[test]
fn a_damaged_header_is_told_from_a_file_that_is_no_segment() {
    for at in [0, 8, 12, 16, 32, 40, 48, 64, 72, 80] {
        let disk = log();
        let byte = disk.peek(&path(2)).unwrap()[at];
        disk.poke(&path(2), at, &[byte ^ 4]).unwrap();
        assert_damaged(&disk, (2, 0), "the header does not match its checksum");
    }
    let disk = log();
    put(&disk, 2, &[b'x'; SEGMENT]);
    assert!(matches!(refused(&disk), WalError::NotALog { path: at } if at == path(2)));
}

#[test]
fn a_file_that_is_not_as_long_as_it_was_made_is_told() {
    for len in [90, 4096, 8192, SEGMENT - 4096, SEGMENT - 1, SEGMENT + 1] {
        let disk = log();
        let mut bytes = disk.peek(&path(2)).unwrap();
        bytes.resize(len, 0);
        put(&disk, 2, &bytes);
        match refused(&disk) {
            WalError::WrongSize {
                segment,
                expected,
                found,
            } => assert_eq!(
                (segment, expected, found),
                (name(2), SEGMENT as u64, len as u64)
            ),
            other => panic!("{other:?}"),
        }
    }
    for (len, what) in [
        (0, "zeros where the header was"),
        (83, "the header does not match its checksum"),
    ] {
        let disk = log();
        let bytes = disk.peek(&path(2)).unwrap()[..len].to_vec();
        put(&disk, 2, &bytes);
        assert_damaged(&disk, (2, 0), what);
    }
}

#[test]
fn a_header_that_names_a_size_that_no_segment_has_is_refused_before_anything_is_allocated() {
    for size in [0, 4096, (1 << 30) + 4096, u64::MAX] {
        let disk = log();
        forge(&disk, 2, 72, &size.to_le_bytes());
        assert_damaged(&disk, (2, 0), "the header names a size that no segment has");
    }
}

#[test]
fn the_work_of_a_later_release_is_told_from_damage() {
    let disk = log();
    forge(&disk, 2, 8, &2_u32.to_le_bytes());
    match refused(&disk) {
        WalError::NewerFormat {
            path: at,
            found,
            supported,
        } => assert_eq!((at, found, supported), (path(2), 2, 1)),
        other => panic!("{other:?}"),
    }
    let disk = log();
    forge(&disk, 3, 16, &0b1010_u64.to_le_bytes());
    match refused(&disk) {
        WalError::UnknownFeatures { path: at, bits } => {
            assert_eq!((at, bits), (path(3), 0b1010));
        }
        other => panic!("{other:?}"),
    }
    // Those that need not be known do no harm.
    let disk = log();
    forge(&disk, 3, 24, &0b1010_u64.to_le_bytes());
    options(&disk).open().unwrap();
    let disk = log();
    forge(&disk, 2, 8, &0_u32.to_le_bytes());
    assert_damaged(&disk, (2, 0), "the header does not match its checksum");
}
