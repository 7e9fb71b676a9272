//! Reading a log, beside whoever writes it.

use std::io;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::{Core, Found};
use super::error::{ReadError, WalError};
use super::footer::{FooterTail, TAIL_BYTES};
use super::format::{self, HEAD_BYTES, HEADER_BYTES, Head, Kind, ReadHead};
use super::index::{Offsets, Segment, Stretch};
use crate::error::Fault;
use crate::sync::Mutex;
use crate::types::{Bytes, LogIndex};

/// How many entries an iterator looks up at once: the lock is then a small part of the cost, and what it
/// yields was looked up no longer ago.
const STRETCH_ENTRIES: usize = 128;
/// How many bytes are asked for where an entry begins; most entries end within.
const GLANCE_BYTES: u64 = 4096;

/// One entry as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stored {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// Its mark.
    pub mark: u64,
    /// Its tag.
    pub tag: u8,
    /// Its bytes: a slice of the mapped segment, or, if they are not in the file yet, of a copy with some others, or what
    /// the writer shared.
    pub payload: Bytes,
}

impl Stored {
    #[inline]
    pub(super) const fn new(head: Head, payload: Bytes) -> Self {
        Self {
            index: head.index,
            mark: head.mark,
            tag: head.tag,
            payload,
        }
    }
}

/// Reads the log. Sees what was written as soon as the write returns, durable or not.
///
/// Bytes that it gave stay valid for as long as they are held, even when the entry is truncated, its
/// segment removed or the log closed.
///
/// # Files that a stranger shortens
/// The bytes are slices of a read-only memory map of the segment's file. The log itself never shortens a file.
/// If somebody else does, that is
/// - an error when the log is opened: [`WalError::WrongSize`], before anything is mapped;
/// - an error of the read if the segment had not been read from since it was opened: it is mapped only then;
/// - an error of the next [`Wal::scrub_step`](super::Wal::scrub_step) over that segment, which reads without
///   the map;
/// - else the end of the process: at the first touch of a page that is gone, or that the disk cannot read, the
///   system sends SIGBUS, as with every map. That can happen in a read of this reader, wherever bytes that it
///   gave are looked at, while the end of the log is scanned at open, and in
///   [`Inspection::verify`](super::Inspection::verify). Writing and syncing never touch a map.
///
/// Somebody who writes into a file instead changes what its slices show: checksums are checked when an entry
/// is read, and not afterwards.
#[derive(Clone)]
pub struct WalReader {
    core: Arc<Mutex<Core>>,
}

impl WalReader {
    pub(super) const fn new(core: Arc<Mutex<Core>>) -> Self {
        Self { core }
    }

    /// The first entry that was not dropped; one past [`WalReader::last`] if there is none.
    #[must_use]
    pub fn first(&self) -> LogIndex {
        self.core.lock().index.first()
    }

    /// The last entry.
    #[must_use]
    pub fn last(&self) -> LogIndex {
        self.core.lock().index.last
    }

    /// The place before the first entry, and the mark of the entry that was there; (0, 0) in a log that
    /// never dropped any. The mark of a place past the then last entry is what
    /// [`Wal::restart`](super::Wal::restart) was told; otherwise it is not known, and the last one's.
    #[must_use]
    pub fn floor(&self) -> (LogIndex, u64) {
        let core = self.core.lock();
        (core.index.floor, core.index.floor_mark)
    }

    /// One entry; its checksum is checked.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] and [`ReadError::NotYet`] outside of the log;
    /// [`WalError::Corruption`] if its bytes are not what was written; [`WalError::Io`].
    pub fn get(&self, index: LogIndex) -> Result<Stored, ReadError> {
        let found = self.core.lock().find(index, 1)?;
        match found {
            Found::Memory(stretch, bytes) => {
                let mut frames = Frames::copied(stretch, bytes);
                let entry = frames.take_next(index)?;
                Ok(frames.stored(&entry))
            }
            Found::Apart(stored) => Ok(stored),
            Found::File(stretch) => Ok(read_first(&stretch)?),
        }
    }

    /// The mark of one entry, from memory.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] and [`ReadError::NotYet`] outside of the log.
    pub fn mark(&self, index: LogIndex) -> Result<u64, ReadError> {
        self.core.lock().index.mark(index)
    }

    /// The stretches of equal marks, each as its mark and first index, ascending. Together they are the
    /// whole log.
    #[must_use]
    pub fn runs(&self) -> Vec<(u64, LogIndex)> {
        let core = self.core.lock();
        core.index
            .runs()
            .iter()
            .map(|run| (run.mark, run.first))
            .collect()
    }

