//! What a leader does: pings and grants here, excuses in `pending`, the next map in `balance` (rules P1, P4, P5, L1
//! to L5, M4, M8).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Counters;
use super::cordons::{Cordon, Cordons};
use super::flaps::Flaps;
use super::io::{Output, RaftMembers};
use super::membership::{Member, MemberState};
use super::message::{Grant, Message, Ping, Pong};
use super::raft_members;
use super::replicated::Pending;
use super::shard_map::ShardMap;
use crate::ids::{ClusterId, Instance, LogIndex, NodeId, PeerAddr, ShardId, Term};
use crate::log_message::LogMessage;
use crate::mutants::{Mutant, mutated};
use crate::time::Time;
use crate::timing::Timing;
use crate::versions::VersionRange;

/// How long a shard is kept away from a node that could not acquire it.
const AVOID_FOR: Duration = Duration::from_secs(60);

mod balance;
mod pending;

use pending::Pin;

/// Weights of the shards, or `None`: all weigh the same.
pub(super) type Weights = Option<Arc<[u32]>>;

/// What the rest of the engine knows, read-only.
pub(super) struct Context<'a> {
    pub(super) now: Time,
    pub(super) timing: &'a Timing,
    pub(super) me: &'a Instance,
    pub(super) cluster: Option<ClusterId>,
    /// Whether this node itself may own shards: it is not leaving.
    pub(super) may_own: bool,
    /// Shards of a new cluster.
    pub(super) shards: u32,
    /// The versions of the protocol that this node speaks.
    pub(super) versions: VersionRange,
    /// The version that the cluster has reached.
    pub(super) version: u8,
    pub(super) voters: usize,
    /// How many shards may move at a time although they need not; `None`: all.
    pub(super) max_moves: Option<u32>,
    /// Nodes that the operator keeps shards from (rule M9).
    pub(super) cordons: &'a Cordons,
    /// Who came and went too often (rule M11).
    pub(super) flaps: &'a Flaps,
    pub(super) committed: &'a ShardMap,
    pub(super) pending: Option<&'a Pending>,
    /// The proposal that this node itself has drained for.
    pub(super) own_acked: Option<LogIndex>,
    /// The map of which this node itself serves all that it owns.
    pub(super) own_served: LogIndex,
    /// Shards that this node itself could not acquire.
    pub(super) own_unacquirable: &'a [ShardId],
    pub(super) members: &'a BTreeMap<NodeId, Member>,
    pub(super) raft: &'a RaftMembers,
}

/// One run of another node, as the leader knows it in this term.
#[derive(Debug, Default)]
struct Follower {
    /// When the last pong came.
    heard: Option<Time>,
    /// Newest stamp on its clock, and when that pong came here.
    stamp: Option<(Time, Time)>,
    /// `r` of rule L2: when the newest pong came that was echoed in a grant.
    granted: Option<Time>,
    /// Latest proposal it has applied, and since when this is known.
    applied: (LogIndex, Time),
    /// Latest proposal it acknowledged in this term.
    acked: Option<LogIndex>,
    /// Latest map in force of which it served all that it owns.
    served: LogIndex,
    /// No grants until a map newer than this is in force (rule L5).
    barred: Option<LogIndex>,
}

/// An entry of this leader that is on its way through the log.
#[derive(Debug)]
struct InFlight {
    /// When to think it lost: `Propose` is fire-and-observe.
    retry_at: Time,
}

