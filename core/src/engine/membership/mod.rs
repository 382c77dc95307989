//! Who is in the cluster: SWIM gossip, with tags, leaving told apart from failing, and halves that find each other.
//!
//! [`Membership`] is a machine without IO, driven like the engine: feed it gossip and the passing of time, then
//! drain [`poll_output`](Membership::poll_output) and arm a timer for [`poll_timeout`](Membership::poll_timeout).
//! foca spreads identities and probes members; what is ours on top of it:
//!
//! - everything that must reach everybody, late joiners too, is part of the identity (`identity`);
//! - packets of other cluster names, of other clusters and with a claimed sender are refused (`packet`, here);
//! - seeds and failed members are asked again and again, so that halves of a partition become one (`joining`);
//! - suspects are asked directly whether they live (`suspicion`);
//! - tags are pulled when their gossiped version is newer than the one held (`tag_pulls`, [`Tags`]).
//!
//! The sources: SWIM (Das, Gupta, Motivala, 2002) with suspicion; Lifeguard (Dadgar, Phillips, Currey, 2017) for
//! not trusting oneself after a stall; serf for "a member that said it leaves has left when it is gone".

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foca::{Header, Message};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::Counters;
use crate::ids::{BootId, ClusterId, ClusterName, Instance, MemberKind, NodeId, PeerAddr, StoreId};
use crate::time::Time;
use crate::transport::Peer;
use crate::versions::VersionRange;

mod identity;
mod joining;
mod listening;
mod member;
mod packet;
mod speaking;
mod suspicion;
mod swim;
mod tag_pulls;
mod tags;
#[cfg(test)]
mod tests;
mod view;

use identity::{Identity, Profile, portable};
use joining::Joining;
pub use member::{Member, MemberEvent, MemberState};
use packet::{NameDigest, Packet, PacketError, SwimMessage};
use swim::Swim;
use tag_pulls::TagPulls;
pub use tags::{ENDPOINT_PREFIX, TagError, Tags, ZONE_TAG};

/// Names known at once, dead ones too; gossip about others is refused and counted until some are forgotten.
pub const MAX_KNOWN: usize = 4_096;
/// Shortest probe interval; a shorter one is made this long, or the machine would spin.
const MIN_PROBE: Duration = Duration::from_millis(10);
/// How often goodbyes are repeated while the node is still driven.
const GOODBYE_ROUNDS: u32 = 3;

/// The times of gossip.
#[derive(Clone, Debug)]
pub struct MembershipTiming {
    /// Interval of probes: each node probes one other.
    pub probe: Duration,
    /// How long a suspect may take to deny that it is dead.
    pub suspect: Duration,
    /// How long a member that left or failed is shown.
    pub stale_after: Duration,
}

