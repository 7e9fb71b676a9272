//! The real disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::map::{self, FrozenMap};
use super::{Access, Disk, DiskFile, LockGuard};
use crate::types::Bytes;

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdDisk;

impl Disk for StdDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            other => other?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none that a log gave.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(Arc::new(StdFile::new(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let writable = access == Access::ReadWrite;
        let file = StdFile::new(OpenOptions::new().read(true).write(writable).open(path)?);
        if access == Access::Read {
            file.freeze(file.size()?);
        }
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(StdLock { _file: file })),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn entropy(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The lock is the open file's; closing it lets go.
struct StdLock {
    _file: File,
}

impl LockGuard for StdLock {}

struct StdFile {
    file: File,
    /// Bytes below this are never written again. Held for reading during a write, so that it cannot pass
    /// bytes that are being written.
    frozen: RwLock<u64>,
    /// Made at the first view, when the file has reached its full length.
    map: OnceLock<Arc<FrozenMap>>,
}

impl StdFile {
    const fn new(file: File) -> Self {
        Self {
            file,
            frozen: RwLock::new(0),
            map: OnceLock::new(),
        }
    }

    /// The map, with what is frozen, which must be at least the bytes below `end`.
    fn map_up_to(&self, end: u64) -> io::Result<&Arc<FrozenMap>> {
        let frozen = *self.frozen.read();
        if end > frozen {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a view past the frozen end",
            ));
        }
        let map = match self.map.get() {
            Some(map) => map,
            None => {
                let map = Arc::new(FrozenMap::new(&self.file)?);
                self.map.get_or_init(|| map)
            }
        };
        map.freeze(frozen);
        if end > map.frozen() {
            // An error while it can be one: a page behind the file's end would end the process.
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file is shorter than it was",
            ));
        }
        Ok(map)
    }
}

impl DiskFile for StdFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let frozen = self.frozen.read();
        if offset < *frozen {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a write below the frozen end",
            ));
        }
        self.file.write_all_at(bytes, offset)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        map::reserve(&self.file, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn freeze(&self, end: u64) {
        let mut frozen = self.frozen.write();
        *frozen = end.max(*frozen);
        if let Some(map) = self.map.get() {
            map.freeze(*frozen);
        }
    }

    fn is_viewed(&self) -> bool {
        let viewed = self.map.get().is_some_and(|map| Arc::strong_count(map) > 1);
        // What the last holder read, it read before whatever follows here.
        fence(Ordering::Acquire);
        viewed
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let end = offset.saturating_add(len as u64);
        let map = match self.map.get() {
            Some(map) if end <= map.frozen() => map,
            _ => self.map_up_to(end)?,
        };
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        Ok(Bytes::new(Arc::clone(map) as Arc<_>, offset, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_shows_what_was_written_through_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = StdDisk.create(&dir.path().join("f")).unwrap();
        file.write_at(0, &[0; 4096]).unwrap();
        file.freeze(2);
        let zeros = file.view(0, 2).unwrap();
        file.write_at(2, b"abc").unwrap();
        file.freeze(5);
        assert_eq!(&*file.view(2, 3).unwrap(), b"abc");
        assert_eq!(&*zeros, &[0, 0]);
    }

    #[test]
    fn frozen_bytes_are_not_written_and_others_are_not_viewed() {
        let dir = tempfile::tempdir().unwrap();
        let file = StdDisk.create(&dir.path().join("f")).unwrap();
        file.write_at(0, &[7; 64]).unwrap();
        file.freeze(32);
        file.freeze(16);
        assert_eq!(
            file.write_at(31, b"x").unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert_eq!(
            file.view(30, 3).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        file.write_at(32, b"x").unwrap();
    }

    #[test]
    fn what_is_reserved_behind_what_was_written_is_zero_and_takes_room() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = StdDisk.create(&path).unwrap();
        file.write_at(0, &[7; 4096]).unwrap();
        match file.reserve(1 << 20) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
            other => other.unwrap(),
        }
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 1 << 20);
        assert!(metadata.blocks() * 512 >= 1 << 20);
        let bytes = fs::read(&path).unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == 7));
        assert!(bytes[4096..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_file_is_viewed_as_long_as_somebody_holds_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let file = StdDisk.create(&dir.path().join("f")).unwrap();
        file.write_at(0, &[7; 64]).unwrap();
        file.freeze(64);
        assert!(!file.is_viewed());
        let part = file.view(0, 64).unwrap().slice(8, 8);
        assert!(file.is_viewed(), "by a part of what was given");
        drop(part);
        assert!(!file.is_viewed());
    }

    #[test]
    fn a_file_that_was_cut_off_before_it_was_mapped_is_an_error_past_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = StdDisk.create(&path).unwrap();
        file.write_at(0, &[7; 16384]).unwrap();
        file.freeze(16384);
        let stranger = OpenOptions::new().write(true).open(&path).unwrap();
        stranger.set_len(8192).unwrap();
        for (offset, len) in [(12_000, 8), (8190, 3), (0, 16384)] {
            let error = file.view(offset, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
        assert_eq!(&*file.view(0, 8192).unwrap(), &[7; 8192]);
    }

    #[test]
    fn a_lock_is_held_against_a_second_taker_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = StdDisk.lock(&path).unwrap();
        let second = StdDisk.lock(&path).map(drop).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        StdDisk.lock(&path).unwrap();
    }
}
