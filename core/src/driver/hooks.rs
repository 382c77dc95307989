//! Shards on their way in and out: guards run out, `release` and `acquire` hooks run, the engine is told.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::engine::Input;
use crate::ids::{Epoch, ShardId};
use crate::node::Node;
use crate::service::OwnedShard;
use crate::time::Time;
use crate::transport::BoxFuture;

/// What a run of hooks ended with.
pub(super) enum HookEnded {
    /// All `acquire` hooks; those that failed are named.
    Acquired {
        shards: Vec<(ShardId, Epoch)>,
        failed: BTreeSet<ShardId>,
    },
    /// All `release` hooks.
    Released { shards: Vec<(ShardId, Epoch)> },
}

/// Where a shard stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Acquiring,
    /// Closed while `acquire` still runs: it is released when that ends.
    AcquiringInVain,
    /// `acquire` has succeeded.
    Held,
    /// Closed; guards may be in flight. At this time the library's own futures are dropped.
    Draining(Time),
    /// As before, and they were dropped.
    Overdue,
    Releasing,
}

/// All shards that are held, on their way in or on their way out.
pub(super) struct Hooks {
    stages: BTreeMap<ShardId, (Epoch, Stage)>,
    to_acquire: Vec<(ShardId, Epoch)>,
    to_release: Vec<(ShardId, Epoch)>,
    /// What the engine must be told.
    drained: Vec<(ShardId, Epoch)>,
    acquired: Vec<(ShardId, Epoch)>,
    failed: Vec<(ShardId, Epoch)>,
    acquire_timeout: Duration,
}

impl Hooks {
    pub(super) fn new(acquire_timeout: Duration) -> Self {
        Self {
            stages: BTreeMap::new(),
            to_acquire: Vec::new(),
            to_release: Vec::new(),
            drained: Vec::new(),
            acquired: Vec::new(),
            failed: Vec::new(),
            acquire_timeout,
        }
    }

    /// The engine wants these acquired.
    pub(super) fn acquire(&mut self, shards: Vec<(ShardId, Epoch)>) {
        for &(shard, epoch) in &shards {
            let before = self.stages.insert(shard, (epoch, Stage::Acquiring));
            debug_assert!(
                before.is_none(),
                "shard {shard} is {before:?} and acquired again"
            );
        }
        self.to_acquire.extend(shards);
    }

    /// They are served from now on.
    pub(super) fn opened(&mut self, shards: &[(ShardId, Epoch)]) {
        for (shard, _) in shards {
            debug_assert!(
                matches!(self.stages.get(shard), Some((_, Stage::Held))),
                "shard {shard} is opened without being held"
            );
        }
    }

    /// The engine wants these put down; from `deadline` on with force.
    pub(super) fn close(&mut self, node: &Node, shards: Vec<(ShardId, Epoch)>, deadline: Time) {
        let table = node.table.load_full();
        for (shard, epoch) in shards {
            match self.stages.get_mut(&shard) {
                Some((_, stage @ Stage::Acquiring)) => *stage = Stage::AcquiringInVain,
                Some((_, stage @ Stage::Held)) => {
                    *stage = Stage::Draining(deadline);
                    table.close(shard);
                }
                // `acquire` has failed and waits to be tried again: nothing is held.
                None => self.drained.push((shard, epoch)),
                Some((_, stage)) => {
                    debug_assert!(false, "shard {shard} is {stage:?} and closed again")
                }
            }
        }
    }

    /// The serving table says that the last guard of a closed shard may have gone.
    pub(super) fn guards_gone(&mut self, node: &Node, shard: ShardId) {
        if let Some((epoch, stage @ (Stage::Draining(_) | Stage::Overdue))) =
            self.stages.get_mut(&shard)
            && node.table.load().is_drained(shard)
        {
            *stage = Stage::Releasing;
            self.to_release.push((shard, *epoch));
        }
    }

