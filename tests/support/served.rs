//! Nodes as processes, and their clients.

#[path = "../../src/bin/catamaran/client.rs"]
pub(crate) mod client;
#[path = "../../src/bin/catamaran/cluster.rs"]
pub(crate) mod cluster;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use client::Connection;
use cluster::Cluster;

pub(crate) const EXE: &str = env!("CARGO_BIN_EXE_catamaran");
/// How long anything may take on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A connection on which each request may take as long as it takes.
pub(crate) fn connect(addr: SocketAddr) -> Connection {
    Connection::open_patiently(addr, PATIENCE).unwrap()
}

/// One node alone, up and leading.
pub(crate) fn alone(dir: &Path) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::new(EXE.into(), dir, 1, 1 << 20).unwrap();
    cluster.start(1).unwrap();
    cluster.wait_leader().unwrap();
    let addr = cluster.addrs()[0];
    (cluster, addr)
}
