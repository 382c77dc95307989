//! `funk call`: one call of the counter service, or a load of them.

mod load;
mod report;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::arguments::{address, seconds};
use crate::client::ClientArgs;
use crate::failure::Failure;

/// Calls in flight at most.
const MAX_CONCURRENCY: u32 = 4_096;
/// Keys at most.
const MAX_KEYS: u32 = 1_000_000;
/// Calls a second at most.
const MAX_RATE: f64 = 1e6;

const EXAMPLES: &str = "\
Examples:
  funk call --connect 127.0.0.1:7401 --increment apples
  funk call --connect 127.0.0.1:7401,127.0.0.1:7402 --get apples
  funk call --connect 127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403 \\
       --get --increment --idempotent --keys 100 --concurrency 16 --rate 500 --seconds 30 --deadline 10 k

Any of the addresses is asked to deliver a call; when it does not answer, the next one is. An increment that may have
been executed is `ambiguous`, unless --idempotent: then it has an id, is applied once, and is sent again.

With --json each call is a line on standard output when it has ended, microseconds by the machine's monotonic clock:
  {\"start_us\":..,\"end_us\":..,\"key\":..,\"op\":\"get\"|\"increment\",\"id\":..,\"owner\":..,\"shard\":..,\"epoch\":..,\"value\":..,
   \"outcome\":\"ok\"|\"failed\"|\"ambiguous\",\"error\":..,\"attempts\":..}
and the last line is {\"summary\":{\"ok\":..,\"failed\":..,\"ambiguous\":..,\"seconds\":..,\"rate\":..,\"latency_us\":{..},
  \"machine_stall_ms\":..}}, the last of it how long this machine itself stood still at most.
SIGINT or SIGTERM ends a load early: calls in flight are finished and the summary is printed.

Exit status: 0 all calls were answered; 1 some failed; 2 bad arguments; 3 none failed, but some are ambiguous.";

/// Arguments of `funk call`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CallArgs {
    /// Addresses of some nodes, separated by commas
    #[arg(long, required = true, value_name = "ADDR,...", value_parser = address, value_delimiter = ',')]
    connect: Vec<SocketAddr>,
    #[command(flatten)]
    client: ClientArgs,
    /// Read the counter (what is done if nothing else is asked for)
    #[arg(long)]
    get: bool,
    /// Add one to the counter; with --get some calls do one and some the other
    #[arg(long)]
    increment: bool,
    /// The counter's name; with --keys what all names begin with
    key: String,
    /// How many calls; without it 1, or with --seconds any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// For how long calls are begun
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Calls in flight at once
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CONCURRENCY)))]
    concurrency: u32,
    /// Calls a second at most; without it as many as there are answers
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Use the keys KEY-0 to KEY-(N-1), at random
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_KEYS)))]
    keys: Option<u32>,
    /// Use those keys one after the other, not at random
    #[arg(long, requires = "keys")]
    in_turn: bool,
    /// Read the copy that the owner of this shard has of the counter; unlike a get it may lag behind
    #[arg(long, value_name = "SHARD", conflicts_with_all = ["increment", "mix"])]
    replica: Option<u32>,
    /// Share of gets, 0 to 1, when both operations are wanted
    #[arg(long, value_name = "SHARE", value_parser = share)]
    mix: Option<f64>,
    /// How long a call may take
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    deadline: Duration,
    /// Give each increment an id, so that it can be sent again and is applied once
    #[arg(long)]
    idempotent: bool,
    /// One JSON object a line on standard output
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= MAX_RATE => Ok(rate),
        _ => Err(format!("a number above 0 and up to {MAX_RATE} is possible")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("a number from 0 to 1 is possible".to_owned()),
    }
}

impl CallArgs {
    /// Share of gets among the calls.
    fn gets(&self) -> f64 {
        match (self.get, self.increment, self.mix) {
            (_, _, Some(share)) => share,
            (true, true, None) => 0.5,
            (false, true, None) => 0.0,
            (_, false, None) => 1.0,
        }
    }

    fn check(&self) -> Result<(), Failure> {
        if self.mix.is_some() && self.get != self.increment {
            let only = if self.get { "--get" } else { "--increment" };
            return Err(Failure::bad_arguments(format!(
                "--mix needs both --get and --increment (or neither), not {only} alone"
            )));
        }
        if self.key.is_empty() {
            return Err(Failure::bad_arguments("KEY is empty: name a counter"));
        }
        if self.deadline.is_zero() {
            return Err(Failure::bad_arguments(
                "--deadline 0 leaves no time for an answer: give some seconds, for example 0.5",
            ));
        }
        Ok(())
    }
}

pub(crate) async fn run(arguments: CallArgs) -> Result<u8, Failure> {
    arguments.check()?;
    load::run(arguments).await
}
