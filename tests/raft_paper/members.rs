//! Changes of members: thesis, chapter 4.

use super::*;
use std::time::Duration;

const D: NodeId = NodeId(4);
const E: NodeId = NodeId(5);

fn voters(ids: impl IntoIterator<Item = u64>) -> Roster {
    Roster::of_voters(ids.into_iter().map(NodeId))
}

fn change(to: &Roster) -> Event {
    Event::Change { to: to.clone() }
}

/// `leader()`, whose no-op both others have.
fn settled() -> Raft {
    let mut raft = leader();
    for from in [B, C] {
        step(&mut raft, received(from, 1, matched(1, 0)));
    }
    assert_eq!(raft.pointers().committed, LogIndex(1));
    raft
}

fn refused(refusal: Refusal) -> [Effect; 1] {
    [Effect::Refused(refusal)]
}

/// Where the configuration among these effects is written.
fn appended(effects: &[Effect]) -> Option<LogIndex> {
    let new = effects.iter().find_map(|effect| match effect {
        Effect::Persist(persist) => persist.entries,
        _ => None,
    });
    new.filter(|new| new.source == Source::Config)
        .map(|new| new.range.last.index)
}

/// Who is sent an append among these effects.
fn sent_to(effects: &[Effect]) -> Vec<NodeId> {
    let to = |effect: &Effect| match effect {
        Effect::Send { to, message, .. } => {
            matches!(message.body, Body::Append { .. }).then_some(*to)
        }
        _ => None,
    };
    effects.iter().filter_map(to).collect()
}

/// `size` first members, of which the first leads, and nodes that wait to join.
fn led(size: usize, joining: impl IntoIterator<Item = u64>) -> Net {
    let mut net = Net::empty(size);
    for id in joining {
        net.join(id);
    }
    net.elect(1);
    net
}

fn settle(net: &mut Net) {
    net.run_for(config().election_timeout * 2);
}

/// Section 4.1: "a server always uses the latest configuration in its log, regardless of whether the entry
/// is committed". The leader counts and sends by it at once.
#[test]
fn a_configuration_counts_from_the_moment_it_is_appended() {
    let mut raft = settled();
    let effects = step(&mut raft, change(&voters(1..=4)));
    assert_eq!(appended(&effects), Some(LogIndex(2)));
    assert_eq!(*raft.roster(), voters(1..=4));
    assert_eq!(sent_to(&effects), [B, C, D]);
    sync(&mut raft, 3);
    let two = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(commits(&two), [], "two of four");
    let three = step(&mut raft, received(D, 1, matched(2, 0)));
    assert_eq!(commits(&three), [id(1, 2)]);
    // And who is removed no longer counts from then on.
    let mut raft = settled();
    step(&mut raft, change(&voters(1..=2)));
    sync(&mut raft, 3);
    let gone = step(&mut raft, received(C, 1, matched(2, 0)));
    assert_eq!(gone, []);
    let both = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(commits(&both), [id(1, 2)]);
}

/// A follower too: it campaigns among the members of the last configuration in its log.
#[test]
fn a_follower_uses_the_configuration_that_it_was_sent() {
    let mut raft = core(3, &[1]);
    let message = message(1, append(id(1, 1), id(1, 3), 0));
    let event = Event::Received {
        from: B,
        message,
        configs: vec![(LogIndex(2), voters(1..=4)), (LogIndex(3), voters(1..=5))],
    };
    step(&mut raft, event);
    assert_eq!(*raft.roster(), voters(1..=5));
    let deadline = raft.deadline();
    let asked = sends(&step_at(&mut raft, deadline, Event::Tick));
    assert_eq!(asked.len(), 4, "{asked:?}");
}

