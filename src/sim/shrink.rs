//! Makes a failure small: leaves out faults, by halves, for as long as it stands.

use super::{Outcome, Property, Scenario, Workload, run};
use crate::error::OptionError;

/// After so many runs it is small enough.
const MAX_RUNS: u32 = 400;

/// A failure, and how it is had with as little as was found.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Shrunk {
    /// What gives it, with the seed that was given.
    pub scenario: Scenario,
    /// What it comes to.
    pub outcome: Outcome,
    /// How many runs that took.
    pub runs: u32,
}

/// Looks for fewer faults that break the same property. None if nothing is violated at all.
///
/// # Errors
/// As [`run`].
pub fn shrink<W: Workload>(
    scenario: &Scenario,
    seed: u64,
    workload: impl Fn() -> W,
) -> Result<Option<Shrunk>, OptionError> {
    let outcome = run(scenario, seed, workload())?;
    let Some(violation) = &outcome.violation else {
        return Ok(None);
    };
    let mut search = Search {
        property: violation.property,
        seed,
        workload,
        best: Shrunk {
            scenario: scenario.clone(),
            outcome,
            runs: 1,
        },
    };
    search.fewer_faults()?;
    search.fewer_bad_messages()?;
    search.fewer_steps()?;
    Ok(Some(search.best))
}

struct Search<F> {
    property: Property,
    seed: u64,
    workload: F,
    best: Shrunk,
}

impl<W: Workload, F: Fn() -> W> Search<F> {
    /// Takes the scenario if it fails in the same way, and not with more faults: it may fail later, behind others.
    fn fails(&mut self, scenario: Scenario) -> Result<bool, OptionError> {
        if self.best.runs >= MAX_RUNS {
            return Ok(false);
        }
        self.best.runs += 1;
        let outcome = run(&scenario, self.seed, (self.workload)())?;
        let violated = outcome.violation.as_ref();
        let same = violated.is_some_and(|violation| violation.property == self.property);
        let taken = same && outcome.faults.len() <= self.best.outcome.faults.len();
        if taken {
            self.best.scenario = scenario;
            self.best.outcome = outcome;
        }
        Ok(taken)
    }

    /// Faults need not come after the failure.
    fn fewer_steps(&mut self) -> Result<(), OptionError> {
        let mut scenario = self.best.scenario.clone();
        let step = self.best.outcome.violation.as_ref().map(|at| at.step);
        scenario.steps = scenario.steps.min(step.unwrap_or(u64::MAX));
        self.fails(scenario).map(drop)
    }

    /// Leaves out ever smaller parts of the faults that happened.
    fn fewer_faults(&mut self) -> Result<(), OptionError> {
        let mut part = self.best.outcome.faults.len().div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < self.best.outcome.faults.len() {
                let faults = &self.best.outcome.faults;
                let mut scenario = self.best.scenario.clone();
                scenario.without.extend(faults.iter().skip(from).take(part));
                if !self.fails(scenario)? {
                    from += part;
                }
            }
            part /= 2;
        }
        Ok(())
    }

    /// Has fewer messages lost, doubled or late: none, or else half as many.
    fn fewer_bad_messages(&mut self) -> Result<(), OptionError> {
        for which in 0..4 {
            loop {
                let mut none = self.best.scenario.clone();
                let mut half = none.clone();
                let rate = &mut *none.faults.of_messages_mut()[which];
                if std::mem::take(rate) == 0 || self.fails(none)? {
                    break;
                }
                *half.faults.of_messages_mut()[which] /= 2;
                if !self.fails(half)? {
                    break;
                }
            }
        }
        Ok(())
    }
}
