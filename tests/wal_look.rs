//! Looking into a log beside the process that writes it, and into a damaged one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use catamaran::Bytes;
use catamaran::sim::SimDisk;
use catamaran::types::LogIndex;
use catamaran::vfs::{Access, Disk, DiskFile, LockGuard};
use catamaran::wal::{
    Batch, Inspection, Preparer, Record, Stage, Wal, WalError, WalOptions, open_read_only_on,
    verify_on,
};

type Hook = dyn Fn(u64) + Send + Sync;

/// A disk that tells of each call before it is made, and that overwrites what it is to remove: somebody
/// uses the file again.
#[derive(Clone)]
struct Watched {
    disk: SimDisk,
    calls: Arc<AtomicU64>,
    before: Arc<Hook>,
}

impl Watched {
    fn new(disk: &SimDisk, before: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self {
            disk: disk.clone(),
            calls: Arc::default(),
            before: Arc::new(before),
        }
    }

    fn tell(&self) {
        (self.before)(self.calls.fetch_add(1, Ordering::Relaxed) + 1);
    }
}

impl Disk for Watched {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.tell();
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.tell();
        let file = self.disk.open(path, access)?;
        if access == Access::ReadWrite {
            return Ok(file);
        }
        Ok(Arc::new(WatchedFile {
            file,
            disk: self.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let stock = path.with_extension("wal.tmp");
        self.disk.rename(path, &stock)?;
        let bytes = vec![0xa5; self.disk.peek(&stock).unwrap().len()];
        self.disk.poke(&stock, 0, &bytes)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.disk.lock(path)
    }

    fn entropy(&self) -> io::Result<u64> {
        self.disk.entropy()
    }
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    disk: Watched,
}

impl DiskFile for WatchedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.tell();
        self.file.read_at(offset, into)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        panic!("a look wrote something");
    }

    fn sync_data(&self) -> io::Result<()> {
        panic!("a look synced something");
    }

    fn freeze(&self, end: u64) {
        self.file.freeze(end);
    }

    fn is_viewed(&self) -> bool {
        self.file.is_viewed()
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.disk.tell();
        self.file.view(offset, len)
    }
}

const SEGMENT: u64 = 64 << 10;
/// Entries that fill three segments and begin a fourth.
const ENTRIES: u64 = 35;

fn payload(index: u64) -> Vec<u8> {
    vec![index as u8; 5_000]
}

/// A log that is being written, on a disk that uses dropped files again.
fn running(disk: &SimDisk) -> Wal {
    let quiet = Watched::new(disk, |_| ());
    let options = WalOptions::new("/wal")
        .segment_bytes(SEGMENT)
        .disk(Arc::new(quiet))
        .preparer(Preparer::Inline);
    options.open().unwrap().0
}

fn write(wal: &Wal, mark: u64, count: u64) {
    for _ in 0..count {
        let payload = payload(wal.reader().last().0 + 1);
        let record = Record {
            mark,
            tag: 0,
            payload: (&payload).into(),
        };
        let staged = wal
            .write(&Batch {
                records: &[record],
                ..Batch::default()
            })
            .unwrap();
        wal.sync(staged).unwrap();
    }
}

fn segment(sequence: u64) -> PathBuf {
    Path::new("/wal").join(format!("{sequence:016x}.wal"))
}

fn look(disk: &SimDisk) -> Result<Inspection, WalError> {
    open_read_only_on(Arc::new(disk.clone()), "/wal")
}

/// Runs `look` once for each of its calls to the disk, with `meanwhile` done to a log before that call.
fn beside_a_writer(meanwhile: fn(&Wal), look: fn(Arc<dyn Disk>, u64)) {
    let mut at = 1;
    loop {
        let disk = SimDisk::new(7);
        let wal = running(&disk);
        write(&wal, 1, ENTRIES);
        let watched = Watched::new(&disk, move |call| {
            if call == at {
                meanwhile(&wal);
            }
        });
        look(Arc::new(watched.clone()), at);
        if watched.calls.load(Ordering::Relaxed) < at {
            assert!(at > 10, "only {at} calls to the disk");
            return;
        }
        at += 1;
    }
}

/// Drops two segments; their files are overwritten.
fn drop_two(wal: &Wal) {
    wal.sync(wal.drop_prefix(LogIndex(27)).unwrap()).unwrap();
}

/// Fills and begins segments.
fn fill_two(wal: &Wal) {
    write(wal, 1, 25);
}

fn check_verify(disk: Arc<dyn Disk>, at: u64) {
    let verified = verify_on(disk, "/wal", |_, _| ()).unwrap();
    assert!(
        verified.damage.is_empty(),
        "call {at}: {:?}",
        verified.damage
    );
    assert!(verified.log.is_some());
}

