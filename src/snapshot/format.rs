//! The layout of a snapshot file, and nothing else. All numbers are little-endian.
//!
//! ```text
//! 0         80        80 + c                                              size - 32    size
//! +---------+---------+---------+---------+-- -- --+---------------------+-----------+
//! | header  | config  | chunk 0 | chunk 1 |        | chunk n - 1         | footer    |
//! +---------+---------+---------+---------+-- -- --+---------------------+-----------+
//!
//! header                                        chunk
//!  0  8  "CATASNAP"                              0  4  length of its bytes, 1 to 256 KiB
//!  8  4  format version                          4  4  crc of number u64, length u32, bytes
//! 12  4  0                                       8     bytes of the state
//! 16  8  incompatible features
//! 24  8  compatible features                    footer
//! 32  8  cluster                                 0  4  0, which no chunk has as its length
//! 40  8  last entry: term                        4  4  crc of bytes 8..32
//! 48  8  last entry: index                       8  8  number of chunks
//! 56  4  the state's own format                 16  8  bytes of the state
//! 60  4  c: length of the configuration         24  4  digest: crc of the chunks' crcs
//! 64  8  entry that the configuration is of     28  4  0
//! 72  4  crc of the configuration
//! 76  4  crc of bytes 0..76
//! ```
//!
//! The crcs of chunks and footer, and the digest, go on from the header's as if that were the crc of bytes
//! before. So a chunk belongs to one place of one snapshot, and a file made of two is none.

use super::error::SnapshotError;
use crate::codec::{Malformed, Put, Reader};
use crate::types::{ClusterId, LogId, LogIndex, Term};
use std::path::Path;

const MAGIC: [u8; 8] = *b"CATASNAP";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 80;
pub(super) const CHUNK_HEAD_BYTES: usize = 8;
pub(super) const FOOTER_BYTES: usize = 32;
/// The most bytes in a chunk: what is held of a snapshot in memory, once for each who reads or writes one.
pub(super) const MAX_CHUNK_BYTES: usize = 256 << 10;
/// The longest configuration: more than the most members with the longest addresses take.
const MAX_CONFIG_BYTES: usize = 4 << 20;

/// What a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meta {
    /// Whose state it is. Which member wrote it does not matter: all come to the same.
    pub cluster: ClusterId,
    /// The last entry that the state has in it.
    pub last: LogId,
    /// The members as of that entry.
    pub configuration: Configuration,
    /// The format of the state, as the state machine numbers its own.
    pub state_format: u32,
}

/// The last entry of kind [`Config`](crate::types::EntryKind::Config) at some place of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Where the entry stands.
    pub index: LogIndex,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// What the fixed part of the header says, and the crc that the others go on from.
pub(super) struct Head {
    pub(super) meta: Meta,
    pub(super) seed: u32,
    pub(super) config_bytes: usize,
    config_crc: u32,
}

impl Meta {
    /// Header and configuration, and the seed of what follows. None if the configuration is too long.
    pub(super) fn encode(&self) -> Option<(Vec<u8>, u32)> {
        let config = &self.configuration.bytes;
        let len = u32::try_from(config.len()).ok()?;
        if config.len() > MAX_CONFIG_BYTES {
            return None;
        }
        let mut out = Vec::with_capacity(HEADER_BYTES + config.len());
        out.extend_from_slice(&MAGIC);
        out.put_u32(VERSION);
        out.put_u32(0);
        out.put_u64(0);
        out.put_u64(0);
        out.put_u64(self.cluster.0);
        out.put_u64(self.last.term.0);
        out.put_u64(self.last.index.0);
        out.put_u32(self.state_format);
        out.put_u32(len);
        out.put_u64(self.configuration.index.0);
        out.put_u32(crc32fast::hash(config));
        let seed = crc32fast::hash(&out);
        out.put_u32(seed);
        out.extend_from_slice(config);
        Some((out, seed))
    }
}

