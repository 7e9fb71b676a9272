//! Transcripts of consensus, `tests/scripts/raft/*.txt`: what is done to a cluster of cores without threads, and
//! all that comes of it. Each file's name is the sentence that it shows.
//!
//! A line `> command` is followed by what it gives, up to an empty line or the next command; `#` begins a
//! remark. `CATAMARAN_REWRITE=1 cargo test --test raft_scripts` writes what was given into the files: read
//! the difference, and hold it against the paper.
//!
//! | command | does |
//! |---|---|
//! | `members 3 option=value ...` | a cluster whose logs are empty; the options are those of a node |
//! | `log 2 1 1 3 term=4 vote=1 commit=2` | before it starts: a log of entries of these terms; the node is in term 4 |
//! | `timeout 1` | time goes on until the timer of 1 is due, and only that one fires |
//! | `elect 1` | the same, and all that comes of it, of which only the end is told |
//! | `pass 200` | so many milliseconds go by, in which no timer fires |
//! | `propose 1 3 900`, `read 1`, `transfer 1 2` | clients ask: here 1, for three entries of 900 bytes together |
//! | `deliver`, `drop`, `duplicate`, `reverse` | what is on its way: all of it, or `1->2`, `1->`, `->2`, `1->2 1` (the first one); `deliver` alone goes on with what comes of it |
//! | `cut 1 2`, `isolate 1`, `heal` | a network that loses what it takes |
//! | `lose 2 1` | the connection on which 2 heard 1 ends |
//! | `slow 1`, `sync 1 2`, `fast 1` | writes that are durable only when it is said, here two of them |
//! | `crash 1` | starts again, with what is durable |
//! | `state` | shows all |

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/raft.rs"]
mod support;

#[path = "raft_scripts/cluster.rs"]
mod cluster;
#[path = "raft_scripts/tell.rs"]
mod tell;

use std::fs;
use std::path::{Path, PathBuf};

use cluster::Cluster;

fn scripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/raft");
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = entries.collect();
    paths.sort();
    paths
}

/// The script with what its commands give now.
fn play(script: &str) -> String {
    let mut cluster = Cluster::default();
    let mut played = String::new();
    let mut answered = false;
    for line in script.lines() {
        let Some(command) = line.strip_prefix("> ") else {
            // What was given before stands behind its command, up to here.
            answered &= !line.is_empty() && !line.starts_with('#');
            if !answered {
                played += &format!("{line}\n");
            }
            continue;
        };
        answered = true;
        let given = cluster.obey(command);
        let given = given.unwrap_or_else(|error| format!("? {error}\n"));
        played += &format!("{line}\n{given}");
    }
    played
}

/// The first line that differs, and what stands before it.
fn difference(expected: &str, given: &str) -> String {
    let (expected, given): (Vec<_>, Vec<_>) = (expected.lines().collect(), given.lines().collect());
    let same = expected
        .iter()
        .zip(&given)
        .take_while(|(a, b)| a == b)
        .count();
    let before = given[same.saturating_sub(6)..same].join("\n");
    let line = |lines: &[&str]| lines.get(same).map_or("the end", |line| line).to_owned();
    let (expected, given) = (line(&expected), line(&given));
    format!(
        "line {}:\n{before}\nexpected: {expected}\ngiven:    {given}",
        same + 1
    )
}

#[test]
fn every_script_gives_what_it_says() {
    let rewrite = std::env::var_os("CATAMARAN_REWRITE").is_some();
    let mut wrong = Vec::new();
    let paths = scripts();
    assert!(paths.len() >= 30, "{} scripts", paths.len());
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        let script = fs::read_to_string(&path).unwrap();
        let played = play(&script);
        let sense = !played.lines().any(|line| line.starts_with('?'));
        assert!(rewrite || sense, "{name} makes no sense");
        if rewrite {
            fs::write(&path, &played).unwrap();
        } else if played != script {
            wrong.push(format!("{name}, {}", difference(&script, &played)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
