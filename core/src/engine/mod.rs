//! The protocol, pure: no clock, randomness source, IO or `async`.
//!
//! [`Engine`] is one node's protocol. Feed it: [`handle_input`](Engine::handle_input) with the reading of the
//! node's lease clock and what happened; then drain [`poll_output`](Engine::poll_output) until it is empty and
//! arm one timer for [`poll_timeout`](Engine::poll_timeout), which is answered by [`Input::Tick`]. Time never
//! goes back. Nothing in here fails because of a peer: bad messages are counted and dropped.
//!
//! The engine owns small machines, each a file and each testable alone: [`membership`] and [`bootstrap`] (who is
//! there), `lease` and `serving` (what this node may answer), `leading` with [`placement`] and `raft_members`
//! (what a leader decides). [`replicated`] is run by the raft state machine; its results come in as inputs.
//!
//! This module is public for simulators and fuzzers. It is not covered by semantic versioning.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

pub mod bootstrap;
pub mod cordons;
mod counters;
pub mod events;
pub mod flaps;
pub mod io;
mod leading;
mod lease;
mod lifecycle;
pub mod map_encoding;
pub mod membership;
pub mod message;
pub mod placement;
mod raft_members;
pub mod replicated;
mod serving;
pub mod shard_map;
mod steer;

pub use cordons::{Cordon, Cordons};
pub use counters::Counters;
pub use events::{Event, NodeState, Role};
pub use io::{Input, Leadership, LeaseView, MemberChange, Output, RaftMembers, Routes};
pub use membership::Tags;
pub use message::Message;

use crate::ids::{
    BootId, ClusterId, ClusterName, Epoch, Instance, LogIndex, MemberKind, NodeId, PeerAddr,
    ShardId, StoreId, Term,
};
use crate::mutants::{Mutant, mutated};
use crate::time::Time;
use crate::timing::Timing;
use crate::transport::Peer;
use crate::versions::{self, VersionRange};
use bootstrap::Bootstrap;
use flaps::Flaps;
use leading::{Context, Leading};
use lease::Lease;
use membership::{Member, MemberEvent, MemberState, Membership, MembershipOutput};
use message::{Ping, Pong};
use replicated::{Change, Pending, Replicated};
use serving::{Serving, Steps};
use shard_map::ShardMap;

/// Most shards that one pong complains about; the others wait for their turn.
pub const MAX_UNACQUIRABLE: usize = 8;

/// What an engine is told at its birth and keeps.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Name of the cluster; others refuse members of another name.
    pub cluster: ClusterName,
    /// This node and this run of it.
    pub instance: Instance,
    /// Where peers reach it.
    pub addr: SocketAddr,
    /// Its raft store.
    pub store: StoreId,
    /// What part it takes.
    pub kind: MemberKind,
    /// Addresses to join by.
    pub seeds: Vec<SocketAddr>,
    /// How many candidates form a new cluster together; 0: never form one, only join.
    pub bootstrap_expect: u16,
    /// Number of shards of a new cluster, 1 to [`MAX_SHARDS`](crate::limits::MAX_SHARDS); an existing one keeps its own.
    pub shards: u32,
    /// How many voters the leader keeps (rule M3).
    pub voters: usize,
    /// What share of the load this node takes, compared to others: 1 to [`MAX_CAPACITY`](crate::limits::MAX_CAPACITY).
    pub capacity: u32,
    /// How many shards may change their owner at a time although they need not, at least 1; `None`: all (rule M8).
    pub max_moves: Option<u32>,
    /// All times.
    pub timing: Timing,
    /// Tags to begin with.
    pub tags: Tags,
    /// The versions of the protocol that it speaks.
    pub versions: VersionRange,
}

