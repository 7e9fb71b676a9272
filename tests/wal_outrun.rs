//! Entries that come faster than segments can be prepared.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/forward.rs"]
mod forward;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catamaran::Bytes;
use catamaran::sim::{Op, SimDisk};
use catamaran::types::LogIndex;
use catamaran::vfs::{Access, Disk, DiskFile};
use catamaran::wal::{Preparer, Wal, WalError, WalOptions};

const SEGMENT: u64 = 8 << 20;
/// Two fit into a segment.
const ENTRY: usize = 3 << 20;

fn open(disk: Arc<dyn Disk>) -> Wal {
    let options = WalOptions::new("/wal")
        .segment_bytes(SEGMENT)
        .max_entry_bytes(ENTRY)
        .disk(disk)
        .preparer(Preparer::Inline);
    options.open().unwrap().0
}

/// Has a sync wait for segment 3, of which nothing was made ahead. Says how often that was written to.
fn outrun(disk: &SimDisk, wal: &Wal) -> usize {
    let entries: Vec<Vec<u8>> = (1..=6).map(|byte| vec![byte; ENTRY]).collect();
    let entries: Vec<&[u8]> = entries.iter().map(|entry| &**entry).collect();
    let staged = wal.append(&entries).unwrap();
    // So that it is not made ahead while the first two are written.
    disk.fill_up();
    let full = wal.sync(staged).unwrap_err();
    assert!(matches!(full, WalError::NoSpace(_)), "{full}");
    disk.make_room();
    disk.record();
    wal.sync(staged).unwrap();
    let third = Path::new("/wal/0000000000000003.wal.tmp");
    let calls = disk.calls().into_iter();
    let written = calls.filter(|call| call.op == Op::Write && call.path == third);
    written.count()
}

/// That the entries are there, in segments of the full length.
fn assert_whole(disk: &SimDisk, wal: Wal) {
    wal.close().unwrap();
    let wal = open(Arc::new(disk.clone()));
    for index in 1..=6_u8 {
        let entry = wal.reader().get(LogIndex(index.into())).unwrap();
        assert_eq!(*entry.payload, *vec![index; ENTRY]);
    }
    let third = PathBuf::from("/wal/0000000000000003.wal");
    assert_eq!(disk.peek(&third).unwrap().len() as u64, SEGMENT);
}

#[test]
fn a_sync_that_waits_for_a_segment_does_not_wait_for_its_zeros() {
    let disk = SimDisk::new(1);
    let wal = open(Arc::new(disk.clone()));
    // All at once is reserved, and then the header.
    assert_eq!(outrun(&disk, &wal), 2);
    assert_whole(&disk, wal);
}

#[test]
fn where_room_cannot_be_reserved_it_is_written() {
    let disk = SimDisk::new(1);
    let wal = open(Arc::new(Plain { disk: disk.clone() }));
    assert_eq!(outrun(&disk, &wal), 32 + 1, "256 KiB at a time");
    assert_whole(&disk, wal);
}

/// A disk on which no room can be reserved.
struct Plain {
    disk: SimDisk,
}

struct PlainFile(Arc<dyn DiskFile>);

impl Disk for Plain {
    forward!(create_dir_all list rename remove sync_dir lock entropy);

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(PlainFile(self.disk.create(path)?)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(PlainFile(self.disk.open(path, access)?)))
    }
}

impl DiskFile for PlainFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn freeze(&self, end: u64) {
        self.0.freeze(end);
    }

    fn is_viewed(&self) -> bool {
        self.0.is_viewed()
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.0.view(offset, len)
    }
}
