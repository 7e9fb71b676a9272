//! Consensus, without a disk, a network, a thread or a clock.
//!
//! [`Raft::step`] takes the time and one [`Event`] and adds to a list of
//! [`Effect`]s, which the caller carries out in order. It cannot fail, and with the same
//! seed and the same events it does the same. It follows the paper "In Search of an Understandable
//! Consensus Algorithm" and Ongaro's thesis, with these particulars:
//!
//! - **Metadata only.** Entries are ranges and runs of terms here; their bytes never come in, only
//!   [how many](Raft::weigh) they are.
//! - **Promises wait for the disk.** Whatever says "I have this entry", "you have my vote" or "I am in
//!   this term" is released only [`After`](event::Release::After) the write that makes it true. A leader
//!   sends entries while it writes them, and counts itself only once they are durable (thesis, 10.2.1).
//! - **Durability goes by write, not by index.** An index can be rewritten while its first write is under
//!   way; the first write's completion then says nothing about it.
//! - **PreVote** (thesis, 9.6). A node asks whether it would be elected before it moves to a new term. Who
//!   has heard from a leader within the least election timeout says no, so that a node that was cut off
//!   does not unseat a leader that the others follow.
//! - **Stickiness** (thesis, 4.2.3). Who hears from a leader passes over a request for its vote in a newer
//!   term likewise, and stays in its term. No live-lock comes of it: a node in a newer term refuses the
//!   leader's appends in that term, which makes the leader follow it there, and the next one is elected.
//! - **A lost connection** counts for who had it: a follower that is [told](Event::Lost) that its leader's has ended
//!   does not stick to that leader, and asks soon whether it would be elected. Who still hears the leader says no.
//! - **CheckQuorum** (thesis, 6.2). A leader that no quorum has answered for an election timeout steps down:
//!   its clients are told, and who stuck to it is free to follow another. It looks once in a timeout, so
//!   that is one to two of them after the last answer.
//! - **Backing up by terms** (paper, 5.3). A refusal names the last entry that could agree, and the leader
//!   skips whole terms of its own likewise: at most one round trip a term that differs.
//! - **Commit rides along.** Followers learn of it with the next append or heartbeat.
//! - **Reads** (thesis, 6.4). The leader notes its commit index, and answers once a quorum has replied to
//!   a round that began after; one round at a time, shared by all that wait. A follower asks its leader, and
//!   answers once it has committed as much. By a lease instead of a round, if the options say so.
//! - **Members change** by joint consensus, of which the single change is a special case (thesis, chapter 4).
//!   The core knows them by their ids; the caller tells it of configurations that come in with appends or with a
//!   snapshot, and encodes the leader's own. Whoever asks is heard, member or not: a new voter has to vote before
//!   it knows that it is one. But only members' answers count.
//! - **Leadership is handed over** on request (thesis, 3.10), to who then needs no promise and breaks the
//!   stickiness of the others.
//! - **Snapshots** (paper, section 7; thesis, chapter 5) are known by their last entry. The log begins behind
//!   one, or some entries before, and a follower that needs what is gone is offered it with each heartbeat.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::Config;
use crate::types::{
    Durable, HardState, LogId, LogIndex, NodeId, Roster, Term, TermRun, Time, WriteSeq,
};

mod election;
pub mod event;
mod follower;
mod leader;
mod lease;
mod log_view;
mod members;
pub mod message;
mod progress;
mod quorum;
mod reads;
mod rng;
mod sizes;
mod snapshot;
mod transfer;

use election::Ballot;
use event::{Effect, Event, NewEntries, Persist, Release, RoleName, Source, Status};
use follower::Follower;
use leader::Leader;
use log_view::LogView;
use members::Configs;
use message::{Body, Message};
use rng::Rng;

