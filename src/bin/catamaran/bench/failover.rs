//! `bench failover`: how long nobody's write is acknowledged once the leader is killed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;

use super::{below, count};
use crate::cluster::Cluster;
use crate::json::Object;
use crate::load::Load;
use crate::{Failure, parse_nodes};

/// How long a write may take to be acknowledged after a kill.
const PATIENCE: Duration = Duration::from_secs(60);
/// From the return of a killed node to the next kill: every connection has come back by then.
const REST: Duration = Duration::from_millis(300);

#[derive(Args)]
pub(crate) struct Failover {
    /// Where to write; a new directory below it is used, and removed
    #[arg(long)]
    dir: PathBuf,
    /// How many nodes, an odd number from 3 to 9
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_nodes)]
    nodes: usize,
    /// How many times the leader is killed
    #[arg(long, value_name = "N", default_value = "20", value_parser = count())]
    kills: usize,
    /// Writers, each waiting for what it wrote
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    writers: usize,
    /// As `serve` has it
    #[arg(long, value_name = "N")]
    election_timeout_ms: Option<u64>,
    /// As `serve` has it
    #[arg(long, value_name = "N")]
    heartbeat_ms: Option<u64>,
    #[arg(long, value_name = "N", default_value = "67108864")]
    segment_bytes: u64,
    /// Prints one object
    #[arg(long)]
    json: bool,
}

/// What the kills came to.
struct Found {
    /// From each kill to the next acknowledged write, ascending.
    failovers: Vec<Duration>,
    /// By how much the term went up: by one a kill, unless votes were split.
    terms: u64,
    acknowledged: u64,
}

impl Failover {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if self.nodes < 3 {
            return Err(Failure::usage(
                "--nodes: without two others nobody goes on; 3 to 9",
            ));
        }
        below(&self.dir, |dir| {
            let found = self.measure(dir).map_err(Failure::runtime)?;
            self.report(&found);
            Ok(())
        })
    }

    fn measure(&self, dir: &Path) -> io::Result<Found> {
        let exe = std::env::current_exe()?;
        let mut cluster = Cluster::new(exe, dir, self.nodes, self.segment_bytes)?;
        let given = [
            ("--election-timeout-ms", self.election_timeout_ms),
            ("--heartbeat-ms", self.heartbeat_ms),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                cluster = cluster.with(&[name, &value.to_string()]);
            }
        }
        (1..=self.nodes).try_for_each(|id| cluster.start(id))?;
        let mut leader = cluster.wait_leader()?;
        let first = cluster.info(leader)?.term;
        let load = Load::start(&cluster.addrs(), self.writers);
        let mut failovers = Vec::with_capacity(self.kills);
        for kill in 1..=self.kills {
            std::thread::park_timeout(REST);
            let failover = fail_over(&mut cluster, &load, leader)?;
            eprintln!("{kill}: node {leader} was killed, {} ms", millis(failover));
            failovers.push(failover);
            cluster.start(leader)?;
            let back = leader;
            leader = cluster.wait_leader()?;
            cluster.wait_caught_up(back, leader)?;
        }
        let terms = cluster.info(leader)?.term - first;
        let written = load.stop();
        if let Some(why) = written.iter().find_map(|written| written.failed.clone()) {
            return Err(io::Error::other(format!("a writer gave up: {why}")));
        }
        let acknowledged = written.iter().map(|written| written.acknowledged.len());
        failovers.sort_unstable();
        Ok(Found {
            failovers,
            terms,
            acknowledged: acknowledged.sum::<usize>() as u64,
        })
    }

    fn report(&self, found: &Found) {
        let Found {
            failovers,
            terms,
            acknowledged,
        } = found;
        let at = |percent: usize| millis(failovers[(failovers.len() - 1) * percent / 100]);
        if self.json {
            let mut object = Object::new();
            object
                .number("kills", failovers.len())
                .number("failover_ms_p50", at(50))
                .number("failover_ms_p90", at(90))
                .number("failover_ms_max", at(100))
                .number("failover_ms_min", at(0))
                .number("terms", terms)
                .number("acknowledged", acknowledged);
            println!("{}", object.finish());
            return;
        }
        println!(
            "{} leaders killed, {terms} terms, {acknowledged} writes acknowledged",
            failovers.len()
        );
        println!(
            "to the next acknowledged write  p50 {} ms  p90 {} ms  max {} ms  min {} ms",
            at(50),
            at(90),
            at(100),
            at(0)
        );
    }
}

/// Kills the leader; gives how long it took until a write that was begun later was acknowledged.
fn fail_over(cluster: &mut Cluster, load: &Load, leader: usize) -> io::Result<Duration> {
    let killed = Instant::now();
    cluster.kill(leader)?;
    // Only now, so that nothing that the leader still acknowledged counts.
    let next = load.watch(killed).recv_timeout(PATIENCE);
    let next =
        next.map_err(|_| io::Error::other(format!("no write was acknowledged in {PATIENCE:?}")))?;
    Ok(next.saturating_duration_since(killed))
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}
