//! What a server knows when it starts (figure 2, persistent state), and that durability goes by write.

use super::*;

/// The commit index is remembered, so that what was committed is applied at once; but never beyond the log.
#[test]
fn what_was_committed_is_known_after_a_restart() {
    for (commit, expected) in [(0, 0), (2, 2), (3, 3), (9, 3)] {
        let mut disk = disk(&[1, 1, 1]);
        disk.hard_state.commit = LogIndex(commit);
        let raft = Raft::new(&config(), boot(1, 3, &disk, 7), Time::default());
        assert_eq!(raft.pointers().committed, LogIndex(expected));
    }
}

/// What the log held at the start is durable, and its writes go on counting from there.
#[test]
fn writes_go_on_from_the_last_before_the_restart() {
    let mut boot = boot(1, 3, &disk(&[1]), 7);
    boot.written = WriteSeq(7);
    let mut raft = Raft::new(&config(), boot, Time::default());
    let beat = step(&mut raft, received(B, 1, heartbeat(id(1, 1), 0, 1)));
    assert_eq!(sends(&beat), [now(B, 1, matched(1, 1))], "it has that");
    let late = Time::default().after(config().election_timeout);
    let voted = step_at(&mut raft, late, received(C, 2, vote(1, 1)));
    let granted = Body::VoteReply { granted: true };
    assert_eq!(sends(&voted), [after(8, C, 2, granted)]);
}

/// The voters may be named in any order, and a name twice is one voter.
#[test]
fn the_order_of_the_voters_does_not_matter_and_each_counts_once() {
    let campaign = |voters: &[NodeId]| {
        let mut boot = boot(1, 3, &disk(&[1]), 7);
        boot.configs = vec![(LogIndex::ZERO, Roster::of_voters(voters.iter().copied()))];
        let mut raft = Raft::new(&config(), boot, Time::default());
        let deadline = raft.deadline();
        let mut effects = step_at(&mut raft, deadline, Event::Tick);
        let granted = Body::PreVoteReply { granted: true };
        effects.extend(step(&mut raft, received(B, 2, granted)));
        assert_eq!(raft.status().role, RoleName::Candidate, "two of three");
        effects
    };
    assert_eq!(campaign(&[C, B, A, B, C]), campaign(&[A, B, C]));
}

/// Proof of durability says what it says, whenever it comes.
#[test]
fn durability_is_never_taken_back_nor_taken_in_advance() {
    let mut raft = core(3, &[1]);
    step(&mut raft, received(B, 2, append(id(1, 1), id(2, 2), 0)));
    step(&mut raft, received(B, 2, append(id(2, 2), id(2, 3), 0)));
    sync(&mut raft, 2);
    sync(&mut raft, 0);
    let beat = step(&mut raft, received(B, 2, heartbeat(id(2, 3), 0, 1)));
    assert_eq!(beat, [now(B, 2, matched(3, 1))]);
    // One of writes to come does not cover them.
    sync(&mut raft, 9);
    let more = step(&mut raft, received(B, 2, append(id(2, 3), id(2, 4), 0)));
    assert_eq!(sends(&more), [after(3, B, 2, matched(4, 1))]);
}

/// Entries that were written in an earlier term are acknowledged in this one only once this one is
/// durable: who then forgot it could vote, or follow, in a term it has left.
#[test]
fn an_acknowledgement_waits_for_the_term_it_is_given_in() {
    let mut raft = core(3, &[1]);
    step(&mut raft, received(B, 1, append(id(1, 1), id(1, 2), 0)));
    let beat = step(&mut raft, received(C, 2, heartbeat(id(1, 2), 0, 1)));
    assert_eq!(sends(&beat), [after(2, C, 2, matched(1, 1))]);
    sync(&mut raft, 1);
    let beat = step(&mut raft, received(C, 2, heartbeat(id(1, 2), 0, 2)));
    assert_eq!(beat, [after(2, C, 2, matched(2, 2))]);
}
