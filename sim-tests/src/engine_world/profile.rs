//! What a seed means: every option of a schedule.

use std::sync::Arc;
use std::time::Duration;

use funk::timing::Timing;

use crate::random::Random;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a schedule is made to reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A bit of everything.
    Mixed,
    /// Processes that stand still for longer than their lease, with long guards.
    Pauses,
    /// Faults that strike in the middle of hand-offs.
    Ambush,
    /// Cuts of every shape, with the leader on the lesser side.
    Partitions,
    /// Nodes that lag so far that they get snapshots, in the middle of changes.
    Snapshots,
    /// Clocks at the very bounds of their error.
    Skew,
    /// Services that hold guards for too long, hooks that fail.
    SlowDrains,
    /// Restarts of everything, stores lost, nodes leaving and coming back.
    Churn,
    /// Faults from the first moment, while the cluster forms.
    Forming,
}

const KINDS: [Kind; 9] = [
    Kind::Mixed,
    Kind::Pauses,
    Kind::Ambush,
    Kind::Partitions,
    Kind::Snapshots,
    Kind::Skew,
    Kind::SlowDrains,
    Kind::Churn,
    Kind::Forming,
];

/// A fault, without its details.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// Power cut; the store stays.
    Crash,
    /// Power cut; the store is lost.
    LoseStore,
    /// The process stands still, its clock goes on.
    Pause,
    /// The same, and the node is told when it wakes.
    Suspend,
    /// Two halves.
    Split,
    /// One node alone.
    Isolate,
    /// One node hears nothing but is heard.
    Deaf,
    /// One node is not heard but hears.
    Mute,
    /// Some links are cut in one direction.
    OneWay,
    /// Two halves that share one node.
    Bridge,
    /// Much is lost for a while.
    Loss,
    /// All is slow for a while.
    Delay,
    /// The leader is asked to hand leadership on.
    StepDown,
    /// A node leaves, and comes back as another store.
    Leave,
    /// Leadership is handed on while the leader and one that follows it are cut off from the others: no election
    /// timeout lies between the old leader's grants and the new leader.
    Desert,
    /// A node's raft hears nothing for a while, though the node answers pings.
    Lag,
    /// Leadership is handed on twice in a row; then the one in the middle is cut off.
    Chairs,
}

/// How messages travel.
#[derive(Clone, Debug)]
pub struct Net {
    /// Shortest delay.
    pub base: Duration,
    /// Mean of the delay on top.
    pub jitter: Duration,
    /// How often a message takes much longer, and is overtaken by others.
    pub straggle: f64,
    /// How much longer at most.
    pub straggle_by: Duration,
    /// How often a message is lost.
    pub loss: f64,
    /// How often it arrives twice.
    pub duplicate: f64,
}

/// Every option of a schedule.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What it is made to reach.
    pub kind: Kind,
    /// Nodes.
    pub nodes: usize,
    /// Voters that the leader keeps.
    pub voters: usize,
    /// Capacities of the nodes, repeated if there are more.
    pub capacities: Vec<u32>,
    /// How many shards the leader moves at a time although they need not; `None`: all.
    pub max_moves: Option<u32>,
    /// Weights of the shards, which some node asks for until they are in force; `None`: nobody asks.
    pub weights: Option<Arc<[u32]>>,
    /// Shards.
    pub shards: u32,
    /// The nodes' timing.
    pub timing: Timing,
    /// For how long faults go on.
    pub chaos: Duration,
    /// Mean time between faults.
    pub fault_every: Duration,
    /// Faults with their weights.
    pub faults: Vec<(FaultKind, u32)>,
    /// How often the entry into a phase of a hand-off draws a fault.
    pub ambush: f64,
    /// The network.
    pub net: Net,
    /// Largest error of a clock's rate, in parts per million.
    pub ppm: u32,
    /// Every clock errs by just this much, one way or the other.
    pub extreme_clocks: bool,
    /// Longest time between a raft event and the engine's learning of it.
    pub raft_lag: Duration,
    /// Applied entries between snapshots.
    pub snapshot_every: u64,
    /// Entries kept before a snapshot.
    pub keep: u64,
    /// Mean time between requests.
    pub request_every: Duration,
    /// How often a guard is held long.
    pub long_guards: f64,
    /// Longest guard.
    pub longest_guard: Duration,
    /// How often a guard is held by code that does not care about its lapse.
    pub held_guards: f64,
    /// How often a hook takes long.
    pub slow_hooks: f64,
    /// Longest hook.
    pub longest_hook: Duration,
    /// How often an `acquire` hook fails.
    pub failing_hooks: f64,
    /// Longest pause.
    pub longest_pause: Duration,
    /// How often what arrives at a paused process is lost and not queued.
    pub pause_loses: f64,
}

