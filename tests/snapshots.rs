//! Nodes that take snapshots, let go of their logs, and start again from them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/until.rs"]
mod until;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use catamaran::sim::{Moment, SimDisk, Survival};
use catamaran::snapshot::{Configuration, Meta, SnapshotError, SnapshotStore};
use catamaran::transport::InMemory;
use catamaran::vfs::{Access, Disk, DiskFile, LockGuard, StdDisk};
use catamaran::{
    Entry, LogId, LogIndex, Member, Node, NodeId, NodeStatus, Options, Snapshot, StartError,
    StateMachine,
};
use parking_lot::Mutex;
use until::{PATIENCE, until};

type Hook = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Counts entries and their bytes, and remembers in which order they came.
#[derive(Clone)]
struct Tally {
    count: u64,
    hash: u64,
    /// Called by the snapshot thread before it writes.
    hook: Hook,
    /// How many entries were applied since this was made.
    fed: Arc<AtomicU64>,
}

impl Tally {
    fn new(hook: Hook) -> Self {
        let fed = Arc::default();
        Self {
            count: 0,
            hash: 0,
            hook,
            fed,
        }
    }

    fn plain() -> Self {
        Self::new(Arc::new(|| Ok(())))
    }

    fn apply_one(&mut self, payload: &[u8]) -> u64 {
        self.count += 1;
        for &byte in payload {
            self.hash = self.hash.wrapping_mul(31).wrapping_add(u64::from(byte));
        }
        self.count
    }
}

impl StateMachine for Tally {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        self.fed.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let each = entries.iter();
        each.map(|entry| self.apply_one(&entry.payload)).collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        Some(Frozen(self.clone()))
    }

    fn restore(&mut self, format: u32, from: &mut dyn Read) -> io::Result<()> {
        assert_eq!(format, 3);
        let mut numbers = [0; 16];
        from.read_exact(&mut numbers)?;
        let (count, hash) = numbers.split_at(8);
        self.count = u64::from_le_bytes(count.try_into().unwrap());
        self.hash = u64::from_le_bytes(hash.try_into().unwrap());
        Ok(())
    }
}

struct Frozen(Tally);

impl Snapshot for Frozen {
    fn format(&self) -> u32 {
        3
    }

    fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        (self.0.hook)()?;
        out.write_all(&self.0.count.to_le_bytes())?;
        out.write_all(&self.0.hash.to_le_bytes())
    }
}

fn options() -> Options {
    Options {
        segment_bytes: 64 << 10,
        max_entry_bytes: 4 << 10,
        snapshot_entries: Some(100),
        trailing_entries: 20,
        ..Options::default()
    }
}

fn start(dir: &Path, machine: Tally) -> Result<Node<Tally>, StartError> {
    Node::builder(NodeId(1), dir)
        .options(options())
        .start(machine)
}

fn payload(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(64)
}

/// What a machine comes to that was fed so many.
fn expected(count: u64) -> (u64, u64) {
    let mut tally = Tally::plain();
    for number in 1..=count {
        tally.apply_one(&payload(number));
    }
    (tally.count, tally.hash)
}

fn seen(node: &Node<Tally>) -> (u64, u64) {
    node.read(|tally| (tally.count, tally.hash)).unwrap()
}

/// Proposes the entries up to number `upto`, and waits for all.
fn feed(node: &Node<Tally>, from: u64, upto: u64) {
    let proposals: Vec<_> = (from..=upto)
        .map(|number| node.propose(payload(number)).unwrap())
        .collect();
    for (proposal, number) in proposals.into_iter().zip(from..) {
        assert_eq!(proposal.wait(), Ok(number));
    }
}

/// As [`feed`], in steps, and waits for the snapshot that is due with each. Entry 100 is number 98: the first two
/// are the members and the no-op of the first term.
fn feed_with_snapshots(node: &Node<Tally>, upto: u64) {
    let mut next = 1;
    for due in (98..=upto).step_by(100) {
        feed(node, next, due);
        // The log lets go when the node hears of it.
        until(node, |status| {
            has_snapshot(status, due + 2) && status.first.0 + 20 > due
        });
        next = due + 1;
    }
    feed(node, next, upto);
}

