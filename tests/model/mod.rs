//! What a log holds by the rules, beside what it says it holds.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "each test uses its part, and fails by panicking"
)]

use std::sync::Arc;

use catamaran::Bytes;
use catamaran::sim::{Rng, SimDisk};
use catamaran::types::{LogIndex, Payload};
use catamaran::wal::{
    Batch, Inspection, Preparer, ReadError, Record, Recovery, Wal, WalError, WalOptions,
    open_read_only_on,
};

pub(crate) mod script;

pub(crate) const DIR: &str = "/wal";
pub(crate) const SEGMENT_BYTES: u64 = 64 << 10;

/// The log on a simulated disk, with nothing beside its caller.
pub(crate) fn options(disk: &SimDisk) -> WalOptions {
    WalOptions::new(DIR)
        .segment_bytes(SEGMENT_BYTES)
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline)
}

pub(crate) fn open(disk: &SimDisk) -> Result<(Wal, Recovery), WalError> {
    options(disk).open()
}

pub(crate) fn look(disk: &SimDisk) -> Result<Inspection, WalError> {
    open_read_only_on(Arc::new(disk.clone()), DIR)
}

/// The seed to replay, or what to do without one.
pub(crate) fn seeds(otherwise: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    match std::env::var("CATAMARAN_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number in CATAMARAN_SEED")],
        Err(_) => otherwise.collect(),
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) mark: u64,
    pub(crate) tag: u8,
    pub(crate) payload: Arc<[u8]>,
}

/// What a log holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) floor: u64,
    pub(crate) floor_mark: u64,
    /// From index `floor + 1` on.
    pub(crate) entries: Vec<Entry>,
    pub(crate) state: Option<Vec<u8>>,
}

impl Model {
    pub(crate) fn last(&self) -> u64 {
        self.floor + self.entries.len() as u64
    }

    pub(crate) fn mark(&self) -> u64 {
        self.entries
            .last()
            .map_or(self.floor_mark, |entry| entry.mark)
    }

    pub(crate) fn summary(&self) -> String {
        let bytes: usize = self.entries.iter().map(|entry| entry.payload.len()).sum();
        format!(
            "entries {}..={} of {bytes} bytes, marks {} to {}, state {:?}",
            self.floor + 1,
            self.last(),
            self.floor_mark,
            self.mark(),
            self.state.as_deref().map(<[u8]>::escape_ascii)
        )
    }

    fn drop_prefix(&mut self, upto: u64) {
        if upto <= self.floor {
            return;
        }
        let gone = (upto - self.floor).min(self.entries.len() as u64) as usize;
        self.floor_mark = self.entries[..gone]
            .last()
            .map_or(self.floor_mark, |entry| entry.mark);
        self.entries.drain(..gone);
        self.floor = upto;
    }

    /// What an open log says it holds, looked at from every side.
    pub(crate) fn of(wal: &Wal, recovery: &Recovery) -> Self {
        Self::read(wal, recovery).unwrap()
    }

    /// The same, where the disk may fail.
    pub(crate) fn read(wal: &Wal, recovery: &Recovery) -> Result<Self, ReadError> {
        let reader = wal.reader();
        let (first, last) = (reader.first(), reader.last());
        assert_eq!((recovery.first, recovery.last), (first, last));
        assert!(first.0 <= last.0 + 1);
        let mut entries = Vec::new();
        let mut runs: Vec<(u64, LogIndex)> = Vec::new();
        for stored in reader.range(first..=last) {
            let stored = stored?;
            assert_eq!(stored.index.0, first.0 + entries.len() as u64);
            assert_eq!(reader.mark(stored.index).unwrap(), stored.mark);
            if runs.last().is_none_or(|run| run.0 != stored.mark) {
                runs.push((stored.mark, stored.index));
            }
            entries.push(Entry {
                mark: stored.mark,
                tag: stored.tag,
                payload: Arc::from(&*stored.payload),
            });
        }
        assert_eq!(entries.len() as u64, last.0 + 1 - first.0, "all are read");
        assert_eq!(reader.runs(), runs);
        let past = reader.get(last.next());
        assert!(matches!(past, Err(ReadError::NotYet { last: l }) if l == last));
        let (floor, floor_mark) = reader.floor();
        assert_eq!(floor.next(), first);
        Ok(Self {
            floor: floor.0,
            floor_mark,
            entries,
            state: recovery.state.clone(),
        })
    }
}

/// A call that changes a log, so that the same can be made again.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write {
        state: Option<Vec<u8>>,
        truncate_from: Option<u64>,
        records: Vec<Entry>,
    },
    Drop(u64),
}

impl Change {
    /// The models that the log may become while the change is being made, the last of them when it is
    /// made: state, truncation, record after record, or the drop at once.
    pub(crate) fn steps(&self, now: &Model) -> Vec<Model> {
        let mut steps = Vec::new();
        let mut next = now.clone();
        match self {
            Self::Write {
                state,
                truncate_from,
                records,
            } => {
                if let Some(state) = state {
                    next.state = Some(state.clone());
                    steps.push(next.clone());
                }
                if let Some(from) = truncate_from {
                    next.entries.truncate((from - 1 - next.floor) as usize);
                    steps.push(next.clone());
                }
                for record in records {
                    next.entries.push(record.clone());
                    steps.push(next.clone());
                }
            }
            Self::Drop(upto) => {
                next.drop_prefix(*upto);
                steps.push(next);
            }
        }
        steps
    }

