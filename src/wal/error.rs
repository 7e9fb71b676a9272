//! What can go wrong with a log, and what to do about it.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::error::{Fault, OptionError};
use crate::types::{ClusterId, Identity, LogIndex, NodeId};

/// Why a log could not be opened, written or synced.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WalError {
    /// Another process, or another handle of this one, has the log open.
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The log belongs to another member.
    Foreign {
        /// Its first segment.
        path: PathBuf,
        /// Whose log was to be opened.
        expected: (ClusterId, NodeId),
        /// Whose log it is.
        found: Identity,
    },
    /// A segment of another log, or of another life of this one, stands among those of this one.
    ForeignSegment {
        /// The segment.
        path: PathBuf,
        /// Whose the others are.
        expected: Identity,
        /// Whose it is.
        found: Identity,
    },
    /// A later release wrote the segment.
    NewerFormat {
        /// The segment.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// The newest version this release reads.
        supported: u32,
    },
    /// The segment uses features that this release does not know and that it must know to read it.
    UnknownFeatures {
        /// The segment.
        path: PathBuf,
        /// The bits of the incompatible-features mask that are not known.
        bits: u64,
    },
    /// The file has the name of a segment, but is none.
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that had been made durable are not what was written. Nothing was changed.
    Corruption {
        /// The name of the segment's file.
        segment: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// Which entry it was, where that can be told.
        index: Option<LogIndex>,
        /// What is wrong there.
        what: &'static str,
    },
    /// A segment between others is gone, or the one before those that were prepared.
    MissingSegment {
        /// The name of the file that should be there.
        segment: String,
    },
    /// The oldest segments are gone, though entries in them had not been dropped.
    MissingFirst {
        /// The name of the oldest file that is there.
        segment: String,
        /// The first entry that should be there.
        first: LogIndex,
    },
    /// A segment stands under the name of another one: files were exchanged or renamed.
    Misplaced {
        /// The name of the file.
        segment: String,
        /// The name that it had.
        named: String,
    },
    /// A segment does not follow the one before it, though both are of this log: one of the two is of another
    /// time, out of a backup or of a copy that went its own way.
    Unlinked {
        /// The name of the segment's file.
        segment: String,
        /// The name of the one before it.
        previous: String,
    },
    /// A segment's file was shortened or prolonged.
    WrongSize {
        /// The name of the file.
        segment: String,
        /// How long it was made, in bytes.
        expected: u64,
        /// How long it is.
        found: u64,
    },
    /// Two files say that they are the same segment.
    DuplicateSegment {
        /// The names of the two files.
        segments: [String; 2],
    },
    /// The process that has the log open dropped the segment while it was read: look again.
    Dropped {
        /// The name of the segment's file.
        segment: String,
    },
    /// There is no such directory, or it is none.
    NoDirectory(Fault),
    /// The log is on a file system that cannot be written to.
    ReadOnly(Fault),
    /// The system does not let this user read or write the log.
    Denied(Fault),
    /// A call to the disk failed.
    Io(Fault),
    /// A write or sync failed earlier, of the log or of its next segment, and nothing is known of what the disk
    /// holds since then. Open the log again: what is found then is durable.
    Failed(Fault),
    /// There is no room for the next segment. Nothing was lost: free some space and call again.
    NoSpace(Fault),
    /// A payload or state is over its limit.
    TooLarge {
        /// Its length.
        bytes: usize,
        /// What it may be.
        limit: usize,
    },
    /// The log's order would be broken by this write, and nothing was written.
    OutOfOrder {
        /// What was wrong with it.
        what: &'static str,
        /// The entry it was about.
        index: LogIndex,
    },
    /// An option has a value that cannot be used.
    Option(OptionError),
    /// The log was closed.
    Closed,
}

impl WalError {
    /// Whether it says that the files are not what was written: bytes, or whole segments.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Corruption { .. }
                | Self::WrongSize { .. }
                | Self::MissingSegment { .. }
                | Self::MissingFirst { .. }
                | Self::DuplicateSegment { .. }
                | Self::Misplaced { .. }
                | Self::Unlinked { .. }
                | Self::Foreign { .. }
                | Self::ForeignSegment { .. }
                | Self::NotALog { .. }
        )
    }

    /// Tells those failures apart that, when a log is opened, say what to do about them.
    pub(super) fn at_open(self) -> Self {
        match self {
            Self::Io(fault) | Self::Failed(fault) => match fault.source.kind() {
                // A file of the log that is gone is another matter; one in place of a directory is not.
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::AlreadyExists
                    if fault.operation != "open" =>
                {
                    Self::NoDirectory(fault)
                }
                ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(fault),
                ErrorKind::PermissionDenied => Self::Denied(fault),
                _ => Self::Io(fault),
            },
            other => other,
        }
    }
}

