//! The log thread: makes writes durable, and lets go of the messages that promise them.
//!
//! Between two syncs it takes turns of consensus itself: what such a turn writes it syncs next, without waking
//! anybody. Others who take a turn while it syncs leave it their writes in a queue. While it has nothing to do, a thread
//! that brings an entry does so in its place ([`Writer::stand_in`]), and need not wake it.
//!
//! They wait where more would be written than may wait for the disk. A leader whose turn waits is not heard, so that
//! the others elect one whose disk works; a follower's messages are dropped behind it.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::outcome::Budget;
use crate::raft::message::Message;
use crate::sync::{Condvar, Mutex, MutexGuard, now};
use crate::transport::Transport;
use crate::types::{Durable, NodeId, Staged};
use crate::wal::{Wal, WalError};

/// Writes and promises that may wait for one fsync. Full: who has the turn waits for the disk.
const QUEUE: usize = 4_096;

/// How often the log thread lets others run between a sync and its turn, where many wait for replies: what they bring
/// meanwhile goes into the next sync, which costs as much for one entry as for fifty.
const YIELDS: u32 = 3;

/// Something for the log thread, in order.
pub(super) enum LogJob {
    /// Make this write durable, which takes so much of the backlog.
    Sync(Staged, u64),
    /// Send this once every write before it is durable.
    Release(NodeId, Message),
}

/// What waits for the disk.
pub(super) struct LogQueue {
    waiting: Mutex<Waiting>,
    /// Where the log thread waits.
    arrived: Condvar,
    /// Where who has the turn waits for room.
    less: Condvar,
    /// Bytes that may be written and not durable.
    most: u64,
}

struct Waiting {
    jobs: Vec<LogJob>,
    /// Written and not durable: in memory only.
    bytes: u64,
    log: State,
    /// There is a turn to be taken.
    nudged: bool,
    /// There may be one then, though nobody nudges.
    turn_at: Option<Instant>,
    /// No more will come.
    closed: bool,
}

/// What the log thread does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    /// It or who stands in for it syncs, or is about to look for what there is to do.
    Busy,
    /// That one has the turn. For room it would wait in vain, since it is the one that makes it.
    TakesTurn,
    Ended,
}

/// What the log thread finds to do.
enum Next {
    Jobs,
    Turn,
    End,
}

/// The log thread has ended, and will say why.
#[derive(Debug)]
pub(super) struct Ended;

impl LogQueue {
    /// A queue on which writes of so many bytes may wait.
    pub(super) fn new(most: u64) -> Self {
        let waiting = Waiting {
            jobs: Vec::new(),
            bytes: 0,
            log: State::Busy,
            nudged: false,
            turn_at: None,
            closed: false,
        };
        Self {
            waiting: Mutex::new(waiting),
            arrived: Condvar::new(),
            less: Condvar::new(),
            most,
        }
    }

    /// Waits until a write of so many bytes may wait for the disk too. One alone always may, and one of none.
    pub(super) fn make_room(&self, more: u64) -> Result<(), Ended> {
        let mut waiting = self.waiting.lock();
        while waiting.log != State::Ended {
            let after = waiting.bytes.saturating_add(more);
            let fits = waiting.bytes == 0 || more == 0 || after <= self.most;
            if fits || waiting.log == State::TakesTurn {
                waiting.bytes = after;
                return Ok(());
            }
            self.less.wait(&mut waiting);
        }
        Err(Ended)
    }

