//! The bytes between two members. All numbers are little-endian.
//!
//! ```text
//! hello, from who connects                    answer (28 bytes)
//!  0 magic "CATARAFT"                          0 magic "CATARAFT"
//!  8 u32 protocol version                      8 u32 protocol version
//! 12 u32 lane: 0 words, 1 entries             12 u32 verdict: 0 welcome, or a refusal
//! 16 u64 cluster                              16 u64 incarnation of who answers
//! 24 u64 node that connects                   24 u32 crc of bytes 0..24
//! 32 u64 its incarnation
//! 40 u64 node it wants to reach
//! 48 u32 length of its address
//! 52 u32 crc of bytes 0..52 and the address
//! 56 its address as members know it, so that who does not know it can answer; empty if it knows none
//!
//! then frames, one way:   u32 length of body | u32 crc of body | body
//!
//! body: u8 kind | u64 term | and by kind
//!  1 PreVote, 3 Vote,
//!  8 HandoverVote                last: u64 term, u64 index
//!  2 PreVoteReply, 4 VoteReply   u8 granted
//!  5 Append                      prev: u64 term, u64 index | u64 commit | u64 round | u32 count |
//!                                count times: u64 term | u8 kind | u32 length | payload
//!  6 Matched                     u64 upto | u64 round
//!  7 Rejected                    u64 prev | hint: u64 term, u64 index | u64 round
//!  9 TimeoutNow                  nothing
//! 10 Snapshot                    last: u64 term, u64 index | u64 round
//! 11 Fetching                    u64 round
//! 12, 13                         bytes of snapshots, see `transfer`
//! 14 AskReadIndex                u64 ask
//! 15 ReadIndex                   u64 ask | u64 index
//! ```

use std::fmt;

use super::gather::Gathered;
use super::{Limits, transfer};
use crate::codec::{Malformed, Put, Reader};
use crate::driver::runs_of;
use crate::raft::message::{AppendOutcome, Body, Message};
use crate::types::{
    Bytes, ClusterId, Entry, EntryKind, EntryRange, Identity, LogId, LogIndex, NodeId, Term,
};

const MAGIC: [u8; 8] = *b"CATARAFT";
const VERSION: u32 = 1;
/// A hello without the address.
pub(super) const HELLO_BYTES: usize = 56;
/// The longest address in a hello.
const MAX_ADDR_BYTES: usize = 1_024;
pub(super) const ANSWER_BYTES: usize = 28;
/// Length and crc of a frame's body.
pub(super) const FRAME_HEAD_BYTES: usize = 8;
/// The fixed part of the longest body.
const BODY_BYTES: usize = 64;
/// An entry beside its payload.
const ENTRY_BYTES: usize = 13;

/// What a connection is for. There is one of each from a member to another, so that no word stands behind entries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum LaneKind {
    /// All that is small, and that a later word may not wait behind.
    Words = 0,
    /// Entries and the bytes of snapshots.
    Entries = 1,
}

impl fmt::Display for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Words => "words",
            Self::Entries => "entries",
        })
    }
}

/// What a connection begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) lane: LaneKind,
    pub(super) from: Identity,
    pub(super) to: NodeId,
    /// Where who connects is reached; empty if it does not know.
    pub(super) addr: String,
}

/// Why a connection is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Refusal {
    /// Not this protocol at all, or damaged.
    Garbage,
    /// Another protocol version.
    Version,
    /// Another cluster.
    Cluster,
    /// Meant for another node, or from one of this one's name.
    Node,
    /// The node had another directory when it was last heard of.
    Incarnation,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Garbage => "it does not speak this protocol",
            Self::Version => "it speaks another version of the protocol",
            Self::Cluster => "it belongs to another cluster",
            Self::Node => "it is not the node it should be",
            Self::Incarnation => "its directory is not the one it had: wiped or restored?",
        })
    }
}

impl Refusal {
    const fn code(self) -> u32 {
        match self {
            Self::Garbage => 1,
            Self::Version => 2,
            Self::Cluster => 3,
            Self::Node => 4,
            Self::Incarnation => 5,
        }
    }

