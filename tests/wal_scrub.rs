//! Sealed segments are read again: what is found, what is told, and what is none of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/forward.rs"]
mod forward;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use catamaran::sim::{Op, SimDisk};
use catamaran::types::LogIndex;
use catamaran::vfs::{Access, Disk, DiskFile};
use catamaran::wal::{Preparer, Scrub, Scrubbed, Wal, WalError, WalOptions};

/// So many entries fill a segment of 64 KiB, and one more seals it.
const SEGMENT: u64 = 55;
const SIZE: usize = 64 << 10;
/// How long the fixed end of a footer is. The table of offsets stands before it.
const TAIL: usize = 80;

/// What was reported so far, in order.
type Told = Arc<Mutex<Vec<WalError>>>;

fn open(disk: Arc<dyn Disk>) -> (Wal, Told) {
    let told = Told::default();
    let tell = Arc::clone(&told);
    let scrub = Scrub::new(1, move |error| tell.lock().unwrap().push(error.clone()));
    let options = WalOptions::new("/wal").segment_bytes(SIZE as u64);
    let options = options.disk(disk).preparer(Preparer::Inline).scrub(scrub);
    (options.open().unwrap().0, told)
}

/// A log of so many sealed segments, and one that is being written.
fn sealed(disk: &SimDisk, segments: u64) -> (Wal, Told) {
    let (wal, told) = open(Arc::new(disk.clone()));
    fill(&wal, segments);
    append(&wal, 1);
    (wal, told)
}

fn payload(index: u64) -> Vec<u8> {
    let mut bytes = vec![index as u8; 1000];
    bytes[..12].copy_from_slice(format!("entry{index:07}").as_bytes());
    bytes
}

fn append(wal: &Wal, count: u64) {
    for _ in 0..count {
        let next = wal.reader().last().next();
        let staged = wal.append(&[&payload(next.0)]).unwrap();
        wal.sync(staged).unwrap();
    }
}

fn fill(wal: &Wal, segments: u64) {
    append(wal, segments * SEGMENT);
}

fn drop_prefix(wal: &Wal, upto: u64) {
    let staged = wal.drop_prefix(LogIndex(upto)).unwrap();
    wal.sync(staged).unwrap();
}

fn name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

fn path(sequence: u64) -> PathBuf {
    Path::new("/wal").join(name(sequence))
}

fn flip(disk: &SimDisk, sequence: u64, offset: usize) {
    let byte = disk.peek(&path(sequence)).unwrap()[offset];
    disk.poke(&path(sequence), offset, &[byte ^ 0x10]).unwrap();
}

/// Flips a byte of an entry's payload.
fn flip_entry(disk: &SimDisk, sequence: u64, index: u64) -> usize {
    let bytes = disk.peek(&path(sequence)).unwrap();
    let needle = &payload(index)[..12];
    let at = bytes.windows(12).position(|part| part == needle).unwrap();
    flip(disk, sequence, at);
    at
}

fn step(wal: &Wal) -> Scrubbed {
    wal.scrub_step().unwrap().expect("a segment is sealed")
}

/// The names of the segments that the next so many steps read.
fn steps(wal: &Wal, count: usize) -> Vec<String> {
    (0..count).map(|_| step(wal).segment).collect()
}

