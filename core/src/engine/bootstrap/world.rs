//! An in-memory world for the machine: a network, a gossip and a raft that are as bad as they may be.
//!
//! Gossip: each node copies, now and then, what is true of every node that it can reach, and calls a node gone that
//! it has not reached for a while. Raft: whoever has a log of a cluster gives it to members that accept that
//! cluster; the cluster is *real* once a quorum of its voters, by name and store, hold the log at the same time.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;

pub(super) const MS: u64 = 1_000_000;
/// Step of the world.
const TICK_MS: u64 = 10;
/// Longest silence before gossip calls a node gone.
const SUSPECT_MS: u64 = 500;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Of a thousand datagrams, so many are lost, and half as many doubled.
    pub(super) loss: u64,
    pub(super) partitions: bool,
    /// Nodes crash and restart.
    pub(super) crashes: bool,
    /// Initialised logs survive a crash.
    pub(super) durable: bool,
}

#[derive(Clone, Debug)]
struct Store {
    id: StoreId,
    /// Cluster, and whether the log holds nothing but its initialisation.
    log: Option<(ClusterId, bool)>,
}

/// What gossip tells about a node.
#[derive(Clone, Debug)]
struct Rumour {
    view: CandidateView,
    cluster: Option<ClusterId>,
    at: u64,
}

struct Node {
    machine: Option<Bootstrap>,
    boot: u64,
    store: Store,
    expect: u16,
    accepts: Option<ClusterId>,
    gossip: BTreeMap<usize, Rumour>,
    wakes_at: u64,
    /// Sets that this run has promised itself to.
    promises: BTreeSet<ClusterId>,
}

struct Founded {
    voters: BTreeMap<RaftId, usize>,
    real: bool,
}

pub(super) struct World {
    pub(super) now: u64,
    rng: ChaCha8Rng,
    faults: Faults,
    nodes: Vec<Node>,
    /// One in so many steps gives the log to a member.
    slowness: u64,
    seeds: bool,
    voters: usize,
    mail: BTreeMap<(u64, u64), (usize, usize, Instance, BootstrapMessage)>,
    posted: u64,
    cut: BTreeSet<(usize, usize)>,
    founded: BTreeMap<ClusterId, Founded>,
    pub(super) counters: Counters,
    pub(super) mismatches: usize,
    /// What must not have happened.
    pub(super) violation: Option<String>,
}

fn name(n: usize) -> NodeId {
    NodeId::new(&format!("n{n:02}")).unwrap()
}

fn addr(n: usize) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1_000 + n as u16))
}

