//! Which shards this node answers for, and the steps on the way in and out (rules S1 to S3).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::shard_map::ShardMap;
use crate::ids::{Epoch, Instance, ShardId};
use crate::mutants::{Mutant, mutated};
use crate::time::Time;

/// First wait after an `acquire` hook failed; doubles with each failure.
const ACQUIRE_BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait between two runs of an `acquire` hook.
const ACQUIRE_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Failures of `acquire` after which the leader is asked to place the shard elsewhere.
pub(super) const ACQUIRE_RETRIES: u32 = 3;

/// Where one shard stands on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The `acquire` hook runs.
    Acquiring,
    /// The `acquire` hook failed; it runs again at this time.
    Waiting(Time),
    /// Answers requests.
    Open,
    /// Answers no new requests; guards may be in flight, hooks may run.
    Draining,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    epoch: Epoch,
    stage: Stage,
    failures: u32,
}

/// What the shell must do after a change.
#[derive(Default, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) acquire: Vec<(ShardId, Epoch)>,
    pub(super) open: Vec<(ShardId, Epoch)>,
    pub(super) close: Vec<(ShardId, Epoch)>,
}

/// The serving set with its edges.
///
/// Invariant: every slot that is not draining is desired at its epoch. A (shard, epoch) on which a guard may be in
/// flight or a hook may run has a slot. `draining` and `failing` name the slots that drain, and those whose `acquire`
/// hook has failed: what is asked after every input looks at these few only.
#[derive(Debug, Default)]
pub(super) struct Serving {
    slots: BTreeMap<ShardId, Slot>,
    desired: BTreeMap<ShardId, Epoch>,
    draining: BTreeSet<ShardId>,
    failing: BTreeSet<ShardId>,
    /// How many slots are open; all of them are desired.
    opened: usize,
    /// What the latest change of the maps closed; only a deliberate fault looks at it.
    closed_latest: Vec<ShardId>,
}

impl Serving {
    /// Rules S1 and P3: what should be served is `owned(committed) ∩ owned(pending)`, compared as (shard, epoch).
    pub(super) fn set_maps(
        &mut self,
        me: &Instance,
        committed: &ShardMap,
        pending: Option<&ShardMap>,
    ) -> Steps {
        let pending = pending.filter(|_| !mutated(Mutant::ServesLostUntilCommit));
        let former = mutated(Mutant::OwnerWithoutBoot)
            .then(|| committed.member(&me.node))
            .flatten()
            .map(|member| member.instance.clone());
        let me = former.as_ref().unwrap_or(me);
        let committed = pending
            .filter(|_| mutated(Mutant::ServesBeforeCommit))
            .unwrap_or(committed);
        let kept = |&(shard, epoch): &(ShardId, Epoch)| match pending {
            None => true,
            Some(map) => map.owner(shard) == Some(me) && map.epoch(shard) == epoch,
        };
        self.desired = committed.owned_by(me).filter(kept).collect();
        let mut steps = Steps::default();
        for (&shard, slot) in &mut self.slots {
            if self.desired.get(&shard) != Some(&slot.epoch) && slot.stage != Stage::Draining {
                self.opened -= usize::from(slot.stage == Stage::Open);
                slot.stage = Stage::Draining;
                self.draining.insert(shard);
                self.failing.remove(&shard);
                steps.close.push((shard, slot.epoch));
            }
        }
        self.closed_latest.clear();
        self.closed_latest
            .extend(steps.close.iter().map(|&(shard, _)| shard));
        for (&shard, &epoch) in &self.desired {
            // A slot that is draining is acquired again when the drain ends: `acquire` waits for `release` (S3).
            self.slots.entry(shard).or_insert_with(|| {
                steps.acquire.push((shard, epoch));
                Slot {
                    epoch,
                    stage: Stage::Acquiring,
                    failures: 0,
                }
            });
        }
        steps
    }

    /// `acquire` hooks have ended. The re-check of rule S3 is that the slot still stands as acquiring.
    pub(super) fn acquired(
        &mut self,
        now: Time,
        shards: &[(ShardId, Epoch)],
        failed: &[(ShardId, Epoch)],
    ) -> Steps {
        let mut steps = Steps::default();
        for &(shard, epoch) in shards {
            if let Some(slot) = self.acquiring(shard, epoch) {
                let was_open = std::mem::replace(&mut slot.stage, Stage::Open) == Stage::Open;
                slot.failures = 0;
                self.opened += usize::from(!was_open);
                steps.open.push((shard, epoch));
                self.failing.remove(&shard);
            }
        }
        for &(shard, epoch) in failed {
            if let Some(slot) = self.acquiring(shard, epoch) {
                slot.failures += 1;
                let wait = ACQUIRE_BACKOFF * 2u32.saturating_pow(slot.failures.min(16) - 1);
                slot.stage = Stage::Waiting(now + wait.min(ACQUIRE_BACKOFF_MAX));
                self.failing.insert(shard);
            }
        }
        steps
    }