impl Profile {
    /// The options of this seed.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let random = &mut random;
        let kind = random.pick(&KINDS);
        let nodes = random.between(3, 7) as usize;
        let timing = timing(random);
        let mut profile = Self {
            kind,
            nodes,
            voters: random.pick(&[3, 3, 5, 5, 5, 7]),
            capacities: vec![1],
            max_moves: None,
            weights: None,
            shards: random.pick(&[16, 24, 32, 64]),
            chaos: random.span(ms(10_000), ms(14_000)),
            fault_every: random.span(ms(300), ms(1_500)),
            faults: faults(kind, random),
            ambush: if random.chance(0.3) { 0.1 } else { 0.0 },
            net: net(random),
            ppm: (timing.clock_error * 1e6) as u32,
            extreme_clocks: kind == Kind::Skew || random.chance(0.5),
            raft_lag: random.pick(&[ms(0), ms(0), ms(1), ms(5)]),
            snapshot_every: random.pick(&[8, 20, 100]),
            keep: random.pick(&[0, 2, 20]),
            request_every: random.pick(&[ms(2), ms(5)]),
            long_guards: random.pick(&[0.01, 0.05, 0.2]),
            longest_guard: random.pick(&[timing.lease / 2, timing.lease * 2]),
            held_guards: 0.0,
            slow_hooks: random.pick(&[0.0, 0.05]),
            longest_hook: timing.lease,
            failing_hooks: 0.0,
            longest_pause: timing.lease * 4,
            pause_loses: random.unit(),
            timing,
        };
        profile.bend(random);
        profile
    }

    /// The options of this seed, with nodes of different capacities, shards of different weights, and a budget for
    /// voluntary moves: at least one of them.
    pub fn uneven(seed: u64) -> Self {
        let mut profile = Self::new(seed);
        let random = &mut Random::new(seed ^ 0x00ba_1a4c_ed00);
        if random.chance(0.6) {
            profile.capacities = (0..profile.nodes)
                .map(|_| random.pick(&[1, 1, 2, 3]))
                .collect();
        }
        if random.chance(0.6) {
            let heaviest = random.pick(&[2, 5, 20]);
            let weights = (0..profile.shards).map(|_| random.between(1, heaviest) as u32);
            profile.weights = Some(weights.collect());
        }
        let plain = profile.weights.is_none() && profile.capacities.len() == 1;
        if plain || random.chance(0.6) {
            profile.max_moves = Some(random.pick(&[1, 2, 3, 8]));
        }
        profile
    }

    /// What the kind makes different.
    fn bend(&mut self, random: &mut Random) {
        match self.kind {
            Kind::Ambush => {
                self.ambush = 0.3;
                self.long_guards = 0.3;
                self.fault_every = random.span(ms(700), ms(2_000));
            }
            Kind::Pauses => {
                self.long_guards = 0.3;
                self.longest_guard = self.timing.lease * 6;
                self.held_guards = random.pick(&[0.0, 0.3]);
            }
            Kind::Snapshots => {
                self.snapshot_every = random.pick(&[1, 2, 4]);
                self.keep = 0;
                self.long_guards = 0.3;
                self.ambush = 0.1;
            }

            Kind::SlowDrains => {
                self.long_guards = 0.05;
                self.longest_guard = self.timing.drain_timeout * 2;
                self.held_guards = 0.3;
                self.slow_hooks = 0.2;
                self.failing_hooks = random.pick(&[0.0, 0.02]);
            }
            Kind::Skew => self.long_guards = 0.2,
            Kind::Forming => self.fault_every = random.span(ms(50), ms(400)),
            Kind::Mixed | Kind::Partitions | Kind::Churn => {}
        }
    }
}

