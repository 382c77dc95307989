//! Nodes with data directories, killed again and again, all of them at times: nothing that was acknowledged is lost.
//!
//! Increments are proposals to the replicated log. They have ids in one load, and must be there exactly once; in the
//! other one they have none, and those that are neither acknowledged nor refused may be there or not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use funk_history::calls::Call;
use funk_history::fencing;
use funk_history::report::{BUDGET, Report};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::arguments;
use crate::fleet::Fleet;
use crate::load::{Load, Shape, read_all};
use crate::place::Place;
use crate::process::Process;
use crate::replicas::wait_for_all;
use crate::settings::number;

const NODES: usize = 5;
/// Few, so that the load sees the token of each all the time.
const SHARDS: u32 = 16;
/// How often something is killed, unless `FUNK_KILLS` says otherwise.
const KILLS: u32 = 20;
/// The bound on all of it, unless `FUNK_KILL_SECONDS` says otherwise.
const SECONDS: u64 = 300;
/// Calls a second with ids, unless `FUNK_KILL_RATE` says otherwise; half of them are increments, and after some thousand of
/// those there are snapshots.
const RATE: u32 = 100;
/// Each so-manieth time all nodes are killed at once.
const ALL: u32 = 10;
/// So often it is waited until the cluster is whole, and compared what each node says.
const WHOLE: u32 = 20;
/// Answers that a load must get to count as going on.
const GOING_ON: usize = 20;
/// Longest time for which victims are down before they are started again: mostly too short to be noticed, and at times
/// long enough for their shards to be given to others.
const DOWN_MS: [u64; 4] = [300, 300, 300, 2_000];
/// Longest time between a start and the next kill, where the load is not waited for.
const REST_MS: u64 = 500;
const TELL: Duration = Duration::from_secs(5);

const ONCE: Shape = Shape {
    name: "once",
    keys: 64,
    rate: RATE,
    concurrency: 64,
    deadline_seconds: 30,
    longest_seconds: 900,
    idempotent: true,
};
/// Many counters, so that each has few increments of which nobody knows: those make judging hard.
const PLAIN: Shape = Shape {
    name: "plain",
    keys: 128,
    rate: 40,
    concurrency: 8,
    deadline_seconds: 5,
    longest_seconds: 900,
    idempotent: false,
};

/// What was done.
#[derive(Default)]
struct Done {
    kills: u32,
    processes: usize,
    all_at_once: u32,
}

struct Scene<'a> {
    fleet: Fleet<'a>,
    once: Load,
    rng: ChaCha8Rng,
    done: Done,
    /// By node: the newest term and the newest map that it told of.
    told: BTreeMap<usize, (u64, u64)>,
}

impl Scene<'_> {
    fn victims(&mut self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..NODES).collect();
        nodes.shuffle(&mut self.rng);
        let count = match self.rng.random_range(0..4) {
            _ if (self.done.kills + 1).is_multiple_of(ALL) => NODES,
            0 => 2,
            _ => 1,
        };
        nodes.truncate(count);
        nodes
    }

    fn strike(&mut self) {
        for node in 0..NODES {
            let process = self.fleet.process(node);
            assert!(
                process.is_running(),
                "ended by itself: {}",
                process.describe()
            );
        }
        let mut victims = self.victims();
        self.fleet.kill(&victims);
        self.done.kills += 1;
        self.done.processes += victims.len();
        self.done.all_at_once += u32::from(victims.len() == NODES);
        let longest_ms = DOWN_MS[self.rng.random_range(0..DOWN_MS.len())];
        self.pause(longest_ms);
        victims.shuffle(&mut self.rng);
        for node in victims {
            self.fleet.start(node);
        }
        if self.rng.random_bool(0.5) {
            self.once.wait_answers(GOING_ON, "after a kill");
        } else {
            self.pause(REST_MS);
        }
        if self.done.kills.is_multiple_of(WHOLE) {
            self.compare();
        }
    }

    /// The fault may also come while nodes start, elect, or hand shards over.
    fn pause(&mut self, longest_ms: u64) {
        let ms = self.rng.random_range(0..longest_ms);
        std::thread::sleep(Duration::from_millis(ms));
    }

    /// Waits until all nodes are there. None of them tells of an older term or map than it did before.
    fn compare(&mut self) {
        self.fleet.wait_whole();
        for node in 0..NODES {
            let now = self.fleet.wait_status(node, "it has a map", |status| {
                let map = status["map_index"].as_u64().filter(|index| *index > 0)?;
                Some((status["term"].as_u64()?, map))
            });
            let before = self.told.insert(node, now).unwrap_or_default();
            assert!(
                before.0 <= now.0 && before.1 <= now.1,
                "{} went back from term and map {before:?} to {now:?}\n{}",
                self.fleet.name(node),
                self.fleet.describe()
            );
        }
    }
}

/// The calls as calls of shards.
fn by_shard(calls: &[Call], shards: &BTreeMap<String, u32>) -> Vec<Call> {
    let of_shard = |call: &Call| {
        let shard = shards.get(&call.key)?;
        Some(Call {
            key: shard.to_string(),
            ..call.clone()
        })
    };
    calls.iter().filter_map(of_shard).collect()
}

