//! A proposal on its way: who has acknowledged it, who is excused, whose shards stay (rules P4, P4a, L5).

use std::collections::VecDeque;
use std::time::Duration;

use super::{Context, Leading};
use crate::engine::Counters;
use crate::engine::io::Output;
use crate::engine::replicated::Pending;
use crate::ids::{Instance, LogIndex, ShardId};
use crate::log_message::LogMessage;
use crate::mutants::{Mutant, mutated};
use crate::time::Time;

/// Longest back-off for a shard whose owner does not drain (rule P4).
const DRAIN_BACKOFF_MAX: Duration = Duration::from_secs(300);

/// A shard whose owner did not drain stays where it is until then (rule P4).
#[derive(Debug, Default)]
pub(super) struct Pin {
    pub(super) until: Time,
    pub(super) expired: bool,
    /// How long it stays at the next failure; zero: it is the first.
    backoff: Duration,
}

fn hold(pin: &mut Pin, cx: &Context<'_>) {
    let backoff = pin.backoff.max(cx.timing.drain_timeout);
    pin.until = cx.now + backoff;
    pin.expired = false;
    pin.backoff = (backoff * 2).min(DRAIN_BACKOFF_MAX);
}

impl Leading {
    pub(super) fn drive_pending(
        &mut self,
        cx: &Context<'_>,
        pending: &Pending,
        out: &mut VecDeque<Output>,
        counters: &mut Counters,
    ) {
        let index = pending.map.index();
        let mut all_acked = true;
        let mut names_excused = false;
        let mut stuck = Vec::new();
        for instance in pending.ack_set.iter() {
            if self.has_acked(cx, instance, index) {
                continue;
            }
            if self.is_silent(cx, instance, index) {
                let follower = self.followers.entry(instance.clone()).or_default();
                follower.barred.get_or_insert(cx.committed.index());
                let lapses_at = self.lapses_at(cx, instance);
                if cx.now >= lapses_at {
                    if self.excused.insert(instance.clone()) {
                        counters.add("excused nodes");
                    }
                    names_excused |= pending
                        .map
                        .members()
                        .iter()
                        .any(|member| member.instance == *instance);
                    continue;
                }
                all_acked = false;
                self.wake(Some(lapses_at));
                continue;
            }
            if !self.excused.contains(instance)
                && let Some(follower) = self.followers.get_mut(instance)
            {
                // It answers again before it was excused: nothing was decided without it.
                follower.barred = None;
            }
            all_acked = false;
            match self.drain_deadline(cx, instance, index) {
                Some(deadline) if cx.now >= deadline => stuck.push(instance.clone()),
                deadline => self.wake(deadline),
            }
        }
        if names_excused {
            self.propose(cx, "an excused node is left out", out);
        } else if !stuck.is_empty() {
            counters.add("drains given up");
            stuck
                .iter()
                .for_each(|instance| self.give_drain_up(cx, pending, instance));
            self.propose(cx, "shards that do not drain stay", out);
        } else if all_acked {
            self.send(
                cx,
                LogMessage::ShardMapCommitted {
                    map: index,
                    term: self.term,
                },
                out,
            );
        }
    }

    fn has_acked(&self, cx: &Context<'_>, instance: &Instance, index: LogIndex) -> bool {
        let acked = if instance == cx.me {
            cx.own_acked
        } else {
            self.followers.get(instance).and_then(|f| f.acked)
        };
        acked == Some(index) || acked.is_some() && mutated(Mutant::AnyAckCounts)
    }

    /// Rule L5 (a): it answers no pings, or has not applied the proposal within the ack timeout.
    fn is_silent(&mut self, cx: &Context<'_>, instance: &Instance, index: LogIndex) -> bool {
        if instance == cx.me {
            return false;
        }
        let applied = self
            .followers
            .get(instance)
            .map_or(LogIndex(0), |follower| follower.applied.0);
        let deadline = self.pending_since.max(self.awake_since) + cx.timing.ack_timeout;
        if !self.is_alive(cx, instance) || (applied < index && cx.now >= deadline) {
            return true;
        }
        let heard = self
            .followers
            .get(instance)
            .and_then(|follower| follower.heard)
            .unwrap_or_default();
        self.wake(Some(heard.max(self.awake_since) + cx.timing.dead_after));
        self.wake((applied < index).then_some(deadline));
        false
    }

    /// Rule P4: until when a live node may drain; `None` while it has not applied the proposal.
    fn drain_deadline(
        &self,
        cx: &Context<'_>,
        instance: &Instance,
        index: LogIndex,
    ) -> Option<Time> {
        let applied_at = if instance == cx.me {
            self.pending_since
        } else {
            let (applied, at) = self.followers.get(instance)?.applied;
            (applied >= index).then_some(at)?
        };
        Some(applied_at.max(self.pending_since) + cx.timing.drain_timeout)
    }

    /// The shards that the instance loses stay for a while, twice as long at every failure; and the others that it
    /// has stay with them, or the next proposal would take those for the balance's sake and wait for it again.
    /// An instance that loses none still holds on to a shard that it lost in an earlier step: it gains nothing.
    fn give_drain_up(&mut self, cx: &Context<'_>, pending: &Pending, instance: &Instance) {
        let owned: Vec<ShardId> = cx.committed.owned_by(instance).map(|(s, _)| s).collect();
        let lost = |shard: &ShardId| pending.map.owner(*shard) != Some(instance);
        let benched = !owned.iter().any(lost);
        for shard in owned {
            hold(self.pins.entry(shard).or_default(), cx);
        }
        if benched {
            hold(self.benched.entry(instance.clone()).or_default(), cx);
        }
    }
}
