//! What a leader has under way is bounded in bytes, however long a follower takes nothing.

use super::*;
use catamaran::config::Options;

/// An eighth of it may be on its way to a follower: 8,192 bytes.
const MEMORY: u64 = 64 << 10;

fn config_of(trailing_entries: u64) -> Config {
    let options = Options {
        memory_bytes: MEMORY,
        trailing_entries,
        ..Options::default()
    };
    Config::try_from(options).unwrap()
}

/// Proposes one entry of so many bytes.
fn propose(raft: &mut Raft, bytes: u64) -> Vec<Effect> {
    let prev = raft.pointers().last.index;
    let effects = step(raft, Event::Propose { count: 1 });
    raft.weigh(prev, raft.pointers().last.index, bytes);
    effects
}

/// The entries of the appends to a follower among these effects, as (prev, last).
fn appends(effects: &[Effect], follower: NodeId) -> Vec<(u64, u64)> {
    let ends = |effect: &Effect| match effect {
        Effect::Send { to, message, .. } if *to == follower => match &message.body {
            Body::Append { range, .. } if !range.is_empty() => {
                Some((range.prev.index.0, range.last.index.0))
            }
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(ends).collect()
}

/// A leader whose follower B has acknowledged entry 1, and not the entries behind it of a thousand bytes each.
fn full() -> Raft {
    let mut raft = leader_of(&config_of(0));
    step(&mut raft, received(B, 1, matched(1, 0)));
    let sent: Vec<_> = (0..30).map(|_| propose(&mut raft, 1_000)).collect();
    let sent: Vec<_> = sent.iter().flat_map(|sent| appends(sent, B)).collect();
    // With the ninth the limit is reached; that it is, is known once it is written.
    let expected: Vec<_> = (1..10).map(|prev| (prev, prev + 1)).collect();
    assert_eq!(sent, expected);
    raft
}

#[test]
fn no_more_bytes_are_on_their_way_than_the_limit() {
    let mut raft = full();
    let some = step(&mut raft, received(B, 1, matched(4, 0)));
    assert_eq!(appends(&some, B), [(10, 12)], "in flight: 5 to 10");
    let none = step(&mut raft, received(B, 1, matched(4, 0)));
    assert_eq!(appends(&none, B), []);
    let all = step(&mut raft, received(B, 1, matched(12, 0)));
    assert_eq!(appends(&all, B), [(12, 20)]);
}

#[test]
fn an_entry_that_is_larger_than_the_limit_goes_alone() {
    let mut raft = leader_of(&config_of(0));
    for bytes in [100, 100_000, 100, 100] {
        propose(&mut raft, bytes);
    }
    for (acknowledged, sent) in [(1, (1, 2)), (2, (2, 3)), (3, (3, 5))] {
        let effects = step(&mut raft, received(B, 1, matched(acknowledged, 0)));
        assert_eq!(appends(&effects, B), [sent]);
        let deadline = raft.deadline();
        let beat = step_at(&mut raft, deadline, Event::Tick);
        assert_eq!(appends(&beat, B), [], "one at a time");
    }
}

/// What was on its way when an append was refused counts no more: it is sent again.
#[test]
fn a_refused_append_leaves_no_bytes_on_their_way() {
    for _ in 0..3 {
        let mut raft = full();
        let outcome = AppendOutcome::Rejected {
            prev: LogIndex(6),
            hint: id(1, 1),
        };
        let refused = Body::AppendReply { outcome, round: 0 };
        let probe = step(&mut raft, received(B, 1, refused));
        assert_eq!(appends(&probe, B), [(1, 9)]);
        let next = step(&mut raft, received(B, 1, matched(9, 0)));
        assert_eq!(appends(&next, B), [(9, 17)]);
    }
}

/// The sizes of entries that another leader's took the place of count no more.
#[test]
fn a_leader_whose_entries_were_cut_begins_with_nothing_on_its_way() {
    let mut raft = full();
    let body = append(id(1, 1), id(2, 2), 1);
    step(&mut raft, received(B, 2, body));
    raft.weigh(LogIndex(1), LogIndex(2), 10);
    let deadline = raft.deadline();
    step_at(&mut raft, deadline, Event::Tick);
    step(
        &mut raft,
        received(B, 3, Body::PreVoteReply { granted: true }),
    );
    sync(&mut raft, 1_000);
    step(&mut raft, received(B, 3, Body::VoteReply { granted: true }));
    sync(&mut raft, 1_001);
    assert_eq!(raft.status().role, RoleName::Leader);
    step(&mut raft, received(B, 3, matched(2, 0)));
    let sent: Vec<_> = (0..20).map(|_| propose(&mut raft, 1_000)).collect();
    let sent = sent.iter().flat_map(|sent| appends(sent, B)).count();
    assert_eq!(sent, 9, "as many as of any other leader");
}

/// The other follower has everything at once, so that entries are committed all the while, and the log is
/// compacted underneath the one that takes nothing.
#[test]
fn a_follower_that_takes_nothing_for_an_hour_costs_its_leader_no_growing_memory() {
    let mut raft = leader_of(&config_of(100));
    let (mut writes, mut to_c) = (2, 0);
    for follower in [B, C] {
        step(&mut raft, received(follower, 1, matched(1, 0)));
    }
    let mut sizes = Vec::new();
    let end = Time::default().after(std::time::Duration::from_secs(3_600));
    while raft.deadline() < end {
        let now = raft.deadline();
        let mut effects = step_at(&mut raft, now, Event::Tick);
        for _ in 0..3 {
            effects.extend(propose(&mut raft, 1_000));
            writes += 1;
            effects.extend(sync(&mut raft, writes));
        }
        let last = raft.pointers().last;
        let event = received(B, 1, matched(last.index.0, 0));
        effects.extend(step_at(&mut raft, now, event));
        assert_eq!(raft.pointers().committed, last.index, "all is committed");
        let entries = appends(&effects, C).into_iter();
        to_c += entries.map(|(prev, last)| last - prev).sum::<u64>();
        if last.index.0 % 1_000 < 3 {
            let snapshot = step_at(&mut raft, now, Event::Snapshot { last });
            let compacts = |effect: &Effect| matches!(effect, Effect::Compact { .. });
            writes += snapshot.iter().filter(|effect| compacts(effect)).count() as u64;
            sync(&mut raft, writes);
            // All that it holds, written out.
            sizes.push(format!("{raft:?}").len());
        }
    }
    assert!(
        raft.pointers().last.index.0 > 200_000,
        "{:?}",
        raft.pointers()
    );
    assert_eq!(raft.status().role, RoleName::Leader);
    assert!(to_c <= 10, "{to_c} entries for who takes none");
    let (early, late) = (sizes[2], sizes[sizes.len() - 1]);
    assert!(late < early * 2, "{early} characters grew to {late}");
}
