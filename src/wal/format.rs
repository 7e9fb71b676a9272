//! The bytes of a segment file, but for the footer's, which are in `footer.rs`. `docs/FORMAT.md` says the
//! same with the reasons.
//!
//! ```text
//! 0            4096                     frames end            size-80       size
//! +-------------+--------+-----+----------+-------+-------------+-------------+
//! | header block| Start  | ... | frames   | zeros | footer body | footer tail |
//! +-------------+--------+-----+----------+-------+-------------+-------------+
//!
//! header block, never rewritten                 frame, 8-aligned, at most 32 + pad8(len)
//!  0 magic "CATAMWAL"                            0 u32 crc     over all behind it but the padding
//!  8 u32 format version                          4 u32 check   over bytes 8..32
//! 12 u32 zero                                    8 u32 payload length
//! 16 u64 incompatible features                  12 u8  kind
//! 24 u64 compatible features                    13 u8  tag
//! 32 u64 segment id                             14 u16 stream, 0
//! 40 u64 sequence                               16 u64 index
//! 48 u64 cluster                                24 u64 mark
//! 56 u64 node                                   32 payload, then zeros up to a multiple of 8
//! 64 u64 incarnation
//! 72 u64 segment size                           A head of 32 zeros is the end of the log.
//! 80 u32 crc of bytes 0..80
//! ```
//! In a recycled file the zeros may be anything behind the 32 that end the log.
//!
//! All numbers are little-endian. Both sums start from the segment's id and the frame's offset, so that bytes
//! of another segment, or of another place, are not a frame here. The crc alone vouches for a frame. The check
//! is for what has to be known before: that this is a head, and how long its payload is.

use crate::codec::{Malformed, Put, Reader};
use crate::types::{ClusterId, Identity, LogIndex, NodeId};

/// The newest format version that this release reads, and the one it writes.
pub(super) const VERSION: u32 = 1;
/// The incompatible features that this release knows: none yet.
pub(super) const KNOWN_FEATURES: u64 = 0;
/// The header's block; frames begin behind it.
pub(super) const HEADER_BYTES: u64 = 4096;
/// How long a frame's head is.
pub(super) const HEAD_BYTES: usize = 32;
/// How long the state blob may be.
pub(super) const MAX_STATE_BYTES: usize = 1024;
/// How long a Batch frame is, head and payload.
pub(super) const BATCH_BYTES: usize = HEAD_BYTES + 16;

/// How much of a payload is copied at once.
const COPY_BYTES: usize = 16 << 10;

const MAGIC: [u8; 8] = *b"CATAMWAL";
const HEADER_CRC_AT: usize = 80;

/// What a segment's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) id: u64,
    pub(super) sequence: u64,
    pub(super) identity: Identity,
    pub(super) size: u64,
}

/// Why a header was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HeaderError {
    NotALog,
    Damaged,
    Newer(u32),
    Features(u64),
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(HEADER_BYTES as usize);
        block.extend_from_slice(&MAGIC);
        block.put_u32(VERSION);
        block.put_u32(0);
        block.put_u64(KNOWN_FEATURES);
        block.put_u64(0);
        block.put_u64(self.id);
        block.put_u64(self.sequence);
        block.put_u64(self.identity.cluster.0);
        block.put_u64(self.identity.node.0);
        block.put_u64(self.identity.incarnation);
        block.put_u64(self.size);
        debug_assert_eq!(block.len(), HEADER_CRC_AT);
        let crc = crc32fast::hash(&block);
        block.put_u32(crc);
        block.resize(HEADER_BYTES as usize, 0);
        block
    }

    /// Reads a header. The places of these fields and of their crc are the same in every version, so
    /// that a later version can be told from damage.
    pub(super) fn decode(block: &[u8]) -> Result<Self, HeaderError> {
        let damaged = |_: Malformed| HeaderError::Damaged;
        let mut reader = Reader::new(block);
        let magic = reader.take(8, "magic").map_err(damaged)?;
        let version = reader.u32("version").map_err(damaged)?;
        reader.u32("zero").map_err(damaged)?;
        let incompatible = reader.u64("incompatible features").map_err(damaged)?;
        reader.u64("compatible features").map_err(damaged)?;
        let id = reader.u64("segment id").map_err(damaged)?;
        let sequence = reader.u64("sequence").map_err(damaged)?;
        let identity = Identity {
            cluster: ClusterId(reader.u64("cluster").map_err(damaged)?),
            node: NodeId(reader.u64("node").map_err(damaged)?),
            incarnation: reader.u64("incarnation").map_err(damaged)?,
        };
        let size = reader.u64("segment size").map_err(damaged)?;
        let crc = reader.u32("header crc").map_err(damaged)?;
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&MAGIC);
        hasher.update(&block[MAGIC.len()..HEADER_CRC_AT]);
        let whole = crc == hasher.finalize();
        match (magic == MAGIC, whole) {
            (true, true) => {}
            (false, false) => return Err(HeaderError::NotALog),
            // If only the magic is wrong, it was one.
            _ => return Err(HeaderError::Damaged),
        }
        if version == 0 {
            return Err(HeaderError::Damaged);
        }
        if version > VERSION {
            return Err(HeaderError::Newer(version));
        }
        let unknown = incompatible & !KNOWN_FEATURES;
        if unknown != 0 {
            return Err(HeaderError::Features(unknown));
        }
        Ok(Self {
            id,
            sequence,
            identity,
            size,
        })
    }
}

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Opens what one call wrote: the fence, and how long the batch is.
    Batch = 1,
    /// Opens a segment: where the log stood.
    Start = 2,
    /// The state blob.
    State = 3,
    /// Entries from `index` on are no more.
    Truncate = 4,
    /// One entry.
    Record = 5,
    /// Entries up to `index` may go.
    Drop = 6,
}

