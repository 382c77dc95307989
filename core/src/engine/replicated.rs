//! The part of the state machine that is ours: which map is committed, which proposal is pending, who leads.
//!
//! Every replica feeds the same log entries to [`Replicated::apply`] and gets the same [`Change`]s. What a
//! proposal means is decided here, when it is *applied*, never when it is made (rule P2).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::cordons::{self, Cordons, MAX_CORDONS};
use super::map_encoding::{decode_assignment, decode_map, encode_map};
use super::shard_map::{Assignment, ShardMap, ack_set};
use crate::ids::{Epoch, Instance, LogIndex, ShardId, Term};
use crate::log_message::LogMessage;
use crate::mutants::{Mutant, mutated};
use crate::versions::FIRST;

/// A proposal that is neither committed nor superseded.
#[derive(Clone, PartialEq, Debug)]
pub struct Pending {
    /// The map it would make, with the epochs that follow from the map committed when it was applied.
    pub map: Arc<ShardMap>,
    /// Term of the entry.
    pub term: Term,
    /// Who must drain before it may be committed.
    pub ack_set: Arc<BTreeSet<Instance>>,
}

/// Maps and leader as the log has them.
#[derive(Clone, PartialEq, Debug)]
pub struct Replicated {
    /// The map that is in force.
    pub committed: Arc<ShardMap>,
    /// The latest proposal, until it is decided.
    pub pending: Option<Pending>,
    /// The last ready term and who led it (rule L4).
    pub opened: Option<(Term, Instance)>,
    /// The version that the cluster has reached: nothing newer is in the log.
    pub version: u8,
    /// The nodes that the operator keeps shards from (rule M9).
    pub cordons: Arc<Cordons>,
}

impl Default for Replicated {
    fn default() -> Self {
        Self {
            committed: Arc::default(),
            pending: None,
            opened: None,
            version: FIRST,
            cordons: Arc::default(),
        }
    }
}

/// What an entry did.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A leader opened its term; `previous` led the last ready term before.
    LeaderOpened {
        /// The new leader.
        leader: Instance,
        /// Leader of the last ready term before this one.
        previous: Option<Instance>,
    },
    /// A proposal took effect, superseding any pending one.
    Proposed {
        /// The proposal.
        pending: Pending,
        /// The proposal that it superseded.
        superseded: Option<LogIndex>,
    },
    /// The pending proposal became the map in force.
    Committed {
        /// The map in force from now on.
        map: Arc<ShardMap>,
    },
    /// The cluster has reached another version.
    VersionRaised {
        /// Nothing newer is in the log.
        version: u8,
    },
    /// The entry has no effect, by rule P1 or P2 or because it does not fit the map it is based on.
    Void(VoidReason),
    /// An application's entry: apply it, or refuse it because the shard's epoch is another (a stale token).
    App(Result<(), StaleEpoch>),
    /// These are the nodes that the operator keeps shards from, now.
    Cordoned(Arc<Cordons>),
}

/// Why an entry of the protocol is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoidReason {
    /// `ShardMapCommitted` decided by a leader of another term (rule P1).
    OtherTerm,
    /// `ShardMapCommitted` for a proposal that is not the latest (rule P2).
    NotLatest,
    /// A proposal based on a map that is not the one in force.
    OtherBase,
    /// A proposal that cannot be decoded or does not fit the cluster.
    Unreadable,
    /// A version that the cluster has reached already.
    OldVersion,
}

/// A guarded entry came with another epoch than the committed map gives its shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error(
    "shard {shard} has epoch {current}, the entry was guarded by {given}: its owner changed; drop the guard and call again"
)]
pub struct StaleEpoch {
    /// The shard.
    pub shard: ShardId,
    /// Epoch of the guard.
    pub given: Epoch,
    /// Epoch in the committed map.
    pub current: Epoch,
}

/// A snapshot of [`Replicated`] that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot of the shard maps cannot be read: {0}")]
pub struct ReplicatedDecodeError(String);

#[derive(Serialize, Deserialize)]
struct Encoded {
    committed: Bytes,
    pending: Option<(Bytes, Term, Vec<Instance>)>,
    opened: Option<(Term, Instance)>,
    version: u8,
    cordons: Cordons,
}

impl Replicated {
    /// Applies the entry at `index`, written in `term`.
    pub fn apply(&mut self, index: LogIndex, term: Term, message: &LogMessage) -> Change {
        match message {
            LogMessage::LeaderOpened { leader } => {
                let previous = self
                    .opened
                    .replace((term, leader.clone()))
                    .map(|(_, previous)| previous);
                Change::LeaderOpened {
                    leader: leader.clone(),
                    previous,
                }
            }
            LogMessage::ProposedShardMap {
                base, assignment, ..
            } => self.apply_proposal(index, term, *base, assignment),
            LogMessage::ShardMapCommitted { map, term: decided } => {
                self.apply_commit(term, *map, *decided)
            }
            LogMessage::VersionRaised { version } if *version <= self.version => {
                Change::Void(VoidReason::OldVersion)
            }
            LogMessage::VersionRaised { version } => {
                self.version = *version;
                Change::VersionRaised { version: *version }
            }
            LogMessage::App { shard, epoch, .. } => Change::App(self.check_guard(*shard, *epoch)),
            LogMessage::NodeCordoned { node, cordon } => {
                cordons::set(Arc::make_mut(&mut self.cordons), node, *cordon);
                Change::Cordoned(self.cordons.clone())
            }
        }
    }

