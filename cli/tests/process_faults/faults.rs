//! What happens to processes, under load: killed, stopped and resumed, two at once, all of them restarted.

use std::time::{Duration, Instant};

use funk_history::calls::Call;
use rustix::process::Signal;

use crate::fleet::Fleet;
use crate::load::{Load, judge};
use crate::place::Place;

const NODES: usize = 5;
/// How long a process is stopped: many leases, and longer than gossip waits before it calls a node failed.
const PAUSE: Duration = Duration::from_secs(3);
/// Answers that a load must get to count as going on.
const GOING_ON: usize = 50;

/// A cluster with its load, and the faults in order.
struct Scene<'a> {
    place: &'a Place,
    fleet: Fleet<'a>,
    load: Load,
    /// The calls of loads that have ended.
    calls: Vec<Call>,
}

impl Scene<'_> {
    fn going_on(&mut self, when: &str) {
        self.load.wait_answers(GOING_ON, when);
    }

    fn kill_leader(&mut self) {
        let leader = self.fleet.leader(0);
        self.fleet.kill(&[leader]);
        self.going_on("after the leader was killed");
        self.restart(&[leader]);
    }

    /// A process stands still for longer than its lease, with callers who know only this one: they are there when it
    /// goes on, and would be the first to get what it has no right to say.
    fn pause(&mut self, victim: usize) {
        let address = self.fleet.address(victim).to_string();
        let mut faithful = Load::through(&address, self.place, None);
        faithful.wait_answers(GOING_ON, "before a process was stopped");
        self.fleet.process(victim).signal(Signal::STOP);
        // The fault itself.
        std::thread::sleep(PAUSE);
        self.fleet.process(victim).signal(Signal::CONT);
        faithful.wait_answers(GOING_ON, "from a process that went on");
        self.going_on("after a process went on");
        self.calls.extend(faithful.stop());
        self.fleet.wait_whole();
    }

    fn kill_two(&mut self) {
        let leader = self.fleet.leader(0);
        let victims = [leader, (leader + 1) % NODES];
        self.fleet.kill(&victims);
        self.going_on("after two were killed at once");
        self.restart(&victims);
    }

    fn restart_all(&mut self) {
        for node in 0..NODES {
            self.fleet.leave(node);
            self.going_on("after a node left");
            self.restart(&[node]);
        }
    }

    fn restart(&mut self, nodes: &[usize]) {
        for node in nodes {
            self.fleet.start(*node);
        }
        self.fleet.wait_whole();
        self.going_on("after a restart");
    }
}

#[test]
fn killed_stopped_and_restarted_under_load_nothing_is_lost_twice_or_stale() {
    let place = Place::new("faults");
    let mut fleet = Fleet::new(&place, NODES, None);
    fleet.start_all();
    fleet.wait_whole();
    let begin = Instant::now();
    let load = Load::start(&place, &fleet, None);
    let mut scene = Scene {
        place: &place,
        fleet,
        load,
        calls: Vec::new(),
    };
    scene.going_on("before the first fault");
    scene.kill_leader();
    let leader = scene.fleet.leader(0);
    scene.pause(leader);
    let leader = scene.fleet.leader(0);
    scene.pause((leader + 1) % NODES);
    scene.kill_two();
    scene.restart_all();
    let took = begin.elapsed();
    let Scene {
        fleet,
        load,
        mut calls,
        ..
    } = scene;
    calls.extend(load.stop());
    let report = judge(&place, &fleet, None, calls);
    println!("faults: {took:?}; {}", report.summary());
    assert!(report.is_good(), "{report}\n{}", fleet.describe());
}
