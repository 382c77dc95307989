//! The replicated state: values by key, and the ids of the latest increments, so that each is applied once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use funk::{Applied, ReplicatedState, RestoreError};
use serde::{Deserialize, Serialize};

use super::protocol::encode;

/// Ids that are remembered; past it the oldest are forgotten. At 3,000 increments a second that is ten seconds, the
/// longest time for which a request should be sent again.
const MAX_IDS: usize = 32_768;

/// One node's replica. Clones are the same replica.
#[derive(Clone, Default)]
pub(crate) struct Replica(Arc<RwLock<Counters>>);

impl Replica {
    /// The counter of a key; 0 if it was never incremented.
    pub(crate) fn value(&self, key: &str) -> u64 {
        let counters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counters.values.get(key).copied().unwrap_or(0)
    }
}

/// An increment in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: &'a str,
    pub(super) id: Option<&'a str>,
}

impl Entry<'_> {
    pub(super) fn encode(&self) -> Bytes {
        // The length of the key, the key, and the id, if there is one, to the end.
        let id = self.id.unwrap_or_default();
        let mut bytes = (self.key.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(self.key.as_bytes());
        bytes.extend_from_slice(id.as_bytes());
        bytes.into()
    }

    fn decode(bytes: &[u8]) -> Option<Entry<'_>> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (key, id) = rest.split_at_checked(length)?;
        let (key, id) = (str::from_utf8(key).ok()?, str::from_utf8(id).ok()?);
        Some(Entry {
            key,
            id: (!id.is_empty()).then_some(id),
        })
    }
}

/// What all replicas agree on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Counters {
    values: BTreeMap<String, u64>,
    /// By id and key: what the increment made of the counter.
    results: BTreeMap<(String, String), u64>,
    /// Invariant: the keys of `results`, oldest first; at most [`MAX_IDS`].
    order: VecDeque<(String, String)>,
}

/// A snapshot: values, and the latest increments as (id, key, result), oldest first.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    values: BTreeMap<String, u64>,
    latest: Vec<(String, String, u64)>,
}

impl Counters {
    /// Adds one, or answers what an increment of the same id and key was answered.
    fn increment(&mut self, entry: Entry<'_>) -> u64 {
        let name = entry.id.map(|id| (id.to_owned(), entry.key.to_owned()));
        if let Some(result) = name.as_ref().and_then(|name| self.results.get(name)) {
            return *result;
        }
        let value = self.values.entry(entry.key.to_owned()).or_default();
        *value += 1;
        let value = *value;
        if let Some(name) = name {
            self.remember(name, value);
        }
        value
    }

    fn remember(&mut self, name: (String, String), result: u64) {
        if self.order.len() == MAX_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.results.remove(&oldest);
        }
        self.order.push_back(name.clone());
        self.results.insert(name, result);
    }
}

/// The state that one node hands to the library.
#[derive(Default)]
pub(crate) struct CounterState {
    pub(crate) replica: Replica,
}

impl ReplicatedState for CounterState {
    fn apply(&mut self, entry: Applied<'_>) -> Bytes {
        let Some(entry) = Entry::decode(entry.bytes) else {
            // Not of this service; every replica ignores it alike.
            return Bytes::new();
        };
        let replica = &self.replica.0;
        let mut counters = replica.write().unwrap_or_else(PoisonError::into_inner);
        encode(counters.increment(entry))
    }

    fn snapshot(&self) -> Bytes {
        let replica = &self.replica.0;
        let counters = replica.read().unwrap_or_else(PoisonError::into_inner);
        let latest = counters.order.iter().map(|name| {
            let result = counters.results.get(name).copied().unwrap_or_default();
            (name.0.clone(), name.1.clone(), result)
        });
        let snapshot = Snapshot {
            values: counters.values.clone(),
            latest: latest.collect(),
        };
        serde_json::to_vec(&snapshot)
            .expect("maps of text and numbers always encode")
            .into()
    }

    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError> {
        let snapshot: Snapshot = serde_json::from_slice(&snapshot)
            .map_err(|error| RestoreError(format!("counters: {error}")))?;
        let mut counters = Counters {
            values: snapshot.values,
            ..Counters::default()
        };
        for (id, key, result) in snapshot.latest {
            counters.remember((id, key), result);
        }
        let replica = &self.replica.0;
        *replica.write().unwrap_or_else(PoisonError::into_inner) = counters;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::protocol::decode;
    use super::*;
    use funk::ids::{Epoch, LogIndex};

    fn state() -> CounterState {
        CounterState {
            replica: Replica::default(),
        }
    }

    fn apply(state: &mut CounterState, key: &str, id: Option<&str>) -> Option<u64> {
        let answer = state.apply(Applied {
            index: LogIndex(1),
            shard: None,
            epoch: Epoch(1),
            bytes: &Entry { key, id }.encode(),
        });
        decode(&answer)
    }

    #[test]
    fn an_increment_with_an_id_is_applied_once_and_answered_alike() {
        let mut state = state();
        assert_eq!(apply(&mut state, "a", Some("x")), Some(1));
        assert_eq!(apply(&mut state, "a", None), Some(2));
        assert_eq!(apply(&mut state, "a", Some("x")), Some(1), "as before");
        assert_eq!(apply(&mut state, "b", Some("x")), Some(1), "another key");
        assert_eq!(apply(&mut state, "a", Some("y")), Some(3));
        assert_eq!(state.replica.value("a"), 3);
    }

    #[test]
    fn a_snapshot_remembers_what_was_applied() {
        let mut first = state();
        apply(&mut first, "a", Some("x"));
        apply(&mut first, "a", Some("y"));
        let mut second = state();
        second.restore(first.snapshot()).unwrap();
        assert_eq!(apply(&mut second, "a", Some("x")), Some(1));
        assert_eq!(second.replica.value("a"), 2);
        assert_eq!(second.snapshot(), first.snapshot());
        assert!(second.restore(Bytes::from_static(b"{")).is_err());
        assert_eq!(
            second.replica.value("a"),
            2,
            "a bad snapshot changes nothing"
        );
    }

    #[test]
    fn the_oldest_ids_are_forgotten_past_the_bound() {
        let mut state = state();
        for n in 0..=MAX_IDS {
            apply(&mut state, "a", Some(&n.to_string()));
        }
        let before = state.replica.value("a");
        apply(&mut state, "a", Some("1"));
        assert_eq!(state.replica.value("a"), before, "still remembered");
        apply(&mut state, "a", Some("0"));
        assert_eq!(state.replica.value("a"), before + 1, "forgotten");
        let replica = state.replica.0.read().unwrap();
        assert_eq!(replica.order.len(), MAX_IDS);
        assert_eq!(replica.results.len(), MAX_IDS);
    }

    #[test]
    fn entries_are_read_back_and_others_ignored() {
        for id in [None, Some("x")] {
            let entry = Entry { key: "k", id };
            assert_eq!(Entry::decode(&entry.encode()), Some(entry));
        }
        for wrong in [&b""[..], b"\0\0\0", b"\0\0\0\x09k", b"\0\0\0\x01\xff"] {
            assert_eq!(Entry::decode(wrong), None);
        }
    }
}