    pub(super) fn send(&self, job: LogJob) -> Result<(), Ended> {
        let mut waiting = self.waiting.lock();
        while waiting.jobs.len() >= QUEUE && waiting.log == State::Busy {
            self.less.wait(&mut waiting);
        }
        if waiting.log == State::Ended {
            return Err(Ended);
        }
        waiting.jobs.push(job);
        let wake = waiting.log == State::Waits && waiting.jobs.len() == 1;
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Has the log thread take a turn, if it has nothing else to do. False if not.
    pub(super) fn nudge(&self) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.log != State::Waits || !waiting.jobs.is_empty() {
            return false;
        }
        let wake = !waiting.nudged;
        waiting.nudged = true;
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    /// Has the log thread look for a turn at that time; the latest that it is told counts.
    pub(super) fn turn_at(&self, time: Instant) {
        let mut waiting = self.waiting.lock();
        let wake = waiting.log == State::Waits && waiting.turn_at.is_none();
        waiting.turn_at = waiting.turn_at.max(Some(time));
        drop(waiting);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Whether the log thread has something to sync.
    pub(super) fn has_jobs(&self) -> bool {
        !self.waiting.lock().jobs.is_empty()
    }

    /// No more jobs will come: the log thread ends once it has done those that did.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_one();
    }

    /// Waits until there is something to do.
    fn next(&self) -> Next {
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.log == State::Ended {
                return Next::End;
            }
            waiting.log = State::Busy;
            let is_time = waiting.turn_at.take_if(|time| *time <= now()).is_some();
            if std::mem::take(&mut waiting.nudged) || is_time {
                return Next::Turn;
            }
            if !waiting.jobs.is_empty() {
                return Next::Jobs;
            }
            if waiting.closed {
                return Next::End;
            }
            waiting.log = State::Waits;
            match waiting.turn_at {
                Some(time) => _ = self.arrived.wait_until(&mut waiting, time),
                None => self.arrived.wait(&mut waiting),
            }
            while matches!(waiting.log, State::Busy | State::TakesTurn) {
                // Another stands in for it.
                self.arrived.wait(&mut waiting);
            }
        }
    }

    /// Swaps what is to be synced into `jobs`, which must have been emptied.
    fn take(&self, jobs: &mut Vec<LogJob>) {
        let mut waiting = self.waiting.lock();
        std::mem::swap(&mut waiting.jobs, jobs);
        self.wake_for_room(waiting);
    }

    /// Has the caller stand in for the log thread, if that has nothing to do.
    fn borrow(&self) -> Option<Borrowed<'_>> {
        let mut waiting = self.waiting.lock();
        let idle = waiting.log == State::Waits && !waiting.has_work();
        idle.then(|| {
            waiting.log = State::Busy;
            Borrowed(self)
        })
    }

    /// Runs a turn of consensus that the log thread has taken.
    pub(super) fn in_turn<T>(&self, turn: impl FnOnce() -> T) -> T {
        self.waiting.lock().log = State::TakesTurn;
        let done = turn();
        self.waiting.lock().log = State::Busy;
        done
    }

    /// When the log thread looks for a turn by itself, if it does.
    #[cfg(test)]
    pub(super) fn turn_due(&self) -> Option<Instant> {
        self.waiting.lock().turn_at
    }

    fn durable(&self, bytes: u64) {
        let mut waiting = self.waiting.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        self.wake_for_room(waiting);
    }

    fn end(&self) {
        let mut waiting = self.waiting.lock();
        waiting.log = State::Ended;
        waiting.jobs.clear();
        self.wake_for_room(waiting);
    }

    fn wake_for_room(&self, waiting: MutexGuard<'_, Waiting>) {
        drop(waiting);
        self.less.notify_one();
    }
}

impl Waiting {
    /// Whether the log thread is not to wait.
    fn has_work(&self) -> bool {
        self.nudged || self.turn_at.is_some() || self.closed || !self.jobs.is_empty()
    }
}

/// Who holds it stands in for the log thread, which waits. Dropped, the log thread goes on with what there is to do.
struct Borrowed<'a>(&'a LogQueue);

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
        let mut waiting = self.0.waiting.lock();
        if waiting.log != State::Ended {
            waiting.log = State::Waits;
        }
        let wake = waiting.log == State::Ended || waiting.has_work();
        drop(waiting);
        if wake {
            self.0.arrived.notify_one();
        }
    }
}

/// What the log thread does, for it and for who stands in for it.
pub(super) struct Writer {
    pub(super) queue: Arc<LogQueue>,
    pub(super) wal: Wal,
    pub(super) transport: Arc<dyn Transport>,
    /// What clients have under way.
    pub(super) budget: Arc<Budget>,
    /// Empty but during a sync; kept for their room.
    pub(super) taken: Mutex<Taken>,
}

/// What one sync is for.
#[derive(Default)]
pub(super) struct Taken {
    jobs: Vec<LogJob>,
    promises: Vec<(NodeId, Message)>,
}

impl Writer {
    /// Does once what the log thread would, in its place: a turn, and the sync of what was written in it. False if the
    /// log thread itself is at work. `turn` as in [`LogThread::run`].
    ///
    /// # Errors
    /// The log's; it has latched.
    pub(super) fn stand_in(&self, turn: impl Fn(Option<Durable>)) -> Result<bool, WalError> {
        let Some(_borrowed) = self.queue.borrow() else {
            return Ok(false);
        };
        turn(None);
        if self.queue.has_jobs() {
            let synced = self.sync();
            turn(synced.inspect_err(|_| self.queue.end())?);
        }
        Ok(true)
    }

