//! A real file system loses power: a log is written to a file system in an image, the image is copied under
//! the writer's hands, and the copy is mounted, which replays its journal, and opened.
//!
//! What the copy stands for: the writer's file system is on a loop device, and its image on an outer XFS,
//! which copies by sharing extents. While it does so XFS lets nobody write to the image, so the copy
//! is the device between two of its writes: all that it had completed, nothing of what came later. That is a
//! disk that loses power and keeps its order, and without the page cache of the writer's file system. (A
//! plain copy would take blocks of different moments, across flushes between them: no disk does
//! that.) What a disk may lose beyond it, writes that no flush followed, the simulated disk loses in
//! `wal_crash.rs`.
//!
//! It needs root, loop devices, and the tools of ext4 and XFS; without them it says so and passes.
//! `CATAMARAN_POWER_CUTS` says how often power is cut on each file system.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use catamaran::sim::Rng;
use catamaran::wal::{Wal, WalOptions, open_read_only};

mod model;

use model::{Change, Model};

const OUTER_BYTES: u64 = 4 << 30;
const INNER_BYTES: u64 = 512 << 20;
const SEED: u64 = 1;

/// Runs a program of the system, quietly.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    ))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this test")
}

/// A file system in an image, for as long as this lives. The loop device goes with the mount.
struct Mount {
    at: PathBuf,
}

impl Mount {
    fn new(image: &Path, at: PathBuf, options: &str) -> Result<Self, String> {
        std::fs::create_dir_all(&at).unwrap();
        run("mount", &["-o", options, text(image), text(&at)])?;
        Ok(Self { at })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if run("umount", &[text(&self.at)]).is_err() {
            // A thread that panicked may hold a file yet.
            let _ = run("umount", &["-l", text(&self.at)]);
        }
    }
}

/// A file system that copies files by sharing extents. Fields go in order: the mount before the directory.
struct Outer {
    mount: Mount,
    dir: tempfile::TempDir,
}

fn image(path: &Path, bytes: u64, make: &[&str]) -> Result<(), String> {
    File::create(path).unwrap().set_len(bytes).unwrap();
    let (program, arguments) = make.split_first().unwrap();
    run(program, &[arguments, &[text(path)]].concat())
}

impl Outer {
    /// An error says what this machine lacks.
    fn new() -> Result<Self, String> {
        if File::open("/proc/self").unwrap().metadata().unwrap().uid() != 0 {
            return Err("not root".into());
        }
        for tool in ["mkfs.xfs", "mkfs.ext4"] {
            run(tool, &["-V"])?;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("outer");
        image(&path, OUTER_BYTES, &["mkfs.xfs", "-q", "-m", "reflink=1"])?;
        let mount = Mount::new(&path, dir.path().join("mnt"), "loop")?;
        Ok(Self { mount, dir })
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    const fn make(self) -> &'static [&'static str] {
        match self {
            Self::Ext4 => &["mkfs.ext4", "-q", "-F"],
            Self::Xfs => &["mkfs.xfs", "-q"],
        }
    }

    /// A copy has the identity of the original, which is mounted beside it.
    const fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop",
            Self::Xfs => "loop,nouuid",
        }
    }
}

/// The writer's operations, one after another from a seed. Each writes its number as the state, so that a
/// log says how far it came.
struct Operations {
    rng: Rng,
    number: u64,
    /// Before the operation of that number, and what it goes through.
    before: Model,
    steps: Vec<Model>,
}

impl Operations {
    fn new() -> Self {
        Self {
            rng: Rng::new(SEED),
            number: 0,
            before: Model::default(),
            steps: Vec::new(),
        }
    }

    fn next(&mut self) -> Vec<Change> {
        if let Some(done) = self.steps.pop() {
            self.before = done;
        }
        self.number += 1;
        let mut write = Change::random_write(&mut self.rng, &self.before);
        if let Change::Write { state, .. } = &mut write {
            *state = Some(self.number.to_string().into_bytes());
        }
        self.steps = write.steps(&self.before);
        let mut changes = vec![write];
        if self.rng.chance(10) {
            let written = self.steps.last().unwrap().clone();
            let drop = Change::random_drop(&mut self.rng, &written);
            self.steps.extend(drop.steps(&written));
            changes.push(drop);
        }
        changes
    }
}

