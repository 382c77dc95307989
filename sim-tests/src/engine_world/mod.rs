//! The engine simulator: production engines, a model raft and a model shell, on one queue of events in true time.
//!
//! No runtime, no threads, no wall clock: a seed decides everything. Every node has its own clock, which errs; a
//! process may stand still while its clock goes on; messages are lost, doubled, overtaken; links are cut one way
//! or both. The invariants are checked at every step at which they could break.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use funk::engine::{Input, Message, Tags};
use funk::ids::{BootId, ClusterId, Epoch, Instance, NodeId, RaftId, ShardId};
use funk::transport::Peer;

use crate::invariants::i2_same_maps::SameMaps;
use crate::invariants::i3_fencing::Fencing;
use crate::invariants::i4_acked::Acked;
use crate::invariants::{Verdict, Violation, i1_single_owner};
use crate::model_raft::{self, Rid, Store};
use crate::random::Random;
use crate::tally::Tally;

mod checks;
mod clock;
mod faults;
mod handoff;
mod network;
mod node;
mod process;
pub mod profile;
mod queue;
mod run;
mod shell;

use clock::{Clock, TrueTime};
use faults::Faults;
use handoff::Handoff;
use network::Network;
use process::Process;
use profile::{FaultKind, Profile};
use queue::Queue;

pub use run::{Failure, Outcome, run, run_uneven, run_with};

/// Nanoseconds of a duration.
fn ns(span: Duration) -> u64 {
    span.as_nanos() as u64
}

/// A node: what outlives its processes.
struct Node {
    name: NodeId,
    addr: SocketAddr,
    clock: Clock,
    boot: u64,
    rid: Rid,
    /// Until then raft messages to it are lost.
    raft_deaf_until: TrueTime,
    /// While no process runs.
    store: Option<Store>,
    process: Option<Box<Process>>,
}

/// A message on its way.
#[derive(Clone, Debug)]
enum Parcel {
    Engine(Peer, Message),
    Raft {
        from: Rid,
        to: Rid,
        cluster: ClusterId,
        message: model_raft::Message,
    },
}

/// Something that happens. Those that name a boot happen to that run only, and wait while it stands still.
#[derive(Clone, Debug)]
enum Event {
    Deliver(usize, Box<Parcel>),
    Timer(usize, u64),
    RaftTimer(usize, u64),
    Lagged(usize, u64),
    Lapse(usize, u64),
    GuardEnd(usize, u64, u64),
    HookEnd {
        node: usize,
        boot: u64,
        shard: ShardId,
        epoch: Epoch,
        acquire: bool,
        ok: bool,
    },
    DrainDeadline {
        node: usize,
        boot: u64,
        shard: ShardId,
        epoch: Epoch,
    },
    TagsPulled {
        node: usize,
        boot: u64,
        from: Instance,
        version: u64,
        tags: Option<Box<Tags>>,
    },
    Write {
        shard: ShardId,
        epoch: Epoch,
        by: usize,
        instance: Instance,
        guard: u64,
    },
    Request,
    Fault,
    Strike(FaultKind, Option<usize>),
    StrikeFormerLeader,
    Heal(network::Cut),
    Start(usize),
    Resume(usize, u64),
    Look,
    EndOfChaos,
}

impl Event {
    /// The run that it happens to.
    fn process(&self) -> Option<(usize, u64)> {
        match *self {
            Self::Timer(node, boot)
            | Self::RaftTimer(node, boot)
            | Self::Lagged(node, boot)
            | Self::Lapse(node, boot)
            | Self::GuardEnd(node, boot, _)
            | Self::HookEnd { node, boot, .. }
            | Self::DrainDeadline { node, boot, .. }
            | Self::TagsPulled { node, boot, .. } => Some((node, boot)),
            _ => None,
        }
    }
}

