//! A disk in memory that can lose its power.
//!
//! Every file has two images: the live one, which calls see, and the durable one, which a power cut
//! leaves. A sync copies the first to the second. Names have the same two lives, apart from the bytes.
//! What lies between is up to the cut: each sector of 512 bytes and each name that was not synced may have
//! reached the disk or not.
//!
//! Images share their bytes until one of them is written to, so that a copy of the whole disk costs little:
//! one run can be recorded call by call, and the power cut at each of its calls afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Rng;
use crate::sync::{Condvar, Mutex};
use crate::vfs::{Access, Disk, DiskFile, LockGuard};
use file::SimFile;
use inode::Inode;

mod file;
mod inode;

/// A kind of call to the disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Op {
    /// Creating a file.
    Create,
    /// Writing to a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Syncing a directory.
    SyncDir,
    /// Opening, listing, measuring or reading.
    Read,
}

/// When a crash comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The call fails and changes nothing.
    Before,
    /// The call takes effect, and fails all the same.
    After,
}

/// What a power cut leaves of that which was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// All of it.
    All,
    /// None of it.
    None,
    /// Each sector and each name by a choice that this seed decides.
    Random(u64),
}

/// A call that changed, or tried to change, something.
#[derive(Clone)]
pub struct Call {
    /// What it was.
    pub op: Op,
    /// The file, under the name that it had then, or the directory. A rename goes by its old name.
    pub path: PathBuf,
    /// The disk as the call left it.
    pub after: SimDisk,
}

#[derive(Default)]
struct World {
    inodes: Vec<Inode>,
    live: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    /// How many calls that change something there were.
    ops: u64,
    counts: BTreeMap<Op, u64>,
    /// Those who wait for a count.
    counted: Arc<Condvar>,
    crash: Option<(u64, Moment)>,
    crashed: bool,
    faults: Vec<(Op, u64, Moment, io::ErrorKind)>,
    /// The calls that a fault has hit.
    failed: Vec<(Op, PathBuf)>,
    /// The calls so far, if they are recorded.
    record: Option<Vec<Call>>,
    /// No file can be created or grow.
    full: bool,
    seed: u64,
    drawn: u64,
}

/// What a call is about.
#[derive(Clone, Copy)]
enum Target<'a> {
    Path(&'a Path),
    Inode(usize),
}

/// What is to come of a call that was let in.
#[must_use]
struct Entered<'a> {
    op: Op,
    target: Target<'a>,
    /// The error it ends with, though it takes effect.
    late: Option<io::Error>,
}

impl World {
    /// Counts a call, and fails it without effect where the plan says so.
    fn enter<'a>(&mut self, op: Op, target: Target<'a>) -> io::Result<Entered<'a>> {
        if self.crashed {
            return Err(power_lost());
        }
        let count = self.counts.entry(op).or_default();
        *count += 1;
        let nth = *count;
        self.counted.notify_all();
        if op != Op::Read {
            self.ops += 1;
        }
        let crash = self
            .crash
            .filter(|&(at, _)| at == self.ops && op != Op::Read);
        let fault = self
            .faults
            .iter()
            .find(|fault| (fault.0, fault.1) == (op, nth));
        let (moment, error) = match (crash, fault) {
            (Some((_, moment)), _) => {
                self.crashed = true;
                (moment, power_lost())
            }
            (None, Some(&(_, _, moment, kind))) => {
                self.failed.push((op, self.path(target)));
                (moment, kind.into())
            }
            (None, None) => {
                let late = None;
                return Ok(Entered { op, target, late });
            }
        };
        match moment {
            Moment::Before => {
                self.note(op, target);
                Err(error)
            }
            Moment::After => {
                let late = Some(error);
                Ok(Entered { op, target, late })
            }
        }
    }

    /// The end of a call that had its effect.
    fn leave(&mut self, entered: Entered<'_>) -> io::Result<()> {
        self.note(entered.op, entered.target);
        entered.late.map_or(Ok(()), Err)
    }

    fn note(&mut self, op: Op, target: Target<'_>) {
        if self.record.is_none() || op == Op::Read {
            return;
        }
        let call = Call {
            op,
            path: self.path(target),
            after: self.image(),
        };
        self.record.get_or_insert_default().push(call);
    }

    /// The disk as it is, for somebody else: without plans, locks and counts.
    fn image(&self) -> SimDisk {
        SimDisk::of(Self {
            inodes: self.inodes.iter().map(Inode::copy).collect(),
            live: self.live.clone(),
            durable: self.durable.clone(),
            dirs: self.dirs.clone(),
            seed: self.seed,
            drawn: self.drawn,
            ..Self::default()
        })
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        let inode = self.live.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The name of what a call is about; of a file that was removed, none.
    fn path(&self, target: Target<'_>) -> PathBuf {
        match target {
            Target::Path(path) => path.to_path_buf(),
            Target::Inode(inode) => {
                let named = self.live.iter().find(|(_, named)| **named == inode);
                named.map(|(path, _)| path.clone()).unwrap_or_default()
            }
        }
    }
}