impl Kind {
    /// Whether a frame's kind may have this number.
    pub(super) const fn is_one(number: u8) -> bool {
        number.wrapping_sub(Self::Batch as u8) < Self::Drop as u8
    }

    const fn from_u8(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Batch),
            2 => Some(Self::Start),
            3 => Some(Self::State),
            4 => Some(Self::Truncate),
            5 => Some(Self::Record),
            6 => Some(Self::Drop),
            _ => None,
        }
    }
}

/// How many bytes a frame with a payload of `len` bytes takes.
pub(super) const fn frame_bytes(len: usize) -> usize {
    HEAD_BYTES + len.next_multiple_of(8)
}

/// What a frame's head says beside its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) tag: u8,
    pub(super) index: LogIndex,
    pub(super) mark: u64,
}

/// A head as read. Its frame is not checked yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ReadHead {
    pub(super) head: Head,
    pub(super) len: usize,
    crc: u32,
    seed: u32,
}

impl ReadHead {
    /// How long the frame is without its padding.
    #[inline]
    pub(super) const fn bytes(&self) -> usize {
        HEAD_BYTES + self.len
    }

    /// Whether these are the [`bytes`](Self::bytes) of its frame.
    #[inline]
    pub(super) fn matches(&self, frame: &[u8]) -> bool {
        let mut crc = crc32fast::Hasher::new_with_initial(self.seed);
        crc.update(frame.get(4..).unwrap_or_default());
        crc.finalize() == self.crc
    }
}

/// The first value of a frame's crc. Within a segment no two offsets share one.
#[inline]
pub(super) fn seed(id: u64, offset: u64) -> u32 {
    let mixed = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    mixed ^ (offset / 8) as u32
}

/// The check of a head: a sum of products, of which any flipped bit changes the upper half.
#[inline]
fn check(id: u64, offset: u64, [length_and_kind, index, mark]: [u64; 3]) -> u32 {
    let sum = id
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(offset.wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(length_and_kind.wrapping_mul(0x94d0_49bb_1331_11eb))
        .wrapping_add(index.wrapping_mul(0xff51_afd7_ed55_8ccd))
        .wrapping_add(mark.wrapping_mul(0xc4ce_b9fe_1a85_ec53));
    (sum >> 32) as u32
}

/// Appends a frame that will stand at `offset` of segment `id`.
pub(super) fn put_frame(out: &mut Vec<u8>, id: u64, offset: u64, head: Head, payload: &[u8]) {
    let start = out.len();
    out.reserve(frame_bytes(payload.len()));
    out.extend_from_slice(&encode_head(id, offset, head, payload.len()));
    let mut crc = crc32fast::Hasher::new_with_initial(seed(id, offset));
    // Read twice, so in pieces that stay in the nearest cache.
    let (first, rest) = payload.split_at(payload.len().min(COPY_BYTES));
    out.extend_from_slice(first);
    crc.update(&out[start + 4..]);
    for piece in rest.chunks(COPY_BYTES) {
        crc.update(piece);
        out.extend_from_slice(piece);
    }
    out.resize(start + frame_bytes(payload.len()), 0);
    out[start..start + 4].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// Appends the head of such a frame, whose payload will stand behind it.
pub(super) fn put_head(out: &mut Vec<u8>, id: u64, offset: u64, head: Head, payload: &[u8]) {
    let mut bytes = encode_head(id, offset, head, payload.len());
    let mut crc = crc32fast::Hasher::new_with_initial(seed(id, offset));
    crc.update(&bytes[4..]);
    crc.update(payload);
    bytes[..4].copy_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&bytes);
}

/// The head of a frame that stands, or will stand, at `offset` of segment `id`, but for its crc.
#[expect(
    clippy::cast_possible_truncation,
    reason = "payloads are limited to far less than 4 GiB"
)]
fn encode_head(id: u64, offset: u64, head: Head, len: usize) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[12] = head.kind as u8;
    bytes[13] = head.tag;
    bytes[16..24].copy_from_slice(&head.index.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&head.mark.to_le_bytes());
    let [_, words @ ..] = words_of(&bytes);
    let check = check(id, offset, words);
    bytes[4..8].copy_from_slice(&check.to_le_bytes());
    bytes
}

