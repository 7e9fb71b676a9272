//! A member that is too far behind fetches a snapshot: in pieces, from whoever leads, through crashes and damage.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/until.rs"]
mod until;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catamaran::sim::{Moment, SimDisk, Survival};
use catamaran::snapshot::{Ask, Piece};
use catamaran::transport::{
    Connect, Context, InMemory, SnapshotSource, Tcp, Transport, TransportError,
};
use catamaran::vfs::{Disk, StdDisk};
use catamaran::{
    Entry, Error, LogIndex, Member, Node, NodeId, NodeStatus, Options, Proposal, Snapshot,
    StateMachine,
};
use parking_lot::Mutex;
use until::{PATIENCE, until};

const PAYLOAD: usize = 4_096;
const C: NodeId = NodeId(3);

/// Every payload that was applied. The test sees it from outside.
#[derive(Clone, Default)]
struct Book {
    pages: Arc<Mutex<Vec<Vec<u8>>>>,
    /// How many entries it was fed since it was made.
    fed: Arc<AtomicU64>,
}

impl StateMachine for Book {
    type Reply = usize;

    fn apply(&mut self, entries: &[Entry]) -> Vec<usize> {
        self.fed.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let mut pages = self.pages.lock();
        let push = |entry: &Entry| {
            pages.push(entry.payload.to_vec());
            pages.len()
        };
        entries.iter().map(push).collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        let pages = self.pages.lock().clone();
        Some(move |out: &mut dyn Write| {
            let mut each = pages.iter();
            each.try_for_each(|page| out.write_all(page))
        })
    }

    fn restore(&mut self, _: u32, from: &mut dyn Read) -> io::Result<()> {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        *self.pages.lock() = bytes.chunks(PAYLOAD).map(<[u8]>::to_vec).collect();
        Ok(())
    }
}

fn page(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(PAYLOAD / 8)
}

/// One member asked another for bytes of its snapshot.
#[derive(Clone)]
struct Asked {
    of: NodeId,
    ask: Ask,
    piece: Piece,
}

/// What members were asked.
#[derive(Clone, Default)]
struct Record {
    asks: Arc<Mutex<Vec<Asked>>>,
    /// Spoils the next piece that does not begin a file.
    spoil: Arc<AtomicBool>,
}

impl Record {
    fn len(&self) -> usize {
        self.asks.lock().len()
    }
}

/// A transport whose pieces of snapshots are looked at.
struct Tap(Box<dyn Connect>, Record);

impl Connect for Tap {
    fn connect(
        self: Box<Self>,
        mut context: Context,
    ) -> Result<Arc<dyn Transport>, TransportError> {
        let Self(inner, record) = *self;
        context.snapshots = Arc::new(Tapped {
            me: context.identity.node,
            source: context.snapshots,
            record,
        });
        inner.connect(context)
    }
}

struct Tapped {
    me: NodeId,
    source: Arc<dyn SnapshotSource>,
    record: Record,
}

impl SnapshotSource for Tapped {
    fn read(&self, to: NodeId, ask: Ask) -> Option<Piece> {
        let mut piece = self.source.read(to, ask)?;
        self.record.asks.lock().push(Asked {
            of: self.me,
            ask,
            piece: piece.clone(),
        });
        if piece.offset > 0 && self.record.spoil.swap(false, Ordering::Relaxed) {
            let mut bytes = piece.bytes.to_vec();
            bytes[0] ^= 1;
            piece.bytes = bytes.into();
        }
        Some(piece)
    }
}

/// Three members and how to start them.
struct Cluster {
    dir: tempfile::TempDir,
    net: InMemory,
    record: Record,
    options: Options,
    nodes: Vec<Option<Node<Book>>>,
    written: u64,
}

fn options() -> Options {
    Options {
        // A busy machine is no reason for another leader.
        election_timeout: Duration::from_secs(1),
        segment_bytes: 256 << 10,
        max_entry_bytes: 16 << 10,
        snapshot_entries: Some(100),
        trailing_entries: 10,
        ..Options::default()
    }
}

