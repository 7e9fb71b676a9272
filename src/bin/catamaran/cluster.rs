//! A cluster of `serve` processes on this machine, to be watched, killed and started again.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::client::{Connection, Info};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ids count from 1; node `i` is at `i - 1` in each list.
pub(crate) struct Cluster {
    exe: PathBuf,
    dir: PathBuf,
    peers: String,
    raft: Vec<SocketAddr>,
    resp: Vec<SocketAddr>,
    segment_bytes: u64,
    more: Vec<String>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    /// Chooses free ports for `size` nodes below `dir`; none is started yet.
    pub(crate) fn new(
        exe: PathBuf,
        dir: &Path,
        size: usize,
        segment_bytes: u64,
    ) -> io::Result<Self> {
        // Held all at once, so that no two are the same.
        let free = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let held = (0..2 * size).map(free).collect::<io::Result<Vec<_>>>()?;
        let addrs = held
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<Vec<_>>>()?;
        let (raft, resp) = addrs.split_at(size);
        let pairs = raft.iter().zip(resp).zip(1..);
        let peers: Vec<_> = pairs
            .map(|((raft, resp), id)| format!("{id}={raft}@{resp}"))
            .collect();
        Ok(Self {
            exe,
            dir: dir.to_path_buf(),
            peers: peers.join(","),
            raft: raft.to_vec(),
            resp: resp.to_vec(),
            segment_bytes,
            more: Vec::new(),
            children: (0..size).map(|_| None).collect(),
        })
    }

    /// Starts nodes with these arguments too.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.more.extend(arguments.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn size(&self) -> usize {
        self.children.len()
    }

    /// Where clients connect.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.resp.clone()
    }

    /// Where a node listens for the others.
    #[allow(dead_code, reason = "asked by the tests that share this file")]
    pub(crate) fn raft_addr(&self, id: usize) -> SocketAddr {
        self.raft[id - 1]
    }

    pub(crate) fn node_dir(&self, id: usize) -> PathBuf {
        self.dir.join(format!("n{id}"))
    }

    fn stderr_path(&self, id: usize) -> PathBuf {
        self.dir.join(format!("n{id}.stderr"))
    }

    /// Starts a node, and waits until it says that it accepts clients.
    pub(crate) fn start(&mut self, id: usize) -> io::Result<()> {
        let stderr = File::options()
            .create(true)
            .append(true)
            .open(self.stderr_path(id))?;
        let mut child = Command::new(&self.exe)
            .args(["serve", "--id", &id.to_string(), "--peers", &self.peers])
            .args(["--segment-bytes", &self.segment_bytes.to_string()])
            .arg("--dir")
            .arg(self.node_dir(id))
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        let stdout = child.stdout.take();
        self.children[id - 1] = Some(child);
        let mut line = String::new();
        if let Some(stdout) = stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        if line.starts_with("ready ") {
            return Ok(());
        }
        let tail = self.stderr_tail(id);
        Err(io::Error::other(format!(
            "node {id} did not come up: {tail}"
        )))
    }

    /// The last lines that a node wrote to stderr.
    pub(crate) fn stderr_tail(&self, id: usize) -> String {
        let text = std::fs::read_to_string(self.stderr_path(id)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Kills a node on the spot (SIGKILL).
    pub(crate) fn kill(&mut self, id: usize) -> io::Result<()> {
        if let Some(mut child) = self.children[id - 1].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks a node to end (SIGTERM), and waits for it.
    pub(crate) fn stop(&mut self, id: usize) -> io::Result<Option<ExitStatus>> {
        let Some(mut child) = self.children[id - 1].take() else {
            return Ok(None);
        };
        if signal("TERM", &child).is_err() {
            child.kill()?;
        }
        child.wait().map(Some)
    }

    /// Has a running node stand still (SIGSTOP) while `meanwhile` runs.
    pub(crate) fn pause<T>(
        &self,
        id: usize,
        meanwhile: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let child = self.children[id - 1].as_ref();
        let child = child.ok_or_else(|| io::Error::other(format!("node {id} is down")))?;
        signal("STOP", child)?;
        let done = meanwhile();
        signal("CONT", child)?;
        done
    }

    /// The process of each node that runs.
    pub(crate) fn pids(&self) -> impl Iterator<Item = (usize, u32)> {
        let running = self.children.iter().zip(1..);
        running.filter_map(|(child, id)| Some((id, child.as_ref()?.id())))
    }

    /// A node that has ended although nobody asked it to.
    pub(crate) fn died(&mut self) -> Option<(usize, ExitStatus)> {
        for (child, id) in self.children.iter_mut().zip(1..) {
            let ended = child
                .as_mut()
                .and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                *child = None;
                return Some((id, status));
            }
        }
        None
    }

    /// Where a running node says it is.
    pub(crate) fn info(&self, id: usize) -> io::Result<Info> {
        Connection::open(self.resp[id - 1])?.info()
    }

    /// Waits until some running node leads.
    pub(crate) fn wait_leader(&self) -> io::Result<usize> {
        self.wait_leader_among(1..=self.size())
    }

    /// Waits until one of these leads, which need not all run.
    pub(crate) fn wait_leader_among(
        &self,
        ids: impl Iterator<Item = usize> + Clone,
    ) -> io::Result<usize> {
        self.wait("a leader", || {
            let leads = |id: &usize| self.info(*id).is_ok_and(|info| info.role == "leader");
            ids.clone()
                .filter(|id| self.children[id - 1].is_some())
                .find(leads)
        })
    }

    /// Waits until all nodes have applied the same log to its end.
    pub(crate) fn wait_equal(&self) -> io::Result<u64> {
        self.wait("all nodes to have the same log", || {
            let infos: io::Result<Vec<Info>> = (1..=self.size()).map(|id| self.info(id)).collect();
            let infos = infos.ok()?;
            let last = infos[0].last;
            let same = |info: &Info| info.last == last && info.applied == last;
            (infos.iter().all(same) && infos.iter().any(|info| info.role == "leader"))
                .then_some(last)
        })
    }

    /// Waits until a node has applied all that its leader has committed by now.
    #[allow(dead_code, reason = "of no use to some tests that share this file")]
    pub(crate) fn wait_caught_up(&self, id: usize, leader: usize) -> io::Result<()> {
        let committed = self.wait("a leader to answer", || {
            Some(self.info(leader).ok()?.committed)
        })?;
        self.wait("a node to catch up", || {
            let info = self.info(id).ok()?;
            (info.leader == leader as u64 && info.applied >= committed).then_some(())
        })
    }

    fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other(format!(
                    "waited {PATIENCE:?} for {what} in vain"
                )));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// Sends a signal by the name that `kill` knows it by.
fn signal(name: &str, child: &Child) -> io::Result<()> {
    let mut kill = Command::new("kill");
    let status = kill.args(["-s", name, &child.id().to_string()]).status()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("kill -s {name}: {status}")))
}

impl Drop for Cluster {
    /// Leaves no process behind.
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
