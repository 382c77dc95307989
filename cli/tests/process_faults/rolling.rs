//! All nodes restarted in order, one after another, under load: no call fails, and how long each shard was not served.

use std::collections::BTreeMap;
use std::time::Instant;

use funk_history::calls::{Call, Kind, Outcome};
use funk_history::report::{BUDGET, Report};
use serde_json::{Value, json};

use crate::fleet::{Fleet, is};
use crate::load::{Load, Shape, read_all};
use crate::place::Place;
use crate::settings::number;

const NODES: usize = 5;
/// Few, so that each is called often: only a call can tell whether a shard is served.
const SHARDS: u32 = 20;
/// Calls a second, unless `FUNK_ROLLING_RATE` says otherwise: a short run beside other tests.
const RATE: u32 = 200;
/// How often all nodes are restarted, unless `FUNK_ROLLING_ROUNDS` says otherwise.
const ROUNDS: u32 = 1;
/// The part of the calls due that must be answered, where the rate is asked for.
const ANSWERED_PART: f64 = 0.9;
/// Answers that a load must get to count as going on.
const GOING_ON: usize = 50;

/// One shard that went from one node to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Move {
    /// The longest get of those that waited for it, microseconds: what a caller felt.
    felt: u64,
    /// From the last answer of the former owner to the first of the new one, microseconds: longer by the time until
    /// somebody called.
    silence: u64,
}

/// The answers of one owner under one token.
struct Tenure<'a> {
    owner: &'a str,
    first_end: u64,
    last_end: u64,
}

/// The moves of one shard, of which these are all calls.
fn moves_of(calls: &[&Call]) -> Vec<Move> {
    let mut tenures: BTreeMap<u64, Tenure<'_>> = BTreeMap::new();
    for call in calls {
        let Outcome::Answered { owner, epoch, .. } = &call.outcome else {
            continue;
        };
        let tenure = tenures.entry(*epoch).or_insert(Tenure {
            owner,
            first_end: call.end,
            last_end: call.end,
        });
        tenure.first_end = tenure.first_end.min(call.end);
        tenure.last_end = tenure.last_end.max(call.end);
    }
    let following = tenures.values().skip(1);
    let pairs = tenures.values().zip(following);
    pairs
        .filter(|(before, after)| before.owner != after.owner)
        .map(|(before, after)| {
            let gets = calls.iter().filter(|call| call.kind == Kind::Get);
            let waited =
                gets.filter(|call| call.start < after.first_end && call.end > before.last_end);
            Move {
                felt: waited
                    .map(|call| call.end - call.start)
                    .max()
                    .unwrap_or_default(),
                silence: after.first_end.saturating_sub(before.last_end),
            }
        })
        .collect()
}

/// The moves of all shards.
fn moves(calls: &[Call], shards: &BTreeMap<String, u32>) -> Vec<Move> {
    let mut by_shard: BTreeMap<u32, Vec<&Call>> = BTreeMap::new();
    for call in calls {
        if let Some(shard) = shards.get(&call.key) {
            by_shard.entry(*shard).or_default().push(call);
        }
    }
    by_shard
        .values()
        .flat_map(|calls| moves_of(calls))
        .collect()
}