    fn acquiring(&mut self, shard: ShardId, epoch: Epoch) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(&shard);
        slot.filter(|slot| {
            let stands = slot.stage == Stage::Acquiring || mutated(Mutant::AcquiredUnchecked);
            slot.epoch == epoch && stands
        })
    }

    /// The last guards are gone and the hooks have ended.
    pub(super) fn drained(&mut self, shards: &[(ShardId, Epoch)]) -> Steps {
        let mut steps = Steps::default();
        for &(shard, epoch) in shards {
            match self.slots.get(&shard) {
                Some(slot) if slot.epoch == epoch && slot.stage == Stage::Draining => {
                    self.slots.remove(&shard)
                }
                _ => continue,
            };
            self.draining.remove(&shard);
            if let Some(&epoch) = self.desired.get(&shard) {
                let slot = Slot {
                    epoch,
                    stage: Stage::Acquiring,
                    failures: 0,
                };
                self.slots.insert(shard, slot);
                steps.acquire.push((shard, epoch));
            }
        }
        steps
    }

    /// Runs again the `acquire` hooks that are due.
    pub(super) fn handle_timeout(&mut self, now: Time) -> Steps {
        let mut steps = Steps::default();
        for &shard in &self.failing {
            if let Some(slot) = self.slots.get_mut(&shard)
                && matches!(slot.stage, Stage::Waiting(at) if at <= now)
            {
                slot.stage = Stage::Acquiring;
                steps.acquire.push((shard, slot.epoch));
            }
        }
        steps
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let waiting = |slot: &Slot| {
            if let Stage::Waiting(at) = slot.stage {
                Some(at)
            } else {
                None
            }
        };
        let failing = self
            .failing
            .iter()
            .filter_map(|shard| self.slots.get(shard));
        failing.filter_map(waiting).min()
    }

    /// Rule S2: no guard in flight and no hook running on any (shard, epoch) outside `owned(map)`, for the pending map
    /// that was given to [`set_maps`](Self::set_maps): what does not drain is desired, and so within it.
    pub(super) fn is_within(&self, me: &Instance, map: &ShardMap) -> bool {
        let mut draining = self
            .draining
            .iter()
            .filter_map(|shard| Some((shard, self.slots.get(shard)?)));
        draining
            .all(|(&shard, slot)| map.owner(shard) == Some(me) && map.epoch(shard) == slot.epoch)
    }

    /// Whether what was lost in the latest step has drained: a deliberate fault asks for no more.
    pub(super) fn has_drained_latest_step(&self) -> bool {
        let drains = |shard: &ShardId| {
            let slot = self.slots.get(shard);
            slot.is_some_and(|slot| slot.stage == Stage::Draining)
        };
        !self.closed_latest.iter().any(drains)
    }

    /// Whether nothing is served, drained or acquired.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn serves_any(&self) -> bool {
        self.slots.values().any(|slot| slot.stage == Stage::Open)
    }

    /// Whether everything that should be served is: no `acquire` hook has still to end.
    pub(super) fn serves_all(&self) -> bool {
        self.opened == self.desired.len()
    }

    /// Shards whose `acquire` hook failed too often.
    pub(super) fn unacquirable(&self) -> impl Iterator<Item = ShardId> + '_ {
        let fails = |shard: &&ShardId| {
            let slot = self.slots.get(shard);
            slot.is_some_and(|slot| slot.failures >= ACQUIRE_RETRIES)
        };
        self.failing.iter().filter(fails).copied()
    }

    pub(super) fn check_invariants(&self) {
        if mutated(Mutant::AcquiredUnchecked) {
            return;
        }
        for (shard, slot) in &self.slots {
            assert_eq!(slot.stage == Stage::Draining, self.draining.contains(shard));
            assert_eq!(
                slot.failures > 0 && slot.stage != Stage::Draining,
                self.failing.contains(shard)
            );
            assert!(
                slot.stage == Stage::Draining || self.desired.get(shard) == Some(&slot.epoch),
                "shard {shard} stands as {:?} but is not desired at epoch {}",
                slot.stage,
                slot.epoch
            );
        }
        let open = |slot: &&Slot| slot.stage == Stage::Open;
        assert_eq!(self.slots.values().filter(open).count(), self.opened);
    }
}
