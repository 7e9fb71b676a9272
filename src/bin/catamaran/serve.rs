//! `serve`: one node as a key-value store over RESP.

use std::fs;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use catamaran::transport::Tcp;
use catamaran::{Member, Node, NodeId, Options};
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::http;
use crate::kv::Kv;
use crate::sessions::{MAX_CLIENTS, Sessions};
use crate::{Failure, USAGE};

/// What a command is larger than its arguments, at the most.
const COMMAND_BYTES: usize = 64;

#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    /// This node's number, one of those in --peers
    #[arg(long)]
    id: u64,
    /// Where the log lives
    #[arg(long)]
    dir: PathBuf,
    /// All members, as ID=RAFT_ADDR@RESP_ADDR,...; this node listens at its own
    #[arg(long, value_parser = parse_peers)]
    peers: Peers,
    /// Answers GET /status and /health at HOST:PORT
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// The least time without a leader before an election
    #[arg(long, value_name = "N", default_value_t = 200)]
    election_timeout_ms: u64,
    /// How often an idle leader speaks; a fifth of the election timeout if not given
    #[arg(long, value_name = "N")]
    heartbeat_ms: Option<u64>,
    /// The size of a log segment
    #[arg(long, value_name = "N", default_value_t = 64 << 20)]
    segment_bytes: u64,
    /// The largest entry; 4 MiB if not given, or a quarter of a segment if that is less
    #[arg(long, value_name = "N")]
    max_entry_bytes: Option<usize>,
    /// Takes a snapshot after every so many entries, and drops those that it has in it from the log, but for the
    /// last half as many; none are taken if not given
    #[arg(long, value_name = "ENTRIES")]
    snapshot_every: Option<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Peers(Vec<Member>);

/// Reads `1=HOST:PORT@HOST:PORT,2=...`.
fn parse_peers(text: &str) -> Result<Peers, String> {
    let mut members: Vec<Member> = Vec::new();
    for part in text.split(',') {
        let parsed = part.split_once('=').and_then(|(id, addrs)| {
            let (addr, client_addr) = addrs.split_once('@')?;
            let whole = has_port(addr) && has_port(client_addr);
            Some((id.parse().ok().map(NodeId)?, addr, client_addr)).filter(|_| whole)
        });
        let Some((id, addr, client_addr)) = parsed else {
            return Err(format!(
                "expected ID=RAFT_HOST:PORT@RESP_HOST:PORT, found {part:?}"
            ));
        };
        if members.iter().any(|member| member.id == id) {
            return Err(format!("member {id} is there twice"));
        }
        members.push(Member {
            id,
            addr: addr.to_owned(),
            client_addr: client_addr.to_owned(),
        });
    }
    Ok(Peers(members))
}

