//! Which node owns which shard, with which fencing token: an immutable value, swapped whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ids::{Epoch, Instance, LogIndex, NodeId, ShardId, WorkerId};
use crate::limits::{MAX_SHARDS, MAX_WORKERS};
use crate::mutants::{Mutant, mutated};

/// A node in the map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapMember {
    /// The run that owns shards.
    pub instance: Instance,
    /// Smallest free positive number when the node came; stable while it stays.
    pub worker: WorkerId,
    /// Relative capacity, at least 1.
    pub capacity: u32,
}

/// What a proposal says: owners only. Epochs follow when it is applied (rule P2).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assignment {
    /// Members, sorted by name, each worker id once.
    pub members: Vec<MapMember>,
    /// Owner of each shard, by worker id; 0: nobody.
    pub owners: Vec<WorkerId>,
    /// Weight of each shard, at least 1; `None`: all weigh 1.
    pub weights: Option<Arc<[u32]>>,
}

impl Assignment {
    /// What the shard weighs; 1 if there are no weights.
    pub(super) fn weight(&self, shard: ShardId) -> u64 {
        let weights = self.weights.as_ref();
        let weight = weights.and_then(|weights| weights.get(shard.0 as usize));
        u64::from(weight.copied().unwrap_or(1).max(1))
    }
}

/// Why an assignment does not fit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AssignmentError {
    /// The number of shards is fixed for the life of a cluster.
    #[error(
        "the assignment has {found} shards, the cluster {expected}; the number is fixed for the life of a cluster"
    )]
    ShardCount {
        /// Shards in the assignment.
        found: usize,
        /// Shards of the cluster.
        expected: u32,
    },
    /// Not 1 to [`MAX_SHARDS`].
    #[error("{0} shards; 1 to {max} are possible", max = MAX_SHARDS)]
    ShardRange(usize),
    /// A shard is given to a worker that no member has.
    #[error("shard {shard} is given to worker {worker}, who is no member")]
    UnknownWorker {
        /// The shard.
        shard: ShardId,
        /// The worker.
        worker: WorkerId,
    },
    /// Members are not sorted by name, or a worker id is 0 or stands twice, or there are too many.
    #[error("the members are not sorted by name with distinct positive worker ids (at most {max})", max = MAX_WORKERS)]
    Members,
    /// As many weights as shards are needed, each at least 1.
    #[error("the weights do not fit: one for each shard, at least 1")]
    Weights,
}

/// Shard -> (owner, epoch), for all shards. Cheap to clone.
///
/// Invariant: members are sorted by name and have distinct positive worker ids; every owner is 0 or one of them.
#[derive(Clone, PartialEq, Debug)]
pub struct ShardMap {
    index: LogIndex,
    members: Arc<[MapMember]>,
    /// Worker id -> position in `members` plus 1; 0: nobody has it.
    positions: Arc<[u16]>,
    owners: Arc<[WorkerId]>,
    epochs: Arc<[Epoch]>,
    weights: Option<Arc<[u32]>>,
}

impl Default for ShardMap {
    fn default() -> Self {
        Self {
            index: LogIndex(0),
            members: Arc::default(),
            // As of any map without members, so that equal maps are equal in every field.
            positions: Arc::new([0]),
            owners: Arc::default(),
            epochs: Arc::default(),
            weights: None,
        }
    }
}

impl ShardMap {
    /// The map before the first proposal: index 0, no shards, no members.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Puts a map together from its parts, checking them.
    pub(super) fn from_parts(
        index: LogIndex,
        assignment: Assignment,
        epochs: Vec<Epoch>,
    ) -> Result<Self, AssignmentError> {
        let Assignment {
            members,
            owners,
            weights,
        } = assignment;
        let positions = positions(&members)?;
        let unknown = |worker: WorkerId| {
            worker.0 != 0
                && positions
                    .get(usize::from(worker.0))
                    .is_none_or(|&at| at == 0)
        };
        if let Some(shard) = owners.iter().position(|&worker| unknown(worker)) {
            return Err(AssignmentError::UnknownWorker {
                shard: ShardId(shard as u32),
                worker: owners[shard],
            });
        }
        if owners.len() > MAX_SHARDS as usize || epochs.len() != owners.len() {
            return Err(AssignmentError::ShardRange(owners.len()));
        }
        if weights
            .as_ref()
            .is_some_and(|w| w.len() != owners.len() || w.contains(&0))
        {
            return Err(AssignmentError::Weights);
        }
        let (members, owners, epochs) = (members.into(), owners.into(), epochs.into());
        Ok(Self {
            index,
            members,
            positions: positions.into(),
            owners,
            epochs,
            weights,
        })
    }

