//! Holds the house to its plan: imports point down, `unsafe` has one place, proofs of durability are made
//! in one place, dependencies are the agreed ones.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each module may import. Modules not named here may import nothing of the crate.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("codec", &[]),
    ("error", &[]),
    ("trace", &[]),
    ("sync", &[]),
    ("config", &["error"]),
    ("state_machine", &["types"]),
    ("vfs", &["types"]),
    (
        "wal",
        &["vfs", "codec", "types", "config", "error", "trace", "sync"],
    ),
    ("raft", &["types", "config"]),
    ("snapshot", &["vfs", "codec", "types", "error", "trace"]),
    ("log", &["wal", "codec", "types", "error"]),
    (
        "transport",
        &[
            "driver", "raft", "snapshot", "codec", "types", "config", "error", "trace",
        ],
    ),
    (
        "driver",
        &[
            "raft",
            "log",
            "wal",
            "snapshot",
            "state_machine",
            "vfs",
            "types",
            "config",
        ],
    ),
    (
        "sim",
        &[
            "driver",
            "raft",
            "log",
            "wal",
            "snapshot",
            "state_machine",
            "vfs",
            "codec",
            "types",
            "config",
            "error",
            "sync",
        ],
    ),
    (
        "runtime",
        &[
            "driver",
            "raft",
            "log",
            "wal",
            "snapshot",
            "transport",
            "state_machine",
            "types",
            "config",
            "error",
            "trace",
            "sync",
        ],
    ),
    (
        "node",
        &[
            "runtime",
            "driver",
            "raft",
            "log",
            "wal",
            "snapshot",
            "transport",
            "state_machine",
            "vfs",
            "types",
            "config",
            "error",
            "trace",
        ],
    ),
    // The top of the crate, which only re-exports.
    (
        "lib",
        &["config", "node", "raft", "state_machine", "types", "wal"],
    ),
];

/// The whole list of what the crate may depend on: (name, optional).
const DEPENDENCIES: &[(&str, bool)] = &[
    ("clap", true),
    ("comfy-table", true),
    ("crc32fast", false),
    ("crossbeam-channel", false),
    ("hdrhistogram", true),
    ("indicatif", true),
    ("libc", false),
    ("memmap2", false),
    ("mio", true),
    ("parking_lot", false),
    ("signal-hook", true),
    ("tracing", true),
    ("tracing-subscriber", true),
];

/// `shuttle` explores the schedules of the log's threads (`src/wal/tests/schedules.rs`).
const DEV_DEPENDENCIES: &[&str] = &["catamaran", "criterion", "proptest", "shuttle", "tempfile"];

/// Crates in the default tree, this one not counted.
const MAX_TREE: usize = 15;

/// Files aim at 600 lines; beyond this they must be split.
const MAX_LINES: usize = 700;

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The text without tests, comments and doc comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let parent = self.path.parent();
        let in_tests = parent.is_some_and(|parent| parent.ends_with("tests"));
        let tests = in_tests || self.path.ends_with("tests.rs");
        let text = if tests { "" } else { &self.text };
        let body = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        body.lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
    }

    fn module(&self) -> String {
        let below = self.path.strip_prefix(root().join("src")).unwrap();
        let first = below
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        first.trim_end_matches(".rs").to_owned()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(below: &str) -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            // What is built is not ours to keep tidy.
            if path.is_dir() && !path.ends_with("target") {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path, text });
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(below), &mut found);
    assert!(!found.is_empty(), "no sources below {below}");
    found
}

fn is_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|part| part == word)
}

