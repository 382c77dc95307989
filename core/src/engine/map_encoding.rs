//! Maps and assignments as bytes: in the log, in snapshots and on the wire.
//!
//! Owners are written as positions in the member list, in chunks of 1,024 shards, each chunk the smaller of
//! run-length and bit-packed. An assignment may be written as a delta: only the runs in which it differs from
//! the committed map. All numbers are LEB128 varints. Hostile bytes give an error; what they make us allocate is
//! bounded by [`MAX_SHARDS`] and [`MAX_WORKERS`].

use std::sync::Arc;

use bytes::Bytes;

use super::shard_map::{Assignment, AssignmentError, MapMember, ShardMap};
use crate::ids::{BootId, Epoch, Instance, LogIndex, NodeId, ShardId, WorkerId};
use crate::limits::{MAX_NAME_BYTES, MAX_SHARDS, MAX_WORKERS};

/// Shards whose owners are encoded together.
const CHUNK: usize = 1_024;
const FULL: u8 = 0;
const DELTA: u8 = 1;
const RUNS: u8 = 0;
const PACKED: u8 = 1;

/// Why bytes are no map.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MapDecodeError {
    /// The bytes end in the middle of something.
    #[error("the encoded map is cut off")]
    CutOff,
    /// Bytes are left over.
    #[error("{0} bytes follow the encoded map")]
    Trailing(usize),
    /// A number is larger than it may be there.
    #[error("the encoded map has {found} as its {what}; at most {max} is possible")]
    TooLarge {
        /// What the number is.
        what: &'static str,
        /// The number.
        found: u64,
        /// Its bound.
        max: u64,
    },
    /// A tag byte that this version does not know.
    #[error("the encoded map has tag {found} for its {what}")]
    UnknownTag {
        /// What the tag tells.
        what: &'static str,
        /// The tag.
        found: u8,
    },
    /// A name that cannot be a node's.
    #[error("the encoded map names a node that cannot be: {0}")]
    Name(String),
    /// A delta against another map.
    #[error("the delta is based on map {found}, the map in force is {expected}")]
    OtherBase {
        /// Base of the delta.
        found: LogIndex,
        /// The map at hand.
        expected: LogIndex,
    },
    /// The parts do not fit together.
    #[error("the encoded map is inconsistent: {0}")]
    Inconsistent(#[from] AssignmentError),
}

/// Encodes what a proposal says: in full, or as a delta against `base` if that is shorter.
pub fn encode_assignment(assignment: &Assignment, base: Option<&ShardMap>) -> Bytes {
    let mut full = vec![FULL];
    put_members(&mut full, &assignment.members);
    put_owners(&mut full, assignment);
    put_weights(&mut full, assignment.weights.as_deref());
    let fits = |base: &&ShardMap| {
        base.owners().len() == assignment.owners.len()
            && base.weights() == assignment.weights.as_ref()
    };
    let delta = base.filter(fits).map(|base| encode_delta(assignment, base));
    match delta {
        Some(delta) if delta.len() < full.len() => delta.into(),
        _ => full.into(),
    }
}

/// Decodes an assignment; a delta is applied to `base`, which must be the map that it was made against.
pub fn decode_assignment(bytes: &[u8], base: &ShardMap) -> Result<Assignment, MapDecodeError> {
    let mut reader = Reader(bytes);
    let assignment = match reader.byte()? {
        FULL => {
            let members = reader.members()?;
            let owners = reader.owners(&members)?;
            let weights = reader.weights(owners.len())?;
            Assignment {
                members,
                owners,
                weights,
            }
        }
        DELTA => reader.delta(base)?,
        found => {
            return Err(MapDecodeError::UnknownTag {
                what: "form",
                found,
            });
        }
    };
    reader.finish()?;
    Ok(assignment)
}

