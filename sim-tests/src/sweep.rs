//! Many schedules on all cores.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::engine_world::{Failure, Outcome, run};
use crate::tally::Tally;

/// A range of seeds, `A..B`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// After the last.
    pub to: u64,
}

impl FromStr for Seeds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.parse()
                .map_err(|error| format!("{text:?} is no seed: {error}"))
        };
        let (from, to) = text
            .split_once("..")
            .ok_or_else(|| format!("{text:?} is no range of seeds, A..B"))?;
        Ok(Self {
            from: number(from)?,
            to: number(to)?,
        })
    }
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The schedules.
    pub seeds: Seeds,
    /// How many threads.
    pub threads: usize,
    /// Whether the first failure ends it.
    pub stop_at_failure: bool,
    /// No schedule begins after this has passed.
    pub budget: Option<Duration>,
}

impl Sweep {
    /// All of these seeds, on two threads.
    pub fn new(seeds: Seeds) -> Self {
        Self {
            seeds,
            threads: 2,
            stop_at_failure: false,
            budget: None,
        }
    }

    /// Runs them.
    // Threads and the wall clock are not part of any schedule: a seed's result does not depend on them.
    #[allow(clippy::disallowed_methods)]
    pub fn run(&self) -> Report {
        let next = AtomicU64::new(self.seeds.from);
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        let work = || {
            let mut report = Report::default();
            while !stop.load(Ordering::Relaxed)
                && self.budget.is_none_or(|budget| began.elapsed() < budget)
            {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.to {
                    break;
                }
                let result = run(seed, false);
                if result.is_err() && self.stop_at_failure {
                    stop.store(true, Ordering::Relaxed);
                }
                report.add(result);
            }
            report
        };
        let mut report = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads.max(1))
                .map(|_| scope.spawn(work))
                .collect();
            let parts = threads
                .into_iter()
                .map(|thread| thread.join().expect("a panic is caught in its schedule"));
            parts.fold(Report::default(), Report::merge)
        });
        report.failures.sort_by_key(|failure| failure.seed);
        report.took = began.elapsed();
        report
    }
}

/// What came of many schedules.
#[derive(Debug, Default)]
pub struct Report {
    /// Situations reached.
    pub tally: Tally,
    /// Schedules that held.
    pub held: u64,
    /// Those that did not.
    pub failures: Vec<Failure>,
    /// Simulated time of those that held.
    pub simulated: Duration,
    /// Events of those that held.
    pub events: u64,
    /// Longest recovery.
    pub slowest: Duration,
    /// Wall time.
    pub took: Duration,
}

impl Report {
    fn add(&mut self, result: Result<Outcome, Box<Failure>>) {
        match result {
            Ok(outcome) => {
                self.tally.merge(&outcome.tally);
                self.held += 1;
                self.simulated += outcome.simulated;
                self.events += outcome.events;
                self.slowest = self.slowest.max(outcome.recovered_in);
            }
            Err(failure) => self.failures.push(*failure),
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.tally.merge(&other.tally);
        self.held += other.held;
        self.failures.extend(other.failures);
        self.simulated += other.simulated;
        self.events += other.events;
        self.slowest = self.slowest.max(other.slowest);
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tally)?;
        self.failures
            .iter()
            .try_for_each(|failure| writeln!(f, "{failure}"))?;
        let speed = self.simulated.as_secs_f64() / self.took.as_secs_f64().max(1e-9);
        write!(
            f,
            "{} schedules held, {} failed; {:.0} s simulated in {:.1} s ({speed:.0}x), {} events, slowest recovery {:?}",
            self.held,
            self.failures.len(),
            self.simulated.as_secs_f64(),
            self.took.as_secs_f64(),
            self.events,
            self.slowest
        )
    }
}
