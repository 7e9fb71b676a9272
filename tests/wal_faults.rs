//! Damage, failing calls and full disks: what is named, what is latched, what is tried again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};

use catamaran::sim::{Call, Moment, Op, Rng, SimDisk, Survival};
use catamaran::types::LogIndex;
use catamaran::wal::{
    Batch, Inspection, Preparer, ReadError, Record, Recovery, Stage, Wal, WalError, WalOptions,
    open_read_only_on,
};

fn options(disk: &SimDisk) -> WalOptions {
    WalOptions::new("/wal")
        .segment_bytes(64 << 10)
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline)
}

fn open(disk: &SimDisk) -> Result<(Wal, Recovery), WalError> {
    options(disk).open()
}

fn look(disk: &SimDisk) -> Result<Inspection, WalError> {
    open_read_only_on(Arc::new(disk.clone()), "/wal")
}

fn append(wal: &Wal, payload: &[u8]) -> Result<(), WalError> {
    let staged = wal.append(&[payload])?;
    wal.sync(staged).map(drop)
}

fn segment(sequence: u64) -> PathBuf {
    Path::new("/wal").join(format!("{sequence:016x}.wal"))
}

/// Where `needle` stands in a file.
fn find(disk: &SimDisk, path: &Path, needle: &[u8]) -> usize {
    let bytes = disk.peek(path).unwrap();
    let at = bytes.windows(needle.len()).position(|part| part == needle);
    at.expect("it is in the file")
}

fn flip(disk: &SimDisk, path: &Path, offset: usize) {
    let byte = disk.peek(path).unwrap()[offset];
    disk.poke(path, offset, &[byte ^ 0x10]).unwrap();
}

