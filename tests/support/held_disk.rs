//! A simulated disk on which a node's log thread, or who stands in for it, can be held up in its syncs.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;

use catamaran::Bytes;
use catamaran::sim::SimDisk;
use catamaran::vfs::{Access, Disk, DiskFile, LockGuard};

/// The name of a thread that may stand in for the log thread.
pub(crate) const BRINGER: &str = "brings";

#[derive(Clone)]
pub(crate) struct HeldDisk {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    held: bool,
    /// Syncs that may pass although the others are held.
    permits: usize,
    fails: bool,
    /// Who has come with a sync since the gate was closed.
    came: Vec<ThreadId>,
}

impl HeldDisk {
    pub(crate) fn new(disk: SimDisk) -> Self {
        Self {
            disk,
            gate: Arc::default(),
        }
    }

    fn held(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let gate = Arc::clone(&self.gate);
        Arc::new(HeldFile { file, gate })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.gate.state.lock().unwrap());
        self.gate.moved.notify_all();
    }

    /// Holds every sync until what it returns is dropped, by a test that fails too: the node could not be.
    pub(crate) fn hold(&self) -> Held {
        self.change(|state| {
            *state = State {
                held: true,
                ..State::default()
            }
        });
        Held(self.clone())
    }

    pub(crate) fn let_one_through(&self) {
        self.change(|state| state.permits += 1);
    }

    /// Lets every sync fail from now on.
    pub(crate) fn fail(&self) {
        self.change(|state| state.fails = true);
    }

    /// Waits until `count` syncs have come since the disk was held; who came with the last of them.
    pub(crate) fn wait_until_held(&self, count: usize) -> ThreadId {
        let state = self.gate.state.lock().unwrap();
        let waiting = |state: &mut State| state.came.len() < count;
        let state = self.gate.moved.wait_while(state, waiting).unwrap();
        state.came[count - 1]
    }
}

/// Lets every sync through when it is dropped.
#[must_use]
pub(crate) struct Held(HeldDisk);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.change(|state| state.held = false);
    }
}

impl Gate {
    fn pass(&self) -> io::Result<()> {
        let current = std::thread::current();
        if !["catamaran-log", BRINGER]
            .map(Some)
            .contains(&current.name())
        {
            return Ok(());
        }
        let mut state = self.state.lock().unwrap();
        state.came.push(current.id());
        self.moved.notify_all();
        let shut = |state: &mut State| state.held && state.permits == 0;
        let mut state = self.moved.wait_while(state, shut).unwrap();
        state.permits = state.permits.saturating_sub(1);
        if state.fails {
            return Err(io::Error::other("as the test wants"));
        }
        Ok(())
    }
}

struct HeldFile {
    file: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for HeldDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path).map(|file| self.held(file))
    }
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, access).map(|file| self.held(file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        self.disk.lock(path)
    }
    fn entropy(&self) -> io::Result<u64> {
        self.disk.entropy()
    }
}

impl DiskFile for HeldFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass()?;
        self.file.sync_data()
    }
    fn freeze(&self, end: u64) {
        self.file.freeze(end);
    }
    fn is_viewed(&self) -> bool {
        self.file.is_viewed()
    }
    fn view(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.file.view(offset, len)
    }
}