/// One node's protocol. See the [module](self) for its use.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    now: Time,
    outputs: VecDeque<Output>,
    counters: Counters,

    membership: Membership,
    bootstrap: Bootstrap,
    /// The cluster that this node belongs to or has promised itself to.
    cluster: Option<ClusterId>,
    /// Whether the raft log holds anything, and whether that is only this node's own initialisation.
    log: Option<lifecycle::LogState>,
    /// The store is being thrown away for an empty one: nothing is promised or accepted meanwhile.
    abandoning: bool,

    leadership: Leadership,
    /// Newest term seen anywhere: in raft, in pings, in pongs.
    newest_term: Term,
    /// The cluster whose terms those are.
    terms_of: Option<ClusterId>,
    leading: Option<Leading>,
    raft: RaftMembers,

    /// The version that the cluster has reached, by the log.
    version: u8,
    committed: Arc<ShardMap>,
    pending: Option<Pending>,
    cordons: Arc<Cordons>,
    flaps: Flaps,
    /// Since when the services are not ready.
    unready_since: Option<Time>,
    lease: Lease,
    /// Grants for earlier stamps do not count: the clocks parted meanwhile (rule L0).
    stamps_from: Time,
    serving: Serving,
    /// The proposal that was acknowledged last, so that the acknowledgement is sent once at once and then with pongs.
    announced_ack: Option<LogIndex>,

    state: NodeState,
    role: Role,
    leader: Option<NodeId>,
    leaving: bool,
    departed: bool,
    routes_changed: bool,
    /// The revision of the members that was shown last.
    shown_members: u64,
    shown_lease: LeaseView,
}

impl Engine {
    /// A node that has just started. `rng` decides gossip partners and the id of a new cluster, nothing else.
    pub fn new(config: EngineConfig, mut rng: ChaCha8Rng, now: Time) -> Self {
        let membership = Membership::new(
            lifecycle::membership_config(&config),
            ChaCha8Rng::from_rng(&mut rng),
            now,
        );
        let bootstrap = Bootstrap::new(lifecycle::bootstrap_config(&config), rng, now);
        Self {
            now,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            membership,
            bootstrap,
            cluster: None,
            log: None,
            abandoning: false,
            leadership: Leadership::default(),
            newest_term: Term(0),
            terms_of: None,
            leading: None,
            raft: RaftMembers::default(),
            version: versions::FIRST,
            committed: Arc::default(),
            pending: None,
            cordons: Arc::default(),
            flaps: Flaps::default(),
            unready_since: None,
            lease: Lease::default(),
            stamps_from: Time::default(),
            serving: Serving::default(),
            announced_ack: None,
            state: NodeState::Starting,
            role: Role::Unknown,
            leader: None,
            leaving: false,
            departed: false,
            routes_changed: true,
            shown_members: 0,
            shown_lease: LeaseView::default(),
            config,
        }
    }