/// A leader's state, from the deciding vote to the end of its term.
#[derive(Debug)]
pub(super) struct Leading {
    term: Term,
    /// `t` of rule L4: read after the deciding vote had arrived.
    elected_at: Time,
    /// Since when this leader is ready (rule P1), and who led the last ready term before.
    ready: Option<(Time, Option<Instance>)>,
    /// `q` of rule L3.
    quorum_at: Option<Time>,
    /// Answers to heartbeats sent before this do not count: the clocks parted meanwhile (rule L0).
    quorum_floor: Time,
    /// When a leader that leaves may offer leadership to another node again.
    hand_on_at: Time,
    /// Silence is counted from here at the earliest: until then this node itself did not run.
    awake_since: Time,
    followers: BTreeMap<Instance, Follower>,
    excused: BTreeSet<Instance>,
    next_ping: Time,
    /// Whether it acted when it was last driven (rule L3): otherwise only a quorum's answer wakes it, not a ping.
    acting: bool,
    in_flight: Option<InFlight>,
    /// When the pending proposal of this term was applied here.
    pending_since: Time,
    /// Members wanted other than those of the map: when to act on it (rule M4).
    settle_at: Option<Time>,
    /// The members for which the committed map was found to need no change.
    right_for: Option<balance::RightFor>,
    /// Something changed that may make `right_for` untrue: look at the map again.
    reconsider: bool,
    pins: BTreeMap<ShardId, Pin>,
    /// Runs that gain nothing for a while, because they still hold on to what they lost before (rule P4).
    benched: BTreeMap<Instance, Pin>,
    avoid: BTreeMap<ShardId, (NodeId, Time)>,
    /// Weights that the next map brings, if it is to bring any.
    weights: Option<Weights>,
    /// When cordons of nodes that are gone may be taken away again: the last time it may have been in vain.
    next_clearing: Time,
    /// When the map in force was applied here, or this leader became ready.
    in_force_since: Time,
    changing_members: bool,
    /// When a configuration change may be tried again: the last one was refused.
    change_members_at: Time,
    /// It speaks a newer version than some member, which was counted.
    holds_version_back: bool,
    /// Earliest time at which waiting alone changes what is to be done.
    wake_at: Option<Time>,
}

impl Leading {
    pub(super) fn new(term: Term, now: Time) -> Self {
        Self {
            term,
            elected_at: now,
            ready: None,
            quorum_at: None,
            quorum_floor: Time::default(),
            hand_on_at: now,
            awake_since: now,
            followers: BTreeMap::new(),
            excused: BTreeSet::new(),
            next_ping: now,
            acting: false,
            in_flight: None,
            pending_since: now,
            settle_at: None,
            right_for: None,
            reconsider: false,
            pins: BTreeMap::new(),
            benched: BTreeMap::new(),
            avoid: BTreeMap::new(),
            weights: None,
            next_clearing: now,
            in_force_since: now,
            changing_members: false,
            change_members_at: now,
            holds_version_back: false,
            wake_at: None,
        }
    }

    pub(super) fn term(&self) -> Term {
        self.term
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.is_some()
    }

    /// Rule L3: until when this leader may act and serve its own shards; `None` before it is ready.
    pub(super) fn acts_until(&self, timing: &Timing) -> Option<Time> {
        let early = mutated(Mutant::ServesBeforeReady) || mutated(Mutant::GrantsBeforeReady);
        if self.ready.is_none() && !early {
            return None;
        }
        self.quorum_at.map(|q| q + timing.leader_bound)
    }

    fn acts(&self, cx: &Context<'_>) -> bool {
        if mutated(Mutant::GrantWithoutQuorum) {
            return self.is_ready();
        }
        self.acts_until(cx.timing)
            .is_some_and(|until| cx.now < until)
    }

    pub(super) fn handle_quorum_ack(&mut self, sent_at: Time) {
        if sent_at >= self.quorum_floor {
            self.quorum_at = self.quorum_at.max(Some(sent_at));
        }
    }

    /// This leader's own `LeaderOpened` was applied: it is ready.
    pub(super) fn handle_opened(&mut self, now: Time, previous: Option<Instance>) {
        self.in_flight = None;
        if self.ready.is_some() {
            // Sent twice, because the first was slow: that one says who led before.
            return;
        }
        self.ready = Some((now, previous));
        self.awake_since = now;
        self.in_force_since = now;
        self.next_ping = now;
    }

    pub(super) fn handle_proposed(&mut self, now: Time) {
        self.in_flight = None;
        self.pending_since = now;
        self.settle_at = None;
    }

