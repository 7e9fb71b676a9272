//! Reading a snapshot back, each chunk checked before a byte of it is given out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::SnapshotError;
use super::format::{
    CHUNK_HEAD_BYTES, FOOTER_BYTES, HEADER_BYTES, Head, MAX_CHUNK_BYTES, Meta, Tally,
};
use super::incoming::Piece;
use crate::error::Fault;
use crate::types::{ClusterId, LogId};
use crate::vfs::{Access, Disk, DiskFile};

/// Names the bytes of a snapshot file. Two members' files with the same id are the same, byte for byte: they
/// took it at the same entry, and their state machine writes equal states alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotId {
    /// The last entry that it has in it.
    pub last: LogId,
    /// The file's length.
    pub bytes: u64,
    /// A crc of the crcs of all of it.
    pub digest: u32,
}

/// A snapshot that was read through once and found whole. Its file stays readable for as long as this is held,
/// also when the store has removed it.
pub struct Whole {
    meta: Meta,
    id: SnapshotId,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Where the chunks begin.
    begin: u64,
    seed: u32,
}

impl Whole {
    /// Opens the file, and reads all of it once.
    pub(super) fn open(
        disk: &dyn Disk,
        path: &Path,
        cluster: ClusterId,
    ) -> Result<Self, SnapshotError> {
        let file = disk
            .open(path, Access::Read)
            .map_err(Fault::at("open", path))?;
        let size = file.size().map_err(Fault::at("measure", path))?;
        let head = read_head(&*file, size, path)?;
        let found = head.meta.cluster;
        if found != cluster {
            return Err(SnapshotError::Foreign {
                path: path.to_path_buf(),
                expected: cluster,
                found,
            });
        }
        let mut whole = Self {
            id: SnapshotId {
                last: head.meta.last,
                bytes: size,
                digest: 0,
            },
            begin: (HEADER_BYTES + head.config_bytes) as u64,
            seed: head.seed,
            meta: head.meta,
            path: path.to_path_buf(),
            file,
        };
        let mut chunks = Chunks::new(&whole);
        while chunks.load()? {}
        whole.id.digest = chunks.tally.digest();
        Ok(whole)
    }

    pub(super) fn renamed(self, path: PathBuf) -> Self {
        Self { path, ..self }
    }

    /// What it is of.
    #[must_use]
    pub const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Its name among all snapshots.
    #[must_use]
    pub const fn id(&self) -> SnapshotId {
        self.id
    }

    /// The file that it was found in.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of the file at `offset`, at most `most` of them.
    pub(super) fn piece(&self, offset: u64, most: usize) -> Result<Piece, SnapshotError> {
        let left = self.id.bytes.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(most).min(most)];
        let read = self.file.read_at(offset, &mut bytes);
        read.map_err(Fault::at("read", &self.path))?;
        Ok(Piece {
            id: self.id,
            offset,
            bytes: bytes.into(),
        })
    }

    /// Has `restore` read the state, which it is told the format of.
    ///
    /// # Errors
    /// Those of the disk, [`SnapshotError::Damaged`] if the file has changed since it was found whole, and
    /// [`SnapshotError::State`] for what else `restore` fails with.
    pub fn restore(
        &self,
        restore: impl FnOnce(u32, &mut dyn io::Read) -> io::Result<()>,
    ) -> Result<(), SnapshotError> {
        let mut reader = self.read();
        let restored = restore(self.meta.state_format, &mut reader);
        // What failed underneath says more, and whatever was made of it is wrong.
        match (reader.failed, restored) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(SnapshotError::State(Arc::new(error))),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Reads the state that it holds, from the start.
    #[must_use]
    pub fn read(&self) -> SnapshotReader<'_> {
        SnapshotReader {
            chunks: Chunks::new(self),
            given: 0,
            ended: false,
            failed: None,
        }
    }
}

