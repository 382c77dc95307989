//! What a seed means: every option of a run, and every fault with its time. A plan is data: it is printed, shrunk and
//! run again.

use std::time::Duration;

use funk::engine::flaps::FLAP_MOST;
use funk::timing::Timing;
use funk_sim::Disk;
use serde::{Deserialize, Serialize};

use super::plan_json::{DiskJson, TimingJson};
use super::service::Manners;
use crate::random::Random;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Whom a fault strikes; found out when it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// The node at this place.
    Node(usize),
    /// Whoever leads then.
    Leader,
    /// Somebody else, the place counted among those who do not lead.
    Follower(usize),
}

/// A cut in the network. Sides are sets of places, as bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cut {
    /// Between the side and the others.
    Split(u32),
    /// The same, but for one node that both reach.
    Bridge(u32, usize),
    /// One node alone.
    Isolate(Target),
    /// One node hears nothing, and is heard.
    Deaf(Target),
    /// One node is not heard, and hears.
    Mute(Target),
    /// The leader with one follower on one side, the others on the other.
    LeaderAndOne(usize),
    /// One direction of some links, as bits `from * nodes + to`.
    OneWay(u64),
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// Power cut; the node starts again after a while.
    Crash {
        /// Who.
        target: Target,
        /// For how long it is down.
        down: Duration,
        /// What becomes of its store.
        #[serde(with = "DiskJson")]
        disk: Disk,
    },
    /// Power cut of all nodes at once; stores are kept.
    CrashAll {
        /// For how long they are down.
        down: Duration,
    },
    /// A process stands still, its clock goes on.
    Pause {
        /// Who.
        target: Target,
        /// For how long.
        span: Duration,
    },
    /// The machine sleeps: lease clock and monotonic clock part.
    Sleep {
        /// Who.
        target: Target,
        /// For how long.
        span: Duration,
    },
    /// Links are cut.
    Cut {
        /// Which.
        cut: Cut,
        /// For how long.
        span: Duration,
    },
    /// Datagrams are lost.
    Loss {
        /// How many of a hundred.
        percent: u32,
        /// For how long.
        span: Duration,
    },
    /// All messages take longer.
    Slow {
        /// At most so long.
        latency: Duration,
        /// For how long.
        span: Duration,
    },
    /// The leader is asked to hand on.
    StepDown,
    /// A node leaves, and comes back.
    Leave {
        /// Who.
        target: Target,
        /// After so long.
        back: Duration,
    },
    /// A node changes a tag of its own, several times in a row.
    Tags {
        /// Who.
        target: Target,
        /// How often.
        times: u32,
    },
    /// Somebody takes guards of a node and does not let them go, whatever the lease says.
    Hold {
        /// Who.
        target: Target,
        /// For how long.
        span: Duration,
    },
}

impl Fault {
    /// How long it goes on; zero if it is over at once.
    pub fn lasts(&self) -> Duration {
        match *self {
            Self::Crash { down, .. } | Self::CrashAll { down } => down,
            Self::Leave { back, .. } => back,
            Self::Pause { span, .. }
            | Self::Sleep { span, .. }
            | Self::Cut { span, .. }
            | Self::Loss { span, .. }
            | Self::Slow { span, .. }
            | Self::Hold { span, .. } => span,
            Self::StepDown | Self::Tags { .. } => Duration::ZERO,
        }
    }
}

/// Where a fault strikes in the middle of a hand-off, instead of at its time: at the next time that it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Moment {
    /// At its time.
    Now,
    /// When the next proposal is in a log and applied nowhere.
    Proposed,
    /// When it is applied, and nobody has acknowledged it.
    Draining,
    /// When somebody has.
    Acked,
    /// When the decision is in a log.
    Deciding,
    /// When it is in force, and what was gained is not all served.
    InForce,
}

/// A fault with its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Strike {
    /// After the nodes were started.
    pub at: Duration,
    /// And then this.
    pub moment: Moment,
    /// What.
    pub fault: Fault,
}

/// How the nodes reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Transport {
    /// The simulator's own, over its TCP and UDP.
    Tcp,
    /// QUIC as it ships, over simulated UDP.
    Quic,
}