    /// How many bytes of files the log's entries take, segment by segment: the last entry of each, ascending, and
    /// the bytes up to it from the one before. What else the segment holds is counted to its entries.
    #[must_use]
    pub fn sizes(&self) -> Vec<(LogIndex, u64)> {
        self.core.lock().sizes()
    }

    /// The entries of a range, in order; the first that fails ends it.
    #[must_use]
    pub fn range(&self, range: RangeInclusive<LogIndex>) -> Entries {
        Entries {
            core: Arc::clone(&self.core),
            next: *range.start(),
            last: Some(*range.end()),
            place: Place::Unknown,
        }
    }
}

/// One entry where it stands, until the iterator moves on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct InPlace<'a> {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// Its mark.
    pub mark: u64,
    /// Its tag.
    pub tag: u8,
    /// Its bytes.
    pub payload: &'a [u8],
}

impl<'a> InPlace<'a> {
    fn of(stored: &'a Stored) -> Self {
        Self {
            index: stored.index,
            mark: stored.mark,
            tag: stored.tag,
            payload: &stored.payload,
        }
    }
}

/// Iterates over the entries of a range; made by [`WalReader::range`]. They are looked up some at a time when
/// their turn comes, so each was in the log at some moment of the iteration.
pub struct Entries {
    core: Arc<Mutex<Core>>,
    next: LogIndex,
    /// None once an error was yielded.
    last: Option<LogIndex>,
    place: Place,
}

/// Where the entry is that an iterator came to.
enum Place {
    Unknown,
    /// With those behind it.
    Found(Frames, Checked),
    /// Alone.
    Apart(Stored),
}

impl Entries {
    /// As [`Iterator::next`], for reading much and keeping little: nothing takes hold of the entry's bytes.
    ///
    /// # Errors
    /// As [`WalReader::get`].
    #[inline]
    pub fn next_in_place(&mut self) -> Option<Result<InPlace<'_>, ReadError>> {
        if let Err(error) = self.move_on()? {
            return Some(Err(error));
        }
        let (frames, entry) = match &self.place {
            Place::Found(frames, entry) => (frames, entry),
            Place::Apart(stored) => return Some(Ok(InPlace::of(stored))),
            Place::Unknown => return None,
        };
        let Head {
            index, mark, tag, ..
        } = entry.read.head;
        Some(Ok(InPlace {
            index,
            mark,
            tag,
            payload: frames.payload(entry),
        }))
    }

    /// Goes to the next entry.
    #[inline]
    fn move_on(&mut self) -> Option<Result<(), ReadError>> {
        if let Place::Found(frames, at) = &mut self.place
            && let Ok(entry) = frames.check_next(self.next)
        {
            *at = entry;
            frames.next += 1;
            self.next = self.next.next();
            return Some(Ok(()));
        }
        self.look_up()
    }

    /// As [`Entries::move_on`], where the next entry is not at hand, or damaged.
    #[inline(never)]
    fn look_up(&mut self) -> Option<Result<(), ReadError>> {
        let place = std::mem::replace(&mut self.place, Place::Unknown);
        let last = self.last.take().filter(|&last| self.next <= last)?;
        let found = self.go_to_next(last, place).map(|place| {
            self.place = place;
            self.last = Some(last);
            self.next = self.next.next();
        });
        Some(found)
    }

    /// The place of the next entry, which comes after the one at `before`.
    fn go_to_next(&self, last: LogIndex, before: Place) -> Result<Place, ReadError> {
        if let Place::Found(mut frames, _) = before
            && !frames.is_at_end()
        {
            let entry = frames.take_next(self.next)?;
            return Ok(Place::Found(frames, entry));
        }
        let left = usize::try_from(last.since(self.next)).unwrap_or(usize::MAX);
        let most = left.saturating_add(1).min(STRETCH_ENTRIES);
        let found = self.core.lock().find(self.next, most)?;
        let mut frames = match found {
            Found::Memory(stretch, bytes) => Frames::copied(stretch, bytes),
            Found::Apart(stored) => return Ok(Place::Apart(stored)),
            Found::File(stretch) => Frames::of(stretch)?,
        };
        let entry = frames.take_next(self.next)?;
        Ok(Place::Found(frames, entry))
    }
}

impl Iterator for Entries {
    type Item = Result<Stored, ReadError>;