/// Section 4.1: a server "must be prepared to fall back to the previous configuration in its log".
#[test]
fn a_truncated_configuration_counts_no_more() {
    let mut raft = core(3, &[1]);
    let with = |term, body, at, roster| Event::Received {
        from: B,
        message: message(term, body),
        configs: vec![(LogIndex(at), roster)],
    };
    step(
        &mut raft,
        with(1, append(id(1, 1), id(1, 2), 0), 2, voters(1..=4)),
    );
    step(
        &mut raft,
        with(1, append(id(1, 2), id(1, 3), 0), 3, voters(1..=5)),
    );
    assert_eq!(*raft.roster(), voters(1..=5));
    let from_3 = append(id(1, 2), id(2, 3), 0);
    step(&mut raft, received(C, 2, from_3));
    assert_eq!(*raft.roster(), voters(1..=4), "the one before it");
    let from_2 = append(id(1, 1), id(3, 2), 0);
    step(&mut raft, with(3, from_2, 2, voters([1, 2])));
    assert_eq!(*raft.roster(), voters([1, 2]), "another in its place");
    let from_2 = append(id(1, 1), id(4, 2), 0);
    step(&mut raft, received(C, 4, from_2));
    assert_eq!(*raft.roster(), voters(1..=3), "the first");
}

/// The erratum of the thesis' single-server algorithm: without it two leaders could commit each in a
/// configuration of its own.
#[test]
fn no_change_begins_before_an_entry_of_the_leaders_own_term_is_committed() {
    let mut raft = leader();
    let to = voters(1..=4);
    assert_eq!(step(&mut raft, change(&to)), refused(Refusal::NotReady));
    step(&mut raft, received(B, 1, matched(1, 0)));
    let taken = step(&mut raft, change(&to));
    assert_eq!(appended(&taken), Some(LogIndex(2)));
}

/// Section 4.1: a leader may not begin a change before the last is committed.
#[test]
fn changes_come_one_at_a_time() {
    let mut raft = settled();
    step(&mut raft, change(&voters(1..=4)));
    let busy = Refusal::ChangeInProgress;
    assert_eq!(step(&mut raft, change(&voters(1..=5))), refused(busy));
    step(&mut raft, received(B, 1, matched(2, 0)));
    step(&mut raft, received(C, 1, matched(2, 0)));
    sync(&mut raft, 3);
    assert_eq!(raft.pointers().committed, LogIndex(2));
    let taken = step(&mut raft, change(&voters(1..=5)));
    assert_eq!(appended(&taken), Some(LogIndex(3)));
}

#[test]
fn a_change_that_cannot_be_is_refused() {
    let mut raft = core(3, &[1]);
    let other = Refusal::NotLeader { leader: None };
    assert_eq!(step(&mut raft, change(&voters(1..=4))), refused(other));
    let mut raft = settled();
    let nobody = Roster::default().with(A, MemberRole::Learner);
    let effects = step(&mut raft, change(&nobody));
    assert_eq!(effects, refused(Refusal::NoVoters));
    step(&mut raft, Event::Propose { count: 1 });
    step(&mut raft, Event::Transfer { to: Some(B) });
    let busy = Refusal::Transferring { to: B };
    assert_eq!(step(&mut raft, change(&voters(1..=4))), refused(busy));
}

