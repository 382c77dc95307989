//! Makes a plan that breaks an invariant smaller, as long as it breaks the same one: delta debugging (Zeller and
//! Hildebrandt 2002) over the faults, then fewer nodes, then options that are left at their plainest.

use std::time::Duration;

use super::plan::{Cut, Fault, Load, NodePlan, Plan, Strike, Target};
use super::service::Manners;
use super::{Failure, Outcome, run};

/// Passes over everything at most; each ends with nothing left that can be taken away by itself.
const PASSES: u32 = 4;
/// Times by which the load is halved at most.
const HALVINGS: u32 = 4;
/// A load with so much time between calls is not halved any more.
const LIGHT: Duration = Duration::from_secs(1);

/// What is left of a plan.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
    /// How many plans were run.
    pub runs: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// What was just tried.
    pub tried: &'a str,
    /// Whether the violation remained.
    pub kept: bool,
    /// The smallest plan so far.
    pub plan: &'a Plan,
    /// How many plans were run.
    pub runs: u64,
}

/// Shrinks a plan, in at most so many runs.
///
/// # Errors
///
/// What the plan comes to, if it holds.
pub fn shrink(
    plan: &Plan,
    most_runs: u64,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Shrunk, Box<Outcome>> {
    let failure = match run(plan) {
        Ok(outcome) => return Err(Box::new(outcome)),
        Err(failure) => *failure,
    };
    let mut shrink = Shrink {
        plan: plan.clone(),
        failure,
        runs: 1,
        most_runs,
        progress,
    };
    for _ in 0..PASSES {
        let before = shrink.plan.clone();
        shrink.shorten();
        shrink.drop_strikes();
        shrink.drop_nodes();
        shrink.simplify();
        if shrink.plan == before {
            break;
        }
    }
    Ok(Shrunk {
        plan: shrink.plan,
        failure: shrink.failure,
        runs: shrink.runs,
    })
}

struct Shrink<'a> {
    plan: Plan,
    failure: Failure,
    runs: u64,
    most_runs: u64,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Shrink<'_> {
    /// Whether this plan breaks the same invariant; then it is the plan from now on.
    fn take(&mut self, what: &str, plan: Plan) -> bool {
        if plan == self.plan || self.runs >= self.most_runs {
            return false;
        }
        self.runs += 1;
        let invariant = self.failure.violation.invariant;
        let failure = run(&plan).err();
        let failure = failure.filter(|failure| failure.violation.invariant == invariant);
        let kept = failure.is_some();
        if let Some(failure) = failure {
            self.plan = plan;
            self.failure = *failure;
        }
        (self.progress)(Progress {
            tried: what,
            kept,
            plan: &self.plan,
            runs: self.runs,
        });
        kept
    }

    fn try_with(&mut self, what: &str, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.plan.clone();
        change(&mut plan);
        self.take(what, plan)
    }

    /// Nothing that comes after the violation, and the faults as early as can be.
    fn shorten(&mut self) {
        let at = self.failure.at;
        self.try_with("no faults after the violation", |plan| {
            plan.strikes.retain(|strike| strike.at <= at);
        });
        self.try_with("the run ends with the violation", |plan| {
            plan.calm_at = plan.calm_at.min(at);
            plan.length = Duration::ZERO;
        });
        let last = |plan: &Plan| plan.strikes.iter().map(|strike| strike.at).max();
        self.try_with("the faults end with the last one", |plan| {
            let last = last(plan).unwrap_or_default() + plan.tick;
            plan.calm_at = plan.calm_at.min(last);
            plan.length = Duration::ZERO;
        });
        let first = self.plan.strikes.iter().map(|strike| strike.at).min();
        let first = first.unwrap_or_default();
        for earlier in [first, first / 2] {
            if !earlier.is_zero() {
                self.try_with("all faults come earlier", |plan| {
                    let strikes = plan.strikes.iter_mut();
                    strikes.for_each(|strike| strike.at = strike.at.saturating_sub(earlier));
                    plan.calm_at = plan.calm_at.saturating_sub(earlier);
                });
            }
        }
    }

    /// Delta debugging: the strikes in `parts` parts; one part is left out at a time; the parts become smaller when all
    /// are needed.
    fn drop_strikes(&mut self) {
        self.try_with("no faults at all", |plan| plan.strikes.clear());
        let mut parts = 2;
        while !self.plan.strikes.is_empty() && self.runs < self.most_runs {
            let count = self.plan.strikes.len();
            let size = count.div_ceil(parts);
            let without = |from: usize, strikes: &[Strike]| -> Vec<Strike> {
                let rest = (from + size).min(strikes.len());
                [&strikes[..from], &strikes[rest..]].concat()
            };
            let found = (0..count).step_by(size).any(|from| {
                let what = format!("without {} of {count} faults", size.min(count - from));
                self.try_with(&what, |plan| plan.strikes = without(from, &plan.strikes))
            });
            if found {
                parts = (parts - 1).max(2);
            } else if size == 1 {
                return;
            } else {
                parts = (parts * 2).min(count);
            }
        }
    }

    fn drop_nodes(&mut self) {
        let mut at = self.plan.nodes.len();
        while at > 0 && self.plan.nodes.len() > 1 {
            at -= 1;
            let plan = without_node(&self.plan, at);
            self.take(&format!("without n{}", at + 1), plan);
        }
    }

    /// Options that do not matter are left at their plainest.
    fn simplify(&mut self) {
        for _ in 0..HALVINGS {
            if self.plan.load.every >= LIGHT {
                break;
            }
            if !self.try_with("half the load", |plan| plan.load.every *= 2) {
                break;
            }
        }
        self.try_with("no clients", |plan| plan.load.clients = 0);
        self.try_with("few keys", |plan| plan.load.keys = 1);
        self.try_with("a service that behaves", |plan| {
            plan.manners = Manners::default();
        });
        self.try_with("no loss all the time", |plan| plan.loss_permille = 0);
        self.try_with("short latency", |plan| {
            plan.latency = Plan::quiet(0, 1).latency;
        });
        self.try_with("rare snapshots", |plan| {
            plan.snapshot_every = Plan::quiet(0, 1).snapshot_every;
        });
        self.try_with("exact clocks", |plan| {
            plan.nodes.iter_mut().for_each(|node| node.rate = 1.0);
        });
        self.try_with("nodes alike", |plan| {
            for node in &mut plan.nodes {
                *node = NodePlan {
                    rate: node.rate,
                    votes: node.votes,
                    ..NodePlan::exact()
                };
            }
        });
        while self.plan.shards > 1 {
            if !self.try_with("half the shards", |plan| plan.shards /= 2) {
                break;
            }
        }
        for at in 0..self.plan.strikes.len() {
            self.try_with("a shorter fault", |plan| halve(&mut plan.strikes[at].fault));
        }
        for at in 0..self.plan.nodes.len() {
            self.try_with("an exact clock", |plan| plan.nodes[at].rate = 1.0);
        }
        let quiet = Plan::quiet(0, 1).load;
        self.try_with("a plain load", |plan| {
            plan.load = Load {
                gets: quiet.gets,
                deadline: quiet.deadline,
                ..plan.load
            };
        });
    }
}

