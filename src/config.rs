//! Options as the embedder writes them, and the checked [`Config`] that the code runs on.

use std::time::Duration;

use crate::error::OptionError;

/// What can be tuned about a node. Every field has a default that suits a local network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The least time without a leader before a follower asks to be one. Each wait is drawn from this to
    /// twice this, so that split votes end (Raft paper, section 5.2); or up to an eighth of it, once the leader's
    /// process is known to have ended. A leader that hears no quorum for
    /// so long, at most twice as long, steps down (thesis, section 6.2). Default 200 ms; 10 ms to 1 h.
    pub election_timeout: Duration,
    /// How often an idle leader speaks. Default 40 ms; 1 ms to a third of the election timeout.
    pub heartbeat_interval: Duration,
    /// The size of a log segment's file, in bytes. Default 64 MiB; 64 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// The largest proposal, in bytes. Default 4 MiB; 1 byte to a quarter of a segment, at most 64 MiB.
    pub max_entry_bytes: usize,
    /// How many entries one append message may name. Default 1,024; 1 to 65,536.
    pub max_append_entries: u64,
    /// About how many payload bytes one append message carries, at least one entry. Default 1 MiB; 1 KiB
    /// to 64 MiB.
    pub max_append_bytes: usize,
    /// How many append messages may be on their way to one follower; how many bytes, [`Options::memory_bytes`]
    /// says. Default 64; 1 to 4,096.
    pub max_inflight_appends: usize,
    /// How many bytes of entries and requests a node holds in memory, each counted with 256 bytes beside its own.
    /// Default 512 MiB; 64 KiB to 1 TiB. Give all members the same. Of these bytes,
    ///
    /// - a half is for proposals and reads from the call to the answer, so for all that is not committed yet;
    ///   full, callers are told `Overloaded`;
    /// - a quarter is for what is written to the log and not durable yet; full, the node waits for its disk, as
    ///   if it hung: others do not hear of it meanwhile, and elect another leader;
    /// - a quarter is for messages of others that wait to be looked at, and for those that are; full, more are
    ///   dropped, and come again;
    /// - an eighth, of *its* memory, may be on its way to each follower; full, it is sent more when it has
    ///   acknowledged some.
    ///
    /// None of them keeps a single one out that is larger, so the most is this and the largest of each.
    pub memory_bytes: u64,
    /// After how many applied entries a snapshot is due, or None (thesis, section 5.1.3). Each member takes it
    /// at the same entries, the multiples of this, unless the one before is still being written. Default
    /// 100,000; at least 1.
    pub snapshot_entries: Option<u64>,
    /// After how many payload bytes of applied entries a snapshot is due at the latest, or None. Default 1 GiB;
    /// at least 1.
    pub snapshot_bytes: Option<u64>,
    /// How many bytes a second a node that is behind fetches of another's snapshot. Default 64 MiB; at least
    /// 1 KiB.
    pub snapshot_rate: u64,
    /// How many entries before a snapshot's last the log keeps for followers that are slow (thesis, section
    /// 5.1). Who needs more must fetch the snapshot. Default 10,000.
    pub trailing_entries: u64,
    /// Answer linearizable reads by the leader's lease instead of a round of heartbeats (thesis, section 6.4.1), if
    /// the clocks of the members keep within this bound. Default None: no read rests on a clock.
    ///
    /// A leader that a quorum has answered reads its own state for an election timeout, less what the bound takes,
    /// from when it asked; where it has no lease it asks as before. Every member must have the same option and the
    /// same `election_timeout`: change either only while all are stopped. A member that starts gives no vote for
    /// an election timeout, and a cluster of one takes as long to lead.
    ///
    /// See [`ClockBound`] for what is taken for granted, and what comes of it if that is wrong.
    pub lease_reads: Option<ClockBound>,
    /// Seeds the election timeouts. None draws a seed from the system; tests set one.
    pub seed: Option<u64>,
}

/// How much the members' clocks may differ in rate, which is all that [lease reads](Options::lease_reads) rest on:
/// over any span of time no member's clock goes on more than `1 + drift_ppm / 1,000,000` times as much as
/// another's. What time they show makes no difference.
///
/// The clock is the system's monotonic one. It is adjusted by at most 500 parts in a million on Linux while it runs;
/// but it stands still while a machine is suspended, and a virtual machine that is halted, moved or restored may
/// find it behind. If a clock does not keep to the bound, a leader that was cut off may go on answering reads
/// after another was elected, from a state that lacks what was acknowledged since. Nothing else depends on it: no
/// write is lost, none is acknowledged wrongly, and a read without a lease is as right as ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockBound {
    /// How much faster one clock may run than another, in parts in a million. At most 1,000,000: twice as fast.
    pub drift_ppm: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_millis(200),
            heartbeat_interval: Duration::from_millis(40),
            segment_bytes: 64 << 20,
            max_entry_bytes: 4 << 20,
            max_append_entries: 1_024,
            max_append_bytes: 1 << 20,
            max_inflight_appends: 64,
            memory_bytes: 512 << 20,
            snapshot_entries: Some(100_000),
            snapshot_bytes: Some(1 << 30),
            snapshot_rate: 64 << 20,
            trailing_entries: 10_000,
            lease_reads: None,
            seed: None,
        }
    }
}

