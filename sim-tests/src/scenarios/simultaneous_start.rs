//! Nodes that have nothing yet start at the same time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Scenario;
use super::stage::{coarse, ms};
use crate::stack::{Failure, Outcome, Plan, World};

/// Three at once.
pub(super) const THREE: Scenario = Scenario {
    name: "start-of-three",
    about: "three nodes start at the same moment and form one cluster",
    plan: |seed| plan(seed, 3),
    play,
};

/// Five at once.
pub(super) const FIVE: Scenario = Scenario {
    name: "start-of-five",
    about: "five nodes start at the same moment and form one cluster",
    plan: |seed| plan(seed, 5),
    play,
};

/// Nine at once.
pub(super) const NINE: Scenario = Scenario {
    name: "start-of-nine",
    about: "nine nodes start at the same moment and form one cluster",
    plan: |seed| plan(seed, 9),
    play,
};

/// All expect three, or all expect all, by the seed.
fn plan(seed: u64, nodes: usize) -> Plan {
    let mut plan = coarse(seed, nodes);
    plan.bootstrap_expect = if seed.is_multiple_of(2) {
        3
    } else {
        nodes as u16
    };
    plan.forms_in_peace = false;
    plan
}

fn play(world: &mut World) -> Result<Outcome, Failure> {
    let nodes = world.names.len();
    world.run_for(ms(5))?;
    for at in 0..nodes {
        world.require(world.runs(at) && world.maps() == 0, || {
            format!("n{} does not run, or there is a map already", at + 1)
        })?;
    }
    world.await_well(Duration::from_secs(10))?;
    let clusters: BTreeSet<_> = (0..nodes)
        .map(|at| Ok(world.node(at)?.cluster_id()))
        .collect::<Result<_, Failure>>()?;
    world.expect("one cluster", clusters.len() == 1, || {
        format!("the nodes are in {clusters:?}")
    })?;
    for at in 0..nodes {
        world.expect("I8", world.serves(at) > 0, || {
            format!("n{} serves nothing", at + 1)
        })?;
    }
    world.conclude()
}
