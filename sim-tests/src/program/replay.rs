//! `sim replay`: one run, and what happened in it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use funk_sim_tests::scenarios::{self, Scenario};
use funk_sim_tests::stack::determinism::Fingerprint;
use funk_sim_tests::stack::timeline;
use funk_sim_tests::stack::trace::Trace;
use funk_sim_tests::stack::trace_chrome;
use funk_sim_tests::stack::trace_spans::Window;
use funk_sim_tests::stack::{Plan, World, finish, go_on};

use super::Transport;
use crate::Done;

/// What scenarios are played with if no seed is given, as in the tests.
const SCENARIO_SEED: u64 = 1;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The seed of the swarm.
    #[arg(required_unless_present_any = ["plan", "scenario"])]
    seed: Option<u64>,
    /// Runs this plan instead, as `sim shrink` writes it.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// Plays this scenario, with the seed if one is given; `list` names them all.
    #[arg(long, value_name = "NAME", conflicts_with = "plan")]
    scenario: Option<String>,
    /// What the nodes talk over.
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    /// Writes the plan here, to be changed by hand and run with `--plan`.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Writes a trace here for the Perfetto viewer, <https://ui.perfetto.dev>.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Draws a timeline here, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Trace and picture show only so much before the violation, or before the end: `5s`, `800ms`.
    #[arg(long, value_name = "SPAN", value_parser = super::span)]
    last: Option<Duration>,
    /// For how long the run goes on after a violation, if it is written down: what comes of it is seen.
    #[arg(long, value_name = "SPAN", value_parser = super::span, default_value = "300ms")]
    beyond: Duration,
    /// Writes the event log here, `-`: to the standard output.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The event log holds every message and every renewal of a lease too.
    #[arg(long)]
    messages: bool,
    /// A deliberate fault to switch on (needs `--cfg funk_mutants`).
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Prints the verdict only, not the plan.
    #[arg(long)]
    quiet: bool,
    /// Prints hashes of all messages and all events.
    #[arg(long)]
    fingerprint: bool,
}

const EXAMPLES: &str = "\
Examples:
  sim replay 17                       the plan and the verdict
  sim replay 17 --log -               what happened, a line for each event
  sim replay 17 --log a.log --messages
  sim replay 17 --trace trace.json    for https://ui.perfetto.dev
  sim replay 17 --svg timeline.svg --last 5s
  sim replay --scenario two-elections --svg timeline.svg
  sim replay --plan shrunk.json       what `sim shrink` has written";

pub(crate) fn run(arguments: &Arguments) -> Done {
    if arguments.scenario.as_deref() == Some("list") {
        print!("{}", scenario_list());
        return Ok(true);
    }
    let Subject {
        name,
        plan,
        scenario,
    } = subject(arguments)?;
    if let Some(name) = &arguments.mutant {
        funk_sim_tests::mutation::switch_on(name)?;
    }
    if !arguments.quiet {
        println!("{plan:#?}");
    }
    if let Some(path) = &arguments.save {
        write(path, |out| writeln!(out, "{}", plan.to_json()))?;
    }
    let files = [&arguments.log, &arguments.trace, &arguments.svg];
    let traced = arguments.fingerprint || files.iter().any(|file| file.is_some());
    let mut world = World::new(plan.clone(), traced);
    let result = match scenario {
        Some(scenario) => scenario.play_in(&mut world),
        None => finish(&mut world),
    };
    if arguments.fingerprint {
        let trace = world.take_trace().unwrap_or_default();
        println!("{}", Fingerprint::new(&world, &trace, &result));
        world.put_trace(trace);
    }
    if let (Err(failure), true) = (&result, files.iter().any(|file| file.is_some())) {
        go_on(&mut world, failure, arguments.beyond);
    }
    let trace = world.take_trace().unwrap_or_default();
    if let Some(path) = &arguments.log {
        write(path, |out| log(&trace, arguments.messages, out))?;
    }
    let window = Window::last(arguments.last, &trace);
    if let Some(path) = &arguments.trace {
        write(path, |out| trace_chrome::write(&plan, &trace, window, out))?;
    }
    if let Some(path) = &arguments.svg {
        let verdict = result
            .as_ref()
            .err()
            .map_or("held", |failure| failure.violation.invariant);
        let title = format!("{name}: {verdict}");
        let picture = timeline::svg(&plan, &trace, window, &title);
        write(path, |out| out.write_all(picture.as_bytes()))?;
    }
    match result {
        Ok(outcome) => {
            if !arguments.quiet {
                print!("{}", outcome.tally);
            }
            println!(
                "{name} held: {:?} simulated, recovered in {:?}",
                outcome.simulated, outcome.recovered_in
            );
            Ok(true)
        }
        Err(failure) => {
            println!("{name} FAILED {failure}");
            Ok(false)
        }
    }
}

/// What is run.
struct Subject {
    name: String,
    plan: Plan,
    scenario: Option<&'static Scenario>,
}

fn subject(arguments: &Arguments) -> Result<Subject, String> {
    let scenario = match &arguments.scenario {
        Some(name) => Some(scenarios::find(name).ok_or_else(|| {
            format!(
                "there is no scenario {name:?}; there are\n{}",
                scenario_list()
            )
        })?),
        None => None,
    };
    let (name, mut plan) = match (&arguments.plan, scenario, arguments.seed) {
        (Some(path), ..) => (path.display().to_string(), read_plan(path)?),
        (None, Some(scenario), seed) => {
            let seed = seed.unwrap_or(SCENARIO_SEED);
            (
                format!("{} with seed {seed}", scenario.name),
                (scenario.plan)(seed),
            )
        }
        (None, None, Some(seed)) => (format!("seed {seed}"), Plan::swarm(seed)),
        (None, None, None) => return Err("give a SEED, --plan FILE or --scenario NAME".to_owned()),
    };
    if let Some(transport) = arguments.transport {
        plan.transport = transport.into();
    }
    Ok(Subject {
        name,
        plan,
        scenario,
    })
}

fn scenario_list() -> String {
    let line = |scenario: &Scenario| format!("    {:<34} {}\n", scenario.name, scenario.about);
    scenarios::ALL.iter().map(line).collect()
}

/// A plan from a file.
pub(crate) fn read_plan(path: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Plan::from_json(&text).map_err(|error| {
        let path = path.display();
        format!("{path} is no plan: {error}; `sim shrink SEED --out FILE` writes one")
    })
}

fn log(trace: &Trace, messages: bool, out: &mut dyn Write) -> io::Result<()> {
    trace
        .log(messages)
        .into_iter()
        .try_for_each(|entry| writeln!(out, "{entry}"))
}

/// Writes a file; `-` is the standard output.
fn write(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), String> {
    let written = if path == Path::new("-") {
        content(&mut BufWriter::new(io::stdout().lock()))
    } else {
        File::create(path).and_then(|file| {
            let mut out = BufWriter::new(file);
            content(&mut out)?;
            out.flush()
        })
    };
    written.map_err(|error| format!("cannot write {}: {error}", path.display()))
}
