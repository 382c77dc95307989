//! The next map when nothing is pending: who should own shards, and how many of them move at a time (rules M4, M8, P4).

use std::collections::{BTreeSet, VecDeque};

use super::pending::Pin;
use super::{Context, Leading, Weights};
use crate::engine::Counters;
use crate::engine::cordons::Cordon;
use crate::engine::io::Output;
use crate::engine::map_encoding::encode_assignment;
use crate::engine::membership::MemberState;
use crate::engine::placement::{Candidate, limit_moves, place_by};
use crate::engine::shard_map::{Assignment, ShardMap};
use crate::engine::steer::steer;
use crate::ids::{Instance, LogIndex, MemberKind, NodeId, ShardId};
use crate::limits::MAX_CAPACITY;
use crate::log_message::LogMessage;

/// What the committed map was found to need no change for.
#[derive(Debug)]
pub(super) struct RightFor {
    nodes: Nodes,
    /// Only as long as shards are being handed over: voluntary moves wait for the end of that.
    until_served: bool,
}

/// Who may have what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Nodes {
    /// They share the shards.
    wanted: Vec<Candidate>,
    /// They keep the shards that they have in the map in force, and get no others (rule M9).
    keepers: BTreeSet<Instance>,
}

/// What a node that is there and has caught up may have.
enum Part {
    /// Its part.
    Wanted,
    /// Its part, but only if nobody else is there: it came and went too often (rule M11).
    Waits,
    /// The same: its services are not ready (rule M10).
    Unready,
    /// What it has.
    Keeps,
    /// Nothing.
    Nothing,
}

impl Leading {
    /// The application wants these weights: they come into force with the next map.
    pub(in crate::engine) fn handle_weights(
        &mut self,
        cx: &Context<'_>,
        weights: Weights,
        counters: &mut Counters,
    ) {
        let fit = |weights: &[u32]| weights.len() == cx.committed.shards() as usize;
        if cx.committed.shards() == 0 || !weights.as_deref().is_none_or(fit) {
            return counters.add("weights that do not fit");
        }
        self.weights = Some(weights);
        self.reconsider = true;
    }

    pub(super) fn drive_idle(&mut self, cx: &Context<'_>, out: &mut VecDeque<Output>) {
        let nodes = self.nodes(cx);
        let alone = || cx.raft.members.keys().all(|id| id.node == cx.me.node);
        if nodes.wanted.is_empty() && (cx.may_own || !alone()) {
            return;
        }
        let keepers = nodes.keepers.iter().filter(|keeper| is_in(cx, keeper));
        let wanted = nodes.wanted.iter().map(|candidate| &candidate.instance);
        let instances: BTreeSet<Instance> = wanted.chain(keepers).cloned().collect();
        if std::mem::take(&mut self.reconsider) {
            self.right_for = None;
        }
        self.right_for.take_if(|right| right.nodes != nodes);
        let until_served = self.right_for.as_ref().map(|right| right.until_served);
        if until_served.is_some_and(|until_served| !until_served || self.is_handing_over(cx)) {
            self.settle_at = None;
            return;
        }
        let held: BTreeSet<Instance> = cx
            .committed
            .members()
            .iter()
            .map(|member| member.instance.clone())
            .collect();
        let lost = held.difference(&instances).next().is_some();
        if held != instances && !self.has_settled(cx, lost) {
            return;
        }
        self.settle_at = None;
        let most = self.budget(cx);
        let assignment = self.next_assignment(cx, &nodes, most);
        if changes(&assignment, cx.committed) {
            let reason = if held == instances {
                "balance"
            } else if lost {
                "a node went"
            } else {
                "a node came"
            };
            self.propose_assignment(cx, &assignment, reason, out);
        } else {
            let until_served = most == 0;
            self.right_for = Some(RightFor {
                nodes,
                until_served,
            });
        }
    }

    /// Rule M4: changes that come shortly after one another become one map.
    fn has_settled(&mut self, cx: &Context<'_>, lost: bool) -> bool {
        let settle = if lost {
            cx.timing.settle_deaths
        } else {
            cx.timing.settle_joins
        };
        let settle_at = self
            .settle_at
            .map_or(cx.now + settle, |at| at.min(cx.now + settle));
        self.settle_at = Some(settle_at);
        self.wake(Some(settle_at));
        cx.now >= settle_at
    }