/// Encodes a whole map with its epochs.
pub fn encode_map(map: &ShardMap) -> Bytes {
    let mut out = Vec::new();
    put_number(&mut out, map.index().0);
    let assignment = map.assignment();
    put_members(&mut out, &assignment.members);
    put_owners(&mut out, &assignment);
    put_weights(&mut out, assignment.weights.as_deref());
    let epochs: Vec<u64> = map.epochs().iter().map(|epoch| epoch.0).collect();
    put_dictionary(&mut out, &epochs);
    out.into()
}

/// Decodes what [`encode_map`] wrote.
pub fn decode_map(bytes: &[u8]) -> Result<ShardMap, MapDecodeError> {
    let mut reader = Reader(bytes);
    let index = LogIndex(reader.number()?);
    let members = reader.members()?;
    let owners = reader.owners(&members)?;
    let weights = reader.weights(owners.len())?;
    let epochs = reader
        .dictionary(owners.len())?
        .into_iter()
        .map(Epoch)
        .collect();
    reader.finish()?;
    Ok(ShardMap::from_parts(
        index,
        Assignment {
            members,
            owners,
            weights,
        },
        epochs,
    )?)
}

// Writing.

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_members(out: &mut Vec<u8>, members: &[MapMember]) {
    put_number(out, members.len() as u64);
    for member in members {
        let name = member.instance.node.as_str().as_bytes();
        put_number(out, name.len() as u64);
        out.extend_from_slice(name);
        out.extend_from_slice(&member.instance.boot.0.to_le_bytes());
        put_number(out, u64::from(member.worker.0));
        put_number(out, u64::from(member.capacity));
    }
}

/// Worker id -> position in the member list plus 1; 0 is nobody.
fn symbols_of(members: &[MapMember]) -> Vec<u32> {
    let highest = members
        .iter()
        .map(|member| member.worker.0)
        .max()
        .unwrap_or(0);
    let mut symbols = vec![0; usize::from(highest) + 1];
    for (at, member) in members.iter().enumerate() {
        symbols[usize::from(member.worker.0)] = at as u32 + 1;
    }
    symbols
}

fn put_owners(out: &mut Vec<u8>, assignment: &Assignment) {
    let symbols = symbols_of(&assignment.members);
    let owners: Vec<u32> = assignment
        .owners
        .iter()
        .map(|w| symbols.get(usize::from(w.0)).copied().unwrap_or(0))
        .collect();
    put_number(out, owners.len() as u64);
    put_symbols(out, &owners, assignment.members.len() as u32);
}

fn put_symbols(out: &mut Vec<u8>, symbols: &[u32], largest: u32) {
    for chunk in symbols.chunks(CHUNK) {
        let mut runs = vec![RUNS];
        let mut packed = vec![PACKED];
        put_packed(&mut packed, chunk, largest);
        for run in chunk.chunk_by(|a, b| a == b) {
            put_number(&mut runs, run.len() as u64);
            put_number(&mut runs, u64::from(run[0]));
            if runs.len() >= packed.len() {
                break;
            }
        }
        out.extend_from_slice(if runs.len() < packed.len() {
            &runs
        } else {
            &packed
        });
    }
}

fn width(largest: u32) -> u32 {
    u32::BITS - largest.leading_zeros()
}

fn put_packed(out: &mut Vec<u8>, symbols: &[u32], largest: u32) {
    let width = width(largest);
    let (mut buffer, mut filled) = (0u64, 0);
    for &symbol in symbols {
        buffer |= u64::from(symbol) << filled;
        filled += width;
        while filled >= 8 {
            out.push(buffer as u8);
            buffer >>= 8;
            filled -= 8;
        }
    }
    if filled > 0 {
        out.push(buffer as u8);
    }
}

