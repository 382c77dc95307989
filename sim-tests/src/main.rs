//! The program `sim`: run many seeds, replay one, look at what happened.

mod program;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use program::{determinism, engine, mutants, replay, run, shrink, speed};

/// What a command comes to: whether all is well, or why it could not be carried out.
type Done = Result<bool, String>;

#[derive(Parser)]
#[command(
    about = "Simulates clusters: everything that happens follows from a seed",
    after_help = EXAMPLES,
    subcommand_required = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sim run --seeds 0..300 --jobs 2         the whole stack, 300 seeds on two threads
  sim replay 17 --log -                   what happened in seed 17
  sim shrink 17                           what seed 17 needs to fail
  sim check-determinism --seeds 100       a seed is the same run everywhere
  sim speed                               how fast all that is
  sim engine run 0..2000                  engines alone, many times as fast

`sim COMMAND --help` shows more of them. Status: 0 all held, 1 something did not, 2 wrong arguments.";

#[derive(Subcommand)]
enum Command {
    /// Runs seeds of the swarm: whole nodes, a load, faults, every invariant after every step.
    Run(run::Arguments),
    /// Runs one seed or plan and writes down what happens.
    Replay(replay::Arguments),
    /// Switches each deliberate fault on: which check sees it, and after how many seeds?
    Mutants(mutants::Arguments),
    /// Takes faults, nodes and time away from a run that fails, as long as it fails in the same way.
    Shrink(shrink::Arguments),
    /// Runs each seed in several ways: all must be the same run, to the byte.
    CheckDeterminism(determinism::Arguments),
    /// How fast the simulators are, next to bare raft.
    Speed(speed::Arguments),
    /// Production engines over a model raft, without a runtime.
    #[command(subcommand)]
    Engine(engine::Command),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Mutants(arguments) => mutants::run(&arguments),
        Command::Shrink(arguments) => shrink::run(&arguments),
        Command::CheckDeterminism(arguments) => determinism::run(&arguments),
        Command::Speed(arguments) => speed::run(&arguments),
        Command::Engine(command) => Ok(engine::run(command)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
