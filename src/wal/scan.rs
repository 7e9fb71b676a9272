//! Walking over the frames of a segment.

use super::error::WalError;
use super::footer::FooterTail;
use super::format::{
    self, BatchInfo, HEAD_BYTES, HEADER_BYTES, Head, Kind, MAX_STATE_BYTES, Position, StartInfo,
};
use super::index::Index;

/// A whole segment in memory.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) id: u64,
    pub(super) sequence: u64,
}

/// A frame whose checksums are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) offset: usize,
    pub(super) head: Head,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    pub(super) const fn end(&self) -> usize {
        self.offset + format::frame_bytes(self.payload.len())
    }
}

/// Why there is no further frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// A head of zeros, or no room for another.
    End,
    /// Bytes that are no frame.
    Bad(&'static str),
}

/// What a walk over frames came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    sequence: u64,
    /// Where the last good frame ends.
    pub(super) end: usize,
    pub(super) stop: Stop,
    /// Where the last batch should end.
    pub(super) batch_end: usize,
    /// Below this everything is fenced by a batch that was read.
    pub(super) fenced: Position,
}

impl Walk {
    /// At the first frame of a segment.
    pub(super) const fn new(sequence: u64) -> Self {
        Self {
            sequence,
            end: HEADER_BYTES as usize,
            stop: Stop::End,
            batch_end: 0,
            fenced: Position {
                sequence,
                offset: HEADER_BYTES,
            },
        }
    }

    /// Applies the next frame to the log, whose last span is this segment.
    #[inline(always)]
    pub(super) fn take(
        &mut self,
        frame: &Frame<'_>,
        index: &mut Index,
        state: &mut Option<Vec<u8>>,
    ) -> Result<(), WalError> {
        if let Err(what) = apply(frame, index, state) {
            return Err(WalError::Corruption {
                segment: format::segment_name(self.sequence),
                offset: frame.offset as u64,
                index: Some(frame.head.index),
                what,
            });
        }
        self.end = frame.end();
        if frame.head.kind == Kind::Batch
            && let Ok(batch) = BatchInfo::decode(frame.payload)
        {
            self.batch_end = frame.offset.saturating_add(batch.bytes as usize);
            self.fenced = batch.fence;
            if self.batch_end == self.end {
                self.fenced = Position {
                    sequence: self.sequence,
                    offset: self.end as u64,
                };
            }
        }
        Ok(())
    }
}

/// The frame at the front of `bytes`, which stand at `offset` of segment `id`; it must end within them.
#[inline(always)]
pub(super) fn frame_at(bytes: &[u8], id: u64, offset: usize) -> Result<Frame<'_>, Stop> {
    let Some(head) = bytes.get(..HEAD_BYTES) else {
        return Err(Stop::End);
    };
    let Some(read) = format::read_head(head, id, offset as u64) else {
        return Err(if head.iter().all(|&byte| byte == 0) {
            Stop::End
        } else {
            Stop::Bad("a frame's head does not match its check")
        });
    };
    let frame = bytes
        .get(..format::frame_bytes(read.len))
        .and_then(|padded| padded.get(..read.bytes()))
        .ok_or(Stop::Bad("a frame goes past the segment's end"))?;
    if !read.matches(frame) {
        return Err(Stop::Bad("a frame does not match its checksum"));
    }
    let payload = &frame[HEAD_BYTES..];
    Ok(Frame {
        offset,
        head: read.head,
        payload,
    })
}