/// A node.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodePlan {
    /// Speed of its clock.
    pub rate: f64,
    /// What its clock shows at a start.
    pub offset: Duration,
    /// How long a write takes until it survives a loss of power.
    pub flush: Duration,
    /// Whether it may vote.
    pub votes: bool,
    /// When it is started.
    pub starts_at: Duration,
}

/// The load.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Mean time between the calls of each node.
    pub every: Duration,
    /// Hosts beside the nodes that call as clients.
    pub clients: usize,
    /// Keys.
    pub keys: u64,
    /// How many of the calls are gets.
    pub gets: f64,
    /// Deadline of a call.
    pub deadline: Duration,
}

/// Every option of a run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Everything that chance does besides follows from it.
    pub seed: u64,
    /// Step of time.
    pub tick: Duration,
    /// Longest time that a message takes.
    pub latency: Duration,
    /// How many datagrams of a thousand are lost all the time.
    pub loss_permille: u32,
    /// The transport.
    pub transport: Transport,
    /// The nodes.
    pub nodes: Vec<NodePlan>,
    /// How many found the cluster.
    pub bootstrap_expect: u16,
    /// Voters that the leader keeps.
    pub voters: usize,
    /// Shards.
    pub shards: u32,
    /// Timing of all nodes.
    #[serde(with = "TimingJson")]
    pub timing: Timing,
    /// Applied entries between snapshots.
    pub snapshot_every: u64,
    /// How the service misbehaves.
    pub manners: Manners,
    /// The load.
    pub load: Load,
    /// Faults begin only once a first map is in force.
    pub forms_in_peace: bool,
    /// The faults, by time.
    pub strikes: Vec<Strike>,
    /// When all faults end.
    pub calm_at: Duration,
    /// How long the run goes on at least.
    pub length: Duration,
}

/// Shortest simulated time of a run of the swarm.
pub const SHORTEST: Duration = Duration::from_secs(60);

impl Plan {
    /// Nodes with exact clocks, a light load, no faults: what scenarios begin with.
    pub fn quiet(seed: u64, nodes: usize) -> Self {
        Self {
            seed,
            tick: ms(5),
            latency: ms(1),
            loss_permille: 0,
            transport: Transport::Tcp,
            nodes: vec![NodePlan::exact(); nodes],
            bootstrap_expect: nodes.min(3) as u16,
            voters: 5,
            shards: 32,
            timing: Timing {
                drain_timeout: ms(1_000),
                acquire_timeout: ms(1_000),
                ..Timing::lan()
            },
            snapshot_every: 1_000,
            manners: Manners::default(),
            load: Load {
                every: ms(100),
                clients: 0,
                keys: 16,
                gets: 0.5,
                deadline: Duration::from_secs(5),
            },
            forms_in_peace: true,
            strikes: Vec::new(),
            calm_at: Duration::ZERO,
            length: Duration::ZERO,
        }
    }

    /// The options of this seed of the swarm.
    pub fn swarm(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5a4d_0057_ac4b);
        let random = &mut random;
        let count = random.between(3, 7) as usize;
        let timing = timing(random);
        let skew = random.pick(&[0.0, 0.5, 1.0]) * timing.clock_error;
        let nodes: Vec<NodePlan> = (0..count)
            .map(|at| NodePlan {
                rate: 1.0 + skew * random.pick(&[-1.0, 1.0]),
                offset: random.span(ms(0), ms(100_000)),
                flush: random.pick(&[ms(0), ms(0), ms(1), ms(10)]),
                votes: at < 3 || random.chance(0.8),
                starts_at: random.pick(&[ms(0), ms(0), ms(500)]),
            })
            .collect();
        let voting = nodes.iter().filter(|node| node.votes).count();
        let mut plan = Self {
            seed,
            tick: random.pick(&[ms(5), ms(5), ms(2)]),
            latency: random.pick(&[ms(1), ms(1), ms(3)]),
            loss_permille: random.pick(&[0, 0, 2, 20]),
            transport: Transport::Tcp,
            bootstrap_expect: random.pick(&[3, voting as u16]),
            voters: random.pick(&[3, 3, 5, 5, 7]),
            shards: random.pick(&[1, 16, 32, 64, 200]),
            snapshot_every: random.pick(&[5, 30, 200, 2_000]),
            manners: manners(&timing, random),
            load: Load {
                every: random.pick(&[ms(50), ms(100), ms(200)]),
                clients: random.below(3) as usize,
                keys: random.pick(&[4, 16, 64]),
                gets: random.pick(&[0.2, 0.5, 0.9]),
                deadline: random.pick(&[ms(500), ms(2_000), ms(5_000)]),
            },
            forms_in_peace: random.chance(0.8),
            strikes: Vec::new(),
            calm_at: random.span(ms(42_000), ms(48_000)),
            length: SHORTEST,
            nodes,
            timing,
        };
        plan.strikes = strikes(&plan, random);
        plan
    }

    /// The longest time that something configured may take, on top of what recovery takes anyway (I8).
    pub fn longest_timeout(&self) -> Duration {
        let timing = &self.timing;
        let voter = timing.replace_after.min(timing.stale_after);
        // A node that came and went too often.
        let bounced = timing.settle_joins * FLAP_MOST;
        let hooks = timing.drain_timeout.max(timing.acquire_timeout);
        voter.max(hooks).max(bounced)
    }
}

