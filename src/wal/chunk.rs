//! What a sync writes at once.
//!
//! ```text
//!  bytes                                                  payload apart           zeros
//!  | Batch | Record | Record | head of a Record           | from where it is      | head of zeros |
//! ```
//! A large payload that the caller shares is not copied. It ends its chunk, so that everything else stands in one
//! piece of memory.

use std::sync::Arc;

use super::format::{self, BATCH_BYTES, BatchInfo, HEAD_BYTES, Head, Position};
use super::index::Segment;
use super::reader::Stored;
use crate::types::{Bytes, LogIndex, WriteSeq};

/// About how many bytes are copied for a reader at once: who keeps one entry keeps what was copied with it.
const COPY_BYTES: u64 = 64 << 10;
/// What is behind a payload that is apart: what fills it up to the next frame's place, and the log's end.
const ZEROS: [u8; 7 + HEAD_BYTES] = [0; 7 + HEAD_BYTES];

/// Bytes for one segment, that an fdatasync follows.
pub(super) struct Chunk {
    pub(super) segment: Arc<Segment>,
    /// Where the bytes go.
    pub(super) offset: u64,
    /// Frames, and once it is taken a head of zeros behind them if they are the log's end.
    pub(super) bytes: Vec<u8>,
    /// The payload of the last frame, if only the frame's head is in `bytes`.
    apart: Option<Bytes>,
    /// Whether the log ends behind the frames.
    terminated: bool,
    /// Where in the bytes the Batch frame's room is.
    pub(super) batch_at: Option<usize>,
    /// What goes to the very end of the file, if the chunk is the segment's last.
    pub(super) footer: Option<Tail>,
    /// The last write that is durable with this chunk.
    pub(super) covers: WriteSeq,
    /// The last index after it.
    pub(super) last: LogIndex,
    /// How many of the oldest segments hold nothing once it is durable.
    pub(super) dead: usize,
}

/// A footer to be written.
pub(super) struct Tail {
    pub(super) bytes: Vec<u8>,
    /// Where in the file its table of offsets will begin.
    pub(super) table_at: u64,
}

impl Chunk {
    /// One without a frame. What is in `bytes` is not needed.
    pub(super) fn new(segment: Arc<Segment>, offset: u64, bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.is_empty(), "only their room is used");
        Self {
            segment,
            offset,
            bytes,
            apart: None,
            terminated: false,
            batch_at: None,
            footer: None,
            covers: WriteSeq::ZERO,
            last: LogIndex::ZERO,
            dead: 0,
        }
    }

    /// Whether no frame can follow in this chunk.
    pub(super) const fn is_full(&self) -> bool {
        self.apart.is_some()
    }

    /// Adds a frame at this offset; its payload if that is not kept `apart`.
    pub(super) fn put(&mut self, at: u64, head: Head, payload: &[u8], apart: Option<Bytes>) {
        let id = self.segment.id;
        if apart.is_some() {
            format::put_head(&mut self.bytes, id, at, head, payload);
            self.apart = apart;
        } else {
            format::put_frame(&mut self.bytes, id, at, head, payload);
        }
    }

    /// Where its frames end.
    pub(super) fn end(&self) -> u64 {
        let behind = match &self.apart {
            Some(payload) => return self.apart_at() + format::frame_bytes(payload.len()) as u64,
            None if self.terminated => HEAD_BYTES,
            None => 0,
        };
        self.offset + (self.bytes.len() - behind) as u64
    }

    /// Where the frame begins whose payload is apart; the end if there is none.
    fn apart_at(&self) -> u64 {
        if self.apart.is_none() {
            return self.end();
        }
        self.offset + (self.bytes.len() - HEAD_BYTES) as u64
    }

    /// Fills in what the Batch frame says: how far the log was durable when the chunk was taken.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a segment is at most 1 GiB"
    )]
    pub(super) fn fill_batch(&mut self, fence: Position, last: LogIndex) {
        let Some(at) = self.batch_at else { return };
        let offset = self.offset + at as u64;
        let bytes = (self.end() - offset) as u32;
        let info = BatchInfo { fence, bytes };
        let room = &mut self.bytes[at..];
        format::fill_batch(room, self.segment.id, offset, last, info);
    }

    /// Says that the log ends here, if the segment goes on behind it. The next write begins over it. What a recycled
    /// file has behind it is never looked at as if it followed.
    pub(super) fn terminate(&mut self) {
        if self.footer.is_some() {
            return;
        }
        self.terminated = true;
        if self.apart.is_none() {
            self.bytes.resize(self.bytes.len() + HEAD_BYTES, 0);
        }
    }

    /// Whether it holds a Batch frame and nothing else.
    pub(super) fn is_fence(&self) -> bool {
        self.batch_at == Some(0) && self.end() - self.offset == BATCH_BYTES as u64
    }

    /// What is to be written, and where, but for the footer.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let payload: &[u8] = self.apart.as_deref().unwrap_or_default();
        let behind = self.offset + (self.bytes.len() + payload.len()) as u64;
        let zeros = match &self.apart {
            Some(_) => &ZEROS[..usize::try_from(self.end() - behind).unwrap_or(0) + HEAD_BYTES],
            None => &[],
        };
        let parts = [&self.bytes, payload, zeros];
        let mut offset = self.offset;
        let placed = parts.into_iter().map(move |part| {
            let at = offset;
            offset += part.len() as u64;
            (at, part)
        });
        placed.filter(|(_, part)| !part.is_empty())
    }

    /// The entry that stands at this offset, if its payload is apart.
    pub(super) fn apart(&self, offset: u64) -> Option<Stored> {
        let payload = self.apart.as_ref()?;
        let at = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let read = format::read_head(self.bytes.get(at..)?, self.segment.id, offset)?;
        (offset == self.apart_at()).then(|| Stored::new(read.head, payload.clone()))
    }

    /// A copy of the frames that stand at these offsets, as far as this chunk has them in one piece and they are not
    /// too many bytes, but of the first in any case. The other offsets are dropped.
    pub(super) fn copy(&self, offsets: &mut Vec<u32>) -> Option<Bytes> {
        let first = u64::from(*offsets.first()?);
        let end = self.apart_at().min(first + COPY_BYTES);
        let count = offsets.partition_point(|&offset| u64::from(offset) < end);
        offsets.truncate(count.max(1));
        let last = u64::from(*offsets.last()?);
        let within = |offset: u64| usize::try_from(offset.checked_sub(self.offset)?).ok();
        let (from, last_at) = (within(first)?, within(last)?);
        let read = format::read_head(self.bytes.get(last_at..)?, self.segment.id, last)?;
        Some(self.bytes.get(from..last_at + read.bytes())?.into())
    }
}
