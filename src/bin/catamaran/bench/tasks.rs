//! Clients that are tasks of one thread: each begins something, and is polled when that has ended.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use catamaran::{Error, Proposal};

use super::measured::Measured;
use crate::Failure;

/// Which tasks are to be polled.
struct Ready {
    tasks: Mutex<Vec<usize>>,
    runs: Thread,
}

struct Task {
    number: usize,
    ready: Arc<Ready>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let mut tasks = self.ready.lock();
        let first = tasks.is_empty();
        tasks.push(self.number);
        drop(tasks);
        if first {
            self.ready.runs.unpark();
        }
    }
}

impl Ready {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until some are ready, and gives them in `taken`, which must be empty.
    fn take(&self, taken: &mut Vec<usize>) {
        loop {
            std::mem::swap(&mut *self.lock(), taken);
            if !taken.is_empty() {
                return;
            }
            thread::park();
        }
    }
}

/// So many clients do what `begin` begins, again and again for so long.
pub(super) fn run<R>(
    clients: usize,
    time: Duration,
    measured: &mut Measured,
    begin: impl Fn() -> Result<Proposal<R>, Error>,
) -> Result<(), Failure> {
    let ready = Arc::new(Ready {
        tasks: Mutex::new((0..clients).collect()),
        runs: thread::current(),
    });
    let task = |number| {
        let ready = Arc::clone(&ready);
        Waker::from(Arc::new(Task { number, ready }))
    };
    let wakers: Vec<_> = (0..clients).map(task).collect();
    let mut begun: Vec<Option<(Instant, Proposal<R>)>> = (0..clients).map(|_| None).collect();
    let mut taken = Vec::new();
    let mut left = clients;
    let start = Instant::now();
    while left > 0 {
        ready.take(&mut taken);
        for number in taken.drain(..) {
            let mut context = Context::from_waker(&wakers[number]);
            let client = &mut begun[number];
            loop {
                if let Some((since, proposal)) = client {
                    match Pin::new(proposal).poll(&mut context) {
                        Poll::Pending => break,
                        Poll::Ready(reply) => reply.map_err(Failure::runtime)?,
                    };
                    measured.record(since.elapsed());
                    measured.entries += 1;
                    *client = None;
                }
                let now = Instant::now();
                if now - start >= time {
                    left -= 1;
                    break;
                }
                *client = Some((now, begin().map_err(Failure::runtime)?));
            }
        }
    }
    measured.time += start.elapsed();
    Ok(())
}
