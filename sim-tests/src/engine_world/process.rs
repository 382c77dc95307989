//! One run of a node, as the driver of the library would keep it: engine, raft, guards, hooks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use funk::engine::shard_map::ShardMap;
use funk::engine::{Engine, Input, LeaseView};
use funk::ids::{ClusterId, Epoch, Instance, ShardId};
use funk::time::Time;

use super::Event;
use super::clock::TrueTime;
use crate::invariants::Serving;
use crate::invariants::i7_states::States;
use crate::model_raft::Raft;

/// A guard that was handed out.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    /// Of the lease under which it was given; another one means that it has lapsed (rule S6).
    pub(super) generation: u64,
    /// Held by code that does not care about its lapse: it ends when that code likes.
    pub(super) held: bool,
}

/// A shard on the way in, open or on the way out.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) epoch: Epoch,
    pub(super) acquiring: bool,
    pub(super) closing: bool,
    pub(super) releasing: bool,
    pub(super) guards: u32,
}

/// One run of a node.
pub(super) struct Process {
    pub(super) instance: Instance,
    pub(super) engine: Engine,
    pub(super) raft: Raft,
    /// Whose raft messages are acceptable.
    pub(super) accepts: Option<ClusterId>,
    /// What the engine is to be told now.
    pub(super) inputs: VecDeque<Input>,
    /// What raft said and the engine has not heard yet, and when it will have.
    pub(super) lagging: VecDeque<Input>,
    pub(super) lags_until: TrueTime,
    pub(super) timer_at: TrueTime,
    pub(super) raft_timer_at: TrueTime,
    /// Ticks at one and the same moment: many mean an engine that spins.
    pub(super) ticks: (TrueTime, u32),
    pub(super) lease: LeaseView,
    pub(super) lapse_at: TrueTime,
    pub(super) slots: BTreeMap<ShardId, Slot>,
    pub(super) guards: BTreeMap<u64, Guard>,
    /// See [`Serving`].
    pub(super) open: Vec<Epoch>,
    pub(super) live: Vec<u32>,
    pub(super) paused: bool,
    /// The machine sleeps, and the node is told when it wakes.
    pub(super) suspended: bool,
    /// What happens to it once it goes on.
    pub(super) deferred: Vec<Event>,
    pub(super) states: States,
    pub(super) leaving: bool,
    pub(super) committed: Arc<ShardMap>,
}

impl Process {
    pub(super) fn is_leased(&self, clock: Time) -> bool {
        clock < self.lease.until
    }

    pub(super) fn serving(&self, clock: Time) -> Serving<'_> {
        Serving {
            instance: &self.instance,
            leased: self.is_leased(clock),
            open: &self.open,
            guards: &self.live,
        }
    }

    /// A guard of this shard, if one may be handed out (rule S4).
    pub(super) fn guard(
        &mut self,
        clock: Time,
        shard: ShardId,
        id: u64,
        held: bool,
    ) -> Option<Guard> {
        let epoch = self.open[shard.0 as usize];
        if epoch == Epoch(0) || !self.is_leased(clock) {
            return None;
        }
        let guard = Guard {
            shard,
            epoch,
            generation: self.lease.generation,
            held,
        };
        self.guards.insert(id, guard.clone());
        self.live[shard.0 as usize] += 1;
        self.slots
            .get_mut(&shard)
            .expect("an open shard has a slot")
            .guards += 1;
        Some(guard)
    }

    /// The guard is dropped.
    pub(super) fn release(&mut self, id: u64) -> Option<Guard> {
        let guard = self.guards.remove(&id)?;
        if guard.generation == self.lease.generation {
            self.live[guard.shard.0 as usize] -= 1;
        }
        let slot = self
            .slots
            .get_mut(&guard.shard)
            .expect("a guard in flight has a slot");
        assert_eq!(
            slot.epoch, guard.epoch,
            "a slot was reused while a guard was in flight"
        );
        slot.guards -= 1;
        Some(guard)
    }

    /// Whether the guard is live at this moment.
    pub(super) fn is_live(&self, id: u64, clock: Time) -> bool {
        let current = |guard: &Guard| guard.generation == self.lease.generation;
        self.is_leased(clock) && self.guards.get(&id).is_some_and(current)
    }

    /// The futures under lapsed guards: the library drops them (rule S6).
    pub(super) fn lapsed(&self, clock: Time) -> Vec<u64> {
        let leased = self.is_leased(clock);
        let lapsed =
            |guard: &Guard| !guard.held && (!leased || guard.generation != self.lease.generation);
        self.guards
            .iter()
            .filter(|(_, guard)| lapsed(guard))
            .map(|(&id, _)| id)
            .collect()
    }

    /// A changed lease; answers whether it began anew.
    pub(super) fn set_lease(&mut self, clock: Time, lease: LeaseView) -> bool {
        let was_leased = self.is_leased(clock);
        if lease.generation != self.lease.generation {
            self.live.fill(0);
        }
        self.lease = lease;
        !was_leased && self.is_leased(clock)
    }
}