    /// Who should own shards: live members of the raft group that are not leaving and have caught up, and of which
    /// nothing else is known that keeps shards from them. What only the cluster itself found out does not count if
    /// otherwise nobody would be left: first those share that came and went too often, then those that are not ready.
    fn nodes(&mut self, cx: &Context<'_>) -> Nodes {
        let nodes: BTreeSet<NodeId> = cx.raft.members.keys().map(|id| id.node.clone()).collect();
        let (mut wanted, mut waiting, mut unready) = (Vec::new(), Vec::new(), Vec::new());
        let mut keepers = BTreeSet::new();
        for node in nodes {
            let instance = if node == cx.me.node {
                cx.me.clone()
            } else {
                self.newest_run(cx, &node)
            };
            if !self.is_wanted(cx, &instance) {
                continue;
            }
            let capacity = capacity(cx, &instance);
            match self.part(cx, &instance) {
                Part::Wanted => wanted.push(Candidate { instance, capacity }),
                Part::Waits => waiting.push(Candidate { instance, capacity }),
                Part::Unready => unready.push(Candidate { instance, capacity }),
                Part::Keeps => drop(keepers.insert(instance)),
                Part::Nothing => {}
            }
        }
        let mut by_need = [wanted, waiting, unready].into_iter();
        Nodes {
            wanted: by_need.find(|nodes| !nodes.is_empty()).unwrap_or_default(),
            keepers,
        }
    }

    /// Rules M9 to M11.
    fn part(&mut self, cx: &Context<'_>, instance: &Instance) -> Part {
        let gossip = cx.members.get(&instance.node);
        let said = gossip.filter(|member| member.instance == *instance);
        let ready = said.is_none_or(|member| member.ready);
        match cx.cordons.get(&instance.node) {
            Some(Cordon::Cordoned) if ready => Part::Keeps,
            Some(_) => Part::Nothing,
            None if !ready => Part::Unready,
            None if is_in(cx, instance) => Part::Wanted,
            None => {
                let settle = cx.timing.settle_joins;
                let until = cx.flaps.waits_until(cx.now, &instance.node, settle);
                self.wake(until);
                until.map_or(Part::Wanted, |_| Part::Waits)
            }
        }
    }

    fn is_wanted(&mut self, cx: &Context<'_>, instance: &Instance) -> bool {
        if self.benched.get(instance).is_some_and(|pin| !pin.expired) {
            return false;
        }
        if instance == cx.me {
            return cx.may_own;
        }
        let kept = cx
            .committed
            .member(&instance.node)
            .is_some_and(|member| member.instance == *instance);
        let follower = self.followers.get(instance);
        let heard = follower.and_then(|follower| follower.heard);
        let caught_up = follower.is_some_and(|follower| follower.applied.0 >= cx.committed.index());
        let says_goodbye = cx.members.get(&instance.node).is_some_and(|member| {
            let going = matches!(member.state, MemberState::Leaving | MemberState::Left);
            member.kind == MemberKind::NonMember || (going && member.instance == *instance)
        });
        let fit = kept || (heard.is_some() && caught_up);
        let alive = fit && self.is_alive(cx, instance);
        if alive {
            self.wake(Some(
                heard.unwrap_or_default().max(self.awake_since) + cx.timing.dead_after,
            ));
        }
        alive && !says_goodbye && !self.excused.contains(instance)
    }

    /// Whether the owner of a pinned shard is still there to hold on to it. Wakes when it may be no more.
    fn holds_on(&mut self, cx: &Context<'_>, shard: ShardId) -> bool {
        let Some(owner) = cx.committed.owner(shard) else {
            return false;
        };
        let alive = self.is_alive(cx, owner) && !self.excused.contains(owner);
        if alive && owner != cx.me {
            let heard = self.followers.get(owner).and_then(|f| f.heard);
            let since = heard.unwrap_or_default().max(self.awake_since);
            self.wake(Some(since + cx.timing.dead_after));
        }
        alive
    }

    /// The next map: of the shards whose owner could keep them at most so many move.
    fn next_assignment(&self, cx: &Context<'_>, nodes: &Nodes, most: usize) -> Assignment {
        let shards = if cx.committed.shards() == 0 {
            cx.shards
        } else {
            cx.committed.shards()
        };
        let held = self.pins.iter().filter(|(_, pin)| !pin.expired);
        let mut pinned: BTreeSet<ShardId> = held.map(|(&shard, _)| shard).collect();
        for keeper in &nodes.keepers {
            pinned.extend(cx.committed.owned_by(keeper).map(|(shard, _)| shard));
        }
        let wanted = &nodes.wanted[..];
        let weights = match &self.weights {
            Some(weights) => weights.as_ref(),
            None => cx.committed.weights(),
        };
        let mut assignment = place_by(weights, cx.committed, shards, wanted, &pinned);
        limit_moves(&mut assignment, cx.committed, wanted, most);
        steer(
            &mut assignment,
            wanted,
            &pinned,
            self.avoid.iter().map(|(&shard, (node, _))| (shard, node)),
        );
        assignment
    }

    /// How many shards may change their owner now although they need not.
    fn budget(&mut self, cx: &Context<'_>) -> usize {
        match cx.max_moves {
            None => usize::MAX,
            Some(_) if self.is_handing_over(cx) => 0,
            Some(most) => most as usize,
        }
    }