/// Section 4.3: "agreement (for elections and entry commitment) requires majorities from both the old and
/// new configurations". Then the leader goes on to the new one by itself.
#[test]
fn more_than_one_voter_changes_by_a_joint_configuration() {
    let mut raft = settled();
    let to = voters([1, 4, 5]);
    let effects = step(&mut raft, change(&to));
    let joint = to.clone().leaving(&voters(1..=3));
    assert_eq!(*raft.roster(), joint);
    assert_eq!(sent_to(&effects), [B, C, D, E]);
    sync(&mut raft, 3);
    for from in [B, C] {
        let old = step(&mut raft, received(from, 1, matched(2, 0)));
        assert_eq!(commits(&old), [], "a majority of the old one alone");
    }
    let busy = Refusal::ChangeInProgress;
    assert_eq!(step(&mut raft, change(&voters(1..=3))), refused(busy));
    let both = step(&mut raft, received(D, 1, matched(2, 0)));
    assert_eq!(commits(&both), [id(1, 2)]);
    assert_eq!(appended(&both), Some(LogIndex(3)), "it leaves at once");
    assert_eq!(*raft.roster(), to);
    assert_eq!(
        sent_to(&both),
        [D],
        "B and C are out; E has to answer first"
    );
    sync(&mut raft, 4);
    assert_eq!(
        commits(&step(&mut raft, received(D, 1, matched(3, 0)))),
        [id(1, 3)]
    );
    // The other way round it does not do either.
    let mut raft = settled();
    step(&mut raft, change(&to));
    sync(&mut raft, 3);
    for from in [D, E] {
        let new = step(&mut raft, received(from, 1, matched(2, 0)));
        assert_eq!(commits(&new), [], "a majority of the new one alone");
    }
}

/// Elections in a joint configuration need both majorities too.
#[test]
fn who_campaigns_in_a_joint_configuration_needs_both_majorities() {
    for (granting, wins) in [
        (vec![B, C], false),
        (vec![D, E], false),
        (vec![B, D], true),
        (vec![C, E], true),
    ] {
        let mut boot = boot(1, 3, &disk(&[1]), 7);
        let joint = voters([1, 4, 5]).leaving(&voters(1..=3));
        boot.configs = vec![(LogIndex(1), joint)];
        let mut raft = Raft::new(&config(), boot, Time::default());
        let deadline = raft.deadline();
        let asked = sends(&step_at(&mut raft, deadline, Event::Tick));
        let pre_vote = Body::PreVote { last: id(1, 1) };
        assert_eq!(asked, [B, C, D, E].map(|to| now(to, 2, pre_vote.clone())));
        for from in &granting {
            let granted = Body::PreVoteReply { granted: true };
            step(&mut raft, received(*from, 2, granted));
        }
        let campaigns = raft.status().role == RoleName::Candidate;
        assert_eq!(campaigns, wins, "{granting:?} promised");
        // Votes likewise, were it to campaign.
        step(
            &mut raft,
            received(B, 2, Body::PreVoteReply { granted: true }),
        );
        step(
            &mut raft,
            received(D, 2, Body::PreVoteReply { granted: true }),
        );
        sync(&mut raft, 1);
        for from in &granting {
            step(
                &mut raft,
                received(*from, 2, Body::VoteReply { granted: true }),
            );
        }
        let leads = raft.status().role == RoleName::Leader;
        assert_eq!(leads, wins, "{granting:?} voted");
    }
}

/// A leader that crashes within a change leaves the joint configuration to the next one.
#[test]
fn a_later_leader_leaves_the_joint_configuration() {
    let mut net = led(3, [4, 5]);
    let to = voters([2, 4, 5]);
    net.change(1, &to);
    // The entry is everywhere; its commit is known nowhere but at the first.
    while let Some(message) = net.wire.pop_front() {
        if message.1 != A {
            net.deliver(message);
        }
    }
    net.settle();
    assert!(net.at(2).raft.roster().is_joint());
    net.isolate(1);
    net.run_for(config().election_timeout * 10);
    let [leader] = net.leaders()[..] else {
        panic!("{:?} lead", net.leaders())
    };
    assert!([2, 4, 5].contains(&leader), "{leader} leads");
    for id in [2, 4, 5] {
        assert_eq!(*net.at(id).raft.roster(), to, "node {id}");
    }
}

