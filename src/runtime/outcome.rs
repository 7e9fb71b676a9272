//! How a proposal ends: exactly once, with a reply or one of a few errors.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::types::{Member, NodeId};

/// Why a proposal or a read has no reply.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// This node does not lead, and the proposal was not taken. Ask the leader. For a read: it was not answered,
    /// since no leader said in time what there is to see, or this node is too far behind.
    NotLeader {
        /// Who leads, if this node knows.
        leader: Option<Member>,
    },
    /// This node is handing leadership over, and the proposal was not taken. Within an election timeout it
    /// goes on leading, or another node leads.
    Transferring {
        /// To whom, if it is still a member.
        to: Option<Member>,
    },
    /// Leadership cannot be handed over: the node that was named is no other voter, or there is none.
    NoSuccessor,
    /// Leadership did not go over to the other node within an election timeout: this node leads on.
    TransferAbandoned,
    /// This node leads, but does not know yet what was decided before it; the change of members was not taken.
    /// It will know as soon as it commits anything, so try again.
    NotReady,
    /// Another change of members is under way; this one was not taken. Try again once that is done.
    ChangeInProgress,
    /// The change of members would leave nobody to vote; it was not taken.
    NoVoters,
    /// There is no such member here; nothing was asked of the leader.
    NotAMember {
        /// Which node.
        id: NodeId,
    },
    /// Too much is waiting already; the proposal was not taken. Try again later.
    Overloaded,
    /// The proposal is larger than the limit, and was not taken.
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The largest that is taken, `Options::max_entry_bytes`.
        limit: usize,
    },
    /// The proposal was taken, but this node lost the lead or stopped before it knew the outcome: it may
    /// yet be applied, or never. For a read: it was not answered.
    OutcomeUnknown,
    /// The node has stopped, and the proposal was not taken.
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLeader {
                leader: Some(leader),
            } => {
                write!(
                    f,
                    "not the leader: node {} at {} is",
                    leader.id, leader.addr
                )
            }
            Self::NotLeader { leader: None } => {
                f.write_str("not the leader, and none is known yet")
            }
            Self::Transferring { to } => {
                f.write_str("leadership is being handed over")?;
                match to {
                    Some(to) => write!(f, " to node {} at {}", to.id, to.addr),
                    None => Ok(()),
                }
            }
            Self::NoSuccessor => f.write_str("there is no such voter to hand leadership to"),
            Self::TransferAbandoned => {
                f.write_str("leadership was not taken over in time: this node leads on")
            }
            Self::NotReady => f.write_str("the leader is not ready to change members: try again"),
            Self::ChangeInProgress => f.write_str("another change of members is under way"),
            Self::NoVoters => f.write_str("a cluster needs a voter"),
            Self::NotAMember { id } => write!(f, "node {id} is not among the members"),
            Self::Overloaded => f.write_str("too much is waiting: try again later"),
            Self::TooLarge { bytes, limit } => {
                write!(
                    f,
                    "a proposal of {bytes} bytes is over the limit of {limit}"
                )
            }
            Self::OutcomeUnknown => f.write_str("the outcome is unknown: it may yet be applied"),
            Self::Stopped { reason } => write!(f, "the node has stopped: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

/// How often who waits for a reply in a crowd lets others run before it sleeps. The reply comes meanwhile, and who does
/// not sleep need not be woken, which costs more than the rest of a commit: 256 clients commit half as much again.
const YIELDS: u32 = 16;
/// What makes a crowd, for each processor. Where few wait, those that run meanwhile are not others that wait but
/// whatever the machine has to do, and may go on for milliseconds: there a sleeper is served sooner.
const CROWD: u64 = 32;

/// How much may be under way. Four atomic operations for each: two as it comes, two as it goes.
pub(crate) struct Budget {
    taken: AtomicU64,
    most: u64,
    /// How many hold some of it: proposals, and others.
    proposals: AtomicU64,
    others: AtomicU64,
    crowd: u64,
}

/// What holds some of a [`Budget`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Holder {
    Proposal,
    Other,
}

impl Budget {
    pub(crate) fn new(most: u64) -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self {
            taken: AtomicU64::new(0),
            most,
            proposals: AtomicU64::new(0),
            others: AtomicU64::new(0),
            crowd: CROWD.saturating_mul(processors as u64),
        }
    }

    /// Whether so many hold some of it that whoever yields lets others of them run.
    pub(super) fn is_crowded(&self) -> bool {
        let others = self.others.load(Ordering::Relaxed);
        self.proposals.load(Ordering::Relaxed) + others >= self.crowd
    }

    /// How many proposals hold some of it.
    pub(super) fn proposals(&self) -> usize {
        usize::try_from(self.proposals.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    const fn holders(&self, holder: Holder) -> &AtomicU64 {
        match holder {
            Holder::Proposal => &self.proposals,
            Holder::Other => &self.others,
        }
    }

    /// Room for so much more, until the permit is dropped. One alone always has room.
    pub(crate) fn take(self: &Arc<Self>, amount: u64, holder: Holder) -> Option<Permit> {
        let before = self.taken.fetch_add(amount, Ordering::Relaxed);
        self.holders(holder).fetch_add(1, Ordering::Relaxed);
        let permit = Permit {
            budget: Arc::clone(self),
            amount,
            holder,
        };
        let fits = before == 0 || before.saturating_add(amount) <= self.most;
        fits.then_some(permit)
    }
}

/// Room in a [`Budget`], given back when dropped.
pub(crate) struct Permit {
    budget: Arc<Budget>,
    amount: u64,
    holder: Holder,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Self {
            budget,
            amount,
            holder,
        } = self;
        budget.taken.fetch_sub(*amount, Ordering::Relaxed);
        budget.holders(*holder).fetch_sub(1, Ordering::Relaxed);
    }
}