impl NodePlan {
    /// As `starts_at`: the node starts when a scenario says so.
    pub const ON_REQUEST: Duration = Duration::MAX;

    /// A voter with an exact clock, started at once.
    pub fn exact() -> Self {
        Self {
            rate: 1.0,
            offset: Duration::ZERO,
            flush: Duration::ZERO,
            votes: true,
            starts_at: Duration::ZERO,
        }
    }
}

fn timing(random: &mut Random) -> Timing {
    let mut timing = Timing::lan();
    timing.drain_timeout = random.pick(&[ms(400), ms(1_000)]);
    timing.acquire_timeout = ms(1_000);
    timing.replace_after = random.pick(&[ms(1_500), ms(10_000)]);
    timing.stale_after = random
        .pick(&[ms(6_000), ms(300_000)])
        .max(timing.replace_after * 2);
    timing
}

fn manners(timing: &Timing, random: &mut Random) -> Manners {
    Manners {
        slow_calls: random.pick(&[0.0, 0.02, 0.1]),
        longest_call: random.pick(&[timing.lease / 2, timing.drain_timeout * 2]),
        slow_hooks: random.pick(&[0.0, 0.0, 0.1]),
        longest_hook: timing.lease,
        failing_hooks: random.pick(&[0.0, 0.0, 0.0, 0.02]),
    }
}

/// A kind of fault that a run has or has not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Crash,
    CrashAll,
    LoseStore,
    Pause,
    Sleep,
    Cut,
    Loss,
    Slow,
    StepDown,
    Leave,
    Tags,
    Hold,
}

const KINDS: [Kind; 12] = [
    Kind::Crash,
    Kind::CrashAll,
    Kind::LoseStore,
    Kind::Pause,
    Kind::Sleep,
    Kind::Cut,
    Kind::Loss,
    Kind::Slow,
    Kind::StepDown,
    Kind::Leave,
    Kind::Tags,
    Kind::Hold,
];

fn strikes(plan: &Plan, random: &mut Random) -> Vec<Strike> {
    // Each seed leaves some kinds out: two faults of a kind meet more often than in a mix of all.
    let mut kinds = KINDS.to_vec();
    while kinds.len() > 2 && random.chance(0.8) {
        kinds.remove(random.below(kinds.len() as u64) as usize);
    }
    let every = random.span(ms(300), ms(3_000)).as_nanos() as f64;
    let ambush = random.pick(&[0.0, 0.2, 0.5]);
    let quiet = quiet_windows(plan.calm_at, random);
    let mut at = ms(0);
    let mut strikes = Vec::new();
    loop {
        at += Duration::from_nanos(random.exponential(every).max(1));
        if at >= plan.calm_at {
            return strikes;
        }
        let (kind, moment) = (random.pick(&kinds), moment(ambush, random));
        let fault = fault(kind, plan, random);
        if quiet.iter().any(|window| window.contains(&at)) {
            continue;
        }
        strikes.push(Strike { at, moment, fault });
    }
}

/// Times in which nothing new happens, so that what was begun comes to an end.
fn quiet_windows(until: Duration, random: &mut Random) -> Vec<std::ops::Range<Duration>> {
    let windows = (0..random.below(3)).map(|_| {
        let from = random.span(ms(0), until);
        from..from + random.span(ms(2_000), ms(8_000))
    });
    windows.collect()
}