/// Distinct values, ascending, then for each place which one it is.
fn put_dictionary(out: &mut Vec<u8>, values: &[u64]) {
    // Neighbours are mostly equal: they are looked up once for each run.
    let runs = || values.chunk_by(|a, b| a == b);
    let mut distinct: Vec<u64> = runs().map(|run| run[0]).collect();
    distinct.sort_unstable();
    distinct.dedup();
    put_number(out, distinct.len() as u64);
    let mut last = 0;
    for &value in &distinct {
        put_number(out, value - last);
        last = value;
    }
    let mut symbols = Vec::with_capacity(values.len());
    for run in runs() {
        let symbol = distinct.partition_point(|&value| value < run[0]) as u32;
        symbols.resize(symbols.len() + run.len(), symbol);
    }
    put_symbols(out, &symbols, (distinct.len() as u32).saturating_sub(1));
}

fn put_weights(out: &mut Vec<u8>, weights: Option<&[u32]>) {
    out.push(u8::from(weights.is_some()));
    if let Some(weights) = weights {
        put_dictionary(
            out,
            &weights
                .iter()
                .map(|&weight| u64::from(weight))
                .collect::<Vec<_>>(),
        );
    }
}

fn encode_delta(assignment: &Assignment, base: &ShardMap) -> Vec<u8> {
    let mut out = vec![DELTA];
    put_number(&mut out, base.index().0);
    put_members(&mut out, &assignment.members);
    let symbols = symbols_of(&assignment.members);
    let mut shard = 0;
    let mut last_end = 0;
    let owners = &assignment.owners;
    while shard < owners.len() {
        if owners[shard] == base.owners()[shard] {
            shard += 1;
            continue;
        }
        let start = shard;
        while shard < owners.len()
            && owners[shard] == owners[start]
            && owners[shard] != base.owners()[shard]
        {
            shard += 1;
        }
        put_number(&mut out, (start - last_end) as u64);
        put_number(&mut out, (shard - start) as u64);
        put_number(
            &mut out,
            u64::from(
                symbols
                    .get(usize::from(owners[start].0))
                    .copied()
                    .unwrap_or(0),
            ),
        );
        last_end = shard;
    }
    out
}