impl<'a> Image<'a> {
    /// The frame at `offset`, which must end within `limit`.
    #[inline]
    pub(super) fn frame(&self, offset: usize, limit: usize) -> Result<Frame<'a>, Stop> {
        match self.bytes.get(offset..limit) {
            Some(rest) => frame_at(rest, self.id, offset),
            None => Err(Stop::Bad("a place past the segment's end")),
        }
    }

    /// The Start frame, and how the segment before it ends.
    pub(super) fn start(&self) -> Option<(Head, StartInfo)> {
        let frame = self.frame(HEADER_BYTES as usize, self.bytes.len()).ok()?;
        let info = StartInfo::decode(frame.payload).ok()?;
        let known = format::Ending::from_u8(frame.head.tag).is_some();
        // What was dropped past the last entry made the log end there.
        let sane = info.floor <= frame.head.index && frame.head.index.0 < u64::MAX;
        (known && sane && frame.head.kind == Kind::Start).then_some((frame.head, info))
    }

    /// Applies the frames from the first up to `limit` to the log, whose last span is this segment.
    pub(super) fn replay(
        &self,
        limit: usize,
        index: &mut Index,
        state: &mut Option<Vec<u8>>,
    ) -> Result<Walk, WalError> {
        let mut walk = Walk::new(self.sequence);
        while walk.end < limit {
            match self.frame(walk.end, limit) {
                Ok(frame) => walk.take(&frame, index, state)?,
                Err(stop) => {
                    walk.stop = stop;
                    break;
                }
            }
        }
        Ok(walk)
    }

    /// What this segment's frames from `from` on say, wherever they stand: those of a write that a crash
    /// broke, or of durable ones behind damage. Its footer counts too, which may be all that is left of such
    /// a write: writing on in front of it could make it look true. What another segment left in a recycled
    /// file is none of this one's.
    pub(super) fn behind(&self, from: usize) -> Behind {
        let size = self.bytes.len();
        let tail = self.bytes.last_chunk();
        let footer = tail.and_then(|tail| FooterTail::decode(tail, self.id, size as u64));
        let mut behind = Behind {
            end: footer.map_or(from, |_| size),
            fence: None,
        };
        let mut at = from.next_multiple_of(8);
        while let Some(head) = self.next_like_a_head(at) {
            at = head + 8;
            let rest = &self.bytes[head..];
            let Some(read) = format::read_head(rest, self.id, head as u64) else {
                continue;
            };
            // A frame with a good head and a bad checksum is still one of ours.
            let end = head.saturating_add(format::frame_bytes(read.len));
            behind.end = behind.end.max(end.min(self.bytes.len()));
            if read.head.kind == Kind::Batch
                && let Ok(frame) = self.frame(head, self.bytes.len())
                && let Ok(batch) = BatchInfo::decode(frame.payload)
            {
                behind.fence = behind.fence.max(Some(batch.fence));
            }
        }
        behind
    }

    /// The next good frame from `from` on that ends within `limit`.
    pub(super) fn next_frame(&self, from: usize, limit: usize) -> Option<Frame<'a>> {
        let mut at = from.next_multiple_of(8);
        while let Some(head) = self.next_like_a_head(at).filter(|&head| head < limit) {
            if let Ok(frame) = self.frame(head, limit) {
                return Some(frame);
            }
            at = head + 8;
        }
        None
    }

    /// The next place from `from` on, in steps of 8, that looks like a frame's head but for its checksum.
    fn next_like_a_head(&self, from: usize) -> Option<usize> {
        // A recycled file is full of frames, a fresh one is empty: few words at first, then ever more.
        const MOST: usize = 4096;
        let mut stride = 8;
        let last = self.bytes.len().checked_sub(HEAD_BYTES)?;
        let mut at = from;
        while at <= last {
            let words = self.bytes[at + 8..].as_chunks().0;
            let words = &words[..words.len().min(stride)];
            // First without a branch, which compilers make many comparisons at once.
            if words.iter().fold(false, |any, word| any | is_like(word)) {
                let found = words.iter().position(is_like)?;
                return Some(at + found * 8).filter(|&at| at <= last);
            }
            at += words.len() * 8;
            stride = MOST.min(stride * 2);
        }
        None
    }
}

/// Whether these may be the second eight bytes of a head: length, kind, tag, and a stream of zero.
const fn is_like(word: &[u8; 8]) -> bool {
    let [_, _, _, _, kind, _, stream @ ..] = *word;
    Kind::is_one(kind) & (u16::from_le_bytes(stream) == 0)
}

/// What stands in a segment behind the last frame that follows.
pub(super) struct Behind {
    /// Where the last of its frames, or its footer, should end; the place that was asked for if there is none.
    pub(super) end: usize,
    /// The highest fence in them.
    pub(super) fence: Option<Position>,
}

/// Where a segment repeats the state, if there is one: segments before may go.
const STATE_AT: usize = HEADER_BYTES as usize + format::START_BYTES;

/// Applies one frame; a frame with good checksums that does not follow from those before is damage too.
#[inline(always)]
fn apply(
    frame: &Frame<'_>,
    index: &mut Index,
    state: &mut Option<Vec<u8>>,
) -> Result<(), &'static str> {
    let head = &frame.head;
    if frame.offset == STATE_AT && head.kind != Kind::State && state.is_some() {
        return Err("a segment that does not repeat the state");
    }
    match head.kind {
        Kind::Start if frame.offset == HEADER_BYTES as usize => {
            let start = StartInfo::decode(frame.payload).map_err(|_| "a malformed Start frame")?;
            if !index.stands_at(head, &start) {
                return Err("a segment that does not begin where the one before it ends");
            }
        }
        Kind::Start => return Err("a Start frame that is not the first"),
        Kind::Batch => {
            BatchInfo::decode(frame.payload).map_err(|_| "a malformed Batch frame")?;
        }
        Kind::State if frame.payload.len() <= MAX_STATE_BYTES => {
            *state = Some(frame.payload.to_vec());
        }
        Kind::State => return Err("a state that is too long"),
        Kind::Truncate => {
            if head.index > index.last || head.index < index.first() {
                return Err("a truncation outside of the log");
            }
            if head.mark > index.last_mark || head.mark < index.floor_mark {
                return Err("a truncation back to a mark that is not the log's");
            }
            index.truncate(head.index, head.mark);
        }
        Kind::Record => {
            let follows = head.index.0.checked_sub(1) == Some(index.last.0);
            if !follows || head.index.0 == u64::MAX || head.mark < index.last_mark {
                return Err("an entry out of order");
            }
            let offset = u32::try_from(frame.offset).map_err(|_| "an entry past 4 GiB")?;
            index.push(head.mark, offset);
        }
        Kind::Drop => {
            if head.index.0 == u64::MAX || head.index <= index.floor {
                return Err("a drop of what was dropped");
            }
            index.drop_prefix(head.index, head.mark);
        }
    }
    Ok(())
}