#[test]
fn a_flipped_byte_below_a_fence_is_corruption_named_by_segment_offset_and_index() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    for payload in ["one", "twotwotwo", "three"] {
        append(&wal, payload.as_bytes()).unwrap();
    }
    drop(wal);
    let at = find(&disk, &segment(1), b"twotwotwo");
    flip(&disk, &segment(1), at);
    let before = disk.peek(&segment(1));
    match open(&disk).map(drop) {
        Err(WalError::Corruption {
            segment,
            offset,
            index,
            ..
        }) => {
            assert_eq!(segment, "0000000000000001.wal");
            assert_eq!(offset, at as u64 - 32);
            assert_eq!(index, Some(LogIndex(2)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(disk.peek(&segment(1)), before, "nothing was touched");
}

/// The footer reached the disk and the frames that it tells of did not. Then frames of the same length, of
/// other marks, are written in their place.
#[test]
fn a_footer_that_alone_survived_a_crash_is_never_believed_later() {
    let record = |mark| Record {
        mark,
        tag: 0,
        payload: (&[7; 16 << 10]).into(),
    };
    let write = |wal: &Wal, records: &[Record<'_>]| {
        let records = Batch {
            records,
            ..Batch::default()
        };
        let staged = wal.write(&records).unwrap();
        wal.sync(staged).unwrap();
    };
    for first in [1, 2] {
        // The write of three entries ends segment `first`, the fourth begins the next.
        let disk = SimDisk::new(1);
        let (wal, _) = open(&disk).unwrap();
        write(&wal, &[record(1)].repeat(3 * (first - 1)));
        let before = disk.kill();
        write(&wal, &[record(1)].repeat(4));
        drop(wal);
        // The segment before is synced by itself.
        if first > 1 {
            let whole = disk.peek(&segment(1)).unwrap();
            before.poke(&segment(1), 0, &whole).unwrap();
        }
        let path = segment(first as u64);
        let (sealed, old) = (disk.peek(&path).unwrap(), before.peek(&path).unwrap());
        let footer = sealed.len() - 512;
        assert_ne!(sealed[footer..], old[footer..], "it has a footer now");
        before.poke(&path, footer, &sealed[footer..]).unwrap();

        let (wal, recovery) = open(&before).unwrap();
        assert_eq!(recovery.last.0, 3 * (first as u64 - 1));
        write(&wal, &[record(2)].repeat(3));
        drop(wal);
        let (wal, _) = open(&before).unwrap();
        write(&wal, &[record(2)]);
        drop(wal);
        let (wal, recovery) = open(&before).unwrap();
        let begins = recovery.last.0 - 3;
        assert!(wal.reader().runs().contains(&(2, LogIndex(begins))));
        look(&before).unwrap().verify(|_| ()).unwrap();
    }
}

/// A log with a state and no live entry, whose next entry begins segment 2.
fn about_to_carry_its_state_over() -> (SimDisk, Wal) {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    let state = Batch {
        state: Some(&[1; 896]),
        ..Batch::default()
    };
    let _ = wal.write(&state).unwrap();
    let entry = [7; 16 << 10];
    let _ = wal.append(&[&entry, &entry, &entry]).unwrap();
    let staged = wal.drop_prefix(LogIndex(3)).unwrap();
    wal.sync(staged).unwrap();
    (disk, wal)
}

#[test]
fn the_state_outlives_two_crashes_while_it_is_carried_over_to_the_next_segment() {
    let holds_state = |disk: &SimDisk, case: &str| {
        let (_, recovery) = open(disk).unwrap();
        assert_eq!(recovery.state, Some(vec![1; 896]), "{case}");
    };
    for nth in 1.. {
        let (disk, wal) = about_to_carry_its_state_over();
        disk.crash_at(disk.ops() + nth, Moment::After);
        let done = append(&wal, &[7; 16 << 10]);
        if !disk.is_crashed() {
            done.unwrap();
            assert!(nth > 4, "a segment was ended and one begun");
            break;
        }
        for seed in 0..32 {
            let case = format!("cut at call {nth}, sectors by seed {seed}");
            let cut = disk.power_cut(Survival::Random(seed));
            holds_state(&cut, &case);
            holds_state(&cut.power_cut(Survival::None), &case);
        }
    }
}

#[test]
fn damage_of_the_frames_that_carry_a_log_over_is_named_once_the_segment_before_is_gone() {
    let (disk, wal) = about_to_carry_its_state_over();
    append(&wal, &[7; 16 << 10]).unwrap();
    drop(wal);
    assert!(disk.peek(&segment(1)).is_none());
    let record = find(&disk, &segment(2), &[7; 32]) - 32;
    for at in 4096..record {
        let damaged = disk.kill();
        flip(&damaged, &segment(2), at);
        match open(&damaged).map(drop) {
            Err(WalError::Corruption { segment, .. }) => {
                assert_eq!(segment, "0000000000000002.wal");
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
}

#[test]
fn a_bad_frame_above_every_fence_is_a_torn_tail_cut_and_reported() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    for payload in ["one", "two", "three"] {
        append(&wal, payload.as_bytes()).unwrap();
    }
    drop(wal);
    // No batch says that the last one was durable.
    let at = find(&disk, &segment(1), b"three");
    flip(&disk, &segment(1), at);
    let (wal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.last, LogIndex(2));
    let torn = recovery.torn.unwrap();
    assert_eq!(torn.segment, "0000000000000001.wal");
    assert_eq!((torn.offset, torn.bytes), (at as u64 - 32, 40));
    append(&wal, b"again").unwrap();
    assert_eq!(&*wal.reader().get(LogIndex(3)).unwrap().payload, b"again");
}

#[test]
fn frames_behind_a_cut_never_come_back() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    append(&wal, b"one").unwrap();
    let staged = wal
        .append(&[b"two", b"lost", b"stale-4", b"stale-5"])
        .unwrap();
    wal.sync(staged).unwrap();
    drop(wal);
    let at = find(&disk, &segment(1), b"lost");
    flip(&disk, &segment(1), at);
    let (wal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.last, LogIndex(2));
    append(&wal, b"new3").unwrap();
    drop(wal);
    // Even if the lost frame heals, nothing behind it follows from the new one.
    flip(&disk, &segment(1), at);
    let (wal, recovery) = open(&disk).unwrap();
    assert_eq!((recovery.last, recovery.torn), (LogIndex(3), None));
    assert_eq!(&*wal.reader().get(LogIndex(3)).unwrap().payload, b"new3");
}

#[test]
fn no_flipped_byte_of_a_closed_log_goes_unnoticed_if_it_changes_what_is_read() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    let payload = |index: u64| vec![index as u8; 100 + (index as usize * 97) % 4000];
    let last = 60;
    for index in 1..=last {
        append(&wal, &payload(index)).unwrap();
    }
    wal.close().unwrap();
    let seed = std::env::var("CATAMARAN_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut rng = Rng::new(seed);
    let mut named = 0;
    for path in disk.paths() {
        let len = disk.peek(&path).unwrap().len() as u64;
        for _ in 0..400 {
            let broken = disk.power_cut(Survival::All);
            let offset = rng.below(len) as usize;
            flip(&broken, &path, offset);
            let case = format!("CATAMARAN_SEED={seed}: byte {offset} of {}", path.display());
            let Ok((wal, recovery)) = open(&broken) else {
                named += 1;
                continue;
            };
            assert_eq!(recovery.last, LogIndex(last), "{case}");
            for index in 1..=last {
                match wal.reader().get(LogIndex(index)) {
                    Ok(stored) => assert_eq!(&*stored.payload, payload(index), "{case}"),
                    Err(ReadError::Wal(WalError::Corruption { .. })) => named += 1,
                    Err(other) => panic!("{case}: {other}"),
                }
            }
        }
    }
    println!("{named} flipped bytes were named");
    assert!(named > 500);
}

#[test]
fn after_a_failed_sync_everyone_gets_the_error_and_no_second_sync_is_tried() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    append(&wal, b"kept").unwrap();
    disk.fail(Op::Sync, disk.count(Op::Sync) + 1, ErrorKind::Other);
    let staged = wal.append(&[b"lost"]).unwrap();
    assert!(matches!(wal.sync(staged), Err(WalError::Io(_))));
    let syncs = disk.count(Op::Sync);
    assert!(matches!(wal.sync(staged), Err(WalError::Failed(_))));
    assert!(matches!(wal.append(&[b"more"]), Err(WalError::Failed(_))));
    assert!(matches!(
        wal.drop_prefix(LogIndex(1)),
        Err(WalError::Failed(_))
    ));
    assert_eq!(&*wal.reader().get(LogIndex(1)).unwrap().payload, b"kept");
    assert!(matches!(wal.close(), Err(WalError::Failed(_))));
    assert_eq!(disk.count(Op::Sync), syncs);
}

#[test]
fn every_thread_that_waits_for_a_failed_sync_is_told() {
    const THREADS: usize = 8;
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    disk.fail(Op::Sync, disk.count(Op::Sync) + 1, ErrorKind::Other);
    let staged = Barrier::new(THREADS);
    let failed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let write = wal.append(&[b"x"]);
                    staged.wait();
                    wal.sync(write.unwrap()).is_err()
                })
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.filter(|failed| *failed).count()
    });
    assert_eq!(failed, THREADS);
}