    const fn from_code(code: u32) -> Option<Self> {
        match code {
            2 => Some(Self::Version),
            3 => Some(Self::Cluster),
            4 => Some(Self::Node),
            5 => Some(Self::Incarnation),
            0 => None,
            _ => Some(Self::Garbage),
        }
    }
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HELLO_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.put_u32(VERSION);
        bytes.put_u32(self.lane as u32);
        bytes.put_u64(self.from.cluster.0);
        bytes.put_u64(self.from.node.0);
        bytes.put_u64(self.from.incarnation);
        bytes.put_u64(self.to.0);
        // One that is too long is as good as none.
        let addr = Some(self.addr.as_bytes()).filter(|addr| addr.len() <= MAX_ADDR_BYTES);
        let addr = addr.unwrap_or_default();
        bytes.put_u32(u32::try_from(addr.len()).unwrap_or(u32::MAX));
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes);
        crc.update(addr);
        bytes.put_u32(crc.finalize());
        bytes.extend_from_slice(addr);
        bytes
    }

    /// How many bytes of address follow the head of a hello.
    pub(super) fn addr_bytes(head: &[u8; HELLO_BYTES]) -> Result<usize, Refusal> {
        let mut reader = Reader::new(head);
        check_version(&mut reader)?;
        let garbage = |_: Malformed| Refusal::Garbage;
        reader.take(36, "hello").map_err(garbage)?;
        let len = reader.u32("length of an address").map_err(garbage)? as usize;
        if len > MAX_ADDR_BYTES {
            return Err(Refusal::Garbage);
        }
        Ok(len)
    }

    /// Reads the head of a hello and the address behind it.
    pub(super) fn decode(head: &[u8; HELLO_BYTES], addr: &[u8]) -> Result<Self, Refusal> {
        let garbage = |_: Malformed| Refusal::Garbage;
        let mut reader = Reader::new(head);
        check_version(&mut reader)?;
        let lane = match reader.u32("lane").map_err(garbage)? {
            0 => LaneKind::Words,
            1 => LaneKind::Entries,
            _ => return Err(Refusal::Garbage),
        };
        let mut number = || reader.u64("hello").map_err(garbage);
        let from = Identity {
            cluster: ClusterId(number()?),
            node: NodeId(number()?),
            incarnation: number()?,
        };
        let to = NodeId(number()?);
        let len = reader.u32("length of an address").map_err(garbage)?;
        let covered = reader.offset();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..covered]);
        crc.update(addr);
        if len as usize != addr.len() || reader.u32("crc") != Ok(crc.finalize()) {
            return Err(Refusal::Garbage);
        }
        let addr = std::str::from_utf8(addr).map_err(|_| Refusal::Garbage)?;
        Ok(Self {
            lane,
            from,
            to,
            addr: addr.to_owned(),
        })
    }
}

/// The answer to a hello: welcome, or why not.
pub(super) fn encode_answer(verdict: Result<(), Refusal>, incarnation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.put_u32(VERSION);
    bytes.put_u32(verdict.err().map_or(0, Refusal::code));
    bytes.put_u64(incarnation);
    let crc = crc32fast::hash(&bytes);
    bytes.put_u32(crc);
    bytes
}

/// The incarnation of who answered, if it bade welcome.
pub(super) fn decode_answer(bytes: &[u8; ANSWER_BYTES]) -> Result<u64, Refusal> {
    let mut reader = Reader::new(bytes);
    check_version(&mut reader)?;
    let code = reader.u32("verdict").map_err(|_| Refusal::Garbage)?;
    let incarnation = reader.u64("incarnation").map_err(|_| Refusal::Garbage)?;
    check_crc(&mut reader, bytes)?;
    Refusal::from_code(code).map_or(Ok(incarnation), Err)
}

fn check_version(reader: &mut Reader<'_>) -> Result<(), Refusal> {
    if reader.take(MAGIC.len(), "magic") != Ok(&MAGIC) {
        return Err(Refusal::Garbage);
    }
    match reader.u32("version") {
        Ok(VERSION) => Ok(()),
        Ok(_) => Err(Refusal::Version),
        Err(_) => Err(Refusal::Garbage),
    }
}

fn check_crc(reader: &mut Reader<'_>, bytes: &[u8]) -> Result<(), Refusal> {
    let covered = reader.offset();
    match reader.u32("crc") {
        Ok(crc) if crc == crc32fast::hash(&bytes[..covered]) => Ok(()),
        _ => Err(Refusal::Garbage),
    }
}

