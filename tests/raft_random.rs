//! Clusters of consensus cores under a network and disks that fail at random, with the five properties of
//! the Raft paper's figure 3 looked at after every step.
//!
//! `CATAMARAN_SEED=n cargo test --test raft_random` repeats one run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "shared with other tests")]
#[path = "support/raft.rs"]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use catamaran::raft::event::{Event, ReadId, RoleName};
use catamaran::raft::message::{AppendOutcome, Body, Message};
use catamaran::types::{EntryRange, LogId, LogIndex, MemberRole, NodeId, Roster, Term, TermRun};
use support::{Disk, Net, config, leases};

const RUNS: u64 = 400;
const STEPS: usize = 1_500;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// What was ever true of the cluster.
#[derive(Default)]
struct History {
    leaders: BTreeMap<Term, NodeId>,
    /// The term of each committed entry, and the term of whoever led when it was first seen committed.
    committed: BTreeMap<LogIndex, (Term, Term)>,
    /// What each leader's log was when last seen, by its term.
    led: BTreeMap<NodeId, (Term, Vec<Term>)>,
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// The commit index when each read was asked.
    reads: BTreeMap<(NodeId, ReadId), LogIndex>,
    next_read: u64,
}

impl History {
    fn highest_commit(&self) -> LogIndex {
        self.committed
            .keys()
            .next_back()
            .copied()
            .unwrap_or_default()
    }

    /// A client reads from this node.
    fn ask(&mut self, net: &mut Net, id: NodeId) {
        self.next_read += 1;
        let read = ReadId(self.next_read);
        self.reads.insert((id, read), self.highest_commit());
        net.step(id, Event::Read { read });
    }

    /// Figure 3.
    fn check(&mut self, net: &Net) {
        for (&id, member) in &net.members {
            let status = member.status();
            let terms = &member.written.terms;
            if status.role == RoleName::Leader {
                let elected = *self.leaders.entry(status.term).or_insert(id);
                assert_eq!(
                    elected, id,
                    "Election Safety: two leaders in term {}",
                    status.term
                );
                if let Some((term, before)) = self.led.get(&id)
                    && *term == status.term
                {
                    assert!(terms.starts_with(before), "Leader Append-Only: node {id}");
                }
                self.led.insert(id, (status.term, terms.clone()));
                for (index, (term, seen)) in &self.committed {
                    let own = terms.get(usize::try_from(index.0).unwrap() - 1);
                    assert!(
                        *seen >= status.term || own == Some(term),
                        "Leader Completeness: leader {id} lacks {term} at {index}"
                    );
                }
            }
            for (index, term) in (1..)
                .zip(terms)
                .take(usize::try_from(member.committed.0).unwrap())
            {
                let entry = self.committed.entry(LogIndex(index));
                let (known, _) = *entry.or_insert((*term, status.term));
                assert_eq!(
                    known, *term,
                    "State Machine Safety: entry {index} of node {id}"
                );
            }
            assert!(
                member.committed.0 <= terms.len() as u64,
                "committed beyond the log of node {id}"
            );
            let hard = member.durable.hard_state;
            if let Some(vote) = hard.vote {
                let first = *self.votes.entry((id, hard.term)).or_insert(vote);
                assert_eq!(first, vote, "node {id} voted twice in term {}", hard.term);
            }
            for (read, index) in &member.ready {
                let asked = self.reads[&(id, *read)];
                assert!(
                    *index >= asked,
                    "a read of node {id} that misses entry {asked}"
                );
            }
        }
        self.check_log_matching(net);
    }

    fn check_log_matching(&self, net: &Net) {
        let logs: Vec<_> = net
            .members
            .values()
            .map(|member| &member.written.terms)
            .collect();
        for (at, one) in logs.iter().enumerate() {
            for other in &logs[at + 1..] {
                let same = one.iter().zip(*other).rposition(|(a, b)| a == b);
                if let Some(last) = same {
                    assert_eq!(one[..=last], other[..=last], "Log Matching");
                }
            }
        }
    }
}

