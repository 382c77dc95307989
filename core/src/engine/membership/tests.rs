//! Many machines and a bad network, without a runtime: time jumps to the next thing that happens.

use super::*;
use crate::ids::BootId;
use crate::limits::MAX_GOSSIP_BYTES;
use proptest::prelude::*;

mod hostile;
mod merge;
mod scenarios;

const PROBE: Duration = Duration::from_millis(200);

fn timing() -> MembershipTiming {
    MembershipTiming {
        probe: PROBE,
        suspect: Duration::from_secs(1),
        stale_after: Duration::from_secs(300),
    }
}

fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn tag(name: &str, value: &str) -> Tags {
    let mut tags = Tags::new();
    tags.insert(name, value).unwrap();
    tags
}

fn config(name: &str, boot: u64, addr: SocketAddr) -> MembershipConfig {
    MembershipConfig {
        versions: crate::versions::VersionRange::SPOKEN,
        cluster: ClusterName::new("test").unwrap(),
        instance: Instance {
            node: node_id(name),
            boot: BootId(boot),
        },
        addr,
        store: StoreId(boot),
        kind: MemberKind::Voter,
        expect: 3,
        capacity: 1,
        tags: tag("name", name),
        timing: timing(),
    }
}

/// A machine that is fed by hand; its first identity is that of [`identity::identity`].
fn machine(name: &str, seed: u64) -> Membership {
    let first = identity::identity(name, 1, 0);
    let mut config = config(name, 1, first.profile.addr);
    config.store = first.profile.store;
    config.tags = Tags::new();
    let machine = Membership::new(config, ChaCha8Rng::seed_from_u64(seed), Time(0));
    assert_eq!(*machine.swim.identity(), first);
    machine
}

struct Node {
    machine: Membership,
    addr: SocketAddr,
    up: bool,
    /// Which side of a partition it is on.
    side: u8,
    events: Vec<MemberEvent>,
    foreign: Vec<(NodeId, ClusterId)>,
    superseded: Vec<BootId>,
    pulls: u64,
}

enum Delivery {
    Gossip {
        from: Peer,
        payload: Bytes,
    },
    Tags {
        from: Instance,
        version: u64,
        tags: Option<Tags>,
    },
}

struct Net {
    now: Time,
    rng: ChaCha8Rng,
    nodes: BTreeMap<NodeId, Node>,
    in_flight: BTreeMap<(Time, u64), (NodeId, Delivery)>,
    sent: u64,
    largest: usize,
    /// Percent of datagrams that are lost, and that arrive twice.
    loss: u32,
    twice: u32,
    /// Delays are up to this; they reorder.
    delay: Duration,
    boots: u64,
    /// The side on which new nodes start.
    new_side: u8,
    /// Pulls fail while set.
    pulls_fail: bool,
}

impl Net {
    fn new(seed: u64) -> Self {
        Self {
            now: Time(1_000_000_000),
            rng: ChaCha8Rng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            sent: 0,
            largest: 0,
            loss: 5,
            twice: 5,
            delay: Duration::from_millis(20),
            boots: 0,
            new_side: 0,
            pulls_fail: false,
        }
    }

    /// `count` nodes that all know the address of the first.
    fn started(seed: u64, count: usize) -> Self {
        let mut net = Self::new(seed);
        for n in 0..count {
            net.start(&format!("n{n}"), |_| {});
        }
        net
    }

    fn addr_of(&self, name: &str) -> SocketAddr {
        let known = self.nodes.get(&node_id(name)).map(|node| node.addr);
        known.unwrap_or(SocketAddr::from((
            [10, 0, 0, 1],
            7000 + self.nodes.len() as u16,
        )))
    }