    pub(super) fn handle_committed(&mut self, now: Time, map: &ShardMap) {
        self.in_flight = None;
        self.in_force_since = now;
        self.weights
            .take_if(|weights| weights.as_ref() == map.weights());
        self.excused.clear();
        self.reconsider = true;
        // A shard that moved after all begins anew with the shortest back-off.
        self.pins
            .retain(|&shard, _| shard.0 < map.shards() && map.epoch(shard).0 != map.index().0);
        for follower in self.followers.values_mut() {
            follower.barred = follower.barred.filter(|&at| at >= map.index());
        }
    }

    pub(super) fn handle_void(&mut self) {
        self.in_flight = None;
        self.reconsider = true;
    }

    pub(super) fn handle_version_raised(&mut self) {
        self.in_flight = None;
        self.reconsider = true;
    }

    /// A configuration change ended. One that was refused is not tried again at once: raft would refuse it again.
    pub(super) fn handle_members_changed(&mut self, now: Time, done: bool, timing: &Timing) {
        self.changing_members = false;
        if !done {
            self.change_members_at = now + timing.election_max;
        }
    }

    /// The machine stood still until now: what others did not say meanwhile proves nothing. Answers whether it
    /// should have acted.
    pub(super) fn handle_stall(&mut self, now: Time) -> bool {
        self.awake_since = now;
        self.acting
    }

    /// The machine slept: what was heard before proves nothing about a quorum now (rule L0).
    pub(super) fn handle_clock_jump(&mut self, now: Time) {
        self.quorum_at = None;
        self.quorum_floor = now;
        self.awake_since = now;
    }

    /// Whether the node answered a ping lately.
    pub(super) fn answers(&self, node: &NodeId, now: Time, timing: &Timing) -> bool {
        let heard = self
            .followers
            .iter()
            .filter(|(instance, _)| instance.node == *node)
            .filter_map(|(_, f)| f.heard)
            .max();
        heard.is_some_and(|heard| now < heard + timing.dead_after)
    }

    /// Whether a leader that leaves may (again) try to hand leadership on.
    pub(super) fn may_hand_on(&self, now: Time) -> bool {
        self.is_ready() && now >= self.hand_on_at
    }

    /// Leadership was offered to another node; if nothing comes of it, it is offered again at this time.
    pub(super) fn handed_on(&mut self, again: Time) {
        self.hand_on_at = again;
    }

    pub(super) fn handle_pong(
        &mut self,
        cx: &Context<'_>,
        from: &Instance,
        pong: &Pong,
        out: &mut VecDeque<Output>,
    ) {
        let follower = self.followers.entry(from.clone()).or_default();
        follower.heard = Some(cx.now);
        if follower.stamp.is_none_or(|(stamp, _)| stamp < pong.stamp) {
            follower.stamp = Some((pong.stamp, cx.now));
        }
        if follower.applied.0 < pong.applied {
            follower.applied = (pong.applied, cx.now);
        }
        follower.served = follower.served.max(pong.served);
        // An acknowledgement counts in the term of the leader that it was given to (rule P5).
        if pong.term == self.term {
            follower.acked = follower.acked.max(pong.acked);
        }
        let first = follower.granted.is_none() && follower.barred.is_none();
        self.keep_away(cx, from, &pong.unacquirable);
        if first && self.acts(cx) {
            // Its first lease in this term: every millisecond until it is granted is unserved time.
            self.ping(cx, &from.node, from.clone(), out);
        }
    }

    /// Shards that their owner could not acquire go to another node.
    fn keep_away(&mut self, cx: &Context<'_>, owner: &Instance, shards: &[ShardId]) {
        for &shard in shards {
            if shard.0 < cx.committed.shards() && cx.committed.owner(shard) == Some(owner) {
                let avoided = (owner.node.clone(), cx.now + AVOID_FOR);
                self.reconsider |= self.avoid.insert(shard, avoided).is_none();
            }
        }
    }

