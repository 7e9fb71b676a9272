//! Every bit of a log flipped, and every length that its file may be cut to: what is damaged is named, and
//! what means nothing does no harm. None of it is ever read as something that was written.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use catamaran::sim::{Rng, SimDisk};
use catamaran::types::LogIndex;
use catamaran::vfs::Disk;
use catamaran::wal::{ReadError, Torn, Wal, WalError};

mod model;

use model::{Change, Model, SEGMENT_BYTES};

const SIZE: usize = SEGMENT_BYTES as usize;
const HEADER: usize = 4096;
/// Header bytes that mean something.
const HEADER_USED: usize = 84;
const HEAD: usize = 32;

const BATCH: u8 = 1;
const START: u8 = 2;
const RECORD: u8 = 5;

fn path(segment: u64) -> PathBuf {
    PathBuf::from(format!("{}/{segment:016x}.wal", model::DIR))
}

fn name(segment: u64) -> String {
    format!("{segment:016x}.wal")
}

/// A frame, as `docs/FORMAT.md` has it.
#[derive(Clone, Debug)]
struct Frame {
    kind: u8,
    index: u64,
    head: usize,
    /// Its head and payload; what follows up to the next multiple of 8 means nothing.
    meant: Range<usize>,
}

/// A log on a disk, and where its frames are.
struct Census {
    disk: SimDisk,
    segment: u64,
    bytes: Vec<u8>,
    frames: Vec<Frame>,
    model: Model,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The frames of a segment that ends in order, up to `end`.
fn frames(bytes: &[u8], end: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut at = HEADER;
    while at + HEAD <= end && bytes[at..at + HEAD].iter().any(|&byte| byte != 0) {
        let len = u32_at(bytes, at + 8);
        frames.push(Frame {
            kind: bytes[at + 12],
            index: u64_at(bytes, at + 16),
            head: at,
            meant: at..at + HEAD + len,
        });
        at += HEAD + len.next_multiple_of(8);
    }
    frames
}

/// What damage came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// The log opens, with all that was written, and a check of everything finds nothing.
    Harmless,
    /// It opens with all that was written, and what it took for a torn tail was nothing.
    TornNothing,
    /// It does not open; the error names the segment.
    NamedAtOpen,
    /// It opens, and the entry that is damaged says so when it is read.
    NamedAtRead,
    /// It opens with all that was written, and a check of everything names the damage.
    NamedAtVerify,
    /// It opens without what no fence covered.
    TornTail,
}

/// Where damage was named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Place {
    offset: Option<u64>,
    index: Option<u64>,
}

/// The place that an error names; it must name the segment.
fn place(error: &WalError, segment: u64, case: &str) -> Place {
    match error {
        WalError::Corruption {
            segment: named,
            offset,
            index,
            ..
        } => {
            assert_eq!(*named, name(segment), "{case}: {error}");
            Place {
                offset: Some(*offset),
                index: index.map(|index| index.0),
            }
        }
        WalError::NotALog { path: named }
        | WalError::NewerFormat { path: named, .. }
        | WalError::UnknownFeatures { path: named, .. }
        | WalError::Foreign { path: named, .. } => {
            assert_eq!(*named, path(segment), "{case}: {error}");
            Place::default()
        }
        WalError::WrongSize { segment: named, .. } => {
            assert_eq!(*named, name(segment), "{case}: {error}");
            Place {
                offset: Some(0),
                index: None,
            }
        }
        other => panic!("{case}: not named: {other}"),
    }
}

/// What damage of a byte has to come to.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// Exactly this.
    Just(Outcome, Place),
    /// Behind the log's end: nothing, or a torn tail of nothing from the end on.
    Behind(u64),
}

impl Expected {
    fn check(self, (outcome, place): (Outcome, Place), case: &str) {
        match self {
            Self::Just(expected, at) => {
                assert_eq!((outcome, place), (expected, at), "{case}");
            }
            Self::Behind(end) => {
                let offset = Some(end);
                let torn = (
                    Outcome::TornNothing,
                    Place {
                        offset,
                        index: None,
                    },
                );
                let known = [(Outcome::Harmless, Place::default()), torn];
                assert!(
                    known.contains(&(outcome, place)),
                    "{case}: {outcome:?} {place:?}"
                );
            }
        }
    }

    fn at(outcome: Outcome, offset: usize) -> Self {
        let offset = Some(offset as u64);
        Self::Just(
            outcome,
            Place {
                offset,
                index: None,
            },
        )
    }
}