/// Terms beyond this are nobody's: no cluster holds that many elections. Refusing them leaves room to
/// count.
const MAX_TERM: Term = Term(u64::MAX >> 1);
/// Likewise for indices.
const MAX_INDEX: LogIndex = LogIndex(u64::MAX >> 1);

/// One member's part in consensus.
///
/// ```text
///       snapshot     committed           durable            last
///   first   |            |                  |                |
///     |     v            v                  v                v
/// ----+=====+============+------------------+----------------+
///     first - 1 <= snapshot <= committed <= last,   durable <= last
/// ```
/// Without a snapshot the first entry is number 1.
///
/// On a follower `committed` may be beyond `durable`: a quorum of others has the entry.
#[derive(Clone, Debug)]
pub struct Raft {
    id: NodeId,
    configs: Configs,
    election_timeout: Duration,
    heartbeat_interval: Duration,
    max_inflight: usize,
    max_inflight_bytes: u64,
    max_entries: u64,
    /// Entries that are kept though a snapshot has them in it.
    trailing: u64,

    term: Term,
    vote: Option<NodeId>,
    commit: LogIndex,
    log: LogView,
    /// The last entry of the newest snapshot here.
    snapshot: Option<LogId>,
    role: Role,
    election_at: Time,
    /// How many times it is to ask again soon, because it has lost its leader.
    asks_soon: u8,
    rng: Rng,
    /// How long a lease lasts, if there are leases.
    lease: Option<Duration>,
    /// It votes for nobody before, as far as leases count on that.
    promised_until: Time,
    /// The number of the next ask for a read index.
    next_ask: u64,

    /// The last write handed out, and the last that is durable.
    written: WriteSeq,
    persisted: WriteSeq,
    /// The write that made term and vote what they are.
    hard_state_seq: WriteSeq,

    now: Time,
    reported: Status,
    // What this step has to write and to send, until its end.
    hard_state_changed: bool,
    commit_moved: bool,
    truncate_from: Option<LogIndex>,
    entries: Option<NewEntries>,
    outbox: Vec<Outgoing>,
    effects: Vec<Effect>,
}

#[derive(Clone, Debug)]
enum Role {
    Follower(Follower),
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Leader),
}

/// A message to be sent at the end of the step.
#[derive(Clone, Debug)]
struct Outgoing {
    to: NodeId,
    message: Message,
    /// It promises that entries up to here are durable.
    needs: Option<LogIndex>,
}

/// What a member knows when it starts: what its log says, all of it durable.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Who this is.
    pub id: NodeId,
    /// The configurations of the newest snapshot and of the log, by the index of their entries: the last that is
    /// known to be committed, and all behind it. None if the node is new and waits to hear from a cluster.
    pub configs: Vec<(LogIndex, Roster)>,
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// The entry before the first of the log; [`LogId::ORIGIN`] if none was ever dropped.
    pub before: LogId,
    /// The last entry; `before` if there is none.
    pub last: LogId,
    /// The last entry of the newest snapshot, at or behind `before`.
    pub snapshot: Option<LogId>,
    /// The terms of the entries, ascending.
    pub runs: Vec<TermRun>,
    /// The number of the last write, after which this one counts on.
    pub written: WriteSeq,
    /// Seeds the election timeouts.
    pub seed: u64,
    /// A number drawn for this life of the node alone. What it asks is numbered from there on, so that no answer
    /// to an earlier life is taken for one to this.
    pub life: u64,
}

/// Where a member's log stands; [`Raft`] draws how they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pointers {
    /// The first entry.
    pub first: LogIndex,
    /// The last that the newest snapshot has in it.
    pub snapshot: Option<LogId>,
    /// The last that is known to be committed.
    pub committed: LogIndex,
    /// The last of those that are durable here.
    pub durable: LogIndex,
    /// The last.
    pub last: LogId,
}

