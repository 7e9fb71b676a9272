//! What a node begins with: the newest snapshot, and the log behind it.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Placed, config_of};
use crate::log::{Log, LogError, Recovered, decode_membership};
use crate::snapshot::{SnapshotError, SnapshotStore, Whole};
use crate::state_machine::StateMachine;
use crate::types::LogIndex;
use crate::vfs::Disk;
use crate::wal::WalError;

/// Where a start stands once snapshot and log are in line.
pub(crate) struct Restored {
    pub(crate) store: SnapshotStore,
    /// What the state machine was restored from.
    pub(crate) whole: Option<Arc<Whole>>,
    /// Newer ones, which were passed over.
    pub(crate) damaged: Vec<SnapshotError>,
}

/// Why a node cannot begin with its snapshots and its log.
pub(crate) enum RestoreError {
    Snapshot(SnapshotError),
    Log(LogError),
    /// The log begins behind its first entry, and no snapshot has what was before.
    Missing {
        dir: PathBuf,
        first: LogIndex,
    },
    /// A configuration that may count cannot be read.
    Configuration,
}

impl From<SnapshotError> for RestoreError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}

impl From<LogError> for RestoreError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<WalError> for RestoreError {
    fn from(error: WalError) -> Self {
        Self::Log(error.into())
    }
}

/// Restores an empty state machine from the newest whole snapshot in `dir` that the log goes on from, and brings
/// the log in line with it.
///
/// A damaged one is passed over only if the log has what it was of. The log of a node that fetched it may end
/// before, and other members count on this one to have all of it.
///
/// # Errors
/// [`RestoreError`].
pub(crate) fn restore(
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    log: &Log,
    recovered: &mut Recovered,
    machine: &mut impl StateMachine,
) -> Result<Restored, RestoreError> {
    let cluster = recovered.identity.cluster;
    let (store, found) = SnapshotStore::open(disk, &dir, cluster)?;
    let newest = found.newest.as_ref().map(|whole| whole.meta().last);
    let begins = recovered.before.index;
    let is_missing = newest.map_or(LogIndex::ZERO, |last| last.index) < begins;
    let reader = log.reader();
    let mut damaged = Vec::new();
    for (last, error) in found.damaged {
        if is_missing || !reader.holds(last) {
            return Err(error.into());
        }
        damaged.push(error);
    }
    if is_missing {
        let first = begins.next();
        return Err(RestoreError::Missing { dir, first });
    }
    if let Some(whole) = &found.newest {
        whole.restore(|format, from| machine.restore(format, from))?;
        log.follow(recovered, whole.meta().last)?;
    }
    Ok(Restored {
        store,
        whole: found.newest,
        damaged,
    })
}

impl Restored {
    /// The configurations that may count: the snapshot's, which is committed, and those behind it in the log.
    ///
    /// # Errors
    /// [`RestoreError::Log`] and [`RestoreError::Configuration`].
    pub(crate) fn configs(
        &self,
        log: &Log,
        recovered: &Recovered,
    ) -> Result<Vec<Placed>, RestoreError> {
        let reader = log.reader();
        let mut configs = Vec::new();
        if let Some(whole) = &self.whole {
            configs.push(config_of(whole.meta()).ok_or(RestoreError::Configuration)?);
        }
        let before = configs.first().map_or(LogIndex::ZERO, |(at, _)| *at);
        for &index in recovered.configs.iter().filter(|index| **index > before) {
            let entry = reader.get(index)?;
            let decoded = decode_membership(&entry.payload);
            configs.push((index, decoded.map_err(|_| RestoreError::Configuration)?));
        }
        Ok(configs)
    }
}