/// All entries, or those that are left, in order and whole.
fn check_range(disk: Arc<dyn Disk>, at: u64) {
    let log = open_read_only_on(disk, "/wal").unwrap_or_else(|error| panic!("call {at}: {error}"));
    let mut seen = Vec::new();
    for stored in log.range(LogIndex(1)..=LogIndex(u64::MAX)) {
        let stored = stored.unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert_eq!(*stored.payload, payload(stored.index.0), "call {at}");
        seen.push(stored.index.0);
    }
    let gaps = seen.windows(2).filter(|pair| pair[0] + 1 != pair[1]);
    let to: Vec<u64> = gaps.map(|pair| pair[1]).collect();
    assert!(to.is_empty() || to == [28], "call {at}: gaps before {to:?}");
    assert!(seen[0] == 1 || seen[0] == 28, "call {at}");
    assert!(*seen.last().unwrap() >= ENTRIES, "call {at}");
}

#[test]
fn a_segment_that_is_dropped_and_used_again_before_any_call_of_a_look_is_no_damage() {
    beside_a_writer(drop_two, check_verify);
    beside_a_writer(drop_two, check_range);
}

#[test]
fn segments_that_are_filled_and_begun_before_any_call_of_a_look_are_no_damage() {
    beside_a_writer(fill_two, check_verify);
    beside_a_writer(fill_two, check_range);
}

#[test]
fn a_log_that_changes_at_every_look_is_given_up_and_not_called_damaged() {
    let disk = SimDisk::new(1);
    let wal = running(&disk);
    write(&wal, 1, ENTRIES);
    drop(wal);
    let name = segment(2);
    let whole = disk.peek(&name).unwrap();
    let poked = disk.clone();
    // A look ends at its fifth call, which reads this segment's header: it is bad elsewhere each time.
    let watched = Watched::new(&disk, move |call| {
        poked.poke(&name, 0, &whole).unwrap();
        let bad: &[u8] = [&[0; 4096][..], &[0xff]][call as usize / 5 % 2];
        poked.poke(&name, 0, bad).unwrap();
    });
    let error = open_read_only_on(Arc::new(watched), "/wal").map(drop);
    match error {
        Err(WalError::Io(fault)) => assert!(fault.to_string().contains("every look"), "{fault}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn verify_goes_on_behind_damage_and_names_all_of_it() {
    let disk = SimDisk::new(1);
    let wal = running(&disk);
    write(&wal, 1, ENTRIES);
    wal.close().unwrap();
    let offset_of = |sequence, needle: u64| {
        let bytes = disk.peek(&segment(sequence)).unwrap();
        let needle = payload(needle);
        let at = bytes.windows(needle.len()).position(|part| part == needle);
        at.unwrap() - 32
    };
    // Two entries of the first segment, one of them in its head; the footer of the second; the tail.
    let bad = [(1, offset_of(1, 3) + 16), (1, offset_of(1, 7) + 4_000)];
    let bad = [
        bad[0],
        bad[1],
        (2, SEGMENT as usize - 9),
        (4, offset_of(4, 35) + 40),
    ];
    for (sequence, at) in bad {
        let byte = disk.peek(&segment(sequence)).unwrap()[at];
        disk.poke(&segment(sequence), at, &[byte ^ 0x20]).unwrap();
    }
    let verified = verify_on(Arc::new(disk.clone()), "/wal", |_, _| ()).unwrap();
    assert!(verified.log.is_none());
    let found: Vec<_> = verified
        .damage
        .iter()
        .map(|error| match error {
            WalError::Corruption {
                segment,
                offset,
                index,
                ..
            } => (segment.as_str(), *offset, index.map(|index| index.0)),
            other => panic!("{other}"),
        })
        .collect();
    let place = |sequence, entry| offset_of(sequence, entry) as u64;
    let third = place(1, 2) + 5_032 + 48;
    assert_eq!(found[0], ("0000000000000001.wal", third, Some(3)));
    assert_eq!(found[1].0, "0000000000000001.wal");
    assert_eq!(found[1].2, Some(7));
    assert_eq!(found[2].0, "0000000000000002.wal");
    assert_eq!(found[3].0, "0000000000000004.wal");
    assert_eq!(found[3].2, Some(35));
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn an_inspection_tells_ranges_marks_and_how_far_the_log_says_it_is_durable() {
    let disk = SimDisk::new(1);
    let wal = running(&disk);
    write(&wal, 1, 5);
    write(&wal, 2, ENTRIES - 5);
    let log = look(&disk).unwrap();
    let segments = log.segments();
    assert_eq!(segments[0].marks, Some((1, 2)));
    assert_eq!(segments[1].marks, Some((2, 2)));
    assert_eq!(segments[0].fenced, segments[0].used);
    // The last write was synced, but no batch behind it says so.
    let tail = segments
        .iter()
        .find(|info| info.stage == Stage::Active)
        .unwrap();
    assert!(tail.fenced < tail.used);
    let fence = log.fence().unwrap();
    assert_eq!(
        (fence.segment, fence.offset),
        (tail.file.clone(), tail.fenced)
    );
    assert_eq!(fence.last, LogIndex(ENTRIES - 1));
    wal.close().unwrap();
    let log = look(&disk).unwrap();
    let segments = log.segments();
    let tail = segments
        .iter()
        .find(|info| info.stage == Stage::Active)
        .unwrap();
    assert_eq!(tail.fenced, tail.used);
    assert_eq!(log.fence().unwrap().last, LogIndex(ENTRIES));
}
