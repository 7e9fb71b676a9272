//! Directories that earlier versions wrote are opened for ever.
//!
//! `tests/golden/vN/` holds them: `closed` was closed in order, `torn` is what a crash left of the same log a
//! little earlier. Beside each stands what was written to it, a line an entry: index, term, kind, length, and
//! the text that the payload repeats up to that length.
//!
//! `CATAMARAN_WRITE_GOLDEN=1 cargo test --test golden` writes `v1` anew, always the same bytes. Only for a
//! version that was not released: the others must stay as they are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catamaran::log::{Log, NewEntry, Recovered, open_read_only, verify};
use catamaran::sim::SimDisk;
use catamaran::types::{HardState, LogIndex};
use catamaran::wal::{Preparer, WalOptions};
use catamaran::{ClusterId, Entry, EntryKind, NodeId, Term};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// `text`, again and again, `bytes` long.
fn repeated(text: &str, bytes: usize) -> Vec<u8> {
    text.bytes().cycle().take(bytes).collect()
}

const fn kind(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Normal => "normal",
        EntryKind::Noop => "noop",
        EntryKind::Config => "config",
    }
}

/// One entry as it should be.
#[derive(Clone)]
struct Written {
    index: u64,
    term: u64,
    kind: EntryKind,
    bytes: usize,
    text: String,
}

impl Written {
    fn is(&self, entry: &Entry) -> bool {
        (entry.id.index.0, entry.id.term.0, entry.kind) == (self.index, self.term, self.kind)
            && *entry.payload == repeated(&self.text, self.bytes)
    }
}

/// What a directory should hold: the state, the floor, the entries, the bytes that are torn.
struct Expected {
    state: HardState,
    floor: u64,
    torn: u64,
    entries: Vec<Written>,
}

impl Expected {
    fn print(&self) -> String {
        let (term, vote) = (self.state.term, self.state.vote.unwrap());
        let commit = self.state.commit;
        let mut text = format!("term {term} vote {vote} commit {commit}\n");
        let _ = writeln!(text, "floor {} torn {}", self.floor, self.torn);
        for entry in &self.entries {
            let Written {
                index,
                term,
                bytes,
                text: repeats,
                ..
            } = entry;
            let _ = writeln!(
                text,
                "{index} {term} {} {bytes} {repeats}",
                kind(entry.kind)
            );
        }
        text
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let numbers = |line: &str| -> Vec<u64> {
            let words = line.split(' ').skip(1).step_by(2);
            words.map(|word| word.parse().unwrap()).collect()
        };
        let state = numbers(lines.next().unwrap());
        let rest = numbers(lines.next().unwrap());
        let entry = |line: &str| {
            let words: Vec<&str> = line.splitn(5, ' ').collect();
            Written {
                index: words[0].parse().unwrap(),
                term: words[1].parse().unwrap(),
                kind: match words[2] {
                    "noop" => EntryKind::Noop,
                    "config" => EntryKind::Config,
                    _ => EntryKind::Normal,
                },
                bytes: words[3].parse().unwrap(),
                text: words[4].to_owned(),
            }
        };
        Self {
            state: HardState {
                term: Term(state[0]),
                vote: Some(NodeId(state[1])),
                commit: LogIndex(state[2]),
            },
            floor: rest[0],
            torn: rest[1],
            entries: lines.map(entry).collect(),
        }
    }
}

/// A log on a simulated disk, and what should be in it.
struct Writer {
    disk: SimDisk,
    log: Log,
    expected: Expected,
}

const DIR: &str = "/wal";

fn open(disk: &SimDisk) -> Log {
    let options = WalOptions::new(DIR)
        .segment_bytes(64 << 10)
        .owner(ClusterId(5), NodeId(7))
        .disk(Arc::new(disk.clone()))
        .preparer(Preparer::Inline);
    Log::open(options).unwrap().0
}

impl Writer {
    fn new() -> Self {
        let disk = SimDisk::new(1);
        Self {
            log: open(&disk),
            disk,
            expected: Expected {
                state: HardState::default(),
                floor: 0,
                torn: 0,
                entries: Vec::new(),
            },
        }
    }

    /// Writes a batch of one state, a truncation and some entries.
    fn write(&mut self, term: u64, truncate_from: Option<u64>, entries: &[(EntryKind, usize)]) {
        if let Some(from) = truncate_from {
            self.expected.entries.retain(|entry| entry.index < from);
        }
        let last = self.expected.entries.last();
        let first = last.map_or(1, |entry| entry.index + 1);
        let new: Vec<Written> = (first..)
            .zip(entries)
            .map(|(index, &(kind, bytes))| Written {
                index,
                term,
                kind,
                bytes,
                text: format!("entry {index} of term {term};"),
            })
            .collect();
        let payloads: Vec<_> = new.iter().map(|e| repeated(&e.text, e.bytes)).collect();
        let news: Vec<_> = new
            .iter()
            .zip(&payloads)
            .map(|(entry, payload)| NewEntry {
                term: Term(term),
                kind: entry.kind,
                payload: payload.into(),
            })
            .collect();
        let state = HardState {
            term: Term(term),
            vote: Some(NodeId(7)),
            commit: LogIndex(first - 1),
        };
        let truncate_from = truncate_from.map(LogIndex);
        let staged = self.log.stage(state, truncate_from, &news).unwrap();
        self.log.wal().sync(staged).unwrap();
        self.expected.state = state;
        self.expected.entries.extend(new);
    }

    fn fill(&mut self, term: u64, count: usize) {
        for _ in 0..count {
            self.write(term, None, &[(EntryKind::Normal, 3_000)]);
        }
    }

