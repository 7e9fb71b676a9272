//! The words everything else is written in: terms, indices, entries, and proofs of durability.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or starts a thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

mod membership;

pub use membership::{Change, MemberRole, Membership, Roster};

/// Names one member of a cluster, for as long as the cluster lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u64);

/// Names one cluster. Nodes of different clusters refuse each other, and each other's directories.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClusterId(pub u64);

/// Raft's logical clock: at most one leader is elected in a term (Raft paper, section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Term(pub u64);

impl Term {
    /// The term before any election.
    pub const ZERO: Self = Self(0);

    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The position of an entry in the log. The first entry ever is number 1; [`LogIndex::ZERO`] is the
/// place before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogIndex(pub u64);

impl LogIndex {
    /// The place before the first entry.
    pub const ZERO: Self = Self(0);

    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one, and [`LogIndex::ZERO`] before that.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The index `count` places further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }

    /// How many entries lie in `(earlier, self]`; 0 if `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What identifies an entry: two logs that hold the same `LogId` hold the same entry there, and the
/// same entries before it (Log Matching, Raft paper, section 5.3).
///
/// The order is the paper's "at least as up to date" (section 5.4.1): by term, then by index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogId {
    /// The term of the leader that created the entry.
    pub term: Term,
    /// Where it stands.
    pub index: LogIndex,
}

impl LogId {
    /// The place before the first entry of any log, which all logs share.
    pub const ORIGIN: Self = Self {
        term: Term::ZERO,
        index: LogIndex::ZERO,
    };

    /// The entry of `term` at `index`.
    #[must_use]
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

/// The entries in `(prev, last]`. Empty when both ends are the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EntryRange {
    /// The entry just before the range: what a follower's consistency check compares.
    pub prev: LogId,
    /// The last entry of the range.
    pub last: LogId,
}

impl EntryRange {
    /// The range with no entries, after `at`.
    #[must_use]
    pub const fn empty(at: LogId) -> Self {
        Self { prev: at, last: at }
    }

    /// How many entries the range holds.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.last.index.since(self.prev.index)
    }

    /// Whether the range holds no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stretch of entries that share a term: from `first` up to where the next run begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TermRun {
    /// The term of every entry of the run.
    pub term: Term,
    /// Its first index.
    pub first: LogIndex,
}

/// What a node must remember over a crash besides its entries (Raft paper, figure 2), and the commit
/// index, which only saves work after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HardState {
    /// The latest term seen.
    pub term: Term,
    /// Who got this node's vote in that term.
    pub vote: Option<NodeId>,
    /// A lower bound of what is committed.
    pub commit: LogIndex,
}

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Bytes that a client proposed.
    Normal = 0,
    /// Empty; opens the term of a new leader (Raft paper, section 8).
    Noop = 1,
    /// The members of the cluster, encoded.
    Config = 2,
}

impl EntryKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Normal),
            1 => Some(Self::Noop),
            2 => Some(Self::Config),
            _ => None,
        }
    }
}

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its term and index.
    pub id: LogId,
    /// What it is for.
    pub kind: EntryKind,
    /// Its bytes, a slice of what was read with them: a mapped segment, or a buffer of some other entries too. Who
    /// keeps few of many for long copies them.
    pub payload: Bytes,
}

/// One member of a cluster and where it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name.
    pub id: NodeId,
    /// Where its transport listens, as `HOST:PORT`.
    pub addr: String,
    /// Where its clients connect; catamaran only carries it, so that a client can be redirected.
    pub client_addr: String,
}

/// What tells one directory from another: the cluster and node it belongs to, and a number drawn when it
/// was created, so that a wiped or restored disk under an old name is noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub node: NodeId,
    /// Drawn at random when the directory was created.
    pub incarnation: u64,
}

/// The number of a write to a log, counted from 1 since it was opened; 0 is before the first.
///
/// Durability is compared by write and not by index, because an index can be rewritten while its first
/// write is still in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct WriteSeq(pub u64);

impl WriteSeq {
    /// Before the first write; durable from the start.
    pub const ZERO: Self = Self(0);