    // Inlined, the entry is moved about more often than it need be.
    #[inline(never)]
    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.move_on()? {
            return Some(Err(error));
        }
        let (frames, entry) = match &self.place {
            Place::Found(frames, entry) => (frames, entry),
            Place::Apart(stored) => return Some(Ok(stored.clone())),
            Place::Unknown => return None,
        };
        let stored = frames.stored(entry);
        if frames.is_at_end() {
            self.place = Place::Unknown;
        }
        Some(Ok(stored))
    }
}

/// The frames of a stretch. Those of a file keep it alive.
struct Frames {
    segment: Arc<Segment>,
    offsets: Vec<u32>,
    /// Which of them is next.
    next: usize,
    bytes: Bytes,
    /// Where in the file they begin.
    from: u64,
}

impl Frames {
    fn of(stretch: Stretch) -> Result<Self, WalError> {
        let Stretch {
            segment,
            first,
            offsets,
        } = stretch;
        let offsets = match offsets {
            Offsets::Copied(offsets) => offsets,
            Offsets::InFile(at, count) => {
                let table = table_view(&segment, first, at, count)?;
                let offsets = table.as_chunks().0.iter();
                offsets.map(|four| u32::from_le_bytes(*four)).collect()
            }
        };
        let from = offsets.first().map_or(0, |&offset| u64::from(offset));
        let bytes = frames_view(&segment, first, from, u64::MAX)?;
        Ok(Self::new(segment, offsets, bytes))
    }

    /// Those whose bytes were copied, and their offsets with them.
    fn copied(stretch: Stretch, bytes: Bytes) -> Self {
        let offsets = match stretch.offsets {
            Offsets::Copied(offsets) => offsets,
            Offsets::InFile(..) => Vec::new(),
        };
        Self::new(stretch.segment, offsets, bytes)
    }

    fn new(segment: Arc<Segment>, offsets: Vec<u32>, bytes: Bytes) -> Self {
        let from = offsets.first().map_or(0, |&offset| u64::from(offset));
        Self {
            segment,
            offsets,
            next: 0,
            bytes,
            from,
        }
    }

    const fn is_at_end(&self) -> bool {
        self.next >= self.offsets.len()
    }

    /// The next entry, which is that of `index`; or what is wrong with it.
    #[inline]
    fn check_next(&self, index: LogIndex) -> Result<Checked, &'static str> {
        let at = usize::try_from(self.next_offset().wrapping_sub(self.from));
        let at = at.unwrap_or(usize::MAX);
        let frame = self.bytes.get(at..).unwrap_or_default();
        let read = record_head(&self.segment, self.next_offset(), index, frame)?;
        check_frame(&read, frame)?;
        Ok(Checked { at, read })
    }

    /// As [`Frames::check_next`], and goes there.
    fn take_next(&mut self, index: LogIndex) -> Result<Checked, WalError> {
        let damaged = |what| damaged(&self.segment, self.next_offset(), index, what);
        let checked = self.check_next(index).map_err(damaged)?;
        self.next += 1;
        Ok(checked)
    }

    #[inline]
    fn next_offset(&self) -> u64 {
        let offset = self.offsets.get(self.next);
        offset.map_or(0, |&offset| u64::from(offset))
    }

    #[inline]
    fn payload(&self, of: &Checked) -> &[u8] {
        &self.bytes[of.at + HEAD_BYTES..][..of.read.len]
    }

    #[inline]
    fn stored(&self, of: &Checked) -> Stored {
        let payload = self.bytes.slice(of.at + HEAD_BYTES, of.read.len);
        Stored::new(of.read.head, payload)
    }
}

/// An entry whose checksums are right, and where in the frames' bytes it stands.
struct Checked {
    at: usize,
    read: ReadHead,
}

/// Reads the first entry of a stretch.
pub(super) fn read_first(stretch: &Stretch) -> Result<Stored, WalError> {
    first_of(stretch, frames_view)
}

/// As [`read_first`], but copied before it is checked: where another process may use the file again, a slice
/// of the map could change after the check.
pub(super) fn copy_first(stretch: &Stretch) -> Result<Stored, WalError> {
    first_of(stretch, frames_copy)
}