/// Whole changes, from and to various sizes, the leader in and out of them.
#[test]
fn clusters_of_any_size_become_clusters_of_any_size() {
    for (from, to) in [
        (1, vec![1, 2]),
        (1, vec![1, 2, 3, 4, 5]),
        (1, vec![2]),
        (1, vec![4, 5]),
        (2, vec![1]),
        (2, vec![2]),
        (3, vec![1]),
        (3, vec![2, 3]),
        (3, vec![4, 5]),
        (3, vec![3, 4, 5]),
        (5, vec![1]),
        (5, vec![3]),
        (5, vec![1, 3, 5]),
    ] {
        let mut net = led(from, from as u64 + 1..=5);
        net.propose(1, 3);
        net.settle();
        let roster = voters(to.iter().copied());
        net.change(1, &roster);
        settle(&mut net);
        settle(&mut net);
        let [leader] = net.leaders()[..] else {
            panic!("{from} to {to:?}: {:?} lead", net.leaders())
        };
        assert!(to.contains(&leader), "{from} to {to:?}: {leader} leads");
        net.propose(leader, 2);
        settle(&mut net);
        for &id in &to {
            let member = net.at(id);
            assert_eq!(*member.raft.roster(), roster, "{from} to {to:?}: node {id}");
            assert_eq!(net.terms(id), net.terms(leader));
            assert_eq!(member.committed, net.at(leader).committed);
            assert_eq!(member.committed.0, net.terms(id).len() as u64);
        }
    }
}

/// Section 4.2.1: non-voting members get entries and are "not yet counted towards majorities for voting or
/// commitment purposes".
#[test]
fn a_learner_gets_every_entry_and_is_not_counted() {
    let mut net = led(2, [3]);
    let roster = voters([1, 2]).with(C, MemberRole::Learner);
    net.change(1, &roster);
    net.propose(1, 2);
    settle(&mut net);
    assert_eq!(net.terms(3), [1, 1, 1, 1]);
    assert_eq!(net.at(3).committed, LogIndex(4));
    // Alone with it, nothing is committed, and the leader does not count on it to be heard.
    net.isolate(2);
    net.propose(1, 1);
    net.settle();
    assert_eq!(net.terms(3).len(), 5);
    assert_eq!(net.at(1).committed, LogIndex(4));
    settle(&mut net);
    assert_eq!(net.leaders(), []);
    // It never stands for election, and gives its vote to who asks.
    net.run_for(config().election_timeout * 10);
    assert_eq!(net.at(3).status().role, RoleName::Follower);
    let term = net.at(3).status().term.next();
    let asked = received(D, term.0, vote(9, 9));
    let voted = sends(&step_at(&mut net.at_mut(3).raft, Time(1 << 40), asked));
    let granted = Body::VoteReply { granted: true };
    assert!(
        matches!(&voted[..], [Effect::Send { to: D, message, .. }] if message.body == granted),
        "{voted:?}"
    );
}

/// A vote or a promise of a learner elects nobody, whoever asked for it.
#[test]
fn the_votes_of_learners_do_not_count() {
    let mut boot = boot(1, 3, &disk(&[1]), 7);
    let roster = voters([1, 2]).with(C, MemberRole::Learner);
    boot.configs = vec![(LogIndex(1), roster.with(D, MemberRole::Joiner))];
    let mut raft = Raft::new(&config(), boot, Time::default());
    let deadline = raft.deadline();
    let asked = sends(&step_at(&mut raft, deadline, Event::Tick));
    assert_eq!(asked, [now(B, 2, Body::PreVote { last: id(1, 1) })]);
    for from in [C, D] {
        let granted = Body::PreVoteReply { granted: true };
        step(&mut raft, received(from, 2, granted));
    }
    assert_eq!(raft.status().role, RoleName::PreCandidate);
    step(
        &mut raft,
        received(B, 2, Body::PreVoteReply { granted: true }),
    );
    sync(&mut raft, 1);
    for from in [C, D] {
        step(
            &mut raft,
            received(from, 2, Body::VoteReply { granted: true }),
        );
    }
    assert_eq!(raft.status().role, RoleName::Candidate);
}