    /// All that follows from the state as it is now.
    pub(super) fn drive(
        &mut self,
        cx: &Context<'_>,
        out: &mut VecDeque<Output>,
        counters: &mut Counters,
    ) {
        self.wake_at = None;
        if !self.is_ready() {
            if mutated(Mutant::GrantsBeforeReady) && self.next_ping <= cx.now {
                self.next_ping = cx.now + cx.timing.ping;
                self.ping_all(cx, out);
            }
            return self.open_term(cx, out);
        }
        self.acting = self.acts(cx);
        if !self.acting {
            return;
        }
        if self.next_ping <= cx.now {
            self.next_ping = cx.now + cx.timing.ping;
            self.ping_all(cx, out);
        }
        self.drive_members(cx, out);
        self.clear_cordons(cx, out);
        self.keep_away(cx, cx.me, cx.own_unacquirable);
        self.expire(cx);
        if let Some(in_flight) = &self.in_flight {
            if cx.now < in_flight.retry_at {
                return self.wake(self.in_flight.as_ref().map(|entry| entry.retry_at));
            }
            self.in_flight = None;
        }
        match cx.pending {
            _ if self.raise_version(cx, out, counters) => {}
            // P5: acknowledgements given to another leader do not count here.
            Some(pending) if pending.term != self.term => self.propose(cx, "a new leader", out),
            Some(pending) => self.drive_pending(cx, pending, out, counters),
            None => self.drive_idle(cx, out),
        }
    }

    /// Rule P1: each term opens with an entry that names its leader; once that is applied the leader is ready.
    fn open_term(&mut self, cx: &Context<'_>, out: &mut VecDeque<Output>) {
        if self
            .in_flight
            .as_ref()
            .is_none_or(|entry| entry.retry_at <= cx.now)
        {
            let leader = cx.me.clone();
            self.send(cx, LogMessage::LeaderOpened { leader }, out);
            // Raft refuses a new leader's writes until a first heartbeat is answered, if leadership was handed to
            // it. Nobody is served until this entry is applied, and two of it do no harm: it is repeated soon.
            let retry_at = cx.now + cx.timing.heartbeat;
            self.in_flight = Some(InFlight { retry_at });
        }
        self.wake(self.in_flight.as_ref().map(|entry| entry.retry_at));
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let ping = self.acting.then_some(self.next_ping);
        [ping, self.wake_at].into_iter().flatten().min()
    }

    fn wake(&mut self, at: Option<Time>) {
        self.wake_at = [self.wake_at, at].into_iter().flatten().min();
    }

    // Pings and grants.

    /// Every raft member, whoever is in the map, and whoever waits to be told that it may go.
    fn ping_targets(&self, cx: &Context<'_>) -> BTreeSet<NodeId> {
        let raft = cx.raft.members.keys().map(|id| &id.node);
        let map = cx
            .committed
            .members()
            .iter()
            .map(|member| &member.instance.node);
        let leaving = cx
            .members
            .values()
            .filter(|m| m.state == MemberState::Leaving)
            .map(|m| &m.instance.node);
        raft.chain(map)
            .chain(leaving)
            .filter(|node| **node != cx.me.node)
            .cloned()
            .collect()
    }

    fn ping_all(&mut self, cx: &Context<'_>, out: &mut VecDeque<Output>) {
        for node in self.ping_targets(cx) {
            let instance = self.newest_run(cx, &node);
            self.ping(cx, &node, instance, out);
        }
    }

    /// The newest run known of a node: from its own pongs, from gossip, or from the map.
    fn newest_run(&self, cx: &Context<'_>, node: &NodeId) -> Instance {
        let heard = self
            .followers
            .iter()
            .filter(|(i, f)| i.node == *node && f.heard.is_some())
            .map(|(i, _)| i.boot);
        let gossip = cx.members.get(node).map(|member| member.instance.boot);
        let map = cx.committed.member(node).map(|member| member.instance.boot);
        Instance {
            node: node.clone(),
            boot: heard.chain(gossip).chain(map).max().unwrap_or_default(),
        }
    }