fn act(net: &mut Net, history: &mut History, random: &mut Random) {
    let ids: Vec<NodeId> = net.members.keys().copied().collect();
    let id = ids[random.below(ids.len())];
    match random.below(110) {
        0..55 => {
            if !net.wire.is_empty() {
                // Mostly in order, sometimes not.
                let at = if random.below(4) == 0 {
                    random.below(net.wire.len())
                } else {
                    0
                };
                let message = net.wire.remove(at).unwrap();
                if random.below(20) == 0 {
                    net.wire.push_back(message.clone());
                }
                net.deliver(message);
            }
        }
        55..75 => net.sync(id, 1 + random.below(3)),
        75..83 => net.propose(id.0, 1 + random.next() % 3),
        83..86 => history.ask(net, id),
        86..91 => {
            let next = net
                .members
                .values()
                .map(|member| member.raft.deadline())
                .min()
                .unwrap();
            net.now = net.now.max(next);
            let due: Vec<NodeId> = ids
                .into_iter()
                .filter(|id| net.members[id].raft.deadline() <= net.now)
                .collect();
            for id in due {
                net.step(id, Event::Tick);
            }
        }
        91..94 => drop(net.wire.pop_front()),
        94 => {
            let other = ids[random.below(ids.len())];
            if other != id {
                net.cut.insert((id.min(other), id.max(other)));
            }
        }
        95..97 => net.cut.clear(),
        97 if !net.joined.is_empty() && random.below(2) == 0 => {
            let role = |random: &mut Random| match random.below(8) {
                0..4 => Some(MemberRole::Voter),
                4 => Some(MemberRole::Learner),
                5 => Some(MemberRole::Joiner),
                _ => None,
            };
            let mut to = Roster::default();
            for &id in &ids {
                if let Some(role) = role(random) {
                    to = to.with(id, role);
                }
            }
            // Mostly to who may take it.
            let leader = net.leaders().last().map_or(id, |leader| NodeId(*leader));
            net.change(leader.0, &to);
        }
        97 if random.below(2) == 0 => {
            let to = ids[random.below(ids.len())];
            let to = Some(to).filter(|to| *to != id);
            net.step(id, Event::Transfer { to });
        }
        97 => {
            net.crash(id);
            // What it was asked before it forgot.
            history.led.remove(&id);
        }
        98..100 => net.tick(id.0),
        100..104 => net.snapshot(id),
        _ => net.fetch(id),
    }
    net.check_rosters();
    net.seen.clear();
}

/// Faults stop: there is a leader, and it commits.
fn recover(net: &mut Net) {
    net.cut.clear();
    net.fast_disk = true;
    for id in net.members.keys().copied().collect::<Vec<_>>() {
        net.sync(id, usize::MAX);
    }
    for _ in 0..600 {
        net.settle();
        for id in net.members.keys().copied().collect::<Vec<_>>() {
            net.fetch(id);
        }
        net.settle();
        let next = net
            .members
            .iter()
            .map(|(id, member)| (member.raft.deadline(), *id))
            .min()
            .unwrap();
        net.tick(next.1.0);
    }
    net.settle();
    let leader = net
        .members
        .values()
        .find(|member| member.status().role == RoleName::Leader);
    let leader = leader.expect("no leader although nothing fails any more");
    let roster = leader.raft.roster();
    assert!(!roster.is_joint(), "a joint configuration was not left");
    let last = LogIndex(leader.written.terms.len() as u64);
    assert_eq!(leader.committed, last, "the leader does not commit");
    for (id, member) in &net.members {
        match roster.role(*id) {
            None => continue,
            Some(MemberRole::Joiner) => panic!("node {id} did not become a voter"),
            Some(MemberRole::Voter | MemberRole::Learner) => {}
        }
        assert_eq!(
            member.written.terms.len() as u64,
            last.0,
            "a follower is left behind"
        );
        assert_eq!(
            member.committed, last,
            "a follower does not learn of the commit"
        );
    }
}

