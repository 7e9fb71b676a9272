//! What can be wrong with a snapshot.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Fault;
use crate::types::ClusterId;

/// Why a snapshot cannot be written or read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file is not whole, or not what was written.
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The file is something else.
    NotASnapshot {
        /// Which file.
        path: PathBuf,
    },
    /// A later version of this crate wrote it.
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest that can be read.
        supported: u32,
    },
    /// It uses features that must be known to read it, and are not.
    UnknownFeatures {
        /// Which file.
        path: PathBuf,
        /// Their bits.
        bits: u64,
    },
    /// It is of another cluster.
    Foreign {
        /// Which file.
        path: PathBuf,
        /// The cluster that it should be of.
        expected: ClusterId,
        /// The one that it is of.
        found: ClusterId,
    },
    /// The configuration is longer than there is room for.
    ConfigurationTooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// The state machine could not write its state, or not read it back.
    State(Arc<io::Error>),
    /// The disk failed.
    Io(Fault),
}

impl SnapshotError {
    pub(super) fn damaged(path: &Path, offset: u64, what: &'static str) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            offset,
            what,
        }
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { path, offset, what } => write!(
                f,
                "{}, at byte {offset}: {what}. Bring the file back, or remove the node's directory and let it \
                 join anew",
                path.display()
            ),
            Self::NotASnapshot { path } => write!(
                f,
                "{} is no snapshot, though it is named like one: move it elsewhere",
                path.display()
            ),
            Self::NewerFormat {
                path,
                found,
                supported,
            } => write!(
                f,
                "{} is of format version {found}, and this version reads up to {supported}: use a newer one",
                path.display()
            ),
            Self::UnknownFeatures { path, bits } => write!(
                f,
                "{} uses features {bits:#x} that this version does not know: use a newer one",
                path.display()
            ),
            Self::Foreign {
                path,
                expected,
                found,
            } => write!(
                f,
                "{} is of cluster {found}, and this node of cluster {expected}: move it to where it belongs",
                path.display()
            ),
            Self::ConfigurationTooLong { bytes } => {
                write!(
                    f,
                    "a configuration of {bytes} bytes is over the limit of 4 MiB"
                )
            }
            Self::State(error) => write!(f, "the state machine's snapshot: {error}"),
            Self::Io(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for SnapshotError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::State(error) => Some(&**error),
            Self::Io(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<Fault> for SnapshotError {
    fn from(fault: Fault) -> Self {
        Self::Io(fault)
    }
}
