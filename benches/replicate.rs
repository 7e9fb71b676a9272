//! Commits on three durable nodes in one process, clients waiting each for its own, with the bare device
//! beside them.
//!
//! `cargo bench --bench replicate`; the directory is `CATAMARAN_BENCH_DIR`, or the system's for temporary
//! files, which must be on a real disk.

#![allow(clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "support/raw.rs"]
mod raw;

use std::time::{Duration, Instant};

use catamaran::transport::InMemory;
use catamaran::{Entry, Member, Node, NodeId, RoleName, StateMachine};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use raw::{Raw, bench_dir};

struct Count(u64);

impl StateMachine for Count {
    type Reply = u64;

    fn apply(&mut self, entries: &[Entry]) -> Vec<u64> {
        let count = |_: &Entry| {
            self.0 += 1;
            self.0
        };
        entries.iter().map(count).collect()
    }
}

fn start(dir: &std::path::Path) -> Vec<Node<Count>> {
    let net = InMemory::new();
    let member = |id| Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    };
    let members: Vec<Member> = (1..=3).map(member).collect();
    let start = |member: &Member| {
        Node::builder(member.id, dir.join(member.id.to_string()))
            .bootstrap(members.clone())
            .transport(net.endpoint())
            .start(Count(0))
            .expect("a node")
    };
    members.iter().map(start).collect()
}

fn leader(nodes: &[Node<Count>]) -> &Node<Count> {
    loop {
        for node in nodes {
            let known = node.wait_leader(Duration::from_secs(10));
            if known.is_some() && node.status().role == RoleName::Leader {
                return node;
            }
        }
    }
}

fn replicate(criterion: &mut Criterion) {
    let dir = bench_dir();
    let mut raw = Raw::create(&dir.path().join("raw")).expect("a new file");
    let nodes = start(dir.path());
    let leader = leader(&nodes);
    for clients in [1, 16, 64, 256] {
        let mut group = criterion.benchmark_group(format!("replicate/{clients}_clients_x128"));
        group.throughput(Throughput::Elements(1));
        group
            .sample_size(20)
            .measurement_time(Duration::from_secs(5));
        group.bench_function("raw_fdatasync", |bench| {
            bench.iter(|| raw.write_and_sync(&[7; 128]).expect("a write"))
        });
        group.bench_function("catamaran", |bench| {
            bench.iter_custom(|commits| commit_from(leader, clients, commits));
        });
        group.finish();
    }
}

fn commit_from(leader: &Node<Count>, clients: u64, commits: u64) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                for _ in 0..commits.div_ceil(clients) {
                    leader
                        .propose(&[7; 128])
                        .expect("room")
                        .wait()
                        .expect("a commit");
                }
            });
        }
    });
    start.elapsed()
}

criterion_group!(benches, replicate);
criterion_main!(benches);
