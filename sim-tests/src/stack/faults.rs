//! Faults: when they strike, whom, and how they end.

use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use funk::ids::{Instance, NodeId};
use funk_sim::{Disk, End, SimCluster};

use super::disk_faults::{self, come_back, come_back_after, kill, may_leave, may_lose_store};
use super::plan::{Cut, Fault, Moment, Plan, Strike, Target, Unsynced};
use super::record::{Phase, Shared};
use super::service::Watched;
use super::trace::Mark;

/// The course of faults.
#[derive(Debug)]
pub(super) struct Faults {
    /// Those that are still to come.
    coming: VecDeque<Strike>,
    /// Those whose time has come, but not their moment.
    waiting: Vec<Strike>,
    latency: Duration,
    loss: f64,
    /// How long the disk of each node takes for an fsync.
    fsync: Vec<Duration>,
}

impl Faults {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            coming: plan.strikes.iter().copied().collect(),
            waiting: Vec::new(),
            latency: plan.latency,
            loss: f64::from(plan.loss_permille) / 1_000.0,
            fsync: plan.nodes.iter().map(|node| node.fsync).collect(),
        }
    }

    /// All whose time and moment have come.
    pub(super) fn strike(
        &mut self,
        since: Duration,
        sim: &mut SimCluster,
        names: &[NodeId],
        shared: &Shared,
    ) {
        while let Some(strike) = self.coming.pop_front_if(|strike| strike.at <= since) {
            self.waiting.push(strike);
        }
        if self.waiting.is_empty() {
            return;
        }
        let phase = shared.lock().phase;
        for strike in std::mem::take(&mut self.waiting) {
            if is_now(strike.moment, phase) {
                self.carry_out(strike.fault, sim, names, shared);
            } else {
                self.waiting.push(strike);
            }
        }
    }

    /// Everything is repaired, what is down starts.
    pub(super) fn end(
        &mut self,
        sim: &mut SimCluster,
        names: &[NodeId],
        shared: &Shared,
        plan: &Plan,
    ) {
        self.coming.clear();
        self.waiting.clear();
        shared
            .lock()
            .mark(None, Mark::Fault("all faults end".to_owned()));
        let simulation = sim.simulation();
        simulation.heal_all();
        simulation.set_latency(plan.latency);
        simulation.network().lose_datagrams(0.0);
        disk_faults::end_all(sim, names, &self.fsync);
        for name in names {
            sim.simulation().resume(name);
        }
    }

    /// Lets a fault strike now; `false`: it cannot take place.
    pub(super) fn carry_out(
        &self,
        fault: Fault,
        sim: &mut SimCluster,
        names: &[NodeId],
        shared: &Shared,
    ) -> bool {
        let mut hand = Hand {
            sim,
            names,
            shared,
            latency: self.latency,
            loss: self.loss,
            fsync: &self.fsync,
            struck: Cell::new(None),
        };
        if !hand.strike(fault) {
            return false;
        }
        let struck = hand.struck.get();
        let mut record = shared.lock();
        record.mark(struck, Mark::Strike(fault));
        record.tally.add("faults");
        record.tally.add(name_of(fault));
        if let Some(name) = interrupted(record.phase) {
            record.tally.add(name);
        }
        true
    }
}

/// Starts those of these nodes that are down or have ended.
pub(super) fn start_what_is_down(
    sim: &mut SimCluster,
    names: &[NodeId],
    wanted: &[usize],
    shared: &Shared,
) {
    for &at in wanted {
        come_back(sim, &names[at], at, shared);
    }
}

/// Cuts a node's power, and tells the record.
pub(super) fn cut_power(
    sim: &mut SimCluster,
    names: &[NodeId],
    shared: &Shared,
    at: usize,
    unsynced: Unsynced,
) {
    match unsynced {
        Unsynced::Lost => sim.crash_with(&names[at], funk_sim::Unsynced::Lost),
        Unsynced::Kept => sim.crash_with(&names[at], funk_sim::Unsynced::Kept),
        Unsynced::Torn => sim.crash(&names[at]),
    }
    let mut record = shared.lock();
    record.mark(Some(at), Mark::Stopped("power cut".to_owned()));
    record.ended(at);
    record.nodes[at].disk.fault = None;
}

