//! Threads: those of the system, and inside an exploration the explorer's.

use std::io;
pub(crate) use std::thread::panicking;
use std::time::Duration;

use super::{EXPLORING, PASSED};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThreadId {
    Real(std::thread::ThreadId),
    Explored(shuttle::thread::ThreadId),
}

pub(crate) enum Thread {
    Real(std::thread::Thread),
    Explored(shuttle::thread::Thread),
}

impl Thread {
    pub(crate) fn id(&self) -> ThreadId {
        match self {
            Self::Real(thread) => ThreadId::Real(thread.id()),
            Self::Explored(thread) => ThreadId::Explored(thread.id()),
        }
    }

    pub(crate) fn unpark(&self) {
        match self {
            Self::Real(thread) => thread.unpark(),
            Self::Explored(thread) => thread.unpark(),
        }
    }
}

pub(crate) fn current() -> Thread {
    if EXPLORING.get() {
        Thread::Explored(shuttle::thread::current())
    } else {
        Thread::Real(std::thread::current())
    }
}

pub(crate) fn park() {
    if EXPLORING.get() {
        shuttle::thread::park();
    } else {
        std::thread::park();
    }
}

/// An explorer knows no time: the moment comes when the others have had a turn.
pub(crate) fn park_timeout(time: Duration) {
    if EXPLORING.get() {
        shuttle::thread::yield_now();
        PASSED.set(PASSED.get() + time);
    } else {
        std::thread::park_timeout(time);
    }
}

pub(crate) enum JoinHandle<T> {
    Real(std::thread::JoinHandle<T>),
    Explored(shuttle::thread::JoinHandle<T>),
}

impl<T> JoinHandle<T> {
    pub(crate) fn join(self) -> std::thread::Result<T> {
        match self {
            Self::Real(handle) => handle.join(),
            Self::Explored(handle) => handle.join(),
        }
    }
}

pub(crate) struct Builder {
    name: String,
}

impl Builder {
    pub(crate) const fn new() -> Self {
        let name = String::new();
        Self { name }
    }

    pub(crate) fn name(self, name: String) -> Self {
        Self { name }
    }

    pub(crate) fn spawn<T: Send + 'static>(
        self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        if EXPLORING.get() {
            let builder = shuttle::thread::Builder::new().name(self.name);
            builder.spawn(run).map(JoinHandle::Explored)
        } else {
            let builder = std::thread::Builder::new().name(self.name);
            builder.spawn(run).map(JoinHandle::Real)
        }
    }
}