    /// Drains that take too long: the futures that the library runs are dropped.
    pub(super) fn handle_timeout(&mut self, node: &Node) {
        let now = node.environment.now();
        let table = node.table.load_full();
        let mut any = false;
        for (&shard, (epoch, stage)) in &mut self.stages {
            if matches!(stage, Stage::Draining(deadline) if *deadline <= now) {
                tracing::warn!(node = %node.instance, %shard, %epoch, "the drain takes too long: requests are dropped");
                node.counters.add("drains forced");
                *stage = Stage::Overdue;
                table.cancel(shard);
                any = true;
            }
        }
        if any {
            node.announce_change();
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let deadlines = self.stages.values().filter_map(|(_, stage)| match stage {
            Stage::Draining(deadline) => Some(*deadline),
            _ => None,
        });
        deadlines.min()
    }

    /// A run of hooks has ended.
    pub(super) fn ended(&mut self, ended: HookEnded) {
        match ended {
            HookEnded::Acquired { shards, failed } => {
                for (shard, epoch) in shards {
                    self.acquired(shard, epoch, !failed.contains(&shard));
                }
            }
            HookEnded::Released { shards } => {
                for (shard, _) in &shards {
                    self.stages.remove(shard);
                }
                self.drained.extend(shards);
            }
        }
    }

    fn acquired(&mut self, shard: ShardId, epoch: Epoch, ok: bool) {
        let Some((_, stage)) = self.stages.get_mut(&shard) else {
            return;
        };
        let in_vain = *stage == Stage::AcquiringInVain;
        match (ok, in_vain) {
            (true, false) => {
                *stage = Stage::Held;
                self.acquired.push((shard, epoch));
            }
            (true, true) => {
                *stage = Stage::Releasing;
                self.to_release.push((shard, epoch));
            }
            (false, true) => {
                self.stages.remove(&shard);
                self.drained.push((shard, epoch));
            }
            (false, false) => {
                self.stages.remove(&shard);
                self.failed.push((shard, epoch));
            }
        }
    }

    /// What the engine must be told.
    pub(super) fn poll_input(&mut self) -> Option<Input> {
        if !self.drained.is_empty() {
            return Some(Input::Drained(std::mem::take(&mut self.drained)));
        }
        if self.acquired.is_empty() && self.failed.is_empty() {
            return None;
        }
        Some(Input::Acquired {
            shards: std::mem::take(&mut self.acquired),
            failed: std::mem::take(&mut self.failed),
        })
    }

    /// Hooks that are due: releases first, since somebody else waits for those shards.
    pub(super) fn poll_job(&mut self, node: &Arc<Node>) -> Option<BoxFuture<'static, HookEnded>> {
        if !self.to_release.is_empty() {
            let shards = std::mem::take(&mut self.to_release);
            return Some(Box::pin(release(node.clone(), shards)));
        }
        if !self.to_acquire.is_empty() {
            let shards = std::mem::take(&mut self.to_acquire);
            return Some(Box::pin(acquire(
                node.clone(),
                shards,
                self.acquire_timeout,
            )));
        }
        None
    }
}

fn owned(shards: &[(ShardId, Epoch)]) -> Vec<OwnedShard> {
    let owned = |&(shard, epoch): &(ShardId, Epoch)| OwnedShard { shard, epoch };
    shards.iter().map(owned).collect()
}

async fn release(node: Arc<Node>, shards: Vec<(ShardId, Epoch)>) -> HookEnded {
    for (name, service) in &node.services {
        let hook = service
            .clone()
            .release(node.service_handle(), owned(&shards));
        if AssertUnwindSafe(hook).catch_unwind().await.is_err() {
            node.counters.add("release hooks failed");
            tracing::error!(node = %node.instance, service = %name, "a release hook panicked");
        }
    }
    HookEnded::Released { shards }
}

async fn acquire(node: Arc<Node>, shards: Vec<(ShardId, Epoch)>, timeout: Duration) -> HookEnded {
    let mut failed = BTreeSet::new();
    for (name, service) in &node.services {
        let hook = service
            .clone()
            .acquire(node.service_handle(), owned(&shards));
        let hook = AssertUnwindSafe(hook).catch_unwind();
        let (which, reason) = match node.environment.timeout(timeout, hook).await {
            Some(Ok(Ok(()))) => continue,
            Some(Ok(Err(error))) => (error.shards, error.reason),
            Some(Err(_)) => (Vec::new(), "it panicked".to_owned()),
            None => (Vec::new(), format!("it took longer than {timeout:?}")),
        };
        tracing::warn!(node = %node.instance, service = %name, %reason, "an acquire hook failed");
        if which.is_empty() {
            failed.extend(shards.iter().map(|(shard, _)| *shard));
        } else {
            failed.extend(which);
        }
    }
    HookEnded::Acquired { shards, failed }
}