    /// Whether a live node does not serve yet what the map in force gives it. Not for longer than an `acquire` hook
    /// may take: a node that cannot say so, or cannot acquire, must not hold up the others for ever.
    fn is_handing_over(&mut self, cx: &Context<'_>) -> bool {
        let give_up = self.in_force_since.max(self.awake_since) + cx.timing.acquire_timeout;
        if cx.now >= give_up {
            return false;
        }
        let serves = |instance: &Instance| {
            let served = if instance == cx.me {
                cx.own_served
            } else {
                let follower = self.followers.get(instance);
                follower.map_or(LogIndex(0), |follower| follower.served)
            };
            served >= cx.committed.index() || !self.is_alive(cx, instance)
        };
        let mut members = cx.committed.members().iter();
        let waits = !members.all(|member| serves(&member.instance));
        self.wake(waits.then_some(give_up));
        waits
    }

    /// Proposes the next map, computed from the committed one. It supersedes whatever is pending (rule P2).
    pub(super) fn propose(&mut self, cx: &Context<'_>, reason: &str, out: &mut VecDeque<Output>) {
        let mut nodes = self.nodes(cx);
        if nodes.wanted.is_empty() {
            // Nobody may have what the operator keeps from all: it stays where it is.
            let here = cx.committed.members().iter().map(|m| &m.instance);
            let mut keeps = |instance: &&Instance| {
                cx.cordons.contains_key(&instance.node)
                    && self.newest_run(cx, &instance.node) == **instance
                    && self.is_wanted(cx, instance)
            };
            let here: Vec<Instance> = here.filter(|i| keeps(i)).cloned().collect();
            nodes.keepers.extend(here);
        }
        let most = self.budget(cx);
        let assignment = self.next_assignment(cx, &nodes, most);
        self.propose_assignment(cx, &assignment, reason, out);
    }

    fn propose_assignment(
        &mut self,
        cx: &Context<'_>,
        assignment: &Assignment,
        reason: &str,
        out: &mut VecDeque<Output>,
    ) {
        self.settle_at = None;
        self.send(
            cx,
            LogMessage::ProposedShardMap {
                base: cx.committed.index(),
                assignment: encode_assignment(assignment, Some(cx.committed)),
                reason: reason.to_owned(),
            },
            out,
        );
    }

    /// Pins and avoidances that have run out are a reason to look at the map again.
    pub(super) fn expire(&mut self, cx: &Context<'_>) {
        let now = cx.now;
        let mut any = false;
        let held = |(&shard, pin): (&ShardId, &Pin)| (!pin.expired).then_some(shard);
        let held: Vec<ShardId> = self.pins.iter().filter_map(held).collect();
        for shard in held {
            // Whoever would not let go of it is gone: it need not wait.
            any |= !self.holds_on(cx, shard) && self.pins.remove(&shard).is_some();
        }
        let pins = self.pins.values_mut().chain(self.benched.values_mut());
        for pin in pins.filter(|pin| !pin.expired && pin.until <= now) {
            // It is kept: the next back-off depends on it.
            pin.expired = true;
            any = true;
        }
        let avoided = self.avoid.len();
        self.avoid.retain(|_, (_, until)| *until > now);
        any |= self.avoid.len() != avoided;
        self.reconsider |= any;
        let pins = self.pins.values().chain(self.benched.values());
        let next = pins
            .filter(|pin| !pin.expired)
            .map(|pin| pin.until)
            .chain(self.avoid.values().map(|&(_, until)| until))
            .min();
        self.wake(next);
    }
}

/// Whether the map in force names the run.
fn is_in(cx: &Context<'_>, instance: &Instance) -> bool {
    let member = cx.committed.member(&instance.node);
    member.is_some_and(|member| member.instance == *instance)
}

/// Whether the assignment gives any shard or member another place, or a shard another weight, than the map does.
fn changes(assignment: &Assignment, map: &ShardMap) -> bool {
    assignment.members != map.members()
        || assignment.weights.as_ref() != map.weights()
        || (0..map.shards())
            .any(|shard| assignment.owners[shard as usize] != map.worker(ShardId(shard)))
}

/// What the node says of itself as this run; if it is not heard of yet, what the map says of the run before.
fn capacity(cx: &Context<'_>, instance: &Instance) -> u32 {
    let gossip = cx.members.get(&instance.node);
    let said = gossip.filter(|member| member.instance == *instance);
    let map = cx.committed.member(&instance.node);
    let capacity = said.map(|member| member.capacity);
    let capacity = capacity.or(map.map(|member| member.capacity));
    capacity.unwrap_or(1).clamp(1, MAX_CAPACITY)
}