impl Raft {
    /// A follower of nobody, with what its log says.
    #[must_use]
    pub fn new(config: &Config, boot: Boot, now: Time) -> Self {
        let mut configs = Configs::new(boot.configs);
        let log = LogView::new(boot.before, boot.last, boot.runs);
        let HardState { term, vote, commit } = boot.hard_state;
        let status = Status {
            role: RoleName::Follower,
            term,
            leader: None,
        };
        let commit = commit
            .max(boot.snapshot.map_or(LogIndex::ZERO, |last| last.index))
            .clamp(log.before().index, log.last().index);
        configs.commit(commit);
        let mut raft = Self {
            id: boot.id,
            configs,
            election_timeout: config.election_timeout,
            heartbeat_interval: config.heartbeat_interval,
            max_inflight: config.max_inflight_appends,
            max_inflight_bytes: config.inflight_bytes(),
            max_entries: config.max_append_entries,
            trailing: config.trailing_entries,
            term,
            vote,
            commit,
            log,
            snapshot: boot.snapshot,
            role: Role::Follower(Follower::default()),
            election_at: now,
            asks_soon: 0,
            rng: Rng::new(boot.seed),
            lease: lease::span(config),
            promised_until: Time::default(),
            next_ask: boot.life,
            written: boot.written,
            persisted: boot.written,
            hard_state_seq: boot.written,
            now,
            reported: status,
            hard_state_changed: false,
            commit_moved: false,
            truncate_from: None,
            entries: None,
            outbox: Vec::new(),
            effects: Vec::new(),
        };
        raft.promise();
        // Nobody else could lead where nobody else votes.
        let alone =
            *raft.roster().voters() == BTreeSet::from([raft.id]) && !raft.roster().is_joint();
        if !alone || raft.has_promised() {
            raft.wait_for_election();
        }
        raft
    }

    /// Takes in one event, and adds what is to be done about it to `effects`.
    ///
    /// Total: no event and no message of a peer makes it fail, nonsense is ignored. `now` must not go
    /// back; if it does, timers only fire later.
    pub fn step(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        self.now = now.max(self.now);
        std::mem::swap(&mut self.effects, effects);
        match event {
            Event::Tick => self.tick(),
            Event::Received {
                from,
                message,
                configs,
            } => self.receive(from, message, configs),
            Event::Lost { from } => self.handle_lost(from),
            Event::Propose { count } => self.propose(count),
            Event::Read { read } => self.handle_read(read),
            Event::Transfer { to } => self.handle_transfer(to),
            Event::Change { to } => self.handle_change(to),
            Event::Persisted(durable) => self.persisted(durable),
            Event::Snapshot { last } => self.handle_snapshot(last),
            Event::Fetched { last, config } => self.handle_fetched(last, config),
            Event::Asked { from, lent } => self.handle_asked(from, lent),
        }
        self.flush();
        std::mem::swap(&mut self.effects, effects);
        #[cfg(debug_assertions)]
        self.check();
    }