    /// Takes one input in and does all that follows from it. `now` never goes back.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        debug_assert!(
            now >= self.now,
            "the lease clock went back from {:?} to {now:?}",
            self.now
        );
        self.note_stall(now);
        self.now = now.max(self.now);
        if self.state == NodeState::Invalid {
            return;
        }
        self.dispatch(input);
        self.follow_up();
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// What to do next; `None`: nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due; `None`: never by itself.
    pub fn poll_timeout(&self) -> Option<Time> {
        let lapse = self.lease.view().until;
        let times = [
            self.membership.poll_timeout(),
            self.bootstrap.poll_timeout(),
            self.leading.as_ref().and_then(Leading::poll_timeout),
            self.serving.poll_timeout(),
            (lapse > self.now).then_some(lapse),
            self.unready_at().filter(|&at| at > self.now),
        ];
        times.into_iter().flatten().min()
    }

    /// What it was told at its birth.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Replaces this node's tags; others pull them when gossip tells them that they changed.
    pub fn set_tags(&mut self, now: Time, tags: Tags) {
        self.membership.set_tags(now, tags);
        self.follow_up();
    }

    /// What the node is doing.
    pub fn state(&self) -> NodeState {
        self.state
    }

    /// What part it takes at the moment.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Who leads, if that is known.
    pub fn leader(&self) -> Option<&NodeId> {
        self.leader.as_ref()
    }

    /// The cluster that the node belongs to or has promised itself to.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Who votes, by the raft configuration that this node has; during a change all of both sets.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let voters = self.raft.voters.iter().flatten();
        voters.map(|id| id.node.clone()).collect()
    }

    /// The newest raft term that the node has seen.
    pub fn term(&self) -> Term {
        self.newest_term
    }

    /// Every node that gossip knows, this one too.
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        self.membership.members()
    }

    /// The version that the cluster has reached: nothing newer is written into its log. A node that takes part in no
    /// log does not learn it and shows [`FIRST`](versions::FIRST).
    pub fn cluster_version(&self) -> u8 {
        self.version
    }

    /// The version in which this node talks to another one: the highest that both know, as gossip has it; the oldest
    /// that this node speaks, if that does not know the other yet.
    pub fn version_with(&self, node: Option<&NodeId>) -> u8 {
        let own = self.config.versions;
        let member = node.and_then(|node| self.membership.members().get(node));
        let common = member.and_then(|member| own.common(member.versions).ok());
        common.unwrap_or(own.oldest)
    }

    /// The map in force.
    pub fn committed(&self) -> &Arc<ShardMap> {
        &self.committed
    }

    /// The undecided proposal.
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// The nodes that the operator keeps shards from.
    pub fn cordons(&self) -> &Arc<Cordons> {
        &self.cordons
    }

    /// Nodes that came and went too often, and until when they get no shards.
    pub fn waiting(&self) -> BTreeMap<NodeId, Time> {
        let settle = self.config.timing.settle_joins;
        self.flaps.waiting(self.now, &self.committed, settle)
    }

    /// The lease under which guards may be handed out.
    pub fn lease(&self) -> LeaseView {
        self.lease.view()
    }

    /// The proposal that this node has drained for, if it has drained for the latest.
    pub fn acked(&self) -> Option<LogIndex> {
        let latest = self.pending.as_ref().map(|pending| &pending.map);
        let drained = |map: &Arc<ShardMap>| {
            let me = &self.config.instance;
            mutated(Mutant::AckBeforeDrain)
                || (mutated(Mutant::EarlierDrainsForgotten)
                    && self.serving.has_drained_latest_step())
                || self.serving.is_within(me, map)
        };
        latest.filter(|map| drained(map)).map(|map| map.index())
    }

    /// The map in force, if this node serves all that it owns in it and keeps; else 0 (rule M8).
    fn served(&self) -> LogIndex {
        if self.serving.serves_all() {
            self.committed.index()
        } else {
            LogIndex(0)
        }
    }

    /// Situations seen so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Asserts every relation between fields that must hold after each input.
    pub fn check_invariants(&self) {
        self.serving.check_invariants();
        assert!(
            self.pending
                .as_ref()
                .is_none_or(|pending| pending.map.index() > self.committed.index())
        );
        assert!(
            self.leading
                .as_ref()
                .is_none_or(|leading| leading.term() <= self.newest_term)
        );
        assert!(self.leadership.term <= self.newest_term);
    }

    fn dispatch(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Message { from, message } => self.handle_message(from, message),
            Input::Leadership(leadership) => self.handle_leadership(leadership),
            Input::Applied { term, change, .. } => self.handle_applied(term, change),
            Input::Installed(replicated) => self.handle_installed(replicated),
            Input::RaftMembers(raft) => self.raft = raft,
            Input::QuorumAck { term, sent_at } => {
                if let Some(leading) = self
                    .leading
                    .as_mut()
                    .filter(|leading| leading.term() == term)
                {
                    let late = mutated(Mutant::QuorumWhenAnswered);
                    leading.handle_quorum_ack(if late { self.now } else { sent_at });
                }
            }
            Input::MembersChanged { done } => {
                if let Some(leading) = &mut self.leading {
                    leading.handle_members_changed(self.now, done, &self.config.timing);
                }
            }
            Input::ClockJumped => self.handle_clock_jump(),
            Input::Drained(shards) => {
                let steps = self.serving.drained(&shards);
                self.take_steps(steps);
            }
            Input::Acquired { shards, failed } => self.handle_acquired(&shards, &failed),
            Input::TagsPulled {
                from,
                version,
                tags,
            } => self.membership.tags_pulled(self.now, from, version, tags),
            Input::Initialised { cluster, only_own } => self.handle_initialised(cluster, only_own),
            Input::StoreReplaced(store) => self.handle_store_replaced(store),
            Input::Observed { leader, map } => self.handle_observed(leader, map),
            Input::Superseded { by } => self.handle_superseded(by),
            Input::SetWeights(weights) => self.with_leading(|leading, cx, _, counters| {
                leading.handle_weights(cx, weights, counters);
            }),
            Input::SetCordon { node, cordon } => self.with_leading(|leading, cx, out, _| {
                leading.handle_cordon(cx, node, cordon, out);
            }),
            Input::Ready(ready) => self.handle_ready(ready),
            Input::Leave => self.handle_leave(),
            Input::StepDown => self.hand_leadership_on(),
            Input::Stop => self.handle_stop(),
        }
    }

    /// Everything that follows from the state as it is now, in an order in which each step sees the ones before.
    fn follow_up(&mut self) {
        if self.state == NodeState::Starting && !self.leaving {
            // Not before the first input, which may say what cluster the node belongs to: that is told when it joins.
            self.membership.join(self.now, &self.config.seeds);
        }
        self.tell_readiness();
        self.membership.handle_timeout(self.now);
        self.drain_membership();
        self.drive_bootstrap();
        let steps = self.serving.handle_timeout(self.now);
        self.take_steps(steps);
        self.drive_leading();
        self.serve_own_shards();
        self.show_lease();
        self.announce_ack();
        self.update_state();
        self.show_routes();
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    // Messages.

    fn handle_message(&mut self, from: Peer, message: Message) {
        match message {
            Message::Gossip(bytes) => self.membership.handle_gossip(self.now, &from, &bytes),
            Message::Bootstrap(message) => self.bootstrap.handle_message(self.now, &from, message),
            Message::Ping(ping) => self.handle_ping(&from, ping),
            Message::Pong(pong) => self.handle_pong(&from, &pong),
        }
    }

    /// Rule L1, the holder's side.
    fn handle_ping(&mut self, from: &Peer, ping: Ping) {
        if self.cluster != Some(ping.cluster) {
            return self.counters.add("pings of another cluster");
        }
        if self.config.kind == MemberKind::NonMember {
            return;
        }
        let old_term = ping.term < self.newest_term && !mutated(Mutant::GrantOfOldTerm);
        let other_run = ping.boot != self.config.instance.boot;
        let refused = old_term || other_run && !mutated(Mutant::BootIgnoredInGrant);
        self.see_term(ping.term);
        let own_clock = |stamp: Time| stamp <= self.now && stamp >= self.stamps_from;
        match ping.grant.filter(|grant| own_clock(grant.stamp)) {
            Some(_) if refused => self.counters.add("grants refused"),
            Some(grant) => {
                let from = if mutated(Mutant::LeaseFromReceipt) {
                    self.now
                } else {
                    grant.stamp
                };
                let until = from + self.config.timing.lease;
                self.lease.grant(self.now, until, grant.map, self.latest());
            }
            None => {}
        }
        if !refused && ping.dismissed && self.leaving {
            self.depart();
        }
        self.send_pong(PeerAddr {
            node: Some(from.instance.node.clone()),
            addr: from.addr,
        });
    }

    fn handle_pong(&mut self, from: &Peer, pong: &Pong) {
        if self.cluster != Some(pong.cluster) {
            return self.counters.add("pongs of another cluster");
        }
        self.see_term(pong.term);
        if from.instance.boot != pong.boot {
            return self.counters.add("pongs of another run");
        }
        self.with_leading(|leading, cx, out, _| leading.handle_pong(cx, &from.instance, pong, out));
    }

    fn send_pong(&mut self, to: PeerAddr) {
        let Some(cluster) = self.cluster else { return };
        let pong = Pong {
            cluster,
            boot: self.config.instance.boot,
            stamp: self.now,
            term: self.newest_term,
            applied: self.latest(),
            acked: self.acked(),
            served: self.served(),
            unacquirable: self.serving.unacquirable().take(MAX_UNACQUIRABLE).collect(),
        };
        self.outputs.push_back(Output::Send {
            to,
            message: Message::Pong(pong),
        });
    }

    /// Rule S2: the acknowledgement goes out as soon as the drain ends; pongs repeat it.
    fn announce_ack(&mut self) {
        let acked = self.acked();
        if acked == self.announced_ack {
            return;
        }
        self.announced_ack = acked;
        let Some(leader) = self
            .leader
            .clone()
            .filter(|leader| *leader != self.config.instance.node)
        else {
            return;
        };
        let addr = self
            .membership
            .members()
            .get(&leader)
            .map(|member| member.addr);
        if let (Some(_), Some(addr)) = (acked, addr) {
            self.send_pong(PeerAddr {
                node: Some(leader),
                addr,
            });
        }
    }

    /// A newer term than the one this node leads in deposes it.
    fn see_term(&mut self, term: Term) {
        self.newest_term = self.newest_term.max(term);
        if self
            .leading
            .as_ref()
            .is_some_and(|leading| leading.term() < self.newest_term)
        {
            self.leading = None;
            self.counters.add("deposed by a newer term");
        }
    }

    // Raft.

    fn handle_leadership(&mut self, leadership: Leadership) {
        self.see_term(leadership.term);
        let leads = leadership.is_leader && leadership.term == self.newest_term;
        match &self.leading {
            Some(leading) if leads && leading.term() == leadership.term => {}
            _ if leads => {
                // Rule L1. Why capping is enough: rule L1a in docs/protocol.md.
                if !mutated(Mutant::LeaderKeepsGrants) {
                    self.lease.cap(self.now + self.config.timing.leader_bound);
                }
                self.leading = Some(Leading::new(leadership.term, self.now));
                self.counters.add("elected");
            }
            _ => self.leading = None,
        }
        self.leadership = leadership;
        let leader = self.leadership.leader.as_ref().map(|id| id.node.clone());
        self.set_leader(leader);
    }

    fn set_leader(&mut self, leader: Option<NodeId>) {
        if leader == self.leader {
            return;
        }
        self.emit(
            leader
                .clone()
                .map_or(Event::LeaderLost, |leader| Event::LeaderChanged { leader }),
        );
        self.leader = leader;
        self.announced_ack = None;
        self.routes_changed = true;
    }

    fn handle_applied(&mut self, term: Term, change: Change) {
        self.see_term(term);
        if !self.abandoning {
            self.establish();
        }
        let own = self
            .leading
            .as_ref()
            .is_some_and(|leading| leading.term() == term);
        match change {
            Change::LeaderOpened { leader, previous } => {
                if own && leader == self.config.instance {
                    self.with_leading(|leading, cx, _, _| leading.handle_opened(cx.now, previous));
                }
            }
            Change::Proposed {
                pending,
                superseded,
            } => {
                if superseded.is_some() {
                    self.counters.add("superseded proposals");
                }
                let index = pending.map.index();
                self.set_maps(self.committed.clone(), Some(pending));
                self.emit(Event::MapProposed(index));
                self.with_leading(|leading, cx, _, _| {
                    if own {
                        leading.handle_proposed(cx.now)
                    }
                });
            }
            Change::Committed { map } => {
                self.count_bounces(&map);
                self.set_maps(map.clone(), None);
                self.emit(Event::MapCommitted(map.index()));
                self.with_leading(|leading, cx, _, _| leading.handle_committed(cx.now, &map));
            }
            Change::Void(_) => {
                self.counters.add("void entries");
                self.with_leading(|leading, _, _, _| {
                    if own {
                        leading.handle_void()
                    }
                });
            }
            Change::VersionRaised { version } => {
                self.version = version;
                self.counters.add("cluster versions raised");
                self.with_leading(|leading, _, _, _| {
                    if own {
                        leading.handle_version_raised()
                    }
                });
            }
            Change::App(_) => {}
            Change::Cordoned(cordons) => self.set_cordons(cordons),
        }
    }

    /// Rule P3: the snapshot's pending proposal counts like one that was applied.
    fn handle_installed(&mut self, replicated: Replicated) {
        if replicated.latest() < self.latest() {
            return;
        }
        self.counters.add("snapshots installed");
        if !self.abandoning {
            self.establish();
        }
        if replicated.pending.is_some() {
            self.counters.add("snapshots installed during a change");
        }
        self.set_cordons(replicated.cordons);
        self.version = self.version.max(replicated.version);
        let changed = replicated.committed.index() != self.committed.index();
        self.set_maps(replicated.committed, replicated.pending);
        if changed {
            self.emit(Event::MapCommitted(self.committed.index()));
        }
    }

    /// The latest proposal applied here, committed or not.
    fn latest(&self) -> LogIndex {
        self.pending
            .as_ref()
            .map_or(self.committed.index(), |pending| pending.map.index())
    }

    // Serving.

    fn set_maps(&mut self, committed: Arc<ShardMap>, pending: Option<Pending>) {
        self.committed = committed;
        self.pending = pending;
        self.routes_changed = true;
        let pending = self.pending.as_ref().map(|pending| pending.map.as_ref());
        let steps = self
            .serving
            .set_maps(&self.config.instance, &self.committed, pending);
        self.take_steps(steps);
        self.lease.applied(self.now, self.latest());
    }

    fn take_steps(&mut self, steps: Steps) {
        if !steps.close.is_empty() {
            self.outputs.push_back(Output::Close(steps.close.clone()));
            self.emit(Event::ShardsLost(steps.close));
        }
        if !steps.acquire.is_empty() {
            self.outputs.push_back(Output::Acquire(steps.acquire));
        }
        if !steps.open.is_empty() {
            self.outputs.push_back(Output::Open(steps.open.clone()));
            self.emit(Event::ShardsGained(steps.open));
        }
    }

    fn handle_acquired(&mut self, shards: &[(ShardId, Epoch)], failed: &[(ShardId, Epoch)]) {
        for &(shard, epoch) in failed {
            self.counters.add("acquire hooks failed");
            self.emit(Event::AcquireFailed { shard, epoch });
        }
        let steps = self.serving.acquired(self.now, shards, failed);
        self.take_steps(steps);
    }

    /// Rule L3: a leader that hears a quorum needs no grant for itself.
    fn serve_own_shards(&mut self) {
        let until = self
            .leading
            .as_ref()
            .and_then(|leading| leading.acts_until(&self.config.timing));
        if let Some(until) = until {
            self.lease.extend(self.now, until);
        }
    }

    fn show_lease(&mut self) {
        let view = self.lease.view();
        if view != self.shown_lease {
            if view.generation != self.shown_lease.generation
                && self.shown_lease.generation != 0
                && self.serving.serves_any()
            {
                self.counters.add("leases lapsed while serving");
            }
            self.shown_lease = view;
            self.outputs.push_back(Output::Lease(view));
        }
    }

    // Leading.

    /// Runs `act` on the leader's state, if this node leads, with a view of everything else.
    fn with_leading(
        &mut self,
        act: impl FnOnce(&mut Leading, &Context<'_>, &mut VecDeque<Output>, &mut Counters),
    ) {
        let own_acked = self.acked();
        let own_served = self.served();
        let own_unacquirable: Vec<ShardId> = self.serving.unacquirable().collect();
        let Some(leading) = &mut self.leading else {
            return;
        };
        let context = Context {
            now: self.now,
            timing: &self.config.timing,
            me: &self.config.instance,
            cluster: self.cluster,
            may_own: !self.leaving,
            shards: self.config.shards,
            versions: self.config.versions,
            version: self.version,
            voters: self.config.voters,
            max_moves: self.config.max_moves,
            cordons: &self.cordons,
            flaps: &self.flaps,
            committed: &self.committed,
            pending: self.pending.as_ref(),
            own_acked,
            own_served,
            own_unacquirable: &own_unacquirable,
            members: self.membership.members(),
            raft: &self.raft,
        };
        act(leading, &context, &mut self.outputs, &mut self.counters);
    }

    // Who may have shards.

    fn set_cordons(&mut self, cordons: Arc<Cordons>) {
        self.cordons = cordons;
        self.routes_changed = true;
    }

    /// Rule M11: who drops out of the map, if not because it was to.
    fn count_bounces(&mut self, next: &ShardMap) {
        let (cordons, members) = (&self.cordons, self.membership.members());
        let meant = |instance: &Instance| {
            let leaves = members.get(&instance.node).is_some_and(|member| {
                let going = matches!(member.state, MemberState::Leaving | MemberState::Left);
                going && member.instance == *instance
            });
            leaves || cordons.get(&instance.node) == Some(&Cordon::Drained)
        };
        let settle = self.config.timing.settle_joins;
        let flaps = &mut self.flaps;
        flaps.handle_committed(self.now, &self.committed, next, settle, meant);
    }

    fn handle_ready(&mut self, ready: bool) {
        self.unready_since = match (ready, self.unready_since) {
            (true, _) => None,
            (false, since) => since.or(Some(self.now)),
        };
    }

    fn unready_at(&self) -> Option<Time> {
        self.unready_since
            .map(|since| since + self.config.timing.unready_after)
    }

    /// Rule M10: what has not been ready for a while is said in gossip, and at once when it is ready again.
    fn tell_readiness(&mut self) {
        let ready = self.unready_at().is_none_or(|at| self.now < at);
        self.membership.set_ready(self.now, ready);
    }

    fn drive_leading(&mut self) {
        self.with_leading(Leading::drive);
    }

    fn show_routes(&mut self) {
        if !std::mem::take(&mut self.routes_changed) {
            return;
        }
        let addr = |member: &Member| PeerAddr {
            node: Some(member.instance.node.clone()),
            addr: member.addr,
        };
        let addrs = self
            .membership
            .members()
            .iter()
            .map(|(node, member)| (node.clone(), addr(member)))
            .collect();
        let followed = self.leadership.leader.as_ref().map(|id| &id.node);
        let is_unreachable = |member: &&Member| match member.state {
            MemberState::Alive | MemberState::Leaving => false,
            // Gossip doubts it, but raft hears it: calls and proposals that wait for it are not given up.
            MemberState::Suspect => followed != Some(&member.instance.node),
            MemberState::Failed | MemberState::Left => true,
        };
        let unreachable = self
            .membership
            .members()
            .values()
            .filter(is_unreachable)
            .map(|member| member.instance.node.clone())
            .collect();
        self.outputs.push_back(Output::Routes(Routes {
            map: self.committed.clone(),
            pending: self.pending.as_ref().map(|pending| pending.map.index()),
            leader: self.leader.clone(),
            addrs: Arc::new(addrs),
            unreachable: Arc::new(unreachable),
            cordons: self.cordons.clone(),
        }));
    }
}
