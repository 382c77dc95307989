//! Deliberate faults: within how many seeds is each caught, by which simulator and which invariant?
//!
//! Every fault is tried in the engine simulator first, which is fast, then against the scripts of single rules, then in
//! the swarm of the whole stack, then in the scripted scenarios.

use std::fmt;

use crate::invariants::Violation;

/// Where a fault was caught.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Caught {
    /// By the engine simulator, at this seed; all before it held.
    Engine(u64),
    /// By the swarm of the whole stack, at this seed; all before it held.
    Swarm(u64),
    /// By a scripted scenario, or the script of a rule.
    Scenario(&'static str),
}

/// What became of one fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// Its name.
    pub fault: &'static str,
    /// Where it was caught, and what was seen; `None`: nowhere.
    pub caught: Option<(Caught, Violation)>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = self.fault;
        match &self.caught {
            None => write!(f, "{fault:<30} NOT CAUGHT"),
            Some((caught, violation)) => {
                let (by, seeds) = match caught {
                    Caught::Engine(seed) => ("engine".to_owned(), (seed + 1).to_string()),
                    Caught::Swarm(seed) => ("swarm".to_owned(), (seed + 1).to_string()),
                    Caught::Scenario(name) => ((*name).to_owned(), "-".to_owned()),
                };
                let Violation { invariant, what } = violation;
                write!(f, "{fault:<30} {by:<28} {seeds:>6}  {invariant}: {what}")
            }
        }
    }
}

/// How much is tried for each fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trials {
    /// Seeds of the engine simulator.
    pub engine: u64,
    /// Seeds of the swarm.
    pub swarm: u64,
    /// Whether the scripted scenarios are tried.
    pub scenarios: bool,
}

/// Switches one on for this thread.
#[cfg(not(funk_mutants))]
pub fn switch_on(_name: &str) -> Result<(), String> {
    Err(NEEDS_CFG.to_owned())
}

/// Tries each fault, or the one that is named, and tells of each as it is done.
#[cfg(not(funk_mutants))]
pub fn run(_: Trials, _only: Option<&str>, _each: impl FnMut(&Row)) -> Result<Vec<Row>, String> {
    Err(NEEDS_CFG.to_owned())
}

#[cfg(not(funk_mutants))]
const NEEDS_CFG: &str = "the deliberate faults are compiled in only with \
    RUSTFLAGS=\"--cfg tokio_unstable --cfg funk_mutants\" (use a target directory of its own)";

#[cfg(funk_mutants)]
pub use with_mutants::{run, switch_on};

#[cfg(funk_mutants)]
mod with_mutants {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Mutex, PoisonError};

    use funk::mutants::{Mutant, set_mutant};

    use super::{Caught, Row, Trials};
    use crate::invariants::Violation;
    use crate::stack::plan::Transport;
    use crate::stack::{self, Plan};
    use crate::{engine_world, rules, scenarios};

    /// The seed that scenarios are played with.
    const SCENARIO_SEED: u64 = 1;

    /// Switches one on for this thread.
    pub fn switch_on(name: &str) -> Result<(), String> {
        set_mutant(Some(find(name)?.0));
        Ok(())
    }

    fn find(name: &str) -> Result<(Mutant, &'static str), String> {
        let found = Mutant::ALL.iter().find(|(_, known)| *known == name);
        let names: Vec<_> = Mutant::ALL.iter().map(|(_, known)| *known).collect();
        found
            .copied()
            .ok_or_else(|| format!("no deliberate fault {name:?}; there are {names:?}"))
    }

    /// Tries each fault, or the one that is named, and tells of each as it is done.
    pub fn run(
        trials: Trials,
        only: Option<&str>,
        mut each: impl FnMut(&Row),
    ) -> Result<Vec<Row>, String> {
        let faults = match only {
            Some(name) => vec![find(name)?],
            None => Mutant::ALL.to_vec(),
        };
        let tried = faults.into_iter().map(|(mutant, fault)| {
            let row = Row {
                fault,
                caught: catch(mutant, trials),
            };
            each(&row);
            row
        });
        Ok(tried.collect())
    }

    fn catch(mutant: Mutant, trials: Trials) -> Option<(Caught, Violation)> {
        let by_engine = |seed| {
            let failure = engine_world::run(seed, false).err()?;
            Some(failure.violation)
        };
        if let Some((seed, seen)) = first(mutant, trials.engine, by_engine) {
            return Some((Caught::Engine(seed), seen));
        }
        if let Some(caught) = against_rules(mutant) {
            return Some(caught);
        }
        let by_swarm = |seed| {
            let failure = stack::run(&Plan::swarm(seed)).err()?;
            Some(failure.violation)
        };
        if let Some((seed, seen)) = first(mutant, trials.swarm, by_swarm) {
            return Some((Caught::Swarm(seed), seen));
        }
        let all = scenarios::ALL.iter().filter(|_| trials.scenarios);
        set_mutant(Some(mutant));
        let mut caught = all.filter_map(|scenario| {
            let failure = scenario.run(SCENARIO_SEED, Transport::Tcp).err()?;
            Some((Caught::Scenario(scenario.name), failure.violation))
        });
        let caught = caught.next();
        set_mutant(None);
        caught
    }

    fn against_rules(mutant: Mutant) -> Option<(Caught, Violation)> {
        set_mutant(Some(mutant));
        let broken = |rule: &rules::Rule| {
            let seen = rule.play().err()?;
            Some((Caught::Scenario(rule.name), seen))
        };
        let caught = rules::ALL.iter().find_map(broken);
        set_mutant(None);
        caught
    }

    /// The first seed at which the fault shows.
    // Threads are no part of any run.
    #[allow(clippy::disallowed_methods)]
    fn first(
        mutant: Mutant,
        most: u64,
        run: impl Fn(u64) -> Option<Violation> + Sync,
    ) -> Option<(u64, Violation)> {
        let next = AtomicU64::new(0);
        let first: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
        let lock = || first.lock().unwrap_or_else(PoisonError::into_inner);
        let work = || {
            set_mutant(Some(mutant));
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                let beaten = lock().as_ref().is_some_and(|(found, _)| *found < seed);
                if seed >= most || beaten {
                    return;
                }
                if let Some(violation) = run(seed) {
                    let mut first = lock();
                    if first.as_ref().is_none_or(|(found, _)| seed < *found) {
                        *first = Some((seed, violation));
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(work);
            scope.spawn(work);
        });
        first.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
