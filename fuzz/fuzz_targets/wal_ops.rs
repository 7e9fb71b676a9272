//! Any calls on a log, with kills, power cuts and failing calls between, against a model of what it must
//! hold; and at the end one damaged byte. What was acknowledged is there, nothing is there that was not
//! written, and damage of what a fence covers is named.

#![no_main]

#[path = "../../tests/model/mod.rs"]
mod model;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use catamaran::sim::{Moment, Op, SimDisk, Survival};
use catamaran::types::LogIndex;
use catamaran::wal::{ReadError, Recovery, Stored, Wal, WalError};
use libfuzzer_sys::fuzz_target;
use model::{Change, DIR, Entry, Model, explain, look, open, sync};

/// More turns would only make the same states again, more slowly.
const MOST_TURNS: usize = 48;
const MOST_RECORDS: usize = 6;

#[derive(Arbitrary, Debug)]
struct Run {
    seed: u8,
    turns: Vec<Turn>,
    last_stroke: Stroke,
    flip: Option<Flip>,
}

#[derive(Arbitrary, Debug)]
enum Turn {
    Write {
        state: Option<u8>,
        /// How many of the last entries are truncated.
        back: Option<u8>,
        records: Vec<NewRecord>,
    },
    Sync,
    Drop {
        keep: u8,
    },
    DropPast(u8),
    Fence,
    Hold(u8),
    Close,
    Strike(Stroke),
    /// Power is lost so many calls from now, before or after that call takes effect.
    CutAt {
        calls: u8,
        after: bool,
        survival: Survives,
    },
    /// A later call of a kind fails.
    Fail {
        what: Failing,
        later: u8,
        full: bool,
    },
}

#[derive(Arbitrary, Debug)]
struct NewRecord {
    raise: bool,
    tag: u8,
    byte: u8,
    len: Len,
}

#[derive(Arbitrary, Debug)]
enum Len {
    Short(u8),
    Long(u16),
}