fn first_of(
    stretch: &Stretch,
    frames: fn(&Segment, LogIndex, u64, u64) -> Result<Bytes, WalError>,
) -> Result<Stored, WalError> {
    let (segment, index) = (&*stretch.segment, stretch.first);
    let offset = match &stretch.offsets {
        Offsets::Copied(offsets) => offsets.first().copied().unwrap_or_default(),
        Offsets::InFile(at, _) => {
            let four = table_view(segment, index, *at, 1)?;
            u32::from_le_bytes(*four.first_chunk().unwrap_or(&[0; 4]))
        }
    };
    let offset = u64::from(offset);
    let damaged = |what| damaged(segment, offset, index, what);
    let mut bytes = frames(segment, index, offset, GLANCE_BYTES)?;
    let read = record_head(segment, offset, index, &bytes).map_err(damaged)?;
    if bytes.len() < read.bytes() {
        bytes = frames(segment, index, offset, read.bytes() as u64)?;
    }
    check_frame(&read, &bytes).map_err(damaged)?;
    Ok(Stored::new(
        read.head,
        bytes.into_slice(HEAD_BYTES, read.len),
    ))
}

/// The head of the record of `index`, which is said to stand at `offset`, where `frame` begins.
#[inline]
fn record_head(
    segment: &Segment,
    offset: u64,
    index: LogIndex,
    frame: &[u8],
) -> Result<ReadHead, &'static str> {
    format::read_head(frame, segment.id, offset)
        .filter(|read| read.head.kind == Kind::Record && read.head.index == index)
        .ok_or("the head of the entry does not match its check or place")
}

#[inline]
fn check_frame(read: &ReadHead, frame: &[u8]) -> Result<(), &'static str> {
    match frame.get(..read.bytes()) {
        Some(frame) if read.matches(frame) => Ok(()),
        Some(_) => Err("the entry does not match its checksum"),
        None => Err("the entry goes past the segment's end"),
    }
}

#[cold]
fn damaged(segment: &Segment, offset: u64, index: LogIndex, what: &'static str) -> WalError {
    WalError::Corruption {
        segment: segment.name.clone(),
        offset,
        index: Some(index),
        what,
    }
}

/// So many offsets of a segment's table, from `at` on. The first time, all of the table is checked.
fn table_view(
    segment: &Segment,
    index: LogIndex,
    at: u64,
    count: usize,
) -> Result<Bytes, WalError> {
    if !segment.table_checked.load(Ordering::Acquire) {
        check_table(segment, index)?;
        segment.table_checked.store(true, Ordering::Release);
    }
    file_view(segment, at, count as u64 * 4)
}

#[cold]
fn check_table(segment: &Segment, index: LogIndex) -> Result<(), WalError> {
    let at = segment.size - TAIL_BYTES as u64;
    let tail = file_view(segment, at, TAIL_BYTES as u64)?;
    let tail = tail
        .first_chunk()
        .and_then(|tail| FooterTail::decode(tail, segment.id, segment.size));
    let Some(tail) = tail else {
        return Err(damaged(
            segment,
            at,
            index,
            "the segment's footer is damaged",
        ));
    };
    let at = tail.table.start as u64;
    let table = file_view(segment, at, tail.table.len() as u64)?;
    if tail.holds_table(&table) {
        return Ok(());
    }
    let what = "the segment's table of offsets does not match its checksum";
    Err(damaged(segment, at, index, what))
}

/// The frames from `offset` on, at most `len` bytes.
fn frames_view(
    segment: &Segment,
    index: LogIndex,
    offset: u64,
    len: u64,
) -> Result<Bytes, WalError> {
    let frames = frames_range(segment, index, offset, len)?;
    file_view(segment, frames.start, frames.end - frames.start)
}

/// Where in the file at most `len` bytes of frames from `offset` on stand.
fn frames_range(
    segment: &Segment,
    index: LogIndex,
    offset: u64,
    len: u64,
) -> Result<Range<u64>, WalError> {
    let end = segment.published();
    if offset < HEADER_BYTES || offset >= end {
        let what = "the offset of the entry is not one of a frame";
        return Err(damaged(segment, offset, index, what));
    }
    Ok(offset..offset + len.min(end - offset))
}

/// As [`frames_view`], copied.
fn frames_copy(
    segment: &Segment,
    index: LogIndex,
    offset: u64,
    len: u64,
) -> Result<Bytes, WalError> {
    let frames = frames_range(segment, index, offset, len)?;
    let mut bytes = vec![0; usize::try_from(frames.end - frames.start).unwrap_or(usize::MAX)];
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let file = segment.file.get().ok_or_else(missing);
    let read = file.and_then(|file| file.read_at(offset, &mut bytes));
    read.map_err(Fault::at("read", &segment.path))?;
    Ok(bytes.into())
}

fn file_view(segment: &Segment, offset: u64, len: u64) -> Result<Bytes, WalError> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let file = segment.file.get().ok_or_else(missing);
    let bytes = file.and_then(|file| file.view(offset, len));
    Ok(bytes.map_err(Fault::at("read", &segment.path))?)
}