    fn ping(
        &mut self,
        cx: &Context<'_>,
        node: &NodeId,
        instance: Instance,
        out: &mut VecDeque<Output>,
    ) {
        let in_raft = cx
            .raft
            .members
            .iter()
            .find(|(id, _)| id.node == *node)
            .map(|(_, &addr)| addr);
        let Some(addr) = cx.members.get(node).map(|member| member.addr).or(in_raft) else {
            return;
        };
        let grant = self.grant(cx, &instance);
        let dismissed = in_raft.is_none()
            && !names(cx.committed, node)
            && !cx.pending.is_some_and(|p| names(&p.map, node));
        let Some(cluster) = cx.cluster else { return };
        let message = Message::Ping(Ping {
            cluster,
            term: self.term,
            boot: instance.boot,
            grant,
            dismissed,
        });
        out.push_back(Output::Send {
            to: PeerAddr {
                node: Some(node.clone()),
                addr,
            },
            message,
        });
    }

    /// A grant for the newest stamp, unless the node is silent or barred. Remembers `r` (rule L2).
    fn grant(&mut self, cx: &Context<'_>, instance: &Instance) -> Option<Grant> {
        if !self.acts(cx) || !self.is_alive(cx, instance) {
            return None;
        }
        let follower = self.followers.get_mut(instance)?;
        let (stamp, received) = follower.stamp?;
        let excused = self.excused.contains(instance);
        if follower.barred.is_some() && !(excused && mutated(Mutant::GrantsToTheExcused)) {
            return None;
        }
        follower.granted = follower.granted.max(Some(received));
        Some(Grant {
            stamp,
            map: cx.committed.index(),
        })
    }

    /// Whether the run answers pings. A run that was never heard in this term has the benefit of the doubt at first.
    fn is_alive(&self, cx: &Context<'_>, instance: &Instance) -> bool {
        if instance == cx.me {
            return true;
        }
        let newer = self
            .followers
            .iter()
            .any(|(i, f)| i.node == instance.node && i.boot > instance.boot && f.heard.is_some());
        let heard = self
            .followers
            .get(instance)
            .and_then(|follower| follower.heard);
        let since = heard.unwrap_or_default().max(self.awake_since);
        !newer && cx.now < since + cx.timing.dead_after
    }

    /// Rules L2 and L4: when the lease of a silent run has certainly lapsed.
    fn lapses_at(&self, cx: &Context<'_>, instance: &Instance) -> Time {
        if mutated(Mutant::CommitWithoutLeaseWait) {
            return cx.now;
        }
        let timing = cx.timing;
        let previous = self
            .ready
            .as_ref()
            .and_then(|(_, previous)| previous.as_ref());
        let inherited = if mutated(Mutant::InheritedLeasesForgotten) {
            Duration::ZERO
        } else if mutated(Mutant::InheritedLeasesTooShort) {
            timing.lease
        } else if previous == Some(instance) {
            timing.leader_bound
        } else {
            timing.leader_bound + timing.lease
        };
        let granted = self
            .followers
            .get(instance)
            .and_then(|follower| follower.granted);
        let starred = |span: Duration| {
            if mutated(Mutant::LapseWithoutStar) {
                span
            } else {
                timing.starred(span)
            }
        };
        let granted = granted.map_or(Time::default(), |r| r + starred(timing.lease));
        granted.max(self.elected_at + starred(inherited))
    }

    /// Proposes that the cluster reaches the newest version that all speak; whether it did.
    ///
    /// This is the only place where the version rises, and nothing of a later one is ever proposed: see `send`.
    fn raise_version(
        &mut self,
        cx: &Context<'_>,
        out: &mut VecDeque<Output>,
        counters: &mut Counters,
    ) -> bool {
        let wanted = cx.versions.newest;
        if wanted <= cx.version {
            return false;
        }
        let spoken = spoken_by_all(cx);
        let version = if mutated(Mutant::VersionRaisedEarly) {
            wanted
        } else {
            wanted.min(spoken)
        };
        if version < wanted && !std::mem::replace(&mut self.holds_version_back, true) {
            counters.add("versions held back until all members speak them");
        }
        if version <= cx.version {
            return false;
        }
        self.send(cx, LogMessage::VersionRaised { version }, out);
        true
    }

