//! Snapshot files: written, read, damaged, and written on a disk that fails or loses its power at every call.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catamaran::sim::{Moment, Op, SimDisk, Survival};
use catamaran::snapshot::{Configuration, Found, Meta, SnapshotError, SnapshotStore, Whole};
use catamaran::vfs::Disk;
use catamaran::{ClusterId, LogId, LogIndex, Term};

const CLUSTER: ClusterId = ClusterId(7);
const CHUNK: usize = 256 << 10;
/// Where the header ends.
const HEADER: usize = 80;
const CONFIG: &[u8] = b"the members";
/// Where the first chunk begins.
const CHUNKS: usize = HEADER + CONFIG.len();

fn dir() -> &'static Path {
    Path::new("/node/snapshots")
}

fn last(index: u64) -> LogId {
    LogId::new(Term(3), LogIndex(index))
}

fn meta(index: u64) -> Meta {
    Meta {
        cluster: CLUSTER,
        last: last(index),
        configuration: Configuration {
            index: LogIndex(1),
            bytes: CONFIG.to_vec(),
        },
        state_format: 9,
    }
}

fn open(disk: &SimDisk) -> Result<(SnapshotStore, Found), SnapshotError> {
    SnapshotStore::open(Arc::new(disk.clone()), dir(), CLUSTER)
}

/// Bytes without a pattern that a shift would hide.
fn state(len: usize) -> Vec<u8> {
    let mut x = 1u32;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn write(store: &SnapshotStore, index: u64, state: &[u8]) -> Result<Arc<Whole>, SnapshotError> {
    let mut writer = store.begin(meta(index))?;
    match writer.write_all(state) {
        Ok(()) => writer.publish(),
        Err(error) => Err(writer.give_up(error)),
    }
}

fn read(whole: &Whole) -> io::Result<Vec<u8>> {
    let mut state = Vec::new();
    whole.read().read_to_end(&mut state)?;
    Ok(state)
}

/// A disk with one snapshot, and its file.
fn with_one(state: &[u8]) -> (SimDisk, PathBuf) {
    let disk = SimDisk::new(1);
    let (store, _) = open(&disk).unwrap();
    let whole = write(&store, 5, state).unwrap();
    (disk, whole.path().to_path_buf())
}

/// The disk with another file in the place of the snapshot.
fn replaced(disk: &SimDisk, path: &Path, bytes: &[u8]) -> SimDisk {
    let disk = disk.kill();
    disk.create(path).unwrap().write_at(0, bytes).unwrap();
    disk
}

/// What is wrong with the one snapshot there is.
fn wrong(disk: &SimDisk) -> SnapshotError {
    match open(disk) {
        Ok((_, found)) => {
            assert!(
                found.newest.is_none(),
                "a damaged snapshot was taken for whole"
            );
            found.damaged.into_iter().next().expect("damage").1
        }
        Err(error) => error,
    }
}

#[test]
fn a_state_of_any_length_is_read_back_as_it_was_written() {
    for len in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
        let (disk, path) = with_one(&state(len));
        let (_, found) = open(&disk).unwrap();
        let whole = found.newest.unwrap();
        assert_eq!(whole.meta(), &meta(5));
        assert_eq!(read(&whole).unwrap(), state(len));
        let size = disk.peek(&path).unwrap().len();
        assert_eq!(size, CHUNKS + len + len.div_ceil(CHUNK) * 8 + 32);
        assert_eq!(whole.id().bytes, size as u64);
    }
}

