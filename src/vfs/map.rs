//! What std lacks: read-only memory maps of files, and room reserved on a disk. The only file with `unsafe` in it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Backing;

/// See [`DiskFile::reserve`](super::DiskFile::reserve).
#[expect(unsafe_code, reason = "a call to the system that std does not make")]
pub(super) fn reserve(file: &File, len: u64) -> io::Result<()> {
    let len = len.try_into().map_err(io::Error::other)?;
    loop {
        // SAFETY: the descriptor is open while `file` is borrowed, and the call takes no pointer. It changes no
        // byte that is there, so that slices of a map show what they showed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Err(io::ErrorKind::Unsupported.into()),
            _ => return Err(error),
        }
    }
}

/// A map of a whole file, of which only the frozen front is ever seen.
pub(super) struct FrozenMap {
    map: memmap2::Mmap,
    frozen: AtomicU64,
}

impl FrozenMap {
    /// Maps all of `file`, as long as it is now, with nothing frozen yet.
    #[expect(
        unsafe_code,
        reason = "a map is sound only if nobody writes what a slice shows"
    )]
    pub(super) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: a slice of the map is unsound if its bytes change while it is alive. Slices come from
        // `slice` alone, and never pass `frozen`; `StdFile` raises `frozen` only while none of its writes
        // is under way, refuses every write below it, and never lowers it; and the lock on the log's
        // directory keeps other processes of this crate from writing to the file at all. A segment's file
        // is recycled, through another `StdFile`, only when `StdFile::is_viewed` says that no slice is
        // left and no handle that could give one (`wal/stock.rs`). Nobody shrinks a segment's file. A
        // stranger who writes to or truncates a file of a running log can break this, as with every memory
        // map; the documentation of the log says so.
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self {
            map,
            frozen: AtomicU64::new(0),
        })
    }

    /// The frozen end: bytes below it are never written again.
    pub(super) fn frozen(&self) -> u64 {
        self.frozen.load(Ordering::Acquire)
    }

    /// Moves the frozen end up to `end`, or to where the map ends if a stranger had shortened the file before
    /// it was mapped.
    pub(super) fn freeze(&self, end: u64) {
        let end = end.min(self.map.len() as u64);
        self.frozen.fetch_max(end, Ordering::AcqRel);
    }
}

impl Backing for FrozenMap {
    fn slice(&self, start: usize, len: usize) -> &[u8] {
        let front = usize::try_from(self.frozen()).unwrap_or(usize::MAX);
        &self.map[..front][start..][..len]
    }
}
