//! The log's memory: what was written and where it goes, under one lock and without any I/O.
//!
//! A write encodes its frames at once, each for its place in its segment; whoever syncs takes them as
//! [chunks](super::chunk), in order. Segments that do not exist yet have their ids already, so a write never waits for
//! one.
//!
//! ```text
//!  segment 7                                       segment 8
//!  | published | chunk in flight | queued | footer | queued: Start, State, Batch, ...  <- end
//!  fence ------^
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use super::chunk::{Chunk, Tail};
use super::error::{ReadError, WalError};
use super::footer;
use super::format::{
    self, BATCH_BYTES, Ending, HEAD_BYTES, HEADER_BYTES, Head, Kind, Position, StartInfo,
};
use super::index::{Index, Offsets, Segment, Stretch};
use super::reader::Stored;
use super::room::Room;
use super::stock::{Plan, Stock};
use super::{LAST_INDEX, Record};
use crate::error::Fault;
use crate::types::{Bytes, LogIndex, Payload, WriteSeq};

/// Buffers above this are not kept for the next chunk.
const KEEP_BYTES: usize = 4 << 20;
/// A shared payload of so many bytes of its segment's is not copied. There is room for few of them, so that the sync
/// that each costs is little beside the copies it saves.
const APART_PART: u64 = 64;

/// What a write is about to do, checked in whole before any of it is done.
#[derive(Clone, Copy)]
pub(super) struct Draft<'a, R> {
    pub(super) state: Option<&'a [u8]>,
    pub(super) truncate_from: Option<LogIndex>,
    pub(super) records: R,
}

/// Where entries were found.
pub(super) enum Found {
    /// The bytes are those from the first entry's frame on.
    Memory(Stretch, Bytes),
    /// The first alone.
    Apart(Stored),
    File(Stretch),
}

/// Where recovery left the log.
pub(super) struct Resume {
    pub(super) index: Index,
    pub(super) state: Option<Vec<u8>>,
    /// Where the last used segment ends, and its id; None in a new log.
    pub(super) end: Option<(Position, u64)>,
    /// How that segment ends.
    pub(super) ending: Ending,
    /// The highest place that a fence is known to cover.
    pub(super) fenced: Position,
    /// The segment that is written on, already in the index; None if a fresh one must be begun.
    pub(super) active: Option<Arc<Segment>>,
    /// The segment that comes after what is used.
    pub(super) next: u64,
}

const NOTHING: Payload<'static> = Payload::Borrowed(&[]);

/// See the module's drawing.
pub(super) struct Core {
    pub(super) index: Index,
    state: Option<Vec<u8>>,
    active: Arc<Segment>,
    /// Where the next frame goes in the active segment.
    end: u64,
    queue: VecDeque<Chunk>,
    in_flight: Option<Arc<Chunk>>,
    /// Of chunks and of footers that are on the disk.
    chunk_room: Room<u8>,
    footer_room: Room<u8>,
    pub(super) written: WriteSeq,
    pub(super) durable: WriteSeq,
    /// A fence is staged that no write's number stands for, so all that is queued has to be written.
    pub(super) owes_fence: bool,
    /// How often the log was synced.
    pub(super) syncs: u64,
    /// Everything below is durable.
    fence: Position,
    fence_last: LogIndex,
    /// The highest fence that a batch on disk carries.
    fenced: Position,
    pub(super) failed: Option<Fault>,
    pub(super) closed: bool,
    /// The directory is somebody else's again: nothing may be written any more.
    pub(super) released: bool,
}