impl Census {
    fn of(disk: SimDisk, segment: u64, model: Model) -> Self {
        let bytes = disk.peek(&path(segment)).unwrap();
        assert_eq!(bytes.len(), SIZE);
        let footed = &bytes[SIZE - 76..SIZE - 72] == b"FOOT";
        let end = if footed {
            u32_at(&bytes, SIZE - 64)
        } else {
            SIZE
        };
        let frames = frames(&bytes, end);
        assert_eq!(frames[0].kind, START);
        Self {
            disk,
            segment,
            bytes,
            frames,
            model,
        }
    }

    fn end(&self) -> usize {
        let last = self.frames.last().unwrap();
        last.meant.end.next_multiple_of(8)
    }

    fn frame_at(&self, byte: usize) -> Option<&Frame> {
        let behind = self.frames.partition_point(|frame| frame.head <= byte);
        let frame = &self.frames[behind.checked_sub(1)?];
        frame.meant.contains(&byte).then_some(frame)
    }

    /// The same log with one bit flipped.
    fn flipped(&self, bit: usize) -> SimDisk {
        let disk = self.disk.kill();
        let byte = bit / 8;
        let flipped = self.bytes[byte] ^ 1 << (bit % 8);
        disk.poke(&path(self.segment), byte, &[flipped]).unwrap();
        disk
    }

    /// Opens a damaged log and says what came of it, and where.
    fn judge(&self, disk: &SimDisk, case: &str) -> (Outcome, Place) {
        let (wal, recovery) = match model::open(disk) {
            Ok(opened) => opened,
            Err(error) => return (Outcome::NamedAtOpen, place(&error, self.segment, case)),
        };
        if let Some(found) = self.read(&wal, recovery.last, case) {
            return (Outcome::NamedAtRead, found);
        }
        if recovery.last.0 < self.model.last() {
            let torn = recovery.torn.expect(case);
            assert_eq!(torn.segment, name(self.segment), "{case}");
            let offset = Some(torn.offset);
            return (
                Outcome::TornTail,
                Place {
                    offset,
                    index: None,
                },
            );
        }
        let (first, last) = (self.model.floor + 1, self.model.last());
        let found = (recovery.first.0, recovery.last.0, &recovery.state);
        assert_eq!(found, (first, last, &self.model.state), "{case}");
        let verified = model::look(disk).and_then(|seen| seen.verify(|_| ()));
        match (verified, recovery.torn) {
            (Err(error), _) => (Outcome::NamedAtVerify, place(&error, self.segment, case)),
            (Ok(()), None) => (Outcome::Harmless, Place::default()),
            (Ok(()), Some(Torn { offset, .. })) => {
                let offset = Some(offset);
                (
                    Outcome::TornNothing,
                    Place {
                        offset,
                        index: None,
                    },
                )
            }
        }
    }

    /// Reads every entry up to `last`: each is as it was written or named, and all that are named for the same
    /// place: one frame, or the table that leads to them.
    fn read(&self, wal: &Wal, last: LogIndex, case: &str) -> Option<Place> {
        let reader = wal.reader();
        let mut named = None;
        assert!(last.0 <= self.model.last(), "{case}: an invented entry");
        for (index, entry) in (self.model.floor + 1..=last.0).zip(&self.model.entries) {
            match reader.get(LogIndex(index)) {
                Ok(stored) => assert!(
                    (stored.mark, stored.tag, &*stored.payload)
                        == (entry.mark, entry.tag, &*entry.payload),
                    "{case}: entry {index} is not what was written"
                ),
                Err(ReadError::Wal(error)) => {
                    let found = place(&error, self.segment, case);
                    assert_eq!(found.index, Some(index), "{case}");
                    let first: &mut Place = named.get_or_insert(found);
                    assert_eq!(first.offset, found.offset, "{case}: one bit, one place");
                }
                Err(other) => panic!("{case}: entry {index}: {other}"),
            }
        }
        named
    }

    /// Flips each bit of `bytes`, one at a time, and holds what comes of it against `expect`, which is
    /// given the byte. Returns how often each outcome was met.
    fn flip_all<F>(&self, bytes: Range<usize>, expect: F) -> BTreeMap<Outcome, usize>
    where
        F: Fn(usize) -> Expected + Sync,
    {
        parallel(bytes, |byte| {
            let expected = expect(byte);
            (byte * 8..byte * 8 + 8)
                .map(|bit| {
                    let case = format!("bit {} of byte {byte} of {SIZE}", bit % 8);
                    let found = self.judge(&self.flipped(bit), &case);
                    expected.check(found, &case);
                    found.0
                })
                .collect()
        })
    }
}