#[inline]
fn words_of(head: &[u8; HEAD_BYTES]) -> [u64; 4] {
    let words = head.as_chunks().0;
    [0, 1, 2, 3].map(|at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word)))
}

/// Reads the head at the front of `bytes`, which stand at `offset` of segment `id`. None if it is not one.
#[expect(
    clippy::cast_possible_truncation,
    reason = "two fields of four bytes are read as one of eight, and taken apart"
)]
#[inline]
pub(super) fn read_head(bytes: &[u8], id: u64, offset: u64) -> Option<ReadHead> {
    let bytes: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
    // The kind first: it tells most of what is no head at once.
    let kind = Kind::from_u8(bytes[12])?;
    let [sums, words @ ..] = words_of(bytes);
    if (sums >> 32) as u32 != check(id, offset, words) {
        return None;
    }
    let [length_and_kind, index, mark] = words;
    Some(ReadHead {
        head: Head {
            kind,
            tag: bytes[13],
            index: LogIndex(index),
            mark,
        },
        len: length_and_kind as u32 as usize,
        crc: sums as u32,
        seed: seed(id, offset),
    })
}

/// A place in the log's files: everything before it is meant by "below".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Position {
    pub(super) sequence: u64,
    pub(super) offset: u64,
}

/// What a Batch frame says. Its head carries the last index below the fence, and that entry's mark is not
/// needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchInfo {
    /// Everything below was known to be durable when the batch was written.
    pub(super) fence: Position,
    /// How long the batch is, this frame included.
    pub(super) bytes: u32,
}

impl BatchInfo {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a segment is at most 1 GiB"
    )]
    pub(super) fn encode(&self) -> [u8; 16] {
        let mut payload = [0; 16];
        payload[..8].copy_from_slice(&self.fence.sequence.to_le_bytes());
        payload[8..12].copy_from_slice(&(self.fence.offset as u32).to_le_bytes());
        payload[12..].copy_from_slice(&self.bytes.to_le_bytes());
        payload
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let fence = Position {
            sequence: reader.u64("fence sequence")?,
            offset: u64::from(reader.u32("fence offset")?),
        };
        let bytes = reader.u32("batch length")?;
        reader.finish("batch")?;
        Ok(Self { fence, bytes })
    }
}

/// Writes a Batch frame over the room that was left for it.
pub(super) fn fill_batch(room: &mut [u8], id: u64, offset: u64, last: LogIndex, info: BatchInfo) {
    let head = Head {
        kind: Kind::Batch,
        tag: 0,
        index: last,
        mark: 0,
    };
    let payload = info.encode();
    room[..HEAD_BYTES].copy_from_slice(&encode_head(id, offset, head, payload.len()));
    room[HEAD_BYTES..BATCH_BYTES].copy_from_slice(&payload);
    let mut crc = crc32fast::Hasher::new_with_initial(seed(id, offset));
    crc.update(&room[4..BATCH_BYTES]);
    room[..4].copy_from_slice(&crc.finalize().to_le_bytes());
}

/// How the segment before ends: the tag of a Start frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Ending {
    /// With a footer; or there is no segment before.
    Sealed = 0,
    /// Recovery cut it: what stands behind its end is not part of the log, and there is no footer.
    Cut = 1,
}

impl Ending {
    pub(super) const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Sealed),
            1 => Some(Self::Cut),
            _ => None,
        }
    }
}

/// How long a Start frame is, head and payload.
pub(super) const START_BYTES: usize = HEAD_BYTES + 40;

