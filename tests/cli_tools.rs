//! `inspect`, `verify` and `dump`: what they print, in every format, and that they change nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/json.rs"]
mod json;
#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/served.rs"]
mod served;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use catamaran::log::{Log, NewEntry, encode_membership};
use catamaran::types::{HardState, LogIndex};
use catamaran::wal::WalOptions;
use catamaran::{ClusterId, EntryKind, Member, Membership, NodeId, Term};
use json::Json;
use served::EXE;
use served::client::Answer;
use served::cluster::Cluster;
use tempfile::TempDir;

const SEGMENT: u64 = 64 << 10;
/// Enough for four segments.
const ENTRIES: u64 = 40;

fn run(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(EXE);
    command.arg(args[0]).arg(dir).args(&args[1..]);
    command.output().unwrap()
}

/// What a run printed that ended with `status`; nothing on stderr but for a failure's line.
fn printed(args: &[&str], dir: &Path, status: i32) -> String {
    let output = run(args, dir);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), usize::from(status != 0), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// Term, kind and payload of an entry: the members, some text, all bytes there are, and large ones.
fn entry(index: u64) -> (Term, EntryKind, Vec<u8>) {
    let member = Member {
        id: NodeId(7),
        addr: "10.0.0.7:7000".to_owned(),
        client_addr: "10.0.0.7:8000".to_owned(),
    };
    match index {
        1 => {
            let members = Membership::of_voters([member]);
            (Term(1), EntryKind::Config, encode_membership(&members))
        }
        2 => (Term(2), EntryKind::Noop, Vec::new()),
        3 => (
            Term(2),
            EntryKind::Normal,
            b"a \"quoted\" \\ line\n".to_vec(),
        ),
        4 => (Term(2), EntryKind::Normal, (0..=255).collect()),
        _ => (
            Term(2 + index / 20),
            EntryKind::Normal,
            vec![index as u8; 5_000],
        ),
    }
}

/// A node's log in the directory `dir` itself, open.
fn write_log(dir: &Path) -> Log {
    let options = WalOptions::new(dir)
        .segment_bytes(SEGMENT)
        .owner(ClusterId(5), NodeId(7));
    let (log, _) = Log::open(options).unwrap();
    let state = HardState {
        term: Term(4),
        vote: Some(NodeId(7)),
        commit: LogIndex(39),
    };
    for index in 1..=ENTRIES {
        let (term, kind, payload) = entry(index);
        let new = NewEntry {
            term,
            kind,
            payload: (&payload).into(),
        };
        let staged = log.stage(state, None, &[new]).unwrap();
        log.wal().sync(staged).unwrap();
    }
    log
}

/// A closed log.
fn closed() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_log(dir.path()).into_wal().close().unwrap();
    dir
}

fn segment(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}.wal"))
}

/// Flips a bit in the payload of an entry from 5 on. Says in which segment and where its frame is.
fn damage(dir: &Path, index: u64) -> (u64, u64) {
    let (_, _, payload) = entry(index);
    for sequence in 1.. {
        let path = segment(dir, sequence);
        let mut bytes = fs::read(&path).unwrap();
        let found = bytes.windows(payload.len()).position(|at| at == payload);
        if let Some(at) = found {
            bytes[at + 99] ^= 4;
            fs::write(&path, bytes).unwrap();
            return (sequence, at as u64 - 32);
        }
    }
    unreachable!()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Undoes what a table does to a payload.
fn unescape(shown: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = shown.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let hex: Vec<u8> = rest.by_ref().take(2).collect();
                    bytes_of(std::str::from_utf8(&hex).unwrap())[0]
                }
                other => other,
            },
            other => other,
        });
    }
    bytes
}