// Reading.

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], MapDecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(MapDecodeError::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, MapDecodeError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, MapDecodeError> {
        let mut number = 0u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(MapDecodeError::TooLarge {
            what: "number",
            found: u64::MAX,
            max: u64::MAX,
        })
    }

    fn at_most(&mut self, what: &'static str, max: u64) -> Result<u64, MapDecodeError> {
        let found = self.number()?;
        if found > max {
            Err(MapDecodeError::TooLarge { what, found, max })
        } else {
            Ok(found)
        }
    }

    fn members(&mut self) -> Result<Vec<MapMember>, MapDecodeError> {
        let count = self.at_most("number of members", MAX_WORKERS as u64)?;
        let mut members = Vec::new();
        for _ in 0..count {
            let len = self.at_most("length of a name", MAX_NAME_BYTES as u64)?;
            let name = std::str::from_utf8(self.take(len as usize)?)
                .map_err(|e| MapDecodeError::Name(e.to_string()))?;
            let node = NodeId::new(name).map_err(|e| MapDecodeError::Name(e.to_string()))?;
            let boot = self.take(8)?.try_into().expect("eight bytes were taken");
            let instance = Instance {
                node,
                boot: BootId(u64::from_le_bytes(boot)),
            };
            let worker = WorkerId(self.at_most("worker id", MAX_WORKERS as u64)? as u16);
            let capacity = self.at_most("capacity", u64::from(u32::MAX))? as u32;
            members.push(MapMember {
                instance,
                worker,
                capacity,
            });
        }
        Ok(members)
    }

    fn owners(&mut self, members: &[MapMember]) -> Result<Vec<WorkerId>, MapDecodeError> {
        let count = self.at_most("number of shards", u64::from(MAX_SHARDS))? as usize;
        let symbols = self.symbols(count, members.len() as u32)?;
        Ok(symbols
            .into_iter()
            .map(|symbol| worker_of(members, symbol))
            .collect())
    }

    fn symbols(&mut self, count: usize, largest: u32) -> Result<Vec<u32>, MapDecodeError> {
        let mut symbols = Vec::new();
        while symbols.len() < count {
            let end = count.min(symbols.len() + CHUNK);
            match self.byte()? {
                RUNS => {
                    while symbols.len() < end {
                        let run =
                            self.at_most("length of a run", (end - symbols.len()) as u64)? as usize;
                        let symbol = self.at_most("symbol", u64::from(largest))? as u32;
                        if run == 0 {
                            return Err(MapDecodeError::TooLarge {
                                what: "run without length",
                                found: 0,
                                max: 0,
                            });
                        }
                        symbols.resize(symbols.len() + run, symbol);
                    }
                }
                PACKED => self.packed(&mut symbols, end, largest)?,
                found => {
                    return Err(MapDecodeError::UnknownTag {
                        what: "chunk",
                        found,
                    });
                }
            }
        }
        Ok(symbols)
    }

    fn packed(
        &mut self,
        symbols: &mut Vec<u32>,
        end: usize,
        largest: u32,
    ) -> Result<(), MapDecodeError> {
        let width = width(largest) as usize;
        let bytes = self.take(((end - symbols.len()) * width).div_ceil(8))?;
        let (mut buffer, mut filled, mut bytes) = (0u64, 0, bytes.iter());
        while symbols.len() < end {
            while filled < width {
                buffer |= u64::from(*bytes.next().ok_or(MapDecodeError::CutOff)?) << filled;
                filled += 8;
            }
            let symbol = (buffer & ((1u64 << width) - 1)) as u32;
            if symbol > largest {
                return Err(MapDecodeError::TooLarge {
                    what: "symbol",
                    found: u64::from(symbol),
                    max: u64::from(largest),
                });
            }
            symbols.push(symbol);
            buffer >>= width;
            filled -= width;
        }
        Ok(())
    }

    fn dictionary(&mut self, count: usize) -> Result<Vec<u64>, MapDecodeError> {
        let distinct = self.at_most("number of distinct values", count as u64)?;
        let mut values = Vec::new();
        let mut last = 0u64;
        for _ in 0..distinct {
            let step = self.number()?;
            last = last.checked_add(step).ok_or(MapDecodeError::TooLarge {
                what: "value",
                found: step,
                max: u64::MAX,
            })?;
            values.push(last);
        }
        let symbols = self.symbols(count, (distinct as u32).saturating_sub(1))?;
        symbols
            .into_iter()
            .map(|symbol| {
                values
                    .get(symbol as usize)
                    .copied()
                    .ok_or(MapDecodeError::CutOff)
            })
            .collect()
    }

    fn weights(&mut self, count: usize) -> Result<Option<Arc<[u32]>>, MapDecodeError> {
        match self.byte()? {
            0 => Ok(None),
            1 => {
                let weight = |value: u64| {
                    u32::try_from(value).map_err(|_| MapDecodeError::TooLarge {
                        what: "weight",
                        found: value,
                        max: u64::from(u32::MAX),
                    })
                };
                Ok(Some(
                    self.dictionary(count)?
                        .into_iter()
                        .map(weight)
                        .collect::<Result<_, _>>()?,
                ))
            }
            found => Err(MapDecodeError::UnknownTag {
                what: "weights",
                found,
            }),
        }
    }

    fn delta(&mut self, base: &ShardMap) -> Result<Assignment, MapDecodeError> {
        let found = LogIndex(self.number()?);
        if found != base.index() {
            return Err(MapDecodeError::OtherBase {
                found,
                expected: base.index(),
            });
        }
        let members = self.members()?;
        let mut owners = base.owners().to_vec();
        let mut shard = 0;
        while !self.0.is_empty() {
            let left = (owners.len() - shard) as u64;
            shard += self.at_most("gap", left)? as usize;
            let run = self.at_most("length of a run", (owners.len() - shard) as u64)? as usize;
            let worker = worker_of(
                &members,
                self.at_most("symbol", members.len() as u64)? as u32,
            );
            owners[shard..shard + run].fill(worker);
            shard += run;
        }
        // What the delta leaves as it was may belong to somebody who is a member no more.
        let mut known = vec![false; MAX_WORKERS + 1];
        known[0] = true;
        for member in &members {
            known[usize::from(member.worker.0)] = true;
        }
        if let Some(at) = owners.iter().position(|owner| !known[usize::from(owner.0)]) {
            let (shard, worker) = (ShardId(at as u32), owners[at]);
            return Err(AssignmentError::UnknownWorker { shard, worker }.into());
        }
        Ok(Assignment {
            members,
            owners,
            weights: base.weights().cloned(),
        })
    }

    fn finish(self) -> Result<(), MapDecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(MapDecodeError::Trailing(self.0.len()))
        }
    }
}

