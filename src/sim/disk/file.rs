//! An open file of the simulated disk.

use std::io;
use std::sync::Arc;

use super::{Op, SimDisk, Target, invalid};
use crate::sync::Mutex;
use crate::types::{Backing, Bytes};
use crate::vfs::{Access, DiskFile};

pub(super) struct SimFile {
    disk: SimDisk,
    inode: usize,
    access: Access,
    frozen: Mutex<u64>,
    /// Held once more by each view.
    views: Arc<()>,
}

/// A file's bytes as they were when a view was asked for. In life it is a map, under which they would change:
/// no write below its end is let through while it is held.
struct View {
    bytes: Arc<Vec<u8>>,
    _held: [Arc<()>; 2],
}

impl Backing for View {
    fn slice(&self, start: usize, len: usize) -> &[u8] {
        self.bytes.slice(start, len)
    }
}

impl SimFile {
    pub(super) fn new(disk: SimDisk, inode: usize, access: Access, frozen: u64) -> Self {
        Self {
            disk,
            inode,
            access,
            frozen: Mutex::new(frozen),
            views: Arc::new(()),
        }
    }

    fn read(&self) -> io::Result<Arc<Vec<u8>>> {
        let mut world = self.disk.world.lock();
        let _ = world.enter(Op::Read, Target::Inode(self.inode))?;
        Ok(Arc::clone(&world.inodes[self.inode].live))
    }
}

/// Where `len` bytes at `offset` stand in a file of `size` bytes.
fn span(offset: u64, len: usize, size: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start.checked_add(len).filter(|&end| end <= size);
    Ok(start..end.ok_or(io::ErrorKind::UnexpectedEof)?)
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.read()?.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.read()?;
        into.copy_from_slice(&bytes[span(offset, into.len(), bytes.len())?]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        if offset < *self.frozen.lock() {
            return Err(invalid("a write below the frozen end"));
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let mut world = self.disk.world.lock();
        if world.inodes[self.inode].is_viewed(start) {
            return Err(invalid("a write under a view that somebody holds"));
        }
        let entered = world.enter(Op::Write, Target::Inode(self.inode))?;
        let full = world.full;
        let inode = &mut world.inodes[self.inode];
        let grows = start.saturating_add(bytes.len()) > inode.live.len();
        if full && grows {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inode.write(start, bytes);
        world.leave(entered)
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        let size = self.size()?;
        let more = usize::try_from(len.saturating_sub(size)).map_err(io::Error::other)?;
        self.write_at(size, &vec![0; more])
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        let entered = world.enter(Op::Sync, Target::Inode(self.inode))?;
        world.inodes[self.inode].sync();
        world.leave(entered)
    }

    fn freeze(&self, end: u64) {
        let mut frozen = self.frozen.lock();
        *frozen = end.max(*frozen);
    }

    fn is_viewed(&self) -> bool {
        Arc::strong_count(&self.views) > 1
    }

    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let frozen = *self.frozen.lock();
        if offset
            .checked_add(len as u64)
            .is_none_or(|end| end > frozen)
        {
            return Err(invalid("a view past the frozen end"));
        }
        let mut world = self.disk.world.lock();
        let _ = world.enter(Op::Read, Target::Inode(self.inode))?;
        let inode = &mut world.inodes[self.inode];
        let span = span(offset, len, inode.live.len())?;
        let view = View {
            bytes: Arc::clone(&inode.live),
            _held: [Arc::clone(&self.views), inode.view(span.end)],
        };
        Ok(Bytes::new(Arc::new(view), span.start, len))
    }
}