    /// The latest proposal that was applied, committed or not; 0 before any.
    pub fn latest(&self) -> LogIndex {
        self.pending
            .as_ref()
            .map_or(self.committed.index(), |pending| pending.map.index())
    }

    fn apply_proposal(
        &mut self,
        index: LogIndex,
        term: Term,
        base: LogIndex,
        assignment: &[u8],
    ) -> Change {
        if base != self.committed.index() {
            return Change::Void(VoidReason::OtherBase);
        }
        let Ok(assignment) = decode_assignment(assignment, &self.committed) else {
            return Change::Void(VoidReason::Unreadable);
        };
        let Ok(map) = self.next_map(index, &assignment) else {
            return Change::Void(VoidReason::Unreadable);
        };
        let mut ack_set = ack_set(&self.committed, &map);
        if mutated(Mutant::AckSetWithoutGainers) {
            ack_set.retain(|instance| self.committed.owned_by(instance).next().is_some());
        }
        let ack_set = Arc::new(ack_set);
        let pending = Pending {
            map: Arc::new(map),
            term,
            ack_set,
        };
        let superseded = self
            .pending
            .replace(pending.clone())
            .map(|old| old.map.index());
        Change::Proposed {
            pending,
            superseded,
        }
    }

    fn next_map(
        &self,
        index: LogIndex,
        assignment: &Assignment,
    ) -> Result<ShardMap, super::shard_map::AssignmentError> {
        // The mutant stands for epochs carried in the entry: computed against the map that the *proposer*
        // thought pending, not against the one committed when the entry is applied.
        if mutated(Mutant::EpochsFromPending)
            && let Some(pending) = &self.pending
        {
            return pending.map.apply_assignment(index, assignment);
        }
        self.committed.apply_assignment(index, assignment)
    }

    fn apply_commit(&mut self, term: Term, map: LogIndex, decided: Term) -> Change {
        if decided != term {
            return Change::Void(VoidReason::OtherTerm);
        }
        match self.pending.take() {
            Some(pending) if pending.map.index() == map || mutated(Mutant::CommitsAnyProposal) => {
                self.committed = pending.map.clone();
                Change::Committed { map: pending.map }
            }
            other => {
                self.pending = other;
                Change::Void(VoidReason::NotLatest)
            }
        }
    }

    /// A draining owner's entries still pass: the *committed* map decides, not the pending one.
    fn check_guard(&self, shard: Option<ShardId>, given: Epoch) -> Result<(), StaleEpoch> {
        let Some(shard) = shard else { return Ok(()) };
        let current = if shard.0 < self.committed.shards() {
            self.committed.epoch(shard)
        } else {
            Epoch(0)
        };
        if current == given && given != Epoch(0) || mutated(Mutant::StaleProposalsApplied) {
            Ok(())
        } else {
            Err(StaleEpoch {
                shard,
                given,
                current,
            })
        }
    }