#[test]
fn a_flipped_byte_of_a_sealed_segments_frame_is_named_and_the_log_goes_on() {
    let disk = SimDisk::new(1);
    let (wal, told) = sealed(&disk, 2);
    let at = flip_entry(&disk, 1, 30);
    let scrubbed = step(&wal);
    assert_eq!(scrubbed.segment, name(1));
    assert!((50_000..SIZE as u64).contains(&scrubbed.bytes));
    match scrubbed.damage {
        Some(WalError::Corruption {
            segment,
            offset,
            index,
            ..
        }) => {
            assert_eq!((segment, offset), (name(1), at as u64 - 32));
            assert_eq!(index, Some(LogIndex(30)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(told.lock().unwrap().len(), 1);
    fill(&wal, 1);
    assert!(step(&wal).damage.is_none());
    wal.close().unwrap();
}

#[test]
fn a_flipped_byte_of_a_footer_or_of_its_table_is_named() {
    // The tail, the table, and the runs before it.
    for from_end in [20, TAIL + 100, TAIL + 56 * 4 + 8] {
        let disk = SimDisk::new(1);
        let (wal, told) = sealed(&disk, 1);
        flip(&disk, 1, SIZE - from_end);
        match step(&wal).damage {
            Some(WalError::Corruption { segment, what, .. }) => {
                assert_eq!(segment, name(1));
                assert!(what.contains("footer"), "{from_end}: {what}");
            }
            other => panic!("{from_end}: {other:?}"),
        }
        assert_eq!(told.lock().unwrap().len(), 1, "{from_end}");
    }
}

#[test]
fn it_goes_round_and_round_and_finds_what_came_later() {
    let disk = SimDisk::new(1);
    let (wal, told) = sealed(&disk, 3);
    let round: Vec<_> = (1..=3).map(name).collect();
    assert_eq!(steps(&wal, 3), round);
    assert_eq!(steps(&wal, 1), round[..1]);
    flip_entry(&disk, 1, 3);
    assert_eq!(steps(&wal, 2), round[1..]);
    assert!(told.lock().unwrap().is_empty(), "the first was read before");
    assert!(step(&wal).damage.is_some());
    assert_eq!(told.lock().unwrap().len(), 1);
    fill(&wal, 1);
    assert_eq!(steps(&wal, 4), [name(2), name(3), name(4), name(1)]);
}

#[test]
fn each_damaged_segment_is_told_once_until_the_log_is_opened_again() {
    let disk = SimDisk::new(1);
    let (wal, told) = sealed(&disk, 3);
    flip_entry(&disk, 1, 3);
    flip_entry(&disk, 3, 3 * SEGMENT);
    for round in 0..3 {
        let damaged: Vec<_> = (0..3).map(|_| step(&wal).damage.is_some()).collect();
        assert_eq!(damaged, [true, false, true], "round {round}");
    }
    assert_eq!(told.lock().unwrap().len(), 2);
    drop(wal);
    let (wal, told) = open(Arc::new(disk));
    steps(&wal, 6);
    assert_eq!(told.lock().unwrap().len(), 2);
}

#[test]
fn a_segment_that_cannot_be_read_is_told_and_its_damage_too_once_it_can() {
    let disk = SimDisk::new(1);
    let (wal, told) = sealed(&disk, 1);
    // It is opened and measured first.
    disk.fail(Op::Read, disk.count(Op::Read) + 3, ErrorKind::Other);
    assert!(matches!(step(&wal).damage, Some(WalError::Io(_))));
    assert!(step(&wal).damage.is_none());
    flip_entry(&disk, 1, 3);
    steps(&wal, 2);
    let told = told.lock().unwrap();
    assert!(matches!(
        &told[..],
        [WalError::Io(_), WalError::Corruption { .. }]
    ));
}

/// A log of large entries, some of them longer than a step reads, in segments of 4 MiB; the first is sealed.
fn large(disk: &SimDisk) -> Wal {
    let options = WalOptions::new("/wal").segment_bytes(4 << 20);
    let options = options
        .disk(Arc::new(disk.clone()))
        .max_entry_bytes(2 << 20);
    let (wal, _) = options.preparer(Preparer::Inline).open().unwrap();
    for len in [300_000, 1_500_000, 300_000, 300_000, 1_200_000, 1_500_000] {
        let staged = wal.append(&[&payload(1), &vec![7; len]]).unwrap();
        wal.sync(staged).unwrap();
    }
    wal
}

#[test]
fn a_segment_is_read_in_parts_and_every_byte_of_it_once_a_round() {
    let disk = SimDisk::new(1);
    let wal = large(&disk);
    let bytes = disk.peek(&path(1)).unwrap();
    let entries = [300_000, 1_500_000, 300_000, 300_000, 1_200_000];
    let (mut steps, mut read) = (0, 0);
    let frames: usize = entries.iter().map(|len| len + 1000 + 2 * 32 + 48).sum();
    while read < frames as u64 {
        let scrubbed = step(&wal);
        assert_eq!(
            (scrubbed.segment, scrubbed.damage.is_none()),
            (name(1), true)
        );
        assert!(scrubbed.bytes < 4 << 20);
        (steps, read) = (steps + 1, read + scrubbed.bytes);
    }
    assert!(steps >= 3, "{steps} steps");
    // Wherever it is damaged, a round finds it.
    for at in (4096..4096 + frames).step_by(99_991) {
        disk.poke(&path(1), at, &[bytes[at] ^ 0x10]).unwrap();
        let found = (0..2 * steps).find_map(|_| step(&wal).damage);
        assert!(
            matches!(found, Some(WalError::Corruption { .. })),
            "{at}: {found:?}"
        );
        disk.poke(&path(1), at, &bytes[at..=at]).unwrap();
        while step(&wal).bytes < 1 << 20 {}
    }
}

#[test]
fn whatever_the_disk_cannot_read_is_an_error_and_no_signal() {
    let disk = SimDisk::new(1);
    let wal = large(&disk);
    let before = disk.count(Op::Read);
    let steps = 2 + (0..20).take_while(|_| step(&wal).damage.is_none()).count();
    let reads = disk.count(Op::Read) - before;
    assert!(steps > 3 && reads > 10);
    for nth in 1..=12 {
        disk.fail(Op::Read, disk.count(Op::Read) + nth, ErrorKind::Other);
        let found = (0..20).find_map(|_| step(&wal).damage);
        assert!(
            matches!(found, Some(WalError::Io(_))),
            "read {nth}: {found:?}"
        );
    }
}

#[test]
fn a_segment_that_is_dropped_between_two_steps_is_not_held_and_no_damage() {
    let disk = SimDisk::new(1);
    let wal = large(&disk);
    let first = step(&wal);
    assert_eq!(first.segment, name(1));
    let renames = disk.count(Op::Rename);
    // The last of it is the small entry ahead of the one that began the next segment.
    drop_prefix(&wal, 11);
    assert!(disk.peek(&path(1)).is_none());
    assert!(disk.count(Op::Rename) > renames, "its file was used again");
    assert!(wal.scrub_step().unwrap().is_none());
    for _ in 0..5 {
        let staged = wal.append(&[&[7; 1_000_000]]).unwrap();
        wal.sync(staged).unwrap();
    }
    let scrubbed = step(&wal);
    assert_eq!(
        (scrubbed.segment, scrubbed.damage.is_none()),
        (name(2), true)
    );
}

#[test]
fn a_file_that_was_cut_off_under_a_running_log_is_an_error_and_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let options = WalOptions::new(dir.path()).segment_bytes(SIZE as u64);
    let (wal, _) = options.preparer(Preparer::Inline).open().unwrap();
    append(&wal, SEGMENT + 1);
    assert_eq!(&*wal.reader().get(LogIndex(1)).unwrap().payload, payload(1));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join(name(1)))
        .unwrap();
    file.set_len(8192).unwrap();
    match step(&wal).damage {
        Some(WalError::WrongSize { segment, found, .. }) => {
            assert_eq!((segment, found), (name(1), 8192));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_log_has_nothing_to_scrub_and_a_closed_one_is_left_alone() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(Arc::new(disk.clone()));
    assert!(wal.scrub_step().unwrap().is_none());
    append(&wal, 3);
    assert!(wal.scrub_step().unwrap().is_none(), "it is being written");
    let other = wal.clone();
    wal.close().unwrap();
    let reads = disk.count(Op::Read);
    assert!(matches!(other.scrub_step(), Err(WalError::Closed)));
    assert_eq!(disk.count(Op::Read), reads);
}

#[test]
fn what_is_staged_behind_the_disk_is_not_scrubbed() {
    let disk = SimDisk::new(1);
    let (wal, _) = sealed(&disk, 1);
    for index in 0..3 * SEGMENT {
        let _ = wal.append(&[&payload(index)]).unwrap();
    }
    for _ in 0..2 {
        let scrubbed = step(&wal);
        assert_eq!(scrubbed.segment, name(1));
        assert!(scrubbed.damage.is_none());
    }
}

#[test]
fn a_segment_that_recovery_cut_is_scrubbed_too() {
    let disk = SimDisk::new(1);
    let (wal, _) = open(Arc::new(disk.clone()));
    append(&wal, 3);
    drop(wal);
    flip_entry(&disk, 1, 3);
    let (wal, told) = open(Arc::new(disk.clone()));
    assert!(
        wal.scrub_step().unwrap().is_none(),
        "the cut is not durable"
    );
    append(&wal, 1);
    assert!(step(&wal).damage.is_none());
    flip_entry(&disk, 1, 2);
    assert!(step(&wal).damage.is_some());
    assert_eq!(told.lock().unwrap().len(), 1);
}

#[test]
fn a_dropped_segment_is_skipped_and_one_that_is_gone_without_is_damage() {
    let disk = SimDisk::new(1);
    let (wal, told) = sealed(&disk, 5);
    steps(&wal, 1);
    flip_entry(&disk, 2, 65);
    drop_prefix(&wal, 2 * SEGMENT);
    assert_eq!(steps(&wal, 4), [name(3), name(4), name(5), name(3)]);
    assert!(told.lock().unwrap().is_empty());
    Disk::remove(&disk, &path(4)).unwrap();
    match step(&wal).damage {
        Some(WalError::MissingSegment { segment }) => assert_eq!(segment, name(4)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn another_segments_bytes_under_a_name_are_damage() {
    let disk = SimDisk::new(1);
    let (wal, _) = sealed(&disk, 2);
    let other = disk.peek(&path(2)).unwrap();
    disk.poke(&path(1), 0, &other).unwrap();
    assert!(matches!(
        step(&wal).damage,
        Some(WalError::Misplaced { .. })
    ));
    let disk = SimDisk::new(1);
    let (wal, _) = sealed(&disk, 1);
    let of_another_log = SimDisk::new(2);
    let _ = sealed(&of_another_log, 1);
    let bytes = of_another_log.peek(&path(1)).unwrap();
    disk.poke(&path(1), 0, &bytes).unwrap();
    match step(&wal).damage {
        Some(WalError::Corruption { what, .. }) => assert!(what.contains("another segment")),
        other => panic!("{other:?}"),
    }
}

type Hook = Box<dyn FnOnce() + Send>;

/// A disk on which something happens before the next file is opened for reading.
#[derive(Clone)]
struct Meddled {
    disk: SimDisk,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl Disk for Meddled {
    forward!(create_dir_all list rename remove sync_dir lock entropy);
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path)
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let hook = self.hook.lock().unwrap().take();
        if let Some(hook) = hook {
            hook();
        }
        self.disk.open(path, access)
    }
}

#[test]
fn a_segment_that_is_dropped_during_its_step_is_no_damage_and_not_used_again() {
    let disk = SimDisk::new(1);
    let hook = Arc::new(Mutex::new(None));
    let meddled = Meddled {
        disk: disk.clone(),
        hook: Arc::clone(&hook),
    };
    let (wal, told) = open(Arc::new(meddled));
    append(&wal, SEGMENT + 1);
    let dropper = wal.clone();
    let dropped: Hook = Box::new(move || drop_prefix(&dropper, SEGMENT));
    *hook.lock().unwrap() = Some(dropped);
    let renames = disk.count(Op::Rename);
    let scrubbed = step(&wal);
    assert_eq!(scrubbed.segment, name(1));
    assert!(scrubbed.damage.is_none());
    assert!(told.lock().unwrap().is_empty());
    assert!(disk.peek(&path(1)).is_none(), "it was dropped");
    assert_eq!(disk.count(Op::Rename), renames, "its file was not used");
    assert!(wal.scrub_step().unwrap().is_none());
}

#[test]
fn a_rate_of_zero_is_refused() {
    let options = WalOptions::new("/wal").disk(Arc::new(SimDisk::new(1)));
    match options.scrub(Scrub::new(0, |_| ())).open().map(drop) {
        Err(WalError::Option(error)) => assert_eq!(error.option, "scrub"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_helper_thread_tells_of_damage_by_itself() {
    /// When to give up: never reached by a scrub that works.
    const LONG: Duration = Duration::from_secs(60);
    let dir = tempfile::tempdir().unwrap();
    let options = || WalOptions::new(dir.path()).segment_bytes(SIZE as u64);
    let (wal, _) = options().open().unwrap();
    append(&wal, 2 * SEGMENT + 1);
    wal.close().unwrap();
    let file = dir.path().join(name(2));
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[SIZE / 2] ^= 0x10;
    std::fs::write(&file, bytes).unwrap();
    let (tell, told) = mpsc::channel();
    let scrub = Scrub::new(u64::MAX, move |error| {
        let _ = tell.send(error.clone());
    });
    let (wal, _) = options().scrub(scrub).open().unwrap();
    match told.recv_timeout(LONG) {
        Ok(WalError::Corruption { segment, .. }) => assert_eq!(segment, name(2)),
        other => panic!("{other:?}"),
    }
    append(&wal, 1);
    wal.close().unwrap();
}