/// The modules of this crate that a line names through `crate::`.
fn imports(line: &str) -> Vec<&str> {
    let word = |rest: &'_ str| rest.find(|c: char| !c.is_alphanumeric() && c != '_');
    let after = line.split("crate::").skip(1);
    after
        .map(|rest| &rest[..word(rest).unwrap_or(rest.len())])
        .collect()
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let module = source.module();
        if module == "bin" {
            continue;
        }
        let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("module {module} is not in the plan"));
        for (number, line) in source.code() {
            assert!(
                !line.contains("use crate::{"),
                "{}: one `use` a module",
                source.path.display()
            );
            for import in imports(line) {
                if import != module && !allowed.contains(&import) {
                    wrong.push(format!("{}:{number}: {line}", source.path.display()));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "imports that the plan does not allow:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn consensus_has_no_io_thread_clock_or_channel() {
    let banned = [
        "std::fs",
        "std::net",
        "std::thread",
        "Instant",
        "SystemTime",
        "crossbeam",
        "HashMap",
    ];
    for source in sources("src/raft") {
        for (number, line) in source.code() {
            for banned in banned {
                assert!(
                    !line.contains(banned),
                    "{}:{number}: {line}",
                    source.path.display()
                );
            }
        }
    }
}

#[test]
fn unsafe_is_in_one_file_and_every_block_gives_its_reason() {
    let mut blocks = 0;
    for source in sources("src") {
        let home = source.path.ends_with("vfs/map.rs");
        for (number, line) in source.code() {
            if !is_word(line, "unsafe") {
                continue;
            }
            assert!(home, "{}:{number}: unsafe", source.path.display());
            let before: Vec<&str> = source.text.lines().take(number - 1).collect();
            let reason = before
                .iter()
                .rev()
                .take_while(|line| line.trim().starts_with("//"));
            let reasoned = reason.into_iter().any(|line| line.contains("SAFETY:"));
            assert!(
                reasoned,
                "{}:{number}: no SAFETY comment",
                source.path.display()
            );
            blocks += 1;
        }
    }
    assert!(
        blocks > 0,
        "the memory map has gone, and this test with it?"
    );
}

/// The compiler denies `unsafe` wherever it is not expected by name.
#[test]
fn of_all_tests_only_those_that_count_allocations_are_unsafe() {
    let expects = |source: &Source| source.text.contains("expect(unsafe_code");
    let mut found: Vec<_> = ["tests", "benches", "examples"]
        .into_iter()
        .flat_map(sources)
        .filter(expects)
        .collect();
    found.retain(|source| !source.path.ends_with("tests/tidy.rs"));
    let mut found: Vec<_> = found.into_iter().map(|source| source.path).collect();
    found.sort_unstable();
    let counting = ["tests/allocations.rs", "tests/wal_room.rs"];
    assert_eq!(found, counting.map(|path| root().join(path)));
}

#[test]
fn only_the_wal_mints_proofs_of_durability() {
    for source in sources("src") {
        let home = matches!(source.module().as_str(), "wal" | "types");
        for (number, line) in source.code() {
            let mints = line.contains("Staged::mint") || line.contains("Durable::mint");
            assert!(home || !mints, "{}:{number}: {line}", source.path.display());
        }
    }
}

#[test]
fn nothing_unwraps_outside_tests() {
    for source in sources("src") {
        for (number, line) in source.code() {
            for call in [
                ".unwrap()",
                ".expect(",
                "todo!(",
                "unimplemented!(",
                "dbg!(",
            ] {
                assert!(
                    !line.contains(call),
                    "{}:{number}: {line}",
                    source.path.display()
                );
            }
        }
    }
}

#[test]
fn files_stay_readable() {
    for below in ["src", "tests", "benches"] {
        for source in sources(below) {
            let lines = source.text.lines().count();
            assert!(
                lines <= MAX_LINES,
                "{}: {lines} lines",
                source.path.display()
            );
        }
    }
}

/// The names in a section of Cargo.toml, and whether each is optional.
fn section(manifest: &str, name: &str) -> Vec<(String, bool)> {
    let header = format!("[{name}]");
    let lines = manifest.lines().skip_while(|line| *line != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let named = lines.filter_map(|line| line.split_once(" = "));
    let named = named.filter(|(name, _)| !name.starts_with('#'));
    named
        .map(|(name, rest)| (name.to_owned(), rest.contains("optional = true")))
        .collect()
}

#[test]
fn dependencies_are_the_agreed_ones() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut found = section(&manifest, "dependencies");
    found.sort();
    let agreed: Vec<_> = DEPENDENCIES
        .iter()
        .map(|(name, o)| ((*name).to_owned(), *o))
        .collect();
    assert_eq!(found, agreed);
    let mut found: Vec<_> = section(&manifest, "dev-dependencies")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    found.sort();
    assert_eq!(found, DEV_DEPENDENCIES);
}

#[test]
fn the_default_tree_is_small() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree", "--edges", "normal", "--prefix", "none", "--format", "{p}",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "catamaran")
        .collect();
    assert!(crates.contains("crc32fast"), "an odd tree: {crates:?}");
    assert!(
        crates.len() <= MAX_TREE,
        "{} crates: {crates:?}",
        crates.len()
    );
}