/// Starts a node a while after this run of it was told to leave, unless something else has ended the run.
fn come_back_from_leave(
    sim: &mut SimCluster,
    run: Instance,
    at: usize,
    back: Duration,
    shared: &Shared,
) {
    let shared = shared.clone();
    sim.at(sim.elapsed() + back, move |sim| {
        let name = run.node.clone();
        let handle = sim.handle(&name);
        let end = sim.end(&name);
        let goes_on = handle.is_some_and(|now| *now.instance() == run);
        let is_another = end.is_none() && !goes_on;
        let comes_by_itself = matches!(end, Some(End::Failed(_) | End::Refused(_)));
        if shared.is_calm() || !sim.is_up(&name) || comes_by_itself || is_another {
            return;
        }
        // One that could not leave in time is killed.
        if end.is_none() && !kill(sim, &name, at, &shared) {
            return come_back_from_leave(sim, run, at, back, &shared);
        }
        come_back(sim, &name, at, &shared);
    });
}

fn is_now(moment: Moment, phase: Phase) -> bool {
    match moment {
        Moment::Now => true,
        Moment::Proposed => phase == Phase::Proposed,
        Moment::Draining => phase == Phase::Draining(0),
        Moment::Acked => matches!(phase, Phase::Draining(by) if by > 0),
        Moment::Deciding => phase == Phase::Deciding,
        Moment::InForce => phase == Phase::InForce,
    }
}

fn interrupted(phase: Phase) -> Option<&'static str> {
    Some(match phase {
        Phase::None => return None,
        Phase::Proposed => "faults before a proposal committed",
        Phase::Draining(0) => "faults before the first ack",
        Phase::Draining(_) => "faults between acks",
        Phase::Deciding => "faults between the last ack and the commit",
        Phase::InForce => "faults after the commit",
    })
}

fn name_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Crash {
            disk: Disk::Kept, ..
        } => "crashes",
        Fault::Crash {
            disk: Disk::Lost, ..
        } => "stores lost",
        Fault::CrashAll { .. } => "crashes of all nodes",
        Fault::Kill { .. } => "processes killed",
        Fault::PowerEnds { .. } => "powers about to end",
        Fault::SyncFails { .. } => "fsyncs about to fail",
        Fault::DiskFull { .. } => "disks with little room",
        Fault::SlowDisk { .. } => "slow disks",
        Fault::Damage { .. } => "stores damaged",
        Fault::Lies { .. } => "disks that lied",
        Fault::Pause { .. } => "pauses",
        Fault::Sleep { .. } => "machines that slept",
        Fault::Cut { .. } => "cuts",
        Fault::Loss { .. } => "times of loss",
        Fault::Slow { .. } => "times of slowness",
        Fault::StepDown => "leaders asked to hand on",
        Fault::Leave { .. } => "nodes that left",
        Fault::Tags { .. } => "tags changed",
        Fault::Hold { .. } => "guards held by users",
    }
}

/// What carries one fault out.
pub(super) struct Hand<'a> {
    pub(super) sim: &'a mut SimCluster,
    pub(super) names: &'a [NodeId],
    pub(super) shared: &'a Shared,
    latency: Duration,
    loss: f64,
    pub(super) fsync: &'a [Duration],
    /// Whom the fault was found to strike.
    struck: Cell<Option<usize>>,
}

