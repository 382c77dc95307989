//! `sim engine`: the simulator of engines alone.

use clap::Subcommand;
use funk_sim_tests::engine_world;
use funk_sim_tests::sweep::{Seeds, Sweep};

const REPLAY_EXAMPLES: &str = "\
Examples:
  sim engine replay 17
  sim engine replay 17 --mutant ack-before-drain --quiet";
const RUN_EXAMPLES: &str = "\
Examples:
  sim engine run 0..2000
  sim engine run 0..100000 --threads 8";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs one schedule and prints what happens.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay {
        /// Its seed.
        seed: u64,
        /// With nodes of different capacities, shards of different weights, and changes in steps.
        #[arg(long)]
        uneven: bool,
        /// A deliberate fault to switch on (needs `--cfg funk_mutants`).
        #[arg(long)]
        mutant: Option<String>,
        /// Prints the verdict only.
        #[arg(long)]
        quiet: bool,
    },
    /// Runs the schedules of a range of seeds, `A..B`.
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// The range.
        seeds: Seeds,
        /// How many threads.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
}

/// `false`: something did not hold.
pub(crate) fn run(command: Command) -> bool {
    match command {
        Command::Replay {
            seed,
            uneven,
            mutant,
            quiet,
        } => replay(seed, uneven, mutant.as_deref(), !quiet),
        Command::Run { seeds, threads } => {
            let report = Sweep {
                threads,
                ..Sweep::new(seeds)
            }
            .run();
            println!("{report}");
            report.failures.is_empty()
        }
    }
}

fn replay(seed: u64, uneven: bool, mutant: Option<&str>, trace: bool) -> bool {
    if let Some(name) = mutant
        && let Err(error) = funk_sim_tests::mutation::switch_on(name)
    {
        eprintln!("{error}");
        return false;
    }
    let run = if uneven {
        engine_world::run_uneven
    } else {
        engine_world::run
    };
    match run(seed, trace) {
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