/// What a Start frame says. Its head carries the last index so far and its mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct StartInfo {
    /// Where the segment before this one ends; its sequence is 0 if there was none.
    pub(super) previous: Position,
    /// The id of that segment.
    pub(super) previous_id: u64,
    /// The last entry that was dropped with a prefix.
    pub(super) floor: LogIndex,
    /// Its mark.
    pub(super) floor_mark: u64,
}

impl StartInfo {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(40);
        payload.put_u64(self.previous.sequence);
        payload.put_u64(self.previous.offset);
        payload.put_u64(self.previous_id);
        payload.put_u64(self.floor.0);
        payload.put_u64(self.floor_mark);
        payload
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        let start = Self {
            previous: Position {
                sequence: reader.u64("previous sequence")?,
                offset: reader.u64("previous end")?,
            },
            previous_id: reader.u64("previous id")?,
            floor: LogIndex(reader.u64("floor")?),
            floor_mark: reader.u64("floor mark")?,
        };
        reader.finish("start")?;
        Ok(start)
    }
}

/// A segment's file name: its sequence in 16 hexadecimal digits.
pub(super) fn segment_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The sequence in a segment's file name; None if it is no such name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    // 0 stands for no segment, and the last has no successor.
    (segment_name(sequence) == name && sequence > 0 && sequence < u64::MAX).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        kind: Kind::Record,
        tag: 3,
        index: LogIndex(9),
        mark: 4,
    };

    #[test]
    fn a_frame_parses_only_at_its_own_place_in_its_own_segment() {
        let (id, offset) = (0x1234_5678_9abc_def0, 8192);
        let mut bytes = Vec::new();
        put_frame(&mut bytes, id, offset, HEAD, b"payload");
        assert_eq!(bytes.len(), 40);
        let read = read_head(&bytes, id, offset).unwrap();
        assert_eq!((read.head, read.len), (HEAD, 7));
        assert!(read.matches(&bytes[..read.bytes()]));
        assert!(!read.matches(&bytes[..read.bytes() - 1]));
        for other in [0, 8184, 8200, 1 << 29] {
            assert_eq!(read_head(&bytes, id, other), None, "at {other}");
        }
        for other in [0, id ^ 1, id ^ (1 << 63), id.rotate_left(8)] {
            assert_eq!(read_head(&bytes, other, offset), None, "in {other:x}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, 7, 4096, HEAD, b"12345678");
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let whole =
                read_head(&bytes, 7, 4096).is_some_and(|read| read.matches(&bytes[..read.bytes()]));
            assert!(!whole, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_head_but_for_the_crc_is_noticed_by_its_check() {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, 7, 4096, HEAD, b"12345678");
        for bit in 32..HEAD_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_head(&bytes, 7, 4096), None, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_payload_that_is_copied_in_pieces_has_the_crc_of_the_whole() {
        let payload: Vec<u8> = (0..3 * COPY_BYTES + 5).map(|at| at as u8).collect();
        for len in [0, 1, COPY_BYTES, COPY_BYTES + 1, payload.len()] {
            let mut bytes = vec![1; 3];
            put_frame(&mut bytes, 7, 4096, HEAD, &payload[..len]);
            let frame = &bytes[3..];
            let read = read_head(frame, 7, 4096).unwrap();
            assert!(read.matches(&frame[..read.bytes()]), "{len} bytes");
            assert_eq!(frame[HEAD_BYTES..read.bytes()], payload[..len]);
        }
    }

    #[test]
    fn a_header_tells_a_stranger_a_successor_and_damage_apart() {
        let header = Header {
            id: 1,
            sequence: 2,
            identity: Identity {
                cluster: ClusterId(3),
                node: NodeId(4),
                incarnation: 5,
            },
            size: 65536,
        };
        let changed = |at: usize, value: u8, crc: bool| {
            let mut block = header.encode();
            block[at] = value;
            if crc {
                let crc = crc32fast::hash(&block[..HEADER_CRC_AT]);
                block[HEADER_CRC_AT..][..4].copy_from_slice(&crc.to_le_bytes());
            }
            Header::decode(&block)
        };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(changed(0, b'X', true), Err(HeaderError::NotALog));
        assert_eq!(changed(8, 2, true), Err(HeaderError::Newer(2)));
        assert_eq!(changed(8, 2, false), Err(HeaderError::Damaged));
        assert_eq!(changed(16, 4, true), Err(HeaderError::Features(4)));
        assert!(
            changed(24, 4, true).is_ok(),
            "compatible features may be unknown"
        );
        assert_eq!(changed(40, 4, false), Err(HeaderError::Damaged));
    }
}
