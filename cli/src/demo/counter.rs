//! The demo's service: counters. `increment` goes through the log, `get` is answered from the owner's replica.
//!
//! The owner's replica misses nothing that was acknowledged: a shard is served only after the commit of the map that
//! gave it away has been applied here, what the former owner acknowledged stands before that commit in the log, and
//! what it proposed later is refused for its token. Increments are not deduplicated, so that one executed twice shows.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use funk::ids::{Epoch, ShardId};
use funk::{Applied, ReplicatedState, RestoreError, Service, ServiceError, ServiceRequest};
use serde::{Deserialize, Serialize};

use super::measure::ledger::Ledger;
use crate::counter::protocol::{GET, INCREMENT, Refusal, encode};

/// One node's replica of all counters.
pub(crate) type Replica = Arc<RwLock<Counters>>;

/// The replicated state proper.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    values: BTreeMap<String, u64>,
    /// The highest token that was applied, by shard.
    tokens: BTreeMap<u32, u64>,
}

/// The service on one node.
pub(crate) struct Counter {
    pub(crate) replica: Replica,
    pub(crate) ledger: Arc<Ledger>,
}

impl Service for Counter {
    async fn call(&self, request: ServiceRequest) -> Result<Bytes, ServiceError> {
        let (shard, epoch) = (request.guard.shard(), request.guard.epoch());
        let held = self
            .ledger
            .enter(request.cluster.instance(), shard, epoch, request.guard);
        let key = str::from_utf8(&request.key).map_err(|_| Refusal::BadRequest)?;
        match &*request.body {
            GET => {
                let value = {
                    let counters = self.replica.read().unwrap_or_else(PoisonError::into_inner);
                    counters.values.get(key).copied().unwrap_or(0)
                };
                if held.may_answer() {
                    Ok(encode(value))
                } else {
                    Err(Refusal::NotExecuted.into())
                }
            }
            INCREMENT => match held.guard().propose(request.key.clone()).await {
                Ok(proposed) => Ok(proposed.response),
                Err(error) => Err(Refusal::from(&error).into()),
            },
            _ => Err(Refusal::BadRequest.into()),
        }
    }
}

/// The state that one node hands to the library.
pub(crate) struct CounterState {
    pub(crate) replica: Replica,
    pub(crate) ledger: Arc<Ledger>,
}

impl ReplicatedState for CounterState {
    fn apply(&mut self, entry: Applied<'_>) -> Bytes {
        let mut counters = self.replica.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(shard) = entry.shard {
            let highest = counters.tokens.entry(shard.0).or_default();
            if entry.epoch.0 < *highest {
                self.ledger
                    .applied_out_of_order(ShardId(shard.0), entry.epoch, Epoch(*highest));
            }
            *highest = entry.epoch.0.max(*highest);
        }
        let key = String::from_utf8_lossy(entry.bytes).into_owned();
        let value = counters.values.entry(key).or_default();
        *value += 1;
        encode(*value)
    }

    fn snapshot(&self) -> Bytes {
        let counters = self.replica.read().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_vec(&*counters)
            .expect("maps of text and numbers always encode")
            .into()
    }

    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError> {
        let counters = serde_json::from_slice(&snapshot)
            .map_err(|error| RestoreError(format!("counters: {error}")))?;
        *self.replica.write().unwrap_or_else(PoisonError::into_inner) = counters;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::protocol::decode;
    use funk::ids::LogIndex;

    fn state() -> CounterState {
        CounterState {
            replica: Replica::default(),
            ledger: Arc::new(Ledger::new(4)),
        }
    }

    fn apply(state: &mut CounterState, key: &str, epoch: u64) -> Option<u64> {
        let answer = state.apply(Applied {
            index: LogIndex(1),
            shard: Some(ShardId(2)),
            epoch: Epoch(epoch),
            bytes: key.as_bytes(),
        });
        decode(&answer)
    }

    #[test]
    fn a_snapshot_holds_values_and_tokens() {
        let mut first = state();
        assert_eq!(apply(&mut first, "a", 5), Some(1));
        assert_eq!(apply(&mut first, "a", 5), Some(2));
        let mut second = state();
        second.restore(first.snapshot()).unwrap();
        assert_eq!(apply(&mut second, "a", 4), Some(3));
        assert_eq!(second.ledger.wrong_owner(), 1, "the token went backwards");
        assert!(second.restore(Bytes::from_static(b"{")).is_err());
        assert_eq!(
            apply(&mut second, "a", 5),
            Some(4),
            "a bad snapshot changes nothing"
        );
    }
}
