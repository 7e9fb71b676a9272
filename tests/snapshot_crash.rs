//! Log and snapshots together, on a disk that loses its power at every call: a restart finds every entry that was
//! acknowledged, in the snapshot or behind it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::sync::Arc;

use catamaran::log::{Log, NewEntry, Recovered};
use catamaran::sim::{SimDisk, Survival};
use catamaran::snapshot::{Configuration, Meta, SnapshotStore};
use catamaran::types::HardState;
use catamaran::wal::Preparer;
use catamaran::{ClusterId, EntryKind, LogId, LogIndex, NodeId, Term, WalOptions};

const CLUSTER: ClusterId = ClusterId(7);
const TRAILING: u64 = 10;
/// An entry is so many bytes, so that segments of 64 KiB end now and then.
const PAYLOAD: usize = 2_000;

/// The committed entry at `index`: what every member has there.
fn payload(index: u64) -> Vec<u8> {
    index.to_le_bytes().repeat(PAYLOAD / 8)
}

/// What a leader of an earlier term wrote there and never committed.
fn garbage(index: u64) -> Vec<u8> {
    (!index).to_le_bytes().repeat(PAYLOAD / 8)
}

/// Every seventh entry is a configuration.
fn kind(index: u64) -> EntryKind {
    if index.is_multiple_of(7) {
        EntryKind::Config
    } else {
        EntryKind::Normal
    }
}

/// And of those that were never committed others.
fn garbage_kind(index: u64) -> EntryKind {
    kind(index + 3)
}

/// The configurations that are known after a restart are those there are: the last that is committed, in the
/// snapshot or behind it, and all that follow.
fn check_configs(log: &Log, recovered: &Recovered, snapshot: LogIndex) {
    let before = |index: &LogIndex| *index > snapshot;
    let named = recovered.configs.iter().copied().filter(before);
    let entries = log
        .reader()
        .range(recovered.before.index.next().0..=recovered.last.index.0);
    let entries = entries.map(Result::unwrap);
    let configs = entries.filter(|entry| entry.kind == EntryKind::Config);
    let there = configs.map(|entry| entry.id.index).filter(before);
    let first = Some(snapshot).filter(|index| *index > LogIndex::ZERO);
    let named: Vec<_> = first.into_iter().chain(named).collect();
    let there: Vec<_> = first.into_iter().chain(there).collect();
    let commit = recovered.hard_state.commit.min(recovered.last.index);
    let committed = there.partition_point(|index| *index <= commit);
    let expected = &there[committed.saturating_sub(1)..];
    assert!(
        named.ends_with(expected),
        "{named:?} instead of {expected:?}"
    );
}

/// A machine that remembers all it was told, in short.
#[derive(Default, PartialEq, Debug)]
struct State {
    applied: Vec<u64>,
}

impl State {
    fn upto(index: u64) -> Self {
        Self {
            applied: (1..=index).collect(),
        }
    }

    fn apply(&mut self, payload: &[u8]) {
        let (head, _) = payload.split_first_chunk().unwrap();
        self.applied.push(u64::from_le_bytes(*head));
    }

    fn bytes(&self) -> Vec<u8> {
        let numbers = self.applied.iter();
        numbers.flat_map(|number| number.to_le_bytes()).collect()
    }
}

struct Member {
    log: Log,
    store: SnapshotStore,
    state: State,
    term: Term,
    commit: LogIndex,
    recovered: Recovered,
}