    /// Log index of the proposal that made it; 0 for the empty map.
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// Number of shards; 0 for the empty map.
    pub fn shards(&self) -> u32 {
        self.owners.len() as u32
    }

    /// Who owns the shard; `None` if nobody does or there is no such shard.
    #[inline]
    pub fn owner(&self, shard: ShardId) -> Option<&Instance> {
        let worker = self.owners.get(shard.0 as usize)?;
        let at = usize::from(self.positions[usize::from(worker.0)]);
        self.members
            .get(at.wrapping_sub(1))
            .map(|member| &member.instance)
    }

    /// Worker id of the owner; 0 if nobody owns the shard or there is no such shard.
    #[inline]
    pub fn worker(&self, shard: ShardId) -> WorkerId {
        self.owners
            .get(shard.0 as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Fencing token of the shard; 0 if nobody ever owned it or there is no such shard.
    #[inline]
    pub fn epoch(&self, shard: ShardId) -> Epoch {
        self.epochs
            .get(shard.0 as usize)
            .copied()
            .unwrap_or_default()
    }

    /// The nodes in the map, sorted by name.
    pub fn members(&self) -> &[MapMember] {
        &self.members
    }

    /// The member of this name.
    pub fn member(&self, node: &NodeId) -> Option<&MapMember> {
        let at = self
            .members
            .binary_search_by(|member| member.instance.node.cmp(node))
            .ok()?;
        Some(&self.members[at])
    }

    /// The shards of one run of a node, with their tokens, in order.
    pub fn owned_by<'a>(
        &'a self,
        instance: &Instance,
    ) -> impl Iterator<Item = (ShardId, Epoch)> + 'a {
        let worker = self
            .member(&instance.node)
            .filter(|member| member.instance == *instance)
            .map(|member| member.worker);
        let shards = self.owners.iter().zip(self.epochs.iter()).enumerate();
        shards
            .filter(move |(_, (owner, _))| Some(**owner) == worker)
            .map(|(at, (_, &epoch))| (ShardId(at as u32), epoch))
    }

    /// How many shards each member has, in the order of [`members`](Self::members).
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.members.len() + 1];
        for owner in self.owners.iter() {
            counts[usize::from(self.positions[usize::from(owner.0)])] += 1;
        }
        counts.remove(0);
        counts
    }

    /// Weights of the shards; `None`: all weigh 1.
    pub fn weights(&self) -> Option<&Arc<[u32]>> {
        self.weights.as_ref()
    }

    /// Owners of all shards by worker id.
    pub(super) fn owners(&self) -> &[WorkerId] {
        &self.owners
    }

    pub(super) fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// What a proposal of exactly this map would say.
    pub fn assignment(&self) -> Assignment {
        Assignment {
            members: self.members.to_vec(),
            owners: self.owners.to_vec(),
            weights: self.weights.clone(),
        }
    }

    /// The map that the assignment, proposed at `index`, makes of this committed one: a shard keeps its epoch
    /// where its owner, name and run, stays; elsewhere the epoch is `index`.
    pub fn apply_assignment(
        &self,
        index: LogIndex,
        assignment: &Assignment,
    ) -> Result<ShardMap, AssignmentError> {
        let shards = assignment.owners.len();
        if shards == 0 || shards > MAX_SHARDS as usize {
            return Err(AssignmentError::ShardRange(shards));
        }
        if self.shards() != 0 && shards != self.owners.len() {
            return Err(AssignmentError::ShardCount {
                found: shards,
                expected: self.shards(),
            });
        }
        // Worker ids whose holder is the same run in both maps: there, an equal id is an equal owner.
        let highest = self
            .members
            .iter()
            .chain(&assignment.members)
            .map(|member| member.worker.0)
            .max()
            .unwrap_or(0);
        let mut same = vec![false; usize::from(highest) + 1];
        for member in &assignment.members {
            let held = self.member(&member.instance.node);
            same[usize::from(member.worker.0)] =
                held.is_some_and(|h| h.instance == member.instance && h.worker == member.worker);
        }
        let epoch = |(shard, &worker): (usize, &WorkerId)| {
            let stays = self.owners.get(shard) == Some(&worker)
                && same.get(usize::from(worker.0)) == Some(&true);
            let old = self.epochs.get(shard).copied();
            let kept = old.filter(|_| mutated(Mutant::EpochNotRaised));
            if stays {
                self.epochs[shard]
            } else if let Some(kept) = kept.filter(|epoch| epoch.0 > 0) {
                kept
            } else {
                Epoch(index.0)
            }
        };
        let epochs = assignment.owners.iter().enumerate().map(epoch).collect();
        Self::from_parts(index, assignment.clone(), epochs)
    }
}