    /// When [`Event::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Time {
        match &self.role {
            Role::Leader(leader) => leader.deadline(),
            Role::Follower(follower) => {
                let reads = follower.reads.deadline();
                reads.map_or(self.election_at, |at| at.min(self.election_at))
            }
            Role::PreCandidate(_) | Role::Candidate(_) => self.election_at,
        }
    }

    /// Role, term and leader as of the last step.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.reported
    }

    /// Where the log stands.
    #[must_use]
    pub const fn pointers(&self) -> Pointers {
        Pointers {
            first: self.log.first(),
            snapshot: self.snapshot,
            committed: self.commit,
            durable: self.log.durable(),
            last: self.log.last(),
        }
    }

    /// Takes note that the entries in `(prev, last]`, which the log has, take so many bytes. Said of each write
    /// once it is made, and at the start of what the log has: what was not said counts nothing towards
    /// [`Options::memory_bytes`](crate::config::Options::memory_bytes).
    pub fn weigh(&mut self, prev: LogIndex, last: LogIndex, bytes: u64) {
        self.log.weigh(prev, last, bytes);
    }

    /// Leaves time out, for who explores every state: no timer has begun, nobody was heard, and writes are
    /// counted anew from the last that was durable, which is returned. Two cores that differ in these alone
    /// are the same then, and whatever could come of the core still can.
    #[cfg(feature = "sim")]
    pub fn rewind(&mut self) -> WriteSeq {
        let base = std::mem::take(&mut self.persisted);
        self.written.0 -= base.0;
        self.hard_state_seq.0 = self.hard_state_seq.0.saturating_sub(base.0);
        self.log.rewind(base);
        self.now = Time::default();
        self.election_at = Time::default();
        self.asks_soon = 0;
        self.promised_until = Time::default();
        self.rng = Rng::new(0);
        match &mut self.role {
            Role::Follower(follower) => follower.heard = None,
            Role::Leader(leader) => leader.rewind(),
            Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
        base
    }

    fn tick(&mut self) {
        if matches!(self.role, Role::Leader(_)) {
            return self.lead_tick();
        }
        self.ask_tick();
        if self.now >= self.election_at {
            self.election_tick();
        }
    }

    fn receive(&mut self, from: NodeId, message: Message, configs: Vec<(LogIndex, Roster)>) {
        let Message { term, body } = message;
        let stranger = body.is_answer() && !self.is_member(from);
        if from == self.id || stranger || term > MAX_TERM {
            return;
        }
        match body {
            // These two speak of a term that nobody has moved to.
            Body::PreVote { last } => self.handle_pre_vote(from, term, last),
            Body::PreVoteReply { granted } => self.handle_pre_vote_reply(from, term, granted),
            Body::Append {
                range,
                runs,
                commit,
                round,
            } => {
                if !follower::is_sound(term, range, &runs) {
                    return;
                }
                self.enter(term);
                self.handle_append(
                    from,
                    term,
                    follower::Append {
                        range,
                        runs,
                        commit,
                        round,
                        configs,
                    },
                );
            }
            Body::Vote { last } => {
                let sticks = term > self.term && self.follows_a_live_leader();
                if sticks || self.has_promised() {
                    return;
                }
                self.enter(term);
                self.handle_vote(from, term, last);
            }
            Body::HandoverVote { last } => {
                self.enter(term);
                self.handle_vote(from, term, last);
            }
            Body::TimeoutNow => {
                self.enter(term);
                self.handle_timeout_now(from, term);
            }
            Body::VoteReply { granted } => {
                self.enter(term);
                if term == self.term {
                    self.handle_vote_reply(from, granted);
                }
            }
            Body::Snapshot { last, round } => {
                self.enter(term);
                self.handle_offer(from, term, last, round);
            }
            // Both are between a leader and who follows it, so of a term that both are in.
            Body::AskReadIndex { ask } if term == self.term => self.handle_ask(from, ask),
            Body::ReadIndex { ask, index } if term == self.term => {
                self.handle_read_index(from, ask, index);
            }
            Body::AskReadIndex { .. } | Body::ReadIndex { .. } => {}
            Body::AppendReply { outcome, round } => {
                self.enter(term);
                if term == self.term {
                    self.handle_append_reply(from, outcome, round);
                }
            }
        }
    }

    /// Moves to `term` if it is newer, as a follower of nobody yet (section 5.1).
    fn enter(&mut self, term: Term) {
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.hard_state_changed = true;
            self.become_follower(None);
        }
    }

    fn propose(&mut self, count: u64) {
        match self.open_leader() {
            Err(refusal) => self.effects.push(Effect::Refused(refusal)),
            Ok(_) if count > 0 => self.append_own(count, Source::Proposals),
            Ok(_) => {}
        }
    }

    fn persisted(&mut self, durable: Durable) {
        let seq = durable.seq().min(self.written);
        self.persisted = self.persisted.max(seq);
        self.log.persisted(seq);
        match self.role {
            Role::Candidate(_) => self.count_own_vote(),
            Role::Leader(_) => {
                self.advance_commit();
                self.hand_over();
            }
            Role::Follower(_) | Role::PreCandidate(_) => {}
        }
    }

    fn set_commit(&mut self, index: LogIndex) {
        self.commit = index;
        self.commit_moved = true;
        self.configs.commit(index);
        self.catch_up_with_reads();
    }

    fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Leader(_) => Some(self.id),
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
        }
    }

    /// Whether `id` takes part, with a vote or without.
    fn is_member(&self, id: NodeId) -> bool {
        let roster = self.roster();
        roster.votes(id) || roster.role(id).is_some()
    }

    /// The number that this step's write gets, if it has one.
    const fn next_seq(&self) -> WriteSeq {
        self.written.next()
    }

    /// Sends a message of this node's term that promises nothing of any entry.
    fn send(&mut self, to: NodeId, body: Body) {
        self.send_in(to, self.term, body);
    }

    /// Sends a message of another term; only those of PreVote have one.
    fn send_in(&mut self, to: NodeId, term: Term, body: Body) {
        self.outbox.push(Outgoing {
            to,
            message: Message { term, body },
            needs: None,
        });
    }

    /// Ends a step: first what is to be written, then what may be sent, what may be applied, and who this
    /// is now.
    fn flush(&mut self) {
        if self.hard_state_changed || self.truncate_from.is_some() || self.entries.is_some() {
            self.written = self.written.next();
            if self.hard_state_changed {
                self.hard_state_seq = self.written;
            }
            let persist = Persist {
                seq: self.written,
                hard_state: HardState {
                    term: self.term,
                    vote: self.vote,
                    commit: self.commit,
                },
                truncate_from: self.truncate_from.take(),
                entries: self.entries.take(),
            };
            self.hard_state_changed = false;
            self.effects.push(Effect::Persist(persist));
        }
        for Outgoing { to, message, needs } in std::mem::take(&mut self.outbox) {
            let release = self.release(&message.body, needs);
            self.effects.push(Effect::Send {
                to,
                message,
                release,
            });
        }
        if std::mem::take(&mut self.commit_moved) {
            let term = self.log.term_at(self.commit).unwrap_or(Term::ZERO);
            let upto = LogId::new(term, self.commit);
            self.effects.push(Effect::Commit { upto });
        }
        let status = Status {
            role: self.role_name(),
            term: self.term,
            leader: self.leader(),
        };
        if status != self.reported {
            self.reported = status;
            self.effects.push(Effect::Status(status));
        }
    }

    /// When a message may leave. Everything that speaks of this term promises not to fall back behind it.
    fn release(&self, body: &Body, needs: Option<LogIndex>) -> Release {
        if matches!(body, Body::PreVote { .. } | Body::PreVoteReply { .. }) {
            return Release::Now;
        }
        let entries = needs.and_then(|index| self.log.write_of(index));
        let seq = entries.unwrap_or_default().max(self.hard_state_seq);
        if seq <= self.persisted {
            Release::Now
        } else {
            Release::After(seq)
        }
    }

    /// Panics unless what must hold after each step does: the pointers are in order. Debug builds look by
    /// themselves.
    #[cfg(any(debug_assertions, feature = "sim"))]
    pub fn check(&self) {
        let Pointers {
            first,
            snapshot,
            committed,
            durable,
            last,
        } = self.pointers();
        let snapshot = snapshot.map_or(LogIndex::ZERO, |last| last.index);
        assert!(first.prev() <= snapshot, "first - 1 <= snapshot");
        assert!(snapshot <= committed, "snapshot <= committed");
        assert!(committed <= last.index, "committed <= last");
        assert!(durable <= last.index, "durable <= last");
        assert!(last.term <= self.term, "no entry of a term to come");
        assert!(self.persisted <= self.written, "persisted <= written");
        self.check_progress();
    }
}