/// A leader alone with learners needs nobody's answer for its reads, nor to go on leading.
#[test]
fn a_single_voter_waits_for_none_of_its_learners() {
    let mut net = led(1, [2]);
    net.change(1, &voters([1]).with(B, MemberRole::Learner));
    net.settle();
    net.isolate(2);
    net.step(A, Event::Read { read: ReadId(1) });
    assert_eq!(net.at(1).ready, [(ReadId(1), LogIndex(2))]);
    net.propose(1, 1);
    assert_eq!(net.at(1).committed, LogIndex(3));
    settle(&mut net);
    assert_eq!(net.leaders(), [1]);
}

/// The leader of node 1 with 4 as a joiner, whose configuration, entry 2, is committed, and the time.
fn with_joiner() -> (Raft, Time) {
    let mut raft = settled();
    step(
        &mut raft,
        change(&voters(1..=3).with(D, MemberRole::Joiner)),
    );
    step(&mut raft, received(B, 1, matched(2, 0)));
    step(&mut raft, received(C, 1, matched(2, 0)));
    sync(&mut raft, 3);
    assert_eq!(raft.pointers().committed, LogIndex(2));
    let elected = Time(raft.deadline().0).after(Duration::ZERO);
    (raft, elected)
}

/// Section 4.2.1: replication to a new server is split into rounds, each of which brings over what there was
/// in the log at its start; "if the last round lasts less than an election timeout, then the leader adds the
/// new server to the cluster".
#[test]
fn a_joiner_becomes_a_voter_after_a_round_shorter_than_an_election_timeout() {
    let timeout = config().election_timeout;
    let (mut raft, start) = with_joiner();
    let at = |span: Duration| start.after(span);
    // The first answer begins the first round, up to entry 2.
    let first = step_at(&mut raft, at(Duration::ZERO), received(D, 1, matched(0, 0)));
    assert_eq!(appended(&first), None);
    step(&mut raft, Event::Propose { count: 3 });
    let half = step_at(&mut raft, at(timeout / 2), received(D, 1, matched(1, 0)));
    assert_eq!(appended(&half), None, "it is not over");
    let slow = step_at(&mut raft, at(timeout), received(D, 1, matched(2, 0)));
    assert_eq!(appended(&slow), None, "it took too long");
    // The second, up to entry 5.
    let almost = at(timeout + timeout - Duration::from_micros(1));
    let fast = step_at(&mut raft, almost, received(D, 1, matched(5, 0)));
    assert_eq!(appended(&fast), Some(LogIndex(6)));
    assert_eq!(*raft.roster(), voters(1..=4));
}

/// What is in the way of a change is in the way of a promotion; a later round brings it.
#[test]
fn a_joiner_waits_while_another_change_is_under_way() {
    let (mut raft, start) = with_joiner();
    let joining = voters(1..=3).with(D, MemberRole::Joiner);
    step(
        &mut raft,
        change(&joining.clone().with(E, MemberRole::Learner)),
    );
    step_at(&mut raft, start, received(D, 1, matched(3, 0)));
    let over = step_at(&mut raft, start, received(D, 1, matched(3, 0)));
    assert_eq!(appended(&over), None);
    sync(&mut raft, 4);
    step_at(&mut raft, start, received(B, 1, matched(3, 0)));
    assert_eq!(raft.pointers().committed, LogIndex(3));
    let over = step_at(&mut raft, start, received(D, 1, matched(3, 0)));
    assert_eq!(appended(&over), Some(LogIndex(4)));
    assert_eq!(*raft.roster(), voters(1..=4).with(E, MemberRole::Learner));
}

