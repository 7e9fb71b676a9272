//! Large payloads, which are written from where they are.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::sync::Arc;

use catamaran::sim::SimDisk;
use catamaran::types::{Bytes, LogIndex, Payload, Staged};
use catamaran::wal::{Batch, Preparer, Record, Wal, WalOptions};

fn open(disk: &SimDisk) -> Wal {
    let options = WalOptions::new("/wal")
        .segment_bytes(64 << 10)
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline);
    options.open().unwrap().0
}

/// Writes all of these at once.
fn stage<'a>(wal: &Wal, payloads: impl IntoIterator<Item = Payload<'a>>) -> Staged {
    let record = |payload| Record {
        mark: 0,
        tag: 0,
        payload,
    };
    let records: Vec<_> = payloads.into_iter().map(record).collect();
    let batch = Batch {
        records: &records,
        ..Batch::default()
    };
    wal.write(&batch).unwrap()
}

/// The least bytes of a payload that is not copied: a 64th of a segment.
const LARGE: usize = 1 << 10;

/// Before it is in the file it is what the writer shared, and no copy; behind it and before it others stand.
#[test]
fn a_large_payload_that_is_shared_is_not_copied() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let len = |index| match index {
        2 => LARGE - 1,
        3 => LARGE,
        _ if index % 3 == 0 => 5000 + index,
        _ => 100,
    };
    let payloads: Vec<Bytes> = (1..=30_usize)
        .map(|index| vec![index as u8; len(index)].into())
        .collect();
    let staged = stage(&wal, payloads.iter().map(Payload::Shared));
    let reader = wal.reader();
    let read = || {
        let range = reader.range(LogIndex(1)..=LogIndex(30));
        range.map(|entry| entry.unwrap().payload)
    };
    for (read, shared) in read().zip(&payloads) {
        assert_eq!(&read, shared);
        let same = std::ptr::eq(read.as_ptr(), shared.as_ptr());
        assert_eq!(same, shared.len() >= LARGE, "{} bytes", shared.len());
    }
    let mut in_place = reader.range(LogIndex(1)..=LogIndex(30));
    for (shared, index) in payloads.iter().zip(1..) {
        assert_eq!(
            in_place.next_in_place().unwrap().unwrap().payload,
            &**shared
        );
        assert_eq!(&reader.get(LogIndex(index)).unwrap().payload, shared);
    }
    wal.sync(staged).unwrap();
    assert_eq!(read().collect::<Vec<_>>(), payloads);
    wal.close().unwrap();
    let reopened = open(&disk);
    let range = reopened.reader().range(LogIndex(1)..=LogIndex(30));
    let all: Vec<_> = range.map(|entry| entry.unwrap().payload).collect();
    assert_eq!(all, payloads);
}

/// Each large payload ends a batch, which is written and synced by itself: so the batch behind it may say that it is
/// durable, and no more than that.
#[test]
fn a_batch_behind_a_large_payload_says_no_more_to_be_durable_than_is() {
    let disk = SimDisk::new(1);
    let wal = open(&disk);
    let staged = wal.append(&[b"before"]).unwrap();
    wal.sync(staged).unwrap();
    let payloads = [5000, 5000, 10].map(|len| Bytes::from(vec![7; len]));
    let staged = stage(&wal, payloads.iter().map(Payload::Shared));
    wal.sync(staged).unwrap();
    // docs/FORMAT.md: of each frame the length of its payload, its kind (1 is a batch), its index.
    let bytes = disk.peek(Path::new("/wal/0000000000000001.wal")).unwrap();
    let (mut at, mut fences) = (4096, Vec::new());
    while bytes[at + 12] != 0 {
        if bytes[at + 12] == 1 {
            fences.push(bytes[at + 16]);
        }
        let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap());
        at += 32 + (len as usize).next_multiple_of(8);
    }
    assert_eq!(fences, [0, 1, 2, 3]);
}
