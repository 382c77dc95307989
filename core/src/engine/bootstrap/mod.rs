//! How candidates that start at the same moment form one cluster.
//!
//! A *candidate* is a voter with an empty log that knows of no cluster. When `bootstrap_expect = k` of them see each
//! other and their view has settled, the one of the smallest name is the *initiator*: it invites itself and the
//! k - 1 next names to a *bootstrap set*, named by the random id of the cluster to be. A candidate promises itself
//! to one set at a time. With all k promises, and nothing better in sight, the initiator initialises its log with
//! the members, once; the others accept raft messages of that cluster and of no other, and learn the rest from raft.
//! Everybody else waits until gossip tells of the cluster, and joins it.
//!
//! **When a promise ends.** (1) The initiator says that it never initialises the set (`Void`). (2) The initiator is
//! gone (not present, or another run, or another store), so that nobody can say. Then the members ask each other.
//! If one that knows of a later run of the initiator says that it is not promised ([`Status::Unpromised`]), the set
//! was never started, for that takes the promises of all, and can never be: every promise to it ends. If one reports a log of that cluster, it exists and is joined. If all that are present report empty logs, each
//! *fences* itself: it throws its empty store away for one with a new id, which makes it another raft member
//! (rule M0). The promise lapses when so many voters of the set are seen with another store that the rest is no
//! quorum. Stores travel with gossip, so that this needs no memory and no trust: a fenced member can never vote or
//! acknowledge in the old cluster, whatever comes back.
//!
//! **The initiator crashes** (i) before it has all promises, (ii) before it has initialised its log, or (iii)
//! before it has replicated it: the promises lapse as above and another set forms. If it comes back with its log,
//! either some member has not been fenced yet (it asks, hears `Initialised`, and waits for raft), or a quorum of the
//! log's voters is fenced. The latter is seen from gossip, the log can never have committed more than its own
//! initialisation, and the node abandons it ([`BootstrapOutput::Abandon`]). Between the two, the cluster has a
//! quorum and lives on. Only clusters with entries beyond the initialisation are announced by gossip; so a node
//! whose log holds nothing else gives way to whatever it hears of, and there are never two that wait for, or give
//! way to, each other.
//!
//! **What holds.** Call a cluster *real* when a quorum of its voters holds its log. Let S and T be sets that share
//! a member whose store did not change in between. It promised itself to T only after its promise to S had ended,
//! so the cluster of S is void or lacks an unfenced quorum: at most one of the two is ever real. It takes k promises
//! to start and a majority `q` of the k to be real, so with n candidate names and `n < k + q` at most one cluster is
//! ever real, under any loss, partition and crash, if a store is not used by a second process before its log is
//! initialised. With `2k > n` it also takes a candidate that crashes between its promise and the cluster's first
//! entries *and* comes back cut off from it (its promise died with it). With `2k <= n` two halves that cannot see
//! each other may both start: such clusters refuse each other loudly when they meet.

mod backoff;
mod initiator;
mod member;
mod message;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;

pub use message::{BootstrapMessage, Invite, MAX_SET_MEMBERS, Refusal, Status};

use super::counters::Counters;
use crate::ids::{BootId, ClusterId, Instance, NodeId, PeerAddr, RaftId, StoreId};
use crate::time::Time;
use crate::timing::Timing;
use crate::transport::Peer;
use backoff::Backoff;
use initiator::OwnSet;
use member::Promised;

/// What the machine is told at its birth.
#[derive(Clone, Debug)]
pub struct BootstrapConfig {
    /// This node and this run of it.
    pub instance: Instance,
    /// Where peers reach it.
    pub addr: SocketAddr,
    /// Its raft store. Not used by any earlier run, unless its log is initialised.
    pub store: StoreId,
    /// How many candidates form a cluster; 0: never form one, only join.
    pub expect: u16,
    /// Most voters of a new cluster: of a larger set, so many become the first voters. At least 1.
    pub voters: usize,
    /// Whether it was given addresses to join by.
    pub has_seeds: bool,
    /// All times.
    pub timing: Timing,
}

/// A node as membership sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CandidateView {
    /// The newest run.
    pub instance: Instance,
    /// Where it is.
    pub addr: SocketAddr,
    /// Its raft store.
    pub store: StoreId,
    /// Its `bootstrap_expect`.
    pub expect: u16,
    /// Whether it is there.
    pub is_present: bool,
    /// Whether it may be a voter.
    pub is_voter: bool,
}