    /// Makes the change; returns the log's last index by its own account.
    pub(crate) fn make(&self, wal: &Wal) -> Result<u64, WalError> {
        let staged = match self {
            Self::Write {
                state,
                truncate_from,
                records,
            } => {
                let shared: Vec<Bytes> = records.iter().map(|e| (*e.payload).into()).collect();
                let records: Vec<_> = records
                    .iter()
                    .zip(&shared)
                    .map(|(entry, shared)| Record {
                        mark: entry.mark,
                        tag: entry.tag,
                        // Either way, and which does not depend on anything else.
                        payload: if entry.payload.len() % 4 == 0 {
                            shared.into()
                        } else {
                            Payload::Borrowed(&entry.payload)
                        },
                    })
                    .collect();
                wal.write(&Batch {
                    state: state.as_deref(),
                    truncate_from: truncate_from.map(LogIndex),
                    records: &records,
                })?
            }
            Self::Drop(upto) => wal.drop_prefix(LogIndex(*upto))?,
        };
        Ok(staged.last().0)
    }

    /// A write of anything that a write may be, on a log that is `now`.
    pub(crate) fn random_write(rng: &mut Rng, now: &Model) -> Self {
        let state = rng
            .chance(15)
            .then(|| vec![b'a' + rng.below(26) as u8; rng.below(100) as usize]);
        let truncate_from = rng.chance(15).then(|| {
            let back = rng.below(12).min(now.entries.len() as u64);
            now.last() + 1 - back
        });
        let mut mark = truncate_from.map_or(now.mark(), |_| now.mark() + 1) + rng.below(2);
        let records = (0..rng.below(5)).map(|_| {
            mark += u64::from(rng.chance(20));
            let large = rng.chance(15);
            random_entry(rng, mark, if large { 9000 } else { 300 })
        });
        Self::Write {
            state,
            truncate_from,
            records: records.collect(),
        }
    }

    /// Records of more bytes together than a segment takes.
    pub(crate) fn large_write(rng: &mut Rng, now: &Model) -> Self {
        let mut records = Vec::new();
        let mut bytes = 0;
        while bytes <= SEGMENT_BYTES as usize {
            let entry = random_entry(rng, now.mark(), 16 << 10);
            bytes += entry.payload.len();
            records.push(entry);
        }
        Self::Write {
            state: None,
            truncate_from: None,
            records,
        }
    }

    /// A drop that mostly leaves little; now and then it goes past the end.
    pub(crate) fn random_drop(rng: &mut Rng, now: &Model) -> Self {
        let live = now.entries.len() as u64;
        let keep = rng.below(live.min(20) + 1);
        let past = if rng.chance(8) { rng.below(4) } else { 0 };
        Self::Drop(match past {
            0 => now.last() - keep,
            _ => now.last() + past,
        })
    }
}

fn random_entry(rng: &mut Rng, mark: u64, below: u64) -> Entry {
    let byte = rng.next_u64() as u8;
    let len = rng.below(below);
    Entry {
        mark,
        tag: rng.below(4) as u8,
        payload: (0..len).map(|at| byte.wrapping_add(at as u8)).collect(),
    }
}

/// What the log became step by step, with the calls to the disk beside: a crash may leave any step from the
/// last acknowledged to the last issued.
pub(crate) struct History {
    steps: Vec<Model>,
    /// After how many calls each step was issued, ascending.
    issued: Vec<u64>,
    /// After how many calls which step was acknowledged, ascending.
    acknowledged: Vec<(u64, usize)>,
}

impl History {
    /// A log that holds `model`, durably.
    pub(crate) fn of(model: Model) -> Self {
        Self {
            steps: vec![model],
            issued: vec![0],
            acknowledged: vec![(0, 0)],
        }
    }

    pub(crate) fn now(&self) -> &Model {
        self.steps.last().unwrap()
    }

    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    pub(crate) fn issue(&mut self, ops: u64, steps: Vec<Model>) {
        for step in steps {
            self.steps.push(step);
            self.issued.push(ops);
        }
    }

    /// Takes back what was refused: only the first `len` steps were issued.
    pub(crate) fn take_back(&mut self, len: usize) {
        self.steps.truncate(len);
        self.issued.truncate(len);
    }

    /// Everything so far is durable.
    pub(crate) fn acknowledge(&mut self, ops: u64) {
        self.acknowledged.push((ops, self.steps.len() - 1));
    }

    /// A log was opened and holds `found`, which was checked to be allowed.
    pub(crate) fn reopened(&mut self, ops: u64, found: Model) {
        self.issue(ops, vec![found]);
        self.acknowledge(ops);
    }

    /// What may be found if all ends now.
    pub(crate) fn allowed(&self) -> &[Model] {
        self.allowed_at(u64::MAX, u64::MAX)
    }

    /// What may be found if the acknowledgements are those after `acknowledged` calls, and nothing was
    /// issued after `issued` calls.
    pub(crate) fn allowed_at(&self, acknowledged: u64, issued: u64) -> &[Model] {
        let known = self
            .acknowledged
            .partition_point(|ack| ack.0 <= acknowledged);
        let from = self.acknowledged[..known].last().map_or(0, |ack| ack.1);
        let to = self.issued.partition_point(|&ops| ops <= issued);
        &self.steps[from..to]
    }
}

/// Syncs all that was written; an empty write is a handle on it.
pub(crate) fn sync(wal: &Wal) -> Result<(), WalError> {
    let staged = wal.write(&Batch::default())?;
    wal.sync(staged).map(drop)
}

/// Says how `found` is none of `allowed`.
pub(crate) fn explain(found: &Model, allowed: &[Model]) -> String {
    let ends = [allowed.first(), allowed.last()];
    let [first, last] = ends.map(|end| end.map_or_else(|| "nothing".into(), Model::summary));
    format!(
        "found {}; acknowledged {first}; issued {last}",
        found.summary()
    )
}
