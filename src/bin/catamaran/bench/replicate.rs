//! `bench replicate`: commits on a cluster.

use std::path::{Path, PathBuf};

use clap::Args;

use super::clients::{Processes, Run, Target, Work};
use super::measured::{Measured, TURN, in_turns};
use super::nodes::Nodes;
use super::raw::Raw;
use super::switches::{Look, Switches};
use super::{below, count, seconds};
use crate::json::Object;
use crate::serve::with_segments;
use crate::{Failure, parse_nodes};

#[derive(Args)]
pub(crate) struct Replicate {
    /// Where to write; a new directory below it is used, and removed
    #[arg(long)]
    dir: PathBuf,
    /// How many nodes, an odd number from 1 to 9
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_nodes)]
    nodes: usize,
    /// Clients, each waiting for what it proposed
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    clients: usize,
    /// The length of an entry
    #[arg(long, value_name = "N", default_value = "128", value_parser = count())]
    entry_bytes: usize,
    /// Proposals that a client has under way
    #[arg(long, value_name = "N", default_value = "1", value_parser = count())]
    inflight: usize,
    /// How long to measure the cluster, and as long again the device
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds())]
    seconds: u64,
    #[arg(long, value_name = "N", default_value = "67108864")]
    segment_bytes: u64,
    /// Runs each node as a process of its own, and asks over TCP
    #[arg(long)]
    tcp: bool,
    /// Has the clients be tasks of one thread, which await what they proposed; over TCP one thread serves them anyway
    #[arg(long, conflicts_with = "tcp")]
    tasks: bool,
    /// Prints one object
    #[arg(long)]
    json: bool,
}

impl Replicate {
    pub(crate) fn run(self) -> Result<(), Failure> {
        below(&self.dir, |dir| self.measure(dir))
    }

    fn measure(&self, dir: &Path) -> Result<(), Failure> {
        let entry = vec![7; self.entry_bytes];
        let mut device = Raw::create(&dir.join("raw")).map_err(Failure::runtime)?;
        let target: Box<dyn Target> = if self.tcp {
            Box::new(Processes::start(dir, self.nodes, self.segment_bytes, &[])?)
        } else {
            let options = with_segments(self.segment_bytes);
            Box::new(Nodes::start(dir, self.nodes, &options).map_err(Failure::usage)?)
        };
        let (mut raw, mut ours) = (Measured::new()?, Measured::new()?);
        let work = Work {
            clients: self.clients,
            entry: &entry,
            inflight: self.inflight,
            time: TURN,
            run: if self.tasks { Run::Tasks } else { Run::Threads },
        };
        target.commit(&work, &mut Measured::new()?)?;
        let mut switches = Switches::default();
        in_turns(
            self.seconds,
            || raw.device(&mut device, &entry, 1),
            || {
                switches.add(turn(&*target, &work, &mut ours)?);
                Ok(())
            },
        )?;
        self.report(&ours, &raw, switches);
        Ok(())
    }

    fn report(&self, ours: &Measured, raw: &Measured, switches: Switches) {
        let ratio = ours.micros(0.5) / raw.micros(0.5);
        let voluntary = ours.per_entry(switches.voluntary);
        let involuntary = ours.per_entry(switches.involuntary);
        if self.json {
            let mut object = Object::new();
            object
                .number("commits_per_s", format!("{:.0}", ours.rate()))
                .number("p50_us", format!("{:.1}", ours.micros(0.5)))
                .number("p99_us", format!("{:.1}", ours.micros(0.99)))
                .number("raw_fdatasync_p50_us", format!("{:.1}", raw.micros(0.5)))
                .number("p50_to_raw", format!("{ratio:.3}"))
                .number("voluntary_switches_per_commit", format!("{voluntary:.3}"))
                .number(
                    "involuntary_switches_per_commit",
                    format!("{involuntary:.3}"),
                );
            println!("{}", object.finish());
            return;
        }
        println!(
            "cluster {:>10.0} commits/s  p50 {:>7.1} us  p99 {:>7.1} us",
            ours.rate(),
            ours.micros(0.5),
            ours.micros(0.99)
        );
        println!(
            "device  {:>10.0} syncs/s    p50 {:>7.1} us  p99 {:>7.1} us",
            raw.rate(),
            raw.micros(0.5),
            raw.micros(0.99)
        );
        println!("p50 / device's p50 {ratio:.3}");
        println!(
            "context switches of the nodes' threads: {voluntary:.2} a commit voluntary, {involuntary:.2} not"
        );
    }
}

/// One turn, and the context switches of the nodes' threads in it. Clients in this process have threads of their own
/// for as long as it takes, which are not counted.
fn turn(target: &dyn Target, work: &Work<'_>, ours: &mut Measured) -> Result<Switches, Failure> {
    let pids = target.pids();
    let before = Look::at(&pids).map_err(Failure::runtime)?;
    target.commit(work, ours)?;
    let after = Look::at(&pids).map_err(Failure::runtime)?;
    Ok(after.since(&before))
}