fn positions(members: &[MapMember]) -> Result<Vec<u16>, AssignmentError> {
    let sorted = members
        .windows(2)
        .all(|pair| pair[0].instance.node < pair[1].instance.node);
    if !sorted || members.len() > MAX_WORKERS {
        return Err(AssignmentError::Members);
    }
    let highest = members
        .iter()
        .map(|member| member.worker.0)
        .max()
        .unwrap_or(0);
    let mut positions = vec![0; usize::from(highest) + 1];
    for (at, member) in members.iter().enumerate() {
        let position = &mut positions[usize::from(member.worker.0)];
        if member.worker.0 == 0 || *position != 0 || member.capacity == 0 {
            return Err(AssignmentError::Members);
        }
        *position = at as u16 + 1;
    }
    Ok(positions)
}

/// Who must drain before `proposed` may be committed: owners in `committed` that lose a shard, and nodes that gain one.
pub fn ack_set(committed: &ShardMap, proposed: &ShardMap) -> BTreeSet<Instance> {
    let mut losers = vec![false; committed.positions.len()];
    let mut gainers = vec![false; proposed.positions.len()];
    for (shard, epoch) in proposed.epochs.iter().enumerate() {
        if epoch.0 == proposed.index.0 {
            losers[usize::from(committed.worker(ShardId(shard as u32)).0)] = true;
            gainers[usize::from(proposed.owners[shard].0)] = true;
        }
    }
    let marked = |map: &ShardMap, marks: &[bool]| -> Vec<Instance> {
        let members = map.members.iter();
        let marked = members.filter(|member| marks[usize::from(member.worker.0)]);
        marked.map(|member| member.instance.clone()).collect()
    };
    let mut set = BTreeSet::from_iter(marked(committed, &losers));
    set.extend(marked(proposed, &gainers));
    set
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ids::BootId;

    pub(in crate::engine) fn member(name: &str, boot: u64, worker: u16) -> MapMember {
        let instance = Instance {
            node: NodeId::new(name).unwrap(),
            boot: BootId(boot),
        };
        MapMember {
            instance,
            worker: WorkerId(worker),
            capacity: 1,
        }
    }

    fn assignment(members: &[MapMember], owners: &[u16]) -> Assignment {
        Assignment {
            members: members.to_vec(),
            owners: owners.iter().map(|&w| WorkerId(w)).collect(),
            weights: None,
        }
    }

    #[test]
    fn p2_an_epoch_is_kept_exactly_where_the_run_stays() {
        let first = assignment(&[member("a", 1, 1), member("b", 1, 2)], &[1, 1, 2, 2]);
        let map = ShardMap::empty()
            .apply_assignment(LogIndex(5), &first)
            .unwrap();
        let second = assignment(&[member("a", 1, 1), member("b", 2, 2)], &[1, 2, 2, 1]);
        let next = map.apply_assignment(LogIndex(9), &second).unwrap();
        let epochs: Vec<u64> = (0..4).map(|shard| next.epoch(ShardId(shard)).0).collect();
        assert_eq!(
            epochs,
            [5, 9, 9, 9],
            "b restarted: shard 2 has another owner although its name stays"
        );
        let acks = ack_set(&map, &next);
        assert_eq!(
            acks.len(),
            3,
            "a loses and gains, the old b loses, the new b gains: {acks:?}"
        );
    }

    fn two_maps(
        first: &Assignment,
        second: &Assignment,
    ) -> (ShardMap, ShardMap, BTreeSet<Instance>) {
        let committed = ShardMap::empty()
            .apply_assignment(LogIndex(5), first)
            .unwrap();
        let proposed = committed.apply_assignment(LogIndex(9), second).unwrap();
        let acks = ack_set(&committed, &proposed);
        (committed, proposed, acks)
    }

    #[test]
    fn i4_losers_and_gainers_must_ack_and_nobody_else() {
        let members = [
            member("a", 1, 1),
            member("b", 1, 2),
            member("c", 1, 3),
            member("d", 1, 4),
        ];
        let first = assignment(&members, &[1, 2, 3, 4]);
        let second = assignment(&members, &[1, 3, 3, 4]);
        let (_, _, acks) = two_maps(&first, &second);
        let expected = BTreeSet::from([members[1].instance.clone(), members[2].instance.clone()]);
        assert_eq!(acks, expected);
        assert_eq!(two_maps(&first, &first).2, BTreeSet::new());
    }

    #[test]
    fn i4_a_node_that_goes_and_one_that_takes_its_worker_id_both_ack() {
        let first = assignment(&[member("a", 1, 1), member("b", 1, 2)], &[1, 2]);
        let second = assignment(&[member("a", 1, 1), member("c", 1, 2)], &[1, 2]);
        let (committed, proposed, acks) = two_maps(&first, &second);
        let expected = BTreeSet::from([
            committed.members()[1].instance.clone(),
            proposed.members()[1].instance.clone(),
        ]);
        assert_eq!(acks, expected);
        assert_eq!(proposed.epoch(ShardId(0)), Epoch(5));
        assert_eq!(proposed.epoch(ShardId(1)), Epoch(9));
    }

    #[test]
    fn i4_first_owners_ack_and_shards_that_nobody_has_ask_nobody() {
        let first = assignment(&[member("a", 1, 1)], &[1, 0]);
        let map = ShardMap::empty()
            .apply_assignment(LogIndex(5), &first)
            .unwrap();
        let a = map.members()[0].instance.clone();
        assert_eq!(
            ack_set(&ShardMap::empty(), &map),
            BTreeSet::from([a.clone()])
        );
        let (_, _, acks) = two_maps(&first, &assignment(&[], &[0, 0]));
        assert_eq!(acks, BTreeSet::from([a]), "it loses, nobody gains");
    }

    #[test]
    fn p2_a_superseding_proposal_is_measured_against_the_committed_map() {
        let members = [member("a", 1, 1), member("b", 1, 2)];
        let committed = ShardMap::empty()
            .apply_assignment(LogIndex(5), &assignment(&members, &[1, 2]))
            .unwrap();
        let void = committed
            .apply_assignment(LogIndex(9), &assignment(&members, &[2, 2]))
            .unwrap();
        assert_eq!(void.epoch(ShardId(0)), Epoch(9));
        let back = committed
            .apply_assignment(LogIndex(12), &assignment(&members, &[1, 2]))
            .unwrap();
        assert_eq!(
            back.epoch(ShardId(0)),
            Epoch(5),
            "a never lost it: its token is the old one"
        );
        assert_eq!(ack_set(&committed, &back), BTreeSet::new());
    }

    #[test]
    fn owners_and_lookups() {
        let map = assignment(&[member("a", 1, 7), member("c", 1, 2)], &[7, 0, 2]);
        let map = ShardMap::empty()
            .apply_assignment(LogIndex(1), &map)
            .unwrap();
        assert_eq!(map.owner(ShardId(0)).unwrap().node.as_str(), "a");
        assert_eq!(map.owner(ShardId(1)), None);
        assert_eq!(map.owner(ShardId(3)), None);
        assert_eq!(map.counts(), [1, 1]);
        assert_eq!(
            map.owned_by(&map.members()[1].instance).collect::<Vec<_>>(),
            [(ShardId(2), Epoch(1))]
        );
        assert_eq!(ShardMap::empty().owner(ShardId(0)), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let good = assignment(&[member("a", 1, 1)], &[1, 1]);
        let map = ShardMap::empty()
            .apply_assignment(LogIndex(1), &good)
            .unwrap();
        let refused = |members: &[MapMember], owners: &[u16]| {
            map.apply_assignment(LogIndex(2), &assignment(members, owners))
                .unwrap_err()
        };
        assert!(matches!(
            refused(&[member("a", 1, 1)], &[1]),
            AssignmentError::ShardCount {
                found: 1,
                expected: 2
            }
        ));
        assert!(matches!(
            refused(&[member("a", 1, 1)], &[1, 9]),
            AssignmentError::UnknownWorker { .. }
        ));
        assert_eq!(
            refused(&[member("b", 1, 1), member("a", 1, 2)], &[1, 2]),
            AssignmentError::Members
        );
        assert_eq!(
            refused(&[member("a", 1, 1), member("b", 1, 1)], &[1, 1]),
            AssignmentError::Members
        );
    }
}