/// An end that the log does not choose.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Stroke {
    Kill,
    Cut(Survives),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Survives {
    All,
    None,
    Some(u16),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Failing {
    Create,
    Write,
    Sync,
    Rename,
    Remove,
    SyncDir,
}

#[derive(Arbitrary, Debug)]
struct Flip {
    file: u8,
    place: Place,
    mask: u8,
}

#[derive(Arbitrary, Debug)]
enum Place {
    Front(u16),
    /// So many bytes before the last one that is not zero.
    Back(u16),
}

struct Log {
    disk: SimDisk,
    wal: Option<Wal>,
    /// What the log became, step by step.
    steps: Vec<Model>,
    /// The step that is acknowledged.
    acknowledged: usize,
    /// The step up to which a batch on the disk says that it is durable.
    fenced: usize,
    /// What a power cut that is to come will leave.
    survives: Survives,
    held: Vec<(Stored, Entry)>,
}

impl Log {
    fn new(seed: u8) -> Self {
        let disk = SimDisk::new(u64::from(seed));
        let (wal, recovery) = open(&disk).unwrap();
        assert!(recovery.created);
        Self {
            disk,
            wal: Some(wal),
            steps: vec![Model::default()],
            acknowledged: 0,
            fenced: 0,
            survives: Survives::None,
            held: Vec::new(),
        }
    }

    fn now(&self) -> &Model {
        self.steps.last().unwrap()
    }

    fn take(&mut self, turn: &Turn) {
        match turn {
            Turn::Write {
                state,
                back,
                records,
            } => self.write(*state, *back, records),
            Turn::Sync => {
                let synced = sync(self.wal.as_ref().unwrap());
                self.synced(synced, self.acknowledged);
            }
            Turn::Drop { keep } => {
                let keep = u64::from(*keep).min(self.now().entries.len() as u64);
                self.change(&Change::Drop(self.now().last() - keep));
            }
            Turn::DropPast(past) => {
                self.change(&Change::Drop(self.now().last() + u64::from(*past)));
            }
            Turn::Fence => self.fence(),
            Turn::Hold(back) => self.hold(*back),
            Turn::Close => self.close(),
            Turn::Strike(stroke) => self.strike(*stroke),
            Turn::CutAt {
                calls,
                after,
                survival,
            } => {
                let moment = if *after { Moment::After } else { Moment::Before };
                let nth = self.disk.ops() + 1 + u64::from(*calls);
                self.disk.crash_at(nth, moment);
                self.survives = *survival;
            }
            Turn::Fail { what, later, full } => {
                let error = if *full { ErrorKind::StorageFull } else { ErrorKind::Other };
                let op = what.op();
                let nth = self.disk.count(op) + 1 + u64::from(*later % 16);
                self.disk.fail(op, nth, error);
            }
        }
    }

    fn write(&mut self, state: Option<u8>, back: Option<u8>, records: &[NewRecord]) {
        let now = self.now();
        let back = back.map(|back| u64::from(back).min(now.entries.len() as u64));
        let truncate_from = back.map(|back| now.last() + 1 - back);
        let left = now.entries.len() - back.unwrap_or(0) as usize;
        let mut mark = now.entries[..left]
            .last()
            .map_or(now.floor_mark, |entry| entry.mark);
        let records = records.iter().take(MOST_RECORDS).map(|record| {
            mark += u64::from(record.raise);
            Entry {
                mark,
                tag: record.tag,
                payload: (0..record.len.bytes())
                    .map(|at| record.byte.wrapping_add(at as u8))
                    .collect(),
            }
        });
        let records = records.collect();
        self.change(&Change::Write {
            state: state.map(|byte| vec![byte; usize::from(byte) * 4]),
            truncate_from,
            records,
        });
    }

    fn change(&mut self, change: &Change) {
        match change.make(self.wal.as_ref().unwrap()) {
            Ok(last) => {
                let steps = change.steps(self.now());
                self.steps.extend(steps);
                assert_eq!(last, self.now().last());
            }
            Err(error) => self.failed(&error),
        }
    }

    /// What came of a sync of everything; `fence` is what its last batch says to be durable.
    fn synced(&mut self, result: Result<(), WalError>, fence: usize) {
        match result {
            Ok(()) => {
                self.fenced = fence;
                self.acknowledged = self.steps.len() - 1;
            }
            Err(error) => self.failed(&error),
        }
    }

    fn fence(&mut self) {
        let wal = self.wal.as_ref().unwrap();
        match wal.fence() {
            Ok(Some(staged)) => {
                let synced = wal.sync(staged).map(drop);
                self.synced(synced, self.acknowledged);
            }
            // Some batch says it.
            Ok(None) => self.fenced = self.acknowledged,
            Err(error) => self.failed(&error),
        }
    }

    fn hold(&mut self, back: u8) {
        let now = self.now();
        let back = usize::from(back);
        let Some(at) = now.entries.len().checked_sub(1 + back) else {
            return;
        };
        let entry = now.entries[at].clone();
        let index = LogIndex(now.floor + 1 + at as u64);
        match self.wal.as_ref().unwrap().reader().get(index) {
            Ok(stored) => {
                check_entry(&stored, &entry);
                self.held.push((stored, entry));
            }
            Err(ReadError::Wal(WalError::Io(_))) if self.disk.is_crashed() => self.power_back(),
            Err(other) => panic!("entry {index}: {other}"),
        }
    }

    fn close(&mut self) {
        match self.wal.take().unwrap().close() {
            Ok(()) => {
                self.acknowledged = self.steps.len() - 1;
                self.fenced = self.acknowledged;
                match open(&self.disk) {
                    Ok(opened) => self.opened(opened),
                    Err(error) => self.failed(&error),
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// A call failed: that may be only where the input wants it.
    fn failed(&mut self, error: &WalError) {
        match error {
            _ if self.disk.is_crashed() => self.power_back(),
            // Something may be tried again; a log that has failed says so from then on.
            WalError::NoSpace(_) | WalError::Io(_) if self.wal.is_some() => {}
            WalError::NoSpace(_) | WalError::Io(_) | WalError::Failed(_) => {
                self.strike(Stroke::Kill);
            }
            other => panic!("{other}"),
        }
    }

    fn power_back(&mut self) {
        self.strike(Stroke::Cut(self.survives));
    }

    fn strike(&mut self, stroke: Stroke) {
        self.disk = stroke.on(&self.disk);
        self.wal = None;
        let opened = open(&self.disk).unwrap_or_else(|error| panic!("{stroke:?}: {error}"));
        self.opened(opened);
    }

    /// The log is open again: it is what it was at some step from the acknowledged one on.
    fn opened(&mut self, (wal, recovery): (Wal, Recovery)) {
        let found = match Model::read(&wal, &recovery) {
            Ok(found) => found,
            Err(ReadError::Wal(WalError::Io(_))) if self.disk.is_crashed() => {
                drop(wal);
                return self.power_back();
            }
            Err(error) => panic!("{error}"),
        };
        let allowed = &self.steps[self.acknowledged..];
        let Some(at) = allowed.iter().rposition(|step| *step == found) else {
            panic!("{}", explain(&found, allowed));
        };
        self.steps.truncate(self.acknowledged + at + 1);
        self.acknowledged = self.steps.len() - 1;
        self.wal = Some(wal);
    }

    /// A byte is damaged: it is named, or made no difference, or only what no fence covers is lost.
    fn check_flipped(&self, flip: &Flip) {
        let Some(name) = flip.damage(&self.disk) else {
            return;
        };
        let before = self.disk.ops();
        let looked = look(&self.disk);
        let (wal, recovery) = match open(&self.disk) {
            Ok(opened) => opened,
            Err(error) => {
                check_named(&error, &name);
                let looked = looked.err().map(|error| error.to_string());
                assert_eq!(looked, Some(error.to_string()));
                assert_eq!(self.disk.ops(), before, "a damaged log was changed");
                return;
            }
        };
        let looked = looked.unwrap();
        assert_eq!((looked.first(), looked.last()), (recovery.first, recovery.last));
        let reader = wal.reader();
        let mut lost = 0;
        let mut found = Vec::new();
        for stored in (recovery.first.0..=recovery.last.0).map(|index| reader.get(LogIndex(index))) {
            match stored {
                Ok(stored) => found.push(Some(stored)),
                Err(ReadError::Wal(error)) => {
                    check_named(&error, &name);
                    lost += 1;
                    found.push(None);
                }
                Err(other) => panic!("{other}"),
            }
        }
        let same = |step: &&Model| {
            let pairs = || found.iter().zip(&step.entries);
            (step.floor + 1, step.last()) == (recovery.first.0, recovery.last.0)
                && step.state == recovery.state
                && pairs().all(|(stored, entry)| stored.as_ref().is_none_or(|s| is_entry(s, entry)))
        };
        let allowed = &self.steps[self.fenced..];
        assert!(
            allowed.iter().any(|step| same(&step)),
            "damage in {name}: found {}..={} with {lost} lost, state of {:?}; fenced {}; last {}",
            recovery.first,
            recovery.last,
            recovery.state.as_ref().map(Vec::len),
            allowed[0].summary(),
            self.now().summary(),
        );
        if lost > 0 {
            assert!(looked.verify(|_| ()).is_err(), "verified, and not readable");
        }
    }
}

impl Len {
    fn bytes(&self) -> usize {
        match self {
            Self::Short(len) => usize::from(*len),
            Self::Long(len) => usize::from(*len % (16 << 10)),
        }
    }
}

impl Failing {
    fn op(self) -> Op {
        match self {
            Self::Create => Op::Create,
            Self::Write => Op::Write,
            Self::Sync => Op::Sync,
            Self::Rename => Op::Rename,
            Self::Remove => Op::Remove,
            Self::SyncDir => Op::SyncDir,
        }
    }
}

impl Stroke {
    fn on(self, disk: &SimDisk) -> SimDisk {
        match self {
            Self::Kill => disk.kill(),
            Self::Cut(Survives::All) => disk.power_cut(Survival::All),
            Self::Cut(Survives::None) => disk.power_cut(Survival::None),
            Self::Cut(Survives::Some(seed)) => disk.power_cut(Survival::Random(seed.into())),
        }
    }
}

impl Flip {
    /// Changes a byte of a segment, and says of which.
    fn damage(&self, disk: &SimDisk) -> Option<String> {
        let mut paths = disk.paths();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
        let path: &PathBuf = paths.get(usize::from(self.file) % paths.len().max(1))?;
        let bytes = disk.peek(path)?;
        let used = bytes.iter().rposition(|&byte| byte != 0)?;
        let at = match self.place {
            Place::Front(at) => usize::from(at).min(bytes.len() - 1),
            Place::Back(back) => used.checked_sub(usize::from(back))?,
        };
        disk.poke(path, at, &[bytes[at] ^ self.mask.max(1)]).unwrap();
        Some(path.strip_prefix(Path::new(DIR)).unwrap().display().to_string())
    }
}

fn is_entry(stored: &Stored, entry: &Entry) -> bool {
    (stored.mark, stored.tag, &*stored.payload) == (entry.mark, entry.tag, &*entry.payload)
}

fn check_entry(stored: &Stored, entry: &Entry) {
    assert!(is_entry(stored, entry), "entry {} changed", stored.index);
}

/// An error that says which file is damaged.
fn check_named(error: &WalError, name: &str) {
    match error {
        WalError::Corruption { segment, .. } => assert_eq!(segment, name),
        WalError::NotALog { path } => assert!(path.ends_with(name)),
        // A drop that no fence covers yet is lost with its batch, and what it dropped is gone already.
        WalError::MissingFirst { segment, .. } => assert!(&**segment <= name),
        other => panic!("damage of {name}: {other}"),
    }
}

fuzz_target!(|run: Run| {
    let mut log = Log::new(run.seed);
    for turn in run.turns.iter().take(MOST_TURNS) {
        log.take(turn);
    }
    log.strike(run.last_stroke);
    for (stored, entry) in &log.held {
        check_entry(stored, entry);
    }
    if let Some(flip) = &run.flip {
        log.wal = None;
        log.check_flipped(flip);
    }
});