/// Does `work` for each of `items` on all processors, and counts what it returns.
fn parallel<F>(items: Range<usize>, work: F) -> BTreeMap<Outcome, usize>
where
    F: Fn(usize) -> Vec<Outcome> + Sync,
{
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let next = AtomicUsize::new(items.start);
    let count = || {
        let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
        loop {
            let item = next.fetch_add(1, Ordering::Relaxed);
            if item >= items.end {
                return counts;
            }
            for outcome in work(item) {
                *counts.entry(outcome).or_default() += 1;
            }
        }
    };
    let mut total: BTreeMap<Outcome, usize> = BTreeMap::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        for worker in workers {
            for (outcome, count) in worker.join().expect("each case is classified right") {
                *total.entry(outcome).or_default() += count;
            }
        }
    });
    total
}

/// A log of one segment that is nearly full, of every kind of frame; not closed.
fn filled() -> (SimDisk, Wal, Model) {
    let disk = SimDisk::new(1);
    let (wal, _) = model::open(&disk).unwrap();
    let mut rng = Rng::new(7);
    let mut now = Model::default();
    let mut room = SIZE - HEADER;
    for turn in 0..200 {
        let mut change = match turn {
            15 => Change::Drop(now.floor + 2),
            16 => Change::Write {
                state: Some(b"a state".to_vec()),
                truncate_from: Some(now.last()),
                records: Vec::new(),
            },
            _ => Change::random_write(&mut rng, &now),
        };
        if let Change::Write {
            records,
            truncate_from,
            ..
        } = &mut change
        {
            // One is enough: what was truncated is not read.
            truncate_from.take_if(|_| turn != 16);
            let payloads: usize = records.iter().map(|entry| entry.payload.len()).sum();
            // What frames, states and the footer take is less than this.
            let need = payloads + 600;
            // Few large entries, so that all can be read after each flip.
            if need + 4096 > room || (payloads < 3000 && turn > 8 && turn != 16) {
                continue;
            }
            room -= need;
        }
        now = change.steps(&now).pop().unwrap_or(now);
        change.make(&wal).unwrap();
        model::sync(&wal).unwrap();
    }
    let second = disk.peek(&path(2)).unwrap();
    let unused = second[HEADER..].iter().all(|&byte| byte == 0);
    assert!(unused, "it is all in one segment");
    (disk, wal, now)
}

#[test]
fn every_flipped_bit_of_a_closed_log_is_named_or_means_nothing() {
    let (disk, wal, model) = filled();
    wal.close().unwrap();
    let census = Census::of(disk, 1, model);
    let last = census.frames.last().unwrap();
    assert_eq!(last.kind, BATCH, "the fence that closing writes");
    let mut index = BTreeMap::new();
    let mut next = 1;
    for frame in &census.frames {
        match frame.kind {
            RECORD => next = frame.index + 1,
            4 => next = frame.index,
            _ => {}
        }
        index.insert(frame.head, next);
    }
    let expect = |byte: usize| match census.frame_at(byte) {
        // Nothing says that the fence itself was durable, and nothing is lost with it.
        Some(frame) if frame.head == last.head => Expected::at(Outcome::TornNothing, frame.head),
        Some(frame) => {
            let before = index.range(..frame.head).next_back();
            let place = Place {
                offset: Some(frame.head as u64),
                index: before.map(|(_, &index)| index),
            };
            Expected::Just(Outcome::NamedAtOpen, place)
        }
        None if byte < HEADER_USED => Expected::at(Outcome::NamedAtOpen, 0),
        None if byte >= census.end() => Expected::Behind(census.end() as u64),
        None => Expected::Just(Outcome::Harmless, Place::default()),
    };
    let counts = census.flip_all(0..SIZE, expect);
    assert_eq!(counts.values().sum::<usize>(), SIZE * 8);
    println!("one segment, closed, {} bits flipped: {counts:?}", SIZE * 8);
}

