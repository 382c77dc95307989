//! One schedule from start to verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};

use funk::engine::flaps::FLAP_MOST;

use super::*;

/// A schedule that held.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Situations reached.
    pub tally: Tally,
    /// Simulated time.
    pub simulated: Duration,
    /// Events.
    pub events: u64,
    /// Messages that were sent, of engines and of raft.
    pub messages: u64,
    /// From the last fault to the first moment at which all was well.
    pub recovered_in: Duration,
}

/// A schedule that did not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// Whether nodes and shards were uneven.
    pub uneven: bool,
    /// What did not hold.
    pub violation: Violation,
    /// When, in true time.
    pub at: Duration,
    /// Situations reached before.
    pub tally: Tally,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            seed,
            uneven,
            violation,
            at,
            ..
        } = self;
        let uneven = if *uneven { " --uneven" } else { "" };
        writeln!(f, "seed {seed} at {at:?}: {violation}")?;
        write!(
            f,
            "replay: cargo run -p funk-sim-tests --bin sim -- engine replay {seed}{uneven}"
        )
    }
}

/// How long the cluster may take to recover, beside the longest timeout configured (I8).
const RECOVERY: Duration = Duration::from_secs(10);
/// How often the end is looked for.
const CHECK_EVERY: u64 = 100_000_000;
/// For how many looks all must be well.
const STEADY: u32 = 3;
/// More events than any schedule needs: past it something spins.
const MAX_EVENTS: u64 = 5_000_000;

/// Runs the schedule of this seed. A panic of engine or model is a failure like any other.
pub fn run(seed: u64, trace: bool) -> Result<Outcome, Box<Failure>> {
    run_with(Profile::new(seed), seed, trace)
}

/// The same with other options than those of the seed.
pub fn run_with(profile: Profile, seed: u64, trace: bool) -> Result<Outcome, Box<Failure>> {
    run_world(World::with(profile, seed, trace), seed, false)
}

/// The same with uneven nodes and shards: see [`Profile::uneven`].
pub fn run_uneven(seed: u64, trace: bool) -> Result<Outcome, Box<Failure>> {
    run_world(World::with(Profile::uneven(seed), seed, trace), seed, true)
}

fn run_world(mut world: World, seed: u64, uneven: bool) -> Result<Outcome, Box<Failure>> {
    if world.trace {
        println!("{:#?}", world.profile);
    }
    let result = catch_unwind(AssertUnwindSafe(|| world.run_to_the_end()));
    let broken = match result {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(violation)) => violation,
        Err(panic) => Violation::new("no panic", crate::panic_text(panic.as_ref())),
    };
    let at = Duration::from_nanos(world.now);
    Err(Box::new(Failure {
        seed,
        uneven,
        violation: broken,
        at,
        tally: world.tally,
    }))
}

impl World {
    fn longest_timeout(&self) -> Duration {
        let timing = &self.profile.timing;
        // A shard that did not drain is tried again after a back-off of some drain timeouts.
        let backoff = if self.pins {
            timing.drain_timeout * 16
        } else {
            Duration::ZERO
        };
        // A change in steps takes as many as there are shards to move, and each may wait for a hook.
        let steps = self
            .profile
            .max_moves
            .map_or(0, |most| self.profile.shards / most);
        let steps = timing.acquire_timeout * steps;
        timing
            .replace_after
            .min(timing.stale_after)
            .max(timing.drain_timeout)
            .max(backoff)
            // A node that came and went too often.
            .max(timing.settle_joins * FLAP_MOST)
            + steps
    }

    fn run_to_the_end(&mut self) -> Result<Outcome, Violation> {
        self.queue.push(1, Event::Fault);
        let mut events = 0;
        let mut calm_since = None;
        let (mut next_check, mut steady) = (0, 0);
        while self.step() {
            events += 1;
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if events > MAX_EVENTS {
                return Err(Violation::new(
                    "the world does not spin",
                    format!("{events} events"),
                ));
            }
            if !self.calm || self.now < next_check {
                continue;
            }
            let since = *calm_since.get_or_insert(self.now);
            next_check = self.now + CHECK_EVERY;
            match self.check_recovered() {
                Ok(()) => steady += 1,
                Err(violation) => {
                    steady = 0;
                    if self.now > since + ns(RECOVERY + self.longest_timeout()) {
                        trace!(self, "members seen: {:?}", self.members_seen());
                        return Err(violation);
                    }
                }
            }
            if steady == STEADY {
                return Ok(self.finish(events, self.now - since));
            }
        }
        Err(Violation::new(
            "the world goes on",
            "nothing is left to happen",
        ))
    }

    fn finish(&mut self, events: u64, recovered: u64) -> Outcome {
        let processes: Vec<_> = self
            .nodes
            .iter_mut()
            .filter_map(|node| node.process.take())
            .collect();
        for process in processes {
            self.count_engine(&process.engine);
        }
        self.tally.add("schedules");
        self.tally.add_many("guards given", self.guards_given);
        self.tally
            .add_many("writes rejected by token", self.fencing.rejected);
        self.tally
            .add_many("writes accepted", self.fencing.accepted);
        let changes = self.leader_terms.len() as u64;
        let counted = self.tally.count("leader changes");
        debug_assert_eq!(changes, counted);
        Outcome {
            tally: self.tally.clone(),
            simulated: Duration::from_nanos(self.now),
            events,
            messages: self.network.sent(),
            recovered_in: Duration::from_nanos(recovered),
        }
    }
}
