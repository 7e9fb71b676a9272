//! Leases, by which a leader answers reads without a round (thesis, section 6.4.1). There are none unless a bound
//! on how the members' clocks differ is given.
//!
//! Who hears from a leader gives its vote to nobody within the least election timeout, by its own clock. So from
//! when a round was *sent* that a quorum has answered, nobody else is elected for that long, by the clocks of the
//! voters; by the leader's clock for at least that long divided by how much faster theirs may run. For this a
//! voter's word has to hold in all cases but one:
//!
//! - **In a newer term.** A voter can come to one by other ways than a vote, and there forgets whom it followed.
//!   What it promised it keeps.
//! - **Over a restart.** Who starts does not know what it promised, and waits as long before it votes, also if it is
//!   the only voter that it knows of: another may lead still that has removed itself.
//! - **With other members.** The quorum is that of the configuration that counts when the read is answered. Between
//!   those that may follow each other quorums meet, and before one of them may be left the next is counted anew.
//! - **But not when the leader says so.** Who is told to campaign at once is voted for all the same, and may be
//!   told late. Once a leader has told anyone, it has no lease until the end of its term, whatever comes of it.

use std::time::Duration;

use super::{Raft, Role};
use crate::config::{ClockBound, Config};
use crate::types::Time;

/// What a leader knows of its lease.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lease {
    /// A round that was sent then, and is not answered by a quorum yet. One is looked at at a time.
    sent: Option<(u64, Time)>,
    /// The last such round that was.
    answered: Option<(u64, Time)>,
    /// It has told another to campaign.
    pub(super) given_up: bool,
}

impl Lease {
    /// As [`Raft::rewind`]: what was sent was sent long ago.
    #[cfg(feature = "sim")]
    pub(super) fn rewind(&mut self) {
        self.sent = None;
        self.answered = None;
    }
}

/// How long a lease lasts by the leader's clock, if there are leases.
pub(super) fn span(config: &Config) -> Option<Duration> {
    let ClockBound { drift_ppm } = config.lease_reads?;
    // A clock that shows whole microseconds is up to one behind, at the voter and here.
    let promised = config.election_timeout.as_micros().saturating_sub(1);
    let span = promised * 1_000_000 / (1_000_000 + u128::from(drift_ppm));
    let span = u64::try_from(span.saturating_sub(1)).unwrap_or(u64::MAX);
    Some(Duration::from_micros(span))
}

impl Raft {
    /// A round is sent.
    pub(super) fn look_at_round(&mut self) {
        let now = self.now;
        if let Role::Leader(leader) = &mut self.role
            && self.lease.is_some()
        {
            leader.lease.sent.get_or_insert((leader.round, now));
        }
    }

    /// Somebody has answered a round.
    pub(super) fn extend_lease(&mut self) {
        let roster = self.configs.current();
        if let Role::Leader(leader) = &mut self.role
            && let Some((round, _)) = leader.lease.sent
            && roster.is_quorum(|id| leader.has_answered(id, round))
        {
            leader.lease.answered = leader.lease.sent.take();
        }
    }

    /// Whether this leader knows that nobody else has been elected.
    pub(super) fn holds_lease(&self) -> bool {
        if let Role::Leader(leader) = &self.role
            && let Some(span) = self.lease
            && let Some((round, sent)) = leader.lease.answered
        {
            return !leader.lease.given_up
                && self.now < sent.after(span)
                && self.roster().is_quorum(|id| leader.has_answered(id, round));
        }
        false
    }

    /// It has heard from a leader, or may have before it was started: it votes for nobody for a while.
    pub(super) fn promise(&mut self) {
        if self.lease.is_some() {
            self.promised_until = self.now.after(self.election_timeout);
        }
    }

    pub(super) fn has_promised(&self) -> bool {
        self.now < self.promised_until
    }
}
