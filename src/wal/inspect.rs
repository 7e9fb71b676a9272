//! Looking into a log without opening it: nothing is locked, cut or written.

use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::damage;
use super::error::{ReadError, WalError};
use super::files;
use super::format::{self, HEADER_BYTES};
use super::index::Span;
use super::reader::{self, Stored};
use super::recover::{self, Survey, Torn};
use super::verify as segments;
use crate::error::Fault;
use crate::types::{Identity, LogIndex};
use crate::vfs::{Disk, StdDisk};

/// How often the files are looked at before a log is given up that changes at every look.
const LOOKS: u32 = 16;

/// A log as its files have it at one moment. Clones are the same moment.
///
/// Beside a process that has the log open, what that process is writing may be seen half, and is then told
/// as torn. It may also drop segments, and use their files again: that is [`WalError::Dropped`], never
/// damage.
#[derive(Clone)]
pub struct Inspection {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    survey: Arc<Survey>,
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
    /// How many of them the log itself says are durable: no bad byte below can be a torn tail.
    pub fenced: u64,
    /// The first and last entry that live in it; none if no entry does.
    pub entries: Option<(LogIndex, LogIndex)>,
    /// The marks of those two.
    pub marks: Option<(u64, u64)>,
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

/// How far a log says of itself that it is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Fence {
    /// The name of the segment's file. All segments before it are durable.
    pub segment: String,
    /// Where in the file, in bytes: everything below is durable.
    pub offset: u64,
    /// The last entry below; one before the first if there is none.
    pub last: LogIndex,
}

/// What [`verify`] came to.
#[non_exhaustive]
pub struct Verified {
    /// The log; none if there is damage.
    pub log: Option<Inspection>,
    /// All damage that was found, in the order of the segments.
    pub damage: Vec<WalError>,
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
    let survey = settle(&dir, || recover::survey(&*disk, &dir, None)).map_err(WalError::at_open)?;
    survey.open_tail();
    Ok(Inspection {
        dir,
        disk,
        survey: Arc::new(survey),
    })
}

/// Looks until two looks in a row find the same wrong, or one finds nothing wrong. Beside a process that
/// has the log open, a segment may be dropped, begun or written to between two calls of one look.
fn settle<T>(dir: &Path, mut look: impl FnMut() -> Result<T, WalError>) -> Result<T, WalError> {
    let mut before = String::new();
    for _ in 0..LOOKS {
        let error = match look() {
            Ok(seen) => return Ok(seen),
            Err(error) => error,
        };
        let found = error.to_string();
        if found == before {
            return Err(error);
        }
        before = found;
    }
    let error = format!("it changes at every look, and this was found last: {before}");
    Err(Fault::new("look into", dir, io::Error::other(error)).into())
}

/// Reads all of the log in `dir` and checks it, calling `progress` with the bytes read and the bytes there
/// are. Goes on behind damage, and finds all of it.
///
/// # Errors
/// As [`open_read_only`], but for damage.
pub fn verify(
    dir: impl Into<PathBuf>,
    progress: impl FnMut(u64, u64),
) -> Result<Verified, WalError> {
    verify_on(Arc::new(StdDisk), dir, progress)
}

