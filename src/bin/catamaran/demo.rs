//! `demo`: a cluster under load loses its leader, and nothing else.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cluster::Cluster;
use crate::json::Object;
use crate::load::{Load, Written};
use crate::temp::TempDir;
use crate::{Failure, parse_nodes, replay};

const WRITERS: usize = 8;
const SEGMENT_BYTES: u64 = 4 << 20;
/// From one kill to the next.
const ROUND: Duration = Duration::from_secs(6);
/// How long the killed leader stays away.
const AWAY: Duration = Duration::from_secs(2);
/// Between two lines about where everyone is.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Args, Clone, Debug)]
pub(crate) struct Demo {
    /// How many nodes, an odd number from 1 to 9
    #[arg(long, default_value_t = 3, value_parser = parse_nodes)]
    nodes: usize,
    /// How long the writers write
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// The verdict as one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// What the demo found.
struct Verdict {
    acknowledged: u64,
    unknown: u64,
    found: u64,
    lost: u64,
    kills: usize,
    failover: Option<Duration>,
    logs_identical: bool,
    last_index: u64,
}

impl Demo {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(Failure::runtime)?;
        }
        let dir = TempDir::create("demo").map_err(Failure::runtime)?;
        let verdict = self.show(dir.path(), &stop).map_err(Failure::runtime)?;
        let Some(verdict) = verdict else {
            return Err(Failure::runtime("interrupted"));
        };
        verdict.print(self.json);
        if verdict.lost == 0 && verdict.logs_identical && verdict.found == verdict.acknowledged {
            return Ok(());
        }
        Err(Failure::runtime(
            "acknowledged writes were lost, or the logs differ",
        ))
    }

    /// Runs it all; none if it was interrupted.
    fn show(&self, dir: &Path, stop: &AtomicBool) -> io::Result<Option<Verdict>> {
        let exe = std::env::current_exe()?;
        let mut cluster = Cluster::new(exe, dir, self.nodes, SEGMENT_BYTES)?;
        let screen = Screen::new(self.nodes);
        screen.say(&format!("{} nodes below {}", self.nodes, dir.display()));
        for id in 1..=self.nodes {
            cluster.start(id)?;
        }
        let leader = cluster.wait_leader()?;
        screen.say(&format!("node {leader} leads; {WRITERS} writers begin"));
        let load = Load::start(&cluster.addrs(), WRITERS);
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let failovers = kill_leaders(&mut cluster, &load, end, &screen, stop)?;
        let written = load.stop();
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(why) = written.iter().find_map(|written| written.failed.clone()) {
            return Err(io::Error::other(format!("a writer gave up: {why}")));
        }
        screen.say("the writers have ended; waiting until all nodes have the same log");
        let last_index = cluster.wait_equal()?;
        for id in 1..=self.nodes {
            cluster.stop(id)?;
        }
        screen.say(
            "all nodes are stopped; reading every acknowledged write back from each one's disk",
        );
        check(&cluster, &written, &failovers, last_index).map(Some)
    }
}

/// Kills the leader again and again until `end`, once at least; gives how long each failover took.
fn kill_leaders(
    cluster: &mut Cluster,
    load: &Load,
    end: Instant,
    screen: &Screen,
    stop: &AtomicBool,
) -> io::Result<Vec<Duration>> {
    let mut failovers = Vec::new();
    let now = Instant::now();
    let mut kill_at = now + ROUND.min(end.saturating_duration_since(now)) / 3;
    let mut restart: Option<(usize, Instant)> = None;
    while !stop.load(Ordering::Relaxed) && (Instant::now() < end || restart.is_some()) {
        let now = Instant::now();
        if let Some((id, at)) = restart
            && now >= at.min(end)
        {
            cluster.start(id)?;
            screen.say(&format!("node {id} is back"));
            restart = None;
        }
        if now >= kill_at && now < end && restart.is_none() {
            let leader = cluster.wait_leader()?;
            // With one node alone there is nobody to go on; it comes back at once.
            let away = if cluster.size() == 1 {
                Duration::ZERO
            } else {
                AWAY
            };
            let killed = Instant::now();
            cluster.kill(leader)?;
            screen.say(&format!("node {leader} led, and was killed"));
            let next = load.watch(killed);
            if cluster.size() == 1 {
                cluster.start(leader)?;
            } else {
                restart = Some((leader, killed + away));
            }
            let next = next.recv_timeout(Duration::from_secs(60));
            let next = next.map_err(|_| io::Error::other("no write was acknowledged in 60 s"))?;
            let failover = next.saturating_duration_since(killed);
            screen.say(&format!(
                "the next write was acknowledged after {} ms",
                failover.as_millis()
            ));
            failovers.push(failover);
            kill_at = killed + ROUND;
        }
        if let Some((id, status)) = cluster.died() {
            let tail = cluster.stderr_tail(id);
            return Err(io::Error::other(format!(
                "node {id} ended by itself ({status}): {tail}"
            )));
        }
        screen.look(cluster, load);
        std::thread::park_timeout(LOOK);
    }
    Ok(failovers)
}

