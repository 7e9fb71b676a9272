//! Looking into a log without opening it: nothing is locked, cut or written.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::core::Found;
use super::error::{ReadError, WalError};
use super::format::{self, HEADER_BYTES};
use super::reader::{self, Stored};
use super::recover::{self, Survey, Torn};
use super::verify;
use crate::types::{Identity, LogIndex};
use crate::vfs::{Disk, StdDisk};

/// A log as its files have it at one moment.
///
/// Beside a process that has the log open, what that process is writing may be seen half, and is then told
/// as torn.
pub struct Inspection {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    survey: Survey,
}

/// One segment file of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The file's name.
    pub file: String,
    /// Its place among the segments.
    pub sequence: u64,
    /// Its id, which seeds its checksums.
    pub id: u64,
    /// The file's size in bytes.
    pub size: u64,
    /// How many of them are in use, the header's block included.
    pub used: u64,
    /// The first and last entry that live in it; none if no entry does.
    pub entries: Option<(LogIndex, LogIndex)>,
    /// What it is for at the moment.
    pub stage: Stage,
}

/// The stages of a segment's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Full, or ended by recovery; never written again.
    Sealed,
    /// Being written.
    Active,
    /// Made ahead, and empty.
    Prepared,
}

/// Looks into the log in `dir`.
///
/// # Errors
/// As [`WalOptions::open`](super::WalOptions::open), but for what only writing may meet. Damage in sealed
/// segments is found by [`Inspection::verify`].
pub fn open_read_only(dir: impl Into<PathBuf>) -> Result<Inspection, WalError> {
    open_read_only_on(Arc::new(StdDisk), dir)
}

/// As [`open_read_only`], on a given disk.
///
/// # Errors
/// Likewise.
pub fn open_read_only_on(
    disk: Arc<dyn Disk>,
    dir: impl Into<PathBuf>,
) -> Result<Inspection, WalError> {
    let dir = dir.into();
    let survey = recover::survey(&*disk, &dir, None)?;
    survey.open_tail();
    Ok(Inspection { dir, disk, survey })
}

impl Inspection {
    /// Whose log it is; none if there is no segment yet.
    #[must_use]
    pub const fn identity(&self) -> Option<Identity> {
        self.survey.identity
    }

    /// The first entry; one past [`Inspection::last`] if there is none.
    #[must_use]
    pub const fn first(&self) -> LogIndex {
        self.survey.index.first()
    }

    /// The last entry.
    #[must_use]
    pub const fn last(&self) -> LogIndex {
        self.survey.index.last
    }

    /// The state last written.
    #[must_use]
    pub fn state(&self) -> Option<&[u8]> {
        self.survey.state.as_deref()
    }

    /// What the next recovery would cut.
    #[must_use]
    pub const fn torn(&self) -> Option<&Torn> {
        self.survey.torn.as_ref()
    }

    /// The stretches of equal marks, each as its mark and first index, ascending.
    #[must_use]
    pub fn runs(&self) -> Vec<(u64, LogIndex)> {
        let runs = self.survey.index.runs().iter();
        runs.map(|run| (run.mark, run.first)).collect()
    }

    /// All segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let index = &self.survey.index;
        let active = self.survey.active();
        let used = index.spans.iter().map(|span| SegmentInfo {
            file: span.segment.name.clone(),
            sequence: span.segment.sequence,
            id: span.segment.id,
            size: span.segment.size,
            used: span.segment.published(),
            entries: span.live(index.floor),
            stage: match active {
                Some(active) if active == span.segment.sequence => Stage::Active,
                _ => Stage::Sealed,
            },
        });
        let unused = self.survey.unused.iter().map(|header| SegmentInfo {
            file: format::segment_name(header.sequence),
            sequence: header.sequence,
            id: header.id,
            size: header.size,
            used: HEADER_BYTES,
            entries: None,
            stage: Stage::Prepared,
        });
        used.chain(unused).collect()
    }

    /// One entry; its checksum is checked.
    ///
    /// # Errors
    /// As [`WalReader::get`](super::WalReader::get).
    pub fn get(&self, index: LogIndex) -> Result<Stored, ReadError> {
        let stretch = self.survey.index.locate(index, 1)?;
        Ok(reader::read_first(&stretch)?)
    }

    /// The entries of a range, in order; the first that fails ends it.
    pub fn range(
        &self,
        range: RangeInclusive<LogIndex>,
    ) -> impl Iterator<Item = Result<Stored, ReadError>> + '_ {
        let index = &self.survey.index;
        reader::entries(range, |first, most| {
            Ok(Found::File(index.locate(first, most)?))
        })
    }

    /// Reads every frame of every segment in use, and holds the footers against them, calling `progress` with the bytes read so far.
    ///
    /// # Errors
    /// The first [`WalError::Corruption`], or [`WalError::Io`].
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<(), WalError> {
        let mut read = 0;
        let mut before = None;
        for span in &self.survey.index.spans {
            before = Some(verify::verify(&*self.disk, &self.dir, span, before)?);
            read += span.segment.published();
            progress(read);
        }
        Ok(())
    }

    /// How many bytes [`Inspection::verify`] reads.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.survey
            .index
            .spans
            .iter()
            .map(|span| span.segment.published())
            .sum()
    }

    /// The directory that was looked into.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}
