//! What the simulated cluster serves: counters and registers by key, a resource that checks tokens, hooks that may be
//! slow or fail.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use funk::runtime::Environment;
use funk::{
    AcquireError, Applied, Cluster, OwnedShard, ReplicatedState, RestoreError, Service,
    ServiceError, ServiceRequest, ShardGuard,
};

use super::record::Shared;

/// Ids of operations that are remembered for each key, so that one that is sent again is applied once.
const MAX_IDS: usize = 256;

/// An operation on a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// The value; 0 if there is none.
    Get,
    /// One more, and the value after that.
    Increment {
        /// It is applied once for each id.
        id: u64,
    },
    /// Replaces the value.
    Write {
        /// By this; never 0.
        value: u64,
        /// It is applied once for each id.
        id: u64,
    },
}

impl Operation {
    /// As a request's body.
    pub fn encode(self) -> Bytes {
        let (kind, value, id) = match self {
            Self::Get => (0, 0, 0),
            Self::Increment { id } => (1, 0, id),
            Self::Write { value, id } => (2, value, id),
        };
        let mut bytes = Vec::with_capacity(17);
        bytes.put_u8(kind);
        bytes.put_u64(value);
        bytes.put_u64(id);
        bytes.into()
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        if bytes.len() < 17 {
            return None;
        }
        let (kind, value, id) = (bytes.get_u8(), bytes.get_u64(), bytes.get_u64());
        match kind {
            0 => Some(Self::Get),
            1 => Some(Self::Increment { id }),
            2 => Some(Self::Write { value, id }),
            _ => None,
        }
    }
}

/// The value in an answer.
pub fn decode_value(body: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(body.try_into().ok()?))
}

/// What is kept for a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Slot {
    value: u64,
    /// The latest operations with their results, oldest first.
    latest: VecDeque<(u64, u64)>,
}

/// One node's replica. Clones are the same replica.
#[derive(Clone, Default)]
pub struct Replica(Arc<Mutex<BTreeMap<Vec<u8>, Slot>>>);

impl Replica {
    /// The value of a key.
    pub fn value(&self, key: &[u8]) -> u64 {
        self.slots().get(key).map_or(0, |slot| slot.value)
    }