#[test]
fn callers_that_wait_together_share_syncs() {
    const THREADS: u64 = 8;
    const TURNS: u64 = 50;
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    let before = disk.count(Op::Sync);
    let staged = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                // Each takes all its turns, whatever comes of one: the others wait for it.
                let turns = (0..TURNS).map(|_| {
                    let write = wal.append(&[b"x"]);
                    staged.wait();
                    write.and_then(|write| wal.sync(write))
                });
                let turns: Vec<_> = turns.collect();
                assert!(turns.iter().all(Result::is_ok), "{turns:?}");
            });
        }
    });
    let syncs = disk.count(Op::Sync) - before;
    // All of a turn are staged before any is synced; only the next turn's may come between.
    assert!(
        syncs <= 2 * TURNS,
        "{syncs} syncs for {} appends",
        THREADS * TURNS
    );
    assert!(syncs >= TURNS);
}

#[test]
fn a_full_disk_refuses_what_needs_a_segment_and_the_log_goes_on_when_there_is_room() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    // The first segments are there; every further one fails for a while.
    for nth in 1..=6 {
        disk.fail(
            Op::Create,
            disk.count(Op::Create) + nth,
            ErrorKind::StorageFull,
        );
    }
    let payload = [7; 5000];
    let (mut refused, mut written) = (0, 0);
    while refused < 3 {
        match append(&wal, &payload) {
            Ok(()) => written += 1,
            Err(WalError::NoSpace(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(written < 100, "the disk never was full");
    }
    let last = wal.reader().last();
    while append(&wal, &payload).is_err() {
        refused += 1;
        assert!(refused < 10, "the log never went on");
    }
    append(&wal, b"after").unwrap();
    assert_eq!(wal.reader().last(), LogIndex(last.0 + 2));
    wal.close().unwrap();
    let (wal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.last, LogIndex(last.0 + 2));
    let reader = wal.reader();
    for stored in reader.range(LogIndex(1)..=last) {
        assert_eq!(&*stored.unwrap().payload, payload);
    }
}

#[test]
fn what_needs_a_segment_that_could_not_be_made_is_refused_before_it_is_staged() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    // The second segment is ready, and when the first is full there is no room for a third.
    disk.fill_up();
    let mut written = 0;
    let refused = loop {
        match wal.append(&[&[7; 5000]]) {
            Ok(staged) => wal.sync(staged).unwrap(),
            Err(error) => break error,
        };
        written += 1;
    };
    assert!(matches!(refused, WalError::NoSpace(_)), "{refused}");
    assert!(
        disk.peek(&segment(2)).unwrap().contains(&7),
        "both are used"
    );
    assert_eq!(wal.reader().last(), LogIndex(written));
    disk.make_room();
    append(&wal, b"after").unwrap();
}

#[test]
fn a_lost_segment_and_a_copied_one_are_told_apart_from_damage() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    for _ in 0..60 {
        append(&wal, &[7; 4000]).unwrap();
    }
    wal.close().unwrap();
    let lost = |sequence| {
        let disk = disk.power_cut(Survival::All);
        catamaran::vfs::Disk::remove(&disk, &segment(sequence)).unwrap();
        open(&disk).map(drop)
    };
    let name = "0000000000000002.wal";
    assert!(matches!(lost(2), Err(WalError::MissingSegment { segment }) if segment == name));
    assert!(matches!(lost(1), Err(WalError::MissingFirst { segment, .. }) if segment == name));
    let copied = disk.power_cut(Survival::All);
    let bytes = copied.peek(&segment(1)).unwrap();
    copied.poke(&segment(2), 0, &bytes).unwrap();
    assert!(matches!(
        open(&copied).map(drop),
        Err(WalError::DuplicateSegment { .. })
    ));
    let strange = disk.power_cut(Survival::All);
    strange.poke(&segment(2), 0, b"something").unwrap();
    assert!(
        matches!(open(&strange).map(drop), Err(WalError::NotALog { path }) if path == segment(2))
    );
}