/// Gives the bytes of a state, as they were written. Holds one chunk of them in memory.
pub struct SnapshotReader<'a> {
    chunks: Chunks<'a>,
    /// How many bytes of the chunk were given out.
    given: usize,
    ended: bool,
    /// The first failure, which [`io::Read`] can only tell in part.
    failed: Option<SnapshotError>,
}

impl io::Read for SnapshotReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.given == self.chunks.chunk.len() && !self.ended {
            self.given = 0;
            match self.chunks.load() {
                Ok(more) => self.ended = !more,
                Err(error) => {
                    let told = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
                    self.failed.get_or_insert(error);
                    return Err(told);
                }
            }
        }
        let left = &self.chunks.chunk[self.given..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        self.given += count;
        Ok(count)
    }
}

/// Walks over the chunks of a file up to its footer.
struct Chunks<'a> {
    whole: &'a Whole,
    offset: u64,
    tally: Tally,
    chunk: Vec<u8>,
}

impl<'a> Chunks<'a> {
    const fn new(whole: &'a Whole) -> Self {
        Self {
            whole,
            offset: whole.begin,
            tally: Tally::new(whole.seed),
            chunk: Vec::new(),
        }
    }

    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::damaged(&self.whole.path, self.offset, what)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), SnapshotError> {
        let read = self.whole.file.read_at(offset, into);
        Ok(read.map_err(Fault::at("read", &self.whole.path))?)
    }

    /// Loads the next chunk. False when the footer was reached, and is right.
    fn load(&mut self) -> Result<bool, SnapshotError> {
        self.chunk.clear();
        // The file is not believed to be longer than it was found to be.
        let left = self.whole.id.bytes.saturating_sub(self.offset);
        if left < FOOTER_BYTES as u64 {
            return Err(self.damaged("the file ends before the snapshot does"));
        }
        let mut head = [0; CHUNK_HEAD_BYTES];
        self.read(self.offset, &mut head)?;
        let [a, b, c, d, crc @ ..] = head;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len == 0 {
            return self.end(left).map(|()| false);
        }
        let end = (CHUNK_HEAD_BYTES + len + FOOTER_BYTES) as u64;
        if len > MAX_CHUNK_BYTES || end > left {
            return Err(self.damaged("a chunk has a length that none has here"));
        }
        let mut chunk = std::mem::take(&mut self.chunk);
        chunk.resize(len, 0);
        self.read(self.offset + CHUNK_HEAD_BYTES as u64, &mut chunk)?;
        let found = self.tally.crc(&chunk);
        if found.to_le_bytes() != crc {
            return Err(self.damaged("a chunk does not match its checksum"));
        }
        self.tally.count(&chunk, found);
        self.offset += (CHUNK_HEAD_BYTES + len) as u64;
        self.chunk = chunk;
        Ok(true)
    }

    /// Checks the footer, which must be the end of the file.
    fn end(&self, left: u64) -> Result<(), SnapshotError> {
        let mut footer = [0; FOOTER_BYTES];
        self.read(self.offset, &mut footer)?;
        if footer != *self.tally.footer() {
            return Err(self.damaged("the footer is not that of the chunks before it"));
        }
        if left != FOOTER_BYTES as u64 {
            return Err(self.damaged("something follows the footer"));
        }
        Ok(())
    }
}

fn read_head(file: &dyn DiskFile, size: u64, path: &Path) -> Result<Head, SnapshotError> {
    let short = |at| SnapshotError::damaged(path, at, "the file ends within its header");
    let mut header = [0; HEADER_BYTES];
    if size < HEADER_BYTES as u64 {
        return Err(short(size));
    }
    file.read_at(0, &mut header)
        .map_err(Fault::at("read", path))?;
    let head = Head::decode(&header, path)?;
    if size - (HEADER_BYTES as u64) < head.config_bytes as u64 {
        return Err(short(size));
    }
    let mut config = vec![0; head.config_bytes];
    file.read_at(HEADER_BYTES as u64, &mut config)
        .map_err(Fault::at("read", path))?;
    head.configured(config, path)
}
