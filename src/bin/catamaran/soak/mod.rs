//! `soak`: a cluster under full load loses a node again and again, for as long as you like.
//!
//! Three `serve` processes take snapshots and drop what those have in them, so that disks do not fill. Clients
//! increment counters of their own, and hold each answer against all before ([`counter`]); in the end each node's
//! disk is read. Every so often one of nodes 2 and 3 is killed (SIGKILL) and comes back two seconds later. Node 1 is
//! never killed, so that there is a process whose memory can be watched over the whole run. That it does not lead
//! for ever, it is paused (SIGSTOP) before every other kill at which it leads, until another node does.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::RangedU64ValueParser;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cluster::Cluster;
use crate::kv::Kv;
use crate::temp::TempDir;
use crate::{Failure, replay};

mod counter;
mod memory;
mod verdict;
mod writers;

use memory::Memory;
use verdict::Verdict;
use writers::{Lives, Told, Writers, key};

const NODES: usize = 3;
/// The node that is never killed.
const SPARED: usize = 1;
const SEGMENT_BYTES: u64 = 16 << 20;
const SNAPSHOT_EVERY: &str = "100000";
/// How long a killed node stays away.
const AWAY: Duration = Duration::from_secs(2);
/// At which age processes that were started in the run are compared.
const GROWN: Duration = Duration::from_secs(10);
/// Between two looks at what is to be done.
const TICK: Duration = Duration::from_millis(50);
/// Between two looks at the memory.
const SAMPLE: Duration = Duration::from_secs(1);
/// Between two lines about where it is.
const LINE: Duration = Duration::from_secs(60);

#[derive(Args, Clone, Debug)]
pub(crate) struct Soak {
    /// How long the clients write
    #[arg(long, value_name = "N", default_value_t = 30.0, value_parser = parse_minutes)]
    minutes: f64,
    /// From one kill to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(3..=3_600))]
    kill_every: u64,
    /// How many connections write, each with 32 requests under way
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..=512))]
    clients: usize,
    /// Which nodes are killed follows from it; drawn if not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The verdict as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    let minutes = text.parse().ok();
    let minutes = minutes.filter(|minutes| (0.01..=10_000.0).contains(minutes));
    minutes.ok_or_else(|| "expected minutes from 0.01 to 10000".to_owned())
}

impl Soak {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(Failure::runtime)?;
        }
        let dir = TempDir::create("soak").map_err(Failure::runtime)?;
        let verdict = self.soak(dir.path(), &stop).map_err(Failure::runtime)?;
        let Some(verdict) = verdict else {
            return Err(Failure::runtime("interrupted"));
        };
        verdict.print(self.json);
        verdict.judge().map_err(Failure::runtime)
    }

    /// Runs it all; none if it was interrupted.
    fn soak(&self, dir: &Path, stop: &AtomicBool) -> io::Result<Option<Verdict>> {
        let seed = self.seed.unwrap_or_else(|| u64::from(std::process::id()));
        eprintln!("seed {seed}, {NODES} nodes below {}", dir.display());
        let exe = std::env::current_exe()?;
        let cluster = Cluster::new(exe, dir, NODES, SEGMENT_BYTES)?;
        let mut cluster = cluster.with(&["--snapshot-every", SNAPSHOT_EVERY]);
        for id in 1..=NODES {
            cluster.start(id)?;
        }
        cluster.wait_leader()?;
        let lives = Arc::new(Lives::new(NODES));
        let writers = Writers::start(&cluster.addrs(), self.clients, &lives);
        let mut run = Run::new(cluster, lives, writers, seed);
        run.until(
            Duration::from_secs_f64(self.minutes * 60.0),
            self.kill_every,
            stop,
        )?;
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        run.end(seed).map(Some)
    }
}

/// A run under way.
struct Run {
    cluster: Cluster,
    lives: Arc<Lives>,
    writers: Writers,
    start: Instant,
    random: u64,
    /// Who is down, and when it comes back.
    down: Option<(usize, Instant)>,
    /// When a leader was killed, and what tells of the next acknowledged write.
    failing_over: Option<(Instant, Receiver<Instant>)>,
    seen: Seen,
}

/// What was seen from outside.
#[derive(Default)]
struct Seen {
    kills: u64,
    /// Kills at which the spared node led.
    led: u64,
    pauses: u64,
    failovers: Vec<Duration>,
    memory: Memory,
    disk_max_bytes: u64,
}

impl Run {
    fn new(cluster: Cluster, lives: Arc<Lives>, writers: Writers, seed: u64) -> Self {
        Self {
            cluster,
            lives,
            writers,
            start: Instant::now(),
            random: seed,
            down: None,
            failing_over: None,
            seen: Seen::default(),
        }
    }

    fn until(&mut self, end: Duration, kill_every: u64, stop: &AtomicBool) -> io::Result<()> {
        let period = Duration::from_secs(kill_every);
        let (mut kill_at, mut sample_at, mut line_at) = (period, SAMPLE, LINE);
        while !stop.load(Ordering::Relaxed) {
            let now = self.start.elapsed();
            self.restart(now >= end)?;
            self.see_failover()?;
            if now >= end {
                return Ok(());
            }
            // The last one is back and has caught up some time before the end.
            if now >= kill_at && now + period / 2 < end {
                self.kill()?;
                // From now on: a machine that stood still for a while does not kill one after the other.
                kill_at = now + period;
            }
            if now >= sample_at {
                self.sample()?;
                sample_at += SAMPLE;
            }
            if now >= line_at {
                self.line();
                line_at += LINE;
            }
            if let Some((id, status)) = self.cluster.died() {
                let tail = self.cluster.stderr_tail(id);
                let what = format!("node {id} ended by itself ({status}): {tail}");
                return Err(io::Error::other(what));
            }
            std::thread::park_timeout(TICK);
        }
        Ok(())
    }

