//! Many seeds of the swarm, each on one thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::plan::{Plan, Transport};
use super::{Failure, Outcome, run};
use crate::tally::Tally;

/// Which seeds to run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Sweep {
    /// The first.
    pub from: u64,
    /// After the last; with a budget there may be no end but that.
    pub to: u64,
    /// How many threads.
    pub jobs: usize,
    /// What the nodes talk over.
    pub transport: Transport,
    /// No seed begins after this has passed.
    pub budget: Option<Duration>,
    /// Whether the first failure ends it.
    pub stop_at_failure: bool,
}

/// One seed that was run.
#[derive(Debug)]
pub struct Ran {
    /// The seed.
    pub seed: u64,
    /// What came of it.
    pub result: Result<Outcome, Box<Failure>>,
}

impl Sweep {
    /// Seeds `from..to` over TCP on one thread.
    pub fn new(from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            jobs: 1,
            transport: Transport::Tcp,
            budget: None,
            stop_at_failure: false,
        }
    }

    /// The plan of a seed in this sweep.
    pub fn plan(&self, seed: u64) -> Plan {
        Plan {
            transport: self.transport,
            ..Plan::swarm(seed)
        }
    }

    /// Runs them; `prepare` is called on each thread first, `after` for each seed as it ends.
    // Threads and the wall clock are not part of any run: a seed's result does not depend on them.
    #[allow(clippy::disallowed_methods)]
    pub fn run(&self, prepare: impl Fn() + Sync, after: impl Fn(&Ran) + Sync) -> Report {
        let next = AtomicU64::new(self.from);
        let stop = AtomicBool::new(false);
        let began = Instant::now();
        let work = || {
            prepare();
            let mut report = Report::default();
            while !stop.load(Ordering::Relaxed)
                && self.budget.is_none_or(|budget| began.elapsed() < budget)
            {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.to {
                    break;
                }
                let result = run(&self.plan(seed));
                if result.is_err() && self.stop_at_failure {
                    stop.store(true, Ordering::Relaxed);
                }
                let ran = Ran { seed, result };
                after(&ran);
                report.add(ran);
            }
            report
        };
        let mut report = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(work)).collect();
            let parts = threads
                .into_iter()
                .map(|thread| thread.join().expect("a panic is caught in its run"));
            parts.fold(Report::default(), Report::merge)
        });
        report.failures.sort_by_key(|(seed, _)| *seed);
        report.took = began.elapsed();
        report
    }
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Report {
    /// Situations reached, by those that failed too.
    pub tally: Tally,
    /// Seeds that held.
    pub held: u64,
    /// Those that did not, by seed.
    pub failures: Vec<(u64, Failure)>,
    /// Simulated time of all.
    pub simulated: Duration,
    /// Longest recovery, and its seed.
    pub slowest: Option<(Duration, u64)>,
    /// Wall time.
    pub took: Duration,
    /// Exclusive or of the fingerprints of those that held: of the same seeds always the same.
    pub fingerprint: u64,
}

impl Report {
    /// How many seeds were run.
    pub fn ran(&self) -> u64 {
        self.held + self.failures.len() as u64
    }

    /// Simulated seconds for each second of wall time.
    pub fn speed(&self) -> f64 {
        self.simulated.as_secs_f64() / self.took.as_secs_f64().max(1e-9)
    }

    fn add(&mut self, Ran { seed, result }: Ran) {
        match result {
            Ok(outcome) => {
                self.tally.merge(&outcome.tally);
                self.held += 1;
                self.simulated += outcome.simulated;
                self.slowest = self.slowest.max(Some((outcome.recovered_in, seed)));
                self.fingerprint ^= outcome.fingerprint;
            }
            Err(failure) => {
                self.tally.merge(&failure.tally);
                self.simulated += failure.at;
                self.failures.push((seed, *failure));
            }
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.tally.merge(&other.tally);
        self.held += other.held;
        self.failures.extend(other.failures);
        self.simulated += other.simulated;
        self.slowest = self.slowest.max(other.slowest);
        self.fingerprint ^= other.fingerprint;
        self
    }
}
