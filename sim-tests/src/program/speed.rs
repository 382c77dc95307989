//! `sim speed`: how fast each simulator is, next to bare raft in the same process and the same minute.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use clap::Args;
use funk_sim_tests::engine_world::{self, profile::Profile};
use funk_sim_tests::idle_raft::IdleRaft;
use funk_sim_tests::stack::plan::{Load, Transport};
use funk_sim_tests::stack::{Plan, World};
use serde_json::json;

use super::{progress, run_nodes_on_this_thread};
use crate::Done;

/// Nodes of every cluster that is measured.
const NODES: usize = 5;
/// Shards of those that have shards.
const SHARDS: u32 = 64;
/// Turns of each subject: medians are taken over them.
const ROUNDS: u32 = 5;
/// Simulated time before anything is measured, once the cluster is formed.
const WARM_UP: Duration = Duration::from_secs(2);
/// So much simulated time passes between two looks at the clock.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Wall time of the whole measurement, beside what it takes to form the clusters.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Calls of all nodes together in each simulated second, where there is a load.
    #[arg(long, default_value = "20")]
    calls: NonZeroU32,
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Everything runs on one thread. The subjects take turns, five each, so that a machine that becomes slower is slower for
all; what is printed is the median of the turns. Nothing may run beside it, and the build should be a release build.

Examples:
  sim speed                       a minute, as a table
  sim speed --seconds 10          a first impression
  sim speed --calls 1000          under ten times the load
  sim speed --json | jq '.measured[] | {name, simulated_s_per_s, ratio_to_idle_raft}'";