/// The plan with one node less. Places of the others are what they were, counted anew.
fn without_node(plan: &Plan, gone: usize) -> Plan {
    let count = plan.nodes.len();
    let mut plan = plan.clone();
    plan.nodes.remove(gone);
    let voting = plan.nodes.iter().filter(|node| node.votes).count();
    plan.bootstrap_expect = plan.bootstrap_expect.min(voting as u16).max(1);
    for strike in &mut plan.strikes {
        renumber(&mut strike.fault, gone, count);
    }
    plan
}

fn renumber(fault: &mut Fault, gone: usize, count: usize) {
    let place = |at: &mut usize| {
        *at %= count;
        if *at > gone {
            *at -= 1;
        }
    };
    let renumber = |target: &mut Target| {
        if let Target::Node(at) = target {
            place(at);
        }
    };
    let side = |side: &mut u32| {
        let below = *side & ((1 << gone) - 1);
        *side = below | (*side >> (gone + 1) << gone);
    };
    match fault {
        Fault::Crash { target, .. }
        | Fault::Kill { target, .. }
        | Fault::PowerEnds { target, .. }
        | Fault::SyncFails { target, .. }
        | Fault::DiskFull { target, .. }
        | Fault::SlowDisk { target, .. }
        | Fault::Damage { target, .. }
        | Fault::Lies { target, .. }
        | Fault::Pause { target, .. }
        | Fault::Sleep { target, .. }
        | Fault::Leave { target, .. }
        | Fault::Tags { target, .. }
        | Fault::Hold { target, .. } => renumber(target),
        Fault::Cut { cut, .. } => match cut {
            Cut::Split(bits) => side(bits),
            Cut::Bridge(bits, bridge) => {
                side(bits);
                place(bridge);
            }
            Cut::Isolate(target) | Cut::Deaf(target) | Cut::Mute(target) => renumber(target),
            Cut::LeaderAndOne(_) => {}
            Cut::OneWay(bits) => {
                let kept = (0..count).filter(|at| *at != gone);
                let links = kept
                    .clone()
                    .flat_map(|from| kept.clone().map(move |to| (from, to)));
                let mut left = 0_u64;
                for (number, (from, to)) in links.enumerate() {
                    left |= (*bits >> ((from * count + to) % 64) & 1) << (number % 64);
                }
                *bits = left;
            }
        },
        Fault::CrashAll { .. } | Fault::Loss { .. } | Fault::Slow { .. } | Fault::StepDown => {}
    }
}

