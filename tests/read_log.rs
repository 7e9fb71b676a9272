//! A reader that was written from `docs/FORMAT.md` alone, in another language, reads what the crate does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use catamaran::sim::Rng;

const EXE: &str = env!("CARGO_BIN_EXE_catamaran");
const FLIPS: u64 = 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The reader's status and what it printed, or none where there is no Python.
fn python(dir: &Path) -> Option<Output> {
    let script = root().join("docs/read_log.py");
    let output = Command::new("python3").arg(script).arg(dir).output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: no python3 ({error})");
            None
        }
    }
}

fn catamaran(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(EXE);
    command.arg(args[0]).arg(dir).args(&args[1..]);
    command.output().unwrap()
}

/// Whether both find the same entries, or both find damage. What they found.
fn compare(dir: &Path, what: &str) -> Option<i32> {
    let theirs = python(dir)?;
    let stderr = String::from_utf8_lossy(&theirs.stderr);
    let verified = catamaran(&["verify"], dir);
    let told = String::from_utf8_lossy(&verified.stdout);
    assert_eq!(
        theirs.status.code(),
        verified.status.code(),
        "{what}: {stderr}{told}"
    );
    if theirs.status.success() {
        let ours = catamaran(&["dump", "-o", "jsonl"], dir);
        assert!(ours.stdout == theirs.stdout, "{what}: other entries");
        assert!(!ours.stdout.is_empty());
    }
    theirs.status.code()
}

fn directories() -> Vec<PathBuf> {
    let below = fs::read_dir(root().join("tests/golden/v1")).unwrap();
    let paths = below.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.is_dir()).collect();
    paths.sort();
    paths
}

#[test]
fn a_reader_written_from_the_document_finds_the_same_entries() {
    for dir in directories() {
        let found = compare(&dir, &dir.display().to_string());
        assert!(matches!(found, Some(0) | None));
    }
}

#[test]
fn a_reader_written_from_the_document_finds_damage_where_the_crate_does() {
    let seed = std::env::var("CATAMARAN_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("CATAMARAN_SEED={seed}");
    let mut rng = Rng::new(seed);
    let directories = directories();
    let mut statuses = Vec::new();
    for flip in 0..FLIPS {
        let from = &directories[usize::try_from(rng.next_u64() % 2).unwrap()];
        let copy = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            let to = copy.path().join(file.file_name());
            fs::copy(file.path(), &to).unwrap();
            files.push(to);
        }
        files.sort();
        files.retain(|path| path.extension().is_some_and(|e| e == "wal"));
        let at = usize::try_from(rng.next_u64()).unwrap();
        let file = &files[at % files.len()];
        let mut bytes = fs::read(file).unwrap();
        let bit = at / files.len() % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(file, bytes).unwrap();
        let name = file.file_name().unwrap().to_string_lossy();
        let what = format!("flip {flip}, bit {bit} of {name}, seed {seed}");
        let Some(found) = compare(copy.path(), &what) else {
            return;
        };
        statuses.push(found);
    }
    let damaged = statuses.iter().filter(|status| **status == 2).count();
    println!("{damaged} of {FLIPS} flips are damage");
    assert!(damaged > 0);
}
