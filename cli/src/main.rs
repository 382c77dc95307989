//! The program `funk`.
#![allow(
    clippy::disallowed_methods,
    reason = "this program stands outside the nodes: it measures them with the machine's own clock and threads"
)]

mod arguments;
mod ca;
mod call;
mod client;
mod cordon;
mod counter;
mod credentials;
mod demo;
mod failure;
mod inspect;
mod node;
mod recover;
mod status;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use funk::Cordon;
use tracing_subscriber::EnvFilter;

use failure::{BAD_ARGUMENTS, Failure, finish};

/// Names the log filter of all nodes; the syntax is that of `RUST_LOG`.
const LOG_VARIABLE: &str = "FUNK_LOG";
/// Without a filter: only what means that something is broken.
const LOG_DEFAULT: &str = "error";
/// What a node refuses and why; openraft also warns of each heartbeat that a dead node does not answer.
const LOG_DEFAULT_OF_NODES: &str = "warn,openraft=error";
/// Exit status after Ctrl-C, by convention.
const INTERRUPTED: u8 = 130;

/// Turns any service into a cluster.
#[derive(Parser)]
#[command(name = "funk", version, arg_required_else_help = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cluster in this process and watch it survive: kills, restarts, a new leader, a node that leaves
    Demo(demo::DemoArgs),
    /// Run one node with the counter service
    Node(node::NodeArgs),
    /// Call the counter service of running nodes, once or many times
    Call(call::CallArgs),
    /// Show what a running node says of itself and of the others
    Status(status::StatusArgs),
    /// Keep new shards from a node; it keeps those that it has
    #[command(after_help = cordon::CORDON)]
    Cordon(cordon::CordonArgs),
    /// Let a node have shards again
    #[command(after_help = cordon::UNCORDON)]
    Uncordon(cordon::CordonArgs),
    /// Move all shards of a node elsewhere; it stays a member
    #[command(after_help = cordon::DRAIN)]
    Drain(cordon::CordonArgs),
    /// Show what a data directory holds, after checking every byte of it; the node must not run
    Inspect(inspect::InspectArgs),
    /// Make a new cluster from one data directory, when a quorum is lost for good; the node must not run
    Recover(recover::RecoverArgs),
    /// Make an authority and issue certificates
    Ca(ca::CaArgs),
}

fn main() -> ExitCode {
    let Program { command } = Program::parse();
    let log_default = match command {
        Command::Node(_) => LOG_DEFAULT_OF_NODES,
        _ => LOG_DEFAULT,
    };
    let filter = EnvFilter::builder()
        .with_env_var(LOG_VARIABLE)
        .try_from_env()
        .unwrap_or_else(|_| EnvFilter::new(log_default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("funk: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match command {
        Command::Demo(arguments) => run_demo(&arguments, &runtime),
        Command::Node(arguments) => finish("node", runtime.block_on(node::run(arguments))),
        Command::Call(arguments) => finish("call", runtime.block_on(call::run(arguments))),
        Command::Status(arguments) => finish("status", runtime.block_on(status::run(arguments))),
        Command::Cordon(arguments) => {
            let run = cordon::run(arguments, Some(Cordon::Cordoned));
            finish("cordon", runtime.block_on(run))
        }
        Command::Uncordon(arguments) => {
            finish("uncordon", runtime.block_on(cordon::run(arguments, None)))
        }
        Command::Drain(arguments) => {
            let run = cordon::run(arguments, Some(Cordon::Drained));
            finish("drain", runtime.block_on(run))
        }
        Command::Inspect(arguments) => finish("inspect", inspect::run(&arguments)),
        Command::Recover(arguments) => finish("recover", recover::run(&arguments)),
        Command::Ca(arguments) => finish("ca", ca::run(arguments)),
    }
}

/// Writes the last words of a command to standard output.
fn write_out(text: &str) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::error(format!("the result cannot be written: {error}")))?;
    Ok(0)
}

fn run_demo(arguments: &demo::DemoArgs, runtime: &tokio::runtime::Runtime) -> ExitCode {
    let options = match arguments.check(rand::random()) {
        Ok(options) => options,
        Err(errors) => return bad_arguments(&errors),
    };
    runtime.block_on(async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                eprintln!("funk demo: interrupted; nothing is left running");
                ExitCode::from(INTERRUPTED)
            }
            outcome = demo::run(&options) => report(&options, outcome),
        }
    })
}

fn bad_arguments(errors: &[demo::OptionError]) -> ExitCode {
    for error in errors {
        eprintln!("funk demo: {error}");
    }
    eprintln!("funk demo: see `funk demo --help`");
    ExitCode::from(BAD_ARGUMENTS)
}

fn report(options: &demo::Options, outcome: Result<demo::Outcome, demo::DemoError>) -> ExitCode {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("funk demo: {error} (seed {})", options.seed);
            return ExitCode::FAILURE;
        }
    };
    let text = if options.json {
        outcome.json + "\n"
    } else {
        outcome.table
    };
    if let Err(error) = std::io::stdout().lock().write_all(text.as_bytes()) {
        eprintln!("funk demo: the result cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    if outcome.wrong.is_empty() {
        if !options.json {
            println!("\nEverything held.");
        }
        return ExitCode::SUCCESS;
    }
    eprintln!();
    for wrong in &outcome.wrong {
        eprintln!("funk demo: {wrong}");
    }
    eprintln!(
        "funk demo: failed with seed {}; run again with --seed {} for the same victims",
        options.seed, options.seed
    );
    ExitCode::FAILURE
}