/// [`Options`] whose every value has been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    options: Options,
}

/// What an entry of so many bytes, or a request, takes of [`Options::memory_bytes`]: what is kept beside the bytes
/// themselves is not free, and of small ones there may be many.
pub(crate) const fn memory_of(bytes: usize) -> u64 {
    bytes as u64 + 256
}

/// The shares of [`Options::memory_bytes`].
impl Config {
    /// Of proposals and reads that are not answered.
    pub(crate) const fn request_bytes(&self) -> u64 {
        self.options.memory_bytes / 2
    }

    /// Of what is written to the log and not durable.
    pub(crate) const fn backlog_bytes(&self) -> u64 {
        self.options.memory_bytes / 4
    }

    /// Of what is proposed in one step, which is at least one entry: no more than fits in an append.
    pub(crate) fn portion_bytes(&self) -> u64 {
        self.backlog_bytes().min(self.max_append_bytes as u64)
    }

    /// Of messages that wait to be looked at. As many may be looked at meanwhile.
    pub(crate) const fn incoming_bytes(&self) -> u64 {
        self.options.memory_bytes / 8
    }

    /// Of entries on their way to one follower, whose messages these are.
    pub(crate) const fn inflight_bytes(&self) -> u64 {
        self.incoming_bytes()
    }
}

impl std::ops::Deref for Config {
    type Target = Options;

    fn deref(&self) -> &Options {
        &self.options
    }
}

impl TryFrom<Options> for Config {
    type Error = OptionError;

    fn try_from(options: Options) -> Result<Self, OptionError> {
        let o = &options;
        let third = o.election_timeout / 3;
        let quarter = usize::try_from(o.segment_bytes / 4)
            .unwrap_or(usize::MAX)
            .min(64 << 20);
        let ms = Duration::from_millis;
        check(
            "election_timeout",
            o.election_timeout,
            (ms(10), ms(3_600_000)),
            "from 10 ms to 1 h",
        )?;
        check(
            "heartbeat_interval",
            o.heartbeat_interval,
            (ms(1), third),
            "from 1 ms to a third of election_timeout",
        )?;
        check(
            "segment_bytes",
            o.segment_bytes,
            (64 << 10, 1 << 30),
            "from 64 KiB to 1 GiB",
        )?;
        check(
            "max_entry_bytes",
            o.max_entry_bytes,
            (1, quarter),
            "from 1 to a quarter of segment_bytes, and at most 64 MiB",
        )?;
        check(
            "max_append_entries",
            o.max_append_entries,
            (1, 65_536),
            "from 1 to 65,536",
        )?;
        check(
            "max_append_bytes",
            o.max_append_bytes,
            (1 << 10, 64 << 20),
            "from 1 KiB to 64 MiB",
        )?;
        check(
            "max_inflight_appends",
            o.max_inflight_appends,
            (1, 4_096),
            "from 1 to 4,096",
        )?;
        check(
            "memory_bytes",
            o.memory_bytes,
            (64 << 10, 1 << 40),
            "from 64 KiB to 1 TiB",
        )?;
        for (option, every) in [
            ("snapshot_entries", o.snapshot_entries),
            ("snapshot_bytes", o.snapshot_bytes),
        ] {
            check(option, every.unwrap_or(1), (1, u64::MAX), "at least 1")?;
        }
        check(
            "lease_reads",
            o.lease_reads.map_or(0, |bound| bound.drift_ppm),
            (0, 1_000_000),
            "a drift of at most 1,000,000 parts in a million",
        )?;
        check(
            "snapshot_rate",
            o.snapshot_rate,
            (1 << 10, u64::MAX),
            "at least 1 KiB a second",
        )?;
        Ok(Self { options })
    }
}

/// Refuses a `value` outside `bounds`, both ends included.
pub(crate) fn check<T: PartialOrd + std::fmt::Debug>(
    option: &'static str,
    value: T,
    bounds: (T, T),
    expected: &'static str,
) -> Result<(), OptionError> {
    if value >= bounds.0 && value <= bounds.1 {
        return Ok(());
    }
    Err(OptionError {
        option,
        value: format!("{value:?}"),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_bounds() {
        assert!(Config::try_from(Options::default()).is_ok());
    }

    #[test]
    fn a_value_out_of_bounds_is_refused_by_name() {
        let heartbeat = Options {
            heartbeat_interval: Duration::from_millis(67),
            ..Options::default()
        };
        let error = Config::try_from(heartbeat).expect_err("67 ms is over a third of 200 ms");
        assert_eq!(error.option, "heartbeat_interval");
        let segment = Options {
            segment_bytes: 4096,
            ..Options::default()
        };
        let error = Config::try_from(segment).expect_err("4 KiB is under 64 KiB");
        assert_eq!(
            (error.option, error.value.as_str()),
            ("segment_bytes", "4096")
        );
    }
}