    fn drop_prefix(&mut self, upto: u64) {
        let staged = self.log.wal().drop_prefix(LogIndex(upto)).unwrap();
        self.log.wal().sync(staged).unwrap();
        self.expected.entries.retain(|entry| entry.index > upto);
        self.expected.floor = upto;
    }

    fn save(&self, name: &str) {
        let dir = golden().join("v1").join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        for path in self.disk.paths() {
            let bytes = self.disk.peek(&path).unwrap();
            fs::write(dir.join(path.file_name().unwrap()), bytes).unwrap();
        }
        fs::write(dir.with_extension("txt"), self.expected.print()).unwrap();
    }

    /// What a crash leaves of a last batch of two entries: the first of them, and half of the second.
    fn crash(&mut self, term: u64) {
        let entries = [(EntryKind::Normal, 500), (EntryKind::Normal, 1_000)];
        self.write(term, None, &entries);
        let lost = self.expected.entries.pop().unwrap();
        let lost = repeated(&lost.text, lost.bytes);
        let holds = |path: &PathBuf| {
            let bytes = self.disk.peek(path).unwrap();
            let at = bytes.windows(lost.len()).position(|part| part == lost)?;
            Some((path.clone(), at))
        };
        let (path, at) = self.disk.paths().iter().find_map(holds).unwrap();
        self.disk.poke(&path, at + 500, &[0; 500]).unwrap();
        // The frame's head, and the payload to a multiple of 8.
        self.expected.torn = 32 + 1_000;
    }
}

/// Three segments with a footer, a truncation that reaches back into them, a drop of the first, a cut, and a
/// truncation at the end.
fn write_golden() {
    let mut writer = Writer::new();
    let config = (EntryKind::Config, 60);
    let noop = (EntryKind::Noop, 0);
    writer.write(1, None, &[config, noop, (EntryKind::Normal, 1)]);
    writer.fill(1, 40);
    writer.write(3, Some(35), &[noop, (EntryKind::Normal, 7)]);
    writer.fill(3, 20);
    writer.drop_prefix(24);
    writer.crash(3);
    writer.save("torn");
    writer.disk = writer.disk.kill();
    writer.log = open(&writer.disk);
    writer.expected.torn = 0;
    writer.write(4, None, &[noop, (EntryKind::Normal, 255)]);
    writer.fill(4, 25);
    // Nothing is written in the place of most of these.
    writer.write(5, Some(80), &[noop]);
    writer.log.wal().clone().close().unwrap();
    writer.save("closed");
}

/// The directories of all versions, and what they should hold.
fn directories() -> Vec<(PathBuf, Expected)> {
    if std::env::var_os("CATAMARAN_WRITE_GOLDEN").is_some() {
        write_golden();
    }
    let mut found = Vec::new();
    for version in fs::read_dir(golden()).unwrap() {
        for entry in fs::read_dir(version.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                let text = fs::read_to_string(path.with_extension("txt")).unwrap();
                found.push((path, Expected::parse(&text)));
            }
        }
    }
    assert!(found.len() >= 2, "the golden directories are gone");
    found
}

fn check_entries(path: &Path, expected: &[Written], found: &[Entry]) {
    assert_eq!(expected.len(), found.len(), "{}", path.display());
    for (expected, found) in expected.iter().zip(found) {
        let index = expected.index;
        assert!(expected.is(found), "{}: entry {index}", path.display());
    }
}

#[test]
fn a_directory_of_an_earlier_version_reads_as_it_was_written_and_is_written_on() {
    for (path, expected) in directories() {
        let name = path.display();
        // Before anything opens it for writing.
        let verified = verify(&path, |_, _| ()).unwrap();
        assert!(verified.damage.is_empty(), "{name}: {:?}", verified.damage);
        let log = open_read_only(&path).unwrap();
        assert_eq!(log.hard_state().unwrap(), Some(expected.state), "{name}");
        assert_eq!(log.wal().first().0, expected.floor + 1, "{name}");
        let torn = log.wal().torn().map_or(0, |torn| torn.bytes);
        assert_eq!(torn, expected.torn, "{name}");
        let entries = log.entries(LogIndex::ZERO, LogIndex(u64::MAX));
        let entries: Vec<Entry> = entries.collect::<Result<_, _>>().unwrap();
        check_entries(&path, &expected.entries, &entries);

        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(&path).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        let open = || -> (Log, Recovered) {
            let options = WalOptions::new(copy.path()).segment_bytes(64 << 10);
            Log::open(options.owner(ClusterId(5), NodeId(7))).unwrap()
        };
        let (log, recovered) = open();
        assert_eq!(recovered.hard_state, expected.state, "{name}");
        assert_eq!(recovered.torn.map_or(0, |torn| torn.bytes), expected.torn);
        let term = Term(expected.state.term.0 + 1);
        let new = NewEntry {
            term,
            kind: EntryKind::Normal,
            payload: b"of this version".into(),
        };
        let staged = log.stage(expected.state, None, &[new]).unwrap();
        log.wal().sync(staged).unwrap();
        log.into_wal().close().unwrap();

        let (log, recovered) = open();
        assert_eq!(
            (recovered.torn, recovered.last.term),
            (None, term),
            "{name}"
        );
        let entries = log.reader().range(..);
        let mut entries: Vec<Entry> = entries.collect::<Result<_, _>>().unwrap();
        assert_eq!(&*entries.pop().unwrap().payload, b"of this version");
        check_entries(&path, &expected.entries, &entries);
    }
}