/// What the machine is told at its birth.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// Packets of clusters of other names are dropped.
    pub cluster: ClusterName,
    /// This node and run.
    pub instance: Instance,
    /// Where others reach it.
    pub addr: SocketAddr,
    /// Its raft store.
    pub store: StoreId,
    /// What part it takes.
    pub kind: MemberKind,
    /// How many candidates it waits for to form a cluster.
    pub expect: u16,
    /// What share of the load it takes, compared to others; at least 1.
    pub capacity: u32,
    /// Its tags.
    pub tags: Tags,
    /// The versions of the protocol that it speaks.
    pub versions: VersionRange,
    /// Times.
    pub timing: MembershipTiming,
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum MembershipOutput {
    /// Send a gossip packet, at most [`MAX_GOSSIP_BYTES`](crate::limits::MAX_GOSSIP_BYTES).
    Send {
        /// To whom.
        to: PeerAddr,
        /// What.
        payload: Bytes,
    },
    /// Fetch a member's tags over a stream; answer with [`Membership::tags_pulled`].
    PullTags {
        /// From whom.
        from: PeerAddr,
        /// Whose.
        instance: Instance,
        /// The version that gossip speaks of; the answer may be newer.
        version: u64,
    },
    /// Something happened to a member.
    Event(MemberEvent),
    /// A node of this name belongs to another cluster. Nothing that it says is believed.
    ForeignCluster {
        /// The node.
        node: NodeId,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// A newer run of this node is in the cluster: this one must end.
    Superseded(BootId),
}

/// Reads gossip of the cluster of this name and writes it again, for fuzz targets; `None` if it is none.
pub(crate) fn reencode(cluster: &ClusterName, bytes: &[u8]) -> Option<Bytes> {
    let digest = NameDigest::of(cluster);
    Some(digest.encode(&digest.decode(bytes).ok()?))
}

/// What is known of another node, shown or not.
#[derive(Debug)]
struct Known {
    identity: Identity,
    state: MemberState,
    /// Since when it is there, or is not.
    since: Time,
    /// It is not shown any more.
    stale: bool,
}

/// The machine. See the [module](self) for its use.
pub struct Membership {
    now: Time,
    digest: NameDigest,
    timing: MembershipTiming,
    instance: Instance,
    /// What this node has to say; gossiped as soon as `revise` may.
    profile: Profile,
    next_revision: Time,
    /// Rounds of goodbyes still to come, and when, once the node has left.
    farewell: Option<(u32, Time)>,

    swim: Swim,
    joining: Joining,
    pulls: TagPulls,
    rng: ChaCha8Rng,

    /// Invariant: the nodes that `swim` knows, as they were when it was last looked at.
    known: BTreeMap<NodeId, Known>,
    /// Invariant: this node, and those of `known` that are not stale.
    members: BTreeMap<NodeId, Member>,
    /// How often `members` changed.
    revision: u64,
    heard: Option<ClusterId>,
    next_sweep: Option<Time>,
    /// When suspects are asked whether they live.
    next_question: Option<Time>,
    refusals: BTreeMap<NodeId, Time>,

    outputs: VecDeque<MembershipOutput>,
    counters: Counters,
}

impl Membership {
    /// A node that has just started and knows nobody. `rng` decides gossip partners and jitter.
    pub fn new(mut config: MembershipConfig, mut rng: ChaCha8Rng, now: Time) -> Self {
        config.timing.probe = config.timing.probe.max(MIN_PROBE);
        let profile = Profile {
            addr: portable(config.addr),
            store: config.store,
            kind: config.kind,
            expect: config.expect,
            capacity: config.capacity,
            tag_version: u64::from(!config.tags.is_empty()),
            leaving: false,
            unready: false,
            cluster: None,
            versions: config.versions,
        };
        let identity = Identity {
            node: config.instance.node.clone(),
            boot: config.instance.boot,
            generation: 0,
            profile: profile.clone(),
        };
        let mut own = Member::new(&identity, MemberState::Alive, now);
        own.tag_version = profile.tag_version;
        own.tags = Arc::new(config.tags);
        let swim_rng = ChaCha8Rng::from_rng(&mut rng);
        Self {
            now,
            digest: NameDigest::of(&config.cluster),
            instance: config.instance.clone(),
            profile,
            next_revision: now,
            farewell: None,
            swim: Swim::new(identity, &config.timing, swim_rng),
            joining: Joining::new(config.timing.probe),
            pulls: TagPulls::new(config.timing.probe),
            rng,
            known: BTreeMap::new(),
            members: BTreeMap::from([(config.instance.node, own)]),
            revision: 0,
            heard: None,
            next_sweep: None,
            next_question: None,
            refusals: BTreeMap::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            timing: config.timing,
        }
    }

    /// Asks these addresses to be let in, until somebody answers, and later those that are no members.
    pub fn join(&mut self, now: Time, seeds: &[SocketAddr]) {
        self.advance(now);
        let seeds: BTreeSet<_> = seeds.iter().map(|seed| portable(*seed)).collect();
        let others = seeds.into_iter().filter(|seed| *seed != self.profile.addr);
        self.joining.start(now, others.collect());
        self.reach_out();
    }

    /// A gossip packet. Whatever is wrong with it is counted and dropped.
    pub fn handle_gossip(&mut self, now: Time, from: &Peer, bytes: &[u8]) {
        self.advance(now);
        let packet = match self.digest.decode(bytes) {
            Ok(packet) => packet,
            Err(PacketError::ClusterName) => {
                return self.counters.add("gossip of another cluster name");
            }
            Err(_) => return self.counters.add("malformed gossip"),
        };
        let sender = packet.sender();
        if sender.instance() != from.instance {
            return self.counters.add("gossip with a claimed sender");
        }
        if sender.node == self.instance.node {
            self.counters.add("gossip of another run of this node");
            return self.hear_of_run(sender.boot);
        }
        if let Some(cluster) = self.foreign(sender) {
            return self.refuse(from, &packet, cluster);
        }
        match packet {
            Packet::Refusal(_) => {}
            Packet::Join(sender) => self.handle_message(SwimMessage {
                header: Header {
                    src: sender,
                    src_incarnation: 0,
                    dst: self.swim.identity().clone(),
                    message: Message::Announce,
                },
                members: Vec::new(),
            }),
            Packet::Swim(message) => self.handle_message(*message),
        }
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.advance(now);
        if self.farewell.is_some() {
            return self.say_goodbye();
        }
        self.stand_still();
        if self.next_revision <= now {
            self.revise();
        }
        if self.swim.handle_timeout(now) {
            self.sync();
        }
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.sweep();
        }
        self.question_suspects();
        self.reach_out();
        self.pull_tags();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None`: not before the next call of another kind.
    pub fn poll_timeout(&self) -> Option<Time> {
        if let Some((rounds, at)) = self.farewell {
            return (rounds > 0).then_some(at);
        }
        let revision = (self.profile != self.swim.identity().profile).then_some(self.next_revision);
        let times = [
            revision,
            self.swim.poll_timeout(),
            self.next_sweep,
            self.next_question,
            self.joining.poll_timeout(),
            self.pulls.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// What to do next; `None`: nothing until the next call of another kind.
    pub fn poll_output(&mut self) -> Option<MembershipOutput> {
        self.outputs.pop_front()
    }

    /// Every member, this node too; those that left or failed are shown for `stale_after`.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.members
    }

    /// The initialised cluster that others who are there belong to; the smallest id if they differ.
    pub fn heard_cluster(&self) -> Option<ClusterId> {
        self.heard
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// This node belongs to an initialised cluster; members of others are not members any more.
    pub fn set_cluster(&mut self, cluster: ClusterId) {
        if self.profile.cluster == Some(cluster) {
            return;
        }
        self.profile.cluster = Some(cluster);
        let foreign: Vec<_> = self
            .known
            .values()
            .filter(|known| known.state.is_there() && self.foreign(&known.identity).is_some())
            .map(|known| known.identity.clone())
            .collect();
        for identity in foreign {
            self.swim.declare_down(self.now, identity);
        }
        self.sync();
        self.revise();
    }

    /// The raft store was replaced by an empty one: the node belongs to no cluster now.
    pub fn set_store(&mut self, now: Time, store: StoreId) {
        self.advance(now);
        self.profile.store = store;
        self.profile.cluster = None;
        if let Some(own) = self.members.get_mut(&self.instance.node) {
            own.store = store;
            self.revision += 1;
        }
        self.revise();
    }

    /// Replaces this node's tags. Others are told of the new version within a probe interval.
    pub fn set_tags(&mut self, now: Time, tags: Tags) {
        self.advance(now);
        let Some(own) = self.members.get_mut(&self.instance.node) else {
            return;
        };
        if *own.tags == tags {
            return;
        }
        own.tags = Arc::new(tags);
        own.tag_version += 1;
        self.revision += 1;
        self.profile.tag_version = own.tag_version;
        if self.next_revision <= now {
            self.revise();
        }
    }

    /// Whether this node can be given shards. Others are told within a probe interval.
    pub fn set_ready(&mut self, now: Time, ready: bool) {
        self.advance(now);
        if self.profile.unready != ready {
            return;
        }
        self.profile.unready = !ready;
        if let Some(own) = self.members.get_mut(&self.instance.node) {
            own.ready = ready;
            self.revision += 1;
        }
        if self.next_revision <= now {
            self.revise();
        }
    }

    /// The answer to [`MembershipOutput::PullTags`]; `None`: it failed and is tried again later.
    pub fn tags_pulled(&mut self, now: Time, from: Instance, version: u64, tags: Option<Tags>) {
        self.advance(now);
        let (Some(known), Some(member)) =
            (self.known.get(&from.node), self.members.get_mut(&from.node))
        else {
            return;
        };
        if member.instance != from {
            return self.counters.add("tags of another run");
        }
        match tags {
            Some(tags) if version >= member.tag_version => {
                let changed = version > member.tag_version || *member.tags != tags;
                member.tag_version = version;
                member.tags = Arc::new(tags);
                self.revision += 1;
                if changed && known.state.is_there() {
                    let event = MemberEvent::Updated(from.clone());
                    self.outputs.push_back(MembershipOutput::Event(event));
                }
            }
            Some(_) => self.counters.add("tags older than those held"),
            None => self.counters.add("tags not pulled"),
        }
        if known.state.is_there() && known.identity.profile.tag_version > member.tag_version {
            self.pulls.failed(now, &from.node);
        } else {
            self.pulls.forget(&from.node);
        }
        self.pull_tags();
    }

    /// Grows with every change of [`members`](Self::members), those included that are no event: a suspicion, a
    /// member that is forgotten.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Tells others that this node is about to leave; it stays a member until [`leave`](Self::leave).
    pub fn announce_leaving(&mut self, now: Time) {
        self.advance(now);
        self.profile.leaving = true;
        self.revise();
    }

    /// The last word: others see that this node left. Afterwards the machine only repeats that.
    pub fn leave(&mut self, now: Time) {
        self.advance(now);
        if self.farewell.is_some() {
            return;
        }
        self.profile.leaving = true;
        self.revise();
        self.swim.stop();
        self.show_own(MemberState::Left);
        self.farewell = Some((GOODBYE_ROUNDS, now));
        self.say_goodbye();
    }

    // What happens by itself.

    fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// A timer that is late by more than a probe interval: this process did not run.
    fn stand_still(&mut self) {
        let late = self.swim.poll_timeout().map(|due| self.now.since(due));
        if let Some(stalled) = late.filter(|late| *late > self.timing.probe) {
            self.counters.add("gossip timers late");
            self.swim.postpone(stalled);
        }
    }

    /// Asks seeds and failed members to be let in, and a member for more members.
    fn reach_out(&mut self) {
        if self.joining.poll_timeout().is_none_or(|at| at > self.now) {
            return;
        }
        let alone = self.is_alone();
        if self.joining.round_is_due(self.now, alone, &mut self.rng) {
            let there = self.known.values().filter(|known| known.state.is_there());
            let addrs: BTreeSet<_> = there.map(|known| known.identity.profile.addr).collect();
            let seeds = self.joining.seeds(alone, |seed| addrs.contains(seed));
            let mut to: Vec<_> = seeds
                .into_iter()
                .map(|addr| PeerAddr { node: None, addr })
                .collect();
            let failed = self
                .known
                .values()
                .filter(|known| known.state == MemberState::Failed);
            let failed: Vec<_> = failed.map(|known| known.identity.peer_addr()).collect();
            if failed.is_empty() && !self.joining.has_seeds() {
                self.joining.rest();
            }
            to.extend(Joining::some_of(failed, &mut self.rng));
            to.into_iter().for_each(|to| self.ask(to));
        }
        if self.joining.catch_up_is_due(self.now) {
            let there = self.known.values().filter(|known| known.state.is_there());
            let there: Vec<_> = there.map(|known| known.identity.peer_addr()).collect();
            if !there.is_empty() {
                let chosen = self.rng.random_range(0..there.len());
                self.ask(there[chosen].clone());
            }
        }
    }

    fn ask(&mut self, to: PeerAddr) {
        let join = Packet::Join(self.swim.identity().clone());
        self.send(to, &join);
    }

    fn pull_tags(&mut self) {
        for node in self.pulls.start_due(self.now) {
            if let Some(known) = self.known.get(&node) {
                self.outputs.push_back(MembershipOutput::PullTags {
                    from: known.identity.peer_addr(),
                    instance: known.identity.instance(),
                    version: known.identity.profile.tag_version,
                });
            }
        }
    }

    fn send(&mut self, to: PeerAddr, packet: &Packet) {
        let payload = self.digest.encode(packet);
        self.outputs
            .push_back(MembershipOutput::Send { to, payload });
    }

    fn flush(&mut self) {
        for _ in 0..self.swim.take_refused() {
            self.counters.add("gossip refused by SWIM");
        }
        for (to, body) in self.swim.take_sends() {
            if to.node != self.instance.node {
                self.outputs.push_back(MembershipOutput::Send {
                    to: to.peer_addr(),
                    payload: self.digest.frame_swim(&body),
                });
            }
        }
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("identity", self.swim.identity())
            .field("members", &self.members)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