#[test]
fn a_fence_makes_damage_of_the_newest_batch_be_named_and_is_written_once() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    append(&wal, b"only").unwrap();
    let staged = wal
        .fence()
        .unwrap()
        .expect("nothing says yet that it is durable");
    wal.sync(staged).unwrap();
    assert!(wal.fence().unwrap().is_none());
    drop(wal);
    let (wal, _) = open(&disk).unwrap();
    assert!(wal.fence().unwrap().is_none(), "it was found again");
    drop(wal);
    let at = find(&disk, &segment(1), b"only");
    flip(&disk, &segment(1), at);
    assert!(matches!(
        open(&disk).map(drop),
        Err(WalError::Corruption { .. })
    ));
}

#[test]
fn a_look_at_a_log_shows_all_of_it_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    for index in 1..=40_u8 {
        append(&wal, &[index; 3000]).unwrap();
    }
    let staged = wal.drop_prefix(LogIndex(5)).unwrap();
    wal.sync(staged).unwrap();
    append(&wal, b"the last").unwrap();
    // The log is open, and its lock is held.
    let whole = disk.ops();
    let inspection = look(&disk).unwrap();
    assert_eq!(
        (inspection.first(), inspection.last()),
        (LogIndex(6), LogIndex(41))
    );
    assert_eq!(inspection.torn(), None);
    assert_eq!(inspection.runs(), wal.reader().runs());
    let mut next = LogIndex(6);
    for segment in inspection.segments() {
        if let Some((first, last)) = segment.entries {
            assert_eq!(first, next);
            next = last.next();
        }
    }
    assert_eq!(next, LogIndex(42));
    for stored in inspection.range(LogIndex(6)..=LogIndex(40)) {
        let stored = stored.unwrap();
        assert_eq!(&*stored.payload, [stored.index.0 as u8; 3000]);
    }
    let mut read = 0;
    inspection.verify(|bytes| read = bytes).unwrap();
    assert_eq!(read, inspection.used_bytes());
    drop(wal);
    let at = find(&disk, &segment(3), b"the last");
    flip(&disk, &segment(3), at);
    let inspection = look(&disk).unwrap();
    assert_eq!(inspection.last(), LogIndex(40));
    assert_eq!(inspection.torn().unwrap().offset, at as u64 - 32);
    inspection.verify(|_| ()).unwrap();
    let sealed = inspection.segments()[0].clone();
    assert_eq!(sealed.stage, Stage::Sealed);
    flip(&disk, &segment(1), 6000);
    let error = look(&disk).unwrap().verify(|_| ());
    let named = matches!(
        error,
        Err(WalError::Corruption {
            index: Some(LogIndex(1)),
            ..
        })
    );
    assert!(named, "{error:?}");
    assert_eq!(disk.ops(), whole, "nothing was written");
}

