//! `sim mutants`: are the checks able to see?

use clap::Args;
use funk_sim_tests::mutation::{self, Caught, Row, Trials};
use serde_json::json;

use super::run_nodes_everywhere;
use crate::Done;

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Only this fault.
    #[arg(long)]
    only: Option<String>,
    /// Seeds of the engine simulator to try at most.
    #[arg(long, default_value_t = 2_000)]
    engine: u64,
    /// Seeds of the swarm of the whole stack to try at most, if the engine simulator does not see the fault.
    #[arg(long, default_value_t = 2_000)]
    swarm: u64,
    /// Leaves the scripted scenarios out, which are tried last.
    #[arg(long)]
    no_scenarios: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Builds with the faults in them are made with
  RUSTFLAGS=\"--cfg tokio_unstable --cfg funk_mutants\" CARGO_TARGET_DIR=target/mutants \\
      cargo build --release -p funk-sim-tests

Examples:
  sim mutants                              every fault; the table of docs/simulation.md
  sim mutants --only ack-before-drain
  sim replay 1 --mutant ack-before-drain   look at one

Status: 0 all were caught, 1 one was not.";

pub(crate) fn run(arguments: &Arguments) -> Done {
    run_nodes_everywhere();
    let trials = Trials {
        engine: arguments.engine,
        swarm: arguments.swarm,
        scenarios: !arguments.no_scenarios,
    };
    if !arguments.json {
        println!(
            "{:<30} {:<28} {:>6}  what was seen",
            "fault", "caught by", "seeds"
        );
    }
    let print = |row: &Row| {
        if arguments.json {
            println!("{}", as_json(row));
        } else {
            println!("{row}");
        }
    };
    let rows = mutation::run(trials, arguments.only.as_deref(), print)?;
    Ok(rows.iter().all(|row| row.caught.is_some()))
}

fn as_json(row: &Row) -> serde_json::Value {
    let caught = row.caught.as_ref().map(|(caught, seen)| {
        let (by, seed) = match caught {
            Caught::Engine(seed) => ("engine", Some(*seed)),
            Caught::Swarm(seed) => ("swarm", Some(*seed)),
            Caught::Scenario(name) => (*name, None),
        };
        json!({ "by": by, "seed": seed, "invariant": seen.invariant, "what": seen.what })
    });
    json!({ "fault": row.fault, "caught": caught })
}
