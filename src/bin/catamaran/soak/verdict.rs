//! What a soak came to.

use std::collections::BTreeMap;
use std::time::Duration;

use super::memory::Trend;
use crate::json::Object;

pub(super) struct Verdict {
    pub(super) seed: u64,
    /// How long the clients wrote.
    pub(super) wrote: Duration,
    pub(super) acknowledged: u64,
    pub(super) unknown: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// Whether all nodes hold the same.
    pub(super) identical: bool,
    pub(super) kills: u64,
    /// How often the node that is never killed was paused.
    pub(super) pauses: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) unexpected: u64,
    pub(super) first_unexpected: Option<String>,
    /// The memory of the node that is never killed, over the run.
    pub(super) spared: Trend,
    /// The memory of those that were started in the run, all at the same age.
    pub(super) started: Trend,
    pub(super) memory_max_kib: u64,
    pub(super) disk_max_bytes: u64,
    pub(super) last_index: u64,
    /// From the kill of a leader to the next acknowledged write, in order of their length.
    pub(super) failovers: Vec<Duration>,
}

impl Verdict {
    /// # Errors
    /// What should not have been.
    pub(super) fn judge(&self) -> Result<(), String> {
        if self.lost > 0 || self.doubled > 0 {
            return Err("acknowledged writes were lost, or writes were applied twice".to_owned());
        }
        if !self.identical {
            return Err("the nodes do not hold the same".to_owned());
        }
        if let Some(text) = &self.first_unexpected {
            let count = self.unexpected;
            return Err(format!(
                "{count} errors that should not be, the first: {text}"
            ));
        }
        if self.acknowledged == 0 || self.kills == 0 {
            return Err("it was too short to show anything".to_owned());
        }
        Ok(())
    }

    fn per_s(&self) -> f64 {
        self.acknowledged as f64 / self.wrote.as_secs_f64()
    }

    fn failovers_ms(&self) -> (u128, u128) {
        let ms = |at: usize| self.failovers.get(at).map_or(0, Duration::as_millis);
        (
            ms(self.failovers.len() / 2),
            ms(self.failovers.len().saturating_sub(1)),
        )
    }

    pub(super) fn print(&self, json: bool) {
        if json {
            println!("{}", self.json());
            return;
        }
        let (p50, max) = self.failovers_ms();
        println!(
            "writes acknowledged  {}, {:.0} a second",
            self.acknowledged,
            self.per_s()
        );
        println!("  lost               {}", self.lost);
        println!("  doubled            {}", self.doubled);
        println!("outcome unknown      {}", self.unknown);
        println!(
            "nodes killed         {}, {} while they led; node 1 was paused {} times",
            self.kills,
            self.failovers.len(),
            self.pauses
        );
        println!("failover             p50 {p50} ms, slowest {max} ms");
        for (kind, count) in &self.errors {
            println!("  {kind:<18} {count}");
        }
        println!("errors beyond those  {}", self.unexpected);
        println!(
            "memory of node 1     {:.0} KiB, growing {:.1} KiB a minute, at most {} KiB, from second {} on",
            self.spared.mean_kib,
            self.spared.kib_per_min,
            self.spared.most_kib,
            self.spared.warm.as_secs()
        );
        println!(
            "  of others at 10 s  {:.0} KiB, growing {:.1} KiB a minute",
            self.started.mean_kib, self.started.kib_per_min
        );
        println!("  most of any        {} KiB", self.memory_max_kib);
        println!("disk of all, most    {} MiB", self.disk_max_bytes >> 20);
        println!("last index           {}", self.last_index);
    }

    fn json(&self) -> String {
        let mut errors = Object::new();
        for (kind, count) in &self.errors {
            errors.number(kind, count);
        }
        let (p50, max) = self.failovers_ms();
        let mut object = Object::new();
        object
            .number("seed", self.seed)
            .number("seconds", format!("{:.1}", self.wrote.as_secs_f64()))
            .number("acknowledged", self.acknowledged)
            .number("per_s", format!("{:.0}", self.per_s()))
            .number("unknown", self.unknown)
            .number("lost", self.lost)
            .number("doubled", self.doubled)
            .boolean("identical", self.identical)
            .number("kills", self.kills)
            .number("leaders_killed", self.failovers.len())
            .number("pauses", self.pauses)
            .raw("errors", &errors.finish())
            .number("unexpected", self.unexpected)
            .number("memory_from_s", self.spared.warm.as_secs())
            .number("memory_kib", format!("{:.0}", self.spared.mean_kib))
            .number("memory_most_kib", self.spared.most_kib)
            .number(
                "memory_slope_kib_per_min",
                format!("{:.2}", self.spared.kib_per_min),
            )
            .number(
                "memory_at_10_s_kib",
                format!("{:.0}", self.started.mean_kib),
            )
            .number(
                "memory_at_10_s_slope_kib_per_min",
                format!("{:.2}", self.started.kib_per_min),
            )
            .number("memory_max_kib", self.memory_max_kib)
            .number("disk_max_bytes", self.disk_max_bytes)
            .number("last_index", self.last_index)
            .number("failover_p50_ms", p50)
            .number("failover_max_ms", max);
        object.finish()
    }
}