/// A log of entries with a mark each, truncated from its second segment back to entry 9 of its first.
fn truncated_over_a_boundary(disk: &SimDisk) -> Wal {
    let (wal, _) = open(disk).unwrap();
    let mut mark = 0;
    loop {
        mark += 1;
        let payload = &[7; 3000];
        let records = &[Record {
            mark,
            tag: 0,
            payload: payload.into(),
        }];
        let staged = wal
            .write(&Batch {
                records,
                ..Batch::default()
            })
            .unwrap();
        wal.sync(staged).unwrap();
        let segments = look(disk).unwrap().segments();
        if segments[1].used > 48 << 10 {
            break;
        }
    }
    let back = Batch {
        truncate_from: Some(LogIndex(10)),
        ..Batch::default()
    };
    wal.sync(wal.write(&back).unwrap()).unwrap();
    wal
}

/// Lets the first two segments go, of which the second is not removed, and checks that what is left still is
/// one log.
fn drop_what_was_truncated(disk: &SimDisk, wal: Wal, tenth: &[u8]) {
    append(&wal, tenth).unwrap();
    disk.fail(Op::Remove, disk.count(Op::Remove) + 1, ErrorKind::Other);
    disk.fail(Op::Rename, disk.count(Op::Rename) + 3, ErrorKind::Other);
    wal.sync(wal.drop_prefix(LogIndex(9)).unwrap()).unwrap();
    wal.close().unwrap();
    let left = [1, 2].map(|sequence| disk.peek(&segment(sequence)).is_some());
    assert_eq!(left, [false, true]);
    look(disk).unwrap().verify(|_| ()).unwrap();
    let (wal, recovery) = open(disk).unwrap();
    assert_eq!(
        (recovery.first, recovery.last),
        (LogIndex(10), LogIndex(10))
    );
    let stored = wal.reader().get(LogIndex(10)).unwrap();
    assert_eq!((stored.mark, &*stored.payload), (9, tenth));
    assert_eq!(wal.reader().floor(), (LogIndex(9), 9));
}

#[test]
fn a_truncation_is_read_right_when_the_segments_it_reached_into_are_gone() {
    // In a segment that ends in order.
    let disk = SimDisk::new(1);
    let wal = truncated_over_a_boundary(&disk);
    drop_what_was_truncated(&disk, wal, &[8; 16_000]);
    // In one that recovery cut.
    let disk = SimDisk::new(1);
    let wal = truncated_over_a_boundary(&disk);
    append(&wal, b"torn").unwrap();
    drop(wal);
    let at = find(&disk, &segment(2), b"torn");
    flip(&disk, &segment(2), at);
    let (wal, recovery) = open(&disk).unwrap();
    assert_eq!(recovery.last, LogIndex(9));
    drop_what_was_truncated(&disk, wal, b"tenth");
}

#[test]
fn segments_stay_until_a_batch_behind_them_is_there_and_not_only_a_first_frame() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(&disk).unwrap();
    for _ in 0..50 {
        append(&wal, &[7; 1000]).unwrap();
    }
    let dropped = wal.drop_prefix(LogIndex(50)).unwrap();
    wal.sync(dropped).unwrap();
    disk.record();
    append(&wal, &[8; 12_000]).unwrap();
    drop(wal);
    let calls = disk.calls();
    let begins = |call: &&Call| call.op == Op::Write && call.path == segment(2);
    let disk = calls.iter().find(begins).unwrap().after.kill();
    // Of the first write to the second segment only what opens it reached the disk.
    let first_frame = 4096 + 72;
    let zeros = vec![0; (64 << 10) - first_frame];
    disk.poke(&segment(2), first_frame, &zeros).unwrap();
    for _ in 0..3 {
        let (wal, recovery) = open(&disk).unwrap();
        assert_eq!(recovery.first, LogIndex(51));
        assert_eq!(recovery.last, LogIndex(50));
        drop(wal);
    }
}
