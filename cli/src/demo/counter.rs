//! The demo's service: counters. `increment` goes through the log, `get` is answered from the owner's replica.
//!
//! The owner's replica misses nothing that was acknowledged: a shard is served only after the commit of the map that
//! gave it away has been applied here, what the former owner acknowledged stands before that commit in the log, and
//! what it proposed later is refused for its token. Increments are not deduplicated, so that one executed twice shows.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use funk::ids::{Epoch, ShardId};
use funk::{
    Applied, ProposeError, ReplicatedState, RestoreError, Service, ServiceError, ServiceRequest,
};
use serde::{Deserialize, Serialize};

use super::measure::ledger::Ledger;

/// Body of a request that adds one to the counter of its key.
pub(crate) const INCREMENT: &[u8] = b"increment";
/// Body of a request that asks for the counter of its key, or, sent to a shard, whether it is answered.
pub(crate) const GET: &[u8] = b"get";

/// What the service says when it did not do what was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Certainly not executed: ask again.
    NotExecuted,
    /// It may be executed or not.
    Ambiguous,
    /// Neither [`INCREMENT`] nor [`GET`], or a key that is no text.
    BadRequest,
}

impl Refusal {
    const ALL: [(Self, &'static str); 3] = [
        (Self::NotExecuted, "not executed"),
        (Self::Ambiguous, "ambiguous"),
        (Self::BadRequest, "bad request"),
    ];

    /// Reads what [`Counter`] answered; `None`: it said something else.
    pub(crate) fn decode(error: &[u8]) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, text)| text.as_bytes() == error);
        found.map(|(refusal, _)| *refusal)
    }
}

impl From<Refusal> for ServiceError {
    fn from(refusal: Refusal) -> Self {
        let text = Refusal::ALL.iter().find(|(known, _)| *known == refusal);
        ServiceError::from(text.map_or("", |(_, text)| *text))
    }
}

/// One node's replica of all counters.
pub(crate) type Replica = Arc<RwLock<Counters>>;

/// The replicated state proper.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    values: BTreeMap<String, u64>,
    /// The highest token that was applied, by shard.
    tokens: BTreeMap<u32, u64>,
}

/// A counter's value on the wire.
pub(crate) fn encode(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// The value in an answer; `None`: it holds no value.
pub(crate) fn decode(body: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(body.try_into().ok()?))
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
                Err(error) => Err(refusal_for(&error).into()),
            },
            _ => Err(Refusal::BadRequest.into()),
        }
    }
}

fn refusal_for(error: &ProposeError) -> Refusal {
    match error {
        ProposeError::Stale(_)
        | ProposeError::Lapsed
        | ProposeError::NoLeader(_)
        | ProposeError::Overloaded
        | ProposeError::TooLarge { .. } => Refusal::NotExecuted,
        // A node that was stopped while it waited for the entry may have had it committed.
        ProposeError::Ambiguous(_) | ProposeError::Stopped => Refusal::Ambiguous,
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

    #[test]
    fn refusals_are_read_back() {
        for (refusal, _) in Refusal::ALL {
            let ServiceError(bytes) = refusal.into();
            assert_eq!(Refusal::decode(&bytes), Some(refusal));
        }
        assert_eq!(Refusal::decode(b"else"), None);
    }

    #[test]
    fn values_are_eight_bytes() {
        assert_eq!(decode(&encode(7)), Some(7));
        assert_eq!(decode(b"123"), None);
    }
}