impl World {
    pub(super) fn new(seed: u64, expects: &[u16], faults: Faults) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let node = |&expect: &u16| Node {
            machine: None,
            boot: 0,
            store: Store {
                id: StoreId(0),
                log: None,
            },
            expect,
            accepts: None,
            gossip: BTreeMap::new(),
            wakes_at: rng.next_u64() % (150 * MS),
            promises: BTreeSet::new(),
        };
        Self {
            now: 0,
            nodes: expects.iter().map(node).collect(),
            rng,
            faults,
            slowness: if seed.is_multiple_of(3) { 50 } else { 6 },
            seeds: true,
            voters: 5,
            mail: BTreeMap::new(),
            posted: 0,
            cut: BTreeSet::new(),
            founded: BTreeMap::new(),
            counters: Counters::default(),
            mismatches: 0,
            violation: None,
        }
    }

    pub(super) fn without_seeds(mut self) -> Self {
        self.seeds = false;
        self
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }

    fn instance(&self, n: usize) -> Instance {
        Instance {
            node: name(n),
            boot: BootId(self.nodes[n].boot),
        }
    }

    fn start(&mut self, n: usize) {
        self.nodes[n].boot += 1;
        let instance = self.instance(n);
        let fresh = StoreId(self.rng.next_u64());
        let (seeds, voters) = (self.seeds, self.voters);
        let machine_rng = ChaCha8Rng::seed_from_u64(self.rng.next_u64());
        let durable = self.faults.durable;
        let node = &mut self.nodes[n];
        if node.store.log.is_none() || !durable {
            node.store = Store {
                id: fresh,
                log: None,
            };
        }
        let config = BootstrapConfig {
            instance,
            addr: addr(n),
            store: node.store.id,
            expect: node.expect,
            voters,
            has_seeds: seeds,
            timing: Timing::lan(),
        };
        let mut machine = Bootstrap::new(config, machine_rng, Time(self.now));
        if let Some((cluster, only_own)) = node.store.log {
            machine.handle_initialised(cluster, only_own);
        }
        node.machine = Some(machine);
        node.accepts = node.store.log.map(|(cluster, _)| cluster);
        node.gossip.clear();
        node.promises.clear();
    }

    fn crash(&mut self, n: usize, asleep_ms: u64) {
        self.nodes[n].machine = None;
        self.nodes[n].wakes_at = self.now + asleep_ms * MS;
        self.counters.add("crashes");
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        !self.cut.contains(&(a.min(b), a.max(b)))
            && self.nodes[a].machine.is_some()
            && self.nodes[b].machine.is_some()
    }

    /// Directly or, as gossip probes do, by way of a third node.
    fn reaches(&self, a: usize, b: usize) -> bool {
        self.linked(a, b) || (0..self.nodes.len()).any(|c| self.linked(a, c) && self.linked(c, b))
    }

    /// Runs for so long, with faults or without.
    pub(super) fn run(&mut self, span_ms: u64, with_faults: bool) {
        let end = self.now + span_ms * MS;
        if !with_faults {
            self.cut.clear();
            let now = self.now;
            for node in self.nodes.iter_mut().filter(|node| node.machine.is_none()) {
                node.wakes_at = node.wakes_at.min(now);
            }
        }
        while self.now < end && self.violation.is_none() && !self.has_formed() {
            self.now += TICK_MS * MS;
            for n in 0..self.nodes.len() {
                if self.nodes[n].machine.is_none() && self.nodes[n].wakes_at <= self.now {
                    self.start(n);
                }
            }
            if with_faults {
                self.break_something();
            }
            self.gossip();
            self.deliver();
            self.replicate();
            for n in 0..self.nodes.len() {
                self.step(n);
            }
            self.check();
        }
    }

    fn break_something(&mut self) {
        let count = self.nodes.len() as u64;
        // Faults come thickest when an initiator has just begun, and hit initiators most: that is where it hurts.
        let initiator = (0..self.nodes.len()).find(|&n| {
            let machine = self.nodes[n].machine.as_ref();
            machine.is_some_and(|machine| machine.own.is_some())
        });
        let begun = initiator.is_some_and(|n| self.nodes[n].store.log.is_some());
        if self.faults.partitions && self.below(if begun { 15 } else { 120 }) == 0 {
            self.cut.clear();
            match self.below(4) {
                0 => {}
                1 => {
                    let (a, b) = (self.below(count) as usize, self.below(count) as usize);
                    self.cut.insert((a.min(b), a.max(b)));
                }
                _ => {
                    let side = self.rng.next_u64();
                    for a in 0..count as usize {
                        for b in a + 1..count as usize {
                            if (side >> a ^ side >> b) & 1 == 1 {
                                self.cut.insert((a, b));
                            }
                        }
                    }
                }
            }
        }
        if self.faults.crashes && self.below(if begun { 5 } else { 25 }) == 0 {
            let n = match initiator.filter(|_| !self.rng.next_u64().is_multiple_of(4)) {
                Some(n) => n,
                None => self.below(count) as usize,
            };
            // Stores in memory that hold a real cluster stay: who loses a quorum of them has lost the cluster.
            let log = self.nodes[n].store.log.filter(|_| !self.faults.durable);
            let precious = log.is_some_and(|(cluster, _)| self.founded[&cluster].real);
            if self.nodes[n].machine.is_some() && !precious {
                let asleep = 20 + self.below(1_500);
                self.crash(n, asleep);
            }
        }
    }

    fn gossip(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                let hears = self.below(3) == 0 && self.below(1_000) >= self.faults.loss;
                if a != b && hears && self.reaches(a, b) {
                    let other = &self.nodes[b];
                    let view = CandidateView {
                        instance: self.instance(b),
                        addr: addr(b),
                        store: other.store.id,
                        expect: other.expect,
                        is_present: true,
                        is_voter: true,
                    };
                    let established = other.store.log.filter(|(_, only_own)| !only_own);
                    let rumour = Rumour {
                        view,
                        cluster: established.map(|(cluster, _)| cluster),
                        at: self.now,
                    };
                    self.nodes[a].gossip.insert(b, rumour);
                }
            }
        }
    }

    fn post(&mut self, from: usize, to: usize, message: &BootstrapMessage) {
        let doubled = 1 + u64::from(self.below(1_000) < self.faults.loss / 2);
        for _ in 0..doubled {
            if self.below(1_000) < self.faults.loss {
                continue;
            }
            let late = if self.below(50) == 0 { 2_000 } else { 30 };
            let at = self.now + self.below(late * MS);
            self.posted += 1;
            let letter = (from, to, self.instance(from), message.clone());
            self.mail.insert((at, self.posted), letter);
        }
    }

    fn deliver(&mut self) {
        let later = self.mail.split_off(&(self.now + 1, 0));
        for (from, to, instance, message) in std::mem::replace(&mut self.mail, later).into_values()
        {
            if self.cut.contains(&(from.min(to), from.max(to))) {
                continue;
            }
            let peer = Peer {
                version: crate::versions::NEWEST,
                instance,
                kind: crate::transport::PeerKind::Node,
                addr: addr(from),
            };
            let bytes = postcard::to_allocvec(&message).unwrap();
            let message = postcard::from_bytes(&bytes).unwrap();
            if let Some(machine) = &mut self.nodes[to].machine {
                machine.handle_message(Time(self.now), &peer, message);
            }
        }
    }

    /// What the engine does around the machine.
    fn step(&mut self, n: usize) {
        let now = Time(self.now);
        let own_voters = self.own_voters(n);
        let node = &mut self.nodes[n];
        let Some(machine) = &mut node.machine else {
            return;
        };
        let joined = node.store.log.is_some_and(|(_, only_own)| !only_own);
        if joined {
            assert_eq!(machine.poll_timeout(), None, "nothing is left to do");
        }
        let fresh = |rumour: &Rumour| self.now - rumour.at < SUSPECT_MS * MS;
        let rumours = node.gossip.values().filter(|_| !joined);
        let view = rumours.map(|rumour| {
            let is_present = fresh(rumour);
            let view = CandidateView {
                is_present,
                ..rumour.view.clone()
            };
            (view.instance.node.clone(), view)
        });
        let view: BTreeMap<_, _> = view.collect();
        let present = node.gossip.values().filter(|rumour| fresh(rumour));
        let heard = present.filter_map(|rumour| rumour.cluster).min();
        let only_own = node.store.log.is_some_and(|(_, only_own)| only_own);
        if node.store.log.is_none() || only_own {
            machine.update(now, &view, heard);
        }
        let mut abandon = false;
        if let Some(voters) = own_voters {
            machine.update_own_voters(&voters);
            abandon = heard.is_some() && heard != node.accepts;
        }
        machine.handle_timeout(now);
        let mut outputs: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
        if abandon {
            outputs.push(BootstrapOutput::Abandon);
        }
        assert!(
            machine.poll_timeout().is_none_or(|at| at > now),
            "a due timer was not fired"
        );
        for (name, count) in machine.take_counters().iter() {
            (0..count).for_each(|_| self.counters.add(name));
        }
        for output in outputs {
            self.carry_out(n, output);
        }
        let node = &mut self.nodes[n];
        if let (Some(machine), None) = (&mut node.machine, node.store.log) {
            node.accepts = machine.promised_to().or(heard).or(node.accepts);
        }
    }

    fn carry_out(&mut self, n: usize, output: BootstrapOutput) {
        match output {
            BootstrapOutput::Send { to, message } => {
                if let BootstrapMessage::Promise { cluster } = message {
                    self.nodes[n].promises.insert(cluster);
                }
                let to = usize::from(to.addr.port() - 1_000);
                self.post(n, to, &message);
            }
            BootstrapOutput::Initialise { cluster, members } => {
                self.initialise(n, cluster, members)
            }
            BootstrapOutput::Fence | BootstrapOutput::Abandon => {
                let id = StoreId(self.rng.next_u64());
                let now = Time(self.now);
                let node = &mut self.nodes[n];
                node.store = Store { id, log: None };
                node.accepts = None;
                if let Some(machine) = &mut node.machine {
                    machine.handle_store_replaced(now, id);
                }
            }
            BootstrapOutput::Mismatch { .. } => self.mismatches += 1,
        }
    }

    fn initialise(&mut self, n: usize, cluster: ClusterId, members: BTreeMap<RaftId, SocketAddr>) {
        let expect = usize::from(self.nodes[n].expect);
        let number = |id: &RaftId| {
            (0..self.nodes.len())
                .find(|&at| name(at) == id.node)
                .unwrap()
        };
        let voters: BTreeMap<RaftId, usize> =
            members.keys().map(|id| (id.clone(), number(id))).collect();
        if self.founded.contains_key(&cluster) {
            self.violation = Some(format!("{cluster} is initialised twice"));
        }
        if voters.len() != expect.min(self.voters) {
            self.violation = Some(format!("{} voters", voters.len()));
        }
        // Whoever still runs with the store that is in the set must have promised.
        for (id, &at) in &voters {
            let node = &self.nodes[at];
            let same = node.store.id == id.store && node.machine.is_some();
            if at != n && same && !node.promises.contains(&cluster) {
                self.violation = Some(format!("{id} is in {cluster} without a promise"));
            }
        }
        let node = &mut self.nodes[n];
        node.store.log = Some((cluster, true));
        node.accepts = Some(cluster);
        if let Some(machine) = &mut node.machine {
            machine.handle_initialised(cluster, true);
        }
        self.founded.insert(
            cluster,
            Founded {
                voters,
                real: false,
            },
        );
    }

    fn own_voters(&self, n: usize) -> Option<BTreeSet<RaftId>> {
        let (cluster, _) = self.nodes[n].store.log.filter(|(_, only_own)| *only_own)?;
        Some(self.founded[&cluster].voters.keys().cloned().collect())
    }

    fn holds(&self, id: &RaftId, at: usize, cluster: ClusterId) -> bool {
        let store = &self.nodes[at].store;
        store.id == id.store && store.log.is_some_and(|(held, _)| held == cluster)
    }

    fn replicate(&mut self) {
        let clusters: Vec<ClusterId> = self.founded.keys().copied().collect();
        for cluster in clusters {
            let founded = &self.founded[&cluster];
            let (real, voters) = (founded.real, founded.voters.clone());
            let holders = voters
                .iter()
                .filter(|(id, at)| self.holds(id, **at, cluster));
            let holders: Vec<usize> = holders.map(|(_, &at)| at).collect();
            for to in 0..self.nodes.len() {
                let node = &self.nodes[to];
                let voter = voters
                    .keys()
                    .any(|id| id.node == name(to) && id.store == node.store.id);
                let accepts = node.store.log.is_none() && node.accepts == Some(cluster);
                let reached = holders.iter().any(|&from| self.linked(from, to));
                if (voter || real) && accepts && reached && self.below(self.slowness) == 0 {
                    self.learn(to, cluster, !real);
                }
            }
            let held = voters
                .iter()
                .filter(|(id, at)| self.holds(id, **at, cluster));
            if held.count() > voters.len() / 2 && !real {
                self.founded.get_mut(&cluster).unwrap().real = true;
            }
            // What is real reaches the initiator too: its log has more than the initialisation then.
            if self.founded[&cluster].real {
                for (id, &at) in &voters {
                    let others = voters.values().filter(|&&other| other != at);
                    let linked = others.filter(|&&other| self.linked(at, other)).count();
                    if self.holds(id, at, cluster) && (linked > 0 || voters.len() == 1) {
                        self.learn(at, cluster, false);
                    }
                }
            }
        }
    }

    fn learn(&mut self, n: usize, cluster: ClusterId, only_own: bool) {
        let node = &mut self.nodes[n];
        if node.store.log == Some((cluster, only_own)) {
            return;
        }
        node.store.log = Some((cluster, only_own));
        if let Some(machine) = &mut node.machine {
            machine.handle_initialised(cluster, only_own);
        }
    }

    pub(super) fn real(&self) -> Vec<ClusterId> {
        let real = self.founded.iter().filter(|(_, founded)| founded.real);
        real.map(|(&cluster, _)| cluster).collect()
    }

    fn check(&mut self) {
        if self.real().len() > 1 {
            self.violation = Some(format!("two clusters: {:?}", self.real()));
        }
    }

    /// All nodes are in one cluster.
    pub(super) fn has_formed(&self) -> bool {
        let log = |node: &Node| node.store.log.map(|(cluster, _)| cluster);
        let first = log(&self.nodes[0]);
        first.is_some() && self.nodes.iter().all(|node| log(node) == first)
    }

    pub(super) fn founded(&self) -> usize {
        self.founded.len()
    }

    pub(super) fn describe(&self) -> String {
        let line = |n: usize| {
            let node = &self.nodes[n];
            let machine = node.machine.as_ref();
            format!(
                "{}/{} store {} log {:?} accepts {:?}\n   own {:?}\n   promised {:?}\n   heard {:?} busy {:?}\n",
                name(n),
                node.boot,
                node.store.id,
                node.store.log,
                node.accepts,
                machine.map(|machine| &machine.own),
                machine.map(|machine| &machine.promised),
                machine.map(|machine| machine.heard),
                machine.map(|machine| &machine.busy),
            )
        };
        (0..self.nodes.len()).map(line).collect()
    }
}
