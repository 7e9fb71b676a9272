//! Looking into a node's log without opening it: nothing is locked, cut or written.

use std::path::{Path, PathBuf};

use super::hard_state;
use super::reader::{LogError, entry};
use crate::types::{Entry, HardState, LogIndex};
use crate::wal::{self, Verified};

/// A node's log as its files have it at one moment.
pub struct Inspection {
    wal: wal::Inspection,
}

/// Looks into the log of the node whose directory is `dir`, or into the log that is `dir` itself.
///
/// # Errors
/// As [`wal::open_read_only`].
pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Inspection, LogError> {
    Ok(Inspection {
        wal: wal::open_read_only(wal_dir(dir.as_ref()))?,
    })
}

/// Reads all of the log of the node whose directory is `dir`, or of the log that is `dir` itself, and finds
/// all damage. Calls `progress` with the bytes read and the bytes there are.
///
/// # Errors
/// As [`wal::verify`].
pub fn verify(dir: impl AsRef<Path>, progress: impl FnMut(u64, u64)) -> Result<Verified, LogError> {
    Ok(wal::verify(wal_dir(dir.as_ref()), progress)?)
}

/// A node keeps its log in a directory of its own below.
fn wal_dir(dir: &Path) -> PathBuf {
    let below = dir.join("wal");
    if below.is_dir() {
        below
    } else {
        dir.to_path_buf()
    }
}

impl Inspection {
    /// The log's segments, and what else is below the entries.
    #[must_use]
    pub const fn wal(&self) -> &wal::Inspection {
        &self.wal
    }

    /// Term, vote and commit as last written; none in a log that never had a node.
    ///
    /// # Errors
    /// [`LogError::HardState`] if they cannot be decoded.
    pub fn hard_state(&self) -> Result<Option<HardState>, LogError> {
        let decoded = self.wal.state().map(hard_state::decode).transpose();
        let decoded = decoded.map_err(LogError::HardState)?;
        Ok(decoded.map(|(state, _)| state))
    }

    /// The entries from `first` to `last`, both included, as far as there are any. Stops after the first
    /// error. What is dropped meanwhile is left out.
    pub fn entries(
        &self,
        first: LogIndex,
        last: LogIndex,
    ) -> impl Iterator<Item = Result<Entry, LogError>> {
        let mut failed = false;
        self.wal.range(first..=last).map_while(move |stored| {
            if failed {
                return None;
            }
            let read = stored.map_err(LogError::from).and_then(entry);
            failed = read.is_err();
            Some(read)
        })
    }
}