fn halve(fault: &mut Fault) {
    match fault {
        Fault::Crash { down: span, .. }
        | Fault::CrashAll { down: span, .. }
        | Fault::Kill { down: span, .. }
        | Fault::PowerEnds { down: span, .. }
        | Fault::SyncFails { down: span, .. }
        | Fault::DiskFull { down: span, .. }
        | Fault::SlowDisk { span, .. }
        | Fault::Damage { down: span, .. }
        | Fault::Lies { span, .. }
        | Fault::Leave { back: span, .. }
        | Fault::Pause { span, .. }
        | Fault::Sleep { span, .. }
        | Fault::Cut { span, .. }
        | Fault::Loss { span, .. }
        | Fault::Slow { span, .. }
        | Fault::Hold { span, .. } => *span /= 2,
        Fault::Tags { times, .. } => *times = (*times / 2).max(1),
        Fault::StepDown => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_means_the_same_nodes_when_one_that_it_spares_is_gone() {
        let span = Duration::from_secs(1);
        let cut = |cut| Fault::Cut { cut, span };
        let after = |mut fault| {
            renumber(&mut fault, 1, 4);
            fault
        };
        assert_eq!(after(cut(Cut::Split(0b1101))), cut(Cut::Split(0b111)));
        assert_eq!(after(cut(Cut::Split(0b0110))), cut(Cut::Split(0b010)));
        assert_eq!(
            after(cut(Cut::Bridge(0b0001, 3))),
            cut(Cut::Bridge(0b001, 2))
        );
        assert_eq!(
            after(cut(Cut::Isolate(Target::Node(6)))),
            cut(Cut::Isolate(Target::Node(1)))
        );
        // n1 to n4, n4 to n3: of three nodes n1 to n3, n3 to n2.
        let (before, left) = (1 << 3 | 1 << (3 * 4 + 2), 1 << 2 | 1 << (2 * 3 + 1));
        assert_eq!(after(cut(Cut::OneWay(before))), cut(Cut::OneWay(left)));
    }
}