impl Head {
    /// Reads the header of the file at `path`, without the configuration behind it.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], path: &Path) -> Result<Self, SnapshotError> {
        let damaged = |_: Malformed| SnapshotError::damaged(path, 0, "the header is cut short");
        let mut reader = Reader::new(bytes);
        if reader.take(MAGIC.len(), "magic").map_err(damaged)? != MAGIC {
            let path = path.to_path_buf();
            return Err(SnapshotError::NotASnapshot { path });
        }
        let seed = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        if bytes[HEADER_BYTES - 4..] != seed.to_le_bytes() {
            let what = "the header does not match its checksum";
            return Err(SnapshotError::damaged(path, 0, what));
        }
        let found = reader.u32("version").map_err(damaged)?;
        if found == 0 || found > VERSION {
            return Err(SnapshotError::NewerFormat {
                path: path.to_path_buf(),
                found,
                supported: VERSION,
            });
        }
        reader.u32("zero").map_err(damaged)?;
        let bits = reader.u64("incompatible features").map_err(damaged)?;
        if bits != 0 {
            let path = path.to_path_buf();
            return Err(SnapshotError::UnknownFeatures { path, bits });
        }
        reader.u64("compatible features").map_err(damaged)?;
        let cluster = ClusterId(reader.u64("cluster").map_err(damaged)?);
        let term = Term(reader.u64("term").map_err(damaged)?);
        let last = LogId::new(term, LogIndex(reader.u64("index").map_err(damaged)?));
        let state_format = reader.u32("format of the state").map_err(damaged)?;
        let config_bytes = reader.u32("configuration").map_err(damaged)? as usize;
        let index = LogIndex(reader.u64("configuration").map_err(damaged)?);
        let config_crc = reader.u32("crc").map_err(damaged)?;
        if config_bytes > MAX_CONFIG_BYTES {
            let what = "the configuration is longer than any is";
            return Err(SnapshotError::damaged(path, 60, what));
        }
        if index > last.index {
            let what = "the configuration is of an entry that the state has not in it";
            return Err(SnapshotError::damaged(path, 64, what));
        }
        let configuration = Configuration {
            index,
            bytes: Vec::new(),
        };
        let meta = Meta {
            cluster,
            last,
            configuration,
            state_format,
        };
        Ok(Self {
            meta,
            seed,
            config_bytes,
            config_crc,
        })
    }

    /// Adds the configuration that followed the header.
    pub(super) fn configured(mut self, bytes: Vec<u8>, path: &Path) -> Result<Self, SnapshotError> {
        if crc32fast::hash(&bytes) != self.config_crc {
            let what = "the configuration does not match its checksum";
            return Err(SnapshotError::damaged(path, HEADER_BYTES as u64, what));
        }
        self.meta.configuration.bytes = bytes;
        Ok(self)
    }
}

/// Carries the crc of one chunk after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tally {
    seed: u32,
    pub(super) chunks: u64,
    /// Of the state.
    pub(super) bytes: u64,
    digest: u32,
}

impl Tally {
    pub(super) const fn new(seed: u32) -> Self {
        Self {
            seed,
            chunks: 0,
            bytes: 0,
            digest: seed,
        }
    }

    /// The crc of the next chunk.
    pub(super) fn crc(&self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(&self.chunks.to_le_bytes());
        hasher.update(&len_of(bytes).to_le_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }

    /// Counts the chunk that has this crc.
    pub(super) fn count(&mut self, bytes: &[u8], crc: u32) {
        self.chunks += 1;
        self.bytes += bytes.len() as u64;
        let mut hasher = crc32fast::Hasher::new_with_initial(self.digest);
        hasher.update(&crc.to_le_bytes());
        self.digest = hasher.finalize();
    }

    pub(super) const fn digest(&self) -> u32 {
        self.digest
    }

    /// The footer behind what was counted.
    pub(super) fn footer(&self) -> Vec<u8> {
        let mut rest = Vec::with_capacity(FOOTER_BYTES - CHUNK_HEAD_BYTES);
        rest.put_u64(self.chunks);
        rest.put_u64(self.bytes);
        rest.put_u32(self.digest);
        rest.put_u32(0);
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(&rest);
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.put_u32(0);
        out.put_u32(hasher.finalize());
        out.extend_from_slice(&rest);
        out
    }
}

/// Fills in the head of a chunk, whose bytes follow the room for it.
pub(super) fn fill_chunk_head(chunk: &mut [u8], tally: &Tally) -> u32 {
    let (head, bytes) = chunk.split_at_mut(CHUNK_HEAD_BYTES);
    let crc = tally.crc(bytes);
    head[..4].copy_from_slice(&len_of(bytes).to_le_bytes());
    head[4..].copy_from_slice(&crc.to_le_bytes());
    crc
}

#[expect(clippy::cast_possible_truncation, reason = "at most 256 KiB")]
const fn len_of(bytes: &[u8]) -> u32 {
    bytes.len() as u32
}
