//! `simulate`: clusters in a simulated world, one for each seed, and what holds of them.

use std::io::Write;
use std::ops::Range;
use std::time::{Duration, Instant};

use catamaran::sim::{Chains, Outcome, Scenario, Shrunk, Tally, run, shrink};
use clap::Args;

use crate::Failure;
use crate::json::Object;

/// Runs clusters in a simulated world where everything fails that can
#[derive(Args)]
pub(crate) struct Simulate {
    /// Which seeds, as FIRST..END
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Range<u64>,
    /// After how many events the faults of a run end
    #[arg(long, default_value_t = 10_000)]
    steps: u64,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let ends = text.split_once("..");
    let ends = ends.and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
    match ends {
        Some((first, end)) if first < end => Ok(first..end),
        _ => Err("expected two numbers A..B, with A less than B".to_owned()),
    }
}

/// What all runs came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    events: u64,
    violations: u64,
    elections: u64,
    changes: u64,
    handovers: u64,
    faults: u64,
    snapshots: u64,
    installs: u64,
    tally: Tally,
    /// The longest time from the last fault to the next acknowledgement, in simulated microseconds.
    recovery: u64,
    first: Option<Outcome>,
}

impl Sum {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.steps;
        self.elections += outcome.elections;
        self.changes += outcome.changes;
        self.handovers += outcome.handovers;
        self.faults += outcome.faults.len() as u64;
        self.snapshots += outcome.snapshots;
        self.installs += outcome.installs;
        self.recovery = self.recovery.max(outcome.recovery.unwrap_or(0));
        let (sum, one) = (&mut self.tally, outcome.tally);
        sum.acknowledged += one.acknowledged;
        sum.refused += one.refused;
        sum.unknown += one.unknown;
        sum.unknown_applied += one.unknown_applied;
        sum.reads += one.reads;
        sum.unread += one.unread;
        if outcome.violation.is_some() {
            self.violations += 1;
            self.first.get_or_insert(outcome);
        }
    }
}

impl Simulate {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut told = begun;
        let mut sum = Sum::default();
        for seed in self.seeds.clone() {
            let scenario = Scenario::drawn(seed, self.steps);
            sum.add(run(&scenario, seed, Chains).map_err(Failure::usage)?);
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                let (seeds, violations) = (sum.seeds, sum.violations);
                eprintln!("{seeds} seeds, {violations} violations");
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        let per_s = sum.events as f64 / seconds.max(1e-9);
        if self.json {
            say(&json(&sum, per_s))?;
        } else {
            say(&text(&sum, per_s, seconds))?;
        }
        let Some(outcome) = &sum.first else {
            return Ok(());
        };
        let scenario = Scenario::drawn(outcome.seed, self.steps);
        let shrunk = shrink(&scenario, outcome.seed, || Chains).map_err(Failure::usage)?;
        eprint!("{}", story(outcome, shrunk.as_ref()));
        Err(Failure::runtime(format!(
            "{} of {} seeds violate what must hold",
            sum.violations, sum.seeds
        )))
    }
}

fn say(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(Failure::runtime)
}

fn json(sum: &Sum, per_s: f64) -> String {
    let mut object = Object::new();
    object
        .number("seeds", sum.seeds)
        .number("events", sum.events)
        .number("events_per_s", per_s.round())
        .number("violations", sum.violations)
        .number("faults", sum.faults)
        .number("elections", sum.elections)
        .number("changes_of_members", sum.changes)
        .number("handovers", sum.handovers)
        .number("snapshots", sum.snapshots)
        .number("snapshots_installed", sum.installs)
        .number("acknowledged", sum.tally.acknowledged)
        .number("refused", sum.tally.refused)
        .number("unknown", sum.tally.unknown)
        .number("unknown_applied", sum.tally.unknown_applied)
        .number("reads", sum.tally.reads)
        .number("longest_recovery_ms", sum.recovery / 1_000);
    let violation = sum.first.as_ref().and_then(|outcome| {
        let violation = outcome.violation.as_ref()?;
        let mut object = Object::new();
        object
            .number("seed", outcome.seed)
            .number("step", violation.step)
            .text("violated", violation.property.name())
            .text("what", &violation.what);
        Some(object.finish())
    });
    if let Some(violation) = violation {
        object.raw("first_violation", &violation);
    }
    object.finish()
}