    /// The write after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A write that readers see and a crash may still lose. Only a log makes one; syncing turns it into
/// [`Durable`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "a staged write is not durable until it is synced"]
pub struct Staged {
    seq: WriteSeq,
    last: LogIndex,
}

impl Staged {
    /// `tests/tidy.rs` holds that only `wal` calls this.
    pub(crate) const fn mint(seq: WriteSeq, last: LogIndex) -> Self {
        Self { seq, last }
    }

    /// Which write it was.
    #[must_use]
    pub const fn seq(&self) -> WriteSeq {
        self.seq
    }

    /// The last index of the log after this write.
    #[must_use]
    pub const fn last(&self) -> LogIndex {
        self.last
    }
}

/// Proof that every write up to [`Durable::seq`] has been fsynced. Only an fsync makes one, so that an
/// acknowledgement before it does not type-check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Durable {
    seq: WriteSeq,
}

impl Durable {
    /// `tests/tidy.rs` holds that only `wal` calls this.
    pub(crate) const fn mint(seq: WriteSeq) -> Self {
        Self { seq }
    }

    /// What a simulated disk gives the consensus that it drives. A real one gives only what it fsynced.
    #[cfg(feature = "sim")]
    #[must_use]
    pub const fn for_simulation(seq: WriteSeq) -> Self {
        Self::mint(seq)
    }

    /// The last write that is covered.
    #[must_use]
    pub const fn seq(&self) -> WriteSeq {
        self.seq
    }
}

/// A moment, in microseconds since an origin that the caller chose. Consensus is told the time and never
/// reads a clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// This moment and `span` more, in whole microseconds.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// How long ago `earlier` was; zero if it was not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// What can stand behind [`Bytes`].
pub trait Backing: Send + Sync + 'static {
    /// The bytes in `start..start + len`. Must give the same bytes every time; panics when out of range.
    fn slice(&self, start: usize, len: usize) -> &[u8];
}

impl Backing for Vec<u8> {
    fn slice(&self, start: usize, len: usize) -> &[u8] {
        &self[start..start + len]
    }
}

/// Read-only bytes, cheap to clone: a slice of a mapped segment, which stays alive as long as the slice
/// does, or of the heap.
#[derive(Clone)]
pub struct Bytes {
    backing: Arc<dyn Backing>,
    start: usize,
    len: usize,
}

impl Bytes {
    /// `len` bytes of `backing`, from `start` on. Panics when they are not there.
    #[must_use]
    pub fn new(backing: Arc<dyn Backing>, start: usize, len: usize) -> Self {
        let _ = backing.slice(start, len);
        Self {
            backing,
            start,
            len,
        }
    }

    /// A part of these bytes. Panics when `start + len` is past their end.
    #[must_use]
    #[inline]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(
            start <= self.len && len <= self.len - start,
            "slice past the end"
        );
        Self {
            backing: Arc::clone(&self.backing),
            start: self.start + start,
            len,
        }
    }

    /// As [`Bytes::slice`], in the place of these bytes.
    #[must_use]
    #[inline]
    pub fn into_slice(mut self, start: usize, len: usize) -> Self {
        assert!(
            start <= self.len && len <= self.len - start,
            "slice past the end"
        );
        self.start += start;
        self.len = len;
        self
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.backing.slice(self.start, self.len)
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self {
            backing: Arc::new(bytes),
            start: 0,
            len,
        }
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl<const N: usize> From<&[u8; N]> for Bytes {
    fn from(bytes: &[u8; N]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

/// Bytes to be written: borrowed ones are copied, shared ones may be kept instead until they are on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload<'a> {
    /// Gone when the call returns.
    Borrowed(&'a [u8]),
    /// As long as anybody keeps them.
    Shared(&'a Bytes),
}

impl std::ops::Deref for Payload<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a Bytes> for Payload<'a> {
    fn from(bytes: &'a Bytes) -> Self {
        Self::Shared(bytes)
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Bytes {}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 32;
        let head = &self[..self.len.min(SHOWN)];
        write!(f, "b\"{}\"", head.escape_ascii())?;
        if self.len > SHOWN {
            write!(f, "..({} bytes)", self.len)?;
        }
        Ok(())
    }
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_number!(NodeId, Term, LogIndex, WriteSeq);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index, self.term)
    }
}
