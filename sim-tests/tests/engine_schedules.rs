//! Random schedules of the engine simulator: I1 to I5, I7 and I8, at every step.
//!
//! By default as many as fit, on two cores; `FUNK_SEEDS=A..B` runs just those, all of them. `FUNK_SEED_BASE=N`
//! begins elsewhere, for sweeps that go on from night to night.

use std::time::Duration;

use funk_sim_tests::pinned::{PINNED, Pin, Simulator};
use funk_sim_tests::sweep::{Seeds, Sweep};

/// What fits into CI's share.
const BUDGET: Duration = Duration::from_secs(60);
/// Schedules at most.
const SCHEDULES: u64 = 2_000;
/// So many schedules reach every situation often enough.
const ENOUGH: u64 = 300;
/// Situations that must have been reached, each more than a hundred times.
const REACHED: [&str; 9] = [
    "leader changes",
    "hand-offs interrupted before the proposal commits",
    "hand-offs interrupted before the first ack",
    "hand-offs interrupted between acks",
    "hand-offs interrupted between the last ack and the commit",
    "hand-offs interrupted after the commit",
    "leases lapsed while serving",
    "excused nodes",
    "maps superseded",
];

#[test]
fn pinned_seeds_hold() {
    let of_engines = |pin: &&Pin| pin.simulator == Simulator::Engines;
    let mut count = 0;
    for pin in PINNED.iter().filter(of_engines) {
        if let Err(failure) = pin.run() {
            panic!("{failure}\nit was pinned because: {}", pin.why);
        }
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn random_schedules_hold() {
    let asked: Option<Seeds> = std::env::var("FUNK_SEEDS")
        .ok()
        .map(|text| text.parse().expect("FUNK_SEEDS=A..B"));
    let base =
        std::env::var("FUNK_SEED_BASE").map_or(0, |text| text.parse().expect("FUNK_SEED_BASE=N"));
    let seeds = asked.unwrap_or(Seeds {
        from: base,
        to: base + SCHEDULES,
    });
    let budget = asked.is_none().then_some(BUDGET);
    println!("base seed {}", seeds.from);
    let report = Sweep {
        budget,
        stop_at_failure: true,
        ..Sweep::new(seeds)
    }
    .run();
    println!("{report}");
    assert!(report.failures.is_empty(), "{}", report.failures[0]);
    if report.held >= ENOUGH {
        for name in REACHED {
            assert!(report.tally.count(name) > 100, "reached too rarely: {name}");
        }
    }
}

/// Nodes of different capacities, shards of different weights, changes in steps: a sample of schedules.
#[test]
fn uneven_schedules_hold() {
    let text = std::env::var("FUNK_UNEVEN_SEEDS").unwrap_or_else(|_| "0..120".to_owned());
    let seeds: Seeds = text.parse().expect("FUNK_UNEVEN_SEEDS=A..B");
    let (mut asked, mut proposed) = (0, 0);
    for seed in seeds.from..seeds.to {
        match funk_sim_tests::engine_world::run_uneven(seed, false) {
            Ok(outcome) => {
                asked += outcome.tally.count("weights asked for");
                proposed += outcome.tally.count("maps proposed");
            }
            Err(failure) => panic!("uneven: {failure}"),
        }
    }
    println!("{proposed} maps, weights asked for {asked} times");
    let schedules = seeds.to - seeds.from;
    assert!(asked > schedules / 4 && proposed > schedules * 5);
}

#[test]
fn a_seed_means_the_same_schedule_every_time() {
    let run = |seed| {
        funk_sim_tests::engine_world::run(seed, false)
            .map(|outcome| (outcome.events, outcome.tally))
    };
    for seed in 5..8 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.ok(), second.ok(), "seed {seed}");
    }
}