/// Checks every byte of the directories, of which the nodes have just been killed. All are of one cluster. How many have a
/// snapshot.
fn inspect(place: &Place) -> usize {
    let mut ids = BTreeSet::new();
    let mut snapshots = 0;
    for node in 1..=NODES {
        let dir = place.folder().join(format!("disk-n{node}"));
        let arguments = arguments!["inspect", "--data-dir", dir.display(), "--json"];
        let mut process = Process::start(place, "inspect", &arguments);
        assert!(process.wait().success(), "{}", process.describe());
        let found: Value = serde_json::from_str(&process.stdout.lines().join("\n"))
            .unwrap_or_else(|error| panic!("{error}: {}", process.describe()));
        ids.insert(found["cluster_id"].to_string());
        snapshots += usize::from(!found["snapshot"].is_null());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    snapshots
}

#[test]
fn killed_again_and_again_nothing_acknowledged_is_lost() {
    let kills: u32 = number("FUNK_KILLS", KILLS);
    let bound = Duration::from_secs(number("FUNK_KILL_SECONDS", SECONDS));
    let seed: u64 = number("FUNK_KILL_SEED", rand::random());
    println!("kill loop: FUNK_KILL_SEED={seed} kills the same nodes");
    let place = Place::new("kill-loop");
    let mut fleet = Fleet::new(&place, NODES, None).durable(SHARDS);
    fleet.start_all();
    fleet.wait_whole();
    let addresses = fleet.addresses();
    let once_shape = Shape {
        rate: number("FUNK_KILL_RATE", RATE),
        ..ONCE
    };
    let once = Load::shaped(&addresses, &place, None, once_shape);
    let plain = Load::shaped(&addresses, &place, None, PLAIN);
    let mut scene = Scene {
        fleet,
        once,
        rng: ChaCha8Rng::seed_from_u64(seed),
        done: Done::default(),
        told: BTreeMap::new(),
    };
    scene.once.wait_answers(GOING_ON, "before the first kill");
    let begin = Instant::now();
    let mut told = begin;
    while scene.done.kills < kills && begin.elapsed() < bound {
        scene.strike();
        if told.elapsed() > TELL {
            told = Instant::now();
            println!(
                "kill loop: {} of {kills} kills in {} s, {} answers",
                scene.done.kills,
                begin.elapsed().as_secs(),
                scene.once.answers()
            );
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    scene.once.wait_answers(GOING_ON, "after the last kill");
    scene.compare();
    let Scene {
        mut fleet,
        once,
        done,
        ..
    } = scene;
    let mut totals = Totals::default();
    let mut reports = Vec::new();
    for (load, shape) in [(once, ONCE), (plain, PLAIN)] {
        let mut recording = load.stop_recording();
        let last = read_all(&place, &fleet, shape, None);
        recording.calls.extend(last.calls.iter().cloned());
        recording.shards.extend(last.shards);
        wait_for_all(&place, &fleet, SHARDS, shape, &last.calls);
        let report = Report::new(&recording.calls, BUDGET);
        println!("kill loop, {}: {}", shape.name, report.summary());
        totals.add(&report, &recording.summary);
        totals
            .by_shard
            .extend(by_shard(&recording.calls, &recording.shards));
        reports.push(report);
    }
    let described = fleet.describe();
    let all: Vec<usize> = (0..NODES).collect();
    fleet.kill(&all);
    totals.snapshots = inspect(&place);
    let tokens_back = fencing::backwards(&totals.by_shard);
    println!("{}", totals.json(seed, &done, seconds, tokens_back.len()));
    for report in &reports {
        assert!(report.is_safe(), "{report}\n{described}");
    }
    if let Some(found) = tokens_back.first() {
        let (earlier, later) = (
            &totals.by_shard[found.earlier],
            &totals.by_shard[found.later],
        );
        panic!("a shard's token went back: {earlier:?}, then {later:?}");
    }
    assert_eq!(totals.shards(), SHARDS as usize, "each shard was watched");
    assert_eq!(
        done.kills, kills,
        "there was no time for more within {bound:?}"
    );
}

/// What both loads saw.
#[derive(Default)]
struct Totals {
    acknowledged: usize,
    ambiguous: usize,
    unanswered: usize,
    lost: u64,
    duplicated: u64,
    /// Nodes that have one.
    snapshots: usize,
    machine_stall_ms: f64,
    by_shard: Vec<Call>,
}

impl Totals {
    fn add(&mut self, report: &Report, summary: &Value) {
        self.acknowledged += report.increments;
        self.ambiguous += report.ambiguous;
        self.unanswered += report.unanswered;
        self.lost += report.lost;
        self.duplicated += report.duplicated;
        let stall = summary["machine_stall_ms"].as_f64().unwrap_or_default();
        self.machine_stall_ms = self.machine_stall_ms.max(stall);
    }

    fn shards(&self) -> usize {
        let answered = self.by_shard.iter().filter(|call| call.answer().is_some());
        let shards: BTreeSet<&str> = answered.map(|call| call.key.as_str()).collect();
        shards.len()
    }

    fn json(&self, seed: u64, done: &Done, seconds: f64, tokens_back: usize) -> Value {
        json!({"kill_loop": {
            "seed": seed,
            "nodes": NODES,
            "kills": done.kills,
            "processes_killed": done.processes,
            "all_at_once": done.all_at_once,
            "seconds": seconds,
            "acknowledged_increments": self.acknowledged,
            "ambiguous": self.ambiguous,
            "unanswered": self.unanswered,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "nodes_with_everything": NODES,
            "nodes_with_snapshot": self.snapshots,
            "shards": self.shards(),
            "tokens_back": tokens_back,
            "machine_stall_ms": self.machine_stall_ms,
        }})
    }
}
