//! The disk, as a trait of few calls, so that one log runs on a real disk and on a simulated one.
//!
//! Every call to the platform is in this module, and every `unsafe` block in `vfs/map.rs`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::types::Bytes;

mod map;
mod std_disk;

pub use std_disk::StdDisk;

/// A file system. All paths are the caller's; nothing is created but what a call names.
///
/// What survives a power cut: a file's bytes after [`DiskFile::sync_data`], its name after
/// [`Disk::sync_dir`] of its directory. Nothing else is promised, and the log relies on nothing else.
pub trait Disk: Send + Sync + 'static {
    /// Creates `dir` and what is missing above it, durably.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in `dir`, sorted.
    ///
    /// # Errors
    /// What the system says; `NotFound` if there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates an empty file, or empties the one that is there, for reading and writing.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file. For [`Access::Read`] every byte of it counts as frozen (see [`DiskFile::freeze`]).
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, over one of the new name if there is one.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks `path`, created if need be, against every other process and handle until the guard is
    /// dropped.
    ///
    /// # Errors
    /// `WouldBlock` if somebody else holds it; else what the system says.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>>;

    /// A number that no other run draws.
    ///
    /// # Errors
    /// What the system says.
    fn entropy(&self) -> io::Result<u64>;
}

/// What a file is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Holds a lock until it is dropped.
pub trait LockGuard: Send + Sync {}

/// An open file.
///
/// Bytes below the frozen end are never written again, and only they are handed out as slices: that is
/// what makes a slice of a memory map sound.
pub trait DiskFile: Send + Sync {
    /// The file's size in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;

    /// Reads exactly `into.len()` bytes, copied, whether frozen or not.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before; else what the system says.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// `InvalidInput` below the frozen end; else what the system says. After an error any part may have
    /// been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes a file that is shorter `len` bytes long, with room on the disk for all of them. What was not written
    /// is zero. A disk need not be able to.
    ///
    /// # Errors
    /// `Unsupported` if it is not; `StorageFull` and what else the system says.
    fn reserve(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes the bytes, and a changed length, durable. After an error nothing is known of any byte
    /// written since the last success, and a second try proves nothing.
    ///
    /// # Errors
    /// What the system says.
    fn sync_data(&self) -> io::Result<()>;

    /// Declares that bytes below `end` will never be written again. The frozen end never goes down.
    fn freeze(&self, end: u64);

    /// Whether bytes that [`DiskFile::view`] gave are still held by somebody. Until nobody holds any, the
    /// file must not be opened anew to be written from its start.
    fn is_viewed(&self) -> bool;

    /// `len` bytes at `offset`, mapped where the disk can, all below the frozen end.
    ///
    /// # Errors
    /// `InvalidInput` beyond the frozen end; else what the system says.
    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes>;
}
