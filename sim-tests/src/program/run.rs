//! `sim run`: many seeds of the swarm.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use funk_sim_tests::stack::sweep::{Ran, Report, Sweep};
use funk_sim_tests::stack::sweep_reached::{self, Expected};
use funk_sim_tests::sweep::Seeds;
use indicatif::ProgressBar;
use serde_json::json;

use super::{
    Transport, keep_panics_of_nodes_quiet, pinned, progress, replay_command,
    run_nodes_on_this_thread,
};
use crate::Done;

/// Seeds that are run if nothing is said.
const SEEDS: u64 = 300;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Which seeds, `A..B`. Without it: 300 from a random one, which is printed.
    #[arg(long)]
    seeds: Option<Seeds>,
    /// Runs the pinned seeds of both simulators instead: those that reach what few others do.
    #[arg(long, conflicts_with_all = ["seeds", "minutes", "transport", "require_reached", "stop", "mutant"])]
    pinned: bool,
    /// How many threads; each seed runs on one.
    #[arg(long, default_value = "2")]
    jobs: NonZeroUsize,
    /// What the nodes talk over.
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    transport: Transport,
    /// Goes on with new seeds, from the first one, until so many minutes have passed.
    #[arg(long)]
    minutes: Option<f64>,
    /// Prints one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Fails if a situation was not reached that this many seeds should reach (they are listed in any case).
    #[arg(long)]
    require_reached: bool,
    /// Ends with the first failure.
    #[arg(long)]
    stop: bool,
    /// A deliberate fault to switch on (needs `--cfg funk_mutants`).
    #[arg(long)]
    mutant: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  sim run                                       300 seeds from a random one
  sim run --seeds 0..2000 --require-reached     these seeds; every rare situation must be met
  sim run --minutes 10 --jobs 2                 new seeds for ten minutes
  sim run --seeds 0..200 --transport quic       over the transport that ships
  sim run --pinned                              those that are run every time
  sim run --seeds 0..300 --json | jq .failures";

pub(crate) fn run(arguments: &Arguments) -> Done {
    if arguments.pinned {
        return pinned::run(arguments.jobs, arguments.json);
    }
    let sweep = sweep(arguments)?;
    if !arguments.json {
        println!("base seed {}", sweep.from);
    }
    keep_panics_of_nodes_quiet();
    let bar = bar(&sweep);
    let (failed, simulated_ms) = (AtomicU64::new(0), AtomicU64::new(0));
    let prepare = || {
        run_nodes_on_this_thread();
        if let Some(name) = &arguments.mutant {
            // That there is one of the name was checked before.
            let _ = funk_sim_tests::mutation::switch_on(name);
        }
    };
    let after = |ran: &Ran| {
        let span = match &ran.result {
            Ok(outcome) => outcome.simulated,
            Err(failure) => {
                failed.fetch_add(1, Ordering::Relaxed);
                let command =
                    replay_command(ran.seed, arguments.transport, arguments.mutant.as_deref());
                bar.suspend(|| eprintln!("seed {} {failure}\n    {command}", ran.seed));
                failure.at
            }
        };
        let ms = simulated_ms.fetch_add(span.as_millis() as u64, Ordering::Relaxed);
        let speed = ms as f64 / 1e3 / bar.elapsed().as_secs_f64().max(1e-9);
        bar.set_message(format!(
            "{} failed, {speed:.0} simulated s/s",
            failed.load(Ordering::Relaxed)
        ));
        bar.inc(1);
    };
    let report = sweep.run(prepare, after);
    bar.finish_and_clear();
    let overdue = sweep_reached::overdue(&report.tally, report.ran());
    if arguments.json {
        print_json(arguments, &sweep, &report, &overdue);
    } else {
        print_text(arguments, &report, &overdue);
    }
    let reached = overdue.is_empty() || !arguments.require_reached;
    Ok(report.failures.is_empty() && reached)
}

