//! What the log does on a real disk: writes, reads, truncation, segments, reopening.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use catamaran::types::{ClusterId, LogIndex, NodeId, WriteSeq};
use catamaran::wal::{Batch, ReadError, Record, Wal, WalError, WalOptions, WalReader};

const KIB: u64 = 1 << 10;

fn small(dir: &tempfile::TempDir) -> WalOptions {
    WalOptions::new(dir.path()).segment_bytes(64 * KIB)
}

fn record(mark: u64, payload: &[u8]) -> Record<'_> {
    Record {
        mark,
        tag: 7,
        payload: payload.into(),
    }
}

/// A payload that tells its index, of a length that varies.
fn payload(index: u64) -> Vec<u8> {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.resize(8 + (index as usize * 37) % 900, index as u8);
    bytes
}

fn write_one(wal: &Wal, mark: u64, bytes: &[u8]) {
    let batch = Batch {
        records: &[record(mark, bytes)],
        ..Batch::default()
    };
    let staged = wal.write(&batch).unwrap();
    wal.sync(staged).unwrap();
}

fn assert_holds(reader: &WalReader, first: u64, last: u64) {
    assert_eq!(
        (reader.first(), reader.last()),
        (LogIndex(first), LogIndex(last))
    );
    let mut expected = first;
    for stored in reader.range(LogIndex(first)..=LogIndex(last)) {
        let stored = stored.unwrap();
        assert_eq!(stored.index, LogIndex(expected));
        assert_eq!(&*stored.payload, payload(expected), "entry {expected}");
        expected += 1;
    }
    assert_eq!(expected, last + 1);
}

#[test]
fn what_was_appended_is_read_back_before_and_after_the_sync_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, recovery) = small(&dir).open().unwrap();
    assert!(recovery.created);
    assert_eq!((recovery.first, recovery.last), (LogIndex(1), LogIndex(0)));
    let staged = wal.append(&[b"first", b"second"]).unwrap();
    assert_eq!((staged.seq(), staged.last()), (WriteSeq(1), LogIndex(2)));
    let reader = wal.reader();
    assert_eq!(&*reader.get(LogIndex(2)).unwrap().payload, b"second");
    let durable = wal.sync(staged).unwrap();
    assert_eq!(durable.seq(), WriteSeq(1));
    assert_eq!(&*reader.get(LogIndex(1)).unwrap().payload, b"first");
    assert!(matches!(
        reader.get(LogIndex(3)),
        Err(ReadError::NotYet { last: LogIndex(2) })
    ));
    wal.close().unwrap();
    let (wal, recovery) = small(&dir).open().unwrap();
    assert!(!recovery.created);
    assert_eq!(recovery.torn, None);
    assert_eq!((recovery.first, recovery.last), (LogIndex(1), LogIndex(2)));
    assert_eq!(&*wal.reader().get(LogIndex(2)).unwrap().payload, b"second");
}

#[test]
fn a_log_of_many_segments_is_read_and_reopened_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    for index in 1..=1000 {
        write_one(&wal, index / 100, &payload(index));
    }
    let reader = wal.reader();
    assert_holds(&reader, 1, 1000);
    drop(wal);
    let (wal, recovery) = small(&dir).open().unwrap();
    assert_eq!(recovery.torn, None);
    assert_holds(&wal.reader(), 1, 1000);
    assert_holds(&reader, 1, 1000);
    let runs = wal.reader().runs();
    assert_eq!(runs, reader.runs());
    let expected: Vec<_> = (0..=10)
        .map(|mark| (mark, LogIndex((mark * 100).max(1))))
        .collect();
    assert_eq!(runs, expected);
    assert_eq!(wal.reader().mark(LogIndex(250)).unwrap(), 2);
    for index in 1001..=1100 {
        write_one(&wal, 10, &payload(index));
    }
    assert_holds(&wal.reader(), 1, 1100);
}

#[test]
fn a_batch_larger_than_a_segment_is_written_over_several() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    let payloads: Vec<_> = (1..=1000).map(payload).collect();
    let payloads: Vec<_> = payloads.iter().map(Vec::as_slice).collect();
    let staged = wal.append(&payloads).unwrap();
    assert_holds(&wal.reader(), 1, 1000);
    wal.sync(staged).unwrap();
    assert_holds(&wal.reader(), 1, 1000);
    wal.close().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    assert_holds(&wal.reader(), 1, 1000);
}

