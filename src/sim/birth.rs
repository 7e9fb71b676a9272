//! What a node's life begins with: its log, and the first entry that all logs share.

use std::path::Path;
use std::sync::Arc;

use super::check::Checker;
use super::disk::SimDisk;
use super::trace::Trace;
use crate::config::Config;
use crate::log::{Log, LogError, NewEntry, Recovered, encode_membership};
use crate::snapshot::Whole;
use crate::types::{
    ClusterId, EntryKind, HardState, LogId, LogIndex, Member, Membership, NodeId, Payload, Term,
    Time,
};
use crate::wal::{Preparer, WalOptions};

/// Where a node's log is on its disk.
pub(super) const DIR: &str = "/node/wal";
/// Where its snapshots are.
pub(super) const SNAPSHOTS: &str = "/node/snapshots";
const CLUSTER: ClusterId = ClusterId(7);
/// What every log begins with.
const FIRST: LogId = LogId::new(Term(1), LogIndex(1));

/// Who looks on.
pub(super) struct Watch {
    pub(super) checker: Checker,
    pub(super) trace: Trace,
    /// How many turns of consensus left proposals waiting.
    pub(super) gathered: u64,
}

/// What a process is started with.
pub(super) struct Birth {
    pub(super) config: Config,
    pub(super) node: usize,
    /// How many members the cluster begins with; nodes beyond are to join.
    pub(super) members: usize,
    pub(super) now: Time,
    pub(super) seed: u64,
    /// How much of a snapshot goes at once.
    pub(super) piece_bytes: usize,
}

/// What a process found when it began.
pub(super) struct Found {
    pub(super) log: Recovered,
    pub(super) snapshot: Option<Arc<Whole>>,
}

/// A node as configurations have it.
pub(super) fn member(id: NodeId) -> Member {
    Member {
        id,
        addr: format!("node-{id}"),
        client_addr: String::new(),
    }
}

/// The members of a cluster of so many.
pub(super) fn members(count: usize) -> Vec<Member> {
    let ids = (1..=count as u64).map(NodeId);
    ids.map(member).collect()
}

const fn first_state() -> HardState {
    HardState {
        term: FIRST.term,
        vote: None,
        commit: FIRST.index,
    }
}

fn with_first<T>(count: usize, run: impl FnOnce(NewEntry<'_>) -> T) -> T {
    run(NewEntry {
        term: FIRST.term,
        kind: EntryKind::Config,
        payload: Payload::Borrowed(&encode_membership(&Membership::of_voters(members(count)))),
    })
}

/// What looks on at a cluster of so many members and nodes.
pub(super) fn watch(members: usize, nodes: usize) -> Watch {
    let counts = (members, nodes);
    Watch {
        checker: with_first(members, |first| Checker::new(counts, &first, first_state())),
        trace: Trace::new(),
        gathered: 0,
    }
}

/// Writes what every log begins with.
///
/// # Errors
/// The log's.
pub(super) fn bootstrap(disk: &SimDisk, birth: &Birth) -> Result<(), LogError> {
    let (log, _) = open_log(disk, birth)?;
    let staged = with_first(birth.members, |first| {
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
