//! Faults: when, what and whom they strike, and how they end.

use super::*;

const fn ms(ms: u64) -> u64 {
    ms * 1_000_000
}

/// Faults do not begin before a first map is in force, or this has passed.
const GRACE: u64 = ms(5_000);
/// Fewest faults in a schedule.
const LEAST_FAULTS: u64 = 3;

/// The course of faults.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// How many took place.
    pub(super) count: u64,
    begun: bool,
}

impl World {
    /// Draws the next fault.
    pub(super) fn next_fault(&mut self) {
        if self.calm {
            return;
        }
        let forming = self.profile.kind == profile::Kind::Forming;
        if self.maps.count() == 0 && self.now < GRACE && !forming {
            return self.queue.push(self.now + ms(50), Event::Fault);
        }
        if !std::mem::replace(&mut self.faults.begun, true) {
            self.queue
                .push(self.now + ns(self.profile.chaos), Event::EndOfChaos);
        }
        let wait = self.random.exponential(ns(self.profile.fault_every) as f64);
        self.queue.push(self.now + wait, Event::Fault);
        let total: u32 = self.profile.faults.iter().map(|(_, weight)| weight).sum();
        let mut left = self.random.below(u64::from(total)) as u32;
        let drawn = self.profile.faults.iter().find(|(_, weight)| {
            let hit = left < *weight;
            left = left.saturating_sub(*weight);
            hit
        });
        let kind = drawn.expect("weights cover the range").0;
        self.strike(kind, None);
    }

    /// Some node: the leader more often than the others.
    fn victim(&mut self) -> usize {
        match self.leader() {
            Some(leader) if self.random.chance(0.35) => leader,
            _ => self.random.below(self.nodes.len() as u64) as usize,
        }
    }

    /// The fault takes place, if it can.
    pub(super) fn strike(&mut self, kind: FaultKind, target: Option<usize>) {
        if self.calm {
            return;
        }
        let at = target.unwrap_or_else(|| self.victim());
        let runs = self.nodes[at]
            .process
            .as_deref()
            .is_some_and(|process| !process.paused);
        let took_place = match kind {
            FaultKind::Crash if runs && self.may_crash(at) => self.crash(at, true),
            FaultKind::LoseStore if runs && self.may_lose_store(at) => self.crash(at, false),
            FaultKind::Pause | FaultKind::Suspend if runs => {
                self.pause(at, kind == FaultKind::Suspend)
            }
            FaultKind::Leave if runs => self.leave(at),
            FaultKind::StepDown => self
                .leader()
                .is_some_and(|leader| self.ask_to_step_down(leader)),
            FaultKind::Lag => {
                let longest = ns(self.profile.timing.ack_timeout + self.profile.timing.lease) * 2;
                self.nodes[at].raft_deaf_until = self.now + self.random.below(longest);
                runs
            }
            FaultKind::Desert => self.desert(),
            FaultKind::Chairs => self.chairs(),
            FaultKind::Loss => {
                let until = self.now + self.random.between(ms(50), ms(1_500));
                let loss = 0.1 + self.random.unit() * 0.5;
                self.network.burst(until, loss, Duration::ZERO);
                true
            }
            FaultKind::Delay => {
                let until = self.now + self.random.between(ms(50), ms(1_500));
                let delay = Duration::from_nanos(self.random.between(ms(5), ms(150)));
                self.network.burst(until, 0.0, delay);
                true
            }
            FaultKind::Split
            | FaultKind::Isolate
            | FaultKind::Deaf
            | FaultKind::Mute
            | FaultKind::OneWay
            | FaultKind::Bridge => self.cut(kind, at),
            _ => false,
        };
        if took_place {
            trace!(self, "FAULT {kind:?} at n{at}");
            self.faults.count += 1;
            self.tally.add("faults");
        }
    }

