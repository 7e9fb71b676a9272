//! How far a leader knows one follower's log to be, and what it has sent it.

use std::collections::VecDeque;

use crate::types::{LogId, LogIndex, Time};

/// A follower, as its leader sees it. `matched < next`, always.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// The follower's durable log agrees with ours up to here.
    pub(super) matched: LogIndex,
    /// The next entry to send.
    pub(super) next: LogIndex,
    pub(super) flow: Flow,
    /// The latest round of heartbeats that it has answered.
    pub(super) round: u64,
    /// Whether it has answered since the leader last looked.
    pub(super) heard: bool,
    /// Its round of catching up, while it is a joiner.
    pub(super) catch_up: Option<CatchUp>,
}

/// A round of catching up: the entries there were when it began (thesis, section 4.2.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct CatchUp {
    pub(super) upto: LogIndex,
    pub(super) since: Time,
}

/// How entries flow to a follower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// It is not known where the logs agree: one append at a time.
    Probe {
        /// Whether one is on its way; then only heartbeats follow, which ask the same again.
        sent: bool,
    },
    /// The logs agreed: appends follow each other without waiting.
    Replicate {
        /// The last index of each append that was not answered.
        inflight: VecDeque<LogIndex>,
    },
    /// What it needs is gone from the log: it is offered a snapshot, and nothing else.
    Snapshot {
        /// What it asked for last: of the snapshot that ends there, from which byte on.
        asked: Option<(LogId, u64)>,
        /// The entries behind that snapshot are kept for it until then, unless it makes progress.
        until: Time,
    },
}

impl Progress {
    pub(super) const fn new(last: LogIndex) -> Self {
        Self {
            matched: LogIndex::ZERO,
            next: last.next(),
            flow: Flow::Probe { sent: false },
            round: 0,
            heard: false,
            catch_up: None,
        }
    }

    /// The follower has everything up to `upto`; the leader's log has what is behind `before`.
    pub(super) fn matched(&mut self, upto: LogIndex, before: LogIndex) {
        self.matched = self.matched.max(upto);
        match &mut self.flow {
            Flow::Probe { .. } => {
                self.next = self.matched.next();
                self.flow = Flow::Replicate {
                    inflight: VecDeque::new(),
                };
            }
            Flow::Replicate { inflight } => {
                while inflight.front().is_some_and(|&last| last <= upto) {
                    inflight.pop_front();
                }
                self.next = self.next.max(self.matched.next());
            }
            Flow::Snapshot { asked, .. } => {
                self.next = self.next.max(self.matched.next());
                // An older answer says nothing of the snapshot.
                if self.matched >= before {
                    self.flow = Flow::Replicate {
                        inflight: VecDeque::new(),
                    };
                } else if asked.is_some_and(|(last, _)| last.index <= self.matched) {
                    // It has what it fetched, and what follows is gone all the same. The newest is next.
                    *asked = None;
                }
            }
        }
    }

    /// What the follower needs is gone: it is to fetch a snapshot.
    pub(super) fn lacks_what_is_gone(&mut self) {
        self.next = self.matched.next();
        self.flow = Flow::Snapshot {
            asked: None,
            until: Time::default(),
        };
    }

    /// The snapshot that it is fetching now, and so needs the entries behind.
    pub(super) fn fetching(&self, now: Time) -> Option<LogId> {
        match self.flow {
            Flow::Snapshot { asked, until } if now < until => asked.map(|(last, _)| last),
            _ => None,
        }
    }

    /// Whether a rejection of an append behind `prev` tells something new.
    pub(super) fn is_news(&self, prev: LogIndex) -> bool {
        match self.flow {
            Flow::Probe { .. } => prev.next() == self.next,
            Flow::Replicate { .. } => prev > self.matched && prev < self.next,
            Flow::Snapshot { .. } => false,
        }
    }

    /// The logs differ beyond `agreeing`: ask there. Who refuses even what it acknowledged has lost it, or
    /// lies: there is no other place to ask, and only heartbeats ask there again.
    pub(super) fn rejected(&mut self, agreeing: LogIndex) {
        let refused = self.next;
        self.next = agreeing.max(self.matched).next();
        let sent = self.next == refused;
        self.flow = Flow::Probe { sent };
    }
}