fn run(seed: u64) -> LogIndex {
    let mut random = Random(seed);
    let size = [1, 2, 3, 3, 3, 5][random.below(6)];
    // All clocks here are one.
    let with_leases = random.below(2) == 0;
    let config = if with_leases { leases(0) } else { config() };
    let mut net = Net::with(config, &vec![Disk::default(); size], seed);
    net.fast_disk = false;
    if random.below(2) == 0 {
        // Others come, and members change.
        for id in size as u64 + 1..=5 {
            net.join(id);
        }
    }
    let mut history = History::default();
    for _ in 0..STEPS {
        act(&mut net, &mut history, &mut random);
        history.check(&net);
    }
    recover(&mut net);
    history.check(&net);
    history.highest_commit()
}

#[test]
fn figure_3_holds_whatever_fails_and_progress_returns_when_nothing_does() {
    let one = std::env::var("CATAMARAN_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seeds = one.map_or(0..RUNS, |seed: u64| seed..seed + 1);
    let mut committed = 0;
    for seed in seeds {
        let ended = std::panic::catch_unwind(|| run(seed));
        match ended {
            Ok(last) => committed += last.0,
            Err(panic) => {
                println!("CATAMARAN_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{committed} entries committed");
    assert!(committed > 0);
}

/// Time goes on little by little, disks are fast, and leaders lose their followers in every way there is. Whoever
/// believes to lead is asked after each step.
fn act_on_leases(net: &mut Net, random: &mut Random) {
    let ids: Vec<NodeId> = net.members.keys().copied().collect();
    let id = ids[random.below(ids.len())];
    match random.below(200) {
        0..150 => {
            if !net.wire.is_empty() {
                let late = random.below(8) == 0;
                let at = if late {
                    random.below(net.wire.len())
                } else {
                    0
                };
                let message = net.wire.remove(at).unwrap();
                net.deliver(message);
            }
        }
        150..178 => {
            let next = net.members.values().map(|member| member.raft.deadline());
            let next = next.min().filter(|_| net.leaders().is_empty());
            let little = net.now.after(Duration::from_millis(random.next() % 15));
            net.now = little.max(next.unwrap_or_default());
            for id in ids {
                if net.members[&id].raft.deadline() <= net.now {
                    net.step(id, Event::Tick);
                }
            }
        }
        178..188 => net.propose(id.0, 1),
        188..191 => {
            let other = ids[random.below(ids.len())];
            net.cut.insert((id.min(other), id.max(other)));
        }
        191 => net.isolate(id.0),
        192..196 => net.cut.clear(),
        196..198 => net.crash(id),
        _ => net.step(id, Event::Transfer { to: None }),
    }
}

#[test]
fn no_lease_reads_the_past_whatever_becomes_of_its_leader() {
    let one = std::env::var("CATAMARAN_SEED").ok();
    let one: Option<u64> = one.map(|seed| seed.parse().unwrap());
    let (mut at_once, mut deposed) = (0, 0);
    for seed in one.map_or(0..RUNS / 8, |seed| seed..seed + 1) {
        let ended = std::panic::catch_unwind(|| {
            let mut random = Random(seed);
            let mut net = Net::with(leases(0), &vec![Disk::default(); 3], seed);
            let mut history = History::default();
            let (mut at_once, mut deposed) = (0, 0);
            for _ in 0..4 * STEPS {
                act_on_leases(&mut net, &mut random);
                history.check(&net);
                let leaders = net.leaders();
                deposed += leaders.len().saturating_sub(1);
                for id in leaders {
                    let before = net.at(id).ready.len();
                    history.ask(&mut net, NodeId(id));
                    at_once += net.at(id).ready.len() - before;
                }
                history.check(&net);
                // Enough was looked at.
                net.members
                    .values_mut()
                    .for_each(|member| member.ready.clear());
                net.seen.clear();
            }
            (at_once, deposed)
        });
        match ended {
            Ok((reads, old)) => {
                at_once += reads;
                deposed += old;
            }
            Err(panic) => {
                println!("CATAMARAN_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{at_once} reads by lease, {deposed} steps with a leader that was deposed");
    assert!(one.is_some() || (at_once > 10_000 && deposed > 0));
}

/// The same seed does the same.
#[test]
fn a_run_is_repeated_by_its_seed() {
    let trace = |seed| {
        let mut random = Random(seed);
        let mut net = Net::new(&vec![Disk::default(); 3], seed);
        net.fast_disk = false;
        let mut history = History::default();
        let mut trace = String::new();
        for _ in 0..STEPS {
            act(&mut net, &mut history, &mut random);
            trace.push_str(&format!("{:?}\n", net.wire.back()));
        }
        trace
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

/// Bytes from the network are hostile: whatever a message says, the core goes on, and its pointers stay in
/// order (which it asserts itself).
#[test]
fn no_message_makes_the_core_panic() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut net = Net::empty(3);
        net.elect(1 + seed % 3);
        net.propose(1 + seed % 3, 5);
        net.settle();
        for _ in 0..300 {
            let (from, to) = (NodeId(1 + random.next() % 4), NodeId(1 + random.next() % 3));
            let mut message = hostile(&mut random);
            // A newer term ends every role, so most speak of this one.
            if random.below(8) > 0 {
                message.term = net.members[&to].status().term;
            }
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                net.step(
                    to,
                    Event::Received {
                        from,
                        message: message.clone(),
                        configs: Vec::new(),
                    },
                );
                net.step(to, Event::Tick);
            }));
            assert!(ended.is_ok(), "seed {seed}: {message:?}");
            net.wire.clear();
        }
    }
}

fn hostile(random: &mut Random) -> Message {
    let number = |random: &mut Random| match random.below(8) {
        0 => u64::MAX,
        1 => u64::MAX - 1,
        2 => u64::MAX >> 1,
        _ => random.next() % 12,
    };
    let id = |random: &mut Random| LogId::new(Term(number(random)), LogIndex(number(random)));
    let body = match random.below(13) {
        11 => Body::AskReadIndex {
            ask: number(random),
        },
        12 => Body::ReadIndex {
            ask: number(random),
            index: LogIndex(number(random)),
        },
        9 => Body::HandoverVote { last: id(random) },
        10 => Body::TimeoutNow,
        0 => Body::PreVote { last: id(random) },
        1 => Body::PreVoteReply {
            granted: random.below(2) == 0,
        },
        2 => Body::Vote { last: id(random) },
        3 => Body::VoteReply {
            granted: random.below(2) == 0,
        },
        4 => {
            let range = EntryRange {
                prev: id(random),
                last: id(random),
            };
            let run = |random: &mut Random| TermRun {
                term: Term(number(random)),
                first: LogIndex(number(random)),
            };
            let runs = (0..random.below(4)).map(|_| run(random)).collect();
            Body::Append {
                range,
                runs,
                commit: LogIndex(number(random)),
                round: number(random),
            }
        }
        5 => Body::Snapshot {
            last: id(random),
            round: number(random),
        },
        6 => Body::AppendReply {
            outcome: AppendOutcome::Fetching,
            round: number(random),
        },
        7 => {
            let outcome = AppendOutcome::Matched {
                upto: LogIndex(number(random)),
            };
            Body::AppendReply {
                outcome,
                round: number(random),
            }
        }
        _ => {
            let outcome = AppendOutcome::Rejected {
                prev: LogIndex(number(random)),
                hint: id(random),
            };
            Body::AppendReply {
                outcome,
                round: number(random),
            }
        }
    };
    Message {
        term: Term(number(random)),
        body,
    }
}