/// Whoever leads goes on with it; a learner stays one.
#[test]
fn joiners_become_voters_by_themselves_and_learners_do_not() {
    let mut net = led(3, [4, 5]);
    net.propose(1, 50);
    let roster = voters(1..=3).with(D, MemberRole::Joiner);
    let roster = roster.with(E, MemberRole::Learner);
    net.isolate(4);
    net.change(1, &roster);
    net.settle();
    net.cut.clear();
    net.isolate(1);
    net.run_for(config().election_timeout * 20);
    let expected = voters(1..=4).with(E, MemberRole::Learner);
    for id in [2, 3, 4, 5] {
        assert_eq!(*net.at(id).raft.roster(), expected, "node {id}");
    }
    // By hand the learner becomes one too, and a voter a learner again.
    let [leader] = net.leaders()[..] else {
        panic!("{:?} lead", net.leaders())
    };
    net.cut.clear();
    settle(&mut net);
    let promoted = expected
        .with(E, MemberRole::Voter)
        .with(A, MemberRole::Learner);
    net.change(leader, &promoted);
    settle(&mut net);
    for id in 1..=5 {
        assert_eq!(*net.at(id).raft.roster(), promoted, "node {id}");
    }
}

/// Section 4.2.2: a leader that is removed "steps down once the C_new entry is committed", and while it
/// still leads "does not count itself in majorities".
#[test]
fn a_leader_that_removes_itself_does_not_count_and_steps_down_after_the_commit() {
    let mut raft = settled();
    step(&mut raft, change(&voters([2, 3])));
    sync(&mut raft, 3);
    let one = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(commits(&one), [], "its own copy was counted");
    assert_eq!(
        raft.status().role,
        RoleName::Leader,
        "it manages the cluster"
    );
    let both = step(&mut raft, received(C, 1, matched(2, 0)));
    assert_eq!(commits(&both), [id(1, 2)]);
    let status = raft.status();
    assert_eq!((status.role, status.leader), (RoleName::Follower, None));
    // The others hear of the commit, and one of them that it should campaign.
    let told = sends(&both);
    assert!(
        told.contains(&now(B, 1, heartbeat(id(1, 2), 2, 1))),
        "{told:?}"
    );
    assert!(told.contains(&now(B, 1, Body::TimeoutNow)), "{told:?}");
    let deadline = raft.deadline();
    assert_eq!(step_at(&mut raft, deadline, Event::Tick), []);
    // So that nothing waits for an election timeout.
    let mut net = led(3, []);
    net.change(1, &voters([2, 3]));
    let before = net.now;
    net.settle();
    assert_eq!(net.now, before);
    assert!(net.leaders() == [2] || net.leaders() == [3]);
}

/// It does not keep itself in the lead either.
#[test]
fn a_leader_that_removes_itself_is_no_part_of_the_quorum_that_it_must_hear() {
    let mut net = led(3, []);
    net.isolate(3);
    net.change(1, &voters([2, 3]));
    settle(&mut net);
    assert_eq!(net.leaders(), [], "it hears one of two");
}

/// Section 4.2.2: a server that is no part of its latest configuration may still have to campaign, as long as
/// that is not committed: here nobody else has it, and the other's log is too short to be elected.
#[test]
fn who_is_removed_by_an_uncommitted_configuration_still_campaigns() {
    let mut net = led(2, []);
    net.change(1, &voters([2]));
    net.wire.clear();
    net.crash(A);
    net.run_for(config().election_timeout * 10);
    assert_eq!(net.leaders(), [2]);
    assert_eq!(*net.at(2).raft.roster(), voters([2]));
    assert_eq!(net.terms(2)[..3], [1, 1, 2]);
}

