//! Looking at a log without opening it: no lock is taken, nothing is cut, nothing is written.
//!
//! A log that somebody writes at the same time may look torn at its end.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::Stored;
use super::error::{ReadError, WalError};
use super::format::{self, Ending, HEADER_BYTES, Kind};
use super::index::{Index, Segment};
use super::reader::read_record;
use super::recover::{Survey, Torn, survey};
use super::scan::{Image, Stop};
use crate::error::Fault;
use crate::types::{Identity, LogIndex};
use crate::vfs::{Disk, StdDisk};

/// One segment file of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The file's name.
    pub file: String,
    /// Its place among the segments.
    pub sequence: u64,
    /// Its unique id.
    pub id: u64,
    /// The file's length, in bytes.
    pub size: u64,
    /// Where its frames end, in bytes from the file's start; 0 if none was written.
    pub used: u64,
    /// The first entry that lives in it, if one does.
    pub first: Option<LogIndex>,
    /// The last entry that lives in it, if one does.
    pub last: Option<LogIndex>,
    /// Whether it has ended and has its footer.
    pub sealed: bool,
}

/// What [`Inspection::verify`] read.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Verified {
    /// Frames whose checksums are right.
    pub frames: u64,
    /// How many of them are entries, live or superseded.
    pub entries: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// A log as it stands on the disk.
pub struct Inspection {
    survey: Survey,
}

/// Reads the log in `dir` for a look.
///
/// # Errors
/// As [`super::WalOptions::open`], but for the owner and the lock, which are not asked for.
pub fn open_read_only(dir: impl AsRef<Path>) -> Result<Inspection, WalError> {
    open_read_only_on(&StdDisk, dir)
}

/// As [`open_read_only`], on a given disk.
///
/// # Errors
/// Likewise.
pub fn open_read_only_on(disk: &dyn Disk, dir: impl AsRef<Path>) -> Result<Inspection, WalError> {
    let survey = survey(disk, dir.as_ref(), None)?;
    survey.show_tail();
    Ok(Inspection { survey })
}

impl Inspection {
    /// Whose log it is; none if there is no segment.
    #[must_use]
    pub const fn identity(&self) -> Option<Identity> {
        self.survey.identity
    }

    /// The first entry; one past the last if there is none.
    #[must_use]
    pub const fn first(&self) -> LogIndex {
        self.index().first()
    }

    /// The last entry.
    #[must_use]
    pub const fn last(&self) -> LogIndex {
        self.index().last
    }

    /// The state last written, if any was.
    #[must_use]
    pub fn state(&self) -> Option<&[u8]> {
        self.survey.state.as_deref()
    }

    /// What the next open will cut.
    #[must_use]
    pub const fn torn(&self) -> Option<&Torn> {
        self.survey.torn.as_ref()
    }

    /// The stretches of equal marks, each as its mark and first index, ascending.
    #[must_use]
    pub fn runs(&self) -> Vec<(u64, LogIndex)> {
        let runs = self.index().runs().iter();
        runs.map(|run| (run.mark, run.first)).collect()
    }

    /// The segments, oldest first, the prepared ones behind those in use.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let used = self.survey.used.iter().map(|(segment, ending)| {
            let live = self.index().live_in(segment.sequence);
            SegmentInfo {
                file: segment.name.clone(),
                sequence: segment.sequence,
                id: segment.id,
                size: segment.size,
                used: segment.published(),
                first: live.map(|(first, _)| first),
                last: live.map(|(_, last)| last),
                sealed: *ending == Some(Ending::Sealed),
            }
        });
        let unused = self.survey.unused.iter().map(|header| SegmentInfo {
            file: format::segment_name(header.sequence),
            sequence: header.sequence,
            id: header.id,
            size: header.size,
            used: 0,
            first: None,
            last: None,
            sealed: false,
        });
        used.chain(unused).collect()
    }

    /// One live entry; its checksum is checked.
    ///
    /// # Errors
    /// As [`super::WalReader::get`].
    pub fn get(&self, index: LogIndex) -> Result<Stored, ReadError> {
        let (segment, offset) = self.index().locate(index)?;
        Ok(read_record(&segment, offset, index)?)
    }

    /// The live entries of a range, in order.
    pub fn range(
        &self,
        range: RangeInclusive<LogIndex>,
    ) -> impl Iterator<Item = Result<Stored, ReadError>> + '_ {
        (range.start().0..=range.end().0).map(|index| self.get(LogIndex(index)))
    }

    /// Checks every frame of every segment, live or superseded, up to where its segment ends.
    ///
    /// # Errors
    /// [`WalError::Corruption`] for the first that is damaged; [`WalError::Io`].
    pub fn verify(&self) -> Result<Verified, WalError> {
        let mut verified = Verified::default();
        for (segment, _) in &self.survey.used {
            verify_segment(segment, &mut verified)?;
        }
        Ok(verified)
    }

    const fn index(&self) -> &Index {
        &self.survey.index
    }
}

fn verify_segment(segment: &Arc<Segment>, verified: &mut Verified) -> Result<(), WalError> {
    let damaged = |offset: usize, index, what| WalError::Corruption {
        segment: segment.name.clone(),
        offset: offset as u64,
        index,
        what,
    };
    let mut offset = HEADER_BYTES as usize;
    let Some(file) = segment.file.get() else {
        return Err(damaged(offset, None, "the segment is not open"));
    };
    let end = usize::try_from(segment.published()).unwrap_or(usize::MAX);
    let bytes = file
        .view(0, end)
        .map_err(Fault::at("read", &segment.path))?;
    let image = Image {
        bytes: &bytes,
        id: segment.id,
        sequence: segment.sequence,
    };
    let mut next = None;
    while offset < end {
        let frame = image.frame(offset, end).map_err(|stop| {
            let what = match stop {
                Stop::Bad(what) => what,
                Stop::End => "zeros where a frame was",
            };
            damaged(offset, next, what)
        })?;
        if frame.head.kind == Kind::Record {
            verified.entries += 1;
        }
        if matches!(frame.head.kind, Kind::Record | Kind::Start) {
            next = Some(LogIndex(frame.head.index.0.saturating_add(1)));
        }
        verified.frames += 1;
        verified.bytes += (frame.end() - offset) as u64;
        offset = frame.end();
    }
    Ok(())
}