#[test]
fn a_truncated_suffix_is_gone_and_what_is_written_in_its_place_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    for _ in 1..=500 {
        write_one(&wal, 1, &[7; 400]);
    }
    for from in [400, 120, 1] {
        let bytes = payload(from);
        let batch = Batch {
            truncate_from: Some(LogIndex(from)),
            records: &[record(2, &bytes)],
            ..Batch::default()
        };
        let staged = wal.write(&batch).unwrap();
        assert_eq!(staged.last(), LogIndex(from));
        assert_eq!(wal.reader().last(), LogIndex(from));
        wal.sync(staged).unwrap();
    }
    for index in 2..=300 {
        write_one(&wal, 2 + index / 100, &payload(index));
    }
    let runs = [2, 3, 4, 5].map(|mark| (mark, LogIndex(((mark - 2) * 100).max(1))));
    assert_holds(&wal.reader(), 1, 300);
    assert_eq!(wal.reader().runs(), runs);
    wal.close().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    assert_holds(&wal.reader(), 1, 300);
    assert_eq!(wal.reader().runs(), runs);
}

#[test]
fn a_dropped_prefix_is_compacted_at_once_and_its_segments_go_but_not_the_bytes_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let segments = || {
        let names = std::fs::read_dir(dir.path()).unwrap();
        let paths = names.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|e| e == "wal"))
            .count()
    };
    let (wal, _) = small(&dir).open().unwrap();
    for index in 1..=1000 {
        write_one(&wal, index / 100, &payload(index));
    }
    let reader = wal.reader();
    let held = reader.get(LogIndex(5)).unwrap().payload;
    let before = segments();
    let staged = wal.drop_prefix(LogIndex(900)).unwrap();
    assert!(matches!(
        reader.get(LogIndex(900)),
        Err(ReadError::Compacted {
            first: LogIndex(901)
        })
    ));
    assert_eq!(reader.floor(), (LogIndex(900), 9));
    wal.sync(staged).unwrap();
    wal.close().unwrap();
    let (wal, recovery) = small(&dir).open().unwrap();
    assert_eq!(
        (recovery.first, recovery.last),
        (LogIndex(901), LogIndex(1000))
    );
    assert_holds(&wal.reader(), 901, 1000);
    assert_eq!(wal.reader().floor(), (LogIndex(900), 9));
    assert_eq!(
        wal.reader().runs(),
        [(9, LogIndex(901)), (10, LogIndex(1000))]
    );
    wal.close().unwrap();
    assert!(
        segments() <= 4,
        "{} segments of {before} are left",
        segments()
    );
    assert_eq!(&*held, payload(5), "bytes in hand outlive their segment");
}

#[test]
fn a_log_goes_on_behind_a_prefix_dropped_past_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    for index in 1..=10 {
        write_one(&wal, 1, &payload(index));
    }
    let staged = wal.drop_prefix(LogIndex(100)).unwrap();
    wal.sync(staged).unwrap();
    let reader = wal.reader();
    assert_eq!(
        (reader.first(), reader.last()),
        (LogIndex(101), LogIndex(100))
    );
    for index in 101..=400 {
        write_one(&wal, 3, &payload(index));
    }
    assert_holds(&reader, 101, 400);
    wal.close().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    assert_holds(&wal.reader(), 101, 400);
    assert_eq!(wal.reader().runs(), [(3, LogIndex(101))]);
}

#[test]
fn the_last_state_is_found_again_however_many_segments_follow() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, recovery) = small(&dir).open().unwrap();
    assert_eq!(recovery.state, None);
    for state in [&b"one"[..], b"two"] {
        let batch = Batch {
            state: Some(state),
            ..Batch::default()
        };
        let staged = wal.write(&batch).unwrap();
        wal.sync(staged).unwrap();
    }
    for index in 1..=500 {
        write_one(&wal, 0, &payload(index));
    }
    wal.close().unwrap();
    let (wal, recovery) = small(&dir).open().unwrap();
    assert_eq!(recovery.state.as_deref(), Some(&b"two"[..]));
    // The segment it was written to goes, and with it all but the last.
    let staged = wal.drop_prefix(LogIndex(500)).unwrap();
    wal.sync(staged).unwrap();
    wal.close().unwrap();
    assert!(!dir.path().join("0000000000000001.wal").exists());
    let (_wal, recovery) = small(&dir).open().unwrap();
    assert_eq!(recovery.state.as_deref(), Some(&b"two"[..]));
}

#[test]
fn a_second_opener_is_told_that_the_log_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    assert!(matches!(small(&dir).open(), Err(WalError::Locked { .. })));
    wal.close().unwrap();
    small(&dir).open().unwrap();
}

#[test]
fn a_log_of_another_owner_is_refused_and_its_own_finds_the_same_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let owned = |cluster, node| small(&dir).owner(ClusterId(cluster), NodeId(node)).open();
    let (wal, recovery) = owned(1, 2).unwrap();
    wal.close().unwrap();
    assert!(matches!(owned(1, 3), Err(WalError::Foreign { .. })));
    assert!(matches!(owned(2, 2), Err(WalError::Foreign { .. })));
    assert_eq!(owned(1, 2).unwrap().0.identity(), recovery.identity);
}

