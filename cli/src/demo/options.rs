//! What the demo can be told, checked as a whole.

use std::time::Duration;

use clap::{Args, ValueEnum};
use funk::Timing;
use funk::limits::MAX_SHARDS;

/// Fewer nodes would lose their quorum when one is killed; more are more than one process should carry.
const NODES: (usize, usize) = (3, 50);
/// Requests a second. Below it the log's stall says little, above it the generator's own share is large.
const RATE: (u32, u32) = (100, 20_000);
/// Longest run.
const MAX_SECONDS: u64 = 3_600;

const EXAMPLES: &str = "\
Examples:
  funk demo                              five nodes, 15 s, a table at the end
  funk demo --nodes 9 --shards 10000     a larger cluster
  funk demo --timing fast --rate 3000    shorter leases, more load
  funk demo --json | jq .faults          one JSON object on standard output
  funk demo --seed 7                     the same victims and keys as another run with seed 7

The nodes live in this process, each with a QUIC endpoint of its own on a loopback port. While requests come from
random nodes for random keys, one node after the other is killed (a power cut: nothing is said to its peers),
restarted without its memory, made to step down, and made to leave. Judged from outside the library: no shard has
two owners at a time, no answer comes from a node that is not the owner, no acknowledged increment is lost
or executed twice, no request fails.

Exit status: 0 if all of that held and every fault took place; 1 if not (the reasons are printed); 2 for bad arguments.
FUNK_LOG=info (or debug, or funk=debug,...) writes the nodes' logs to standard error.";

/// Arguments of `funk demo`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Nodes of the cluster, 3 to 50
    #[arg(long, default_value_t = 5, value_name = "N")]
    nodes: usize,
    /// Shards of the cluster, 1 to 1048576
    #[arg(long, default_value_t = 1_024, value_name = "N")]
    shards: u32,
    /// How long the load lasts; at least 10, with `--timing wan` at least 90
    #[arg(long, default_value_t = 15, value_name = "SECONDS")]
    seconds: u64,
    /// Requests a second, 100 to 20000; half of them increments
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    rate: u32,
    /// Decides victims, keys and callers; drawn (and printed) if not given
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Timing of the cluster: how long leases and elections take
    #[arg(long, value_enum, default_value_t = Preset::Lan)]
    timing: Preset,
    /// Print one JSON object on standard output and nothing else there
    #[arg(long)]
    json: bool,
}

/// Presets of the library.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Preset {
    /// A quiet network: leases of 170 ms
    Fast,
    /// One data centre: leases of 340 ms
    Lan,
    /// Between regions: leases of 3.4 s
    Wan,
}

impl Preset {
    pub(crate) fn timing(self) -> Timing {
        match self {
            Self::Fast => Timing::fast(),
            Self::Lan => Timing::lan(),
            Self::Wan => Timing::wan(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }

    /// How long a request may take. At `wan` the death of a leader takes about as long as others' deadline.
    pub(crate) fn deadline(self) -> Duration {
        Duration::from_secs(if self == Self::Wan { 20 } else { 5 })
    }

    /// How long one fault may take to be over before the demo gives up.
    pub(crate) fn patience(self) -> Duration {
        Duration::from_secs(if self == Self::Wan { 90 } else { 15 })
    }

    /// Undisturbed time after a fault is over.
    pub(crate) fn rest(self) -> Duration {
        Duration::from_millis(if self == Self::Wan { 1_000 } else { 200 })
    }

    /// The least time into which all faults fit on a machine that does not stall.
    fn least_seconds(self) -> u64 {
        if self == Self::Wan { 90 } else { 10 }
    }

    /// Until when the shards of a node that was killed should be answered again: not the leader's, the leader's.
    pub(crate) fn recovery_targets(self) -> (Duration, Duration) {
        let (node, leader) = match self {
            Self::Fast => (200, 300),
            Self::Lan => (450, 600),
            Self::Wan => (4_500, 6_000),
        };
        (Duration::from_millis(node), Duration::from_millis(leader))
    }
}

/// An argument that is not possible.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{argument} {value} is not possible: {allowed}")]
pub(crate) struct OptionError {
    argument: &'static str,
    value: String,
    allowed: String,
}

/// Arguments that were found to be possible.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) nodes: usize,
    pub(crate) shards: u32,
    pub(crate) seconds: u64,
    pub(crate) rate: u32,
    pub(crate) seed: u64,
    pub(crate) preset: Preset,
    pub(crate) json: bool,
}

impl DemoArgs {
    /// Checks everything and reports all that is wrong. `fresh` is the seed if none was given.
    pub(crate) fn check(&self, fresh: u64) -> Result<Options, Vec<OptionError>> {
        let mut errors = Vec::new();
        let mut need = |holds: bool, argument, value: String, allowed: String| {
            if !holds {
                errors.push(OptionError {
                    argument,
                    value,
                    allowed,
                });
            }
        };
        need(
            (NODES.0..=NODES.1).contains(&self.nodes),
            "--nodes",
            self.nodes.to_string(),
            format!(
                "{} to {}, so that a quorum is left when one is killed",
                NODES.0, NODES.1
            ),
        );
        need(
            (1..=MAX_SHARDS).contains(&self.shards),
            "--shards",
            self.shards.to_string(),
            format!("1 to {MAX_SHARDS}"),
        );
        need(
            (RATE.0..=RATE.1).contains(&self.rate),
            "--rate",
            self.rate.to_string(),
            format!("{} to {} requests a second", RATE.0, RATE.1),
        );
        let least = self.timing.least_seconds();
        need(
            (least..=MAX_SECONDS).contains(&self.seconds),
            "--seconds",
            self.seconds.to_string(),
            format!(
                "{least} to {MAX_SECONDS} with --timing {}: all faults must fit",
                self.timing.name()
            ),
        );
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Options {
            nodes: self.nodes,
            shards: self.shards,
            seconds: self.seconds,
            rate: self.rate,
            seed: self.seed.unwrap_or(fresh),
            preset: self.timing,
            json: self.json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parse(arguments: &[&str]) -> Result<Options, Vec<OptionError>> {
        let line = std::iter::once("demo").chain(arguments.iter().copied());
        Program::parse_from(line).demo.check(42)
    }

    #[test]
    fn defaults_are_possible_and_a_seed_is_drawn() {
        let options = parse(&[]).unwrap();
        assert_eq!(
            (options.nodes, options.shards, options.seconds, options.rate),
            (5, 1_024, 15, 1_000)
        );
        assert_eq!((options.seed, options.preset), (42, Preset::Lan));
        assert_eq!(parse(&["--seed", "7"]).unwrap().seed, 7);
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let errors = parse(&[
            "--nodes",
            "2",
            "--shards",
            "0",
            "--rate",
            "1",
            "--seconds",
            "9",
        ])
        .unwrap_err();
        let arguments: Vec<_> = errors.iter().map(|error| error.argument).collect();
        assert_eq!(arguments, ["--nodes", "--shards", "--rate", "--seconds"]);
        assert_eq!(
            errors[0].to_string(),
            "--nodes 2 is not possible: 3 to 50, so that a quorum is left when one is killed"
        );
    }

    #[test]
    fn slow_timing_needs_a_longer_run() {
        assert!(parse(&["--timing", "wan", "--seconds", "30"]).is_err());
        assert!(parse(&["--timing", "wan", "--seconds", "90"]).is_ok());
        assert!(parse(&["--timing", "fast", "--seconds", "10"]).is_ok());
    }
}