fn has_snapshot(status: &NodeStatus, at_least: u64) -> bool {
    status.snapshot.is_some_and(|last| last.0 >= at_least)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(found) = fs::read_dir(dir) else {
        return Vec::new();
    };
    found.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_node_starts_from_its_snapshot_and_is_fed_only_what_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), Tally::plain()).unwrap();
    feed_with_snapshots(&node, 1_050);
    let status = until(&node, |status| {
        has_snapshot(status, 1_000) && status.first.0 > 900
    });
    assert_eq!(
        status.snapshot,
        Some(LogIndex(1_000)),
        "a multiple of what was asked for"
    );
    assert_eq!(status.first, LogIndex(981), "20 entries trail");
    assert_eq!(files(&dir.path().join("snapshots")).len(), 1);
    node.shutdown().unwrap();
    drop(node);
    let machine = Tally::plain();
    let fed = Arc::clone(&machine.fed);
    let node = start(dir.path(), machine).unwrap();
    assert_eq!(seen(&node), expected(1_050));
    assert_eq!(fed.load(Ordering::Relaxed), 52, "1,052 less 1,000");
    assert_eq!(node.status().first, LogIndex(981));
    feed(&node, 1_051, 1_200);
    assert_eq!(seen(&node), expected(1_200));
}

#[test]
fn the_log_takes_no_more_room_the_more_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), Tally::plain()).unwrap();
    let (mut most, mut written) = (0, 0);
    for _ in 0..10 {
        let due = written + 100;
        feed(&node, written + 1, written + 500);
        written += 500;
        // One that was due while another was written is taken with the next entry.
        while !has_snapshot(&node.status(), due) {
            written += 1;
            feed(&node, written, written);
        }
        most = most.max(files(&dir.path().join("wal")).len());
    }
    while node.status().first.0 < 4_900 {
        written += 1;
        feed(&node, written, written);
    }
    drop(node);
    let left = files(&dir.path().join("wal")).len();
    assert!(
        left <= 8,
        "{left} files of 50 segments are left, {most} at most"
    );
}

#[test]
fn applying_goes_on_while_a_snapshot_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, begins) = mpsc::sync_channel(100);
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let hook = move || {
        let _ = begun.send(());
        // Until the test says so, or is over.
        let _ = ended.lock().recv();
        Ok(())
    };
    let node = start(dir.path(), Tally::new(Arc::new(hook))).unwrap();
    // Dropped before the node, which waits for the snapshot under way, should the test fail.
    let end = end;
    feed(&node, 1, 100);
    begins.recv_timeout(PATIENCE).unwrap();
    feed(&node, 101, 350);
    let status = node.status();
    assert_eq!((status.snapshot, status.first), (None, LogIndex(1)));
    end.send(()).unwrap();
    until(&node, |status| has_snapshot(status, 100));
    // The state is that of its entry, whatever was applied since.
    drop(end);
    let status = until(&node, |status| status.first > LogIndex(1));
    assert_eq!(status.snapshot.map(|last| last.0 / 100), Some(1));
    feed(&node, 351, 360);
    drop(node);
    let node = start(dir.path(), Tally::plain()).unwrap();
    assert_eq!(seen(&node), expected(360));
}

#[test]
fn a_snapshot_is_due_by_bytes_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        snapshot_entries: None,
        snapshot_bytes: Some(64 << 10),
        ..options()
    };
    let node = Node::builder(NodeId(1), dir.path())
        .options(options)
        .start(Tally::plain())
        .unwrap();
    feed(&node, 1, 100);
    assert_eq!(node.status().snapshot, None, "100 entries of 512 bytes");
    feed(&node, 101, 200);
    until(&node, |status| has_snapshot(status, 128));
}