    fn crash(&mut self, at: usize, keep_store: bool) -> bool {
        self.count_interruption(at);
        self.kill(at, keep_store);
        let back = self.now + self.random.between(ms(20), ms(2_500));
        self.queue.push(back, Event::Start(at));
        true
    }

    fn pause(&mut self, at: usize, suspended: bool) -> bool {
        self.count_interruption(at);
        let longest = ns(self.profile.longest_pause);
        let length = if self.random.chance(0.3) {
            longest * 2
        } else {
            longest
        };
        let length = self.random.between(ms(5), length);
        let boot = self.nodes[at].boot;
        if let Some(process) = self.process(at) {
            process.paused = true;
            process.suspended = suspended;
        }
        self.queue.push(self.now + length, Event::Resume(at, boot));
        true
    }

    /// The process goes on. What waited happens now, in any order, as a runtime would have it.
    pub(super) fn resume(&mut self, at: usize, boot: u64) {
        let mut random = self.random.fork(boot);
        let now = self.now;
        let Some(process) = self
            .process(at)
            .filter(|process| process.paused && process.instance.boot.0 == boot)
        else {
            return;
        };
        process.paused = false;
        let mut deferred = std::mem::take(&mut process.deferred);
        let jumped = std::mem::take(&mut process.suspended);
        if random.chance(0.5) {
            for last in (1..deferred.len()).rev() {
                deferred.swap(last, random.below(last as u64 + 1) as usize);
            }
        }
        // What raft said is heard in order whatever else happens.
        trace!(self, "n{at} goes on");
        deferred
            .into_iter()
            .for_each(|event| self.queue.push(now, event));
        if jumped {
            self.input(at, Input::ClockJumped);
        }
    }

    fn leave(&mut self, at: usize) -> bool {
        // At most one at a time, and not from a group of which half is gone anyway.
        if self.running().count() < self.nodes.len()
            || self.running().any(|(_, process)| process.leaving)
        {
            return false;
        }
        if let Some(process) = self.process(at) {
            process.leaving = true;
        }
        self.input(at, Input::Leave);
        true
    }

    fn ask_to_step_down(&mut self, leader: usize) -> bool {
        if self.nodes[leader]
            .process
            .as_deref()
            .is_none_or(|process| process.paused)
        {
            return false;
        }
        self.count_interruption(leader);
        self.input(leader, Input::StepDown);
        true
    }

    /// The leader hands on and is cut off at once, together with one node that goes on hearing it.
    fn desert(&mut self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let nodes = self.nodes.len();
        let friend = (leader + 1 + self.random.below(nodes as u64 - 1) as usize) % nodes;
        if !self.ask_to_step_down(leader) {
            return false;
        }
        let among = |node: usize| node == leader || node == friend;
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        let away: network::Cut = pairs
            .filter(|&(from, to)| among(from) != among(to))
            .collect();
        // The word that hands leadership on is out already: it was sent before the cut.
        self.cut_for(away, ms(200), ms(1_500));
        true
    }

    /// Leadership goes to a second and to a third node, and the second is cut off.
    fn chairs(&mut self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let first = self.now + self.random.between(ms(5), ms(60));
        let second = first + self.random.between(ms(3), ms(20));
        self.queue
            .push(first, Event::Strike(FaultKind::StepDown, None));
        self.queue.push(second, Event::StrikeFormerLeader);
        self.ask_to_step_down(leader)
    }

    /// Whoever led the term before the newest is cut off.
    pub(super) fn strike_former_leader(&mut self) {
        if let Some(at) = self.former_leader.filter(|_| !self.calm) {
            self.strike(FaultKind::Isolate, Some(at));
        }
    }

    fn cut_for(&mut self, cut: network::Cut, least: u64, most: u64) {
        trace!(self, "cut {cut:?}");
        self.network.cut(&cut);
        let heals = self.now + self.random.between(least, most);
        self.queue.push(heals, Event::Heal(cut));
    }