/// Median, 99th percentile and largest, in milliseconds.
fn spread(us: impl Iterator<Item = u64>) -> Value {
    let mut us: Vec<u64> = us.collect();
    us.sort_unstable();
    let at = |part: f64| {
        let rank = (us.len() as f64 * part).ceil() as usize;
        us.get(rank.saturating_sub(1)).map(|us| *us as f64 / 1e3)
    };
    json!({"p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

/// Restarts one node in order; returns when it is back and owns shards.
fn restart(fleet: &mut Fleet<'_>, load: &mut Load, node: usize) {
    fleet.leave(node);
    load.wait_answers(GOING_ON, "after a node left");
    fleet.start(node);
    fleet.wait_whole();
    let name = fleet.name(node).to_owned();
    let asked = (node + 1) % NODES;
    fleet.wait_status(asked, "the node that came back owns shards", |status| {
        let members = status["members"].as_array()?;
        let member = members.iter().find(|member| is(&member["node"], &name))?;
        let owns = member["shards"].as_u64()? > 0;
        (owns && status["pending"].is_null()).then_some(())
    });
    load.wait_answers(GOING_ON, "after a node came back");
}

#[test]
fn restarted_one_after_another_under_load_no_call_fails() {
    let asked_rate = std::env::var_os("FUNK_ROLLING_RATE").is_some();
    let rate = number("FUNK_ROLLING_RATE", RATE);
    let rounds = number("FUNK_ROLLING_ROUNDS", ROUNDS);
    let place = Place::new("rolling");
    let mut fleet = Fleet::new(&place, NODES, None).durable(SHARDS);
    fleet.start_all();
    fleet.wait_whole();
    let shape = Shape {
        name: "rolling",
        keys: 512,
        rate,
        concurrency: 128,
        deadline_seconds: 10,
        longest_seconds: 900,
        idempotent: true,
    };
    let mut load = Load::shaped(&fleet.addresses(), &place, None, shape);
    load.wait_answers(GOING_ON, "before the first restart");
    let begin = Instant::now();
    for round in 1..=rounds {
        for node in 0..NODES {
            restart(&mut fleet, &mut load, node);
            println!(
                "rolling restart: round {round} of {rounds}, {} is back after {:.1} s, {} answers",
                fleet.name(node),
                begin.elapsed().as_secs_f64(),
                load.answers()
            );
        }
    }
    let mut recording = load.stop_recording();
    let last = read_all(&place, &fleet, shape, None);
    let moved = moves(&recording.calls, &recording.shards);
    recording.calls.extend(last.calls);
    let report = Report::new(&recording.calls, BUDGET);
    let summary = &recording.summary;
    println!("rolling restart: {}", report.summary());
    println!(
        "{}",
        json!({"rolling_restart": {
            "nodes": NODES,
            "restarts": rounds * NODES as u32,
            "shards": SHARDS,
            "rate": rate,
            "load": summary,
            "lost": report.lost,
            "duplicated": report.duplicated,
            "moved": moved.len(),
            "gap_ms": spread(moved.iter().map(|one| one.felt)),
            "silence_ms": spread(moved.iter().map(|one| one.silence)),
            "machine_stall_ms": summary["machine_stall_ms"],
        }})
    );
    assert!(report.is_good(), "{report}\n{}", fleet.describe());
    assert_eq!(
        (&summary["failed"], &summary["ambiguous"]),
        (&0.into(), &0.into())
    );
    assert!(
        moved.len() >= NODES * 2,
        "each leaves and comes back: {moved:?}"
    );
    if asked_rate {
        let reached = summary["rate"].as_f64().unwrap_or_default();
        assert!(
            reached >= f64::from(rate) * ANSWERED_PART,
            "{reached} answers a second of {rate}: lower FUNK_ROLLING_RATE or close other programs"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(times: (u64, u64), kind: Kind, answer: Option<(&str, u64)>) -> Call {
        Call {
            start: times.0,
            end: times.1,
            key: "a".to_owned(),
            kind,
            id: None,
            outcome: match answer {
                Some((owner, epoch)) => Outcome::Answered {
                    owner: owner.to_owned(),
                    epoch,
                    value: 0,
                },
                None => Outcome::Failed(String::new()),
            },
        }
    }

    #[test]
    fn a_move_is_felt_by_the_gets_that_wait_for_it() {
        let get = |times, answer| call(times, Kind::Get, Some(answer));
        let calls = [
            get((0, 90), ("n1", 3)),
            get((95, 100), ("n1", 3)),
            call((98, 400), Kind::Increment, Some(("n2", 5))),
            get((110, 150), ("n2", 5)),
            get((120, 200), ("n2", 5)),
            get((151, 300), ("n2", 5)),
            // The same owner under another token did not move anything.
            get((500, 501), ("n2", 8)),
        ];
        let calls: Vec<&Call> = calls.iter().collect();
        assert_eq!(
            moves_of(&calls),
            [Move {
                felt: 80,
                silence: 50
            }]
        );
        let failed = call((101, 140), Kind::Get, None);
        let calls = [&calls[..], &[&failed]].concat();
        assert_eq!(moves_of(&calls)[0].felt, 80, "a shorter one");
    }

    #[test]
    fn the_spread_of_some() {
        let found = spread((1..=100).map(|ms| ms * 1_000));
        assert_eq!(found, json!({"p50": 50.0, "p99": 99.0, "max": 100.0}));
        assert_eq!(spread([7_000].into_iter())["p99"], 7.0);
        assert!(spread(std::iter::empty())["max"].is_null());
    }
}