/// The whole world of one schedule.
pub struct World {
    profile: Profile,
    now: TrueTime,
    queue: Queue<Event>,
    random: Random,
    nodes: Vec<Node>,
    network: Network,
    /// Raft ids by [`Rid`], and whose they are.
    rids: Vec<(RaftId, usize)>,
    guards_given: u64,
    faults: Faults,
    handoff: Handoff,
    maps: SameMaps,
    acked: Acked,
    fencing: Fencing,
    tally: Tally,
    pins: bool,
    leader_terms: BTreeSet<u64>,
    cluster: Option<ClusterId>,
    newest_leader: Option<usize>,
    former_leader: Option<usize>,
    calm: bool,
    trace: bool,
    violation: Option<Violation>,
}

/// Prints a line of the trace, if there is one.
macro_rules! trace {
    ($world:expr, $($arg:tt)*) => {
        if $world.trace {
            println!("{:>12.6} {}", $world.now as f64 / 1e9, format_args!($($arg)*));
        }
    };
}
use trace;

/// How often all shards are looked at, beside those that may have changed.
const LOOK_EVERY: u64 = 20_000_000;

impl World {
    /// A world in which all nodes are about to start.
    pub fn new(seed: u64, trace: bool) -> Self {
        Self::with(Profile::new(seed), seed, trace)
    }