fn worker_of(members: &[MapMember], symbol: u32) -> WorkerId {
    members
        .get((symbol as usize).wrapping_sub(1))
        .map_or(WorkerId(0), |member| member.worker)
}

#[cfg(test)]
mod tests {
    use super::super::placement::{Candidate, place};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn nodes(count: u64) -> Vec<Candidate> {
        let instance = |n: u64| Instance {
            node: NodeId::new(&format!("n{n:02}")).unwrap(),
            boot: BootId(1 << 50 | n),
        };
        (0..count)
            .map(|n| Candidate {
                instance: instance(n),
                capacity: 1,
            })
            .collect()
    }

    /// A map whose owners alternate in the least regular way.
    fn scattered(shards: u32, count: u64) -> ShardMap {
        let mut assignment = place(&ShardMap::empty(), shards, &nodes(count), &BTreeSet::new());
        let workers = assignment.members.len() as u32;
        for (shard, owner) in assignment.owners.iter_mut().enumerate() {
            let hash = (shard as u32).wrapping_mul(0x9e37_79b9) >> 7;
            *owner = WorkerId((hash % workers) as u16 + 1);
        }
        ShardMap::empty()
            .apply_assignment(LogIndex(7), &assignment)
            .unwrap()
    }

    #[test]
    fn sizes_stay_within_their_targets() {
        let worst = scattered(10_000, 50);
        let owners = encode_assignment(&worst.assignment(), None).len();
        let members = {
            let mut out = Vec::new();
            put_members(&mut out, worst.members());
            out.len()
        };
        assert!(
            owners - members <= 8_000,
            "{owners} bytes, {members} of them members"
        );
        let contiguous = place(&ShardMap::empty(), 10_000, &nodes(50), &BTreeSet::new());
        let contiguous = encode_assignment(&contiguous, None).len();
        assert!(
            contiguous - members <= 300,
            "{contiguous} bytes, {members} of them members"
        );
        let next = place(&worst, 0, &nodes(49), &BTreeSet::new());
        let delta = encode_assignment(&next, Some(&worst)).len();
        assert!(delta < 2_500, "one node of fifty: {delta} bytes");
    }

    #[test]
    fn a_delta_against_another_map_is_refused() {
        let map = scattered(2_000, 20);
        let next = place(&map, 0, &nodes(19), &BTreeSet::new());
        let bytes = encode_assignment(&next, Some(&map));
        assert_eq!(bytes[0], DELTA, "a twentieth changes: the delta is shorter");
        assert_eq!(decode_assignment(&bytes, &map).unwrap(), next);
        let other = ShardMap::empty()
            .apply_assignment(LogIndex(8), &map.assignment())
            .unwrap();
        assert_eq!(
            decode_assignment(&bytes, &other),
            Err(MapDecodeError::OtherBase {
                found: LogIndex(7),
                expected: LogIndex(8)
            })
        );
    }