    fn send(&mut self, cx: &Context<'_>, message: LogMessage, out: &mut VecDeque<Output>) {
        let retry_at = cx.now + cx.timing.election_max;
        self.in_flight = Some(InFlight { retry_at });
        self.wake(Some(retry_at));
        out.push_back(Output::Propose {
            term: self.term,
            message,
        });
    }

    // Cordons.

    /// Rule M9: it goes into the log. Whether it got there is seen when it is applied; whoever asked asks again.
    pub(super) fn handle_cordon(
        &mut self,
        cx: &Context<'_>,
        node: NodeId,
        cordon: Option<Cordon>,
        out: &mut VecDeque<Output>,
    ) {
        if self.acts(cx) && cx.cordons.get(&node).copied() != cordon {
            let message = LogMessage::NodeCordoned { node, cordon };
            out.push_back(Output::Propose {
                term: self.term,
                message,
            });
        }
    }

    /// A cordon ends with its node: one that has left, or was forgotten, begins anew if it ever comes back.
    fn clear_cordons(&mut self, cx: &Context<'_>, out: &mut VecDeque<Output>) {
        let in_raft = |node: &NodeId| cx.raft.members.keys().any(|id| id.node == *node);
        if cx.cordons.is_empty() || cx.now < self.next_clearing || !in_raft(&cx.me.node) {
            return;
        }
        let is_there = |node: &NodeId| cx.members.get(node).is_some_and(Member::is_present);
        let gone = |node: &&NodeId| !in_raft(node) && !is_there(node) && !names(cx.committed, node);
        let gone: Vec<NodeId> = cx.cordons.keys().filter(gone).cloned().collect();
        for node in gone {
            self.next_clearing = cx.now + cx.timing.election_max;
            self.handle_cordon(cx, node, None, out);
        }
    }

    // The raft configuration.

    fn drive_members(&mut self, cx: &Context<'_>, out: &mut VecDeque<Output>) {
        if self.changing_members {
            return;
        }
        if cx.now < self.change_members_at {
            return self.wake(Some(self.change_members_at));
        }
        let Some((ready_at, _)) = self.ready else {
            return;
        };
        let silent_for = |node: &NodeId| {
            if *node == cx.me.node {
                return Duration::ZERO;
            }
            let heard = self
                .followers
                .iter()
                .filter(|(i, _)| i.node == *node)
                .filter_map(|(_, f)| f.heard)
                .max();
            cx.now.since(
                heard
                    .unwrap_or_default()
                    .max(ready_at)
                    .max(self.awake_since),
            )
        };
        let owns = |node: &NodeId| {
            names(cx.committed, node) || cx.pending.is_some_and(|p| names(&p.map, node))
        };
        let answers = |instance: &Instance| {
            let heard = self.followers.get(instance).and_then(|f| f.heard);
            heard.is_some_and(|heard| cx.now < heard + cx.timing.dead_after)
        };
        let situation = raft_members::Situation {
            me: &cx.me.node,
            raft: cx.raft,
            members: cx.members,
            timing: cx.timing,
            voters: cx.voters,
            silent_for: &silent_for,
            answers: &answers,
            owns: &owns,
        };
        if let Some(change) = raft_members::next_change(&situation) {
            self.changing_members = true;
            out.push_back(Output::ChangeMembers(change));
        }
    }
}

/// The newest version that every raft member and every owner of shards speaks, as far as gossip knows them: one that it
/// does not know may be of any release. Members that are down count like the others, for they may come back.
fn spoken_by_all(cx: &Context<'_>) -> u8 {
    let raft = cx.raft.members.keys().map(|id| &id.node);
    let pending = cx.pending.map(|pending| pending.map.members());
    let maps = [Some(cx.committed.members()), pending];
    let owners = maps.into_iter().flatten().flatten();
    let spoken = |node: &NodeId| {
        let member = cx.members.get(node);
        member.map_or(cx.versions.oldest, |member| member.versions.newest)
    };
    raft.chain(owners.map(|member| &member.instance.node))
        .map(spoken)
        .min()
        .unwrap_or(cx.versions.oldest)
}

fn names(map: &ShardMap, node: &NodeId) -> bool {
    map.member(node).is_some()
}
