//! Draws plans: what a seed of the swarm means.

use std::time::Duration;

use funk::timing::Timing;
use funk_sim::Disk;

use super::plan::{
    Cut, Fault, Load, Moment, NodePlan, Plan, SHORTEST, Strike, Target, Transport, Unsynced,
};
use super::service::Manners;
use crate::random::Random;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
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
                fsync: random.pick(&[ms(0), ms(0), ms(1), ms(10)]),
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
    Kill,
    PowerEnds,
    SyncFails,
    DiskFull,
    SlowDisk,
    Damage,
    Lies,
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

const KINDS: [Kind; 19] = [
    Kind::Crash,
    Kind::CrashAll,
    Kind::LoseStore,
    Kind::Kill,
    Kind::PowerEnds,
    Kind::SyncFails,
    Kind::DiskFull,
    Kind::SlowDisk,
    Kind::Damage,
    Kind::Lies,
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
    while kinds.len() > 2 && random.chance(0.88) {
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
            unsynced: unsynced(random),
        },
        Kind::LoseStore => Fault::Crash {
            target,
            down: random.span(ms(10), ms(3_000)),
            disk: Disk::Lost,
            unsynced: Unsynced::Lost,
        },
        Kind::CrashAll => Fault::CrashAll {
            down: random.span(ms(10), ms(1_000)),
            unsynced: unsynced(random),
        },
        Kind::Kill => Fault::Kill {
            target,
            down: random.span(ms(10), ms(1_000)),
        },
        Kind::PowerEnds => Fault::PowerEnds {
            target,
            operation: random.below(40),
            down: random.span(ms(10), ms(1_000)),
        },
        Kind::SyncFails => Fault::SyncFails {
            target,
            operation: random.below(40),
            down: random.span(ms(10), ms(1_000)),
        },
        Kind::DiskFull => Fault::DiskFull {
            target,
            room: random.below(8_192) as u32,
            down: random.span(ms(100), ms(2_000)),
        },
        Kind::SlowDisk => Fault::SlowDisk {
            target,
            delay: if random.chance(0.3) {
                random.span(ms(500), ms(3_000))
            } else {
                random.span(ms(20), ms(300))
            },
            span: random.span(ms(100), ms(4_000)),
        },
        Kind::Damage => Fault::Damage {
            target,
            place: random.below(1_000) as u32,
            down: random.span(ms(10), ms(1_000)),
        },
        Kind::Lies => Fault::Lies {
            target,
            span: random.span(ms(100), ms(4_000)),
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

fn unsynced(random: &mut Random) -> Unsynced {
    random.pick(&[
        Unsynced::Torn,
        Unsynced::Torn,
        Unsynced::Lost,
        Unsynced::Kept,
    ])
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
