//! Two processes under one name: never do both serve.

use serde_json::Value;

use crate::fleet::{Fleet, status};
use crate::load::{Load, judge};
use crate::place::Place;
use crate::process::Process;

const NODES: usize = 3;
/// The node whose name is used twice.
const TWICE: usize = 1;
/// How often both are asked, one after the other, while a load runs.
const ASKED: usize = 30;
/// Answers that the load must get meanwhile.
const ANSWERS: usize = 100;
/// Exit status of a node that found a newer one of its name.
const SUPERSEDED: i32 = 5;

/// Whether a node says that it would answer for a shard now.
fn serves(status: &Value) -> bool {
    let members = status["members"].as_array().into_iter().flatten();
    let me = |member: &&Value| member["node"] == status["node"] && member["boot"] == status["boot"];
    let owned: u64 = members
        .filter(me)
        .filter_map(|member| member["shards"].as_u64())
        .sum();
    status["lease_left_ms"].as_u64() > Some(0) && owned > 0
}

#[test]
fn of_two_under_one_name_one_serves() {
    let place = Place::new("names");
    let mut fleet = Fleet::new(&place, NODES, None);
    fleet.start_all();
    fleet.wait_whole();
    let mut load = Load::start(&place, &fleet, None);
    load.wait_answers(1, "before the second process");
    let (first, second) = (fleet.address(TWICE), place.address());
    let intruder = fleet.spawn(fleet.name(TWICE), second, None);
    let processes = [fleet.process(TWICE), &intruder];
    // Who of the two served, as often as that changed: one of them each time, for they are asked one after the other.
    let mut turns: Vec<usize> = Vec::new();
    for _ in 0..ASKED {
        for (which, address) in [first, second].into_iter().enumerate() {
            let served = processes[which].is_running()
                && status(&place, address, None).is_some_and(|status| serves(&status));
            if served && turns.last() != Some(&which) {
                turns.push(which);
            }
        }
    }
    let running = processes.map(Process::is_running);
    load.wait_answers(ANSWERS, "with two processes under one name");
    let report = judge(&place, &fleet, None, load.stop());
    println!(
        "names: running {running:?}, served by turns {turns:?}; {}",
        report.summary()
    );
    assert!(report.is_good(), "{report}\n{}", fleet.describe());
    assert!(
        (1..=2).contains(&turns.len()),
        "both served, by turns {turns:?}\n{}\n{}",
        fleet.describe(),
        intruder.describe()
    );
    let mut loser = if turns.last() == Some(&0) {
        intruder
    } else {
        fleet.take(TWICE)
    };
    let (ended, said) = (loser.wait(), loser.stderr.lines().join("\n"));
    assert_eq!(ended.code(), Some(SUPERSEDED), "{}", loser.describe());
    assert!(
        said.contains("a newer process runs as node `n2`") && said.contains("--name"),
        "{}",
        loser.describe()
    );
}