fn timing(random: &mut Random) -> Timing {
    let mut timing = if random.chance(0.25) {
        Timing::fast()
    } else {
        Timing::lan()
    };
    timing.drain_timeout = random.pick(&[ms(400), ms(1_000)]);
    timing.acquire_timeout = ms(1_000);
    timing.replace_after = random.pick(&[ms(1_500), ms(10_000)]);
    timing.stale_after = random
        .pick(&[ms(4_000), ms(60_000)])
        .max(timing.replace_after * 2);
    timing
}

fn net(random: &mut Random) -> Net {
    Net {
        base: random.pick(&[Duration::from_micros(50), Duration::from_micros(200), ms(1)]),
        jitter: random.pick(&[Duration::from_micros(20), Duration::from_micros(200), ms(2)]),
        straggle: random.pick(&[0.0, 0.001, 0.01]),
        straggle_by: random.pick(&[ms(20), ms(200)]),
        loss: random.pick(&[0.0, 0.0, 0.002, 0.02]),
        duplicate: random.pick(&[0.0, 0.001, 0.02]),
    }
}

fn faults(kind: Kind, random: &mut Random) -> Vec<(FaultKind, u32)> {
    use FaultKind::*;
    let cuts = [Split, Isolate, Deaf, Mute, OneWay, Bridge];
    let all = [
        Desert, Chairs, Lag, Crash, LoseStore, Pause, Suspend, Split, Isolate, Deaf, Mute, OneWay,
        Bridge, Loss, Delay, StepDown, Leave,
    ];
    let mut faults: Vec<(FaultKind, u32)> = match kind {
        Kind::Pauses => vec![
            (Pause, 8),
            (Suspend, 1),
            (Crash, 2),
            (Isolate, 2),
            (StepDown, 1),
        ],
        Kind::Partitions => cuts
            .iter()
            .map(|&fault| (fault, 2))
            .chain([(Crash, 1), (Loss, 1), (Desert, 2)])
            .collect(),
        Kind::Snapshots => vec![
            (Isolate, 4),
            (Lag, 4),
            (Pause, 4),
            (Crash, 3),
            (Split, 2),
            (StepDown, 2),
            (LoseStore, 2),
        ],
        Kind::Churn => vec![
            (Crash, 6),
            (LoseStore, 3),
            (Leave, 3),
            (StepDown, 2),
            (Pause, 1),
        ],
        Kind::Forming => {
            vec![
                (Crash, 4),
                (Pause, 2),
                (Split, 1),
                (Isolate, 1),
                (OneWay, 1),
                (Loss, 2),
                (Delay, 1),
            ]
        }
        Kind::SlowDrains => vec![
            (Crash, 3),
            (Leave, 1),
            (StepDown, 2),
            (Pause, 2),
            (Isolate, 2),
        ],
        Kind::Mixed | Kind::Ambush | Kind::Skew => all.iter().map(|&fault| (fault, 2)).collect(),
    };
    // Each seed leaves some out: two faults of a kind meet more often than in a mix of all.
    while faults.len() > 2 && random.chance(0.5) {
        faults.remove(random.below(faults.len() as u64) as usize);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timing_holds_its_relations_and_every_kind_is_drawn() {
        let mut seen = Vec::new();
        for seed in 0..200 {
            let profile = Profile::new(seed);
            assert_eq!(profile.timing.check(), Ok(()), "seed {seed}");
            assert!((3..=7).contains(&profile.nodes) && !profile.faults.is_empty());
            if !seen.contains(&profile.kind) {
                seen.push(profile.kind);
            }
        }
        assert_eq!(seen.len(), KINDS.len());
    }
}
