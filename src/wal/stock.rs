//! Segments prepared ahead of need, and old ones removed: what the log asks of the disk off its hot path.
//!
//! A segment is filled with real zeros, so that a later `fdatasync` never waits for the file system to
//! allocate anything, and a full disk is an ordinary error found here. It gets its name only when all of
//! it is durable.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::error::WalError;
use super::format::{self, Header};
use super::index::Segment;
use crate::error::Fault;
use crate::types::Identity;
use crate::vfs::{Access, Disk, DiskFile};

/// How much zero is written at once.
const CHUNK_BYTES: usize = 1 << 20;
/// How many segments are kept ready.
const AHEAD: u64 = 1;

/// Who prepares segments and removes old ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Preparer {
    /// A thread named `catamaran-wal`.
    #[default]
    Thread,
    /// Whoever syncs, when the sync is done. Nothing runs beside the caller, so that a simulated disk sees
    /// the same calls in the same order every time.
    Inline,
}

/// What every new segment of a log has in common.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) segment_bytes: u64,
    /// Drawn when the log was opened: ids of segments made since come from it.
    pub(super) seed: u64,
    /// Segments that were found prepared and unused, in order.
    pub(super) found: Vec<Header>,
}

impl Plan {
    /// The id that the segment gets when it is made: known before, so that frames can be encoded for it.
    fn id(&self, sequence: u64) -> u64 {
        let mut x = self
            .seed
            .wrapping_add(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(super) fn segment(&self, sequence: u64) -> Segment {
        let path = self.dir.join(format::segment_name(sequence));
        match self.found.iter().find(|found| found.sequence == sequence) {
            Some(found) => Segment::new(sequence, found.id, found.size, path),
            None => Segment::new(sequence, self.id(sequence), self.segment_bytes, path),
        }
    }
}

/// Makes a segment: zeros, header, fsync, rename, fsync of the directory.
fn prepare_next(
    disk: &dyn Disk,
    plan: &Plan,
    sequence: u64,
) -> Result<Arc<dyn DiskFile>, WalError> {
    let segment = plan.segment(sequence);
    let temporary = segment.path.with_extension("wal.tmp");
    let made = fill(disk, plan, &segment, &temporary);
    if made.is_err() {
        // What was written only takes room; the next open removes it if this fails.
        let _ = disk.remove(&temporary);
    }
    made.map_err(no_space)
}

fn fill(
    disk: &dyn Disk,
    plan: &Plan,
    segment: &Segment,
    temporary: &Path,
) -> Result<Arc<dyn DiskFile>, Fault> {
    let header = Header {
        id: segment.id,
        sequence: segment.sequence,
        identity: plan.identity,
        size: segment.size,
    };
    let file = disk
        .create(temporary)
        .map_err(Fault::at("create", temporary))?;
    let write = |offset: u64, bytes: &[u8]| {
        file.write_at(offset, bytes)
            .map_err(Fault::at("write", temporary))
    };
    let zeros = vec![0; CHUNK_BYTES.min(usize::try_from(segment.size).unwrap_or(CHUNK_BYTES))];
    let mut offset = 0;
    while offset < segment.size {
        let left = usize::try_from(segment.size - offset).unwrap_or(usize::MAX);
        let chunk = &zeros[..zeros.len().min(left)];
        write(offset, chunk)?;
        offset += chunk.len() as u64;
    }
    write(0, &header.encode())?;
    file.sync_data().map_err(Fault::at("sync", temporary))?;
    disk.rename(temporary, &segment.path)
        .map_err(Fault::at("rename", temporary))?;
    disk.sync_dir(&plan.dir)
        .map_err(Fault::at("sync", &plan.dir))?;
    file.freeze(format::HEADER_BYTES);
    Ok(file)
}

fn no_space(fault: Fault) -> WalError {
    match fault.source.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::FileTooLarge => WalError::NoSpace(fault),
        _ => WalError::Io(fault),
    }
}

/// Removes a segment's file, durably, so that of several never a later one goes before an earlier one.
pub(super) fn remove(disk: &dyn Disk, dir: &Path, path: &Path) -> Result<(), Fault> {
    match disk.remove(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.map_err(Fault::at("remove", path))?,
    }
    disk.sync_dir(dir).map_err(Fault::at("sync", dir))
}

/// Says that there is no helper any more.
struct Gone(Arc<Stock>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[derive(Default)]
struct State {
    ready: VecDeque<(u64, Arc<dyn DiskFile>)>,
    /// The sequence of the segment to be made next.
    next: u64,
    /// Segments up to this are wanted.
    wanted: u64,
    /// Why the last preparation failed; cleared when somebody asks again.
    failure: Option<WalError>,
    /// Files to remove, oldest first.
    old: VecDeque<PathBuf>,
    stopped: bool,
}

/// The prepared segments of one log.
pub(super) struct Stock {
    disk: Arc<dyn Disk>,
    plan: Plan,
    preparer: Preparer,
    state: Mutex<State>,
    changed: Condvar,
}

impl Stock {
    /// A stock of the segments that the plan found, which goes on with segment `next`.
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        plan: Plan,
        preparer: Preparer,
        next: u64,
    ) -> Result<Self, WalError> {
        let mut ready = VecDeque::new();
        for found in &plan.found {
            let path = plan.dir.join(format::segment_name(found.sequence));
            let file = disk
                .open(&path, Access::ReadWrite)
                .map_err(Fault::at("open", &path))?;
            file.freeze(format::HEADER_BYTES);
            ready.push_back((found.sequence, file));
        }
        let state = State {
            ready,
            next,
            ..State::default()
        };
        Ok(Self {
            disk,
            plan,
            preparer,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    pub(super) const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Starts the helper, if this log has one.
    pub(super) fn start(self: &Arc<Self>) -> Result<Option<JoinHandle<()>>, WalError> {
        if self.preparer == Preparer::Inline {
            return Ok(None);
        }
        let stock = Arc::clone(self);
        let helper = std::thread::Builder::new()
            .name("catamaran-wal".into())
            .spawn(move || stock.help())
            .map_err(Fault::at("start the helper thread for", &self.plan.dir))?;
        Ok(Some(helper))
    }

    /// Ends the helper once it has removed what is old.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        // Those too who wait for a segment that nobody will make.
        self.changed.notify_all();
    }

    /// The file of segment `sequence`, made now if it was not made ahead.
    pub(super) fn obtain(&self, sequence: u64) -> Result<Arc<dyn DiskFile>, WalError> {
        let mut state = self.state.lock();
        state.failure = None;
        state.wanted = state.wanted.max(sequence);
        loop {
            if let Some(at) = state.ready.iter().position(|(of, _)| *of == sequence)
                && let Some((_, file)) = state.ready.remove(at)
            {
                return Ok(file);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            match self.preparer {
                Preparer::Inline => {
                    self.work(&mut state);
                }
                Preparer::Thread if state.stopped => return Err(WalError::Closed),
                Preparer::Thread => {
                    self.changed.notify_all();
                    self.changed.wait(&mut state);
                }
            }
        }
    }

    /// Asks for what comes after segment `active`, and for the removal of `old`. Never waits for a helper.
    pub(super) fn tend(&self, active: u64, old: Vec<PathBuf>) {
        let mut state = self.state.lock();
        let wanted = active + AHEAD;
        if old.is_empty() && wanted <= state.wanted && self.preparer == Preparer::Thread {
            return;
        }
        state.wanted = state.wanted.max(wanted);
        state.old.extend(old);
        match self.preparer {
            Preparer::Thread => {
                self.changed.notify_all();
            }
            Preparer::Inline => while self.work(&mut state) {},
        }
    }

    /// The last failure, if nothing is ready: a write that needs another segment has to be refused. A new
    /// try begins.
    pub(super) fn shortage(&self) -> Option<WalError> {
        let mut state = self.state.lock();
        if !state.ready.is_empty() || state.failure.is_none() {
            return None;
        }
        let failure = state.failure.take();
        match self.preparer {
            Preparer::Thread => {
                self.changed.notify_all();
                failure
            }
            Preparer::Inline => {
                while self.work(&mut state) {}
                state.failure.clone()
            }
        }
    }

    /// The helper's life.
    fn help(self: Arc<Self>) {
        // Also when it panics, so that nobody waits for it then.
        let _gone = Gone(Arc::clone(&self));
        let mut state = self.state.lock();
        loop {
            if self.work(&mut state) {
                continue;
            }
            if state.stopped {
                break;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Does one thing that is wanted, without the lock. False if there is none.
    fn work(&self, state: &mut MutexGuard<'_, State>) -> bool {
        if !state.stopped && state.failure.is_none() && state.next <= state.wanted {
            let sequence = state.next;
            let made =
                MutexGuard::unlocked(state, || prepare_next(&*self.disk, &self.plan, sequence));
            match made {
                Ok(file) => {
                    state.ready.push_back((sequence, file));
                    state.next += 1;
                }
                Err(failure) => state.failure = Some(failure),
            }
            self.changed.notify_all();
            return true;
        }
        let Some(path) = state.old.front().cloned() else {
            return false;
        };
        let removed = MutexGuard::unlocked(state, || remove(&*self.disk, &self.plan.dir, &path));
        if removed.is_err() {
            // Later ones must not go before this one; the next open tries again.
            state.old.clear();
        } else {
            state.old.pop_front();
        }
        true
    }
}
