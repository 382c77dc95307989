//! Five processes that start in the same moment form one cluster, every time.

use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::place::Place;
use crate::settings::number;

const NODES: usize = 5;
/// How often, unless `FUNK_FORMATIONS` says otherwise.
const TIMES: usize = 10;

#[test]
fn five_that_start_at_once_form_one_cluster() {
    let times = number("FUNK_FORMATIONS", TIMES);
    let mut took: Vec<Duration> = (0..times).map(|_| form()).collect();
    took.sort();
    println!(
        "formation: {times} of {times} formed one cluster of {NODES}; median {:?}, longest {:?}",
        took[times / 2],
        took[times - 1]
    );
}

/// From nothing: not even the development authority is there, and all five need it at once.
fn form() -> Duration {
    let place = Place::new("formation");
    let mut fleet = Fleet::new(&place, NODES, None);
    let begin = Instant::now();
    fleet.start_all();
    for node in 0..NODES {
        fleet.wait_operational(node);
    }
    let took = begin.elapsed();
    fleet.wait_whole();
    took
}