#[test]
fn dump_prints_every_byte_of_every_entry_in_every_format() {
    let dir = closed();
    let array = Json::parse(&printed(&["dump", "-o", "json"], dir.path(), 0));
    let lines = Json::lines(&printed(&["dump", "-o", "jsonl"], dir.path(), 0));
    assert_eq!(array.list(), lines);
    assert_eq!(lines.len() as u64, ENTRIES);
    for (index, line) in (1..).zip(&lines) {
        let (term, kind, payload) = entry(index);
        assert_eq!(line.number("index"), index);
        assert_eq!(line.number("term"), term.0);
        assert_eq!(line.text("kind"), format!("{kind:?}").to_lowercase());
        assert_eq!(line.number("bytes"), payload.len() as u64);
        assert_eq!(bytes_of(line.text("payload")), payload);
    }
    let table = printed(&["dump"], dir.path(), 0);
    let mut rows = table.lines();
    let titles: Vec<_> = rows.next().unwrap().split_whitespace().collect();
    assert_eq!(titles, ["index", "term", "kind", "bytes", "payload"]);
    let rows: Vec<&str> = rows.collect();
    assert_eq!(rows.len() as u64, ENTRIES);
    for (index, row) in (1..).zip(rows) {
        let (term, kind, payload) = entry(index);
        let (front, shown) = row.split_at(41);
        let cells: Vec<_> = front.split_whitespace().collect();
        let kind_name = format!("{kind:?}").to_lowercase();
        let [index_text, term_text] = [index.to_string(), term.0.to_string()];
        let bytes_text = payload.len().to_string();
        assert_eq!(cells, [&index_text, &term_text, &kind_name, &bytes_text]);
        match kind {
            EntryKind::Config => assert_eq!(shown, "7=10.0.0.7:7000@10.0.0.7:8000"),
            _ if payload.len() > 64 => {
                assert_eq!(unescape(shown.strip_suffix("...").unwrap()), payload[..64]);
            }
            _ => assert_eq!(unescape(shown), payload),
        }
    }
}

#[test]
fn dump_prints_the_range_that_is_asked_for_as_far_as_it_is_there() {
    let dir = closed();
    for (from, to, first, count) in [
        (0, 2, 1, 2),
        (3, 17, 3, 15),
        (38, 99, 38, 3),
        (41, 99, 0, 0),
        (9, 8, 0, 0),
    ] {
        for format in ["json", "jsonl"] {
            let (from, to) = (from.to_string(), to.to_string());
            let args = ["dump", "--from", &from, "--to", &to, "-o", format];
            let text = printed(&args, dir.path(), 0);
            let lines = match format {
                "json" => Json::parse(&text).list().to_vec(),
                _ => Json::lines(&text),
            };
            let found: Vec<_> = lines.iter().map(|line| line.number("index")).collect();
            let expected: Vec<_> = (first..first + count).collect();
            assert_eq!(found, expected, "{args:?}");
        }
    }
}

#[test]
fn inspect_says_the_same_in_every_format() {
    let dir = closed();
    let whole = Json::parse(&printed(&["inspect", "-o", "json"], dir.path(), 0));
    let mut lines = Json::lines(&printed(&["inspect", "-o", "jsonl"], dir.path(), 0));
    let log = lines.pop().unwrap();
    assert_eq!(log.text("type"), "log");
    assert_eq!(whole.without("segments"), log.without("type"));
    let plain: Vec<_> = lines.iter().map(|line| line.without("type")).collect();
    let segments = whole.get("segments").list();
    assert_eq!(segments, plain);

    assert_eq!(whole.number("cluster"), 5);
    assert_eq!(whole.number("node"), 7);
    assert_eq!(bytes_of(whole.text("incarnation")).len(), 8);
    assert_eq!((whole.number("first"), whole.number("last")), (1, ENTRIES));
    assert_eq!((whole.number("term"), whole.number("vote")), (4, 7));
    assert_eq!(whole.number("commit"), 39);
    assert_eq!(whole.get("torn"), &Json::Null);
    let used: Vec<_> = segments
        .iter()
        .filter(|segment| segment.text("stage") != "prepared")
        .collect();
    let tail = used[used.len() - 1];
    let fence = whole.get("fence");
    assert_eq!(fence.text("segment"), tail.text("file"));
    assert_eq!(fence.number("offset"), tail.number("used"));
    assert_eq!(fence.number("last"), ENTRIES);
    assert!(used.len() >= 4 && used.len() < segments.len());
    let mut next = 1;
    for segment in &used {
        assert_eq!(segment.number("first"), next);
        next = segment.number("last") + 1;
        assert_eq!(
            segment.number("first_term"),
            entry(segment.number("first")).0.0
        );
        assert_eq!(
            segment.number("last_term"),
            entry(segment.number("last")).0.0
        );
        assert_eq!(segment.number("size"), SEGMENT);
        assert_eq!(segment.number("fence"), segment.number("used"));
    }
    assert_eq!(next, ENTRIES + 1);

    let table = printed(&["inspect"], dir.path(), 0);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for (row, segment) in rows[1..].iter().zip(segments) {
        let range = |first: &str, last: &str| match segment.get(first) {
            Json::Null => "-".to_owned(),
            _ => format!("{}..{}", segment.number(first), segment.number(last)),
        };
        let expected = [
            segment.text("file").to_owned(),
            segment.text("stage").to_owned(),
            range("first", "last"),
            range("first_term", "last_term"),
            segment.number("fence").to_string(),
            segment.number("used").to_string(),
            segment.number("size").to_string(),
            segment.text("id").to_owned(),
        ];
        assert_eq!(row[..], expected);
    }
    for line in [
        "entries 1 to 40",
        "term 4, voted for 7, committed 39 at least",
    ] {
        assert!(
            table.lines().any(|found| found == line),
            "{line} in {table}"
        );
    }
}