fn moment(ambush: f64, random: &mut Random) -> Moment {
    if !random.chance(ambush) {
        return Moment::Now;
    }
    random.pick(&[
        Moment::Proposed,
        Moment::Draining,
        Moment::Acked,
        Moment::Deciding,
        Moment::InForce,
    ])
}

fn target(nodes: usize, random: &mut Random) -> Target {
    match random.below(3) {
        0 => Target::Leader,
        1 => Target::Follower(random.below(nodes as u64) as usize),
        _ => Target::Node(random.below(nodes as u64) as usize),
    }
}

fn fault(kind: Kind, plan: &Plan, random: &mut Random) -> Fault {
    let nodes = plan.nodes.len();
    let lease = plan.timing.lease;
    let target = target(nodes, random);
    match kind {
        Kind::Crash => Fault::Crash {
            target,
            down: random.span(ms(10), ms(3_000)),
            disk: Disk::Kept,
        },
        Kind::LoseStore => Fault::Crash {
            target,
            down: random.span(ms(10), ms(3_000)),
            disk: Disk::Lost,
        },
        Kind::CrashAll => Fault::CrashAll {
            down: random.span(ms(10), ms(1_000)),
        },
        Kind::Pause => Fault::Pause {
            target,
            span: random.span(ms(5), lease * 6),
        },
        Kind::Sleep => Fault::Sleep {
            target,
            span: random.span(ms(5), lease * 6),
        },
        Kind::Cut => Fault::Cut {
            cut: cut(nodes, target, random),
            span: if random.chance(0.2) {
                random.span(ms(1_000), ms(6_000))
            } else {
                random.span(ms(20), ms(1_500))
            },
        },
        Kind::Loss => Fault::Loss {
            percent: random.between(5, 60) as u32,
            span: random.span(ms(50), ms(2_000)),
        },
        Kind::Slow => Fault::Slow {
            latency: random.span(ms(20), ms(150)),
            span: random.span(ms(50), ms(2_000)),
        },
        Kind::StepDown => Fault::StepDown,
        Kind::Leave => Fault::Leave {
            target,
            back: random.span(ms(500), ms(4_000)),
        },
        Kind::Tags => Fault::Tags {
            target,
            times: random.between(1, 5) as u32,
        },
        Kind::Hold => Fault::Hold {
            target,
            span: random.span(lease / 2, plan.timing.drain_timeout * 3),
        },
    }
}

fn cut(nodes: usize, target: Target, random: &mut Random) -> Cut {
    let side = random.below(1 << nodes) as u32;
    match random.below(7) {
        0 => Cut::Split(side),
        1 => Cut::Bridge(side, random.below(nodes as u64) as usize),
        2 => Cut::Isolate(target),
        3 => Cut::Deaf(target),
        4 => Cut::Mute(target),
        5 => Cut::LeaderAndOne(random.below(nodes as u64) as usize),
        _ => Cut::OneWay(random.next() & random.next()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_a_plan_that_can_be_run_and_the_same_one_again() {
        for seed in 0..500 {
            let plan = Plan::swarm(seed);
            assert_eq!(plan, Plan::swarm(seed));
            assert_eq!(plan.timing.check(), Ok(()), "seed {seed}");
            assert!(plan.length >= SHORTEST && plan.calm_at < plan.length);
            assert!(plan.strikes.is_sorted_by_key(|strike| strike.at));
            let voting = plan.nodes.iter().filter(|node| node.votes).count();
            assert!(voting >= usize::from(plan.bootstrap_expect) && voting >= 3);
        }
    }

    #[test]
    fn every_kind_of_fault_and_every_moment_is_drawn() {
        let strikes = || (0..200).flat_map(|seed| Plan::swarm(seed).strikes);
        for kind in KINDS {
            let mut random = Random::new(1);
            let like = fault(kind, &Plan::quiet(1, 5), &mut random);
            let same = |strike: &Strike| {
                std::mem::discriminant(&strike.fault) == std::mem::discriminant(&like)
            };
            assert!(strikes().any(|strike| same(&strike)), "{kind:?}");
        }
        assert!(strikes().any(|strike| strike.moment == Moment::Deciding));
    }
}
