//! How a log is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::error::WalError;
use super::format;
use super::scrub::Scrub;
use super::stock::Preparer;
use super::{Recovery, Wal};
use crate::config::check;
use crate::types::{ClusterId, NodeId};
use crate::vfs::{Disk, StdDisk};

/// What a segment must hold beside its largest entry: header block, first frames, footer.
const OVERHEAD_BYTES: u64 = 8 << 10;
const DEFAULT_MAX_ENTRY_BYTES: u64 = 4 << 20;

/// Says which log to open, and how.
#[derive(Clone)]
#[must_use = "options do nothing until `open`"]
pub struct WalOptions {
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u64,
    max_entry_bytes: Option<usize>,
    pub(super) owner: (ClusterId, NodeId),
    pub(super) disk: Arc<dyn Disk>,
    pub(super) preparer: Preparer,
    pub(super) fence_after: Duration,
    pub(super) scrub: Option<Scrub>,
}

impl WalOptions {
    /// The log in `dir`, which is created if need be.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            max_entry_bytes: None,
            owner: (ClusterId(0), NodeId(0)),
            disk: Arc::new(StdDisk),
            preparer: Preparer::Thread,
            fence_after: Duration::from_secs(1),
            scrub: None,
        }
    }

    /// The size of new segment files, in bytes. Default 64 MiB; 64 KiB to 1 GiB, a multiple of 4 KiB.
    pub const fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes;
        self
    }

    /// The largest payload, in bytes. Default 4 MiB, or a quarter of a segment if that is less; 1 byte to a
    /// segment less 8 KiB.
    pub const fn max_entry_bytes(mut self, bytes: usize) -> Self {
        self.max_entry_bytes = Some(bytes);
        self
    }

    /// Whose log it is. Default cluster 0, node 0. A log of another owner is refused.
    pub const fn owner(mut self, cluster: ClusterId, node: NodeId) -> Self {
        self.owner = (cluster, node);
        self
    }

    /// The disk the log is on. Default [`StdDisk`].
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Who prepares segments. Default [`Preparer::Thread`].
    pub const fn preparer(mut self, preparer: Preparer) -> Self {
        self.preparer = preparer;
        self
    }

    /// When a log that falls idle writes its fence, so that damage of the last batch too is told from a torn
    /// tail: at the earliest this long after its last sync, at the latest twice as long. Default 1 s, which
    /// costs a log that is synced less often than that one further sync each time, and a busy one nothing.
    /// Zero writes it at once, [`Duration::MAX`] never. A log with staged writes is not idle, since their
    /// sync will carry the fence. With [`Preparer::Inline`] nothing is written by itself: call
    /// [`Wal::fence`].
    pub const fn fence_after(mut self, idle: Duration) -> Self {
        self.fence_after = idle;
        self
    }

    /// Has the helper thread read sealed segments again and again, a part at a time and no faster than this
    /// says, nor than about 100 MiB a second, and report damage; it does not stop the log. Default off. With
    /// [`Preparer::Inline`] nothing is read by itself: call [`Wal::scrub_step`].
    ///
    /// No segment is prepared while a part is read, which is 1 MiB or one entry if that is longer. Pages that
    /// the system has in its cache are read from there, so damage of the disk below them shows once they are
    /// not.
    pub fn scrub(mut self, scrub: Scrub) -> Self {
        self.scrub = Some(scrub);
        self
    }

    /// Opens the log, after recovering what a crash may have left.
    ///
    /// # Errors
    /// [`WalError::Option`] for a value out of bounds, [`WalError::Locked`] if the log is open elsewhere,
    /// and what recovery may find: [`WalError::Corruption`], [`WalError::WrongSize`],
    /// [`WalError::MissingSegment`], [`WalError::MissingFirst`], [`WalError::DuplicateSegment`],
    /// [`WalError::Misplaced`], [`WalError::Unlinked`], [`WalError::Foreign`],
    /// [`WalError::ForeignSegment`], [`WalError::NotALog`], [`WalError::NewerFormat`],
    /// [`WalError::UnknownFeatures`]; nothing is changed then. [`WalError::NoDirectory`],
    /// [`WalError::ReadOnly`], [`WalError::Denied`], [`WalError::NoSpace`] and [`WalError::Io`] as the disk
    /// says.
    pub fn open(self) -> Result<(Wal, Recovery), WalError> {
        let max_entry_bytes = self.check()?;
        Wal::open(self, max_entry_bytes).map_err(WalError::at_open)
    }

    fn check(&self) -> Result<usize, WalError> {
        const SEGMENT: &str = "from 64 KiB to 1 GiB, a multiple of 4 KiB";
        check(
            "segment_bytes",
            self.segment_bytes,
            (64 << 10, 1 << 30),
            SEGMENT,
        )?;
        check(
            "segment_bytes",
            self.segment_bytes % format::HEADER_BYTES,
            (0, 0),
            SEGMENT,
        )?;
        let most = self.segment_bytes - OVERHEAD_BYTES;
        let default = DEFAULT_MAX_ENTRY_BYTES.min(self.segment_bytes / 4);
        let bytes = self.max_entry_bytes.map_or(default, |bytes| bytes as u64);
        check(
            "max_entry_bytes",
            bytes,
            (1, most),
            "from 1 to segment_bytes less 8 KiB",
        )?;
        if let Some(scrub) = &self.scrub {
            let bounds = (1, u64::MAX);
            check("scrub", scrub.bytes_per_s, bounds, "at least 1 byte/s")?;
        }
        // At most 1 GiB.
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}
