//! Seeds that are run every time, each for a situation that few others reach.
//!
//! A seed means its options, and they stay; but what comes of them changes with every change of the nodes' timing. So each
//! names what it is to reach, and one that does not reach it any more says so: then another should take its place. A seed
//! that found a bug belongs here too, with the situation in which it did.

use std::fmt;

use crate::engine_world;
use crate::stack::plan::Transport;
use crate::stack::{self, Plan};
use crate::tally::Tally;

/// What a seed is one of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Simulator {
    /// The swarm of whole nodes: `sim replay`.
    Stack(Transport),
    /// The engines alone: `sim engine replay`.
    Engines,
}

/// A seed with its reason.
#[derive(Clone, Copy, Debug)]
pub struct Pin {
    /// Of which simulator.
    pub simulator: Simulator,
    /// The seed.
    pub seed: u64,
    /// What the run reaches, as it is counted.
    pub reaches: &'static str,
    /// Why that is worth a run every time.
    pub why: &'static str,
}

const TCP: Simulator = Simulator::Stack(Transport::Tcp);
const QUIC: Simulator = Simulator::Stack(Transport::Quic);

const fn pin(simulator: Simulator, seed: u64, reaches: &'static str, why: &'static str) -> Pin {
    Pin {
        simulator,
        seed,
        reaches,
        why,
    }
}

/// All of them.
pub const PINNED: &[Pin] = &[
    pin(
        TCP,
        119,
        "maps committed",
        "a cut swallowed the end of a stream, and the simulated connection carried the next one all the same",
    ),
    pin(
        TCP,
        88,
        "machines that slept",
        "a leader sleeps right after its election, and is looked at when others have committed what it does not hold (I6)",
    ),
    pin(
        TCP,
        51,
        "void entries",
        "leaders change before their proposals commit, so often that hundreds of entries are void (P2)",
    ),
    pin(
        TCP,
        47,
        "guarded writes rejected by token",
        "owners write after their time, and only the token stops them (I3)",
    ),
    pin(
        TCP,
        9,
        "snapshots installed during a change",
        "snapshots arrive on disks in the middle of a dozen changes (P3)",
    ),
    pin(
        TCP,
        108,
        "leader changed before the first ack",
        "the shortest phase of a hand-off, hit by a change of leader",
    ),
    pin(
        TCP,
        28,
        "leader changed between the last ack and the commit",
        "the successor must decide on acks that it did not hear",
    ),
    pin(
        TCP,
        59,
        "drains given up",
        "a drain is given up while entries of leaders that fell are void (P4, P2)",
    ),
    pin(
        TCP,
        275,
        "nodes that left",
        "a node that left is started by a power cut of all before it was to come back",
    ),
    pin(
        TCP,
        580,
        "stores damaged",
        "a store is damaged, lost and begun anew by other faults before the node is started to see it",
    ),
    pin(
        TCP,
        1_232,
        "nodes that left",
        "one of three leaves in the moment in which another loses its store: both would be no quorum",
    ),
    pin(
        QUIC,
        10,
        "machines that slept",
        "machines sleep twenty times: the timers of QUIC stand still with them, leases do not",
    ),
    pin(
        Simulator::Engines,
        40,
        "drains given up",
        "ten drains given up in one schedule (P4)",
    ),
    pin(
        Simulator::Engines,
        42,
        "acquire hooks failed",
        "hooks fail fifteen times in one schedule: back-off, then another owner",
    ),
    pin(
        Simulator::Engines,
        12,
        "pings of another cluster",
        "nodes are pinged by the leader of a cluster that is not theirs, again and again",
    ),
    pin(
        Simulator::Engines,
        1_030,
        "void entries",
        "a hundred entries of leaders that fell are void (P2)",
    ),
    pin(
        Simulator::Engines,
        152,
        "bootstrap invitations refused",
        "a node that has promised itself to one set of founders is invited by another",
    ),
    pin(
        Simulator::Engines,
        200,
        "hand-offs interrupted before the first ack",
        "the shortest phase of a hand-off, interrupted six times",
    ),
    pin(
        Simulator::Engines,
        4_125,
        "own initialisations abandoned",
        "the leader of a cluster that came to nothing leads the next one, whose terms begin anew (B3)",
    ),
    pin(
        Simulator::Engines,
        690,
        "bootstrap members fenced",
        "a founder hears from a leader and crashes before it has any entry: that was no cluster yet",
    ),
    pin(
        Simulator::Engines,
        5_471,
        "bootstrap sets that were never started",
        "the only one that a dead initiator had asked is not bound for ever (B2)",
    ),
    pin(
        Simulator::Engines,
        7_459,
        "bootstrap sets that were never started",
        "the same among five nodes",
    ),
    pin(
        Simulator::Engines,
        153,
        "maps superseded",
        "a new leader knows of nobody to share: it leaves nothing with runs that are gone (M9)",
    ),
    pin(
        Simulator::Engines,
        202,
        "bootstrap promises lapsed",
        "founders break off and begin again, with promises lapsed and given back",
    ),
    pin(
        Simulator::Engines,
        211,
        "logs abandoned",
        "a founder's own log is abandoned for that of a cluster that came to be without it",
    ),
];

/// What came of a pinned seed that held.
#[derive(Clone, Debug)]
pub struct Held {
    /// Whether it still reaches what it was pinned for.
    pub reaches: bool,
    /// Everything that it reached.
    pub tally: Tally,
}

impl Pin {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// What did not hold.
    pub fn run(&self) -> Result<Held, String> {
        let tally = match self.simulator {
            Simulator::Engines => engine_world::run(self.seed, false)
                .map(|outcome| outcome.tally)
                .map_err(|failure| failure.to_string()),
            Simulator::Stack(transport) => {
                let plan = Plan {
                    transport,
                    ..Plan::swarm(self.seed)
                };
                stack::run(&plan)
                    .map(|outcome| outcome.tally)
                    .map_err(|failure| failure.to_string())
            }
        }?;
        Ok(Held {
            reaches: tally.count(self.reaches) > 0,
            tally,
        })
    }

    /// What the program is told to replay it.
    pub fn replay(&self) -> String {
        let seed = self.seed;
        match self.simulator {
            TCP => format!("replay {seed}"),
            QUIC => format!("replay {seed} --transport quic"),
            Simulator::Engines => format!("engine replay {seed}"),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let simulator = match self.simulator {
            TCP => "stack over TCP",
            QUIC => "stack over QUIC",
            Simulator::Engines => "engines",
        };
        write!(f, "{simulator}, seed {}", self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_seed_is_pinned_twice_and_each_has_a_reason() {
        let mut names: Vec<String> = PINNED.iter().map(Pin::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), PINNED.len());
        assert!(
            PINNED
                .iter()
                .all(|pin| !pin.why.is_empty() && !pin.why.contains('\n'))
        );
    }
}