/// Appends a message and its entries to `out` as one frame. Panics at 4 GiB, which no limit allows.
pub(super) fn put_frame(out: &mut Gathered, message: &Message, entries: &[Entry]) {
    put_framed(out, |out| {
        out.put(|bytes| put_body(bytes, message, entries.len()));
        for Entry { id, kind, payload } in entries {
            out.put(|bytes| {
                bytes.put_u64(id.term.0);
                bytes.put_u8(*kind as u8);
                bytes.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
            });
            out.put_payload(payload);
        }
    });
}

/// Appends what `put` does to `out` as the body of one frame.
pub(super) fn put_framed(out: &mut Gathered, put: impl FnOnce(&mut Gathered)) {
    let start = out.end();
    out.put(|bytes| bytes.extend_from_slice(&[0; FRAME_HEAD_BYTES]));
    put(out);
    let (len, crc) = out.since(start, FRAME_HEAD_BYTES);
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    assert!(len < u32::MAX, "a frame of 4 GiB or more");
    let mut head = [0; FRAME_HEAD_BYTES];
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..].copy_from_slice(&crc.to_le_bytes());
    out.overwrite(start, &head);
}

/// A message but for its entries, of which there are `count`.
fn put_body(out: &mut Vec<u8>, message: &Message, count: usize) {
    let mut head = |kind: u8| {
        out.put_u8(kind);
        out.put_u64(message.term.0);
    };
    match &message.body {
        Body::PreVote { last } => {
            head(1);
            put_id(out, *last);
        }
        Body::PreVoteReply { granted } => {
            head(2);
            out.put_u8(u8::from(*granted));
        }
        Body::Vote { last } => {
            head(3);
            put_id(out, *last);
        }
        Body::VoteReply { granted } => {
            head(4);
            out.put_u8(u8::from(*granted));
        }
        Body::Append {
            range,
            commit,
            round,
            runs: _,
        } => {
            head(5);
            put_id(out, range.prev);
            out.put_u64(commit.0);
            out.put_u64(*round);
            out.put_u32(u32::try_from(count).unwrap_or(u32::MAX));
        }
        Body::AppendReply {
            outcome: AppendOutcome::Matched { upto },
            round,
        } => {
            head(6);
            out.put_u64(upto.0);
            out.put_u64(*round);
        }
        Body::AppendReply {
            outcome: AppendOutcome::Rejected { prev, hint },
            round,
        } => {
            head(7);
            out.put_u64(prev.0);
            put_id(out, *hint);
            out.put_u64(*round);
        }
        Body::HandoverVote { last } => {
            head(8);
            put_id(out, *last);
        }
        Body::TimeoutNow => head(9),
        Body::Snapshot { last, round } => {
            head(10);
            put_id(out, *last);
            out.put_u64(*round);
        }
        Body::AppendReply {
            outcome: AppendOutcome::Fetching,
            round,
        } => {
            head(11);
            out.put_u64(*round);
        }
        Body::AskReadIndex { ask } => {
            head(14);
            out.put_u64(*ask);
        }
        Body::ReadIndex { ask, index } => {
            head(15);
            out.put_u64(*ask);
            out.put_u64(index.0);
        }
    }
}

pub(super) fn put_id(out: &mut Vec<u8>, id: LogId) {
    out.put_u64(id.term.0);
    out.put_u64(id.index.0);
}

/// The longest body that a peer with the same limits sends.
pub(super) fn max_body_bytes(limits: &Limits) -> usize {
    let entries = usize::try_from(limits.max_append_entries).unwrap_or(usize::MAX);
    BODY_BYTES
        .saturating_add(limits.max_append_bytes)
        .saturating_add(limits.max_entry_bytes)
        .saturating_add(entries.saturating_mul(ENTRY_BYTES))
        .max(transfer::MAX_BODY_BYTES)
}

/// What a frame's head says of the body: its length, at most `limit`, and its crc.
pub(super) fn decode_head(
    head: &[u8; FRAME_HEAD_BYTES],
    limit: usize,
) -> Result<(usize, u32), Malformed> {
    let mut reader = Reader::new(head);
    let len = reader.u32("length of a frame")? as usize;
    if len > limit {
        return Err(Malformed {
            what: "length of a frame, over the limit",
            offset: 0,
        });
    }
    Ok((len, reader.u32("crc of a frame")?))
}

/// Whether a body is what was sent.
pub(super) fn check_body(body: &[u8], crc: u32) -> Result<(), Malformed> {
    if crc32fast::hash(body) == crc {
        return Ok(());
    }
    Err(Malformed {
        what: "frame, by its crc",
        offset: 0,
    })
}