/// The whole log is kept for a machine that does not freeze.
#[test]
fn a_machine_without_snapshots_keeps_its_log() {
    struct Plain(Arc<AtomicU64>);
    impl StateMachine for Plain {
        type Reply = ();
        fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
            self.0.fetch_add(entries.len() as u64, Ordering::Relaxed);
            vec![(); entries.len()]
        }
    }
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let fed = Arc::default();
        let node = Node::builder(NodeId(1), dir.path())
            .options(options())
            .start(Plain(Arc::clone(&fed)))
            .unwrap();
        for number in 1..=150 {
            node.propose(payload(number)).unwrap().wait().unwrap();
        }
        let status = node.status();
        assert_eq!((status.snapshot, status.first), (None, LogIndex(1)));
        let all = status.applied.0;
        assert!(fed.load(Ordering::Relaxed) >= all - 4, "of {all}");
    }
}

#[test]
fn a_snapshot_that_fails_is_given_up_and_the_node_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&tries);
    let hook = move || match counted.fetch_add(1, Ordering::Relaxed) {
        0 => Err(io::Error::other("as the test wants")),
        _ => Ok(()),
    };
    let node = start(dir.path(), Tally::new(Arc::new(hook))).unwrap();
    feed(&node, 1, 150);
    let deadline = Instant::now() + PATIENCE;
    while tries.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(
        node.status().first,
        LogIndex(1),
        "nothing is dropped without a snapshot"
    );
    feed(&node, 151, 350);
    // Another may be under way yet.
    let alone = || files(&dir.path().join("snapshots")).len() == 1;
    until(&node, |status| has_snapshot(status, 200) && alone());
}

/// A disk that has no room for some snapshots, and room for all else.
struct Full {
    /// How many more there is no room for.
    left: AtomicU64,
}

impl Disk for Full {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        StdDisk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        StdDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        if path.extension().is_some_and(|end| end == "tmp")
            && path.to_str().unwrap().contains(".snap")
        {
            let left = self.left.load(Ordering::Relaxed);
            if left > 0 {
                self.left.store(left - 1, Ordering::Relaxed);
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        StdDisk.create(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        StdDisk.open(path, access)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        StdDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        StdDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        StdDisk.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        StdDisk.lock(path)
    }

    fn entropy(&self) -> io::Result<u64> {
        StdDisk.entropy()
    }
}

#[test]
fn a_disk_without_room_for_a_snapshot_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Full {
        left: AtomicU64::new(3),
    });
    let node = Node::builder(NodeId(1), dir.path())
        .options(options())
        .disk(Arc::clone(&disk) as Arc<_>)
        .start(Tally::plain())
        .unwrap();
    let mut written = 0;
    while !has_snapshot(&node.status(), 300) {
        feed(&node, written + 1, written + 100);
        written += 100;
    }
    assert_eq!(disk.left.load(Ordering::Relaxed), 0);
    assert_eq!(seen(&node), expected(written));
    assert_eq!(node.status().stopped, None);
}

#[test]
fn a_panic_while_a_snapshot_is_written_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let hook = || panic!("as the test wants");
    let node = start(dir.path(), Tally::new(Arc::new(hook))).unwrap();
    let _proposals: Vec<_> = (1..=150)
        .map(|number| node.propose(payload(number)))
        .collect();
    // The end is told to those who follow the log, so this does not wait.
    assert!(node.committed().from(100_000).next().is_none());
    let reason = node.status().stopped.unwrap();
    assert!(reason.contains("snapshot thread panicked"), "{reason}");
    drop(node);
    let node = start(dir.path(), Tally::plain()).unwrap();
    assert_eq!(node.status().snapshot.filter(|last| last.0 < 100), None);
}

