//! Safety: section 5.4.

use super::*;

/// Section 5.4.2: "Raft never commits log entries from previous terms by counting replicas."
#[test]
fn figure_8_an_older_entry_on_a_majority_is_committed_only_with_a_newer_one() {
    // (c): S1 leads in term 4 and has brought its entry of term 2 to S2 and S3; S5 has one of term 3.
    let mut lead = disk(&[1, 2]);
    lead.hard_state.term = Term(3);
    let disks = [lead, disk(&[1]), disk(&[1]), disk(&[1]), disk(&[1, 3])];
    let mut net = Net::new(&disks, 1);
    net.isolate(5);
    net.tick(1);
    // The no-op of term 4 is lost on its way to everyone.
    net.fast_disk = true;
    while let Some((from, to, message)) = net.wire.pop_front() {
        let is_append = matches!(message.body, Body::Append { .. });
        if !is_append {
            net.deliver((from, to, message));
        }
    }
    assert_eq!(net.at(1).status().term, Term(4));
    assert_eq!(net.at(1).status().role, RoleName::Leader);
    // S2 and S3 acknowledge everything up to the entry of term 2.
    for follower in [B, C] {
        net.step(A, received(follower, 4, matched(2, 0)));
    }
    assert_eq!(
        net.at(1).committed,
        LogIndex(0),
        "an entry of term 2 was committed by counting"
    );
    // (e): with the entry of its own term on a majority, both are.
    for follower in [B, C] {
        net.step(A, received(follower, 4, matched(3, 0)));
    }
    assert_eq!(net.at(1).committed, LogIndex(3));

    // (d): had S1 crashed at (c), S5 may lead and overwrite the entry of term 2.
    let holders = [
        disk(&[1, 2]),
        disk(&[1, 2]),
        disk(&[1, 2]),
        disk(&[1]),
        disk(&[1, 3]),
    ];
    let mut net = Net::new(&holders, 1);
    net.at_mut(5).raft = Raft::new(&config(), boot(5, 5, &disk(&[1, 3]), 9), Time::default());
    net.isolate(1);
    net.elect(5);
    net.tick(5);
    net.settle();
    for id in [2, 3, 4] {
        assert_eq!(net.terms(id), [1, 3, 4], "node {id}");
    }
}

/// Thesis, section 10.2.1: the leader's own copy counts once it is durable, and not before.
#[test]
fn a_leader_counts_itself_only_once_its_own_write_is_durable() {
    let mut raft = leader();
    step(&mut raft, received(B, 1, matched(1, 0)));
    step(&mut raft, Event::Propose { count: 1 });
    let acknowledged = step(&mut raft, received(B, 1, matched(2, 0)));
    assert_eq!(commits(&acknowledged), [], "one durable copy of two");
    assert_eq!(commits(&sync(&mut raft, 3)), [id(1, 2)]);
    // And it may commit what two others have before it has it itself.
    step(&mut raft, received(C, 1, matched(2, 0)));
    step(&mut raft, Event::Propose { count: 1 });
    step(&mut raft, received(B, 1, matched(3, 0)));
    let acknowledged = step(&mut raft, received(C, 1, matched(3, 0)));
    assert_eq!(commits(&acknowledged), [id(1, 3)]);
    assert_eq!(raft.pointers().durable, LogIndex(2));
}

/// Section 5.1: "If a candidate or leader discovers that its term is out of date, it immediately reverts to
/// follower state."
#[test]
fn a_leader_that_hears_of_a_newer_term_steps_down() {
    let mut raft = leader();
    let outcome = AppendOutcome::Rejected {
        prev: LogIndex(0),
        hint: LogId::ORIGIN,
    };
    step(
        &mut raft,
        received(B, 7, Body::AppendReply { outcome, round: 0 }),
    );
    let status = Status {
        role: RoleName::Follower,
        term: Term(7),
        leader: None,
    };
    assert_eq!(raft.status(), status);
}

/// Section 5.1: "If a server receives a request with a stale term number, it rejects the request" - and an
/// old leader learns of the new term so.
#[test]
fn an_old_leader_is_told_of_the_newer_term() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(1);
    net.propose(1, 3);
    net.settle();
    net.elect(2);
    net.propose(2, 1);
    net.settle();
    net.cut.clear();
    net.tick(1);
    net.settle();
    let told = net.at(1).status();
    assert_eq!((told.role, told.term), (RoleName::Follower, Term(2)));
    net.tick(2);
    net.settle();
    assert_eq!(net.at(1).status().leader, Some(B));
    assert_eq!(
        net.terms(1),
        net.terms(2),
        "what it could not commit is gone"
    );
    assert_eq!(net.terms(1), [1, 2, 2]);
}

/// Leader Completeness: who lacks a committed entry is not elected (section 5.4.1).
#[test]
fn a_server_that_lacks_committed_entries_is_not_elected() {
    let mut net = Net::empty(3);
    net.elect(1);
    net.isolate(3);
    net.propose(1, 1);
    net.settle();
    assert_eq!(net.at(1).committed, LogIndex(2));
    net.cut.clear();
    net.isolate(1);
    for _ in 0..10 {
        net.now = net.now.after(config().election_timeout);
        net.tick(3);
        net.settle();
        assert_ne!(net.at(3).status().role, RoleName::Leader);
        // Even if PreVote had let it campaign.
        net.tick(3);
        let campaign = net.at(3).status().term.next();
        let granted = Body::PreVoteReply { granted: true };
        net.step(C, received(B, campaign.0, granted));
        assert_eq!(net.at(3).status().role, RoleName::Candidate);
        net.settle();
        assert_ne!(net.at(3).status().role, RoleName::Leader);
    }
    net.elect(2);
    assert_eq!(net.at(2).committed, LogIndex(3));
}