impl Hand<'_> {
    /// `false`: it cannot take place now.
    fn strike(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Crash {
                target,
                down,
                disk,
                unsynced,
            } => self.crash(target, down, disk, unsynced),
            Fault::CrashAll { down, unsynced } => self.crash_all(down, unsynced),
            Fault::Kill { target, down } => self.kill(target, down),
            Fault::PowerEnds {
                target,
                operation,
                down,
            } => self.end_power(target, operation, down),
            Fault::SyncFails {
                target,
                operation,
                down,
            } => self.fail_sync(target, operation, down),
            Fault::DiskFull { target, room, down } => self.fill(target, room, down),
            Fault::SlowDisk {
                target,
                delay,
                span,
            } => self.slow_disk(target, delay, span),
            Fault::Damage {
                target,
                place,
                down,
            } => self.damage(target, place, down),
            Fault::Lies { target, span, down } => self.lie(target, span, down),
            Fault::Pause { target, span } => self.pause(target, span),
            Fault::Sleep { target, span } => self.sleep(target, span),
            Fault::Cut { cut, span } => self.cut(cut, span),
            Fault::Loss { percent, span } => {
                let base = self.loss;
                self.set_loss(f64::from(percent) / 100.0);
                self.sim.at(self.sim.elapsed() + span, move |sim| {
                    sim.simulation().network().lose_datagrams(base);
                });
                true
            }
            Fault::Slow { latency, span } => {
                let base = self.latency;
                self.sim.simulation().set_latency(latency);
                self.sim.at(self.sim.elapsed() + span, move |sim| {
                    sim.simulation().set_latency(base);
                });
                true
            }
            Fault::StepDown => {
                let leader = self.place(Target::Leader);
                let handle = leader.and_then(|at| self.sim.handle(&self.names[at]));
                handle.is_some_and(|handle| {
                    handle.step_down();
                    true
                })
            }
            Fault::Leave { target, back } => self.leave(target, back),
            Fault::Tags { target, times } => self.change_tags(target, times),
            Fault::Hold { target, span } => self.hold(target, span),
        }
    }

    fn set_loss(&mut self, loss: f64) {
        self.sim.simulation().network().lose_datagrams(loss);
    }

    /// Where the target is now; `None`: there is none, or its node does not run.
    pub(super) fn place(&self, target: Target) -> Option<usize> {
        let leader = self.shared.lock().leader();
        let at = match target {
            Target::Node(at) => at % self.names.len(),
            Target::Leader => leader?,
            Target::Follower(number) => {
                let others = (0..self.names.len()).filter(|at| Some(*at) != leader);
                let others: Vec<usize> = others.collect();
                others[number % others.len()]
            }
        };
        self.struck.set(Some(at));
        self.sim.handle(&self.names[at]).map(|_| at)
    }

    fn crash(&mut self, target: Target, down: Duration, disk: Disk, unsynced: Unsynced) -> bool {
        let Some(at) = self.place(target) else {
            return false;
        };
        let is_lost = {
            let record = self.shared.lock();
            let view = &record.nodes[at].disk;
            let is_lost = disk == Disk::Lost || view.is_volatile || view.lies;
            if is_lost && !may_lose_store(&record, at) {
                return false;
            }
            is_lost
        };
        cut_power(self.sim, self.names, self.shared, at, unsynced);
        self.shared.lock().nodes[at].store_is_lost = is_lost;
        come_back_after(self.sim, &self.names[at], at, down, self.shared);
        true
    }

    fn crash_all(&mut self, down: Duration, unsynced: Unsynced) -> bool {
        {
            let record = self.shared.lock();
            let mut all = record.nodes.iter().enumerate();
            let some_may_not = all.any(|(at, node)| {
                let disk = &node.disk;
                disk.is_volatile || (disk.lies && !may_lose_store(&record, at))
            });
            if some_may_not {
                return false;
            }
        }
        for at in 0..self.names.len() {
            cut_power(self.sim, self.names, self.shared, at, unsynced);
            {
                let node = &mut self.shared.lock().nodes[at];
                node.store_is_lost |= node.disk.lies;
            }
            come_back_after(self.sim, &self.names[at], at, down, self.shared);
        }
        true
    }

    fn pause(&mut self, target: Target, span: Duration) -> bool {
        let Some(at) = self.place(target) else {
            return false;
        };
        let name = self.names[at].clone();
        self.sim.simulation().pause(&name);
        self.sim.at(self.sim.elapsed() + span, move |sim| {
            sim.simulation().resume(&name);
        });
        true
    }

    /// The process stands still, and its clocks tell it so.
    fn sleep(&mut self, target: Target, span: Duration) -> bool {
        let Some(at) = self.place(target) else {
            return false;
        };
        let name = self.names[at].clone();
        let began = self.sim.elapsed();
        let asleep = self.sim.simulation().environment(&name);
        self.sim.simulation().pause(&name);
        self.sim.at(began + span, move |sim| {
            // Of this run only: one that was started meanwhile has slept for no time.
            let slept = sim.elapsed() - began;
            if let Some(environment) = asleep {
                environment.slept(slept);
                environment.resume();
            }
        });
        true
    }

    fn leave(&mut self, target: Target, back: Duration) -> bool {
        // At most one at a time, and not from a group of which more than one is gone anyway.
        let mut down = 0;
        for name in self.names {
            down += usize::from(self.sim.handle(name).is_none());
        }
        let enough = down <= 1;
        let leaving = {
            let record = self.shared.lock();
            let mut runs = record.nodes.iter().filter_map(|node| node.run.as_ref());
            runs.any(|run| run.leaving)
        };
        let at = self.place(target);
        let at = at.filter(|&at| may_leave(&self.shared.lock(), at));
        let (true, false, Some(at)) = (enough, leaving, at) else {
            return false;
        };
        {
            let node = &mut self.shared.lock().nodes[at];
            node.leaving = node.raft.clone();
        }
        let name = self.names[at].clone();
        let Some(run) = self.sim.handle(&name).map(|run| run.instance().clone()) else {
            return false;
        };
        self.sim
            .spawn(&name, |cluster| async move { cluster.leave().await });
        come_back_from_leave(self.sim, run, at, back, self.shared);
        true
    }

    fn change_tags(&mut self, target: Target, times: u32) -> bool {
        let Some(at) = self.place(target) else {
            return false;
        };
        let stamp = self.sim.elapsed().as_nanos().to_string();
        self.sim.spawn(&self.names[at], |cluster| async move {
            for time in 0..times {
                let value = format!("{stamp}.{time}");
                // A node that stops meanwhile refuses nothing: there is nobody to tell.
                let _ = cluster.set_tag("tested", Some(&value)).await;
            }
        })
    }

    fn hold(&mut self, target: Target, span: Duration) -> bool {
        let Some(at) = self.place(target) else {
            return false;
        };
        let shared = self.shared.clone();
        self.sim.spawn(&self.names[at], |cluster| async move {
            let shards = cluster.shard_map().shards();
            let guards = (0..shards.min(4)).filter_map(|shard| {
                let guard = cluster.guard(funk::ShardId(shard))?;
                Some(Watched::new(guard, at, &shared))
            });
            let guards: Vec<Watched> = guards.collect();
            let environment = funk::runtime::Environment::current();
            environment.sleep(span / 2).await;
            guards.iter().for_each(Watched::write);
            environment.sleep(span / 2).await;
            guards.iter().for_each(Watched::write);
        })
    }

    fn cut(&mut self, cut: Cut, span: Duration) -> bool {
        let links = self.links(cut);
        if links.is_empty() {
            return false;
        }
        let links: Vec<(NodeId, NodeId)> = links
            .into_iter()
            .map(|(from, to)| (self.names[from].clone(), self.names[to].clone()))
            .collect();
        for (from, to) in &links {
            self.sim.simulation().cut_one_way(from, to);
        }
        self.sim.at(self.sim.elapsed() + span, move |sim| {
            for (from, to) in &links {
                sim.simulation().heal_one_way(from, to);
            }
        });
        true
    }

    fn links(&self, cut: Cut) -> Vec<(usize, usize)> {
        let nodes = self.names.len();
        let known = |at: usize| self.sim.names().any(|name| *name == self.names[at]);
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        let pairs = pairs.filter(|&(from, to)| from != to && known(from) && known(to));
        let in_side = |side: u32, at: usize| side & (1 << at) != 0;
        let one = |target: Target| self.place(target).unwrap_or(usize::MAX);
        let chosen: Box<dyn Fn(usize, usize) -> bool> = match cut {
            Cut::Split(side) => Box::new(move |from, to| in_side(side, from) != in_side(side, to)),
            Cut::Bridge(side, bridge) => Box::new(move |from, to| {
                in_side(side, from) != in_side(side, to) && from != bridge && to != bridge
            }),
            Cut::Isolate(target) => {
                let at = one(target);
                Box::new(move |from, to| from == at || to == at)
            }
            Cut::Deaf(target) => {
                let at = one(target);
                Box::new(move |_, to| to == at)
            }
            Cut::Mute(target) => {
                let at = one(target);
                Box::new(move |from, _| from == at)
            }
            Cut::LeaderAndOne(friend) => {
                let leader = one(Target::Leader);
                let friend = one(Target::Follower(friend));
                let among = move |at: usize| at == leader || at == friend;
                let is_there = leader != usize::MAX;
                Box::new(move |from, to| is_there && among(from) != among(to))
            }
            Cut::OneWay(bits) => {
                Box::new(move |from, to| bits & (1 << ((from * nodes + to) % 64)) != 0)
            }
        };
        pairs.filter(|&(from, to)| chosen(from, to)).collect()
    }
}