fn member(id: u64) -> Member {
    Member {
        id: NodeId(id),
        addr: format!("node-{id}"),
        client_addr: String::new(),
    }
}

impl Cluster {
    /// With two of three running, and so many pages written.
    fn without_c(options: Options, pages: u64) -> Self {
        let mut cluster = Self {
            dir: tempfile::tempdir().unwrap(),
            net: InMemory::new(),
            record: Record::default(),
            options,
            nodes: vec![None, None, None],
            written: 0,
        };
        cluster.start(1, Arc::new(StdDisk));
        cluster.start(2, Arc::new(StdDisk));
        cluster.write(pages);
        cluster
    }

    fn dir(&self, id: u64) -> std::path::PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn start(&mut self, id: u64, disk: Arc<dyn Disk>) -> Book {
        let book = Book::default();
        let endpoint = Box::new(self.net.endpoint());
        let node = Node::builder(NodeId(id), self.dir(id))
            .bootstrap([member(1), member(2), member(3)])
            .transport(Tap(endpoint, self.record.clone()))
            .options(self.options.clone())
            .disk(disk)
            .start(book.clone())
            .unwrap();
        self.nodes[usize::try_from(id).unwrap() - 1] = Some(node);
        book
    }

    fn node(&self, id: u64) -> &Node<Book> {
        self.nodes[usize::try_from(id).unwrap() - 1]
            .as_ref()
            .unwrap()
    }

    /// Writes so many pages more, and waits for all.
    fn write(&mut self, pages: u64) {
        let end = self.written + pages;
        while self.written < end {
            self.written += 1;
            write(self.nodes.iter().flatten(), &page(self.written));
        }
    }

    fn leader(&self) -> u64 {
        let node = self.nodes.iter().flatten().next().unwrap();
        node.wait_leader(PATIENCE).unwrap().id.0
    }

    /// Writes until both that run have the same snapshot, no other is due, and the log has let go of what is before.
    fn compact(&mut self) {
        let every = self.options.snapshot_entries.unwrap();
        let is_done = |status: NodeStatus| {
            let due = status.applied.0 / every * every;
            let settled = status.applied.0 - due >= 5;
            settled && status.snapshot == Some(LogIndex(due)) && status.first.0 + 50 > due
        };
        let deadline = Instant::now() + PATIENCE;
        while !self
            .nodes
            .iter()
            .flatten()
            .all(|node| is_done(node.status()))
        {
            assert!(Instant::now() < deadline, "{:?}", self.node(1).status());
            self.write(1);
        }
    }

    /// Waits until C has applied all that is committed, and compares.
    fn caught_up(&self, book: &Book) {
        let leader = self.node(self.leader());
        until(self.node(3), |status| {
            status.applied >= leader.status().committed
        });
        let pages = book.pages.lock();
        assert_eq!(pages.len() as u64, self.written);
        for (found, number) in pages.iter().zip(1..) {
            assert!(*found == page(number), "page {number}");
        }
    }
}