impl Core {
    pub(super) fn new(resume: Resume, plan: &Plan) -> Self {
        let (fence, previous_id) = resume.end.unwrap_or_default();
        let fence_last = resume.index.last;
        let fresh = resume.active.is_none();
        let active = resume
            .active
            .unwrap_or_else(|| Arc::new(plan.segment(resume.next)));
        let mut core = Self {
            index: resume.index,
            state: resume.state,
            active,
            end: fence.offset,
            queue: VecDeque::new(),
            in_flight: None,
            chunk_room: Room::default(),
            footer_room: Room::default(),
            written: WriteSeq::ZERO,
            durable: WriteSeq::ZERO,
            owes_fence: false,
            syncs: 0,
            fence,
            fence_last,
            fenced: resume.fenced,
            failed: None,
            closed: false,
            released: false,
        };
        if fresh {
            core.begin(fence, previous_id, resume.ending);
        }
        core
    }

    pub(super) fn active(&self) -> u64 {
        self.active.sequence
    }

    /// Whether no batch on disk says yet that all of the log is durable.
    pub(super) fn is_unfenced(&self) -> bool {
        self.fenced < self.fence
    }

    /// The log has failed. The first failure is the one that is told.
    pub(super) fn fail(&mut self, fault: &Fault) {
        self.failed.get_or_insert_with(|| fault.clone());
    }

