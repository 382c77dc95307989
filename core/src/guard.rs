//! Proof that this node owns a shard, now.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::call::{ProposeError, Proposed};
use crate::ids::{Epoch, ShardId};
use crate::mutants::{Mutant, mutated};
use crate::node::Node;
use crate::proposals;
use crate::routing::{Entry, ServingTable};
use crate::time::Time;

/// While it is valid nobody else owns the shard; while it exists the shard is not given away in peace.
///
/// The guard's [`epoch`](Self::epoch) is the fencing token: larger at every change of owner. Hand it to every
/// store that other owners write, too, and have that store refuse lower tokens (the idea is Chubby's sequencer):
/// a process that stands still in the middle of a write may finish it after its lease has lapsed.
pub struct ShardGuard {
    lease: LeaseHold,
    entry: Entry,
}

/// The lease under a guard.
struct LeaseHold {
    node: Arc<Node>,
    generation: u64,
    /// Rule S6: a lapse is final.
    lapsed: AtomicBool,
}

impl LeaseHold {
    fn valid_until(&self) -> Option<Time> {
        if self.lapsed.load(Ordering::Relaxed) {
            return None;
        }
        let until = self.node.lease.until(self.generation);
        let until = until.filter(|&until| self.node.environment.now() < until);
        if until.is_none() {
            self.lapsed.store(true, Ordering::Relaxed);
        }
        until
    }

    async fn lapsed(&self) {
        while let Some(until) = self.valid_until() {
            self.node.environment.sleep_until(until).await;
        }
    }
}

/// What ends a future that the library runs under a guard, seen from outside that future.
pub(crate) struct GuardWatch {
    lease: LeaseHold,
    table: Arc<ServingTable>,
    shard: ShardId,
}

impl GuardWatch {
    /// Waits for a lapse, or for a drain that takes too long.
    pub(crate) async fn ended(&self) {
        let mut changes = self.lease.node.changes.subscribe();
        while !self.table.is_cancelled(self.shard) {
            tokio::select! {
                biased;
                () = self.lease.lapsed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl fmt::Debug for ShardGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardGuard({} at {})", self.shard(), self.epoch())
    }
}

impl ShardGuard {
    /// Rule S4: the shard is in the serving set and the lease is valid at this moment.
    #[inline]
    pub(crate) fn take(node: &Arc<Node>, shard: ShardId) -> Option<Self> {
        let entry = node.table.load().enter(shard)?;
        let generation = node.lease.generation_at(node.environment.now());
        let generation = generation.or_else(|| {
            let unchecked = mutated(Mutant::LeaseUnchecked);
            unchecked
                .then(|| node.lease.generation_at(Time::default()))
                .flatten()
        })?;
        let lease = LeaseHold {
            node: node.clone(),
            generation,
            lapsed: AtomicBool::new(false),
        };
        Some(Self { lease, entry })
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.entry.shard
    }

    /// The fencing token.
    pub fn epoch(&self) -> Epoch {
        self.entry.epoch
    }

    /// Number of the lease under the guard: larger after every lapse. Guards of an earlier number are void for good.
    pub fn lease_generation(&self) -> u64 {
        self.lease.generation
    }

    /// Until when, on this node's lease clock, the guard holds; it follows renewals. `None`: it has lapsed, for good.
    pub fn valid_until(&self) -> Option<Time> {
        self.lease.valid_until()
    }

    /// Whether the guard holds at this moment.
    pub fn is_valid(&self) -> bool {
        self.valid_until().is_some()
    }

    /// Waits until the lease under the guard lapses; as long as it is renewed, for ever.
    pub async fn lapsed(&self) {
        let environment = self.lease.node.environment.clone();
        environment.scope(self.lease.lapsed()).await;
    }

    pub(crate) fn watch(&self) -> GuardWatch {
        GuardWatch {
            lease: LeaseHold {
                node: self.lease.node.clone(),
                generation: self.lease.generation,
                lapsed: AtomicBool::new(false),
            },
            table: self.entry.table().clone(),
            shard: self.shard(),
        }
    }

    /// Appends an application's entry that is applied only if this guard's token is still the shard's in the
    /// committed map. Returns after it was applied on this node.
    ///
    /// At most [`MAX_APP_ENTRY_BYTES`](crate::limits::MAX_APP_ENTRY_BYTES).
    pub async fn propose(&self, bytes: impl Into<Bytes>) -> Result<Proposed, ProposeError> {
        if !self.is_valid() {
            return Err(ProposeError::Lapsed);
        }
        let guard = Some((self.shard(), self.epoch()));
        let node = &self.lease.node;
        let propose = proposals::propose(node, guard, bytes.into());
        node.environment.scope(propose).await
    }
}
