//! Segments prepared ahead of need, and dead ones used again or removed: what the log asks of the disk off
//! its hot path. A full disk is an ordinary error found here, with one segment in reserve.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::chores::Next;
use super::error::WalError;
use super::format::{self, Header};
use super::index::Segment;
use super::prepare;
use crate::error::Fault;
use crate::sync::thread::{self, JoinHandle, ThreadId};
use crate::sync::{AtomicBool, Condvar, Mutex, MutexGuard};
use crate::trace::warn;
use crate::types::Identity;
use crate::vfs::{Access, Disk, DiskFile};

/// How many segments are kept ready, whatever it costs.
const AHEAD: u64 = 1;
/// How many are kept ready while there are dead ones to make them of; more dead ones are removed.
const AHEAD_OF_DEAD: usize = 2;

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

/// Says that there is no helper any more.
struct Gone(Arc<Stock>);

impl Drop for Gone {
    fn drop(&mut self) {
        if thread::panicking() {
            let panicked = std::io::Error::other("the helper thread panicked");
            let fault = Fault::new("prepare segments in", &self.0.plan.dir, panicked);
            self.0.state.lock().fail(WalError::Failed(fault));
        }
        self.0.stop();
    }
}

/// Segments that hold nothing any more, oldest first.
#[derive(Default)]
struct Dead {
    queue: VecDeque<Arc<Segment>>,
    /// One could not go, and those after it must not go before it: the next open tries again.
    stuck: bool,
}

impl Dead {
    fn add(&mut self, dead: Vec<Arc<Segment>>) {
        if !self.stuck {
            self.queue.extend(dead);
        }
    }

    fn stick(&mut self) {
        self.stuck = true;
        self.queue.clear();
    }
}

impl State {
    fn take_ready(&mut self, sequence: u64) -> Option<Arc<dyn DiskFile>> {
        let at = self.ready.iter().position(|(of, _)| *of == sequence)?;
        self.ready.remove(at).map(|(_, file)| file)
    }

    /// Lets another try begin, unless the failure is for good.
    fn forgive(&mut self) {
        if !matches!(self.failure, Some(WalError::Failed(_))) {
            self.failure = None;
        }
    }

    fn fail(&mut self, failure: WalError) {
        if matches!(failure, WalError::Failed(_)) {
            self.dead.stick();
        }
        self.failure = Some(failure);
    }
}

#[derive(Default)]
struct State {
    ready: VecDeque<(u64, Arc<dyn DiskFile>)>,
    /// The sequence of the segment to be made next.
    next: u64,
    /// Segments up to this are wanted.
    wanted: u64,
    /// A sync waits for the one to be made next.
    awaited: bool,
    /// Why the last preparation failed. Cleared when somebody asks again, but for [`WalError::Failed`], which
    /// stays: nothing more is asked of the disk then.
    failure: Option<WalError>,
    dead: Dead,
    /// When the helper is to see to its chores.
    due: Option<Instant>,
    stopped: bool,
}

