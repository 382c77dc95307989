//! Shard maps: whole ones, proposals in full and as deltas, and the snapshot that carries them.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use funk::engine::map_encoding::{decode_assignment, decode_map, encode_assignment, encode_map};
use funk::engine::placement::{Candidate, place};
use funk::engine::replicated::Replicated;
use funk::engine::shard_map::{Assignment, ShardMap, ack_set};
use funk::ids::{BootId, Epoch, Instance, LogIndex, NodeId, ShardId, Term, WorkerId};
use funk::limits::{MAX_SHARDS, MAX_WORKERS};
use funk::log_message::LogMessage;

use crate::allocation::Bound;

/// A chunk of 1,024 equal shards takes one byte.
const SHARDS_PER_BYTE: usize = 1 << 10;
/// Of a shard: owner, weight and epoch, each first as a symbol in a growing list, then as what it stands for.
const PER_SHARD: usize = 160;
/// Of an encoded byte of a member (12 at least): its place in a growing list, its name twice.
const PER_MEMBER_BYTE: usize = 32;
/// Worker id -> position, for the largest worker id.
const POSITIONS: usize = 4 * MAX_WORKERS;
/// Bytes of encoded members in the longest input that is looked at.
const MOST_MEMBER_BYTES: usize = 1 << 20;

const MAP: Bound = Bound {
    constant: POSITIONS + (4 << 10),
    per_byte: SHARDS_PER_BYTE * PER_SHARD,
    most: POSITIONS
        + (4 << 10)
        + MAX_SHARDS as usize * PER_SHARD
        + MOST_MEMBER_BYTES * PER_MEMBER_BYTE,
};
/// A committed map, a pending one, and who must acknowledge it.
const SNAPSHOT: Bound = Bound {
    constant: 2 * MAP.constant,
    per_byte: MAP.per_byte,
    most: 2 * MAP.most,
};

/// The map that deltas are based on: 300 shards, 5 nodes, not contiguous.
pub fn base() -> &'static ShardMap {
    static BASE: LazyLock<ShardMap> = LazyLock::new(|| {
        let mut assignment = place(&ShardMap::empty(), 300, &candidates(5), &BTreeSet::new());
        for (shard, owner) in assignment.owners.iter_mut().enumerate() {
            *owner = WorkerId((shard * 7 % 5) as u16 + 1);
        }
        ShardMap::empty()
            .apply_assignment(LogIndex(7), &assignment)
            .expect("it fits")
    });
    &BASE
}

/// Nodes of the names `n0`, `n1`, ...
pub fn candidates(count: u64) -> Vec<Candidate> {
    let candidate = |n: u64| Candidate {
        instance: Instance {
            node: NodeId::new(&format!("n{n}")).expect("a short lower-case name"),
            boot: BootId(n + 1),
        },
        capacity: 1,
    };
    (0..count).map(candidate).collect()
}

/// A whole map.
pub fn map(bytes: &[u8]) {
    let Ok(map) = MAP.hold(bytes.len(), || decode_map(bytes)) else {
        return;
    };
    assert_eq!(decode_map(&encode_map(&map)).as_ref(), Ok(&map));
    use_map(&map);
}

/// Looks everything up that can be.
fn use_map(map: &ShardMap) {
    let counts = map.counts();
    assert_eq!(counts.len(), map.members().len());
    assert!(counts.iter().sum::<usize>() <= map.shards() as usize);
    for shard in (0..map.shards().saturating_add(2)).map(ShardId).take(2_048) {
        let owner = map.owner(shard);
        assert_eq!(owner.is_some(), map.worker(shard) != WorkerId(0));
        if let Some(owner) = owner {
            assert_eq!(map.member(&owner.node).map(|m| &m.instance), Some(owner));
        }
    }
    // The next map from it: what a leader would make of it, and from one more node.
    let next = place(map, 8, &candidates(3), &BTreeSet::from([ShardId(0)]));
    if let Ok(next) = map.apply_assignment(LogIndex(map.index().0.saturating_add(1)), &next) {
        let acks = ack_set(map, &next);
        assert!(acks.len() <= map.members().len() + next.members().len());
    }
}

/// A proposal, in full or as a delta, against a map and against none.
pub fn delta(bytes: &[u8]) {
    for base in [base(), &ShardMap::empty()] {
        let bound = Bound {
            // A delta copies the owners of its base.
            constant: MAP.constant + base.shards() as usize * PER_SHARD,
            ..MAP
        };
        let Ok(assignment) = bound.hold(bytes.len(), || decode_assignment(bytes, base)) else {
            continue;
        };
        for encoded in [
            encode_assignment(&assignment, Some(base)),
            encode_assignment(&assignment, None),
        ] {
            assert_eq!(decode_assignment(&encoded, base).as_ref(), Ok(&assignment));
        }
        apply(base, &assignment);
    }
}

fn apply(base: &ShardMap, assignment: &Assignment) {
    let Ok(map) = base.apply_assignment(LogIndex(9), assignment) else {
        return;
    };
    assert_eq!(map.assignment(), *assignment);
    assert_eq!(decode_map(&encode_map(&map)).as_ref(), Ok(&map));
    for shard in (0..map.shards()).map(ShardId).take(2_048) {
        let stays =
            base.owner(shard) == map.owner(shard) && base.worker(shard) == map.worker(shard);
        assert_eq!(
            map.epoch(shard) != Epoch(9),
            stays && shard.0 < base.shards()
        );
    }
    use_map(&map);
}

/// The snapshot of the maps, and entries that are applied after it.
pub fn snapshot(bytes: &[u8]) {
    let Ok(mut replicated) = SNAPSHOT.hold(bytes.len(), || Replicated::decode(bytes)) else {
        return;
    };
    let again = Replicated::decode(&replicated.encode());
    assert_eq!(again.as_ref(), Ok(&replicated));
    assert!(replicated.pending.as_ref().is_none_or(|pending| {
        pending.map.index() > replicated.committed.index()
            && pending.map.index() == replicated.latest()
    }));
    if let Some(pending) = &replicated.pending {
        use_map(&pending.map);
    }
    let index = |replicated: &Replicated| LogIndex(replicated.latest().0.saturating_add(1));
    let term = replicated.pending.as_ref().map_or(Term(1), |p| p.term);
    let commit = LogMessage::ShardMapCommitted {
        map: replicated.latest(),
        term,
    };
    let at = index(&replicated);
    replicated.apply(at, term, &commit);
    let assignment = place(&replicated.committed, 8, &candidates(2), &BTreeSet::new());
    let propose = LogMessage::ProposedShardMap {
        base: replicated.committed.index(),
        assignment: encode_assignment(&assignment, Some(&replicated.committed)),
        reason: String::new(),
    };
    let at = index(&replicated);
    replicated.apply(at, term, &propose);
    use_map(&replicated.committed);
}