/// Section 4.1 (and 4.2.1): servers vote for candidates, and follow leaders, that are no part of their
/// configuration: a new voter that does not know it yet may be needed.
#[test]
fn a_new_voter_votes_and_follows_before_it_knows_its_configuration() {
    let mut boot = boot(4, 3, &disk(&[]), 7);
    boot.configs.clear();
    let raft = || Raft::new(&config(), boot.clone(), Time::default());
    assert_eq!(*raft().roster(), Roster::default());
    let pre_vote = Body::PreVote { last: id(1, 2) };
    let promised = step(&mut raft(), received(A, 1, pre_vote));
    assert_eq!(promised, [now(A, 1, Body::PreVoteReply { granted: true })]);
    let voted = step(&mut raft(), received(A, 1, vote(1, 2)));
    let granted = Body::VoteReply { granted: true };
    assert_eq!(sends(&voted), [after(1, A, 1, granted)]);
    let mut follower = raft();
    let first = append(LogId::ORIGIN, id(1, 1), 1);
    let followed = step(&mut follower, received(A, 1, first));
    assert_eq!(sends(&followed), [after(1, A, 1, matched(1, 1))]);
    assert_eq!(follower.status().leader, Some(A));
    // By itself it does nothing.
    let mut raft = raft();
    for _ in 0..10 {
        let deadline = raft.deadline();
        assert_eq!(step_at(&mut raft, deadline, Event::Tick), []);
    }
    // Its vote is the third of four that is needed, and it has heard of nothing.
    let mut net = led(3, [4]);
    net.isolate(4);
    net.change(1, &voters(1..=4));
    net.settle();
    net.cut.clear();
    net.isolate(1);
    net.run_for(config().election_timeout * 10);
    let [leader] = net.leaders()[..] else {
        panic!("{:?} lead", net.leaders())
    };
    assert_eq!(*net.at(4).raft.roster(), voters(1..=4));
    assert_eq!(net.terms(4), net.terms(leader));
}

/// Section 4.2.3: who was removed and does not know it does not unseat the leader.
#[test]
fn a_removed_server_does_not_disrupt_the_cluster() {
    let mut net = led(4, []);
    net.isolate(4);
    net.change(1, &voters(1..=3));
    settle(&mut net);
    let before = net.at(1).status();
    net.cut.clear();
    assert!(net.at(4).raft.roster().votes(D), "it has not heard of it");
    net.run_for(config().election_timeout * 30);
    assert_eq!(net.at(1).status(), before);
    // Even if it campaigns, by promises from before.
    assert_eq!(net.at(4).status().role, RoleName::PreCandidate);
    let term = net.at(4).status().term.next();
    for from in [B, C] {
        let granted = Body::PreVoteReply { granted: true };
        net.step(D, received(from, term.0, granted));
    }
    net.settle();
    assert_eq!(net.at(4).status().term, term);
    net.run_for(config().election_timeout * 30);
    assert_eq!(net.at(1).status(), before);
}

/// Figure 2, persistent state: the log, and with it the configuration.
#[test]
fn a_restarted_server_uses_the_last_configuration_of_its_log() {
    let mut net = led(3, [4]);
    net.change(1, &voters(1..=4));
    settle(&mut net);
    for id in [1, 2, 4] {
        net.crash(NodeId(id));
        assert_eq!(*net.at(id).raft.roster(), voters(1..=4), "node {id}");
    }
    // And falls back to the one before, if that entry is not to be.
    let mut boot = boot(1, 3, &disk(&[1, 1, 1]), 7);
    boot.configs.push((LogIndex(3), voters(1..=5)));
    let mut raft = Raft::new(&config(), boot, Time::default());
    assert_eq!(*raft.roster(), voters(1..=5));
    step(&mut raft, received(B, 2, append(id(1, 2), id(2, 3), 0)));
    assert_eq!(*raft.roster(), voters(1..=3));
}

/// A voter that stands alone after a change, or a restart, waits for nobody.
#[test]
fn the_last_voter_that_is_left_leads_alone() {
    let mut net = led(2, []);
    net.change(1, &voters([1]));
    net.settle();
    net.isolate(2);
    settle(&mut net);
    assert_eq!(net.leaders(), [1]);
    net.crash(A);
    assert_eq!(net.at(1).raft.deadline(), net.now, "at once");
    net.tick(1);
    assert_eq!(net.leaders(), [1]);
}