impl CandidateView {
    fn raft_id(&self) -> RaftId {
        RaftId {
            node: self.instance.node.clone(),
            store: self.store,
        }
    }
}

/// What the machine wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BootstrapOutput {
    /// Send a datagram.
    Send {
        /// To whom.
        to: PeerAddr,
        /// What.
        message: BootstrapMessage,
    },
    /// Initialise the log as this cluster with these voters: once for each set that was won.
    Initialise {
        /// Id of the new cluster.
        cluster: ClusterId,
        /// Its voters, this node among them.
        members: BTreeMap<RaftId, SocketAddr>,
    },
    /// Replace the store, whose log is empty, by one with a new id; answered by
    /// [`handle_store_replaced`](Bootstrap::handle_store_replaced).
    Fence,
    /// The log holds nothing but this node's own initialisation and can never get a quorum: throw it away.
    Abandon,
    /// A candidate expects another number than this node does; no cluster forms while it is there.
    Mismatch {
        /// The candidate.
        instance: Instance,
        /// What it expects.
        expect: u16,
    },
}

/// The log of this node, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Log {
    cluster: ClusterId,
    /// It holds nothing but this node's own initialisation.
    only_own: bool,
}

/// One node's part in forming a cluster. See the [module](self).
///
/// Invariant: a node that has a set of its own is promised to no other.
#[derive(Debug)]
pub struct Bootstrap {
    config: BootstrapConfig,
    rng: ChaCha8Rng,
    now: Time,
    started: Time,
    outputs: VecDeque<BootstrapOutput>,
    counters: Counters,

    view: BTreeMap<NodeId, CandidateView>,
    heard: Option<ClusterId>,
    log: Option<Log>,
    withdrawn: bool,

    /// The candidates as last seen, and since when they are these.
    candidates: Vec<(Instance, StoreId)>,
    settled_since: Time,
    /// Candidates that asked not to be waited for, and until when that counts.
    busy: BTreeMap<Instance, Time>,
    /// Members that did not answer an invitation, and until when others are preferred.
    shunned: BTreeMap<NodeId, Time>,
    mismatches: BTreeMap<Instance, u16>,

    own: Option<OwnSet>,
    /// The last sets that this run has started: it cannot call them void.
    started_sets: VecDeque<ClusterId>,
    promised: Option<Promised>,
    /// A fence has been asked for and not yet answered.
    fencing: bool,
    /// The own log was reported as hopeless and not yet thrown away.
    abandoning: bool,
    notice: Backoff,
}

impl Bootstrap {
    /// A candidate that has just started. `rng` makes the id of a new cluster.
    ///
    /// A node whose store holds a log must be told so by [`handle_initialised`](Self::handle_initialised) before
    /// anything else.
    pub fn new(config: BootstrapConfig, rng: ChaCha8Rng, now: Time) -> Self {
        Self {
            rng,
            now,
            started: now,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            view: BTreeMap::new(),
            heard: None,
            log: None,
            withdrawn: false,
            candidates: Vec::new(),
            settled_since: now,
            busy: BTreeMap::new(),
            shunned: BTreeMap::new(),
            mismatches: BTreeMap::new(),
            own: None,
            started_sets: VecDeque::new(),
            promised: None,
            fencing: false,
            abandoning: false,
            notice: Backoff::new(&config.timing, now),
            config,
        }
    }

    /// What membership sees now: all nodes (this one may be among them), and the initialised cluster that it has
    /// heard of. Called while the log is empty or holds only this node's own initialisation.
    pub fn update(
        &mut self,
        now: Time,
        view: &BTreeMap<NodeId, CandidateView>,
        heard: Option<ClusterId>,
    ) {
        self.now = now;
        if self.view != *view {
            self.view.clone_from(view);
        }
        self.heard = heard;
        self.drive();
    }

    /// What raft says about the voters of this node's own initialisation. Without a living quorum, it is abandoned.
    pub fn update_own_voters(&mut self, voters: &BTreeSet<RaftId>) {
        let only_own = self.log.is_some_and(|log| log.only_own);
        if only_own && !self.abandoning && self.is_without_quorum(voters.iter()) {
            self.abandoning = true;
            self.counters.add("own initialisations without a quorum");
            self.outputs.push_back(BootstrapOutput::Abandon);
        }
    }