    pub(super) fn usable(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(fault) => Err(WalError::Failed(fault.clone())),
            None if self.closed => Err(WalError::Closed),
            None => Ok(()),
        }
    }

    /// Checks a whole write, and that there is room for it, before anything changes.
    pub(super) fn check<'a, R>(
        &self,
        draft: &Draft<'_, R>,
        max_entry_bytes: usize,
        stock: &Stock,
    ) -> Result<(), WalError>
    where
        R: Iterator<Item = Record<'a>> + Clone,
    {
        self.usable()?;
        let too_large = |bytes, limit| Err(WalError::TooLarge { bytes, limit });
        let state_len = draft.state.map_or(0, <[u8]>::len);
        if state_len > format::MAX_STATE_BYTES {
            return too_large(state_len, format::MAX_STATE_BYTES);
        }
        let (mut index, mut mark) = (self.index.last, self.index.last_mark);
        if let Some(from) = draft.truncate_from {
            if from < self.index.first() || from > index.next() {
                return Err(WalError::OutOfOrder {
                    what: "truncation outside of the log",
                    index: from,
                });
            }
            index = from.prev();
            mark = self.index.mark(index).unwrap_or(self.index.floor_mark);
        }
        let mut need = 2 * (BATCH_BYTES + HEAD_BYTES) + format::frame_bytes(state_len);
        let mut runs = 0;
        let mut count = 0;
        for record in draft.records.clone() {
            if index >= LAST_INDEX {
                return Err(WalError::OutOfOrder {
                    what: "no index is left",
                    index,
                });
            }
            index = index.next();
            if record.payload.len() > max_entry_bytes {
                return too_large(record.payload.len(), max_entry_bytes);
            }
            if record.mark < mark {
                return Err(WalError::OutOfOrder {
                    what: "mark lower than the one before it",
                    index,
                });
            }
            runs += usize::from(record.mark > mark);
            mark = record.mark;
            need += format::frame_bytes(record.payload.len());
            // The frames behind it begin another batch.
            if self.apart(record.payload).is_some() {
                need += BATCH_BYTES;
            }
            count += 1;
        }
        // What was begun before the disk was known to be full has no file either.
        let unprepared = self.active.file.get().is_none();
        if (unprepared || !self.has_room(need, count, runs))
            && let Some(shortage) = stock.shortage()
        {
            return Err(shortage);
        }
        Ok(())
    }

    /// Stages a write that was checked.
    pub(super) fn apply<'a, R>(&mut self, draft: Draft<'_, R>, plan: &Plan)
    where
        R: Iterator<Item = Record<'a>>,
    {
        self.open_batch(plan);
        if let Some(state) = draft.state {
            // If this ends the segment before, that one's footer has the state of its own frames.
            self.put(plan, Kind::State, (0, LogIndex::ZERO, 0), state.into());
            state.clone_into(self.state.get_or_insert_default());
        }
        if let Some(from) = draft.truncate_from.filter(|&from| from <= self.index.last) {
            let before = self.index.mark(from.prev());
            let mark = before.unwrap_or(self.index.floor_mark);
            self.put(plan, Kind::Truncate, (0, from, mark), NOTHING);
            self.index.truncate(from, mark);
        }
        for record in draft.records {
            let index = self.index.last.next();
            let offset = self.put(
                plan,
                Kind::Record,
                (record.tag, index, record.mark),
                record.payload,
            );
            self.index.push(record.mark, offset);
        }
        self.stamp();
    }

    /// Stages the drop of a prefix.
    pub(super) fn apply_drop(&mut self, upto: LogIndex, plan: &Plan) {
        self.open_batch(plan);
        if upto > self.index.floor {
            let mark = self.index.mark(upto).unwrap_or(self.index.last_mark);
            self.put(plan, Kind::Drop, (0, upto, mark), NOTHING);
            self.index.drop_prefix(upto, mark);
        }
        self.stamp();
    }

    /// Stages that the log is empty and goes on behind `upto`. A crash within leaves it empty before, or whole.
    pub(super) fn apply_restart(&mut self, upto: LogIndex, mark: u64, plan: &Plan) {
        self.open_batch(plan);
        let (first, floor_mark) = (self.index.first(), self.index.floor_mark);
        if self.index.last >= first {
            self.put(plan, Kind::Truncate, (0, first, floor_mark), NOTHING);
            self.index.truncate(first, floor_mark);
        }
        self.put(plan, Kind::Drop, (0, upto, mark), NOTHING);
        self.index.drop_prefix(upto, mark);
        self.stamp();
    }

    fn stamp(&mut self) {
        self.written = self.written.next();
        if let Some(chunk) = self.queue.back_mut() {
            chunk.covers = self.written;
        }
    }

    /// Stages a batch of nothing but the fence. It is nobody's write, so it takes no number: callers may count
    /// on theirs following each other.
    pub(super) fn apply_fence(&mut self, plan: &Plan) {
        self.open_batch(plan);
        self.owes_fence = true;
    }

    /// Whether the active segment takes so many more bytes, entries and runs, and its footer.
    fn has_room(&self, bytes: usize, entries: usize, runs: usize) -> bool {
        let (count, run_count) = self.index.footer_counts();
        let footer = footer::footer_bytes(count + entries, run_count + runs);
        self.end + (bytes + footer) as u64 <= self.active.size
    }

    /// Puts a frame at the log's end and says where that is in its segment.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a segment is at most 1 GiB"
    )]
    fn put(
        &mut self,
        plan: &Plan,
        kind: Kind,
        (tag, index, mark): (u8, LogIndex, u64),
        payload: Payload<'_>,
    ) -> u32 {
        let bytes = format::frame_bytes(payload.len());
        if !self.has_room(BATCH_BYTES + bytes, 1, 1) {
            self.seal(plan);
        }
        self.open_batch(plan);
        let at = self.end;
        let apart = self.apart(payload).cloned();
        if let Some(chunk) = self.queue.back_mut() {
            let head = Head {
                kind,
                tag,
                index,
                mark,
            };
            chunk.put(at, head, &payload, apart);
            self.end = chunk.end();
        }
        at as u32
    }

    /// The payload, if it is to be kept instead of being copied.
    fn apart<'p>(&self, payload: Payload<'p>) -> Option<&'p Bytes> {
        match payload {
            Payload::Shared(bytes) => {
                let large = bytes.len() as u64 >= self.active.size / APART_PART;
                large.then_some(bytes)
            }
            Payload::Borrowed(_) => None,
        }
    }

    /// Sees that the last chunk is one of the active segment and begins with a Batch frame.
    fn open_batch(&mut self, plan: &Plan) {
        if self
            .open_chunk()
            .is_some_and(|chunk| chunk.batch_at.is_some())
        {
            return;
        }
        if !self.has_room(BATCH_BYTES, 0, 0) {
            self.seal(plan);
        }
        if self.open_chunk().is_none() {
            self.push_chunk();
        }
        if let Some(chunk) = self.queue.back_mut() {
            chunk.batch_at = Some(chunk.bytes.len());
            chunk.bytes.resize(chunk.bytes.len() + BATCH_BYTES, 0);
            self.end = chunk.end();
        }
    }

    /// The chunk at the log's end that is not taken yet.
    fn open_chunk(&self) -> Option<&Chunk> {
        let sequence = self.active.sequence;
        self.queue
            .back()
            .filter(|chunk| chunk.segment.sequence == sequence && !chunk.is_full())
    }

    fn push_chunk(&mut self) {
        if let Some(before) = self.queue.back_mut() {
            before.last = self.index.last;
        }
        let segment = Arc::clone(&self.active);
        let bytes = self.chunk_room.take();
        let mut chunk = Chunk::new(segment, self.end, bytes);
        chunk.covers = self.written;
        self.queue.push_back(chunk);
    }

    /// Ends the active segment with its footer and begins the next.
    fn seal(&mut self, plan: &Plan) {
        let (footer, offsets) = self.index.footer(self.end, self.state.clone());
        let (id, size) = (self.active.id, self.active.size);
        let room = self.footer_room.take();
        let tail = Tail {
            bytes: footer.encode(offsets, id, size, room),
            table_at: footer.table_at(size),
        };
        debug_assert!(
            self.end + tail.bytes.len() as u64 <= size,
            "room for the footer"
        );
        if self.open_chunk().is_none() {
            self.push_chunk();
        }
        if let Some(chunk) = self.queue.back_mut() {
            chunk.footer = Some(tail);
        }
        let previous = Position {
            sequence: self.active.sequence,
            offset: self.end,
        };
        self.active = Arc::new(plan.segment(previous.sequence + 1));
        self.begin(previous, id, Ending::Sealed);
    }

    /// Begins the active segment, which holds nothing yet, after what ended at `previous`.
    fn begin(&mut self, previous: Position, previous_id: u64, ending: Ending) {
        self.end = HEADER_BYTES;
        self.index.begin(Arc::clone(&self.active));
        self.push_chunk();
        let start = StartInfo {
            previous,
            previous_id,
            floor: self.index.floor,
            floor_mark: self.index.floor_mark,
        };
        let head = |kind, tag| Head {
            kind,
            tag,
            index: self.index.last,
            mark: self.index.last_mark,
        };
        let id = self.active.id;
        if let Some(chunk) = self.queue.back_mut() {
            let bytes = &mut chunk.bytes;
            format::put_frame(
                bytes,
                id,
                HEADER_BYTES,
                head(Kind::Start, ending as u8),
                &start.encode(),
            );
            if let Some(state) = &self.state {
                let at = HEADER_BYTES + bytes.len() as u64;
                format::put_frame(bytes, id, at, head(Kind::State, 0), state);
            }
            self.end = chunk.end();
        }
    }

    /// The segment that the next chunk goes to.
    pub(super) fn next_segment(&self) -> Option<Arc<Segment>> {
        self.queue.front().map(|chunk| Arc::clone(&chunk.segment))
    }

    /// Takes the next chunk to be written; readers still see it.
    pub(super) fn take(&mut self) -> Option<Arc<Chunk>> {
        let mut chunk = self.queue.pop_front()?;
        if self.queue.is_empty() {
            chunk.last = self.index.last;
            self.owes_fence = false;
            // Only then does the index say what will be durable, and no more.
            chunk.dead = self.index.dead_front();
        }
        chunk.fill_batch(self.fence, self.fence_last);
        chunk.terminate();
        let chunk = Arc::new(chunk);
        self.in_flight = Some(Arc::clone(&chunk));
        Some(chunk)
    }

    /// A chunk is durable. Returns the segments that hold nothing any more.
    pub(super) fn publish(&mut self, chunk: Arc<Chunk>) -> Vec<Arc<Segment>> {
        self.in_flight = None;
        self.syncs += 1;
        let before = self.fence;
        self.fence = Position {
            sequence: chunk.segment.sequence,
            offset: chunk.end(),
        };
        if chunk.is_fence() {
            // A batch of nothing else: all that is worth a fence is below the one it carries.
            self.fenced = self.fence;
        } else if chunk.batch_at.is_some() {
            self.fenced = before;
        }
        self.fence_last = chunk.last;
        self.durable = chunk.covers;
        chunk.segment.publish(chunk.end());
        if let Some(tail) = &chunk.footer {
            self.index
                .table_on_disk(chunk.segment.sequence, tail.table_at);
        }
        let dead = self.index.spans.drain(..chunk.dead);
        let dead = dead.map(|span| span.segment).collect();
        if let Ok(Chunk { bytes, footer, .. }) = Arc::try_unwrap(chunk) {
            if bytes.capacity() <= KEEP_BYTES {
                self.chunk_room.keep(bytes);
            }
            if let Some(tail) = footer {
                self.footer_room.keep_fitting(tail.bytes);
            }
        }
        dead
    }

    /// The first segment after `sequence` that is never written again, or else the first of all, and whether
    /// it is known to have a footer.
    pub(super) fn sealed_after(&self, sequence: u64) -> Option<(Arc<Segment>, bool)> {
        let spans = &self.index.spans;
        let after = spans.partition_point(|span| span.segment.sequence <= sequence);
        let mut round = spans[after..].iter().chain(&spans[..after]);
        // Those that recovery cut have none.
        let sealed =
            round.find(|span| span.is_sealed() || span.segment.sequence < self.fence.sequence);
        sealed.map(|span| (Arc::clone(&span.segment), span.is_sealed()))
    }

    /// The last live entry of each segment that has any, and the bytes of the segment.
    pub(super) fn sizes(&self) -> Vec<(LogIndex, u64)> {
        let spans = self.index.spans.iter();
        let live = spans.filter_map(|span| Some((span, span.live(self.index.floor)?)));
        live.map(|(span, (_, last))| {
            let active = span.segment.sequence == self.active.sequence;
            (last, if active { self.end } else { span.segment.size })
        })
        .collect()
    }

    /// Whether a segment is part of the log still.
    pub(super) fn holds(&self, sequence: u64) -> bool {
        let mut spans = self.index.spans.iter();
        spans.any(|span| span.segment.sequence == sequence)
    }

    /// Where an entry stands, and those behind it that are in the same file, at most `most` in all; a copy
    /// of them if their bytes are not in the file yet.
    pub(super) fn find(&self, index: LogIndex, most: usize) -> Result<Found, ReadError> {
        let mut stretch = self.index.locate(index, most)?;
        let segment = &stretch.segment;
        let Offsets::Copied(offsets) = &mut stretch.offsets else {
            return Ok(Found::File(stretch));
        };
        let offset = offsets.first().map_or(0, |&offset| u64::from(offset));
        let published = segment.published();
        if offset < published {
            offsets.truncate(offsets.partition_point(|&offset| u64::from(offset) < published));
            return Ok(Found::File(stretch));
        }
        let staged = self.in_flight.iter().map(|chunk| &**chunk);
        let chunk = staged
            .chain(&self.queue)
            .filter(|chunk| chunk.segment.sequence == segment.sequence)
            .find(|chunk| chunk.offset <= offset && offset < chunk.end());
        if let Some(stored) = chunk.and_then(|chunk| chunk.apart(offset)) {
            return Ok(Found::Apart(stored));
        }
        let copied = chunk.and_then(|chunk| chunk.copy(offsets));
        let Some(bytes) = copied else {
            return Err(ReadError::Wal(WalError::Corruption {
                segment: segment.name.clone(),
                offset,
                index: Some(index),
                what: "a staged entry is gone from memory",
            }));
        };
        Ok(Found::Memory(stretch, bytes))
    }
}
