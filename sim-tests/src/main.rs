//! The program `sim`: replay a schedule, run many.

use clap::{Parser, Subcommand};
use funk_sim_tests::engine_world;
use funk_sim_tests::sweep::{Seeds, Sweep};

#[derive(Parser)]
#[command(about = "Simulates clusters: every schedule follows from its seed")]
struct Arguments {
    #[command(subcommand)]
    simulator: Simulator,
}

#[derive(Subcommand)]
enum Simulator {
    /// Production engines over a model raft, without a runtime.
    #[command(subcommand)]
    Engine(EngineCommand),
}

#[derive(Subcommand)]
enum EngineCommand {
    /// Runs one schedule and prints what happens.
    Replay {
        /// Its seed.
        seed: u64,
        /// A deliberate fault to switch on (needs `--cfg funk_mutants`).
        #[arg(long)]
        mutant: Option<String>,
        /// Prints the verdict only.
        #[arg(long)]
        quiet: bool,
    },
    /// Runs the schedules of a range of seeds, `A..B`.
    Run {
        /// The range.
        seeds: Seeds,
        /// How many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Switches each deliberate fault on and counts the schedules until it is caught (needs `--cfg funk_mutants`).
    Mutants {
        /// Schedules to try at most.
        #[arg(long, default_value_t = 2_000)]
        most: u64,
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
}

fn main() -> std::process::ExitCode {
    let Simulator::Engine(command) = Arguments::parse().simulator;
    let well = match command {
        EngineCommand::Replay {
            seed,
            mutant,
            quiet,
        } => replay(seed, mutant.as_deref(), !quiet),
        EngineCommand::Run { seeds, threads } => {
            let report = Sweep {
                threads,
                ..Sweep::new(seeds)
            }
            .run();
            println!("{report}");
            report.failures.is_empty()
        }
        EngineCommand::Mutants { most, only } => {
            funk_sim_tests::mutation::run(most, only.as_deref())
        }
    };
    if well {
        std::process::ExitCode::SUCCESS
    } else {
        std::process::ExitCode::FAILURE
    }
}

fn replay(seed: u64, mutant: Option<&str>, trace: bool) -> bool {
    if let Some(name) = mutant
        && let Err(error) = funk_sim_tests::mutation::switch_on(name)
    {
        eprintln!("{error}");
        return false;
    }
    match engine_world::run(seed, trace) {
        Ok(outcome) => {
            println!(
                "seed {seed} held: {:?} simulated, recovered in {:?}",
                outcome.simulated, outcome.recovered_in
            );
            print!("{}", outcome.tally);
            true
        }
        Err(failure) => {
            println!("{failure}");
            false
        }
    }
}
