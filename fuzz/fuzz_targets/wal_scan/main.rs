//! Any bytes as the files of a log. Whatever they are, opening, reading, inspecting and verifying end, in
//! a log in good order or in a typed error, and the same each time.

#![no_main]

mod capped;
mod directory;

use std::path::Path;
use std::sync::Arc;

use catamaran::sim::SimDisk;
use catamaran::types::LogIndex;
use catamaran::vfs::Disk;
use catamaran::wal::{
    Inspection, Preparer, ReadError, Recovery, Stored, Wal, WalError, WalOptions, open_read_only_on,
};
use directory::{Directory, hides_frames};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/wal";

/// Each entry: its mark and bytes, or that it is damaged.
type Entries = Vec<Option<(u64, Vec<u8>)>>;

/// What there is to be seen of a log.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    first: LogIndex,
    last: LogIndex,
    state: Option<Vec<u8>>,
    runs: Vec<(u64, LogIndex)>,
    entries: Entries,
}

fn disk_of(files: &[(String, Vec<u8>)]) -> SimDisk {
    let disk = SimDisk::new(1);
    let dir = Path::new(DIR);
    disk.create_dir_all(dir).unwrap();
    for (name, bytes) in files {
        let file = disk.create(&dir.join(name)).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync_data().unwrap();
    }
    disk.sync_dir(dir).unwrap();
    disk
}

fn open(disk: &SimDisk) -> Result<(Wal, Recovery), WalError> {
    WalOptions::new(DIR)
        .segment_bytes(64 << 10)
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline)
        .open()
}

fn look(disk: &SimDisk) -> Result<Inspection, WalError> {
    open_read_only_on(Arc::new(disk.clone()), DIR)
}

fn entries(
    (first, last): (LogIndex, LogIndex),
    get: impl Fn(LogIndex) -> Result<Stored, ReadError>,
) -> Entries {
    let mut found = Vec::new();
    for index in first.0..=last.0 {
        found.push(match get(LogIndex(index)) {
            Ok(stored) => {
                assert_eq!(stored.index.0, index);
                Some((stored.mark, stored.payload.to_vec()))
            }
            Err(ReadError::Wal(WalError::Corruption { index: named, .. })) => {
                assert_eq!(named, Some(LogIndex(index)), "damage is named");
                None
            }
            Err(other) => panic!("entry {index}: {other}"),
        });
    }
    assert!(get(LogIndex(first.0 - 1)).is_err());
    assert!(get(LogIndex(last.0.saturating_add(1))).is_err());
    found
}

fn seen_by(inspection: &Inspection) -> Seen {
    let (first, last) = (inspection.first(), inspection.last());
    Seen {
        first,
        last,
        state: inspection.state().map(<[u8]>::to_vec),
        runs: inspection.runs(),
        entries: entries((first, last), |index| inspection.get(index)),
    }
}

fn seen_in(wal: &Wal, recovery: &Recovery) -> Seen {
    let reader = wal.reader();
    let (first, last) = (reader.first(), reader.last());
    assert_eq!((recovery.first, recovery.last), (first, last));
    Seen {
        first,
        last,
        state: recovery.state.clone(),
        runs: reader.runs(),
        entries: entries((first, last), |index| reader.get(index)),
    }
}

fn check_same(one: &Seen, other: &Seen) {
    let short = |seen: &Seen| {
        let readable = seen.entries.iter().flatten().count();
        (seen.first, seen.last, readable, seen.runs.clone())
    };
    assert!(one == other, "{:?} and {:?}", short(one), short(other));
}

/// In a log whose every frame was verified, each entry can be read, and is what the runs say.
fn check_order(seen: &Seen) {
    let mut before = 0;
    for (entry, index) in seen.entries.iter().zip(seen.first.0..) {
        let (mark, _) = entry.as_ref().expect("verified, and not readable");
        assert!(*mark >= before, "a mark that goes down at {index}");
        before = *mark;
        let run = seen.runs.iter().rfind(|run| run.1.0 <= index);
        assert_eq!(run.map(|run| run.0), Some(*mark), "runs at {index}");
    }
}

/// A log that could be opened takes a further entry and keeps it, unless its indices are used up.
fn check_goes_on(disk: &SimDisk, before: Seen) {
    let (wal, _) = open(disk).unwrap();
    let written = wal.append(&[b"more"]).and_then(|staged| wal.sync(staged));
    match written {
        Ok(_) => {}
        Err(WalError::OutOfOrder { .. }) => return,
        Err(other) => panic!("writing on: {other}"),
    }
    wal.close().unwrap();
    let (wal, recovery) = open(disk).unwrap();
    assert_eq!(recovery.torn, None);
    let mut seen = seen_in(&wal, &recovery);
    let (_, payload) = seen.entries.pop().unwrap().unwrap();
    assert_eq!(payload, b"more");
    assert_eq!(seen.last.0, before.last.0 + 1);
    assert_eq!((seen.first, seen.state), (before.first, before.state));
    assert_eq!(seen.entries, before.entries);
}

fuzz_target!(|directory: Directory| {
    let files = directory.build();
    let disk = disk_of(&files);
    let whole = disk.ops();
    let looked = look(&disk);
    if let Ok(inspection) = &looked {
        let seen = seen_by(inspection);
        check_same(&seen, &seen_by(&look(&disk).unwrap()));
        let _ = inspection.segments();
        let mut read = 0;
        if inspection.verify(|bytes| read = bytes).is_ok() {
            assert_eq!(read, inspection.used_bytes());
            check_order(&seen);
        }
    }
    assert_eq!(disk.ops(), whole, "looking changed something");
    let beside = disk.kill();
    match (looked, open(&disk)) {
        (Ok(inspection), Ok((wal, recovery))) => {
            let seen = seen_in(&wal, &recovery);
            check_same(&seen, &seen_by(&inspection));
            assert_eq!(inspection.torn(), recovery.torn.as_ref());
            // Killed now, or closed: the same log. A torn end stays until something is written behind it.
            let (again, recovery) = open(&disk.kill()).unwrap();
            check_same(&seen, &seen_in(&again, &recovery));
            if files.iter().any(hides_frames) {
                return;
            }
            wal.close().unwrap();
            let (wal, closed) = open(&disk).unwrap();
            assert!(closed.torn.is_none() || closed.torn == recovery.torn);
            check_same(&seen, &seen_in(&wal, &closed));
            drop(wal);
            let (wal, recovery) = open(&beside).unwrap();
            check_same(&seen, &seen_in(&wal, &recovery));
            drop(wal);
            check_goes_on(&beside, seen);
        }
        // Only who opens says whose log it should be.
        (_, Err(WalError::Foreign { .. })) => assert_eq!(disk.ops(), whole),
        (Err(looked), Err(opened)) => {
            assert_eq!(looked.to_string(), opened.to_string());
            assert_eq!(disk.ops(), whole, "a log that was refused was changed");
        }
        (looked, opened) => panic!("{:?} against {:?}", looked.err(), opened.err()),
    }
});