/// A reply to come, for a proposal, a read or another request. Wait for it with [`Proposal::wait`] or
/// [`Proposal::wait_for`], or await it: it is a [`Future`] that needs no runtime of any kind.
///
/// Dropping it gives up the reply, not the proposal.
#[must_use = "a proposal is acknowledged only by its reply"]
pub struct Proposal<R> {
    cell: Arc<Cell<R>>,
    /// Many waited when it was made.
    crowded: bool,
}

/// The other end of a [`Proposal`]. Dropped without a result, it gives `OutcomeUnknown`. Who has the result finds
/// the room given back.
pub(crate) struct Slot<R> {
    cell: Arc<Cell<R>>,
    permit: Option<Permit>,
}

struct Cell<R> {
    state: Mutex<State<R>>,
    done: Condvar,
}

enum State<R> {
    Waiting(Option<Waker>),
    Done(Result<R, Error>),
    Taken,
}

/// A proposal and its slot, which keeps `permit` until the end.
pub(crate) fn promise<R>(permit: Permit) -> (Slot<R>, Proposal<R>) {
    let crowded = permit.budget.is_crowded();
    let cell = Arc::new(Cell {
        state: Mutex::new(State::Waiting(None)),
        done: Condvar::new(),
    });
    let slot = Slot {
        cell: Arc::clone(&cell),
        permit: Some(permit),
    };
    (slot, Proposal { cell, crowded })
}

impl<R> Slot<R> {
    /// Gives the result, and wakes who waits for it.
    pub(crate) fn complete(mut self, result: Result<R, Error>) {
        drop(self.permit.take());
        self.cell.complete(result);
    }
}

impl<R> Drop for Slot<R> {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.cell.complete(Err(Error::OutcomeUnknown));
    }
}

