//! TiKV's raft-rs, which is the consensus alone, and raft-engine below it. What drives it here is the least
//! that uses it well: a thread a node takes all that has queued, sends what may go before the write, writes
//! and syncs one batch, sends the rest, and answers. The entries are also kept in memory, to be read from
//! there, as by its users.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use raft::eraftpb::{Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use raft_engine::{Engine, LogBatch};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::{Clients, NODES};
use crate::Result;
use crate::engine::raft_engine::{Entries, config};
use crate::turns::{Turn, Worker, runtime, tasks, threads};

const TICK: Duration = Duration::from_millis(100);
/// What a node takes from its queue at most before it writes.
const MAX_INPUTS: usize = 4096;
const GROUP: u64 = 1;
const LEADER: u64 = 1;

enum Input {
    Message(Message),
    Propose(Vec<u8>, Answer),
    Stop,
}

/// Who waits for a commit.
enum Answer {
    Thread(SyncSender<()>),
    Task(oneshot::Sender<()>),
}

impl Answer {
    /// Who does not wait any more does not care.
    fn send(self) {
        match self {
            Self::Thread(sender) => drop(sender.send(())),
            Self::Task(sender) => drop(sender.send(())),
        }
    }
}

struct Node {
    raw: RawNode<MemStorage>,
    engine: Engine,
    batch: LogBatch,
    inputs: Receiver<Input>,
    peers: HashMap<u64, Sender<Input>>,
    /// Who waits for which index.
    waiting: VecDeque<(u64, Answer)>,
}

impl Node {
    fn new(
        id: u64,
        dir: &Path,
        inputs: Receiver<Input>,
        peers: HashMap<u64, Sender<Input>>,
    ) -> Result<Self> {
        let storage = MemStorage::new_with_conf_state((NODES.collect::<Vec<_>>(), vec![]));
        let options = Config {
            id,
            election_tick: 20,
            heartbeat_tick: 2,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 256,
            ..Config::default()
        };
        let log = slog::Logger::root(slog::Discard, slog::o!());
        Ok(Self {
            raw: RawNode::new(&options, storage, &log)?,
            engine: Engine::open(config(dir, 64 << 20))?,
            batch: LogBatch::default(),
            inputs,
            peers,
            waiting: VecDeque::new(),
        })
    }

    fn run(mut self) -> Result<()> {
        let mut tick = Instant::now() + TICK;
        loop {
            let first = self
                .inputs
                .recv_timeout(tick.saturating_duration_since(Instant::now()));
            match first {
                Ok(first) => {
                    let mut next = Some(first);
                    for _ in 0..MAX_INPUTS {
                        let Some(input) = next else { break };
                        if !self.take(input) {
                            return Ok(());
                        }
                        next = self.inputs.try_recv().ok();
                    }
                    if next.is_some_and(|input| !self.take(input)) {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if tick <= Instant::now() {
                self.raw.tick();
                tick += TICK;
            }
            while self.raw.has_ready() {
                self.ready()?;
            }
        }
    }

    /// Whether to go on.
    fn take(&mut self, input: Input) -> bool {
        match input {
            // What it refuses to step it has no use for.
            Input::Message(message) => drop(self.raw.step(message)),
            Input::Propose(data, answer) => {
                if self.raw.propose(Vec::new(), data).is_ok()
                    && self.raw.raft.state == StateRole::Leader
                {
                    self.waiting
                        .push_back((self.raw.raft.raft_log.last_index(), answer));
                }
            }
            Input::Stop => return false,
        }
        true
    }

    fn ready(&mut self) -> Result<()> {
        let mut ready = self.raw.ready();
        self.send(ready.take_messages());
        self.answer(&ready.take_committed_entries());
        let storage = self.raw.store().clone();
        if !ready.entries().is_empty() {
            self.batch.add_entries::<Entries>(GROUP, ready.entries())?;
            storage.wl().append(ready.entries())?;
        }
        if let Some(state) = ready.hs() {
            self.batch
                .put_message(GROUP, b"hard state".to_vec(), state)?;
            storage.wl().set_hardstate(state.clone());
        }
        if !self.batch.is_empty() {
            self.engine.write(&mut self.batch, ready.must_sync())?;
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            storage.wl().mut_hard_state().set_commit(commit);
        }
        self.send(light.take_messages());
        self.answer(&light.take_committed_entries());
        self.raw.advance_apply();
        Ok(())
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            // A node that has stopped misses it.
            let _ = self.peers[&message.to].send(Input::Message(message));
        }
    }

    fn answer(&mut self, committed: &[Entry]) {
        let Some(last) = committed.last() else { return };
        while self
            .waiting
            .front()
            .is_some_and(|(index, _)| *index <= last.index)
        {
            if let Some((_, answer)) = self.waiting.pop_front() {
                answer.send();
            }
        }
    }
}

struct Cluster<'a> {
    inputs: HashMap<u64, Sender<Input>>,
    nodes: Vec<JoinHandle<Result<()>>>,
    clients: Clients<'a>,
}

/// Its clients are threads.
pub(super) fn threaded<'a>(dir: &Path, clients: Clients<'a>) -> Result<Box<dyn Worker + 'a>> {
    Ok(Box::new(start(dir, clients)?))
}

