//! Opening and reading a log of many segments: what is read of it, what is held, what a reader sees beside
//! a writer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/forward.rs"]
mod forward;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/held_disk.rs"]
mod held_disk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use catamaran::sim::{Moment, Rng, SimDisk, Survival};
use catamaran::types::{Bytes, LogIndex, Payload};
use catamaran::vfs::{Access, Disk, DiskFile};
use catamaran::wal::{
    Batch, Preparer, ReadError, Record, Wal, WalError, WalOptions, open_read_only_on,
};
use held_disk::HeldDisk;

/// A disk that counts the bytes read of each file, and the files that are open.
#[derive(Clone)]
struct Watched {
    disk: SimDisk,
    read: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    read: Arc<Mutex<BTreeMap<PathBuf, u64>>>,
}

impl Watched {
    fn new(disk: &SimDisk) -> Self {
        Self {
            disk: disk.clone(),
            read: Arc::default(),
        }
    }

    fn watch(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile {
            file,
            path: path.to_path_buf(),
            read: Arc::clone(&self.read),
        })
    }

    fn read(&self, sequence: u64) -> u64 {
        let read = self.read.lock().unwrap();
        read.get(&path(sequence)).copied().unwrap_or(0)
    }

    /// Whether anybody holds a file of this segment.
    fn is_open(&self, sequence: u64) -> bool {
        self.read.lock().unwrap().contains_key(&path(sequence))
    }
}

impl Disk for Watched {
    forward!(create_dir_all list rename remove sync_dir lock entropy);
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watch(path, self.disk.create(path)?))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watch(path, self.disk.open(path, access)?))
    }
}

impl WatchedFile {
    fn count(&self, len: usize) {
        let mut read = self.read.lock().unwrap();
        *read.entry(self.path.clone()).or_default() += len as u64;
    }
}

impl DiskFile for WatchedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.count(into.len());
        self.file.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn freeze(&self, end: u64) {
        self.file.freeze(end);
    }
    fn is_viewed(&self) -> bool {
        self.file.is_viewed()
    }
    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.count(len);
        self.file.view(offset, len)
    }
}

impl Drop for WatchedFile {
    fn drop(&mut self) {
        self.read.lock().unwrap().remove(&self.path);
    }
}

fn path(sequence: u64) -> PathBuf {
    Path::new("/wal").join(format!("{sequence:016x}.wal"))
}

fn open(disk: impl Disk) -> Result<Wal, WalError> {
    let options = WalOptions::new("/wal")
        .segment_bytes(64 << 10)
        .disk(Arc::new(disk))
        .preparer(Preparer::Inline);
    options.open().map(|(wal, _)| wal)
}

fn write(wal: &Wal, batch: &Batch<'_>) {
    let staged = wal.write(batch).unwrap();
    wal.sync(staged).unwrap();
}

/// Writes entries of a given mark up to `last`, some at a time, in the place of those from `from` on.
fn rewrite(wal: &Wal, from: u64, last: u64, mark: u64, payload: impl Fn(u64) -> Vec<u8>) {
    let mut truncate_from = Some(LogIndex(from));
    let indices: Vec<u64> = (from..=last).collect();
    for some in indices.chunks(50) {
        let payloads: Vec<_> = some.iter().map(|&index| payload(index)).collect();
        let records: Vec<_> = payloads
            .iter()
            .map(|payload| Record {
                mark,
                tag: 1,
                payload: payload.into(),
            })
            .collect();
        let batch = Batch {
            state: None,
            truncate_from: truncate_from.take(),
            records: &records,
        };
        write(wal, &batch);
    }
}

fn named(error: &WalError) -> (String, Option<LogIndex>, &'static str) {
    match error {
        WalError::Corruption {
            segment,
            index,
            what,
            ..
        } => (segment.clone(), *index, what),
        other => panic!("{other}"),
    }
}

#[test]
fn opening_reads_as_much_of_a_sealed_segment_whatever_it_holds() {
    let mut read = Vec::new();
    for bytes in [8, 4000] {
        let disk = SimDisk::new(1);
        let wal = open(disk.clone()).unwrap();
        let mut last = 0;
        while !disk.paths().contains(&path(8)) {
            rewrite(&wal, last + 1, last + 50, 0, |_| vec![1; bytes]);
            last += 50;
        }
        wal.close().unwrap();
        let watched = Watched::new(&disk);
        let wal = open(watched.clone()).unwrap();
        assert_eq!(wal.reader().last(), LogIndex(last));
        for sequence in 1..=4 {
            read.push(watched.read(sequence));
        }
    }
    // Header block, Start frame, the footer's tail and the one run of the first.
    assert!(
        read.iter().all(|&bytes| bytes <= 4096 + 72 + 80 + 16),
        "{read:?}"
    );
}