    /// Takes a message in. The transport has proven who sent it; it speaks for its sender only.
    pub fn handle_message(&mut self, now: Time, from: &Peer, message: BootstrapMessage) {
        self.now = now;
        match message {
            BootstrapMessage::Invite(invite) => self.handle_invite(from, invite),
            BootstrapMessage::Promise { cluster } => self.handle_promise(from, cluster),
            BootstrapMessage::Refuse { cluster, reason } => {
                self.handle_refusal(from, cluster, reason)
            }
            BootstrapMessage::Ask { cluster, initiator } => {
                let status = self.status_of(cluster, &initiator);
                self.reply(from, BootstrapMessage::Status { cluster, status });
            }
            BootstrapMessage::Status { cluster, status } => {
                self.handle_status(from, cluster, status)
            }
            BootstrapMessage::Busy => {
                let known = self.view.get(&from.instance.node);
                if known.is_some_and(|view| view.instance == from.instance) {
                    self.busy
                        .insert(from.instance.clone(), now + self.busy_span());
                } else {
                    self.counters.add("bootstrap messages dropped");
                }
            }
        }
        self.drive();
    }

    /// Fires what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        self.drive();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None`: not by itself.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.is_idle() {
            return None;
        }
        let own = self.own.as_ref().filter(|own| !own.started);
        let notice = self.is_held().then(|| self.notice.next());
        let settles = Some(self.settles_at()).filter(|&at| at > self.now && self.log.is_none());
        let times = [
            own.map(|own| own.invites.next()),
            self.promised.as_ref().map(|promised| promised.asks.next()),
            notice,
            settles,
            self.busy.values().min().copied(),
        ];
        times.into_iter().flatten().min()
    }

    /// What to do next; `None`: nothing until the next call.
    pub fn poll_output(&mut self) -> Option<BootstrapOutput> {
        self.outputs.pop_front()
    }

    /// The cluster whose raft messages are acceptable although the log is empty: that of the set which this node
    /// started or is promised to.
    pub fn promised_to(&self) -> Option<ClusterId> {
        let own = self.own.as_ref().filter(|own| own.started);
        let promised = self.promised.as_ref().filter(|promised| {
            let unfenced = promised.members.contains(&self.raft_id());
            let other = self.heard.is_some_and(|heard| heard != promised.cluster);
            // With the initiator gone, a cluster that exists is better than one that may never.
            unfenced && (!other || !self.is_gone(promised))
        });
        own.map(|own| own.cluster)
            .or(promised.map(|promised| promised.cluster))
    }

    /// The log of this node is initialised: it is a candidate no more.
    pub fn handle_initialised(&mut self, cluster: ClusterId, only_own: bool) {
        self.log = Some(Log { cluster, only_own });
        self.own.take_if(|own| own.cluster != cluster || !only_own);
        self.promised = None;
    }

    /// The store was replaced by an empty one: the node is a candidate again, and another raft member.
    pub fn handle_store_replaced(&mut self, now: Time, store: StoreId) {
        self.now = now;
        self.config.store = store;
        self.log = None;
        self.own = None;
        self.fencing = false;
        self.abandoning = false;
        self.settled_since = now;
        self.drive();
    }

    /// The node leaves: it promises nothing and starts nothing any more.
    pub fn withdraw(&mut self, now: Time) {
        self.now = now;
        self.withdrawn = true;
        self.give_own_set_up();
    }

    /// Situations seen since the last call.
    pub fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.counters)
    }

    // What both sides need.

    fn drive(&mut self) {
        let now = self.now;
        self.busy.retain(|_, until| *until > now);
        self.shunned.retain(|_, until| *until > now);
        if self.is_idle() {
            return;
        }
        self.note_candidates();
        self.note_mismatches();
        self.drive_promised();
        self.drive_own_set();
        self.drive_notice();
    }

    /// Nothing to form and nothing to undo.
    fn is_idle(&self) -> bool {
        self.withdrawn || self.config.expect == 0 || self.log.is_some_and(|log| !log.only_own)
    }

    fn note_candidates(&mut self) {
        let candidates: Vec<_> = self
            .candidates()
            .map(|view| (view.instance.clone(), view.store))
            .collect();
        if candidates != self.candidates {
            self.candidates = candidates;
            self.settled_since = self.now;
        }
    }

    /// The other nodes that may take part in a set, by name.
    fn candidates(&self) -> impl Iterator<Item = &CandidateView> {
        self.others()
            .filter(|view| view.expect == self.config.expect)
            .filter(|view| !self.busy.contains_key(&view.instance))
    }

    fn others(&self) -> impl Iterator<Item = &CandidateView> {
        let others = self.view.values();
        others
            .filter(|view| view.instance.node != self.config.instance.node)
            .filter(|view| view.is_present && view.is_voter)
    }

    /// Whether a candidate of a smaller name than this is in sight.
    fn sees_smaller(&self, node: &NodeId) -> bool {
        self.candidates().any(|view| view.instance.node < *node)
    }

    fn note_mismatches(&mut self) {
        let mismatches: BTreeMap<Instance, u16> = self
            .others()
            .filter(|view| view.expect != 0 && view.expect != self.config.expect)
            .map(|view| (view.instance.clone(), view.expect))
            .collect();
        for (instance, &expect) in &mismatches {
            if self.log.is_none() && self.mismatches.get(instance) != Some(&expect) {
                self.counters
                    .add("candidates with another bootstrap_expect");
                self.outputs.push_back(BootstrapOutput::Mismatch {
                    instance: instance.clone(),
                    expect,
                });
            }
        }
        self.mismatches = mismatches;
    }

    /// Whether so many of the voters are known to have another store that the others are no quorum.
    fn is_without_quorum<'a>(&self, voters: impl ExactSizeIterator<Item = &'a RaftId>) -> bool {
        let quorum = voters.len() / 2 + 1;
        let lives = |id: &&RaftId| {
            if id.node == self.config.instance.node {
                return id.store == self.config.store;
            }
            self.view
                .get(&id.node)
                .is_none_or(|view| view.store == id.store)
        };
        voters.filter(lives).count() < quorum
    }

    /// Held by a set that may never come to anything: others should not wait for this node.
    fn is_held(&self) -> bool {
        let only_own = self.log.is_some_and(|log| log.only_own);
        only_own
            || self
                .promised
                .as_ref()
                .is_some_and(|promised| self.is_gone(promised))
    }

    fn drive_notice(&mut self) {
        if !self.is_held() {
            return self.notice.reset(self.now);
        }
        if self.notice.is_due(self.now) {
            let targets: Vec<PeerAddr> = self.others().map(peer_addr).collect();
            for to in targets {
                self.send(to, BootstrapMessage::Busy);
            }
        }
    }

    /// When the candidates now in sight may be relied on to be all.
    fn settles_at(&self) -> Time {
        let timing = &self.config.timing;
        match (self.config.expect, self.config.has_seeds) {
            (1, false) => self.started,
            // Alone is enough: look for an existing cluster first.
            (1, true) => {
                let looked = self.started + timing.gossip_suspect;
                looked.max(self.settled_since + self.settle_span())
            }
            _ => self.settled_since + self.settle_span(),
        }
    }

    fn settle_span(&self) -> Duration {
        self.config.timing.settle_joins + self.config.timing.gossip_probe
    }

    fn busy_span(&self) -> Duration {
        self.config.timing.gossip_probe * 5
    }

    fn raft_id(&self) -> RaftId {
        RaftId {
            node: self.config.instance.node.clone(),
            store: self.config.store,
        }
    }

    fn reply(&mut self, to: &Peer, message: BootstrapMessage) {
        let to = PeerAddr {
            node: Some(to.instance.node.clone()),
            addr: to.addr,
        };
        self.send(to, message);
    }

    fn send(&mut self, to: PeerAddr, message: BootstrapMessage) {
        self.outputs
            .push_back(BootstrapOutput::Send { to, message });
    }
}

fn peer_addr(view: &CandidateView) -> PeerAddr {
    PeerAddr {
        node: Some(view.instance.node.clone()),
        addr: view.addr,
    }
}

/// Where the run of a name stands against the one that is meant.
fn is_later_run(view: &CandidateView, boot: BootId) -> bool {
    view.instance.boot > boot
}