impl Member {
    /// Starts on what the disk has.
    fn start(disk: &SimDisk) -> Self {
        let options = WalOptions::new("/node/wal")
            .segment_bytes(64 << 10)
            .owner(CLUSTER, NodeId(1))
            .preparer(Preparer::Inline)
            .disk(Arc::new(disk.clone()));
        let (log, mut recovered) = Log::open(options).unwrap();
        let disk = Arc::new(disk.clone());
        let (store, found) = SnapshotStore::open(disk, "/node/snapshots", CLUSTER).unwrap();
        assert!(found.damaged.is_empty(), "{:?}", found.damaged);
        let mut state = State::default();
        let mut applied = LogIndex::ZERO;
        let mut config = LogIndex::ZERO;
        if let Some(whole) = found.newest {
            let mut bytes = Vec::new();
            whole.read().read_to_end(&mut bytes).unwrap();
            let (numbers, _) = bytes.as_chunks();
            state.applied = numbers
                .iter()
                .map(|number| u64::from_le_bytes(*number))
                .collect();
            applied = whole.meta().last.index;
            config = whole.meta().configuration.index;
            log.follow(&mut recovered, whole.meta().last).unwrap();
        }
        check_configs(&log, &recovered, config);
        let (before, last) = (recovered.before, recovered.last);
        assert!(
            before.index <= applied,
            "entries behind {applied} are lost: {before}"
        );
        assert_eq!(before.index, log.reader().before().index);
        assert!(recovered.hard_state.term >= last.term);
        let commit = recovered.hard_state.commit.min(last.index);
        for entry in log.reader().range(applied.next().0..=commit.0) {
            state.apply(&entry.unwrap().payload);
        }
        Self {
            term: recovered.hard_state.term.next(),
            log,
            store,
            state,
            commit,
            recovered,
        }
    }

    /// Writes and commits so many entries.
    fn commit(&mut self, count: u64) {
        let first = self.log.reader().last().next();
        let payloads: Vec<_> = (first.0..first.0 + count).map(payload).collect();
        self.commit = first.plus(count - 1);
        self.write(&payloads, kind);
        for payload in &payloads {
            self.state.apply(payload);
        }
    }

    /// Writes entries that will not be committed.
    fn write_garbage(&mut self, count: u64) {
        let first = self.log.reader().last().next().0;
        let payloads: Vec<_> = (first..first + count).map(garbage).collect();
        self.write(&payloads, garbage_kind);
    }

    fn write(&self, payloads: &[Vec<u8>], kind: impl Fn(u64) -> EntryKind) {
        let first = self.log.reader().last().next().0;
        let entries: Vec<NewEntry<'_>> = payloads
            .iter()
            .zip(first..)
            .map(|(payload, index)| NewEntry {
                term: self.term,
                kind: kind(index),
                payload: payload.into(),
            })
            .collect();
        let hard_state = HardState {
            term: self.term,
            vote: None,
            commit: self.commit,
        };
        let staged = self.log.stage(hard_state, None, &entries).unwrap();
        self.log.wal().sync(staged).unwrap();
    }

    fn publish(&self, last: LogId, state: &State) {
        let meta = Meta {
            cluster: CLUSTER,
            last,
            configuration: Configuration {
                index: LogIndex(last.index.0 / 7 * 7),
                bytes: Vec::new(),
            },
            state_format: 0,
        };
        let mut writer = self.store.begin(meta).unwrap();
        writer.write_all(&state.bytes()).unwrap();
        writer.publish().unwrap();
    }

    /// Takes a snapshot of all that is committed, and drops what it makes needless.
    fn take_snapshot(&self) {
        let last = self.log.reader().last_id().unwrap();
        assert_eq!(last.index, self.commit);
        self.publish(last, &self.state);
        let upto = LogIndex(last.index.0.saturating_sub(TRAILING));
        let staged = self.log.wal().drop_prefix(upto).unwrap();
        self.log.wal().sync(staged).unwrap();
    }

    /// Takes over a snapshot that another member took further on, in a later term.
    fn install(&mut self, index: u64) {
        self.term = self.term.next();
        let last = LogId::new(self.term, LogIndex(index));
        self.state = State::upto(index);
        self.publish(last, &self.state);
        let staged = self.log.restart(last).unwrap();
        self.log.wal().sync(staged).unwrap();
        self.commit = last.index;
    }
}

/// Every call's disk, and what was acknowledged by then.
fn record(script: impl Fn(&mut Member, &mut dyn FnMut(&Member))) -> Vec<(SimDisk, u64)> {
    let disk = SimDisk::new(1);
    let mut member = Member::start(&disk);
    disk.record();
    let mut acknowledged = vec![(0, 0)];
    let mut acknowledge = |member: &Member| {
        acknowledged.push((disk.calls().len(), member.commit.0));
    };
    script(&mut member, &mut acknowledge);
    let calls = disk.calls().into_iter().enumerate();
    calls
        .map(|(at, call)| {
            // Acknowledged are those whose last call came before this one.
            let count = acknowledged.partition_point(|(calls, _)| *calls <= at);
            (call.after, acknowledged[count - 1].1)
        })
        .collect()
}