    /// Found by fuzzing: it was read, but could not be written again.
    #[test]
    fn a_delta_that_leaves_shards_to_somebody_who_went_is_refused() {
        let map = scattered(40, 4);
        let mut next = map.assignment();
        next.members.remove(2);
        let mut bytes = vec![DELTA];
        put_number(&mut bytes, map.index().0);
        put_members(&mut bytes, &next.members);
        let refused = decode_assignment(&bytes, &map).unwrap_err();
        let MapDecodeError::Inconsistent(AssignmentError::UnknownWorker { shard, worker }) =
            refused
        else {
            panic!("{refused:?}");
        };
        assert_eq!((map.worker(shard), worker), (WorkerId(3), WorkerId(3)));
    }

    #[test]
    fn lookups_survive_the_way_through_bytes() {
        let map = scattered(3_000, 7);
        let decoded = decode_map(&encode_map(&map)).unwrap();
        assert_eq!(decoded, map);
        assert_eq!(decoded.epoch(ShardId(5)), Epoch(7));
        assert_eq!(
            decode_map(&encode_map(&ShardMap::empty())).unwrap(),
            ShardMap::empty()
        );
    }

    proptest! {
        #[test]
        fn any_map_comes_back(shards in 1u32..3_000, count in 1u64..60, gone in 0u64..10, weighted in any::<bool>()) {
            let mut assignment = scattered(shards, count).assignment();
            assignment.weights = weighted.then(|| (0..shards).map(|s| s % 5 + 1).collect());
            let map = ShardMap::empty().apply_assignment(LogIndex(3), &assignment).unwrap();
            let next = place(&map, 0, &nodes(count.saturating_sub(gone)), &BTreeSet::new());
            let map = map.apply_assignment(LogIndex(900), &next).unwrap();
            prop_assert_eq!(&decode_map(&encode_map(&map)).unwrap(), &map);
            let full = encode_assignment(&next, None);
            prop_assert_eq!(&decode_assignment(&full, &ShardMap::empty()).unwrap(), &next);
            let delta = encode_assignment(&next, Some(&map));
            prop_assert!(delta.len() <= full.len());
            prop_assert_eq!(decode_assignment(&delta, &map).unwrap(), next);
        }

        /// Whatever moves, and from whom to whom: nobody is an owner too.
        #[test]
        fn any_delta_comes_back(
            moves in prop::collection::btree_map(0usize..1_500, 0u16..5, 0..120),
            stay in any::<bool>(),
        ) {
            let map = scattered(1_500, 4);
            let mut next = map.assignment();
            for (shard, worker) in moves {
                next.owners[shard] = WorkerId(worker);
            }
            if !stay {
                next.members.retain(|member| member.worker != WorkerId(3));
                next.owners.iter_mut().filter(|owner| **owner == WorkerId(3)).for_each(|owner| *owner = WorkerId(0));
            }
            let bytes = encode_assignment(&next, Some(&map));
            prop_assert_eq!(decode_assignment(&bytes, &map).unwrap(), next);
        }

        #[test]
        fn hostile_bytes_are_errors_or_maps_that_come_back(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(map) = decode_map(&bytes) {
                prop_assert_eq!(decode_map(&encode_map(&map)).unwrap(), map);
            }
            let base = scattered(100, 3);
            if let Ok(assignment) = decode_assignment(&bytes, &base) {
                let again = encode_assignment(&assignment, Some(&base));
                prop_assert_eq!(decode_assignment(&again, &base).unwrap(), assignment);
            }
        }

        #[test]
        fn damaged_maps_never_panic(at in 0usize..4_000, byte in any::<u8>(), cut in 0usize..4_000) {
            let mut bytes = encode_map(&scattered(3_000, 9)).to_vec();
            let len = bytes.len();
            bytes[at % len] = byte;
            let _ = decode_map(&bytes);
            bytes.truncate(cut % len);
            let _ = decode_map(&bytes);
        }
    }
}
