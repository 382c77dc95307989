//! The part of the state machine that is ours: which map is committed, which proposal is pending, who leads.
//!
//! Every replica feeds the same log entries to [`Replicated::apply`] and gets the same [`Change`]s. What a
//! proposal means is decided here, when it is *applied*, never when it is made (rule P2).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::map_encoding::{decode_assignment, decode_map, encode_map};
use super::shard_map::{Assignment, ShardMap, ack_set};
use crate::ids::{Epoch, Instance, LogIndex, ShardId, Term};
use crate::log_message::LogMessage;
use crate::mutants::{Mutant, mutated};

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
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Replicated {
    /// The map that is in force.
    pub committed: Arc<ShardMap>,
    /// The latest proposal, until it is decided.
    pub pending: Option<Pending>,
    /// The last ready term and who led it (rule L4).
    pub opened: Option<(Term, Instance)>,
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
    /// The entry has no effect, by rule P1 or P2 or because it does not fit the map it is based on.
    Void(VoidReason),
    /// An application's entry: apply it, or refuse it because the shard's epoch is another (a stale token).
    App(Result<(), StaleEpoch>),
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
            LogMessage::App { shard, epoch, .. } => Change::App(self.check_guard(*shard, *epoch)),
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
                let map = Arc::new(decode_map(&map).map_err(|e| unreadable(&e))?);
                Some(Pending {
                    map,
                    term,
                    ack_set: Arc::new(acks.into_iter().collect()),
                })
            }
        };
        Ok(Self {
            committed,
            pending,
            opened: encoded.opened,
        })
    }
}
