//! Commits on three nodes in one process, each with a directory of its own and real syncs; clients that wait
//! each for its own entry. Messages go from memory to memory.

use std::path::Path;

use crate::raw::Raw;
use crate::table::{Rounds, hundredths, short};
use crate::turns::{Bare, Column, Contender, Worker, print, terms};
use crate::work::{Payload, Work};
use crate::{Options, Result};

mod catamaran;
mod openraft;
mod raft_rs;

const DEVICE: &str = "bare device";
const NODES: std::ops::RangeInclusive<u64> = 1..=3;

/// The clients of a cluster.
#[derive(Clone, Copy)]
struct Clients<'a> {
    count: usize,
    /// What each commits.
    entry: &'a [u8],
}

/// Starts a cluster whose nodes have directories in the one given.
type Start = for<'a> fn(&Path, Clients<'a>) -> Result<Box<dyn Worker + 'a>>;

/// All clusters, ours last. Where clients are tasks, it says so, but for openraft, whose are always.
const CLUSTERS: &[(&str, Start)] = &[
    ("raft-rs 0.7 + raft-engine 0.4", raft_rs::threaded),
    (
        "raft-rs 0.7 + raft-engine 0.4, awaited by tasks",
        raft_rs::awaited,
    ),
    ("openraft 0.10-alpha + raft-log 0.4", openraft::start),
    ("catamaran", catamaran::threaded),
    ("catamaran, awaited by tasks", catamaran::awaited),
];

/// Whether a contender is one of ours.
fn is_ours(name: &str) -> bool {
    name.starts_with("catamaran")
}

const WORK: [&str; 5] = ["t1-128", "t16-128", "t64-128", "t256-128", "t256-1024"];

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut columns = Vec::new();
    for work in options.work(&WORK)? {
        eprintln!("{work}");
        columns.push(measure(options, work)?);
    }
    let title = "Commits/s on three nodes (p50 in us); the bare device writes one entry";
    print(
        &format!("{title}; {}", terms(options)?),
        &columns,
        |column, row| {
            let latency = column.latency(row)?.median();
            Some(format!(
                "{} ({latency:.0})",
                short(column.rate(row)?.median())
            ))
        },
    );
    print("Lowest to highest round", &columns, |column, row| {
        Some(column.rate(row)?.spread(short))
    });
    print(
        "Of ours, the ratio to the best of the others (lowest to highest round)",
        &columns,
        |column, row| {
            let best = column.best(|name| !is_ours(name) && name != DEVICE)?;
            is_ours(column.name(row)).then(|| column.ratio(row, best).as_ref().map(ratio))?
        },
    );
    print(
        "Flushes of the device for each commit, of three nodes",
        &columns,
        |column, row| Some(hundredths(column.flushes(row)?.median())),
    );
    Ok(())
}

fn ratio(ratio: &Rounds) -> String {
    format!(
        "{} ({})",
        hundredths(ratio.median()),
        ratio.spread(hundredths)
    )
}

fn measure(options: &Options, work: Work) -> Result<Column> {
    let home = tempfile::tempdir_in(&options.dir)?;
    let payload = Payload::new();
    let entry = payload.entries(1, work.entry_bytes)[0];
    let raw = Raw::create(&home.path().join("raw"))?;
    let bare = Bare {
        raw,
        block: entry.to_vec(),
    };
    let mut contenders = vec![Contender {
        name: DEVICE,
        worker: Box::new(bare),
        entries: 1,
    }];
    for &(name, start) in CLUSTERS.iter().filter(|(name, _)| options.wants(name)) {
        let dir = home.path().join(name);
        std::fs::create_dir(&dir)?;
        let clients = Clients {
            count: work.threads,
            entry,
        };
        let worker = start(&dir, clients).map_err(|error| format!("{name}: {error}"))?;
        contenders.push(Contender {
            name,
            worker,
            entries: 1,
        });
    }
    Column::measure(options, work, contenders)
}