fn sweep(arguments: &Arguments) -> Result<Sweep, String> {
    if let Some(name) = &arguments.mutant {
        funk_sim_tests::mutation::switch_on(name)?;
    }
    let seeds = arguments.seeds.unwrap_or_else(|| {
        let from = some_seed();
        Seeds {
            from,
            to: from + SEEDS,
        }
    });
    if seeds.from >= seeds.to {
        let Seeds { from, to } = seeds;
        return Err(format!(
            "--seeds {from}..{to} holds no seed; {from}..{} holds one",
            from + 1
        ));
    }
    let budget = match arguments.minutes {
        Some(minutes) => Some(
            Duration::try_from_secs_f64(minutes * 60.0)
                .map_err(|_| format!("--minutes {minutes} is no span of time; 0.5 is"))?,
        ),
        None => None,
    };
    Ok(Sweep {
        jobs: arguments.jobs.get(),
        transport: arguments.transport.into(),
        budget,
        stop_at_failure: arguments.stop,
        ..Sweep::new(
            seeds.from,
            if budget.is_some() { u64::MAX } else { seeds.to },
        )
    })
}

/// One that was hardly used before, short enough to be typed.
// Which seeds are looked at is no part of any run.
#[allow(clippy::disallowed_methods)]
fn some_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_micros() as u64 % 1_000_000_000
}

fn bar(sweep: &Sweep) -> ProgressBar {
    let (of, template) = match sweep.budget {
        None => (
            Some(sweep.to - sweep.from),
            "{bar:30} {pos}/{len} seeds, {per_sec}, {msg}, {eta} left",
        ),
        Some(_) => (None, "{spinner} {pos} seeds, {per_sec}, {msg}, {elapsed}"),
    };
    progress(of, template)
}

fn print_text(arguments: &Arguments, report: &Report, overdue: &[Expected]) {
    print!("{}", report.tally);
    let missing = sweep_reached::missing(&report.tally);
    if missing.is_empty() {
        println!("every situation that should be reached was reached");
    }
    for situation in &missing {
        let Expected { name, within } = situation;
        let late = if overdue.contains(situation) {
            "LATE"
        } else {
            "not yet"
        };
        println!("never reached: {name} (expected within {within} seeds: {late})");
    }
    for (seed, failure) in &report.failures {
        let command = replay_command(*seed, arguments.transport, arguments.mutant.as_deref());
        println!("seed {seed} FAILED {failure}\n    {command}");
    }
    let slowest = report.slowest.map_or_else(String::new, |(span, seed)| {
        format!("; slowest recovery {span:?}, seed {seed}")
    });
    println!(
        "{} seeds held, {} failed; {:.0} s simulated in {:.1} s: {:.1} seeds/s, {:.0} simulated s/s on {} threads{slowest}",
        report.held,
        report.failures.len(),
        report.simulated.as_secs_f64(),
        report.took.as_secs_f64(),
        report.ran() as f64 / report.took.as_secs_f64().max(1e-9),
        report.speed(),
        arguments.jobs,
    );
    if arguments.require_reached && !overdue.is_empty() {
        println!(
            "{} situations should have been reached: run other seeds, or see what no longer happens",
            overdue.len()
        );
    }
}

fn print_json(arguments: &Arguments, sweep: &Sweep, report: &Report, overdue: &[Expected]) {
    let failures: Vec<_> = report
        .failures
        .iter()
        .map(|(seed, failure)| {
            json!({
                "seed": seed,
                "invariant": failure.violation.invariant,
                "what": failure.violation.what,
                "at_s": failure.at.as_secs_f64(),
                "replay": replay_command(*seed, arguments.transport, arguments.mutant.as_deref()),
            })
        })
        .collect();
    let names = |situations: &[Expected]| -> Vec<&str> {
        situations.iter().map(|situation| situation.name).collect()
    };
    let tally: serde_json::Map<_, _> = report
        .tally
        .iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    let summary = json!({
        "base_seed": sweep.from,
        "transport": arguments.transport.name(),
        "mutant": arguments.mutant,
        "jobs": arguments.jobs,
        "seeds": report.ran(),
        "held": report.held,
        "failures": failures,
        "simulated_s": report.simulated.as_secs_f64(),
        "took_s": report.took.as_secs_f64(),
        "simulated_s_per_s": report.speed(),
        "slowest_recovery_s": report.slowest.map(|(span, _)| span.as_secs_f64()),
        "slowest_recovery_seed": report.slowest.map(|(_, seed)| seed),
        "reached": tally,
        "never_reached": names(&sweep_reached::missing(&report.tally)),
        "overdue": names(overdue),
        "fingerprint": format!("{:016x}", report.fingerprint),
    });
    println!("{summary:#}");
}