#[test]
fn an_offset_of_a_truncated_entry_in_a_damaged_table_is_corruption_and_not_the_old_entry() {
    let disk = SimDisk::new(1);
    let wal = open(disk.clone()).unwrap();
    rewrite(&wal, 1, 20, 0, |index| format!("old entry {index}").into());
    rewrite(&wal, 10, 5000, 0, |index| {
        format!("new entry {index}").into()
    });
    wal.close().unwrap();
    let bytes = disk.peek(&path(1)).unwrap();
    let place = |needle: &[u8]| {
        let at = bytes.windows(needle.len()).position(|part| part == needle);
        u32::try_from(at.unwrap() - 32).unwrap().to_le_bytes()
    };
    let (old, new) = (place(b"old entry 15"), place(b"new entry 15"));
    let footer = bytes.len() / 2;
    let slot = bytes[footer..].windows(4).rposition(|four| four == new);
    disk.poke(&path(1), footer + slot.unwrap(), &old).unwrap();

    let wal = open(disk.clone()).expect("opening does not read the table");
    let what = "the segment's table of offsets does not match its checksum";
    let expected = ("0000000000000001.wal".to_owned(), Some(LogIndex(15)), what);
    match wal.reader().get(LogIndex(15)) {
        Err(ReadError::Wal(error)) => assert_eq!(named(&error), expected),
        other => panic!("{other:?}"),
    }
    let mut range = wal.reader().range(LogIndex(15)..=LogIndex(16));
    match range.next() {
        Some(Err(ReadError::Wal(error))) => assert_eq!(named(&error), expected),
        other => panic!("{other:?}"),
    }
    assert!(range.next().is_none(), "an error ends a range");
    let last = wal.reader().get(LogIndex(5000)).unwrap();
    assert_eq!(&*last.payload, b"new entry 5000");
    drop(wal);
    let inspection = open_read_only_on(Arc::new(disk.clone()), "/wal").unwrap();
    let (segment, ..) = named(&inspection.verify(|_| ()).unwrap_err());
    assert_eq!(segment, "0000000000000001.wal");
    // Healed, all is well again.
    disk.poke(&path(1), footer + slot.unwrap(), &new).unwrap();
    let inspection = open_read_only_on(Arc::new(disk.clone()), "/wal").unwrap();
    inspection.verify(|_| ()).unwrap();
    let stored = inspection.get(LogIndex(15)).unwrap();
    assert_eq!(&*stored.payload, b"new entry 15");
}

#[test]
fn a_range_does_not_yield_what_was_truncated_before_it_began_though_its_frames_still_stand_there() {
    let disk = SimDisk::new(1);
    let wal = open(disk.clone()).unwrap();
    rewrite(&wal, 1, 30, 0, |index| format!("old {index}").into());
    rewrite(&wal, 10, 40, 1, |index| format!("new {index}").into());
    let check = |entries: Vec<catamaran::wal::Stored>| {
        assert_eq!(entries.len(), 40);
        for (stored, index) in entries.iter().zip(1..) {
            let age = if index < 10 { "old" } else { "new" };
            assert_eq!(stored.index, LogIndex(index));
            assert_eq!(&*stored.payload, format!("{age} {index}").as_bytes());
            assert_eq!((stored.mark, stored.tag), (u64::from(index >= 10), 1));
        }
    };
    let all = LogIndex(1)..=LogIndex(40);
    check(
        wal.reader()
            .range(all.clone())
            .map(Result::unwrap)
            .collect(),
    );
    wal.close().unwrap();
    let inspection = open_read_only_on(Arc::new(disk), "/wal").unwrap();
    check(inspection.range(all).map(Result::unwrap).collect());
}