fn power_lost() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// A simulated disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

impl SimDisk {
    /// An empty disk, whose [`Disk::entropy`] comes from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::of(World {
            seed,
            ..World::default()
        })
    }

    fn of(world: World) -> Self {
        Self {
            world: Arc::new(Mutex::new(world)),
        }
    }

    /// How many calls changed, or tried to change, something so far.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.world.lock().ops
    }

    /// How many calls of one kind there were.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        self.world.lock().counts.get(&op).copied().unwrap_or(0)
    }

    /// Waits until there were `count` calls of one kind since the disk was made, and the last of them is
    /// over. False if that did not come within `limit`: something that was to happen by itself did not.
    #[must_use]
    pub fn wait_for(&self, op: Op, count: u64, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut world = self.world.lock();
        let counted = Arc::clone(&world.counted);
        while world.counts.get(&op).copied().unwrap_or(0) < count {
            if counted.wait_until(&mut world, until).timed_out() {
                return false;
            }
        }
        true
    }

    /// Loses power at the `nth` changing call since the disk was made, counted from 1. Every later call
    /// fails.
    pub fn crash_at(&self, nth: u64, moment: Moment) {
        self.world.lock().crash = Some((nth, moment));
    }

    /// Whether power was lost.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.world.lock().crashed
    }

    /// Fails the `nth` call of a kind since the disk was made, counted from 1, without effect.
    pub fn fail(&self, op: Op, nth: u64, error: io::ErrorKind) {
        let fault = (op, nth, Moment::Before, error);
        self.world.lock().faults.push(fault);
    }

    /// Fails the `nth` call of a kind other than [`Op::Read`] once it has taken effect.
    pub fn fail_late(&self, op: Op, nth: u64, error: io::ErrorKind) {
        let fault = (op, nth, Moment::After, error);
        self.world.lock().faults.push(fault);
    }

    /// Takes all room: creating a file, and a write that makes one longer, fail until
    /// [`SimDisk::make_room`].
    pub fn fill_up(&self) {
        self.world.lock().full = true;
    }

    /// Ends [`SimDisk::fill_up`].
    pub fn make_room(&self) {
        self.world.lock().full = false;
    }

    /// Forgets the failures and crashes that are planned and have not come.
    pub fn spare(&self) {
        let mut world = self.world.lock();
        world.faults.clear();
        world.crash = None;
    }

    /// The calls so far that [`SimDisk::fail`] or [`SimDisk::fail_late`] made fail, and what they were about.
    #[must_use]
    pub fn failed(&self) -> Vec<(Op, PathBuf)> {
        self.world.lock().failed.clone()
    }

    /// Records the calls from now on.
    pub fn record(&self) {
        self.world.lock().record = Some(Vec::new());
    }

    /// The calls since [`SimDisk::record`] that changed, or tried to change, something. The last one is
    /// number [`SimDisk::ops`].
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.world.lock().record.clone().unwrap_or_default()
    }

    /// The disk as it is found after a power cut now. This one is not changed.
    #[must_use]
    pub fn power_cut(&self, survival: Survival) -> Self {
        let world = self.world.lock();
        let mut rng = match survival {
            Survival::All | Survival::None => Rng::new(0),
            Survival::Random(seed) => Rng::new(seed),
        };
        let mut survives = || match survival {
            Survival::All => true,
            Survival::None => false,
            Survival::Random(_) => rng.chance(50),
        };
        let paths: BTreeSet<_> = world.live.keys().chain(world.durable.keys()).collect();
        let mut names = BTreeMap::new();
        for path in paths {
            let (live, durable) = (world.live.get(path), world.durable.get(path));
            let found = if live != durable && survives() {
                live
            } else {
                durable
            };
            if let Some(&inode) = found {
                names.insert(path.clone(), inode);
            }
        }
        // Two names of one file are one file still.
        let mut moved = BTreeMap::new();
        let mut inodes = Vec::new();
        for name in names.values_mut() {
            let inode = *moved.entry(*name).or_insert_with(|| {
                let mut inode = world.inodes[*name].copy();
                if inode.live.len() > inode.durable.len() && survives() {
                    inode.keep_len();
                }
                for sector in std::mem::take(&mut inode.dirty) {
                    if survives() {
                        inode.keep(sector);
                    }
                }
                inode.live = Arc::clone(&inode.durable);
                inodes.push(inode);
                inodes.len() - 1
            });
            *name = inode;
        }
        Self::of(World {
            inodes,
            live: names.clone(),
            durable: names,
            dirs: world.dirs.clone(),
            seed: world.seed,
            drawn: world.drawn,
            ..World::default()
        })
    }

    /// The disk as it is found after its user was killed now and power stayed on: nothing is lost, and
    /// nothing more is durable. This one is not changed.
    #[must_use]
    pub fn kill(&self) -> Self {
        self.world.lock().image()
    }

    /// The live bytes of a file, if there is one.
    #[must_use]
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.lock();
        let inode = world.inode(path).ok()?;
        Some(world.inodes[inode].live.to_vec())
    }

    /// Changes bytes of a file behind everyone's back, durably: damage.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn poke(&self, path: &Path, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world.lock();
        let inode = world.inode(path)?;
        world.inodes[inode].write(offset, bytes);
        world.inodes[inode].sync();
        Ok(())
    }

    /// The paths of all files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world.lock().live.keys().cloned().collect()
    }

    fn file(&self, inode: usize, access: Access, frozen: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile::new(self.clone(), inode, access, frozen))
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        if world.dirs.contains(dir) {
            return Ok(());
        }
        let entered = world.enter(Op::Create, Target::Path(dir))?;
        world.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        world.leave(entered)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut world = self.world.lock();
        let _ = world.enter(Op::Read, Target::Path(dir))?;
        if !world.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = world.live.keys().filter(|path| path.parent() == Some(dir));
        let names = names.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world.lock();
        let entered = world.enter(Op::Create, Target::Path(path))?;
        if world.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = world.inodes.len();
        world.inodes.push(Inode::default());
        world.live.insert(path.to_path_buf(), inode);
        world.leave(entered)?;
        Ok(self.file(inode, Access::ReadWrite, 0))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world.lock();
        let _ = world.enter(Op::Read, Target::Path(path))?;
        let inode = world.inode(path)?;
        let frozen = match access {
            Access::Read => world.inodes[inode].live.len() as u64,
            Access::ReadWrite => 0,
        };
        Ok(self.file(inode, access, frozen))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let entered = world.enter(Op::Rename, Target::Path(from))?;
        let inode = world.inode(from)?;
        world.live.remove(from);
        world.live.insert(to.to_path_buf(), inode);
        world.leave(entered)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let entered = world.enter(Op::Remove, Target::Path(path))?;
        world.inode(path)?;
        world.live.remove(path);
        world.leave(entered)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let entered = world.enter(Op::SyncDir, Target::Path(dir))?;
        let World { live, durable, .. } = &mut *world;
        let inside = |path: &Path| path.parent() == Some(dir);
        durable.retain(|path, _| !inside(path));
        let now = live.iter().filter(|(path, _)| inside(path));
        durable.extend(now.map(|(path, &inode)| (path.clone(), inode)));
        world.leave(entered)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut world = self.world.lock();
        if world.crashed {
            return Err(power_lost());
        }
        if !world.locked.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock {
            disk: self.clone(),
            path: path.to_path_buf(),
        }))
    }

    fn entropy(&self) -> io::Result<u64> {
        let mut world = self.world.lock();
        if world.crashed {
            return Err(power_lost());
        }
        world.drawn += 1;
        Ok(Rng::new(world.seed.wrapping_mul(31).wrapping_add(world.drawn)).next_u64())
    }
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.world.lock().locked.remove(&self.path);
    }
}

#[cfg(test)]
mod tests;