/// Reads each node's log as its disk has it, and looks every acknowledged write up in each.
fn check(
    cluster: &Cluster,
    written: &[Written],
    failovers: &[Duration],
    last_index: u64,
) -> io::Result<Verdict> {
    let mut digests = Vec::new();
    let mut found = u64::MAX;
    for id in 1..=cluster.size() {
        let mut replayed = replay::replay(&cluster.node_dir(id))?;
        found = found.min(replayed.count_found(written));
        // A leader that is stopped hands over: who stopped later may have a new one's empty entry behind.
        replayed
            .entries
            .retain(|entry| entry.id.index.0 <= last_index);
        digests.push(replayed.entries);
    }
    let acknowledged = written
        .iter()
        .map(|written| written.acknowledged.len() as u64)
        .sum();
    Ok(Verdict {
        acknowledged,
        unknown: written.iter().map(|written| written.unknown).sum(),
        found,
        lost: acknowledged - found,
        kills: failovers.len(),
        failover: failovers.iter().copied().max(),
        logs_identical: digests.windows(2).all(|pair| pair[0] == pair[1]),
        last_index,
    })
}

impl Verdict {
    fn print(&self, json: bool) {
        let failover_ms = self.failover.map_or(0, |failover| failover.as_millis());
        if json {
            let mut object = Object::new();
            object
                .number("acknowledged", self.acknowledged)
                .number("found", self.found)
                .number("lost", self.lost)
                .number("failover_ms", failover_ms)
                .boolean("logs_identical", self.logs_identical)
                .number("unknown", self.unknown)
                .number("kills", self.kills)
                .number("last_index", self.last_index);
            println!("{}", object.finish());
            return;
        }
        println!("leaders killed        {}", self.kills);
        println!(
            "slowest failover      {failover_ms} ms from the kill to the next acknowledged write"
        );
        println!("writes acknowledged   {}", self.acknowledged);
        println!("  found on every disk {}", self.found);
        println!("  lost                {}", self.lost);
        println!(
            "outcome unknown       {} (cut off by a kill; not counted above)",
            self.unknown
        );
        let identical = if self.logs_identical {
            "identical"
        } else {
            "DIFFERENT"
        };
        println!(
            "logs                  {identical}, {} entries on each node",
            self.last_index
        );
    }
}

/// Shows where everyone is: a line a node on a terminal, plain lines elsewhere. All on stderr.
struct Screen {
    bars: Option<(MultiProgress, Vec<ProgressBar>)>,
}

impl Screen {
    fn new(nodes: usize) -> Self {
        if !io::stderr().is_terminal() {
            return Self { bars: None };
        }
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("{msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = |_| all.add(ProgressBar::new(0).with_style(style.clone()));
        let bars = (0..=nodes).map(bar).collect();
        Self {
            bars: Some((all, bars)),
        }
    }

    fn say(&self, text: &str) {
        match &self.bars {
            // A screen that cannot be written to shows nothing.
            Some((all, _)) => drop(all.println(text)),
            None => eprintln!("{text}"),
        }
    }

    fn look(&self, cluster: &Cluster, load: &Load) {
        let mut line = format!("{:>8} acknowledged", load.acknowledged());
        for id in 1..=cluster.size() {
            let place = match cluster.info(id) {
                Ok(info) => format!(
                    "node {id}: {:<12} term {:<3} last {:<8} committed {:<8} applied {}",
                    info.role, info.term, info.last, info.committed, info.applied
                ),
                Err(_) => format!("node {id}: down"),
            };
            match &self.bars {
                Some((_, bars)) => bars[id].set_message(place),
                None => line.push_str(&format!(" | {place}")),
            }
        }
        match &self.bars {
            Some((_, bars)) => bars[0].set_message(line),
            None => eprintln!("{line}"),
        }
    }
}
