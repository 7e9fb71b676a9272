//! What a node's life begins with: its log, and the first entry that all logs share.

use std::path::Path;
use std::sync::Arc;

use super::check::Checker;
use super::disk::SimDisk;
use super::trace::Trace;
use crate::config::Config;
use crate::log::{Log, LogError, NewEntry, Recovered, encode_membership};
use crate::types::{
    ClusterId, EntryKind, HardState, LogId, LogIndex, Member, Membership, NodeId, Term, Time,
};
use crate::wal::{Preparer, WalOptions};

/// Where a node's log is on its disk.
pub(super) const DIR: &str = "/node/wal";
const CLUSTER: ClusterId = ClusterId(7);
/// What every log begins with.
const FIRST: LogId = LogId::new(Term(1), LogIndex(1));

/// Who looks on.
pub(super) struct Watch {
    pub(super) checker: Checker,
    pub(super) trace: Trace,
}

/// What a process is started with.
pub(super) struct Birth {
    pub(super) config: Config,
    pub(super) node: usize,
    pub(super) nodes: usize,
    pub(super) now: Time,
    pub(super) seed: u64,
}

/// The members of a cluster of so many.
fn members(nodes: usize) -> Vec<Member> {
    let member = |id| Member {
        id: NodeId(id),
        addr: String::new(),
        client_addr: String::new(),
    };
    (1..=nodes as u64).map(member).collect()
}

const fn first_state() -> HardState {
    HardState {
        term: FIRST.term,
        vote: None,
        commit: FIRST.index,
    }
}

fn with_first<T>(nodes: usize, run: impl FnOnce(NewEntry<'_>) -> T) -> T {
    run(NewEntry {
        term: FIRST.term,
        kind: EntryKind::Config,
        payload: &encode_membership(&Membership::of_voters(members(nodes))),
    })
}

/// What looks on at a cluster of so many.
pub(super) fn watch(nodes: usize) -> Watch {
    Watch {
        checker: with_first(nodes, |first| Checker::new(nodes, &first, first_state())),
        trace: Trace::new(),
    }
}

/// Writes what every log begins with.
///
/// # Errors
/// The log's.
pub(super) fn bootstrap(disk: &SimDisk, birth: &Birth) -> Result<(), LogError> {
    let (log, _) = open_log(disk, birth)?;
    let staged = with_first(birth.nodes, |first| {
        log.stage(first_state(), None, &[first])
    })?;
    log.wal().sync(staged)?;
    log.into_wal().close()?;
    Ok(())
}

pub(super) fn open_log(disk: &SimDisk, birth: &Birth) -> Result<(Log, Recovered), LogError> {
    let options = WalOptions::new(Path::new(DIR))
        .segment_bytes(birth.config.segment_bytes)
        .max_entry_bytes(birth.config.max_entry_bytes)
        .owner(CLUSTER, NodeId(birth.node as u64 + 1))
        .preparer(Preparer::Inline)
        .disk(Arc::new(disk.clone()));
    Log::open(options)
}