/// Cuts the power after each call, and starts again twice, with more written in between.
fn survives(script: impl Fn(&mut Member, &mut dyn FnMut(&Member))) {
    let calls = record(script);
    assert!(calls.len() > 20, "only {} calls", calls.len());
    let seeds: Vec<u64> = match std::env::var("CATAMARAN_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..4).collect(),
    };
    for (at, (disk, acknowledged)) in calls.iter().enumerate() {
        let seeds = seeds.iter().map(|seed| Survival::Random(*seed));
        for survival in seeds.chain([Survival::All, Survival::None]) {
            let what = format!("power cut after call {at}, {survival:?}");
            let disk = disk.power_cut(survival);
            let mut member = Member::start(&disk);
            let committed = member.commit.0;
            assert!(
                committed >= *acknowledged,
                "{what}: {committed} of {acknowledged}"
            );
            assert_eq!(member.state, State::upto(committed), "{what}");
            // A leader may have written more than was committed; another one replaces it.
            let next = LogIndex(committed).next();
            if member.recovered.last.index >= next {
                let hard_state = HardState {
                    term: member.term,
                    vote: None,
                    commit: member.commit,
                };
                let _ = member.log.stage(hard_state, Some(next), &[]).unwrap();
            }
            member.commit(3);
            let again = Member::start(&disk.power_cut(Survival::None));
            assert_eq!(again.state, State::upto(committed + 3), "{what}, and again");
        }
    }
}

#[test]
fn a_power_cut_while_snapshots_are_taken_and_the_log_is_compacted_loses_nothing() {
    survives(|member, acknowledge| {
        for count in [25, 40, 7, 60] {
            member.commit(count);
            acknowledge(member);
            member.take_snapshot();
            acknowledge(member);
        }
        member.commit(5);
        acknowledge(member);
    });
}

#[test]
fn a_power_cut_while_a_snapshot_replaces_a_log_that_is_behind_loses_nothing() {
    survives(|member, acknowledge| {
        member.commit(30);
        acknowledge(member);
        member.install(200);
        acknowledge(member);
        member.commit(40);
        acknowledge(member);
        member.take_snapshot();
        member.install(500);
        acknowledge(member);
        member.commit(4);
        acknowledge(member);
    });
}

/// Figure 13: entries beyond the snapshot that conflict with it were never committed.
#[test]
fn a_power_cut_while_a_snapshot_replaces_a_log_that_conflicts_loses_nothing() {
    survives(|member, acknowledge| {
        member.commit(30);
        acknowledge(member);
        member.write_garbage(40);
        member.install(50);
        acknowledge(member);
        member.commit(10);
        acknowledge(member);
        member.take_snapshot();
        acknowledge(member);
    });
}

#[test]
fn a_log_that_goes_through_the_snapshot_keeps_what_is_behind_it() {
    let disk = SimDisk::new(1);
    let mut member = Member::start(&disk);
    member.commit(30);
    let last = member.log.reader().last_id().unwrap();
    member.commit(20);
    member.publish(last, &State::upto(30));
    drop(member);
    let member = Member::start(&disk);
    assert_eq!(
        (member.recovered.before, member.commit),
        (LogId::ORIGIN, LogIndex(50))
    );
    assert_eq!(member.state, State::upto(50));
}

#[test]
fn a_log_that_differs_at_the_snapshots_last_entry_is_emptied() {
    let disk = SimDisk::new(1);
    let mut member = Member::start(&disk);
    member.commit(30);
    member.write_garbage(40);
    let last = LogId::new(Term(9), LogIndex(50));
    member.publish(last, &State::upto(50));
    drop(member);
    let member = Member::start(&disk);
    assert_eq!(
        (member.recovered.before, member.recovered.last),
        (last, last)
    );
    assert_eq!(
        member.recovered.hard_state.term,
        Term(9),
        "it was in that term once"
    );
    assert_eq!(member.log.reader().first(), LogIndex(51));
    assert_eq!(member.state, State::upto(50));
}