    /// One fsync for all.
    fn sync(&self) -> Result<Option<Durable>, WalError> {
        let mut taken = self.taken.lock();
        let Taken { jobs, promises } = &mut *taken;
        self.queue.take(jobs);
        let (mut newest, mut bytes) = (None, 0);
        for job in jobs.drain(..) {
            match job {
                LogJob::Sync(staged, more) => {
                    newest = Some(staged);
                    bytes += more;
                }
                LogJob::Release(to, message) => promises.push((to, message)),
            }
        }
        // A promise stands behind the write it waits for, so that write is in this batch or an
        // earlier one; each batch ends durable.
        let durable = newest.map(|staged| self.wal.sync(staged)).transpose()?;
        for (to, message) in promises.drain(..) {
            self.transport.send(to, message);
        }
        self.queue.durable(bytes);
        Ok(durable)
    }
}

/// The log thread. However it ends, nobody waits for it.
pub(super) struct LogThread(pub(super) Arc<Writer>);

impl Drop for LogThread {
    fn drop(&mut self) {
        self.0.queue.end();
    }
}

impl LogThread {
    /// Runs until the queue is closed, or the log fails. `turn` is told of each fsync, and takes the turn if there is
    /// one to be taken.
    ///
    /// # Errors
    /// The log's; it has latched.
    pub(super) fn run(self, turn: impl Fn(Option<Durable>)) -> Result<(), WalError> {
        let writer = &self.0;
        loop {
            match writer.queue.next() {
                Next::End => return Ok(()),
                Next::Turn => turn(None),
                Next::Jobs => {
                    let durable = writer.sync()?;
                    if writer.budget.is_crowded() {
                        (0..YIELDS).for_each(|_| thread::yield_now());
                    }
                    turn(durable);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::raft::message::Body;
    use crate::runtime::Alone;
    use crate::sim::{Op, SimDisk};
    use crate::types::Term;
    use crate::wal::{Preparer, WalOptions};

    fn writer(disk: &SimDisk) -> Arc<Writer> {
        let options = WalOptions::new("/wal").segment_bytes(64 << 10);
        let options = options.disk(Arc::new(disk.clone()));
        let (wal, _) = options.preparer(Preparer::Inline).open().unwrap();
        Arc::new(Writer {
            queue: Arc::new(LogQueue::new(100)),
            wal,
            transport: Arc::new(Alone),
            budget: Arc::new(Budget::new(100)),
            taken: Mutex::new(Taken::default()),
        })
    }

    fn write(writer: &Writer) -> Staged {
        let staged = writer.wal.append(&[b"entry"]).unwrap();
        writer.queue.make_room(60).unwrap();
        writer.queue.send(LogJob::Sync(staged, 60)).unwrap();
        staged
    }

    /// Stands in as soon as the log thread waits.
    fn stand_in(writer: &Writer, turn: impl Fn(Option<Durable>)) -> Result<(), WalError> {
        while !writer.stand_in(&turn)? {
            thread::yield_now();
        }
        Ok(())
    }

    #[test]
    fn a_write_waits_until_so_much_is_durable_that_it_has_room() {
        let queue = LogQueue::new(100);
        queue.make_room(60).unwrap();
        queue.make_room(0).unwrap();
        queue.make_room(40).unwrap();
        let (told, tells) = mpsc::channel();
        thread::scope(|scope| {
            let waiting = &queue;
            scope.spawn(move || {
                waiting.make_room(50).unwrap();
                told.send(()).unwrap();
                waiting.make_room(500).unwrap();
            });
            queue.durable(40);
            assert!(tells.try_recv().is_err(), "10 too many");
            queue.durable(60);
            tells.recv().unwrap();
            // Larger than all there is, it goes alone.
            queue.durable(50);
        });
    }

    #[test]
    fn nobody_waits_for_a_log_thread_that_has_ended() {
        let queue = LogQueue::new(100);
        queue.make_room(100).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| queue.make_room(1).is_err());
            queue.end();
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn the_log_thread_does_not_wait_for_room_that_it_makes_itself() {
        let queue = LogQueue::new(100);
        queue.make_room(100).unwrap();
        queue.in_turn(|| {
            queue.make_room(100).unwrap();
            let promise = Message {
                term: Term(1),
                body: Body::VoteReply { granted: true },
            };
            for _ in 0..=QUEUE {
                let job = LogJob::Release(NodeId(2), promise.clone());
                queue.send(job).unwrap();
            }
        });
    }

    #[test]
    fn the_log_thread_takes_a_turn_at_the_latest_time_that_it_is_told() {
        let writer = writer(&SimDisk::new(1));
        let (told, tells) = mpsc::channel();
        let time = Instant::now() + Duration::from_millis(2);
        writer.queue.turn_at(time);
        writer.queue.turn_at(time - Duration::from_millis(1));
        let thread = LogThread(Arc::clone(&writer));
        let runs = thread::spawn(move || thread.run(|_| told.send(Instant::now()).unwrap()));
        assert!(tells.recv().unwrap() >= time);
        writer.queue.close();
        runs.join().unwrap().unwrap();
        assert!(tells.recv().is_err(), "it was told of one turn");
    }

    #[test]
    fn nobody_stands_in_for_a_log_thread_that_is_at_work_or_about_to_be() {
        let writer = writer(&SimDisk::new(1));
        let stands_in = || writer.stand_in(|_| panic!("a turn")).unwrap();
        assert!(!stands_in(), "it has not come to wait");
        writer.queue.waiting.lock().log = State::Waits;
        writer.queue.nudge();
        assert!(!stands_in(), "it is about to take a turn");
        writer.queue.waiting.lock().nudged = false;
        writer
            .queue
            .turn_at(Instant::now() + Duration::from_secs(3_600));
        assert!(!stands_in(), "it sleeps until it is to look for a turn");
        writer.queue.waiting.lock().turn_at = None;
        let _ = write(&writer);
        assert!(!stands_in(), "it is about to sync");
    }

    #[test]
    fn who_stands_in_syncs_what_its_turn_wrote_and_leaves_what_comes_after_to_the_log_thread() {
        let writer = writer(&SimDisk::new(1));
        let (told, tells) = mpsc::channel();
        let thread = LogThread(Arc::clone(&writer));
        let runs = thread::spawn(move || thread.run(|durable| told.send(durable).unwrap()));
        let wrote = Mutex::new(Vec::<Staged>::new());
        stand_in(&writer, |durable| {
            let before = wrote.lock().last().copied();
            assert_eq!(
                durable.map(|done| done.seq()),
                before.map(|last| last.seq())
            );
            wrote.lock().push(write(&writer));
        })
        .unwrap();
        let last = wrote.lock()[1];
        let durable = tells.recv().unwrap();
        assert_eq!(durable.map(|done| done.seq()), Some(last.seq()));
        writer.queue.close();
        runs.join().unwrap().unwrap();
        assert!(tells.recv().is_err(), "more than it was left");
    }

    #[test]
    fn a_log_thread_that_was_closed_meanwhile_ends_when_who_stands_in_is_done() {
        let writer = writer(&SimDisk::new(1));
        let thread = LogThread(Arc::clone(&writer));
        let runs = thread::spawn(move || thread.run(|_| {}));
        stand_in(&writer, |_| {
            writer.queue.close();
            for _ in 0..1_000 {
                assert!(!runs.is_finished(), "beside who stands in for it");
                thread::yield_now();
            }
            writer.queue.make_room(100).unwrap();
        })
        .unwrap();
        runs.join().unwrap().unwrap();
    }

    #[test]
    fn a_sync_that_fails_or_panics_in_who_stands_in_ends_the_log_thread() {
        let disk = SimDisk::new(1);
        let writer = writer(&disk);
        for panics in [true, false] {
            let thread = LogThread(Arc::clone(&writer));
            writer.queue.waiting.lock().log = State::Busy;
            let runs = thread::spawn(move || thread.run(|_| {}));
            let failed = thread::scope(|scope| {
                let stands_in = scope.spawn(|| {
                    stand_in(&writer, |_| {
                        assert!(!panics, "on purpose");
                        disk.fail(Op::Sync, 1 + disk.count(Op::Sync), ErrorKind::Other);
                        let _ = write(&writer);
                    })
                });
                stands_in.join()
            });
            assert_eq!(failed.is_err(), panics);
            assert!(failed.is_err() || failed.unwrap().is_err());
            runs.join().unwrap().unwrap();
            assert!(writer.queue.make_room(1).is_err(), "nobody waits for it");
        }
    }
}