    /// One with these options instead of those of the seed.
    pub fn with(profile: Profile, seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed ^ 0x005e_ed0f_ea11);
        let network = Network::new(profile.nodes, profile.net.clone(), random.fork(1));
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            nodes: Vec::new(),
            network,
            rids: Vec::new(),
            guards_given: 0,
            faults: Faults::default(),
            handoff: Handoff::default(),
            maps: SameMaps::default(),
            acked: Acked::default(),
            fencing: Fencing::default(),
            tally: Tally::default(),
            pins: false,
            leader_terms: BTreeSet::new(),
            cluster: None,
            newest_leader: None,
            former_leader: None,
            calm: false,
            trace,
            violation: None,
            random,
            profile,
        };
        for at in 0..world.profile.nodes {
            let node = world.new_node(at);
            world.nodes.push(node);
            let start = world.random.below(ns(Duration::from_millis(300)));
            world.queue.push(start, Event::Start(at));
        }
        world.queue.push(1, Event::Request);
        world.queue.push(LOOK_EVERY, Event::Look);
        world
    }

    fn new_node(&mut self, at: usize) -> Node {
        let bound = self.profile.ppm;
        let ppm = if self.profile.extreme_clocks {
            self.random.pick(&[-(bound as i32), bound as i32])
        } else {
            self.random.below(2 * u64::from(bound) + 1) as i32 - bound as i32
        };
        let name = NodeId::new(&format!("n{at}")).expect("a short lower-case name");
        let rid = self.new_rid(&name, at);
        Node {
            addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, at as u8 + 1)), 7_000),
            clock: Clock {
                offset: self.random.below(1 << 40),
                ppm,
            },
            boot: 0,
            raft_deaf_until: 0,
            rid,
            store: Some(Store::default()),
            process: None,
            name,
        }
    }

    /// A new, empty store is another raft member (rule M0).
    fn new_rid(&mut self, name: &NodeId, at: usize) -> Rid {
        let store = funk::ids::StoreId(self.random.next());
        self.rids.push((
            RaftId {
                node: name.clone(),
                store,
            },
            at,
        ));
        Rid(self.rids.len() as u16 - 1)
    }

    fn rid_of(&self, id: &RaftId) -> Option<Rid> {
        self.rids
            .iter()
            .position(|(known, _)| known == id)
            .map(|at| Rid(at as u16))
    }

    fn raft_id(&self, rid: Rid) -> &RaftId {
        &self.rids[usize::from(rid.0)].0
    }

    fn clock(&self, node: usize) -> funk::time::Time {
        self.nodes[node].clock.read(self.now)
    }

    fn process(&mut self, node: usize) -> Option<&mut Process> {
        self.nodes[node].process.as_deref_mut()
    }

    fn running(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(at, node)| node.process.as_deref().map(|process| (at, process)))
    }

    /// The process that raft made leader of the newest term.
    fn leader(&self) -> Option<usize> {
        let leaders = self
            .running()
            .filter(|(_, process)| process.raft.is_leader());
        leaders
            .max_by_key(|(_, process)| process.raft.term())
            .map(|(at, _)| at)
    }

    /// Does what is next; `false`: nothing is.
    fn step(&mut self) -> bool {
        let Some((at, event)) = self.queue.pop() else {
            return false;
        };
        debug_assert!(at >= self.now);
        self.now = at;
        if let Some((node, boot)) = event.process() {
            let Some(process) = self
                .process(node)
                .filter(|process| process.instance.boot == BootId(boot))
            else {
                return true;
            };
            if process.paused {
                process.deferred.push(event);
                return true;
            }
        }
        self.happen(event);
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(node, parcel) => self.deliver(node, *parcel),
            Event::Timer(node, _) => self.timer(node),
            Event::RaftTimer(node, _) => self.raft_timer(node),
            Event::Lagged(node, _) => self.lagged(node),
            Event::Lapse(node, _) => self.lapse(node),
            Event::GuardEnd(node, _, guard) => self.end_guard(node, guard),
            Event::HookEnd {
                node,
                shard,
                epoch,
                acquire,
                ok,
                ..
            } => self.end_hook(node, shard, epoch, acquire, ok),
            Event::DrainDeadline {
                node, shard, epoch, ..
            } => self.drain_deadline(node, shard, epoch),
            Event::TagsPulled {
                node,
                from,
                version,
                tags,
                ..
            } => {
                self.input(
                    node,
                    Input::TagsPulled {
                        from,
                        version,
                        tags: tags.map(|tags| *tags),
                    },
                );
            }
            Event::Write {
                shard,
                epoch,
                by,
                instance,
                guard,
            } => self.write(shard, epoch, by, &instance, guard),
            Event::Request => self.request(),
            Event::Fault => self.next_fault(),
            Event::Strike(kind, target) => self.strike(kind, target),
            Event::StrikeFormerLeader => self.strike_former_leader(),
            Event::Heal(cut) => self.network.heal(&cut),
            Event::Start(node) => self.start(node),
            Event::Resume(node, boot) => self.resume(node, boot),
            Event::Look => {
                self.check_all_shards();
                self.ask_for_weights();
                self.queue.push(self.now + LOOK_EVERY, Event::Look);
            }
            Event::EndOfChaos => self.end_chaos(),
        }
    }

    /// The leader is asked for the weights until they are in force.
    fn ask_for_weights(&mut self) {
        let (Some(weights), Some(leader)) = (self.profile.weights.clone(), self.leader()) else {
            return;
        };
        let asks = |process: &mut Process| {
            let map = process.engine.committed();
            !process.paused && map.shards() != 0 && map.weights() != Some(&weights)
        };
        if self.process(leader).is_some_and(asks) {
            self.tally.add("weights asked for");
            self.input(leader, Input::SetWeights(Some(weights)));
        }
    }

    fn note(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict
            && self.violation.is_none()
        {
            trace!(self, "VIOLATION {violation}");
            self.violation = Some(violation);
        }
    }

    fn check_shards(&mut self, shards: impl Iterator<Item = ShardId>) {
        let nodes = self
            .running()
            .map(|(at, process)| process.serving(self.nodes[at].clock.read(self.now)));
        // The iterator is walked for every shard: few nodes, so a vector is cheapest.
        let nodes: Vec<_> = nodes.collect();
        let verdict = i1_single_owner::check(nodes.iter().copied(), shards);
        self.note(verdict);
    }

    fn check_all_shards(&mut self) {
        self.check_shards((0..self.profile.shards).map(ShardId));
    }
}

/// What a node tells others when they fetch its tags.
fn own_tags(process: &Process) -> Option<(u64, Tags)> {
    let own = process.engine.members().get(&process.instance.node)?;
    Some((own.tag_version, Tags::clone(&Arc::clone(&own.tags))))
}