#[test]
fn a_clean_log_is_told_as_clean_in_every_format_with_status_0() {
    let dir = closed();
    let verdict = Json::parse(&printed(&["verify", "-o", "json"], dir.path(), 0));
    assert_eq!(verdict.text("verdict"), "clean");
    assert_eq!(
        (verdict.number("first"), verdict.number("last")),
        (1, ENTRIES)
    );
    assert_eq!(verdict.get("torn"), &Json::Null);
    assert_eq!(verdict.get("damage").list(), []);
    let lines = Json::lines(&printed(&["verify", "-o", "jsonl"], dir.path(), 0));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].without("type"), verdict.without("damage"));
    let bytes = verdict.number("bytes");
    let text = printed(&["verify"], dir.path(), 0);
    assert_eq!(
        text,
        format!("clean: entries 1 to {ENTRIES}, {bytes} bytes\n")
    );
}

#[test]
fn all_damage_is_told_by_segment_offset_and_index_with_status_2() {
    let dir = closed();
    let places = [7, 9, ENTRIES].map(|index| (index, damage(dir.path(), index)));
    assert_eq!(places[0].1.0, 1, "in a sealed segment");
    assert!(places[2].1.0 >= 4, "in the tail");
    let text = printed(&["verify"], dir.path(), 2);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (line, (index, (sequence, offset))) in lines.iter().zip(places) {
        let expected =
            format!("corrupt: segment {sequence:016x}.wal offset {offset} index {index}: ");
        assert!(line.starts_with(&expected), "{line}, and not {expected}");
    }
    let verdict = Json::parse(&printed(&["verify", "-o", "json"], dir.path(), 2));
    let mut found = Json::lines(&printed(&["verify", "-o", "jsonl"], dir.path(), 2));
    assert_eq!(found.pop().unwrap().text("verdict"), "corrupt");
    assert_eq!(verdict.text("verdict"), "corrupt");
    for (line, damage) in found.iter().zip(verdict.get("damage").list()) {
        assert_eq!(&line.without("type"), damage);
    }
    assert_eq!(found.len(), 3);
    for (damage, (index, (sequence, offset))) in found.iter().zip(places) {
        assert_eq!(damage.text("segment"), format!("{sequence:016x}.wal"));
        assert_eq!(
            (damage.number("offset"), damage.number("index")),
            (offset, index)
        );
    }
    for tool in ["dump", "inspect"] {
        assert_eq!(run(&[tool], dir.path()).status.code(), Some(2), "{tool}");
    }
}

#[test]
fn a_torn_tail_is_told_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    // Not closed: no batch says that the last one was durable.
    drop(write_log(dir.path()));
    let (sequence, offset) = damage(dir.path(), ENTRIES);
    let file = format!("{sequence:016x}.wal");
    let text = printed(&["verify"], dir.path(), 0);
    let line = format!("torn: {file} at offset {offset}, 5032 bytes that no sync covered\n");
    assert!(
        text.starts_with("clean: ") && text.ends_with(&line),
        "{text}"
    );
    for tool in ["verify", "inspect"] {
        let found = Json::parse(&printed(&[tool, "-o", "json"], dir.path(), 0));
        assert_eq!(found.number("last"), ENTRIES - 1);
        let torn = found.get("torn");
        assert_eq!(torn.text("segment"), file);
        assert_eq!(
            (torn.number("offset"), torn.number("bytes")),
            (offset, 5032)
        );
    }
    let last = printed(&["dump", "-o", "jsonl"], dir.path(), 0);
    assert_eq!(last.lines().count() as u64, ENTRIES - 1);
}

#[test]
fn a_missing_segment_is_damage() {
    let dir = closed();
    fs::remove_file(segment(dir.path(), 2)).unwrap();
    let text = printed(&["verify"], dir.path(), 2);
    assert!(text.contains("0000000000000002.wal is missing"), "{text}");
    let verdict = Json::parse(&printed(&["verify", "-o", "json"], dir.path(), 2));
    let damage = verdict.get("damage").list();
    assert_eq!(damage[0].text("segment"), "0000000000000002.wal");
    assert_eq!(damage[0].get("offset"), &Json::Null);
}