/// Its clients are tasks.
pub(super) fn awaited<'a>(dir: &Path, clients: Clients<'a>) -> Result<Box<dyn Worker + 'a>> {
    Ok(Box::new(Awaited {
        cluster: start(dir, clients)?,
        runtime: runtime()?,
    }))
}

fn start<'a>(dir: &Path, clients: Clients<'a>) -> Result<Cluster<'a>> {
    let (senders, receivers): (Vec<_>, Vec<_>) = NODES.map(|_| channel()).unzip();
    let inputs: HashMap<u64, Sender<Input>> = NODES.zip(senders).collect();
    let mut nodes = Vec::new();
    for (id, queue) in NODES.zip(receivers) {
        let mut node = Node::new(id, &dir.join(id.to_string()), queue, inputs.clone())?;
        if id == LEADER {
            node.raw.campaign()?;
        }
        nodes.push(std::thread::spawn(move || node.run()));
    }
    let cluster = Cluster {
        inputs,
        nodes,
        clients,
    };
    // Until it leads, it drops proposals.
    let deadline = Instant::now() + Duration::from_secs(10);
    while cluster.commit().is_err() {
        if deadline < Instant::now() {
            return Err("no leader".into());
        }
        std::thread::sleep(TICK / 10);
    }
    Ok(cluster)
}

impl Cluster<'_> {
    fn commit(&self) -> Result<()> {
        let (answer, answered) = sync_channel(1);
        let proposal = Input::Propose(self.clients.entry.to_vec(), Answer::Thread(answer));
        self.inputs[&LEADER].send(proposal)?;
        Ok(answered.recv()?)
    }

    fn stop(self) -> Result<()> {
        for input in self.inputs.values() {
            let _ = input.send(Input::Stop);
        }
        for node in self.nodes {
            node.join().map_err(|_| "a node panicked")??;
        }
        Ok(())
    }
}

impl Worker for Cluster<'_> {
    fn turn(&mut self) -> Result<Turn> {
        threads(self.clients.count, |_| self.commit())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.stop()
    }
}

struct Awaited<'a> {
    cluster: Cluster<'a>,
    runtime: Runtime,
}

impl Worker for Awaited<'_> {
    fn turn(&mut self) -> Result<Turn> {
        let Clients { count, entry } = self.cluster.clients;
        let leader = self.cluster.inputs[&LEADER].clone();
        let entry = entry.to_vec();
        tasks(&self.runtime, count, move || {
            let (answer, answered) = oneshot::channel();
            let sent = leader.send(Input::Propose(entry.clone(), Answer::Task(answer)));
            async move {
                sent?;
                Ok(answered.await?)
            }
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.cluster.stop()
    }
}