#[test]
fn a_range_goes_on_beside_truncation_and_dropping_and_ends_where_the_log_does() {
    let disk = SimDisk::new(1);
    let wal = open(disk.clone()).unwrap();
    rewrite(&wal, 1, 3000, 0, |index| format!("old {index}").into());
    let mut range = wal.reader().range(LogIndex(1)..=LogIndex(3000));
    let first = range.next().unwrap().unwrap();
    rewrite(&wal, 1000, 2000, 1, |index| format!("new {index}").into());
    let mut seen = vec![first];
    let end = range.find_map(|stored| match stored {
        Ok(stored) => {
            seen.push(stored);
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(
        end,
        Some(ReadError::NotYet {
            last: LogIndex(2000)
        })
    ));
    for (stored, index) in seen.iter().zip(1..) {
        let age = if index < 1000 { "old" } else { "new" };
        assert_eq!(stored.index, LogIndex(index));
        assert_eq!(&*stored.payload, format!("{age} {index}").as_bytes());
    }
    assert_eq!(seen.len(), 2000);

    let mut range = wal.reader().range(LogIndex(1)..=LogIndex(2000));
    let held = range.next().unwrap().unwrap();
    let staged = wal.drop_prefix(LogIndex(1500)).unwrap();
    wal.sync(staged).unwrap();
    let end = range.find_map(Result::err);
    assert!(matches!(
        end,
        Some(ReadError::Compacted {
            first: LogIndex(1501)
        })
    ));
    assert_eq!(&*held.payload, b"old 1");
}

#[test]
fn an_iterator_keeps_a_dropped_segment_open_until_it_moves_on_or_ends() {
    let disk = SimDisk::new(1);
    let watched = Watched::new(&disk);
    let wal = open(disk.clone()).unwrap();
    rewrite(&wal, 1, 5000, 0, |index| format!("old {index}").into());
    wal.close().unwrap();
    let wal = open(watched.clone()).unwrap();
    let reader = wal.reader();
    let mut long = reader.range(LogIndex(1)..=LogIndex(5000));
    let mut short = reader.range(LogIndex(1)..=LogIndex(2));
    assert!(long.next().is_some() && short.next().is_some());
    let staged = wal.drop_prefix(LogIndex(4000)).unwrap();
    wal.sync(staged).unwrap();
    assert!(
        !disk.paths().contains(&path(1)),
        "the file has no name any more"
    );
    assert!(watched.is_open(1));
    assert_eq!(&*short.next().unwrap().unwrap().payload, b"old 2");
    assert!(long.find_map(Result::err).is_some());
    assert!(!watched.is_open(1), "both are at their end");
    assert!(short.next().is_none() && long.next().is_none());
}

#[test]
fn what_a_range_yields_beside_a_truncating_writer_was_in_the_log_during_the_iteration() {
    let disk = SimDisk::new(1);
    let wal = open(disk).unwrap();
    // A moment is the number of a write. Each entry's payload is the moment it was written at.
    let moment = AtomicU64::new(1);
    let died: Mutex<BTreeMap<(u64, u64), u64>> = Mutex::default();
    rewrite(&wal, 1, 400, 0, |_| 0_u64.to_le_bytes().to_vec());
    let seed = std::env::var("CATAMARAN_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("CATAMARAN_SEED={seed}");
    let writes = 400;
    std::thread::scope(|scope| {
        let reader = wal.reader();
        let (moment, died, wal) = (&moment, &died, &wal);
        let writer = scope.spawn(move || {
            let mut rng = Rng::new(seed);
            let mut alive = vec![0_u64; 401];
            for _ in 0..writes {
                let now = moment.load(Ordering::SeqCst);
                let from = 1 + rng.below(400);
                rewrite(wal, from, 400, 0, |_| now.to_le_bytes().to_vec());
                // They may be seen until this very moment.
                let mut died = died.lock().unwrap();
                for index in from..=400 {
                    died.insert((index, alive[index as usize]), now);
                    alive[index as usize] = now;
                }
                moment.store(now + 1, Ordering::SeqCst);
            }
        });
        let mut turns = 0;
        // It may have failed.
        while !writer.is_finished() {
            let began = moment.load(Ordering::SeqCst);
            let mut seen = Vec::new();
            for (expected, stored) in (1..).zip(reader.range(LogIndex(1)..=LogIndex(400))) {
                let Ok(stored) = stored else {
                    break;
                };
                assert_eq!(stored.index, LogIndex(expected));
                let born = u64::from_le_bytes((*stored.payload).try_into().unwrap());
                seen.push((stored.index.0, born));
            }
            let ended = moment.load(Ordering::SeqCst);
            let died = died.lock().unwrap();
            for entry in seen {
                let death = died.get(&entry).copied().unwrap_or(u64::MAX);
                assert!(
                    entry.1 <= ended && death >= began,
                    "entry {} of moment {} was seen between {began} and {ended}, gone at {death}",
                    entry.0,
                    entry.1
                );
            }
            turns += 1;
        }
        println!("{turns} iterations");
    });
}

#[test]
fn what_is_not_durable_yet_is_read_as_it_was_written_however_much_it_is() {
    // So large that much more of it is staged than is copied at once, in several segments.
    let disk = HeldDisk::new(SimDisk::new(1));
    let options = WalOptions::new("/wal")
        .segment_bytes(512 << 10)
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline);
    let (wal, _) = options.open().unwrap();
    let payload = |index: u64| {
        let len = if index.is_multiple_of(90) {
            100_000
        } else {
            index * 37 % 3_000
        };
        vec![index as u8; len as usize]
    };
    rewrite(&wal, 1, 150, 1, payload);
    let stage = |from: u64, to: u64| {
        let mut staged = None;
        for index in from..=to {
            let batch = Batch {
                state: Some(b"a frame between entries"),
                truncate_from: Some(LogIndex(index)),
                records: &[Record {
                    mark: 2,
                    tag: 1,
                    payload: Payload::Borrowed(&payload(index)),
                }],
            };
            staged = Some(wal.write(&batch).unwrap());
        }
        staged.unwrap()
    };
    let staged = stage(151, 170);
    // These are on their way to the file while more are staged behind them.
    let holds = disk.hold();
    let syncs = wal.clone();
    let sync = move || syncs.sync(staged).unwrap();
    let syncing = std::thread::Builder::new().name("catamaran-log".to_owned());
    let syncing = syncing.spawn(sync).unwrap();
    disk.wait_until_held(1);
    let _staged = (stage(171, 1_200), stage(700, 1_000));
    let mut held = Vec::new();
    for from in [1, 149, 150, 151, 170, 171, 699, 700, 1_000] {
        let range = LogIndex(from)..=LogIndex(2_000);
        let mut next = from;
        for stored in wal.reader().range(range).take(1_001 - from as usize) {
            let stored = stored.unwrap();
            assert_eq!(stored.index, LogIndex(next));
            held.push((next, stored.payload));
            next += 1;
        }
        assert_eq!(next, 1_001, "from {from}");
        let got = wal.reader().get(LogIndex(from)).unwrap();
        assert_eq!((got.index.0, &*got.payload), (from, &*payload(from)));
    }
    drop(holds);
    syncing.join().unwrap();
    rewrite(&wal, 1_001, 1_001, 3, payload);
    let _staged = wal.drop_prefix(LogIndex(1_001)).unwrap();
    for (index, bytes) in held {
        assert_eq!(*bytes, *payload(index), "{index}");
    }
}

#[test]
fn verify_finds_nothing_wrong_with_whatever_was_written() {
    let seed = std::env::var("CATAMARAN_SEED").map_or(1, |seed| seed.parse().unwrap());
    for seed in seed..seed + 20 {
        println!("CATAMARAN_SEED={seed}");
        let mut rng = Rng::new(seed);
        let mut disk = SimDisk::new(seed);
        let mut mark = 1;
        for _ in 0..6 {
            let wal = open(disk.clone()).unwrap();
            for _ in 0..rng.below(120) {
                let (first, last) = (wal.reader().first().0, wal.reader().last().0);
                match rng.below(12) {
                    0 => {
                        let from = first + rng.below(last + 2 - first);
                        mark += rng.below(2);
                        let truncate_from = Some(LogIndex(from));
                        write(
                            &wal,
                            &Batch {
                                truncate_from,
                                ..Batch::default()
                            },
                        );
                    }
                    1 => {
                        let upto = first + rng.below(last + 40 - first);
                        let staged = wal.drop_prefix(LogIndex(upto)).unwrap();
                        wal.sync(staged).unwrap();
                    }
                    2..=4 => {
                        let state = vec![rng.below(256) as u8; rng.below(1025) as usize];
                        let state = Some(state.as_slice());
                        write(
                            &wal,
                            &Batch {
                                state,
                                ..Batch::default()
                            },
                        );
                    }
                    _ => {
                        mark += rng.below(2);
                        let bytes = rng.below(3000) as usize;
                        let count = rng.below(12);
                        rewrite(&wal, last + 1, last + count, mark, |_| vec![3; bytes]);
                    }
                }
            }
            let inspection = open_read_only_on(Arc::new(disk.clone()), "/wal").unwrap();
            let verified = inspection.verify(|_| ());
            assert!(verified.is_ok(), "CATAMARAN_SEED={seed}: {verified:?}");
            let last = wal.reader().last();
            assert_eq!(inspection.last(), last);
            // Some end well, and some in the middle of a write.
            if rng.below(2) == 0 {
                wal.close().unwrap();
            } else {
                disk.crash_at(disk.ops() + 1, Moment::After);
                let staged = wal.append(&[&[4; 9_000], &[5; 9_000]]).unwrap();
                assert!(wal.sync(staged).is_err());
                disk = disk.power_cut(Survival::Random(rng.below(1 << 20)));
            }
        }
    }
}
