//! Situations with a name, each staged on purpose on whole nodes, and proven to have taken place.
//!
//! A scenario drives a [`World`] into the situation it is named for and asserts that it is there (a run in which it
//! did not come about fails, with [`STAGING`](crate::stack::STAGING) in place of an invariant). After that all is repaired, the
//! cluster must recover within the bound of I8, and the history of all calls is judged. Seeds vary who is struck, how, and
//! when to the tick.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::invariants::Violation;
use crate::stack::plan::Transport;
use crate::stack::{Failure, Outcome, Plan, World};

mod ack_lost;
mod all_restart;
mod clock_skew;
mod drain_under_load;
mod flapping_link;
mod halves_apart;
mod join_and_leave_at_once;
mod leader_lost_in_hand_off;
mod leader_with_one_follower;
mod minority_restart;
mod non_voters;
mod partition_asymmetric;
mod partition_bridge;
mod partition_symmetric;
mod paused_follower;
mod paused_leader;
mod resharding_storm;
mod rolling_restart;
mod rolling_upgrade;
mod scale;
mod simultaneous_start;
mod slept_machine;
mod slow_drainer;
mod stage;
mod tag_races;
mod two_elections;

/// A situation.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Plain name, as the program takes it.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub about: &'static str,
    /// The nodes, their timing and their load.
    pub plan: fn(seed: u64) -> Plan,
    /// Stages it in a fresh world of that plan, up to the judgement.
    pub play: fn(&mut World) -> Result<Outcome, Failure>,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    partition_symmetric::SCENARIO,
    partition_asymmetric::SCENARIO,
    partition_bridge::SCENARIO,
    leader_with_one_follower::SCENARIO,
    leader_lost_in_hand_off::BEFORE_THE_PROPOSAL_COMMITS,
    leader_lost_in_hand_off::BETWEEN_ACKS,
    leader_lost_in_hand_off::BEFORE_THE_COMMIT,
    leader_lost_in_hand_off::AFTER_THE_COMMIT,
    two_elections::SCENARIO,
    ack_lost::SCENARIO,
    slow_drainer::SCENARIO,
    join_and_leave_at_once::SCENARIO,
    drain_under_load::SCENARIO,
    simultaneous_start::THREE,
    simultaneous_start::FIVE,
    simultaneous_start::NINE,
    minority_restart::SCENARIO,
    all_restart::SCENARIO,
    rolling_restart::LEAVING,
    rolling_restart::POWER_CUTS,
    rolling_upgrade::SCENARIO,
    flapping_link::SCENARIO,
    paused_leader::SCENARIO,
    paused_follower::SCENARIO,
    slept_machine::SHORT,
    slept_machine::LONG,
    clock_skew::AT_THE_BOUND,
    clock_skew::BEYOND_THE_BOUND,
    tag_races::SCENARIO,
    halves_apart::SCENARIO,
    resharding_storm::SCENARIO,
    scale::SCENARIO,
    non_voters::SCENARIO,
];

/// The scenario of that name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// Plays it in a world of its own.
    pub fn run(&self, seed: u64, transport: Transport) -> Result<Outcome, Box<Failure>> {
        self.play_in(&mut self.world(seed, transport, false))
    }

    /// A fresh world for it, for whoever wants to look into it afterwards.
    pub fn world(&self, seed: u64, transport: Transport, trace: bool) -> World {
        let plan = Plan {
            transport,
            ..(self.plan)(seed)
        };
        World::new(plan, trace)
    }

    /// Plays it in such a world. A panic of a node is a failure like any other.
    pub fn play_in(&self, world: &mut World) -> Result<Outcome, Box<Failure>> {
        match catch_unwind(AssertUnwindSafe(|| (self.play)(world))) {
            Ok(result) => result.map_err(Box::new),
            Err(panic) => {
                let text = crate::panic_text(panic.as_ref());
                Err(Box::new(world.failure(Violation::new("no panic", text))))
            }
        }
    }
}