fn write<'a>(nodes: impl Iterator<Item = &'a Node<Book>> + Clone, page: &[u8]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for node in nodes.clone() {
            match node.propose(page).and_then(Proposal::wait) {
                Ok(_) => return,
                Err(Error::NotLeader { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert!(Instant::now() < deadline, "nobody takes it");
    }
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_member_that_is_too_far_behind_fetches_a_snapshot_and_goes_on_from_there() {
    let mut cluster = Cluster::without_c(options(), 350);
    cluster.compact();
    let book = cluster.start(3, Arc::new(StdDisk));
    cluster.caught_up(&book);
    assert!(
        book.fed.load(Ordering::Relaxed) < 100,
        "it was fed what the snapshot has"
    );
    let status = cluster.node(3).status();
    assert!(
        status.first.0 > 290 && status.snapshot >= Some(LogIndex(300)),
        "{status:?}"
    );
    // In pieces, each of which it asked for, and each once.
    let asks = cluster.record.asks.lock().clone();
    let bytes: u64 = asks
        .iter()
        .map(|asked| asked.piece.bytes.len() as u64)
        .sum();
    assert_eq!(bytes, asks[0].piece.id.bytes);
    assert!(asks.len() as u64 > bytes / (128 << 10));
    assert_eq!(files(&cluster.dir(3).join("snapshots")), 1);
    // Appends reach it now.
    cluster.write(20);
    cluster.caught_up(&book);
    assert_eq!(cluster.record.len(), asks.len());
    // What it fetched is what it starts from again.
    cluster.nodes[2] = None;
    let book = cluster.start(3, Arc::new(StdDisk));
    cluster.caught_up(&book);
    assert_eq!(cluster.record.len(), asks.len());
}

#[test]
fn a_snapshot_is_fetched_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let bound: Vec<Tcp> = (0..3).map(|_| Tcp::bind("127.0.0.1:0").unwrap()).collect();
    let member = |(id, tcp): (u64, &Tcp)| Member {
        addr: tcp.local_addr().to_string(),
        ..member(id)
    };
    let members: Vec<Member> = (1..).zip(&bound).map(member).collect();
    let mut bound = bound.into_iter();
    let mut start = |id: u64| {
        let book = Book::default();
        let node = Node::builder(NodeId(id), dir.path().join(id.to_string()))
            .bootstrap(members.clone())
            .transport(bound.next().unwrap())
            .options(options())
            .start(book.clone())
            .unwrap();
        (node, book)
    };
    let (one, two) = (start(1), start(2));
    for number in 1..=250 {
        write([&one.0, &two.0].into_iter(), &page(number));
    }
    for (node, _) in [&one, &two] {
        until(node, |status| status.first.0 > 150);
    }
    let (three, book) = start(3);
    until(&three, |status| status.applied >= one.0.status().committed);
    assert_eq!(*book.pages.lock(), *one.1.pages.lock());
    assert!(book.fed.load(Ordering::Relaxed) < 100);
}

/// So slow that the test comes between.
fn slow() -> Options {
    Options {
        snapshot_rate: 1 << 20,
        ..options()
    }
}

/// Waits until so many pieces were sent.
fn pieces(record: &Record, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while record.len() < count {
        assert!(Instant::now() < deadline, "only {} pieces", record.len());
        std::thread::yield_now();
    }
}

#[test]
fn a_fetch_goes_on_where_it_was_when_another_member_leads() {
    let mut cluster = Cluster::without_c(slow(), 350);
    cluster.compact();
    let book = cluster.start(3, Arc::new(StdDisk));
    pieces(&cluster.record, 4);
    let old = cluster.leader();
    cluster.nodes[usize::try_from(old).unwrap() - 1]
        .take()
        .unwrap()
        .shutdown()
        .unwrap();
    let new = 3 - old;
    until(cluster.node(new), |status| {
        status
            .leader
            .as_ref()
            .is_some_and(|leader| leader.id.0 == new)
    });
    cluster.caught_up(&book);
    let asks = cluster.record.asks.lock();
    let (before, after): (Vec<_>, Vec<_>) = asks.iter().partition(|asked| asked.of.0 == old);
    let Some((id, offset)) = after[0].ask.have else {
        panic!("it began anew");
    };
    assert_eq!(id, before[0].piece.id, "both have the same snapshot");
    assert!(offset >= 3 * (128 << 10), "only {offset} bytes were there");
    let sent: u64 = after
        .iter()
        .map(|asked| asked.piece.bytes.len() as u64)
        .sum();
    assert_eq!(sent, id.bytes - offset, "each byte that was missing, once");
}

#[test]
fn a_fetch_goes_on_where_it_was_when_the_network_comes_back() {
    let mut cluster = Cluster::without_c(slow(), 350);
    cluster.compact();
    let book = cluster.start(3, Arc::new(StdDisk));
    pieces(&cluster.record, 4);
    cluster.net.isolate(C);
    let sent = cluster.record.len();
    cluster.net.heal_all();
    cluster.caught_up(&book);
    let asks = cluster.record.asks.lock();
    assert!(
        asks[sent..].iter().all(|asked| asked.ask.have.is_some()),
        "it began anew"
    );
}

/// New snapshots are taken faster than one is fetched, and what is behind the first would be gone by then.
#[test]
fn a_member_that_fetches_under_load_fetches_once() {
    let options = Options {
        snapshot_entries: Some(20),
        ..slow()
    };
    let mut cluster = Cluster::without_c(options, 400);
    cluster.compact();
    let book = cluster.start(3, Arc::new(StdDisk));
    let mut snapshots = BTreeSet::new();
    while book.fed.load(Ordering::Relaxed) == 0 {
        cluster.write(1);
        let newest = cluster.node(cluster.leader()).status().snapshot;
        snapshots.extend(newest.map(|last| last.0));
    }
    cluster.caught_up(&book);
    let asks = cluster.record.asks.lock();
    let fetched: BTreeSet<u64> = asks
        .iter()
        .map(|asked| asked.piece.id.last.index.0)
        .collect();
    assert!(
        snapshots.len() >= 3,
        "too quiet to show anything: {snapshots:?}"
    );
    assert_eq!(fetched.len(), 1, "of {snapshots:?} it fetched {fetched:?}");
}

#[test]
fn a_damaged_piece_is_noticed_before_the_snapshot_counts_and_all_is_fetched_again() {
    let mut cluster = Cluster::without_c(options(), 350);
    cluster.compact();
    cluster.record.spoil.store(true, Ordering::Relaxed);
    let book = cluster.start(3, Arc::new(StdDisk));
    cluster.caught_up(&book);
    assert!(!cluster.record.spoil.load(Ordering::Relaxed));
    let asks = cluster.record.asks.lock();
    let begun = asks.iter().filter(|asked| asked.ask.have.is_none()).count();
    assert_eq!(begun, 2);
}

#[test]
fn a_power_cut_while_a_snapshot_is_fetched_and_installed_loses_nothing() {
    let seed = std::env::var("CATAMARAN_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seeds = seed.map_or(0..3u64, |seed: u64| seed..seed + 1);
    for seed in seeds {
        let mut cluster = Cluster::without_c(options(), 220);
        cluster.compact();
        let mut disk = SimDisk::new(seed);
        // The directory is made, and its log begun, in peace.
        drop(cluster.start(3, Arc::new(disk.clone())));
        cluster.nodes[2] = None;
        for cut in 0..12u64 {
            let moment = if cut % 2 == 0 {
                Moment::Before
            } else {
                Moment::After
            };
            disk = disk.power_cut(Survival::Random(seed * 100 + cut));
            disk.crash_at(disk.ops() + 6 + (seed + cut * 5) % 29, moment);
            // A crash within the start is as good as one after it.
            let started = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                cluster.start(3, Arc::new(disk.clone()))
            }));
            let Ok(book) = started else { continue };
            let behind = |cluster: &Cluster| {
                let committed = cluster.node(cluster.leader()).status().committed;
                cluster.node(3).status().applied < committed
            };
            while !disk.is_crashed() && behind(&cluster) {
                std::thread::yield_now();
            }
            if !disk.is_crashed() {
                cluster.caught_up(&book);
            }
            cluster.nodes[2] = None;
            cluster.write(30);
        }
        disk = disk.power_cut(Survival::Random(seed));
        let book = cluster.start(3, Arc::new(disk));
        cluster.caught_up(&book);
        println!("CATAMARAN_SEED={seed}: {} pieces", cluster.record.len());
    }
}