/// What a machine holds that has broken its contract is worth nothing.
#[test]
fn no_snapshot_is_taken_of_a_machine_that_failed() {
    struct Breaks {
        left: u64,
        froze: Arc<AtomicBool>,
    }
    impl StateMachine for Breaks {
        type Reply = ();
        fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
            self.left = self.left.saturating_sub(entries.len() as u64);
            // One reply too few for the entry at which a snapshot is due.
            let missing = usize::from(self.left == 0);
            vec![(); entries.len() - missing]
        }
        fn freeze(&self) -> Option<impl Snapshot> {
            self.froze.store(true, Ordering::Relaxed);
            Some(|out: &mut dyn Write| out.write_all(b"broken"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let froze = Arc::default();
    let machine = Breaks {
        left: 98,
        froze: Arc::clone(&froze),
    };
    let node = Node::builder(NodeId(1), dir.path())
        .options(options())
        .start(machine)
        .unwrap();
    let _proposals: Vec<_> = (1..=98)
        .map(|number| node.propose(payload(number)))
        .collect();
    assert!(node.committed().from(100_000).next().is_none());
    let reason = node.status().stopped.unwrap();
    assert!(reason.contains("replies"), "{reason}");
    drop(node);
    assert!(!froze.load(Ordering::Relaxed));
    assert_eq!(files(&dir.path().join("snapshots")), Vec::<PathBuf>::new());
}

/// A state may be good, but a node that has failed writes nothing more.
#[test]
fn a_node_that_stops_meanwhile_publishes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, begins) = mpsc::sync_channel(1);
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let hook = move || {
        begun.send(()).unwrap();
        let _ = ended.lock().recv();
        Ok(())
    };
    let node = start(dir.path(), Tally::new(Arc::new(hook))).unwrap();
    // As above.
    let end = end;
    feed(&node, 1, 120);
    begins.recv_timeout(PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| node.shutdown().unwrap());
        // Told once the threads are told to stop.
        assert!(node.committed().from(100_000).next().is_none());
        drop(end);
        stopping.join().unwrap();
    });
    assert_eq!(files(&dir.path().join("snapshots")), Vec::<PathBuf>::new());
}

/// A node with a snapshot at 1,000, stopped.
fn stopped() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path(), Tally::plain()).unwrap();
    feed_with_snapshots(&node, 1_000);
    until(&node, |status| {
        has_snapshot(status, 1_000) && status.first.0 > 900
    });
    node.shutdown().unwrap();
    let [snapshot] = files(&dir.path().join("snapshots")).try_into().unwrap();
    (dir, snapshot)
}

#[test]
fn a_log_whose_begin_is_in_a_snapshot_that_is_gone_is_refused() {
    let (dir, snapshot) = stopped();
    fs::remove_file(&snapshot).unwrap();
    let error = start(dir.path(), Tally::plain()).map(drop).unwrap_err();
    let StartError::MissingSnapshot { first, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*first, LogIndex(981));
    let text = error.to_string();
    assert!(
        text.contains(snapshot.parent().unwrap().to_str().unwrap()),
        "{text}"
    );
}

#[test]
fn a_damaged_snapshot_that_is_needed_is_named_with_the_place_and_changes_nothing() {
    let (dir, snapshot) = stopped();
    let good = fs::read(&snapshot).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - 40;
    bad[at] ^= 1;
    fs::write(&snapshot, &bad).unwrap();
    for _ in 0..2 {
        let error = start(dir.path(), Tally::plain()).map(drop).unwrap_err();
        assert!(
            matches!(error, StartError::Snapshot(SnapshotError::Damaged { .. })),
            "{error}"
        );
        assert!(
            error.to_string().contains(snapshot.to_str().unwrap()),
            "{error}"
        );
    }
    fs::write(&snapshot, &good).unwrap();
    assert_eq!(
        seen(&start(dir.path(), Tally::plain()).unwrap()),
        expected(1_000)
    );
}

/// A fetched snapshot is durable before the log goes on behind it, and from then on others count on it.
#[test]
fn a_damaged_snapshot_is_passed_over_only_if_the_log_goes_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let unkept = Options {
        snapshot_entries: None,
        ..options()
    };
    let start = || {
        let builder = Node::builder(NodeId(1), dir.path()).options(unkept.clone());
        builder.start(Tally::plain())
    };
    let node = start().unwrap();
    feed(&node, 1, 50);
    let (cluster, last) = (node.identity().cluster, node.status().last);
    let term = node.log().term(last).unwrap();
    drop(node);
    let snapshots = dir.path().join("snapshots");
    let damaged = |index: LogIndex| {
        let (store, _) = SnapshotStore::open(Arc::new(StdDisk), &snapshots, cluster).unwrap();
        let meta = Meta {
            cluster,
            last: LogId::new(term, index),
            configuration: Configuration::default(),
            state_format: 0,
        };
        let path = store.begin(meta).unwrap().publish().unwrap();
        let path = path.path().to_path_buf();
        fs::write(&path, b"CATASNAP").unwrap();
        path
    };
    damaged(last);
    assert_eq!(seen(&start().unwrap()), expected(50));
    let beyond = damaged(last.next().next());
    let error = start().map(drop).unwrap_err();
    assert!(
        matches!(&error, StartError::Snapshot(SnapshotError::Damaged { path, .. }) if *path == beyond),
        "{error}"
    );
}