    fn cut(&mut self, kind: FaultKind, at: usize) -> bool {
        let nodes = self.nodes.len();
        let side: Vec<bool> = (0..nodes).map(|_| self.random.chance(0.5)).collect();
        let bridge = self.random.below(nodes as u64) as usize;
        let mut cut: network::Cut = Vec::new();
        for from in 0..nodes {
            for to in (0..nodes).filter(|&to| to != from) {
                let across = side[from] != side[to];
                let hit = match kind {
                    FaultKind::Split => across,
                    FaultKind::Bridge => across && from != bridge && to != bridge,
                    FaultKind::Isolate => from == at || to == at,
                    FaultKind::Deaf => to == at,
                    FaultKind::Mute => from == at,
                    _ => self.random.chance(0.3),
                };
                if hit {
                    cut.push((from, to));
                }
            }
        }
        if cut.is_empty() {
            return false;
        }
        if kind != FaultKind::Split && kind != FaultKind::Bridge && kind != FaultKind::OneWay {
            self.count_interruption(at);
        } else if let Some(leader) = self
            .leader()
            .filter(|leader| cut.iter().any(|(from, _)| from == leader))
        {
            self.count_interruption(leader);
        }
        let longest = if self.random.chance(0.2) {
            ms(4_000)
        } else {
            ms(1_200)
        };
        self.cut_for(cut, ms(20), longest);
        true
    }

    /// A node whose log is empty comes back as another raft member: for a configuration that names it, its crash is the
    /// loss of a store. A majority of those is no fault that the protocol recovers from (docs/protocol.md, section 8).
    fn may_crash(&self, at: usize) -> bool {
        let process = self.nodes[at].process.as_deref();
        let holds_log = process.is_some_and(|process| !process.raft.store().log.is_empty());
        holds_log || self.may_lose_store(at)
    }

    /// Whether every configuration that may still decide something keeps a quorum of stores without this one, and would
    /// without those of nodes that are leaving: the change that takes them out needs a quorum of what is left, and may
    /// begin before anybody misses this node.
    pub(super) fn may_lose_store(&self, at: usize) -> bool {
        let lost = self.nodes[at].rid;
        let leaves = |node: &&Node| {
            node.process
                .as_deref()
                .is_some_and(|process| process.leaving)
        };
        let leaving: BTreeSet<Rid> = self
            .nodes
            .iter()
            .filter(leaves)
            .map(|node| node.rid)
            .collect();
        let kept: BTreeSet<Rid> = self
            .nodes
            .iter()
            .map(|node| node.rid)
            .filter(|&rid| rid != lost)
            .collect();
        let stores = self.nodes.iter().filter_map(|node| {
            let running = node.process.as_deref().map(|process| process.raft.store());
            running.or(node.store.as_ref())
        });
        let mut stores = stores;
        let keeps_quorum = |config: &Arc<crate::model_raft::Config>| {
            config.is_quorum(&kept) && config.without(&leaving).is_quorum(&kept)
        };
        stores.all(|store| store.all_configs().all(keeps_quorum))
    }

    /// The last fault is over: everything is repaired, and what is down starts.
    pub(super) fn end_chaos(&mut self) {
        if self.faults.count < LEAST_FAULTS {
            return self.queue.push(self.now + ms(1_000), Event::EndOfChaos);
        }
        trace!(self, "the faults are over");
        self.calm = true;
        self.network.calm();
        for at in 0..self.nodes.len() {
            let boot = self.nodes[at].boot;
            let Some(process) = self.process(at) else {
                self.queue.push(self.now + ms(10), Event::Start(at));
                continue;
            };
            let held: Vec<u64> = process.guards.keys().copied().collect();
            if process.paused {
                self.queue.push(self.now, Event::Resume(at, boot));
            }
            held.into_iter().for_each(|guard| {
                self.queue
                    .push(self.now + 1, Event::GuardEnd(at, boot, guard))
            });
        }
    }
}
