//! The stand-ins. Each holds the real thing; one that is made inside an exploration holds the explorer's
//! beside it, which decides who goes on, so that nobody ever waits at the real one.
//!
//! An explorer runs its threads one at a time on one thread of the system, so a lock that it has given is
//! free, and what an atomic holds is what was last stored, whatever ordering was asked for.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard as RealGuard;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync as explorer;

mod explore;
pub(crate) mod thread;

pub(crate) use explore::explore;

/// A moment so far away does not come in an exploration.
const NEVER: Duration = Duration::from_secs(3_600);

thread_local! {
    static EXPLORING: Cell<bool> = const { Cell::new(false) };
    /// How much time has passed in explorations.
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Calls `run`, which starts an explorer on this thread.
fn explored<T>(run: impl FnOnce() -> T) -> T {
    struct Over;
    impl Drop for Over {
        fn drop(&mut self) {
            EXPLORING.set(false);
        }
    }
    EXPLORING.set(true);
    let _over = Over;
    run()
}

/// The explorer's part of something that is made now.
fn part<T: Default>() -> Option<T> {
    EXPLORING.get().then(T::default)
}

/// What time it is. In an exploration it goes on by itself, a little at each look.
pub(crate) fn now() -> Instant {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    if EXPLORING.get() {
        let passed = PASSED.get() + Duration::from_micros(thread_rng().gen_range(0..4));
        PASSED.set(passed);
        return *START + passed;
    }
    Instant::now()
}

type Gate = explorer::Mutex<()>;
type Passed<'a> = explorer::MutexGuard<'a, ()>;

fn pass(gate: &Gate) -> Passed<'_> {
    // That another thread panicked is no concern of a lock of `parking_lot`.
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Mutex<T> {
    data: parking_lot::Mutex<T>,
    gate: Option<Gate>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(data: T) -> Self {
        Self {
            data: parking_lot::Mutex::new(data),
            gate: part(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let gate = self.gate.as_ref();
        let passed = gate.map(pass);
        MutexGuard {
            data: self.data.lock(),
            passed,
            gate,
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

pub(crate) struct MutexGuard<'a, T> {
    // Let go before the gate is.
    data: RealGuard<'a, T>,
    passed: Option<Passed<'a>>,
    gate: Option<&'a Gate>,
}

impl<T> MutexGuard<'_, T> {
    pub(crate) fn unlocked<U>(guard: &mut Self, run: impl FnOnce() -> U) -> U {
        let Self { data, passed, gate } = guard;
        RealGuard::unlocked(data, || {
            drop(passed.take());
            let result = run();
            *passed = gate.map(pass);
            result
        })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.data
    }
}

pub(crate) struct Condvar {
    real: parking_lot::Condvar,
    explored: Option<explorer::Condvar>,
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self {
            real: parking_lot::Condvar::new(),
            explored: part(),
        }
    }

    pub(crate) fn notify_one(&self) {
        match &self.explored {
            Some(explored) => explored.notify_one(),
            None => {
                self.real.notify_one();
            }
        }
    }

    pub(crate) fn notify_all(&self) {
        match &self.explored {
            Some(explored) => explored.notify_all(),
            None => {
                self.real.notify_all();
            }
        }
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let MutexGuard { data, passed, .. } = guard;
        match (&self.explored, passed.take()) {
            (Some(explored), Some(gate)) => RealGuard::unlocked(data, || {
                let gate = explored.wait(gate);
                *passed = Some(gate.unwrap_or_else(PoisonError::into_inner));
            }),
            (_, gate) => {
                *passed = gate;
                self.real.wait(data);
            }
        }
    }

    /// An explorer knows no time: the moment comes when the others have had a turn, unless it is far away.
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> Waited {
        if self.explored.is_some() {
            if until > now() + NEVER {
                self.wait(guard);
                return Waited { timed_out: false };
            }
            MutexGuard::unlocked(guard, shuttle::thread::yield_now);
            return Waited { timed_out: true };
        }
        let waited = self.real.wait_until(&mut guard.data, until);
        Waited {
            timed_out: waited.timed_out(),
        }
    }
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) struct Waited {
    timed_out: bool,
}

impl Waited {
    pub(crate) const fn timed_out(&self) -> bool {
        self.timed_out
    }
}

/// A place where another thread may go on.
#[derive(Default)]
struct Crossing(explorer::atomic::AtomicBool);

fn cross(crossing: &Option<Crossing>) {
    if let Some(Crossing(place)) = crossing {
        place.load(Ordering::SeqCst);
    }
}

pub(crate) struct AtomicBool {
    value: std::sync::atomic::AtomicBool,
    crossing: Option<Crossing>,
}

impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self {
            value: value.into(),
            crossing: part(),
        }
    }

    pub(crate) fn load(&self, ordering: Ordering) -> bool {
        cross(&self.crossing);
        self.value.load(ordering)
    }

    pub(crate) fn store(&self, value: bool, ordering: Ordering) {
        cross(&self.crossing);
        self.value.store(value, ordering);
    }

    pub(crate) fn swap(&self, value: bool, ordering: Ordering) -> bool {
        cross(&self.crossing);
        self.value.swap(value, ordering)
    }
}

pub(crate) struct AtomicU64 {
    value: std::sync::atomic::AtomicU64,
    crossing: Option<Crossing>,
}

impl AtomicU64 {
    pub(crate) fn new(value: u64) -> Self {
        Self {
            value: value.into(),
            crossing: part(),
        }
    }

    pub(crate) fn load(&self, ordering: Ordering) -> u64 {
        cross(&self.crossing);
        self.value.load(ordering)
    }

    pub(crate) fn store(&self, value: u64, ordering: Ordering) {
        cross(&self.crossing);
        self.value.store(value, ordering);
    }

    pub(crate) fn fetch_max(&self, value: u64, ordering: Ordering) -> u64 {
        cross(&self.crossing);
        self.value.fetch_max(value, ordering)
    }
}

impl Default for AtomicU64 {
    fn default() -> Self {
        Self::new(0)
    }
}

pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    explored: Option<(Gate, explorer::Condvar)>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            value: std::sync::OnceLock::new(),
            explored: part(),
        }
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        let Some((gate, changed)) = &self.explored else {
            return self.value.set(value);
        };
        let passed = pass(gate);
        let set = self.value.set(value);
        drop(passed);
        changed.notify_all();
        set
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if let Some((gate, _)) = &self.explored {
            drop(pass(gate));
        }
        self.value.get()
    }

    pub(crate) fn wait(&self) -> &T {
        if let Some((gate, changed)) = &self.explored {
            let mut passed = pass(gate);
            while self.value.get().is_none() {
                let waited = changed.wait(passed);
                passed = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.value.wait()
    }
}