    /// Starts who is down, if it is time or nobody may be.
    fn restart(&mut self, all: bool) -> io::Result<()> {
        if let Some((id, at)) = self.down
            && (all || Instant::now() >= at)
        {
            self.cluster.start(id)?;
            self.lives.turn(id);
            self.down = None;
        }
        Ok(())
    }

    fn kill(&mut self) -> io::Result<()> {
        if self.failing_over.is_some() {
            let what = "no write was acknowledged between two kills";
            return Err(io::Error::other(what));
        }
        let mut leader = self.cluster.wait_leader()?;
        let victim = SPARED + 1 + self.draw(NODES - 1);
        if leader == SPARED {
            self.seen.led += 1;
        }
        if leader == SPARED && self.seen.led % 2 == 1 {
            let others = (1..=NODES).filter(|id| *id != SPARED);
            let wait = || self.cluster.wait_leader_among(others);
            leader = self.cluster.pause(SPARED, wait)?;
            self.seen.pauses += 1;
        }
        self.lives.turn(victim);
        let killed = Instant::now();
        self.cluster.kill(victim)?;
        self.seen.kills += 1;
        self.down = Some((victim, killed + AWAY));
        if victim == leader {
            self.failing_over = Some((killed, self.writers.shared.watch(killed)));
        }
        Ok(())
    }

    fn see_failover(&mut self) -> io::Result<()> {
        let Some((killed, next)) = &self.failing_over else {
            return Ok(());
        };
        match next.try_recv() {
            Ok(at) => {
                self.seen
                    .failovers
                    .push(at.saturating_duration_since(*killed));
                self.failing_over = None;
                Ok(())
            }
            Err(TryRecvError::Empty) => Ok(()),
            Err(gone) => Err(io::Error::other(gone)),
        }
    }

    fn sample(&mut self) -> io::Result<()> {
        for (_, pid) in self.cluster.pids() {
            self.seen.memory.sample(self.start.elapsed(), pid);
        }
        let mut bytes = 0;
        for id in 1..=NODES {
            bytes += disk_bytes(&self.cluster.node_dir(id))?;
        }
        self.seen.disk_max_bytes = self.seen.disk_max_bytes.max(bytes);
        Ok(())
    }

    fn line(&self) {
        let pid = self.spared_pid();
        eprintln!(
            "{:>6} s {:>12} acknowledged, {} kills, {} of a leader, node {SPARED} holds {} KiB",
            self.start.elapsed().as_secs(),
            self.writers.shared.acknowledged(),
            self.seen.kills,
            self.seen.failovers.len(),
            self.seen.memory.of(pid).last_kib,
        );
    }

    fn spared_pid(&self) -> u32 {
        let mut pids = self.cluster.pids();
        pids.find(|(id, _)| *id == SPARED).map_or(0, |(_, pid)| pid)
    }

    /// A number below `below` (a linear congruential generator: any even choice will do).
    fn draw(&mut self, below: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap_or(0) % below
    }

    /// Ends clients and nodes, and reads the counters back from each node's disk.
    fn end(mut self, seed: u64) -> io::Result<Verdict> {
        if self.failing_over.is_some() {
            let what = "no write was acknowledged after the last kill";
            return Err(io::Error::other(what));
        }
        let spared = self.spared_pid();
        let wrote = self.start.elapsed();
        let acknowledged = self.writers.shared.acknowledged();
        let told = self.writers.stop()?;
        eprintln!("the clients have ended; reading every counter back from each node's disk");
        let last_index = self.cluster.wait_equal()?;
        for id in 1..=NODES {
            self.cluster.stop(id)?;
        }
        let (lost, doubled, identical) = compare(&self.cluster, &told)?;
        let mut failovers = self.seen.failovers;
        failovers.sort_unstable();
        Ok(Verdict {
            seed,
            wrote,
            acknowledged,
            unknown: told.unknown,
            lost,
            doubled,
            identical,
            kills: self.seen.kills,
            pauses: self.seen.pauses,
            errors: told.errors,
            unexpected: told.unexpected,
            first_unexpected: told.first_unexpected,
            spared: self.seen.memory.of(spared),
            started: self.seen.memory.at_age(GROWN),
            memory_max_kib: self.seen.memory.max_kib(),
            disk_max_bytes: self.seen.disk_max_bytes,
            last_index,
            failovers,
        })
    }
}

/// What the writers' answers and each node's disk tell together: acknowledged writes lost and writes doubled, on the
/// node where most are, and whether the nodes hold the same.
fn compare(cluster: &Cluster, told: &Told) -> io::Result<(u64, u64, bool)> {
    let (mut lost, mut doubled) = (0, 0);
    let mut first: Option<Kv> = None;
    let mut identical = true;
    for id in 1..=cluster.size() {
        let store = replay::replay(&cluster.node_dir(id))?.store;
        let mut here = (0, 0);
        for (client, counters) in told.counters.iter().enumerate() {
            for (number, counter) in counters.iter().enumerate() {
                let mut counter = counter.clone();
                let found = store.number(key(client, number).as_bytes());
                counter.ended(u64::try_from(found).unwrap_or(0));
                here = (here.0 + counter.lost, here.1 + counter.doubled);
            }
        }
        (lost, doubled) = (here.0.max(lost), here.1.max(doubled));
        identical &= first.as_ref().is_none_or(|first| first.map == store.map);
        first.get_or_insert(store);
    }
    Ok((lost, doubled, identical))
}

/// What the files below a directory take on the disk.
fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(found) if found.is_dir() => bytes += disk_bytes(&entry.path())?,
            Ok(found) => bytes += found.blocks() * 512,
            // It was renamed or removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