#[test]
fn a_flipped_bit_that_no_fence_covers_is_a_torn_tail_from_its_frame_on() {
    let (disk, wal, mut model) = filled();
    let records = (0..5_u8).map(|at| model::Entry {
        mark: model.mark(),
        tag: at,
        payload: vec![at; 50 + usize::from(at)].into(),
    });
    let change = Change::Write {
        state: None,
        truncate_from: None,
        records: records.collect(),
    };
    change.make(&wal).unwrap();
    let fenced = Census::of(disk.kill(), 1, model.clone()).end();
    model::sync(&wal).unwrap();
    model = change.steps(&model).pop().unwrap();
    drop(wal);
    let census = Census::of(disk, 1, model);
    let expect = |byte: usize| match census.frame_at(byte) {
        Some(frame) => Expected::at(Outcome::TornTail, frame.head),
        None => Expected::Just(Outcome::Harmless, Place::default()),
    };
    let counts = census.flip_all(fenced..census.end(), expect);
    println!("the last batch, not fenced: {counts:?}");
    let behind = |_| Expected::Behind(census.end() as u64);
    let counts = census.flip_all(census.end()..census.end() + 256, behind);
    println!("behind it: {counts:?}");
}

#[test]
fn every_flipped_bit_of_a_sealed_segment_is_named_or_means_nothing() {
    let (disk, wal, mut model) = filled();
    let mut rng = Rng::new(9);
    while disk.peek(&path(1)).unwrap()[SIZE - 76..SIZE - 72] != *b"FOOT" {
        let change = Change::random_write(&mut rng, &model);
        model = change.steps(&model).pop().unwrap_or(model);
        change.make(&wal).unwrap();
        model::sync(&wal).unwrap();
    }
    wal.close().unwrap();
    let census = Census::of(disk, 1, model);
    let [count, runs, state] = [60, 56, 52].map(|back| u32_at(&census.bytes, SIZE - back));
    let table = SIZE - 80 - (count * 4).next_multiple_of(8);
    let footer = table - runs * 16 - state.next_multiple_of(8);
    let mut live = BTreeMap::new();
    for frame in &census.frames {
        match frame.kind {
            RECORD => {
                live.insert(frame.index, frame.head);
            }
            4 => {
                live.split_off(&frame.index);
            }
            6 => live = live.split_off(&(frame.index + 1)),
            _ => {}
        }
    }
    // Entries that the second segment truncated are not read either.
    live.split_off(&(census.model.last() + 1));
    let counts = parallel(0..SIZE, |byte| {
        (byte * 8..byte * 8 + 8)
            .map(|bit| {
                let case = format!("bit {} of byte {byte} of {SIZE}, sealed", bit % 8);
                let (outcome, place) = census.judge(&census.flipped(bit), &case);
                let offset = place.offset;
                match census.frame_at(byte) {
                    Some(frame) if frame.kind == START => {
                        assert_eq!(outcome, Outcome::NamedAtOpen, "{case}");
                        assert_eq!(offset, Some(frame.head as u64), "{case}");
                    }
                    Some(frame) => {
                        let read =
                            frame.kind == RECORD && live.get(&frame.index) == Some(&frame.head);
                        let expected = if read {
                            Outcome::NamedAtRead
                        } else {
                            Outcome::NamedAtVerify
                        };
                        assert_eq!(outcome, expected, "{case}: {frame:?}");
                        assert_eq!(offset, Some(frame.head as u64), "{case}");
                    }
                    None if (table..SIZE - 80).contains(&byte) => {
                        assert_eq!(outcome, Outcome::NamedAtRead, "{case}");
                        assert_eq!(offset, Some(table as u64), "{case}");
                    }
                    None if byte < HEADER_USED || byte >= footer => {
                        assert_eq!(outcome, Outcome::NamedAtOpen, "{case}");
                    }
                    None => assert_eq!(outcome, Outcome::Harmless, "{case}"),
                }
                outcome
            })
            .collect()
    });
    assert_eq!(counts.values().sum::<usize>(), SIZE * 8);
    println!("a sealed segment, {} bits flipped: {counts:?}", SIZE * 8);
}

#[test]
fn a_segment_cut_to_any_length_is_named() {
    let (disk, wal, model) = filled();
    wal.close().unwrap();
    let census = Census::of(disk, 1, model);
    let counts = parallel(0..SIZE, |len| {
        let case = format!("cut to {len} of {SIZE} bytes");
        let disk = census.disk.kill();
        let file = disk.create(&path(1)).unwrap();
        file.write_at(0, &census.bytes[..len]).unwrap();
        let (outcome, place) = census.judge(&disk, &case);
        assert_eq!(outcome, Outcome::NamedAtOpen, "{case}");
        // Of a magic that is not whole nobody can say that it was a segment's.
        let offset = (!(1..8).contains(&len)).then_some(0);
        assert_eq!(place.offset, offset, "{case}");
        vec![outcome]
    });
    assert_eq!(counts.values().sum::<usize>(), SIZE);
    println!("one segment, cut to {SIZE} lengths: {counts:?}");
}