#[test]
fn pieces_of_any_size_make_the_same_file() {
    let state = state(CHUNK + 1_000);
    let (disk, path) = with_one(&state);
    for piece in [1, 7, 4_096, CHUNK - 3] {
        let other = SimDisk::new(2);
        let (store, _) = open(&other).unwrap();
        let mut writer = store.begin(meta(5)).unwrap();
        for bytes in state.chunks(piece) {
            writer.write_all(bytes).unwrap();
        }
        let whole = writer.publish().unwrap();
        assert_eq!(other.peek(&path), disk.peek(&path), "pieces of {piece}");
        let (_, found) = open(&disk).unwrap();
        assert_eq!(whole.id(), found.newest.unwrap().id());
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let (disk, path) = with_one(&state(100));
    let bytes = disk.peek(&path).unwrap();
    for bit in 0..8 * bytes.len() {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match wrong(&replaced(&disk, &path, &bytes)) {
            SnapshotError::NotASnapshot { .. } => assert!(bit < 64, "bit {bit}"),
            SnapshotError::Damaged { offset, .. } => {
                assert!(offset as usize <= bit / 8, "bit {bit} found at {offset}");
            }
            other => panic!("bit {bit}: {other}"),
        }
    }
}

#[test]
fn a_file_that_is_cut_or_longer_is_found() {
    let (disk, path) = with_one(&state(100));
    let bytes = disk.peek(&path).unwrap();
    for len in 0..bytes.len() {
        let error = wrong(&replaced(&disk, &path, &bytes[..len]));
        assert!(
            matches!(error, SnapshotError::Damaged { .. }),
            "{len}: {error}"
        );
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    let error = wrong(&replaced(&disk, &path, &longer));
    assert!(error.to_string().contains("follows the footer"), "{error}");
}

/// The header with a change, and its checksum made right again.
fn forged(disk: &SimDisk, path: &Path, at: usize, with: &[u8]) -> SimDisk {
    let mut bytes = disk.peek(path).unwrap();
    bytes[at..at + with.len()].copy_from_slice(with);
    let crc = crc32fast::hash(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
    replaced(disk, path, &bytes)
}

#[test]
fn a_header_of_another_version_feature_or_cluster_is_refused_by_that_name() {
    let (disk, path) = with_one(&state(100));
    let forged = |at, with: &[u8]| wrong(&forged(&disk, &path, at, with));
    let newer = forged(8, &2u32.to_le_bytes());
    assert!(
        matches!(
            newer,
            SnapshotError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ),
        "{newer}"
    );
    let feature = forged(16, &4u64.to_le_bytes());
    assert!(
        matches!(feature, SnapshotError::UnknownFeatures { bits: 4, .. }),
        "{feature}"
    );
    let foreign = forged(32, &8u64.to_le_bytes());
    assert!(
        matches!(
            foreign,
            SnapshotError::Foreign {
                expected: CLUSTER,
                found: ClusterId(8),
                ..
            }
        ),
        "{foreign}"
    );
    for error in [newer, feature, foreign] {
        let text = error.to_string();
        assert!(
            text.contains(path.to_str().unwrap()) && text.contains(':'),
            "{text}"
        );
    }
}

#[test]
fn a_snapshot_under_the_name_of_another_entry_is_damage() {
    let (disk, path) = with_one(&state(100));
    let other = dir().join("0000000000000006-0000000000000003.snap");
    disk.rename(&path, &other).unwrap();
    let error = wrong(&disk);
    assert!(error.to_string().contains("another last entry"), "{error}");
}

/// Lengths are held against the file before anything is allocated by them.
#[test]
fn a_length_is_not_believed() {
    let (disk, path) = with_one(&state(100));
    let config = wrong(&forged(&disk, &path, 60, &u32::MAX.to_le_bytes()));
    assert!(config.to_string().contains("longer than any"), "{config}");
    let config = wrong(&forged(&disk, &path, 60, &(4u32 << 20).to_le_bytes()));
    assert!(config.to_string().contains("within its header"), "{config}");
    let bytes = disk.peek(&path).unwrap();
    for len in [u32::MAX, CHUNK as u32 + 1, 101] {
        let mut bytes = bytes.clone();
        bytes[CHUNKS..CHUNKS + 4].copy_from_slice(&len.to_le_bytes());
        let error = wrong(&replaced(&disk, &path, &bytes));
        assert!(
            error.to_string().contains("a length that none has"),
            "{len}: {error}"
        );
    }
}

#[test]
fn a_chunk_belongs_to_one_place_of_one_snapshot() {
    let state = state(2 * CHUNK);
    let (disk, path) = with_one(&state);
    let bytes = disk.peek(&path).unwrap();
    let (first, second) = (
        CHUNKS..CHUNKS + 8 + CHUNK,
        CHUNKS + 8 + CHUNK..bytes.len() - 32,
    );
    let parts = [
        &bytes[..CHUNKS],
        &bytes[second.clone()],
        &bytes[first.clone()],
    ];
    let swapped = [parts.concat(), bytes[second.end..].to_vec()].concat();
    let error = wrong(&replaced(&disk, &path, &swapped));
    assert!(matches!(error, SnapshotError::Damaged { offset, .. } if offset == CHUNKS as u64));
    // The same chunk of a snapshot at another entry.
    let (store, _) = open(&disk).unwrap();
    let other = write(&store, 6, &state).unwrap();
    let mut mixed = disk.peek(other.path()).unwrap();
    mixed[first.clone()].copy_from_slice(&bytes[first]);
    disk.remove(&path).ok();
    let error = wrong(&replaced(&disk, other.path(), &mixed));
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
}

#[test]
fn the_newest_whole_snapshot_is_found_and_older_ones_go_when_it_is_published() {
    let disk = SimDisk::new(1);
    let (store, found) = open(&disk).unwrap();
    assert!(found.newest.is_none() && store.newest().is_none());
    for index in [5, 0x10, 0x100] {
        write(&store, index, b"state").unwrap();
        assert_eq!(store.last(), Some(last(index)));
        assert_eq!(disk.list(dir()).unwrap().len(), 1);
    }
    let (store, found) = open(&disk).unwrap();
    assert_eq!(found.newest.unwrap().meta().last, last(0x100));
    assert_eq!(store.last(), Some(last(0x100)));
}

#[test]
fn a_damaged_newest_is_told_and_the_one_before_it_found() {
    let (disk, path) = with_one(b"old");
    let old = disk.peek(&path).unwrap();
    let (store, _) = open(&disk).unwrap();
    let newer = write(&store, 6, b"new").unwrap().path().to_path_buf();
    let disk = replaced(&disk, &path, &old);
    disk.poke(&newer, CHUNKS + 8, b"x").unwrap();
    let (_, found) = open(&disk).unwrap();
    assert_eq!(read(&found.newest.unwrap()).unwrap(), b"old");
    let [(_, SnapshotError::Damaged { path, offset, .. })] = found.damaged.as_slice() else {
        panic!("{:?}", found.damaged);
    };
    assert_eq!((path, *offset), (&newer, CHUNKS as u64));
}

#[test]
fn a_file_is_read_while_it_is_held_though_a_newer_one_took_its_place() {
    let (disk, path) = with_one(b"old");
    let (store, _) = open(&disk).unwrap();
    let held = store.newest().unwrap();
    write(&store, 6, b"new").unwrap();
    assert_eq!(disk.peek(&path), None);
    assert_eq!(read(&held).unwrap(), b"old");
}

#[test]
fn damage_that_comes_later_is_found_when_it_is_read() {
    let (disk, path) = with_one(&state(2 * CHUNK));
    let (store, _) = open(&disk).unwrap();
    disk.poke(&path, CHUNKS + CHUNK + 100, b"x").unwrap();
    let whole = store.newest().unwrap();
    let mut seen = Vec::new();
    let restored = whole.restore(|format, from| {
        assert_eq!(format, 9);
        // A machine that does not mind is not believed.
        let _ = from.read_to_end(&mut seen);
        Ok(())
    });
    assert!(
        matches!(restored, Err(SnapshotError::Damaged { .. })),
        "{restored:?}"
    );
    assert_eq!(seen, state(CHUNK), "only what was checked is given out");
}

#[test]
fn a_machine_that_does_not_restore_is_told_from_a_file_that_is_not_whole() {
    let (disk, _) = with_one(b"state");
    let (store, _) = open(&disk).unwrap();
    let restored = store
        .newest()
        .unwrap()
        .restore(|_, _| Err(io::Error::other("not mine")));
    let Err(SnapshotError::State(error)) = restored else {
        panic!("{restored:?}");
    };
    assert_eq!(error.to_string(), "not mine");
}

#[test]
fn what_was_not_published_leaves_nothing_behind() {
    let (disk, path) = with_one(b"old");
    let (store, _) = open(&disk).unwrap();
    let mut writer = store.begin(meta(6)).unwrap();
    writer.write_all(&state(2 * CHUNK)).unwrap();
    assert_eq!(disk.list(dir()).unwrap().len(), 2);
    drop(writer);
    assert_eq!(disk.paths(), std::slice::from_ref(&path));
    // Nor does a process that was killed.
    let mut writer = store.begin(meta(6)).unwrap();
    writer.write_all(&state(2 * CHUNK)).unwrap();
    let killed = disk.kill();
    assert_eq!(killed.list(dir()).unwrap().len(), 2);
    let (_, found) = open(&killed).unwrap();
    assert_eq!(read(&found.newest.unwrap()).unwrap(), b"old");
    assert_eq!(killed.paths(), [path]);
}

/// Writes a second snapshot on a disk that has one.
fn second(disk: &SimDisk) -> Result<Arc<Whole>, SnapshotError> {
    let (store, _) = open(disk)?;
    write(&store, 6, &state(CHUNK + 100))
}

fn calls_of_second() -> u64 {
    let (disk, _) = with_one(b"old");
    let before = disk.ops();
    second(&disk).unwrap();
    disk.ops() - before
}

#[test]
fn a_power_cut_at_any_call_leaves_the_old_snapshot_or_the_new_one_whole() {
    let calls = calls_of_second();
    assert!(calls > 8, "{calls}");
    let (mut old, mut new) = (0, 0);
    for nth in 1..=calls {
        for moment in [Moment::Before, Moment::After] {
            let (disk, _) = with_one(b"old");
            disk.crash_at(disk.ops() + nth, moment);
            let published = second(&disk).is_ok();
            let seeds = (0..16).map(Survival::Random);
            for survival in seeds.chain([Survival::All, Survival::None]) {
                let found = open(&disk.power_cut(survival)).unwrap().1;
                assert!(found.damaged.is_empty(), "{nth} {moment:?} {survival:?}");
                let newest = found.newest.expect("a snapshot is lost");
                let is_new = newest.meta().last == last(6);
                let expected = if is_new {
                    state(CHUNK + 100)
                } else {
                    b"old".to_vec()
                };
                assert_eq!(read(&newest).unwrap(), expected);
                assert!(
                    is_new || !published,
                    "{nth} {moment:?} {survival:?}: what was published is lost"
                );
                if is_new {
                    new += 1;
                } else {
                    old += 1;
                }
            }
        }
    }
    assert!(old > 0 && new > 0, "{old} old, {new} new");
}

#[test]
fn a_call_that_fails_leaves_the_store_as_it_was_and_another_try_succeeds() {
    let mut failed = 0;
    for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
        for nth in 1.. {
            let (disk, _) = with_one(b"old");
            let (store, _) = open(&disk).unwrap();
            let before = disk.count(op);
            disk.fail(op, before + nth, io::ErrorKind::StorageFull);
            let written = write(&store, 6, &state(CHUNK + 100));
            if disk.failed().is_empty() {
                break;
            }
            failed += 1;
            let Err(SnapshotError::Io(fault)) = written else {
                panic!("{op:?} {nth}");
            };
            assert_eq!(fault.source.kind(), io::ErrorKind::StorageFull);
            assert_eq!(store.last(), Some(last(5)));
            assert_eq!(read(&store.newest().unwrap()).unwrap(), b"old");
            write(&store, 7, b"again").unwrap();
            assert_eq!(disk.list(dir()).unwrap().len(), 1, "{op:?} {nth}");
        }
    }
    assert!(failed >= 8, "{failed}");
}

/// Who followed it would pass over the configurations in its log.
#[test]
fn a_configuration_of_an_entry_behind_the_last_is_damage() {
    let (store, _) = open(&SimDisk::new(1)).unwrap();
    let mut later = meta(5);
    later.configuration.index = LogIndex(6);
    let published = store.begin(later).unwrap().publish();
    assert!(matches!(published, Err(SnapshotError::Damaged { .. })));
}