/// Reads a body. The payloads of entries are slices of what `keep` makes of it, which is asked only if there are
/// any.
pub(super) fn decode_body(
    body: &[u8],
    limits: &Limits,
    keep: impl FnOnce() -> Bytes,
) -> Result<(Message, Vec<Entry>), Malformed> {
    let mut reader = Reader::new(body);
    let kind = reader.u8("kind of message")?;
    let term = Term(reader.u64("term")?);
    let mut entries = Vec::new();
    let read = match kind {
        1 => Body::PreVote {
            last: id(&mut reader)?,
        },
        2 => Body::PreVoteReply {
            granted: granted(&mut reader)?,
        },
        3 => Body::Vote {
            last: id(&mut reader)?,
        },
        4 => Body::VoteReply {
            granted: granted(&mut reader)?,
        },
        5 => append(&mut reader, limits, keep, &mut entries)?,
        6 => Body::AppendReply {
            outcome: AppendOutcome::Matched {
                upto: LogIndex(reader.u64("upto")?),
            },
            round: reader.u64("round")?,
        },
        7 => Body::AppendReply {
            outcome: AppendOutcome::Rejected {
                prev: LogIndex(reader.u64("prev")?),
                hint: id(&mut reader)?,
            },
            round: reader.u64("round")?,
        },
        8 => Body::HandoverVote {
            last: id(&mut reader)?,
        },
        9 => Body::TimeoutNow,
        10 => Body::Snapshot {
            last: id(&mut reader)?,
            round: reader.u64("round")?,
        },
        11 => Body::AppendReply {
            outcome: AppendOutcome::Fetching,
            round: reader.u64("round")?,
        },
        14 => Body::AskReadIndex {
            ask: reader.u64("ask")?,
        },
        15 => Body::ReadIndex {
            ask: reader.u64("ask")?,
            index: LogIndex(reader.u64("read index")?),
        },
        _ => {
            return Err(Malformed {
                what: "kind of message",
                offset: 0,
            });
        }
    };
    reader.finish("end of a message")?;
    Ok((Message { term, body: read }, entries))
}

pub(super) fn id(reader: &mut Reader<'_>) -> Result<LogId, Malformed> {
    let term = Term(reader.u64("term of an entry")?);
    Ok(LogId::new(term, LogIndex(reader.u64("index of an entry")?)))
}

fn granted(reader: &mut Reader<'_>) -> Result<bool, Malformed> {
    match reader.u8("vote")? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.malformed("vote")),
    }
}

/// An append: its entries follow `prev` without a gap, in terms that do not go down.
fn append(
    reader: &mut Reader<'_>,
    limits: &Limits,
    keep: impl FnOnce() -> Bytes,
    entries: &mut Vec<Entry>,
) -> Result<Body, Malformed> {
    let prev = id(reader)?;
    let commit = LogIndex(reader.u64("commit")?);
    let round = reader.u64("round")?;
    let count = reader.u32("number of entries")?;
    let fits = reader.left() / ENTRY_BYTES >= count as usize;
    if !fits || u64::from(count) > limits.max_append_entries {
        return Err(reader.malformed("number of entries"));
    }
    entries.reserve_exact(count as usize);
    let body = (count > 0).then(keep);
    let payload_at = |at, len| body.as_ref().map(|body| body.slice(at, len));
    let mut last = prev;
    for _ in 0..count {
        let term = Term(reader.u64("term of an entry")?);
        let index = last.index.0.checked_add(1).map(LogIndex);
        let (Some(index), true) = (index, term >= last.term) else {
            return Err(reader.malformed("order of entries"));
        };
        let kind = EntryKind::from_u8(reader.u8("kind of entry")?);
        let kind = kind.ok_or_else(|| reader.malformed("kind of entry"))?;
        let payload = reader.bytes(limits.max_entry_bytes, "payload of an entry")?;
        let payload = payload_at(reader.offset() - payload.len(), payload.len());
        last = LogId::new(term, index);
        entries.push(Entry {
            id: last,
            kind,
            payload: payload.unwrap_or_default(),
        });
    }
    let range = EntryRange { prev, last };
    Ok(Body::Append {
        range,
        runs: runs_of(entries),
        commit,
        round,
    })
}

#[cfg(test)]
mod tests;