#[test]
fn a_write_that_breaks_the_order_or_a_limit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).max_entry_bytes(100).open().unwrap();
    write_one(&wal, 5, b"x");
    let long = [0; 101];
    let state = [0; 1025];
    let attempts = [
        Batch {
            records: &[record(5, b"y"), record(4, b"z")],
            ..Batch::default()
        },
        Batch {
            records: &[record(6, b"y"), record(6, &long)],
            ..Batch::default()
        },
        Batch {
            truncate_from: Some(LogIndex(3)),
            ..Batch::default()
        },
        Batch {
            truncate_from: Some(LogIndex(0)),
            ..Batch::default()
        },
        Batch {
            state: Some(&state),
            ..Batch::default()
        },
    ];
    for batch in attempts {
        let error = wal.write(&batch).unwrap_err();
        let expected = matches!(
            error,
            WalError::OutOfOrder { .. } | WalError::TooLarge { .. }
        );
        assert!(expected, "{error}");
    }
    assert_eq!(
        (wal.written(), wal.reader().last()),
        (WriteSeq(1), LogIndex(1))
    );
    wal.close().unwrap();
    for option in [
        small(&dir).segment_bytes(1),
        small(&dir).max_entry_bytes(64 << 10),
    ] {
        assert!(matches!(option.open(), Err(WalError::Option(_))));
    }
}

#[test]
fn the_last_index_of_all_can_be_written_and_read_and_none_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    let last = LogIndex(u64::MAX - 1);
    for upto in [last, last.next()] {
        let error = wal.drop_prefix(upto).unwrap_err();
        assert!(matches!(error, WalError::OutOfOrder { .. }), "{error}");
    }
    let _ = wal.drop_prefix(last.prev()).unwrap();
    write_one(&wal, 1, b"the last");
    let error = wal.append(&[b"one more"]).unwrap_err();
    assert!(matches!(error, WalError::OutOfOrder { .. }), "{error}");
    wal.close().unwrap();
    let (wal, recovery) = small(&dir).open().unwrap();
    assert_eq!((recovery.first, recovery.last), (last, last));
    assert_eq!(&*wal.reader().get(last).unwrap().payload, b"the last");
}

#[test]
fn many_threads_append_and_sync_and_read_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let wal = &wal;
            scope.spawn(move || {
                for turn in 0..100_u64 {
                    let bytes = payload(thread * 100 + turn);
                    let staged = wal.append(&[&bytes]).unwrap();
                    let durable = wal.sync(staged).unwrap();
                    assert!(durable.seq() >= staged.seq());
                    let reader = wal.reader();
                    assert_eq!(&*reader.get(staged.last()).unwrap().payload, bytes);
                }
            });
        }
    });
    let reader = wal.reader();
    let mut seen: Vec<_> = reader
        .range(LogIndex(1)..=reader.last())
        .map(|stored| stored.unwrap().payload.to_vec())
        .collect();
    let mut expected: Vec<_> = (0..800).map(payload).collect();
    seen.sort();
    expected.sort();
    assert!(seen == expected, "each payload is there once");
}

#[test]
fn a_log_reopened_with_larger_segments_takes_larger_entries() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    write_one(&wal, 0, &payload(1));
    wal.close().unwrap();
    let large = || WalOptions::new(dir.path()).segment_bytes(1 << 20);
    let (wal, _) = large().open().unwrap();
    write_one(&wal, 0, &[9; 200_000]);
    wal.close().unwrap();
    let (wal, recovery) = large().open().unwrap();
    assert_eq!(recovery.last, LogIndex(2));
    let reader = wal.reader();
    assert_eq!(&*reader.get(LogIndex(1)).unwrap().payload, payload(1));
    assert_eq!(reader.get(LogIndex(2)).unwrap().payload.len(), 200_000);
}

#[test]
fn a_reader_sees_whole_entries_across_segments_beside_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = small(&dir).open().unwrap();
    let last = 1500;
    std::thread::scope(|scope| {
        let wal = &wal;
        let writer = scope.spawn(move || {
            for index in 1..=last {
                let bytes = payload(index);
                let staged = wal.append(&[&bytes]).unwrap();
                if index % 7 == 0 || index == last {
                    wal.sync(staged).unwrap();
                }
            }
        });
        let reader = wal.reader();
        let mut seen = 0;
        loop {
            // Looked at first, so that what it wrote last is seen, and no more is waited for if it failed.
            let ended = writer.is_finished();
            let to = reader.last().0;
            for stored in reader.range(LogIndex(seen + 1)..=LogIndex(to)) {
                let stored = stored.unwrap();
                assert_eq!(&*stored.payload, payload(stored.index.0));
            }
            seen = to;
            if ended {
                break;
            }
        }
    });
    assert_holds(&wal.reader(), 1, last);
}