    /// For a raft snapshot: the committed map and the undecided proposal (rule P3).
    pub fn encode(&self) -> Bytes {
        let pending = self
            .pending
            .as_ref()
            .filter(|_| !mutated(Mutant::SnapshotWithoutPending));
        let pending = pending.map(|p| {
            (
                encode_map(&p.map),
                p.term,
                p.ack_set.iter().cloned().collect(),
            )
        });
        let encoded = Encoded {
            committed: encode_map(&self.committed),
            pending,
            opened: self.opened.clone(),
            version: self.version,
            cordons: Cordons::clone(&self.cordons),
        };
        postcard::to_stdvec(&encoded)
            .expect("plain data always encodes")
            .into()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplicatedDecodeError> {
        let unreadable = |e: &dyn std::fmt::Display| ReplicatedDecodeError(e.to_string());
        let encoded: Encoded = postcard::from_bytes(bytes).map_err(|e| unreadable(&e))?;
        let committed = Arc::new(decode_map(&encoded.committed).map_err(|e| unreadable(&e))?);
        let pending = match encoded.pending {
            None => None,
            Some((map, term, acks)) => {
                let map = decode_map(&map).map_err(|e| unreadable(&e))?;
                if map.index() <= committed.index() {
                    return Err(unreadable(
                        &"the proposal is not newer than the map in force",
                    ));
                }
                if committed.shards() != 0 && map.shards() != committed.shards() {
                    return Err(unreadable(&"the proposal has another number of shards"));
                }
                Some(Pending {
                    map: Arc::new(map),
                    term,
                    ack_set: Arc::new(acks.into_iter().collect()),
                })
            }
        };
        if encoded.cordons.len() > MAX_CORDONS {
            return Err(unreadable(&"it has more cordons than there can be"));
        }
        Ok(Self {
            committed,
            pending,
            opened: encoded.opened,
            version: encoded.version,
            cordons: Arc::new(encoded.cordons),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::map_encoding::encode_assignment;
    use super::super::shard_map::tests::member;
    use super::*;
    use crate::engine::cordons::Cordon;
    use crate::ids::{NodeId, WorkerId};
    use proptest::prelude::*;

    /// Shards that alternate between two nodes, from the first or from the second.
    fn assignment(shards: usize, first: u16) -> Assignment {
        let owner = |shard: usize| WorkerId((shard as u16 + first) % 2 + 1);
        Assignment {
            members: vec![member("a", 1, 1), member("b", 2, 2)],
            owners: (0..shards).map(owner).collect(),
            weights: None,
        }
    }

    fn propose(replicated: &mut Replicated, index: u64, assignment: &Assignment) {
        let message = LogMessage::ProposedShardMap {
            base: replicated.committed.index(),
            assignment: encode_assignment(assignment, Some(&replicated.committed)),
            reason: String::new(),
        };
        let change = replicated.apply(LogIndex(index), Term(1), &message);
        assert!(matches!(change, Change::Proposed { .. }), "{change:?}");
    }

    /// A map of 9 shards in force since entry 3, a node drained by entry 5, and a map that is proposed in entry 6.
    fn in_a_change() -> Replicated {
        let mut replicated = Replicated::default();
        let leader = member("a", 1, 1).instance;
        replicated.apply(LogIndex(2), Term(1), &LogMessage::LeaderOpened { leader });
        propose(&mut replicated, 3, &assignment(9, 0));
        let (map, term) = (LogIndex(3), Term(1));
        let commit = LogMessage::ShardMapCommitted { map, term };
        replicated.apply(LogIndex(4), Term(1), &commit);
        let (node, cordon) = (NodeId::new("b").unwrap(), Some(Cordon::Drained));
        let cordoned = LogMessage::NodeCordoned { node, cordon };
        replicated.apply(LogIndex(5), Term(1), &cordoned);
        propose(&mut replicated, 6, &assignment(9, 1));
        replicated
    }

    #[test]
    fn p3_a_snapshot_holds_the_undecided_proposal() {
        let replicated = in_a_change();
        assert_eq!(replicated.latest(), LogIndex(6));
        assert_eq!(Replicated::decode(&replicated.encode()), Ok(replicated));
    }

    #[test]
    fn m9_a_snapshot_holds_the_cordons() {
        let mut replicated = in_a_change();
        let decoded = Replicated::decode(&replicated.encode()).unwrap();
        let node = NodeId::new("b").unwrap();
        assert_eq!(decoded.cordons.get(&node), Some(&Cordon::Drained));
        let cordon = None;
        let message = LogMessage::NodeCordoned { node, cordon };
        let change = replicated.apply(LogIndex(7), Term(1), &message);
        assert_eq!(change, Change::Cordoned(Arc::default()));
        assert_ne!(Replicated::decode(&replicated.encode()), Ok(decoded));
    }

    /// A proposal that is not newer than the map in force cannot have been applied after it.
    #[test]
    fn a_snapshot_whose_proposal_is_not_newer_is_refused() {
        let mut replicated = in_a_change();
        let older = ShardMap::empty().apply_assignment(LogIndex(2), &assignment(9, 1));
        let pending = replicated.pending.as_mut().unwrap();
        pending.map = Arc::new(older.unwrap());
        assert!(Replicated::decode(&replicated.encode()).is_err());
        replicated.pending.as_mut().unwrap().map = replicated.committed.clone();
        assert!(Replicated::decode(&replicated.encode()).is_err());
    }

    #[test]
    fn a_snapshot_whose_proposal_has_another_number_of_shards_is_refused() {
        let mut replicated = in_a_change();
        let other = ShardMap::empty().apply_assignment(LogIndex(6), &assignment(8, 1));
        replicated.pending.as_mut().unwrap().map = Arc::new(other.unwrap());
        assert!(Replicated::decode(&replicated.encode()).is_err());
    }

    proptest! {
        #[test]
        fn damaged_snapshots_are_errors_or_come_back(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = in_a_change().encode().to_vec();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            if let Ok(replicated) = Replicated::decode(&bytes) {
                let latest = replicated.latest();
                prop_assert!(replicated.pending.is_none() || latest > replicated.committed.index());
                prop_assert_eq!(Replicated::decode(&replicated.encode()), Ok(replicated));
            }
        }
    }
}