impl<R> Cell<R> {
    /// The first result stands.
    fn complete(&self, result: Result<R, Error>) {
        let mut state = self.state.lock();
        let State::Waiting(waker) = &mut *state else {
            return;
        };
        let waker = waker.take();
        *state = State::Done(result);
        drop(state);
        self.done.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<R> State<R> {
    fn take(&mut self) -> Option<Result<R, Error>> {
        match std::mem::replace(self, Self::Taken) {
            Self::Done(result) => Some(result),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl<R> Proposal<R> {
    /// Waits for the reply, for as long as it takes. It may take as long as there is no quorum.
    ///
    /// # Errors
    /// As [`Error`] says; see there what is known of the proposal.
    pub fn wait(self) -> Result<R, Error> {
        let yields = if self.crowded { YIELDS } else { 0 };
        for _ in 0..yields {
            let found = self
                .cell
                .state
                .try_lock()
                .and_then(|mut state| state.take());
            if let Some(result) = found {
                return result;
            }
            thread::yield_now();
        }
        let mut state = self.cell.state.lock();
        loop {
            if let Some(result) = state.take() {
                return result;
            }
            if matches!(*state, State::Taken) {
                return Err(Error::OutcomeUnknown);
            }
            self.cell.done.wait(&mut state);
        }
    }

    /// Waits for the reply up to `limit`; None if there is none by then, and it can be waited on again.
    /// Once a reply was given out here, further calls give None at once.
    pub fn wait_for(&mut self, limit: Duration) -> Option<Result<R, Error>> {
        let deadline = Instant::now().checked_add(limit);
        let mut state = self.cell.state.lock();
        loop {
            if let Some(result) = state.take() {
                return Some(result);
            }
            if matches!(*state, State::Taken) {
                return None;
            }
            match deadline {
                None => self.cell.done.wait(&mut state),
                Some(deadline) => {
                    if self.cell.done.wait_until(&mut state, deadline).timed_out() {
                        return state.take();
                    }
                }
            }
        }
    }
}

impl<R> Future for Proposal<R> {
    type Output = Result<R, Error>;

    /// Stays pending if polled again after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.cell.state.lock();
        if let Some(result) = state.take() {
            return Poll::Ready(result);
        }
        if let State::Waiting(waker) = &mut *state {
            match waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;

    fn budget(most: u64) -> Arc<Budget> {
        Arc::new(Budget::new(most))
    }

    fn pair() -> (Slot<u32>, Proposal<u32>) {
        promise(budget(1).take(1, Holder::Proposal).unwrap())
    }

    #[test]
    fn a_dropped_slot_leaves_the_outcome_unknown() {
        let (slot, proposal) = pair();
        drop(slot);
        assert_eq!(proposal.wait(), Err(Error::OutcomeUnknown));
    }

    #[test]
    fn the_first_result_stands() {
        let (slot, proposal) = pair();
        slot.complete(Ok(7));
        assert_eq!(proposal.wait(), Ok(7));
    }

    #[test]
    fn a_wait_with_a_limit_can_be_repeated_until_the_reply_is_there() {
        let (slot, mut proposal) = pair();
        assert_eq!(proposal.wait_for(Duration::ZERO), None);
        let waiter = thread::spawn(move || proposal.wait_for(Duration::MAX));
        slot.complete(Ok(7));
        assert_eq!(waiter.join().unwrap(), Some(Ok(7)));
    }

    #[test]
    fn a_reply_is_given_out_once() {
        let (slot, mut proposal) = pair();
        slot.complete(Ok(7));
        assert_eq!(proposal.wait_for(Duration::MAX), Some(Ok(7)));
        assert_eq!(proposal.wait_for(Duration::MAX), None);
        assert_eq!(proposal.wait(), Err(Error::OutcomeUnknown));
    }

    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_task_that_polled_last_is_woken() {
        let tasks: Vec<_> = (0..2).map(|_| Arc::new(Count(AtomicU64::new(0)))).collect();
        let (slot, mut proposal) = pair();
        for task in &tasks {
            let waker = Waker::from(Arc::clone(task));
            let mut context = Context::from_waker(&waker);
            assert!(Pin::new(&mut proposal).poll(&mut context).is_pending());
        }
        slot.complete(Ok(7));
        let woken = tasks.iter().map(|task| task.0.load(Ordering::Relaxed));
        assert_eq!(woken.collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_future_is_woken_once_when_the_reply_is_there() {
        let count = Arc::new(Count(AtomicU64::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (slot, mut proposal) = pair();
        assert_eq!(Pin::new(&mut proposal).poll(&mut context), Poll::Pending);
        slot.complete(Ok(7));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(
            Pin::new(&mut proposal).poll(&mut context),
            Poll::Ready(Ok(7))
        );
    }

    #[test]
    fn a_full_budget_refuses_until_something_ends() {
        let budget = budget(100);
        let large = budget.take(500, Holder::Proposal).unwrap();
        assert!(
            budget.take(1, Holder::Proposal).is_none(),
            "beside one that is over the limit by itself"
        );
        drop(large);
        let most = budget.take(60, Holder::Proposal).unwrap();
        assert!(
            budget.take(41, Holder::Proposal).is_none(),
            "both would be over the limit"
        );
        let rest = budget.take(40, Holder::Proposal).unwrap();
        assert!(budget.take(1, Holder::Proposal).is_none());
        drop(most);
        assert!(
            budget.take(60, Holder::Proposal).is_some(),
            "after one has ended"
        );
        drop(rest);
        assert!(budget.take(500, Holder::Proposal).is_some(), "alone again");
    }

    #[test]
    fn many_who_hold_a_little_are_a_crowd_and_one_who_holds_much_is_none() {
        let budget = budget(u64::MAX);
        let mut holders = vec![budget.take(1 << 30, Holder::Proposal).unwrap()];
        while holders.len() < usize::try_from(budget.crowd).unwrap() {
            assert!(!budget.is_crowded());
            holders.push(budget.take(1, Holder::Proposal).unwrap());
        }
        assert!(budget.is_crowded());
        let read = budget.take(1, Holder::Other).unwrap();
        assert_eq!(budget.proposals(), holders.len(), "a read is none");
        holders.pop();
        assert!(budget.is_crowded(), "a read waits like others");
        drop(read);
        assert!(!budget.is_crowded());
        holders.push(budget.take(1, Holder::Proposal).unwrap());
        assert!(
            promise::<u32>(budget.take(1, Holder::Proposal).unwrap())
                .1
                .crowded
        );
        holders.pop();
        assert!(!budget.is_crowded());
        assert!(!promise::<u32>(holders.pop().unwrap()).1.crowded);
    }

    #[test]
    fn whatever_a_slot_comes_to_gives_its_room_back() {
        let budget = budget(10);
        let full = || promise::<u32>(budget.take(10, Holder::Proposal).unwrap());
        for end in 0..3 {
            let (slot, proposal) = full();
            assert!(budget.take(1, Holder::Proposal).is_none());
            match end {
                0 => slot.complete(Ok(7)),
                1 => slot.complete(Err(Error::Overloaded)),
                _ => drop(slot),
            }
            // Whoever keeps the reply keeps no room.
            drop(full());
            drop(proposal);
        }
        let (slot, proposal) = full();
        drop(proposal);
        assert!(
            budget.take(1, Holder::Proposal).is_none(),
            "the proposal is under way still"
        );
        drop(slot);
        drop(full());
    }
}
