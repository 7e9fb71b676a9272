//! How a segment's file comes to be, and how it goes.
//!
//! A new segment is filled with real zeros, or made of a dead one: either way the file system has nothing
//! left to allocate when the log writes to it, so that an `fdatasync` never waits for a journal. It gets its
//! name only when all of it is durable.
//!
//! Where entries come faster than zeros, a sync would wait for the zeros of a whole segment. Once one waits, the
//! rest of the segment is only reserved: a sync may wait for the journal there, and a write has room all the same.
//!
//! ```text
//!  nothing --zeros--> N.wal.tmp --header, fsync--> N.wal.tmp --rename, fsync dir--> N.wal
//!  dead.wal --rename, fsync dir--^
//! ```
//! A dead segment's name is durably gone before its first byte is changed, so no crash leaves a changed
//! file under it. What was in it stays behind the new header: frames of another segment's id, which are no
//! frames here.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::error::WalError;
use super::format::{self, HEAD_BYTES, Header};
use super::index::Segment;
use super::stock::Plan;
use crate::error::Fault;
use crate::vfs::{Access, Disk, DiskFile};

/// How much zero is written at once. The page cache keeps it in pieces of this size, and each write and sync of the log
/// walks through the whole of those that it touches, which takes a twentieth of a small commit if they are of 1 MiB.
/// Smaller ones cost the writes of a MiB more than they spare the small ones.
const CHUNK_BYTES: usize = 256 << 10;
/// For all logs of a process. Nobody writes to it, so it takes no memory.
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; CHUNK_BYTES]);
/// How much is synced at once. So much may stand before a sync of the log in the disk's queue: more makes one
/// wait longer, less makes more of them wait.
const SYNC_BYTES: u64 = 8 << 20;

/// Makes segment `sequence` of zeros, as far as nobody `waits` for it.
///
/// # Errors
/// As [`failure`], and [`WalError::Io`] if the file could not be created: nothing was asked of the disk then,
/// and another try may fare better.
pub(super) fn fill(
    disk: &dyn Disk,
    plan: &Plan,
    sequence: u64,
    waits: impl Fn() -> bool,
) -> Result<Arc<dyn DiskFile>, WalError> {
    let segment = plan.segment(sequence);
    let temporary = segment.path.with_extension("wal.tmp");
    let file = disk.create(&temporary).map_err(|error| {
        let fault = Fault::new("create", &temporary, error);
        if is_no_space(&fault) {
            WalError::NoSpace(fault)
        } else {
            WalError::Io(fault)
        }
    })?;
    let made = fill_file(&*file, &segment, &temporary, waits)
        .and_then(|()| name(disk, plan, &segment, &temporary, file));
    made.map_err(|fault| {
        // What was written only takes room; the next open removes it if this fails.
        let _ = disk.remove(&temporary);
        failure(fault)
    })
}

fn fill_file(
    file: &dyn DiskFile,
    segment: &Segment,
    temporary: &Path,
    waits: impl Fn() -> bool,
) -> Result<(), Fault> {
    let mut may_reserve = true;
    let mut offset = 0;
    while offset < segment.size {
        if may_reserve && waits() {
            match file.reserve(segment.size) {
                Err(error) if error.kind() == ErrorKind::Unsupported => may_reserve = false,
                reserved => return reserved.map_err(Fault::at("reserve", temporary)),
            }
        }
        let left = usize::try_from(segment.size - offset).unwrap_or(usize::MAX);
        let chunk = &ZEROS[..CHUNK_BYTES.min(left)];
        file.write_at(offset, chunk)
            .map_err(Fault::at("write", temporary))?;
        offset += chunk.len() as u64;
        if offset % SYNC_BYTES == 0 {
            file.sync_data().map_err(Fault::at("sync", temporary))?;
        }
    }
    Ok(())
}

/// Makes segment `sequence` of a dead one of the same size, whose file nobody has open.
///
/// # Errors
/// What the disk says; the file is then under its old name, or gone.
pub(super) fn recycle(
    disk: &dyn Disk,
    plan: &Plan,
    sequence: u64,
    dead: &Path,
) -> Result<Arc<dyn DiskFile>, Fault> {
    let segment = plan.segment(sequence);
    let temporary = segment.path.with_extension("wal.tmp");
    disk.rename(dead, &temporary)
        .map_err(Fault::at("rename", dead))?;
    let made = disk
        .sync_dir(&plan.dir)
        .map_err(Fault::at("sync", &plan.dir))
        .and_then(|()| {
            disk.open(&temporary, Access::ReadWrite)
                .map_err(Fault::at("open", &temporary))
        })
        .and_then(|file| name(disk, plan, &segment, &temporary, file));
    if made.is_err() {
        let _ = disk.remove(&temporary);
    }
    made
}

/// Gives a file that is prepared but for its header the header, and its name.
fn name(
    disk: &dyn Disk,
    plan: &Plan,
    segment: &Segment,
    temporary: &Path,
    file: Arc<dyn DiskFile>,
) -> Result<Arc<dyn DiskFile>, Fault> {
    let header = Header {
        id: segment.id,
        sequence: segment.sequence,
        identity: plan.identity,
        size: segment.size,
    };
    let mut head = header.encode();
    // The end of a log that has no frame yet.
    head.resize(head.len() + HEAD_BYTES, 0);
    file.write_at(0, &head)
        .map_err(Fault::at("write", temporary))?;
    file.sync_data().map_err(Fault::at("sync", temporary))?;
    disk.rename(temporary, &segment.path)
        .map_err(Fault::at("rename", temporary))?;
    disk.sync_dir(&plan.dir)
        .map_err(Fault::at("sync", &plan.dir))?;
    file.freeze(format::HEADER_BYTES);
    Ok(file)
}

/// What a failure to prepare a segment means: [`WalError::NoSpace`], after which another try may fare better;
/// else [`WalError::Failed`], since a disk that failed to write or sync is not asked again.
pub(super) fn failure(fault: Fault) -> WalError {
    if is_no_space(&fault) {
        WalError::NoSpace(fault)
    } else {
        WalError::Failed(fault)
    }
}

fn is_no_space(fault: &Fault) -> bool {
    matches!(
        fault.source.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Removes a segment's file, durably, so that of several never a later one goes before an earlier one.
///
/// # Errors
/// What the disk says.
pub(super) fn remove(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), Fault> {
    match disk.remove(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other.map_err(Fault::at("remove", path))?,
    }
    disk.sync_dir(dir).map_err(Fault::at("sync", dir))
}