    /// Starts a node, or another run of it, with the first node's address as its seed.
    fn start(&mut self, name: &str, adapt: impl FnOnce(&mut MembershipConfig)) {
        self.boots += 1;
        let addr = self.addr_of(name);
        let mut config = config(name, self.boots, addr);
        adapt(&mut config);
        let rng = ChaCha8Rng::from_rng(&mut self.rng);
        let mut machine = Membership::new(config, rng, self.now);
        machine.join(self.now, &[SocketAddr::from(([10, 0, 0, 1], 7000))]);
        let side = self
            .nodes
            .get(&node_id(name))
            .map_or(self.new_side, |node| node.side);
        let node = Node {
            machine,
            addr,
            up: true,
            side,
            events: Vec::new(),
            foreign: Vec::new(),
            superseded: Vec::new(),
            pulls: 0,
        };
        self.nodes.insert(node_id(name), node);
        self.drain(&node_id(name));
    }

    fn crash(&mut self, name: &str) {
        self.nodes.get_mut(&node_id(name)).unwrap().up = false;
    }

    fn with(&mut self, name: &str, act: impl FnOnce(&mut Membership, Time)) {
        let now = self.now;
        act(
            &mut self.nodes.get_mut(&node_id(name)).unwrap().machine,
            now,
        );
        self.drain(&node_id(name));
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn schedule(&mut self, to: NodeId, delivery: Delivery) {
        let delay =
            Duration::from_nanos(self.rng.random_range(1_000..=self.delay.as_nanos() as u64));
        self.sent += 1;
        self.in_flight
            .insert((self.now + delay, self.sent), (to, delivery));
    }

    fn drain(&mut self, id: &NodeId) {
        loop {
            let node = self.nodes.get_mut(id).unwrap();
            let Some(output) = node.machine.poll_output() else {
                break;
            };
            let (instance, addr, side) = (node.machine.instance.clone(), node.addr, node.side);
            match output {
                MembershipOutput::Event(event) => node.events.push(event),
                MembershipOutput::ForeignCluster {
                    node: other,
                    cluster,
                } => {
                    node.foreign.push((other, cluster));
                }
                MembershipOutput::Superseded(by) => node.superseded.push(by),
                MembershipOutput::PullTags { from, instance, .. } => {
                    node.pulls += 1;
                    let target = from.node.clone().unwrap();
                    let source = self.nodes.get(&target).filter(|source| {
                        source.up && source.side == side && source.machine.instance == instance
                    });
                    let own = source.map(|source| source.machine.members()[&target].clone());
                    let own = own.filter(|_| !self.pulls_fail);
                    let delivery = Delivery::Tags {
                        from: instance,
                        version: own.as_ref().map_or(0, |own| own.tag_version),
                        tags: own.map(|own| (*own.tags).clone()),
                    };
                    self.schedule(id.clone(), delivery);
                }
                MembershipOutput::Send { to, payload } => {
                    self.largest = self.largest.max(payload.len());
                    let target = self.nodes.iter().find(|(_, node)| node.addr == to.addr);
                    let Some((target, there)) = target else {
                        continue;
                    };
                    let answers = to.node.as_ref().is_none_or(|name| name == target);
                    if !answers || there.side != side || self.chance(self.loss) {
                        continue;
                    }
                    let Some(target) = self
                        .nodes
                        .iter()
                        .find(|(_, node)| node.addr == to.addr)
                        .map(|(id, _)| id.clone())
                    else {
                        continue;
                    };
                    let copies = 1 + u32::from(self.chance(self.twice));
                    for _ in 0..copies {
                        let from = Peer {
                            version: crate::versions::NEWEST,
                            instance: instance.clone(),
                            kind: crate::transport::PeerKind::Node,
                            addr,
                        };
                        let payload = payload.clone();
                        self.schedule(target.clone(), Delivery::Gossip { from, payload });
                    }
                }
            }
        }
    }

    /// Lets everything happen until `span` has passed.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let timer = self
                .nodes
                .iter()
                .filter(|(_, node)| node.up)
                .filter_map(|(id, node)| Some((node.machine.poll_timeout()?, id.clone())))
                .min();
            let arrival = self.in_flight.first_key_value().map(|(key, _)| *key);
            let due = timer.as_ref().map(|(at, _)| *at);
            let Some(next) = due.into_iter().chain(arrival.map(|(at, _)| at)).min() else {
                break;
            };
            if next > end {
                break;
            }
            assert!(
                next >= self.now || due == Some(next),
                "an arrival in the past"
            );
            self.now = self.now.max(next);
            let now = self.now;
            if let Some(key) = arrival.filter(|(at, _)| *at <= next) {
                let (to, delivery) = self.in_flight.remove(&key).unwrap();
                let node = self.nodes.get_mut(&to).unwrap();
                if !node.up {
                    continue;
                }
                match delivery {
                    Delivery::Gossip { from, payload } => {
                        node.machine.handle_gossip(now, &from, &payload)
                    }
                    Delivery::Tags {
                        from,
                        version,
                        tags,
                    } => {
                        node.machine.tags_pulled(now, from, version, tags);
                    }
                }
                self.drain(&to);
            } else if let Some((_, id)) = timer {
                let node = self.nodes.get_mut(&id).unwrap();
                node.machine.handle_timeout(now);
                let again = node.machine.poll_timeout();
                assert!(
                    again.is_none_or(|at| at > now),
                    "{id} would spin at {now:?}"
                );
                self.drain(&id);
            }
        }
        self.now = end;
    }

    /// Runs until `holds`, for at most `limit`; how long it took.
    fn until(&mut self, limit: Duration, what: &str, holds: impl Fn(&Net) -> bool) -> Duration {
        let start = self.now;
        while !holds(self) {
            assert!(
                self.now.since(start) < limit,
                "not within {limit:?}: {what}\n{}",
                self.view()
            );
            self.run(Duration::from_millis(50));
        }
        self.now.since(start)
    }

    fn view(&self) -> String {
        let line = |(id, node): (&NodeId, &Node)| {
            let members = node.machine.members().values();
            let members: Vec<_> = members
                .map(|m| format!("{}={:?}/{}", m.instance, m.state, m.tag_version))
                .collect();
            format!("{id} up={} {}\n", node.up, members.join(" "))
        };
        self.nodes.iter().map(line).collect()
    }

    fn member<'a>(&'a self, at: &str, of: &str) -> Option<&'a Member> {
        self.nodes[&node_id(at)].machine.members().get(&node_id(of))
    }

    fn state(&self, at: &str, of: &str) -> Option<MemberState> {
        self.member(at, of).map(|member| member.state)
    }

    fn up(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.up)
    }

    /// All that are up and on one side see each other's present run as alive, with its tags, and nobody else there.
    fn agree(&self) -> bool {
        self.up().all(|(_, node)| {
            let members = node.machine.members();
            let mates = self.up().filter(|(_, mate)| mate.side == node.side);
            let sees = |(id, mate): (&NodeId, &Node)| {
                members.get(id).is_some_and(|member| {
                    let own = &mate.machine.members()[id];
                    member.state == MemberState::Alive
                        && member.instance == own.instance
                        && member.tags == own.tags
                        && member.tag_version == own.tag_version
                        && (member.addr, member.store) == (own.addr, own.store)
                })
            };
            let others = members.iter().filter(|(id, member)| {
                let mate = self.nodes.get(*id);
                member.state.is_there()
                    && !mate.is_some_and(|mate| mate.up && mate.side == node.side)
            });
            mates.into_iter().all(sees) && others.count() == 0
        })
    }

    fn clear_events(&mut self) {
        self.nodes.values_mut().for_each(|node| node.events.clear());
    }

    /// Events at one node about another, without its boot.
    fn events(&self, at: &str, of: &str) -> Vec<&'static str> {
        let events = self.nodes[&node_id(at)].events.iter();
        let named = |event: &MemberEvent| match event {
            MemberEvent::Joined(i) => (i.node.clone(), "joined"),
            MemberEvent::Left(i) => (i.node.clone(), "left"),
            MemberEvent::Failed(i) => (i.node.clone(), "failed"),
            MemberEvent::Updated(i) => (i.node.clone(), "updated"),
        };
        let events = events.map(named).filter(|(node, _)| *node == node_id(of));
        events.map(|(_, name)| name).collect()
    }
}