impl WalError {
    /// The name of the segment's file that it is about, if it is about one.
    #[must_use]
    pub fn segment(&self) -> Option<&str> {
        match self {
            Self::Corruption { segment, .. }
            | Self::MissingSegment { segment }
            | Self::MissingFirst { segment, .. }
            | Self::Misplaced { segment, .. }
            | Self::Unlinked { segment, .. }
            | Self::WrongSize { segment, .. }
            | Self::DuplicateSegment {
                segments: [_, segment],
            }
            | Self::Dropped { segment } => Some(segment),
            Self::Foreign { path, .. }
            | Self::ForeignSegment { path, .. }
            | Self::NewerFormat { path, .. }
            | Self::UnknownFeatures { path, .. }
            | Self::NotALog { path }
            | Self::Io(Fault { path, .. }) => path.file_name()?.to_str(),
            _ => None,
        }
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { path } => write!(
                f,
                "{} is held by another process: stop it, or choose another directory",
                path.display()
            ),
            Self::Foreign {
                path,
                expected,
                found,
            } => write!(
                f,
                "{} belongs to cluster {} node {} (incarnation {:016x}), not to cluster {} node {}: choose the right directory",
                path.display(),
                found.cluster,
                found.node,
                found.incarnation,
                expected.0,
                expected.1
            ),
            Self::ForeignSegment {
                path,
                expected,
                found,
            } => write!(
                f,
                "{} is a segment of cluster {} node {} (incarnation {:016x}), and the others are of cluster {} node {} (incarnation {:016x}): move it out of the directory, and bring back what it replaced",
                path.display(),
                found.cluster,
                found.node,
                found.incarnation,
                expected.cluster,
                expected.node,
                expected.incarnation
            ),
            Self::NewerFormat {
                path,
                found,
                supported,
            } => write!(
                f,
                "{} has format version {found}, and this release reads up to {supported}: use a later release",
                path.display()
            ),
            Self::UnknownFeatures { path, bits } => write!(
                f,
                "{} needs features {bits:#x}, which this release does not know: use a later release",
                path.display()
            ),
            Self::NotALog { path } => write!(
                f,
                "{} does not begin as a log segment: if it never was one, move it out of the directory; if it was, restore this member from its peers or a backup",
                path.display()
            ),
            Self::Corruption {
                segment,
                offset,
                index,
                what,
            } => {
                write!(f, "{segment} is damaged at offset {offset}")?;
                if let Some(index) = index {
                    write!(f, ", entry {index}")?;
                }
                write!(
                    f,
                    ": {what}; it was durable once, so it is not cut: restore this member from its peers or a backup"
                )
            }
            Self::MissingSegment { segment } => write!(
                f,
                "segment {segment} is missing: bring it back, or restore this member from its peers or a backup"
            ),
            Self::MissingFirst { segment, first } => write!(
                f,
                "the segments before {segment} are missing, and entry {first} with them: bring them back, or restore this member from its peers or a backup"
            ),
            Self::Misplaced { segment, named } => write!(
                f,
                "{segment} holds the segment that was named {named}: give the files their names back"
            ),
            Self::Unlinked { segment, previous } => write!(
                f,
                "{segment} does not follow {previous}: one of them is of another time; bring back the right one, or restore this member from its peers or a backup"
            ),
            Self::WrongSize {
                segment,
                expected,
                found,
            } => write!(
                f,
                "{segment} is {found} bytes long and was made with {expected}: restore this member from its peers or a backup"
            ),
            Self::DuplicateSegment {
                segments: [one, other],
            } => write!(
                f,
                "{one} and {other} are the same segment: remove the one that was copied"
            ),
            Self::Dropped { segment } => write!(
                f,
                "{segment} was dropped by the process that has the log open: look again"
            ),
            Self::NoDirectory(fault) => write!(f, "{fault}; check the path of the log"),
            Self::ReadOnly(fault) => write!(
                f,
                "{fault}; make the file system writable, or only look into the log, which writes nothing"
            ),
            Self::Denied(fault) => write!(
                f,
                "{fault}; let this user read and write the log's directory and the files in it"
            ),
            Self::Io(fault) => fault.fmt(f),
            Self::Failed(fault) => write!(
                f,
                "the log stopped at an earlier error: {fault}; open it again"
            ),
            Self::NoSpace(fault) => write!(
                f,
                "no room for the next segment: {fault}; free some space and try again"
            ),
            Self::TooLarge { bytes, limit } => {
                write!(f, "{bytes} bytes are over the limit of {limit}")
            }
            Self::OutOfOrder { what, index } => write!(f, "{what} at entry {index}"),
            Self::Option(error) => error.fmt(f),
            Self::Closed => f.write_str("the log is closed"),
        }
    }
}

impl std::error::Error for WalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoDirectory(fault)
            | Self::ReadOnly(fault)
            | Self::Denied(fault)
            | Self::Io(fault)
            | Self::Failed(fault)
            | Self::NoSpace(fault) => Some(fault),
            Self::Option(error) => Some(error),
            Self::Locked { .. }
            | Self::Foreign { .. }
            | Self::ForeignSegment { .. }
            | Self::NewerFormat { .. }
            | Self::UnknownFeatures { .. }
            | Self::NotALog { .. }
            | Self::Corruption { .. }
            | Self::MissingSegment { .. }
            | Self::MissingFirst { .. }
            | Self::Misplaced { .. }
            | Self::Unlinked { .. }
            | Self::WrongSize { .. }
            | Self::DuplicateSegment { .. }
            | Self::Dropped { .. }
            | Self::TooLarge { .. }
            | Self::OutOfOrder { .. }
            | Self::Closed => None,
        }
    }
}

impl From<Fault> for WalError {
    fn from(fault: Fault) -> Self {
        Self::Io(fault)
    }
}

impl From<OptionError> for WalError {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}

/// Why an entry could not be read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// It was dropped with the prefix of the log.
    Compacted {
        /// The first entry that is still there.
        first: LogIndex,
    },
    /// It was not written yet, or was truncated.
    NotYet {
        /// The last entry there is.
        last: LogIndex,
    },
    /// It should be there and could not be read.
    Wal(WalError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compacted { first } => {
                write!(f, "the entry was dropped; the log begins at {first}")
            }
            Self::NotYet { last } => {
                write!(f, "there is no such entry yet; the log ends at {last}")
            }
            Self::Wal(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Wal(error) => Some(error),
            Self::Compacted { .. } | Self::NotYet { .. } => None,
        }
    }
}

impl From<WalError> for ReadError {
    fn from(error: WalError) -> Self {
        Self::Wal(error)
    }
}