#[test]
fn a_machine_that_cannot_restore_does_not_start() {
    struct Other;
    impl StateMachine for Other {
        type Reply = ();
        fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
            vec![(); entries.len()]
        }
    }
    let (dir, _) = stopped();
    let other = Node::builder(NodeId(1), dir.path())
        .options(options())
        .start(Other);
    let text = other.map(drop).unwrap_err().to_string();
    assert!(text.contains("does not restore snapshots"), "{text}");
}

/// The members are in the snapshot once the entry that has them is gone.
#[test]
fn three_nodes_start_again_from_snapshots_and_know_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let net = InMemory::new();
    let member = |id| Member {
        id: NodeId(id),
        addr: format!("node-{id}"),
        client_addr: format!("client-{id}"),
    };
    let start = |id: u64| {
        Node::builder(NodeId(id), dir.path().join(id.to_string()))
            .bootstrap([member(1), member(2), member(3)])
            .transport(net.endpoint())
            .options(Options {
                // A busy machine is no reason for another leader.
                election_timeout: Duration::from_secs(1),
                ..options()
            })
            .start(Tally::plain())
            .unwrap()
    };
    let mut written = 0;
    for round in 1..=3 {
        let nodes: Vec<_> = (1..=3).map(start).collect();
        // All are there, so none is ever behind what the others still have.
        let leader = nodes[0].wait_leader(PATIENCE).unwrap();
        let leader = nodes.iter().find(|node| node.identity().node == leader.id);
        let leader = leader.unwrap();
        for _ in 0..300 {
            written += 1;
            let mut reply = leader.propose(payload(written)).unwrap();
            assert_eq!(reply.wait_for(PATIENCE), Some(Ok(written)));
        }
        for node in &nodes {
            let status = until(node, |status| {
                has_snapshot(status, round * 300) && status.applied >= leader.status().applied
            });
            let members = [member(1), member(2), member(3)];
            assert_eq!(status.membership.members(), members);
        }
        assert_eq!(seen(leader), expected(written));
    }
}

/// Power cuts at calls that the threads happen to have come to, the same in no two runs.
#[test]
fn a_power_cut_at_any_time_loses_no_acknowledged_entry() {
    let seed = std::env::var("CATAMARAN_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seeds = seed.map_or(0..12u64, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let mut disk = SimDisk::new(seed);
        let mut acknowledged = 0;
        for cut in 0..6u64 {
            let moment = if cut % 2 == 0 {
                Moment::Before
            } else {
                Moment::After
            };
            let calls = 40 + (seed * 7 + cut * 13) % 90;
            let node = Node::builder(NodeId(1), "/node")
                .options(Options {
                    snapshot_entries: Some(25),
                    trailing_entries: 5,
                    ..options()
                })
                .disk(Arc::new(disk.clone()))
                .start(Tally::plain())
                .unwrap();
            let (count, hash) = seen(&node);
            assert!(
                count >= acknowledged,
                "CATAMARAN_SEED={seed}: {count} of {acknowledged}"
            );
            assert_eq!((count, hash), expected(count), "CATAMARAN_SEED={seed}");
            disk.crash_at(disk.ops() + calls, moment);
            let mut next = count;
            loop {
                next += 1;
                match node.propose(payload(next)).map(catamaran::Proposal::wait) {
                    Ok(Ok(reply)) => acknowledged = reply,
                    _ => break,
                }
            }
            drop(node);
            disk = disk.power_cut(Survival::Random(seed * 31 + cut));
        }
        assert!(acknowledged > 0, "CATAMARAN_SEED={seed}");
    }
}