pub(crate) fn run(arguments: &Arguments) -> Done {
    let turn = arguments.seconds / f64::from(ROUNDS) / SUBJECTS as f64;
    let turn = Duration::try_from_secs_f64(turn)
        .ok()
        .filter(|turn| !turn.is_zero())
        .ok_or_else(|| format!("--seconds {} is no span of time; 60 is", arguments.seconds))?;
    run_nodes_on_this_thread();
    let bar = progress(
        Some(u64::from(ROUNDS) * SUBJECTS as u64),
        "{bar:30} {pos}/{len} turns, {eta} left",
    );
    let mut subjects = subjects(arguments.calls)?;
    for _ in 0..ROUNDS {
        for subject in &mut subjects {
            subject.turn(turn)?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let rows: Vec<Row> = subjects
        .iter()
        .map(|subject| subject.row(&subjects))
        .collect();
    if arguments.json {
        print_json(arguments, &rows);
    } else {
        print_table(arguments, &rows);
    }
    Ok(true)
}

/// How many [`subjects`] there are.
const SUBJECTS: usize = 7;

fn subjects(calls: NonZeroU32) -> Result<Vec<Subject>, String> {
    let mut subjects = Vec::new();
    for tick in [1, 5] {
        let mut raft = Box::new(IdleRaft::new(1, NODES as u64, Duration::from_millis(tick)));
        raft.form()?;
        raft.run_for(WARM_UP)?;
        subjects.push(Subject::new("idle raft", Some(tick), Engine::Raft(raft)));
    }
    for (name, tick, transport, calls) in [
        ("whole stack, load", 1, Transport::Tcp, Some(calls)),
        ("whole stack, load", 5, Transport::Tcp, Some(calls)),
        ("whole stack, load, QUIC", 5, Transport::Quic, Some(calls)),
        ("whole stack, no load", 5, Transport::Tcp, None),
    ] {
        let plan = plan(tick, transport, calls);
        let mut world = Box::new(World::new(plan, false));
        let formed = world.form().and_then(|()| world.run_for(WARM_UP));
        formed.map_err(|failure| format!("{name}: {failure}"))?;
        subjects.push(Subject::new(name, Some(tick), Engine::Stack(world)));
    }
    subjects.push(Subject::new(
        "engines alone, faults",
        None,
        Engine::Engines(Schedules::default()),
    ));
    debug_assert_eq!(subjects.len(), SUBJECTS);
    Ok(subjects)
}

/// Five nodes with the default timing, checked like those of the swarm.
fn plan(tick: u64, transport: Transport, calls: Option<NonZeroU32>) -> Plan {
    let quiet = Plan::quiet(1, NODES);
    let every = match calls {
        Some(calls) => Duration::from_secs(NODES as u64) / calls.get(),
        // Never within a measurement.
        None => Duration::from_secs(1_000_000_000),
    };
    Plan {
        tick: Duration::from_millis(tick),
        transport,
        bootstrap_expect: NODES as u16,
        shards: SHARDS,
        timing: funk::Timing::lan(),
        load: Load {
            every,
            keys: u64::from(SHARDS),
            ..quiet.load
        },
        ..quiet
    }
}

/// What is measured.
struct Subject {
    name: &'static str,
    /// Of the simulated network, in milliseconds.
    tick: Option<u64>,
    engine: Engine,
    turns: Vec<Turn>,
}

enum Engine {
    Raft(Box<IdleRaft>),
    Stack(Box<World>),
    Engines(Schedules),
}

/// Schedules of the engine simulator, one after the other, with everything that happens in them.
#[derive(Default)]
struct Schedules {
    next_seed: u64,
    counts: Counts,
}

/// What was counted since the beginning.
#[derive(Clone, Copy, Default)]
struct Counts {
    simulated: Duration,
    calls: u64,
    messages: u64,
}

impl Engine {
    /// A little more.
    fn go_on(&mut self) -> Result<(), String> {
        match self {
            Self::Raft(raft) => raft.run_for(BETWEEN_LOOKS),
            Self::Stack(world) => {
                let ran = world.run_for(BETWEEN_LOOKS);
                ran.map_err(|failure| failure.to_string())
            }
            Self::Engines(schedules) => schedules.run_one(),
        }
    }

    fn counts(&mut self) -> Counts {
        match self {
            Self::Raft(raft) => Counts {
                simulated: raft.elapsed(),
                calls: 0,
                messages: raft.messages(),
            },
            Self::Stack(world) => Counts {
                simulated: world.sim.elapsed(),
                calls: world.history.count().0 as u64,
                messages: world.sim.simulation().network().messages(),
            },
            Self::Engines(schedules) => schedules.counts,
        }
    }
}

impl Schedules {
    fn run_one(&mut self) -> Result<(), String> {
        let seed = self.next_seed;
        self.next_seed += 1;
        let profile = Profile {
            nodes: NODES,
            voters: NODES,
            shards: SHARDS,
            ..Profile::new(seed)
        };
        let outcome = engine_world::run_with(profile, seed, false);
        let outcome = outcome.map_err(|failure| failure.to_string())?;
        self.counts.simulated += outcome.simulated;
        self.counts.calls += outcome.tally.count("guards given");
        self.counts.messages += outcome.messages;
        Ok(())
    }
}

/// What came of one turn.
struct Turn {
    counted: Counts,
    took: Duration,
}

impl Turn {
    /// Simulated seconds for each real one.
    fn speed(&self) -> f64 {
        self.counted.simulated.as_secs_f64() / self.took.as_secs_f64()
    }

    /// A count for each simulated second.
    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.counted.simulated.as_secs_f64()
    }
}

impl Subject {
    fn new(name: &'static str, tick: Option<u64>, engine: Engine) -> Self {
        Self {
            name,
            tick,
            engine,
            turns: Vec::new(),
        }
    }

    /// Goes on for so much wall time, and a little at least.
    // The wall clock is what is measured.
    #[allow(clippy::disallowed_methods)]
    fn turn(&mut self, wall: Duration) -> Result<(), String> {
        let before = self.engine.counts();
        let began = Instant::now();
        loop {
            let gone_on = self.engine.go_on();
            gone_on.map_err(|error| format!("{}: {error}", self.name))?;
            if began.elapsed() >= wall {
                break;
            }
        }
        let took = began.elapsed();
        let after = self.engine.counts();
        let counted = Counts {
            simulated: after.simulated - before.simulated,
            calls: after.calls - before.calls,
            messages: after.messages - before.messages,
        };
        self.turns.push(Turn { counted, took });
        Ok(())
    }

    /// Of the turns.
    fn median(&self, figure: impl Fn(&Turn) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.turns.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    }

    fn row(&self, all: &[Subject]) -> Row {
        let speed = self.median(Turn::speed);
        let mut raft = all
            .iter()
            .filter(|subject| matches!(subject.engine, Engine::Raft(_)));
        let raft = raft.find(|raft| raft.tick == self.tick);
        let speeds = self.turns.iter().map(Turn::speed);
        Row {
            name: self.name,
            tick: self.tick,
            speed,
            slowest: speeds.clone().fold(f64::INFINITY, f64::min),
            fastest: speeds.fold(0.0, f64::max),
            calls: self.median(|turn| turn.rate(turn.counted.calls)),
            messages: self.median(|turn| turn.rate(turn.counted.messages)),
            ratio: raft.map(|raft| speed / raft.median(Turn::speed)),
        }
    }
}

/// What is printed of a subject.
struct Row {
    name: &'static str,
    tick: Option<u64>,
    /// Simulated seconds for each real one: median, and both ends.
    speed: f64,
    slowest: f64,
    fastest: f64,
    /// For each simulated second.
    calls: f64,
    messages: f64,
    /// To the speed of bare raft at the same tick.
    ratio: Option<f64>,
}

fn print_table(arguments: &Arguments, rows: &[Row]) {
    println!(
        "{NODES} nodes, {SHARDS} shards, one thread, medians of {ROUNDS} turns in {} s of wall time{}",
        arguments.seconds,
        if cfg!(debug_assertions) {
            "; A BUILD WITH DEBUG ASSERTIONS: use a release build"
        } else {
            ""
        }
    );
    println!(
        "{:<24} {:>5} {:>8} {:>15} {:>8} {:>10} {:>13}",
        "", "tick", "sim s/s", "from..to", "calls/s", "messages/s", "to idle raft"
    );
    for row in rows {
        let tick = row
            .tick
            .map_or_else(|| "-".to_owned(), |tick| format!("{tick} ms"));
        let ends = format!("{:.0}..{:.0}", row.slowest, row.fastest);
        let ratio = row
            .ratio
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
        println!(
            "{:<24} {tick:>5} {:>8.1} {ends:>15} {:>8.1} {:>10.0} {ratio:>13}",
            row.name, row.speed, row.calls, row.messages
        );
    }
    println!(
        "calls/s and messages/s are for each simulated second; sim s/s are simulated seconds for each real one"
    );
}

fn print_json(arguments: &Arguments, rows: &[Row]) {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "name": row.name,
                "tick_ms": row.tick,
                "simulated_s_per_s": row.speed,
                "slowest": row.slowest,
                "fastest": row.fastest,
                "calls_per_simulated_s": row.calls,
                "messages_per_simulated_s": row.messages,
                "ratio_to_idle_raft": row.ratio,
            })
        })
        .collect();
    let summary = json!({
        "nodes": NODES,
        "shards": SHARDS,
        "seconds": arguments.seconds,
        "calls": arguments.calls,
        "turns": ROUNDS,
        "debug_assertions": cfg!(debug_assertions),
        "measured": rows,
    });
    println!("{summary:#}");
}