fn has_port(addr: &str) -> bool {
    let split = addr.rsplit_once(':');
    split.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// Why the server ends.
enum End {
    Signal,
    NodeStopped,
    /// No client can be served any more.
    Clients(io::Result<()>),
}

/// The defaults with segments of this size, which entries must fit into.
pub(crate) fn with_segments(segment_bytes: u64) -> Options {
    let defaults = Options::default();
    let quarter = usize::try_from(segment_bytes / 4).unwrap_or(usize::MAX);
    Options {
        segment_bytes,
        max_entry_bytes: defaults.max_entry_bytes.min(quarter),
        ..defaults
    }
}

impl Serve {
    fn options(&self) -> Options {
        let defaults = with_segments(self.segment_bytes);
        let election_timeout = Duration::from_millis(self.election_timeout_ms);
        Options {
            max_entry_bytes: self.max_entry_bytes.unwrap_or(defaults.max_entry_bytes),
            election_timeout,
            heartbeat_interval: self
                .heartbeat_ms
                .map_or(election_timeout / 5, Duration::from_millis),
            snapshot_entries: self.snapshot_every,
            snapshot_bytes: None,
            trailing_entries: self
                .snapshot_every
                .map_or(defaults.trailing_entries, |every| {
                    defaults.trailing_entries.min(every / 2)
                }),
            ..defaults
        }
    }

    /// Runs until a signal ends it (status 0) or the node stops by itself (status 1).
    pub(crate) fn run(self) -> Result<(), Failure> {
        let id = NodeId(self.id);
        let Peers(members) = self.peers.clone();
        let Some(me) = members.iter().find(|member| member.id == id).cloned() else {
            return Err(Failure::usage(format!(
                "--id {id} is not among --peers ({USAGE})"
            )));
        };
        let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Failure::runtime)?;
        let options = self.options();
        let limit = options.max_entry_bytes;
        // As many as may be proposed.
        let budget = usize::try_from(options.memory_bytes / 2).unwrap_or(usize::MAX);
        let transport = Tcp::bind(&me.addr).map_err(Failure::usage)?;
        let raft = transport.local_addr();
        let listen = |addr: &str| {
            let failed = |error| Failure::usage(format!("cannot listen on {addr}: {error}"));
            TcpListener::bind(addr).map_err(failed)
        };
        let clients = listen(&me.client_addr)?;
        let http = self.http.as_deref().map(listen).transpose()?;
        let node = Node::builder(id, &self.dir)
            .bootstrap(members)
            .transport(transport)
            .options(options)
            .start(Kv::default())
            .map_err(|error| {
                Failure::usage(format!("cannot serve {}: {error}", self.dir.display()))
            })?;
        let node = Arc::new(node);

        let (end, ended) = mpsc::channel();
        let (signalled, failed) = (end.clone(), end.clone());
        spawn("signals", move || {
            if signals.forever().next().is_some() {
                let _ = signalled.send(End::Signal);
            }
        })?;
        let following = node.committed();
        spawn("watch", move || {
            // Nothing is ever committed there, so this waits for the end of the node.
            let _ = following.from(u64::MAX).next();
            let _ = end.send(End::NodeStopped);
        })?;
        let resp = clients.local_addr().map_err(Failure::runtime)?;
        let (limit, most) = (limit - COMMAND_BYTES, most_clients());
        let sessions = Sessions::new(clients, Arc::clone(&node), limit, budget, most);
        let sessions = sessions.map_err(Failure::runtime)?;
        let recall = sessions.recall();
        spawn("clients", move || {
            let ended = catch_unwind(AssertUnwindSafe(|| sessions.run()));
            let panicked = |_| Err(io::Error::other("the thread of the clients panicked"));
            let _ = failed.send(End::Clients(ended.unwrap_or_else(panicked)));
        })?;
        if let Some(listener) = http {
            let node = Arc::clone(&node);
            spawn("http", move || http::serve(&listener, &node))?;
        }
        println!("ready id={id} raft={raft} resp={resp}");
        std::io::stdout().flush().map_err(Failure::runtime)?;

        let end = ended.recv();
        let reason = node.status().stopped;
        recall.end();
        let closed = node.shutdown();
        match (end, reason) {
            (Ok(End::NodeStopped), Some(reason)) => Err(Failure::runtime(reason)),
            (Ok(End::Clients(Err(error))), _) => Err(Failure::runtime(error)),
            _ => closed.map_err(Failure::runtime),
        }
    }
}

/// As many clients as leave the node half of the files that this process may have open. A log that finds none left
/// for its next segment stops.
fn most_clients() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let mut limits = limits.lines();
    let files = limits.find_map(|limit| limit.strip_prefix("Max open files"));
    let soft = files.and_then(|files| files.split_whitespace().next());
    // Where there is no limit, or it cannot be read, there is the other one.
    let soft: Option<usize> = soft.and_then(|soft| soft.parse().ok());
    soft.map_or(MAX_CLIENTS, |soft| MAX_CLIENTS.min(soft / 2))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = thread::Builder::new()
        .name(format!("serve-{name}"))
        .spawn(run);
    thread.map(drop).map_err(Failure::runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_and_bad_ones_are_named() {
        let Peers(members) = parse_peers("1=a:1@b:2,2=[::1]:3@c:4").unwrap();
        let second = &members[1];
        assert_eq!(
            (
                second.id.0,
                second.addr.as_str(),
                second.client_addr.as_str()
            ),
            (2, "[::1]:3", "c:4")
        );
        for bad in [
            "",
            "1",
            "1=a:1",
            "x=a:1@b:2",
            "1=a@b:2",
            "1=a:1@b:99999",
            "1=:1@b:2",
            "1=a:1@b:2,",
        ] {
            assert!(
                parse_peers(bad).unwrap_err().contains("expected ID="),
                "{bad}"
            );
        }
        assert_eq!(
            parse_peers("1=a:1@b:2,1=c:3@d:4").unwrap_err(),
            "member 1 is there twice"
        );
    }
}