/// As [`verify`], on a given disk.
///
/// # Errors
/// Likewise.
pub fn verify_on(
    disk: Arc<dyn Disk>,
    dir: impl Into<PathBuf>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Verified, WalError> {
    let dir = dir.into();
    let mut looks = 0;
    let first = loop {
        let checked = open_read_only_on(Arc::clone(&disk), &dir).and_then(|log| {
            log.verify(|read| progress(read, log.used_bytes()))?;
            Ok(log)
        });
        match checked {
            Ok(log) => {
                return Ok(Verified {
                    log: Some(log),
                    damage: Vec::new(),
                });
            }
            Err(WalError::Dropped { .. }) if looks < LOOKS => looks += 1,
            Err(error) if error.is_damage() => break error,
            Err(error) => return Err(error),
        }
    };
    let damage = damage::list(&*disk, &dir, first, progress)?;
    Ok(Verified { log: None, damage })
}

impl Inspection {
    /// Whose log it is; none if there is no segment yet.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.survey.identity
    }

    /// The first entry; one past [`Inspection::last`] if there is none.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.survey.index.first()
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.survey.index.last
    }

    /// The state last written.
    #[must_use]
    pub fn state(&self) -> Option<&[u8]> {
        self.survey.state.as_deref()
    }

    /// What the next recovery would cut.
    #[must_use]
    pub fn torn(&self) -> Option<&Torn> {
        self.survey.torn.as_ref()
    }

    /// The stretches of equal marks, each as its mark and first index, ascending.
    #[must_use]
    pub fn runs(&self) -> Vec<(u64, LogIndex)> {
        let runs = self.survey.index.runs().iter();
        runs.map(|run| (run.mark, run.first)).collect()
    }

    /// How far the log says of itself that it is durable; none if it has no entry and no segment in use.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        let fenced = self.survey.fenced()?;
        let index = &self.survey.index;
        let last = index.spans.last()?.last_below(fenced.offset);
        Some(Fence {
            segment: format::segment_name(fenced.sequence),
            offset: fenced.offset,
            last: last.max(index.floor),
        })
    }

    /// All segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let used = self.survey.index.spans.iter().map(|span| self.used(span));
        let unused = self.survey.unused.iter().map(|header| SegmentInfo {
            file: format::segment_name(header.sequence),
            sequence: header.sequence,
            id: header.id,
            size: header.size,
            used: HEADER_BYTES,
            fenced: HEADER_BYTES,
            entries: None,
            marks: None,
            stage: Stage::Prepared,
        });
        used.chain(unused).collect()
    }

    /// A segment in use.
    fn used(&self, span: &Span) -> SegmentInfo {
        let (index, segment) = (&self.survey.index, &span.segment);
        let entries = span.live(index.floor);
        let mark = |entry| index.mark(entry).ok();
        // What another segment follows was durable before that was begun.
        let fenced = self.survey.fenced();
        let fenced = fenced.filter(|fence| fence.sequence == segment.sequence);
        SegmentInfo {
            file: segment.name.clone(),
            sequence: segment.sequence,
            id: segment.id,
            size: segment.size,
            used: segment.published(),
            fenced: fenced.map_or(segment.published(), |fence| fence.offset),
            entries,
            marks: entries.and_then(|(first, last)| mark(first).zip(mark(last))),
            stage: match self.survey.active() {
                Some(active) if active == segment.sequence => Stage::Active,
                _ => Stage::Sealed,
            },
        }
    }

    /// One entry, copied; its checksum is checked.
    ///
    /// # Errors
    /// As [`WalReader::get`](super::WalReader::get), and [`WalError::Dropped`].
    pub fn get(&self, index: LogIndex) -> Result<Stored, ReadError> {
        let place = self.survey.index.locate(index, 1);
        let read = place.and_then(|stretch| Ok(reader::copy_first(&stretch)?));
        read.map_err(|error| match error {
            ReadError::Wal(error) => ReadError::Wal(self.judge(error)),
            outside => outside,
        })
    }

    /// The entries of a range, in order, as far as there are any. The first that fails ends it. Where
    /// segments are dropped meanwhile it goes on with the first entry that is left.
    pub fn range(
        &self,
        range: RangeInclusive<LogIndex>,
    ) -> impl Iterator<Item = Result<Stored, ReadError>> + use<> {
        let mut log = self.clone();
        let mut next = Some(*range.start());
        let mut looks = 0;
        std::iter::from_fn(move || {
            loop {
                let index = next?.max(log.first());
                if index > log.last().min(*range.end()) {
                    return None;
                }
                let read = log.get(index);
                if let Err(ReadError::Wal(WalError::Dropped { .. })) = read
                    && looks < LOOKS
                {
                    looks += 1;
                    match open_read_only_on(Arc::clone(&log.disk), &log.dir) {
                        Ok(fresh) => log = fresh,
                        Err(error) => {
                            next = None;
                            return Some(Err(error.into()));
                        }
                    }
                    continue;
                }
                looks = 0;
                next = read.is_ok().then(|| index.next());
                return Some(read);
            }
        })
    }

    /// What looks like damage is none if the segment was dropped since it was surveyed: then its file may
    /// be gone, or another segment by now.
    fn judge(&self, error: WalError) -> WalError {
        let spans = self.survey.index.spans.iter();
        let named = spans.filter(|span| error.segment() == Some(&span.segment.name));
        let gone = named
            .map(|span| &span.segment)
            .find(|segment| !files::is_there(&*self.disk, &self.dir, segment));
        match gone {
            Some(gone) => WalError::Dropped {
                segment: gone.name.clone(),
            },
            None => error,
        }
    }

    /// Reads every frame of every segment in use, and holds the footers against them, calling `progress`
    /// with the bytes read so far.
    ///
    /// # Errors
    /// The first [`WalError::Corruption`], [`WalError::Io`], or [`WalError::Dropped`].
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<(), WalError> {
        let mut read = 0;
        let mut before = None;
        for span in &self.survey.index.spans {
            let (segment, has_footer) = (&span.segment, span.is_sealed());
            let left = segments::verify(&*self.disk, &self.dir, segment, has_footer, before);
            before = Some(left.map_err(|error| self.judge(error))?);
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