#[test]
fn segments_under_each_others_names_are_told_by_both_names() {
    let dir = closed();
    let [one, other, aside] = [2, 3, 99].map(|sequence| segment(dir.path(), sequence));
    fs::rename(&one, &aside).unwrap();
    fs::rename(&other, &one).unwrap();
    fs::rename(&aside, &other).unwrap();
    let text = printed(&["verify"], dir.path(), 2);
    let found = Json::lines(&printed(&["verify", "-o", "jsonl"], dir.path(), 2));
    assert_eq!(found.len(), 3, "{text}");
    for (sequence, damage) in (2..).zip(&found[..2]) {
        let name = format!("{sequence:016x}.wal");
        let line = format!("corrupt: segment {name} offset unknown index unknown: ");
        assert!(text.lines().any(|told| told.starts_with(&line)), "{text}");
        assert_eq!(damage.text("segment"), name);
        assert_eq!(damage.get("offset"), &Json::Null);
    }
}

#[test]
fn an_empty_directory_holds_no_log_and_a_missing_one_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(printed(&["verify"], dir.path(), 0), "clean: no segments\n");
    assert_eq!(printed(&["dump", "-o", "jsonl"], dir.path(), 0), "");
    assert_eq!(
        Json::parse(&printed(&["dump", "-o", "json"], dir.path(), 0)).list(),
        []
    );
    let whole = Json::parse(&printed(&["inspect", "-o", "json"], dir.path(), 0));
    assert_eq!(whole.get("segments").list(), []);
    for key in ["cluster", "node", "incarnation", "term", "fence", "torn"] {
        assert_eq!(whole.get(key), &Json::Null, "{key}");
    }
    assert!(printed(&["inspect"], dir.path(), 0).contains("no entries; the next is 1"));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "something was made"
    );

    let missing = dir.path().join("nowhere");
    for tool in ["inspect", "verify", "dump"] {
        let output = run(&[tool], &missing);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(missing.to_str().unwrap()), "{stderr}");
        assert_eq!(output.stdout, b"");
        assert!(!missing.exists());
    }
}

/// Names, bytes and times of change of a directory's files.
fn everything(dir: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let paths = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .map(|path| {
            let changed = fs::metadata(&path).unwrap().modified().unwrap();
            let bytes = fs::read(&path).unwrap();
            (path, bytes, changed)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_nodes_directory_and_that_of_its_log_are_the_same_to_all_and_nothing_is_changed() {
    let node = tempfile::tempdir().unwrap();
    let wal = node.path().join("wal");
    // A torn tail would be cut by whoever opens the log for writing.
    drop(write_log(&wal));
    damage(&wal, ENTRIES);
    let before = everything(&wal);
    for args in [
        ["inspect", "-o", "json"],
        ["verify", "-o", "json"],
        ["dump", "-o", "json"],
    ] {
        let of_node = printed(&args, node.path(), 0);
        assert_eq!(of_node, printed(&args, &wal, 0), "{args:?}");
        assert!(of_node.len() > 100, "{of_node}");
    }
    assert!(before == everything(&wal), "a tool changed something");
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_dump_quietly() {
    let dir = closed();
    for format in ["table", "json", "jsonl"] {
        let mut child = Command::new(EXE)
            .arg("dump")
            .arg(dir.path())
            .args(["-o", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // More than a pipe holds is still to come.
        let mut line = String::new();
        let mut stdout = BufReader::with_capacity(64, child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        drop(stdout);
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{format}");
        assert!(!line.is_empty());
    }
}

#[test]
fn all_of_them_work_beside_a_running_node_which_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(EXE.into(), dir.path(), 1, 1 << 20).unwrap();
    cluster.start(1).unwrap();
    cluster.wait_leader().unwrap();
    let node = cluster.node_dir(1);
    let mut connection = served::connect(cluster.addrs()[0]);
    let mut written = 0;
    for _ in 0..30 {
        for _ in 0..5 {
            let value = vec![b'x'; 100_000];
            let answer = connection.ask(&[b"SET", b"k", &value]).unwrap();
            assert_eq!(answer, Answer::Value(b"OK".to_vec()));
            written += 1;
        }
        let verdict = Json::parse(&printed(&["verify", "-o", "json"], &node, 0));
        assert_eq!(verdict.text("verdict"), "clean");
        assert!(verdict.number("last") >= written);
        let log = Json::parse(&printed(&["inspect", "-o", "json"], &node, 0));
        assert!(log.number("last") >= written);
        let from = log.number("last").to_string();
        let args = ["dump", "--from", &from, "-o", "jsonl"];
        let entries = Json::lines(&printed(&args, &node, 0));
        assert_eq!(entries[0].number("index").to_string(), from);
    }
    assert_eq!(cluster.died(), None);
    assert!(cluster.stop(1).unwrap().unwrap().success());
}
