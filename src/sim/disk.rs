//! A disk in memory that can lose its power.
//!
//! Every file has two images: the live one, which calls see, and the durable one, which a power cut
//! leaves. A sync copies the first to the second. Names have the same two lives, apart from the bytes.
//! What lies between is up to the cut: each sector of 512 bytes and each name that was not synced may have
//! reached the disk or not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::Rng;
use crate::types::{Backing, Bytes};
use crate::vfs::{Access, Disk, DiskFile, LockGuard};

const SECTOR: usize = 512;

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

#[derive(Clone, Default)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that differ, maybe.
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.live.len() {
            self.live.resize(end, 0);
        }
        self.live[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.durable.resize(self.live.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    /// A sector reaches the disk, as far as the durable length goes.
    fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR)
            .min(self.live.len())
            .min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.live[start..end]);
        }
    }
}

#[derive(Clone, Default)]
struct World {
    inodes: Vec<Inode>,
    live: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    /// How many calls that change something there were.
    ops: u64,
    counts: BTreeMap<Op, u64>,
    crash: Option<(u64, Moment)>,
    crashed: bool,
    faults: Vec<(Op, u64, io::ErrorKind)>,
    seed: u64,
    drawn: u64,
}

impl World {
    /// Counts a call, and fails it where the plan says so. True if it has to fail after its effect.
    fn enter(&mut self, op: Op) -> io::Result<bool> {
        if self.crashed {
            return Err(power_lost());
        }
        let count = self.counts.entry(op).or_default();
        *count += 1;
        let nth = *count;
        if op != Op::Read {
            self.ops += 1;
            match self.crash {
                Some((at, moment)) if at == self.ops => {
                    self.crashed = true;
                    return match moment {
                        Moment::Before => Err(power_lost()),
                        Moment::After => Ok(true),
                    };
                }
                _ => {}
            }
        }
        match self
            .faults
            .iter()
            .find(|fault| (fault.0, fault.1) == (op, nth))
        {
            Some(fault) => Err(fault.2.into()),
            None => Ok(false),
        }
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        let inode = self.live.get(path).copied();
        inode.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn power_lost() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// The end of a call that had its effect.
fn leave(fails: bool) -> io::Result<()> {
    if fails { Err(power_lost()) } else { Ok(()) }
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
        let world = World {
            seed,
            ..World::default()
        };
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
        self.world.lock().faults.push((op, nth, error));
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
        let mut inodes = Vec::new();
        for (path, name) in names
            .iter_mut()
            .enumerate()
            .map(|(at, (_, name))| (at, name))
        {
            let mut inode = world.inodes[*name].clone();
            if inode.live.len() > inode.durable.len() && survives() {
                inode.durable.resize(inode.live.len(), 0);
            }
            for sector in std::mem::take(&mut inode.dirty) {
                if survives() {
                    inode.keep(sector);
                }
            }
            inode.live.clone_from(&inode.durable);
            inodes.push(inode);
            *name = path;
        }
        let found = World {
            inodes,
            live: names.clone(),
            durable: names,
            dirs: world.dirs.clone(),
            seed: world.seed,
            drawn: world.drawn,
            ..World::default()
        };
        Self {
            world: Arc::new(Mutex::new(found)),
        }
    }

    /// The disk as it is found after its user was killed now and power stayed on: nothing is lost, and
    /// nothing more is durable. This one is not changed.
    #[must_use]
    pub fn kill(&self) -> Self {
        let world = self.world.lock();
        let found = World {
            inodes: world.inodes.clone(),
            live: world.live.clone(),
            durable: world.durable.clone(),
            dirs: world.dirs.clone(),
            seed: world.seed,
            drawn: world.drawn,
            ..World::default()
        };
        Self {
            world: Arc::new(Mutex::new(found)),
        }
    }

    /// The live bytes of a file, if there is one.
    #[must_use]
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let world = self.world.lock();
        let inode = world.inode(path).ok()?;
        Some(world.inodes[inode].live.clone())
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
        Arc::new(SimFile {
            disk: self.clone(),
            inode,
            access,
            frozen: Mutex::new(frozen),
            views: Arc::new(()),
        })
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        if world.dirs.contains(dir) {
            return Ok(());
        }
        let fails = world.enter(Op::Create)?;
        world.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        leave(fails)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut world = self.world.lock();
        world.enter(Op::Read)?;
        if !world.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = world.live.keys().filter(|path| path.parent() == Some(dir));
        let names = names.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world.lock();
        let fails = world.enter(Op::Create)?;
        let inode = world.inodes.len();
        world.inodes.push(Inode::default());
        world.live.insert(path.to_path_buf(), inode);
        leave(fails)?;
        Ok(self.file(inode, Access::ReadWrite, 0))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world.lock();
        world.enter(Op::Read)?;
        let inode = world.inode(path)?;
        let frozen = match access {
            Access::Read => world.inodes[inode].live.len() as u64,
            Access::ReadWrite => 0,
        };
        Ok(self.file(inode, access, frozen))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let fails = world.enter(Op::Rename)?;
        let inode = world.inode(from)?;
        world.live.remove(from);
        world.live.insert(to.to_path_buf(), inode);
        leave(fails)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let fails = world.enter(Op::Remove)?;
        world.inode(path)?;
        world.live.remove(path);
        leave(fails)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world.lock();
        let fails = world.enter(Op::SyncDir)?;
        let World { live, durable, .. } = &mut *world;
        let inside = |path: &Path| path.parent() == Some(dir);
        durable.retain(|path, _| !inside(path));
        let now = live.iter().filter(|(path, _)| inside(path));
        durable.extend(now.map(|(path, &inode)| (path.clone(), inode)));
        leave(fails)
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

struct SimFile {
    disk: SimDisk,
    inode: usize,
    access: Access,
    frozen: Mutex<u64>,
    /// Held once more by each view.
    views: Arc<()>,
}

/// Bytes that a view gave: a copy, which nobody could change.
struct View {
    bytes: Vec<u8>,
    _held: Arc<()>,
}

impl Backing for View {
    fn slice(&self, start: usize, len: usize) -> &[u8] {
        self.bytes.slice(start, len)
    }
}

impl SimFile {
    fn copy(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut world = self.disk.world.lock();
        world.enter(Op::Read)?;
        let live = &world.inodes[self.inode].live;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(len);
        let bytes = end.and_then(|end| live.get(start..end));
        Ok(bytes.ok_or(io::ErrorKind::UnexpectedEof)?.to_vec())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        let mut world = self.disk.world.lock();
        world.enter(Op::Read)?;
        Ok(world.inodes[self.inode].live.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.copy_from_slice(&self.copy(offset, into.len())?);
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
        let fails = world.enter(Op::Write)?;
        world.inodes[self.inode].write(start, bytes);
        leave(fails)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        let fails = world.enter(Op::Sync)?;
        world.inodes[self.inode].sync();
        leave(fails)
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
        let view = View {
            bytes: self.copy(offset, len)?,
            _held: Arc::clone(&self.views),
        };
        Ok(Bytes::new(Arc::new(view), 0, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with_file() -> (SimDisk, Arc<dyn DiskFile>, PathBuf) {
        let disk = SimDisk::new(1);
        let dir = Path::new("/d");
        disk.create_dir_all(dir).unwrap();
        let path = dir.join("f");
        let file = disk.create(&path).unwrap();
        (disk, file, path)
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_only_that_for_certain() {
        let (disk, file, path) = disk_with_file();
        file.write_at(0, &[1; 2048]).unwrap();
        file.sync_data().unwrap();
        assert_eq!(
            disk.power_cut(Survival::None).peek(&path),
            None,
            "no name yet"
        );
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(0, &[2; 2048]).unwrap();
        let left = |survival| disk.power_cut(survival).peek(&path).unwrap();
        assert_eq!(left(Survival::None), [1; 2048]);
        assert_eq!(left(Survival::All), [2; 2048]);
        let random: BTreeSet<_> = (0..32).map(|seed| left(Survival::Random(seed))).collect();
        assert!(random.len() > 4, "sectors survive one by one");
        assert_eq!(left(Survival::Random(7)), left(Survival::Random(7)));
        for bytes in random {
            for sector in bytes.chunks(SECTOR) {
                assert!(
                    sector.iter().all(|byte| *byte == sector[0]),
                    "never within one"
                );
            }
        }
    }

    #[test]
    fn a_removed_name_comes_back_if_its_directory_was_not_synced() {
        let (disk, file, path) = disk_with_file();
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        disk.remove(&path).unwrap();
        assert!(disk.power_cut(Survival::None).peek(&path).is_some());
        disk.sync_dir(Path::new("/d")).unwrap();
        assert!(disk.power_cut(Survival::None).peek(&path).is_none());
    }

    #[test]
    fn calls_fail_where_the_plan_says() {
        let (disk, file, _) = disk_with_file();
        disk.fail(Op::Write, 2, io::ErrorKind::StorageFull);
        file.write_at(0, b"a").unwrap();
        let error = file.write_at(1, b"b").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        file.write_at(1, b"c").unwrap();
        disk.crash_at(disk.ops() + 1, Moment::After);
        file.write_at(2, b"d").unwrap_err();
        assert!(disk.is_crashed());
        file.write_at(3, b"e").unwrap_err();
        let path = Path::new("/d/f");
        assert_eq!(disk.power_cut(Survival::None).peek(path), None);
        assert_eq!(disk.power_cut(Survival::All).peek(path).unwrap(), b"acd");
    }
}
