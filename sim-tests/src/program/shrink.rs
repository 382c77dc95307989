//! `sim shrink`: the smallest plan that still breaks the invariant.

use std::path::PathBuf;

use clap::Args;
use funk_sim_tests::stack::Plan;
use funk_sim_tests::stack::shrink::{self, Progress};

use super::replay::read_plan;
use super::{Transport, keep_panics_of_nodes_quiet, me, run_nodes_on_this_thread};
use crate::Done;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The seed of the swarm that fails.
    #[arg(required_unless_present = "plan")]
    seed: Option<u64>,
    /// Shrinks this plan instead.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    plan: Option<PathBuf>,
    /// What the nodes talk over.
    #[arg(long, value_enum)]
    transport: Option<Transport>,
    /// A deliberate fault to switch on (needs `--cfg funk_mutants`).
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Where the plan is written. Without it: `shrunk-SEED.json`.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Runs at most.
    #[arg(long, default_value_t = 500)]
    runs: u64,
}

const EXAMPLES: &str = "\
Examples:
  sim shrink 17                          writes shrunk-17.json
  sim shrink 17 --out plan.json && sim replay --plan plan.json --svg timeline.svg
  sim shrink 3 --mutant ack-before-drain";

pub(crate) fn run(arguments: &Arguments) -> Done {
    let (name, mut plan) = match (&arguments.plan, arguments.seed) {
        (Some(path), _) => ("plan".to_owned(), read_plan(path)?),
        (None, Some(seed)) => (seed.to_string(), Plan::swarm(seed)),
        (None, None) => return Err("give a SEED or --plan FILE".to_owned()),
    };
    if let Some(transport) = arguments.transport {
        plan.transport = transport.into();
    }
    if let Some(mutant) = &arguments.mutant {
        funk_sim_tests::mutation::switch_on(mutant)?;
    }
    let out = arguments.out.clone();
    let out = out.unwrap_or_else(|| format!("shrunk-{name}.json").into());
    keep_panics_of_nodes_quiet();
    run_nodes_on_this_thread();
    let mut progress = |step: Progress<'_>| {
        let Progress {
            tried,
            kept,
            plan,
            runs,
        } = step;
        let verdict = if kept { "still fails" } else { "needed" };
        println!(
            "run {runs}: {} faults, {} nodes; {tried}: {verdict}",
            plan.strikes.len(),
            plan.nodes.len()
        );
    };
    let shrunk = shrink::shrink(&plan, arguments.runs, &mut progress).map_err(|outcome| {
        format!(
            "nothing to shrink: it holds, {:?} simulated; `{} run` finds seeds that do not",
            outcome.simulated,
            me()
        )
    })?;
    println!("{:#?}", shrunk.plan);
    println!(
        "{} of {} faults, {} of {} nodes after {} runs; {}",
        shrunk.plan.strikes.len(),
        plan.strikes.len(),
        shrunk.plan.nodes.len(),
        plan.nodes.len(),
        shrunk.runs,
        shrunk.failure
    );
    let written = std::fs::write(&out, shrunk.plan.to_json() + "\n");
    written.map_err(|error| format!("cannot write {}: {error}", out.display()))?;
    let mutant = arguments.mutant.as_ref();
    let mutant = mutant.map_or_else(String::new, |name| format!(" --mutant {name}"));
    println!(
        "    {} replay --plan {}{mutant} --log -",
        me(),
        out.display()
    );
    Ok(true)
}
