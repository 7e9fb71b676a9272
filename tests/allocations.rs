//! A proposal makes its own buffer and its reply's cell. Between them and the socket nothing more is made for each
//! entry: what there is besides is made for a batch, however large.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/gate.rs"]
mod gate;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use catamaran::transport::{Connect, InMemory, Tcp};
use catamaran::{Entry, Member, Node, NodeId, Options, Proposal, StateMachine};
use gate::{Gate, Gated};

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: usize = 20;
/// Entries in one append.
const BATCH: usize = 2_000;
/// The payload, what shares it, and the cell that the reply goes to.
const OWN: f64 = 3.0;
/// For each entry, of all three nodes together. What is made for a batch, or for the hundred entries that are read at
/// once, comes to a fraction; one place that makes something for each entry adds 1 by itself.
const MORE: f64 = 0.5;

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator can be counted in no other way")]
// SAFETY: each call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: who calls keeps to what `GlobalAlloc` asks for, and so does this.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above; `ptr` came from the same allocator.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Keeps nothing.
struct Nothing;

impl StateMachine for Nothing {
    type Reply = ();

    fn apply(&mut self, entries: &[Entry]) -> Vec<()> {
        vec![(); entries.len()]
    }
}

/// Starts three nodes, which reach each other by these.
fn start<C: Connect>(
    dir: &std::path::Path,
    gate: &Gate,
    connects: Vec<(String, C)>,
) -> Vec<Node<Nothing>> {
    let member = |(id, (addr, _)): (u64, &(String, C))| Member {
        id: NodeId(id),
        addr: addr.clone(),
        client_addr: String::new(),
    };
    let members: Vec<Member> = (1..).zip(&connects).map(member).collect();
    let options = Options {
        // Few heartbeats: they are not what is counted.
        heartbeat_interval: Duration::from_millis(500),
        election_timeout: Duration::from_millis(2_500),
        snapshot_entries: None,
        ..Options::default()
    };
    let start = |(member, (_, connect)): (&Member, (String, C))| {
        Node::builder(member.id, dir.join(member.id.to_string()))
            .options(options.clone())
            .bootstrap(members.clone())
            .transport(Gated::new(connect, gate.clone()))
            .start(Nothing)
            .unwrap()
    };
    members.iter().zip(connects).map(start).collect()
}

/// How much is allocated for each entry when they come in batches, beyond what the proposal itself makes.
fn beyond_their_own<C: Connect>(connects: Vec<(String, C)>) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let nodes = start(dir.path(), &gate, connects);
    let leader = nodes[0].wait_leader(PATIENCE).unwrap().id;
    let leads = |node: &&Node<Nothing>| node.identity().node == leader;
    let leader = nodes.iter().find(leads).unwrap();
    let mut proposals: Vec<Proposal<()>> = Vec::with_capacity(BATCH);
    thread::scope(|scope| {
        // Whoever proposes may take the step and stand at the gate, so one does that which nobody waits for.
        let (begin, begins) = mpsc::sync_channel::<()>(1);
        scope.spawn(move || {
            while begins.recv().is_ok() {
                leader.propose([7; 128].to_vec()).unwrap().wait().unwrap();
            }
        });
        let mut round = || {
            let closed = gate.close();
            begin.send(()).unwrap();
            gate.wait_for_one_who_stands_at_it();
            // All of these are there when the step that is held is done, so they are one batch.
            for _ in 0..BATCH - 1 {
                proposals.push(leader.propose([7; 128].to_vec()).unwrap());
            }
            drop(closed);
            for proposal in proposals.drain(..) {
                proposal.wait().unwrap();
            }
        };
        // Buffers grow to what a batch needs.
        (0..ROUNDS).for_each(|_| round());
        let before = ALLOCATED.load(Ordering::Relaxed);
        (0..ROUNDS).for_each(|_| round());
        let allocated = ALLOCATED.load(Ordering::Relaxed) - before;
        allocated as f64 / (ROUNDS * BATCH) as f64 - OWN
    })
}

/// One after the other: all that the process allocates is counted.
#[test]
fn nothing_is_allocated_for_each_entry_between_its_proposal_and_the_disks_of_all() {
    let net = InMemory::new();
    let in_memory = beyond_their_own((0..3).map(|_| (String::new(), net.endpoint())).collect());
    let bind = |_| {
        let tcp = Tcp::bind("127.0.0.1:0").unwrap();
        (tcp.local_addr().to_string(), tcp)
    };
    let over_tcp = beyond_their_own((0..3).map(bind).collect());
    println!("beyond {OWN} for each proposal: {in_memory:.3} in memory, {over_tcp:.3} over TCP");
    assert!(in_memory < MORE, "{in_memory} in memory");
    assert!(over_tcp < MORE, "{over_tcp} over TCP");
}