fn text(sum: &Sum, per_s: f64, seconds: f64) -> String {
    let Sum {
        seeds,
        events,
        violations,
        elections,
        changes,
        handovers,
        faults,
        snapshots,
        installs,
        tally,
        recovery,
        ..
    } = sum;
    let Tally {
        acknowledged,
        refused,
        unknown,
        unknown_applied,
        reads,
        ..
    } = tally;
    let recovery = recovery / 1_000;
    format!(
        "{seeds} seeds, {events} events in {seconds:.1} s, {per_s:.0} a second: {violations} violations\n\
         {faults} faults beside those of messages, {elections} elections, a leader again after {recovery} ms \
         at most\n\
         {changes} changes of members done, leadership handed over {handovers} times\n\
         {snapshots} snapshots, of which {installs} took the place of a log\n\
         {acknowledged} proposals acknowledged, {refused} refused, {unknown} left unknown (of which \
         {unknown_applied} were applied), {reads} reads"
    )
}

/// The first violation, to be read: as it was found, and as small as it was made.
fn story(outcome: &Outcome, shrunk: Option<&Shrunk>) -> String {
    let Some(violation) = &outcome.violation else {
        return String::new();
    };
    let mut story = format!("seed {}: {violation}\n", outcome.seed);
    let (faults, trace) = match shrunk {
        Some(shrunk) => {
            let small = shrunk.outcome.violation.as_ref().unwrap_or(violation);
            story += &format!(
                "with {} of its {} faults, after {} runs: {small}\n",
                shrunk.outcome.faults.len(),
                outcome.faults.len(),
                shrunk.runs
            );
            (&shrunk.scenario.faults, &small.trace)
        }
        None => return story,
    };
    story += &format!(
        "of 1,000 messages {} lost, {} doubled, {} out of order, {} late\n",
        faults.loss, faults.duplication, faults.reordering, faults.delay
    );
    for line in trace {
        story += line;
        story.push('\n');
    }
    story
}

#[cfg(test)]
mod tests {
    use super::*;
    use catamaran::sim::{Chain, Rng, Workload};

    /// Finds something wrong with every state machine.
    struct Grumbles;

    impl Workload for Grumbles {
        type Machine = Chain;

        fn machine(&self) -> Chain {
            Chain::default()
        }

        fn proposal(&mut self, _: &mut Rng) -> Vec<u8> {
            Vec::new()
        }

        fn inspect(&mut self, _: &Chain) -> Result<(), String> {
            Err("it is too small".to_owned())
        }
    }

    #[test]
    fn the_first_violation_is_told_with_its_seed_and_made_small() {
        let mut sum = Sum::default();
        for seed in 7..9 {
            let scenario = Scenario::drawn(seed, 500);
            sum.add(run(&scenario, seed, Grumbles).unwrap());
        }
        let json = json(&sum, 1.0);
        assert!(json.contains("\"violations\":2"), "{json}");
        assert!(json.contains("\"seed\":7,\"step\":"), "{json}");
        assert!(json.contains("\"violated\":\"workload\""), "{json}");
        assert!(json.contains("it is too small"), "{json}");
        let shrunk = shrink(&Scenario::drawn(7, 500), 7, || Grumbles).unwrap();
        let story = story(&sum.first.unwrap(), shrunk.as_ref());
        assert!(story.starts_with("seed 7: workload at step "), "{story}");
        assert!(story.contains("\nwith 0 of its "), "{story}");
    }

    #[test]
    fn seeds_are_a_range_that_is_not_empty() {
        assert_eq!(seeds("3..7"), Ok(3..7));
        for wrong in ["", "3", "3..", "..7", "7..7", "8..7", "a..b", "-1..3"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
