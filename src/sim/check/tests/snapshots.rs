//! The same, of snapshots.

use super::*;
use crate::snapshot::Configuration;

/// Nodes 1 and 2 have committed entries 2 to 5 of term 2, and applied them. Node 3 has the first entry alone.
fn applied() -> Checker {
    let first = NewEntry {
        kind: EntryKind::Config,
        ..entry(1, b"members")
    };
    let mut checker = Checker::new((3, 3), &first, FIRST);
    let four = [
        entry(2, b"a"),
        entry(2, b"b"),
        entry(2, b"c"),
        entry(2, b"d"),
    ];
    for node in 0..2 {
        write(&mut checker, node, (1, state(2, None)), 1, &four).unwrap();
        checker.durable(node, WriteSeq(1));
    }
    lead(&mut checker, 0, 2).unwrap();
    checker.nodes[0].hard_state = state(2, None);
    for node in 0..2 {
        let leads = is(RoleName::Leader, 2);
        checker.committed(node, id(2, 5), leads).unwrap();
        checker.nodes[node].applied = LogIndex(5);
    }
    checker
}

fn members() -> Configuration {
    Configuration {
        index: LogIndex(1),
        bytes: b"members".to_vec(),
    }
}

/// A log that begins behind `before`.
fn behind(before: LogId, terms: &[u64]) -> Recovered {
    let mut found = found(state(2, None), terms);
    found.runs.retain_mut(|run| {
        run.first = run.first.max(before.index.next());
        run.first <= found.last.index
    });
    found.before = before;
    found
}

#[test]
fn a_snapshot_of_what_is_not_committed_or_not_of_its_last_entry_is_told() {
    let checker = applied();
    checker.froze(0, id(2, 5)).unwrap();
    for wrong in [id(2, 4), id(2, 6), id(3, 5)] {
        violates(checker.froze(0, wrong), Property::Snapshot);
    }
    for wrong in [id(1, 5), id(2, 6)] {
        let published = applied().published(0, wrong, &members());
        violates(published, Property::Snapshot);
    }
}

#[test]
fn a_snapshot_with_other_members_than_there_were_is_told() {
    applied().published(0, id(2, 5), &members()).unwrap();
    let other = Configuration {
        bytes: b"others".to_vec(),
        ..members()
    };
    let later = Configuration {
        index: LogIndex(2),
        ..members()
    };
    for wrong in [other, later, Configuration::default()] {
        let published = applied().published(0, id(2, 5), &wrong);
        violates(published, Property::Snapshot);
    }
}

#[test]
fn a_snapshot_that_takes_the_place_of_what_is_as_new_is_told() {
    let mut checker = applied();
    checker.published(2, id(2, 4), &members()).unwrap();
    checker.installed(2, WriteSeq(1), id(2, 4)).unwrap();
    let again = checker.published(2, id(2, 3), &members());
    violates(again, Property::Snapshot);
    // A log that goes through it, and one that is committed beyond.
    let mut checker = applied();
    checker.published(1, id(2, 4), &members()).unwrap();
    checker.nodes[1].committed = LogIndex(2);
    let installed = checker.installed(1, WriteSeq(2), id(2, 4));
    violates(installed, Property::Snapshot);
    // One that is not there yet.
    let installed = applied().installed(2, WriteSeq(1), id(2, 4));
    violates(installed, Property::Snapshot);
    violates(checker.restored(1, id(2, 5)), Property::Snapshot);
}

#[test]
fn a_log_that_drops_what_no_durable_snapshot_has_or_what_is_not_applied_is_told() {
    let dropped = applied().dropped(0, WriteSeq(2), LogIndex(3));
    violates(dropped, Property::Compaction);
    let mut checker = applied();
    checker.published(0, id(2, 4), &members()).unwrap();
    checker.dropped(0, WriteSeq(2), LogIndex(4)).unwrap();
    let dropped = checker.dropped(0, WriteSeq(3), LogIndex(5));
    violates(dropped, Property::Compaction);
    checker.published(1, id(2, 4), &members()).unwrap();
    checker.nodes[1].applied = LogIndex(3);
    let dropped = checker.dropped(1, WriteSeq(2), LogIndex(4));
    violates(dropped, Property::Compaction);
}

#[test]
fn a_log_whose_begin_was_dropped_is_found_so_or_as_it_was_before() {
    let finds = |durable: bool, found: &Recovered| {
        let mut checker = applied();
        checker.published(0, id(2, 4), &members()).unwrap();
        checker.dropped(0, WriteSeq(2), LogIndex(3)).unwrap();
        if durable {
            checker.durable(0, WriteSeq(2));
        }
        checker.started(0, 1, found)?;
        checker.began_with(0, Some((id(2, 4), &members())))
    };
    let all = [1, 2, 2, 2, 2];
    finds(false, &behind(LogId::ORIGIN, &all)).unwrap();
    finds(false, &behind(id(2, 3), &all)).unwrap();
    finds(true, &behind(id(2, 3), &all)).unwrap();
    violates(
        finds(true, &behind(LogId::ORIGIN, &all)),
        Property::Recovery,
    );
    violates(finds(true, &behind(id(2, 4), &all)), Property::Recovery);
    violates(finds(true, &behind(id(1, 3), &all)), Property::Recovery);
}

#[test]
fn a_log_that_a_snapshot_took_the_place_of_is_found_empty_or_as_it_was_and_the_snapshot_is_there() {
    let finds = |found: &Recovered, snapshot: Option<LogId>| {
        let mut checker = applied();
        checker.nodes[2].hard_state = state(2, None);
        checker.published(2, id(2, 4), &members()).unwrap();
        checker.installed(2, WriteSeq(1), id(2, 4)).unwrap();
        checker.started(2, 1, found)?;
        let members = members();
        checker.began_with(2, snapshot.map(|last| (last, &members)))?;
        assert!(checker.has_durably(2, id(2, 4)));
        Ok(())
    };
    let there = Some(id(2, 4));
    finds(&behind(LogId::ORIGIN, &[1]), there).unwrap();
    finds(&behind(id(2, 4), &[1, 2, 2, 2]), there).unwrap();
    violates(
        finds(&behind(LogId::ORIGIN, &[1]), None),
        Property::Snapshot,
    );
    let beyond = behind(id(2, 4), &[1, 2, 2, 2, 2]);
    violates(finds(&beyond, there), Property::Recovery);
}