/// The prepared segments of one log.
pub(super) struct Stock {
    disk: Arc<dyn Disk>,
    plan: Plan,
    preparer: Preparer,
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the helper will look at the log soon without being told.
    roused: AtomicBool,
    helper: OnceLock<ThreadId>,
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
            roused: AtomicBool::new(false),
            helper: OnceLock::new(),
        })
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    pub(super) const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Starts the helper, if this log has one. It also does the `chores`, which say when they want to be
    /// called again; nothing is prepared meanwhile.
    pub(super) fn start(
        self: &Arc<Self>,
        chores: impl FnMut() -> Next + Send + 'static,
    ) -> Result<Option<JoinHandle<()>>, WalError> {
        if self.preparer == Preparer::Inline {
            return Ok(None);
        }
        let stock = Arc::clone(self);
        let helper = thread::Builder::new()
            .name("catamaran-wal".into())
            .spawn(move || stock.help(chores))
            .map_err(Fault::at("start the helper thread for", &self.plan.dir))?;
        Ok(Some(helper))
    }

    /// Ends the helper once it has removed what is dead.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        // Those too who wait for a segment that nobody will make.
        self.changed.notify_all();
    }

    /// The file of segment `sequence` for a sync, which waits no longer than it must if that was not made ahead.
    pub(super) fn obtain(&self, sequence: u64) -> Result<Arc<dyn DiskFile>, WalError> {
        let mut state = self.state.lock();
        state.awaited = true;
        let file = self.wait_for(&mut state, sequence);
        state.awaited = false;
        file
    }

    /// The file of a new log's first segment, made with the care of one that is made ahead.
    pub(super) fn obtain_first(&self, sequence: u64) -> Result<Arc<dyn DiskFile>, WalError> {
        self.wait_for(&mut self.state.lock(), sequence)
    }

    fn wait_for(
        &self,
        state: &mut MutexGuard<'_, State>,
        sequence: u64,
    ) -> Result<Arc<dyn DiskFile>, WalError> {
        if let Some(file) = state.take_ready(sequence) {
            // That there is no room for another is still to be told.
            return Ok(file);
        }
        state.forgive();
        state.wanted = state.wanted.max(sequence);
        loop {
            if let Some(file) = state.take_ready(sequence) {
                return Ok(file);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.stopped {
                return Err(WalError::Closed);
            }
            if self.is_alone() {
                self.work(state);
            } else {
                self.changed.notify_all();
                self.changed.wait(state);
            }
        }
    }

    /// Asks for what comes after segment `active`, and takes over the `dead`. Never waits for a helper.
    pub(super) fn tend(&self, active: u64, dead: Vec<Arc<Segment>>) {
        let mut state = self.state.lock();
        let wanted = active + AHEAD;
        if dead.is_empty() && wanted <= state.wanted && self.preparer == Preparer::Thread {
            return;
        }
        state.wanted = state.wanted.max(wanted);
        state.dead.add(dead);
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
        let failure = state.failure.clone();
        state.forgive();
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

    /// Whether nobody else prepares what the caller needs: the helper too may lead a sync.
    fn is_alone(&self) -> bool {
        self.preparer == Preparer::Inline || self.helper.get() == Some(&thread::current().id())
    }

    /// Has the helper see to its chores, unless it will by itself. Costs next to nothing then.
    pub(super) fn rouse(&self) {
        let inline = self.preparer == Preparer::Inline;
        if inline || self.roused.load(Ordering::Acquire) || self.roused.swap(true, Ordering::AcqRel)
        {
            return;
        }
        self.state.lock().due = Some(Instant::now());
        self.changed.notify_all();
    }

    /// The helper's life.
    fn help(self: Arc<Self>, mut chores: impl FnMut() -> Next) {
        let _ = self.helper.set(thread::current().id());
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
            match state.due {
                Some(due) if due <= Instant::now() => {
                    state.due = None;
                    // Before they look, so that whatever happens after is told.
                    self.roused.store(false, Ordering::Release);
                    let next = MutexGuard::unlocked(&mut state, &mut chores);
                    if next.is_watching {
                        self.roused.store(true, Ordering::Release);
                    }
                    state.due = state.due.into_iter().chain(next.at).min();
                }
                Some(due) => {
                    self.changed.wait_until(&mut state, due);
                }
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Does one thing that is wanted, without the lock. False if there is none.
    fn work(&self, state: &mut MutexGuard<'_, State>) -> bool {
        let may_make = !state.stopped && state.failure.is_none();
        let wanted = may_make && state.next <= state.wanted;
        let spare = may_make && state.ready.len() < AHEAD_OF_DEAD;
        let usable = state
            .dead
            .queue
            .front_mut()
            .map(|dead| self.is_usable(dead));
        match usable {
            Some(true) if wanted || spare => self.recycle(state),
            _ if wanted => self.fill(state),
            Some(_) => self.remove(state),
            None => return false,
        }
        true
    }

    /// Whether the file of a dead segment can be made into a new one: nobody reads it any more.
    fn is_usable(&self, dead: &mut Arc<Segment>) -> bool {
        Arc::get_mut(dead).is_some_and(|dead| {
            let unread = match dead.file.get_mut().map(Arc::get_mut) {
                Some(Some(file)) => !file.is_viewed(),
                Some(None) => false,
                None => true,
            };
            unread && dead.size == self.plan.segment_bytes
        })
    }

    fn fill(&self, state: &mut MutexGuard<'_, State>) {
        let sequence = state.next;
        let awaited = || self.state.lock().awaited;
        let made = MutexGuard::unlocked(state, || {
            prepare::fill(&*self.disk, &self.plan, sequence, awaited)
        });
        match made {
            Ok(file) => self.stand_ready(state, sequence, file),
            Err(failure) => state.fail(failure),
        }
        self.changed.notify_all();
    }

    fn recycle(&self, state: &mut MutexGuard<'_, State>) {
        let sequence = state.next;
        let Some(dead) = state.dead.queue.pop_front() else {
            return;
        };
        let path = dead.path.clone();
        // Its file is closed before it is opened anew.
        drop(dead);
        let made = MutexGuard::unlocked(state, || {
            prepare::recycle(&*self.disk, &self.plan, sequence, &path)
        });
        match made {
            Ok(file) => self.stand_ready(state, sequence, file),
            Err(fault) => {
                warn!(%fault, "a dead segment cannot be used again");
                state.dead.stick();
                state.fail(prepare::failure(fault));
            }
        }
        self.changed.notify_all();
    }

    fn stand_ready(&self, state: &mut State, sequence: u64, file: Arc<dyn DiskFile>) {
        state.ready.push_back((sequence, file));
        state.next = sequence + 1;
    }

    fn remove(&self, state: &mut MutexGuard<'_, State>) {
        let Some(dead) = state.dead.queue.pop_front() else {
            return;
        };
        let removed = MutexGuard::unlocked(state, || {
            prepare::remove(&*self.disk, &self.plan.dir, &dead.path)
        });
        if let Err(fault) = removed {
            warn!(%fault, "a dead segment cannot be removed");
            state.dead.stick();
            if fault.operation == "sync" {
                state.fail(prepare::failure(fault));
            }
        }
    }
}