/// Writes until it is told to stop. `issued` and `acknowledged` are numbers of operations.
fn write(wal: &Wal, issued: &AtomicU64, acknowledged: &SyncSender<u64>, stop: &AtomicBool) {
    let mut operations = Operations::new();
    let mut rng = Rng::new(SEED + 1);
    while !stop.load(Ordering::Relaxed) {
        let changes = operations.next();
        issued.store(operations.number, Ordering::SeqCst);
        for change in changes {
            change.make(wal).unwrap();
        }
        if rng.chance(70) {
            model::sync(wal).unwrap();
            // Whoever reads is gone when the test has failed.
            if acknowledged.send(operations.number).is_err() {
                return;
            }
        }
    }
}

fn options(mount: &Mount) -> WalOptions {
    WalOptions::new(mount.at.join("wal")).segment_bytes(256 << 10)
}

/// Opens the log on a copy of the image, and holds it against the operations that may have reached it.
fn check(copy: &Mount, acknowledged: u64, issued: u64, replay: &mut Operations) -> bool {
    let (wal, recovery) = options(copy).open().unwrap();
    let found = Model::of(&wal, &recovery);
    let state = found
        .state
        .as_deref()
        .expect("an operation was acknowledged");
    let number: u64 = std::str::from_utf8(state).unwrap().parse().unwrap();
    assert!(
        (acknowledged..=issued).contains(&number),
        "found operation {number} of {acknowledged}..={issued}"
    );
    while replay.number < number {
        replay.next();
    }
    assert_eq!(replay.number, number, "copies are made in order");
    let whole = replay.steps.len() - 1;
    let allowed = if number == acknowledged { whole } else { 0 };
    assert!(
        replay.steps[allowed..].contains(&found),
        "operation {number}, acknowledged {acknowledged}: {}",
        model::explain(&found, &replay.steps[allowed..])
    );
    wal.append(&[b"and on"])
        .and_then(|staged| wal.sync(staged))
        .unwrap();
    wal.close().unwrap();
    open_read_only(copy.at.join("wal"))
        .unwrap()
        .verify(|_| ())
        .unwrap();
    recovery.torn.is_some()
}

/// Waits until `count` more operations were acknowledged; the last one's number.
fn wait(acknowledged: &Receiver<u64>, count: u64) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        last = acknowledged.recv().expect("the writer writes on");
    }
    acknowledged.try_iter().last().unwrap_or(last)
}

fn cut_power(outer: &Outer, kind: Kind, cuts: u64) {
    let on = |name: String| outer.mount.at.join(name);
    let (original, copy) = (on(format!("{kind:?}")), on(format!("{kind:?}-copy")));
    image(&original, INNER_BYTES, kind.make()).unwrap();
    let below = |name: &str| outer.dir.path().join(format!("{kind:?}-{name}"));
    let mount = Mount::new(&original, below("writer"), "loop").unwrap();
    let (wal, _) = options(&mount).open().unwrap();
    let (issued, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    // The writer runs ahead of the checks by no more than this.
    let (sender, receiver) = sync_channel(64);
    let (mut torn, mut last) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let sender = sender;
            write(&wal, &issued, &sender, &stop);
        });
        let receiver = receiver;
        let mut replay = Operations::new();
        let mut rng = Rng::new(SEED + 2);
        for cut in 1..=cuts {
            last = wait(&receiver, 1 + rng.below(150));
            run("cp", &["--reflink=always", text(&original), text(&copy)]).unwrap();
            let issued = issued.load(Ordering::SeqCst);
            let copied = Mount::new(&copy, below("copy"), kind.options()).unwrap();
            println!("{kind:?}, cut {cut} of {cuts}: {last} acknowledged, {issued} issued");
            torn += u64::from(check(&copied, last, issued, &mut replay));
            drop(copied);
            std::fs::remove_file(&copy).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{kind:?}: {cuts} cuts to operation {last}, {torn} torn tails: 0 lost, 0 invented");
}

#[test]
fn what_was_acknowledged_before_a_power_cut_is_found_by_the_next_mount() {
    let cuts = std::env::var("CATAMARAN_POWER_CUTS").map_or(3, |cuts| cuts.parse().unwrap());
    let outer = match Outer::new() {
        Ok(outer) => outer,
        Err(lack) => {
            println!("skipped: no power is cut here: {lack}");
            return;
        }
    };
    for kind in [Kind::Ext4, Kind::Xfs] {
        cut_power(&outer, kind, cuts);
    }
}