    /// Everything, to compare replicas by.
    pub fn contents(&self) -> BTreeMap<Vec<u8>, u64> {
        let slots = self.slots();
        let values = slots.iter().map(|(key, slot)| (key.clone(), slot.value));
        values.collect()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<u8>, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplicatedState for Replica {
    fn apply(&mut self, entry: Applied<'_>) -> Bytes {
        let mut bytes = entry.bytes;
        let Some(operation) = Operation::decode(&mut bytes) else {
            return Bytes::new();
        };
        let mut slots = self.slots();
        let slot = slots.entry(bytes.to_vec()).or_default();
        let (id, value) = match operation {
            Operation::Get => return Bytes::new(),
            Operation::Increment { id } => (id, slot.value + 1),
            Operation::Write { id, value } => (id, value),
        };
        if let Some((_, result)) = slot.latest.iter().find(|(known, _)| *known == id) {
            return Bytes::copy_from_slice(&result.to_be_bytes());
        }
        if slot.latest.len() == MAX_IDS {
            slot.latest.pop_front();
        }
        slot.latest.push_back((id, value));
        slot.value = value;
        Bytes::copy_from_slice(&value.to_be_bytes())
    }

    fn snapshot(&self) -> Bytes {
        let mut bytes = Vec::new();
        for (key, slot) in self.slots().iter() {
            bytes.put_u32(key.len() as u32);
            bytes.extend_from_slice(key);
            bytes.put_u64(slot.value);
            bytes.put_u32(slot.latest.len() as u32);
            for (id, result) in &slot.latest {
                bytes.put_u64(*id);
                bytes.put_u64(*result);
            }
        }
        bytes.into()
    }

    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError> {
        let mut bytes = snapshot;
        let mut slots = BTreeMap::new();
        while bytes.has_remaining() {
            let length = bytes.get_u32() as usize;
            let key = bytes.split_to(length).to_vec();
            let value = bytes.get_u64();
            let count = bytes.get_u32();
            let latest = (0..count).map(|_| (bytes.get_u64(), bytes.get_u64()));
            let latest = latest.collect();
            slots.insert(key, Slot { value, latest });
        }
        *self.slots() = slots;
        Ok(())
    }
}

/// How the service misbehaves.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Manners {
    /// How often a request is held long.
    pub slow_calls: f64,
    /// For how long at most.
    pub longest_call: Duration,
    /// How often a hook takes long.
    pub slow_hooks: f64,
    /// For how long at most.
    pub longest_hook: Duration,
    /// How often an `acquire` hook fails.
    pub failing_hooks: f64,
}

impl Default for Manners {
    /// Prompt.
    fn default() -> Self {
        Self {
            slow_calls: 0.0,
            longest_call: Duration::ZERO,
            slow_hooks: 0.0,
            longest_hook: Duration::ZERO,
            failing_hooks: 0.0,
        }
    }
}

/// The service of one run of a node.
pub struct Registers {
    /// Which node.
    pub node: usize,
    /// Its replica.
    pub replica: Replica,
    /// How it misbehaves, until all is calm.
    pub manners: Manners,
    /// Who is told of guards and of guarded writes.
    pub shared: Shared,
}

/// Chance and delay from the node's own environment.
pub(super) fn chance(environment: &Environment, probability: f64) -> bool {
    // 53 bits, as many as a float holds.
    let drawn = (environment.next_seed() >> 11) as f64 / (1_u64 << 53) as f64;
    drawn < probability
}

pub(super) fn below(environment: &Environment, longest: Duration) -> Duration {
    Duration::from_nanos(environment.next_seed() % (longest.as_nanos() as u64).max(1))
}

impl Registers {
    async fn dawdle(&self, probability: f64, longest: Duration) {
        let environment = Environment::current();
        if !self.shared.is_calm() && chance(&environment, probability) {
            environment.sleep(below(&environment, longest)).await;
        }
    }
}

impl Service for Registers {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        let guard = Watched::new(request.guard, self.node, &self.shared);
        guard.write();
        let mut body = &request.body[..];
        let Some(operation) = Operation::decode(&mut body) else {
            return Err(ServiceError::from("no operation"));
        };
        self.dawdle(self.manners.slow_calls, self.manners.longest_call)
            .await;
        if operation == Operation::Get {
            // Between this look and the answer nothing waits: the guard is valid at the moment of the look.
            if !guard.guard.is_valid() {
                return Err(ServiceError::from("lapsed"));
            }
            let value = self.replica.value(&request.key);
            guard.write();
            return Ok(Bytes::copy_from_slice(&value.to_be_bytes()));
        }
        let mut entry = operation.encode().to_vec();
        entry.extend_from_slice(&request.key);
        let proposed = guard.guard.propose(entry).await;
        guard.write();
        match proposed {
            Ok(proposed) => Ok(proposed.response),
            Err(error) if is_not_executed(&error) => Err(ServiceError::from("not executed")),
            Err(_) => Err(ServiceError::from("ambiguous")),
        }
    }

    async fn acquire(&self, _: Cluster, shards: Vec<OwnedShard>) -> Result<(), AcquireError> {
        self.dawdle(self.manners.slow_hooks, self.manners.longest_hook)
            .await;
        let fails = chance(&Environment::current(), self.manners.failing_hooks);
        if fails && !self.shared.is_calm() {
            self.shared.note_failed_hook(shards.len());
            return Err(AcquireError::from("not today"));
        }
        Ok(())
    }

    async fn release(&self, _: Cluster, _: Vec<OwnedShard>) {
        self.dawdle(self.manners.slow_hooks, self.manners.longest_hook)
            .await;
    }
}

fn is_not_executed(error: &funk::ProposeError) -> bool {
    use funk::ProposeError::{Lapsed, NoLeader, Overloaded, Stale};
    matches!(error, Stale(_) | Lapsed | NoLeader(_) | Overloaded)
}

/// A guard that the record knows of.
pub struct Watched {
    /// The guard.
    pub guard: ShardGuard,
    node: usize,
    number: u64,
    shared: Shared,
}

impl Watched {
    /// Tells the record.
    pub fn new(guard: ShardGuard, node: usize, shared: &Shared) -> Self {
        let number = shared.guard_given(node, &guard);
        Self {
            guard,
            node,
            number,
            shared: shared.clone(),
        }
    }

    /// A write to a resource outside the cluster, which checks the token.
    pub fn write(&self) {
        let live = self.guard.is_valid();
        let (shard, epoch) = (self.guard.shard(), self.guard.epoch());
        self.shared.write(self.node, shard, epoch, live);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.guard_released(self.node, self.number);
    }
}
